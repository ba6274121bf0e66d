import asyncio
import resource
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolcore.errors import PoolError, Reason
from poolcore.model import Incarnation, PoolId
from poolcore.replica import CommitId, Delta, DeltaDoesNotFollow, Put, State, apply, dump, snapshot
from poolcore.wire.chain import encode_delta, snapshot_frames
from poolcore.wire.codec import MalformedMessage
from poolmanager.v1 import chain_pb2
from poolmember.replica_file import ReplicaFile
from poolmember.replica_store import ReplicaStore
from support.chain_samples import (
    FOUNDED,
    INCARNATION,
    POOL,
    POOL_OBJECT,
    commits,
    crowded,
    endless,
    following,
    vm,
)

# Hundreds of commits, of which none is about the disk: that is the matter of the crash tests.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

OTHER = PoolId("99999999-9999-4999-8999-999999999999")


def frames(state: State) -> list[chain_pb2.SnapshotFrame]:
    return list(snapshot_frames(state))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "replica.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[ReplicaStore]:
    """The replica of a pool that was just founded."""
    opened = await ReplicaStore.open(path, pool=POOL, create=True)
    await opened.replace(frames(FOUNDED))
    yield opened
    await opened.close()


async def reopened(store: ReplicaStore, path: Path) -> State | None:
    await store.close()
    again = await ReplicaStore.open(path, pool=POOL)
    try:
        state, _ = await again.load()
        return state
    finally:
        await again.close()


async def test_a_new_replica_waits_for_its_first_snapshot(path: Path) -> None:
    store = await ReplicaStore.open(path, pool=POOL, create=True)
    assert await store.load() == (None, 0)
    assert (store.head.incarnation, store.head.last) == (None, None)
    assert await store.dump() == ""
    assert await store.log_after(0) == []
    delta, raw, _ = next(endless(FOUNDED))
    with pytest.raises(DeltaDoesNotFollow):
        await store.append([(delta, raw)])
    assert await reopened(store, path) is None


async def test_what_was_appended_is_there_after_reopening(store: ReplicaStore, path: Path) -> None:
    deltas = list(islice(endless(FOUNDED), 40))
    await store.append([(d, raw) for d, raw, _ in deltas[:1]])
    await store.append([(d, raw) for d, raw, _ in deltas[1:]])
    await store.append([])
    *_, (last, _, state) = deltas
    assert store.head.last == last.commit
    assert await store.dump() == dump(state)
    assert await store.log_after(1) == [raw for _, raw, _ in deltas]
    assert await store.log_after(40) == [deltas[-1][1]]
    assert await store.log_after(41) == []
    assert await reopened(store, path) == state


@settings(max_examples=50)
@given(commits, st.data())
def test_any_deltas_in_any_grouping_are_what_apply_makes_of_them(
    content: list[tuple[Any, bool, bool]], data: st.DataObject
) -> None:
    states, deltas = [FOUNDED], list[tuple[Delta, bytes]]()
    log, kept = list[tuple[int, bytes]](), list[list[tuple[int, bytes]]]()
    for changes, asked, new_term in content:
        delta = following(states[-1], changes, asked=asked, new_term=new_term)
        raw = encode_delta(delta)
        deltas.append((delta, raw))
        states.append(apply(states[-1], delta))
        oldest = delta.commit.revision - states[-1].history_revisions + 1
        log = [(r, b) for r, b in [*log, (delta.commit.revision, raw)] if r >= oldest]
        kept.append(log)
    cuts = data.draw(st.sets(st.integers(0, len(deltas))))
    edges = sorted({0, len(deltas)} | cuts)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder) / "replica.db"
        file = ReplicaFile.open(path, pool=POOL, create=True)
        assert file.replace(frames(FOUNDED)) == FOUNDED
        for start, end in pairwise(edges):
            file.append(deltas[start:end])
            assert file.load() == states[end]
            file.close()
            file = ReplicaFile.open(path, pool=POOL)
            assert file.load() == states[end]
            check_log(file, states[end].revision, kept[end - 1])
        assert file.head.highest_term == states[-1].last.term
        # As well as over a snapshot taken anywhere on the way.
        middle = data.draw(st.integers(0, len(deltas)))
        file.replace(frames(states[middle]))
        file.append(deltas[middle:])
        assert file.load() == states[-1]
        file.close()


def check_log(file: ReplicaFile, revision: int, kept: list[tuple[int, bytes]]) -> None:
    oldest = kept[0][0] if kept else revision + 1
    assert file.log_after(oldest - 1) == [raw for _, raw in kept]
    with pytest.raises(PoolError) as caught:
        file.log_after(oldest - 2)
    assert caught.value.reason is Reason.HISTORY_GONE
    assert caught.value.params["oldest"] == str(oldest)


async def test_a_gap_is_refused_and_nothing_of_the_run_is_kept(
    store: ReplicaStore, path: Path
) -> None:
    deltas = [(d, raw) for d, raw, _ in islice(endless(FOUNDED), 4)]
    for run in (deltas[1:], [deltas[0], deltas[2]], [deltas[0], deltas[0]]):
        with pytest.raises(DeltaDoesNotFollow):
            await store.append(run)
    forked = replace(deltas[0][0], incarnation="33333333-3333-4333-8333-333333333333")
    with pytest.raises(DeltaDoesNotFollow):
        await store.append([(forked, encode_delta(forked))])
    assert await reopened(store, path) == FOUNDED


async def test_the_bytes_of_the_master_are_kept_with_what_this_release_does_not_know(
    store: ReplicaStore, path: Path
) -> None:
    delta = following(FOUNDED, (Put(vm(1, "web1")),), asked=False, new_term=False)
    message = chain_pb2.Delta.FromString(encode_delta(delta))
    known = message.changes[0].put.vm.SerializeToString()
    # Field 1000, length-delimited: what a later release may have added.
    message.changes[0].put.vm.MergeFromString(known + b"\xc2\x3e\x05later")
    raw = message.SerializeToString(deterministic=True)
    await store.append([(delta, raw)])
    assert await store.log_after(1) == [raw]
    await store.close()
    with sqlite3.connect(path) as connection:
        (body,) = connection.execute("SELECT body FROM objects WHERE kind = 'vm'").fetchone()
    connection.close()
    assert b"later" in body


async def test_a_snapshot_replaces_everything(store: ReplicaStore, path: Path) -> None:
    deltas = list(islice(endless(FOUNDED), 5))
    await store.append([(d, raw) for d, raw, _ in deltas])
    new = crowded(100, 300)
    assert await store.replace(frames(new)) == new
    assert await store.log_after(100) == []
    with pytest.raises(PoolError) as caught:
        await store.log_after(99)
    assert caught.value.reason is Reason.HISTORY_GONE
    assert await reopened(store, path) == new


async def test_a_large_snapshot_comes_in_frames_and_goes_on_with_deltas(
    store: ReplicaStore, path: Path
) -> None:
    big = crowded(7, 6000)
    pieces = frames(big)
    assert len(pieces) > 1
    await store.replace(pieces)
    delta, raw, after = next(endless(big))
    await store.append([(delta, raw)])
    assert await reopened(store, path) == after


async def test_an_incomplete_or_altered_snapshot_changes_nothing(
    store: ReplicaStore, path: Path
) -> None:
    pieces = frames(crowded(100, 6000))
    altered = [chain_pb2.SnapshotFrame.FromString(f.SerializeToString()) for f in pieces]
    altered[0].objects[1].vm.name_label = "another"
    for wrong in ([], pieces[:-1], pieces[1:], [*pieces, pieces[-1]], altered):
        with pytest.raises(MalformedMessage):
            await store.replace(wrong)
    foreign = snapshot(INCARNATION, CommitId(1, 2), [replace(POOL_OBJECT, uuid=OTHER)], [])
    with pytest.raises(PoolError) as caught:
        await store.replace(frames(foreign))
    assert caught.value.reason is Reason.STATE_OF_ANOTHER_POOL
    assert await reopened(store, path) == FOUNDED


async def test_the_highest_term_is_never_forgotten(store: ReplicaStore, path: Path) -> None:
    await store.obey(9)
    await store.obey(3)
    delta, raw, _ = next(endless(FOUNDED))
    await store.append([(delta, raw)])
    await store.replace(frames(crowded(5, 1)))
    assert store.head.highest_term == 9
    await store.close()
    again = await ReplicaStore.open(path, pool=POOL)
    assert (await again.load())[1] == 9
    await again.close()


async def test_terms_start_again_with_another_incarnation(store: ReplicaStore) -> None:
    await store.obey(9)
    reborn = Incarnation(2, "44444444-4444-4444-8444-444444444444", forked_at=1)
    await store.replace(frames(snapshot(reborn, CommitId(2, 1), [POOL_OBJECT], [])))
    assert store.head.highest_term == 2
    assert store.head.incarnation == reborn


async def test_a_cancelled_append_goes_on_and_the_store_knows(
    store: ReplicaStore, path: Path
) -> None:
    deltas = list(islice(endless(FOUNDED), 200))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await store.append([(d, raw) for d, raw, _ in deltas])
    await store.load()  # operations happen in order: the append has ended by now
    assert store.head.last is not None
    state = FOUNDED if store.head.last == FOUNDED.last else deltas[-1][2]
    assert await reopened(store, path) == state


async def test_closing_twice_is_closing_once(store: ReplicaStore) -> None:
    await store.close()
    await store.close()


async def test_a_reader_sees_one_moment_while_the_daemon_goes_on(
    store: ReplicaStore, path: Path
) -> None:
    reader = ReplicaFile.open_for_reading(path)
    delta, raw, after = next(endless(FOUNDED))
    await store.append([(delta, raw)])
    assert reader.load() == FOUNDED
    reader.close()
    reader = ReplicaFile.open_for_reading(path)
    assert (reader.load(), reader.head.pool) == (after, POOL)
    reader.close()


async def test_after_a_full_disk_it_goes_on_with_what_the_file_holds(
    store: ReplicaStore, path: Path
) -> None:
    delta, raw, after = next(endless(FOUNDED))
    await store.append([(delta, raw)])
    bulky = following(after, (Put(vm(1, "x" * 1_000_000)),), asked=False, new_term=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        for _ in range(2):
            with pytest.raises(PoolError) as caught:
                await store.append([(bulky, encode_delta(bulky))])
            assert caught.value.reason is Reason.STATE_UNWRITABLE
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert await store.load() == (after, after.last.term)
    await store.append([(bulky, encode_delta(bulky))])
    assert await reopened(store, path) == apply(after, bulky)
