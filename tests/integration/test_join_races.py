"""Several joins at the same moment: of one host, of several hosts, of each other."""

import asyncio

from poolcore.errors import PoolError, Reason
from poolcore.model import Host as HostObject
from poolcore.model import Task, TaskStatus
from support.daemons import SHARED_SRS, Cluster, Host
from support.wholeness import is_in

CLEAN_REFUSALS = {
    Reason.HOST_RESERVED,
    Reason.JOIN_IN_PROGRESS,
    Reason.JOIN_REFUSED,
    Reason.POOL_RESERVED,
    Reason.HOST_IS_SLAVE,
    Reason.HOST_IS_MASTER,
}


async def outcome_of_join(pool: Host, address: str) -> Task | PoolError:
    """The task when it has ended, or the refusal that there was instead of one."""
    async with pool.api() as api:
        try:
            return await api.ended(await api.add_host(address))
        except PoolError as error:
            return error


def succeeded(outcome: Task | PoolError) -> bool:
    """Whether the join succeeded; if not, that it says why."""
    if isinstance(outcome, PoolError):
        assert outcome.reason in CLEAN_REFUSALS, outcome
        return False
    if outcome.status is TaskStatus.SUCCESS:
        return True
    assert outcome.error is not None
    assert Reason(outcome.error.reason) in CLEAN_REFUSALS, outcome.error
    return False


async def test_two_pools_take_the_same_host_and_exactly_one_gets_it(cluster: Cluster) -> None:
    phantom, specter = cluster.local("phantom", sim=SHARED_SRS), cluster.local("specter")
    ignite = cluster.local("ignite")
    await cluster.start()
    outcomes = await asyncio.gather(
        outcome_of_join(phantom, ignite.endpoint), outcome_of_join(specter, ignite.endpoint)
    )
    got_it = [succeeded(outcome) for outcome in outcomes]
    assert sorted(got_it) == [False, True]
    winner, loser = (phantom, specter) if got_it[0] else (specter, phantom)
    assert await is_in(ignite, winner)
    async with loser.api() as api:
        state = await api.state()
    assert [host.name_label for host in state.all(HostObject)] == [loser.name]
    assert all(task.status.is_final for task in state.all(Task))


async def test_two_hosts_are_added_at_once(cluster: Cluster) -> None:
    phantom = cluster.local("phantom", sim=SHARED_SRS)
    ignite, specter = cluster.local("ignite"), cluster.local("specter")
    await cluster.start()
    outcomes = await asyncio.gather(
        outcome_of_join(phantom, ignite.endpoint), outcome_of_join(phantom, specter.endpoint)
    )
    assert all(succeeded(outcome) for outcome in outcomes)
    assert await is_in(ignite, phantom)
    assert await is_in(specter, phantom)
    async with phantom.api() as api:
        assert len(await api.srs()) == 12


async def test_the_same_host_is_added_several_times_at_once_as_one_task(cluster: Cluster) -> None:
    phantom, ignite = cluster.local("phantom", sim=SHARED_SRS), cluster.local("ignite")
    await cluster.start()
    outcomes = await asyncio.gather(*(outcome_of_join(phantom, ignite.endpoint) for _ in range(3)))
    joins = [outcome for outcome in outcomes if succeeded(outcome)]
    assert len({join.uuid for join in joins if isinstance(join, Task)}) == 1
    assert await is_in(ignite, phantom)


async def test_the_same_host_is_ejected_twice_at_once_as_one_task(cluster: Cluster) -> None:
    phantom, ignite = cluster.local("phantom", sim=SHARED_SRS), cluster.local("ignite")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
        first, second = await asyncio.gather(api.eject_host("ignite"), api.eject_host("ignite"))
        assert first.uuid == second.uuid
        assert (await api.ended(first)).status is TaskStatus.SUCCESS
    assert not await is_in(ignite, phantom)


async def test_two_hosts_add_each_other_and_at_most_one_comes_in(cluster: Cluster) -> None:
    phantom, ignite = cluster.local("phantom"), cluster.local("ignite")
    await cluster.start()
    outcomes = await asyncio.gather(
        outcome_of_join(phantom, ignite.endpoint), outcome_of_join(ignite, phantom.endpoint)
    )
    in_phantom, in_ignite = (succeeded(outcome) for outcome in outcomes)
    assert not (in_phantom and in_ignite)
    if not (in_phantom or in_ignite):
        assert succeeded(await outcome_of_join(phantom, ignite.endpoint))
    member, master = (phantom, ignite) if in_ignite else (ignite, phantom)
    assert await is_in(member, master)
