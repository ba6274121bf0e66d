"""The pool's own etcd in a simulated world.

Of etcd itself only what its clients see is played: a store that serves those who reach a member
which a majority of the members can hear. A member has power as long as its host does, and is known
by what its host has on its disk. Members are not replaced here: that takes the calls of etcd.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from poolcore.clock import Clock
from poolcore.errors import PoolError, Reason
from poolcore.facts import KnownCommit, Tail, VoterFacts
from poolcore.replica import State
from poolmaster.layout import HEAD, LOG, decode_head, log_key
from poolmaster.own_etcd import CLIENT_PORT, PEER_PORT, beside
from poolmaster.store.contract import (
    Compare,
    LeaseId,
    OutcomeUnknown,
    ReadResult,
    Store,
    StoreUnavailable,
    Write,
    prefix_end,
)
from poolmember.etcd.member import EtcdMember
from poolmember.etcd.voter import knows
from support.stores import StoreAround

if TYPE_CHECKING:
    from sim.disk import StoreOnDisk
    from sim.host import SimHost
    from sim.network import Network

VERSION = "3.4.23"
LOOK_SECONDS = 0.05
"""How long it takes to find that there is no quorum."""


class EtcdCluster:
    """One cluster: `members` are the endpoints of the daemons that its members are beside."""

    def __init__(self, clusters: EtcdClusters, token: str, members: Sequence[str]) -> None:
        self.store: StoreOnDisk | None = None
        self._clusters = clusters
        self._token = token
        self._members = tuple(members)

    def serves(self, source: str) -> bool:
        """Whether whoever is at that endpoint reaches a member that has a quorum."""
        up = [e for e in self._members if self._clusters.token_at(e) == self._token]
        return any(
            self._clusters.connected(source, member)
            and 2 * sum(self._clusters.connected(member, other) for other in up)
            > len(self._members)
            for member in up
        )


class EtcdClusters:
    """All that there ever were in one world."""

    def __init__(self, network: Network, hosts: dict[str, SimHost]) -> None:
        self.by_token: dict[str, EtcdCluster] = {}
        self._network = network
        self._hosts = hosts

    def add(self, member: EtcdMember) -> None:
        """A member of that cluster has been started for the first time."""
        if member.token not in self.by_token:
            daemons = [beside(peer, -PEER_PORT) for _, peer in member.cluster]
            self.by_token[member.token] = EtcdCluster(self, member.token, daemons)

    def token_at(self, endpoint: str) -> str | None:
        """Of the member that runs beside the daemon of that endpoint; none: there is none."""
        host = next((h for h in self._hosts.values() if h.endpoint == endpoint), None)
        member = None if host is None or host.life is None else host.disk.voter
        return None if member is None else member.token

    def connected(self, one: str, other: str) -> bool:
        """Whether messages get through between two endpoints, both ways."""
        cut = self._network.is_cut
        return one == other or not (cut(one, other) or cut(other, one))

    def at(self, url: str, source: str) -> EtcdCluster:
        """The cluster at the first of the URL's addresses that answers; `StoreUnavailable`."""
        for address in url.removeprefix("etcd:").split(","):
            endpoint = beside(address, -CLIENT_PORT)
            token = self.token_at(endpoint)
            if token is not None and self.connected(source, endpoint):
                return self.by_token[token]
        raise StoreUnavailable(f"no connection to etcd at {url}")


class QuorumStore(StoreAround):
    """A handle on a cluster's store, of whoever is at `source`."""

    def __init__(self, inner: Store, cluster: EtcdCluster, source: str, clock: Clock) -> None:
        super().__init__(inner)
        self._cluster = cluster
        self._source = source
        self._clock = clock

    async def _ensure(self) -> None:
        if not self._cluster.serves(self._source):
            await self._clock.sleep(LOOK_SECONDS)
            raise StoreUnavailable("etcd has no quorum")

    async def transact(self, compares: Sequence[Compare], writes: Sequence[Write]) -> bool:
        await self._ensure()
        applied = await super().transact(compares, writes)
        if not self._cluster.serves(self._source):
            raise OutcomeUnknown("etcd has lost its quorum")
        return applied

    async def read(
        self,
        start: bytes,
        end: bytes | None = None,
        *,
        limit: int | None = None,
        linearizable: bool = True,
    ) -> ReadResult:
        await self._ensure()
        result = await super().read(start, end, limit=limit, linearizable=linearizable)
        await self._ensure()
        return result

    async def grant_lease(self, ttl_seconds: float) -> LeaseId:
        await self._ensure()
        return await super().grant_lease(ttl_seconds)

    async def keep_alive(self, lease: LeaseId) -> bool:
        await self._ensure()
        return await super().keep_alive(lease)

    async def revoke(self, lease: LeaseId) -> None:
        await self._ensure()
        await super().revoke(lease)


class SimVoter:
    """A host's member. Implements `poolmember.etcd.voter.Voter`."""

    def __init__(self, host: SimHost, clusters: EtcdClusters) -> None:
        self._host = host
        self._clusters = clusters

    @property
    def _member(self) -> EtcdMember | None:
        return self._host.disk.voter

    @property
    def cluster(self) -> tuple[str, str] | None:
        member = self._member
        return None if member is None else (member.token, member.store_url)

    async def facts(self) -> VoterFacts:
        member = self._member
        return VoterFacts(version=VERSION, token=None if member is None else member.token)

    async def start(self, member: EtcdMember) -> None:
        present = self._member
        if present is not None and present.token != member.token:
            problem = "its etcd is of another cluster"
            raise PoolError(Reason.HOST_NOT_ELIGIBLE, host=self._host.name, problem=problem)
        if present is None:
            self._host.disk.voter = member
            self._clusters.add(member)

    async def stop(self, token: str) -> None:
        if self._member is not None and self._member.token == token:
            self._host.disk.voter = None

    async def compare(self, state: State) -> None:
        member = self._member
        if member is not None and state.revision >= member.since and not knows(state, member):
            await self.stop(member.token)

    async def tail(self, pool: str, last: KnownCommit) -> Tail:
        """What the cluster's store has: every member's disk keeps up with it here."""
        member = self._member
        cluster = None if member is None else self._clusters.by_token[member.token]
        if cluster is None or cluster.store is None:
            return Tail()
        data = cluster.store.data
        kept = {item.key: item.value for item in data.read(LOG, prefix_end(LOG), None).items}
        first = kept.get(log_key(last.revision))
        if first is None or KnownCommit.of(last.revision, first) != last:
            return Tail()
        head = decode_head(data.read(HEAD, None, None).items[0].value)
        following = range(last.revision + 1, head.revision + 1)
        position = (head.incarnation.counter, 0, head.revision)
        return Tail(position, tuple(kept[log_key(revision)] for revision in following))

    async def leave(self) -> None:
        self._host.disk.voter = None
