"""Make the golden state of this release: state directories that every later release must load.

Run once, when a release is made (`scripts/make_golden.py`), and check in what it wrote to
tests/golden/vVERSION. Two real daemons form a pool, in this process, with at least one object of
each class and some history; then they end, and what they leave on disk is the golden state:

    phantom/    of the master: identity, store, replica
    ignite/     of a member: identity, replica
    dump.jsonl  the canonical dump of what all three databases hold
    about.json  which release, and a write that was executed, to be repeated
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from poolclient import PoolClient
from poolcore import API_VERSION, PRODUCT_VERSION, SCHEMA_VERSION
from poolcore.model import CLASSES, Kind, Lock, LockId, Message, MessageId, derived_uuid
from poolcore.replica import Put, State, dump
from poolmaster.ledger import Decision
from poolmember.config import load
from poolmember.daemon import Daemon
from poolmember.inspection import inspect
from poolmember.notify import Notifier
from poolmember.state_dir import IDENTITY_FILE, REPLICA_FILE, STORE_FILE, StateDir

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
PHANTOM, IGNITE, SPECTER = "127.0.0.1:17443", "127.0.0.2:17443", "127.0.0.3:17443"
REPEATED, NONCE = "repeated by later releases", "goldenrequest"
KEPT = {
    "phantom": (IDENTITY_FILE, STORE_FILE, REPLICA_FILE),
    "ignite": (IDENTITY_FILE, REPLICA_FILE),
}
HOSTS = {
    PHANTOM: """
[[network]]
name = "storage-net"
bridge = "xapi1"
mtu = 9000
[[nic]]
device = "eth1"
[[nic]]
device = "eth2"
[[bond]]
device = "bond0"
interfaces = ["eth1", "eth2"]
[[vlan]]
on = "bond0"
tag = 7
network = "storage-net"
[[tunnel]]
device = "vxlan0"
[[sr]]
name = "nfs-disks"
type = "nfs"
shared = true
image = [{ name = "template", size_mib = 1024, read_only = true }]
[[vm]]
name = "web1"
power_state = "running"
disk = [{ sr = "nfs-disks", size_mib = 10 }]
nic = [{ network = "storage-net" }]
[[vm]]
name = "Prüfstand ☃"
power_state = "suspended"
disk = [{ size_mib = 10 }, { type = "cd", empty = true, device = "hdc" }]
[[vm]]
name = "db"
power_state = "paused"
[[vm]]
name = "old"
""",
    IGNITE: "",
    SPECTER: "",
}


class Readiness(Notifier):
    """A service manager that waits until the daemon serves."""

    def __init__(self) -> None:
        super().__init__({})
        self.told = asyncio.Event()

    def ready(self, status: str) -> None:
        """The daemon serves."""
        self.told.set()


@asynccontextmanager
async def running(folder: Path, name: str, endpoint: str) -> AsyncIterator[Daemon]:
    """A daemon in this process, with its state in `folder`."""
    sim = folder.with_suffix(".toml")
    sim.write_text(HOSTS[endpoint])
    stop = asyncio.Event()
    config = load(
        {
            "name": name,
            "listen": endpoint,
            "state_dir": str(folder),
            "driver": f"sim:{sim}",
            "voter": "false",
            "config": os.devnull,
        },
        {},
    )
    with StateDir.open(config.state_dir) as state_dir:
        readiness = Readiness()
        daemon = Daemon(config, state_dir, notifier=readiness)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(daemon.run(stop))
            try:
                await readiness.told.wait()
                yield daemon
            finally:
                stop.set()


async def make_pool(folder: Path) -> None:
    """Form the pool, give it a history, and end it with both hosts in step."""
    # The master ends first: it would note that the others are gone.
    async with (
        running(folder / "ignite", "ignite", IGNITE),
        running(folder / "specter", "specter", SPECTER),
        running(folder / "phantom", "phantom", PHANTOM) as master,
        PoolClient.connect(PHANTOM) as pool,
    ):
        for address in (IGNITE, SPECTER):
            await (await pool.add_host(address))
        await (await pool.eject_host("specter"))
        await write(pool)
        await leave_objects(master)
        await in_step(pool)


async def write(pool: PoolClient) -> None:
    """What administrators do."""
    await pool.set(
        name_label="golden", name_description="Two hosts.\nMade once.", default_sr="nfs-disks"
    )
    await pool.vms.set("web1", add_tags=["web", "prod"], other_config={"owner": "ops", "gone": "x"})
    await pool.vms.set("web1", remove_tags=["web"], other_config={"gone": None})
    # Never the master: at its end the present one would hand the store over.
    await pool.hosts.set("ignite", name_description="the second one", failover_priority=0)
    await pool.networks.set("storage-net", add_tags=["fast"])
    await pool.srs.set("nfs-disks", other_config={"backup": "nightly"})
    for number in range(20):
        await pool.vms.set("old", name_description=f"change {number}")
    await pool.set(name_description=REPEATED, request_id=f"{pool.revision}-{NONCE}")


async def leave_objects(master: Daemon) -> None:
    """A message, which nobody can ask for through the API, and a lock that nobody gives up."""
    mastership = master.mastership
    assert mastership is not None  # noqa: S101 - the pool has answered through it

    def decide(state: State) -> Decision:
        message = Message(
            uuid=MessageId(derived_uuid(state.pool.uuid, Kind.MESSAGE, "golden")),
            name="GOLDEN",
            priority=5,
            cls=Kind.POOL,
            obj_uuid=state.pool.uuid,
            timestamp=datetime(2026, 1, 1, tzinfo=UTC),
            body="Made for releases to come.",
        )
        lock = Lock(
            uuid=LockId(derived_uuid(state.pool.uuid, Kind.LOCK, "golden")),
            name_label="golden",
            holder="releases to come",
            acquired=message.timestamp,
            ttl_seconds=86_400,
            token=state.revision + 1,
        )
        return Decision((Put(message), Put(lock)))

    await mastership.write(decide)


async def in_step(pool: PoolClient) -> None:
    """Until both hosts have everything."""
    async with asyncio.timeout(20.0):
        while True:
            hosts = (await pool.status()).hosts
            if len(hosts) == 2 and all(host.in_step for host in hosts):
                return
            await asyncio.sleep(0.05)


def keep(made: Path, target: Path) -> None:
    """Copy what is golden of the state directories."""
    for name, files in KEPT.items():
        (target / name).mkdir(parents=True)
        for file in files:
            if (made / name / f"{file}-wal").exists():
                sys.exit(f"make_golden: {name}/{file} was not closed cleanly")
            shutil.copyfile(made / name / file, target / name / file)


def describe(made: Path, target: Path) -> None:
    """Write down what the state directories hold, checked to be complete and equal."""
    states = [inspect(made / name).state for name in KEPT]
    state = states[0]
    if state is None or any(other is None or dump(other) != dump(state) for other in states):
        sys.exit("make_golden: the replicas differ")
    if missing := [kind for kind in CLASSES if kind not in state.tables]:
        sys.exit(f"make_golden: the pool has no {', '.join(missing)}")
    (target / "dump.jsonl").write_text(dump(state))
    record = next(r for r in state.requests.by_id.values() if r.id.endswith(f"-{NONCE}"))
    about = {
        "product_version": PRODUCT_VERSION,
        "api_version": API_VERSION,
        "schema_version": SCHEMA_VERSION,
        "repeated": {
            "request_id": record.id,
            "name_description": REPEATED,
            "revision": record.revision,
        },
    }
    (target / "about.json").write_text(json.dumps(about, indent=2) + "\n")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, default=GOLDEN / f"v{PRODUCT_VERSION}")
    target: Path = parser.parse_args().into
    if target.exists():
        sys.exit(f"make_golden: {target} exists; what a release has left is never made anew")
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        asyncio.run(make_pool(Path(folder)))
        keep(Path(folder), target)
        describe(Path(folder), target)
    print(f"{target}: {sum(f.stat().st_size for f in target.rglob('*') if f.is_file())} bytes")


if __name__ == "__main__":
    main()
