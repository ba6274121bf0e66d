"""Running `pool` in the test's process, as a person or a script would."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from poolcli.main import run


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, data, notes."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The data as JSON."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The error on stderr, of a command run with `-o json`."""
        return json.loads(self.err[self.err.index("{") :])["error"]

    @property
    def rows(self) -> list[list[str]]:
        """A table's lines, cut at two and more blanks."""
        return [[c for c in line.split("  ") if c.strip()] for line in self.out.splitlines()]


class Pool:
    """The command, against one server."""

    def __init__(self, server: str, captured: pytest.CaptureFixture[str]) -> None:
        self._server = server
        self._captured = captured

    def __call__(self, *arguments: str, server: str | None = None) -> Outcome:
        """Run it; `server=""` leaves --server out."""
        self._captured.readouterr()
        server = self._server if server is None else server
        code = run(["--server", server, *arguments] if server else list(arguments))
        out, err = self._captured.readouterr()
        return Outcome(code, out, err)
