"""The emergency commands of `pool`, against real daemons that are killed."""

import asyncio
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from integration.test_designate import master_of, trio
from integration.test_two_hosts import pair
from poolclient import BlockingEmergencyHost, EmergencyHost, NoHostAnswers, OutcomeUnknown
from poolcore.errors import PoolError
from support.cli import Outcome, Pool
from support.daemons import Cluster, Host

POOL = str(Path(sys.executable).with_name("pool"))
TRANSITION = "emergency-transition-to-master"
Ask = Callable[..., Any]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs `pool` against a host, or several, while the hosts of the test go on."""

    async def run(hosts: Host | str, *arguments: str) -> Outcome:
        server = hosts if isinstance(hosts, str) else hosts.endpoint
        return await asyncio.to_thread(Pool(server, capsys), *arguments)

    return run


def socket(host: Host) -> str:
    return f"unix://{host.state_dir / 'api.sock'}"


def the_command_of_the_readme() -> list[str]:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith(f"$ pool {TRANSITION}"))
    return shlex.split(line)[2:]


def code(outcome: Outcome) -> tuple[int, str]:
    return outcome.code, outcome.error["code"]


# -- becoming the master --------------------------------------------------------------------------


async def test_one_command_goes_on_without_a_dead_master_and_loses_nothing(
    cluster: Cluster, ask: Ask
) -> None:
    async with pair(cluster) as (_, (phantom, ignite)):
        assert (await ask(phantom, "set", "tags+=precious")).code == 0
        await phantom.kill()

        # Nothing else is alive, and nothing but this host's own socket is needed.
        asked = await ask(socket(ignite), TRANSITION)
        assert asked.code == 2
        assert asked.err.startswith(f"Asking ignite at {ignite.endpoint}, of pool phantom.")
        assert "pool: `emergency-transition-to-master` has consequences" in asked.err
        assert f"`pool --server {socket(ignite)} {TRANSITION} --yes`" in " ".join(asked.err.split())
        table = {row[0]: [cell.strip() for cell in row[1:]] for row in asked.rows if row}
        assert table["ignite"][0] == "this host"
        assert table["phantom"] == ["no", phantom.endpoint]
        assert "MUST BE SWITCHED OFF: phantom." in asked.out
        assert "nothing that was acknowledged is missing" in " ".join(asked.out.split())

        done = await ask(ignite, *the_command_of_the_readme())
        assert done.code == 0
        assert "ignite is the master of pool phantom: incarnation 3, term " in done.err
        assert f"`pool --server {ignite.endpoint} host declare-dead phantom`" in " ".join(
            done.err.split()
        )
        assert (await ask(ignite, "show", "-o", "json")).json["tags"] == ["precious"]
        again = await ask(ignite, TRANSITION, "--yes", "-o", "json")
        assert code(again) == (5, "ALREADY_MASTER")
        assert "recover-members" in again.error["hint"]

        lost = await ask(ignite, "recover-members", "-o", "json")
        assert (lost.code, [m["name"] for m in lost.json]) == (1, ["phantom"])
        assert (lost.json[0]["follows"], bool(lost.json[0]["problem"])) == (False, True)

        await phantom.start()
        async with phantom.api() as api:
            await api.in_step()
        found = await ask(ignite, "recover-members")
        assert found.code == 0
        assert [c.strip() for c in found.rows[1]] == ["phantom", "yes"]
        assert (await ask(ignite, "designate-master", "phantom")).code == 0


async def test_the_outlook_and_what_was_done_as_scripts_get_them(
    cluster: Cluster, ask: Ask
) -> None:
    async with pair(cluster) as (_, (phantom, ignite)):
        await phantom.kill()
        before = await ask(ignite, TRANSITION, "-o", "json")
        assert code(before) == (2, "CONFIRMATION_MISSING")
        assert before.err.startswith("{")
        assert before.json["done"] is False
        assert before.json["head"] is None
        assert before.json["host"]["name"] == "ignite"
        outlook = before.json["outlook"]
        assert (outlook["in_step"], outlook["may_lack"], outlook["to_be_off"]) == (
            "ignite", False, ["phantom"],
        )  # fmt: skip
        assert [(p["name"], p["answers"], p["revision"]) for p in outlook["peers"]] == [
            ("phantom", False, None)
        ]
        after = (await ask(ignite, TRANSITION, "--yes", "-o", "json")).json
        assert after["done"] is True
        assert after["head"]["incarnation"] > outlook["incarnation"]
        assert after["head"]["revision"] > outlook["revision"]


async def test_a_host_that_waits_for_its_partner_needs_consent_to_go_on(
    cluster: Cluster, ask: Ask
) -> None:
    async with pair(cluster) as (_, (phantom, ignite)):
        ignite.signal(signal.SIGSTOP)
        await phantom.kill()
        await ignite.kill()
        await phantom.start()
        await phantom.says("waiting for ignite")
        status = await ask(phantom, "status", "-o", "json")
        (warning,) = status.json["warnings"]
        assert warning["code"] == "NO_MASTER"
        assert "ignite does not answer; it may have been made master" in warning["message"]
        assert f"pool --server {phantom.endpoint} {TRANSITION}" in warning["remedy"]
        doctor = await ask(phantom, "doctor", "-o", "json")
        assert doctor.code == 1
        (found,) = [d for d in doctor.json if d["check"] == "master"]
        assert (found["state"], found["remedy"]) == ("problem", warning["remedy"])

        asked = await ask(phantom, TRANSITION)
        assert asked.code == 2
        assert "CHANGES MAY BE LOST: ignite" in asked.out
        assert f"{TRANSITION} --yes --accept-loss`" in " ".join(asked.err.split())
        refused = await ask(phantom, TRANSITION, "--yes", "-o", "json")
        assert code(refused) == (5, "LOSS_NOT_ACCEPTED")
        assert "--accept-loss" in refused.error["hint"]
        assert (await ask(phantom, TRANSITION, "--yes", "--accept-loss")).code == 0
        assert (await ask(phantom, "set", "tags+=alone")).code == 0


async def test_no_emergency_while_there_is_a_master(cluster: Cluster, ask: Ask) -> None:
    async with pair(cluster) as (_, (phantom, ignite)):
        for yes in ((), ("--yes",)):
            at_master = await ask(phantom, TRANSITION, *yes, "-o", "json")
            assert code(at_master) == (5, "ALREADY_MASTER")
            at_member = await ask(ignite, TRANSITION, *yes, "-o", "json")
            assert code(at_member) == (5, "MASTER_LIVES")
            assert "designate-master" in at_member.error["hint"]
        at_member = await ask(ignite, "recover-members", "-o", "json")
        assert code(at_member) == (5, "NOT_THE_MASTER")
        at_master = await ask(phantom, "emergency-reset-master", ignite.endpoint, "-o", "json")
        assert code(at_master) == (5, "HOST_IS_MASTER")
        to_member = await ask(ignite, "emergency-reset-master", ignite.endpoint, "-o", "json")
        assert code(to_member) == (5, "NOT_THE_MASTER")
        nobody = await ask(ignite, "emergency-reset-master", "127.0.0.1:1", "-o", "json")
        assert code(nobody) == (1, "HOST_UNREACHABLE")
        nowhere = await ask(ignite, "emergency-reset-master", "unix:///x", "-o", "json")
        assert code(nowhere) == (2, "USAGE")
        told = await ask(ignite, "emergency-reset-master", phantom.endpoint, "-o", "json")
        assert (told.code, told.json["host"]["name"]) == (0, "ignite")
        assert told.json["master"]["address"] == phantom.endpoint


async def test_no_emergency_where_the_hosts_can_elect_a_master(
    cluster: Cluster, tmp_path: Path, ask: Ask
) -> None:
    async with trio(cluster, tmp_path) as (_, hosts):
        refused = await ask(hosts[1], TRANSITION, "--yes", "-o", "json")
        assert refused.error["code"] in {"MASTER_LIVES", "QUORUM_LIVES"}
        assert "designate-master" in refused.error["hint"]


@pytest.mark.parametrize("command", [(TRANSITION, "--yes"), ("recover-members",)])
async def test_several_hosts_are_refused_and_one_is_to_be_named(
    ask: Ask, command: tuple[str, ...]
) -> None:
    for output in ("json", "table"):
        outcome = await ask("127.0.0.1:1,127.0.0.2:1", *command, "-o", output)
        assert outcome.code == 2
        assert "127.0.0.1:1, 127.0.0.2:1" in outcome.err
        assert f"pool --server 127.0.0.1:1 {command[0]}" in " ".join(outcome.err.split())
    silent = await ask("127.0.0.1:1", *command, "-o", "json")
    assert code(silent) == (6, "NO_HOST_ANSWERS")


async def test_the_hosts_of_a_context_are_several_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    pool = Pool("", capsys)
    added = await asyncio.to_thread(pool, "context", "add", "lab", "127.0.0.1:1", "127.0.0.2:1")
    assert added.code == 0
    assert (await asyncio.to_thread(pool, "context", "use", "lab")).code == 0
    refused = await asyncio.to_thread(pool, TRANSITION, "-o", "json")
    assert code(refused) == (2, "USAGE")
    assert "context 'lab' names 2: 127.0.0.1:1, 127.0.0.2:1" in refused.error["message"]
    monkeypatch.setenv("POOL_SERVER", "127.0.0.3:1,127.0.0.4:1")
    refused = await asyncio.to_thread(pool, TRANSITION, "-o", "json")
    assert "127.0.0.3:1, 127.0.0.4:1" in refused.error["message"]


# -- a person at a terminal, and the other hosts ---------------------------------------------------


def typing(answer: str, *arguments: str) -> tuple[int, str]:
    """Run `pool` on a terminal and answer its question; exit code, and what was shown."""
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [POOL, *arguments], stdin=terminal, stdout=terminal, stderr=terminal,
        env=os.environ | {"TERM": "dumb", "COLUMNS": "80"}, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    shown, told = b"", False
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if select.select([main], [], [], 0.1)[0]:
            try:
                shown += os.read(main, 65536)
            except OSError:  # the other side is closed
                break
        if b"to go on: " in shown and not told:
            told = True
            os.write(main, f"{answer}\n".encode())
    os.close(main)
    return process.wait(10), shown.decode()


async def test_on_a_terminal_the_name_of_the_host_confirms(cluster: Cluster, ask: Ask) -> None:
    async with pair(cluster) as (_, (phantom, ignite)):
        await phantom.kill()
        command = ("--server", ignite.endpoint, TRANSITION)
        refused, shown = await asyncio.to_thread(typing, "yes", *command)
        assert (refused, "Nothing was changed." in shown) == (1, True)
        done, shown = await asyncio.to_thread(typing, "ignite", *command)
        assert (done, "ignite is the master of pool phantom" in shown) == (0, True)
        assert (await ask(ignite, "set", "tags+=after")).code == 0


async def test_the_other_hosts_follow_the_new_master(cluster: Cluster, ask: Ask) -> None:
    phantom, ignite, specter = (cluster.process(n) for n in ("phantom", "ignite", "specter"))
    await cluster.start()
    async with phantom.api() as api:
        for joining in (ignite, specter):
            await api.join(joining.endpoint)
        await api.in_step()
        in_step = (await api.until(lambda state: state.pool.in_step is not None)).pool.in_step
        names = {h.uuid: h.name for h in (await api.status()).hosts}
    await phantom.kill()
    heir, other = (ignite, specter) if names[str(in_step)] == "ignite" else (specter, ignite)
    shown = await ask(heir, TRANSITION, "--yes")
    assert shown.code == 0
    assert "The other hosts follow by themselves" in " ".join(shown.err.split())
    found = await ask(heir, "recover-members", "-o", "json")
    assert {m["name"]: m["follows"] for m in found.json} == {"phantom": False, other.name: True}
    status = (await ask(other, "status", "-o", "json")).json
    assert (status["fresh"], status["master"]["name"]) == (True, heir.name)


# -- designating without a master -----------------------------------------------------------------


async def test_designating_where_nobody_can_be_elected_names_the_emergency_command(
    cluster: Cluster, ask: Ask
) -> None:
    async with pair(cluster) as (_, (phantom, ignite)):
        await phantom.kill()
        refused = await ask(ignite, "designate-master", "ignite", "-o", "json")
        assert code(refused) == (6, "NO_MASTER")
        assert f"`pool --server {ignite.endpoint} {TRANSITION}`" in refused.error["hint"]
        lost = await ask(ignite, "designate-master", "phantom", "-o", "json")
        assert code(lost) == (6, "NO_MASTER")
        assert "start its daemon" in lost.error["hint"]
        unknown = await ask(ignite, "designate-master", "nobody", "-o", "json")
        assert code(unknown) == (3, "OBJECT_NOT_FOUND")
        assert "has no master to ask" in unknown.error["hint"]
        assert TRANSITION in unknown.error["hint"]


async def test_designating_with_a_dead_master_elects_that_host(
    cluster: Cluster, tmp_path: Path, ask: Ask
) -> None:
    async with trio(cluster, tmp_path) as (pool, (phantom, ignite, specter)):
        await phantom.kill()
        for host in (specter, ignite):
            done = await ask(ignite, "designate-master", host.name)
            assert (done.code, done.err.splitlines()[-1]) == (0, f"{host.name} is the master.")
            assert await master_of(pool) == host.name


async def test_a_host_that_is_never_elected_is_told_to_be_so(
    cluster: Cluster, tmp_path: Path, ask: Ask
) -> None:
    option = f"--store=sqlite://{tmp_path / 'pool.db'}"
    phantom, ignite = cluster.process("phantom", options=[option]), cluster.process("ignite")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
        assert (await ask(phantom, "host", "set", "ignite", "failover_priority=0")).code == 0
        # It is in the store; ignite, which is asked below, has to have heard of it.
        await api.in_step()
    await phantom.kill()
    refused = await ask(ignite, "designate-master", "ignite", "-o", "json")
    assert code(refused) == (6, "NO_MASTER")
    assert "never elected: its failover_priority is 0" in refused.error["hint"]


async def test_who_cannot_be_master_is_refused_with_code_reason_and_remedy(
    cluster: Cluster, tmp_path: Path, ask: Ask
) -> None:
    async with trio(cluster, tmp_path) as (_, (phantom, ignite, _)):
        unknown = await ask(phantom, "designate-master", "nobody", "-o", "json")
        assert code(unknown) == (3, "OBJECT_NOT_FOUND")
        assert "pool host list" in unknown.error["hint"]
        await ask(phantom, "host", "set", "specter", "failover_priority=0")
        never = await ask(phantom, "designate-master", "specter", "-o", "json")
        assert code(never) == (5, "HOST_NOT_ELIGIBLE")
        assert "pool status" in never.error["hint"]
        ignite.signal(signal.SIGSTOP)
        await ask(phantom, "set", "tags+=missed")
        lagging = await ask(phantom, "designate-master", "ignite", "-o", "json")
        assert code(lagging) == (1, "HANDOVER_FAILED")
        assert "too far behind" in lagging.error["message"]
        assert "try again" in lagging.error["hint"]
        await ignite.kill()
        dead = await ask(phantom, "designate-master", "ignite", "-o", "json")
        assert code(dead) == (5, "HOST_OFFLINE")
        assert "Start poolmember" in dead.error["hint"]
        assert (await ask(phantom, "status", "-o", "json")).json["master"]["name"] == "phantom"


# -- the library ----------------------------------------------------------------------------------


async def test_the_library_speaks_to_one_host_with_and_without_await(cluster: Cluster) -> None:
    async with pair(cluster) as (_, (phantom, ignite)):
        await phantom.kill()

        def blocking() -> tuple[str, bool]:
            with BlockingEmergencyHost.connect(ignite.endpoint) as host:
                return host.host.name, host.outlook().may_lack

        assert await asyncio.to_thread(blocking) == ("ignite", False)
        async with EmergencyHost.connect(ignite.endpoint) as host:
            done = await host.become_master()
            assert done.head.incarnation.counter > done.outlook.incarnation.counter
            assert done.head.master == host.host.uuid
            with pytest.raises(PoolError, match="already"):
                await host.become_master()
            assert [m.follows for m in await host.recover_members()] == [False]
            await ignite.kill()
            with pytest.raises(OutcomeUnknown):
                await host.become_master()
        with pytest.raises(NoHostAnswers):
            await EmergencyHost.connect(phantom.endpoint).__aenter__()
