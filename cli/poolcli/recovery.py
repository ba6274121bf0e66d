"""What hosts had committed that the pool has not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poolcli.app import command, new_app
from poolcli.completion import completer
from poolcli.failures import UsageError
from poolcli.output import Format, data, note, table, write
from poolcli.session import Session
from poolcli.text import safe

if TYPE_CHECKING:
    from poolclient import PoolClient, RecoveredChange
    from poolcore.facts import Recovery

app = new_app(
    "What hosts had committed that the pool has not.\n\n"
    "After an emergency transition a host may come back with changes that the others never had. "
    "It has saved them before it took over the pool's state; nothing makes them again by itself."
)


@command(app, "list")
async def list_(session: Session) -> None:
    """List what each live host has saved."""
    session.refuse_format(Format.SCRIPT)
    async with session.pool() as pool:
        found = await pool.recoveries()
        names = {host.uuid: host.name_label for host in await pool.hosts.list()}
    if session.format is Format.NAME:
        for recovery in found.found:
            write(safe(f"{names.get(recovery.host, recovery.host)}/{recovery.name}"))
    elif session.format is Format.TABLE:
        table(
            ["HOST", "RECOVERY", "INCARNATION", "REVISIONS", "COMMITS", "SAVED"],
            [
                [
                    names.get(r.host, r.host),
                    r.name,
                    str(r.incarnation.counter),
                    f"{r.first_revision}..{r.last_revision}",
                    str(r.commits),
                    f"{r.saved:%Y-%m-%d %H:%M:%S}",
                ]
                for r in found.found
            ],
        )
    else:
        data([_as_json(r, names.get(r.host)) for r in found.found], session.format)
    for host in found.silent:
        note(f"Note: {host.name_label} did not say; it is not connected.")


@command(app, "show")
async def show(
    session: Session,
    host: Annotated[
        str,
        typer.Argument(
            metavar="HOST",
            help="Who has saved it: name, uuid, or a unique prefix of either.",
            autocompletion=completer("host"),
        ),
    ],
    name: Annotated[
        str | None,
        typer.Argument(metavar="RECOVERY", help="Which; may be left out if it is the only one."),
    ] = None,
) -> None:
    """Show commit by commit what a host had and the pool has not."""
    session.refuse_format(Format.SCRIPT)
    async with session.pool() as pool:
        found = await pool.recovery(host, name or await _only(pool, host))
    if session.format is Format.TABLE:
        _show(found)
    elif session.format is Format.NAME:
        for change in found:
            write(f"{change.kind.value}/{safe(change.name_label or change.uuid)}")
    else:
        data([json.loads(change.line) for change in found], session.format)


async def _only(pool: PoolClient, host: str) -> str:
    uuid = (await pool.hosts.get(host)).uuid
    names = [r.name for r in (await pool.recoveries()).found if r.host == uuid]
    if len(names) != 1:
        what = ", ".join(names) or "nothing"
        raise UsageError(
            f"Host {host} has saved {what}.", "`pool recovery list` shows what there is."
        )
    return names[0]


def _as_json(recovery: Recovery, host_name: str | None) -> dict[str, Any]:
    from poolcore.replica import plain

    return {
        "host": recovery.host,
        "host_name": host_name,
        "name": recovery.name,
        "pool": recovery.pool,
        "incarnation": recovery.incarnation.counter,
        "incarnation_uuid": recovery.incarnation.uuid,
        "first_revision": recovery.first_revision,
        "last_revision": recovery.last_revision,
        "commits": recovery.commits,
        "saved": plain(recovery.saved),
    }


def _show(changes: tuple[RecoveredChange, ...]) -> None:
    revision = 0
    for change in changes:
        if change.revision != revision:
            revision = change.revision
            by = f", request {safe(change.request_id)}" if change.request_id else ""
            write(f"revision {revision}, term {change.term}{by}")
        name = f"{safe(change.name_label)}  " if change.name_label else ""
        write(f"  {change.kind.value}  {name}{change.uuid}  {_outcome(change)}")
        if change.before is not None and change.after is not None:
            for field in dict.fromkeys([*change.before, *change.after]):
                before, after = change.before.get(field), change.after.get(field)
                if before != after:
                    write(f"    {safe(field)}: {_value(before)} → {_value(after)}")


def _outcome(change: RecoveredChange) -> str:
    if change.after is None:
        return "removed"
    if change.before is not None:
        told = ", compared with what the pool has now" if change.before_from == "pool" else ""
        return f"changed{told}"
    return "created" if change.before_from == "log" else "changed; before: not kept"


def _value(value: Any) -> str:
    return "none" if value is None else safe(json.dumps(value, ensure_ascii=False))
