"""Rows 5 to 10: the host is free to join, nothing is going on there, and it is not a double."""

from __future__ import annotations

from collections.abc import Iterator

from poolcore.model import SR, VDI, VM, Finding, Host
from poolmaster.decide.preflight import remedies
from poolmaster.decide.preflight.case import Case, listing, one_each, shown
from poolmaster.decide.preflight.codes import Code


def not_in_pool(case: Case) -> Iterator[Finding]:
    """Row 5."""
    if not case.is_own_member:
        return
    role = "the master" if case.joining.host == case.master.uuid else "a member"
    yield case.finding(
        Code.ALREADY_IN_POOL,
        expected="a host outside the pool",
        actual=f"{role} of the pool",
        explanation=f"{case.name} is {role} of pool “{case.pool_name}” already.",
        remedy="There is nothing to do; `pool host list` shows the pool's hosts.",
    )


def not_in_another_pool(case: Case) -> Iterator[Finding]:
    """Row 6: a pool of one may be given up, a larger one would lose a host."""
    if case.is_own_member or case.joining.pool_hosts <= 1:
        return
    role = "master" if case.joining.is_master else "member"
    other = shown(case.joining.pool_name)
    first = "Eject it from its pool"
    if case.joining.is_master:
        first = "Designate another master there, `pool designate-master HOST`, then eject it"
    yield case.finding(
        Code.IN_ANOTHER_POOL,
        expected="a pool of one",
        actual=f"{role} of pool “{other}”, which has {case.joining.pool_hosts} hosts",
        explanation=f"{case.name} is {role} of another pool with other hosts, “{other}”, and a "
        "host is in one pool at a time.",
        remedy=f"{first}, asking a host of that pool: "
        f"`pool eject-host {shown(case.joining.host)}`. It keeps its local SRs.",
    )


def not_a_double(case: Case) -> Iterator[Finding]:
    """Row 7: uuid, name and address are unused in the pool."""
    joining = case.joining
    if case.is_own_member:
        return
    endpoints = {address.endpoint for address in joining.addresses}
    for host in sorted(case.pool.all(Host), key=lambda h: h.uuid):
        other = shown(host.name_label)
        if host.uuid == joining.host:
            yield case.finding(
                Code.DUPLICATE_HOST_UUID,
                expected="a uuid of its own",
                actual=f"{shown(joining.host)}, as {other}",
                explanation=f"{case.name} has the same uuid as {other} in the pool: one was "
                "copied from the other, or left the pool without its knowledge.",
                remedy="If it is a copy of that host, give it a fresh state directory; if it is "
                "that host itself, forget it in the pool first: "
                f"`pool host forget {host.uuid}`.",
            )
        if host.name_label == joining.name_label:
            yield case.finding(
                Code.DUPLICATE_HOST_NAME,
                expected="a name that no host of the pool has",
                actual=other,
                explanation=f"The pool has a host named {other}, and commands could mean either.",
                remedy=f"Rename one of them: `pool host set {host.uuid} name_label=NAME` here, or "
                "the same at the joining host.",
            )
        for endpoint in sorted(endpoints & {address.endpoint for address in host.addresses}):
            yield case.finding(
                Code.DUPLICATE_HOST_ADDRESS,
                subject=shown(endpoint),
                expected="an address that no host of the pool has",
                actual=f"{shown(endpoint)}, as {other}",
                explanation=f"{case.name} says it is reached at {shown(endpoint)}, which is where "
                f"the pool reaches {other}.",
                remedy="Give it an address of its own: `listen` or `advertise` in "
                "/etc/poolmember/config.toml, then `systemctl restart poolmember`.",
            )


def at_rest(case: Case) -> Iterator[Finding]:
    """Row 8: no operation runs on it, it is not booting and not updating."""
    if case.joining.booting:
        yield case.finding(
            Code.STILL_BOOTING,
            expected="a host that has started",
            actual="still starting",
            explanation=f"{case.name} is still starting, and what it says of itself may be "
            "incomplete.",
            remedy=remedies.wait(case, until="it has started", key="`booting`"),
        )
    if case.joining.updating:
        yield case.finding(
            Code.IS_UPDATING,
            expected="no update under way",
            actual="updating",
            explanation=f"The software of {case.name} is just being updated.",
            remedy=remedies.wait(case, until="the update has ended", key="`updating`"),
        )
    if case.joining.operations:
        yield case.finding(
            Code.HAS_OPERATIONS,
            expected="no operation running",
            actual=listing(case.joining.operations),
            explanation=f"Operations run on {case.name}: {listing(case.joining.operations)}.",
            remedy=remedies.wait(
                case, until="they have ended; `pool task list` there shows them", key="`operations`"
            ),
        )
    for vm in case.found(VM):
        if vm.current_operations:
            yield case.finding(
                Code.HAS_OPERATIONS,
                subject=shown(vm.name_label),
                expected="no operation running",
                actual=listing(vm.current_operations),
                explanation=f"Something is being done with the VM “{shown(vm.name_label)}”: "
                f"{listing(vm.current_operations)}.",
                remedy=remedies.elsewhere(
                    case,
                    real=f"Wait for it to end: `virsh domjobinfo {shown(vm.uuid)}` shows it.",
                    key="`operations` of that [[vm]]",
                ),
            )


def room_in_pool(case: Case) -> Iterator[Finding]:
    """Row 9; witnesses do not count."""
    limit = case.pool.pool.host_limit
    hosts = sum(not host.witness for host in case.pool.all(Host))
    if hosts >= limit and not case.is_own_member:
        yield case.finding(
            Code.POOL_SIZE_LIMIT,
            subject=case.pool_name,
            expected=f"fewer than {limit} hosts in the pool",
            actual=f"{hosts} hosts",
            explanation=f"Pool “{case.pool_name}” has {hosts} hosts and takes no more than "
            f"{limit}.",
            remedy="Eject a host that is not needed any more: `pool eject-host HOST`.",
        )


def storage_uuids_unused(case: Case) -> Iterator[Finding]:
    """Row 10: of local SRs and the disk images in them; shared ones are row 4's."""
    if case.is_own_member:
        return
    local = {sr.uuid: sr for sr in case.found(SR) if not sr.shared}
    doubles: list[SR | VDI] = [sr for sr in local.values() if case.pool.get(SR, sr.uuid)]
    doubles += [v for v in case.found(VDI) if v.sr in local and case.pool.get(VDI, v.uuid)]

    def finding(obj: SR | VDI) -> Finding:
        sr = obj if isinstance(obj, SR) else local[obj.sr]
        what = "SR" if isinstance(obj, SR) else "disk image"
        return case.finding(
            Code.DUPLICATE_SR_UUID,
            subject=shown(obj.name_label),
            expected="a uuid that is unused in the pool",
            actual=shown(obj.uuid),
            explanation=f"The {what} “{shown(obj.name_label)}” on {case.name} has the uuid of one "
            "that the pool has: one host was copied from the other.",
            remedy=remedies.renew_sr_uuid(case, sr),
        )

    def rest(count: int) -> Finding:
        return case.finding(
            Code.DUPLICATE_SR_UUID,
            subject=f"{count} more disk images",
            expected="uuids that are unused in the pool",
            actual=f"{count} disk images beyond those listed",
            explanation=f"{count} more disk images on {case.name} have uuids of the pool's.",
            remedy="They get new ones with their SR.",
        )

    return (yield from one_each(doubles, finding, rest))
