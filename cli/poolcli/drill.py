"""Drills: what a pool is there for, tried on purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from poolcli.app import command, new_app
from poolcli.failures import Ended
from poolcli.output import Format, data, fields, note, write
from poolcli.session import Session, confirmed
from poolcli.text import safe

if TYPE_CHECKING:
    from poolclient import DrillReport

app = new_app("Drills: what a pool is there for, tried on purpose.")


async def failover(
    session: Session,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    back: Annotated[
        bool, typer.Option("--back", help="Hand the mastership back to its old host afterwards.")
    ] = False,
) -> None:
    """Have the master fall silent, so that another host is elected, and report the outage.

    Refused unless every host is connected and in step and another one can lead by itself. The
    drill writes an entry of the pool's other_config all the time, and removes it at the end.
    Writes wait until there is a new master, as they would if the old one had died.
    """
    session.refuse_format(Format.SCRIPT)
    async with session.pool() as pool:
        successor = await pool.check_drill(timeout_seconds=session.remaining)
        master = (await pool.status()).master
        name = safe(master.name) if master is not None else "The master"
        question = (
            f"{name} will stop being the master without handing over; "
            f"{safe(successor.name_label)} is next. Writes wait for about a second. Go on?"
        )
        if not confirmed(question, yes=yes):
            note("Nothing was changed.")
            raise Ended(1)
        report = await pool.drill_failover(timeout_seconds=session.remaining)
        if back:
            handle = await pool.designate_master(report.old_master.uuid)
            await handle.wait(timeout_seconds=session.remaining)
    _show(session, report)
    if back and session.format is Format.TABLE:
        note(f"{report.old_master.name_label} is the master again.")
    if report.lost or report.repeated:
        raise Ended(1)


command(app, "failover")(failover)


def drill_json(report: DrillReport) -> dict[str, Any]:
    """The report as scripts get it."""
    from poolcore.replica import plain

    value: dict[str, Any] = plain(report)
    return value


def _show(session: Session, report: DrillReport) -> None:
    if session.format is Format.NAME:
        write(safe(report.new_master.name_label))
    elif session.format is Format.TABLE:
        fields(
            [
                ("Old master", f"{report.old_master.name_label}, term {report.old_term}"),
                ("New master", f"{report.new_master.name_label}, term {report.new_term}"),
                ("Outage", f"{report.outage_seconds:.2f} s without an accepted write"),
                ("Writes", f"{report.acknowledged} acknowledged"),
                ("Lost", str(report.lost)),
                ("Repeated", str(report.repeated)),
            ]
        )
    else:
        data(drill_json(report), session.format)
