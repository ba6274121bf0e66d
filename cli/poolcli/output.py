"""Data on stdout in the format that was asked for; everything else on stderr.

On a terminal tables are set with rich and folded to its width; elsewhere they are plain columns,
never cut. `NO_COLOR` is honoured.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

from poolcli.text import safe, safe_lines, to_json, to_yaml, wrapped


class Format(StrEnum):
    """How data is shown."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"
    SCRIPT = "script"


def write(text: str) -> None:
    """Data, with a line end."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Something for the person rather than the script."""
    sys.stderr.write(safe_lines(text) + "\n")
    sys.stderr.flush()


def data(value: Any, shown_as: Format) -> None:
    """A value as JSON or YAML."""
    write(to_yaml(value).rstrip() if shown_as is Format.YAML else to_json(value))


def plain_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns without trailing blanks."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table; nothing but a note on stderr when there are no rows."""
    cells = [[safe(cell) for cell in row] for row in rows]
    if not cells:
        note("There are none.")
        return
    if not sys.stdout.isatty():
        write(plain_columns([headers, *cells]))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in headers:
        grid.add_column(header, overflow="fold", no_wrap=header == "UUID")
    for row in cells:
        grid.add_row(*map(Text, row))
    Console(highlight=False, color_system="auto" if _styled() else None).print(grid)


def fields(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values, one pair a line; long values go on below themselves."""
    pairs = [(name, safe(value)) for name, value in pairs]
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        write(f"{name.ljust(width)}  {value}".rstrip())


class Warned(Protocol):
    """Something that is not as it should be, and what to do about it."""

    @property
    def code(self) -> str:
        """For scripts."""
        ...

    @property
    def message(self) -> str:
        """What it is."""
        ...

    @property
    def remedy(self) -> str:
        """What to do about it."""
        ...


def show_warnings(warnings: Iterable[Warned]) -> None:
    """Warnings as people get them, each after an empty line."""
    for warning in warnings:
        write("\n" + wrapped(f"Warning {warning.code}: {safe(warning.message)}"))
        write(wrapped(safe(warning.remedy), indent="  "))


def _styled() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def bold(text: str) -> str:
    """Text in bold on a terminal that may have it."""
    if sys.stdout.isatty() and _styled():
        return f"\x1b[1m{text}\x1b[0m"
    return text


def flattened(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """The fields of an object as dotted names and texts, for a table."""
    for name, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from flattened(item, f"{prefix}{name}.")
        elif isinstance(item, list) and item and isinstance(item[0], Mapping):
            for number, part in enumerate(item):
                yield from flattened(part, f"{prefix}{name}[{number}].")
        else:
            yield f"{prefix}{name}", as_text(item)


def as_text(value: Any) -> str:
    """A JSON value as a person reads and types it."""
    if value is None or value == {}:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(as_text, value))
    return str(value)
