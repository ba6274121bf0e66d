"""What each register was at each revision, as the pool's chain of commits has it.

Two kinds of registers: an entry of a host's `other_config`, whose key is `HOST/ENTRY`, and a lock,
`lock/NAME`, which is its holder. Where an answer names its revision, this says whether it is true;
`support.linearizability` says, without looking at revisions, whether the answers fit together.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from poolcore.model import Host, Kind, Lock
from poolcore.replica import Delta, Put, Remove
from support import history
from support.history import Operation, Outcome, Value


def entry_key(host: str, entry: str) -> str:
    """The register that is an entry of a host's `other_config`."""
    return f"{host}/{entry}"


def lock_key(name: str) -> str:
    """The register that is a lock."""
    return f"lock/{name}"


class Timeline:
    """The registers that the commits `deltas`, from revision 1 on, have changed."""

    def __init__(self, deltas: Iterable[Delta]) -> None:
        self._revisions: dict[str, list[int]] = defaultdict(list)
        self._values: dict[str, list[Value]] = defaultdict(list)
        self._locks: dict[str, str] = {}
        for delta in deltas:
            for change in delta.changes:
                for key, value in self._registers(change):
                    if value != self.at(key, delta.commit.revision):
                        self._revisions[key].append(delta.commit.revision)
                        self._values[key].append(value)

    def _registers(self, change: Put | Remove) -> Iterator[tuple[str, Value]]:
        match change:
            case Put(Host() as host):
                for entry, value in host.other_config.items():
                    yield entry_key(host.name_label, entry), value
            case Put(Lock() as lock):
                self._locks[lock.uuid] = lock.name_label
                yield lock_key(lock.name_label), lock.holder
            case Remove(Kind.LOCK, uuid):
                yield lock_key(self._locks.pop(uuid)), None

    def at(self, key: str, revision: int) -> Value:
        """What a register is at a revision; None: nothing yet, or nothing any more."""
        found = bisect_right(self._revisions.get(key, ()), revision)
        return self._values[key][found - 1] if found else None

    def made(self, key: str) -> Sequence[tuple[Value, int]]:
        """What a register has become, and at which revision; in the beginning it is nothing."""
        return list(zip(self._values.get(key, ()), self._revisions.get(key, ()), strict=True))


def findings(operations: Iterable[Operation], timeline: Timeline) -> list[str]:
    """What clients were told that is not so by the chain, or not in order."""
    told = sorted(operations, key=lambda operation: operation.invoked)
    return [
        *_of_writes(told, timeline),
        *_of_values(told, timeline),
        *_of_order(told),
        *_of_going_back(told),
    ]


def _of_writes(told: Sequence[Operation], timeline: Timeline) -> Iterator[str]:
    """An acknowledged write is made once, one of unknown outcome at most once, no other at all.

    One that is made a second time while its value is there still changes nothing; but then the
    answer speaks of another revision than the first.
    """
    made: dict[tuple[str, Value], list[int]] = defaultdict(list)
    for key in {operation.key for operation in told}:
        for value, revision in timeline.made(key):
            made[key, value].append(revision)
    for operation in told:
        if not operation.is_write or operation.value is None:
            continue
        revisions = made[operation.key, operation.value]
        times = len(revisions)
        match operation.outcome:
            case Outcome.OK if times != 1:
                yield f"acknowledged, and made {times} times:\n  {operation}"
            case Outcome.OK if operation.revision not in {None, *revisions}:
                yield f"made at revision {revisions[0]} already:\n  {operation}"
            case Outcome.FAILED if times:
                yield f"refused, and made:\n  {operation}"
            case Outcome.UNKNOWN if times > 1:
                yield f"made {times} times:\n  {operation}"


def _of_values(told: Sequence[Operation], timeline: Timeline) -> Iterator[str]:
    """Every answer is what the chain has at the revision that it names, stale or not."""
    for operation in told:
        if operation.outcome is Outcome.OK and operation.revision is not None:
            value = timeline.at(operation.key, operation.revision)
            if value != operation.value:
                yield f"the chain has {value!r} there:\n  {operation}"


def _of_order(told: Sequence[Operation]) -> Iterator[str]:
    """No answer that is called fresh, and no write, is from before what was known to anybody."""
    returned = sorted(filter(_is_certain, told), key=lambda operation: operation.returned)
    newest, upto = 0, 0
    for operation in filter(_is_certain, told):
        while upto < len(returned) and returned[upto].returned < operation.invoked:
            newest = max(newest, returned[upto].revision or 0)
            upto += 1
        revision = operation.revision or 0
        if revision < newest or (operation.is_write and revision == newest):
            yield f"revision {newest} was known before:\n  {operation}"


def _is_certain(operation: Operation) -> bool:
    done = operation.outcome is Outcome.OK and operation.revision is not None
    return done and not operation.stale


def _of_going_back(told: Sequence[Operation]) -> Iterator[str]:
    """What one host shows one client as stale never goes back, and is called so by the host."""
    newest: dict[tuple[str, str], int] = {}
    for operation in told:
        if operation.outcome is not Outcome.OK or not operation.stale:
            continue
        if operation.behind:
            yield f"called fresh by its host, and older than what the client knew:\n  {operation}"
        if operation.host and operation.kind is history.Kind.READ:
            known = newest.setdefault((operation.process, operation.host), 0)
            revision = operation.revision or 0
            if revision < known:
                yield f"at this host this client has seen revision {known}:\n  {operation}"
            newest[operation.process, operation.host] = max(known, revision)
