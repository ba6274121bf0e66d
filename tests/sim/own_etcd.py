"""The pool's own etcd in a simulated world: which host runs a member, and what its members have.

The product's own client (`poolmaster.store.etcd`) speaks to it over the simulated network; what is
played is etcd: `etcd_server.py` answers, `etcd_raft.py` agrees, `etcd_state.py` is what is agreed
upon. A member is a process of its own beside the daemon: it outlives that, has power as long as
its host does, and can be killed or stopped by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from poolcore.errors import PoolError, Reason
from poolcore.facts import KnownCommit, Tail, VoterFacts
from poolcore.model import PoolId
from poolcore.replica import State
from poolmanager.etcd.v3 import rpc_pb2 as pb
from poolmanager.etcd.v3 import wal_pb2
from poolmaster.own_etcd import CLIENT_PORT, PEER_PORT, beside
from poolmaster.store.contract import Write, prefix_end
from poolmaster.store.etcd.store import EtcdOptions, key_prefix
from poolmaster.store.memory_data import NEVER
from poolmember.etcd.member import EtcdMember
from poolmember.etcd.tail import tail_in
from poolmember.etcd.voter import knows
from poolmember.etcd.wal import Log
from sim.disk import OwnMember, StoreOnDisk
from sim.etcd_raft import Entry, Node, RaftGroup, Result
from sim.etcd_server import VERSION, EtcdServer
from sim.etcd_state import EtcdState, ListedMember, Published, Txn
from sim.machine import MachineLoop, place
from sim.served import Details

if TYPE_CHECKING:
    from sim.host import SimHost
    from sim.world import World

T = TypeVar("T")

LOOK_SECONDS = 0.1
PREFIX = EtcdOptions.PREFIX.encode()
PREFIX_END = prefix_end(PREFIX)


class EtcdProcess:
    """A member that runs. Implements `sim.network.Listener`."""

    def __init__(self, host: SimHost, member: OwnMember, cluster: EtcdCluster) -> None:
        self.over = False
        self.frozen = False
        self.node = member.node
        self.server = EtcdServer(
            member.node,
            cluster.group,
            cluster.id,
            clock=host.world.clock,
            dice=random.Random(f"{host.world.seed} etcd of {host.name}"),
        )
        self.server.on_transaction = cluster.sent
        self._member = member
        self._cluster = cluster
        self._host = host
        self._place = f"etcd of {host.name}"
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self.node.process = self
        self._network.listening[member.started_as.client] = self
        self._joining = self.begin(self._join())

    @property
    def _network(self) -> Any:
        return self._host.world.network

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something there; it ends with the process."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(work, context=place(self._place))  # kept; `end` cancels it
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None and not self.over:
            problem = f"the etcd of {self._host.name} ran into {task.exception()!r}"
            self._host.world.violations.expect(False, problem)

    def handler(self, details: Details) -> Any:
        return self.server.handler(details.method)

    async def _join(self) -> None:
        """Find the cluster that knows of this member, and tell it who this is."""
        node, started_as = self.node, self._member.started_as
        clock, group = self._host.world.clock, self._cluster.group
        while not node.id:
            await clock.sleep(LOOK_SECONDS)
            for other in group.nodes:
                if other.awake and other.id and group.connected(node, other):
                    listed = other.state.members.values()
                    node.id = next((m.id for m in listed if _is_awaited(m, node)), node.id)
        while not (node.id in node.state.members and node.state.members[node.id].name):
            await clock.sleep(LOOK_SECONDS)
            if node.leader:
                told = Published(node.id, started_as.name, started_as.client)
                await asyncio.wait([group.propose(node, told)], timeout=1.0)

    def freeze(self) -> None:
        """Stop it, as SIGSTOP does."""
        self.frozen = True
        _loop().freeze(self._place)

    def thaw(self) -> None:
        """Let it go on."""
        self.frozen = False
        _loop().thaw(self._place)

    def end(self) -> None:
        """Kill it; what it had answered is on its disk."""
        self.thaw()
        self.over = True
        for task in tuple(self._tasks):
            task.cancel()
        self.node.stopped()
        client = self._member.started_as.client
        del self._network.listening[client]
        self._network.gone(client)


class EtcdCluster:
    """One cluster there ever was."""

    def __init__(self, world: World, token: str, founders: Sequence[tuple[str, str]]) -> None:
        self.id = _number(token)
        self.group = RaftGroup(
            world.network, world.clock, random.Random(f"{world.seed} etcd {token}")
        )
        self.group.on_applied = self._applied
        self.group.on_violation = lambda rule: world.rules.expect(False, rule)
        self.stores: dict[str, StoreOnDisk] = {}
        """By incarnation."""
        self.on_applied: Callable[[Node, Entry, Result], None] = lambda node, entry, result: None
        """Told of each entry of the log, once."""
        self._world = world
        self.founders = {
            id: ListedMember(id, peer, name, beside(peer, CLIENT_PORT - PEER_PORT))
            for name, peer in founders
            for id in [_number(token + peer)]
        }
        self._mirrored = 1
        """Up to which revision its stores have been told of changes."""

    def new_node(self, member: EtcdMember) -> Node:
        """What a member begins with."""
        id = 0 if member.joins else _number(member.token + member.peer)
        node = Node(id, member.peer, EtcdState(dict(self.founders)))
        node.heard_at = self._world.clock.monotonic()
        self.group.nodes.append(node)
        return node

    def sent(self, request: pb.TxnRequest) -> None:
        """A member is about to propose a transaction."""
        puts = (o.request_put for o in request.success if o.HasField("request_put"))
        placed = [(_placed(put.key), put.value) for put in puts]
        writes = [Write(key, value) for (_, incarnation, key), value in placed if incarnation]
        self._world.committing(writes, "before")

    def _applied(self, node: Node, entry: Entry, result: Result) -> None:
        """Show what was committed to whoever looks on at a store in here."""
        self.on_applied(node, entry, result)
        written: dict[str, list[Write]] = {}
        for change in node.state.changes(PREFIX, PREFIX_END, since=self._mirrored + 1):
            pool, incarnation, key = _placed(change.key)
            if incarnation:
                written.setdefault(incarnation, []).append(Write(key, change.value))
            elif change.value is not None:
                self._founded(PoolId(pool), json.loads(change.value)["incarnation"])
        self._mirrored = node.state.revision
        for incarnation, writes in written.items():
            data = self.stores[incarnation].data
            data.land(data.send((), writes, due=NEVER))
            # Soon: what loses its power of that may be in the midst of it.
            asyncio.get_running_loop().call_soon(
                self._world.committing, writes, "unanswered", context=self._world.network.context
            )

    def _founded(self, pool: PoolId, incarnation: str) -> None:
        store = self.stores[incarnation] = StoreOnDisk(pool, incarnation)
        self._world.store_founded("the etcd", store)


class EtcdClusters:
    """All that there ever were in one world."""

    def __init__(self, world: World) -> None:
        self.by_token: dict[str, EtcdCluster] = {}
        self.on_cluster: Callable[[EtcdCluster], None] = lambda cluster: None
        """Told of each new one."""
        self.on_process: Callable[[EtcdProcess], None] = lambda process: None
        """Told of each start of a member. Here bugs are planted."""
        self._world = world

    def add(self, member: EtcdMember) -> OwnMember:
        """A member is to be started for the first time."""
        cluster = self.by_token.get(member.token)
        if cluster is None:
            cluster = EtcdCluster(self._world, member.token, member.cluster)
            self.by_token[member.token] = cluster
            self.on_cluster(cluster)
        return OwnMember(member, cluster.new_node(member))

    def forget(self, member: OwnMember | None) -> None:
        """What a member had is put aside: it is not started again."""
        if member is not None:
            self.by_token[member.started_as.token].group.nodes.remove(member.node)

    def run(self, host: SimHost) -> EtcdProcess | None:
        """Start the member that a host has, if it has one."""
        member = host.disk.voter
        if member is None:
            return None
        process = EtcdProcess(host, member, self.by_token[member.started_as.token])
        self.on_process(process)
        return process


class SimVoter:
    """A host's member. Implements `poolmember.etcd.voter.Voter`."""

    def __init__(self, host: SimHost, clusters: EtcdClusters) -> None:
        self._host = host
        self._clusters = clusters

    @property
    def _member(self) -> EtcdMember | None:
        there = self._host.disk.voter
        return None if there is None else there.started_as

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
            self._host.disk.voter = self._clusters.add(member)
            self._host.start_etcd()

    async def stop(self, token: str) -> None:
        if self._member is not None and self._member.token == token:
            await self.leave()

    async def compare(self, state: State) -> None:
        member = self._member
        if member is not None and state.reach >= member.since and not knows(state, member):
            await self.leave()

    async def tail(self, pool: str, last: KnownCommit) -> Tail:
        there = self._host.disk.voter
        if there is None:
            return Tail(whole=False)
        prefix = key_prefix(EtcdOptions.PREFIX, pool, there.started_as.token)
        return tail_in([Log(_on_disk(there.node), whole=True)], prefix, last)

    async def leave(self) -> None:
        self._host.kill_etcd()
        self._clusters.forget(self._host.disk.voter)
        self._host.disk.voter = None


def _is_awaited(listed: ListedMember, node: Node) -> bool:
    """Whether a member that has not started yet is that one; another may have been there before."""
    return listed.peer == node.peer and listed.learner and not listed.name


def _on_disk(node: Node) -> tuple[wal_pb2.RaftEntry, ...]:
    """The log of a member, as etcd writes it."""
    return tuple(
        wal_pb2.RaftEntry(
            term=entry.term,
            index=index,
            data=wal_pb2.RaftRequest(txn=entry.command.request).SerializeToString()
            if isinstance(entry.command, Txn)
            else b"",
        )
        for index, entry in enumerate(node.log, start=1)
    )


def _number(text: str) -> int:
    """An id, as etcd makes them of what is configured."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]) or 1


def _placed(key: bytes) -> tuple[str, str, bytes]:
    """Pool and incarnation that a key is of; without an incarnation it says which one there is."""
    pool, _, rest = key.removeprefix(PREFIX).decode(errors="surrogateescape").partition("/")
    incarnation, _, _ = rest.partition("/")
    if incarnation == rest:
        return pool, "", b""
    return pool, incarnation, key[len(PREFIX) + len(pool) + len(incarnation) + 2 :]


def _loop() -> MachineLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, MachineLoop)
    return loop
