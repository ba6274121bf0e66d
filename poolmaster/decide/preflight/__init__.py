"""Whether a host may join the pool, and everything that has to be put right before it may.

Pure: a decision over the pool's state and the facts that were gathered of the host. It is taken
twice, when the command is given and once more where only one writer is at work, right before the
commit that lets the host in (design §9).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

from poolcore.facts import HostFacts
from poolcore.model import Finding, HostId
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

__all__ = ["CHECKS", "RULES", "Check", "Code", "Force", "Rule", "preflight"]

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
)
"""In the order of the table's rows, which is the order of the findings."""


def preflight(
    pool: State, joining: HostFacts, *, master: HostId, force: bool = False
) -> tuple[Finding, ...]:
    """Every reason why `joining` may not enter `pool`, and what its administrator should know.

    The host may join if no finding blocks (`Finding.blocks`). `force` marks what may be overridden
    as overridden; it stays in the answer. KeyError if `master` is no host of the pool.
    """
    case = Case(pool=pool, joining=joining, master=pool.host(master))
    # Of a host that is in the pool everything else is the pool's own, and no obstacle.
    checks = (membership.not_in_pool,) if case.is_own_member else CHECKS
    findings = chain.from_iterable(check(case) for check in checks)
    return tuple(replace(f, overridden=True) if force and f.forceable else f for f in findings)
