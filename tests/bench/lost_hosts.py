"""How long a pool takes no writes when the host with the master and etcd's leader is lost.

    python -m bench.lost_hosts FOLDER KILLS CUTS

In a network lab, and so in a process of its own; prints a line of JSON: the seconds of each trial,
by how the host was lost.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.progress import tell
from poolclient import PoolClient
from support.netlab.host import NetHost
from support.netlab.lab import NetLab, running_lab
from support.shared_pool import SharedPool

BETWEEN_SECONDS = 4.0
DISK_MIB = 1_024
CLIENT_SECONDS = 30.0

Lose = Callable[[NetLab, NetHost], Awaitable[None]]


async def main(folder: Path, kills: int, cuts: int) -> None:
    """Both kinds of loss, one trial after the other."""
    async with running_lab(folder, disk_mib=DISK_MIB) as lab, lab.pool() as pool:
        found = {
            "killed": await _trials(lab, pool, kills, _killed, _started),
            "cut": await _trials(lab, pool, cuts, _cut, _plugged_in),
        }
    print(json.dumps(found), flush=True)


async def _killed(_: NetLab, host: NetHost) -> None:
    await host.kill()


async def _started(_: NetLab, host: NetHost) -> None:
    await host.start()


async def _cut(lab: NetLab, host: NetHost) -> None:
    lab.link_down(host)


async def _plugged_in(lab: NetLab, host: NetHost) -> None:
    lab.link_up(host)


async def _trials(
    lab: NetLab, pool: SharedPool, number: int, lose: Lose, bring_back: Lose
) -> list[float]:
    seconds = []
    for trial in range(number):
        await asyncio.sleep(BETWEEN_SECONDS)
        host = await _leading_in_everything(lab, pool)
        async with PoolClient.connect(*pool.endpoints, timeout_seconds=CLIENT_SECONDS) as client:
            await client.hosts.set(host.name, other_config={"bench": "before"})
            began = time.perf_counter()
            await lose(lab, host)
            done = await client.hosts.set(host.name, other_config={"bench": str(trial)})
            seconds.append(time.perf_counter() - began)
        successor = await pool.another_master(than=host)
        await pool.chain.read_on()
        if pool.chain.deltas[done.revision - 1].commit.term != (await pool.chain.head()).term:
            raise RuntimeError("the write was not made by the new master")
        await bring_back(lab, host)
        await pool.attached(successor)
        tell(f"lost hosts: {lose.__name__[1:]} {host.name}, {seconds[-1]:.3f} s")
    return seconds


async def _leading_in_everything(lab: NetLab, pool: SharedPool) -> NetHost:
    """The host of etcd's leader, made the master if it is not."""
    host = await lab.etcd_leader()
    if await pool.master() is not host:
        async with PoolClient.connect(*pool.endpoints) as client:
            await (await client.designate_master(host.name))
        await pool.attached(host)
        await asyncio.sleep(BETWEEN_SECONDS)
    return host


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
