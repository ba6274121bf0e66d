"""What scripts on a host see of its pool: `pool.json`, and the hooks."""

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from poolmember.identity import Own
from support.daemons import WAIT_SECONDS, Cluster, Host
from support.hooks import ran, write_hook
from support.wholeness import identity_of, is_in

ALL_HOOKS = ("became-master", "lost-master", "master-changed", "joined-pool", "left-pool")


def hooks_of(host: Host) -> Path:
    return host.state_dir / "hooks.d"


def with_hooks(host: Host, *names: str) -> None:
    """The host has hooks that record their runs."""
    host.state_dir.mkdir(mode=0o700)
    for name in names or ALL_HOOKS:
        write_hook(hooks_of(host), name)


def pool_json(host: Host) -> dict[str, Any]:
    """What the host's `pool.json` says."""
    plain: dict[str, Any] = json.loads((host.state_dir / "pool.json").read_text())
    return plain


async def until(condition: Callable[[], bool]) -> None:
    """Until something on the disk is so."""
    async with asyncio.timeout(WAIT_SECONDS):
        # A file tells nobody that it has changed.
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def has_run(host: Host, *lines: str) -> None:
    """Until the host's hooks have recorded these runs; more than these are a failure."""
    await until(lambda: len(ran(hooks_of(host))) >= len(lines))
    assert ran(hooks_of(host)) == list(lines)


async def test_a_pool_of_one_has_its_file_and_its_master_is_told_once(cluster: Cluster) -> None:
    phantom = cluster.process("phantom")
    with_hooks(phantom)
    await phantom.start()
    await has_run(phantom, "became-master master phantom phantom")
    told, identity = pool_json(phantom), identity_of(phantom)
    assert isinstance(identity.membership, Own)
    address = {"uuid": identity.host, "name": "phantom", "address": phantom.endpoint}
    assert told == {
        "running": True,
        "pid": phantom.process.pid,
        "host": {"uuid": identity.host, "name": "phantom"},
        "pool": {"uuid": identity.membership.pool, "name": "phantom"},
        "role": "master",
        "master": address,
        "term": 2,
        "incarnation": {"counter": 1, "uuid": identity.membership.incarnation},
        "revision": told["revision"],
        "since": told["since"],
    }
    assert told["revision"] >= 1
    assert told["since"].endswith("Z")
    async with phantom.api() as api:
        await api.update_pool(name_label="renamed")
    await until(lambda: bool(pool_json(phantom)["pool"]["name"] == "renamed"))
    assert pool_json(phantom)["since"] == told["since"], "a new name is no new role"
    assert await phantom.stop() == 0
    ended = pool_json(phantom)
    assert (ended["running"], ended["role"], ended["master"]) == (False, "stopped", None)
    await has_run(phantom, "became-master master phantom phantom", "lost-master stopped renamed ")


async def test_a_host_that_joins_and_leaves_is_told_of_each_once(cluster: Cluster) -> None:
    phantom, ignite = cluster.local("phantom"), cluster.local("ignite")
    with_hooks(phantom)
    with_hooks(ignite)
    await cluster.start()
    began = "became-master master ignite ignite"
    await has_run(ignite, began)
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
        assert await is_in(ignite, phantom)
        joined = "joined-pool member phantom phantom"
        await until(lambda: joined in ran(hooks_of(ignite)))
        lost, *others = ran(hooks_of(ignite))[1:]
        assert lost.startswith("lost-master searching ")
        assert others == [joined]
        told = pool_json(ignite)
        assert (told["role"], told["pool"]["name"]) == ("member", "phantom")
        assert told["master"] == pool_json(phantom)["master"]
        assert told["master"]["address"] == phantom.endpoint
        await api.eject("ignite")
    assert not await is_in(ignite, phantom)
    await has_run(ignite, began, lost, joined, "left-pool master ignite ignite", began)
    assert len(ran(hooks_of(phantom))) == 1, "for the master nothing has changed"


async def test_a_member_whose_master_comes_back_is_told_of_no_change(cluster: Cluster) -> None:
    phantom, ignite = cluster.process("phantom"), cluster.local("ignite")
    with_hooks(ignite, "joined-pool", "master-changed")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
    await has_run(ignite, "joined-pool member phantom phantom")
    await phantom.kill()
    await until(lambda: bool(pool_json(ignite)["role"] == "searching"))
    assert pool_json(ignite)["master"] is None
    await phantom.start()
    await until(lambda: bool(pool_json(ignite)["role"] == "member"))
    assert pool_json(ignite)["term"] == pool_json(phantom)["term"] == 3
    await ignite.stop()
    assert ran(hooks_of(ignite)) == ["joined-pool member phantom phantom"]
    await ignite.start()
    # What has happened while its daemon was down a member does not know.
    again = "master-changed member phantom phantom"
    await has_run(ignite, "joined-pool member phantom phantom", again)


async def test_after_a_kill_the_next_daemon_tells_the_master_again(cluster: Cluster) -> None:
    phantom = cluster.process("phantom")
    with_hooks(phantom)
    await phantom.start()
    began = "became-master master phantom phantom"
    await has_run(phantom, began)
    await phantom.kill()
    assert pool_json(phantom)["running"] is True, "nobody was there to say otherwise"
    await phantom.start()
    await has_run(phantom, began, began)


async def test_a_hook_that_hangs_keeps_neither_writes_nor_the_file_waiting(
    cluster: Cluster,
) -> None:
    phantom = cluster.process("phantom", options=("--hook-seconds=60", "--log-format=json"))
    phantom.state_dir.mkdir(mode=0o700)
    begun = phantom.state_dir / "begun"
    write_hook(hooks_of(phantom), "became-master", f"touch {begun}; echo hello; exec sleep 600")
    await phantom.start()
    await until(begun.exists)
    async with phantom.api() as api:
        await api.update_pool(name_label="renamed")
    await until(lambda: bool(pool_json(phantom)["pool"]["name"] == "renamed"))
    phantom.signal(signal.SIGTERM)
    assert await phantom.ended() == 0
    events = [json.loads(line) for line in phantom.log.splitlines()]
    (warning,) = (event for event in events if event.get("code") == "HOOK_FAILED")
    assert "had not ended when the daemon did" in warning["message"]
    assert "became-master: hello" in [event["message"] for event in events]


async def test_a_change_of_master_is_told_at_every_host(cluster: Cluster, tmp_path: Path) -> None:
    store = f"--store=sqlite://{tmp_path}/shared.db"
    phantom = cluster.process("phantom", options=(store,))
    ignite, specter = cluster.process("ignite"), cluster.process("specter")
    for host in (phantom, ignite, specter):
        with_hooks(host)
    await cluster.start()
    async with phantom.api() as api:
        for host in (ignite, specter):
            await api.join(host.endpoint)
        await api.quiet()
    joined = "joined-pool member phantom phantom"
    await until(lambda: all(joined in ran(hooks_of(host)) for host in (ignite, specter)))
    for host in (phantom, ignite, specter):
        (hooks_of(host) / "ran").unlink()
    await phantom.kill()
    await until(lambda: bool(ran(hooks_of(ignite)) and ran(hooks_of(specter))))
    winner, other = (
        (ignite, specter) if pool_json(ignite)["role"] == "master" else (specter, ignite)
    )
    await has_run(winner, f"became-master master phantom {winner.name}")
    await has_run(other, f"master-changed member phantom {winner.name}")
    # What the killed mastership had set up is undone by the next daemon of that host.
    await phantom.start()
    changed = f"master-changed member phantom {winner.name}"
    await has_run(phantom, "lost-master searching phantom ", changed)
