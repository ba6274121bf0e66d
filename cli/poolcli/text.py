"""Text that is safe to show: whatever a name holds, it does not command the terminal."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Controls, bidirectional and invisible formatting, lone surrogates, line separators."""


def is_safe(char: str) -> bool:
    """Whether a character shows as itself and does nothing else."""
    return (char.isascii() and char.isprintable()) or unicodedata.category(char) not in _UNSAFE


def safe(text: str) -> str:
    r"""The text with everything unsafe as an escape, such as `\x1b`, in one line."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if is_safe(c) else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def safe_lines(text: str) -> str:
    """As `safe`, but lines stay lines."""
    return "\n".join(safe(line) for line in text.split("\n"))


def to_json(value: Any, *, indent: int | None = 2) -> str:
    r"""JSON in which everything unsafe is a `\u` escape."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    if text.isascii():  # the controls among ASCII are escaped by JSON itself
        return text.replace("\x7f", "\\u007f")
    return "".join(c if c == "\n" or is_safe(c) else json.dumps(c)[1:-1] for c in text)


def to_yaml(value: Any) -> str:
    """YAML in which everything unsafe is escaped."""
    import yaml

    shown = json.dumps(value, ensure_ascii=False)
    plain = all(map(is_safe, shown)) and "\\u" not in shown
    text: str = yaml.safe_dump(value, allow_unicode=plain, sort_keys=False)
    return text


def wrapped(text: str, *, indent: str = "", width: int = 78) -> str:
    """Prose in lines; what has no blanks, such as a command's argument, is never broken."""
    from textwrap import fill

    return fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def size(amount: int) -> str:
    """Bytes for people: 512 MiB."""
    value, units = float(amount), iter(("B", "KiB", "MiB", "GiB", "TiB", "PiB"))
    unit = next(units)
    while value >= 1024 and unit != "PiB":
        value, unit = value / 1024, next(units)
    return f"{value:.0f} {unit}" if value >= 10 or value == int(value) else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """A time span for people: 0.3 s, 12 s, 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def yes_no(value: bool) -> str:
    """A truth value for people."""
    return "yes" if value else "no"
