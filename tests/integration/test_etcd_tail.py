"""What one member's disk has, read from a real etcd's log: more than a forced member would keep."""

from __future__ import annotations

import asyncio
from itertools import islice
from pathlib import Path

import pytest

from poolcore.facts import KnownCommit, Tail
from poolcore.model import HostId
from poolcore.replica import Head
from poolmanager.etcd.v3 import rpc_pb2 as rpc
from poolmaster.layout import HEAD, encode_head, log_key
from poolmaster.store.contract import Compare, Write
from poolmaster.store.etcd.calls import RANGE
from poolmaster.store.etcd.store import EtcdOptions, EtcdStore, key_prefix
from poolmember.etcd.tail import read_tail
from support.chain_samples import FOUNDED, INCARNATION, POOL, endless
from support.etcd import EtcdCluster
from support.etcd import EtcdMember as Member

pytestmark = pytest.mark.etcd

PREFIX = key_prefix(EtcdOptions.PREFIX, POOL, INCARNATION.uuid)
COMMITS = list(islice(endless(FOUNDED), 40))
"""Revisions 2 to 41, each with its bytes."""
HOST = HostId("33333333-3333-4333-8333-333333333333")


def register(revision: int) -> bytes:
    last = COMMITS[revision - 2][2].last
    return encode_head(Head(INCARNATION, last.term, last.revision, HOST))


async def commit(store: EtcdStore, revision: int) -> None:
    before = register(revision - 1) if revision > 2 else None
    writes = [
        Write(log_key(revision), COMMITS[revision - 2][1]),
        Write(HEAD, register(revision)),
    ]
    assert await store.transact([Compare(HEAD, before)], writes)


def tail(folder: Path, member: Member, revision: int) -> Tail:
    known = KnownCommit.of(revision, COMMITS[revision - 2][1])
    return read_tail(folder / member.name, PREFIX, known)


def deltas(first: int, last: int) -> tuple[bytes, ...]:
    return tuple(COMMITS[revision - 2][1] for revision in range(first, last + 1))


async def test_a_commit_that_only_one_disk_has_is_read_and_would_be_dropped_by_a_forced_member(
    tmp_path: Path,
) -> None:
    etcd = EtcdCluster(tmp_path, size=3)
    try:
        await etcd.start()
        leader = await etcd.leader()
        others = [member for member in etcd.members if member is not leader]
        options = EtcdOptions((leader.address,))
        store = await EtcdStore.found(options, pool=POOL, incarnation=INCARNATION.uuid)
        for revision in range(2, 31):
            await commit(store, revision)
        found = tail(tmp_path, leader, 20)
        assert found.deltas == deltas(21, 30)
        assert found.whole
        for other in others:
            other.freeze()
        sent = asyncio.ensure_future(commit(store, 31))  # noqa: TID251 - awaited below
        async with asyncio.timeout(10):
            # A file tells nobody that it has changed.
            while tail(tmp_path, leader, 30).deltas != deltas(31, 31):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        leader.kill()
        sent.cancel()
        await asyncio.gather(sent, store.close(), return_exceptions=True)
        assert tail(tmp_path, leader, 20).deltas == deltas(21, 31)
        etcd.kill()
        # The same disk, in the hands of etcd itself.
        leader.start("--force-new-cluster")
        await etcd.until_answers(leader)
        async with etcd.client(leader) as client:
            there = [
                (await client.ask(RANGE, rpc.RangeRequest(key=PREFIX + log_key(r)))).count
                for r in (30, 31)
            ]
        assert there == [1, 0]
    finally:
        etcd.kill()
