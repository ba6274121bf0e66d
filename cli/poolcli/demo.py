"""A pool of three simulated hosts on this machine, and a walk through it."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from poolcli.demo_hosts import ENDING, READY_SECONDS, Hosts, end_recorded
from poolcli.failures import UsageError, report
from poolcli.output import Format, bold, note, write

Run = Callable[[list[str]], int]


def add_to(app: typer.Typer, run: Run) -> None:
    """Declare the command; `run` runs command lines of `pool`."""

    @app.command("demo")
    def demo(
        keep: Annotated[
            bool, typer.Option("--keep", help="Leave the pool up to play with.")
        ] = False,
        stop: Annotated[bool, typer.Option("--stop", help="End what --keep left up.")] = False,
    ) -> None:
        """Show a pool: three simulated hosts on this machine, joined before your eyes.

        Then the mastership is handed over, and a master that is killed is replaced.
        """
        if stop:
            note("The demo's hosts are ended." if end_recorded() else "No demo is running.")
            return
        for number in ENDING:
            signal.signal(number, _interrupt)
        try:
            end_recorded()
            with Hosts() as hosts:
                _tour(hosts, run)
                hosts.keep = keep
            _goodbye(hosts)
        except KeyboardInterrupt:
            note("Interrupted; the demo's hosts are ended.")
            raise typer.Exit(130) from None
        except UsageError as error:
            report("DEMO_FAILED", error.message, error.hint, {}, Format.TABLE)
            raise typer.Exit(1) from None


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


class _Tour:
    """Prints what happens and runs the commands that make it happen."""

    def __init__(self, hosts: Hosts, run: Run) -> None:
        self._hosts = hosts
        self._run = run
        self._number = 0

    def chapter(self, title: str, *sentences: str) -> None:
        self._number += 1
        write(f"\n{bold(f'{self._number}. {title}')}\n")
        for sentence in sentences:
            write(sentence)

    def command(self, line: str, *, at: str = "phantom", expected: int = 0) -> None:
        """Run a command line of `pool` as a person would, against the host `at`."""
        server = self._hosts.addresses[at]
        write("\n" + bold(f"$ pool --server {server} {line}"))
        code = self._run(["--server", server, *shlex.split(line)])
        if code == 130:
            raise KeyboardInterrupt
        if code != expected:
            raise UsageError(f"This was expected to exit with {expected}, not with {code}.")
        if code:
            write(f"(exit code {code})")

    def start(self, *names: str) -> None:
        for name in names:
            self._hosts.start(name)
        asyncio.run(self._ready(names))

    async def _ready(self, names: tuple[str, ...]) -> None:
        from poolclient import PoolClient, PoolClientError

        deadline = time.monotonic() + READY_SECONDS
        for name in names:
            while True:
                self._hosts.check(name)
                try:
                    async with PoolClient.connect(
                        self._hosts.addresses[name], timeout_seconds=1, require_fresh=True
                    ) as pool:
                        await pool.pool()
                    break
                except PoolClientError as error:
                    if time.monotonic() > deadline:
                        raise UsageError(f"{name} does not answer: {error.message}") from None
                    await asyncio.sleep(0.05)

    def revision(self) -> int:
        """The newest revision of phantom's pool."""
        from poolclient import BlockingPoolClient

        with BlockingPoolClient.connect(self._hosts.addresses["phantom"]) as pool:
            return pool.status().freshness.revision


def _tour(hosts: Hosts, run: Run) -> None:
    tour = _Tour(hosts, run)
    here = hosts.addresses
    write("Four hosts start on this machine, each a `poolmember` daemon with a simulated")
    write("hypervisor:\n")
    for name, address in here.items():
        write(f"  {name:<8}  {address}")
    tour.start(*here)

    tour.chapter(
        "Every host is a pool of one and its own master",
        "phantom has three local storage repositories, as every fresh host, and three",
        "shared ones.",
    )
    tour.command("status")
    tour.command("sr list")

    tour.chapter(
        "Two hosts join",
        "Each is checked first. Its own storage comes into the pool: 6 SRs and 3 of",
        "ignite's make 9, with specter's it is 12.",
    )
    tour.command(f"add-host {here['ignite']}")
    tour.command(f"add-host {here['specter']}")
    tour.command("status")

    tour.chapter(
        "Any host answers for the pool",
        "specter is not the master: it passes the question on, and the answer is as fresh.",
    )
    tour.command("sr list", at="specter")
    tour.command("vm list", at="specter")

    tour.chapter(
        "A host that does not fit is refused, with every reason at once",
        "misfit has another release, a VM, a network and an SR of its own, and its clock",
        "is wrong. Each reason comes with its remedy; `--dry-run -o script` prints them as",
        "a script to review.",
    )
    tour.command(f"add-host {here['misfit']}", expected=5)

    tour.chapter(
        "A change made at one host is seen at all",
        "ignite takes the change and passes it on to the master; specter tells of it.",
    )
    before = tour.revision()
    tour.command("vm set web1 tags+=production other_config.owner=ops", at="ignite")
    tour.command(f"events --since {before} --types vm --count 1", at="specter")

    tour.chapter(
        "The mastership is handed over",
        "As before maintenance of phantom. Changes that are made meanwhile wait for a moment.",
    )
    tour.command("designate-master specter", at="ignite")

    tour.chapter(
        "A master that dies is replaced",
        "specter's daemon is killed. The others elect one of them, and the change that is",
        "made at once finds it.",
    )
    hosts.kill("specter")
    tour.command("vm set web1 tags+=survived", at="ignite")
    tour.start("specter")
    tour.command("master history", at="specter")
    tour.command("status", at="specter")


def _goodbye(hosts: Hosts) -> None:
    if not hosts.keep:
        write("\nThat was it; the hosts are ended. `pool demo --keep` leaves them up to play with.")
        return
    members = [a for name, a in hosts.addresses.items() if name != "misfit"]
    write("\n" + bold("The pool is left up. To talk to it:") + "\n")
    write(f"  export POOL_SERVER={','.join(members)}")
    write(f"  {_pool()} status")
    write(f"  {_pool()} add-host {hosts.addresses['misfit']} --dry-run -o script\n")
    write(f"Its files and logs are in {hosts.folder}. To end it:\n")
    write(f"  {_pool()} demo --stop")


def _pool() -> str:
    """How this command was called."""
    name = sys.argv[0]
    return name if os.path.basename(name) == "pool" else "pool"
