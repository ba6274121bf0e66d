"""The `pool` command, run on a lab host against the daemon of that host."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from support.lab_host import POOLMEMBER_PORT, LabHost
from support.lab_network import LabError

T = TypeVar("T")

_POOL = str(Path(sys.executable).with_name("pool"))


def endpoint(host: LabHost) -> str:
    """Where the host's daemon listens."""
    return f"{host.address}:{POOLMEMBER_PORT}"


def pool(host: LabHost, *args: str) -> subprocess.CompletedProcess[str]:
    """`pool -o json …` on `host`, asking its own daemon; any exit code."""
    command = [_POOL, "--server", endpoint(host), "-o", "json", *args]
    return host.run(command, check=False, timeout=60)


def ask(host: LabHost, *args: str) -> Any:
    """What `pool -o json …` prints; `LabError` with what it said unless it succeeds."""
    done = pool(host, *args)
    if done.returncode != 0:
        raise LabError(f"pool {' '.join(args)} ended with {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


def ask_until(
    host: LabHost, *args: str, true: Callable[[Any], T | None], within_seconds: float = 10
) -> T:
    """Ask again until `true` of the answer is; what that gave."""
    deadline = time.monotonic() + within_seconds
    while True:
        answer = ask(host, *args)
        if found := true(answer):
            return found
        if time.monotonic() > deadline:
            raise LabError(
                f"pool {' '.join(args)} still answers after {within_seconds} s: {answer}"
            )
