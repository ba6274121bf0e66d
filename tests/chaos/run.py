"""A pool of three daemons on three members of etcd, used by clients while faults happen to both.

    make chaos MINUTES=10              with faults by chance; prints the seed
    make chaos MINUTES=10 SEED=42      with the same faults again

The same seed chooses the same faults and calls, not the same moments: processes are scheduled by
the machine. A run that finds something prints the seed and what is wrong, and keeps the history,
all logs and what the hosts and etcd have on disk. `--history FILE` looks at a kept history again.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from chaos.clients import Clients
from chaos.faults import LANES, Field, strike
from chaos.verdict import findings, of_answers
from poolcore.errors import Reason
from poolcore.replica import Head
from poolmaster.store.contract import StoreUnavailable
from support.daemons import Loopback, running_cluster
from support.etcd import EtcdCluster
from support.history import History, load, save
from support.shared_pool import NAMES, SharedPool, shared_pool
from support.watching import WATCH_SECONDS, Watcher, watcher
from support.wholeness import same_replicas

CLIENTS = 8
LOOPBACK_NET = 250
"""Behind those that the processes of the integration tests have."""
READ_ON_SECONDS = 2.0
"""How often what was committed is read: the pool keeps 10,000 commits."""
SHOWN = 10
"""How many findings are printed; the others are in the folder."""


@dataclass
class Run:
    """One run, and what it has come to so far."""

    seed: int
    seconds: float
    folder: Path
    history: History = field(default_factory=History)
    heads: list[Head] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    async def play(self) -> None:
        """Faults and clients side by side, then peace, then the verdict."""
        etcd = EtcdCluster(_made(self.folder / "etcd"), size=3)
        loopback = Loopback(net=LOOPBACK_NET)
        async with AsyncExitStack() as stack:
            stack.callback(etcd.kill)
            await etcd.start()
            hosts = _made(self.folder / "hosts")
            cluster = await stack.enter_async_context(running_cluster(hosts, loopback))
            url = f"etcd:{','.join(etcd.addresses)}"
            pool = await stack.enter_async_context(shared_pool(cluster, self.folder, url=url))
            known = [pool.endpoints, *((endpoint,) for endpoint in pool.endpoints)]
            watchers = [await stack.enter_async_context(watcher(pool, *k)) for k in known]
            async with asyncio.TaskGroup() as tasks:
                following = tasks.create_task(self._follow(pool))
                reading = tasks.create_task(_read_on(pool))
                clients = Clients(self.history, pool.endpoints, NAMES)
                await self._strike(Field(pool, etcd, self.heads), clients)
                reading.cancel()
                await self._settle(pool, watchers)
                following.cancel()
            self._judge(pool, clients, watchers)

    async def _follow(self, pool: SharedPool) -> None:
        async for head in pool.chain.heads():
            self.heads.append(head)

    async def _strike(self, field: Field, clients: Clients) -> None:
        """Faults of all lanes, as long as the run lasts; nothing is broken in the end."""
        chance = Random(self.seed)
        async with asyncio.TaskGroup() as tasks:
            for number in range(CLIENTS):
                tasks.create_task(clients.run(f"client{number}", Random(chance.random())))
            for host in field.pool.hosts:
                name, own = f"client of {host.name}", Random(chance.random())
                tasks.create_task(clients.read_at(host.endpoint, name, own))
            striking = [
                tasks.create_task(strike(lane, field, Random(chance.random()), self._tell))
                for lane in LANES
            ]
            await asyncio.sleep(self.seconds)
            for lane in striking:
                lane.cancel()
            await asyncio.wait(striking)
            # Everybody is answered again before they end.
            await field.pool.attached(await field.pool.one_master())
            clients.over = True

    def _tell(self, what: str) -> None:
        print(f"{self.history.now():8.2f} s  {what}", flush=True)

    async def _settle(self, pool: SharedPool, watchers: Sequence[Watcher]) -> None:
        """Until everybody knows everything."""
        await pool.chain.read_on()
        newest = pool.chain.deltas[-1].commit.revision
        async with asyncio.timeout(WATCH_SECONDS):
            for watching in watchers:
                await watching.until(newest)
            while self.heads[-1].revision < newest:  # noqa: ASYNC110 - it is a list
                await asyncio.sleep(0.02)
        await same_replicas(*pool.hosts)

    def _judge(self, pool: SharedPool, clients: Clients, watchers: Sequence[Watcher]) -> None:
        operations, deltas = self.history.operations, pool.chain.deltas
        seen = [watching.seen for watching in watchers]
        began = time.monotonic()
        self.findings += findings(operations, deltas, self.heads, seen)
        if incidents := clients.refusals[Reason.INTERNAL_ERROR]:
            self.findings.append(f"internal errors: {incidents}; the hosts' logs have them")
        took = time.monotonic() - began
        outcomes = Counter(f"{o.kind} {'stale' if o.stale else o.outcome}" for o in operations)
        print(f"operations: {len(operations)}; {_counted(outcomes)}")
        print(f"refusals: {_counted(clients.refusals)}")
        print(
            f"commits: {len(deltas)}, masterships: {self.heads[-1].term}, checked in {took:.1f} s"
        )


def _counted(counter: Mapping[Any, int]) -> str:
    return ", ".join(f"{number} {what}" for what, number in sorted(counter.items())) or "none"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def _read_on(pool: SharedPool) -> None:
    while True:
        try:
            await pool.chain.read_on()
        except StoreUnavailable:
            continue  # without a quorum, for a while
        await asyncio.sleep(READ_ON_SECONDS)


def play(seed: int, minutes: float) -> int:
    """One run; the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"seed {seed}, {minutes:g} min, in {folder}", flush=True)
    run = Run(seed, 60.0 * minutes, folder)
    # What was started is ended whoever ends this; Python sees to it for SIGINT only.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(run.play())
    except KeyboardInterrupt:
        shutil.rmtree(folder)
        print("told to end: nothing is known of this run")
        return 130
    except Exception:  # whatever it is, it is what this run has found
        run.findings.append(traceback.format_exc())
        run.findings += of_answers(run.history.operations)
    if not run.findings:
        shutil.rmtree(folder)
        print("nothing found")
        return 0
    save(run.history.operations, folder / "history.jsonl")
    (folder / "findings").write_text("\n\n".join(run.findings) + "\n")
    print("\n\n".join(["", *run.findings[:SHOWN]]), end="\n\n")
    print(f"{len(run.findings)} findings; history, findings and logs are kept in {folder}")
    print(f"the same faults again: make chaos MINUTES={minutes:g} SEED={seed}")
    return 1


def look_again(file: Path) -> int:
    """Whether a kept history is linearizable; the exit code."""
    found = of_answers(load(file))
    print("\n\n".join(found) or "linearizable")
    return 1 if found else 0


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=2.0, help="how long faults happen")
    parser.add_argument("--seed", type=int, help="of the faults; by chance if none is given")
    parser.add_argument("--history", type=Path, help="look at this kept history, and do no more")
    options = parser.parse_args()
    if options.history is not None:
        return look_again(options.history)
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    return play(seed, options.minutes)


if __name__ == "__main__":
    sys.exit(main())
