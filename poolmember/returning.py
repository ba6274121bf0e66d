"""How a master learns that the pool has gone on without it, and comes back as a member.

Only a store that is at its master alone can be left behind: a person has made another host master
in its absence (an emergency transition). That host is of a newer incarnation. So before it leads,
and as long as it does, such a master asks the other hosts what they are of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from contextlib import suppress
from functools import reduce

from poolcore.errors import PoolError, Reason
from poolcore.model import Host, HostId, Incarnation, Pool
from poolcore.replica import DeltaDoesNotFollow, apply
from poolmaster.layout import read_head, read_hosts, read_log, read_pool
from poolmaster.service.api import session_handlers
from poolmaster.sessions import Requests, Send, first_hello
from poolmaster.store.contract import Store, StoreError
from poolmaster.succession import read_succession, succeeded
from poolmember.identity import Member, Own
from poolmember.parts import Change, Parts
from poolmember.session import Follower
from poolmember.state_dir import STORE_FILE

log = logging.getLogger(__name__)

ASK_SECONDS = 1.0
LOOK_SECONDS = 1.0
LOG_PAGE = 256


class LeftBehind(Exception):
    """The pool is of a newer incarnation, as the host `at` says."""

    def __init__(self, at: Host, found: Incarnation) -> None:
        super().__init__(f"{at.name_label} is of incarnation {found.counter} of this pool")
        self.at = at


async def before_leading(parts: Parts, own: Own, store: Store, follower: Follower) -> None:
    """Return when this host may lead; raises `LeftBehind` when it may not any more."""
    just_inherited, parts.just_inherited = parts.just_inherited, None
    if just_inherited == own.incarnation:
        return  # It knew that it may go on before it founded the store.
    await follower.load()
    hosts = await read_hosts(store)
    pool, succession = await read_pool(store), await read_succession(store)
    awaited = _who_may_have_been_told(pool, hosts, just_succeeded=succession is not None)
    await _until_they_answer(parts, own, follower, hosts, awaited)


async def before_inheriting(parts: Parts, follower: Follower) -> None:
    """As `before_leading`, for a host that was down since it was made the heir."""
    state = follower.state
    if state is None:
        raise RuntimeError("an heir without a replica")
    incarnation = state.incarnation
    own = Own(pool=follower.pool, incarnation=incarnation.uuid, counter=incarnation.counter)
    hosts = tuple(state.all(Host))
    awaited = _who_may_have_been_told(state.pool, hosts, just_succeeded=True)
    await _until_they_answer(parts, own, follower, hosts, awaited)


def _who_may_have_been_told(
    pool: Pool, hosts: Collection[Host], *, just_succeeded: bool
) -> set[HostId]:
    """The hosts that a person may have made master while this one was down, nothing being lost.

    That is the one in step. After a handover, until something was committed, it is also the one
    that was in step before, and only the former master knew which.
    """
    if pool.in_step is None:
        return set()
    return {h.uuid for h in hosts if not h.witness} if just_succeeded else {pool.in_step}


async def _until_they_answer(
    parts: Parts, own: Own, follower: Follower, hosts: Collection[Host], awaited: set[HostId]
) -> None:
    """Return when those hosts have said that they are of nothing newer, or raise `LeftBehind`.

    Who never answers keeps this host from leading until a person says who goes on.
    """
    others = {host.uuid: host for host in hosts if host.uuid != parts.identity.host}
    missing = {uuid: others[uuid] for uuid in awaited if uuid in others}

    def answered(uuids: Iterable[HostId]) -> bool:
        for uuid in uuids:
            missing.pop(uuid, None)
        return not missing

    if answered(await _ask(parts, own, others.values())):
        return
    came = _serve_until_they_come(parts, own, follower, missing)
    while not answered(await _ask(parts, own, others.values())):
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await came.wait()
        came.clear()


def _serve_until_they_come(
    parts: Parts, own: Own, follower: Follower, missing: dict[HostId, Host]
) -> asyncio.Event:
    """Say whom this host waits for; set when one of them comes, which is then missing no more.

    It may be found at another address than this host knows.
    """
    came = asyncio.Event()

    def names() -> str:
        return " and ".join(sorted(host.name_label for host in missing.values()))

    def problem() -> str:
        if len(missing) > 1:
            return f"{names()} do not answer; one of them may have been made master meanwhile"
        return f"{names()} does not answer; it may have been made master meanwhile"

    async def serve(requests: Requests, _: Send) -> None:
        hello = await first_hello(requests)
        same = hello.HasField("incarnation") and hello.incarnation.uuid == own.incarnation
        if same and missing.pop(HostId(hello.host), None) is not None:
            came.set()
        raise PoolError(Reason.NO_MASTER, host=parts.identity.name, problem="it is about to lead")

    log.warning("this host does not lead yet: %s", problem())
    answers = parts.answer_from_replica(follower, problem)
    answers |= session_handlers(serve, host=parts.identity.name)
    parts.gateway.serve_locally(answers)
    parts.on_role(f"waiting for {names()}: another host may have been made master meanwhile")
    return came


async def while_leading(parts: Parts, own: Own) -> None:
    """As long as the mastership lasts; raises `LeftBehind` when the pool goes on without it."""
    while True:
        await parts.clock.sleep(LOOK_SECONDS)
        master = parts.mastership
        if master is not None:
            away = [h for h in master.state.all(Host) if master.sessions.get(h.uuid) is None]
            await _ask(parts, own, away)


async def _ask(parts: Parts, own: Own, hosts: Iterable[Host]) -> set[HostId]:
    """Ask hosts what they are of; the uuids of those that could tell."""
    answered: set[HostId] = set()

    async def ask(host: Host) -> Incarnation | None:
        try:
            found = await parts.agents.standing(host.address, own.pool, 0, seconds=ASK_SECONDS)
        except PoolError as error:
            log.debug("%s does not say where it stands: %s", host.name_label, error)
            if error.reason is Reason.HOST_NOT_IN_POOL:
                # It has not been told yet that it was taken in, or has left: it is of nothing.
                answered.add(host.uuid)
            return None
        if found.incarnation is not None:  # one that is only just starting cannot say yet
            answered.add(host.uuid)
        return found.incarnation

    asked = list(hosts)
    for host, incarnation in zip(asked, await asyncio.gather(*map(ask, asked)), strict=True):
        compare(own, host, incarnation)
    return answered


def compare(own: Own, host: Host, found: Incarnation | None) -> None:
    """Raise `LeftBehind` if `host` is of a newer incarnation than the store of this one."""
    if found is None or found.uuid == own.incarnation:
        return
    if found.counter > own.counter:
        raise LeftBehind(host, found)
    if found.counter == own.counter:
        log.error(
            "%s and this host are of two incarnations that were founded without each other: "
            "a person has to reset one of them",
            host.name_label,
        )


async def come_back(store: Store, own: Own, follower: Follower, left: LeftBehind) -> Change:
    """Become a member, with a replica that has everything that the store has."""
    log.warning("%s: this host becomes a member again", left)
    pool, hosts = await read_pool(store), await read_hosts(store)
    await take_log(store, follower)
    others = sorted(h.address for h in hosts if h.uuid not in {follower.host, left.at.uuid})
    addresses = (left.at.address, *others)
    member = Member(pool=own.pool, pool_name=pool.name_label, addresses=addresses)
    return Change(member, retire=(STORE_FILE,))


async def take_log(store: Store, follower: Follower, *, up_to: int | None = None) -> None:
    """Have the replica take what the store has beyond it, up to a revision if one is named.

    A master's own replica is a moment behind its store; when that goes, it has to have everything.
    """
    await follower.settle()
    state = follower.state
    if state is None or state.last != follower.store.head.last:
        follower.loaded = False
        await follower.load()
        state = follower.state
    while state is not None:
        limit = LOG_PAGE if up_to is None else min(LOG_PAGE, up_to - state.revision)
        page = await read_log(store, after=state.revision, limit=limit) if limit > 0 else []
        if not page:
            return
        try:
            state = reduce(apply, (delta for delta, _ in page), state)
            await follower.keep_up(page, state)
        except DeltaDoesNotFollow as error:
            log.warning("the replica does not go on as the store does: %s", error)
            return


async def take_own_log(parts: Parts, own: Own, follower: Follower) -> None:
    """Have the replica take what only this host's own store has, before a person has that go.

    A store that cannot be read keeps nobody from going on. A last commit that hands the pool over
    stays in the store: what it says is up to the heir.
    """
    try:
        store = await parts.files.open_store(own)
    except (PoolError, StoreError) as error:
        log.error("what only the store has is not in the replica: %s", error)
        return
    try:
        head = await read_head(store)
        if head is not None and not succeeded(head, own.incarnation):
            await take_log(store, follower)
    except StoreError as error:
        log.error("what only the store has is not in the replica: %s", error)
    finally:
        await store.close()
