"""Kill -9 of master and joining host at every step of a join, as the step table has them.

Where the host had already decided, and where the master died, the join goes on by itself when
the daemon is back; only a host that dies before the decision does not come in. Either way the host
is wholly in or wholly out, and the same command again succeeds.
"""

import signal
from contextlib import suppress

import pytest

from poolcore.errors import PoolError
from poolcore.model import TaskStatus
from poolcore.requests import request_id
from poolmaster.operations.join import Join
from support.daemons import SHARED_SRS, Cluster, Host
from support.wholeness import is_in

MASTER_POINTS = [*(f"{Join.name}:{step.name}" for step in Join.steps),
                 "host.join:attached", "host.join:done"]  # fmt: skip
HOST_POINTS = ["host.join:host-reserved", "host.join:host-committed", "host.join:host-member"]
TOO_EARLY = {"host.join:host-reserved"}
"""Where the joining host's death ends the join: the master had not decided yet."""


@pytest.mark.parametrize("point", MASTER_POINTS + HOST_POINTS)
async def test_a_daemon_dies_when_a_join_has_come_to(point: str, cluster: Cluster) -> None:
    phantom: Host
    ignite: Host
    if point in MASTER_POINTS:
        victim = phantom = cluster.process("phantom", sim=SHARED_SRS)
        ignite = cluster.local("ignite")
    else:
        victim = ignite = cluster.process("ignite")
        phantom = cluster.local("phantom", sim=SHARED_SRS)
    await cluster.start()
    victim.kill_at(point)
    async with phantom.api() as api:
        asked = request_id((await api.state()).revision, "addignite")
        with suppress(PoolError):
            await api.add_host(ignite.endpoint, asked=asked)
        assert await victim.ended() == -signal.SIGKILL
        victim.kill_at()
        await victim.start()
        assert await is_in(ignite, phantom) is (point not in TOO_EARLY)

        again = await api.ended(await api.add_host(ignite.endpoint, asked=asked))
        if point in TOO_EARLY:
            assert again.status is TaskStatus.FAILURE, "what the first asking came to"
            await api.join(ignite.endpoint)
        else:
            assert again.status is TaskStatus.SUCCESS
        assert await is_in(ignite, phantom)
        assert len(await api.srs()) == 9
