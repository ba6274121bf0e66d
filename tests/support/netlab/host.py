"""One host of a network lab: a network namespace, a disk, an etcd and the project's daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from poolmember.etcd.member import EtcdMember, etcd_program
from support.daemons import WAIT_SECONDS, ProcessHost, stands_still
from support.lab_network import ip, run
from support.service_manager import ServiceManager

DISK_MIB = 320
"""Enough for a test; etcd alone takes 128 MiB from the start, the space for its log."""

_RULES = """
table ip faults {
    set unheard {
        type ipv4_addr
    }
    chain input {
        type filter hook input priority 0
        ip saddr @unheard drop
    }
}
"""


class NetHost(ProcessHost):
    """A host: `start` and `kill` are of all that is on it, `signal` and `stop` of its daemon."""

    def __init__(
        self,
        name: str,
        address: str,
        folder: Path,
        *,
        etcd: EtcdMember,
        options: tuple[str, ...],
        disk_mib: int = DISK_MIB,
    ) -> None:
        super().__init__(name, f"{address}:7443", folder, sim="", options=options)
        self.address = address
        self._disk_mib = disk_mib
        self.etcd = etcd
        self.disk = folder / "disk"
        """A file system in memory that can be filled; it keeps its content when all is killed."""
        self.state_dir = self.disk / "state"
        self._etcd_folder = self.disk / "etcd"
        self._etcd_log = folder / "etcd.log"
        self._etcd: subprocess.Popen[bytes] | None = None
        self._namespace = Path("/run/netns", name)
        self.inside = ("nsenter", f"--net={self._namespace}", "--")
        # An abstract name of a socket is one network namespace's.
        self.manager = ServiceManager(str(folder / "notify"))

    def create(self) -> None:
        """Make the namespace, with nothing plugged in, and the disk."""
        ip("netns", "add", self.name)
        self._nft("-f", "-", given=_RULES)
        self.disk.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={self._disk_mib}m", "tmpfs", str(self.disk))
        self._etcd_folder.mkdir()

    def remove(self) -> None:
        """Remove both; no process may be left."""
        run("umount", str(self.disk))
        ip("netns", "del", self.name)

    # -- what is on it ----------------------------------------------------------------------------

    def start_etcd(self) -> None:
        """Start etcd, unless it runs."""
        if self.etcd_runs:
            return
        program = etcd_program()
        with self._etcd_log.open("ab") as log:
            self._etcd = subprocess.Popen(
                [*self.inside, program, *self.etcd.arguments(self._etcd_folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={k: v for k, v in os.environ.items() if not k.startswith("ETCD_")},
            )

    def signal_etcd(self, number: signal.Signals) -> None:
        """Send etcd alone a signal, if it runs."""
        if self.etcd_runs:
            assert self._etcd is not None
            self._etcd.send_signal(number)

    def kill_etcd(self) -> None:
        """End etcd alone, if it runs, frozen or not."""
        self.signal_etcd(signal.SIGKILL)
        if self._etcd is not None:
            self._etcd.wait()

    @property
    def etcd_runs(self) -> bool:
        """Whether etcd was started and has not ended."""
        return self._etcd is not None and self._etcd.poll() is None

    @property
    def etcd_log(self) -> str:
        """What etcd warned of, over all its starts."""
        lines = self._etcd_log.read_text().splitlines() if self._etcd_log.exists() else []
        return "\n".join(line for line in lines if '"level":"info"' not in line)

    async def _launch(self) -> None:
        self.start_etcd()
        await super()._launch()

    def pids(self) -> set[int]:
        """All processes on the host."""
        found, there = set(), self._namespace.stat().st_ino
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                # One that has just ended has no namespace any more.
                with suppress(OSError):
                    if (entry / "ns/net").stat().st_ino == there:
                        found.add(int(entry.name))
        return found

    # -- what happens to it -----------------------------------------------------------------------

    async def kill_daemon(self) -> None:
        """End the daemon alone."""
        await super().kill()

    async def freeze(self) -> None:
        """Stop everything on it; nobody is told, and its kernel goes on taking connections."""
        stopped: set[int] = set()
        async with asyncio.timeout(WAIT_SECONDS):
            # Until nobody is left who could start another one.
            while new := self.pids() - stopped:
                _signal(new, signal.SIGSTOP)
                while not all(map(stands_still, new)):  # noqa: ASYNC110 - /proc tells nobody
                    await asyncio.sleep(0.001)
                stopped |= new

    def thaw(self) -> None:
        """Let everything go on."""
        _signal(self.pids(), signal.SIGCONT)

    async def kill(self) -> None:
        """End everything on it at one moment; its disk keeps its content."""
        # While the first ones end, the others do nothing any more.
        await self.freeze()
        while pids := self.pids():
            _signal(pids, signal.SIGKILL)
            if self._etcd is not None:
                self._etcd.wait()
            if self._process is not None:
                await self.ended()
            await asyncio.sleep(0.001)

    def fill_disk(self) -> None:
        """Leave not a byte free on its disk."""
        with (self.disk / "filler").open("ab", buffering=0) as filler:
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while True:
                        filler.write(bytes(size))

    def free_disk(self) -> None:
        """Remove again what filled it."""
        (self.disk / "filler").unlink()

    def unhear(self, other: NetHost) -> None:
        """Drop whatever comes from another host from now on, without a word to it."""
        self._nft("add", "element", "ip", "faults", "unheard", "{", other.address, "}")

    def hear_all(self) -> None:
        """Drop nothing any more."""
        self._nft("flush", "set", "ip", "faults", "unheard")

    def _nft(self, *args: str, given: str = "") -> None:
        run(*self.inside, "nft", *args, given=given)

    async def close(self) -> None:
        """End everything on it."""
        await self.kill()
        await super().close()


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
