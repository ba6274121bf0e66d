"""What one member of the pool's own etcd is: its place in the cluster and its command line.

Kept in `member.json` beside its data, so that it can be started again with nothing else alive. The
pool's etcd has ports, a data directory and a process of its own; a packaged service is left alone.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from poolmaster.own_etcd import CLIENT_PORT, PEER_PORT, beside
from poolmaster.store.etcd.limits import QUOTA_BYTES, REQUEST_BYTES, TXN_OPERATIONS
from poolmaster.store.etcd.versions import refusal
from poolmember.etcd.wal import has_log
from poolmember.state_dir import replace_file

MEMBER_FILE = "member.json"
DATA_FOLDER = "data"

HEARTBEAT_MS = 50
ELECTION_MS = 500
"""A leader that is lost is replaced after this long; for hosts of one network."""
KEPT_REVISIONS = 20_000


class EtcdRefused(Exception):
    """There is no etcd here, or one that the pool does not trust its metadata to."""


@dataclass(frozen=True, slots=True)
class EtcdMember:
    """One member's place in the cluster."""

    name: str
    """The host's uuid."""
    listen: str
    """The IP address that it listens at; of a wildcard, every one."""
    client: str
    """`host:port` where clients reach it."""
    peer: str
    """`host:port` where other members reach it."""
    token: str
    """Members of different tokens never speak to each other: the incarnation's uuid."""
    cluster: tuple[tuple[str, str], ...]
    """Name and peer address of each member it starts with, itself among them."""
    joins: bool
    """Whether the cluster exists already, and has been told of this member."""
    since: tuple[int, int] = (0, 0)
    """Count of the incarnation and revision of the state that it was started for: older ones do not
    know of it."""
    begun: bool = False
    """Whether its log has. From then on it is never to begin anew: what this member has
    acknowledged, and whom it has voted for, is in there."""

    @property
    def store_url(self) -> str:
        """The URL of a store in the cluster that it starts with: this member first."""
        others = (
            beside(peer, CLIENT_PORT - PEER_PORT)
            for name, peer in self.cluster
            if name != self.name
        )
        return "etcd:" + ",".join((self.client, *others))

    def arguments(self, folder: Path) -> list[str]:
        """The command line behind the program's name."""
        cluster = ",".join(f"{name}=http://{peer}" for name, peer in self.cluster)
        return [
            f"--name={self.name}",
            f"--data-dir={folder / DATA_FOLDER}",
            f"--listen-client-urls=http://{self._listening(self.client)}",
            f"--advertise-client-urls=http://{self.client}",
            f"--listen-peer-urls=http://{self._listening(self.peer)}",
            f"--initial-advertise-peer-urls=http://{self.peer}",
            f"--initial-cluster={cluster}",
            f"--initial-cluster-token={self.token}",
            f"--initial-cluster-state={'existing' if self.joins else 'new'}",
            f"--heartbeat-interval={HEARTBEAT_MS}",
            f"--election-timeout={ELECTION_MS}",
            # A member that was cut off does not depose the leader when it comes back.
            "--pre-vote",
            f"--max-txn-ops={TXN_OPERATIONS}",
            f"--max-request-bytes={REQUEST_BYTES}",
            f"--quota-backend-bytes={QUOTA_BYTES}",
            "--auto-compaction-mode=revision",
            f"--auto-compaction-retention={KEPT_REVISIONS}",
            "--logger=zap",
            "--log-outputs=stderr",
        ]

    def _listening(self, reached_at: str) -> str:
        return f"{self.listen}:{reached_at.rpartition(':')[2]}"

    def at(self, endpoint: str, listen: str) -> EtcdMember:
        """This member at a host whose daemon is reached at `endpoint` and listens at `listen`."""
        peer = beside(endpoint, PEER_PORT)
        return replace(
            self,
            listen=listen,
            client=beside(endpoint, CLIENT_PORT),
            peer=peer,
            cluster=tuple((n, peer if n == self.name else p) for n, p in self.cluster),
        )

    def save(self, folder: Path) -> None:
        """Write `member.json`, durably."""
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / MEMBER_FILE, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> EtcdMember | None:
        """What `member.json` says; none if there is none, or it cannot be read."""
        try:
            found = json.loads((folder / MEMBER_FILE).read_bytes())
            cluster = tuple((name, peer) for name, peer in found.pop("cluster"))
            counter, revision = found.pop("since")
            return cls(cluster=cluster, since=(counter, revision), **found)
        except (OSError, ValueError, TypeError, AttributeError, LookupError):
            return None

    def has_lost_its_log(self, folder: Path) -> bool:
        """Whether it has begun, and is gone."""
        return self.begun and not has_log(folder / DATA_FOLDER)


def etcd_program() -> str:
    """The program's path; raises `EtcdRefused` with what is wrong."""
    if (problem := problem_with(etcd_version())) is not None:
        raise EtcdRefused(problem)
    path = shutil.which("etcd")
    assert path is not None  # noqa: S101 - it has just told its version
    return path


def etcd_version() -> str | None:
    """What the installed etcd says that it is; none if there is none."""
    path = shutil.which("etcd")
    if path is None:
        return None
    told = subprocess.run(
        [path, "--version"], capture_output=True, text=True, timeout=10.0, check=False
    ).stdout
    found = re.search(r"etcd Version: (\S+)", told)
    return "" if found is None else found[1]


def problem_with(version: str | None) -> str | None:
    """Why that etcd is not trusted with the pool's metadata; none if it is. None: there is none."""
    return "there is no program etcd on this host" if version is None else refusal(version)
