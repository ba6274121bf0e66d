"""The part of the benchmark in which hosts are lost with all that is on them."""

from __future__ import annotations

import json
from pathlib import Path

from bench.figures import Aim, Section, Spread, Table, milliseconds
from bench.lost_hosts import BETWEEN_SECONDS
from bench.processes import answer, running

TRIALS = 50
AIM_KILLED_P50_SECONDS, AIM_KILLED_LONGEST_SECONDS = 1.2, 2.0
AIM_CUT_P50_SECONDS, AIM_CUT_LONGEST_SECONDS = 1.5, 2.5

METHOD = f"""\
Three hosts in a network lab (docs/network-lab.md), each with a daemon and an etcd, as in
production; needs root. Before each trial the host of etcd's leader is made the master, so that both
are lost at once, and a client that knows all addresses has been using the pool. It writes once
right after the loss; the time ends when that write is acknowledged. *Killed*: all processes of the
host at one moment; its kernel resets connections. *Cut*: its cable is pulled, nobody is told
anything, and packets to it vanish. At least {BETWEEN_SECONDS:g} s, and a pool that is whole again,
lie between two trials."""


async def host_loss(folder: Path) -> Section:
    """Run the part in `folder`."""
    async with running("lost_hosts", str(folder), str(TRIALS), str(TRIALS)) as process:
        found = {how: Spread.of(s) for how, s in json.loads(await answer(process)).items()}
    killed, cut = found["killed"], found["cut"]
    lost = "Loss of the host with master and etcd leader to the next accepted write"
    return Section(
        title="Loss of a host",
        method=METHOD,
        tables=[
            Table(
                ("", "trials", "p50", "longest"),
                (
                    ("Killed", str(TRIALS), *killed.extremes()),
                    ("Cut", str(TRIALS), *cut.extremes()),
                ),
            )
        ],
        aims=[
            _aim(f"{lost}: killed, p50", killed.p50, AIM_KILLED_P50_SECONDS),
            _aim(f"{lost}: killed, longest", killed.longest, AIM_KILLED_LONGEST_SECONDS),
            _aim(f"{lost}: cable pulled, p50", cut.p50, AIM_CUT_P50_SECONDS),
            _aim(f"{lost}: cable pulled, longest", cut.longest, AIM_CUT_LONGEST_SECONDS),
        ],
    )


def _aim(figure: str, measured: float, most: float) -> Aim:
    return Aim(figure, f"≤ {milliseconds(most)}", milliseconds(measured), measured <= most)
