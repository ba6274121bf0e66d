"""Reading libvirt: blocking functions, each a handful of calls, that return records.

Imports libvirt-python, which is an optional extra: imported by the driver when it is opened. What
disappears between being listed and being read is left out: it is not there any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from xml.etree import ElementTree

import libvirt

from poolmember.drivers.libvirt_driver.records import (
    DomainRecord,
    HypervisorRecord,
    NetworkRecord,
    PoolRecord,
)
from poolmember.drivers.libvirt_driver.xml_values import parsed

T = TypeVar("T")

_GONE = frozenset(
    {
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_NO_NETWORK,
        libvirt.VIR_ERR_NO_STORAGE_POOL,
        libvirt.VIR_ERR_NO_STORAGE_VOL,
    }
)
_WITHOUT_GUEST = frozenset({libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED})


def read_hypervisor(connection: Any) -> HypervisorRecord:
    """What the connection leads to."""
    capabilities = connection.getCapabilities()
    info = connection.getInfo()
    # The memory in `info` is what cgroups leave to libvirtd; older libvirts round it, too.
    memory = _if_offered(lambda: connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS))
    return HypervisorRecord(
        type=connection.getType(),
        version=connection.getVersion(),
        capabilities_xml=capabilities,
        guest_cpu_xml=_guest_cpu(connection, capabilities),
        pool_capabilities_xml=_if_offered(connection.getStoragePoolCapabilities) or "",
        memory_bytes=memory["total"] * 1024 if memory else info[1] * 1024 * 1024,
        cpus=info[2],
    )


def _guest_cpu(connection: Any, capabilities: str) -> str:
    cpu = parsed(capabilities).find("host/cpu")
    if cpu is None or cpu.find("model") is None:
        return ""
    own = ElementTree.tostring(cpu, encoding="unicode")
    flags = libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
    return _if_offered(lambda: connection.baselineCPU([own], flags)) or ""


def list_domains(connection: Any) -> list[Any]:
    """All domains, active and only defined."""
    domains: list[Any] = connection.listAllDomains()
    return domains


def read_domains(domains: Iterable[Any]) -> list[DomainRecord]:
    """The domains that still are there."""
    return _present(domains, _read_domain)


def _read_domain(domain: Any) -> DomainRecord:
    state, _ = domain.state()
    active = state not in _WITHOUT_GUEST
    return DomainRecord(
        xml=domain.XMLDesc(),
        state=state,
        saved=not active and bool(_if_offered(domain.hasManagedSaveImage)),
        job=_job(domain) if active else None,
    )


def _job(domain: Any) -> int | None:
    try:
        # Tells of a job without waiting for it, which jobStats may.
        if domain.controlInfo()[0] != libvirt.VIR_DOMAIN_CONTROL_JOB:
            return None
        stats = domain.jobStats()
    except libvirt.libvirtError as error:
        # The job, or the domain's run, ended just now; or the hypervisor has no jobs.
        if error.get_error_code() in {
            libvirt.VIR_ERR_OPERATION_INVALID,
            libvirt.VIR_ERR_NO_SUPPORT,
        }:
            return None
        raise
    if stats["type"] == libvirt.VIR_DOMAIN_JOB_NONE:
        return None
    operation: int = stats.get("operation", libvirt.VIR_DOMAIN_JOB_OPERATION_UNKNOWN)
    return operation


def read_networks(connection: Any) -> list[NetworkRecord]:
    """All virtual networks, active or not."""
    return _present(connection.listAllNetworks(), lambda n: NetworkRecord(xml=n.XMLDesc()))


def list_pools(connection: Any) -> list[Any]:
    """All storage pools, active or not."""
    pools: list[Any] = connection.listAllStoragePools()
    return pools


def read_pool(pool: Any) -> tuple[PoolRecord, list[Any]] | None:
    """The pool without its volumes, and these; none if the pool is gone.

    As libvirt knows them: nothing is refreshed, which could take long and would change things.
    """

    def read(pool: Any) -> tuple[PoolRecord, list[Any]]:
        volumes: list[Any] = []
        active = bool(pool.isActive())
        if active:
            try:
                volumes = pool.listAllVolumes()
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                    raise
                active = False  # stopped just now
        return PoolRecord(xml=pool.XMLDesc(), active=active), volumes

    return next(iter(_present([pool], read)), None)


def read_volumes(volumes: Iterable[Any]) -> list[str]:
    """The XML of the volumes that still are there."""
    return _present(volumes, lambda volume: str(volume.XMLDesc()))


def fingerprint(connection: Any) -> object:
    """Something comparable that differs when something has changed, for few and quick calls."""
    states = connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
    saved = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)
    pools = _present(
        connection.listAllStoragePools(),
        lambda pool: (pool.UUIDString(), pool.info(), pool.isActive() and pool.numOfVolumes()),
    )
    return (
        sorted((d.UUIDString(), stats.get("state.state")) for d, stats in states),
        sorted(domain.UUIDString() for domain in saved),
        sorted((n.UUIDString(), n.name()) for n in connection.listAllNetworks()),
        sorted(pools),
    )


def _present(things: Iterable[T], read: Callable[[Any], Any]) -> list[Any]:
    found = []
    for thing in things:
        try:
            found.append(read(thing))
        except libvirt.libvirtError as error:
            if error.get_error_code() not in _GONE:
                raise
    return found


def _if_offered(ask: Callable[[], T]) -> T | None:
    """The answer, or none from a hypervisor that does not have it."""
    try:
        return ask()
    except libvirt.libvirtError as error:
        if error.get_error_code() in {
            libvirt.VIR_ERR_NO_SUPPORT,
            libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
        }:
            return None
        raise
