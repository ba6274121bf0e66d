"""The driver of a host without a hypervisor, on the kernel of this machine."""

from __future__ import annotations

import asyncio

import pytest

from poolcore.model import PIF, Network
from poolmember.drivers.contract import Driver, DriverError, FactOverrides
from poolmember.drivers.no_hypervisor import NoHypervisor
from support.hosts.facts import host_id

IGNITE = host_id("ignite")


async def test_it_finds_interfaces_and_nothing_that_has_to_do_with_vms() -> None:
    driver: Driver = NoHypervisor(management_endpoint="127.0.0.2:7443")
    with pytest.raises(DriverError):
        await driver.inventory()
    await driver.open(IGNITE)
    inventory = await driver.inventory()
    assert {type(obj) for obj in inventory.objects} <= {PIF, Network}
    assert {pif.host for pif in inventory.pifs()} <= {IGNITE}
    profile = inventory.profile
    assert (profile.hypervisor.kind, profile.capabilities, profile.storage_types) == (
        "none",
        frozenset(),
        frozenset(),
    )
    assert profile.cpu.count >= 1
    assert profile.memory_total > 2**20
    # What has not changed is the same in the next inventory.
    assert await driver.inventory() == inventory
    assert driver.overrides() == FactOverrides()
    await driver.close()
    with pytest.raises(DriverError):
        await driver.inventory()


async def test_it_tells_of_changes_at_once_and_until_it_is_closed() -> None:
    driver = NoHypervisor(management_endpoint="localhost:7443")
    await driver.open(IGNITE)
    changes = driver.changes()
    async with asyncio.timeout(10):
        await anext(changes)
        await driver.close()
        with pytest.raises(StopAsyncIteration):
            await anext(changes)
