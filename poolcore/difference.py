"""What differs between two revisions of the pool, gathered from the deltas in between.

The log holds objects whole, as each commit left them, and not what they were before. That is found
in the deltas that came earlier, as far as they are kept; where the history begins too late for an
object, its difference says so (`before_kept`).

Pure. The law: the difference from a to c is that from a to b continued by that from b to c.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from poolcore.model import Kind, Object
from poolcore.replica import Delta, Put, plain

Key = tuple[Kind, str]


class Outcome(StrEnum):
    """What became of an object between two revisions."""

    CREATED = "created"
    CHANGED = "changed"
    REMOVED = "removed"
    UNCHANGED = "unchanged"
    """It was touched, and is at the end as it was at the beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """A commit that changed an object; `request_id` is none if it answered no request."""

    revision: int
    term: int
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field that differs: its dotted name, and its values as JSON has them; none: not there."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectDifference:
    """What became of one object between two revisions."""

    kind: Kind
    uuid: str
    before: Object | None = None
    """None when it was not there, or nobody knows (`before_kept`)."""
    before_kept: bool
    """Whether the history tells what it was before."""
    after: Object | None = None
    """None when it is no more."""
    touches: tuple[Touch, ...] = ()
    """The commits that changed it, in order."""

    @property
    def outcome(self) -> Outcome:
        """Created, changed, removed, or touched and as before; *changed* if only that is known."""
        if not self.before_kept:
            return Outcome.REMOVED if self.after is None else Outcome.CHANGED
        if self.before == self.after:
            return Outcome.UNCHANGED
        if self.before is None:
            return Outcome.CREATED
        return Outcome.REMOVED if self.after is None else Outcome.CHANGED

    @property
    def name_label(self) -> str:
        """The object's last known name; empty if it has none."""
        return getattr(self.after, "name_label", "") or getattr(self.before, "name_label", "")

    @property
    def fields(self) -> tuple[FieldChange, ...]:
        """Field by field what differs, entries of maps each on its own; nothing if not kept."""
        if not self.before_kept:
            return ()
        before, after = dict(_flat(self.before)), dict(_flat(self.after))
        return tuple(
            FieldChange(name, before.get(name), after.get(name))
            for name in dict.fromkeys([*before, *after])
            if before.get(name) != after.get(name)
        )


def _flat(obj: Object | None) -> Iterator[tuple[str, Any]]:
    if obj is not None:
        yield from _dotted(plain(obj), "")


def _dotted(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _dotted(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item


class Gathering:
    """Gathers the difference: first every delta of the range, then every earlier one that is kept.

    Its size is that of the objects which the range touches, not that of the history.
    """

    def __init__(self) -> None:
        self._found: dict[Key, ObjectDifference] = {}

    def add(self, delta: Delta) -> None:
        """Take the next delta of the range, in order."""
        request = None if delta.request is None else delta.request.id
        commit = delta.commit
        touch = Touch(revision=commit.revision, term=commit.term, request_id=request)
        for change in delta.changes:
            after = change.object if isinstance(change, Put) else None
            kind, uuid = (after.KIND, after.uuid) if after else (change.kind, change.uuid)  # type: ignore[union-attr]  # a Remove has them
            known = self._found.get((kind, uuid))
            if known is None:
                known = ObjectDifference(kind=kind, uuid=uuid, before_kept=False)
            touches = known.touches if known.touches[-1:] == (touch,) else (*known.touches, touch)
            self._found[kind, uuid] = replace(known, after=after, touches=touches)

    def look_back(self, delta: Delta) -> None:
        """Take the next delta from before the range, in order: the last one to tell is right."""
        for change in delta.changes:
            before = change.object if isinstance(change, Put) else None
            key = (before.KIND, before.uuid) if before else (change.kind, change.uuid)  # type: ignore[union-attr]  # a Remove has them
            if key in self._found:
                self._found[key] = replace(self._found[key], before=before, before_kept=True)

    def result(self, *, whole: bool) -> tuple[ObjectDifference, ...]:
        """Every object of the range, in canonical order.

        `whole`: the history was looked at from revision 1, so what it did not tell of was not
        there.
        """
        order = {kind: number for number, kind in enumerate(Kind)}
        found = sorted(self._found.values(), key=lambda d: (order[d.kind], d.uuid))
        return tuple(replace(d, before_kept=True) if whole else d for d in found)
