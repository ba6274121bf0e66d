"""Hypothesis strategies for what hosts report, likely and unlikely.

Uuids, bridges and names come from small sets, so that hosts and reports often speak of the same
things: the same VM on two hosts, an SR that one host calls local, an interface on a network that
nobody reported. An inventory is made from a seed: drawing its hundred values one by one would take
longer than everything that is tested with it.
"""

import random
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from poolcore.facts import HostFacts, Inventory
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
    BondId,
    HostId,
    Kind,
    Network,
    NetworkId,
    Object,
    PbdId,
    PifId,
    PowerState,
    SrId,
    Tunnel,
    VdiId,
    derived_uuid,
)
from poolmember.drivers.sim_host import SimHost
from support.hosts.facts import facts, host_id, inventory

BRIDGES = ("xenbr0", "virbr0", "br1", "br2", "")
SIZES = (0, 1, 2)
NAMES = ("a", "b")
STATES = tuple(PowerState)
PROFILE = inventory("phantom", SimHost()).profile


def uuids(kind: Kind, count: int) -> list[Any]:
    """A few uuids of a kind, always the same ones."""
    return [str(uuid.uuid5(uuid.NAMESPACE_OID, f"{kind}-{number}")) for number in range(count)]


SRS, VDIS, NETWORKS = uuids(Kind.SR, 5), uuids(Kind.VDI, 5), uuids(Kind.NETWORK, 4)
PIFS, VMS = uuids(Kind.PIF, 5), uuids(Kind.VM, 4)


def report(host: HostId, seed: int) -> Inventory:
    """Any inventory at all of the host, references to nothing and other hosts' uuids included."""
    pick = random.Random(seed)

    def some(ids: list[Any], make: Callable[[Any], Object]) -> list[Object]:
        return [make(uuid) for uuid in ids if pick.random() < 0.6]

    def flag() -> bool:
        return pick.random() < 0.5

    def maybe(values: list[Any]) -> Any:
        return pick.choice([*values, None])

    def sr(uuid: SrId) -> SR:
        name, size = pick.choice(NAMES), pick.choice(SIZES)
        return SR(uuid=uuid, name_label=name, type="nfs", shared=flag(), physical_utilisation=size)

    def pbd(uuid: PbdId) -> PBD:
        return PBD(uuid=uuid, host=host, sr=pick.choice(SRS), currently_attached=flag())

    def vdi(uuid: VdiId) -> VDI:
        name, size = pick.choice(NAMES), pick.choice(SIZES)
        return VDI(uuid=uuid, sr=pick.choice(SRS), name_label=name, location="x", virtual_size=size)

    def network(uuid: NetworkId) -> Network:
        bridge, mtu = pick.choice(BRIDGES), pick.choice(SIZES)
        return Network(
            uuid=uuid, name_label=pick.choice(NAMES), bridge=bridge, default=flag(), mtu=mtu
        )

    def pif(uuid: PifId) -> PIF:
        on = pick.choice(NETWORKS)
        return PIF(uuid=uuid, host=host, network=on, device="eth0", mtu=pick.choice(SIZES))

    def bond(uuid: BondId) -> Bond:
        return Bond(uuid=uuid, master=pick.choice(PIFS), slaves=(pick.choice(PIFS),))

    def vlan(uuid: Any) -> VLAN:
        tagged, untagged = pick.choice(PIFS), pick.choice(PIFS)
        return VLAN(uuid=uuid, tagged_pif=tagged, untagged_pif=untagged, tag=1)

    def tunnel(uuid: Any) -> Tunnel:
        return Tunnel(uuid=uuid, access_pif=pick.choice(PIFS), transport_pif=pick.choice(PIFS))

    def vm(uuid: Any) -> VM:
        name, state, cpus = pick.choice(NAMES), pick.choice(STATES), pick.choice(SIZES)
        return VM(uuid=uuid, name_label=name, power_state=state, resident_on=host, vcpus_max=cpus)

    def vbd(uuid: Any) -> VBD:
        return VBD(uuid=uuid, vm=pick.choice(VMS), vdi=maybe(VDIS), device="vda")

    def vif(uuid: Any) -> VIF:
        return VIF(uuid=uuid, vm=pick.choice(VMS), network=maybe(NETWORKS), device="0")

    objects = [
        *some(SRS, sr),
        *some(uuids(Kind.PBD, 5), pbd),
        *some(VDIS, vdi),
        *some(NETWORKS, network),
        *some(PIFS, pif),
        *some(uuids(Kind.BOND, 2), bond),
        *some(uuids(Kind.VLAN, 2), vlan),
        *some(uuids(Kind.TUNNEL, 2), tunnel),
        *some(VMS, vm),
        *some(uuids(Kind.VBD, 5), vbd),
        *some(uuids(Kind.VIF, 5), vif),
    ]
    pick.shuffle(objects)
    return Inventory(profile=PROFILE, objects=tuple(objects))


def newcomer(name: str, seed: int) -> HostFacts:
    """Facts of a host that preflight lets in: local SRs of its own and default networks only."""
    pick = random.Random(seed)
    host = host_id(name)

    def flag() -> bool:
        return pick.random() < 0.5

    srs = [
        SR(uuid=SrId(derived_uuid(host, Kind.SR, n)), name_label=n, type="dir", builtin=True)
        for n in ("1", "2", "3")
        if flag()
    ]
    pbds = [
        PBD(
            uuid=PbdId(derived_uuid(host, Kind.PBD, sr.uuid)),
            host=host,
            sr=sr.uuid,
            currently_attached=flag(),
        )
        for sr in srs
        if flag()
    ]
    vdis = [
        VDI(
            uuid=VdiId(derived_uuid(sr.uuid, Kind.VDI, "1")),
            sr=sr.uuid,
            name_label="a",
            location="1",
        )
        for sr in srs
        if flag()
    ]
    networks = [
        Network(
            uuid=NetworkId(derived_uuid(host, Kind.NETWORK, f"own {bridge}")),
            name_label="a",
            bridge=bridge,
            default=True,
            mtu=pick.choice(SIZES),
        )
        for bridge in BRIDGES
        if flag()
    ]
    pifs = [
        PIF(
            uuid=PifId(derived_uuid(host, Kind.PIF, network.bridge)),
            host=host,
            network=network.uuid,
            device=network.bridge,
        )
        for network in networks
        if flag()
    ]
    bonds: list[Object] = []
    if pifs and flag():
        uuid = BondId(derived_uuid(host, Kind.BOND, "1"))
        bonds.append(Bond(uuid=uuid, master=pifs[0].uuid, slaves=(pifs[-1].uuid,)))
    objects = (*srs, *pbds, *vdis, *networks, *pifs, *bonds)
    plain = facts(name)
    return replace(plain, inventory=replace(plain.inventory, objects=objects))


seeds = st.integers(0, 2**32 - 1)


def newcomers(name: str) -> st.SearchStrategy[HostFacts]:
    """Facts of hosts that preflight lets in."""
    return seeds.map(lambda seed: newcomer(name, seed))
