"""Backups of the pool's metadata, and restoring them."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poolcli.app import command, new_app
from poolcli.diff import object_json, show_objects
from poolcli.failures import Ended, UsageError
from poolcli.nouns import RequestId
from poolcli.output import Format, data, fields, note, table, write
from poolcli.session import Session, confirmed
from poolcli.text import safe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poolclient import Backup, Restored, RestorePlan
    from poolcore.restoration import LeftAlone

STDOUT = "-"

app = new_app(
    "Backups of the pool's metadata, and restoring them.\n\n"
    "Every host writes backups by itself, as the pool's settings `backup.…` say. A backup has the "
    "metadata only: not the disks of VMs."
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")]


@command(app, "backup")
async def backup(
    session: Session,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Where to; a file that is there is replaced; - for standard output.",
        ),
    ],
) -> None:
    """Write everything that the pool knows at this moment into a file."""
    session.refuse_format(Format.SCRIPT, Format.NAME)
    if str(file) == STDOUT and sys.stdout.isatty():
        raise UsageError("A backup is not text for a terminal.", "Send it into a file or a pipe.")
    async with session.pool() as pool:
        made = await pool.backup(timeout_seconds=session.remaining)
    if str(file) == STDOUT:
        sys.stdout.buffer.write(made.data)
        sys.stdout.buffer.flush()
        return
    from poolcore.filesystem import replace_file

    try:
        replace_file(file, made.data)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror or error}.") from None
    if session.format is Format.TABLE:
        write(
            f"Wrote {safe(str(file))}: revision {made.header.last.revision} of pool "
            f"{safe(made.header.pool_name)}, {made.header.objects} objects, "
            f"{len(made.data)} bytes."
        )
    else:
        data({"file": str(file), **header_json(made)}, session.format)


@command(app, "show")
async def show(session: Session, file: File) -> None:
    """Show what is in a backup; needs no host. With -o json, everything."""
    session.refuse_format(Format.SCRIPT)
    found = read(file)
    if session.format is Format.NAME:
        for obj in found.state.objects():
            write(f"{obj.KIND.value}/{safe(getattr(obj, 'name_label', '') or obj.uuid)}")
    elif session.format is Format.TABLE:
        _show(found)
    else:
        data({**header_json(found), "content": _content(found)}, session.format)


@command(app, "list")
async def list_(session: Session) -> None:
    """List the backups that the host has written by itself: that of this machine, or of --server.

    They are files of that host; to restore one, copy it from there.
    """
    session.refuse_format(Format.SCRIPT)
    from poolcore.replica import plain

    async with session.pool() as pool:
        found = await pool.stored_backups()
    if session.format is Format.NAME:
        for stored in found:
            write(safe(stored.path))
    elif session.format is Format.TABLE:
        table(
            ["MADE", "POOL", "INCARNATION", "REVISION", "BYTES", "FILE"],
            [
                [
                    f"{stored.made:%Y-%m-%d %H:%M:%S}",
                    stored.pool_name,
                    str(stored.incarnation.counter),
                    str(stored.revision),
                    str(stored.size_bytes),
                    stored.path,
                ]
                for stored in found
            ],
        )
    else:
        data([plain(stored) for stored in found], session.format)


@command(app, "restore")
async def restore(
    session: Session,
    file: File,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change, and what would not.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    accept_other_pool: Annotated[
        bool,
        typer.Option("--accept-other-pool", help="The backup may be of another pool than this."),
    ] = False,
    request_id: RequestId = None,
) -> None:
    """Bring what people have set back to what a backup says, by new commits.

    Names, descriptions, tags, other_config and settings of what is in the pool, and the records of
    VMs that it does not have any more. What hosts report is left as it is, and so is whatever is
    newer than the backup.
    """
    session.refuse_format(Format.SCRIPT, Format.NAME)
    from poolcore.errors import PoolError, Reason

    found = read(file)
    async with session.pool() as pool:
        if pool.pool_uuid != found.header.pool and not (dry_run or accept_other_pool):
            raise PoolError(
                Reason.BACKUP_OF_ANOTHER_POOL, found=found.header.pool, expected=pool.pool_uuid
            )
        plan = await pool.check_restore(found, timeout_seconds=session.remaining)
        done: Restored | None = None
        if session.format is Format.TABLE:
            show_plan(plan)
        if not dry_run:
            if plan.objects and not confirmed("Restore this?", yes=yes):
                note("Nothing was changed.")
                raise Ended(1)
            done = await pool.restore(
                found,
                accept_other_pool=accept_other_pool,
                timeout_seconds=session.remaining,
                request_id=request_id,
            )
        elif pool.pool_uuid != found.header.pool:
            note(
                f"Note: the backup is of pool {found.header.pool_name} ({found.header.pool}), not "
                "of this one; to restore it here takes --accept-other-pool."
            )
    if session.format is Format.TABLE:
        _tell(found, plan, done)
    else:
        data(plan_json(found, plan, done), session.format)


def read(file: Path) -> Backup:
    """The backup in a file; `UsageError` if that cannot be read at all."""
    from poolclient import read_backup

    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}.") from None
    return read_backup(content, name=str(file))


def header_json(backup: Backup) -> dict[str, Any]:
    """What a backup is, as scripts get it."""
    from poolcore.replica import plain

    header = backup.header
    return {
        "pool": {"uuid": header.pool, "name_label": header.pool_name},
        "incarnation": header.incarnation.counter,
        "incarnation_uuid": header.incarnation.uuid,
        "term": header.last.term,
        "revision": header.last.revision,
        "made": plain(header.made),
        "fresh": header.fresh,
        "product_version": header.product_version,
        "schema_version": header.schema_version,
        "objects": header.objects,
        "size_bytes": len(backup.data),
    }


def plan_json(backup: Backup, plan: RestorePlan, done: Restored | None) -> dict[str, Any]:
    """What a restore changes or has changed, as scripts get it."""
    from poolcore.replica import plain

    return {
        "backup": header_json(backup),
        "restored": done is not None,
        "commits": 0 if done is None else done.commits,
        "revision": plan.freshness.revision if done is None else done.revision,
        "fresh": not plan.freshness.stale,
        "objects": [object_json(item) for item in plan.objects],
        "left_alone": [plain(item) for item in plan.left_alone],
    }


def show_plan(plan: RestorePlan) -> None:
    """What a restore changes, as `pool diff` shows it, and then what it leaves alone."""
    show_objects(plan.objects)
    if plan.left_alone:
        write(("\n" if plan.objects else "") + "Left alone:")
    _show_left_alone(plan.left_alone)


def _show_left_alone(items: Sequence[LeftAlone]) -> None:
    for item in items:
        name = f"{safe(item.name_label)}  " if item.name_label else ""
        write(f"  {item.kind.value}  {name}{item.uuid}  {item.code}: {safe(item.explanation)}")


def _tell(backup: Backup, plan: RestorePlan, done: Restored | None) -> None:
    of = f"revision {backup.header.last.revision} of pool {safe(backup.header.pool_name)}"
    if done is None:
        note(f"Restoring {of} would change {_objects(len(plan.objects))}; nothing was changed.")
    elif not done.changed:
        note(f"Everything that can be restored is as in {of} already; nothing was changed.")
    else:
        note(f"Restored {of}: {_objects(done.changed)} changed (revision {done.revision}).")


def _objects(count: int) -> str:
    return f"{count} object{'' if count == 1 else 's'}"


def _show(backup: Backup) -> None:
    header = backup.header
    fields(
        [
            ("Pool", f"{header.pool_name}  {header.pool}"),
            ("Revision", f"{header.last.revision}, term {header.last.term}"),
            ("Incarnation", f"{header.incarnation.counter}  {header.incarnation.uuid}"),
            ("Made", f"{header.made:%Y-%m-%d %H:%M:%S} UTC"),
            ("Fresh", "yes" if header.fresh else "not confirmed by a master"),
            ("Written by", f"release {header.product_version}, schema {header.schema_version}"),
            ("Bytes", str(len(backup.data))),
        ]
    )
    counts = Counter(obj.KIND for obj in backup.state.objects())
    write("")
    table(["KIND", "OBJECTS"], [[kind.value, str(count)] for kind, count in counts.items()])


def _content(backup: Backup) -> dict[str, list[Any]]:
    """Every object, by kind."""
    from poolcli.changes import as_json

    found: dict[str, list[Any]] = {}
    for obj in backup.state.objects():
        found.setdefault(obj.KIND.value, []).append(as_json(obj))
    return found
