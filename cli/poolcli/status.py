"""How the pool is doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from poolcli.if_lost import show_if_lost
from poolcli.output import Format, data, fields, show_warnings, table, write
from poolcli.session import Session
from poolcli.text import duration, safe, yes_no

if TYPE_CHECKING:
    from poolclient import PoolStatus


async def status(
    session: Session,
    if_lost: Annotated[
        str | None,
        typer.Option(
            "--if-lost",
            metavar="HOST[,HOST…]",
            help="What would be so without these hosts, instead of how things are.",
        ),
    ] = None,
) -> None:
    """Show master, store, hosts and warnings; or what the loss of hosts would come to."""
    session.refuse_format(Format.SCRIPT)
    if if_lost is not None:
        await show_if_lost(session, if_lost)
        return
    async with session.pool() as pool:
        found = await pool.status()
    if session.format is Format.NAME:
        write(safe(found.pool_name))
    elif session.format is Format.TABLE:
        show_status(found)
    else:
        data(status_json(found), session.format)


def status_json(found: PoolStatus) -> dict[str, Any]:
    """The status as scripts get it."""
    head, master = found.head, found.master
    return {
        "pool": {
            "uuid": found.pool_uuid,
            "name": found.pool_name,
            "incarnation": head.incarnation.counter if head else None,
            "incarnation_uuid": head.incarnation.uuid if head else None,
            "term": head.term if head else None,
            "revision": head.revision if head else None,
            "engine": found.engine,
        },
        "quorum": {
            "voters": found.quorum.voters,
            "needed": found.quorum.needed,
            "survives": found.quorum.survives,
        },
        "master": {"uuid": master.uuid, "name": master.name, "address": master.address}
        if master
        else None,
        "hosts": [
            {
                "uuid": host.uuid,
                "name": host.name,
                "address": host.address,
                "role": host.role.value,
                "enabled": host.enabled,
                "live": host.live,
                "in_step": host.in_step,
                "applied_revision": host.applied_revision,
                "lag_seconds": host.lag_seconds,
                "declared_dead": host.declared_dead,
            }
            for host in found.hosts
        ],
        "durable_on": list(found.durable_on),
        "fresh": not found.freshness.stale,
        "warnings": [
            {"code": w.code, "message": w.message, "remedy": w.remedy} for w in found.warnings
        ],
    }


def show_status(found: PoolStatus) -> None:
    """The status as people get it."""
    head, master = found.head, found.master
    where = f"{master.name}, {master.address}" if master else "none that this host can reach"
    state = f"{found.engine}"
    if head:
        state += f", revision {head.revision}, term {head.term}"
        state += f", incarnation {head.incarnation.counter}"
    fields(
        [
            ("Pool", f"{found.pool_name}  {found.pool_uuid}"),
            ("Master", where),
            ("Store", state),
            ("Quorum", _quorum(found)),
            *_durability(found),
        ]
    )
    write("")
    table(
        ["HOST", "ROLE", "LIVE", "REVISION", "LAG", "ADDRESS"],
        [
            [
                host.name,
                host.role.value + ("" if host.enabled else ", in maintenance"),
                "dead" if host.declared_dead else yes_no(host.live),
                str(host.applied_revision) if host.live else "",
                _lag(host.live, host.in_step, host.lag_seconds),
                host.address,
            ]
            for host in found.hosts
        ],
    )
    show_warnings(found.warnings)


def _quorum(found: PoolStatus) -> str:
    quorum = found.quorum
    if found.freshness.stale:
        return f"{quorum.needed} of {quorum.voters} needed; this host cannot tell if they are there"
    lost = {0: "no host", 1: "1 host"}.get(quorum.survives, f"{quorum.survives} hosts")
    return f"{quorum.needed} of {quorum.voters} needed; survives the loss of {lost}"


def _durability(found: PoolStatus) -> list[tuple[str, str]]:
    """Where an acknowledged change is, if that is not a store that the hosts share."""
    names = [host.name for uuid in found.durable_on for host in found.hosts if host.uuid == uuid]
    if not names:
        return []
    if len(names) > 1:
        return [("Durable", f"every acknowledged change is on {' and '.join(names)}")]
    text = f"at {names[0]} alone"
    return [("Durable", text if len(found.hosts) == 1 else f"{text}, without a second copy")]


def _lag(live: bool, in_step: bool, lag_seconds: float) -> str:
    if not live:
        return ""
    return "in step" if in_step else duration(lag_seconds)
