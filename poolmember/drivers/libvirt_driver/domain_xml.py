"""From libvirt's domains to VMs, VBDs and VIFs. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from xml.etree.ElementTree import Element

from poolcore.model import (
    VBD,
    VIF,
    VM,
    HostId,
    Kind,
    NetworkId,
    Object,
    PowerState,
    VbdId,
    VbdType,
    VifId,
    VmId,
    derived_uuid,
)
from poolmember.drivers.libvirt_driver.records import DomainRecord
from poolmember.drivers.libvirt_driver.storage_xml import Volumes
from poolmember.drivers.libvirt_driver.xml_values import attribute, parsed, size_bytes, text

# virDomainState. A crashed domain has no guest any more; one whose guest has put itself to sleep
# keeps its memory here, like a paused one.
_SHUT_OFF, _CRASHED = 5, 6
_POWER_STATES = {
    0: PowerState.RUNNING,  # no state
    1: PowerState.RUNNING,
    2: PowerState.RUNNING,  # blocked on a resource
    3: PowerState.PAUSED,
    4: PowerState.RUNNING,  # being shut down
    _SHUT_OFF: PowerState.HALTED,
    _CRASHED: PowerState.HALTED,
    7: PowerState.PAUSED,  # suspended by its guest's power management
}

# virDomainJobOperation.
_OPERATIONS = {
    1: "start",
    2: "save",
    3: "restore",
    4: "migrate_in",
    5: "migrate_out",
    6: "snapshot",
    7: "revert",
    8: "dump",
    9: "backup",
    10: "delete_snapshot",
}

_DRIVE_TYPES = {"cdrom": VbdType.CD, "floppy": VbdType.FLOPPY}
_BOOT_DEVICES = {"hd": VbdType.DISK, "cdrom": VbdType.CD, "fd": VbdType.FLOPPY}


def vm_objects(
    record: DomainRecord,
    *,
    host: HostId,
    volumes: Volumes,
    networks: Callable[[Element], NetworkId | None],
) -> Iterator[Object]:
    """The VM with its disks and interfaces; `networks` finds the network of an `<interface>`."""
    domain = parsed(record.xml)
    vm = VM(
        uuid=VmId(text(domain, "uuid")),
        name_label=text(domain, "name"),
        name_description=text(domain, "description") or text(domain, "title"),
        power_state=_power_state(record),
        resident_on=host,
        memory_static_max=size_bytes(domain, "memory", default_unit="KiB"),
        vcpus_max=int(text(domain, "vcpu", "1")),
        current_operations=_operations(record),
    )
    yield vm
    yield from _vbds(domain, vm.uuid, volumes)
    yield from _vifs(domain, vm.uuid, networks)


def _power_state(record: DomainRecord) -> PowerState:
    if record.saved and record.state in {_SHUT_OFF, _CRASHED}:
        return PowerState.SUSPENDED
    return _POWER_STATES.get(record.state, PowerState.RUNNING)


def _operations(record: DomainRecord) -> frozenset[str]:
    if record.job is None:
        return frozenset()
    return frozenset({_OPERATIONS.get(record.job, "other")})


def _vbds(domain: Element, vm: VmId, volumes: Volumes) -> Iterator[VBD]:
    # Either each device has its place in the boot order, or the kinds of device have theirs; of a
    # kind, firmware tries the first.
    untried = {_BOOT_DEVICES.get(boot.get("dev", "")) for boot in domain.iterfind("os/boot")}
    for disk in domain.iterfind("devices/disk"):
        kind = _DRIVE_TYPES.get(disk.get("device", "disk"), VbdType.DISK)
        device = attribute(disk, "target", "dev")
        source = disk.find("source")
        yield VBD(
            uuid=VbdId(derived_uuid(vm, Kind.VBD, device)),
            vm=vm,
            vdi=None if source is None else volumes.find(source),
            device=device,
            type=kind,
            read_only=disk.find("readonly") is not None,
            bootable=disk.find("boot") is not None or kind in untried,
        )
        untried.discard(kind)


def _vifs(
    domain: Element, vm: VmId, networks: Callable[[Element], NetworkId | None]
) -> Iterator[VIF]:
    seen: Counter[str] = Counter()
    for position, interface in enumerate(domain.iterfind("devices/interface")):
        mac = attribute(interface, "mac", "address")
        # Named by its address, not by its position: unplugging one must not rename the next.
        seen[mac] += 1
        name = mac if seen[mac] == 1 else f"{mac}/{seen[mac]}"
        yield VIF(
            uuid=VifId(derived_uuid(vm, Kind.VIF, name)),
            vm=vm,
            network=networks(interface),
            device=str(position),
            mac=mac,
            mtu=int(attribute(interface, "mtu", "size", "1500")),
        )
