"""One host of a network lab: a network namespace, a disk, the project's daemon, and an etcd."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

from poolmember.etcd.member import EtcdMember
from support.daemons import WAIT_SECONDS, ProcessHost, stands_still
from support.lab_network import ip, run
from support.netlab.etcd import HostEtcd, PoolsEtcd, TestsEtcd
from support.service_manager import ServiceManager

DISK_MIB = 320
"""Enough for a test; etcd alone takes 128 MiB from the start, the space for its log."""
OWN_ETCD_DISK_MIB = 640
"""For two of them: what a member that votes no more had is kept."""

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
    """A host: `start` and `kill` are of all that is on it, `signal` and `stop` of its daemon.

    `member` is the etcd that the test runs on it; none: the pool has its own.
    """

    def __init__(
        self,
        name: str,
        address: str,
        folder: Path,
        *,
        options: tuple[str, ...],
        member: EtcdMember | None = None,
        disk_mib: int = DISK_MIB,
    ) -> None:
        super().__init__(name, f"{address}:7443", folder, sim="", options=options)
        self.address = address
        self._disk_mib = disk_mib
        self.disk = folder / "disk"
        """A file system in memory that can be filled; it keeps its content when all is killed."""
        self.state_dir = self.disk / "state"
        self._namespace = Path("/run/netns", name)
        self.inside = ("nsenter", f"--net={self._namespace}", "--")
        self.etcd: HostEtcd = PoolsEtcd(self)
        if member is not None:
            log_file = folder / "etcd.log"
            self.etcd = TestsEtcd(
                member, folder=self.disk / "etcd", log_file=log_file, inside=self.inside
            )
        # An abstract name of a socket is one network namespace's.
        self.manager = ServiceManager(str(folder / "notify"))

    def create(self) -> None:
        """Make the namespace, with nothing plugged in, and the disk."""
        ip("netns", "add", self.name)
        self._nft("-f", "-", given=_RULES)
        self.disk.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={self._disk_mib}m", "tmpfs", str(self.disk))

    def remove(self) -> None:
        """Remove both; no process may be left."""
        run("umount", str(self.disk))
        ip("netns", "del", self.name)

    # -- what is on it ----------------------------------------------------------------------------

    async def _launch(self) -> None:
        self.etcd.start()
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
