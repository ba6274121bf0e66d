"""The masters of the pool."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poolcli.app import command, new_app
from poolcli.nouns import short
from poolcli.output import Format, data, table, write
from poolcli.session import Session
from poolcli.text import safe

if TYPE_CHECKING:
    from poolclient import Reign

app = new_app("The masters of the pool.")


async def history(
    session: Session,
    number: Annotated[
        int | None, typer.Option("-n", metavar="N", min=1, help="Only the newest N.")
    ] = None,
) -> None:
    """Show who was master from when until when, and why; the newest first."""
    session.refuse_format(Format.SCRIPT)
    async with session.pool() as pool:
        reigns, hosts = await asyncio.gather(pool.master_history(), pool.hosts.list())
    names = {host.uuid: host.name_label for host in hosts}
    found = [(reign, names.get(reign.host, "")) for reign in reigns[:number]]
    if session.format is Format.TABLE:
        _show(found)
    elif session.format is Format.NAME:
        for reign, name in found:
            write(safe(name) or reign.host)
    else:
        data([reign_json(reign, name) for reign, name in found], session.format)


command(app, "history")(history)


def reign_json(reign: Reign, name: str) -> dict[str, Any]:
    """A mastership as scripts get it; `name` is empty for a host that has left."""
    from poolcore.replica import plain

    return {
        "incarnation": reign.incarnation,
        "term": reign.term,
        "host": reign.host,
        "host_name": name or None,
        "from": plain(reign.since),
        "until": plain(reign.until),
        "why": reign.why.value,
    }


def _show(found: list[tuple[Reign, str]]) -> None:
    lives = len({reign.incarnation for reign, _ in found}) > 1
    table(
        [*(["INCARNATION"] if lives else []), "TERM", "HOST", "FROM", "UNTIL", "WHY"],
        [
            [
                *([str(reign.incarnation)] if lives else []),
                str(reign.term),
                name or short(reign.host),
                _moment(reign.since),
                _moment(reign.until),
                reign.why.value.replace("_", " "),
            ]
            for reign, name in found
        ],
    )


def _moment(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%S}"
