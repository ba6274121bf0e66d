"""The replica in memory, which simulations use, behaves as the one in a file does."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from poolcore.errors import PoolError
from poolcore.model import Incarnation
from poolcore.replica import Change, DeltaDoesNotFollow, State, apply, snapshot
from poolcore.wire.chain import encode_delta, snapshot_frames
from poolcore.wire.codec import MalformedMessage
from poolmember.replica_store import ReplicaStore
from support.chain_samples import FOUNDED, INCARNATION, POOL, commits, following
from support.memory_replica import MemoryReplica, ReplicaContent

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
LATER = Incarnation(2, "22222222-2222-4222-8222-22222222222b")

Both = tuple[ReplicaStore, MemoryReplica]
Step = tuple[str, int]

steps = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "append", "replace", "again", "obey", "reborn"]),
        st.integers(1, 4),
    ),
    max_size=12,
)


@settings(max_examples=15)
@given(steps, commits)
def test_both_come_to_the_same(
    steps: list[Step], commits: list[tuple[tuple[Change, ...], bool, bool]]
) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            file = await ReplicaStore.open(Path(folder) / "replica.db", pool=POOL, create=True)
            try:
                await _play((file, MemoryReplica(ReplicaContent(POOL))), steps, commits)
            finally:
                await file.close()

    asyncio.run(main())


async def _play(
    both: Both, steps: list[Step], commits: list[tuple[tuple[Change, ...], bool, bool]]
) -> None:
    state, waiting = FOUNDED, list(commits)
    for name, number in steps:
        match name:
            case "append":
                taken = [waiting.pop() for _ in range(min(number, len(waiting)))]
                state = await _append(both, state, taken)
            case "replace" | "again":
                # Again: one that is behind, which the follower would refuse.
                frames = list(snapshot_frames(state if name == "replace" else FOUNDED))
                await _same(both, lambda r, frames=frames: r.replace(frames))
            case "obey":
                await _same(both, lambda r, number=number: r.obey(number))
            case _:
                objects = tuple(state.objects())
                state = snapshot(LATER, state.last, objects, state.requests.by_id.values())
        await _compare(both)


async def _append(
    both: Both, state: State, commits: list[tuple[tuple[Change, ...], bool, bool]]
) -> State:
    deltas = []
    for changes, asked, new_term in commits:
        delta = following(state, changes, asked=asked, new_term=new_term)
        state = apply(state, delta)
        deltas.append((delta, encode_delta(delta)))
    await _same(both, lambda r: r.append(deltas))
    return state


async def _same(both: Both, do) -> None:  # type: ignore[no-untyped-def]
    """Do it with both: either both do it or both refuse it for the same reason."""
    outcomes = []
    for replica in both:
        try:
            await do(replica)
            outcomes.append("done")
        except PoolError as error:
            outcomes.append(error.reason)
        except (DeltaDoesNotFollow, MalformedMessage) as error:
            outcomes.append(type(error).__name__)
    assert outcomes[0] == outcomes[1]


async def _compare(both: Both) -> None:
    file, memory = both
    assert file.head == memory.head
    assert await file.load() == await memory.load()
    assert await file.dump() == await memory.dump()
    last = 0 if file.head.last is None else file.head.last.revision
    for revision in range(last + 1):
        logs = []
        for replica in both:
            try:
                logs.append(await replica.log_after(revision))
            except PoolError as error:
                logs.append([str(error).encode()])
        assert logs[0] == logs[1]
        assert await file.read_log(revision, 2) == await memory.read_log(revision, 2)
    assert file.head.incarnation in {None, INCARNATION, LATER}
