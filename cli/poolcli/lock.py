"""Locks that span the pool, and commands that run under one."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from poolcli.app import Group, command
from poolcli.child import NotStarted, Signals
from poolcli.completion import completer
from poolcli.failures import Ended, UsageError, report
from poolcli.nouns import Noun, RequestId, noun_app, show_object
from poolcli.output import Format, note
from poolcli.session import Session

VARIABLE = "POOL_LOCK_TOKEN"


class _NamesToo(Group):
    """Its commands, and names of locks: `lock NAME …` is `lock run NAME …`."""

    ignore_unknown_options = True
    """They are those of `run`, given before the name."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first argument names, else `run` with all of them."""
        if args and self.get_command(ctx, args[0]) is None:
            args = ["run", *args]
        return super().resolve_command(ctx, args)


app = noun_app(
    Noun(
        name="lock",
        help="Run a command under a lock that spans the pool.\n\n"
        "`pool lock NAME [--ttl SECONDS] [--wait SECONDS] -- COMMAND` is short for "
        "`pool lock run NAME …`; `pool lock run --help` says more.",
        columns={
            "NAME": lambda lock, _: lock.name_label,
            "HOLDER": lambda lock, _: lock.holder,
            "SINCE": lambda lock, _: f"{lock.acquired:%Y-%m-%d %H:%M:%S}",
            "TTL": lambda lock, _: f"{lock.ttl_seconds} s",
            "TOKEN": lambda lock, _: str(lock.token),
        },
    ),
    group=_NamesToo,
)


@command(app, "run")
async def run(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which lock.")],
    program: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND", help="What to run, behind `--`.")
    ] = None,
    *,
    ttl: Annotated[
        int,
        typer.Option(
            "--ttl",
            metavar="SECONDS",
            min=1,
            help="How long the lock outlives this command if that is killed. Default: 30.",
            show_default=False,
        ),
    ] = 30,
    wait: Annotated[
        float | None,
        typer.Option(
            "--wait", metavar="SECONDS", min=0, help="Wait so long while somebody else holds it."
        ),
    ] = None,
    request_id: RequestId = None,
) -> None:
    """Run COMMAND while holding a lock; the exit code is COMMAND's.

    5 if somebody else holds the lock. COMMAND finds its fencing token in POOL_LOCK_TOKEN: higher
    than that of any earlier holder, to be checked by whatever the lock protects. When the lock is
    lost, COMMAND gets SIGTERM, 10 s later SIGKILL, and the exit code is 1.
    """
    session.refuse_format(Format.SCRIPT)
    if not program:
        raise UsageError("There is no COMMAND to run.", "pool lock NAME -- COMMAND")
    async with Signals() as signals, session.pool() as pool:
        lock = pool.lock(
            name,
            ttl_seconds=ttl,
            wait_seconds=wait,
            request_id=request_id,
            on_held=lambda held: note(f"{held.message} Waiting."),
        )
        try:
            async with lock:
                code = await signals.run(program, os.environ | {VARIABLE: str(lock.token)})
        except NotStarted as problem:
            message = f"{program[0]} cannot be run: {problem}."
            report("COMMAND_NOT_STARTED", message, "", {"command": program[0]}, session.format)
            code = problem.code
    if not lock.released:
        note(f"Note: lock {name} could not be given up; the pool does that within {ttl + 1} s.")
    if code:
        raise Ended(code)


@command(app, "break")
async def break_(
    session: Session,
    name: Annotated[
        str,
        typer.Argument(
            metavar="LOCK",
            help="Its name, uuid, or a unique prefix of either.",
            autocompletion=completer("lock"),
        ),
    ],
) -> None:
    """Take it from its holder, whose command is ended within a third of the lock's TTL."""
    session.refuse_format(Format.SCRIPT)
    async with session.pool() as pool:
        lock = await pool.break_lock(name)
    if session.format is Format.TABLE:
        note(f"Lock {lock.name_label} is free; it was held by {lock.holder}.")
    else:
        show_object(lock, session.format)
