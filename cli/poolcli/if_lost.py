"""What the loss of hosts would come to: `pool status --if-lost`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poolcli.failures import UsageError
from poolcli.nouns import short
from poolcli.output import Format, data, fields, show_warnings, table, write
from poolcli.session import Session
from poolcli.text import safe

if TYPE_CHECKING:
    from poolcore.outlook import Outlook


async def show_if_lost(session: Session, names: str) -> None:
    """The outlook without the hosts of a list with commas; -o name: the next master's name."""
    hosts = [name.strip() for name in names.split(",") if name.strip()]
    if not hosts:
        raise UsageError("--if-lost names no host.", "`pool host list` shows what there is.")
    async with session.pool() as pool:
        outlook, freshness = await pool.if_lost(*hosts)
    if session.format is Format.TABLE:
        show_outlook(outlook)
    elif session.format is Format.NAME:
        if outlook.next_master is not None:
            write(safe(outlook.next_master.name_label))
    else:
        data(outlook_json(outlook) | {"fresh": not freshness.stale}, session.format)


def outlook_json(outlook: Outlook) -> dict[str, Any]:
    """The outlook as scripts get it."""
    from poolcore.replica import plain

    value: dict[str, Any] = plain(outlook)
    return value


def show_outlook(outlook: Outlook) -> None:
    """The outlook as people get it."""
    names = {host.uuid: host.name_label for host in outlook.lost}
    srs = {sr.uuid: sr.name_label for sr in outlook.srs}
    fields(
        [
            ("If lost", ", ".join(host.name_label for host in outlook.lost)),
            ("Master now", outlook.master.name_label if outlook.master else "none known"),
            ("Master then", _next_master(outlook)),
            ("Writing", _writing(outlook)),
        ]
    )
    _section(
        ["STRANDED VM", "POWER STATE", "HOST", "UUID"],
        [
            [vm.name_label, vm.power_state.value, names.get(vm.resident_on, ""), short(vm.uuid)]
            for vm in outlook.vms
        ],
    )
    _section(
        ["SR OUT OF REACH", "TYPE", "SHARED", "UUID"],
        [
            [sr.name_label, sr.type, "yes" if sr.shared else "no", short(sr.uuid)]
            for sr in outlook.srs
        ],
    )
    _section(
        ["VDI OUT OF REACH", "SR", "UUID"],
        [[vdi.name_label, srs.get(vdi.sr, ""), short(vdi.uuid)] for vdi in outlook.vdis],
    )
    _section(
        ["NETWORK WITHOUT A PIF", "UUID"],
        [[network.name_label, short(network.uuid)] for network in outlook.networks],
    )
    show_warnings(outlook.warnings)


def _section(headers: list[str], rows: list[list[str]]) -> None:
    if rows:
        write("")
        table(headers, rows)


def _next_master(outlook: Outlook) -> str:
    if outlook.next_master is None:
        return "none"
    name = outlook.next_master.name_label
    if outlook.next_master == outlook.master:
        return f"{name}, as now"
    return f"{name}, by itself" if outlook.writes else f"{name}, if a person makes it so"


def _writing(outlook: Outlook) -> str:
    if not outlook.writes:
        return "ends until a person acts"
    lost = {0: "no further host", 1: "one further host"}
    count = lost.get(outlook.survives, f"{outlook.survives} further hosts")
    return f"goes on by itself; {count} may be lost then"
