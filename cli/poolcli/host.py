"""The hosts of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poolcli.app import command
from poolcli.completion import completer
from poolcli.failures import Ended
from poolcli.membership import NoWait
from poolcli.nouns import Noun, Others, RequestId, noun_app, show_object
from poolcli.output import Format, data, note
from poolcli.session import Session, confirmed
from poolcli.text import safe, size, yes_no
from poolcli.waiting import ended, started

if TYPE_CHECKING:
    from poolclient import ForgetPreview, NamedObject, PoolClient
    from poolcore.model import Host

SHOWN_NAMES = 10

Name = Annotated[
    str,
    typer.Argument(
        metavar="HOST",
        help="Its name, uuid, or a unique prefix of either.",
        autocompletion=completer("host"),
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask: I vouch that it is off.")]


def _metrics(host: Any, others: Others) -> Any:
    return next((m for m in others.all("host_metrics") if m.host == host.uuid), None)


def _live(host: Any, others: Others) -> str:
    metrics = _metrics(host, others)
    if metrics is None:
        return ""
    return "dead" if metrics.declared_dead else yes_no(metrics.live)


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


@command(app, "declare-dead")
async def declare_dead(
    session: Session, host: Name, yes: Yes = False, request_id: RequestId = None
) -> None:
    """Vouch that a host is off for good, so that its VMs can be started elsewhere.

    They count as halted and on no host from then on. A host that answers is refused: one that is
    merely out of reach may run them still. It ends when the host comes back.
    """
    session.refuse_format(Format.SCRIPT)
    async with session.pool() as pool:
        found = await pool.hosts.get(host)
        question = (
            f"Is {safe(found.name_label)} ({found.uuid}) switched off? If it is not, its VMs may "
            "run twice and destroy their disks. Declare it dead?"
        )
        _ensure_agreed(question, yes=yes)
        done = await pool.hosts.declare_dead(found, request_id=request_id)
    if session.format is Format.TABLE:
        note(f"{found.name_label} counts as dead (revision {done.revision}).")
        for vm in done.vms:
            note(f"  {vm.name_label} counts as halted.")
    else:
        answer = {
            "host": found.uuid,
            "declared_dead": True,
            "vms": [vm.uuid for vm in done.vms],
            "revision": done.revision,
        }
        data(answer, session.format)


@command(app, "forget")
async def forget(
    session: Session, host: Name, yes: Yes = False, request_id: RequestId = None
) -> None:
    """Remove a host that is gone for good, with what only it had.

    For a host that was declared dead; with --yes also for one that merely does not answer. Its
    local SRs and their disks leave the pool's records, and its VMs that have no disk elsewhere.
    Nothing is deleted on the host: should it ever boot, it says that it was forgotten.
    """
    session.refuse_format(Format.SCRIPT)
    async with session.pool() as pool:
        target: Any = host
        if request_id is None:
            preview = await pool.hosts.check_forget(host)
            target = preview.host
            _tell_preview(preview)
            name = safe(preview.host.name_label)
            # Otherwise it is refused, and the person told why.
            if preview.declared_dead:
                _ensure_agreed(f"Forget {name} ({preview.host.uuid})?", yes=yes)
        done = await pool.hosts.forget(target, vouched=yes, request_id=request_id)
    if session.format is Format.TABLE:
        note(f"Forgotten, with {done.removed} objects (revision {done.revision}).")
    else:
        answer = {"host": done.uuid, "removed": done.removed, "revision": done.revision}
        data(answer, session.format)


def _ensure_agreed(question: str, *, yes: bool) -> None:
    if not confirmed(question, yes=yes):
        note("Nothing was changed.")
        raise Ended(1)


def _tell_preview(preview: ForgetPreview) -> None:
    name = preview.host.name_label
    if preview.removed:
        note(f"With {name} go from the pool's records:")
    kinds = dict.fromkeys(obj.kind for obj in preview.removed)
    for kind in kinds:
        note(f"  {kind.value:<13}{_listed([o for o in preview.removed if o.kind is kind])}")
    if preview.kept:
        note(f"These VMs stay, halted: {_listed(preview.kept)}.")


def _listed(objects: Sequence[NamedObject]) -> str:
    names = [obj.name_label for obj in objects if obj.name_label]
    if not names:
        return str(len(objects))
    more = len(objects) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


@command(app, "maintenance")
async def maintenance(
    session: Session,
    host: Name,
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
        names = ", ".join(map(safe, running[:SHOWN_NAMES]))
        more = " …" if len(running) > SHOWN_NAMES else ""
        note(f"VMs run on it and were not moved: {len(running)} ({names}{more}).")
    if outlook.master is not None and outlook.master.uuid == host.uuid:
        note("It is still the master: without it nothing can be changed until a person acts.")
