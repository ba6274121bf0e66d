"""Who is master: designate-master."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from poolcli.completion import completer
from poolcli.membership import NoWait
from poolcli.nouns import RequestId, show_object
from poolcli.output import Format, note
from poolcli.session import Session
from poolcli.waiting import ended, started


async def designate_master(
    session: Session,
    host: Annotated[
        str,
        typer.Argument(
            metavar="HOST",
            help="The next master: its name, uuid, or a unique prefix of either.",
            autocompletion=completer("host"),
        ),
    ],
    no_wait: NoWait = False,
    request_id: RequestId = None,
) -> None:
    """Hand the mastership over to a host, as before maintenance of the present master.

    Changes that are made meanwhile wait for a moment and go on at the new master. If HOST does not
    take over, the present master goes on. Designating the present master changes nothing.
    """
    session.refuse_format(Format.SCRIPT)
    async with session.pool() as pool:
        found = await pool.hosts.get(host)
        handle = await pool.designate_master(found, request_id=request_id)
        if no_wait:
            started(session, handle.task)
            return
        task: Any = await ended(session, handle)
    if session.format is Format.TABLE:
        note(f"{found.name_label} is the master.")
    else:
        show_object(task, session.format)
