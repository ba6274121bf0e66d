"""The driver against libvirt's own test hypervisor, and against daemons that are not there."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.facts import Inventory
from poolcore.model import SR, VBD, VIF, VM, HostId, Network, Object, PowerState
from poolmember.drivers.contract import DriverError, FactOverrides
from poolmember.drivers.libvirt_driver import LibvirtDriver

T = TypeVar("T", bound=Object)

HOST = HostId("0be6fdff-d32a-4ba7-9311-beb27bd22b10")

needs_libvirt = pytest.mark.skipif(
    find_spec("libvirt") is None,
    reason="libvirt-python is an optional extra and not installed",
)


@asynccontextmanager
async def opened(uri: str, *, seconds: float = 5) -> AsyncIterator[LibvirtDriver]:
    driver = LibvirtDriver(uri, management_endpoint="127.0.0.1:7443", call_timeout_seconds=seconds)
    await driver.open(HOST)
    try:
        yield driver
    finally:
        await driver.close()


def named(kind: type[T], name: str, found: Inventory) -> T:
    objects = (o for o in found.objects if isinstance(o, kind))
    (only,) = (o for o in objects if getattr(o, "name_label", "") == name)
    return only


class Changes:
    """Counts what `changes()` tells, in a task of its own."""

    def __init__(self, driver: LibvirtDriver, tasks: asyncio.TaskGroup) -> None:
        self.told = 0
        self._news = asyncio.Condition()
        self.task = tasks.create_task(self._listen(driver))

    async def _listen(self, driver: LibvirtDriver) -> None:
        async for _ in driver.changes():
            async with self._news:
                self.told += 1
                self._news.notify_all()

    async def beyond(self, told: int, *, within_seconds: float) -> None:
        async with asyncio.timeout(within_seconds), self._news:
            await self._news.wait_for(lambda: self.told > told)


@pytest.fixture
def other_connection() -> Iterator[Any]:
    """What somebody else uses to change things; the test hypervisor lives in this process."""
    libvirt = pytest.importorskip("libvirt", reason="libvirt-python is an optional extra")
    connection = libvirt.open("test:///default")
    yield connection
    connection.close()


# -- the inventory ---------------------------------------------------------------------------------


@needs_libvirt
async def test_the_test_hypervisors_guest_network_and_pool() -> None:
    async with opened("test:///default") as driver:
        found = await driver.inventory()
        assert driver.overrides() == FactOverrides()
    assert found.profile.hypervisor.kind == "test"
    assert found.profile.memory_total == 3 * 2**30
    assert found.profile.cpu.count == 16
    vm = named(VM, "test", found)
    assert (vm.power_state, vm.resident_on) == (PowerState.RUNNING, HOST)
    assert (vm.memory_static_max, vm.vcpus_max) == (8 * 2**30, 2)
    # This hypervisor's stock network is not QEMU's: no address translation.
    assert named(Network, "default", found).bridge == "virbr0"
    pool = named(SR, "default-pool", found)
    assert (pool.type, pool.builtin, pool.shared) == ("dir", False, False)


@needs_libvirt
async def test_a_definition_is_found_with_its_parts_and_gone_when_it_is_gone(
    other_connection: Any,
) -> None:
    domain = other_connection.defineXML("""
        <domain type='test'>
          <name>web1</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
          <os><type>hvm</type><boot dev='hd'/></os>
          <devices>
            <disk type='file'><source file='/images/web1'/><target dev='vda'/></disk>
            <interface type='network'>
              <mac address='52:54:00:00:00:01'/><source network='default'/>
            </interface>
          </devices>
        </domain>""")
    async with opened("test:///default") as driver:
        found = await driver.inventory()
        vm = named(VM, "web1", found)
        assert (vm.uuid, vm.power_state) == (domain.UUIDString(), PowerState.HALTED)
        (vbd,) = (o for o in found.objects if isinstance(o, VBD) and o.vm == vm.uuid)
        assert (vbd.device, vbd.bootable) == ("vda", True)
        (vif,) = (o for o in found.objects if isinstance(o, VIF) and o.vm == vm.uuid)
        assert vif.network == named(Network, "default", found).uuid
        domain.undefine()
        after = await driver.inventory()
    assert "web1" not in {o.name_label for o in after.objects if isinstance(o, VM)}


@needs_libvirt
async def test_more_domains_than_are_read_at_once_are_all_found(other_connection: Any) -> None:
    domains = [
        other_connection.defineXML(
            f"<domain type='test'><name>many{n}</name><memory>1024</memory>"
            "<os><type>hvm</type></os></domain>"
        )
        for n in range(70)
    ]
    try:
        async with opened("test:///default") as driver:
            found = await driver.inventory()
    finally:
        for domain in domains:
            domain.undefine()
    names = {o.name_label for o in found.objects if isinstance(o, VM)}
    assert {f"many{n}" for n in range(70)} <= names


# -- changes ---------------------------------------------------------------------------------------


@needs_libvirt
async def test_changes_are_told_soon_and_none_are_made_up(other_connection: Any) -> None:
    async with opened("test:///default") as driver, asyncio.TaskGroup() as tasks:
        changes = Changes(driver, tasks)
        # At once, for what happened before anybody listened.
        await changes.beyond(0, within_seconds=2)
        with pytest.raises(TimeoutError):
            await changes.beyond(1, within_seconds=0.3)
        domain = other_connection.lookupByName("test")
        domain.suspend()
        await changes.beyond(1, within_seconds=2)
        told = changes.told
        domain.resume()
        await changes.beyond(told, within_seconds=2)
        await driver.close()


@needs_libvirt
async def test_everybody_who_listens_is_told(other_connection: Any) -> None:
    async with opened("test:///default") as driver, asyncio.TaskGroup() as tasks:
        listeners = [Changes(driver, tasks) for _ in range(3)]
        for changes in listeners:
            await changes.beyond(0, within_seconds=2)
        told = [changes.told for changes in listeners]
        domain = other_connection.lookupByName("test")
        domain.suspend()
        for changes, before in zip(listeners, told, strict=True):
            await changes.beyond(before, within_seconds=2)
        domain.resume()
        await driver.close()


@needs_libvirt
async def test_closing_ends_the_changes_and_further_calls_are_refused() -> None:
    async with opened("test:///default") as driver:
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            changes = Changes(driver, tasks)
            await asyncio.sleep(0.05)
            await driver.close()
        assert changes.task.done()
        with pytest.raises(DriverError, match="not open"):
            await driver.inventory()
        await driver.close()


# -- no hypervisor ---------------------------------------------------------------------------------


async def refusal(uri: str, **options: Any) -> PoolError:
    driver = LibvirtDriver(uri, management_endpoint="127.0.0.1:7443", **options)
    with pytest.raises(PoolError) as caught:
        await driver.open(HOST)
    await driver.close()
    return caught.value


async def test_without_libvirt_python_there_is_no_hypervisor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [n for n in sys.modules if n.startswith("poolmember.drivers.libvirt_driver.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "libvirt", None)
    error = await refusal("qemu:///system")
    assert error.reason is Reason.NO_HYPERVISOR
    assert error.params["uri"] == "qemu:///system"
    assert "poolmaster[libvirt]" in error.params["problem"]


@needs_libvirt
async def test_without_a_daemon_there_is_no_hypervisor(tmp_path: Path) -> None:
    error = await refusal(f"qemu+unix:///system?socket={tmp_path}/none")
    assert error.reason is Reason.NO_HYPERVISOR
    assert "Failed to connect socket" in error.params["problem"]


async def test_the_hypervisor_of_another_host_is_a_wrong_configuration() -> None:
    error = await refusal("qemu+ssh://root@192.0.2.7/system")
    assert error.reason is Reason.INVALID_CONFIGURATION
    assert error.params["key"] == "driver"


@needs_libvirt
async def test_a_daemon_that_accepts_and_never_answers_is_given_up_in_time(
    tmp_path: Path,
) -> None:
    path = tmp_path / "hanging"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        started = time.monotonic()
        error = await refusal(f"qemu+unix:///system?socket={path}", call_timeout_seconds=0.2)
        assert time.monotonic() - started < 2
        assert error.reason is Reason.NO_HYPERVISOR
        assert "no answer within 0.2 s" in error.params["problem"]
