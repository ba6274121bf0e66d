"""Another program, run for the person who runs `pool`."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from poolcli.failures import Ended

GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL, for a program that may not go on."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class NotStarted(Exception):
    """The program could not be started; `code` is the exit code that shells have for that."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror or str(error))
        self.code = 127 if isinstance(error, FileNotFoundError) else 126


class Signals:
    """Whom the signals concern that are to end this process, while the block runs.

    The program, as long as one runs: it is told, and waited for. Otherwise the block: it is
    cancelled, and leaving it raises `Ended` with 128 and the signal's number.
    """

    def __init__(self, *, grace_seconds: float = GRACE_SECONDS) -> None:
        self._grace_seconds = grace_seconds
        self._process: Process | None = None
        self._task: asyncio.Task[Any] | None = None
        self._received: signal.Signals | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        for number in _ENDING:
            asyncio.get_running_loop().add_signal_handler(number, self._receive, number)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number in _ENDING:
            asyncio.get_running_loop().remove_signal_handler(number)
        if self._received is not None and kind is asyncio.CancelledError:
            raise Ended(128 + self._received)

    def _receive(self, number: signal.Signals) -> None:
        if self._process is None:
            self._received = number
            if self._task is not None:
                self._task.cancel()
        elif self._process.returncode is None and not _told_by_terminal(number):
            self._process.send_signal(number)

    async def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run a program to its end; its exit code, or as shells have it 128 and its signal.

        It has our input, output and terminal. Cancelled, this ends it first: by SIGTERM and, after
        a grace, SIGKILL. `NotStarted` when there is no such program.
        """
        try:
            process = await asyncio.create_subprocess_exec(*command, env=environment)
        except OSError as error:
            raise NotStarted(error) from error
        self._process = process
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await self._end(process)
            raise
        finally:
            self._process = None
        return code if code >= 0 else 128 - code

    async def _end(self, process: Process) -> None:
        if process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), self._grace_seconds)
        except TimeoutError:
            process.kill()
            await process.wait()


def _told_by_terminal(number: signal.Signals) -> bool:
    """Whether the program has the signal already: a terminal's Ctrl-C goes to all in front of it.

    Told twice, many programs end without tidying up.
    """
    if number is not signal.SIGINT:
        return False
    try:
        with open("/dev/tty", "rb") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False
