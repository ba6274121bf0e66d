"""How a host stands in its pool, and what of that is news to the scripts on the host.

A `Place` is a value: what the host's roles know at one moment. `news` folds places into
events; like every decision it looks only at its arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from poolcore.model import Host, HostId, Incarnation, PoolId
from poolcore.replica import State
from poolmaster.mastership import Mastership
from poolmember.identity import Identity, Member
from poolmember.session import Follower


class Role(StrEnum):
    """What the host is in its pool at the moment."""

    MASTER = "master"
    MEMBER = "member"
    """It follows the master."""
    SEARCHING = "searching"
    """It is in a pool, but knows of no master now, itself included."""
    STOPPED = "stopped"
    """Its daemon has ended."""


class Event(StrEnum):
    """What happens to a host; the value is the name of the hook."""

    BECAME_MASTER = "became-master"
    LOST_MASTER = "lost-master"
    MASTER_CHANGED = "master-changed"
    JOINED_POOL = "joined-pool"
    LEFT_POOL = "left-pool"


@dataclass(frozen=True, slots=True)
class Master:
    """The master of the host's pool."""

    uuid: HostId
    name: str | None = None
    """None, as `address`, until the replica holds the master's record."""
    address: str | None = None
    """`host:port`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How a host stands in its pool."""

    host: HostId
    host_name: str
    pool: PoolId
    pool_name: str
    role: Role
    master: Master | None
    term: int
    """The highest term known; 0 before the first."""
    incarnation: Incarnation | None
    """None until the replica has been read or received."""
    revision: int
    """Of the pool when the role began; 0 if not known."""
    since: datetime
    """When the role began, aware."""

    @property
    def settled(self) -> bool:
        """Whether it is known who the master is, and where."""
        return self.master is not None and self.master.address is not None

    @property
    def mastership(self) -> tuple[str, int] | None:
        """The incarnation's uuid and the term of the mastership this host has, if it has one."""
        if self.role is not Role.MASTER or self.incarnation is None:
            return None
        return self.incarnation.uuid, self.term


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the hooks know already."""

    pool: PoolId | None = None
    master: HostId | None = None
    mastership: tuple[str, int] | None = None
    """Of this host: `became-master` was told and `lost-master` was not."""


def place_of(
    identity: Identity,
    mastership: Mastership | None,
    follower: Follower | None,
    *,
    now: datetime,
) -> Place | None:
    """How the host stands by what its roles hold now; none before it is in a pool.

    The role is taken to begin `now`, and with it the revision.
    """
    membership = identity.membership
    if membership is None:
        return None
    replica = follower if follower is not None and follower.pool == membership.pool else None
    state = replica.state if replica is not None else None
    head, role = (replica.following if replica is not None else None), Role.MEMBER
    if mastership is not None and mastership.pool == membership.pool:
        state, head, role = mastership.state, mastership.ledger.head, Role.MASTER
    known_as = membership.pool_name if isinstance(membership, Member) else identity.name
    term = replica.term if replica is not None else 0
    return Place(
        host=identity.host,
        host_name=identity.name,
        pool=membership.pool,
        pool_name=state.pool.name_label if state is not None else known_as,
        role=role if head is not None else Role.SEARCHING,
        master=_master(state, head.master) if head is not None else None,
        term=head.term if head is not None else term,
        incarnation=_incarnation(state) if head is None else head.incarnation,
        revision=head.revision if head is not None else _revision(state),
        since=now,
    )


def _master(state: State | None, uuid: HostId) -> Master:
    host = state.get(Host, uuid) if state is not None else None
    return Master(uuid) if host is None else Master(uuid, host.name_label, host.address)


def _incarnation(state: State | None) -> Incarnation | None:
    return state.incarnation if state is not None else None


def _revision(state: State | None) -> int:
    return state.revision if state is not None else 0


def carried_on(before: Place | None, seen: Place) -> Place:
    """`seen` with the beginning of its role, which is that of `before` if the role is the same."""
    if before is None or _role(before) != _role(seen):
        return seen
    return replace(seen, since=before.since, revision=before.revision)


def _role(place: Place) -> tuple[object, ...]:
    master = place.master.uuid if place.master is not None else None
    # A host that searches may hear of a newer term, and stays what it is.
    term = place.term if master is not None else None
    return place.pool, place.role, master, term


def stopped(last: Place, *, now: datetime) -> Place:
    """How the host stands once its daemon has ended: without a role, and knowing no master."""
    return replace(last, role=Role.STOPPED, master=None, since=now)


def news(told: Told, place: Place) -> tuple[tuple[Event, ...], Told]:
    """The events that lead from what was told to `place`, in their order, and what is told then.

    `became-master` and `lost-master` alternate, but that a new mastership right behind another, or
    behind a daemon that was killed, is told without the end of the one before. What concerns other
    hosts is told once the master is known: a pool that has lost its master and finds the same one
    again is no news.
    """
    events: list[Event] = []
    if told.mastership is not None and place.role is not Role.MASTER:
        events.append(Event.LOST_MASTER)
        told = replace(told, mastership=None)
    if not place.settled or place.master is None:
        return tuple(events), told
    moved = told.pool is not None and told.pool != place.pool
    if place.role is Role.MASTER:
        if moved:
            events.append(Event.LEFT_POOL)
        if place.mastership != told.mastership:
            events.append(Event.BECAME_MASTER)
    elif moved:
        events.append(Event.JOINED_POOL)
    elif place.master.uuid != told.master:
        events.append(Event.MASTER_CHANGED)
    return tuple(events), Told(
        pool=place.pool, master=place.master.uuid, mastership=place.mastership
    )
