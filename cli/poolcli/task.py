"""Work that takes longer than one commit."""

from __future__ import annotations

from typing import Annotated

import typer

from poolcli.app import command
from poolcli.completion import completer
from poolcli.nouns import Noun, noun_app, show_object
from poolcli.output import Format, note
from poolcli.session import Session

app = noun_app(
    Noun(
        name="task",
        help="Work that takes longer than one commit.",
        columns={
            "CREATED": lambda task, _: f"{task.created:%Y-%m-%d %H:%M:%S}",
            "NAME": lambda task, _: task.name_label,
            "STATUS": lambda task, _: task.status,
            "STEP": lambda task, _: task.step,
            "DONE": lambda task, _: f"{100 * task.progress:.0f} %",
        },
        order=lambda task, _: task.created,
    )
)


@command(app, "cancel")
async def cancel(
    session: Session,
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help="Its uuid or a unique prefix of it.",
            autocompletion=completer("task"),
        ),
    ],
) -> None:
    """Ask it to stop and undo what it did; refused once it has passed its decision point."""
    async with session.pool() as pool:
        handle = await pool.task(task)
        cancelled = await handle.cancel()
    if session.format is Format.TABLE:
        note(f"Task {cancelled.uuid} is {cancelled.status}.")
    else:
        show_object(cancelled, session.format)
