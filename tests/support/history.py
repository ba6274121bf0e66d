"""What clients asked of registers, and what they were told: the history that checks look at.

A register is one named value. A client is called a process here, as in the literature: it does one
thing after the other. Times are seconds of one monotonic clock, so whoever records has to be one
machine.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

Value = str | None
"""None: nothing is there."""


class Kind(StrEnum):
    """What a process may ask of a register."""

    READ = "read"
    WRITE = "write"
    SWAP = "swap"
    """Write if what is there is what was expected."""


class Outcome(StrEnum):
    """What the process was told of it."""

    OK = "ok"
    FAILED = "failed"
    """Certainly not done, and tells nothing about the register."""
    UNKNOWN = "unknown"
    """May be done at any time from its invocation on, or never."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that a process asked of a register."""

    process: str
    key: str
    kind: Kind
    value: Value
    """What was read, or what was to be written."""
    invoked: float
    returned: float = math.inf
    outcome: Outcome = Outcome.UNKNOWN
    expected: Value = None
    """Of a swap."""
    matched: bool = True
    """Of a swap that is `OK`: false if something else than expected was there, and was left."""
    revision: int | None = None
    """At which revision of the whole it was done or read, by the answer."""
    stale: bool = False
    """Of a read: the answer says that it may be old."""
    behind: bool = False
    """Of a stale read: its host called it fresh, and it was older than what this client knew."""
    host: str = ""
    """Who answered, if that is known."""

    @property
    def is_write(self) -> bool:
        """Whether it has changed the register, if it was done."""
        return self.kind is not Kind.READ and self.matched

    def __str__(self) -> str:
        did = {
            Kind.READ: f"read {self.value!r}",
            Kind.WRITE: f"wrote {self.value!r}",
            Kind.SWAP: f"swapped {self.expected!r} for {self.value!r}"
            if self.matched
            else f"found something else than {self.expected!r}",
        }[self.kind]
        notes = [
            "" if self.outcome is Outcome.OK else f"outcome {self.outcome}",
            "stale" if self.stale else "",
            "" if self.revision is None else f"revision {self.revision}",
            f"at {self.host}" if self.host else "",
        ]
        noted = ", ".join(filter(None, notes))
        span = f"{self.invoked:10.4f} – {self.returned:10.4f} s"
        return f"{span}  {self.process}: {did}" + (f" ({noted})" if noted else "")


class Call:
    """An operation under way. Whoever never tells its end leaves it unknown."""

    def __init__(self, begun: Operation, clock: Callable[[], float]) -> None:
        self.operation = begun
        self._clock = clock

    def ok(
        self,
        *,
        value: Value = None,
        matched: bool = True,
        revision: int | None = None,
        stale: bool = False,
        behind: bool = False,
        host: str = "",
    ) -> None:
        """It was done; `value` is what a read found."""
        begun = self.operation
        self.operation = replace(
            begun,
            value=value if begun.kind is Kind.READ else begun.value,
            matched=matched,
            revision=revision,
            stale=stale,
            behind=behind,
            host=host,
            returned=self._clock(),
            outcome=Outcome.OK,
        )

    def found(self, value: Value) -> None:
        """Of a swap: it was refused because this was there; so it comes to a read."""
        self.operation = replace(self.operation, kind=Kind.READ, expected=None)
        self.ok(value=value)

    def failed(self) -> None:
        """It was certainly not done."""
        self.operation = replace(self.operation, returned=self._clock(), outcome=Outcome.FAILED)


class History:
    """Records operations as they happen."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._calls: list[Call] = []

    def begin(
        self, process: str, key: str, kind: Kind, value: Value = None, *, expected: Value = None
    ) -> Call:
        """A process is about to ask."""
        begun = Operation(process, key, kind, value, self.now(), expected=expected)
        call = Call(begun, self.now)
        self._calls.append(call)
        return call

    def now(self) -> float:
        """Seconds since the history began."""
        return self._clock() - self._began

    @property
    def operations(self) -> list[Operation]:
        """All of them, in the order of their invocations."""
        return [call.operation for call in self._calls]


def save(operations: Iterable[Operation], file: Path) -> None:
    """Keep a history as JSON Lines."""
    with file.open("w") as lines:
        for operation in operations:
            returned = None if math.isinf(operation.returned) else operation.returned
            print(json.dumps(asdict(operation) | {"returned": returned}), file=lines)


def load(file: Path) -> Iterator[Operation]:
    """A history that was kept."""
    with file.open() as lines:
        for line in lines:
            found = json.loads(line)
            found["kind"], found["outcome"] = Kind(found["kind"]), Outcome(found["outcome"])
            found["returned"] = math.inf if found["returned"] is None else found["returned"]
            yield Operation(**found)
