"""The driver of a witness: a host with an operating system, an address, and no hypervisor.

What there is of the host is read from the kernel, as the libvirt driver reads it; what has to do
with VMs is empty. Nothing of it comes into the pool but what the host is; preflight wants to see
the interface that carries the management address (row 17).
"""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from poolcore.facts import HostProfile, Inventory
from poolcore.model import Cpu, HostId, Hypervisor
from poolmember.drivers.contract import DriverError, FactOverrides
from poolmember.drivers.libvirt_driver.blocking_calls import BlockingCalls
from poolmember.drivers.libvirt_driver.interfaces import Interfaces, openvswitch_in_use
from poolmember.drivers.libvirt_driver.resolver import addresses_behind
from poolmember.drivers.libvirt_driver.rtnetlink import Links, read_links

T = TypeVar("T")

KIND = "none"
_POLL_SECONDS = 1.5
"""Below the 2 s of the contract."""
_CALL_SECONDS = 5.0


class NoHypervisor:
    """Reports what a host without a hypervisor is; see `poolmember.drivers.contract`.

    `management_endpoint`: the `host:port` at which other hosts reach this one.
    """

    def __init__(self, *, management_endpoint: str) -> None:
        self._management_host = management_endpoint.rpartition(":")[0].strip("[]")
        self._calls = BlockingCalls(threads=1, timeout_seconds=_CALL_SECONDS)
        self._host: HostId | None = None
        self._closing = asyncio.Event()

    async def open(self, host: HostId) -> None:
        """There is nothing to connect to."""
        self._host = host

    async def inventory(self) -> Inventory:
        """The host's interfaces and their networks; no storage and no VMs."""
        if self._host is None or self._closing.is_set():
            raise DriverError("the driver is not open")
        links = await self._links()
        interfaces = Interfaces(
            links,
            host=self._host,
            management_addresses=await self._read(
                "the management address", lambda: addresses_behind(self._management_host)
            ),
            virtual_networks={},
        )
        backend = "openvswitch" if openvswitch_in_use(links) else "bridge"
        return Inventory(profile=_profile(backend), objects=tuple(interfaces.objects()))

    async def changes(self) -> AsyncIterator[None]:
        """Yields at once, and soon after an interface has changed, until closed."""
        known: Links | None = None
        while not self._closing.is_set():
            try:
                now = await self._links()
            except DriverError:
                # Asked for the inventory then, the caller learns why.
                now = None
            if now is None or now != known:
                known = now
                yield
            try:
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._closing.wait()
            except TimeoutError:
                continue

    def overrides(self) -> FactOverrides:
        """Empty: this host is what it is."""
        return FactOverrides()

    async def close(self) -> None:
        """`changes()` ends."""
        self._closing.set()
        self._calls.close()

    async def _links(self) -> Links:
        return await self._read("the network interfaces", read_links)

    async def _read(self, what: str, function: Callable[[], T]) -> T:
        try:
            return await self._calls.run(what, function)
        except OSError as error:
            raise DriverError(f"{what}: {error}") from error


def _profile(network_backend: str) -> HostProfile:
    return HostProfile(
        hypervisor=Hypervisor(kind=KIND, version=""),
        cpu=Cpu(arch=platform.machine(), vendor="", count=os.cpu_count() or 1),
        memory_total=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        network_backend=network_backend,
    )
