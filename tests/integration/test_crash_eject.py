"""Kill -9 of master and leaving host at every step of an eject, as the step table has them.

The commit of `evicted` decides: before it the host is wholly in, after it wholly out, whoever
died. An interrupted eject goes on by itself when the daemon is back.
"""

import signal
from contextlib import suppress

import pytest

from poolcore.errors import PoolError
from poolcore.model import TaskStatus
from poolcore.requests import request_id
from poolmaster.operations.eject import Eject
from support.daemons import SHARED_SRS, Cluster, Host
from support.wholeness import is_in

MASTER_POINTS = [*(f"{Eject.name}:{step.name}" for step in Eject.steps), "host.eject:done"]
HOST_POINTS = ["host.eject:host-told", "host.eject:host-founded"]


@pytest.mark.parametrize("point", MASTER_POINTS + HOST_POINTS)
async def test_a_daemon_dies_when_an_eject_has_come_to(point: str, cluster: Cluster) -> None:
    phantom: Host
    ignite: Host
    if point in MASTER_POINTS:
        victim = phantom = cluster.process("phantom", sim=SHARED_SRS)
        ignite = cluster.local("ignite")
    else:
        victim = ignite = cluster.process("ignite")
        phantom = cluster.local("phantom", sim=SHARED_SRS)
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
        victim.kill_at(point)
        asked = request_id((await api.state()).revision, "ejectignite")
        with suppress(PoolError):
            await api.eject_host("ignite", asked=asked)
        assert await victim.ended() == -signal.SIGKILL
        victim.kill_at()
        await victim.start()
        assert not await is_in(ignite, phantom)
        assert len(await api.srs()) == 6

        again = await api.ended(await api.eject_host("ignite", asked=asked))
        assert again.status is TaskStatus.SUCCESS
        await api.join(ignite.endpoint)
        assert await is_in(ignite, phantom)
