"""Whether a history of registers is linearizable (Herlihy and Wing, 1990).

It is, if each operation can be given one moment between its invocation and its response such that
all of them, one after the other in that order, do what was answered. Each register is looked at by
itself: a history is linearizable if its part at every register is. An operation of unknown outcome
may be given any later moment, or none.

The search is Wing and Gong's, with Lowe's additions ("Testing for linearizability", 2017): it goes
from response to response, gives operations their moments only when a response cannot be explained
otherwise, and never looks twice at a configuration: which of the open operations are done, and what
the register then is. Two choices are never tried, because they cannot be worse than others: what
merely looks and finds what it should is done at once; a write of what nobody ever sees is done
right before another write, or at its response.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from support.history import Kind, Operation, Outcome, Value

CONFIGURATIONS = 2_000_000
"""Of one register: a search that would look at more gives up."""
SHOWN = 8
"""How many operations before the violation an explanation shows."""


class Undecided(Exception):
    """The search for an order of one register's operations was given up."""


@dataclass(frozen=True, slots=True)
class Violation:
    """No order explains a register's operations up to one response; it does up to the last before.

    `order`: one that explains all that had returned by then. `possible`: what the register may
    have been when `stuck` returned, by any order.
    """

    key: str
    stuck: Operation
    overlapping: tuple[Operation, ...]
    order: tuple[Operation, ...]
    possible: frozenset[Value]

    def __str__(self) -> str:
        last = self.order[-SHOWN:]
        left_out = len(self.order) - len(last)
        return "\n".join(
            [
                f"{self.key} is not linearizable: no order explains that",
                f"  {self.stuck}",
                "Overlapping with it, or of an outcome that is not known:",
                *(f"  {operation}" for operation in self.overlapping or ["nothing"]),
                f"An order of what came before it{f', after {left_out} more' * bool(left_out)}:",
                *(f"  {operation}" for operation in last or ["nothing"]),
                "By then it can have been: " + ", ".join(sorted(map(repr, self.possible))),
            ]
        )


def check(operations: Iterable[Operation], *, initial: Value = None) -> list[Violation]:
    """The first violation of each register, if it has one; none: the history is linearizable.

    Every register is `initial` in the beginning. Reads that are marked stale are not looked at.
    `Undecided` when the search for one of them takes too long.
    """
    registers: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        if operation.outcome is not Outcome.FAILED and not operation.stale:
            registers[operation.key].append(operation)
    return [
        violation
        for key, found in sorted(registers.items())
        if (violation := _Search(key, found, initial).violation()) is not None
    ]


class _Open(NamedTuple):
    """An operation that is open, its bit among those, and what it can do."""

    operation: Operation
    bit: int
    unseen: bool
    """A write whose value nobody sees: what is there before and after it does not matter."""


class _Return(NamedTuple):
    """The response of one operation, and all that are open then, itself among them."""

    of: _Open
    open: tuple[_Open, ...]


class _Done(NamedTuple):
    """The operations in the order in which they were done, from the last one back."""

    operation: Operation
    before: _Done | None


class _Node(NamedTuple):
    """A configuration, and the choices that are left to be tried in it."""

    level: int
    mask: int
    choices: Iterator[_Open]
    done: _Done | None


def after(operation: Operation, value: Value) -> tuple[bool, Value]:
    """Whether an operation can be done as it was answered when the register is `value`.

    And what the register then is.
    """
    match operation.kind:
        case Kind.READ:
            return operation.value == value, value
        case Kind.WRITE:
            return True, operation.value
        case Kind.SWAP if operation.matched:
            return operation.expected == value, operation.value
        case Kind.SWAP:
            return operation.expected != value, value


class _Search:
    """The search for an order of one register's operations."""

    def __init__(self, key: str, operations: Sequence[Operation], initial: Value) -> None:
        self._key = key
        self._initial = initial
        self._levels = list(_returns(operations))
        self._seen: set[tuple[int, int, Value]] = set()
        self._furthest: tuple[int, _Done | None] = (0, None)

    def violation(self) -> Violation | None:
        """What cannot be explained, if something cannot."""
        stack: list[_Node] = []
        if self._reached(stack, 0, 0, self._initial, None):
            return None
        while stack:
            node = stack[-1]
            chosen = next(node.choices, None)
            if chosen is None:
                stack.pop()
                continue
            mask, done = node.mask, node.done
            if chosen.operation.kind is Kind.WRITE:
                for other in self._levels[node.level].open:
                    if other.unseen and other is not chosen and not mask & other.bit:
                        mask, done = mask | other.bit, _Done(other.operation, done)
            done = _Done(chosen.operation, done)
            if self._reached(stack, node.level, mask | chosen.bit, chosen.operation.value, done):
                return None
        return self._explained()

    def _reached(
        self, stack: list[_Node], level: int, mask: int, value: Value, done: _Done | None
    ) -> bool:
        """Go on from a configuration as far as there is no choice; whether that is the end."""
        while True:
            if level > self._furthest[0]:
                self._furthest = (level, done)
            if level == len(self._levels):
                return True
            if (level, mask, value) in self._seen:
                return False
            self._seen.add((level, mask, value))
            if len(self._seen) > CONFIGURATIONS:
                raise Undecided(f"{self._key}: more than {CONFIGURATIONS} configurations")
            returning, among = self._levels[level]
            for other in among:
                looks = not mask & other.bit and not other.operation.is_write
                if looks and after(other.operation, value)[0]:
                    mask, done = mask | other.bit, _Done(other.operation, done)
            if not mask & returning.bit:
                stack.append(_Node(level, mask, _choices(returning, among, mask, value), done))
                return False
            level, mask = level + 1, mask & ~returning.bit

    def _explained(self) -> Violation:
        level, done = self._furthest
        stuck = self._levels[level].of.operation
        order: list[Operation] = []
        while done is not None:
            order.append(done.operation)
            done = done.before
        return Violation(
            self._key,
            stuck,
            tuple(o.operation for o in self._levels[level].open if o.operation is not stuck),
            tuple(reversed(order)),
            frozenset(value for at, _, value in self._seen if at == level),
        )


def _choices(returning: _Open, among: Sequence[_Open], mask: int, value: Value) -> Iterator[_Open]:
    """What may be done next so that `returning` can be: that itself, and what may help it."""
    possible = [
        other
        for other in among
        if not mask & other.bit
        and (other is returning or not other.unseen)
        and other.operation.is_write
        and after(other.operation, value)[0]
    ]
    wanted = returning.operation
    sought = wanted.value if wanted.kind is Kind.READ else wanted.expected
    possible.sort(key=lambda o: (o is not returning, o.operation.value != sought))
    return iter(possible)


def _returns(operations: Sequence[Operation]) -> Iterator[_Return]:
    """The responses in their order, each with what is open then.

    Of two at the same moment an invocation comes before a response: they overlap.
    """
    seen_by_swaps = any(not operation.matched for operation in operations)
    seen = {o.value for o in operations if o.kind is Kind.READ and o.outcome is Outcome.OK}
    seen |= {o.expected for o in operations if o.kind is Kind.SWAP}
    events: list[tuple[float, bool, int]] = []
    for number, operation in enumerate(operations):
        unknown = operation.outcome is Outcome.UNKNOWN
        if unknown and (
            operation.kind is Kind.READ or (operation.value not in seen and not seen_by_swaps)
        ):
            continue  # Whether it was done or not, nobody can tell.
        events.append((operation.invoked, False, number))
        if not unknown:
            events.append((operation.returned, True, number))
    opened: dict[int, _Open] = {}
    used = 0
    for _, returns, number in sorted(events):
        operation = operations[number]
        if returns:
            yield _Return(opened[number], tuple(opened.values()))
            used &= ~opened.pop(number).bit
            continue
        bit = ~used & (used + 1)  # the lowest that is free
        used |= bit
        unseen = operation.kind is Kind.WRITE and operation.value not in seen and not seen_by_swaps
        opened[number] = _Open(operation, bit, unseen)
