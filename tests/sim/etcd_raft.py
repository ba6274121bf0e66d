"""How the members of a simulated etcd agree: one log each, a leader, majorities.

Raft's rules without its messages' contents. A leader appends to its log, its members copy that,
and what a majority of the voters has in the leader's own term is committed. A leader that hears no
majority gives up; a voter that hears no leader for a while becomes one if a majority of voters,
itself among them, can be asked, hears none either, and has no newer log. What was in the new
leader's log and not yet committed is committed then, long after its sender was told that nothing
is known; what only the old one had is lost. Nothing waits but for the network's delays and these
pauses.

A member's log and term are durable before they count. One that is stopped or cut off has what it
had; one that lags copies the log and does not apply it.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from poolcore.clock import Clock
from poolmanager.etcd.v3 import rpc_pb2 as pb
from sim.etcd_state import Command, EtcdState, Joined, Noop, Promoted, Refused, Removed, Revoke
from sim.network import Network

HEARTBEAT_SECONDS = 0.05
ELECTION_SECONDS = 0.5
"""As `poolmember.etcd.member` sets etcd up."""
HEALTHY_SECONDS = 5.0
"""So long a voter must have been connected before etcd takes in another member."""
IN_SYNC = 0.9
"""So much of the leader's log a learner must have to be promoted."""

Result = pb.TxnResponse | Refused | None


@dataclass(eq=False, slots=True)
class Entry:
    """An entry of the log."""

    command: Command
    term: int = 0


class Process(Protocol):
    """What runs a member."""

    @property
    def over(self) -> bool: ...

    @property
    def frozen(self) -> bool: ...


@dataclass(eq=False)
class Node:
    """One member: first what is on its disk, then what only its process knows."""

    id: int
    """0 until it has found the cluster that it is to join."""
    peer: str
    state: EtcdState
    term: int = 1
    log: list[Entry] = field(default_factory=list)
    applied: int = 0
    commit: int = 0
    removed: bool = False
    """Whether it knows that it is no member any more."""

    process: Process | None = None
    leader: int = 0
    """Whom it follows; 0: nobody. Its own id: it leads."""
    heard_at: float = 0.0
    patience: float = ELECTION_SECONDS
    lags: bool = False
    """Whether it applies nothing at present."""
    match: dict[int, int] = field(default_factory=dict)
    """Of a leader: how much of its log each member is known to have."""
    acked_at: dict[int, float] = field(default_factory=dict)
    kept_until: dict[int, float] = field(default_factory=dict)
    """Of a leader: when each lease ends."""
    waiting: dict[Entry, asyncio.Future[Result]] = field(default_factory=dict)
    """What is to be answered when it has been applied here."""
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced, when something has been applied."""

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return not self.removed and self.process is not None and not self.process.over

    @property
    def awake(self) -> bool:
        """Whether it takes part: one that is stopped does nothing."""
        return self.up and self.process is not None and not self.process.frozen

    @property
    def leads(self) -> bool:
        return self.id != 0 and self.leader == self.id

    def stopped(self) -> None:
        """Its process is no more."""
        self.process, self.leader, self.waiting = None, 0, {}

    def ring(self) -> None:
        """Wake whoever waits for what is applied."""
        self.bell.set()
        self.bell = asyncio.Event()

    def is_newer(self, other: Node) -> bool:
        """Whether its log is newer than another's."""
        mine = (self.log[-1].term if self.log else 0, len(self.log))
        return mine > (other.log[-1].term if other.log else 0, len(other.log))


class RaftGroup:
    """All nodes that there ever were of one cluster."""

    def __init__(self, network: Network, clock: Clock, dice: random.Random) -> None:
        self.nodes: list[Node] = []
        self.committed: list[Entry] = []
        """What was applied by whom ever came first: all others have to do the same."""
        self.on_applied: Callable[[Node, Entry, Result], None] = lambda node, entry, result: None
        """Told of each entry once, when it is applied for the first time."""
        self.on_violation: Callable[[str], None] = lambda rule: None
        self.batch = 1_000
        """How many entries a learner is sent at once."""
        self._network = network
        self._clock = clock
        self._dice = dice
        self._apart_at: dict[frozenset[int], float] = {}
        """When two members were seen to be apart last."""
        self._together_at: dict[frozenset[int], float] = {}
        """When they were seen to be connected last."""
        self._ticks()

    def leads(self, node: Node, term: int) -> bool:
        """Whether a member takes part, and is the leader of that term."""
        return node.awake and node.leads and node.term == term

    def node(self, id: int) -> Node | None:
        """The member of that id."""
        return next((n for n in self.nodes if n.id == id), None) if id else None

    def connected(self, one: Node, other: Node) -> bool:
        """Whether messages get from one to the other and back."""
        cut = self._network.is_cut
        return one is other or not (cut(one.peer, other.peer) or cut(other.peer, one.peer))

    def awake_voters(self, node: Node) -> list[Node]:
        """The voters, as a member knows them, that take part and that it reaches."""
        found = (self.node(id) for id in node.state.voters)
        return [n for n in found if n is not None and n.awake and self.connected(node, n)]

    def has_quorum(self, node: Node, present: Iterable[Node]) -> bool:
        return 2 * len(list(present)) > len(node.state.voters)

    # -- time -------------------------------------------------------------------------------------

    def _later(self, seconds: float, what: Callable[..., None], *about: object) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, what, *about, context=self._network.context)

    def _ticks(self) -> None:
        now = self._clock.monotonic()
        for node in tuple(self.nodes):
            if not node.awake:
                node.heard_at = now
                continue
            self._note_who_is_connected(node, now)
            if node.leads:
                self._lead(node, now)
            elif now - node.heard_at > node.patience:
                node.leader = 0
                self._stand(node, now)
            self._apply(node)
        self._later(HEARTBEAT_SECONDS, self._ticks)

    def _note_who_is_connected(self, node: Node, now: float) -> None:
        for id in node.state.members:
            other = self.node(id)
            together = other is not None and other.awake and self.connected(node, other)
            (self._together_at if together else self._apart_at)[frozenset({node.id, id})] = now

    def is_connected_since(self, node: Node, other: int, seconds: float) -> bool:
        """Whether a member has been connected to another for so long."""
        apart_at = self._apart_at.get(frozenset({node.id, other}), -math.inf)
        return node.id == other or self._clock.monotonic() - apart_at >= seconds

    def was_connected(self, node: Node, other: int, *, within: float) -> bool:
        """Whether a member has been connected to another within the last seconds."""
        together_at = self._together_at.get(frozenset({node.id, other}), -math.inf)
        return self._clock.monotonic() - together_at <= within

    # -- who leads --------------------------------------------------------------------------------

    def _lead(self, leader: Node, now: float) -> None:
        heard = [
            id
            for id in leader.state.voters
            if id == leader.id or now - leader.acked_at.get(id, -math.inf) <= ELECTION_SECONDS
        ]
        if 2 * len(heard) <= len(leader.state.voters) or leader.id not in leader.state.members:
            self.depose(leader)
            return
        for lease, until in tuple(leader.kept_until.items()):
            if until <= now:
                del leader.kept_until[lease]
                self.append(leader, Entry(Revoke(lease)))
        self._send(leader)

    def depose(self, leader: Node) -> None:
        """A leader gives up; whoever is to follow has to find out."""
        leader.leader = 0
        leader.heard_at = self._clock.monotonic()

    def hand_over(self, leader: Node, to: Node) -> None:
        """A leader has another voter stand at once, if that has all that it has itself."""
        if leader.leads and to in self.awake_voters(leader) and not leader.is_newer(to):
            self.depose(leader)
            self._stand(to, self._clock.monotonic(), asked=True)

    def _stand(self, node: Node, now: float, *, asked: bool = False) -> None:
        """Become the leader, if a majority may be had; one that hears its leader wants no other.

        `asked`: by the leader itself.
        """
        node.patience = self._dice.uniform(ELECTION_SECONDS, 2 * ELECTION_SECONDS)
        node.heard_at = now
        granting = [
            voter
            for voter in self.awake_voters(node)
            if not voter.is_newer(node)
            and (voter is node or not voter.leads)
            and (asked or voter.leader == 0 or now - voter.heard_at > ELECTION_SECONDS)
        ]
        if node not in granting or not self.has_quorum(node, granting):
            return
        node.term = max(voter.term for voter in granting) + 1
        for voter in granting:
            voter.term, voter.leader, voter.heard_at = node.term, 0, now
        node.leader = node.id
        node.match = {}
        node.acked_at = {voter.id: now for voter in granting}
        node.kept_until = {id: now + ttl for id, ttl in node.state.leases.items()}
        self.append(node, Entry(Noop()))

    def is_ready(self, leader: Node) -> bool:
        """Whether it knows what is committed: something of its own term is."""
        return leader.commit > 0 and leader.log[leader.commit - 1].term == leader.term

    # -- the log ----------------------------------------------------------------------------------

    def propose(self, node: Node, command: Command) -> asyncio.Future[Result]:
        """Have a command committed by way of that member; done when it has been applied there."""
        entry = Entry(command)
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        node.waiting[entry] = answer
        answer.add_done_callback(lambda _: node.waiting.pop(entry, None))
        if node.leads:
            self.append(node, entry)
        elif (leader := self.node(node.leader)) is not None:
            self._later(self.delay(node, leader), self._forwarded, node, leader, entry)
        return answer

    def _forwarded(self, node: Node, leader: Node, entry: Entry) -> None:
        if leader.awake and leader.leads and not self._network.is_cut(node.peer, leader.peer):
            self.append(leader, entry)

    def append(self, leader: Node, entry: Entry) -> None:
        """A leader takes something into its log."""
        entry.term = leader.term
        leader.log.append(entry)
        leader.match[leader.id] = len(leader.log)
        self._commit(leader)
        self._send(leader)

    def delay(self, one: Node, other: Node) -> float:
        """How long the next message between two takes."""
        return self._network.delay(one.peer, other.peer)

    def _send(self, leader: Node) -> None:
        for id in leader.state.members:
            member = self.node(id)
            if member is not None and member is not leader:
                self._later(self.delay(leader, member), self._arrive, leader, member, leader.term)

    def _arrive(self, leader: Node, member: Node, term: int) -> None:
        """What a leader has sent arrives."""
        through = not self._network.is_cut(leader.peer, member.peer)
        if not (through and member.awake and leader.up) or leader.term != term or not leader.leads:
            return
        if member.term > term:
            self._later(self.delay(member, leader), self._outdone, leader, member)
            return
        member.term, member.leader = term, leader.id
        member.heard_at = self._clock.monotonic()
        has = self._copy(leader, member)
        member.commit = max(member.commit, min(leader.commit, has))
        self._apply(member)
        self._later(self.delay(member, leader), self._acked, leader, member, term, has)

    def _copy(self, leader: Node, member: Node) -> int:
        """Take over a leader's log; up to where it has been."""
        same = min(len(leader.log), len(member.log))
        while same and leader.log[same - 1] is not member.log[same - 1]:
            same -= 1
        del member.log[same:]
        listed = leader.state.members.get(member.id)
        behind = listed is not None and listed.learner
        member.log += leader.log[same : same + self.batch if behind else None]
        return len(member.log)

    def _outdone(self, leader: Node, member: Node) -> None:
        """A leader learns that there is a newer one."""
        if leader.awake and not self._network.is_cut(member.peer, leader.peer):
            leader.term = max(leader.term, member.term)
            self.depose(leader)

    def _acked(self, leader: Node, member: Node, term: int, has: int) -> None:
        through = not self._network.is_cut(member.peer, leader.peer)
        if through and leader.awake and leader.leads and leader.term == term:
            leader.acked_at[member.id] = self._clock.monotonic()
            leader.match[member.id] = max(leader.match.get(member.id, 0), has)
            self._commit(leader)

    def _commit(self, leader: Node) -> None:
        before = leader.commit
        known = sorted((leader.match.get(id, 0) for id in leader.state.voters), reverse=True)
        most = known[len(known) // 2] if known else 0
        if most > leader.commit and leader.log[most - 1].term == leader.term:
            leader.commit = most
        self._apply(leader)
        if leader.commit > before and leader.leads:
            self._send(leader)

    def _apply(self, node: Node) -> None:
        applied = node.applied
        while node.applied < node.commit and not node.lags and node.up:
            entry = node.log[node.applied]
            result = _result(node.state, entry.command)
            node.applied += 1
            self._note(node, entry, result)
            answer = node.waiting.pop(entry, None)
            if answer is not None and not answer.done():
                answer.set_result(result)
            if isinstance(entry.command, Removed) and entry.command.id == node.id:
                node.removed = True
        if node.applied > applied:
            node.ring()

    def _note(self, node: Node, entry: Entry, result: Result) -> None:
        if node.applied <= len(self.committed):
            if self.committed[node.applied - 1] is not entry:
                self.on_violation(f"two members of etcd differ at entry {node.applied}")
            return
        self.committed.append(entry)
        if isinstance(entry.command, Joined | Promoted):
            # It has only just begun to count.
            for id in node.state.members:
                self._apart_at[frozenset({id, entry.command.id})] = self._clock.monotonic()
        self.on_applied(node, entry, result)


def _result(state: EtcdState, command: Command) -> Result:
    try:
        return state.apply(command)
    except Refused as refusal:
        return refusal
