"""Hosts of a pool, for integration tests: daemons on loopback addresses of their own.

`Cluster.process` runs the real command as a child process: for whatever is about kills, freezes,
restarts and exit codes. `Cluster.local` runs the same daemon in the test's event loop, which costs
a tenth: for everything else. Both have a state directory, a simulated hypervisor described by a
file that may be changed at any time, and say by sd_notify(3) what they have become; nothing here
waits by guessing a time.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import TypeVar

from poolcore.replica import dump
from poolmember.config import load
from poolmember.daemon import Daemon
from poolmember.etcd.process import EtcdProcess
from poolmember.inspection import inspect
from poolmember.notify import Notifier
from poolmember.state_dir import ETCD_FOLDER, StateDir
from support.api import Api
from support.service_manager import ServiceManager

POOLMEMBER = str(Path(sys.executable).with_name("poolmember"))
WAIT_SECONDS = 20.0
"""Far more than anything here takes; a test that runs into it fails with the logs."""

SHARED_SRS = """
[[sr]]
name = "nfs-iso"
type = "nfs"
shared = true
[[sr]]
name = "nfs-disks"
type = "nfs"
shared = true
[[sr]]
name = "iscsi-disks"
type = "iscsi"
shared = true
"""
"""Three shared SRs beyond the three that every simulated host has."""


class DaemonEnded(Exception):
    """The daemon ended before it said what was waited for."""


def stands_still(pid: int) -> bool:
    """Whether no thread of a process runs: it was stopped, or has ended."""
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    try:
        return all(stat.read_text().rpartition(")")[2].split()[0] in "TZ" for stat in threads)
    except OSError:
        # One that has just ended. The next look finds those that are left.
        return False


class Loopback:
    """Addresses 127.0.`net`.1, .2 … on one port, so that tests side by side do not meet.

    The port is below those that the kernel gives to outgoing connections: a host that is down
    finds it free when it comes back.
    """

    def __init__(self, net: int) -> None:
        self._net = net
        self._numbers = count(1)
        self.port = next(p for p in iter(lambda: random.randrange(10_000, 32_000), 0) if free(p))

    def endpoint(self) -> str:
        """A `host:port` that nobody else was given."""
        number = next(self._numbers)
        return f"127.0.{self._net + number // 250}.{1 + number % 250}:{self.port}"


def free(port: int) -> bool:
    """Whether nobody listens on a port of any loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


ENVIRONMENT = {"POOLMEMBER_VOTER": "false"}
"""Only hosts that are started with `--voter` are to run an etcd."""


class Host(ABC):
    """One host: its daemon, its state directory and the description of its hypervisor."""

    def __init__(
        self, name: str, endpoint: str, folder: Path, *, sim: str, options: tuple[str, ...]
    ) -> None:
        self.name = name
        self.endpoint = endpoint
        self.state_dir = folder / "state"
        self.options = options
        self._sim_file = folder / "host.toml"
        self._sim = sim
        self._faults: dict[str, tuple[str, ...]] = {}
        self.manager = ServiceManager()
        folder.mkdir()
        self._write_sim_file()

    def describe(self, sim: str) -> None:
        """What is on the host from now on, as the text of a host file."""
        self._sim = sim
        self._write_sim_file()

    def kill_at(self, *points: str) -> None:
        """At which steps the daemon ends itself by SIGKILL from now on; none: nowhere."""
        self._faults["kill_at"] = points
        self._write_sim_file()

    def stop_at(self, *points: str) -> None:
        """At which steps the daemon stops itself by SIGSTOP from now on; none: nowhere."""
        self._faults["stop_at"] = points
        self._write_sim_file()

    def _write_sim_file(self) -> None:
        lines = (f"{key} = {list(points)}\n" for key, points in self._faults.items() if points)
        faults = "".join(["[faults]\n", *lines]) if any(self._faults.values()) else ""
        temporary = self._sim_file.with_suffix(".new")
        temporary.write_text(f"{self._sim}\n{faults}")
        temporary.rename(self._sim_file)

    def flags(self) -> dict[str, str]:
        """What `poolmember run` is told, by key."""
        return {
            "name": self.name,
            "listen": self.endpoint,
            "state_dir": str(self.state_dir),
            "driver": f"sim:{self._sim_file}",
            "config": os.devnull,
        }

    def replica(self) -> str:
        """The canonical dump of the host's replica on disk; empty before its first snapshot."""
        state = inspect(self.state_dir).state
        return "" if state is None else dump(state)

    def replica_revision(self) -> int:
        """Of the last commit in the host's replica on disk; 0 before its first snapshot."""
        state = inspect(self.state_dir).state
        return 0 if state is None else state.revision

    def api(self) -> Api:
        """The API at this host; a context manager."""
        return Api(self.endpoint)

    async def begin(self) -> None:
        """Start the daemon and let it go its way."""
        await self.manager.listen()
        await self._launch()

    async def start(self) -> None:
        """Start the daemon; returns when it serves."""
        await self.begin()
        await self.says("")

    async def says(self, words: str) -> None:
        """Until the daemon's status, as `systemctl status` would show it, contains `words`."""
        async with asyncio.timeout(WAIT_SECONDS):
            await self.manager.until(words)

    @abstractmethod
    async def _launch(self) -> None: ...

    @abstractmethod
    async def stop(self) -> int:
        """End the daemon as SIGTERM does; its exit code."""

    async def close(self) -> None:
        """End whatever is left, however it is."""
        self.manager.close()
        folder = self.state_dir / ETCD_FOLDER
        if folder.exists():
            # It outlives the daemon.
            await EtcdProcess(folder).stop()

    @property
    def log(self) -> str:
        """What the daemon wrote to its log."""
        return ""


class ProcessHost(Host):
    """A host whose daemon is the real command."""

    def __init__(
        self, name: str, endpoint: str, folder: Path, *, sim: str, options: tuple[str, ...]
    ) -> None:
        super().__init__(name, endpoint, folder, sim=sim, options=options)
        self.inside: tuple[str, ...] = ()
        """A command that runs the daemon, such as `unshare`, in its own process."""
        self.command: tuple[str, ...] = (POOLMEMBER,)
        """The daemon itself; another one may have a bug planted."""
        self._log_file = folder / "log"
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The daemon, running or ended."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process

    @property
    def log(self) -> str:
        """What all daemons of this host wrote to stderr."""
        return self._log_file.read_text() if self._log_file.exists() else ""

    async def _launch(self) -> None:
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in self.flags().items()]
        with self._log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.inside, *self.command, "run", *flags, *self.options,
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                env=os.environ | ENVIRONMENT | {"NOTIFY_SOCKET": self.manager.address},
            )  # fmt: skip

        self._watcher = asyncio.ensure_future(  # noqa: TID251 - awaited in `ended`
            self._watch(self._process)
        )

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        self.manager.fail(DaemonEnded(f"{self.name} ended with {await process.wait()}"))

    def signal(self, number: signal.Signals) -> None:
        """Send the daemon a signal: SIGSTOP freezes it, SIGCONT lets it go on."""
        self.process.send_signal(number)

    async def stopped(self, *, seconds: float = WAIT_SECONDS) -> None:
        """Until no thread of the daemon runs any more: it was sent SIGSTOP, or stopped itself."""
        async with asyncio.timeout(seconds):
            while not stands_still(self.process.pid):  # noqa: ASYNC110 - /proc tells nobody
                await asyncio.sleep(0.001)

    async def ended(self, *, seconds: float = WAIT_SECONDS) -> int:
        """Until the daemon has ended by itself; its exit code, negative for a signal."""
        assert self._watcher is not None
        async with asyncio.timeout(seconds):
            await asyncio.shield(self._watcher)
        return await self.process.wait()

    async def stop(self) -> int:
        """End the daemon by SIGTERM."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """End the daemon by SIGKILL."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def close(self) -> None:
        """End the daemon, if it runs, by SIGKILL."""
        if self._process is not None and self._process.returncode is None:
            await self.kill()
        await super().close()

    @property
    def resident_bytes(self) -> int:
        """How much memory the daemon has."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024


class LocalHost(Host):
    """A host whose daemon runs in the test's own event loop."""

    def __init__(
        self, name: str, endpoint: str, folder: Path, *, sim: str, options: tuple[str, ...]
    ) -> None:
        super().__init__(name, endpoint, folder, sim=sim, options=options)
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def flags(self) -> dict[str, str]:
        """What `poolmember run` is told, by key."""
        given = (option.removeprefix("--").partition("=") for option in self.options)
        return super().flags() | {key.replace("-", "_"): v or "true" for key, _, v in given}

    async def _launch(self) -> None:
        self._stop = asyncio.Event()
        self._running = asyncio.ensure_future(self._run())  # noqa: TID251 - awaited in `stop`

    async def _run(self) -> None:
        notifier = Notifier({"NOTIFY_SOCKET": self.manager.address})
        try:
            config = load(self.flags(), ENVIRONMENT)
            with StateDir.open(config.state_dir) as state_dir:
                await Daemon(config, state_dir, notifier=notifier).run(self._stop)
        except Exception as error:
            self.manager.fail(error)
            raise

    async def stop(self) -> int:
        """End the daemon as SIGTERM does; raises what it ended with."""
        self._stop.set()
        running, self._running = self._running, None
        if running is not None:
            async with asyncio.timeout(WAIT_SECONDS):
                await running
        return 0

    async def close(self) -> None:
        """End the daemon, if it runs."""
        await self.stop()
        await super().close()


H = TypeVar("H", ProcessHost, LocalHost)


class Cluster:
    """The hosts of one test, ended with it."""

    def __init__(self, folder: Path, loopback: Loopback) -> None:
        self._folder = folder
        self.loopback = loopback
        self.hosts: list[Host] = []

    def process(
        self, name: str, *, sim: str = "", options: Iterable[str] = (), endpoint: str = ""
    ) -> ProcessHost:
        """A host with a daemon process, not started yet.

        `options` are `--key=value` or `--switch` each.
        """
        return self._add(ProcessHost, name, sim, options, endpoint)

    def local(
        self, name: str, *, sim: str = "", options: Iterable[str] = (), endpoint: str = ""
    ) -> LocalHost:
        """A host with a daemon in this event loop; not started yet."""
        return self._add(LocalHost, name, sim, options, endpoint)

    def _add(self, cls: type[H], name: str, sim: str, options: Iterable[str], endpoint: str) -> H:
        folder = self._folder / f"{len(self.hosts)}-{name}"
        host = cls(
            name, endpoint or self.loopback.endpoint(), folder, sim=sim, options=tuple(options)
        )
        self.hosts.append(host)
        return host

    async def start(self, *hosts: Host) -> None:
        """Start hosts, all at once."""
        async with asyncio.TaskGroup() as tasks:
            for host in hosts or self.hosts:
                tasks.create_task(host.start())

    async def close(self) -> None:
        """End all hosts, the last one first, and all of them even if one fails of it."""
        async with AsyncExitStack() as hosts:
            for host in self.hosts:
                hosts.push_async_callback(host.close)


@asynccontextmanager
async def running_cluster(folder: Path, loopback: Loopback) -> AsyncIterator[Cluster]:
    """A cluster without hosts yet, and none left behind."""
    cluster = Cluster(folder, loopback)
    try:
        yield cluster
    finally:
        await cluster.close()
