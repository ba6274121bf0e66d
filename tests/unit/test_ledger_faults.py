"""The ledger when its engine fails: unknown outcomes, late landings, failed COMMITs, cuts.

In virtual time on the memory engine. The counter of `support.registers` shows whether a write was
done once, twice or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.replica import State, dump
from poolmaster.feed import Feed
from poolmaster.layout import load
from poolmaster.ledger import Decision, Outcome
from poolmaster.store.memory import Fate, MemoryStore, MemoryStoreData
from support.registers import (
    IGNITE,
    Leader,
    asked,
    changing_nothing,
    counted,
    counting,
    found_register,
    leading,
)
from support.virtual_clock import VirtualClock, run_in_virtual_time


@dataclass
class Field:
    """A founded register in an engine that can fail, and a second handle that sees the truth."""

    data: MemoryStoreData
    store: MemoryStore
    other: MemoryStore
    clock: VirtualClock

    def handle(self) -> MemoryStore:
        return MemoryStore(self.data, clock=self.clock)

    async def count(self) -> int:
        """How many writes have really been done."""
        return counted((await load(self.other))[1])


def played(
    scenario: Callable[[Field], Coroutine[Any, Any, None]],
    *,
    history: int = 10_000,
    max_bytes: int | None = None,
) -> None:
    async def main(clock: VirtualClock) -> None:
        data = MemoryStoreData(max_transaction_bytes=max_bytes)
        field = Field(data, MemoryStore(data, clock=clock), MemoryStore(data, clock=clock), clock)
        await found_register(field.other, history=history)
        await scenario(field)

    run_in_virtual_time(main)


async def refusal(write: Coroutine[Any, Any, Any]) -> Reason:
    """The reason a call is refused for."""
    with pytest.raises(PoolError) as refused:
        await write
    return refused.value.reason


async def begun(write: Coroutine[Any, Any, Outcome]) -> asyncio.Task[Outcome]:
    """The write, under way to the engine."""
    task = asyncio.ensure_future(write)  # noqa: TID251 - the test awaits it
    for _ in range(5):
        await asyncio.sleep(0)
    return task


# -- unknown outcomes -----------------------------------------------------------------------------


@pytest.mark.parametrize("fate", [Fate.UNKNOWN_APPLIED, Fate.UNKNOWN_LOST, Fate.UNKNOWN_LATE])
def test_an_unknown_outcome_is_settled_and_the_write_is_done_once(fate: Fate) -> None:
    async def scenario(field: Field) -> None:
        async with leading(field.store, clock=field.clock) as leader:
            field.store.faults.plan(fate)
            first = leader.ledger.write(counting("first"), request=asked(1, 1))
            second = leader.ledger.write(counting("second"))
            outcomes = await asyncio.gather(first, second)
            assert [o.result for o in outcomes] == [1, 2]
            third = await leader.ledger.write(counting("third"))
            assert (third.revision, third.result) == (4, 3)
            for late in field.store.faults.late:
                assert not late.land(), "the one that was sent again passed, so this one cannot"
            again = await leader.ledger.write(counting("first"), request=asked(1, 1))
            assert again.repeated
            assert await field.count() == 3

    played(scenario)


def test_a_transaction_that_lands_while_it_is_being_asked_about_counts_once() -> None:
    async def scenario(field: Field) -> None:
        async with leading(field.store, clock=field.clock) as leader:
            field.store.faults.plan(Fate.UNKNOWN_LATE, Fate.UNKNOWN_LATE)
            write = await begun(leader.ledger.write(counting("write"), request=asked(1, 1)))
            await field.clock.sleep(0.05)
            first, second = field.store.faults.late
            assert second.land()
            assert not first.land()
            outcome = await write
            assert (outcome.revision, outcome.result) == (2, 1)
            assert await field.count() == 1

    played(scenario)


@pytest.mark.parametrize("lands", [True, False])
def test_nothing_is_answered_while_the_engine_cannot_be_asked(lands: bool) -> None:
    async def scenario(field: Field) -> None:
        async with leading(field.store, clock=field.clock) as leader:
            field.store.faults.plan(Fate.UNKNOWN_LATE)
            write = await begun(leader.ledger.write(counting("write"), request=asked(1, 1)))
            field.store.faults.cut_off = True
            later = await begun(leader.ledger.write(counting("later")))
            await field.clock.sleep(10)
            assert not write.done()
            assert not later.done()
            assert counted(leader.ledger.state) == 0
            assert leader.ledger.feed.revision == 1
            if lands:
                assert field.store.faults.late[0].land()
            field.store.faults.cut_off = False
            assert (await write).result == 1
            assert (await later).result == 2
            assert await field.count() == 2

    played(scenario)


def test_reads_go_on_while_an_outcome_is_unknown_and_do_not_show_it() -> None:
    async def scenario(field: Field) -> None:
        async with leading(field.store, clock=field.clock) as leader:
            field.store.faults.plan(Fate.UNKNOWN_APPLIED)
            field.store.faults.latency_seconds = 1.0
            write = await begun(leader.ledger.write(counting("write")))
            head = await leader.ledger.confirm()
            assert head.revision == 1
            assert counted(leader.ledger.state) == 0
            await write
            assert (await leader.ledger.confirm()).revision == 2

    played(scenario)


async def _unknown_then_deposed(
    field: Field, leader: Leader, *, landed: bool, further: int
) -> Reason | int:
    """A write of unknown outcome, then another master and its writes, then the engine answers."""
    field.store.faults.plan(Fate.UNKNOWN_LATE)
    write = await begun(leader.ledger.write(counting("write"), request=asked(1, 1)))
    field.store.faults.cut_off = True
    await field.clock.sleep(1)
    if landed:
        assert field.store.faults.late[0].land()
    async with leading(field.handle(), host=IGNITE, clock=field.clock) as new:
        for number in range(further):
            await new.ledger.write(counting(f"further{number}"))
    field.store.faults.cut_off = False
    await leader.stepped_down()
    try:
        return (await write).revision
    except PoolError as error:
        return error.reason


@pytest.mark.parametrize("further", [0, 1, 5])
@pytest.mark.parametrize("landed", [True, False])
def test_a_master_deposed_while_it_asks_tells_its_callers_the_truth(
    landed: bool, further: int
) -> None:
    async def scenario(field: Field) -> None:
        async with leading(field.store, clock=field.clock) as leader:
            told = await _unknown_then_deposed(field, leader, landed=landed, further=further)
            assert told == (2 if landed else Reason.NO_MASTER)
            for late in field.store.faults.late:
                assert landed or not late.land()
            assert await field.count() == further + landed

    played(scenario)


@pytest.mark.parametrize("landed", [True, False])
def test_beyond_the_history_it_stays_unknown(landed: bool) -> None:
    async def scenario(field: Field) -> None:
        async with leading(field.store, clock=field.clock) as leader:
            told = await _unknown_then_deposed(field, leader, landed=landed, further=5)
            assert told is Reason.OUTCOME_UNKNOWN

    played(scenario, history=3)


def test_after_a_new_claim_the_request_id_answers_truthfully() -> None:
    async def scenario(field: Field) -> None:
        for fate, count in ((Fate.COMMIT_FAILED_LOST, 0), (Fate.COMMIT_FAILED_APPLIED, 1)):
            request = asked(1, count)
            store = field.handle()
            async with leading(store, clock=field.clock) as leader:
                store.faults.plan(fate)
                write = leader.ledger.write(counting(f"write{count}"), request=request)
                assert await refusal(write) is Reason.OUTCOME_UNKNOWN
                assert "store failed" in await leader.stepped_down()
                # One commit of the first round, and in the second this one too.
                assert await field.count() == 2 * count
            async with leading(field.handle(), clock=field.clock) as leader:
                again = await leader.ledger.write(counting(f"write{count}"), request=request)
                assert again.repeated is (fate is Fate.COMMIT_FAILED_APPLIED)
                assert await field.count() == count + 1

    played(scenario)


def test_a_transaction_of_the_last_mastership_that_lands_late_is_refused() -> None:
    async def scenario(field: Field) -> None:
        async with leading(field.store, clock=field.clock) as leader:
            field.store.faults.plan(Fate.UNKNOWN_LATE)
            killed = await begun(leader.ledger.write(counting("write"), request=asked(1, 1)))
        # The daemon ended before it could ask what became of it.
        assert await refusal(_awaited(killed)) is Reason.OUTCOME_UNKNOWN
        async with leading(field.handle(), clock=field.clock) as leader:
            for late in field.store.faults.late:
                assert not late.land()
            again = await leader.ledger.write(counting("write"), request=asked(1, 1))
            assert await field.count() == 1
            assert (await leader.ledger.write(counting("write"), request=asked(1, 1))).delta == (
                again.delta
            )

    played(scenario)


# -- refused by the engine ------------------------------------------------------------------------


def test_what_the_engine_refuses_is_answered_as_not_done_and_is_not_done() -> None:
    async def scenario(field: Field) -> None:
        async with leading(field.store, clock=field.clock) as leader:
            field.store.faults.plan(Fate.REFUSED)
            request = asked(1, 1)
            first, second = await asyncio.gather(
                leader.ledger.write(counting("first"), request=request),
                leader.ledger.write(counting("second")),
                return_exceptions=True,
            )
            for refused in (first, second):
                assert isinstance(refused, PoolError)
                assert refused.reason is Reason.STORE_UNAVAILABLE
            assert await field.count() == counted(leader.ledger.state) == 0
            assert leader.ledger.feed.revision == leader.ledger.head.revision == 1
            assert not (await leader.ledger.write(counting("first"), request=request)).repeated
            assert await field.count() == 1

    played(scenario)


def test_a_duplicate_in_a_batch_that_fails_is_not_answered_as_done() -> None:
    async def scenario(field: Field) -> None:
        async with leading(field.store, clock=field.clock) as leader:
            field.store.faults.plan(Fate.REFUSED)
            outcomes = await asyncio.gather(
                *(leader.ledger.write(counting("write"), request=asked(1, 1)) for _ in range(2)),
                return_exceptions=True,
            )
            reasons = [o.reason for o in outcomes if isinstance(o, PoolError)]
            assert reasons == [Reason.STORE_UNAVAILABLE] * 2

    played(scenario)


def test_a_repeat_of_what_is_committed_is_answered_although_its_batch_fails() -> None:
    async def scenario(field: Field) -> None:
        async with leading(field.store, clock=field.clock) as leader:
            first = await leader.ledger.write(counting("write"), request=asked(1, 1))
            field.store.faults.plan(Fate.REFUSED)
            again, refused = await asyncio.gather(
                leader.ledger.write(counting("write"), request=asked(1, 1)),
                leader.ledger.write(counting("new")),
                return_exceptions=True,
            )
            assert isinstance(again, Outcome)
            assert (again.repeated, again.revision) == (True, first.revision)
            assert isinstance(refused, PoolError)

    played(scenario)


def test_a_refusal_that_rests_on_a_write_that_failed_is_not_told() -> None:
    def once(state: State) -> Decision:
        if counted(state):
            raise PoolError(Reason.JOIN_IN_PROGRESS, task="task", host="host")
        return counting("write")(state)

    async def scenario(field: Field) -> None:
        async with leading(field.store, clock=field.clock) as leader:
            field.store.faults.plan(Fate.REFUSED)
            outcomes = await asyncio.gather(
                leader.ledger.write(once), leader.ledger.write(once), return_exceptions=True
            )
            reasons = [o.reason for o in outcomes if isinstance(o, PoolError)]
            assert reasons == [Reason.STORE_UNAVAILABLE] * 2

    played(scenario)


def test_that_nothing_has_to_be_changed_is_not_told_if_it_rests_on_a_write_that_failed() -> None:
    async def scenario(field: Field) -> None:
        async with leading(field.store, clock=field.clock) as leader:
            field.store.faults.plan(Fate.REFUSED)
            outcomes = await asyncio.gather(
                leader.ledger.write(counting("write")),
                leader.ledger.write(changing_nothing),
                return_exceptions=True,
            )
            reasons = [o.reason for o in outcomes if isinstance(o, PoolError)]
            assert reasons == [Reason.STORE_UNAVAILABLE] * 2

    played(scenario)


def test_a_batch_too_large_for_the_engine_goes_in_smaller_ones() -> None:
    async def scenario(field: Field) -> None:
        async with leading(field.store, clock=field.clock) as leader:
            outcomes = await asyncio.gather(
                leader.ledger.write(changing_nothing),
                *(leader.ledger.write(counting("w", padding=700)) for _ in range(6)),
                leader.ledger.write(counting("large", padding=5000), request=asked(1, 1)),
                leader.ledger.write(counting("small")),
                return_exceptions=True,
            )
            refused = outcomes.pop(-2)
            assert isinstance(refused, PoolError)
            assert refused.reason is Reason.REQUEST_TOO_LARGE
            results = [o.result for o in outcomes if isinstance(o, Outcome)]
            assert results == [0, 1, 2, 3, 4, 5, 6, 7]
            assert await field.count() == 7

    played(scenario, max_bytes=5000)


# -- callers and the end --------------------------------------------------------------------------


def test_a_write_whose_caller_was_cancelled_is_done_once_or_not_at_all() -> None:
    async def scenario(field: Field) -> None:
        field.store.faults.latency_seconds = 1.0
        async with leading(field.store, clock=field.clock) as leader:
            taken = await begun(leader.ledger.write(counting("taken"), request=asked(1, 1)))
            waiting = await begun(leader.ledger.write(counting("waiting"), request=asked(1, 2)))
            await field.clock.sleep(0.5)
            for caller in (taken, waiting):
                caller.cancel()
            await asyncio.gather(taken, waiting, return_exceptions=True)
            await field.clock.sleep(5)
            assert await field.count() == 1, "one was under way, one had not been taken up"
            again = await leader.ledger.write(counting("taken"), request=asked(1, 1))
            assert again.repeated
            assert not (
                await leader.ledger.write(counting("waiting"), request=asked(1, 2))
            ).repeated
            assert await field.count() == 2

    played(scenario)


def test_at_the_end_of_the_daemon_writes_are_unknown_or_not_done_as_they_are() -> None:
    async def scenario(field: Field) -> None:
        field.store.faults.latency_seconds = 1.0
        async with leading(field.store, clock=field.clock) as leader:
            taken = await begun(leader.ledger.write(counting("taken")))
            waiting = await begun(leader.ledger.write(counting("waiting")))
            reading = await begun(leader.ledger.confirm())  # type: ignore[arg-type]
            leader.running.cancel()
            assert await refusal(_awaited(taken)) is Reason.OUTCOME_UNKNOWN
            assert await refusal(_awaited(waiting)) is Reason.NO_MASTER
            assert await refusal(_awaited(reading)) is Reason.NO_MASTER
            assert await refusal(leader.ledger.write(counting("late"))) is Reason.NO_MASTER
            assert await refusal(leader.ledger.confirm()) is Reason.NO_MASTER
            assert await refusal(leader.ledger.first_outcome(asked(1, 1))) is Reason.NO_MASTER

    played(scenario)


async def _awaited(task: asyncio.Task[Any]) -> Any:
    return await task


def test_a_reader_is_told_when_the_mastership_ends_under_it() -> None:
    async def scenario(field: Field) -> None:
        async with leading(field.store, clock=field.clock) as old:
            field.store.faults.latency_seconds = 1.0
            # Its read of head is under way when the writer's loop learns that it is over.
            async with leading(field.handle(), host=IGNITE, clock=field.clock):
                write = await begun(old.ledger.write(counting("write")))
                await field.clock.sleep(0.5)
                reader = await begun(old.ledger.confirm())  # type: ignore[arg-type]
                async with asyncio.timeout(10):
                    assert await refusal(_awaited(write)) is Reason.NO_MASTER
                    assert await refusal(_awaited(reader)) is Reason.NO_MASTER

    played(scenario)


def test_a_barrier_that_cannot_be_read_is_refused_and_the_mastership_goes_on() -> None:
    async def scenario(field: Field) -> None:
        async with leading(field.store, clock=field.clock) as leader:
            field.store.faults.cut_off = True
            assert await refusal(leader.ledger.confirm()) is Reason.NO_MASTER
            assert await refusal(leader.ledger.write(changing_nothing)) is (
                Reason.STORE_UNAVAILABLE
            )
            field.store.faults.cut_off = False
            assert (await leader.ledger.confirm()).revision == 1
            await leader.ledger.write(counting("write"))

    played(scenario)


def test_a_repeat_whose_first_outcome_cannot_be_read_is_unknown_not_failed() -> None:
    async def scenario(field: Field) -> None:
        async with leading(field.store, clock=field.clock) as leader:
            await leader.ledger.write(counting("write"), request=asked(1, 1))
            field.store.faults.cut_off = True
            again = leader.ledger.write(counting("write"), request=asked(1, 1))
            assert await refusal(again) is Reason.OUTCOME_UNKNOWN
            first = leader.ledger.first_outcome(asked(1, 1))
            assert await refusal(first) is Reason.OUTCOME_UNKNOWN

    played(scenario)


def test_what_is_published_is_always_in_the_store_already() -> None:
    async def scenario(field: Field) -> None:
        async def follow(feed: Feed) -> None:
            cursor = 1
            while cursor < 7:
                commits = await feed.after(cursor)
                cursor = commits[-1].revision
                head, _ = await load(field.other)
                assert head.revision >= cursor

        async with leading(field.store, clock=field.clock) as leader:
            fates = [Fate.SERVED, Fate.REFUSED, Fate.UNKNOWN_APPLIED, Fate.SERVED]
            field.store.faults.plan(*fates, Fate.UNKNOWN_LOST, Fate.SERVED, Fate.UNKNOWN_LATE)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(follow(leader.ledger.feed))
                for number in range(7):
                    write = leader.ledger.write(counting(f"write{number}"))
                    if number == 1:
                        assert await refusal(write) is Reason.STORE_UNAVAILABLE
                    else:
                        await write
            assert dump(leader.ledger.state) == dump((await load(field.other))[1])

    played(scenario)
