"""From libvirt's storage pools and volumes to SRs, PBDs and VDIs. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from xml.etree.ElementTree import Element

from immutables import Map

from poolcore.model import (
    PBD,
    SR,
    VDI,
    HostId,
    Kind,
    Object,
    PbdId,
    SrId,
    VdiId,
    derived_uuid,
)
from poolmember.drivers.libvirt_driver.records import PoolRecord
from poolmember.drivers.libvirt_driver.xml_values import attribute, parsed, size_bytes, text

STOCK_POOL = "default"
"""The folder pool that libvirt's tools define on a fresh host."""

_SHARED_TYPES = frozenset(
    {"netfs", "iscsi", "iscsi-direct", "rbd", "gluster", "sheepdog", "vstorage"}
)
"""Pool types whose storage other hosts can reach, too."""


class Volumes:
    """The disk images that were found, by the ways in which domains refer to them."""

    def __init__(self) -> None:
        self._by_path: dict[str, VdiId] = {}
        self._by_name: dict[tuple[str, str], VdiId] = {}

    def add(self, pool: str, volume: str, vdi: VDI) -> None:
        """Remember the volume of a pool."""
        self._by_path[vdi.location] = vdi.uuid
        self._by_name[pool, volume] = vdi.uuid

    def find(self, source: Element) -> VdiId | None:
        """The image that a domain's `<source>` names; none for one that is in no active pool."""
        pool, volume = source.get("pool"), source.get("volume")
        if pool is not None and volume is not None:
            return self._by_name.get((pool, volume))
        location = source.get("file") or source.get("dev")
        # Of the disks that QEMU itself reaches over the network only these name a pool's volume.
        if source.get("protocol") == "rbd":
            location = source.get("name")
        return self._by_path.get(location) if location else None


def storage_objects(
    record: PoolRecord, *, host: HostId, builtin_srs: Collection[str], volumes: Volumes
) -> Iterator[Object]:
    """The SR, this host's connection to it and its disk images; these are put into `volumes`."""
    pool = parsed(record.xml)
    name, kind = text(pool, "name"), pool.get("type", "")
    shared = kind in _SHARED_TYPES
    sr = SR(
        uuid=SrId(text(pool, "uuid")),
        name_label=name,
        type=kind,
        shared=shared,
        builtin=not shared and (name in builtin_srs or (name == STOCK_POOL and kind == "dir")),
        physical_size=size_bytes(pool, "capacity"),
        physical_utilisation=size_bytes(pool, "allocation"),
    )
    yield sr
    yield PBD(
        uuid=PbdId(derived_uuid(host, Kind.PBD, sr.uuid)),
        host=host,
        sr=sr.uuid,
        device_config=_device_config(pool),
        currently_attached=record.active,
    )
    for xml in record.volumes:
        volume = parsed(xml)
        # A folder in a folder pool is listed, too, but is no disk image.
        if volume.get("type") in {"dir", "netdir"}:
            continue
        vdi = _vdi(volume, sr.uuid)
        volumes.add(name, text(volume, "name"), vdi)
        yield vdi


def _vdi(volume: Element, sr: SrId) -> VDI:
    name = text(volume, "name")
    return VDI(
        uuid=VdiId(derived_uuid(sr, Kind.VDI, name)),
        name_label=name,
        sr=sr,
        location=text(volume, "target/path") or text(volume, "key"),
        virtual_size=size_bytes(volume, "capacity"),
        physical_utilisation=size_bytes(volume, "allocation"),
        read_only=attribute(volume, "target/format", "type") == "iso",
    )


def _device_config(pool: Element) -> Map[str, str]:
    """How the host gets at the storage, under the names that XAPI's storage drivers use."""
    found = {
        "server": attribute(pool, "source/host", "name"),
        "serverpath": attribute(pool, "source/dir", "path"),
        "device": ",".join(d.get("path", "") for d in pool.iterfind("source/device")),
        "source": text(pool, "source/name"),
        "location": text(pool, "target/path"),
    }
    return Map({key: value for key, value in found.items() if value})
