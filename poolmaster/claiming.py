"""Becoming master: moving `head` to the next term, and the state that it then stands for."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from functools import reduce

from poolcore.model import HostId
from poolcore.replica import Delta, DeltaDoesNotFollow, Head, State, apply
from poolmaster.layout import ALIVE, HEAD, NONCE, encode_head, load, read_head, read_host, read_log
from poolmaster.ledger import SteppedDown
from poolmaster.store.contract import (
    Compare,
    LeaseId,
    OutcomeUnknown,
    Store,
    StoreFailed,
    Write,
)

LOG_PAGE = 256
ATTEMPTS = 20
"""How often a claim begins again because commits of the same term came in between."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A mastership that has been won: `head` as of now, and what it stands for."""

    head: Head
    state: State
    lease: LeaseId | None = None
    """Under which `alive` was written, if it was."""


async def claim(
    store: Store,
    host: HostId,
    *,
    of: Head | None = None,
    unmoved: bool = False,
    replica: State | None = None,
    alive_seconds: float | None = None,
    members_only: bool = False,
) -> Claimed:
    """Make `host` the master.

    `of`: only if the mastership that is replaced is still this one; `unmoved`: and has committed
    nothing since, so that its next commit shuts the claim out, however late it lands. `replica`:
    what the host has already; only what is missing of it is read. `alive_seconds`: also write the
    `alive` key, under a lease of so long. `members_only`: only if the pool still has the host; its
    replica may be from before it was ejected.

    Raises `SteppedDown` when somebody else moved `head` to another term, or the host has been
    ejected, `StoreUnavailable`, `StoreFailed`, or `OutcomeUnknown`; then `head` may come to name
    `host` even later, and whoever finds it so may claim again.
    """
    lease = None if alive_seconds is None else await store.grant_lease(alive_seconds)
    refusal = "somebody else moved head"
    for _ in range(ATTEMPTS):
        before = await read_head(store)
        if before is None:
            raise StoreFailed("the store holds no pool")
        if of is not None and not _is_still(before, of, unmoved=unmoved):
            break
        # After `head`: as long as that has not moved, this has not changed either.
        if members_only and await read_host(store, host) is None:
            refusal = "this host is no longer of the pool"
            break
        claimed = replace(before, term=before.term + 1, master=host)
        if await _swap(store, before, claimed, lease):
            return Claimed(claimed, await _state_at(store, claimed, replica), lease)
        of = of or before
    if lease is not None:
        await store.revoke(lease)
    raise SteppedDown(refusal)


def _is_still(found: Head, of: Head, *, unmoved: bool) -> bool:
    same = (found.incarnation, found.term) == (of.incarnation, of.term)
    return found == of if unmoved else same


async def _swap(store: Store, before: Head, claimed: Head, lease: LeaseId | None) -> bool:
    nonce = secrets.token_hex(16).encode()
    writes = [Write(HEAD, encode_head(claimed)), Write(NONCE, nonce)]
    if lease is not None:
        writes.append(Write(ALIVE, claimed.master.encode(), lease))
    try:
        return await store.transact([Compare(HEAD, encode_head(before))], writes)
    except OutcomeUnknown:
        # `head` would not tell this claim from an earlier one of this host that has landed late,
        # and has `alive` under its own lease. What has not landed by now may land later, though.
        if all(item.value != nonce for item in (await store.read(NONCE)).items):
            raise
        return True


async def _state_at(store: Store, head: Head, replica: State | None) -> State:
    """The state at `head`, which nobody moves any more but its master."""
    state = None if replica is None else await _continued(store, head, replica)
    if state is not None:
        return state
    loaded, state = await load(store)
    if (loaded.incarnation, loaded.term) != (head.incarnation, head.term):
        raise SteppedDown("somebody else moved head")
    return state


async def _continued(store: Store, head: Head, replica: State) -> State | None:
    """`replica` brought up to `head` by the log; none if the log does not lead there from it."""
    if replica.incarnation != head.incarnation or not 0 < replica.revision <= head.revision:
        return None
    # The commit that the replica ends with is read too: it has to be the one that the store has.
    page = await _log_up_to(store, head, after=replica.revision - 1)
    if not page or page[0].commit != replica.last:
        return None
    state, page = replica, page[1:]
    while True:
        try:
            state = reduce(apply, page, state)
        except DeltaDoesNotFollow:
            # The history has moved on meanwhile: whoever moves it is master by now.
            return None
        if state.revision == head.revision:
            return state
        page = await _log_up_to(store, head, after=state.revision)
        if not page:
            return None


async def _log_up_to(store: Store, head: Head, *, after: int) -> list[Delta]:
    """A page of what follows revision `after`, nothing of what comes after `head`."""
    found = await read_log(store, after=after, limit=min(LOG_PAGE, head.revision - after))
    return [delta for delta, _ in found]
