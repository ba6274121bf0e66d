"""What is in a pool because of one host: what its reports decide over, and its leaving removes.

That is what no other host has: its interfaces and storage connections, the SRs that only it is
connected to and their disk images, and the VMs that are on it. Shared SRs and networks belong to
the pool; only in a pool of one are they, too, the host's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import TypeVar

from poolcore.model import (
    PBD,
    PIF,
    SR,
    VBD,
    VDI,
    VIF,
    VLAN,
    VM,
    Bond,
    Host,
    HostId,
    HostMetrics,
    Kind,
    Network,
    Object,
    Pool,
    SrId,
    Tunnel,
    derived_uuid,
)
from poolcore.replica import Remove, State

T = TypeVar("T", bound=Object)

KIND_ORDER = {kind: position for position, kind in enumerate(Kind)}

Key = tuple[Kind, str]
"""How an object is named where objects of several kinds are together."""


def key(obj: Object) -> Key:
    """The object's kind and uuid."""
    return obj.KIND, obj.uuid


def metrics_of(pool: State, host: HostId) -> HostMetrics | None:
    """The metrics object of a host."""
    return next((m for m in pool.all(HostMetrics) if m.host == host), None)


def is_alone(pool: State, host: HostId) -> bool:
    """Whether the pool has no other host."""
    return all(h.uuid == host for h in pool.all(Host))


def held(pool: State, host: HostId) -> dict[Key, Object]:
    """Everything below the host that no other host has; not the host and its metrics.

    Costs one pass over the pool.
    """
    alone = is_alone(pool, host)
    srs = own_srs(pool, host, alone=alone)
    vms = {vm.uuid for vm in pool.all(VM) if vm.resident_on == host}
    networks = pool.all(Network) if alone else iter(())
    return {
        key(obj): obj
        for obj in chain[Object](
            networks,
            (sr for sr in pool.all(SR) if sr.uuid in srs),
            (pbd for pbd in pool.all(PBD) if pbd.host == host),
            (vdi for vdi in pool.all(VDI) if vdi.sr in srs),
            _interfaces(pool, host),
            (vm for vm in pool.all(VM) if vm.uuid in vms),
            (vbd for vbd in pool.all(VBD) if vbd.vm in vms),
            (vif for vif in pool.all(VIF) if vif.vm in vms),
        )
    }


def own_srs(pool: State, host: HostId, *, alone: bool) -> set[SrId]:
    """The SRs that go when the host goes: local ones, and in a pool of one all of them."""
    if alone:
        return {sr.uuid for sr in pool.all(SR)}
    hosts: dict[SrId, set[HostId]] = {}
    for pbd in pool.all(PBD):
        hosts.setdefault(pbd.sr, set()).add(pbd.host)
    return {sr.uuid for sr in pool.all(SR) if not sr.shared and hosts.get(sr.uuid) == {host}}


def ownerless(pool: State) -> dict[Key, Object]:
    """Local SRs that no host is connected to, with their images: left by a report in parts."""
    connected = {pbd.sr for pbd in pool.all(PBD)}
    srs = [sr for sr in pool.all(SR) if not sr.shared and sr.uuid not in connected]
    uuids = {sr.uuid for sr in srs}
    vdis = (vdi for vdi in pool.all(VDI) if vdi.sr in uuids) if uuids else ()
    return {key(obj): obj for obj in chain[Object](srs, vdis)}


def _interfaces(pool: State, host: HostId) -> Iterator[Object]:
    pifs = {pif.uuid for pif in pool.all(PIF) if pif.host == host}
    yield from (pif for pif in pool.all(PIF) if pif.uuid in pifs)
    yield from (bond for bond in pool.all(Bond) if bond.master in pifs)
    yield from (vlan for vlan in pool.all(VLAN) if vlan.tagged_pif in pifs)
    yield from (tunnel for tunnel in pool.all(Tunnel) if tunnel.access_pif in pifs)


def brought_network_uuid(host: HostId, network: Network) -> str:
    """The uuid under which a network new to a pool of several hosts enters it with `host`.

    It tells later that the network came with that host, so that it can go with it. The
    hypervisor's own uuid would not, and has no meaning on the pool's other hosts anyway.
    """
    return derived_uuid(host, Kind.NETWORK, network.bridge or "default")


def bereft(pool: State, gone: set[Key]) -> Iterator[Object]:
    """What stays and referred to something that goes, without that reference."""
    kinds = {kind for kind, _ in gone}
    if Kind.SR in kinds:
        for root in pool.all(Pool):
            if root.default_sr and (Kind.SR, root.default_sr) in gone:
                yield replace(root, default_sr=None)
    if Kind.VDI in kinds:
        for vbd in pool.all(VBD):
            if vbd.vdi and (Kind.VDI, vbd.vdi) in gone and key(vbd) not in gone:
                yield replace(vbd, vdi=None)
    if Kind.NETWORK in kinds:
        for vif in pool.all(VIF):
            if vif.network and (Kind.NETWORK, vif.network) in gone and key(vif) not in gone:
                yield replace(vif, network=None)


def in_order(objects: Iterable[T]) -> list[T]:
    """Objects in the canonical order of a state: by kind, then uuid."""
    return sorted(objects, key=lambda o: (KIND_ORDER[o.KIND], o.uuid))


def removals(gone: Iterable[Key]) -> Iterator[Remove]:
    """Removals in the order in which nothing is removed before what refers to it.

    References lead from later kinds to earlier ones; that of the pool to its default SR is
    `bereft`'s business.
    """
    for kind, uuid in sorted(gone, key=lambda k: (-KIND_ORDER[k[0]], k[1])):
        yield Remove(kind, uuid)
