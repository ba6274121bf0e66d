"""The etcd on a lab's host: one that the test runs, or the pool's own, which the daemon runs."""

from __future__ import annotations

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

from poolmaster.own_etcd import CLIENT_PORT, beside
from poolmember.etcd.member import EtcdMember, etcd_program
from poolmember.etcd.process import LOG_FILE
from poolmember.state_dir import ETCD_FOLDER
from support.daemons import ProcessHost
from support.own_etcd import etcds


class HostEtcd(ABC):
    """The etcd on one host."""

    client: str
    """`host:port` where it serves its clients, when it runs."""
    log_file: Path

    @abstractmethod
    def start(self) -> None:
        """Start it, unless it runs."""

    @abstractmethod
    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""

    @abstractmethod
    def kill(self) -> None:
        """End it alone, if it runs, frozen or not."""

    @property
    @abstractmethod
    def runs(self) -> bool:
        """Whether it does."""

    @property
    def log(self) -> str:
        """What it warned of, over all its starts."""
        lines = self.log_file.read_text().splitlines() if self.log_file.exists() else []
        return "\n".join(line for line in lines if '"level":"info"' not in line)


class TestsEtcd(HostEtcd):
    """One that only the test starts and ends, with the arguments that the product gives its own."""

    __test__ = False

    def __init__(
        self, member: EtcdMember, *, folder: Path, log_file: Path, inside: tuple[str, ...]
    ) -> None:
        self.client = member.client
        self.log_file = log_file
        self._member = member
        self._folder = folder
        self._inside = inside
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """See `HostEtcd`."""
        if self.runs:
            return
        self._folder.mkdir(exist_ok=True)
        program = etcd_program()
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._inside, program, *self._member.arguments(self._folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={k: v for k, v in os.environ.items() if not k.startswith("ETCD_")},
            )

    def signal(self, number: signal.Signals) -> None:
        """See `HostEtcd`."""
        if self.runs:
            assert self._process is not None
            self._process.send_signal(number)

    def kill(self) -> None:
        """See `HostEtcd`."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    @property
    def runs(self) -> bool:
        """See `HostEtcd`."""
        return self._process is not None and self._process.poll() is None


class PoolsEtcd(HostEtcd):
    """The member of the pool's own etcd that the host has, if it has one.

    The daemon starts it when the pool says so, and starts it again when it has ended.
    """

    def __init__(self, host: ProcessHost) -> None:
        self.client = beside(host.endpoint, CLIENT_PORT)
        self.log_file = host.state_dir / ETCD_FOLDER / LOG_FILE
        self._host = host

    def start(self) -> None:
        """Nothing: that is up to the daemon."""

    def signal(self, number: signal.Signals) -> None:
        """See `HostEtcd`."""
        for pid in etcds(self._host):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """End it; the daemon starts it again."""
        self.signal(signal.SIGKILL)

    @property
    def runs(self) -> bool:
        """See `HostEtcd`."""
        return bool(etcds(self._host))
