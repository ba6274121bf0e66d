"""How the libvirt driver notices changes, and what it does when libvirtd dies or hangs."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator

import pytest

from poolcore.model import VM, Network, PowerState
from poolmember.drivers.contract import DriverError
from support.driver_process import DriverProcess
from support.lab import LabHost
from support.lab_guests import define_guest, start_guest, ticks
from support.lab_network import until

pytestmark = pytest.mark.real

GUEST = "5d4b9ac7-1f2e-4a55-8a3d-0000000000e1"
NOTICED_WITHIN_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 0.25
"""How long the event loop may be held up; a blocking call would hold it for seconds."""

EXTRA_NETWORK = "<network><name>extra</name><bridge name='virbr7'/></network>"
CHANGES = {
    "start a network": ["virsh net-start default"],
    "define a network": ["virsh net-define /dev/stdin"],
    "start a guest": ["virsh net-start default", "virsh start web1"],
    "undefine a guest": ["virsh undefine web1"],
    "define a pool": ["virsh pool-define-as fast dir --target /var/tmp"],
    "stop a pool": ["virsh pool-destroy default"],
    "create a volume": ["virsh vol-create-as default new.img 1M"],
    "delete a volume": ["virsh vol-delete --pool default web1.img"],
    "add a bridge": ["ip link add br7 type bridge"],
    "change the MTU": ["ip link set eth0 mtu 1400"],
    "add an address": ["ip addr add 10.8.0.1/24 dev eth0"],
}


@pytest.fixture
async def driver(host: LabHost) -> AsyncIterator[DriverProcess]:
    define_guest(host, "web1", uuid=GUEST)
    async with DriverProcess(host) as process:
        yield process


async def power_state(driver: DriverProcess) -> PowerState:
    found = await driver.inventory()
    (vm,) = (o for o in found.objects if isinstance(o, VM))
    return vm.power_state


@pytest.mark.parametrize("commands", CHANGES.values(), ids=list(CHANGES))
async def test_a_change_is_noticed_within_two_seconds(
    host: LabHost, driver: DriverProcess, commands: list[str]
) -> None:
    *preparations, change = commands
    await driver.watch()
    for preparation in preparations:
        host.run(preparation.split())
        await driver.no_more_changes(for_seconds=NOTICED_WITHIN_SECONDS)
    before = await driver.inventory()
    host.run(change.split(), input=EXTRA_NETWORK)
    done = time.monotonic()
    noticed = await driver.next_change(within_seconds=NOTICED_WITHIN_SECONDS)
    assert noticed - done < NOTICED_WITHIN_SECONDS
    await driver.no_more_changes(for_seconds=0.2)
    if change != "virsh net-start default":  # a network is the same whether it is started or not
        assert await driver.inventory() != before


async def test_nothing_is_told_while_nothing_happens(driver: DriverProcess) -> None:
    await driver.inventory()
    await driver.watch()
    with pytest.raises(TimeoutError):
        await driver.next_change(within_seconds=4)


async def test_libvirtd_is_killed_under_a_running_guest_and_comes_back(
    host: LabHost, driver: DriverProcess
) -> None:
    image = start_guest(host, "web2", uuid=GUEST.replace("e1", "e2"))
    host.virsh("undefine", "web1")
    assert await power_state(driver) is PowerState.RUNNING
    await driver.watch()
    host.stop_libvirtd()
    with pytest.raises(DriverError, match=r"qemu:///system|lost|closed"):
        await driver.inventory()
    with pytest.raises(DriverError, match="connecting to qemu:///system"):
        await driver.inventory()
    await driver.no_more_changes(for_seconds=0.5)
    before = ticks(image)
    host.start_libvirtd()
    back = time.monotonic()
    noticed = await driver.next_change(within_seconds=5)
    assert noticed - back < NOTICED_WITHIN_SECONDS
    assert await power_state(driver) is PowerState.RUNNING
    until(lambda: ticks(image) > before, seconds=5, what="the guest's next tick")
    # Events are delivered over the new connection as well.
    await driver.no_more_changes(for_seconds=0.5)
    host.virsh("suspend", "web2")
    await driver.next_change(within_seconds=1)
    assert await power_state(driver) is PowerState.PAUSED


async def test_many_restarts_of_libvirtd_leave_nothing_behind(
    host: LabHost, driver: DriverProcess
) -> None:
    await driver.inventory()
    before = driver.resources()
    for _ in range(8):
        host.stop_libvirtd()
        host.start_libvirtd()
        await driver.inventory_when_it_answers(within_seconds=5)
    after = driver.resources()
    assert after.open_files <= before.open_files
    # The event loop's, the one of the connection, and at most one that is just ending.
    assert after.threads <= before.threads + 1


async def test_a_libvirtd_that_hangs_costs_an_error_in_time_and_no_tick_of_the_event_loop(
    host: LabHost, driver: DriverProcess
) -> None:
    await driver.inventory()
    await driver.watch()
    await driver.longest_pause()
    host.signal_libvirtd(signal.SIGSTOP)
    try:
        for _ in range(3):
            started = time.monotonic()
            with pytest.raises(DriverError) as caught:
                await driver.inventory()
            assert time.monotonic() - started < 6
            assert str(caught.value).partition(":")[2], "the message names the call and the reason"
        assert await driver.longest_pause() < LONGEST_PAUSE_SECONDS
    finally:
        host.signal_libvirtd(signal.SIGCONT)
    await driver.next_change(within_seconds=5)
    assert await power_state(driver) is PowerState.HALTED
    assert await driver.longest_pause() < LONGEST_PAUSE_SECONDS


async def test_a_libvirtd_that_hangs_for_a_moment_is_only_waited_for(
    host: LabHost, driver: DriverProcess
) -> None:
    await driver.inventory()
    await driver.watch()
    host.signal_libvirtd(signal.SIGSTOP)
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(driver.inventory())
        await asyncio.sleep(2)
        host.signal_libvirtd(signal.SIGCONT)
    assert any(isinstance(o, Network) for o in asked.result().objects)
    # The connection was kept: its events still come at once.
    await driver.no_more_changes(for_seconds=1)
    host.virsh("net-start", "default")
    await driver.next_change(within_seconds=1)


async def test_the_process_ends_although_libvirtd_hangs(host: LabHost) -> None:
    async with DriverProcess(host) as driver:
        await driver.inventory()
        await driver.watch()
        host.signal_libvirtd(signal.SIGSTOP)
        started = time.monotonic()
    assert time.monotonic() - started < 8
    host.signal_libvirtd(signal.SIGCONT)


async def test_closing_the_driver_ends_its_changes(driver: DriverProcess) -> None:
    await driver.watch()
    await driver.close()
    await driver.end_of_changes(within_seconds=2)
    with pytest.raises(DriverError, match="not open"):
        await driver.inventory()
