"""Succession: the chain goes on in a new store (design §5).

One mechanism founds every new store of a pool that has one: designating a master where the store is
at the master alone, and an emergency transition. It is a commit that says which incarnation comes
next and which host, the *heir*, has its store. The heir founds that store from its replica as soon
as the commit is durable there.

In the old store this commit is the *tombstone*: it moves `head` into the next incarnation, so every
other transaction that compares `head`, and every claim by this store's own host, is refused after
it. An emergency transition has no old store; there the commit is made by the heir itself.

| what holds                                 | the tombstone is | so                             |
|--------------------------------------------|------------------|--------------------------------|
| the heir's replica has it                  | final            | the heir leads                 |
| the heir came with a replica that lacks it | withdrawn        | the old master leads again     |
| nobody knows                               | in the old store | nobody leads; a person decides |

The second line is safe because a host has one session at a time, and reads nothing more of one that
it has ended.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from poolcore.model import Accession, Ancestor, HostId, Incarnation, Pool, Voters
from poolcore.replica import (
    Change,
    CommitId,
    Delta,
    Head,
    Put,
    State,
    Succession,
    apply,
    moves_to_voters,
)
from poolcore.wire.chain import decode_delta
from poolcore.wire.codec import encode_object, serialize, to_proto
from poolmaster.layout import (
    HEAD,
    NONCE,
    commit_writes,
    encode_head,
    log_key,
    object_key,
    read_head,
    read_log,
    request_key,
)
from poolmaster.store.contract import Compare, Store, StoreFailed, Write

LINEAGE_KEPT = 64
"""How many earlier incarnations a pool knows; a host of an older one is given a snapshot."""
TOGETHER = 500
"""Keys that are written in one transaction of a founding."""
LOG_PAGE = 256

ReadLog = Callable[[int, int], Awaitable[Sequence[bytes]]]
"""Up to so many serialized deltas that follow a revision."""


def next_incarnation(
    state: State, *, after: int = 0, uuid_: str | None = None, forked_at: int | None = None
) -> Incarnation:
    """The one that follows `state`, with a count above its own and above `after`.

    `forked_at`: up to which revision `state` is certainly its parent's chain, if not to its end.
    """
    counter = max(state.incarnation.counter, after) + 1
    at = state.revision if forked_at is None else forked_at
    return Incarnation(counter, uuid_ or str(uuid.uuid4()), forked_at=at)


def succession(
    state: State,
    incarnation: Incarnation,
    heir: HostId,
    why: Accession,
    *,
    term: int,
    in_step: HostId | None,
    voters: Voters | None = None,
    changes: Iterable[Change] = (),
) -> Delta:
    """The last commit before `incarnation`, in `term`.

    `in_step`: the host that certainly has this very commit, besides the heir, or, if `voters` have
    the next store, everything before it; none if a person has decided who goes on.
    """
    before, was_in_step = state.incarnation, state.pool.in_step
    if in_step is None or was_in_step == heir:
        was_in_step = None
    ancestor = Ancestor(before.counter, before.uuid, before.forked_at)
    lineage = (*state.pool.lineage, ancestor)[-LINEAGE_KEPT:]
    pool: Pool = replace(
        state.pool, in_step=in_step, was_in_step=was_in_step, lineage=lineage, voters=voters
    )
    return Delta(
        incarnation=state.incarnation.uuid,
        commit=CommitId(term, state.revision + 1),
        predecessor=state.last,
        changes=(Put(pool), *changes),
        succession=Succession(incarnation, heir, why),
    )


def shared_revision(pool: Pool, incarnation: Incarnation, other: Incarnation) -> int | None:
    """Up to which revision the chain of `incarnation` is that of `other`, an earlier one, too.

    None: all of it, they are the same. 0 when nothing is known of `other` any more.
    """
    if other.uuid == incarnation.uuid:
        return None
    chain: tuple[Ancestor | Incarnation, ...] = (*pool.lineage, incarnation)
    lives = [life.uuid for life in chain]
    if other.uuid not in lives:
        return 0
    # A later one may have forked further back: from a chain of which less was certain.
    return min(life.forked_at for life in chain[lives.index(other.uuid) + 1 :])


def succeeded(head: Head, incarnation: str) -> bool:
    """Whether the store of `incarnation`, whose register is `head`, has a successor."""
    return head.incarnation.uuid != incarnation


async def read_succession(store: Store) -> Succession | None:
    """What the newest commit says of the next incarnation; none if it is like any other."""
    head = await read_head(store)
    found = [] if head is None else await read_log(store, after=head.revision - 1, limit=1)
    return found[0][0].succession if found else None


async def read_end(store: Store, head: Head) -> Delta | None:
    """The last commit of a store that hosts share, if the chain goes on elsewhere after it."""
    found = await read_log(store, after=head.revision - 1, limit=1)
    last = found[0][0] if found else None
    ended = last is not None and last.succession is not None and not moves_to_voters(last)
    return last if ended else None


async def read_tombstone(store: Store, head: Head) -> Delta:
    """The last commit of a store that has a successor."""
    found = await read_log(store, after=head.revision - 1, limit=1)
    if not found or found[0][0].succession is None:
        raise StoreFailed(f"revision {head.revision}, which ended this store, is missing")
    return found[0][0]


def before_it(tombstone: Delta, host: HostId) -> Head:
    """The register before the tombstone of a store that `host` has."""
    pool = next(c.object for c in tombstone.changes if isinstance(c, Put))
    assert isinstance(pool, Pool)  # noqa: S101 - `succession` puts it first
    ours = pool.lineage[-1]
    incarnation = Incarnation(ours.counter, ours.uuid, ours.forked_at)
    return Head(incarnation, tombstone.commit.term, tombstone.predecessor.revision, host)


async def withdraw(store: Store, head: Head, *, host: HostId) -> None:
    """Take the tombstone away again that `head` stands for: `host` has the pool's store still.

    Only where the heir certainly has not inherited, and cannot any more.
    """
    before = before_it(await read_tombstone(store, head), host)
    writes = [Write(HEAD, encode_head(before)), Write(log_key(head.revision), None)]
    if not await store.transact([Compare(HEAD, encode_head(head))], writes):
        raise StoreFailed("somebody else moved head")


@dataclass(frozen=True, slots=True)
class Begun:
    """What a store without a register holds."""

    state: State
    attempt: bytes
    """The mark of the attempt that has put it there."""


async def found_successor(
    store: Store, state: State, kept: ReadLog, heir: HostId, *, begun: Begun | None = None
) -> None:
    """Make a store what `state` says, with as much of the log as is `kept`.

    `state` is what the succession has led to; `begun` is what `prepare_successor` has put there of
    an earlier one. The register is written last: a founding that was cut short leaves a store
    without one. `StoreFailed` when the store has one already.
    """
    if begun is None:
        begun = await prepare_successor(store, state, kept)
    reached, attempt = begun.state, begun.attempt
    writes: dict[bytes, Write] = {}
    while reached.revision < state.revision:
        for data in await _page(kept, reached.revision):
            delta = decode_delta(data)
            after = apply(reached, delta)
            writes |= commit_writes(reached, after, delta, data)
            reached = after
    head = Head(state.incarnation, state.last.term, state.revision, heir)
    writes[HEAD] = Write(HEAD, encode_head(head))
    writes[NONCE] = Write(NONCE, _mark())
    if not await store.transact(_only(attempt), list(writes.values())):
        raise StoreFailed("the store already holds a pool, or somebody else founds it")


async def prepare_successor(store: Store, state: State, kept: ReadLog) -> Begun:
    """Put into a store what `state` says and as much of the log as is `kept`.

    What an attempt that was cut short has left is removed first. A transaction of that one which
    lands later changes nothing: each compares the mark of its attempt.
    """
    attempt = _mark()
    if not await store.transact([Compare(HEAD, None)], [Write(NONCE, attempt)]):
        raise StoreFailed("the store already holds a pool")
    await _empty(store, attempt)
    pending: list[Write] = []

    async def add(write: Write) -> None:
        pending.append(write)
        if len(pending) == TOGETHER:
            await flush()

    async def flush() -> None:
        await _put(store, attempt, pending)
        pending.clear()

    for obj in state.objects():
        await add(Write(object_key(obj.KIND, obj.uuid), encode_object(obj)))
    for record in state.requests.by_id.values():
        await add(Write(request_key(record.id), serialize(to_proto(record))))
    revision = max(state.revision - state.history_revisions, 0)
    while revision < state.revision:
        for data in await _page(kept, revision):
            revision = decode_delta(data).commit.revision
            if revision <= state.revision:
                await add(Write(log_key(revision), data))
    await flush()
    return Begun(state, attempt)


async def _empty(store: Store, attempt: bytes) -> None:
    while True:
        found = await store.read(b"\x00", b"\xff", limit=TOGETHER)
        left = [Write(item.key, None) for item in found.items if item.key != NONCE]
        if not left:
            return
        await _put(store, attempt, left)


async def _put(store: Store, attempt: bytes, writes: Sequence[Write]) -> None:
    if not await store.transact(_only(attempt), writes):
        raise StoreFailed("the store already holds a pool, or somebody else founds it")


def _only(attempt: bytes) -> tuple[Compare, ...]:
    """That there is no register yet, and no other attempt."""
    return Compare(HEAD, None), Compare(NONCE, attempt)


def _mark() -> bytes:
    return uuid.uuid4().hex.encode()


async def _page(kept: ReadLog, revision: int) -> Sequence[bytes]:
    page = await kept(revision, LOG_PAGE)
    if not page:
        raise StoreFailed(f"the replica's log ends at {revision}")
    return page
