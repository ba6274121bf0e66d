"""From libvirt's capabilities to the host's profile. Pure."""

from __future__ import annotations

from poolcore.facts import HostProfile
from poolcore.model import Cpu, Hypervisor
from poolmember.drivers.libvirt_driver.records import HypervisorRecord
from poolmember.drivers.libvirt_driver.xml_values import parsed, text

CAPABILITIES = frozenset({"inventory", "events"})
"""What this driver can do so far. What it cannot is not in here."""

_VENDORS = {"AMD": "AuthenticAMD", "Intel": "GenuineIntel", "Hygon": "HygonGenuine"}
"""libvirt's names of vendors, and the names that the processors give themselves, as in XAPI."""


def host_profile(record: HypervisorRecord, *, network_backend: str) -> HostProfile:
    """What the host is."""
    return HostProfile(
        hypervisor=Hypervisor(kind=record.type.lower(), version=_version(record.version)),
        cpu=_cpu(record),
        memory_total=record.memory_bytes,
        capabilities=CAPABILITIES,
        storage_types=_storage_types(record),
        network_backend=network_backend,
    )


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"


def _cpu(record: HypervisorRecord) -> Cpu:
    capabilities = parsed(record.capabilities_xml)
    vendor = text(capabilities, "host/cpu/vendor")
    # The capabilities name a CPU model and what exceeds it, so that two equal CPUs may be told in
    # two ways. Written out, the features of two hosts can be compared.
    if record.guest_cpu_xml:
        features = parsed(record.guest_cpu_xml).iterfind("feature[@policy='require']")
    else:
        features = capabilities.iterfind("host/cpu/feature")
    return Cpu(
        arch=text(capabilities, "host/cpu/arch"),
        vendor=_VENDORS.get(vendor, vendor),
        model=text(capabilities, "host/cpu/model"),
        count=record.cpus,
        features=frozenset(feature.get("name", "") for feature in features),
    )


def _storage_types(record: HypervisorRecord) -> frozenset[str]:
    if not record.pool_capabilities_xml:
        return frozenset()
    pools = parsed(record.pool_capabilities_xml).iterfind("pool[@supported='yes']")
    return frozenset(pool.get("type", "") for pool in pools)
