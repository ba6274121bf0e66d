"""Inventories of any size cross the wire, and nobody has to wait for all of one."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given

from poolcore.facts import Inventory
from poolcore.model import HostId
from poolcore.wire.codec import MalformedMessage, to_proto
from poolcore.wire.inventories import AT_ONCE, inventory_from_proto, inventory_to_proto
from poolmanager.v1 import agent_service_pb2 as pb
from support.inventories import report
from support.strategies import instances


@given(instances(Inventory))
def test_piece_by_piece_comes_to_the_same_as_at_once(inventory: Inventory) -> None:
    async def there_and_back() -> Inventory:
        message = await inventory_to_proto(inventory)
        assert message == to_proto(inventory)
        return await inventory_from_proto(message)

    assert asyncio.run(there_and_back()) == inventory


async def test_others_have_a_turn_between_the_pieces() -> None:
    found = report(HostId("6f1d6a5e-0000-4000-8000-000000000001"), 1)
    pieces = 5
    large = replace(found, objects=(found.objects * (pieces * AT_ONCE))[: pieces * AT_ONCE])
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        counting = tasks.create_task(count())
        message = await inventory_to_proto(large)
        assert turns >= pieces - 1
        there = turns
        assert await inventory_from_proto(message) == large
        assert turns >= there + pieces - 1
        counting.cancel()


async def test_an_inventory_without_what_it_must_have_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        await inventory_from_proto(pb.Inventory())
    message = to_proto(report(HostId("6f1d6a5e-0000-4000-8000-000000000001"), 1))
    message.objects.add()
    with pytest.raises(MalformedMessage):
        await inventory_from_proto(message)
