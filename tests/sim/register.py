"""What must hold for one store of a pool, looked at after every transaction that it applies.

The chain only grows: revisions are dense, each delta follows its predecessor and the objects are
what it says, terms never fall and belong to one master each, a request id is in the chain once,
the log is as long as the pool's history. Broken rules are collected rather than raised: the code
that is looked at must not be able to swallow them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from poolcore.model import CLASSES, Accession, HostId, Kind
from poolcore.replica import (
    CommitId,
    Delta,
    DeltaDoesNotFollow,
    Head,
    Put,
    State,
    apply,
    snapshot,
)
from poolcore.wire.chain import decode_delta
from poolcore.wire.codec import decode_object
from poolmaster.layout import (
    HEAD,
    LOG,
    OBJECTS,
    REQUESTS,
    decode_head,
    log_key,
    object_key,
    request_key,
)
from poolmaster.store.contract import prefix_end
from poolmaster.store.memory import MemoryStoreData

Keys = set[tuple[Kind, str]]


@dataclass
class Violations:
    """Every rule that was seen broken."""

    found: list[str] = field(default_factory=list)

    def expect(self, holds: bool, rule: str) -> None:
        """Note that `rule` is broken unless it `holds`."""
        if not holds:
            self.found.append(rule)

    def raise_any(self) -> None:
        """AssertionError if any rule was broken."""
        if self.found:
            first = "\n  ".join(self.found[:10])
            raise AssertionError(f"{len(self.found)} broken rules, the first of them:\n  {first}")


def _ignore(_register: Register, _before: State, _delta: Delta) -> None:
    pass


@dataclass(eq=False)
class Register:
    """Watches a store from its founding on; `name` is for people."""

    data: MemoryStoreData
    violations: Violations
    name: str = "the store"
    on_commit: Callable[[Register, State, Delta], None] = _ignore
    """Told each commit when it has been applied, with the state before it."""
    parent: Register | None = None
    """Of the store before this one, if this one goes on from it."""
    on_begin: Callable[[Register], None] = lambda _: None
    """Told when the store has its register."""
    succeeded: bool = False
    """Whether another store has gone on from this one."""
    head: Head | None = None
    states: dict[int, State] = field(default_factory=dict)
    """The state at every revision there ever was."""
    raw: dict[int, bytes] = field(default_factory=dict)
    """The delta of every revision there ever was."""
    executed: dict[str, int] = field(default_factory=dict)
    """Every request id that was executed, with its revision."""
    masters: dict[tuple[str, int], HostId] = field(default_factory=dict)

    @property
    def state(self) -> State:
        """The newest state that could be followed."""
        return self.states[max(self.states)]

    def lives(self) -> Iterator[Register]:
        """This one, and those before it."""
        life: Register | None = self
        while life is not None:
            yield life
            life = life.parent

    def expect(self, holds: bool, rule: str) -> None:
        self.violations.expect(holds, f"{self.name}: {rule}")

    def set(self) -> None:
        """Look: the store rings after each transaction (`MemoryStoreData.ringing`)."""
        found = self.data.read(HEAD, None, None).items
        if not found:
            self.expect(self.head is None, "head has gone")
            return
        head = decode_head(found[0].value)
        before, self.head = self.head, head
        if head == before:
            return
        self.expect(not self.succeeded, f"it goes on to {head}, and has a successor")
        if before is None:
            before = self._begun(head)
            self.on_begin(self)
        if self._is_withdrawn(before, head):
            del self.states[before.revision], self.raw[before.revision]
            return
        self._check_head(before, head)
        changed: Keys = set()
        for revision in range(before.revision + 1, head.revision + 1):
            changed |= self._follow(revision, head)
        state = self.states.get(head.revision)
        if state is not None and state.incarnation == before.incarnation:
            self._check_objects(state, changed)
        # Only now: the commits of a transaction came about together.
        for revision in range(before.revision + 1, head.revision + 1):
            if revision in self.raw:
                self.on_commit(self, self.states[revision - 1], decode_delta(self.raw[revision]))

    def _begun(self, head: Head) -> Head:
        """The register before the first one that this store has."""
        if self.parent is None:
            self.states[0] = snapshot(head.incarnation, CommitId(0, 0), (), ())
            return Head(head.incarnation, 1, 0, head.master)
        forked = self._joined(self.parent, head)
        self.expect(head.revision == forked + 1, f"it does not begin with one commit: {head}")
        self.states |= {r: s for r, s in self.parent.states.items() if r <= forked}
        self.raw |= {r: raw for r, raw in self.parent.raw.items() if r <= forked}
        self.executed |= {i: r for i, r in self.parent.executed.items() if r <= forked}
        self.masters = self.parent.masters
        self._check_parent(self.parent, head)
        return Head(self.states[forked].incarnation, head.term, forked, head.master)

    def _joined(self, parent: Register, head: Head) -> int:
        """Up to which revision this store has the commits of the one before it.

        Where a person has made a host go on, it may have taken some along from a voter's disk that
        it does not count as certain.
        """
        forked = head.incarnation.forked_at
        while self._by_a_person(head) and forked + 1 < head.revision:
            found = self.data.read(log_key(forked + 1), None, None).items
            if not found or found[0].value != parent.raw.get(forked + 1):
                break
            forked += 1
        return forked

    def _by_a_person(self, head: Head) -> bool:
        first = decode_delta(self.data.read(log_key(head.revision), None, None).items[0].value)
        return first.succession is not None and first.succession.why is Accession.EMERGENCY

    def _check_parent(self, parent: Register, head: Head) -> None:
        """Unless a person has given it up, the store before this one has ended with this chain."""
        ended = parent.head is not None and parent.head.incarnation == head.incarnation
        self.expect(self._by_a_person(head) or ended, f"it begins, and {parent.name} has not ended")
        parent.succeeded = True

    def _is_withdrawn(self, before: Head, head: Head) -> bool:
        """Whether the store's last commit was taken away again."""
        back = head.revision == before.revision - 1
        return back and head.incarnation == self.states[head.revision].incarnation != (
            before.incarnation
        )

    def _check_head(self, before: Head, head: Head) -> None:
        moved = f"from {before} to {head}"
        if head.incarnation != before.incarnation:
            self.expect(head.revision == before.revision + 1, f"a fork in a batch {moved}")
            return
        self.expect(head.term >= before.term, f"the term fell {moved}")
        self.expect(head.revision >= before.revision, f"the revision fell {moved}")
        if head.term > before.term:
            self.expect(head.revision == before.revision, f"a claim that is a commit {moved}")
        counted = (head.incarnation.uuid, head.term)
        master = self.masters.setdefault(counted, head.master)
        self.expect(master == head.master, f"two masters of one term {moved}")

    def _follow(self, revision: int, head: Head) -> Keys:
        found = self.data.read(log_key(revision), None, None).items
        self.expect(bool(found), f"revision {revision} is not in the log")
        before = self.states.get(revision - 1)
        if not found or before is None:
            return set()
        delta = decode_delta(found[0].value)
        self.expect(delta.commit == CommitId(head.term, revision), f"{delta.commit} at {head}")
        try:
            after = apply(before, delta)
        except DeltaDoesNotFollow as error:
            self.expect(False, f"revision {revision} does not follow: {error}")
            return set()
        if delta.request is not None:
            id_ = delta.request.id
            first = self.executed.setdefault(id_, revision)
            self.expect(first == revision, f"{id_} was executed at {first} and at {revision}")
            record = self.data.read(request_key(id_), None, None).items
            self.expect(bool(record), f"{id_} was executed and is not remembered")
        self.states[revision], self.raw[revision] = after, found[0].value
        return {
            (c.object.KIND, c.object.uuid) if isinstance(c, Put) else (c.kind, c.uuid)
            for c in delta.changes
        }

    def _check_objects(self, state: State, keys: Keys) -> None:
        for kind, uuid in keys:
            found = self.data.read(object_key(kind, uuid), None, None).items
            stored = decode_object(found[0].value) if found else None
            expected = state.get(CLASSES[kind], uuid)
            self.expect(stored == expected, f"{kind} {uuid} is not what the chain says")

    def check_whole(self) -> None:
        """Compare the store with the chain as a whole: objects, requests, log."""
        if self.head is None or self.head.revision not in self.states:
            return
        state = self.state
        if self.head.incarnation != self.states[min(self.states)].incarnation and (
            decode_delta(self.raw[self.head.revision]).succession is not None
        ):
            return  # It has ended, or has only just begun: the objects are another store's.
        items = self.data.read(OBJECTS, prefix_end(OBJECTS), None).items
        objects = [decode_object(item.value) for item in items]
        requests = self.data.read(REQUESTS, prefix_end(REQUESTS), None).items
        stored = snapshot(state.incarnation, state.last, objects, state.requests.by_id.values())
        self.expect(stored == state, "the objects are not what the chain says")
        remembered = {item.key for item in requests}
        window = {request_key(id_) for id_ in state.requests.by_id}
        self.expect(remembered == window, "the requests are not those of the chain's window")
        oldest = max(state.revision - state.history_revisions, 0)
        log = {item.key: item.value for item in self.data.read(LOG, prefix_end(LOG), None).items}
        if self.parent is not None and log:
            # It began with what the heir's replica had.
            oldest = max(oldest, decode_delta(log[min(log)]).commit.revision - 1)
        kept = {log_key(r): raw for r, raw in self.raw.items() if r > oldest}
        self.expect(log == kept, "the log is not the newest part of the chain")
