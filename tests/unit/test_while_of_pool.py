"""A voter's disk may say that the very host that is to go on has left the pool."""

from __future__ import annotations

from dataclasses import replace

from poolcore.model import Kind
from poolcore.replica import Change, CommitId, Delta, Put, Remove, State, apply
from poolcore.wire.chain import encode_delta
from poolmember.etcd.tail import while_of_pool
from support.hosts.facts import NAMES, facts, host_id, pool_of


def chain(state: State, *changes: Change) -> list[bytes]:
    found = []
    for change in changes:
        commit = CommitId(state.last.term, state.revision + 1)
        delta = Delta(state.incarnation.uuid, commit, state.last, (change,))
        state = apply(state, delta)
        found.append(encode_delta(delta))
    return found


def test_what_comes_after_it_has_left_is_not_taken_along() -> None:
    state = pool_of(*map(facts, NAMES[:3]))
    phantom, ignite = (state.host(host_id(name)) for name in NAMES[:2])
    renamed = Put(replace(state.pool, name_label="renamed"))
    left = Remove(Kind.HOST, phantom.uuid)
    again = Put(replace(state.pool, name_label="renamed again"))
    deltas = chain(state, renamed, left, again)
    assert while_of_pool(state, phantom.uuid, deltas) == deltas[:1]
    assert while_of_pool(state, ignite.uuid, deltas) == deltas
