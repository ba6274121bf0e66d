"""The pool's metadata as a value: a snapshot, the deltas that lead from one to the next, `apply`.

Pure, with structural sharing: applying a delta costs the delta's size, not the pool's. The law
that everything else leans on: *applying the deltas equals taking the snapshot*.

What is not promised: `apply` checks that a delta follows the state it is given, not that the
delta's content makes sense; that was decided by the master before it was committed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from immutables import Map

from poolcore.model import Accession, Host, HostId, Incarnation, Kind, Object, Pool
from poolcore.requests import RequestRecord, RequestWindow

T = TypeVar("T", bound=Object)

DEFAULT_HISTORY_REVISIONS = 10_000

Tables = Map[Kind, Map[str, Object]]


@dataclass(frozen=True, slots=True, order=True)
class CommitId:
    """One link of the chain: unique within an incarnation."""

    term: int
    revision: int


@dataclass(frozen=True, slots=True)
class Head:
    """The one register every commit compares and moves (design §4.1)."""

    incarnation: Incarnation
    term: int
    revision: int
    master: HostId


@dataclass(frozen=True, slots=True)
class Put:
    """The object is created or becomes this."""

    object: Object


@dataclass(frozen=True, slots=True)
class Remove:
    """The object is no more."""

    kind: Kind
    uuid: str


Change = Put | Remove


@dataclass(frozen=True, slots=True)
class Succession:
    """That the chain goes on in another store: in which incarnation, and who has that store."""

    incarnation: Incarnation
    heir: HostId
    why: Accession


@dataclass(frozen=True, slots=True)
class Delta:
    """One commit: what it changed, on top of which predecessor, on whose request."""

    incarnation: str
    """The uuid of the incarnation that it follows a commit of."""
    commit: CommitId
    predecessor: CommitId
    changes: tuple[Change, ...]
    request: RequestRecord | None = None
    succession: Succession | None = None
    """Every commit after this one is of that incarnation (design §5)."""


def moves_to_voters(delta: Delta) -> bool:
    """Whether the chain goes on in the pool's own etcd after this commit (design §5)."""
    pools = (c.object for c in delta.changes if isinstance(c, Put) and isinstance(c.object, Pool))
    return delta.succession is not None and any(pool.voters is not None for pool in pools)


class DeltaDoesNotFollow(Exception):
    """The delta belongs to another incarnation or follows another commit than the state's last."""


@dataclass(frozen=True, slots=True)
class State:
    """Everything the pool knows at one revision."""

    incarnation: Incarnation
    last: CommitId
    tables: Tables = Map()
    requests: RequestWindow = RequestWindow()

    @property
    def revision(self) -> int:
        """The revision of the last commit; 0 before the first."""
        return self.last.revision

    @property
    def reach(self) -> tuple[int, int]:
        """How far the chain goes: count of the incarnation, revision. Less is older."""
        return self.incarnation.counter, self.revision

    @property
    def pool(self) -> Pool:
        """The pool object; there is exactly one once the pool is founded."""
        return next(iter(self.all(Pool)))

    @property
    def history_revisions(self) -> int:
        """How many revisions of deltas and request ids are kept."""
        return next((p.history_revisions for p in self.all(Pool)), DEFAULT_HISTORY_REVISIONS)

    def all(self, cls: type[T]) -> Iterator[T]:
        """Every object of a class, in no particular order."""
        table: Mapping[str, Any] = self.tables.get(cls.KIND, Map())
        return iter(table.values())

    def get(self, cls: type[T], uuid: str | None) -> T | None:
        """The object of that class and uuid, or none."""
        if uuid is None:
            return None
        found: Any = self.tables.get(cls.KIND, Map()).get(uuid)
        return found  # type: ignore[no-any-return]  # a table holds only its kind's class

    def __contains__(self, key: tuple[Kind, str]) -> bool:
        kind, uuid = key
        return uuid in self.tables.get(kind, Map())

    def objects(self) -> Iterator[Object]:
        """Every object, kinds in the order of `Kind`, uuids sorted: the canonical order."""
        for kind in Kind:
            table = self.tables.get(kind, Map())
            for uuid in sorted(table):
                yield table[uuid]

    def __len__(self) -> int:
        return sum(len(table) for table in self.tables.values())

    def host(self, uuid: HostId) -> Host:
        """The host of that uuid; KeyError when the pool has none."""
        host = self.get(Host, uuid)
        if host is None:
            raise KeyError(uuid)
        return host


def changed(tables: Tables, changes: Iterable[Change]) -> Tables:
    """The tables after `changes`, sharing everything they do not touch.

    Removing what is not there is no error: the outcome is the same.
    """
    for change in changes:
        if isinstance(change, Put):
            obj = change.object
            tables = tables.set(obj.KIND, tables.get(obj.KIND, Map()).set(obj.uuid, obj))
        else:
            table = tables.get(change.kind, Map())
            if change.uuid in table:
                table = table.delete(change.uuid)
                tables = tables.set(change.kind, table) if table else tables.delete(change.kind)
    return tables


def apply(state: State, delta: Delta) -> State:
    """The state after `delta`; `DeltaDoesNotFollow` unless it follows `state`'s last commit."""
    if delta.incarnation != state.incarnation.uuid:
        raise DeltaDoesNotFollow(
            f"delta of incarnation {delta.incarnation}, state of {state.incarnation.uuid}"
        )
    if delta.predecessor != state.last or delta.commit.revision != state.revision + 1:
        raise DeltaDoesNotFollow(
            f"delta {delta.commit} after {delta.predecessor}, state at {state.last}"
        )
    tables = changed(state.tables, delta.changes)
    incarnation = state.incarnation if delta.succession is None else delta.succession.incarnation
    # The window's length is read after the change: every host reads it from the same state.
    after = State(incarnation, delta.commit, tables)
    return State(
        incarnation,
        delta.commit,
        tables,
        state.requests.advanced(delta.commit.revision, after.history_revisions, delta.request),
    )


def snapshot(
    incarnation: Incarnation,
    last: CommitId,
    objects: Iterable[Object],
    requests: Iterable[RequestRecord],
) -> State:
    """The state that consists of `objects` and remembers `requests`, in any order."""
    tables: dict[Kind, dict[str, Object]] = {}
    for obj in objects:
        tables.setdefault(obj.KIND, {})[obj.uuid] = obj
    records = list(requests)
    window = RequestWindow(
        Map({r.id: r for r in records}), Map({r.revision: r.id for r in records})
    )
    return State(incarnation, last, Map({k: Map(t) for k, t in tables.items()}), window)


def plain(value: object) -> Any:
    """A value of the model as JSON has it: maps and sets sorted, times RFC 3339 in UTC."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(value[k]) for k in sorted(value)}
    if isinstance(value, frozenset):
        return sorted(plain(v) for v in value)
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, StrEnum):
        return value.value
    return value


def dump(state: State) -> str:
    """The canonical form of a state: JSON Lines, the same text for equal states on every host."""

    def line(kind: str, value: object) -> str:
        return json.dumps({kind: plain(value)}, sort_keys=True, ensure_ascii=False)

    lines = [line("state", {"incarnation": state.incarnation, "last": state.last})]
    lines += [line(obj.KIND, obj) for obj in state.objects()]
    by_revision = state.requests.by_revision
    lines += [line("request", state.requests.by_id[by_revision[r]]) for r in sorted(by_revision)]
    return "\n".join(lines) + "\n"
