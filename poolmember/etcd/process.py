"""The process of this host's etcd: outlives the daemon, and is found again by the next one.

Where systemd does not run it is detached, and known by the data directory in its command line.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from poolmember.etcd.member import DATA_FOLDER, EtcdMember, etcd_program

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

    async def run(self) -> None:
        """Keep it running, also when it ends by itself, until cancelled; then it goes on alone.

        Returns when it was stopped. Raises `EtcdRefused` when there is no etcd that may be used.
        """
        pause, loop = FIRST_PAUSE_SECONDS, asyncio.get_running_loop()
        while not self._stopped:
            since = loop.time()
            with _Handle(self._pid()) as process:
                if process.lives:
                    log.info("etcd runs already, process %d", process.pid)
                    await process.ended()
                else:
                    with _Handle(await asyncio.to_thread(self._start)) as started:
                        log.info("etcd has been started, process %d", started.pid)
                        await started.ended()
            if self._stopped:
                return
            log.error("etcd has ended; %s says why", self._folder / LOG_FILE)
            lasted = loop.time() - since > LASTING_SECONDS
            pause = FIRST_PAUSE_SECONDS if lasted else min(2 * pause, LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)

    async def stop(self) -> None:
        """End it, for good: by SIGTERM, so that all it has is on the disk; at last by SIGKILL."""
        self._stopped = True
        with _Handle(self._pid()) as process:
            process.signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.ended()
            except TimeoutError:
                process.signal(signal.SIGKILL)
                await process.ended()

    def _pid(self) -> int | None:
        """The process with our data directory; none if it does not run."""
        mark = self._data_argument()
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and mark in _arguments(int(entry.name)):
                return int(entry.name)
        return None

    def _data_argument(self) -> bytes:
        return os.fsencode(f"--data-dir={self._folder / DATA_FOLDER}")

    def _start(self) -> int:
        member = EtcdMember.load(self._folder)
        assert member is not None  # noqa: S101 - nobody runs it in a folder without
        program, _ = etcd_program()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCD_")}
        log_file = self._folder / LOG_FILE
        with suppress(FileNotFoundError):
            if log_file.stat().st_size > LOG_BYTES:
                log_file.replace(log_file.with_suffix(".log.1"))
        with log_file.open("ab") as output:
            process = subprocess.Popen(
                [program, *member.arguments(self._folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                env=environment,
                # Neither a signal to the daemon's group nor the end of its session reaches it.
                start_new_session=True,
            )
        # Nobody waits for it here: `_Handle` collects its exit status if it ends before us.
        process.returncode = 0
        return process.pid


class _Handle:
    """A hold on a process, whose child ever it is; its pid cannot become another's meanwhile."""

    def __init__(self, pid: int | None) -> None:
        self.pid = pid or 0
        self._fd: int | None = None
        if pid is not None:
            with suppress(ProcessLookupError):
                self._fd = os.pidfd_open(pid)

    def __enter__(self) -> _Handle:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)

    @property
    def lives(self) -> bool:
        return self._fd is not None

    async def ended(self) -> None:
        """Until it has ended."""
        if self._fd is None:
            return
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._fd, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(self._fd)
        # A child of ours is to leave no zombie.
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)

    def signal(self, number: signal.Signals) -> None:
        if self._fd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, number)


def _arguments(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []
