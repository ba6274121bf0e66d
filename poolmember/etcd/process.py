"""The process of this host's etcd: outlives the daemon, and is found again by the next one.

It is known by the data directory in its command line and by its working directory, whichever way
it was started (`poolmember.etcd.launch`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from poolmember.etcd.launch import has_systemd, start_as_unit, start_detached
from poolmember.etcd.member import DATA_FOLDER, MEMBER_FILE, EtcdMember, EtcdRefused, etcd_program

log = logging.getLogger(__name__)

LOG_FILE = "etcd.log"
LOG_BYTES = 10 * 1024 * 1024
"""Larger, it is put aside at the next start; one such is kept."""
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
"""Between the end of the process and its next start."""
LASTING_SECONDS = 30.0
STOP_SECONDS = 10.0


class EtcdProcess:
    """Keeps etcd running at this host, as `member.json` in its folder says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._stopped = False
        self._looking = asyncio.Lock()
        """Held from the look for a process to its start, and while it is stopped."""

    async def run(self) -> None:
        """Keep it running, also when it ends by itself, until cancelled; then it goes on alone.

        Returns when it was stopped. Raises `EtcdRefused` when there is no etcd that may be used.
        """
        pause, loop = FIRST_PAUSE_SECONDS, asyncio.get_running_loop()
        while True:
            since = loop.time()
            try:
                process = await self._found_or_started()
            except (OSError, subprocess.SubprocessError) as error:
                log.error("etcd cannot be started: %s", error)
            else:
                if process is None:
                    return
                with process:
                    await process.ended()
                if self._stopped:
                    return
                log.error("etcd has ended; %s says why", self._folder / LOG_FILE)
            lasted = loop.time() - since > LASTING_SECONDS
            pause = FIRST_PAUSE_SECONDS if lasted else min(2 * pause, LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)

    async def _found_or_started(self) -> _Handle | None:
        """The process; none when it was stopped."""
        async with self._looking:
            if self._stopped:
                return None
            process = await asyncio.to_thread(self._find)
            if process is not None:
                log.info("etcd runs already, process %d", process.pid)
                return process
            # Not given up halfway: whoever stops it has to find it.
            starting = asyncio.ensure_future(  # noqa: TID251 - awaited here
                asyncio.to_thread(self._start)
            )
            try:
                process = await asyncio.shield(starting)
            except asyncio.CancelledError:
                with suppress(OSError, subprocess.SubprocessError, EtcdRefused):
                    (await starting).close()
                raise
            log.info("etcd has been started, process %d", process.pid)
            return process

    async def stop(self) -> None:
        """End it, for good: by SIGTERM, so that all it has is on the disk; at last by SIGKILL."""
        self._stopped = True
        async with self._looking:
            while (process := await asyncio.to_thread(self._find)) is not None:
                with process:
                    process.signal(signal.SIGTERM)
                    try:
                        async with asyncio.timeout(STOP_SECONDS):
                            await process.ended()
                    except TimeoutError:
                        process.signal(signal.SIGKILL)
                        await process.ended()

    def _find(self) -> _Handle | None:
        """The process with our data directory; none if it does not run."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or not self._is_ours(entry):
                continue
            with suppress(ProcessLookupError):
                process = _Handle(int(entry.name))
                # Its number may have become another's before there was a hold on it.
                if self._is_ours(entry):
                    return process
                process.close()
        return None

    def _is_ours(self, process: Path) -> bool:
        """Whether it is etcd itself, not what started it, and in this very folder."""
        data = os.fsencode(f"--data-dir={self._folder / DATA_FOLDER}")
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            return (
                data in arguments
                and Path(os.fsdecode(arguments[0])).name == "etcd"
                and (process / "cwd").samefile(self._folder)
            )
        except OSError:
            return False

    def _start(self) -> _Handle:
        member = EtcdMember.load(self._folder)
        if member is None:
            raise EtcdRefused(f"{self._folder / MEMBER_FILE} does not say what it is")
        if member.has_lost_its_log(self._folder):
            raise EtcdRefused("its log is gone, and a member never begins a second one")
        command = [etcd_program(), *member.arguments(self._folder)]
        log_file = self._folder / LOG_FILE
        with suppress(FileNotFoundError):
            if log_file.stat().st_size > LOG_BYTES:
                log_file.replace(log_file.with_suffix(".log.1"))
        if not has_systemd():
            return _Handle(start_detached(command, self._folder, log_file))
        start_as_unit(command, self._folder, log_file)
        process = self._find()
        if process is None:
            raise subprocess.SubprocessError(f"it has ended at once; {log_file} says why")
        return process


class _Handle:
    """A hold on a process, whose child ever it is: its number cannot become another's meanwhile."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def __enter__(self) -> _Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    async def ended(self) -> None:
        """Until it has ended."""
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        # A file descriptor of its own: two may wait, and the event loop knows one waiter for each.
        fd = os.dup(self._fd)
        loop.add_reader(fd, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        # A child of ours is to leave no zombie.
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # noqa: ASYNC222 - it has ended, so nobody waits

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)
