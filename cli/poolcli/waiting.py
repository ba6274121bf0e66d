"""Waiting for what takes long, with a progress bar where there is somebody to look at it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

    with _bar(handle.task.name_label) as advanced:
        try:
            async with asyncio.timeout(session.remaining):
                async for task in handle.progress:
                    advanced(task.progress, task.step)
        except TimeoutError:
            return  # waiting for the handle says it in the words of the catalog


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[float], None] | None]:
    """A bar to be told how far it is, from 0 to 1; none where nobody would see it."""
    if not sys.stderr.isatty():
        yield None
        return
    with _bar(label) as advanced:
        yield lambda progress: advanced(progress, "")


@contextmanager
def _bar(label: str) -> Iterator[Callable[[float, str], None]]:
    """A bar to be told how far it is, from 0 to 1, and what is being done."""
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
        shown = progress.add_task(safe(label), total=1.0, step="")
        yield lambda completed, step: progress.update(shown, completed=completed, step=safe(step))


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
