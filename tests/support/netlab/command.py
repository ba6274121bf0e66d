"""The `pool` command, run from where the test is in the lab's network."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from support.cli import Outcome
from support.daemons import ProcessHost

_POOL = str(Path(sys.executable).with_name("pool"))
_END_SECONDS = 60.0


async def command(hosts: Iterable[ProcessHost], *arguments: str) -> Outcome:
    """Run `pool`, which is told of these hosts, until it has ended."""
    process = await asyncio.create_subprocess_exec(
        _POOL, "--server", ",".join(host.endpoint for host in hosts), *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"COLUMNS": "100"},
    )  # fmt: skip
    async with asyncio.timeout(_END_SECONDS):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Outcome(process.returncode, out.decode(), err.decode())
