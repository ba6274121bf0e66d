"""Restarting any daemon, the master's too, or all at once, loses nothing that was acknowledged."""

import asyncio
import signal
from collections.abc import Sequence

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import HostMetrics, MasterRecord, Message, Object
from poolcore.replica import State
from support.daemons import SHARED_SRS, Cluster, Host, ProcessHost
from support.wholeness import same_replicas

VMS = """
[[vm]]
name = "web"
count = 20
disk = [{ size_mib = 10 }]
nic = [{}]
"""
WRITES = 40
NOT_DONE_OR_UNKNOWN = {Reason.NO_MASTER, Reason.OUTCOME_UNKNOWN, Reason.NO_HOST_ANSWERS}


def kept(state: State) -> list[Object]:
    """What must be the same after a restart: not who was heard when, who was master, the tags."""
    others = (HostMetrics, MasterRecord, Message)
    return [o for o in state.objects() if not isinstance(o, others) and o != state.pool]


async def three_hosts(cluster: Cluster) -> dict[str, ProcessHost]:
    phantom = cluster.process("phantom", sim=SHARED_SRS + VMS)
    ignite, specter = cluster.process("ignite"), cluster.process("specter")
    await cluster.start()
    async with phantom.api() as api:
        await asyncio.gather(api.join(ignite.endpoint), api.join(specter.endpoint))
        await api.quiet()
    await same_replicas(phantom, ignite, specter)
    return {"phantom": phantom, "ignite": ignite, "specter": specter}


async def written_meanwhile(host: Host, event: str) -> set[str]:
    """Writes one after the other until the host or its master is gone; what was acknowledged."""
    acknowledged: set[str] = set()
    async with host.api() as api:
        for number in range(WRITES):
            tag = f"{event}-{number}"
            try:
                await api.update_pool(add_tags=[tag])
            except PoolError as error:
                # A server that ends cancels what it has not answered; nothing of ours says so.
                ended = error.params.get("incident", "").startswith("CANCELLED")
                if error.reason not in NOT_DONE_OR_UNKNOWN and not ended:
                    raise
                break
            acknowledged.add(tag)
    return acknowledged


async def restart(hosts: Sequence[ProcessHost], number: signal.Signals) -> None:
    for host in hosts:
        host.signal(number)
    for host in hosts:
        assert await host.ended() == (0 if number is signal.SIGTERM else -number)
    await asyncio.gather(*(host.start() for host in hosts))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_nothing_that_was_acknowledged_is_lost(
    number: signal.Signals, cluster: Cluster
) -> None:
    hosts = await three_hosts(cluster)
    phantom, specter = hosts["phantom"], hosts["specter"]
    acknowledged: set[str] = set()
    for which in ("a member", "the master", "all"):
        async with phantom.api() as api:
            status = await api.in_step()
            term = status.head.term
            before = await api.quiet()
        # The master is the first of them by its role.
        names = [name for _, name in sorted((h.role, h.name) for h in status.hosts)]
        master = names[0]
        names = {"a member": names[1:2], "the master": names[:1], "all": names}[which]
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(written_meanwhile(specter, "+".join(names)))
            async with phantom.api() as api:
                await api.commits_after(before.revision, 5)
            await restart([hosts[name] for name in names], number)
            acknowledged |= await writing
        async with phantom.api() as api:
            status = await api.in_step()
            after = await api.quiet()
        assert kept(after) == kept(before)
        assert set(before.all(MasterRecord)) <= set(after.all(MasterRecord))
        assert acknowledged <= after.pool.tags
        assert (status.head.term > term) is (master in names)
        await same_replicas(*hosts.values())
    assert len(acknowledged) >= 3 * 5
