"""What must hold for the members of a pool's own etcd, and for whoever watches a store in it.

* No change of members takes a quorum away that there is: where the voters that answer were a
  majority before, they are one afterwards. One that fell silent within the last seconds counts as
  answering: nobody can have known.
* A member that gets its vote has what the others have, but for the last moments.
* In the end the pool names the very members that there are, as many as it is to have.
* Whoever watches and, told that what he asks for was compacted, reads anew, has the store as it is.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing, suppress
from dataclasses import replace

from poolcore.errors import PoolError
from poolcore.model import Host
from poolcore.replica import State
from poolmaster.decide.voters import wanted
from poolmaster.own_etcd import own_store_url
from poolmaster.store import urls
from poolmaster.store.contract import StoreError, WatchEvent, WatchGone
from poolmaster.store.etcd.store import EtcdOptions, EtcdStore
from sim.disk import StoreOnDisk
from sim.etcd_raft import HEALTHY_SECONDS, IN_SYNC, Entry, Node, Result
from sim.etcd_state import Promoted, Refused, Removed
from sim.own_etcd import EtcdCluster
from sim.world import World

ALL = (b"", b"\xff")


class MemberRules:
    """Watches the members of one cluster."""

    def __init__(self, world: World, cluster: EtcdCluster) -> None:
        self.changes = 0
        """How often voters have changed."""
        self.most = len(cluster.founders)
        """How many voters there were at most."""
        self._world = world
        self._group = cluster.group
        self._voters = set(cluster.founders)
        cluster.on_applied = self._applied

    def _applied(self, node: Node, entry: Entry, result: Result) -> None:
        command = entry.command
        if isinstance(result, Refused) or not isinstance(command, Promoted | Removed):
            return
        before, self._voters = self._voters, set(node.state.voters)
        if self._voters == before:
            return
        self.changes += 1
        self.most = max(self.most, len(self._voters))
        answering = {
            id
            for id in before | self._voters
            if id == node.id or self._group.was_connected(node, id, within=HEALTHY_SECONDS)
        }
        lost = 2 * len(answering & before) > len(before) and (
            2 * len(answering & self._voters) <= len(self._voters)
        )
        told = f"of voters {sorted(before)} {sorted(answering & before)} answered"
        self._world.rules.expect(not lost, f"{command} takes the quorum away: {told}")
        if isinstance(command, Promoted):
            promoted = self._group.node(command.id)
            has = 0 if promoted is None else len(promoted.log)
            # What was written since it was asked for may be lacking.
            enough = has >= IN_SYNC * IN_SYNC * node.applied
            self._world.rules.expect(enough, f"{command} with {has} of {node.applied} entries")


def why_not_kept(state: State, cluster: EtcdCluster) -> str | None:
    """What the voters lack to be those that the pool is to have, if they lack something."""
    voters = state.pool.voters
    leader = next((n for n in cluster.group.nodes if n.awake and n.leads), None)
    if voters is None or leader is None:
        return "the pool's etcd has no leader"
    listed = leader.state.members.values()
    names = [sorted(m.name for m in listed if m.learner is learner) for learner in (False, True)]
    said = [sorted(voters.hosts), sorted(voters.learners)]
    if names != said:
        return f"the members are {names}, the pool says {said}"
    number = wanted(sum(1 for _ in state.all(Host)))
    if len(voters.hosts) != number or voters.learners:
        return f"{len(voters.hosts)} vote and {len(voters.learners)} learn, {number} are to vote"
    return None


class StoreWatcher:
    """Keeps a copy of a store by watching it."""

    def __init__(self, world: World, state: State, store: StoreOnDisk) -> None:
        self.resynced = 0
        """How often what it asked for was compacted."""
        self._world = world
        self._store = store
        url = own_store_url(state, near=next(state.all(Host)).uuid)
        assert url is not None
        parsed = urls.parse(url)
        assert isinstance(parsed, urls.EtcdUrl)
        self._options: EtcdOptions = replace(
            parsed.options, clock=world.clock, open_channel=world.opener("store watcher")
        )
        self._dice = random.Random(f"{world.seed} store watcher")
        self._copy: dict[bytes, bytes] = {}
        self._version = 0

    async def run(self) -> None:
        """Until cancelled; now and then it is away for a while, and goes on where it was."""
        while True:
            with suppress(StoreError, PoolError, TimeoutError):
                async with asyncio.timeout(self._dice.uniform(0.2, 3.0)):
                    store = await EtcdStore.open(self._options, pool=self._store.pool)
                    try:
                        await self._follow(store)
                    finally:
                        await store.close()
            await self._world.clock.sleep(self._dice.uniform(0.1, 1.0))

    async def _follow(self, store: EtcdStore) -> None:
        while True:
            try:
                # Of the last version only a part may have been told.
                known = max(self._version - 1, 0)
                watching = store.watch(*ALL, after_version=known)
                async with aclosing(watching) as events:  # type: ignore[type-var]  # a generator
                    async for event in events:
                        self._expect(event.version >= self._version, f"told {event.version}")
                        self._take(event)
            except WatchGone as gone:
                self._expect(gone.oldest >= self._version, f"gone before {gone.oldest}")
                found = await store.read(*ALL)
                self._expect(found.version >= self._version, f"read {found.version}")
                self._copy = {item.key: item.value for item in found.items}
                self._version = found.version
                self.resynced += 1

    def _take(self, event: WatchEvent) -> None:
        self._version = event.version
        if event.value is None:
            self._copy.pop(event.key, None)
        else:
            self._copy[event.key] = event.value

    def _expect(self, holds: bool, what: str) -> None:
        self._world.rules.expect(holds, f"the store's watcher is at {self._version}, {what}")

    @property
    def is_up_to_date(self) -> bool:
        """Whether its copy is what the store has."""
        items = self._store.data.read(*ALL, None).items
        return self._copy == {item.key: item.value for item in items}
