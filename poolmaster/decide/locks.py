"""Who may take a lock, and whose time has run out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from poolcore.errors import PoolError, Reason
from poolcore.model import Kind, Lock, LockId
from poolcore.replica import Remove, State
from poolmaster.decide.update import checked_name, checked_text, invalid

HOLDER_LIMIT = 255
TTL_LIMIT_SECONDS = 86_400


def lock_lost(lock: str) -> PoolError:
    """The refusal of what only a lock's holder can have done for it; `lock` is what names it."""
    return PoolError(
        Reason.LOCK_LOST, lock=lock, problem="it was not renewed in time, or was broken"
    )


def acquired(
    state: State, *, uuid: LockId, name: str, holder: str, ttl_seconds: int, now: datetime
) -> Lock:
    """The lock as it is taken in the commit that follows `state`.

    `LOCK_HELD` when somebody has it, `INVALID_VALUE` for a name, holder or time to live that no
    lock can have.
    """
    checked_name(name)
    checked_text("holder", holder, HOLDER_LIMIT)
    if not 1 <= ttl_seconds <= TTL_LIMIT_SECONDS:
        raise invalid("ttl_seconds", f"{ttl_seconds} is not from 1 to {TTL_LIMIT_SECONDS}")
    held = next((lock for lock in state.all(Lock) if lock.name_label == name), None)
    if held is not None:
        since = held.acquired.isoformat(timespec="seconds").replace("+00:00", "Z")
        raise PoolError(Reason.LOCK_HELD, name=name, holder=held.holder, since=since)
    return Lock(
        uuid=uuid,
        name_label=name,
        holder=holder,
        acquired=now,
        ttl_seconds=ttl_seconds,
        token=state.revision + 1,
    )


def released(state: State, uuid: str) -> tuple[Remove, ...]:
    """What gives a lock up; `LOCK_LOST` when it is gone already."""
    if state.get(Lock, uuid) is None:
        raise lock_lost(uuid)
    return (Remove(Kind.LOCK, uuid),)


def overdue(
    locks: Iterable[Lock], renewed: Mapping[LockId, float], *, now: float
) -> frozenset[LockId]:
    """The locks whose time to live has passed since they were last renewed.

    `renewed` has a moment for each of `locks`; it and `now` are seconds of one monotonic clock.
    """
    return frozenset(
        lock.uuid for lock in locks if now - renewed[lock.uuid] >= float(lock.ttl_seconds)
    )


def expired(state: State, uuids: Iterable[LockId]) -> tuple[Remove, ...]:
    """What removes those of the locks that are still there."""
    return tuple(Remove(Kind.LOCK, u) for u in sorted(uuids) if state.get(Lock, u) is not None)
