"""Backups of the pool's metadata, and restoring them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from poolcli.app import command, new_app
from poolcli.backups import (
    file_json,
    plan_json,
    show_file,
    show_plan,
    show_stored,
    stored_json,
    tell_restored,
    whole_json,
)
from poolcli.failures import Ended, UsageError
from poolcli.nouns import RequestId
from poolcli.output import Format, data, note, write
from poolcli.session import Session, confirmed
from poolcli.text import safe
from poolcli.waiting import progress_bar

if TYPE_CHECKING:
    from poolclient import Backup, PoolClient, Restored

STANDARD = Path("-")
"""Standard output or input, in the place of a file."""

app = new_app(
    "Backups of the pool's metadata, and restoring them.\n\n"
    "Every host writes backups by itself, as the pool's settings `backup.…` say. A backup has the "
    "metadata only: not the disks of VMs."
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="A backup; - for standard input.")]


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
    if file == STANDARD and sys.stdout.isatty():
        raise UsageError("A backup is not text for a terminal.", "Send it into a file or a pipe.")
    async with session.pool() as pool:
        made = await pool.backup(timeout_seconds=session.remaining)
    if file == STANDARD:
        sys.stdout.buffer.write(made.data)
        sys.stdout.buffer.flush()
        return
    from poolcore.filesystem import replace_file

    try:
        replace_file(file, made.data)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror or error}.") from None
    if session.format is Format.TABLE:
        header = made.header
        write(
            f"Wrote {safe(str(file))}: revision {header.last.revision} of pool "
            f"{safe(header.pool_name)}, {header.objects} objects, {len(made.data)} bytes."
        )
    else:
        data({"file": str(file), **file_json(made)}, session.format)


@command(app, "show")
async def show(session: Session, file: File) -> None:
    """Show what is in a backup; needs no host. With -o json, everything."""
    session.refuse_format(Format.SCRIPT)
    found = read(file)
    if session.format is Format.NAME:
        for obj in found.state.objects():
            write(f"{obj.KIND.value}/{safe(getattr(obj, 'name_label', '') or obj.uuid)}")
    elif session.format is Format.TABLE:
        show_file(found)
    else:
        data(whole_json(found), session.format)


@command(app, "list")
async def list_(session: Session) -> None:
    """List the backups that the host has written by itself: that of this machine, or of --server.

    They are files of that host; to restore one elsewhere, copy it from there.
    """
    session.refuse_format(Format.SCRIPT)
    async with session.pool() as pool:
        found = await pool.stored_backups()
    if session.format is Format.NAME:
        for stored in found:
            write(safe(stored.path))
    elif session.format is Format.TABLE:
        show_stored(found)
    else:
        data([stored_json(stored) for stored in found], session.format)


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
    found = read(file)
    done: Restored | None = None
    async with session.pool() as pool:
        _consider_pool(pool, found, accepted=accept_other_pool, dry_run=dry_run)
        plan = await pool.check_restore(found, timeout_seconds=session.remaining)
        if session.format is Format.TABLE:
            show_plan(plan)
        if plan.vms_back:
            note(
                f"Note: VMs that the pool does not have, {plan.vms_back} of them, come back as "
                "records, halted and on no host. Make sure that none of them runs anywhere else "
                "before it is started."
            )
        if not dry_run:
            if plan.objects and not confirmed("Restore this?", yes=yes):
                note("Nothing was changed.")
                raise Ended(1)
            with progress_bar("Restore") as advanced:
                done = await pool.restore(
                    found,
                    accept_other_pool=accept_other_pool,
                    on_progress=advanced,
                    timeout_seconds=session.remaining,
                    request_id=request_id,
                )
    if session.format is Format.TABLE:
        tell_restored(found, plan, done)
    else:
        data(plan_json(found, plan, done), session.format)


def _consider_pool(pool: PoolClient, backup: Backup, *, accepted: bool, dry_run: bool) -> None:
    """Refuse a backup of another pool before anything is asked; for a dry run, say so."""
    header = backup.header
    if pool.pool_uuid == header.pool or accepted:
        return
    if not dry_run:
        from poolcore.errors import PoolError, Reason

        raise PoolError(Reason.BACKUP_OF_ANOTHER_POOL, found=header.pool, expected=pool.pool_uuid)
    note(
        f"Note: the backup is of pool {header.pool_name} ({header.pool}), not of this one; to "
        "restore it here takes --accept-other-pool."
    )


def read(file: Path) -> Backup:
    """The backup in a file; `UsageError` if that cannot be read at all."""
    from poolclient import read_backup

    if file == STANDARD:
        return read_backup(sys.stdin.buffer.read(), name="standard input")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}.") from None
    return read_backup(content, name=str(file))
