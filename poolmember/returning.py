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
from dataclasses import dataclass
from functools import reduce

from poolcore.errors import PoolError, Reason
from poolcore.model import Host, HostId, Incarnation, Pool
from poolcore.replica import DeltaDoesNotFollow, State, apply
from poolcore.side_by_side import side_by_side
from poolmaster.layout import read_head, read_hosts, read_log, read_pool
from poolmaster.service.api import session_handlers
from poolmaster.sessions import Requests, Send, first_hello
from poolmaster.store.contract import Store, StoreError
from poolmaster.succession import succeeded
from poolmember.identity import Member, Own
from poolmember.parts import Change, Parts
from poolmember.session import Follower
from poolmember.state_dir import STORE_FILE

log = logging.getLogger(__name__)

ASK_SECONDS = 1.0
LOOK_SECONDS = 1.0
LOG_PAGE = 256


@dataclass(frozen=True, slots=True)
class Other:
    """Another host of the pool, that is asked what it is of."""

    address: str
    """`host:port`."""
    name: str
    uuid: HostId | None = None
    """None: only the address is known."""


class LeftBehind(Exception):
    """The pool is of a newer incarnation, as the host `at` says."""

    def __init__(self, at: Other, found: Incarnation) -> None:
        super().__init__(f"{at.name} is of incarnation {found.counter} of this pool")
        self.at = at


async def before_leading(parts: Parts, own: Own, store: Store, follower: Follower) -> None:
    """Return when this host may lead; raises `LeftBehind` when it may not any more."""
    just_inherited, parts.just_inherited = parts.just_inherited, None
    if just_inherited == own.incarnation:
        return  # It knew that it may go on before it founded the store.
    pool, hosts = await read_pool(store), await read_hosts(store)
    await _until_known(parts, own, follower, pool, hosts)


async def before_inheriting(parts: Parts, follower: Follower, addresses: Iterable[str]) -> None:
    """As `before_leading`, for a host that was down since it was made the heir.

    `addresses`, `host:port` each: where the pool is, as somebody may have told it since.
    """
    state = follower.state
    if state is None:
        raise RuntimeError("an heir without a replica")
    incarnation = state.incarnation
    if parts.just_inherited == incarnation.uuid:
        return  # A person has just said so.
    hosts = tuple(state.all(Host))
    await _until_known(
        parts, _inherited(follower, state), follower, state.pool, hosts, addresses=addresses
    )
    parts.just_inherited = incarnation.uuid


async def while_inheriting(parts: Parts, follower: Follower, state: State) -> None:
    """Look once; raises `LeftBehind` when the pool goes on without the heir of `state`."""
    others = (h for h in state.all(Host) if h.uuid != follower.host)
    asked = [Other(h.address, h.name_label, h.uuid) for h in others]
    await _ask(parts, _inherited(follower, state), asked)


def _inherited(follower: Follower, state: State) -> Own:
    incarnation = state.incarnation
    return Own(pool=follower.pool, incarnation=incarnation.uuid, counter=incarnation.counter)


async def _until_known(
    parts: Parts,
    own: Own,
    follower: Follower,
    pool: Pool,
    hosts: Collection[Host],
    *,
    addresses: Iterable[str] = (),
) -> None:
    """Return when nobody else can lead the pool; raises `LeftBehind` when somebody does.

    A host that was in step may have been made master while this one was down. So it has to answer
    first, and so has the one that was in step before a handover and may not know of that. Who
    never answers keeps this host from leading until a person says who goes on.
    """
    others = [
        Other(host.address, host.name_label, host.uuid)
        for host in hosts
        if host.uuid != parts.identity.host
    ]
    told = {host.uuid for host in hosts if not host.witness} & {pool.in_step, pool.was_in_step}
    awaited = [other for other in others if other.uuid in told]
    known = {parts.agent.addresses[0].endpoint, *(other.address for other in others)}
    others += [Other(address, address) for address in addresses if address not in known]
    answered = await _ask(parts, own, others)
    missing = [other for other in awaited if other.uuid not in answered]
    if not missing:
        return
    await follower.load()
    coming = _Coming(parts, own, missing)
    coming.serve(follower)
    while missing:
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await coming.news.wait()
        coming.news.clear()
        answered = await _ask(parts, own, others)
        missing = [o for o in awaited if o.uuid not in answered and o.uuid not in coming.came]
        coming.missing = missing


class _Coming:
    """Hosts that are waited for, and that may come by themselves, from another address perhaps."""

    def __init__(self, parts: Parts, own: Own, missing: Collection[Other]) -> None:
        self.missing = missing
        self.came: set[HostId] = set()
        """Those that came and were of nothing newer."""
        self.news = asyncio.Event()
        self._parts = parts
        self._own = own

    def serve(self, follower: Follower) -> None:
        """Say who is waited for, and look who comes."""
        log.warning("this host does not lead yet: %s", self._problem())
        answers = self._parts.answer_from_replica(follower, self._problem)
        answers |= session_handlers(self._session, host=self._parts.identity.name)
        self._parts.gateway.serve_locally(answers)
        self._parts.on_role(
            f"waiting for {self._names()}: another host may have been made master meanwhile"
        )

    async def _session(self, requests: Requests, _: Send) -> None:
        hello = await first_hello(requests)
        if hello.HasField("incarnation") and hello.incarnation.uuid == self._own.incarnation:
            self.came.add(HostId(hello.host))
            self.news.set()
        name = self._parts.identity.name
        raise PoolError(Reason.NO_MASTER, host=name, problem="it is about to lead")

    def _names(self) -> str:
        return " and ".join(sorted(other.name for other in self.missing))

    def _problem(self) -> str:
        if len(self.missing) > 1:
            return f"{self._names()} do not answer; one of them may have been made master meanwhile"
        return f"{self._names()} does not answer; it may have been made master meanwhile"


async def while_leading(parts: Parts, own: Own) -> None:
    """As long as the mastership lasts; raises `LeftBehind` when the pool goes on without it."""
    while True:
        master = parts.mastership
        if master is not None:
            away = (h for h in master.state.all(Host) if master.sessions.get(h.uuid) is None)
            others = [Other(h.address, h.name_label, h.uuid) for h in away]
            await _ask(parts, own, [o for o in others if o.uuid != parts.identity.host])
        await parts.clock.sleep(LOOK_SECONDS)


async def _ask(parts: Parts, own: Own, others: Collection[Other]) -> set[HostId]:
    """Ask hosts what they are of; the uuids of those that could tell.

    Raises `LeftBehind` as soon as one says that it is of something newer.
    """
    answered: set[HostId] = set()
    if not others:
        return answered

    async def ask(other: Other) -> None:
        try:
            found = await parts.agents.standing(other.address, own.pool, 0, seconds=ASK_SECONDS)
        except PoolError as error:
            log.debug("%s does not say where it stands: %s", other.name, error)
            return
        if found.incarnation is None:
            return  # One that is only just starting cannot say yet.
        compare(own, other, found.incarnation)
        # The address may be another host's by now.
        answered.add(found.host)

    await side_by_side(*map(ask, others))
    return answered


def compare(own: Own, other: Other, found: Incarnation | None) -> None:
    """Raise `LeftBehind` if `other` is of a newer incarnation than the store of this host."""
    if found is None or found.uuid == own.incarnation:
        return
    if found.counter > own.counter:
        raise LeftBehind(other, found)
    if found.counter == own.counter:
        log.error(
            "%s and this host are of two incarnations that were founded without each other: "
            "a person has to reset one of them",
            other.name,
        )


async def come_back(store: Store, own: Own, follower: Follower, left: LeftBehind) -> Change:
    """Become a member, with a replica that has everything that the store has."""
    log.warning("%s: this host becomes a member again", left)
    pool, hosts = await read_pool(store), await read_hosts(store)
    await take_log(store, follower)
    others = sorted(h.address for h in hosts if h.uuid != follower.host)
    addresses = tuple(dict.fromkeys((left.at.address, *others)))
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
