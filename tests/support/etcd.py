"""Real etcd clusters on loopback, for tests: each member a process that may be killed or frozen."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from poolmanager.etcd.v3 import rpc_pb2 as pb
from poolmaster.store.contract import StoreUnavailable
from poolmaster.store.etcd.calls import RANGE
from poolmaster.store.etcd.cluster import Cluster, Endpoint, Tls
from poolmaster.store.etcd.store import EtcdOptions
from support.certificates import Authority
from support.daemons import stands_still

START_SECONDS = 30.0
HEARTBEAT_MS = 50
ELECTION_MS = 500


def etcd_binary() -> str | None:
    """Where etcd is, if it is installed."""
    return shutil.which("etcd")


@dataclass(frozen=True, slots=True)
class _Urls:
    client: str
    peer: str


class EtcdMember:
    """One etcd process."""

    def __init__(self, name: str, folder: Path, arguments: Sequence[str], client: str) -> None:
        self.name = name
        self.address = client
        self._folder = folder
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *besides: str) -> None:
        """Start it, with these arguments besides."""
        assert self._process is None
        log = (self._folder / f"{self.name}.log").open("ab")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        self._process = subprocess.Popen(
            [etcd_binary() or "etcd", *self._arguments, *besides],
            stdout=log,
            stderr=log,
            env=environment,
        )
        log.close()

    @property
    def log(self) -> str:
        return (self._folder / f"{self.name}.log").read_text()

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def freeze(self) -> None:
        """Stop it; none of its threads runs any more on return, however busy the machine is."""
        assert self._process is not None
        self._signal(signal.SIGSTOP)
        while not stands_still(self._process.pid):
            time.sleep(0.001)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, if it runs, frozen or not."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


class EtcdCluster:
    """Members that know of each other."""

    def __init__(
        self,
        folder: Path,
        *,
        size: int = 1,
        authority: Authority | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        scheme = "http" if authority is None else "https"
        ports = iter(free_ports(2 * size))
        urls = {
            f"m{number}": _Urls(
                f"{scheme}://127.0.0.1:{next(ports)}", f"{scheme}://127.0.0.1:{next(ports)}"
            )
            for number in range(size)
        }
        secrets = () if authority is None else _tls_arguments(authority)
        self.tls = None if authority is None else authority.client
        self.members = [
            EtcdMember(
                name,
                folder,
                [
                    *("--name", name, "--data-dir", str(folder / name)),
                    *("--listen-client-urls", mine.client, "--advertise-client-urls", mine.client),
                    *("--listen-peer-urls", mine.peer),
                    *("--initial-advertise-peer-urls", mine.peer),
                    *("--initial-cluster", ",".join(f"{n}={u.peer}" for n, u in urls.items())),
                    *("--heartbeat-interval", str(HEARTBEAT_MS)),
                    *("--election-timeout", str(ELECTION_MS)),
                    *("--pre-vote", "--max-txn-ops", "4096", "--logger", "zap"),
                    *secrets,
                    *arguments,
                ],
                mine.client.partition("://")[2],
            )
            for name, mine in urls.items()
        ]

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(member.address for member in self.members)

    async def start(self) -> None:
        """Start all members, until each answers."""
        for member in self.members:
            member.start()
        for member in self.members:
            await self.until_answers(member)

    async def until_answers(self, member: EtcdMember) -> None:
        """Until a member serves a linearizable read."""
        request = pb.RangeRequest(key=b"anything")
        async with asyncio.timeout(START_SECONDS), self.client(member) as client:
            while True:
                assert member.runs, member.log
                try:
                    await client.ask(RANGE, request)
                except (StoreUnavailable, grpc.aio.AioRpcError):
                    continue
                return

    async def leader(self) -> EtcdMember:
        """The member that leads; waits until one does."""
        async with self.client(*self.members) as client:
            found = await leading(client)
        return next(member for member in self.members if member.address == found.address)

    @asynccontextmanager
    async def client(self, *members: EtcdMember) -> AsyncIterator[Cluster]:
        addresses = tuple(member.address for member in members)
        cluster = EtcdOptions(addresses, tls=self.tls).cluster()
        try:
            yield cluster
        finally:
            await cluster.close()

    def kill(self) -> None:
        for member in self.members:
            member.kill()


async def leading(client: Cluster) -> Endpoint:
    """The member that leads; waits until one does."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            for endpoint in client.endpoints:
                try:
                    status = await client.status(endpoint)
                except grpc.aio.AioRpcError:
                    continue
                if status.leader and status.leader == status.header.member_id:
                    return endpoint
            await asyncio.sleep(0.05)


def _tls_arguments(authority: Authority) -> tuple[str, ...]:
    """Both ways: members and clients have to show a certificate of the authority."""
    tls: Tls = authority.server
    files = [str(path) for path in (tls.certificate, tls.key, tls.ca)]
    return tuple(
        argument
        for prefix in ("--", "--peer-")
        for argument in (
            *(f"{prefix}cert-file", files[0], f"{prefix}key-file", files[1]),
            *(f"{prefix}trusted-ca-file", files[2], f"{prefix}client-cert-auth"),
        )
    )


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def three_free_ports() -> int:
    """The first of three in a row."""
    while True:
        (first,) = free_ports(1)
        with ExitStack() as probes, suppress(OSError):
            for port in (first + 1, first + 2):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
