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
* Of the live hosts that have a shared SR attached, the one with the smallest uuid speaks for its
  sizes and its list of disk images; the others only add to it. Each host sees the same storage a
  little earlier or later, and the pool must not go to and fro between them.
* A network in a pool of several hosts gets another MTU when all their interfaces on it have it.
* A host that is joining changes nothing that is there.
* Disk images of an SR that is not attached cannot be seen and stay as they were.
* A witness has nothing that is the pool's: neither networks nor storage, interfaces or VMs.
* A VM that is on another host moves only to a host that runs it or, once its own host is not
  heard of, that has it in memory. A halted or suspended definition never takes a VM away.

A VM that its host no longer reports is removed, unless another host was reporting it, too, and
could not have it until now: then it moves there, with all that administrators wrote. So it does in
a migration, whichever of the two hosts reports first after the VM has moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from itertools import chain

from immutables import Map

from poolcore.facts import HostFacts, Inventory
from poolcore.model import (
    CLASSES,
    DEFAULT_FAILOVER_PRIORITY,
    PBD,
    PIF,
    VBD,
    VIF,
    VM,
    Host,
    HostId,
    HostMetrics,
    HostMetricsId,
    Kind,
    Network,
    Object,
    PowerState,
    derived_uuid,
)
from poolcore.replica import Change, Put, Remove, State, changed
from poolmaster.decide.holdings import (
    KIND_ORDER,
    Key,
    bereft,
    brought_network_uuid,
    held,
    in_order,
    key,
    metrics_of,
    removals,
)
from poolmaster.decide.report import object_changes

NO_INVENTORIES: Map[HostId, Inventory] = Map()


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
        failover_priority=0 if facts.witness else DEFAULT_FAILOVER_PRIORITY,
        witness=facts.witness,
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
    brought = _shared_with(host, facts.inventory)
    return (*arrival, *object_changes(with_host, facts.host, brought, arriving=True))


def reported(
    pool: State,
    host: HostId,
    inventory: Inventory,
    *,
    now: datetime,
    others: Mapping[HostId, Inventory] = NO_INVENTORIES,
) -> tuple[Change, ...]:
    """The smallest set of changes that makes the pool say of `host` what `inventory` says.

    `others` are the last inventories of the hosts whose sessions are up. Empty when the pool says
    so already, and for a host the pool does not have.
    """
    known = pool.get(Host, host)
    if known is None:
        return ()
    changes = tuple(
        chain(
            _profile_changes(pool, known, inventory, now=now),
            object_changes(pool, host, _shared_with(known, inventory)),
        )
    )
    homes = _new_homes(pool, changes, {h: i for h, i in others.items() if h != host})
    return _moving(pool, changes, homes, others) if homes else changes


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
    keys = {key(obj) for obj in gone}
    changes: tuple[Change, ...] = (*(Put(o) for o in bereft(pool, keys)), *removals(keys))
    return changes, tuple(in_order(_taken_along(pool, leaving, metrics, own)))


def _shared_with(host: Host, inventory: Inventory) -> Inventory:
    """What of the host's inventory is the pool's: nothing of a witness."""
    return replace(inventory, objects=()) if host.witness else inventory


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


# -- a VM that is elsewhere now --------------------------------------------------------------------


def _new_homes(
    pool: State, changes: Iterable[Change], others: Mapping[HostId, Inventory]
) -> dict[str, HostId]:
    """Of the VMs that the changes remove: where else they are, best where they run."""
    leaving = {c.uuid for c in changes if isinstance(c, Remove) and c.kind is Kind.VM}
    homes: dict[str, tuple[bool, HostId]] = {}
    for other, inventory in others.items():
        if not leaving or (host := pool.get(Host, other)) is None or host.witness:
            continue
        for vm in inventory.objects:
            if isinstance(vm, VM) and vm.uuid in leaving:
                claim = (vm.power_state is not PowerState.RUNNING, other)
                homes[vm.uuid] = min(claim, homes.get(vm.uuid, claim))
    return {vm: other for vm, (_, other) in homes.items()}


def _moving(
    pool: State,
    changes: Iterable[Change],
    homes: Mapping[str, HostId],
    others: Mapping[HostId, Inventory],
) -> tuple[Change, ...]:
    """The changes with the VMs moved instead of removed."""
    moved = [replace(vm, resident_on=homes[vm.uuid]) for vm in pool.all(VM) if vm.uuid in homes]
    steps = [*changes, *(Put(vm) for vm in moved)]
    state = replace(pool, tables=changed(pool.tables, steps))
    for other in sorted(set(homes.values())):
        arriving = {vm for vm, home in homes.items() if home == other}
        told = object_changes(state, other, others[other])
        steps += (c for change in told for c in _about(state, arriving, change))
    return tuple(_differences(pool, replace(pool, tables=changed(pool.tables, steps)), steps))


def _about(state: State, vms: set[str], change: Change) -> Iterator[Change]:
    """The change if it is about one of these VMs or a part of it.

    The inventory is older than the report that is being taken in: on everything else it has been
    heard already, and must not undo what the report says.
    """
    obj = change.object if isinstance(change, Put) else state.get(CLASSES[change.kind], change.uuid)
    match obj:
        case VM() if obj.uuid in vms:
            yield change
        case VBD() if obj.vm in vms and isinstance(change, Put):
            there = obj.vdi is None or (Kind.VDI, obj.vdi) in state
            yield Put(obj if there else replace(obj, vdi=None))
        case VIF() if obj.vm in vms and isinstance(change, Put):
            there = obj.network is None or (Kind.NETWORK, obj.network) in state
            yield Put(obj if there else replace(obj, network=None))
        case VBD() | VIF() if obj.vm in vms:
            yield change


def _differences(before: State, after: State, steps: Iterable[Change]) -> Iterator[Change]:
    """The changes that lead from one state to the other, of objects that the steps touched."""
    targets = {key(s.object) if isinstance(s, Put) else (s.kind, s.uuid) for s in steps}
    touched = sorted(targets, key=lambda k: (KIND_ORDER[k[0]], k[1]))
    for kind, uuid in touched:
        obj = after.get(CLASSES[kind], uuid)
        if obj is not None and obj != before.get(CLASSES[kind], uuid):
            yield Put(obj)
    yield from removals(k for k in targets if k in before and k not in after)


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
