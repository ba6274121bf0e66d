"""Waiting for a task, with a progress bar where there is somebody to look at it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from poolcli.output import Format, note
from poolcli.session import Session
from poolcli.text import safe

if TYPE_CHECKING:
    from poolclient import TaskHandle
    from poolcore.model import Task


async def ended(session: Session, handle: TaskHandle) -> Task:
    """Wait for a task's end; raises why it failed. Interrupted, the session names the task."""
    session.task = handle.uuid
    if sys.stderr.isatty():
        await _watched(session, handle)
    task = await handle.wait(timeout_seconds=session.remaining)
    session.task = ""
    return task


async def _watched(session: Session, handle: TaskHandle) -> None:
    import asyncio

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[step]}", markup=False),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True, highlight=False)
    with Progress(*columns, console=console, transient=True) as progress:
        shown = progress.add_task(safe(handle.task.name_label), total=1.0, step="")
        try:
            async with asyncio.timeout(session.remaining):
                async for task in handle.progress:
                    progress.update(shown, completed=task.progress, step=safe(task.step))
        except TimeoutError:
            return  # waiting for the handle says it in the words of the catalog


def started(session: Session, task: Task) -> None:
    """With --no-wait: the task that goes on by itself."""
    from poolcli.nouns import show_object
    from poolcli.output import write

    if session.format is Format.NAME:
        write(task.uuid)
    elif session.format is Format.TABLE:
        write(task.uuid)
        note(f"`pool task show {task.uuid}` says how far it is.")
    else:
        show_object(task, session.format)
