"""Whether a host may join the pool, and everything that has to be put right before it may.

Pure: a decision over the pool's state and the facts that were gathered of the host. It is taken
twice, when the command is given and once more where only one writer is at work, right before the
commit that lets the host in (design §9).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

from poolcore.errors import PoolError, Reason
from poolcore.facts import HostFacts
from poolcore.model import Finding, Host, HostId
from poolcore.replica import State
from poolmaster.decide.preflight import (
    compatibility,
    essentials,
    fitness,
    membership,
    network_and_time,
)
from poolmaster.decide.preflight.case import Case, Check
from poolmaster.decide.preflight.codes import RULES, Code, Force, Rule

__all__ = [
    "CHECKS",
    "RULES",
    "WITNESS_CHECKS",
    "Check",
    "Code",
    "Force",
    "Rule",
    "preflight",
    "takes_hosts_in",
]

CHECKS: tuple[Check, ...] = (
    essentials.same_product_version,
    essentials.no_vms,
    essentials.default_network_only,
    essentials.no_extra_sr,
    membership.not_in_pool,
    membership.not_in_another_pool,
    membership.not_a_double,
    membership.at_rest,
    membership.room_in_pool,
    membership.storage_uuids_unused,
    compatibility.same_interfaces,
    compatibility.same_hypervisor,
    compatibility.same_processors,
    compatibility.same_abilities,
    compatibility.same_network_backend,
    compatibility.no_ha,
    network_and_time.management_address,
    network_and_time.same_management_network,
    network_and_time.reaches_members,
    network_and_time.same_time,
    fitness.disk_is_fit,
    fitness.etcd_is_fit,
)
"""In the order of the table's rows, which is the order of the findings."""

WITNESS_CHECKS: tuple[Check, ...] = (
    essentials.same_product_version,
    membership.not_in_pool,
    membership.not_in_another_pool,
    membership.not_a_double,
    membership.at_rest,
    compatibility.same_interfaces,
    network_and_time.management_address,
    network_and_time.reaches_members,
    network_and_time.same_time,
    fitness.disk_is_fit,
    fitness.etcd_is_fit,
)
"""Those for a host that votes and runs no VMs: what is about VMs, their disks and networks is not
asked of it, nor does it count against the pool's limit of hosts."""


def takes_hosts_in(master: Host) -> None:
    """`HOST_IS_WITNESS` if it is a witness, which is the master only of itself, until it joins."""
    if master.witness:
        problem = "it waits to be taken in by a pool, and cannot be the master of other hosts"
        raise PoolError(Reason.HOST_IS_WITNESS, host=master.name_label, problem=problem)


def preflight(
    pool: State,
    joining: HostFacts,
    *,
    master: HostId,
    would_vote: bool = False,
    force: bool = False,
) -> tuple[Finding, ...]:
    """Every reason why `joining` may not enter `pool`, and what its administrator should know.

    The host may join if no finding blocks (`Finding.blocks`). `would_vote`: the pool's own etcd is
    to have a member there. `force` marks what may be overridden as overridden; it stays in the
    answer. KeyError if `master` is no host of the pool.
    """
    case = Case(pool=pool, joining=joining, master=pool.host(master), would_vote=would_vote)
    # Of a host that is in the pool everything else is the pool's own, and no obstacle.
    checks = WITNESS_CHECKS if joining.witness else CHECKS
    if case.is_own_member:
        checks = (membership.not_in_pool,)
    findings = chain.from_iterable(check(case) for check in checks)
    return tuple(replace(f, overridden=True) if force and f.forceable else f for f in findings)
