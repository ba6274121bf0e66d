"""A pool in memory: what the fake hosts of `support.fake_server` serve."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from immutables import Map

from poolcore.errors import PoolError, Reason
from poolcore.model import Described, Finding, Kind, Object
from poolcore.replica import Change, CommitId, Head, Put, Remove, State, changed


@dataclasses.dataclass(frozen=True)
class Commit:
    """One commit of the pool."""

    id: CommitId
    changes: tuple[Change, ...]


class FakePool:
    """The truth that all hosts of the pool serve."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.commits: deque[Commit] = deque()
        self.outcomes: dict[str, tuple[Object, int]] = {}
        self.executed: Counter[str] = Counter()
        """How often each request id was really executed."""
        self.findings: tuple[Finding, ...] = ()
        self.oldest_kept = state.revision
        self.moved = asyncio.Event()

    @property
    def head(self) -> Head:
        state = self.state
        host = min(state.tables[Kind.HOST])
        return Head(state.incarnation, state.last.term, state.revision, host)  # type: ignore[arg-type]

    def commit(self, *changes: Change) -> int:
        """Commit changes and return the revision."""
        state = self.state
        commit = CommitId(state.last.term, state.revision + 1)
        self.state = State(state.incarnation, commit, changed(state.tables, changes))
        self.commits.append(Commit(commit, changes))
        self.moved.set()
        self.moved = asyncio.Event()
        return commit.revision

    def put(self, obj: Object, **changes: Any) -> int:
        """Commit an object, changed as said."""
        return self.commit(Put(dataclasses.replace(obj, **changes)))

    def remove(self, obj: Object) -> int:
        """Commit that an object is no more."""
        return self.commit(Remove(obj.KIND, obj.uuid))

    def forget_history(self) -> None:
        """Keep no commit that is there now."""
        self.commits.clear()
        self.oldest_kept = self.state.revision

    def after(self, revision: int) -> list[Commit]:
        """The commits after `revision`."""
        if revision < self.oldest_kept:
            raise PoolError(Reason.HISTORY_GONE, since=str(revision), oldest=str(self.oldest_kept))
        return [c for c in self.commits if c.id.revision > revision]

    def find(self, kind: Kind, name: str) -> Object:
        """The object of that uuid, name or unique prefix."""
        table = self.state.tables.get(kind, Map())
        if name in table:
            return table[name]
        label = [o for o in table.values() if getattr(o, "name_label", "") == name]
        found = label or [
            o
            for o in table.values()
            if name and (o.uuid.startswith(name) or getattr(o, "name_label", "").startswith(name))
        ]
        if not found:
            raise PoolError(Reason.OBJECT_NOT_FOUND, kind=kind, name=name)
        if len(found) > 1:
            names = ", ".join(sorted(o.uuid for o in found))
            raise PoolError(Reason.OBJECT_AMBIGUOUS, kind=kind, name=name, candidates=names)
        return found[0]

    def once(self, request_id: str, do: Callable[[], Object]) -> tuple[Object, int]:
        """The first outcome of a request, executing it if there is none yet."""
        if request_id in self.outcomes:
            return self.outcomes[request_id]
        obj = do()
        self.executed[request_id] += 1
        outcome = obj, self.commit(Put(obj))
        if request_id:
            self.outcomes[request_id] = outcome
        return outcome


def patched(obj: Object, patch: Any) -> Described:
    """The object after a `MetadataPatch`."""
    assert isinstance(obj, Described)
    if patch.HasField("name_label") and not patch.name_label:
        raise PoolError(Reason.INVALID_VALUE, field="name_label", problem="must not be empty")
    config = {**obj.other_config, **patch.set_other_config}
    for key in patch.remove_other_config:
        config.pop(key, None)
    return dataclasses.replace(
        obj,
        name_label=patch.name_label if patch.HasField("name_label") else obj.name_label,
        name_description=(
            patch.name_description if patch.HasField("name_description") else obj.name_description
        ),
        tags=(obj.tags | frozenset(patch.add_tags)) - frozenset(patch.remove_tags),
        other_config=Map(config),
    )
