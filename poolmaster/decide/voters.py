"""Which hosts have a vote in the pool's own etcd, and the next step towards that.

Pure: facts in, one step out; whoever carries it out looks anew afterwards. Three hosts vote, five
in a pool of seven and more. One membership change at a time, and none that could cost the pool a
quorum that it has: a voter is taken out only if those that are left and answer are a majority of
those that are left, and one that answers only when another has taken its place or nobody can.

A host begins as a learner, which has the data and no vote, and is promoted when it has caught up.
A voter without its log must not go on: it would vote a second time. Its host begins as a learner.

etcd refuses to add a member for a few seconds after the last change and while a voter is not
connected; so a voter that is gone has to be taken out first, and that is done only when a host that
can take its place is there (design §6).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from poolcore.model import Host, HostId, Voters
from poolcore.replica import State

VOTERS = 3
MANY_VOTERS = 5
MANY_HOSTS = 7
QUIET_SECONDS = 5.0
"""From one membership change to the next; etcd refuses them earlier."""
SILENT_SECONDS = 6.0
"""One that does not answer is taken out only when it has been silent for so long: etcd applies
nothing until it has ended its connections to that member, and a write to one that has vanished
takes 5 s to fail. By then there is no such connection any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A host of the pool."""

    host: HostId
    able: bool
    """It is attached, has an etcd that is good enough, room on its disk, and is to stay."""
    preference: int = 0
    """Of several, the highest is taken first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member of the cluster."""

    id: int
    host: HostId
    learner: bool = False
    in_sync: bool = True
    """Of a learner: whether it has all but the last moments."""
    gone_seconds: float = 0.0
    """For how long it has not answered; 0 while it does."""
    peer: str = ""
    """Where the others look for it."""
    at: str = ""
    """Where its host is; empty of one that is not of the pool."""
    lost: bool = False
    """Whether its host says that it has nothing of it any more: its disk was replaced, say."""

    @property
    def answers(self) -> bool:
        """Whether it does, as far as is known."""
        return self.gone_seconds == 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What there is."""

    hosts: tuple[Candidate, ...]
    members: tuple[Member, ...]
    quiet_seconds: float
    """Since the last membership change."""
    replace_seconds: float
    """After so long without an answer a voter is replaced."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be done now."""


@dataclass(frozen=True, slots=True)
class Add:
    """Begin with this host, as a learner."""

    host: HostId


@dataclass(frozen=True, slots=True)
class Promote:
    """Give this learner its vote."""

    id: int


@dataclass(frozen=True, slots=True)
class Remove:
    """Take this member out."""

    id: int


@dataclass(frozen=True, slots=True)
class Readdress:
    """Have the others look for this member at `peer`, where its host is."""

    id: int
    peer: str


Step = Wait | Add | Promote | Remove | Readdress


def majority(voters: Voters) -> int:
    """How many of the voters have to be up."""
    return len(voters.hosts) // 2 + 1


def wanted(hosts: int) -> int:
    """How many voters a pool of so many hosts is to have."""
    return MANY_VOTERS if hosts >= MANY_HOSTS else VOTERS


def is_needed(state: State) -> bool:
    """Whether one more host would get a vote, because there are not enough hosts without it."""
    hosts = sum(1 for _ in state.all(Host)) + 1
    return hosts == VOTERS if state.pool.voters is None else hosts <= VOTERS


def next_step(facts: Facts) -> Step:
    """The one thing to do now."""
    # First of all: it is there, and the others cannot reach it. etcd has each address once only.
    taken = {member.peer for member in facts.members}
    for member in facts.members:
        if member.at and member.at not in taken:
            return Readdress(member.id, member.at)
    voters = [m for m in facts.members if not m.learner]
    of_pool = {candidate.host for candidate in facts.hosts}
    for learner in (m for m in facts.members if m.learner):
        is_gone = learner.gone_seconds >= facts.replace_seconds
        if learner.host not in of_pool or is_gone or _begins_anew(learner):
            return Remove(learner.id) if _may_go(learner) else Wait()
        if not (learner.in_sync and learner.answers):
            return Wait()
        # Its vote must not be the one that makes the answering ones a minority.
        return Promote(learner.id) if _holds(voters, plus=1) else Wait()
    number = wanted(len(facts.hosts))
    taken = {member.host for member in facts.members}
    free = [c for c in facts.hosts if c.able and c.host not in taken]
    candidate = max(free, key=lambda c: (c.preference, c.host), default=None)
    leaving = [m for m in voters if m.host not in of_pool]
    lost = [m for m in voters if _begins_anew(m)]
    gone = [m for m in voters if m.gone_seconds >= facts.replace_seconds]
    # With everybody there, a place is filled before another one is given up.
    there = candidate is not None and all(m.answers for m in voters)
    if candidate is not None and there and len(voters) - len(leaving) < number:
        return Add(candidate.host) if _is_quiet(facts) else Wait()
    for member in (*leaving, *lost, *gone):
        # One that is lost never comes back as it was: its host begins anew.
        replaceable = candidate is not None or member in leaving or member in lost
        held = _holds(voters, without=member)
        if replaceable and held and _may_go(member) and _is_quiet(facts):
            return Remove(member.id)
    if len(voters) - len(leaving) > number:
        surplus = min(voters, key=lambda m: (m.answers, _preference(facts.hosts, m.host), m.id))
        if _holds(voters, without=surplus) and _may_go(surplus) and _is_quiet(facts):
            return Remove(surplus.id)
    return Wait()


def _holds(voters: Iterable[Member], *, without: Member | None = None, plus: int = 0) -> bool:
    """Whether those that answer would be a majority after a change, `plus` among both."""
    left = [m for m in voters if m is not without]
    answering = sum(m.answers for m in left) + plus
    return 2 * answering > len(left) + plus


def _begins_anew(member: Member) -> bool:
    return member.lost and not member.answers


def _may_go(member: Member) -> bool:
    return member.answers or member.gone_seconds >= SILENT_SECONDS


def _is_quiet(facts: Facts) -> bool:
    return facts.quiet_seconds >= QUIET_SECONDS


def _preference(hosts: Iterable[Candidate], host: HostId) -> int:
    return next((c.preference for c in hosts if c.host == host), -1)
