"""A pool in a network lab, used by clients while faults happen to its hosts and its network.

    make chaos MINUTES=10              with faults by chance; prints the seed
    make chaos MINUTES=10 SEED=42      with the same faults again
    make chaos MINUTES=10 HOSTS=5      with five hosts instead of three, of which three vote
    make chaos MINUTES=10 ETCD=given   on an etcd that is not the pool's own, at each of the hosts
    make chaos PLANTED=sent-again      with a bug (`chaos.planted`): it is a success to find it

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
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from chaos.clients import Clients
from chaos.faults import LANES, Field, strike
from chaos.verdict import findings, of_answers
from poolclient import PoolClient
from poolcore.errors import Reason
from poolcore.model import Pool
from poolcore.replica import Head, Put
from support.history import History, load, save
from support.lab_network import LabUnavailable
from support.netlab.lab import NetLab, running_lab
from support.shared_pool import SharedPool
from support.watching import WATCH_SECONDS, Watcher, watcher
from support.wholeness import same_replicas

CLIENTS = 8
SCRIPTS = 4
"""Of clients that write without the client library."""
DISK_MIB = 1_024
"""Of each host: etcd keeps a log of what it was told."""
REPLACE_SECONDS = 2.0
"""After which another host gets the vote of one that is away: faults last longer than that."""
PLANTED = ("head-not-compared", "answered-before-commit", "read-from-one-member", "sent-again")
EXIT_OF_PLANTED = {0: 1, 1: 0}
"""With a bug, to find nothing is the failure."""
SHOWN = 10
"""How many findings are printed; the others are in the folder."""


@dataclass
class Run:
    """One run, and what it has come to so far."""

    seed: int
    seconds: float
    folder: Path
    hosts: int
    """How many."""
    own_etcd: bool = True
    planted: str = ""
    """The bug that the daemons have."""
    history: History = field(default_factory=History)
    heads: list[Head] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    async def play(self) -> None:
        """Faults and clients side by side, then peace, then the verdict."""
        async with AsyncExitStack() as stack:
            running = running_lab(
                self.folder, size=self.hosts, own_etcd=self.own_etcd, disk_mib=DISK_MIB
            )
            lab = await stack.enter_async_context(running)
            stack.push_async_callback(self._kept, lab)
            if self.planted:
                for host in lab.hosts:
                    host.command = (sys.executable, "-m", "chaos.planted", self.planted)
            pool = await stack.enter_async_context(lab.pool())
            async with PoolClient.connect(*pool.endpoints) as client:
                await client.set(failover={"replace_voter_seconds": REPLACE_SECONDS})
            known = [pool.endpoints, *((endpoint,) for endpoint in pool.endpoints)]
            watchers = [await stack.enter_async_context(watcher(pool, *k)) for k in known]
            async with asyncio.TaskGroup() as tasks:
                following = tasks.create_task(self._follow(pool))
                reading = tasks.create_task(pool.chain.keep_reading())
                names = [host.name for host in lab.hosts]
                clients = Clients(self.history, pool.endpoints, names)
                await self._strike(Field(lab, pool, self.heads), clients)
                reading.cancel()
                await self._settle(pool, watchers)
                following.cancel()
            self._judge(pool, clients, watchers)

    async def _kept(self, lab: NetLab) -> None:
        """Save what is on the hosts' disks, which end with the lab, if it may tell something."""
        if self.findings or sys.exc_info()[0] is not None:
            await asyncio.gather(*(host.kill() for host in lab.hosts))
            for host in lab.hosts:
                left_out = shutil.ignore_patterns("filler", "*.sock")
                shutil.copytree(host.disk, self.folder / f"{host.name}.disk", ignore=left_out)

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
            for number in range(SCRIPTS):
                tasks.create_task(clients.write_plainly(f"script{number}", Random(chance.random())))
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
        pools = [c.object for d in deltas for c in d.changes if isinstance(c, Put)]
        voters = [found.voters for found in pools if isinstance(found, Pool)]
        revoted = sum(before != after for before, after in pairwise(voters))
        print(
            f"commits: {len(deltas)}, masterships: {self.heads[-1].term}, "
            f"changes of the voters: {revoted}, checked in {took:.1f} s"
        )


def _counted(counter: Mapping[Any, int]) -> str:
    return ", ".join(f"{number} {what}" for what, number in sorted(counter.items())) or "none"


def play(run: Run) -> int:
    """One run; the exit code."""
    hosts = f"{run.hosts} hosts on {'their own' if run.own_etcd else 'a given'} etcd"
    print(f"seed {run.seed}, {hosts}, {run.seconds:g} s, in {run.folder}", flush=True)
    # What was started is ended whoever ends this; Python sees to it for SIGINT only.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(run.play())
    except KeyboardInterrupt:
        shutil.rmtree(run.folder)
        print("told to end: nothing is known of this run")
        return 130
    except LabUnavailable as reason:
        shutil.rmtree(run.folder)
        print(f"no network lab can be made here: {reason}", file=sys.stderr)
        return 2
    except Exception:  # whatever it is, it is what this run has found
        run.findings.append(traceback.format_exc())
        run.findings += of_answers(run.history.operations)
    if not run.findings:
        shutil.rmtree(run.folder)
        print("nothing found")
        return 0
    save(run.history.operations, run.folder / "history.jsonl")
    (run.folder / "findings").write_text("\n\n".join(run.findings) + "\n")
    print("\n\n".join(["", *run.findings[:SHOWN]]), end="\n\n")
    print(f"{len(run.findings)} findings; history, findings and logs are kept in {run.folder}")
    again = f"MINUTES={run.seconds / 60:g} HOSTS={run.hosts} SEED={run.seed}"
    again += "" if run.own_etcd else " ETCD=given"
    print(f"the same faults again: make chaos {again}")
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
    parser.add_argument("--hosts", type=int, choices=(3, 5), default=3, help="how many hosts")
    parser.add_argument("--etcd", choices=("own", "given"), default="own", help="whose it is")
    parser.add_argument("--seed", type=int, help="of the faults; by chance if none is given")
    parser.add_argument("--planted", choices=PLANTED, default="", help="a bug that is to be found")
    parser.add_argument("--history", type=Path, help="look at this kept history, and do no more")
    options = parser.parse_args()
    if options.history is not None:
        return look_again(options.history)
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    own, planted = options.etcd == "own", options.planted
    found = play(Run(seed, 60.0 * options.minutes, folder, options.hosts, own, planted))
    return found if not options.planted else EXIT_OF_PLANTED.get(found, found)


if __name__ == "__main__":
    sys.exit(main())
