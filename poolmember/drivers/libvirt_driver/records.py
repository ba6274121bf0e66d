"""What was read from libvirt, before it is translated: XML and what XML does not say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HypervisorRecord:
    """The connection itself."""

    type: str
    """libvirt's name of the driver, for example `QEMU`."""
    version: int
    """Of the hypervisor: major × 1,000,000 + minor × 1,000 + release."""
    capabilities_xml: str
    guest_cpu_xml: str = ""
    """The CPU of the capabilities with all its features written out; empty if libvirt cannot."""
    pool_capabilities_xml: str = ""
    """The storage pool types that libvirt was built with; empty if it does not tell."""
    memory_bytes: int
    cpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainRecord:
    """A domain, running or only defined."""

    xml: str
    state: int
    """libvirt's virDomainState."""
    saved: bool = False
    """Whether a managed save image waits to be resumed."""
    job: int | None = None
    """libvirt's virDomainJobOperation of a job that runs on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRecord:
    """A virtual network."""

    xml: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRecord:
    """A storage pool; the volumes of one that is not active cannot be known."""

    xml: str
    active: bool
    volumes: tuple[str, ...] = ()
    """Their XML."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """One reading of all that libvirt has."""

    hypervisor: HypervisorRecord
    domains: tuple[DomainRecord, ...]
    networks: tuple[NetworkRecord, ...]
    pools: tuple[PoolRecord, ...]
