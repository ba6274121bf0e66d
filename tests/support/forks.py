"""The next incarnation of a pool, founded by hand from a state it once had."""

from __future__ import annotations

from dataclasses import replace

from poolcore.model import Ancestor, Incarnation
from poolcore.replica import CommitId, Delta, Head, Put, State, apply, changed, snapshot
from poolcore.wire.chain import encode_delta
from poolmaster.layout import HEAD, commit_writes, encode_head
from poolmaster.store.contract import Compare, Write
from poolmaster.store.sqlite import SqliteStore
from poolmember.identity import Own
from poolmember.state_dir import DATABASES, StateDir
from support.daemons import Host

NEXT = "71000000-0000-4000-8000-000000000002"


async def fork(host: Host, state: State) -> Incarnation:
    """Make a stopped host the master of a pool that goes on from `state` without the others.

    Its store of before is put aside. As after an emergency transition, the other hosts may have
    commits beyond `state`.
    """
    incarnation = Incarnation(state.incarnation.counter + 1, NEXT, state.revision)
    with StateDir.open(host.state_dir) as files:
        identity = files.identity
        assert identity is not None
        files.write_identity(replace(identity, membership=None), retire=DATABASES)
        store = await SqliteStore.found(
            files.store_path, pool=state.pool.uuid, incarnation=incarnation.uuid
        )
        try:
            await _fill(
                store, knowing_its_past(state), Head(incarnation, 1, state.revision, identity.host)
            )
        finally:
            await store.close()
        files.write_identity(replace(identity, membership=_own(state, incarnation)))
    return incarnation


def knowing_its_past(state: State) -> State:
    """The state as the next incarnation begins with it."""
    before = state.incarnation
    ancestor = Ancestor(before.counter, before.uuid, before.forked_at)
    lineage = (*state.pool.lineage, ancestor)
    pool = Put(replace(state.pool, lineage=lineage, in_step=None))
    return replace(state, tables=changed(state.tables, (pool,)))


async def _fill(store: SqliteStore, state: State, head: Head) -> None:
    nothing = snapshot(head.incarnation, CommitId(1, head.revision - 1), (), ())
    everything = Delta(
        incarnation=head.incarnation.uuid,
        commit=CommitId(1, head.revision),
        predecessor=nothing.last,
        changes=tuple(Put(obj) for obj in state.objects()),
    )
    after = apply(nothing, everything)
    writes = commit_writes(nothing, after, everything, encode_delta(everything))
    writes[HEAD] = Write(HEAD, encode_head(head))
    assert await store.transact([Compare(HEAD, None)], list(writes.values()))


def _own(state: State, incarnation: Incarnation) -> Own:
    uuid, counter = incarnation.uuid, incarnation.counter
    return Own(pool=state.pool.uuid, incarnation=uuid, counter=counter)
