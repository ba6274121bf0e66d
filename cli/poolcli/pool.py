"""The pool's own settings."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from poolcli.app import command
from poolcli.changes import FORMS, decimal, number, parse_changes
from poolcli.nouns import RequestId, show_object, tell_change
from poolcli.output import Format
from poolcli.session import Session

TIMINGS = tuple(
    f"failover.{name}_seconds"
    for name in (
        "heartbeat", "suspect", "vote", "confirm", "alive", "in_step", "replace_voter",
    )
)  # fmt: skip
"""How soon a silent master is replaced, and what else waits for a silent host."""
BACKUPS = ("backup.interval_minutes", "backup.keep", "backup.keep_daily")
"""When hosts write backups of the metadata, and how many they keep."""
SETTINGS = ("default_sr", "host_limit", *TIMINGS, *BACKUPS)


def add_to(app: typer.Typer) -> None:
    """Declare the commands."""
    command(app, "show")(show)
    command(app, "set")(set_)


async def show(session: Session) -> None:
    """Show the pool's name and settings."""
    session.refuse_format(Format.SCRIPT)
    async with session.pool() as pool:
        show_object(await pool.pool(), session.format)


async def set_(
    session: Session,
    changes: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUE",
            help=FORMS + ", default_sr=SR (empty for none), host_limit=NUMBER, and how soon a "
            "silent master or voter is replaced: "
            + ", ".join(f"{name}=NUMBER" for name in TIMINGS)
            + ", and when each host writes a backup of the metadata and how many it keeps: "
            + ", ".join(f"{name}=NUMBER" for name in BACKUPS)
            + ".",
        ),
    ],
    request_id: RequestId = None,
) -> None:
    """Change the pool's name and settings."""
    session.refuse_format(Format.SCRIPT)
    parsed, settings = parse_changes(changes, SETTINGS)
    own: dict[str, Any] = {}
    if "default_sr" in settings:
        own["default_sr"] = settings["default_sr"]
    if "host_limit" in settings:
        own["host_limit"] = number("host_limit", settings["host_limit"])
    timings = {
        name.removeprefix("failover."): decimal(name, settings[name])
        for name in TIMINGS
        if name in settings
    }
    if timings:
        own["failover"] = timings
    schedule = {
        name.removeprefix("backup."): number(name, settings[name])
        for name in BACKUPS
        if name in settings
    }
    if schedule:
        own["backup"] = schedule
    async with session.pool() as pool:
        done = await pool.set(request_id=request_id, **own, **parsed)
    tell_change(session, "pool", done)
