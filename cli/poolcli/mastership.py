"""Who is master: designate-master."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from poolcli.completion import completer
from poolcli.emergency import TRANSITION, command_at
from poolcli.failures import Ended, report_error
from poolcli.membership import NoWait
from poolcli.nouns import RequestId, show_object
from poolcli.output import Format, note
from poolcli.session import Session
from poolcli.waiting import ended, started

if TYPE_CHECKING:
    from poolclient import PoolClient, TaskHandle
    from poolcore.model import Host


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

    With a dead master: hosts that share the pool's store elect another one, which hands over to
    HOST. Where none can be elected, this names the command by which a person makes HOST go on.
    """
    session.refuse_format(Format.SCRIPT)
    async with session.pool() as pool:
        found = await _resolved(session, pool, host)
        handle = await _begun(session, pool, found, request_id)
        if no_wait:
            started(session, handle.task)
            return
        task: Any = await ended(session, handle)
    if session.format is Format.TABLE:
        note(f"{found.name_label} is the master.")
    else:
        show_object(task, session.format)


async def _resolved(session: Session, pool: PoolClient, name: str) -> Host:
    """The host of that name, by what the host that answers last knew if there is no master."""
    from poolclient import NoMaster, NotFound

    try:
        return await pool.hosts.get(name)
    except NotFound as error:
        if (await pool.status()).freshness.stale:
            unknown = f"{pool.address}, which has no master to ask, knows no host of that name. "
            raise Ended(report_error(error, session.format, hint=unknown + _on_itself())) from error
        raise
    except NoMaster as error:
        unknown = f"{pool.address} does not know the address of {name!r}. "
        raise Ended(report_error(error, session.format, hint=unknown + _on_itself())) from error


async def _begun(
    session: Session, pool: PoolClient, host: Host, request_id: str | None
) -> TaskHandle:
    from poolclient import NoHostAnswers, NoMaster

    try:
        return await pool.designate_master(host, request_id=request_id)
    except NoHostAnswers:
        raise
    except NoMaster as error:
        hint = await _emergency_hint(host)
        raise Ended(report_error(error, session.format, hint=hint)) from error


async def _emergency_hint(host: Host) -> str:
    """How a person makes the host the master, where no host becomes it by itself."""
    from poolclient import Conflict, EmergencyHost, NoHostAnswers

    name = host.name_label
    try:
        async with EmergencyHost.connect(host.address) as asked:
            await asked.outlook()
    except NoHostAnswers:
        return (
            f"{name} does not answer at {host.address} either: start its daemon. If it is lost, "
            "name another host."
        )
    except Conflict as refused:
        never = "" if host.may_lead else f"{name} is never elected: its failover_priority is 0. "
        return f"{never}{refused.message} {refused.remedy}"
    return (
        f"No host can be elected. `{command_at(host.address, TRANSITION)}` makes {name} the "
        "master; it shows first what that would lack and which hosts must be off."
    )


def _on_itself() -> str:
    return f"Run `pool {TRANSITION}` on the host that is to be master."
