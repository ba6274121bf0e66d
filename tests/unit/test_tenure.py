"""A mastership of a shared store: when it ends by itself, and how its `alive` key is kept.

In virtual time on the memory engine. Head is confirmed every quarter of a second, so a cut that
begins just before that is noticed a quarter earlier than one that begins just after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from poolcore.model import FailoverTimings
from poolcore.side_by_side import side_by_side
from poolmaster.claiming import claim
from poolmaster.layout import ALIVE, read_head
from poolmaster.ledger import Ledger, SteppedDown
from poolmaster.store.contract import LeaseId
from poolmaster.store.memory import Fate, MemoryStore, MemoryStoreData
from poolmaster.tenure import CONFIRMS_PER_PERIOD, KEEPS_PER_PERIOD, Tenure
from support.registers import IGNITE, PHANTOM, counting, found_register
from support.virtual_clock import VirtualClock, run_in_virtual_time

TIMINGS = FailoverTimings()
CONFIRM_EVERY = TIMINGS.confirm_seconds / CONFIRMS_PER_PERIOD
KEEP_EVERY = TIMINGS.alive_seconds / KEEPS_PER_PERIOD
MOMENT = 0.001
EPSILON = 1e-6


@dataclass
class Field:
    """A mastership that runs, the store's handle that it has, and one that nothing happens to."""

    clock: VirtualClock
    store: MemoryStore
    other: MemoryStore
    ledger: Ledger
    tenure: Tenure
    lease: LeaseId
    running: asyncio.Task[None]

    @property
    def lasts(self) -> bool:
        return not self.running.done()

    async def end(self) -> str:
        """Wait for the end of the mastership; why it ended."""
        with pytest.raises(SteppedDown) as ended:
            await self.running
        return str(ended.value)

    async def alive(self) -> list[bytes]:
        """The value of the key, if it is there."""
        return [item.value for item in (await self.other.read(ALIVE)).items]

    async def pause_process(self, seconds: float) -> None:
        """Nothing of the process runs for so long; then everything that was due meanwhile."""
        self.clock.move_to(self.clock.monotonic() + seconds)

    async def cut_off(self, seconds: float) -> None:
        self.store.faults.cut_off = True
        await self.clock.sleep(seconds)
        self.store.faults.cut_off = False


def played(scenario: Callable[[Field], Coroutine[Any, Any, None]]) -> None:
    async def main(clock: VirtualClock) -> None:
        data = MemoryStoreData()
        store, other = (MemoryStore(data, clock=clock) for _ in range(2))
        await found_register(other)
        claimed = await claim(store, PHANTOM, alive_seconds=TIMINGS.alive_seconds)
        assert claimed.lease is not None
        ledger = Ledger(store, claimed.head, claimed.state, clock=clock)
        tenure = Tenure(ledger, store, host=PHANTOM, lease=claimed.lease, clock=clock)
        running = asyncio.ensure_future(  # noqa: TID251 - awaited below
            side_by_side(ledger.run(), tenure.run())
        )
        field = Field(clock, store, other, ledger, tenure, claimed.lease, running)
        try:
            await clock.sleep(MOMENT)
            await scenario(field)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError, SteppedDown):
                await running

    run_in_virtual_time(main)


# -- confirming head ------------------------------------------------------------------------------


def test_a_mastership_that_nothing_happens_to_lasts_and_speaks() -> None:
    async def scenario(field: Field) -> None:
        for _ in range(1000):
            await field.clock.sleep(0.1)
            assert field.tenure.may_speak
        assert field.lasts

    played(scenario)


def test_a_cut_of_nine_tenths_of_a_second_is_survived() -> None:
    async def scenario(field: Field) -> None:
        await field.clock.sleep(4 * CONFIRM_EVERY)
        await field.cut_off(0.9)
        await field.clock.sleep(10.0)
        assert field.lasts
        assert field.tenure.may_speak
        assert (await field.ledger.write(counting("after"))).revision == 2

    played(scenario)


def test_a_cut_of_thirteen_tenths_of_a_second_ends_the_mastership() -> None:
    async def scenario(field: Field) -> None:
        await field.clock.sleep(4 * CONFIRM_EVERY)
        began = field.clock.monotonic()
        await field.cut_off(1.3)
        assert await field.end() == "head could not be confirmed for 1 s"
        assert not field.tenure.may_speak
        assert field.clock.monotonic() - began <= 1.3 + EPSILON

    played(scenario)


@pytest.mark.parametrize("phase", [n / 10 * CONFIRM_EVERY for n in range(10)])
@pytest.mark.parametrize(
    ("seconds", "lasts"),
    [(TIMINGS.confirm_seconds - CONFIRM_EVERY - EPSILON, True), (1.3, False)],
)
def test_what_a_cut_does_is_the_same_whenever_it_begins(
    phase: float, seconds: float, lasts: bool
) -> None:
    async def scenario(field: Field) -> None:
        await field.clock.sleep(2.0 + phase)
        await field.cut_off(seconds)
        await field.clock.sleep(MOMENT)
        assert field.lasts == lasts

    played(scenario)


def test_a_master_falls_silent_as_soon_as_its_last_confirmation_is_too_old() -> None:
    async def scenario(field: Field) -> None:
        await field.clock.sleep(2.0)
        confirmed_at = field.ledger.confirmed_at
        field.store.faults.cut_off = True
        while field.lasts:
            old = field.clock.monotonic() - confirmed_at >= TIMINGS.confirm_seconds
            assert field.tenure.may_speak != old
            await field.clock.sleep(MOMENT)

    played(scenario)


@pytest.mark.parametrize("latency", [0.1, 0.3, 0.9])
def test_a_store_that_answers_slowly_is_no_end(latency: float) -> None:
    async def scenario(field: Field) -> None:
        field.store.faults.latency_seconds = latency
        await field.clock.sleep(30.0)
        assert field.lasts == (latency < TIMINGS.confirm_seconds - CONFIRM_EVERY)

    played(scenario)


def test_a_store_that_answers_no_more_ends_the_mastership_as_one_that_refuses() -> None:
    async def scenario(field: Field) -> None:
        await field.clock.sleep(2.0)
        field.store.faults.latency_seconds = 3600.0
        began = field.clock.monotonic()
        assert await field.end() == "head could not be confirmed for 1 s"
        # One attempt more, of a quarter of a second, in case only this process stood still.
        assert field.clock.monotonic() - began <= 1.5 + EPSILON

    played(scenario)


def test_commits_confirm_as_well_as_reads_do() -> None:
    async def scenario(field: Field) -> None:
        await field.clock.sleep(0.1)
        await field.ledger.write(counting("write"))
        assert field.ledger.confirmed_at == field.clock.monotonic()

    played(scenario)


# -- a process that stood still -------------------------------------------------------------------


def test_a_pause_of_ten_seconds_ends_nothing_if_nobody_has_taken_over() -> None:
    async def scenario(field: Field) -> None:
        await field.clock.sleep(2.0)
        await field.pause_process(10.0)
        spoke_before_it_looked = field.tenure.may_speak
        await field.clock.sleep(2.0)
        assert field.lasts
        assert (spoke_before_it_looked, field.tenure.may_speak) == (False, True)
        assert (await field.ledger.write(counting("after"))).revision == 2

    played(scenario)


def test_a_pause_in_which_another_host_has_taken_over_ends_the_mastership() -> None:
    async def scenario(field: Field) -> None:
        await field.clock.sleep(2.0)
        claimed = await claim(field.other, IGNITE)
        await field.pause_process(10.0)
        while field.lasts:
            assert not field.tenure.may_speak, "not for a moment"
            await asyncio.sleep(0)
        assert await field.end() == "somebody else moved head"
        assert await read_head(field.other) == claimed.head

    played(scenario)


@pytest.mark.parametrize(("latency", "lasts"), [(0.2, True), (0.3, False)])
def test_after_a_pause_the_store_has_a_quarter_of_a_second_to_answer(
    latency: float, lasts: bool
) -> None:
    async def scenario(field: Field) -> None:
        await field.clock.sleep(2.0)
        field.store.faults.latency_seconds = latency
        await field.pause_process(10.0)
        await field.clock.sleep(2.0)
        assert field.lasts == lasts

    played(scenario)


def test_a_replaced_master_ends_within_a_quarter_of_a_second() -> None:
    async def scenario(field: Field) -> None:
        await field.clock.sleep(2.0)
        await claim(field.other, IGNITE)
        began = field.clock.monotonic()
        assert await field.end() == "somebody else moved head"
        assert field.clock.monotonic() - began <= CONFIRM_EVERY + EPSILON

    played(scenario)


# -- the alive key --------------------------------------------------------------------------------


def test_the_alive_key_is_there_as_long_as_the_mastership() -> None:
    async def scenario(field: Field) -> None:
        for _ in range(100):
            await field.clock.sleep(0.5)
            assert await field.alive() == [PHANTOM.encode()]
        field.running.cancel()
        await asyncio.gather(field.running, return_exceptions=True)
        await field.clock.sleep(TIMINGS.alive_seconds - KEEP_EVERY - EPSILON)
        assert await field.alive(), "the lease was kept not longer ago"
        await field.clock.sleep(KEEP_EVERY + 2 * EPSILON)
        assert not await field.alive()

    played(scenario)


def test_a_lease_that_was_lost_is_replaced_and_the_new_one_kept() -> None:
    async def scenario(field: Field) -> None:
        await field.other.revoke(field.lease)
        assert not await field.alive()
        await field.clock.sleep(KEEP_EVERY)
        for _ in range(20):
            assert await field.alive() == [PHANTOM.encode()]
            await field.clock.sleep(1.0)
        assert field.lasts

    played(scenario)


def test_a_pause_longer_than_the_lease_costs_the_key_only_until_it_is_over() -> None:
    async def scenario(field: Field) -> None:
        await field.clock.sleep(2.0)
        await field.pause_process(2 * TIMINGS.alive_seconds)
        assert not await field.alive()
        await field.clock.sleep(MOMENT)
        assert await field.alive() == [PHANTOM.encode()]

    played(scenario)


@pytest.mark.parametrize("fate", [Fate.REFUSED, Fate.UNKNOWN_LOST, Fate.UNKNOWN_APPLIED])
def test_a_key_that_could_not_be_written_anew_is_written_later(fate: Fate) -> None:
    async def scenario(field: Field) -> None:
        await field.other.revoke(field.lease)
        field.store.faults.plan(fate)
        # The outcome may be unknown: then the key has to be seen to end before it is written.
        await field.clock.sleep(TIMINGS.alive_seconds + 2 * KEEP_EVERY)
        for _ in range(20):
            await field.clock.sleep(0.5)
            assert await field.alive() == [PHANTOM.encode()]
        assert field.lasts

    played(scenario)


def test_the_key_of_the_next_master_is_not_overwritten() -> None:
    async def scenario(field: Field) -> None:
        await field.other.revoke(field.lease)
        # It has taken over just now: this master has not seen that yet.
        await field.clock.sleep(KEEP_EVERY - 2 * MOMENT)
        await claim(field.other, IGNITE, alive_seconds=60.0)
        await field.clock.sleep(TIMINGS.alive_seconds)
        assert await field.alive() == [IGNITE.encode()]
        assert not field.lasts

    played(scenario)
