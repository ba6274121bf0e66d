"""`poolmember` with a bug that the chaos test has to find: `python -m chaos.planted BUG run …`.

    make chaos MINUTES=10 PLANTED=head-not-compared

Each bug takes one safety mechanism away (docs/adr/0001-safety-mechanisms.md). They are here and
nowhere else: nothing in the product can be configured to have one.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from poolmanager.etcd.v3 import rpc_pb2 as pb
from poolmaster.layout import HEAD, LOG
from poolmaster.store.contract import Compare, OutcomeUnknown, StoreError, StoreUnavailable, Write
from poolmaster.store.etcd import store as etcd
from poolmaster.store.etcd.cluster import Cluster
from poolmaster.store.etcd.store import EtcdStore
from poolmember.main import app

RETRIES = 10


def head_not_compared() -> None:
    """A commit goes through whoever is master."""
    transact = EtcdStore.transact

    async def planted(
        self: EtcdStore, compares: Sequence[Compare], writes: Sequence[Write]
    ) -> bool:
        if any(write.key.startswith(LOG) for write in writes):
            compares = [compare for compare in compares if compare.key != HEAD]
        return await transact(self, compares, writes)

    EtcdStore.transact = planted  # type: ignore[method-assign]


def answered_before_commit() -> None:
    """Who writes is told that it is done when it has been sent."""
    transact = EtcdStore.transact
    sent = set[asyncio.Task[bool]]()

    async def planted(
        self: EtcdStore, compares: Sequence[Compare], writes: Sequence[Write]
    ) -> bool:
        if not any(write.key.startswith(LOG) for write in writes):
            return await transact(self, compares, writes)
        sending = asyncio.ensure_future(  # noqa: TID251 - it is left to itself: that is the bug
            transact(self, compares, writes)
        )
        sent.add(sending)
        sending.add_done_callback(ended)
        # So that the next commit finds this one, where nothing goes wrong.
        await asyncio.wait([sending], timeout=0.02)
        return True

    def ended(sending: asyncio.Task[bool]) -> None:
        sent.discard(sending)
        if not sending.cancelled() and not isinstance(sending.exception(), StoreError | None):
            sending.result()

    EtcdStore.transact = planted  # type: ignore[method-assign]


def read_from_one_member() -> None:
    """What a single member of etcd has counts as the newest."""
    ranged = EtcdStore._ranged

    async def planted(
        self: EtcdStore, request: pb.RangeRequest, *, linearizable: bool
    ) -> pb.TxnResponse:
        del linearizable
        return await ranged(self, request, linearizable=False)

    EtcdStore._ranged = planted  # type: ignore[method-assign]


def sent_again() -> None:
    """A transaction of unknown outcome is simply sent once more, until somebody answers."""
    sent = etcd._sent

    async def planted(cluster: Cluster, request: pb.TxnRequest) -> pb.TxnResponse:
        for _ in range(RETRIES):
            with suppress(OutcomeUnknown, StoreUnavailable):
                return await sent(cluster, request)
        return await sent(cluster, request)

    etcd._sent = planted


BUGS: dict[str, Callable[[], Any]] = {
    "head-not-compared": head_not_compared,
    "answered-before-commit": answered_before_commit,
    "read-from-one-member": read_from_one_member,
    "sent-again": sent_again,
}

if __name__ == "__main__":
    BUGS[sys.argv.pop(1)]()
    app()
