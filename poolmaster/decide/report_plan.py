"""A report that changes much, in steps that are found out beforehand.

To compare a host's whole inventory with the pool takes a moment for each thousand objects, and the
commits that follow from it are many. So it is compared once, away from the writer, and each commit
takes the next part of what came of that, as long as the pool is still what it was compared with.

Pure. The promise: what a plan gives for a state is what the report changes in that state, and no
reference is left dangling after any part of it. That holds while nobody else has added or removed
anything that reports speak of, no host has come, gone, or changed whether it is live, and the
objects that a part touches are the very ones that were compared. What administrators change on
other objects is no matter: a report says nothing about that.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from immutables import Map

from poolcore.model import CLASSES, HostMetrics, Kind
from poolcore.replica import Change, Put, State, Tables, changed

REPORTED = frozenset(Kind) - {Kind.POOL, Kind.TASK, Kind.MESSAGE, Kind.LOCK, Kind.MASTER_RECORD}
"""The kinds that reports speak of, hosts included."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What has to stay as it is for a plan to hold."""

    sizes: Map[Kind, int]
    """How many objects of each kind there are."""
    live: frozenset[str]

    @classmethod
    def of(cls, tables: Tables) -> Shape:
        """The shape of a pool."""
        sizes = Map({kind: len(tables.get(kind, Map())) for kind in REPORTED})
        metrics = tables.get(Kind.HOST_METRICS, Map()).values()
        live = (m.host for m in metrics if isinstance(m, HostMetrics) and m.live)
        return cls(sizes, frozenset(live))


@dataclass(frozen=True, slots=True)
class Part:
    """The next changes, and what the pool has to be for those that come then."""

    changes: tuple[Change, ...]
    then: Shape


class ReportPlan:
    """The changes that a report comes to in `compared`, in their order."""

    def __init__(self, compared: State, changes: tuple[Change, ...]) -> None:
        self._compared = compared
        self._left = changes
        self._shape = Shape.of(compared.tables)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left of it."""
        return not self._left

    def next(self, state: State, at_most: int) -> Part:
        """What comes next in `state`; no changes when the plan does not hold any more."""
        if Shape.of(state.tables) != self._shape:
            return Part((), self._shape)
        changes = tuple(takewhile(lambda c: self._holds(state, c), self._left[:at_most]))
        return Part(changes, Shape.of(changed(state.tables, changes)))

    def taken(self, part: Part) -> None:
        """A part was committed."""
        self._left = self._left[len(part.changes) :]
        self._shape = part.then

    def _holds(self, state: State, change: Change) -> bool:
        kind = change.object.KIND if isinstance(change, Put) else change.kind
        uuid = change.object.uuid if isinstance(change, Put) else change.uuid
        return state.get(CLASSES[kind], uuid) is self._compared.get(CLASSES[kind], uuid)
