"""One mastership after the other at one host: nothing is lost, nothing is left."""

from __future__ import annotations

import logging
import weakref

import pytest

from poolcore.errors import PoolError
from poolcore.model import MasterRecord
from poolcore.replica import Delta, Put
from poolcore.wire.chain import decode_delta
from poolmaster.store.memory import Fate, MemoryStore
from poolmember.leading import COLLECT_SECONDS
from sim.host import SimHost
from sim.world import World, play


@pytest.mark.parametrize("fate", [Fate.COMMIT_FAILED_APPLIED, Fate.COMMIT_FAILED_LOST])
def test_after_a_failed_commit_the_same_host_leads_on_and_members_come_back(fate: Fate) -> None:
    async def scenario(world: World) -> None:
        handles: list[MemoryStore] = []

        def keep(host: SimHost, handle: MemoryStore) -> None:
            if host is phantom:
                handles.append(handle)

        world.on_handle = keep
        phantom, ignite = world.add("phantom", "ignite")
        await world.settle()
        await world.join(phantom, ignite)
        await world.settle()
        terms = []
        for number in range(3):
            handles[-1].faults.plan(fate)
            asked = world.new_request(phantom)
            with pytest.raises(PoolError):
                await world.tag(phantom, f"tag {number}", asked=asked)
            await world.settle()
            await world.tag(phantom, f"tag {number}", asked=asked)
            assert phantom.mastership is not None
            terms.append(phantom.mastership.ledger.head.term)
            assert asked in world.rules.registers[phantom.mastership.pool].executed
        assert terms == sorted(set(terms))
        await world.settle()

    play(f"masterships {fate}", scenario)


def recorded(host: SimHost) -> bool:
    """Whether the host's present mastership is recorded."""
    if host.mastership is None:
        return False
    term = host.mastership.ledger.head.term
    return any(record.term == term for record in host.mastership.state.all(MasterRecord))


@pytest.mark.parametrize("fate", [Fate.REFUSED, Fate.UNKNOWN_LOST, Fate.COMMIT_FAILED_LOST])
def test_every_mastership_is_recorded_whatever_its_store_does(fate: Fate) -> None:
    async def scenario(world: World) -> None:
        left = [True] * 3

        def refuse(host: SimHost, handle: MemoryStore) -> None:
            if left and left.pop():
                # It claims the register, and then cannot record that.
                handle.faults.plan(Fate.SERVED, fate)

        (phantom,) = world.add("phantom")
        await world.settle()
        world.on_handle = refuse
        for number in range(4):
            phantom.cut_power()
            await world.settle()
            await world.tag(phantom, f"tag {number}")
            await world.until(lambda: recorded(phantom))
        assert phantom.mastership is not None
        raw = world.rules.registers[phantom.mastership.pool].raw
        first: dict[int, Delta] = {}
        for revision in sorted(raw):
            delta = decode_delta(raw[revision])
            first.setdefault(delta.commit.term, delta)
        assert not left
        assert len(first) >= 6
        for term, delta in first.items():
            if fate is Fate.REFUSED:
                continue  # it was asked for again, after what came meanwhile
            put = [c.object for c in delta.changes if isinstance(c, Put)]
            (record,) = (o for o in put if isinstance(o, MasterRecord))
            assert (record.term, record.host) == (term, phantom.uuid)
        state = phantom.mastership.state
        assert {record.term for record in state.all(MasterRecord)} == first.keys()

    play(f"records {fate}", scenario)


def test_a_mastership_that_has_ended_does_not_stay_in_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # What is captured of the log holds on to the errors in it, and they to where they come from.
    caplog.set_level(logging.CRITICAL)

    async def scenario(world: World) -> None:
        handles: list[MemoryStore] = []
        world.on_handle = lambda host, handle: handles.append(handle)
        (phantom,) = world.add("phantom")
        await world.settle()
        assert phantom.mastership is not None
        first = weakref.ref(phantom.mastership)
        # Twice: whoever was told of the first one's end may have held on to it for a while.
        for _ in range(2):
            handles[-1].faults.plan(Fate.COMMIT_FAILED_LOST)
            with pytest.raises(PoolError):
                await world.tag(phantom, "tag")
            await world.settle()
        await world.let_pass(2 * COLLECT_SECONDS)
        assert first() is None

    play("ended masterships", scenario)


@pytest.mark.parametrize(
    "fate",
    [Fate.REFUSED, Fate.UNKNOWN_APPLIED, Fate.UNKNOWN_LOST, Fate.COMMIT_FAILED_APPLIED],
)
def test_an_ejected_host_founds_its_pool_when_its_disk_lets_it(fate: Fate) -> None:
    async def scenario(world: World) -> None:
        phantom, ignite = world.add("phantom", "ignite")
        await world.settle()
        await world.join(phantom, ignite)
        await world.settle()
        fates = [fate, fate]

        def refuse(host: SimHost, handle: MemoryStore) -> None:
            if host is ignite and fates:
                handle.faults.plan(fates.pop())

        world.on_handle = refuse
        await world.leave(phantom, ignite)
        await world.settle()
        assert fates == []
        assert world.members(ignite) == {ignite.uuid}

    play(f"founding {fate}", scenario)
