"""Bugs of whoever uses, keeps or runs the pool's own etcd: the rules notice.

As in `test_planted_chaos.py` they are here and nowhere else, and the same runs break no rule
without them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from poolcore.replica import State
from poolmaster.decide.voters import Member
from poolmaster.layout import HEAD
from poolmaster.store.contract import Compare, OutcomeUnknown, Store, Write
from poolmaster.store.etcd.membership import ClusterMember
from poolmaster.store.etcd.store import EtcdStore
from poolmaster.voter_keeping import VoterKeeping
from sim import etcd_chaos
from sim.etcd_chaos import pool_of
from sim.etcd_rules import MemberRules
from sim.host import SimHost
from sim.own_etcd import EtcdCluster, EtcdProcess
from sim.test_voter_keeping import kept, voting
from sim.world import World, play

Plant = Callable[[World], None]

SEEDS = range(300, 340)
AWAY_SECONDS = 30.0
LEARNED = 200
"""So many writes a learner has to take in, besides what makes the pool."""


def nothing(_: World) -> None:
    """No bug."""


# -- in the way to the store ----------------------------------------------------------------------


class DoesNotCompareHead(EtcdStore):
    """What lands late lands on whatever there is then."""

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        others = [compare for compare in compares if compare.key != HEAD]
        return await super().transact(others, writes)


class TakesUnknownForDone(EtcdStore):
    """Whoever has no answer takes it for a yes."""

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        try:
            return await super().transact(compares, writes)
        except OutcomeUnknown:
            return True


def in_the_store(bug: type[EtcdStore]) -> Plant:
    def infect(store: Store) -> Store:
        if isinstance(store, EtcdStore):
            store.__class__ = bug
        return store

    def plant(world: World) -> None:
        world.around = infect

    return plant


# -- in etcd itself -------------------------------------------------------------------------------


def skips_what_is_compacted(world: World) -> None:
    """Whoever watches from what is compacted is told what is left, and nothing of the rest."""

    def infect(process: EtcdProcess) -> None:
        process.server.skips_compacted = True

    world.etcd.on_process = infect


CHAOS: dict[str, Plant] = {
    "DoesNotCompareHead": in_the_store(DoesNotCompareHead),
    "TakesUnknownForDone": in_the_store(TakesUnknownForDone),
    "skips_what_is_compacted": skips_what_is_compacted,
}
FOUND_BY = {
    "DoesNotCompareHead": 302,
    "TakesUnknownForDone": 301,
    "skips_what_is_compacted": 301,
}
"""The first seed that finds a bug, where it is not the first of all: to save time."""


@pytest.mark.parametrize("name", CHAOS)
def test_a_planted_bug_breaks_a_rule(name: str) -> None:
    for seed in SEEDS[FOUND_BY.get(name, SEEDS[0]) - SEEDS[0] :]:
        try:
            etcd_chaos.run(seed, plant=CHAOS[name])
        except (AssertionError, ExceptionGroup):
            return
    pytest.fail(f"nobody noticed {name} in {len(SEEDS)} runs")


# -- in keeping the voters ------------------------------------------------------------------------


class TakesEverybodyForPresent(VoterKeeping):
    """A voter is taken out without a look at whether a quorum stays."""

    async def _member(self, state: State, member: ClusterMember) -> Member:
        return replace(await super()._member(state, member), gone_seconds=0.0)


def without_checks(world: World) -> None:
    """Let etcd do what it is told; by itself it refuses what would cost the quorum."""

    def infect(process: EtcdProcess) -> None:
        process.server.checks_changes = False

    world.etcd.on_process = infect


def takes_everybody_for_present(world: World) -> None:
    def infect(host: SimHost) -> None:
        keeping = None if host.mastership is None else host.mastership._voter_keeping
        if keeping is not None:
            keeping.__class__ = TakesEverybodyForPresent

    without_checks(world)
    world.on_role = infect


def watched(world: World, *, batch: int) -> None:
    """Look at the rules of the members; a learner is sent so much of the log at once."""

    def watch(cluster: EtcdCluster) -> None:
        cluster.group.batch = batch
        MemberRules(world, cluster)

    world.etcd.on_cluster = watch


def shrinks_while_two_are_away(plant: Plant) -> None:
    """Of seven hosts, five of which vote, two that do are off; then another one leaves."""

    async def scenario(world: World) -> None:
        watched(world, batch=1_000)
        plant(world)
        hosts = await pool_of(world, 7)
        await kept(world, hosts[0])
        votes = voting(world, hosts)
        master = next(host for host in hosts if host.mastership is not None)
        # Those whose ids are highest would go last.
        others = [host for host in hosts if host.name in votes and host is not master]
        others.sort(key=lambda host: host.etcd.node.id if host.etcd is not None else 0)
        for away in others[-2:]:
            away.cut_power()
        await world.until(lambda: any(host.mastership for host in hosts))
        await world.let_pass(6.0)
        master = next(host for host in hosts if host.mastership is not None)
        leaving = next(host for host in hosts if host.name not in votes and host is not master)
        await world.leave(master, leaving)
        hosts.remove(leaving)
        await world.let_pass(AWAY_SECONDS)
        await world.settle()
        await kept(world, hosts[0])

    play("two away and one leaves", scenario)


def grows_with_slow_learners(plant: Plant) -> None:
    """From three voters to five, each of which has to learn for a long time."""

    async def scenario(world: World) -> None:
        watched(world, batch=1)
        plant(world)
        hosts = await pool_of(world, 6)
        for number in range(LEARNED):
            await world.tag(hosts[0], f"tag{number}")
        hosts += world.add("vector", votes=True)
        await world.join(hosts[0], hosts[-1])
        await kept(world, hosts[0])

    play("slow learners", scenario)


KEEPING: dict[str, tuple[Callable[[Plant], None], Plant]] = {
    "takes_everybody_for_present": (shrinks_while_two_are_away, takes_everybody_for_present),
    "promotes_who_is_behind": (grows_with_slow_learners, without_checks),
}


@pytest.mark.parametrize("run", [shrinks_while_two_are_away, grows_with_slow_learners])
def test_without_a_bug_no_rule_of_the_members_is_broken(run: Callable[[Plant], None]) -> None:
    run(nothing)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("takes_everybody_for_present", "takes the quorum away"),
        ("promotes_who_is_behind", "entries"),
    ],
)
def test_a_bug_in_keeping_voters_breaks_a_rule(name: str, rule: str) -> None:
    run, plant = KEEPING[name]
    with pytest.raises(AssertionError, match=rule):
        run(plant)
