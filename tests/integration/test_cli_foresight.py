"""Before and after a change of master: `status --if-lost`, `diff` and `master history`."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.cli import Outcome, Pool
from support.daemons import SHARED_SRS, Cluster, Host, LocalHost
from support.wholeness import same_replicas

KEYS = {
    "lost", "master", "next_master", "writes", "survives", "vms", "srs", "vdis", "networks",
    "warnings", "fresh",
}  # fmt: skip
WITH_A_VM = """
[[vm]]
name = "web1"
power_state = "running"
disk = [{ size_mib = 10 }]
"""

Ask = Callable[..., Any]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs `pool` against a host while the hosts of the test go on."""

    async def run(host: Host, *arguments: str) -> Outcome:
        return await asyncio.to_thread(Pool(host.endpoint, capsys), *arguments)

    return run


async def pair(cluster: Cluster, *options: str) -> tuple[LocalHost, LocalHost]:
    """A master with a VM on a disk of its own, and a member that is in step."""
    phantom = cluster.local("phantom", sim=SHARED_SRS + WITH_A_VM, options=options)
    ignite = cluster.local("ignite")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
    await same_replicas(phantom, ignite)
    return phantom, ignite


def sharing(folder: Path) -> str:
    return f"--store=sqlite://{folder / 'pool.db'}"


def codes(found: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in found["warnings"]]


# -- status --if-lost -----------------------------------------------------------------------------


async def test_what_the_loss_of_the_master_of_a_shared_store_comes_to(
    cluster: Cluster, tmp_path: Path, ask: Ask
) -> None:
    hosts = await pair(cluster, sharing(tmp_path))
    for host in hosts:  # the same at every host
        found = (await ask(host, "status", "--if-lost", "phantom", "-o", "json")).json
        assert set(found) == KEYS
        assert found["master"]["name_label"] == "phantom"
        assert found["next_master"]["name_label"] == "ignite"
        assert (found["writes"], found["survives"], found["fresh"]) == (True, 0, True)
        assert [(vm["name_label"], vm["power_state"]) for vm in found["vms"]] == [
            ("web1", "running")
        ]
        assert "Local storage" in [sr["name_label"] for sr in found["srs"]]
        assert len(found["vdis"]) == 1
        assert "MASTER_CHANGES" in codes(found)

    text = await ask(hosts[1], "status", "--if-lost", "phantom")
    assert text.code == 0
    assert "Master then  ignite, by itself" in text.out
    assert "Writing      goes on by itself; no further host may be lost then" in text.out
    assert ["web1", "running", "phantom"] in [[c.strip() for c in row[:3]] for row in text.rows]
    assert "`pool designate-master ignite`" in text.out
    assert (await ask(hosts[0], "status", "--if-lost", "phantom", "-o", "name")).out == "ignite\n"


async def test_a_pool_with_its_store_at_the_master_is_told_to_need_a_person(
    cluster: Cluster, ask: Ask
) -> None:
    phantom, ignite = await pair(cluster)
    async with phantom.api() as api:
        await api.in_step()
    found = (await ask(phantom, "status", "--if-lost", "phantom", "-o", "json")).json
    assert (found["writes"], found["next_master"]["name_label"]) == (False, "ignite")
    (warning,) = (w for w in found["warnings"] if w["code"] == "FAILOVER_NEEDS_A_PERSON")
    command = f"pool --server {ignite.endpoint} emergency-transition-to-master --yes"
    assert f"`{command}`" in warning["remedy"]
    assert "ignite has it too" in warning["message"]
    status = await ask(phantom, "status")
    assert "Durable  every acknowledged change is on phantom and ignite" in status.out
    assert command in " ".join(status.out.split())
    text = (await ask(phantom, "status", "--if-lost", "phantom")).out
    assert "Master then  ignite, if a person makes it so" in text
    assert "Writing      ends until a person acts" in text

    member = (await ask(phantom, "status", "--if-lost", "ignite", "-o", "json")).json
    assert (member["writes"], member["next_master"]) == (True, member["master"])
    both = (await ask(phantom, "status", "--if-lost", "phantom, ignite", "-o", "json")).json
    assert (both["next_master"], len(both["lost"])) == (None, 2)
    assert "NO_HOST_LEFT" in codes(both)


async def test_a_priority_of_0_keeps_a_host_from_being_master(
    cluster: Cluster, tmp_path: Path, ask: Ask
) -> None:
    phantom, ignite = await pair(cluster, sharing(tmp_path))
    done = await ask(ignite, "host", "set", "ignite", "failover_priority=0", "tags+=x")
    assert done.code == 0
    shown = (await ask(phantom, "host", "show", "ignite", "-o", "json")).json
    assert (shown["failover_priority"], shown["tags"]) == (0, ["x"])
    found = (await ask(phantom, "status", "--if-lost", "phantom", "-o", "json")).json
    assert (found["next_master"], found["writes"]) == (None, False)
    assert "NO_CANDIDATE" in codes(found)

    for refused in ("1001", "5000000000", "-1", "many"):
        outcome = await ask(phantom, "host", "set", "ignite", f"failover_priority={refused}")
        assert outcome.code == 2, refused
    assert (await ask(phantom, "host", "set", "ignite", "failover_priority=1000")).code == 0
    assert (await ask(phantom, "vm", "set", "web1", "failover_priority=1")).code == 2


async def test_hosts_that_are_none_are_refused(cluster: Cluster, ask: Ask) -> None:
    phantom = cluster.local("phantom")
    await cluster.start()
    assert (await ask(phantom, "status", "--if-lost", "specter")).code == 3
    assert (await ask(phantom, "status", "--if-lost", " ,")).code == 2
    assert (await ask(phantom, "status", "--if-lost", "phantom", "-o", "script")).code == 2


# -- without a master -----------------------------------------------------------------------------


async def test_a_host_without_a_master_answers_from_its_replica_and_says_so(
    cluster: Cluster, ask: Ask
) -> None:
    phantom, ignite = cluster.process("phantom"), cluster.local("ignite")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
        await api.update_pool(add_tags=["precious"])
        since = (await api.status()).head.revision - 1
    await same_replicas(phantom, ignite)
    # At once, so that the first question may meet a master that is going down.
    await phantom.kill()
    difference = await ask(ignite, "diff", f"{since}..", "-o", "json")
    assert (difference.code, difference.json["fresh"]) == (0, False)
    assert [o["kind"] for o in difference.json["objects"]] == ["pool"]
    assert "Note: this answer is stale" in difference.err

    outlook = await ask(ignite, "status", "--if-lost", "phantom", "-o", "json")
    assert (outlook.json["fresh"], outlook.json["master"]["name_label"]) == (False, "phantom")
    assert outlook.json["next_master"]["name_label"] == "ignite"
    history = await ask(ignite, "master", "history", "-o", "json")
    assert [reign["why"] for reign in history.json] == ["restarted", "founded"]
    assert "stale" in history.err

    for command in (
        ("diff", f"{since}"),
        ("status", "--if-lost", "phantom"),
        ("master", "history"),
    ):
        assert (await ask(ignite, *command, "--require-fresh")).code == 6


# -- diff -----------------------------------------------------------------------------------------


async def test_a_diff_tells_what_was_changed_created_and_removed_and_by_whom(
    cluster: Cluster, ask: Ask
) -> None:
    phantom = cluster.local("phantom", sim=WITH_A_VM)
    await cluster.start()
    async with phantom.api() as api:
        since = (await api.quiet()).revision
    mine = f"{since}-minemine"
    await ask(phantom, "vm", "set", "web1", "name_description=first", "other_config.owner=ops")
    await ask(phantom, "vm", "set", "web1", "name_description=second", "--request-id", mine)
    middle = (await ask(phantom, "status", "-o", "json")).json["pool"]["revision"]
    await ask(phantom, "set", "name_label=renamed")

    found = (await ask(phantom, "diff", f"{since}..{middle}", "-o", "json")).json
    assert set(found) == {"since", "until", "incarnation_uuid", "fresh", "objects"}
    assert (found["since"], found["until"]) == (since, middle)
    (vm,) = found["objects"]
    assert set(vm) == {
        "kind", "uuid", "name_label", "outcome", "before_kept", "before", "after", "fields",
        "commits",
    }  # fmt: skip
    assert (vm["kind"], vm["name_label"], vm["outcome"]) == ("vm", "web1", "changed")
    assert vm["fields"] == [
        {"field": "name_description", "before": "", "after": "second"},
        {"field": "other_config.owner", "before": None, "after": "ops"},
    ]
    assert [c["revision"] for c in vm["commits"]] == [since + 1, middle]
    assert vm["commits"][1]["request_id"] == mine

    for form in (f"{since}", f"{since}.."):
        text = await ask(phantom, "diff", form)
        assert text.code == 0
        assert "vm  web1  " in text.out
        assert f"    revision {middle}, term 2, request {mine}" in text.out
        assert '    name_description: "" → "second"' in text.out
        assert '    other_config.owner: none → "ops"' in text.out
        assert '    name_label: "phantom" → "renamed"' in text.out
    assert (await ask(phantom, "diff", f"{since}", "-o", "name")).out == "pool/renamed\nvm/web1\n"

    everything = (await ask(phantom, "diff", "0", "-o", "json")).json["objects"]
    assert {o["outcome"] for o in everything} == {"created"}
    same = await ask(phantom, "diff", f"{middle}..{middle}")
    assert (same.code, same.out) == (0, "")
    assert "Nothing differs" in same.err


async def test_a_diff_of_what_is_no_longer_kept_says_from_where_on_it_is(
    cluster: Cluster, ask: Ask
) -> None:
    phantom = cluster.local("phantom", sim=WITH_A_VM, options=["--history-revisions=10"])
    await cluster.start()
    for number in range(12):
        await ask(phantom, "set", f"name_description={number}")
    newest = (await ask(phantom, "status", "-o", "json")).json["pool"]["revision"]
    gone = await ask(phantom, "diff", "1..", "-o", "json")
    assert (gone.code, gone.error["code"]) == (1, "HISTORY_GONE")
    oldest = int(gone.error["details"]["oldest"])
    assert oldest == newest - 10
    assert (await ask(phantom, "diff", f"{oldest}..")).code == 0

    await ask(phantom, "vm", "set", "web1", "name_description=x")
    found = await ask(phantom, "diff", f"{newest}..", "-o", "json")
    (vm,) = found.json["objects"]
    assert (vm["before_kept"], vm["before"], vm["fields"]) == (False, None, [])
    assert "    before: not kept" in (await ask(phantom, "diff", f"{newest}..")).out


async def test_a_range_that_is_none_is_refused(cluster: Cluster, ask: Ask) -> None:
    phantom = cluster.local("phantom")
    await cluster.start()
    for text in ("x", "..", "..3", "1..x", "-1", "2..1", "1..999999", "999999", "9" * 30):
        assert (await ask(phantom, "diff", "--", text)).code == 2, text


# -- master history -------------------------------------------------------------------------------


async def test_each_mastership_is_told_with_its_host_its_time_and_why(
    cluster: Cluster, ask: Ask
) -> None:
    phantom = cluster.local("phantom")
    await cluster.start()
    await phantom.stop()
    await phantom.start()
    # Whatever a mastership commits comes after its record.
    await ask(phantom, "set", "name_description=x")
    history = (await ask(phantom, "master", "history", "-o", "json")).json
    assert [(r["term"], r["why"]) for r in history] == [
        (3, "restarted"),
        (2, "restarted"),
        (1, "founded"),
    ]
    assert set(history[0]) == {
        "incarnation", "term", "host", "host_name", "from", "until", "why",
    }  # fmt: skip
    assert {r["host_name"] for r in history} == {"phantom"}
    assert history[0]["until"] is None
    assert [r["until"] for r in history[1:]] == [r["from"] for r in history[:-1]]

    assert len((await ask(phantom, "master", "history", "-n", "2", "-o", "json")).json) == 2
    text = await ask(phantom, "master", "history", "-n", "1")
    assert [row[0].strip() for row in text.rows] == ["TERM", "3"]
    assert "restarted" in text.out
    assert (await ask(phantom, "master", "history", "-n", "0")).code == 2
    assert (await ask(phantom, "master", "histroy")).code == 2


async def test_a_host_that_was_ejected_begins_a_history_of_its_own(
    cluster: Cluster, ask: Ask
) -> None:
    phantom, ignite = await pair(cluster)
    async with phantom.api() as api:
        await api.eject("ignite")
    async with ignite.api() as api:
        await api.until(lambda state: len(list(state.tables)) > 0)
    history = (await ask(ignite, "master", "history", "-o", "json")).json
    assert history[-1]["why"] == "founded"
    assert {r["host_name"] for r in history} == {"ignite"}
