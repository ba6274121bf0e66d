"""Rows 11 to 16: the host can work with the pool's other hosts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from poolcore.model import SR, Finding, Host
from poolmaster.decide.preflight import remedies
from poolmaster.decide.preflight.case import Case, listing, shown
from poolmaster.decide.preflight.codes import Code


def same_interfaces(case: Case) -> Iterator[Finding]:
    """Row 11: version of the API and of what is written to disk."""
    expected, actual = case.master.software_version, case.joining.software_version
    remedy = remedies.install_release(case, expected.product_version)
    if actual.api_version != expected.api_version:
        yield case.finding(
            Code.SAME_API_VERSION,
            expected=str(expected.api_version),
            actual=str(actual.api_version),
            explanation=f"{case.name} speaks version {actual.api_version} of the API, the pool "
            f"version {expected.api_version}.",
            remedy=remedies.elsewhere(case, real=remedy, key="`api_version`"),
        )
    if actual.schema_version != expected.schema_version:
        yield case.finding(
            Code.SAME_SCHEMA,
            expected=str(expected.schema_version),
            actual=str(actual.schema_version),
            explanation=f"{case.name} keeps its data in schema {actual.schema_version}, the pool "
            f"in schema {expected.schema_version}.",
            remedy=remedies.elsewhere(case, real=remedy, key="`schema_version`"),
        )


def same_hypervisor(case: Case) -> Iterator[Finding]:
    """Row 12: versions are comparable only within a kind."""
    expected, actual = case.master.hypervisor, case.profile.hypervisor
    if actual.kind != expected.kind:
        yield case.finding(
            Code.NOT_COMPATIBLE,
            expected=expected.kind,
            actual=shown(actual.kind),
            explanation=f"{case.name} drives {shown(actual.kind)} and the pool {expected.kind}: "
            "no VM could run on both.",
            remedy=remedies.elsewhere(
                case,
                real=f"Choose a host with {expected.kind}, or let poolmember drive that: "
                "`driver` in /etc/poolmember/config.toml.",
                key="`kind` in the table [hypervisor]",
            ),
        )
    elif actual.version != expected.version:
        yield case.finding(
            Code.NOT_COMPATIBLE,
            expected=f"{expected.kind} {expected.version}",
            actual=f"{expected.kind} {shown(actual.version)}",
            explanation=f"{case.name} has version {shown(actual.version)} of {expected.kind} and "
            f"the master {expected.version}; VMs may not migrate from the newer to the older.",
            remedy=remedies.elsewhere(
                case,
                real=f"Install version {expected.version} of {expected.kind} on {case.name}, or "
                "let it join with --force and bring the pool to one version soon.",
                key="`version` in the table [hypervisor]",
            ),
            forceable=True,
        )


def same_processors(case: Case) -> Iterator[Finding]:
    """Row 13: vendors and features are comparable only within an architecture."""
    expected, actual = case.master.cpu, case.profile.cpu
    if actual.arch != expected.arch:
        yield case.finding(
            Code.NOT_HOMOGENEOUS,
            subject=f"CPU architecture of {case.name}",
            expected=expected.arch,
            actual=shown(actual.arch),
            explanation=f"{case.name} is {shown(actual.arch)} and the pool {expected.arch}: no VM "
            "could run on both.",
            remedy=remedies.elsewhere(
                case,
                real=f"Choose a host with {expected.arch} processors.",
                key="`arch` in the table [cpu]",
            ),
        )
        return
    if actual.vendor != expected.vendor:
        yield case.finding(
            Code.NOT_HOMOGENEOUS,
            subject=f"CPU vendor of {case.name}",
            expected=expected.vendor,
            actual=shown(actual.vendor),
            explanation=f"The processors of {case.name} are made by {shown(actual.vendor)}, the "
            f"pool's by {expected.vendor}: running VMs cannot migrate between them.",
            remedy=remedies.elsewhere(
                case,
                real="Choose another host, or let it join with --force and move VMs to and from "
                "it only while they are shut down.",
                key="`vendor` in the table [cpu]",
            ),
            forceable=True,
        )
    lacking = _common(host.cpu.features for host in _hypervisors(case)) - actual.features
    if lacking:
        yield case.finding(
            Code.NOT_HOMOGENEOUS,
            subject=f"CPU features of {case.name}",
            expected="every feature that all hosts of the pool have",
            actual=f"without {listing(lacking)}",
            explanation=f"The processors of {case.name} lack features that every host of the pool "
            f"has and VMs may use: {listing(lacking)}.",
            remedy=remedies.elsewhere(
                case,
                real="Switch them on in the host's firmware if it has them; or let it join with "
                "--force and give VMs a CPU model without them.",
                key="`features` in the table [cpu]",
            ),
            forceable=True,
        )


def same_abilities(case: Case) -> Iterator[Finding]:
    """Row 14: what the pool's shared storage and all its hosts' drivers need."""
    types = {sr.type for sr in case.pool.all(SR) if sr.shared} - case.profile.storage_types
    for type_ in sorted(types):
        names = listing(s.name_label for s in case.pool.all(SR) if s.shared and s.type == type_)
        yield case.finding(
            Code.FEATURES_INCOMPATIBLE,
            subject=f"storage type {shown(type_)}",
            expected=f"can attach SRs of type {shown(type_)}",
            actual=f"can attach {listing(case.profile.storage_types) or 'none'}",
            explanation=f"The pool shares storage of type {shown(type_)} ({names}), which "
            f"{case.name} cannot attach.",
            remedy=remedies.elsewhere(
                case,
                real=f"Install libvirt's storage driver for {shown(type_)} on {case.name} and "
                "`systemctl restart libvirtd`; running VMs are not touched.",
                key="`storage_types`",
            ),
        )
    lacking = _common(host.capabilities for host in _hypervisors(case))
    lacking -= case.profile.capabilities
    if lacking:
        yield case.finding(
            Code.FEATURES_INCOMPATIBLE,
            subject=f"capabilities of {case.name}",
            expected="every capability that all hosts of the pool have",
            actual=f"without {listing(lacking)}",
            explanation=f"All hosts of the pool can do this, and {case.name} cannot: "
            f"{listing(lacking)}.",
            remedy=remedies.elsewhere(
                case,
                real=f"Bring the hypervisor of {case.name} to the version and the packages that "
                "the pool's hosts have.",
                key="`capabilities`",
            ),
        )


def same_network_backend(case: Case) -> Iterator[Finding]:
    """Row 15."""
    expected, actual = case.master.network_backend, case.profile.network_backend
    if actual != expected:
        yield case.finding(
            Code.BACKENDS_DIFFER,
            expected=expected,
            actual=shown(actual),
            explanation=f"{case.name} switches its networks with {shown(actual)}, the pool with "
            f"{expected}: a network of the pool would not work the same on both.",
            remedy=remedies.elsewhere(
                case,
                real=f"Set up the networks of {case.name} with {expected}.",
                key="`network_backend`",
            ),
        )


def no_ha(case: Case) -> Iterator[Finding]:
    """Row 16."""
    if case.pool.pool.ha_enabled:
        yield case.finding(
            Code.HA_IS_ENABLED,
            subject=case.pool_name,
            expected="high availability off",
            actual="on",
            explanation=f"Pool “{case.pool_name}” restarts the VMs of lost hosts by a plan that "
            f"does not know {case.name} yet.",
            remedy="Switch high availability off, let the host join, and switch it on again.",
        )


def _hypervisors(case: Case) -> Iterator[Host]:
    """The pool's hosts that run VMs: no VM ever migrates to or from a witness."""
    return (host for host in case.pool.all(Host) if not host.witness)


def _common(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    all_sets = list(sets)
    return frozenset.intersection(*all_sets) if all_sets else frozenset()
