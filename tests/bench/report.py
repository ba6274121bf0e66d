"""The report: for the terminal, and for the documentation."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.figures import Section, Table
from poolcore import PRODUCT_VERSION

INTRODUCTION = """\
# Benchmarks

Written by `make bench`; each figure is a median, and stands beside its reference in the same run.
"""


def on_terminal(sections: Sequence[Section]) -> str:
    """Tables and aims as plain text."""
    lines = []
    for section in sections:
        lines += ["", section.title, "-" * len(section.title)]
        for table in section.tables:
            lines += [*_aligned(table), ""]
        lines += section.notes
    return "\n".join([*lines, "", *_aligned(_aims(sections)), ""])


def in_markdown(sections: Sequence[Section], folder: Path) -> str:
    """The whole document; `folder` is on the disk that was measured."""
    blocks = [INTRODUCTION.strip(), _rows(_machine(folder)), _rows(_aims(sections))]
    for section in sections:
        blocks += [f"## {section.title}", section.method, *map(_rows, section.tables)]
        blocks += section.notes
    return "\n\n".join(blocks) + "\n"


def _aims(sections: Sequence[Section]) -> Table:
    rows = [
        (aim.figure, aim.aim, aim.measured, "yes" if aim.met else "**no**")
        for section in sections
        for aim in section.aims
    ]
    return Table(("Aim", "", "measured", "met"), tuple(rows))


def _machine(folder: Path) -> Table:
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("grpcio", "protobuf"))
    rows = (
        ("Date", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ("Processors", f"{os.cpu_count()} × {_processor()}"),
        ("Memory", f"{memory_bytes / 2**30:.0f} GiB"),
        ("System", f"{_system()}, Linux {platform.release()}"),
        ("State directories on", _filesystem(folder)),
        ("Pool manager", PRODUCT_VERSION),
        ("Python", f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}, {libraries}"),
        ("Load before and after", _busy()),
    )
    return Table(("Machine", ""), rows)


_LOAD_BEFORE = os.getloadavg()[0]


def _busy() -> str:
    return f"{_LOAD_BEFORE:.2f} and {os.getloadavg()[0]:.2f} (1 minute)"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


def _filesystem(folder: Path) -> str:
    """The type of the file system: that of the longest mount point the folder is below."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    above = [m for m in mounts if folder.resolve().is_relative_to(m[1])]
    return max(above, key=lambda m: len(m[1]))[2]


def _rows(table: Table) -> str:
    rule = ("---",) + ("---:",) * (len(table.headings) - 1)
    if len(table.headings) == 2:
        rule = ("---", "---")
    return "\n".join(f"| {' | '.join(row)} |" for row in (table.headings, rule, *table.rows))


def _aligned(table: Table) -> Iterator[str]:
    rows = (table.headings, *table.rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.headings))]
    for row in rows:
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]
        yield "  ".join(cells).rstrip()
