"""What a master asks of the host agents, whatever carries the question."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from poolcore.facts import (
    HostFacts,
    KnownCommit,
    Recovery,
    Standing,
    Tail,
    Unreachable,
    VoterFacts,
)
from poolcore.model import Accession, Reservation
from poolcore.replica import Head


@dataclass(frozen=True, slots=True)
class Answer:
    """A host's facts, and the time of day it had when it gave them."""

    facts: HostFacts
    clock: datetime


class Agents(Protocol):
    """The agents of all hosts, each by its `host:port`.

    Every call has a deadline of its own. Raises the `PoolError` that the host answered with, or
    `HOST_NAME_UNRESOLVABLE`, `HOST_UNREACHABLE`, `NOT_A_POOL_HOST` when it gave no answer of ours.
    A host that has no mastership of its own at the moment counts as unreachable: `NO_MASTER` and
    `OUTCOME_UNKNOWN` always speak of the master that asks.
    """

    async def facts(self, endpoint: str) -> Answer:
        """Everything preflight wants to know of the host; changes nothing."""
        ...

    async def reserve(self, endpoint: str, reservation: Reservation) -> Answer:
        """Have the host promise itself; its facts afterwards. Repeating is harmless."""
        ...

    async def release(self, endpoint: str, task: str) -> None:
        """End the promise for that task. Repeating is harmless."""
        ...

    async def adopt(self, endpoint: str, task: str, pool: str, store: str | None) -> None:
        """Tell the host that the join was committed; returns when it has turned into a member."""
        ...

    async def probe(
        self, endpoint: str, targets: tuple[tuple[str, str], ...]
    ) -> tuple[Unreachable, ...]:
        """Have the host try to connect to `(host name, host:port)` targets."""
        ...

    async def standing(self, endpoint: str, pool: str, term: int, *, seconds: float) -> Standing:
        """Where a host of `pool` stands that is asked about the master of `term`."""
        ...

    async def take_over(self, endpoint: str, head: Head, why: Accession, *, seconds: float) -> None:
        """Have a host claim the mastership that `head` is of; returns when it has confirmed it."""
        ...

    async def prepare_succession(
        self,
        endpoint: str,
        pool: str,
        incarnation: str,
        *,
        store: str | None = None,
        seconds: float,
    ) -> None:
        """Have a host of `pool` copy what it has into a store of `incarnation`.

        `store`: the URL of one that hosts share; none: a store of the host's own.
        """
        ...

    async def voter(self, endpoint: str) -> VoterFacts:
        """Whether the host could run a member of the pool's own etcd, and whether it does."""
        ...

    async def start_voter(
        self,
        endpoint: str,
        pool: str,
        token: str,
        members: tuple[tuple[str, str], ...],
        *,
        joins: bool = False,
        since: tuple[int, int],
    ) -> None:
        """Have a host of `pool` run a member of the pool's own etcd. Repeating is harmless.

        `members`: host uuid and peer address of each; `joins`: the cluster knows of it already.
        `since`: the incarnation's count and the revision of the state in which the pool wants it.
        """
        ...

    async def stop_voter(self, endpoint: str, pool: str, token: str) -> None:
        """Have a host end its member of that cluster. Repeating is harmless."""
        ...

    async def voter_tail(self, endpoint: str, pool: str, last: KnownCommit) -> Tail:
        """What the disk of a host of `pool` has of its etcd beyond the commit `last`."""
        ...

    async def reset_master(self, endpoint: str, master: str, *, seconds: float) -> None:
        """Tell a host where its pool's master is; returns when it follows it."""
        ...

    async def recoveries(self, endpoint: str) -> tuple[Recovery, ...]:
        """What the host has put aside of commits that its pool has not."""
        ...

    async def read_recovery(
        self, endpoint: str, name: str, token: str | None
    ) -> tuple[tuple[str, ...], str | None]:
        """A page of that, lines of JSON, and the token of the next page; none at the end."""
        ...

    async def read_nonce(self, endpoint: str, store: str, pool: str) -> str | None:
        """The nonce that the host reads in the store of that URL; none if it cannot."""
        ...
