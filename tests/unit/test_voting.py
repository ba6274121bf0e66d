"""Where a host believes its pool's store to be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from poolcore.clock import SystemClock
from poolcore.model import Incarnation, Voters
from poolcore.replica import Head, Put, State
from poolmaster.own_etcd import own_store_url
from poolmember.session import Follower
from poolmember.voting import told_store
from support.hosts.facts import NAMES, POOL, after, facts, host_id, pool_of

HOST = host_id("ignite")


def voted() -> State:
    """A pool whose store is in its own etcd."""
    state = pool_of(*map(facts, NAMES[:3]))
    voters = Voters(state.incarnation.uuid, tuple(host_id(name) for name in NAMES[:3]))
    return after(state, (Put(replace(state.pool, voters=voters)),))


def follower(state: State, following: Incarnation | None) -> Follower:
    nothing: Any = None
    found = Follower(HOST, POOL, (), nothing, SystemClock(), state=state)
    if following is not None:
        found.following = Head(following, 1, state.revision, host_id("phantom"))
    return found


def test_a_master_tells_where_the_store_is() -> None:
    state = voted()
    assert told_store(follower(state, state.incarnation)) == own_store_url(state, near=HOST)
    assert told_store(follower(state, None)) is None


def test_a_replica_that_is_not_of_its_master_s_incarnation_yet_does_not() -> None:
    """The pool has gone on without that etcd; the snapshot that says so is on its way."""
    state = voted()
    newer = Incarnation(state.incarnation.counter + 2, "d0000000-0000-4000-8000-000000000000")
    assert told_store(follower(state, newer)) is None
