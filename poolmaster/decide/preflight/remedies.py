"""What to do about a finding, for hosts of each hypervisor.

A remedy is a few sentences; commands in it stand between backquotes, in the order in which they
are to be run on the joining host. Whatever would lose data comes after what saves it, and says so.
Objects are named to `virsh` by their uuid, which cannot mean another one.
"""

from __future__ import annotations

import shlex
import uuid as uuidlib

from poolcore.model import PBD, SR, VM, Network, PowerState
from poolmaster.decide.preflight.case import Case, shown

_IN_FILE = "the simulated host's file"


def install_release(case: Case, version: str) -> str:
    """Row 1."""
    if case.is_simulated:
        return f'Set `product_version = "{version}"` in {_IN_FILE}, or leave the key out there.'
    return (
        f"Install release {version} on {case.name}, then `systemctl restart poolmember`; VMs run "
        "on meanwhile. If the host has the newer release, update the pool first."
    )


def remove_vm(case: Case, vm: VM) -> str:
    """Row 2: nothing here deletes a disk."""
    if case.is_simulated:
        return (
            f"Note what you need of it, then take the [[vm]] table “{shown(vm.name_label)}” out of "
            f"{_IN_FILE}."
        )
    uuid = shlex.quote(shown(vm.uuid))
    save = f"save its definition with `virsh dumpxml --inactive {uuid} > {uuid}.xml`"
    undefine = f"`virsh undefine --keep-nvram {uuid}`"
    match vm.power_state:
        case PowerState.HALTED:
            return (
                f"Migrate it, or {save} first, then undefine it with {undefine}; its disks stay "
                "where they are."
            )
        case PowerState.SUSPENDED:
            return (
                f"Migrate it, or {save}, wake it up with `virsh start {uuid}` and shut it down "
                f"from within with `virsh shutdown {uuid}`, then undefine it with {undefine}. "
                "Undefining it while it is suspended would lose its memory."
            )
        case PowerState.RUNNING | PowerState.PAUSED | PowerState.UNKNOWN:
            resume = f"`virsh resume {uuid}` and " if vm.power_state is PowerState.PAUSED else ""
            return (
                f"Migrate it, or {save}, shut it down from within with {resume}"
                f"`virsh shutdown {uuid}`, then undefine it with {undefine}; its disks stay where "
                "they are."
            )


def list_vms(case: Case) -> str:
    """Row 2, for the VMs that got no finding of their own."""
    if case.is_simulated:
        return f"Take the other [[vm]] tables out of {_IN_FILE}, too."
    return "Do the same with the others: `virsh list --all` shows them."


def remove_network(case: Case, network: Network) -> str:
    """Row 3."""
    if case.is_simulated:
        return (
            f"Take the [[network]] table “{shown(network.name_label)}” out of {_IN_FILE} and make "
            "the network in the pool after the join."
        )
    if _is_libvirts_own(network.uuid):
        uuid = shlex.quote(shown(network.uuid))
        return (
            f"Save its definition with `virsh net-dumpxml {uuid} > {uuid}.xml`, then, if it is "
            f"active, `virsh net-destroy {uuid}`, and `virsh net-undefine {uuid}`. Make it in the "
            "pool after the join."
        )
    bridge = shlex.quote(shown(network.bridge))
    return (
        f"Take the bridge {bridge} out of the host's network configuration, then "
        f"`ip link delete {bridge}`. Whoever is connected through it is cut off."
    )


def _is_libvirts_own(uuid: str) -> bool:
    # What libvirt does not know has a uuid derived from its name, which is of version 5.
    try:
        return uuidlib.UUID(uuid).version != 5
    except ValueError:
        return True


def list_networks(case: Case) -> str:
    """Row 3, for the networks that got no finding of their own."""
    if case.is_simulated:
        return f"Take the other [[network]] tables out of {_IN_FILE}, too."
    return "Do the same with the others: `virsh net-list --all` shows libvirt's."


def remove_interface(case: Case, table: str, device: str) -> str:
    """Row 3: a bond, VLAN or tunnel."""
    if case.is_simulated:
        return f"Take the {table} table “{device}” out of {_IN_FILE}."
    name = shlex.quote(device)
    return (
        f"Take {name} out of the host's network configuration, then `ip link delete {name}`. "
        "Whoever is connected through it is cut off."
    )


def remove_sr(case: Case, sr: SR) -> str:
    """Row 4: forgetting a pool of libvirt leaves what is stored in it alone."""
    if case.is_simulated:
        return f"Take the [[sr]] table “{shown(sr.name_label)}” out of {_IN_FILE}."
    uuid = shlex.quote(shown(sr.uuid))
    again = "; connect it to the pool after the join" if sr.shared else ""
    return (
        f"Save its definition with `virsh pool-dumpxml {uuid} > {uuid}.xml`, then "
        f"{_stop_pool(case, sr)}`virsh pool-undefine {uuid}`: that ends the connection and keeps "
        f"the data{again}. Never use pool-delete, which does not keep it."
    )


def _stop_pool(case: Case, sr: SR) -> str:
    active = any(pbd.sr == sr.uuid and pbd.currently_attached for pbd in case.found(PBD))
    return f"`virsh pool-destroy {shlex.quote(shown(sr.uuid))}` and " if active else ""


def list_srs(case: Case) -> str:
    """Row 4, for the SRs that got no finding of their own."""
    if case.is_simulated:
        return f"Take the other [[sr]] tables out of {_IN_FILE}, too."
    return "Do the same with the others: `virsh pool-list --all` shows them."


def renew_sr_uuid(case: Case, sr: SR) -> str:
    """Row 10."""
    if case.is_simulated:
        return f"Give “{shown(sr.name_label)}” another uuid in {_IN_FILE}."
    uuid = shlex.quote(shown(sr.uuid))
    return (
        f"Save the definition with `virsh pool-dumpxml {uuid} > {uuid}.xml` and take the line "
        f"<uuid> out of the file; then {_stop_pool(case, sr)}`virsh pool-undefine {uuid}`, which "
        f"keep the data, and `virsh pool-define {uuid}.xml`, which gives it a uuid of its own."
    )


def set_clock(case: Case) -> str:
    """Row 20."""
    if case.is_simulated:
        return f"Set `clock_skew_seconds = 0.0` in {_IN_FILE}."
    return (
        "Let both hosts follow the same time servers: `timedatectl set-ntp true`, then, with "
        "chrony, `chronyc makestep` sets the clock at once."
    )


def set_mtu(case: Case, device: str, mtu: int) -> str:
    """Row 18."""
    if case.is_simulated:
        return f"Set `mtu = {mtu}` in the table [management] of {_IN_FILE}."
    name = shlex.quote(device)
    return (
        f"Run `ip link set dev {name} mtu {mtu}` and write it to the host's network "
        "configuration; every switch on the way must allow it."
    )


def wait(case: Case, *, until: str, key: str) -> str:
    """Row 8."""
    remedy = f"Wait until {until}, then run the same command again."
    if case.is_simulated:
        remedy += f" If {key} in {_IN_FILE} says so, take it out."
    return remedy


def elsewhere(case: Case, *, real: str, key: str) -> str:
    """What to do on a real host, or which key of its file to change on a simulated one."""
    return f"Change {key} in {_IN_FILE}." if case.is_simulated else real
