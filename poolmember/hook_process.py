"""One run of a hook: whether its file may be trusted, its process, and what it prints.

The process leads a process group of its own, sees nothing of the daemon's environment but PATH,
HOME and LANG, and has a deadline. It counts as ended when it ends itself, whatever it leaves
running in the background.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

INHERITED = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/",
    "LANG": "C.UTF-8",
}
"""What a hook's environment has of the daemon's, and what it is where the daemon has none."""
TERM_SECONDS = 2.0
"""From SIGTERM to SIGKILL, and from there until a process that cannot be killed is left alone."""
LINE_BYTES = 2_000
"""A longer line becomes several events."""
LOGGED_LINES = 1_000
"""Of one run; what comes after is read and forgotten."""
CHUNK_BYTES = 65_536
REST_SECONDS = 0.01
"""Between two chunks of a hook that prints too much: reading it must not keep the loop busy."""


class HookFailed(Exception):
    """The hook could not be started, or did not end well; the text says how."""


class HookTimedOut(Exception):
    """The hook was ended because its deadline had passed."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        """How long it had run."""
        super().__init__(f"not ended after {seconds:.1f} s")


def distrusted(folder: Path, name: str) -> str | None:
    """Why the file `name` in `folder` must not be run; none when it may be.

    Raises `FileNotFoundError` when it is not there. Links are not followed: who may change what
    they lead to would have to be known all the way.
    """
    found = os.lstat(folder / name)
    if not stat.S_ISREG(found.st_mode):
        return "it is no regular file"
    place = os.stat(folder)
    for what, where in (("it", found), ("its directory", place)):
        if where.st_uid not in {0, os.geteuid()}:
            return f"{what} belongs to user {where.st_uid}, not to root or the daemon's own user"
        if where.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return f"{what} may be written by others than its owner"
    if not os.access(folder / name, os.X_OK):
        return "it is not executable"
    return None


def minimal_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a hook's environment starts from; nothing else of `environ` could not be a secret."""
    return {key: environ.get(key) or default for key, default in INHERITED.items()}


class Output:
    """What a hook prints, as events of the log, a line each; open it around the run.

    `descriptor` is the end that the hook is given.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._reading, self.descriptor = os.pipe()
        os.set_blocking(self._reading, False)
        self._pending = b""
        self._lines = 0
        self._rest: asyncio.TimerHandle | None = None
        self._listen()

    def given(self) -> None:
        """The hook has its end: without it being closed here, too, the output would not end."""
        os.close(self.descriptor)

    def close(self) -> None:
        """Take what the hook has printed until now, and nothing of what it has left running."""
        self._silence()
        with suppress(BlockingIOError):
            # More than a pipe holds; what a child in the background adds meanwhile has no end.
            for _ in range(16):
                if not self._take():
                    break
        os.close(self._reading)
        if self._pending:
            self._log(self._pending)

    def _listen(self) -> None:
        self._rest = None
        self._loop.add_reader(self._reading, self._readable)

    def _silence(self) -> None:
        self._loop.remove_reader(self._reading)
        if self._rest is not None:
            self._rest.cancel()

    def _readable(self) -> None:
        with suppress(BlockingIOError):
            if not self._take():
                self._silence()
            elif self._lines > LOGGED_LINES:
                self._silence()
                self._rest = self._loop.call_later(REST_SECONDS, self._listen)

    def _take(self) -> bool:
        """Read a chunk; false at the end. `BlockingIOError` when there is none at the moment."""
        chunk = os.read(self._reading, CHUNK_BYTES)
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        for line in lines:
            self._log(line)
        while len(self._pending) > LINE_BYTES:
            line, self._pending = self._pending[:LINE_BYTES], self._pending[LINE_BYTES:]
            self._log(line)
        return bool(chunk)

    def _log(self, line: bytes) -> None:
        self._lines += 1
        if self._lines <= LOGGED_LINES:
            text = line[:LINE_BYTES].decode(errors="backslashreplace")
            log.info("%s: %s", self._name, text)
        elif self._lines == LOGGED_LINES + 1:
            log.info("%s prints more than %d lines, left out here", self._name, LOGGED_LINES)


async def run_hook(
    path: Path,
    environment: Mapping[str, str],
    *,
    seconds: float,
    limited: Callable[[asyncio.Timeout], None],
    term_seconds: float = TERM_SECONDS,
) -> None:
    """Run `path` until it ends well; raises `HookFailed` or `HookTimedOut`.

    After `seconds` its process group gets SIGTERM and, `term_seconds` later, SIGKILL. `limited` is
    given the deadline, which may be brought forward. Cancelled, it kills the group at once.
    """
    output = Output(path.name)
    try:
        process = await _started(path, environment, output)
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(seconds) as deadline:
                limited(deadline)
                code = await process.wait()
        except TimeoutError:
            await _end_group(process, term_seconds)
            raise HookTimedOut(asyncio.get_running_loop().time() - began) from None
        finally:
            if process.returncode is None:
                _signal(process, signal.SIGKILL)
                await _ended(process, term_seconds)
    finally:
        output.close()
    if code < 0:
        raise HookFailed(f"it was ended by signal {-code}")
    if code > 0:
        raise HookFailed(f"it ended with exit code {code}")


async def _started(
    path: Path, environment: Mapping[str, str], output: Output
) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            path,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output.descriptor,
            stderr=output.descriptor,
            env=environment,
            cwd="/",
            # Its process group is then its own, and no terminal's.
            start_new_session=True,
        )
    except OSError as error:
        raise HookFailed(f"it cannot be started: {error.strerror or error}") from error
    finally:
        output.given()


async def _end_group(process: asyncio.subprocess.Process, seconds: float) -> None:
    _signal(process, signal.SIGTERM)
    await _ended(process, seconds)
    # Also when the hook itself has ended: what it has started may not care about SIGTERM.
    _signal(process, signal.SIGKILL)
    if not await _ended(process, seconds):
        log.warning("process %d does not end, not even by SIGKILL", process.pid)


async def _ended(process: asyncio.subprocess.Process, seconds: float) -> bool:
    """Whether it ends within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        return False
    return True


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:  # nobody of the group is left
        return
