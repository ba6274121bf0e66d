"""Two hosts: what is acknowledged is on both, and exactly one of them goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

import grpc
import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import Accession, Kind, Task
from poolcore.replica import Remove
from poolcore.wire.chain import decode_delta
from poolmanager.v1 import member_service_pb2, member_service_pb2_grpc
from poolmanager.v1 import pool_service_pb2 as pb
from poolmaster.batch import Decision
from poolmaster.in_step import InStep
from poolmaster.layout import HEAD, LOG, decode_head
from poolmaster.store.contract import (
    Compare,
    OutcomeUnknown,
    StoreFailed,
    Write,
)
from poolmaster.store.memory import MemoryStore
from poolmember.emergency import Emergency
from sim.clients import Clients
from sim.host import SimHost
from sim.pairs import (
    NotFoundedAtOnce,
    check_kept,
    in_step_with,
    masters,
    pair,
    register_of,
    state_of,
    tell_to_lead,
    written,
)
from sim.world import CLIENT, Crash, World, is_refused, play
from support.memory_replica import ReplicaContent
from support.stores import StoreAround


async def power_cut(world: World) -> None:
    """The master is lost right after a write, perhaps both hosts are; then the one command."""
    phantom, ignite = await pair(world)
    world.network.slow_seconds = 0.05
    acknowledged = await written(world, phantom)
    phantom.cut_power()
    if world.dice.random() < 0.5:
        ignite.cut_power()
        ignite.power_on()
    assert await tell_to_lead(world, ignite)
    check_kept(world, ignite, acknowledged)
    await world.tag(ignite, "afterwards")
    phantom.power_on()
    await world.settle()
    check_kept(world, phantom, {**acknowledged, "afterwards": 0})
    assert masters(world) == [ignite]


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_with_the_master(seed: int) -> None:
    play(f"power cut {seed}", power_cut)


async def _has_at_once(self: InStep, state: Any) -> bool:
    return True


def test_an_answer_before_the_replica_confirmed_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(InStep, "has", _has_at_once)
    for seed in range(10):
        try:
            play(f"power cut {seed}", power_cut)
        except AssertionError as noticed:
            if "are there" in str(noticed):
                return
            raise
    pytest.fail("nobody noticed")


def test_the_member_is_lost_and_comes_back() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        ignite.cut_power()
        began = world.clock.monotonic()
        acknowledged = await written(world, phantom)
        assert world.clock.monotonic() - began < 3.0
        assert state_of(world, phantom).pool.in_step is None
        ignite.power_on()
        await world.until(lambda: in_step_with(phantom) == ignite.uuid)
        phantom.cut_power()
        assert await tell_to_lead(world, ignite)
        check_kept(world, ignite, acknowledged)

    play("member lost", scenario)


def test_a_member_that_is_stopped_holds_writes_up_for_a_second_only() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        ignite.freeze()
        began = world.clock.monotonic()
        await world.tag(phantom, "alone")
        assert 0.9 < world.clock.monotonic() - began < 1.5
        assert state_of(world, phantom).pool.in_step is None
        ignite.thaw()
        await world.until(lambda: in_step_with(phantom) == ignite.uuid)

    play("member stopped", scenario)


POINTS = [
    ("pool.designate_master:started", "after"),
    ("pool.designate_master:handing-over", "before"),
    ("pool.designate_master:handing-over", "unanswered"),
    ("pool.designate_master:writes-wait", "after"),
    ("pool.succession:concluded", "before"),
    ("pool.succession:concluded", "unanswered"),
    ("pool.succession:founded", "after"),
    ("pool.designate_master:done", "before"),
    ("pool.designate_master:done", "unanswered"),
    ("pool.designate_master:done", "after"),
]


def designated_with_a_crash(
    point: str, moment: str, victims: tuple[str, ...]
) -> Callable[[World], Coroutine[Any, Any, None]]:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        acknowledged = await written(world, phantom)
        world.crash = Crash(point, moment, victims)
        with suppress(PoolError):
            await world.designate(phantom, ignite)
        await world.until(lambda: world.crash is not None and world.crash.happened)
        await world.settle()
        # Whoever it is, there is one, and it has everything.
        assert len(masters(world)) == 1
        (master,) = masters(world)
        acknowledged |= await written(world, master, count=3)
        check_kept(world, phantom, acknowledged)
        check_kept(world, ignite, acknowledged)
        assert all(t.status.is_final for t in state_of(world, master).all(Task))

    return scenario


@pytest.mark.parametrize("victims", [("phantom",), ("ignite",), ("phantom", "ignite")])
@pytest.mark.parametrize(("point", "moment"), POINTS)
def test_one_host_goes_on_whoever_is_lost_during_a_designation(
    point: str, moment: str, victims: tuple[str, ...]
) -> None:
    scenario = designated_with_a_crash(point, moment, victims)
    play(f"designated {point} {moment} {victims}", scenario)


@pytest.mark.parametrize(("point", "moment"), POINTS[4:6])
def test_the_old_master_lost_for_good_while_it_hands_over(point: str, moment: str) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        acknowledged = await written(world, phantom)
        world.crash = Crash(point, moment, ("phantom",))
        with suppress(PoolError):
            await world.designate(phantom, ignite)
        await world.until(lambda: world.crash is not None and world.crash.happened)
        await world.let_pass(3.0)
        if not masters(world):
            assert await tell_to_lead(world, ignite)
        assert masters(world) == [ignite]
        check_kept(world, ignite, acknowledged)
        await world.tag(ignite, "afterwards")
        phantom.power_on()
        await world.settle()
        assert masters(world) == [ignite]
        check_kept(world, phantom, acknowledged)

    play(f"old master lost {point} {moment}", scenario)


def test_an_heir_whose_disk_is_full_founds_its_store_when_there_is_room() -> None:
    async def scenario(world: World) -> None:
        refusals: list[str] = []
        world.around = lambda inner: NotFoundedAtOnce(inner, refusals)
        phantom, ignite = await pair(world)
        acknowledged = await written(world, phantom)
        refusals.append("the disk is full")
        with suppress(PoolError):
            await world.designate(phantom, ignite)
        await world.until(lambda: not refusals)
        phantom.cut_power()
        # The former master may have been told to go on: that is for a person to know.
        with pytest.raises(PoolError) as refused:
            await tell_to_lead(world, ignite)
        assert refused.value.reason is Reason.LOSS_NOT_ACCEPTED
        await world.until(lambda: ignite.mastership is not None)
        check_kept(world, ignite, acknowledged)
        await world.settle()
        assert masters(world) == [ignite]

    play("heir without a store", scenario)


def test_an_heir_that_has_led_may_lack_what_its_replica_lacks() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        inherited: list[ReplicaContent] = []

        def keep(host: SimHost, point: str) -> None:
            if point == "pool.succession:founded":
                assert host.disk.replica is not None
                inherited.append(replace(host.disk.replica, log=dict(host.disk.replica.log)))

        world.on_point = keep
        with suppress(PoolError):
            await world.designate(phantom, ignite)
        await world.until(lambda: ignite.mastership is not None)
        await world.settle()
        phantom.cut_power()
        ignite.cut_power()
        # As if its own replica had been the slowest all the time.
        (ignite.disk.replica,) = inherited
        ignite.power_on()
        await world.let_pass(1.0)
        with pytest.raises(PoolError) as refused:
            await tell_to_lead(world, ignite)
        assert refused.value.reason is Reason.LOSS_NOT_ACCEPTED

    play("heir that has led", scenario)


class IgnoresTheTombstone(StoreAround):
    """A store that takes its last commit, and takes others after it."""

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        heads = [c.value for c in compares if c.key == HEAD and c.value is not None]
        heads += [w.value for w in writes if w.key == HEAD and w.value is not None]
        if len({decode_head(head).incarnation for head in heads}) > 1:
            writes = [write for write in writes if write.key != HEAD]
        return await super().transact(compares, writes)


def test_a_tombstone_that_is_ignored_is_noticed() -> None:
    async def scenario(world: World) -> None:
        world.around = IgnoresTheTombstone
        phantom, ignite = await pair(world)
        with suppress(PoolError):
            await world.designate(phantom, ignite)
        await world.let_pass(3.0)

    with pytest.raises(AssertionError, match="has not ended"):
        play("tombstone ignored", scenario)


def test_a_replica_too_slow_for_the_commit_that_says_it_is_in_step_gets_another_chance() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        ignite.cut_power()
        await world.tag(phantom, "alone")
        ignite.power_on()
        master = phantom.mastership
        assert master is not None
        # Attached and up to date, and stopped for a moment as it is to come into step.
        await world.until(lambda: (s := master.sessions.get(ignite.uuid)) and s.applied > 0)
        ignite.freeze()
        await world.let_pass(1.5)
        ignite.thaw()
        await world.until(lambda: in_step_with(phantom) == ignite.uuid)

    play("too slow at first", scenario)


def test_a_watcher_and_a_mirror_go_on_through_every_succession() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        membership = phantom.membership
        assert membership is not None
        clients = Clients(world, membership.pool, [phantom, ignite])
        async with asyncio.TaskGroup() as tasks:
            asking, looking = clients.start(tasks, writers=0)
            for master, other in [(phantom, ignite), (ignite, phantom)] * 2:
                await written(world, master, count=3)
                await world.designate(master, other)
                await world.until(lambda other=other: other.mastership is not None)  # type: ignore[misc]
                await world.settle()
            phantom.cut_power()
            assert await tell_to_lead(world, ignite)
            await written(world, ignite, count=3)
            await world.settle()
            await clients.settle()
            for task in [*asking, *looking]:
                task.cancel()
        world.violations.raise_any()

    play("watched successions", scenario)


def test_an_heir_whose_disk_fails_to_say_that_it_has_the_last_commit_still_has_it() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        acknowledged = await written(world, phantom)

        def concluded(host: SimHost, point: str) -> None:
            if point == "pool.designate_master:writes-wait":
                ignite.disk.failed_syncs = 1

        def leads_again(host: SimHost) -> None:
            # What it has it would know after a restart at the latest.
            if host is phantom and phantom.mastership is not None:
                ignite.cut_power()

        world.on_point = concluded
        with suppress(PoolError):
            await world.designate(phantom, ignite)
        world.on_role = leads_again
        await world.let_pass(1.0)
        await world.settle()
        assert len(masters(world)) == 1
        check_kept(world, masters(world)[0], acknowledged)

    play("failed sync", scenario)


def test_a_command_goes_by_what_the_replica_has_though_its_disk_has_not_said_so() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        ignite.cut_power()
        await world.until(lambda: in_step_with(phantom) is None)
        await world.settle()
        ignite.power_on()
        await world.until(lambda: revision_of(ignite) == state_of(world, phantom).revision)
        # The next commit, the one that says that it is in step.
        ignite.disk.failed_syncs = 1
        await world.until(lambda: ignite.disk.failed_syncs == 0)
        phantom.cut_power()
        assert ignite.life is not None
        assert ignite.life.follower is not None
        assert ignite.life.follower.in_doubt
        assert await tell_to_lead(world, ignite)
        await world.settle()
        assert masters(world) == [ignite]

    def revision_of(host: SimHost) -> int:
        replica = host.disk.replica
        return 0 if replica is None or replica.state is None else replica.state.revision

    play("in doubt", scenario)


class LandsLate(StoreAround):
    """A store whose last commit fails, and lands when somebody has it do so."""

    kept: ClassVar[list[tuple[Sequence[Compare], Sequence[Write]]]] = []

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        logged = (w.value for w in writes if w.key.startswith(LOG) and w.value is not None)
        if any(decode_delta(value).succession for value in logged) and not self.kept:
            self.kept.append((compares, writes))
            raise StoreFailed("COMMIT failed")
        return await super().transact(compares, writes)


def test_a_last_commit_that_lands_after_all_is_not_claimed_over() -> None:
    async def scenario(world: World) -> None:
        LandsLate.kept.clear()
        world.around = LandsLate
        phantom, ignite = await pair(world)
        acknowledged = await written(world, phantom)
        with suppress(PoolError):
            await world.designate(phantom, ignite)
        await world.until(lambda: bool(LandsLate.kept))
        ignite.cut_power()
        await world.let_pass(3.0)
        ((compares, writes),) = LandsLate.kept
        assert phantom.disk.store is not None
        handle = MemoryStore(phantom.disk.store.data, clock=world.clock)
        assert await handle.transact(compares, writes)
        ignite.power_on()
        await world.settle()
        assert len(masters(world)) == 1
        check_kept(world, masters(world)[0], acknowledged)

    play("the last commit lands late", scenario)


class SaysNothingOfAWithdrawal(StoreAround):
    """A store that takes its last commit back, and whose answer to that is lost."""

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        applied = await super().transact(compares, writes)
        if any(write.key.startswith(LOG) and write.value is None for write in writes):
            raise OutcomeUnknown("no answer")
        return applied


def test_a_withdrawal_whose_outcome_is_not_known_is_found_out() -> None:
    async def scenario(world: World) -> None:
        world.around = SaysNothingOfAWithdrawal
        phantom, ignite = await pair(world)
        acknowledged = await written(world, phantom)
        # The host that is to take over dies without that commit, and comes back.
        world.crash = Crash("pool.succession:concluded", "before", ("ignite",))
        with suppress(PoolError):
            await world.designate(phantom, ignite)
        await world.until(lambda: world.crash is not None and world.crash.happened)
        await world.settle()
        assert masters(world) == [phantom]
        check_kept(world, phantom, acknowledged)

    play("withdrawal unknown", scenario)


def test_a_host_that_has_left_just_before_writes_wait_for_it_is_not_made_master() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        master = phantom.mastership
        assert master is not None
        async with master.ledger.paused():
            target = master.handover.check(master.state, ignite.uuid)
            leaving = master.ledger.submit(lambda _: Decision((Remove(Kind.HOST, ignite.uuid),)))
            handing = asyncio.ensure_future(  # noqa: TID251 - awaited below
                master.handover.to(target, Accession.DESIGNATED)
            )
            await world.let_pass(0.1)
        with pytest.raises(PoolError, match="not of the pool any more"):
            await handing
        await master.ledger.outcome(leaving)
        assert masters(world) == [phantom]

    play("leaves as it is designated", scenario)


def test_a_second_handover_does_not_tell_another_host_of_the_first() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        (specter,) = world.add("specter")
        await world.settle()
        await world.join(phantom, specter)
        await world.settle()
        await world.let_pass(1.0)
        master = phantom.mastership
        assert master is not None
        targets = [master.handover.check(master.state, h.uuid) for h in (specter, ignite)]
        handings = [master.handover.to(target, Accession.DESIGNATED) for target in targets]
        ended = await asyncio.gather(*handings, return_exceptions=True)
        await world.settle()
        assert [isinstance(end, PoolError) for end in ended].count(True) == 1
        assert masters(world) == [ignite if ended[1] is None else specter]

    play("two handovers", scenario)


def test_a_third_host_that_has_not_noticed_yet_keeps_nobody_from_leading() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        (specter,) = world.add("specter")
        await world.settle()
        await world.join(phantom, specter)
        tag = {"tag": await world.tag(phantom, "tag")}
        # The host that is to lead has not heard the master for longer than the third one.
        world.network.cut(phantom.endpoint, ignite.endpoint)
        await world.let_pass(0.9)
        phantom.freeze()
        assert await tell_to_lead(world, ignite)
        check_kept(world, ignite, tag)

    play("a third host hears it", scenario)


def test_what_only_the_master_has_is_not_shown_when_it_starts_again() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        # Committed at the master, which ends before the other host has it.
        world.network.cut(phantom.endpoint, ignite.endpoint, one_way=True)
        asked = world.new_request(phantom)
        with suppress(PoolError, TimeoutError):
            async with asyncio.timeout(0.3):
                await world.tag(phantom, "alone", asked=asked)
        assert "alone" in state_of(world, phantom).pool.tags
        phantom.cut_power()
        world.network.heal()
        phantom.power_on()
        # The other host says what it is of, and then nothing more for a while.
        await world.until(lambda: phantom.mastership is not None)
        world.network.cut(phantom.endpoint, ignite.endpoint)
        request = pb.GetPoolRequest()
        try:
            async with asyncio.timeout(0.5):
                shown = await world.ask(phantom, "PoolService/GetPool", request)
        except (PoolError, TimeoutError):
            return
        world.rules.expect(
            "alone" not in shown.pool.tags, "it is shown, and only the master has it"
        )
        world.violations.raise_any()

    play("shown too early", scenario)


def test_a_hello_that_comes_late_withdraws_nothing() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        assert ignite.life is not None
        assert ignite.life.follower is not None
        late = ignite.life.follower.hello()
        world.on_point = lambda _, point: (
            ignite.freeze() if point == "pool.designate_master:writes-wait" else None
        )
        with suppress(PoolError):
            await world.designate(phantom, ignite)
        await world.until(lambda: not masters(world))

        async def requests() -> AsyncIterator[member_service_pb2.SessionRequest]:
            # What an earlier session has sent, of which there is nobody any more.
            yield late
            await world.clock.sleep(60.0)

        stub = member_service_pb2_grpc.MemberServiceStub(world.open_channel(phantom.endpoint))
        answers: list[str | None] = []

        async def listen() -> None:
            async for response in stub.Session(requests()):
                answers.append(response.WhichOneof("item"))

        listening = asyncio.ensure_future(listen())  # noqa: TID251 - awaited below
        await world.let_pass(8.0)
        with pytest.raises(grpc.aio.AioRpcError):
            await listening
        assert answers == ["welcome"]
        assert masters(world) == []
        ignite.thaw()
        await world.settle()
        assert len(masters(world)) == 1

    play("late hello", scenario)


def test_a_prepared_store_that_does_not_lead_there_is_founded_anew() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        acknowledged = await written(world, phantom)

        def a_snapshot_has_come(_: SimHost, point: str) -> None:
            if point != "pool.designate_master:writes-wait":
                return
            assert ignite.life is not None
            assert ignite.disk.replica is not None
            parts, states = ignite.life.parts, register_of(world, phantom).states
            assert parts.prepared is not None
            begun = parts.prepared.begun
            early = states[begun.state.revision - 5]
            parts.prepared = replace(parts.prepared, begun=replace(begun, state=early))
            ignite.disk.replica.log.clear()

        world.on_point = a_snapshot_has_come
        with suppress(PoolError):
            await world.designate(phantom, ignite)
        await world.settle()
        assert masters(world) == [ignite]
        check_kept(world, ignite, acknowledged)

    play("prepared in vain", scenario)


def test_who_was_not_answered_gives_the_command_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        acknowledged = await written(world, phantom)
        phantom.cut_power()
        # What it was told does not arrive, then what it says.
        ways = [(CLIENT, ignite.endpoint), (ignite.endpoint, CLIENT)]

        def lose(*way: str) -> bool:
            lost = ways[:1] == [way]
            if lost:
                ways.pop(0)
            return lost

        monkeypatch.setattr(world.network, "lose", lose)
        for done in (False, True):
            with pytest.raises(PoolError) as unanswered:
                await tell_to_lead(world, ignite)
            assert is_refused(unanswered.value, Reason.DEADLINE_PASSED)
            assert masters(world) == ([ignite] if done else [])
        with pytest.raises(PoolError) as told:
            await world.emergency(ignite)
        assert is_refused(told.value, Reason.ALREADY_MASTER)
        check_kept(world, ignite, acknowledged)

    play("not answered", scenario)


async def _hangs(self: Emergency, **given: bool) -> Any:
    await asyncio.Event().wait()


def test_a_host_that_does_not_answer_a_person_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        phantom.cut_power()
        with suppress(PoolError):
            await tell_to_lead(world, ignite)

    monkeypatch.setattr(Emergency, "transition", _hangs)
    with pytest.raises(AssertionError, match="neither become master nor refused"):
        play("hangs", scenario)


def test_a_person_who_ends_the_wait_for_the_partner_loses_nothing_that_the_store_has() -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = await pair(world)
        # The master's own replica is behind when both lose their power.
        phantom.disk.failed_syncs = 1000
        acknowledged = await written(world, phantom, count=3)
        phantom.cut_power()
        ignite.cut_power()
        phantom.disk.failed_syncs = 0
        phantom.power_on()
        await world.let_pass(3.0)
        assert masters(world) == []
        await world.emergency(phantom, accept_loss=True)
        check_kept(world, phantom, acknowledged)
        await world.settle()
        assert masters(world) == [phantom]
        check_kept(world, ignite, acknowledged)

    play("the wait is ended", scenario)
