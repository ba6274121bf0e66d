"""The host of a store that has ended: it waits until it is known who goes on from there.

The store's last commit names the heir (`poolmaster.succession`). Either the heir has it: then this
host becomes a member. Or the heir comes and lacks it: then the commit is withdrawn, and this host
is master again. Until then neither is, and only a person could say that one of them is gone.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from poolcore.errors import PoolError, Reason
from poolcore.model import Host, Incarnation
from poolcore.replica import Head
from poolcore.side_by_side import side_by_side
from poolcore.wire.codec import from_proto, to_proto
from poolmanager.v1 import member_service_pb2 as pb
from poolmaster.layout import read_hosts, read_pool
from poolmaster.service.api import session_handlers
from poolmaster.sessions import HELLO_SECONDS, Requests, Send, first_hello
from poolmaster.store.contract import Store, StoreError
from poolmaster.succession import before_it, read_tombstone, withdraw
from poolmember.identity import Member, Own
from poolmember.parts import Change, Parts
from poolmember.returning import take_log
from poolmember.session import Follower
from poolmember.state_dir import STORE_FILE

log = logging.getLogger(__name__)

LOOK_SECONDS, LOOK_ELSEWHERE_SECONDS = 0.02, 1.0
"""How often the heir is asked whether it leads, and the others whether somebody does."""
ASK_SECONDS = 0.5


class Ceding:
    """One store that has ended. `head` is its register, which names the heir."""

    def __init__(
        self, parts: Parts, own: Own, store: Store, head: Head, follower: Follower
    ) -> None:
        self._parts = parts
        self._own = own
        self._store = store
        self._head = head
        self._follower = follower
        self._before = head
        """The register before the store's last commit."""
        self._found: asyncio.Future[Incarnation | None] = asyncio.get_running_loop().create_future()
        """The incarnation that the heir is of; none: the store's last commit was withdrawn."""

    async def settle(self) -> Change | None:
        """What this host becomes; none: the store's last commit was withdrawn.

        Raises `StoreError` when it is not known whether it was.
        """
        parts, host = self._parts, self._follower.host
        tombstone = await read_tombstone(self._store, self._head)
        last, self._before = tombstone.predecessor, before_it(tombstone, host)
        # If the heir is never seen again, this replica is what a person can go on from.
        await take_log(self._store, self._follower, up_to=last.revision)
        hosts = {h.uuid: h for h in await read_hosts(self._store)}
        heir, name = hosts[self._head.master], (await read_pool(self._store)).name_label
        problem = f"{heir.name_label} was to take over and does not answer yet"
        answers = parts.answer_from_replica(self._follower, lambda: problem)
        answers |= session_handlers(self.serve, host=parts.identity.name)
        parts.gateway.serve_locally(answers)
        parts.on_role(f"handing pool {name} over to {heir.name_label}")
        with suppress(_Settled):
            elsewhere = (h for h in hosts.values() if h.uuid not in {host, heir.uuid})
            await side_by_side(
                self._look_at(heir, every=LOOK_SECONDS),
                *(self._look_at(other, every=LOOK_ELSEWHERE_SECONDS) for other in elsewhere),
                self._until_settled(),
            )
        found = self._found.result()
        if found is None:
            return None
        if found.uuid == self._head.incarnation.uuid:
            await take_log(self._store, self._follower, up_to=self._head.revision)
        others = sorted(h.address for h in hosts.values() if h.uuid not in {host, heir.uuid})
        member = Member(pool=self._own.pool, pool_name=name, addresses=(heir.address, *others))
        return Change(member, retire=(STORE_FILE,))

    async def _until_settled(self) -> None:
        await self._found
        raise _Settled

    async def _look_at(self, other: Host, *, every: float) -> None:
        """Until the host says that it is of the next incarnation, or of a later one.

        A later one may have been founded without it, by a person who took this host for lost.
        """
        while True:
            try:
                standing = await self._parts.agents.standing(
                    other.address, self._own.pool, self._head.term, seconds=ASK_SECONDS
                )
            except PoolError as error:
                log.debug("%s does not say where it stands: %s", other.name_label, error)
            else:
                found = standing.incarnation
                if found is not None and found.counter >= self._head.incarnation.counter:
                    self._settle(found)
            await self._parts.clock.sleep(every)

    async def serve(self, requests: Requests, send: Send) -> None:
        """A session that another host opens; the heir's words tell what it has."""
        if await self._heir_lacks_it(requests, send) and not self._found.done():
            log.warning("the host that was to take over has not: this host stays master")
            try:
                await withdraw(self._store, self._head, host=self._follower.host)
            except StoreError as error:
                # It may be withdrawn all the same: the store has to be looked at anew.
                if not self._found.done():
                    self._found.set_exception(error)
                raise PoolError(Reason.STORE_UNAVAILABLE, problem=str(error)) from error
            self._settle(None)
        problem = "it is handing its mastership over"
        raise PoolError(Reason.NO_MASTER, host=self._parts.identity.name, problem=problem)

    async def _heir_lacks_it(self, requests: Requests, send: Send) -> bool:
        """Whether the heir is in this very session, and says that it lacks the last commit.

        A hello may come late, from a session that the heir has given up for another, in which it
        was sent that commit. So it is welcomed: what it says then, it says here and now.
        """
        hello = await first_hello(requests)
        if hello.host != self._head.master or not self._is_ours(hello):
            return False
        await send(pb.SessionResponse(welcome=pb.Welcome(head=to_proto(self._before))))
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                async for request in requests:
                    if request.WhichOneof("item") == "applied":
                        return request.applied.revision < self._head.revision
        except TimeoutError:
            pass
        return False

    def _is_ours(self, hello: pb.Hello) -> bool:
        known = hello.HasField("incarnation")
        return known and from_proto(hello.incarnation).uuid == self._own.incarnation

    def _settle(self, found: Incarnation | None) -> None:
        if not self._found.done():
            self._found.set_result(found)


class _Settled(Exception):
    """It is known who goes on."""
