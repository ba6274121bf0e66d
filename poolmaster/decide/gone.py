"""Hosts that are gone: declared dead, forgotten, or out of reach after an emergency transition.

Nobody but a person can tell a host that is off from one that cannot be heard, and on the latter
VMs may still run. So no VM is taken from a host that is merely silent. That a person vouches for
its being off is recorded (`declared_dead`), and only then do its VMs count as halted, on no host,
to be started elsewhere.

Like every decision these look only at their arguments; that the host is not alive after all is
checked by `poolmaster.operations.gone`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from immutables import Map

from poolcore.errors import Reason
from poolcore.facts import Recovery
from poolcore.model import (
    NO_NAMES,
    VBD,
    VDI,
    VM,
    Host,
    HostId,
    HostMetrics,
    Kind,
    Message,
    Object,
    PowerState,
    Task,
    TaskError,
    TaskStatus,
    VbdType,
)
from poolcore.replica import Change, Put, Remove, State, changed
from poolmaster.decide.holdings import in_order, metrics_of, own_srs
from poolmaster.decide.inventory import departed
from poolmaster.decide.messages import noted

EJECT, EVICTED = "host.eject", "evicted"
"""The operation that lets a host go, and the step at which it is decided."""
JOIN = "host.join"
"""The operation that takes one in."""

DECLARED_DEAD, CAME_BACK = "HOST_DECLARED_DEAD", "HOST_CAME_BACK"
FORGOTTEN, RECOVERED = "HOST_FORGOTTEN", "COMMITS_RECOVERED"
"""Names of messages."""

SHOWN_VMS = 10

IN_MEMORY = frozenset({PowerState.RUNNING, PowerState.PAUSED, PowerState.UNKNOWN})
"""What ends when the host is switched off."""


def uncertain(pool: State, unreachable: Collection[HostId]) -> tuple[Change, ...]:
    """The changes after an emergency transition: nobody knows what runs on `unreachable` hosts.

    Their VMs that were running or paused when the pool last heard of them become unknown, and stay
    with their host: its next report tells, or a person who declares it dead. What was halted or
    suspended there stays so.
    """
    doubtful = IN_MEMORY - {PowerState.UNKNOWN}
    return tuple(
        Put(replace(vm, power_state=PowerState.UNKNOWN))
        for vm in in_order(pool.all(VM))
        if vm.resident_on in unreachable and vm.power_state in doubtful
    )


def declared_dead(pool: State, host: HostId, *, now: datetime) -> tuple[Change, ...]:
    """The changes that record that a host is off: none when that is recorded already.

    Its VMs that were in memory there become halted and resident nowhere. Those at rest stay with
    it, as only it has their definitions.
    """
    known, metrics = pool.get(Host, host), metrics_of(pool, host)
    if known is None or metrics is None or metrics.declared_dead:
        return ()
    vms = in_order(vm for vm in pool.all(VM) if _ran_on(vm, host))
    body = f"Host {known.name_label} was declared dead."
    if vms:
        more = "" if len(vms) <= SHOWN_VMS else f" and {len(vms) - SHOWN_VMS} more"
        names = ", ".join(vm.name_label for vm in vms[:SHOWN_VMS])
        body += f" VMs that count as halted since: {names}{more}."
    message = noted(pool, DECLARED_DEAD, cls=Kind.HOST, obj=host, now=now, priority=3, body=body)
    after = replace(metrics, live=False, declared_dead=True, last_updated=now)
    return (Put(after), *(Put(_given_up(vm)) for vm in vms), *message)


def heard(pool: State, metrics: HostMetrics, *, live: bool, now: datetime) -> tuple[Change, ...]:
    """The changes that record that a host's session has come up or ended.

    A host that was declared dead and comes back is that no longer, and a message warns: what ran
    there may have been started elsewhere since.
    """
    came_back = live and metrics.declared_dead
    dead = metrics.declared_dead and not came_back
    after = Put(replace(metrics, live=live, declared_dead=dead, last_updated=now))
    known = pool.get(Host, metrics.host)
    if known is None or not came_back:
        return (after,)
    body = (
        f"Host {known.name_label} was declared dead and is back. Check that none of its VMs runs "
        "on two hosts."
    )
    obj = known.uuid
    return (
        after,
        *noted(pool, CAME_BACK, cls=Kind.HOST, obj=obj, now=now, priority=2, body=body),
    )


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What it comes to that a host is forgotten."""

    changes: tuple[Change, ...]
    removed: tuple[Object, ...]
    """What goes, the host first, in canonical order; without tasks."""
    kept: tuple[VM, ...]
    """The host's VMs that stay, halted and resident nowhere."""


def forgotten(pool: State, host: HostId, *, now: datetime) -> Forgotten:
    """The changes that remove a host and what only it had; KeyError when the pool lacks it.

    That is what an eject removes, but for the VMs: one with a disk on storage that stays is kept,
    halted and on no host, as it can be started elsewhere. With the host go its VMs without such a
    disk, and those on no host whose disks were all on its own storage.
    """
    leaving = pool.host(host)
    kept, lost = _parted(pool, host)
    steps: list[Put] = [Put(_given_up(vm)) for vm in kept]
    if pool.pool.in_step == host:
        steps.append(Put(replace(pool.pool, in_step=None)))
    elif pool.pool.was_in_step == host:
        steps.append(Put(replace(pool.pool, was_in_step=None)))
    # As if they were still on the host, so that they go with it.
    last_home = [Put(replace(vm, resident_on=host)) for vm in lost]
    between = replace(pool, tables=changed(pool.tables, (*steps, *last_home)))
    changes = (*steps, *departed(between, host)[0])
    keys = {(c.kind, c.uuid) for c in changes if isinstance(c, Remove)}
    body = f"Host {leaving.name_label} ({host}) was forgotten, and {len(keys) - 1} objects with it."
    obj = pool.pool.uuid
    message = noted(pool, FORGOTTEN, cls=Kind.POOL, obj=obj, now=now, priority=5, body=body)
    return Forgotten(
        changes=(*changes, *_tasks_ended(pool, leaving, now=now), *message),
        removed=tuple(obj for obj in pool.objects() if (obj.KIND, obj.uuid) in keys),
        kept=tuple(kept),
    )


def recovered(pool: State, host: HostId, found: Recovery, *, now: datetime) -> tuple[Change, ...]:
    """The changes that note what a host has saved of commits that the pool has not; once."""
    known = pool.get(Host, host)
    if known is None:
        return ()
    name, count = known.name_label, found.commits
    body = (
        f"Host {name} had {count} commit{'' if count == 1 else 's'} that this pool does not have "
        f"(revisions {found.first_revision} to {found.last_revision} of incarnation "
        f"{found.incarnation.counter}); `pool recovery show {name} {found.name}`."
    )
    told = (m for m in pool.all(Message) if m.name == RECOVERED and m.obj_uuid == host)
    if any(found.name in m.body and f"to {found.last_revision} " in m.body for m in told):
        return ()
    return noted(pool, RECOVERED, cls=Kind.HOST, obj=host, now=now, priority=1, body=body)


def ejected_by(pool: State, host: HostId) -> Task | None:
    """The task that made a host leave the pool; none if it was not ejected, or is forgotten."""
    tasks = (t for t in pool.all(Task) if t.operation == EJECT and t.step == EVICTED)
    return next((t for t in tasks if t.params.get("host") == host), None)


def _ran_on(vm: VM, host: HostId) -> bool:
    return vm.resident_on == host and vm.power_state in IN_MEMORY


def _given_up(vm: VM) -> VM:
    return replace(vm, power_state=PowerState.HALTED, resident_on=None, current_operations=NO_NAMES)


def _parted(pool: State, host: HostId) -> tuple[list[VM], list[VM]]:
    """The host's VMs that stay, and those that go without its being known that they are on it."""
    own = own_srs(pool, host, alone=False)
    goes = {vdi.uuid: vdi.sr in own for vdi in pool.all(VDI)}
    disks: dict[str, set[bool]] = {}
    for vbd in pool.all(VBD):
        if vbd.vdi in goes and vbd.type is VbdType.DISK:
            disks.setdefault(vbd.vm, set()).add(goes[vbd.vdi])
    vms = in_order(pool.all(VM))
    kept = [vm for vm in vms if vm.resident_on == host and False in disks.get(vm.uuid, ())]
    lost = [vm for vm in vms if vm.resident_on is None and disks.get(vm.uuid) == {True}]
    return kept, lost


def _tasks_ended(pool: State, host: Host, *, now: datetime) -> Iterator[Change]:
    """What becomes of tasks about the host: no later visit of it must be taken for their end.

    A join that waits for it has failed. An eject that it once left by, to come back later, is not
    what is to be told to it now (`ejected_by`).
    """
    for task in sorted(pool.all(Task), key=lambda t: t.uuid):
        if task.params.get("host") != host.uuid:
            continue
        if task.operation == EJECT and task.step == EVICTED:
            yield Remove(Kind.TASK, task.uuid)
        elif task.operation == JOIN and not task.status.is_final:
            params = Map(host=host.name_label, pool=pool.pool.name_label)
            error = TaskError(reason=Reason.HOST_FORGOTTEN, params=params)
            yield Put(replace(task, status=TaskStatus.FAILURE, finished=now, error=error))
