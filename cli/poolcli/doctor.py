"""What on this host or pool is not as it should be, with the remedy."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from poolcli import contexts
from poolcli.failures import Ended
from poolcli.output import Format, bold, data, note, write
from poolcli.session import SOCKET, Session, Target, no_host_hint, target
from poolcli.text import duration, safe, size, wrapped

if TYPE_CHECKING:
    from poolclient import HostReport, PoolStatus

State = Literal["ok", "warning", "problem"]

HOST_SECONDS = 3.0
CLOCK_WARNING_SECONDS, CLOCK_LIMIT_SECONDS = 0.2, 1.0
FSYNC_WARNING_SECONDS = 0.01
DISK_WARNING_BYTES = 1024 * 1024 * 1024
NO_MASTER = "NO_MASTER"
"""The warning of a host without one, which says why."""
SERIOUS = frozenset({"ETCD_FULL", "HOST_FORGOTTEN", "VMS_UNKNOWN"})
"""Warnings of the pool that are problems: something has ended, does not go on, or may be lost."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that was looked at."""

    check: str
    state: State
    message: str
    remedy: str = ""


async def doctor(session: Session) -> None:
    """Look for what is not as it should be; exit code 1 if there is a problem."""
    session.refuse_format(Format.SCRIPT, Format.NAME)
    at = target(session.given.server)
    found = [*_configuration(), *_socket(at)]
    found += await _pool(session, at)
    if session.format is Format.TABLE:
        for diagnosis in found:
            _show(diagnosis)
    else:
        data(
            [
                {"check": d.check, "state": d.state, "message": d.message, "remedy": d.remedy}
                for d in found
            ],
            session.format,
        )
    problems = sum(d.state == "problem" for d in found)
    if problems:
        note(f"{problems} problem{'' if problems == 1 else 's'}.")
        raise Ended(1)


def _show(diagnosis: Diagnosis) -> None:
    indent = " " * 21
    text = wrapped(safe(diagnosis.message), indent=indent)
    state = diagnosis.state if diagnosis.state == "ok" else bold(diagnosis.state)
    write(f"{state}{' ' * (9 - len(diagnosis.state))}{diagnosis.check:<12}{text.lstrip()}")
    if diagnosis.remedy:
        write(wrapped(safe(diagnosis.remedy), indent=indent))


def _configuration() -> Iterator[Diagnosis]:
    file = contexts.path()
    if file.exists():
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & 0o077:
            message = f"{file} can be read by others (mode {mode:04o})."
            yield Diagnosis("contexts", "warning", message, f"chmod 600 {file}")
        else:
            yield Diagnosis("contexts", "ok", f"{file} is readable to its owner only.")


def _socket(at: Target) -> Iterator[Diagnosis]:
    path = Path(SOCKET)
    if at.addresses != (f"unix://{SOCKET}",):
        return
    if not path.exists():
        return  # that no host answers says it
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        message = f"{path} is open to others (mode {mode:04o})."
        yield Diagnosis("socket", "problem", message, "Restart poolmember: it makes it 0600.")
    else:
        yield Diagnosis("socket", "ok", f"{path} is there, for root only.")


async def _pool(session: Session, at: Target) -> list[Diagnosis]:
    from poolclient import NoHostAnswers

    try:
        async with session.pool(at) as pool:
            status = await pool.status()
            hosts = await pool.hosts.list()
            answered = pool.address
    except NoHostAnswers as error:
        remedy = no_host_hint(at) or error.remedy
        return [Diagnosis("daemon", "problem", error.message, remedy)]
    found = [Diagnosis("daemon", "ok", f"{answered} answers for pool {status.pool_name}.")]
    found += _master(status)
    found += _versions({h.name_label: h.software_version.product_version for h in hosts})
    for host in status.hosts:
        found += _membership(status, host.uuid)
    reports = await asyncio.gather(*(_ask(host.name, host.address) for host in status.hosts))
    for report in reports:
        found += report
    found += [
        Diagnosis("pool", "problem" if w.code in SERIOUS else "warning", w.message, w.remedy)
        for w in status.warnings
        if w.code != NO_MASTER
    ]
    return found


def _master(status: PoolStatus) -> Iterator[Diagnosis]:
    master = status.master
    if master is not None:
        yield Diagnosis("master", "ok", f"{master.name} is the master.")
        return
    why = next((w for w in status.warnings if w.code == NO_MASTER), None)
    message = "The host that answers has no master." if why is None else why.message
    remedy = "The warning below says why." if why is None else why.remedy
    yield Diagnosis("master", "problem", message, remedy)


def _versions(versions: dict[str, str]) -> Iterator[Diagnosis]:
    from poolcore import PRODUCT_VERSION

    for host, version in sorted(versions.items()):
        if version != PRODUCT_VERSION:
            message = f"{host} runs {version}, this command is of {PRODUCT_VERSION}."
            remedy = "Install the same release on all hosts."
            yield Diagnosis("version", "warning", message, remedy)
    if set(versions.values()) == {PRODUCT_VERSION}:
        yield Diagnosis("version", "ok", f"All hosts run {PRODUCT_VERSION}, as this command does.")


def _membership(status: PoolStatus, uuid: str) -> Iterator[Diagnosis]:
    host = next(h for h in status.hosts if h.uuid == uuid)
    if status.freshness.stale:
        return
    if host.declared_dead:
        return
    if not host.live:
        message = f"{host.name} has no session to the master."
        yield Diagnosis("host", "problem", message, f"Check poolmember on {host.address}.")
    elif not host.in_step and host.lag_seconds > 1:
        message = f"{host.name} is {duration(host.lag_seconds)} behind."
        yield Diagnosis("host", "warning", message, "Check its disk and its network.")


async def _ask(name: str, address: str) -> list[Diagnosis]:
    from poolclient import PoolClient, PoolClientError

    try:
        async with (
            asyncio.timeout(HOST_SECONDS),
            PoolClient.connect(address, timeout_seconds=HOST_SECONDS) as host,
        ):
            report = await host.host_report()
    except (PoolClientError, TimeoutError):
        message = f"{name} does not answer at {address} from here."
        remedy = "If it does at the other hosts, this is this machine's network."
        return [Diagnosis("host", "warning", message, remedy)]
    return list(_report(name, report))


def _report(name: str, report: HostReport) -> Iterator[Diagnosis]:
    yield Diagnosis("host", "ok", f"{name} answers at {report.address}.")
    offset = report.facts.clock_offset_seconds + report.clock_offset_seconds
    if abs(offset) > CLOCK_WARNING_SECONDS:
        state: State = "problem" if abs(offset) > CLOCK_LIMIT_SECONDS else "warning"
        message = f"{name}'s clock is {offset:+.1f} s from this machine's."
        remedy = "Synchronise the clocks, for example with chrony."
        yield Diagnosis("clock", state, message, remedy)
    if report.facts.fsync_seconds > FSYNC_WARNING_SECONDS:
        message = f"An fsync takes {report.facts.fsync_seconds * 1000:.0f} ms at {name}."
        yield Diagnosis("disk", "warning", message, "Put its state directory on a quicker disk.")
    if report.facts.free_disk_bytes < DISK_WARNING_BYTES:
        message = f"{name} has {size(report.facts.free_disk_bytes)} left for its state."
        yield Diagnosis("disk", "warning", message, "Make room in its state directory.")
