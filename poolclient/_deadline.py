"""Deadlines: by when a call must be over, on the event loop's clock."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from poolclient._errors import TimedOut
from poolcore.errors import Reason


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time, and how many seconds away it was when it was set."""

    at: float
    seconds: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The deadline `seconds` from now."""
        return cls(asyncio.get_running_loop().time() + seconds, seconds)

    @property
    def remaining(self) -> float:
        """Seconds left; 0 when it has passed."""
        return max(0.0, self.at - asyncio.get_running_loop().time())

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self.remaining <= 0.0

    def error(self) -> TimedOut:
        """What to raise when it has passed."""
        return TimedOut(Reason.DEADLINE_PASSED, seconds=f"{self.seconds:g}")
