"""Some tens of seeds of chaos at every test run, and that one seed is one exact run.

In a process of its own with a fixed hash seed, so that what fails can be replayed exactly:
`.venv/bin/python tests/sim/run.py --seed N`. `make sim SEEDS=1000` plays more.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")
AT_ONCE = 10
SEEDS = range(0, 20, AT_ONCE)


def played(*arguments: str) -> str:
    """What the runner prints; fails with that when a seed fails."""
    ran = subprocess.run(
        [sys.executable, str(RUN), *arguments],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize("first", SEEDS)
def test_no_seed_breaks_a_rule(first: int) -> None:
    told = played("--first", str(first), "--seeds", str(AT_ONCE))
    assert told.count("seed ") == AT_ONCE


@pytest.mark.parametrize(
    "seed", [1, 2, 3, 4], ids=["shared store", "own stores", "pair", "own etcd"]
)
def test_one_seed_is_one_exact_run(seed: int) -> None:
    # The second time after another one, in a process with another history.
    alone = played("--first", str(seed), "--seeds", "1").splitlines()[0]
    after_another = played("--first", str(seed - 1), "--seeds", "2").splitlines()[1]
    assert alone == after_another
