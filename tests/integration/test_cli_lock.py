"""`pool lock`: a command under a lock, as scripts and service managers run it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from poolcli.child import NotStarted, Signals
from poolclient import LockHeld, PoolClient
from support.daemons import Cluster

POOL = str(Path(sys.executable).with_name("pool"))
WAIT_SECONDS = 20.0


@dataclass
class Command:
    """`pool`, running."""

    process: asyncio.subprocess.Process

    async def says(self, words: str) -> None:
        """Until a line of its output is this."""
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT_SECONDS):
            while (line := await self.process.stdout.readline()) != f"{words}\n".encode():
                assert line, "it ended without saying so"

    async def waits(self) -> None:
        """Until it says that it waits."""
        assert self.process.stderr is not None
        async with asyncio.timeout(WAIT_SECONDS):
            line = await self.process.stderr.readline()
        assert line.endswith(b" Waiting.\n"), line

    async def ended(self) -> tuple[int, str, str]:
        """Exit code, the rest of its output, and its notes."""
        async with asyncio.timeout(WAIT_SECONDS):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), err.decode()


class Shell:
    """Runs `pool` against one host; the end of the test ends what still runs."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._started: list[asyncio.subprocess.Process] = []

    async def start(self, *arguments: str) -> Command:
        process = await asyncio.create_subprocess_exec(
            POOL, "--server", self._server, *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        self._started.append(process)
        return Command(process)

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        return await (await self.start(*arguments)).ended()

    async def close(self) -> None:
        for process in self._started:
            # Its whole session: what it ran may have outlived it.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            await process.wait()


@asynccontextmanager
async def a_pool(cluster: Cluster) -> AsyncIterator[tuple[Shell, PoolClient]]:
    phantom = cluster.local("phantom")
    await phantom.start()
    shell = Shell(phantom.endpoint)
    try:
        async with PoolClient.connect(phantom.endpoint) as pool:
            yield shell, pool
    finally:
        await shell.close()


async def test_the_command_has_its_token_and_its_exit_code_is_passed_on(cluster: Cluster) -> None:
    async with a_pool(cluster) as (shell, pool):
        script = "echo $POOL_LOCK_TOKEN; exit 7"
        first = await shell.run("lock", "nightly", "--ttl", "5", "--", "sh", "-c", script)
        later = await shell.run("lock", "--ttl=5", "nightly", "--", "sh", "-c", script)
        assert (first[0], later[0]) == (7, 7)
        await pool.status()
        assert int(first[1]) < int(later[1]) <= pool.revision
        assert (await shell.run("lock", "run", "list", "--", "echo", "-o", "--", "x")) == (
            0, "-o -- x\n", "",
        )  # fmt: skip
        assert not await pool.locks.list()


async def test_a_lock_of_somebody_else_is_exit_code_5_with_who_and_since_when(
    cluster: Cluster,
) -> None:
    async with a_pool(cluster) as (shell, pool), pool.lock("nightly", holder="cron@ignite"):
        code, out, err = await shell.run("lock", "nightly", "--", "echo", "never")
        assert (code, out) == (5, "")
        assert "held by cron@ignite since" in err
        code, out, err = await shell.run("-o", "json", "lock", "nightly", "--wait=0.2", "--", "ls")
        error: dict[str, Any] = json.loads(err[err.index("{") :])["error"]
        assert (code, out, error["code"]) == (5, "", "LOCK_HELD")
        assert error["details"].keys() == {"name", "holder", "since"}
        code, out, err = await shell.run("lock", "list")
        assert (code, len(out.splitlines())) == (0, 2)
        assert "cron@ignite" in out


async def test_who_waits_runs_when_the_lock_is_free(cluster: Cluster) -> None:
    async with a_pool(cluster) as (shell, pool):
        async with pool.lock("nightly"):
            waiting = await shell.start("lock", "nightly", "--wait", "20", "--", "echo", "mine")
            await waiting.waits()
        assert await waiting.ended() == (0, "mine\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_is_the_commands_and_the_lock_is_free_after_it(
    number: signal.Signals, cluster: Cluster
) -> None:
    script = (
        f"import signal, sys, time; signal.signal({number:d}, lambda *_: sys.exit(9));"
        "print('up', flush=True); time.sleep(60)"
    )
    async with a_pool(cluster) as (shell, pool):
        command = await shell.start("lock", "nightly", "--", sys.executable, "-c", script)
        await command.says("up")
        command.process.send_signal(number)
        assert await command.ended() == (9, "", "")
        assert not await pool.locks.list()
        command = await shell.start("lock", "nightly", "--", "sh", "-c", "echo up; exec sleep 60")
        await command.says("up")
        command.process.send_signal(number)
        assert (await command.ended())[0] == 128 + number
        assert not await pool.locks.list()


async def test_whoever_is_told_to_end_while_waiting_ends_at_once(cluster: Cluster) -> None:
    async with a_pool(cluster) as (shell, pool):
        async with pool.lock("nightly"):
            waiting = await shell.start("lock", "nightly", "--wait", "60", "--", "echo", "never")
            await waiting.waits()
            waiting.process.terminate()
            assert await waiting.ended() == (143, "", "")
        assert not await pool.locks.list()


async def test_a_holder_that_is_killed_holds_the_lock_for_its_time_to_live(
    cluster: Cluster,
) -> None:
    async with a_pool(cluster) as (shell, pool):
        holder = await shell.start(
            "lock", "nightly", "--ttl", "5", "--", "sh", "-c", "echo up; exec sleep 60"
        )
        await holder.says("up")
        holder.process.kill()
        with pytest.raises(LockHeld):
            await pool.lock("nightly").acquire()
        assert (await shell.run("lock", "nightly", "--wait=20", "--", "echo", "mine"))[:2] == (
            0, "mine\n",
        )  # fmt: skip


async def test_a_command_whose_lock_is_broken_is_ended_and_the_reason_told(
    cluster: Cluster,
) -> None:
    async with a_pool(cluster) as (shell, _):
        script = "trap 'echo told; exit 0' TERM; echo up; while :; do sleep 0.1; done"
        command = await shell.start("-o", "json", "lock", "n", "--ttl=3", "--", "sh", "-c", script)
        await command.says("up")
        code, _, err = await shell.run("lock", "break", "n")
        assert (code, err.startswith("Lock n is free; it was held by ")) == (0, True)
        code, out, err = await command.ended()
        assert (code, out) == (1, "told\n")
        assert json.loads(err)["error"]["code"] == "LOCK_LOST"
        assert (await shell.run("lock", "break", "n"))[0] == 3


async def test_what_cannot_be_run_is_told_as_shells_do(cluster: Cluster) -> None:
    async with a_pool(cluster) as (shell, pool):
        assert (await shell.run("lock", "nightly", "--", "/no/such/program"))[0] == 127
        assert (await shell.run("lock", "nightly", "--", "/etc/passwd"))[0] == 126
        for wrong in (["nightly"], ["nightly", "--ttl=0", "--", "ls"], ["--bogus", "n"]):
            assert (await shell.run("lock", *wrong))[0] == 2, wrong
        assert not await pool.locks.list()


async def test_a_program_that_does_not_heed_sigterm_is_killed() -> None:
    async def run() -> None:
        script = "trap '' TERM; while :; do sleep 0.1; done"
        async with Signals(grace_seconds=0.3) as signals, asyncio.timeout(0.3):
            await signals.run(["sh", "-c", script], os.environ)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(run(), WAIT_SECONDS)
    with pytest.raises(NotStarted):
        async with Signals() as signals:
            await signals.run(["/no/such/program"], os.environ)
