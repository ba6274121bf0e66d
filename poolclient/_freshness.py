"""How fresh answers are, and the newest state a client has seen.

Pure. A client that has seen revision 10 must not be told revision 9 as if it were the present,
whichever host it asks (design §4.4). What counts is what it had seen *before* it asked: of two
calls under way at once either may be answered first.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from poolclient._errors import Conflict
from poolcore.errors import Reason
from poolcore.model import Incarnation


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the pool's history: a revision, within an incarnation (its uuid)."""

    incarnation: str
    revision: int


@dataclass(frozen=True, slots=True)
class Freshness:
    """Where in the pool's history an answer was read, and whether that is known to be the newest.

    `stale`: the host had no master to confirm it, or the answer is older than one that this client
    had before. `age_seconds`: since when the host has had no master; none if that is not why.
    """

    incarnation: str
    revision: int
    stale: bool = False
    age_seconds: float | None = None

    @property
    def age(self) -> str:
        """`age_seconds` for people."""
        return "?" if self.age_seconds is None else f"{self.age_seconds:.1f}"


class Horizon:
    """The newest (incarnation, revision) that a client has seen."""

    def __init__(self) -> None:
        self._counters: dict[str, int] = {}
        self._newest: Cursor | None = None

    @property
    def newest(self) -> Cursor | None:
        """None until the first answer."""
        return self._newest

    @property
    def revision(self) -> int:
        """The newest revision; 0 until the first answer."""
        return 0 if self._newest is None else self._newest.revision

    def knows(self, incarnation: str) -> bool:
        """Whether the order of this incarnation among the others is known."""
        return incarnation in self._counters

    def learn(self, incarnation: Incarnation) -> None:
        """Take note of an incarnation; a higher one than the newest so far replaces it.

        Two of the same counter are two lives of the pool that exclude each other: `Conflict`.
        """
        for uuid, counter in self._counters.items():
            if counter == incarnation.counter and uuid != incarnation.uuid:
                raise Conflict(Reason.INCARNATION_MISMATCH, expected=uuid, actual=incarnation.uuid)
        self._counters[incarnation.uuid] = incarnation.counter
        if self._newest is None or incarnation.counter > self._counters[self._newest.incarnation]:
            self._newest = Cursor(incarnation.uuid, 0)

    def advance(self, incarnation: str, revision: int) -> None:
        """Take note of a revision; one of an older or unknown incarnation changes nothing."""
        newest = self._newest
        if newest and newest.incarnation == incarnation and newest.revision < revision:
            self._newest = Cursor(incarnation, revision)

    def judged(self, answer: Freshness, *, asked_at: Cursor | None) -> Freshness:
        """The freshness of an answer, given what had been seen when the question was sent."""
        if asked_at is None or answer.stale:
            return answer
        if answer.incarnation == asked_at.incarnation:
            behind = answer.revision < asked_at.revision
        else:
            order = self._counters
            behind = order.get(answer.incarnation, 0) < order.get(asked_at.incarnation, 0)
        return dataclasses.replace(answer, stale=True) if behind else answer
