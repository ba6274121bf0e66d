"""Play many seeds (`make sim SEEDS=1000`), or one again (`tests/sim/run.py --seed 42`).

Replays are exact: the process is started again with a fixed hash seed if it has none, because the
order of sets of text is a matter of that.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HASH_SEED = "0"
ETCD_EVERY = 5
"""Of so many seeds one plays a pool with an etcd of its own."""
VOTERS_EVERY = 20
"""Of so many one of these plays hosts that come and go, for longer."""
SHARED_EVERY = 3
"""Of so many of the others one plays hosts that share a store."""
PAIR_EVERY = 3
"""Of so many of them one plays two hosts whose store is at the master."""


def digest(points: Sequence[str], states: Sequence[str]) -> str:
    """What a run came to, in a few letters: equal for equal runs."""
    told = "\n".join([*points, *states])
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def play(seed: int) -> str:
    """Play one seed; what it came to. AssertionError when a rule was broken."""
    # Only here: it imports what has to be found by the second start.
    from poolcore.replica import dump
    from sim import chaos, etcd_chaos, pair_chaos, shared_chaos, voter_chaos

    if seed % VOTERS_EVERY == VOTERS_EVERY - 1:
        world = voter_chaos.run(seed)
    elif seed % ETCD_EVERY == ETCD_EVERY - 1:
        world = etcd_chaos.run(seed)
    elif seed % SHARED_EVERY == 1:
        world = shared_chaos.run(seed)
    elif seed % PAIR_EVERY == 0:
        world = pair_chaos.run(seed)
    else:
        world = chaos.run(seed)
    registers = world.rules.registers.values()
    states = [dump(register.state) for register in registers if register.head is not None]
    return digest(world.points, states)


def attempt(seed: int) -> tuple[int, str, bool]:
    """Play one of many seeds: which, what it came to, and whether it failed."""
    gc.collect()
    try:
        return seed, play(seed), False
    except Exception as error:  # whatever it is, it is this seed's result
        return seed, str(error), True


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many to play")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="play this one only, and log what happens")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="so many at a time")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        print(f"seed {options.seed}: {play(options.seed)}")
        return 0
    logging.getLogger().addHandler(logging.NullHandler())
    seeds = range(options.first, options.first + options.seeds)
    began, failed = time.monotonic(), 0
    # Forked: a process that is spawned would have to find what this one imports.
    with multiprocessing.get_context("fork").Pool(options.jobs) as processes:
        for seed, told, has_failed in processes.imap(attempt, seeds):
            print(f"seed {seed}: {told}", flush=True)
            if has_failed:
                failed += 1
                print(f"  again: .venv/bin/python tests/sim/run.py --seed {seed}", flush=True)
    print(f"{failed} of {len(seeds)} runs failed, {time.monotonic() - began:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        os.environ["PYTHONHASHSEED"] = HASH_SEED
        os.execv(sys.executable, [sys.executable, *sys.argv])
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    sys.exit(main(sys.argv[1:]))
