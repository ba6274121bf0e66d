"""When master or quorum are gone: commands that speak to one named host and to no other.

`emergency-transition-to-master`, `emergency-reset-master` and `recover-members`, as `xe` has them.
They say first which host answers; the daemon of that host is all that they need.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poolcli import contexts
from poolcli.emergency_outlook import outlook_json, show_outlook
from poolcli.failures import Ended, UsageError, report_error
from poolcli.output import Format, data, note, table, write
from poolcli.session import SOCKET, Session, Target, target
from poolcli.text import safe, wrapped, yes_no

if TYPE_CHECKING:
    from poolclient import AskedHost, EmergencyHost, Transition
    from poolcore.facts import EmergencyOutlook, RecoveredMember
    from poolcore.replica import Head

TRANSITION = "emergency-transition-to-master"


async def emergency_transition_to_master(
    session: Session,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. The hosts that do not answer are off.")
    ] = False,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss", help="Do it although changes may be lost that no host in reach has."
        ),
    ] = False,
) -> None:
    """Make the very host that is asked the master, when the master or the quorum is gone.

    Without --yes: who answers, what the host would go on from and what may be missing then, which
    hosts must be off. It goes on from its replica; hosts that come back become its members. Name
    the host with --server, or run this on it.
    """
    session.refuse_format(Format.SCRIPT)
    async with _one_host(session, TRANSITION) as host:
        outlook = await host.outlook(timeout_seconds=session.remaining)
        if session.format is Format.TABLE:
            show_outlook(outlook, address=host.host.address)
        if not yes:
            _ensure_confirmed(session, host.host, outlook, accept_loss=accept_loss)
        _say(session, f"Making {outlook.name_label} the master …")
        done = await _made_master(session, host, accept_loss=accept_loss)
    if session.format is Format.TABLE:
        _show_done(host.host, done)
    elif session.format is Format.NAME:
        write(safe(done.outlook.name_label))
    else:
        data(_transition_json(host.host, done.outlook, done), session.format)


async def emergency_reset_master(
    session: Session,
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="Where the master is: HOST or HOST:PORT.")
    ],
) -> None:
    """Tell the very host that is asked where the master is, when it does not find it by itself."""
    session.refuse_format(Format.SCRIPT)
    from poolclient import normal_address

    if address.startswith("unix:"):
        raise UsageError(
            "The master's own socket cannot be reached from another host.",
            "Give the master's address: HOST or HOST:PORT.",
        )
    endpoint = normal_address(address)
    async with _one_host(session, "emergency-reset-master ADDRESS") as host:
        master = await host.reset_master(endpoint, timeout_seconds=session.remaining)
    if session.format is Format.TABLE:
        note(f"{_called(host.host)} follows the master at {endpoint}.")
    elif session.format is Format.NAME:
        write(master)
    else:
        found = {"host": _host_json(host.host), "master": {"uuid": master, "address": endpoint}}
        data(found, session.format)


async def recover_members(session: Session) -> None:
    """Have the very host that is asked, the master, tell all others where it is.

    Exit code 1 if one of them does not follow it then.
    """
    session.refuse_format(Format.SCRIPT)
    async with _one_host(session, "recover-members") as host:
        members = await host.recover_members(timeout_seconds=session.remaining)
    show_members(members, session.format)
    lost = [member.name_label for member in members if not member.follows]
    if lost:
        _say(session, f"Not following: {', '.join(lost)}. A host follows when its daemon is back.")
        raise Ended(1)


def show_members(members: tuple[RecoveredMember, ...], shown_as: Format) -> None:
    """What became of each member."""
    if shown_as is Format.TABLE:
        rows = [[m.name_label, yes_no(m.follows), m.problem or ""] for m in members]
        table(["HOST", "FOLLOWS", "PROBLEM"], rows)
    elif shown_as is Format.NAME:
        for member in members:
            write(safe(member.name_label))
    else:
        found = [
            {"uuid": m.uuid, "name": m.name_label, "follows": m.follows, "problem": m.problem}
            for m in members
        ]
        data(found, shown_as)


# -- one host, and no other -----------------------------------------------------------------------


@asynccontextmanager
async def _one_host(session: Session, command: str) -> AsyncIterator[EmergencyHost]:
    """The host that is named; says which one it is."""
    from poolclient import EmergencyHost

    at = target(session.given.server)
    pool = contexts.load().get(at.context).pool if at.context else ""
    async with EmergencyHost.connect(_one_address(at, command), pool=pool) as host:
        asked = host.host
        of = f", of pool {asked.pool_name}" if asked.pool_name else ""
        _say(session, f"Asking {_called(asked)} at {asked.address}{of}.")
        yield host


def _say(session: Session, text: str) -> None:
    """A note; with -o json there is nothing but JSON on stderr, and the host is in the data."""
    if session.format is not Format.JSON:
        note(text)


def _one_address(at: Target, command: str) -> str:
    """The one address that is named; several are refused: which one becomes master is no chance."""
    if len(at.addresses) == 1:
        return at.addresses[0]
    where = f"context {at.context!r}" if at.context else "--server or POOL_SERVER"
    raise UsageError(
        f"This speaks to one host only, and {where} names {len(at.addresses)}: "
        f"{', '.join(at.addresses)}.",
        f"Name the one that is meant, for example `pool --server {at.addresses[0]} {command}`.",
    )


def _called(host: AskedHost) -> str:
    return host.name or "the host"


def _host_json(host: AskedHost) -> dict[str, Any]:
    return {"uuid": host.uuid or None, "name": host.name or None, "address": host.address}


def command_at(address: str, *words: str) -> str:
    """The command line that speaks to the host at an address; nothing is named for our socket."""
    server = [] if address == f"unix://{SOCKET}" else ["--server", address]
    return shlex.join(["pool", *server, *words])


# -- becoming the master --------------------------------------------------------------------------


def _ensure_confirmed(
    session: Session, host: AskedHost, outlook: EmergencyOutlook, *, accept_loss: bool
) -> None:
    """A person at a terminal is asked; everybody else is told the command to give."""
    lacks = outlook.may_lack and not accept_loss
    if not lacks and sys.stdin.isatty() and sys.stderr.isatty():
        sys.stderr.write(f"Type the host's name, {safe(outlook.name_label)}, to go on: ")
        sys.stderr.flush()
        if sys.stdin.readline().strip() == outlook.name_label:
            return
        note("Nothing was changed.")
        raise Ended(1)
    if session.format in {Format.JSON, Format.YAML}:
        data(_transition_json(host, outlook, None), session.format)
    from poolcore.errors import PoolError, Reason

    loss = ["--accept-loss"] if outlook.may_lack else []
    given = command_at(target(session.given.server).addresses[0], TRANSITION, "--yes", *loss)
    condition = "Once they are off: " if outlook.to_be_off else "If that is what you want: "
    error = PoolError(Reason.CONFIRMATION_MISSING, command=f"`{TRANSITION}`")
    raise Ended(report_error(error, session.format, hint=f"{condition}`{given}`."))


async def _made_master(session: Session, host: EmergencyHost, *, accept_loss: bool) -> Transition:
    from poolclient import OutcomeUnknown

    try:
        return await host.become_master(accept_loss=accept_loss, timeout_seconds=session.remaining)
    except OutcomeUnknown as error:
        hint = "Give the same command again: ALREADY_MASTER says that it was done."
        raise Ended(report_error(error, session.format, hint=hint)) from error


def _transition_json(
    host: AskedHost, outlook: EmergencyOutlook, done: Transition | None
) -> dict[str, Any]:
    return {
        "done": done is not None,
        "host": _host_json(host),
        "outlook": outlook_json(outlook),
        "head": None if done is None else _head_json(done.head),
    }


def _head_json(head: Head) -> dict[str, Any]:
    return {
        "incarnation": head.incarnation.counter,
        "incarnation_uuid": head.incarnation.uuid,
        "term": head.term,
        "revision": head.revision,
    }


def _show_done(host: AskedHost, done: Transition) -> None:
    """Who is master now, and what is left to be done."""
    outlook, head = done.outlook, done.head
    address = host.address
    note(
        f"{outlook.name_label} is the master of pool {outlook.pool_name}: incarnation "
        f"{head.incarnation.counter}, term {head.term}, revision {head.revision}."
    )
    for peer in outlook.to_be_off:
        dead = command_at(address, "host", "declare-dead", peer.name_label)
        _next(
            f"{peer.name_label} comes back as a member when its daemon starts. Until then what "
            f"runs there is unknown; `{dead}` if it is off for good."
        )
    if any(peer.answers for peer in outlook.peers):
        recover = command_at(address, "recover-members")
        _next(f"The other hosts follow by themselves; `{recover}` tells those that do not.")
    back = command_at(address, "designate-master", "HOST")
    _next(f"`{back}` hands the mastership back, once that host is in step (`pool status`).")


def _next(text: str) -> None:
    note(wrapped(text, indent="  "))
