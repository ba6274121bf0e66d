"""What hosts report, converted piece by piece.

A host may have tens of thousands of objects, and converting one takes about 10 µs: done at once,
that holds up heartbeats for long enough to have a busy master replaced.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from poolcore.facts import Inventory
from poolcore.model import Object
from poolcore.wire.codec import from_proto, object_from_proto, object_to_proto, to_proto
from poolmanager.v1 import agent_service_pb2 as pb

AT_ONCE = 200
"""Between so many objects everybody else has a turn."""


async def inventory_to_proto(inventory: Inventory) -> pb.Inventory:
    """As `to_proto`."""
    message: pb.Inventory = to_proto(replace(inventory, objects=()))
    for start in range(0, len(inventory.objects), AT_ONCE):
        message.objects.extend(map(object_to_proto, inventory.objects[start : start + AT_ONCE]))
        await asyncio.sleep(0)
    return message


async def inventory_from_proto(message: pb.Inventory) -> Inventory:
    """As `from_proto`; raises `MalformedMessage`."""
    objects: list[Object] = []
    for start in range(0, len(message.objects), AT_ONCE):
        objects += map(object_from_proto, message.objects[start : start + AT_ONCE])
        await asyncio.sleep(0)
    without = pb.Inventory()
    if message.HasField("profile"):
        without.profile.CopyFrom(message.profile)
    inventory: Inventory = from_proto(without)
    return replace(inventory, objects=tuple(objects))
