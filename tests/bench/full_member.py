"""A member in a process of its own: what the daemon of a member runs to follow its master.

    python -m bench.full_member ENDPOINT POOL HOST FOLDER

Its replica is durable, in FOLDER. Speaks as `bench.notes` says.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path

from bench.notes import Notes
from poolcore.clock import SystemClock
from poolcore.model import HostId, PoolId
from poolcore.wire.channels import open_channel
from poolmanager.v1 import chain_pb2
from poolmember.drivers.sim import SimDriver
from poolmember.following import link_over
from poolmember.replica_store import ReplicaStore
from poolmember.session import Follower, Session


@dataclass(slots=True)
class NotingFollower(Follower):
    """Notes when each commit has become durable."""

    notes: Notes = field(kw_only=True)

    async def apply(self, data: list[bytes]) -> int:
        revision = await Follower.apply(self, data)
        self.notes.has_applied(self.host, revision, commits=len(data))
        return revision

    async def replace(self, frames: list[chain_pb2.SnapshotFrame]) -> int:
        revision = await Follower.replace(self, frames)
        self.notes.has_snapshot(self.host, revision)
        return revision


async def follow(endpoint: str, pool: PoolId, host: HostId, folder: Path, notes: Notes) -> None:
    """Until cancelled."""
    driver = SimDriver(None, host_name=host, management_endpoint="192.0.2.1:7443")
    await driver.open(host)
    replica = await ReplicaStore.open(folder / "replica.db", pool=pool, create=True)
    try:
        follower = NotingFollower(host, pool, (), replica, SystemClock(), notes=notes)
        await follower.load()
        async with open_channel(endpoint) as channel:
            session = Session(follower, driver, on_welcome=lambda: None)
            await session.run(link_over(channel, endpoint))
    finally:
        await replica.close()


async def main(endpoint: str, pool: str, host: str, folder: str) -> None:
    notes = Notes([host])
    await notes.tell([follow(endpoint, PoolId(pool), HostId(host), Path(folder), notes)])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
