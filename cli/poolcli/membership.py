"""Hosts coming and going: add-host and eject-host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Never

import typer

from poolcli import contexts
from poolcli.changes import as_json
from poolcli.completion import completer
from poolcli.failures import Ended, UsageError, report_error
from poolcli.findings import count, join_json, show_findings
from poolcli.nouns import RequestId, show_object
from poolcli.output import Format, data, note, write
from poolcli.session import Session, confirmed, saw
from poolcli.text import safe, safe_lines
from poolcli.waiting import ended, started

if TYPE_CHECKING:
    from poolclient import JoinRefused, PoolClient
    from poolcore.model import Finding, Host

NoWait = Annotated[
    bool, typer.Option("--no-wait", help="Print the task and let it go on by itself.")
]


async def add_host(
    session: Session,
    address: Annotated[
        str,
        typer.Argument(metavar="ADDRESS|CONTEXT", help="The host: HOST, HOST:PORT or a context."),
    ],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check only; with -o script, print the remedies.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Override the findings that may be overridden.")
    ] = False,
    no_wait: NoWait = False,
    request_id: RequestId = None,
) -> None:
    """Check a host and take it into the pool."""
    if session.format is Format.SCRIPT and not dry_run:
        raise UsageError("-o script goes with --dry-run.")
    endpoint, context = _endpoint(address)
    async with session.pool() as pool:
        if dry_run:
            await _check(session, pool, endpoint, force)
            return
        host, findings = await _join(
            session, pool, endpoint, force=force, no_wait=no_wait, request_id=request_id
        )
        if host is not None and context:
            saw(context, pool.pool_uuid)
    if host is None:
        return
    if session.format is Format.TABLE:
        show_findings(findings)
        note(f"{host.name_label} has joined the pool.")
    elif session.format is Format.NAME:
        write(safe(host.name_label))
    else:
        data(join_json(True, as_json(host), findings), session.format)


def _endpoint(address: str) -> tuple[str, str]:
    """The address to give to the pool, and the context that stands for that host, if any."""
    known = contexts.load()
    context = known.by_name.get(address)
    if context is not None:
        remote = [a for a in context.addresses if not a.startswith("unix:")]
        if not remote:
            raise UsageError(
                f"Context {address!r} has only a local socket; other hosts cannot reach that.",
                "Give the host's address.",
            )
        return remote[0], context.name
    from poolclient import InvalidRequest, normal_address

    try:
        found = known.at(address) or known.at(normal_address(address))
    except InvalidRequest:
        found = None  # the pool says what is wrong with it
    return address, found.name if found else ""


async def _check(session: Session, pool: PoolClient, endpoint: str, force: bool) -> None:
    check = await pool.check_host(endpoint, force=force, timeout_seconds=session.remaining)
    if session.format is Format.SCRIPT:
        from poolcore.remedy_script import remedy_script

        write(safe_lines(remedy_script(check.findings).rstrip("\n")))
    elif session.format is Format.TABLE:
        show_findings(check.findings)
        verdict = "fits into the pool" if check.may_join else "does not fit into the pool"
        found = f": {count(check.findings)}." if check.findings else "."
        note(f"{check.host_name} {verdict}{found} Nothing was changed.")
    elif session.format is Format.NAME:
        for finding in check.findings:
            write(finding.code)
    else:
        data(join_json(False, None, check.findings), session.format)
    if not check.may_join:
        raise Ended(5)


async def _join(
    session: Session,
    pool: PoolClient,
    endpoint: str,
    *,
    force: bool,
    no_wait: bool,
    request_id: str | None,
) -> tuple[Host | None, Sequence[Finding]]:
    from poolclient import JoinRefused

    try:
        handle = await pool.add_host(
            endpoint, force=force, timeout_seconds=session.remaining, request_id=request_id
        )
        if no_wait:
            started(session, handle.task)
            return None, ()
        task = await ended(session, handle)
    except JoinRefused as refused:
        _refused(session, refused)
    return await pool.hosts.get(task.subject or task.params["host"]), task.findings


def _refused(session: Session, refused: JoinRefused) -> Never:
    session.task = ""
    if session.format is Format.TABLE:
        show_findings(refused.findings)
    elif session.format is Format.NAME:
        for finding in refused.findings:
            write(finding.code)
    else:
        data(join_json(False, None, refused.findings), session.format)
    raise Ended(report_error(refused, session.format))


async def eject_host(
    session: Session,
    host: Annotated[
        str,
        typer.Argument(
            metavar="HOST",
            help="Its name, uuid, or a unique prefix of either.",
            autocompletion=completer("host"),
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    no_wait: NoWait = False,
    request_id: RequestId = None,
) -> None:
    """Have a host leave and become a pool of its own, with its local storage."""
    session.refuse_format(Format.SCRIPT)
    async with session.pool() as pool:
        found = await pool.hosts.get(host)
        question = f"Eject {safe(found.name_label)} ({found.uuid}) from the pool?"
        if not confirmed(question, yes=yes):
            note("Nothing was changed.")
            raise Ended(1)
        handle = await pool.eject_host(found, request_id=request_id)
        if no_wait:
            started(session, handle.task)
            return
        task: Any = await ended(session, handle)
    if session.format is Format.TABLE:
        note(f"{found.name_label} has left and is a pool of its own.")
    else:
        show_object(task, session.format)
