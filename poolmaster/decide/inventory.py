"""What a host's inventory means for the pool: at its arrival, at each report, at its departure.

Pure, and total: whatever an inventory contains, the changes never leave a reference to something
that is not there. What refers to nothing is left out; so is what has the uuid of another host's
object, because that host was there first.

The rules, beyond "the pool becomes what the host reports":

* Names, descriptions, tags and `other_config` are the administrators'. A report gives them to an
  object that is new, never again: renaming a VM on the hypervisor does not rename it in the pool.
* Networks are the same if their bridge has the same name; without bridges, a host's default
  network is the pool's. The pool's object stays and references are turned to it.
* Shared SRs and networks stay in the pool when a host no longer reports them (its PBD and PIF
  go), except in a pool of one, where nobody else can have them.
* Of the live hosts that carry a network or have a shared SR attached, the one with the smallest
  uuid speaks for its sizes and its list of disk images. The others only add, and so does a host
  that is just joining: each host sees the same storage a little earlier or later, and the pool
  must not go to and fro between them.
* Disk images of an SR that is not attached cannot be seen and stay as they were.
* A VM that is on another host moves only to a host that runs it; see `_may_have`.

A report decides only about the host that made it. Where one removes a VM that another host also
has a definition of, that host's last inventory must be applied again to bring it back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from itertools import chain
from typing import TypeVar, cast

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
    Described,
    Host,
    HostId,
    HostMetrics,
    HostMetricsId,
    Kind,
    Network,
    NetworkId,
    Object,
    PbdId,
    Pool,
    PowerState,
    SrId,
    Tunnel,
    derived_uuid,
)
from poolcore.replica import Change, Put, Remove, State, changed
from poolmaster.decide.holdings import (
    Key,
    brought_network_uuid,
    held,
    is_alone,
    key,
    metrics_of,
)

T = TypeVar("T", bound=Object)
D = TypeVar("D", bound=Described)

_KIND_ORDER = {kind: position for position, kind in enumerate(Kind)}


def joined(pool: State, facts: HostFacts, *, now: datetime) -> tuple[Change, ...]:
    """What a host brings into the pool; into an empty state, what a pool is founded with.

    The host is not live before its session is up. Its SRs keep their uuids; its default network
    becomes the pool's network of the same bridge. Preflight has to have let it in.
    """
    profile = facts.inventory.profile
    host = Host(
        uuid=facts.host,
        name_label=facts.name_label,
        addresses=facts.addresses,
        software_version=facts.software_version,
        hypervisor=profile.hypervisor,
        cpu=profile.cpu,
        capabilities=profile.capabilities,
        storage_types=profile.storage_types,
        network_backend=profile.network_backend,
    )
    metrics = HostMetrics(
        uuid=HostMetricsId(derived_uuid(facts.host, Kind.HOST_METRICS, "metrics")),
        host=facts.host,
        live=False,
        memory_total=profile.memory_total,
        last_updated=now,
    )
    arrival: tuple[Change, ...] = (Put(host), Put(metrics))
    with_host = replace(pool, tables=changed(pool.tables, arrival))
    return arrival + reported(with_host, facts.host, facts.inventory, now=now)


def reported(
    pool: State, host: HostId, inventory: Inventory, *, now: datetime
) -> tuple[Change, ...]:
    """The smallest set of changes that makes the pool say of `host` what `inventory` says.

    Empty when the pool says so already, and for a host the pool does not have.
    """
    known = pool.get(Host, host)
    if known is None:
        return ()
    report = _Report(pool, host, inventory)
    report.add_networks()
    report.add_storage()
    report.add_interfaces()
    report.add_vms()
    return (*_profile_changes(pool, known, inventory, now=now), *report.changes())


def departed(pool: State, host: HostId) -> tuple[tuple[Change, ...], tuple[Object, ...]]:
    """The changes that remove a host and everything only it had, and what it takes along.

    The second are the host's objects for its new pool of one, complete in themselves: the host
    (not live), its own SRs, interfaces and VMs, and copies of the networks they are on. Shared
    storage stays behind; the host's next report brings in what it still sees. Tasks and messages
    about the host stay in the pool as its history. Both are empty for a host the pool lacks.
    """
    leaving = pool.get(Host, host)
    if leaving is None:
        return (), ()
    metrics = metrics_of(pool, host)
    own = held(pool, host)
    own.update((key(network), network) for network in _networks_only_of(pool, host, own))
    gone = [leaving, *([metrics] if metrics else []), *own.values()]
    removals = tuple(Remove(o.KIND, o.uuid) for o in _ordered(gone))
    changes = removals + tuple(Put(o) for o in _bereft(pool, {key(o) for o in gone}))
    return changes, tuple(_ordered(_taken_along(pool, leaving, metrics, own)))


# -- a report, translated into the pool's terms ----------------------------------------------------


class _Report:
    """One inventory on its way into the pool; the `add_…` steps build on each other in order."""

    def __init__(self, pool: State, host: HostId, inventory: Inventory) -> None:
        self._pool = pool
        self._host = host
        self._alone = is_alone(pool, host)
        self._held = held(pool, host)
        self._live = {m.host for m in pool.all(HostMetrics) if m.live}
        self._images: dict[SrId, list[VDI]] = defaultdict(list)
        for vdi in pool.all(VDI):
            self._images[vdi.sr].append(vdi)
        self._networks: dict[NetworkId, NetworkId] = {}
        self._after: dict[Key, Object] = {}
        """What the pool will say; whatever is held and not in here goes."""
        self._gone: set[Key] = set()
        self._found: dict[type[Object], dict[str, Object]] = defaultdict(dict)
        for obj in inventory.objects:
            self._found[type(obj)][obj.uuid] = obj

    def add_networks(self) -> None:
        """Match the host's networks with the pool's, and add those the pool has not seen."""
        here = {self._identity(n): n for n in sorted(self._pool.all(Network), key=_uuid)}
        carriers: dict[NetworkId, set[HostId]] = defaultdict(set)
        for pif in self._pool.all(PIF):
            carriers[pif.network].add(pif.host)
        for found in sorted(self._all(Network), key=lambda n: (not n.default, n.uuid)):
            known = here.get(self._identity(found))
            if known is None:
                known = replace(found, uuid=self._new_network_uuid(found))
                here[self._identity(found)] = known
                self._keep(known)
            elif key(known) not in self._after:
                speaks = self._speaks(carriers[known.uuid], takes_part=True)
                self._keep(replace(_named(found, known), uuid=known.uuid) if speaks else known)
            self._networks[found.uuid] = known.uuid

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
        images: dict[SrId, list[VDI]] = defaultdict(list)
        for vdi in self._all(VDI):
            images[vdi.sr].append(vdi)
        for found in self._all(SR):
            known = self._pool.get(SR, found.uuid)
            others = hosts[found.uuid] - {self._host}
            if known is not None and others and not (known.shared and found.shared):
                continue
            pbd = pbds.get(found.uuid) or self._missing_pbd(found)
            self._keep(replace(pbd, host=self._host) if pbd.host != self._host else pbd)
            speaks = not found.shared or self._speaks(
                attached[found.uuid], takes_part=pbd.currently_attached
            )
            self._keep(known if known and not speaks else _named(found, known))
            self._add_images(found, images[found.uuid], speaks=speaks, seen=pbd.currently_attached)

    def _missing_pbd(self, sr: SR) -> PBD:
        uuid = PbdId(derived_uuid(self._host, Kind.PBD, sr.uuid))
        return PBD(uuid=uuid, host=self._host, sr=sr.uuid, currently_attached=False)

    def _add_images(self, sr: SR, found: Iterable[VDI], *, speaks: bool, seen: bool) -> None:
        for vdi in found:
            known = self._pool.get(VDI, vdi.uuid)
            if known is not None and known.sr != sr.uuid and key(known) not in self._held:
                continue
            if known is None or known.sr != sr.uuid or speaks:
                self._keep(_named(vdi, known))
            else:
                self._keep(known)
        for before in self._images[sr.uuid]:
            if key(before) in self._after:
                continue
            if not seen:
                self._keep(before)
            elif speaks and not self._in_use_elsewhere(before):
                self._gone.add(key(before))

    def _in_use_elsewhere(self, vdi: VDI) -> bool:
        return any(
            vbd.vdi == vdi.uuid and key(vbd) not in self._held for vbd in self._pool.all(VBD)
        )

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
        return known is None or known.vm == vm or key(known) in self._held

    def changes(self) -> Iterator[Change]:
        """What differs between the pool and what the steps before found."""
        gone = self._gone | {k for k in self._held if k not in self._after}
        news = [o for k, o in self._after.items() if self._pool.get(type(o), k[1]) != o]
        yield from (Put(o) for o in _ordered(news))
        untouched = (o for o in _bereft(self._pool, gone) if key(o) not in self._after)
        yield from (Put(o) for o in untouched)
        yield from (Remove(*k) for k in sorted(gone, key=lambda k: (_KIND_ORDER[k[0]], k[1])))

    def _all(self, cls: type[T]) -> Iterable[T]:
        return cast("Iterable[T]", self._found[cls].values())

    def _keep(self, obj: Object) -> None:
        self._after[key(obj)] = obj

    def _is_anothers(self, obj: Object) -> bool:
        return key(obj) in self._pool and key(obj) not in self._held

    def _speaks(self, taking_part: set[HostId], *, takes_part: bool) -> bool:
        if self._alone:
            return True
        others = (taking_part & self._live) - {self._host}
        if self._host not in self._live:
            return False
        return not others or (takes_part and self._host < min(others))


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


def _profile_changes(
    pool: State, known: Host, inventory: Inventory, *, now: datetime
) -> Iterator[Change]:
    profile = inventory.profile
    host = replace(
        known,
        hypervisor=profile.hypervisor,
        cpu=profile.cpu,
        capabilities=profile.capabilities,
        storage_types=profile.storage_types,
        network_backend=profile.network_backend,
    )
    if host != known:
        yield Put(host)
    metrics = metrics_of(pool, known.uuid)
    if metrics is not None and metrics.memory_total != profile.memory_total:
        yield Put(replace(metrics, memory_total=profile.memory_total, last_updated=now))


# -- departure -------------------------------------------------------------------------------------


def _networks_only_of(pool: State, host: HostId, own: dict[Key, Object]) -> Iterator[Network]:
    """The networks that came with the host and that nothing else in the pool uses."""
    used = {pif.network for pif in pool.all(PIF) if key(pif) not in own}
    used |= {vif.network for vif in pool.all(VIF) if vif.network and key(vif) not in own}
    for network in pool.all(Network):
        if network.uuid == brought_network_uuid(host, network) and network.uuid not in used:
            yield network


def _taken_along(
    pool: State, host: Host, metrics: HostMetrics | None, own: dict[Key, Object]
) -> Iterator[Object]:
    yield host
    if metrics is not None:
        yield replace(metrics, live=False)
    networks = {o.network for o in own.values() if isinstance(o, PIF | VIF) and o.network}
    yield from (n for n in pool.all(Network) if n.uuid in networks and key(n) not in own)
    for obj in own.values():
        if isinstance(obj, PBD) and (Kind.SR, obj.sr) not in own:
            continue
        if isinstance(obj, VBD) and obj.vdi and (Kind.VDI, obj.vdi) not in own:
            yield replace(obj, vdi=None)
        else:
            yield obj


# -- common to report and departure ----------------------------------------------------------------


def _bereft(pool: State, gone: set[Key]) -> Iterator[Object]:
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


def _ordered(objects: Iterable[T]) -> list[T]:
    return sorted(objects, key=lambda o: (_KIND_ORDER[o.KIND], o.uuid))


def _uuid(obj: Object) -> str:
    return obj.uuid
