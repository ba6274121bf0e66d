"""One host's report, translated step by step into the pool's terms.

The rules are those of `poolmaster.decide.inventory`, which is what others import.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import TypeVar, cast

from poolcore.facts import Inventory
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
    Described,
    HostId,
    HostMetrics,
    Kind,
    Network,
    NetworkId,
    Object,
    PbdId,
    PowerState,
    SrId,
    Tunnel,
    VdiId,
    derived_uuid,
)
from poolcore.replica import Change, Put, State
from poolmaster.decide.holdings import (
    Key,
    bereft,
    brought_network_uuid,
    held,
    in_order,
    is_alone,
    key,
    ownerless,
    removals,
)

T = TypeVar("T", bound=Object)
D = TypeVar("D", bound=Described)


def object_changes(
    pool: State, host: HostId, inventory: Inventory, *, arriving: bool = False
) -> Iterator[Change]:
    """What the report changes among the objects below the host, and what follows from that.

    A host that is `arriving` adds to the pool and changes nothing that is there. The order is such
    that no reference is dangling after any part of the changes from the first on.
    """
    report = _Report(pool, host, inventory, arriving=arriving)
    report.add_networks()
    report.add_storage()
    report.add_interfaces()
    report.add_vms()
    report.drop_images()
    return report.changes()


class _Report:
    """One inventory on its way into the pool; the steps build on each other in their order."""

    def __init__(self, pool: State, host: HostId, inventory: Inventory, *, arriving: bool) -> None:
        self._pool = pool
        self._host = host
        self._arriving = arriving
        self._alone = is_alone(pool, host)
        self._held = held(pool, host)
        if not arriving:
            self._held |= ownerless(pool)
        self._live = {m.host for m in pool.all(HostMetrics) if m.live}
        self._images: dict[SrId, list[VDI]] = defaultdict(list)
        for vdi in pool.all(VDI):
            self._images[vdi.sr].append(vdi)
        self._networks: dict[NetworkId, NetworkId] = {}
        self._after: dict[Key, Object] = {}
        """What the pool will say; whatever is held and not in here goes."""
        self._gone: set[Key] = set()
        self._missed: set[VdiId] = set()
        self._found: dict[type[Object], dict[str, Object]] = defaultdict(dict)
        for obj in inventory.objects:
            self._found[type(obj)][obj.uuid] = obj

    def add_networks(self) -> None:
        """Match the host's networks with the pool's, and add those the pool has not seen."""
        here = {self._identity(n): n for n in in_order(self._pool.all(Network))}
        elsewhere: dict[NetworkId, set[int]] = defaultdict(set)
        for pif in self._pool.all(PIF):
            if pif.host != self._host:
                elsewhere[pif.network].add(pif.mtu)
        for found in sorted(self._all(Network), key=lambda n: (not n.default, n.uuid)):
            known = here.get(self._identity(found))
            if known is None:
                known = replace(found, uuid=self._new_network_uuid(found))
                here[self._identity(found)] = known
                self._keep(known)
            elif key(known) not in self._after:
                self._keep(self._renewed(known, found, elsewhere[known.uuid]))
            self._networks[found.uuid] = known.uuid

    def _renewed(self, known: Network, found: Network, mtus_elsewhere: set[int]) -> Network:
        if self._alone:
            return replace(_named(found, known), uuid=known.uuid)
        if mtus_elsewhere == {found.mtu} and not self._arriving:
            return replace(known, mtu=found.mtu)
        return known

    def _identity(self, network: Network) -> tuple[str, str]:
        if network.bridge:
            return ("bridge", network.bridge)
        return ("default", "") if network.default else ("uuid", network.uuid)

    def _new_network_uuid(self, network: Network) -> NetworkId:
        known_by_uuid = not (network.bridge or network.default)
        if (self._alone or known_by_uuid) and key(network) not in self._pool:
            return network.uuid
        return NetworkId(brought_network_uuid(self._host, network))

    def add_storage(self) -> None:
        """SRs, their connections to this host, and the disk images in them."""
        hosts: dict[SrId, set[HostId]] = defaultdict(set)
        attached: dict[SrId, set[HostId]] = defaultdict(set)
        for pbd in self._pool.all(PBD):
            hosts[pbd.sr].add(pbd.host)
            if pbd.currently_attached:
                attached[pbd.sr].add(pbd.host)
        pbds = {pbd.sr: pbd for pbd in self._all(PBD) if not self._is_anothers(pbd)}
        speaks: dict[SrId, bool] = {}
        for found in self._all(SR):
            known = self._pool.get(SR, found.uuid)
            others = hosts[found.uuid] - {self._host}
            if known is not None and others and not (known.shared and found.shared):
                continue
            pbd = pbds.get(found.uuid) or self._missing_pbd(found)
            pbds[found.uuid] = pbd
            self._keep(replace(pbd, host=self._host) if pbd.host != self._host else pbd)
            speaks[found.uuid] = not found.shared or self._speaks(
                attached[found.uuid], is_attached=pbd.currently_attached
            )
            self._keep(known if known and not speaks[found.uuid] else _named(found, known))
        for vdi in self._all(VDI):
            if vdi.sr in speaks:
                self._add_image(vdi, speaks=speaks[vdi.sr])
        for sr, is_spoken_for in speaks.items():
            self._miss_images(sr, speaks=is_spoken_for, seen=pbds[sr].currently_attached)

    def _missing_pbd(self, sr: SR) -> PBD:
        uuid = PbdId(derived_uuid(self._host, Kind.PBD, sr.uuid))
        return PBD(uuid=uuid, host=self._host, sr=sr.uuid, currently_attached=False)

    def _add_image(self, vdi: VDI, *, speaks: bool) -> None:
        known = self._pool.get(VDI, vdi.uuid)
        if known is None:
            self._keep(vdi)
        elif known.sr == vdi.sr:
            self._keep(_named(vdi, known) if speaks else known)
        elif (Kind.SR, known.sr) in self._held and (Kind.SR, known.sr) not in self._after:
            self._keep(_named(vdi, known))

    def _miss_images(self, sr: SrId, *, speaks: bool, seen: bool) -> None:
        for known in self._images[sr]:
            if key(known) in self._after:
                continue
            if not seen or known.uuid in self._found[VDI]:
                self._keep(known)
            elif speaks:
                self._missed.add(known.uuid)

    def add_interfaces(self) -> None:
        """Interfaces, turned to the pool's networks, and what is built on them."""
        for pif in self._all(PIF):
            network = self._networks.get(pif.network)
            if network is not None and not self._is_anothers(pif):
                self._keep(replace(pif, host=self._host, network=network))
        for bond in self._all(Bond):
            self._keep_if_on_pifs(bond, bond.master, *bond.slaves)
        for vlan in self._all(VLAN):
            self._keep_if_on_pifs(vlan, vlan.tagged_pif, vlan.untagged_pif)
        for tunnel in self._all(Tunnel):
            self._keep_if_on_pifs(tunnel, tunnel.access_pif, tunnel.transport_pif)

    def _keep_if_on_pifs(self, obj: Object, *pifs: str) -> None:
        if all((Kind.PIF, pif) in self._after for pif in pifs) and not self._is_anothers(obj):
            self._keep(obj)

    def add_vms(self) -> None:
        """The VMs that are this host's, with their disks and interfaces."""
        for vm in self._all(VM):
            known = self._pool.get(VM, vm.uuid)
            if known is None or self._may_have(known, vm):
                here = vm.resident_on == self._host
                self._keep(_named(vm if here else replace(vm, resident_on=self._host), known))
        for vbd in self._all(VBD):
            if self._belongs(vbd, vbd.vm):
                there = (Kind.VDI, vbd.vdi) in self._after
                self._keep(vbd if there or vbd.vdi is None else replace(vbd, vdi=None))
        for vif in self._all(VIF):
            if self._belongs(vif, vif.vm):
                network = self._networks.get(vif.network) if vif.network else None
                self._keep(replace(vif, network=network) if vif.network != network else vif)
        for part in chain[VBD | VIF](self._pool.all(VBD), self._pool.all(VIF)):
            if self._arrives(part.vm) and key(part) not in self._after:
                self._gone.add(key(part))

    def _may_have(self, known: VM, found: VM) -> bool:
        # While its host is live, only running it elsewhere is proof that a VM has moved: a
        # definition that was left behind is none, nor is a paused one that waits for a migration.
        # Once its host is not heard of, holding it in memory is enough. A VM at rest never moves
        # by itself: its definition may be on several hosts, and each would claim it in turn.
        if known.resident_on in {None, self._host}:
            return True
        if known.resident_on in self._live:
            return found.power_state is PowerState.RUNNING
        return found.power_state in {PowerState.RUNNING, PowerState.PAUSED}

    def _arrives(self, vm: str) -> bool:
        return (Kind.VM, vm) in self._after and (Kind.VM, vm) not in self._held

    def _belongs(self, part: VBD | VIF, vm: str) -> bool:
        if (Kind.VM, vm) not in self._after:
            return False
        known = cast("VBD | VIF | None", self._pool.get(type(part), part.uuid))
        if known is None or known.vm == vm:
            return True
        return key(known) in self._held or self._arrives(known.vm)

    def drop_images(self) -> None:
        """Let go of the images that this host misses, if no VM of another host uses them."""
        elsewhere = (vbd for vbd in self._pool.all(VBD) if key(vbd) not in self._held)
        used = {vbd.vdi for vbd in elsewhere if not self._arrives(vbd.vm)}
        self._gone |= {(Kind.VDI, vdi) for vdi in self._missed if vdi not in used}

    def changes(self) -> Iterator[Change]:
        """What differs between the pool and what the steps before found."""
        gone = self._gone | {k for k in self._held if k not in self._after}
        news = [o for k, o in self._after.items() if self._pool.get(type(o), k[1]) != o]
        news += (o for o in bereft(self._pool, gone) if key(o) not in self._after)
        yield from (Put(o) for o in in_order(news))
        yield from removals(gone)

    def _all(self, cls: type[T]) -> Iterable[T]:
        return cast("Iterable[T]", self._found[cls].values())

    def _keep(self, obj: Object) -> None:
        self._after[key(obj)] = obj

    def _is_anothers(self, obj: Object) -> bool:
        return key(obj) in self._pool and key(obj) not in self._held

    def _speaks(self, attached: set[HostId], *, is_attached: bool) -> bool:
        if self._alone or self._arriving:
            return self._alone
        others = (attached & self._live) - {self._host}
        return not others or (is_attached and self._host < min(others))


def _named(found: D, known: D | None) -> D:
    # Comparing is cheaper than copying, and in almost every report almost nothing has changed.
    if known is None or known == found:
        return found
    return replace(
        found,
        name_label=known.name_label,
        name_description=known.name_description,
        tags=known.tags,
        other_config=known.other_config,
    )
