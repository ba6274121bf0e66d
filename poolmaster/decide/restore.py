"""What restoring a backup changes, what it leaves alone, and why.

A backup holds everything that the pool knew at one revision, and most of that is not a person's to
decide: hosts report what is on them, the master knows who is there. A restore brings back what
people have set, by commits of the present chain, and what it changes is always the same, in the
pool that the backup is of and in any other:

* objects that the pool has, by uuid: name, description, tags, `other_config`; of a host its
  priority when a master is chosen; of the pool its default SR, host limit, failover timings and
  backup schedule. Nothing that a host reports, nor who is master, in step or in maintenance.
* VMs that the pool does not have any more: their records come back, halted and on no host, with
  their disks and interfaces, if one of their disks is in the pool and no other VM has one of them.
  A host that reports such a VM has it from then on, as it really is.
* other objects that the pool does not have stay away: a host is taken in by a join, and storage,
  images, networks and interfaces come with the reports of the hosts that have them.
* objects that are not in the backup, because they are newer, stay as they are.

Values go through the checks of administrative writes; an object with one that these refuse is left
alone. The law: what was restored, restored again, changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from poolcore.difference import ObjectDifference
from poolcore.errors import PoolError
from poolcore.model import (
    CLASSES,
    NO_NAMES,
    SR,
    VBD,
    VIF,
    VM,
    BackupSchedule,
    Described,
    FailoverTimings,
    Host,
    Kind,
    Object,
    Pool,
    PowerState,
    VbdType,
)
from poolcore.replica import Put, State
from poolcore.restoration import LeftAlone
from poolmaster.decide.holdings import in_order
from poolmaster.decide.update import (
    MetadataPatch,
    limited,
    patched,
    prioritized,
    scheduled,
    timed,
)

D = TypeVar("D", bound=Described)
S = TypeVar("S", FailoverTimings, BackupSchedule)

HOST_NOT_IN_POOL = "HOST_NOT_IN_POOL"
NOT_REPORTED = "NOT_REPORTED"
NO_DISK_HERE = "NO_DISK_HERE"
DISK_IN_USE = "DISK_IN_USE"
SR_NOT_IN_POOL = "SR_NOT_IN_POOL"
NOT_SETTABLE = "NOT_SETTABLE"
"""The codes of `LeftAlone`."""


@dataclass(slots=True)
class Restoration:
    """What restoring some objects comes to."""

    differences: list[ObjectDifference] = field(default_factory=list)
    """The objects that are created or changed, in canonical order."""
    left_alone: list[LeftAlone] = field(default_factory=list)

    @property
    def changes(self) -> tuple[Put, ...]:
        """The changes, in an order in which no reference is ever dangling."""
        return tuple(Put(d.after) for d in self.differences if d.after is not None)


def restoration(state: State, wanted: Iterable[Object]) -> Restoration:
    """What bringing `wanted`, objects of a backup, back into `state` changes and leaves alone.

    A VM that the pool does not have is only brought back together with its VBDs and VIFs, so those
    have to be among `wanted`. Objects of kinds that are not restored are passed over.
    """
    found = Restoration()
    after, missing, parts = list[Object](), list[VM](), dict[str, list[VBD | VIF]]()
    for then in wanted:
        now = _counterpart(state, then)
        if isinstance(then, VBD | VIF):
            parts.setdefault(then.vm, []).append(then)
        elif isinstance(now, Described):
            after.append(_restored(state, now, cast("Described", then), found))
        elif isinstance(then, VM):
            missing.append(then)
        elif isinstance(then, Described):
            found.left_alone.append(_absent(then))
    if missing:
        after += _brought_back(state, missing, parts, found)
    for obj in in_order(after):
        before = state.get(type(obj), obj.uuid)
        if before != obj:
            found.differences.append(
                ObjectDifference(
                    kind=obj.KIND, uuid=obj.uuid, before=before, before_kept=True, after=obj
                )
            )
    return found


def _counterpart(state: State, then: Object) -> Object | None:
    if isinstance(then, Pool):
        return state.pool
    return state.get(CLASSES[then.KIND], then.uuid)


def _absent(then: Described) -> LeftAlone:
    if isinstance(then, Host):
        why = "it is not in the pool; `pool add-host` takes it in"
        return _left_alone(then, HOST_NOT_IN_POOL, why)
    return _left_alone(then, NOT_REPORTED, "no host of the pool has it")


def _left_alone(then: Described, code: str, explanation: str) -> LeftAlone:
    return LeftAlone(
        kind=then.KIND,
        uuid=then.uuid,
        name_label=then.name_label,
        code=code,
        explanation=explanation,
    )


def _restored(state: State, now: Described, then: Described, found: Restoration) -> Described:
    """The object as it is to be; as it is if a value cannot be set."""
    try:
        after = _described_as(now, then)
        if isinstance(after, Pool) and isinstance(then, Pool):
            return _pool_restored(state, after, then, found)
        if isinstance(after, Host) and isinstance(then, Host) and not after.witness:
            return prioritized(after, then.failover_priority)
    except PoolError as error:
        found.left_alone.append(_left_alone(then, NOT_SETTABLE, error.message.rstrip(".")))
        return now
    return after


def _described_as(now: D, then: Described) -> D:
    """The object with the name, description, tags and `other_config` of the other."""
    entries = {k: v for k, v in then.other_config.items() if now.other_config.get(k) != v}
    description = then.name_description
    # Only what differs, as a name that a host has given may be one that nobody could set.
    return patched(
        now,
        MetadataPatch(
            name_label=None if then.name_label == now.name_label else then.name_label,
            name_description=None if description == now.name_description else description,
            add_tags=then.tags - now.tags,
            remove_tags=now.tags - then.tags,
            set_other_config=entries,
            remove_other_config=frozenset(now.other_config) - frozenset(then.other_config),
        ),
    )


def _pool_restored(state: State, now: Pool, then: Pool, found: Restoration) -> Pool:
    default_sr = then.default_sr
    after = replace(
        limited(now, then.host_limit),
        failover=timed(now.failover, _differing(now.failover, then.failover)),
        backup=scheduled(now.backup, _differing(now.backup, then.backup)),
    )
    if default_sr is not None and state.get(SR, default_sr) is None:
        why = f"its default SR, {default_sr}, is not in the pool; the rest is restored"
        found.left_alone.append(_left_alone(then, SR_NOT_IN_POOL, why))
        return after
    return replace(after, default_sr=default_sr)


def _differing(now: S, then: S) -> dict[str, Any]:
    names = type(now).__dataclass_fields__
    return {n: getattr(then, n) for n in names if getattr(now, n) != getattr(then, n)}


# -- VMs that the pool does not have any more -----------------------------------------------------


def _brought_back(
    state: State,
    missing: Sequence[VM],
    parts: dict[str, list[VBD | VIF]],
    found: Restoration,
) -> Iterator[Object]:
    users: dict[str, str] = {vdi: vbd.vm for vbd in state.all(VBD) for vdi in _disk(vbd)}
    for then in missing:
        own = parts.get(then.uuid, [])
        why = _why_not(state, own, users)
        if why is not None:
            found.left_alone.append(_left_alone(then, *why))
            continue
        # Every value is checked, as of this object none was there before.
        bare = replace(then, name_label="", name_description="", tags=NO_NAMES, other_config={})
        try:
            vm = _described_as(bare, then)
        except PoolError as error:
            found.left_alone.append(_left_alone(then, NOT_SETTABLE, error.message.rstrip(".")))
            continue
        yield replace(
            vm, power_state=PowerState.HALTED, resident_on=None, current_operations=NO_NAMES
        )
        for part in own:
            users |= dict.fromkeys(_disk(part), then.uuid)
            if (part.KIND, part.uuid) not in state:
                yield _attached(state, part)


def _disk(part: VBD | VIF) -> tuple[str, ...]:
    """The disk image that the part lets its VM write to; a CD is none."""
    if isinstance(part, VIF) or part.type is not VbdType.DISK or part.read_only:
        return ()
    return (part.vdi,) if part.vdi else ()


def _why_not(
    state: State, parts: Iterable[VBD | VIF], users: Mapping[str, str]
) -> tuple[str, str] | None:
    """Why a VM is not brought back, given its parts and who writes to which disk; none: it is."""
    here = [vdi for part in parts for vdi in _disk(part) if (Kind.VDI, vdi) in state]
    if not here:
        return NO_DISK_HERE, "none of its disks is in the pool"
    taken = next((vdi for vdi in here if vdi in users), None)
    if taken is not None:
        return DISK_IN_USE, f"VM {users[taken]} has its disk {taken}"
    return None


def _attached(state: State, part: VBD | VIF) -> VBD | VIF:
    """The part with a reference only to what is there."""
    if isinstance(part, VBD):
        there = part.vdi is None or (Kind.VDI, part.vdi) in state
        return part if there else replace(part, vdi=None)
    there = part.network is None or (Kind.NETWORK, part.network) in state
    return part if there else replace(part, network=None)
