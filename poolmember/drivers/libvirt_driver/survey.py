"""Reading a whole host, part by part, each within its own deadline.

Imports libvirt-python, which is an optional extra: imported by the driver when it is opened.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from poolmember.drivers.contract import DriverError
from poolmember.drivers.libvirt_driver import reading
from poolmember.drivers.libvirt_driver.blocking_calls import BlockingCalls
from poolmember.drivers.libvirt_driver.connection import Connection
from poolmember.drivers.libvirt_driver.records import (
    DomainRecord,
    PoolRecord,
    Records,
)
from poolmember.drivers.libvirt_driver.rtnetlink import Links, read_links

T = TypeVar("T")

_FIRST_LOOK_SECONDS = 30.0
_AT_ONCE = 32
"""How many domains or volumes are read within one deadline."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Compares unequal to another one when something has changed in between."""

    libvirt: object
    links: Links


class Survey:
    """Reads the host that `connection` leads to. Every method raises `DriverError`."""

    def __init__(self, connection: Connection, host_calls: BlockingCalls) -> None:
        self._connection = connection
        self._host_calls = host_calls

    async def first_look(self) -> None:
        """See that there is a hypervisor.

        May take a while: a libvirtd that starts for the first time tries out every emulator.
        """
        await self._connection.call(
            "the capabilities", reading.read_hypervisor, timeout_seconds=_FIRST_LOOK_SECONDS
        )

    async def records(self) -> Records:
        """All that libvirt has."""
        return Records(
            hypervisor=await self._connection.call("the capabilities", reading.read_hypervisor),
            networks=tuple(await self._connection.call("the networks", reading.read_networks)),
            pools=tuple([pool async for pool in self._pools()]),
            domains=tuple([domain async for domain in self._domains()]),
        )

    async def links(self) -> Links:
        """The kernel's network interfaces."""
        return await self.of_host("the network interfaces", read_links)

    async def fingerprint(self) -> Fingerprint:
        """Of the present state, for a few quick calls whatever there is on the host."""
        return Fingerprint(
            await self._connection.call("the comparison", reading.fingerprint), await self.links()
        )

    async def of_host(self, what: str, function: Callable[[], T]) -> T:
        """The result of a blocking function of the operating system."""
        try:
            return await self._host_calls.run(what, function)
        except OSError as error:
            raise DriverError(f"{what}: {error}") from error

    async def _domains(self) -> AsyncIterator[DomainRecord]:
        for some in _portions(await self._connection.call("the domains", reading.list_domains)):
            what = f"the domains {', '.join(domain.name() for domain in some)}"
            for record in await self._each(what, reading.read_domains, some):
                yield record

    async def _pools(self) -> AsyncIterator[PoolRecord]:
        for pool in await self._connection.call("the storage pools", reading.list_pools):
            what = f"the storage pool {pool.name()}"
            found = await self._each(what, reading.read_pool, pool)
            if found is None:
                continue
            record, listed = found
            volumes: list[str] = []
            for some in _portions(listed):
                volumes += await self._each(f"volumes of {what}", reading.read_volumes, some)
            yield replace(record, volumes=tuple(volumes))

    async def _each(self, what: str, function: Callable[[Any], T], things: Any) -> T:
        # They know the connection they came from; asked through it, so that its loss is noticed.
        read = partial(function, things)
        return await self._connection.call(what, lambda _: read())


def _portions(things: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(things), _AT_ONCE):
        yield things[start : start + _AT_ONCE]
