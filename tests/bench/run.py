"""Measures the project on this machine, and writes `docs/benchmarks.md` when all was measured.

    make bench                         everything, in half an hour; as root, with etcd, nftables
    make bench ARGS="--only commits"   a part alone; prints and writes nothing

Run it on a machine that does nothing else: the daemon, the client and the members of the larger
pools share its processors.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from bench.commits import commits
from bench.failover import failover
from bench.feeding import feeding, feeding_on_etcd
from bench.figures import Section
from bench.host_loss import host_loss
from bench.joining import joining
from bench.on_etcd import on_etcd
from bench.progress import tell
from bench.report import in_markdown, on_terminal
from bench.scale import scale
from bench.two_hosts import two_hosts

PARTS: dict[str, Callable[[Path], Awaitable[Section]]] = {
    "commits": commits,
    "feeding": feeding,
    "joining": joining,
    "failover": failover,
    "two-hosts": two_hosts,
    "scale": scale,
    "etcd": on_etcd,
    "etcd-feeding": feeding_on_etcd,
    "host-loss": host_loss,
}
REPORT = Path(__file__).parents[2] / "docs" / "benchmarks.md"


async def measure(parts: Sequence[str], folder: Path) -> list[Section]:
    """The findings of the parts, one after the other, each in a folder of its own."""
    sections = []
    for part in parts:
        tell(f"{part}: begins")
        (folder / part).mkdir()
        sections.append(await PARTS[part](folder / part))
    return sections


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=PARTS, help="measure this part alone")
    parser.add_argument("--folder", help="where state directories are made; on a local disk")
    parser.add_argument("--report", type=Path, help="write the report there, whatever was measured")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.folder) as folder:
        sections = asyncio.run(measure(arguments.only or list(PARTS), Path(folder)))
        report = in_markdown(sections, Path(folder))
    print(on_terminal(sections))
    target = arguments.report or (None if arguments.only else REPORT)
    if target is not None:
        target.write_text(report, encoding="utf-8")
        tell(f"written to {target}")


if __name__ == "__main__":
    main()
