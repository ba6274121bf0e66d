"""What a host keeps across restarts: who it is, the store of its own pool, its replica.

The roles (`poolmember.parts`) know these only by the protocol, so that a simulation can keep them
in memory; `HostFiles` is the real thing, in the state directory.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Protocol

from poolcore.errors import PoolError, Reason
from poolcore.model import PoolId
from poolmaster.layout import read_head
from poolmaster.store import urls
from poolmaster.store.contract import Store
from poolmaster.store.sqlite import SqliteStore
from poolmember.identity import Identity, Membership, Own
from poolmember.replica_store import ReplicaStore
from poolmember.session import Replica
from poolmember.state_dir import StateDir


class Files(Protocol):
    """See the module's docstring; what is done is durable on return, wholly or not at all."""

    @property
    def identity(self) -> Identity | None:
        """Who the host is; none before its first start."""
        ...

    def write_identity(self, identity: Identity, *, retire: Sequence[str] = ()) -> None:
        """Make `identity` this host's and put databases (`store.db`, `replica.db`) aside."""
        ...

    def retire(self, name: str) -> None:
        """Put a database aside that the present membership does not use, if there is one."""
        ...

    async def found_store(
        self, pool: PoolId, shared: str | None, *, incarnation: str | None = None
    ) -> tuple[Store, str]:
        """An open store for a pool that is to be founded, and the uuid of its incarnation.

        A new incarnation, unless it is named.

        `shared`: the URL of a store that other daemons of the machine may use. A founding that was
        cut short is taken up again there, so the store need not be empty.
        """
        ...

    async def open_store(self, membership: Membership) -> Store:
        """The store of the host's pool: its own, or one that it shares."""
        ...

    async def open_replica(self, pool: PoolId) -> Replica:
        """The replica of a pool; empty if there was none."""
        ...


class HostFiles:
    """Implements `Files` in the state directory of a daemon."""

    def __init__(self, state_dir: StateDir) -> None:
        self._state_dir = state_dir

    @property
    def identity(self) -> Identity | None:
        """See `Files`."""
        return self._state_dir.identity

    def write_identity(self, identity: Identity, *, retire: Sequence[str] = ()) -> None:
        """See `Files`."""
        self._state_dir.write_identity(identity, retire=retire)

    def retire(self, name: str) -> None:
        """See `Files`."""
        self._state_dir.retire(name)

    async def found_store(
        self, pool: PoolId, shared: str | None, *, incarnation: str | None = None
    ) -> tuple[Store, str]:
        """See `Files`."""
        chosen = incarnation or str(uuid.uuid4())
        if shared is None:
            path = self._state_dir.store_path
            return await SqliteStore.found(path, pool=pool, incarnation=chosen), chosen
        try:
            store = await urls.found(shared, pool=pool, incarnation=chosen)
        except PoolError as error:
            if error.reason is not Reason.STATE_OF_ANOTHER_POOL:
                raise
            store = await _begun(shared, pool, error)
        return store, store.incarnation

    async def open_store(self, membership: Membership) -> Store:
        """See `Files`."""
        pool = membership.pool
        incarnation = membership.incarnation if isinstance(membership, Own) else None
        if membership.store is not None:
            return await urls.open_store(membership.store, pool=pool, incarnation=incarnation)
        path = self._state_dir.store_path
        return await SqliteStore.open(path, pool=pool, incarnation=incarnation)

    async def open_replica(self, pool: PoolId) -> Replica:
        """See `Files`."""
        return await ReplicaStore.open(self._state_dir.replica_path, pool=pool, create=True)


async def _begun(url: str, pool: PoolId, refusal: PoolError) -> urls.SharedStore:
    """The shared store whose founding by this very host was cut short; anything else is refused.

    Only such a one is of the pool derived from this host and was never claimed by a master.
    """
    store = await urls.open_store(url, pool=pool)
    try:
        head = await read_head(store)
        if head is not None and head.term > 1:
            raise refusal
    except BaseException:
        await store.close()
        raise
    return store
