"""The hosts of the pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from poolcli.app import command
from poolcli.completion import completer
from poolcli.membership import NoWait
from poolcli.nouns import Noun, Others, RequestId, noun_app, show_object
from poolcli.output import Format, note
from poolcli.session import Session
from poolcli.text import safe, size, yes_no
from poolcli.waiting import ended, started

if TYPE_CHECKING:
    from poolclient import PoolClient
    from poolcore.model import Host

VMS_NAMED = 10
"""So many VMs a note names."""


def _metrics(host: Any, others: Others) -> Any:
    return next((m for m in others.all("host_metrics") if m.host == host.uuid), None)


def _live(host: Any, others: Others) -> str:
    metrics = _metrics(host, others)
    return yes_no(metrics.live) if metrics else ""


def _memory(host: Any, others: Others) -> str:
    metrics = _metrics(host, others)
    return size(metrics.memory_total) if metrics else ""


app = noun_app(
    Noun(
        name="host",
        help="The hosts of the pool.",
        columns={
            "NAME": lambda host, _: host.name_label,
            "ADDRESS": lambda host, _: host.address,
            "LIVE": _live,
            "ENABLED": lambda host, _: yes_no(host.enabled),
            "WITNESS": lambda host, _: yes_no(host.witness),
            "VERSION": lambda host, _: host.software_version.product_version,
            "CPUS": lambda host, _: str(host.cpu.count),
            "MEMORY": _memory,
        },
        needs=("host_metrics",),
        writable=True,
        numbers=("failover_priority",),
    )
)


@command(app, "maintenance")
async def maintenance(
    session: Session,
    host: Annotated[
        str,
        typer.Argument(
            metavar="HOST",
            help="Its name, uuid, or a unique prefix of either.",
            autocompletion=completer("host"),
        ),
    ],
    *,
    off: Annotated[bool, typer.Option("--off", help="End the maintenance.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Also if no other host can be master; HOST then stays the master."
        ),
    ] = False,
    no_wait: NoWait = False,
    request_id: RequestId = None,
) -> None:
    """Put a host into maintenance, before it is rebooted, updated or switched off.

    It becomes master only if no other host can; if it is the master, it hands that over first.
    VMs are not moved: those that run on it are named.
    """
    session.refuse_format(Format.SCRIPT)
    async with session.pool() as pool:
        found = await pool.hosts.get(host)
        handle = await pool.set_maintenance(found, not off, force=force, request_id=request_id)
        if no_wait:
            started(session, handle.task)
            return
        task: Any = await ended(session, handle)
        if session.format is not Format.TABLE:
            show_object(task, session.format)
        elif off:
            note(f"{safe(found.name_label)} is no longer in maintenance.")
        else:
            note(f"{safe(found.name_label)} is in maintenance.")
        if not off:
            await _note_what_stays(pool, found)


async def _note_what_stays(pool: PoolClient, host: Host) -> None:
    """Name what a person has to see to before the host is switched off."""
    outlook, _ = await pool.if_lost(host)
    running = [vm.name_label for vm in outlook.vms if vm.power_state in {"running", "paused"}]
    if running:
        names = ", ".join(map(safe, running[:VMS_NAMED]))
        more = " …" if len(running) > VMS_NAMED else ""
        note(f"VMs run on it and were not moved: {len(running)} ({names}{more}).")
    if outlook.master is not None and outlook.master.uuid == host.uuid:
        note("It is still the master: without it nothing can be changed until a person acts.")
