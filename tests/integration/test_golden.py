"""State that earlier releases wrote is loaded by this one, complete and ready to go on from.

`scripts/make_golden.py` makes a release's state directories; nothing here changes them.
"""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poolcore.model import Host, HostMetrics, MasterRecord, Message, Object, Pool
from poolcore.replica import State, dump
from poolmaster.layout import load
from poolmaster.store.sqlite import SqliteStore
from poolmember.identity import Own
from poolmember.inspection import inspect
from poolmember.state_dir import STORE_FILE, read_identity
from support.api import Api
from support.daemons import POOLMEMBER, Cluster

GOLDEN = Path(__file__).parents[1] / "golden"
RELEASES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())


@pytest.fixture(params=RELEASES)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of what a release has left."""
    path = tmp_path / "golden"
    shutil.copytree(GOLDEN / request.param, path)
    return path


def expected(golden: Path) -> str:
    return (golden / "dump.jsonl").read_text()


def test_this_release_has_a_golden_state() -> None:
    version = json.loads(subprocess.check_output([POOLMEMBER, "version", "-o", "json"]))["version"]
    assert f"v{version}" in RELEASES


@pytest.mark.parametrize("host", ["phantom", "ignite"])
def test_replicas_hold_what_they_held(host: str, golden: Path) -> None:
    command = [POOLMEMBER, "inspect", "--dump", "--state-dir", str(golden / host)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == expected(golden)


async def test_the_store_holds_what_it_held(golden: Path) -> None:
    identity = read_identity(golden / "phantom")
    assert identity is not None
    own = identity.membership
    assert isinstance(own, Own)
    store = await SqliteStore.open(
        golden / "phantom" / STORE_FILE, pool=own.pool, incarnation=own.incarnation, shared=False
    )
    try:
        head, state = await load(store)
    finally:
        await store.close()
    assert dump(state) == expected(golden)
    assert (head.master, head.revision) == (identity.host, state.revision)


def lasting(state: State) -> list[object]:
    """What starting the daemons elsewhere does not change.

    All but addresses, who is heard and the new mastership, of a new incarnation.
    """

    def kept(obj: Object) -> Object:
        if isinstance(obj, Host):
            return replace(obj, addresses=())
        return replace(obj, in_step=None, lineage=()) if isinstance(obj, Pool) else obj

    left_out = HostMetrics | MasterRecord | Message
    return [kept(obj) for obj in state.objects() if not isinstance(obj, left_out)]


async def test_a_master_and_a_member_go_on_from_there(golden: Path, cluster: Cluster) -> None:
    held = inspect(golden / "phantom").state
    assert held is not None
    phantom, ignite = cluster.local("phantom"), cluster.local("ignite")
    for host in (phantom, ignite):
        shutil.copytree(golden / host.name, host.state_dir)
        # The hosts that the state speaks of are not here: that nothing is found must not count.
        host.describe('[faults]\ndriver_error = "there is no such host here"')
    await cluster.start()
    async with ignite.api() as api:
        stale = await api.status()
        assert stale.freshness.stale
        assert stale.freshness.revision == held.revision
    async with phantom.api() as api:
        # The host in step is not where it was, and this one would wait for it.
        await api.emergency_transition(accept_loss=True)
        state = await api.state()
        assert lasting(state) == lasting(held)
        assert set(held.all(MasterRecord)) <= set(state.all(MasterRecord))
        assert state.requests == held.requests
        await repeat_a_write(api, golden)
        written = await api.update_pool(name_label="of a later release")
        assert written.revision > held.revision


async def repeat_a_write(api: Api, golden: Path) -> None:
    """A request that the earlier release executed gets the outcome that it had."""
    repeated: dict[str, Any] = json.loads((golden / "about.json").read_text())["repeated"]
    again = await api.update_pool(
        asked=repeated["request_id"], name_description=repeated["name_description"]
    )
    assert again.revision == repeated["revision"]
