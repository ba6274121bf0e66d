"""What goes wrong, for a person or for a script, and the exit code of its family."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from poolcli.output import Format, note
from poolcli.text import to_json, wrapped

if TYPE_CHECKING:
    from poolcore.errors import PoolError


class UsageError(Exception):
    """The command line itself is wrong: exit code 2."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Ended(Exception):
    """The command has reported its outcome and ends with this exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def report(code: str, message: str, hint: str, details: Any, shown_as: Format) -> None:
    """Say on stderr what went wrong."""
    if shown_as is Format.JSON:
        error = {"code": code, "message": message, "hint": hint, "details": details}
        note(to_json({"error": error}))
        return
    note("\n".join(wrapped(line) for line in f"pool: {message}\n{hint}".rstrip().split("\n")))


def report_error(error: PoolError, shown_as: Format, *, hint: str = "") -> int:
    """Report an error of the catalog; gives the exit code."""
    details: dict[str, Any] = dict(error.params)
    if error.findings:
        from poolcore.replica import plain

        details["findings"] = plain(error.findings)
    report(error.reason.value, error.message, hint or error.remedy, details, shown_as)
    return int(error.entry.exit)


def report_crash(error: BaseException, shown_as: Format) -> int:
    """Report what is a fault of this program; `POOL_DEBUG=1` shows where."""
    if os.environ.get("POOL_DEBUG"):
        import traceback

        traceback.print_exception(error)
    message = f"{type(error).__name__}: {error}"
    hint = "This is a fault of the command itself; POOL_DEBUG=1 shows where."
    report("INTERNAL_ERROR", message, hint, {}, shown_as)
    return 1
