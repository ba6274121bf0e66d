"""Hosts that are dead for good, hosts that come back all the same, and what they had."""

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import VM, Host, HostMetrics, Message, PowerState
from poolcore.replica import State
from poolmember.identity import Member
from poolmember.reset import Outcome as ResetOutcome
from poolmember.reset import reset
from poolmember.state_dir import RECOVERY_FOLDER
from support.cli import Outcome, Pool
from support.daemons import SHARED_SRS, Cluster, LocalHost
from support.daemons import Host as AnyHost
from support.forks import fork
from support.strangers import silent
from support.wholeness import identity_of, is_in

GUESTS = """
[[vm]]
name = "web1"
power_state = "running"
disk = [{ size_mib = 10 }]
[[vm]]
name = "old"
disk = [{ size_mib = 10 }]
"""
Ask = Callable[..., Any]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs `pool` against a host while the hosts of the test go on."""

    async def run(host: AnyHost, *arguments: str) -> Outcome:
        return await asyncio.to_thread(Pool(host.endpoint, capsys), *arguments)

    return run


async def pair(cluster: Cluster, *options: str) -> tuple[LocalHost, LocalHost]:
    """A master, and a member that has got guests since it joined."""
    phantom = cluster.local("phantom", sim=SHARED_SRS, options=options)
    ignite = cluster.local("ignite")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
        ignite.describe(GUESTS)
        await api.until(lambda state: len(list(state.all(VM))) == 2)
    return phantom, ignite


def power(state: State, name: str) -> tuple[PowerState, bool]:
    """A VM's power state, and whether it is on a host."""
    vm = next(vm for vm in state.all(VM) if vm.name_label == name)
    return vm.power_state, vm.resident_on is not None


def messages(state: State) -> set[str]:
    return {message.name for message in state.all(Message)}


def code(outcome: Outcome) -> tuple[int, str]:
    return outcome.code, outcome.error["code"]


# -- declared dead ---------------------------------------------------------------------------------


async def test_only_a_host_that_does_not_answer_can_be_given_up(cluster: Cluster, ask: Ask) -> None:
    phantom, ignite = await pair(cluster)
    for command in ("declare-dead", "forget"):
        live = await ask(ignite, "host", command, "ignite", "--yes", "-o", "json")
        assert code(live) == (5, "HOST_IS_LIVE")
        assert "eject-host" in live.error["hint"]
        master = await ask(phantom, "host", command, "phantom", "--yes", "-o", "json")
        assert code(master) == (5, "HOST_IS_MASTER")
        nobody = await ask(phantom, "host", command, "nobody", "--yes", "-o", "json")
        assert code(nobody) == (3, "OBJECT_NOT_FOUND")
    unasked = await ask(phantom, "host", "declare-dead", "ignite")
    assert unasked.code == 2
    async with phantom.api() as api:
        assert power(await api.state(), "web1") == (PowerState.RUNNING, True)


async def test_what_listens_at_the_address_of_a_host_but_says_nothing_is_taken_for_it(
    cluster: Cluster, ask: Ask
) -> None:
    phantom, ignite = await pair(cluster)
    await ignite.stop()
    async with silent(ignite.endpoint):
        told = await ask(phantom, "host", "declare-dead", "ignite", "--yes", "-o", "json")
        assert code(told) == (5, "HOST_IS_LIVE")


async def test_vms_of_a_host_declared_dead_are_halted_until_it_comes_back(
    cluster: Cluster, ask: Ask
) -> None:
    phantom, ignite = await pair(cluster)
    await ignite.stop()
    done = await ask(phantom, "host", "declare-dead", "ignite", "--yes", "-o", "json")
    assert (done.code, done.json["declared_dead"], len(done.json["vms"])) == (0, True, 1)
    async with phantom.api() as api:
        state = await api.state()
        assert power(state, "web1") == (PowerState.HALTED, False)
        assert power(state, "old") == (PowerState.HALTED, True)
        again = await ask(phantom, "host", "declare-dead", "ignite", "--yes")
        assert again.code == 0
        status = (await ask(phantom, "status", "-o", "json")).json
        assert [h["declared_dead"] for h in status["hosts"]] == [True, False]
        assert "HOST_DECLARED_DEAD" in {w["code"] for w in status["warnings"]}
        assert ["ignite", "dead"] in [
            [row[0].strip(), row[2].strip()] for row in (await ask(phantom, "host", "list")).rows
        ]

        await ignite.start()
        state = await api.until(lambda s: power(s, "web1") == (PowerState.RUNNING, True))
        assert {m.declared_dead for m in state.all(HostMetrics)} == {False}
        assert {"HOST_DECLARED_DEAD", "HOST_CAME_BACK"} <= messages(state)


async def test_declaring_a_host_dead_is_done_once_for_a_request_id(
    cluster: Cluster, ask: Ask
) -> None:
    phantom, ignite = await pair(cluster)
    await ignite.stop()
    asked = ("host", "declare-dead", "ignite", "--yes", "--request-id", "1-thesamerequest")
    first = await ask(phantom, *asked, "-o", "json")
    second = await ask(phantom, *asked, "-o", "json")
    assert first.code == 0
    assert first.json == second.json


# -- forgotten -------------------------------------------------------------------------------------


async def test_a_host_that_nobody_vouched_for_is_not_forgotten(cluster: Cluster, ask: Ask) -> None:
    phantom, ignite = await pair(cluster)
    await ignite.stop()
    refused = await ask(phantom, "host", "forget", "ignite", "-o", "json")
    assert code(refused) == (5, "HOST_NOT_DECLARED_DEAD")
    async with phantom.api() as api:
        assert len(list((await api.state()).all(Host))) == 2


@pytest.mark.parametrize("shared", [False, True])
async def test_a_forgotten_host_that_boots_does_nothing_until_it_is_reset(
    cluster: Cluster, ask: Ask, tmp_path: Path, caplog: pytest.LogCaptureFixture, shared: bool
) -> None:
    options = (f"--store=sqlite://{tmp_path / 'pool.db'}",) if shared else ()
    phantom, ignite = await pair(cluster, *options)
    uuid = identity_of(ignite).host
    await ignite.stop()
    done = await ask(phantom, "host", "forget", "ignite", "--yes", "-o", "json")
    assert done.code == 0
    assert done.json["host"] == uuid
    assert "old" in done.err, "it said before what goes"
    async with phantom.api() as api:
        state = await api.state()
        assert [h.name_label for h in state.all(Host)] == ["phantom"]
        assert not list(state.all(VM))
        assert "HOST_FORGOTTEN" in messages(state)

    before = {p.name: p.read_bytes() for p in ignite.state_dir.glob("host.json")}
    await ignite.start()
    await ignite.says("forgotten by pool phantom")
    assert "has forgotten this host" in caplog.text
    status = await ask(ignite, "status", "-o", "json")
    assert [w["code"] for w in status.json["warnings"]] == ["HOST_FORGOTTEN"]
    assert not status.json["fresh"]
    doctor = await ask(ignite, "doctor")
    assert doctor.code == 1
    assert "poolmember reset --keep-vms" in " ".join(doctor.out.split())
    write = await ask(ignite, "vm", "set", "web1", "tags+=x", "-o", "json")
    assert code(write) == (5, "HOST_FORGOTTEN")
    assert before == {p.name: p.read_bytes() for p in ignite.state_dir.glob("host.json")}
    assert isinstance(identity_of(ignite).membership, Member)

    await ignite.stop()
    found = await asyncio.to_thread(reset, ignite.state_dir, keep_vms=True, confirm=lambda _: True)
    assert found is ResetOutcome.DONE
    await ignite.start()
    async with ignite.api() as api:
        alone = await api.until(lambda state: len(list(state.all(VM))) == 2)
        assert alone.pool.name_label == "ignite"
        assert power(alone, "web1") == (PowerState.RUNNING, True)
        ignite.describe("")
        await api.until(lambda state: not list(state.all(VM)))
    if not shared:
        async with phantom.api() as api:
            await api.join(ignite.endpoint)
        assert await is_in(ignite, phantom)


async def test_the_name_and_address_of_a_forgotten_host_are_free(
    cluster: Cluster, ask: Ask
) -> None:
    phantom, ignite = await pair(cluster)
    await ignite.stop()
    assert (await ask(phantom, "host", "declare-dead", "ignite", "--yes")).code == 0
    assert (await ask(phantom, "host", "forget", "ignite", "--yes")).code == 0
    successor = cluster.local("ignite", endpoint=ignite.endpoint)
    await successor.start()
    async with phantom.api() as api:
        await api.join(successor.endpoint)
    assert await is_in(successor, phantom)


async def test_a_host_that_was_ejected_once_is_told_that_it_is_forgotten_now(
    cluster: Cluster, ask: Ask
) -> None:
    phantom, ignite = cluster.local("phantom"), cluster.local("ignite")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
        await api.eject("ignite")
        assert not await is_in(ignite, phantom)
        await api.join(ignite.endpoint)
    await ignite.stop()
    assert (await ask(phantom, "host", "forget", "ignite", "--yes")).code == 0
    await ignite.start()
    await ignite.says("forgotten by pool phantom")


# -- what a host had -------------------------------------------------------------------------------


async def test_what_a_returning_host_had_is_saved_and_can_be_seen_from_any_host(
    cluster: Cluster, ask: Ask
) -> None:
    phantom, ignite = await pair(cluster)
    async with phantom.api() as api:
        shared = await api.quiet()
    assert (await ask(phantom, "vm", "set", "web1", "tags+=lost")).code == 0
    assert (await ask(phantom, "vm", "set", "web1", "name_label=renamed")).code == 0
    async with phantom.api() as api:
        await api.in_step()
    # In this order, so that the store is not handed over.
    await ignite.stop()
    await phantom.stop()
    await fork(phantom, shared)
    await cluster.start()
    async with phantom.api() as api:
        state = await api.until(lambda state: "COMMITS_RECOVERED" in messages(state))
    told = next(m for m in state.all(Message) if m.name == "COMMITS_RECOVERED")
    assert "web1" in {vm.name_label for vm in state.all(VM)}

    (file,) = (ignite.state_dir / RECOVERY_FOLDER).iterdir()
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    for host in (phantom, ignite):
        listed = (await ask(host, "recovery", "list", "-o", "json")).json
        (recovery,) = listed
        assert recovery["host_name"] == "ignite"
        assert recovery["incarnation"] == shared.incarnation.counter
        assert recovery["first_revision"] == shared.revision + 1
        assert recovery["name"] in told.body
        lines = (await ask(host, "recovery", "show", "ignite", "-o", "json")).json
        ours = [line for line in lines if line["object"]["kind"] == "vm"]
        assert [line["object"]["name_label"] for line in ours] == ["web1", "renamed"]
        assert [line["before_from"] for line in ours] == ["log", "log"]
        assert ours[0]["before"]["tags"] == []
        assert ours[0]["after"]["tags"] == ["lost"] == ours[1]["before"]["tags"]
        assert ours[0]["request_id"]
    table = await ask(ignite, "recovery", "show", "ignite", file.stem)
    assert 'name_label: "web1" → "renamed"' in table.out
    assert "ignite" in (await ask(ignite, "recovery", "list")).out
    missing = await ask(phantom, "recovery", "show", "ignite", "9-00000000", "-o", "json")
    assert code(missing) == (3, "RECOVERY_NOT_FOUND")


async def test_an_old_master_saves_what_only_its_store_had_and_its_vms_are_unknown_till_then(
    cluster: Cluster, ask: Ask
) -> None:
    phantom, ignite = cluster.local("phantom"), cluster.local("ignite")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
        phantom.describe(GUESTS)
        await api.until(lambda state: len(list(state.all(VM))) == 2)
        await api.in_step()
    await ignite.stop()
    assert (await ask(phantom, "vm", "set", "web1", "name_description=lost")).code == 0
    await phantom.stop()

    await ignite.start()
    async with ignite.api() as api:
        await api.emergency_transition(accept_loss=True)
        state = await api.until(lambda s: power(s, "web1") == (PowerState.UNKNOWN, True))
        assert power(state, "old") == (PowerState.HALTED, True)
        status = (await ask(ignite, "status", "-o", "json")).json
        assert "VMS_UNKNOWN" in {w["code"] for w in status["warnings"]}
        assert (await ask(ignite, "vm", "list")).out.count("unknown") == 1
        await phantom.start()
        state = await api.until(lambda s: power(s, "web1") == (PowerState.RUNNING, True))
        await api.until(lambda state: "COMMITS_RECOVERED" in messages(state))
    lines = (await ask(ignite, "recovery", "show", "phantom", "-o", "json")).json
    (web,) = [line for line in lines if line["object"]["kind"] == "vm"]
    assert (web["before"]["name_description"], web["after"]["name_description"]) == ("", "lost")


async def test_vms_of_an_old_master_that_is_declared_dead_are_halted(
    cluster: Cluster, ask: Ask
) -> None:
    phantom, ignite = cluster.local("phantom"), cluster.local("ignite")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
        phantom.describe(GUESTS)
        await api.until(lambda state: len(list(state.all(VM))) == 2)
        await api.in_step()
    await ignite.stop()
    await phantom.stop()
    await ignite.start()
    async with ignite.api() as api:
        await api.emergency_transition(accept_loss=True)
        await api.until(lambda s: power(s, "web1") == (PowerState.UNKNOWN, True))
        assert (await ask(ignite, "host", "declare-dead", "phantom", "--yes")).code == 0
        assert power(await api.state(), "web1") == (PowerState.HALTED, False)
        assert (await ask(ignite, "host", "forget", "phantom", "--yes")).code == 0
        assert [h.name_label for h in (await api.state()).all(Host)] == ["ignite"]
    await phantom.start()
    await phantom.says("forgotten by pool phantom")
    async with phantom.api() as api:
        with pytest.raises(PoolError) as refused:
            await api.emergency_transition(accept_loss=True)
    assert refused.value.reason is Reason.HOST_FORGOTTEN
    recovery = phantom.state_dir / RECOVERY_FOLDER
    assert not recovery.exists(), "it is of the pool no more, and keeps its replica as it is"


async def test_a_host_that_has_saved_nothing_has_nothing_to_show(
    cluster: Cluster, ask: Ask
) -> None:
    phantom, ignite = await pair(cluster)
    await ignite.stop()
    listed = await ask(phantom, "recovery", "list", "-o", "json")
    assert (listed.code, listed.json) == (0, [])
    assert "ignite did not say" in listed.err
    offline = await ask(phantom, "recovery", "show", "ignite", "1-aaaaaaaa", "-o", "json")
    assert code(offline) == (5, "HOST_OFFLINE")
