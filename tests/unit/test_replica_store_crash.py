"""Killed at any moment, a replica is a prefix of the chain, and a snapshot is in it or is not."""

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from poolcore.replica import State
from poolcore.wire.chain import snapshot_frames
from poolmember.replica_file import ReplicaFile
from support.chain_samples import FOUNDED, POOL, crowded, endless

APPENDING = """
import asyncio, sys
from itertools import islice
from pathlib import Path
from support.chain_samples import POOL, endless
from poolmember.replica_store import ReplicaStore

async def main():
    store = await ReplicaStore.open(Path(sys.argv[1]), pool=POOL)
    state, _ = await store.load()
    deltas = endless(state)
    for size in 2000 * (1, 3, 20):
        await store.append([(delta, raw) for delta, raw, _ in islice(deltas, size)])
        print(store.head.last.revision, flush=True)

asyncio.run(main())
"""

REPLACING = """
import sys
from pathlib import Path
from support.chain_samples import POOL, crowded
from poolcore.wire.chain import snapshot_frames
from poolmember.replica_file import ReplicaFile

file = ReplicaFile.open(Path(sys.argv[1]), pool=POOL)
for revision in range(file.head.last.revision + 1, 10_000):
    frames = list(snapshot_frames(crowded(revision, 1500)))
    print(revision, flush=True)
    file.replace(frames)
"""


def killed(code: str, path: Path, *, after_lines: int, then_seconds: float) -> int:
    """Runs `code` until it has printed so many numbers and a bit longer; the last one it told."""
    with subprocess.Popen(
        [sys.executable, "-c", code, path],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    ) as child:
        assert child.stdout is not None
        told = [int(child.stdout.readline()) for _ in range(after_lines)]
        # Not a wait for something to happen: it moves the moment of the kill about.
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(then_seconds)
        child.kill()
        return [*told, *map(int, child.stdout.read().split())][-1]


def reopened(path: Path) -> State:
    file = ReplicaFile.open(path, pool=POOL)
    state = file.load()
    file.close()
    assert state is not None
    return state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "replica.db"
    file = ReplicaFile.open(path, pool=POOL, create=True)
    file.replace(list(snapshot_frames(FOUNDED)))
    file.close()
    return path


def test_killed_while_appending_it_holds_a_prefix_with_all_that_was_told(path: Path) -> None:
    for n in range(3):
        told = killed(APPENDING, path, after_lines=3 + n, then_seconds=0.0013 * n)
        state = reopened(path)
        assert state.revision >= told
        assert state == next(islice(endless(FOUNDED), state.revision - 2, None))[2]


def test_killed_while_replacing_it_holds_the_old_or_the_new(path: Path) -> None:
    for n in range(3):
        told = killed(REPLACING, path, after_lines=2, then_seconds=0.008 * n)
        state = reopened(path)
        assert state.revision in {told - 1, told}
        assert state == crowded(state.revision, 1500)
