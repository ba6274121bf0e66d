"""What a benchmark finds, and how it is written down."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Aim:
    """A figure that was promised, and what came of it."""

    figure: str
    aim: str
    measured: str
    met: bool


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under headings; the first column says what a row is about."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(slots=True)
class Section:
    """One part's findings: how it was measured, tables, and what they mean for the aims."""

    title: str
    method: str
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    aims: list[Aim] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Spread:
    """A sample's median, 99th percentile and largest value, in seconds."""

    p50: float
    p99: float
    longest: float

    def __str__(self) -> str:
        return f"p50 {milliseconds(self.p50)}, p99 {milliseconds(self.p99)}"

    def cells(self) -> tuple[str, str]:
        """Median and percentile, for a table."""
        return milliseconds(self.p50), milliseconds(self.p99)

    def extremes(self) -> tuple[str, str]:
        """Median and largest value, for a table."""
        return milliseconds(self.p50), milliseconds(self.longest)

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Spread:
        """Of a sample that is not empty; percentiles by nearest rank."""
        ordered = sorted(seconds)
        return cls(_rank(ordered, 0.50), _rank(ordered, 0.99), ordered[-1])

    @classmethod
    def median(cls, spreads: Sequence[Spread]) -> Spread:
        """The median of each over several rounds."""
        return cls(
            statistics.median(s.p50 for s in spreads),
            statistics.median(s.p99 for s in spreads),
            statistics.median(s.longest for s in spreads),
        )


def _rank(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def milliseconds(seconds: float) -> str:
    """For a table: two or three digits that mean something."""
    value = seconds * 1_000
    if value < 10:
        return f"{value:.2f} ms"
    return f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"


def per_second(rate: float) -> str:
    """For a table."""
    return f"{rate:,.0f}/s"


def mebibytes(size_bytes: float) -> str:
    """For a table."""
    return f"{size_bytes / 2**20:,.0f} MiB"
