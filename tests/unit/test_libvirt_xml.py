"""libvirt's XML, recorded from libvirt 9.0 on a Debian 12 host, in the pool's terms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from xml.etree import ElementTree

import pytest

from poolcore.facts import Inventory
from poolcore.model import (
    PBD,
    SR,
    VBD,
    VDI,
    VIF,
    VM,
    HostId,
    Hypervisor,
    Network,
    Object,
    PowerState,
    VbdType,
)
from poolmember.drivers.libvirt_driver.assembly import assembled
from poolmember.drivers.libvirt_driver.records import (
    DomainRecord,
    HypervisorRecord,
    NetworkRecord,
    PoolRecord,
    Records,
)
from poolmember.drivers.libvirt_driver.rtnetlink import Link, LinkAddress, Links
from poolmember.drivers.libvirt_driver.xml_values import parsed, size_bytes

T = TypeVar("T", bound=Object)

HOST = HostId("0be6fdff-d32a-4ba7-9311-beb27bd22b10")
RUNNING, PAUSED, SHUT_OFF, CRASHED, PM_SUSPENDED = 1, 3, 5, 6, 7


def recorded(name: str) -> str:
    return (Path(__file__).parent / "libvirt_xml" / f"{name}.xml").read_text()


HYPERVISOR = HypervisorRecord(
    type="QEMU",
    version=7_002_022,
    capabilities_xml=recorded("capabilities"),
    guest_cpu_xml=recorded("cpu_expanded"),
    pool_capabilities_xml=recorded("pool_capabilities"),
    memory_bytes=24_684_084 * 1024,
    cpus=2,
)
DEFAULT_POOL = PoolRecord(
    xml=recorded("pool_default"),
    active=True,
    volumes=tuple(recorded(f"volume_{name}") for name in ("root", "data", "install", "backups")),
)
LINKS = Links(
    links=(
        Link(index=3, name="br7", kind="bridge"),
        Link(index=2, name="eth0", addresses=(LinkAddress(cidr="10.7.0.1/24"),)),
        Link(index=1, name="lo", network_card=False),
        Link(index=4, name="virbr0", kind="bridge"),
    )
)


def inventory(
    *,
    domains: tuple[DomainRecord, ...] = (),
    networks: tuple[str, ...] = ("default",),
    pools: tuple[PoolRecord, ...] = (DEFAULT_POOL,),
    hypervisor: HypervisorRecord = HYPERVISOR,
    builtin_srs: tuple[str, ...] = ("default",),
) -> Inventory:
    return assembled(
        Records(
            hypervisor=hypervisor,
            domains=domains,
            networks=tuple(NetworkRecord(xml=recorded(f"network_{n}")) for n in networks),
            pools=pools,
        ),
        LINKS,
        host=HOST,
        builtin_srs=builtin_srs,
        management_addresses={"10.7.0.1"},
    )


def every(kind: type[T], found: Inventory) -> list[T]:
    return [o for o in found.objects if isinstance(o, kind)]


def named(kind: type[T], name: str, found: Inventory) -> T:
    (only,) = (o for o in every(kind, found) if getattr(o, "name_label", "") == name)
    return only


# -- the host --------------------------------------------------------------------------------------


def test_the_profile_says_what_the_hypervisor_is_and_runs_on() -> None:
    profile = inventory().profile
    assert profile.hypervisor == Hypervisor(kind="qemu", version="7.2.22")
    assert profile.memory_total == 24_684_084 * 1024
    assert (profile.cpu.arch, profile.cpu.vendor, profile.cpu.model, profile.cpu.count) == (
        "x86_64",
        "AuthenticAMD",
        "kvm64",
        2,
    )
    assert profile.network_backend == "bridge"


def test_cpu_features_are_all_that_guests_may_have_not_only_what_exceeds_the_model() -> None:
    features = inventory().profile.cpu.features
    # Part of the model kvm64, so the capabilities do not list it.
    assert "sse2" in features
    assert "avx512f" in features
    listed = inventory(hypervisor=replace(HYPERVISOR, guest_cpu_xml="")).profile.cpu.features
    assert "sse2" not in listed
    assert "avx512f" in listed


def test_storage_types_are_those_that_this_libvirt_supports() -> None:
    types = inventory().profile.storage_types
    assert {"dir", "netfs", "iscsi", "logical"} <= types
    assert "sheepdog" not in types
    assert (
        inventory(hypervisor=replace(HYPERVISOR, pool_capabilities_xml="")).profile.storage_types
        == frozenset()
    )


# -- networks --------------------------------------------------------------------------------------


def test_the_stock_network_is_part_of_a_fresh_host_and_others_are_not() -> None:
    found = inventory(networks=("default", "isolated", "macvtap"))
    stock = named(Network, "default", found)
    assert (stock.uuid, stock.bridge, stock.default) == (
        "1b0a4335-579c-4fcf-9a89-a7eab6492cc6",
        "virbr0",
        True,
    )
    isolated = named(Network, "isolated", found)
    assert (isolated.bridge, isolated.mtu, isolated.default) == ("virbr7", 9000, False)
    assert named(Network, "macvtap", found).bridge == ""


def test_a_network_that_took_the_stock_name_is_not_the_stock_one() -> None:
    as_bridge = recorded("network_lan").replace("<name>lan<", "<name>default<")
    found = assembled(
        Records(
            hypervisor=HYPERVISOR, domains=(), networks=(NetworkRecord(xml=as_bridge),), pools=()
        ),
        LINKS,
        host=HOST,
        builtin_srs=(),
        management_addresses=(),
    )
    assert not named(Network, "default", found).default


def test_a_virtual_networks_own_bridge_is_told_once_a_host_bridge_it_uses_twice() -> None:
    bridges = [n.bridge for n in every(Network, inventory(networks=("default", "lan")))]
    assert sorted(bridges) == ["br7", "br7", "eth0", "virbr0"]


# -- storage ---------------------------------------------------------------------------------------


def test_the_stock_pool_is_a_builtin_local_sr_with_its_images() -> None:
    found = inventory()
    sr = named(SR, "default", found)
    assert sr == SR(
        uuid=sr.uuid,
        name_label="default",
        type="dir",
        shared=False,
        builtin=True,
        physical_size=270_553_174_016,
        physical_utilisation=24_082_391_040,
    )
    assert sr.uuid == "f84c43d8-8248-47d0-8e7e-7824271711e0"
    (pbd,) = every(PBD, found)
    assert (pbd.host, pbd.sr, pbd.currently_attached) == (HOST, sr.uuid, True)
    assert dict(pbd.device_config) == {"location": "/var/lib/libvirt/images"}
    assert {vdi.name_label for vdi in every(VDI, found)} == {
        "root.qcow2",
        "data.img",
        "install.iso",
    }
    root = named(VDI, "root.qcow2", found)
    assert (root.sr, root.location) == (sr.uuid, "/var/lib/libvirt/images/root.qcow2")
    assert (root.virtual_size, root.physical_utilisation) == (10 * 2**30, 200_704)
    assert not root.read_only
    assert named(VDI, "install.iso", found).read_only


@pytest.mark.parametrize(
    ("name", "kind", "config"),
    [
        (
            "nfs-iso",
            "netfs",
            {"server": "10.7.0.9", "serverpath": "/export/iso", "location": "/mnt/iso"},
        ),
        (
            "san",
            "iscsi",
            {
                "server": "10.7.0.9",
                "device": "iqn.2026-01.net.example:san",
                "location": "/dev/disk/by-path",
            },
        ),
    ],
)
def test_storage_that_others_reach_is_shared_attached_or_not(
    name: str, kind: str, config: dict[str, str]
) -> None:
    file = {"netfs": "pool_nfs", "iscsi": "pool_iscsi"}[kind]
    found = inventory(pools=(PoolRecord(xml=recorded(file), active=False),))
    sr = named(SR, name, found)
    assert (sr.type, sr.shared, sr.builtin) == (kind, True, False)
    (pbd,) = every(PBD, found)
    assert not pbd.currently_attached
    assert dict(pbd.device_config) == config


def test_configured_names_are_builtin_too_but_shared_storage_never_is() -> None:
    local = DEFAULT_POOL.xml.replace("<name>default<", "<name>scratch<")
    pools = tuple(PoolRecord(xml=xml, active=False) for xml in (local, recorded("pool_nfs")))
    found = inventory(pools=pools, builtin_srs=("scratch", "nfs-iso"))
    assert named(SR, "scratch", found).builtin
    assert not named(SR, "nfs-iso", found).builtin
    assert not named(SR, "scratch", inventory(pools=pools, builtin_srs=())).builtin


def test_the_same_volume_keeps_its_uuid_and_another_pools_has_another() -> None:
    once, again = inventory(), inventory()
    assert named(VDI, "data.img", once) == named(VDI, "data.img", again)
    other_pool = replace(
        DEFAULT_POOL, xml=DEFAULT_POOL.xml.replace("f84c43d8", "f84c43d9").replace("default", "b")
    )
    other = inventory(pools=(other_pool,))
    assert named(VDI, "data.img", other).uuid != named(VDI, "data.img", once).uuid


# -- guests ----------------------------------------------------------------------------------------


BUILD_SERVER = DomainRecord(xml=recorded("domain_build_server"), state=SHUT_OFF)


def test_a_defined_domain_is_a_halted_vm_on_this_host() -> None:
    (vm,) = every(VM, inventory(domains=(BUILD_SERVER,)))
    assert vm == VM(
        uuid=vm.uuid,
        name_label="build server",
        name_description="Builds & tests",
        power_state=PowerState.HALTED,
        resident_on=HOST,
        memory_static_max=64 * 2**20,
        vcpus_max=4,
    )
    assert vm.uuid == "5d4b9ac7-1f2e-4a55-8a3d-0000000000aa"


@pytest.mark.parametrize(
    ("state", "saved", "expected"),
    [
        (0, False, PowerState.RUNNING),
        (RUNNING, False, PowerState.RUNNING),
        (2, False, PowerState.RUNNING),
        (PAUSED, False, PowerState.PAUSED),
        (4, False, PowerState.RUNNING),
        (SHUT_OFF, False, PowerState.HALTED),
        (SHUT_OFF, True, PowerState.SUSPENDED),
        (CRASHED, False, PowerState.HALTED),
        (PM_SUSPENDED, False, PowerState.PAUSED),
        (99, False, PowerState.RUNNING),
    ],
)
def test_power_states(*, state: int, saved: bool, expected: PowerState) -> None:
    record = DomainRecord(xml=recorded("domain_web1_running"), state=state, saved=saved)
    (vm,) = every(VM, inventory(domains=(record,)))
    assert vm.power_state is expected


def test_a_job_shows_as_the_vms_current_operation() -> None:
    for job, operation in ((5, "migrate_out"), (9, "backup"), (77, "other")):
        record = DomainRecord(xml=recorded("domain_web1_running"), state=RUNNING, job=job)
        (vm,) = every(VM, inventory(domains=(record,)))
        assert vm.current_operations == {operation}


def test_disks_are_joined_to_volumes_by_path_or_by_pool_and_name() -> None:
    found = inventory(domains=(BUILD_SERVER,))
    disks = {vbd.device: vbd for vbd in every(VBD, found)}
    assert disks["vda"].vdi == named(VDI, "root.qcow2", found).uuid
    assert disks["sda"].vdi == named(VDI, "install.iso", found).uuid
    # In no pool; over the network; an empty drive.
    assert [disks[device].vdi for device in ("vdb", "vdc", "fda")] == [None, None, None]
    assert {device: vbd.type for device, vbd in disks.items()} == {
        "vda": VbdType.DISK,
        "vdb": VbdType.DISK,
        "vdc": VbdType.DISK,
        "sda": VbdType.CD,
        "fda": VbdType.FLOPPY,
    }
    assert {device for device, vbd in disks.items() if vbd.read_only} == {"vdb", "sda"}
    assert {device for device, vbd in disks.items() if vbd.bootable} == {"vda", "sda"}


def test_without_a_boot_order_per_device_the_first_of_a_kind_boots() -> None:
    xml = recorded("domain_build_server")
    xml = xml.replace("<boot order='1'/>", "").replace("<boot order='2'/>", "")
    xml = xml.replace("<os>", "<os><boot dev='hd'/>")
    found = inventory(domains=(DomainRecord(xml=xml, state=SHUT_OFF),))
    assert {vbd.device for vbd in every(VBD, found) if vbd.bootable} == {"vda"}


def test_a_ceph_disk_is_the_volume_of_that_name() -> None:
    xml = recorded("domain_build_server").replace(
        "<source protocol='nbd' name='export1'>", "<source protocol='rbd' name='vms/disk1'>"
    )
    volume = recorded("volume_data").replace("/var/lib/libvirt/images/data.img", "vms/disk1")
    pool = recorded("pool_default").replace("type='dir'", "type='rbd'").replace("default", "ceph")
    found = inventory(
        domains=(DomainRecord(xml=xml, state=SHUT_OFF),),
        pools=(PoolRecord(xml=pool, active=True, volumes=(volume,)),),
    )
    (disk,) = (vbd for vbd in every(VBD, found) if vbd.device == "vdc")
    assert disk.vdi == named(VDI, "data.img", found).uuid


def test_interfaces_are_joined_to_networks_by_name_bridge_or_device() -> None:
    found = inventory(domains=(BUILD_SERVER,), networks=("default", "isolated"))
    networks = {n.uuid: n.name_label for n in every(Network, found)}
    vifs = sorted(every(VIF, found), key=lambda vif: vif.device)
    assert [(vif.mac[-2:], vif.network and networks[vif.network]) for vif in vifs] == [
        ("aa", "isolated"),
        ("ab", "br7"),
        ("ac", "eth0"),
        ("ad", None),
    ]
    assert [vif.mtu for vif in vifs] == [9000, 1500, 1500, 1500]


def test_the_network_of_a_definition_may_be_gone() -> None:
    found = inventory(domains=(BUILD_SERVER,), networks=())
    (vif,) = (vif for vif in every(VIF, found) if vif.mac.endswith("aa"))
    assert vif.network is None


def test_unplugging_the_first_interface_does_not_rename_the_second() -> None:
    before = inventory(domains=(BUILD_SERVER,))
    root = parsed(BUILD_SERVER.xml)
    devices = root.find("devices")
    assert devices is not None
    first = devices.find("interface")
    assert first is not None
    devices.remove(first)
    shorter = replace(BUILD_SERVER, xml=ElementTree.tostring(root, encoding="unicode"))
    after = inventory(domains=(shorter,))
    uuids = {vif.mac: vif.uuid for vif in every(VIF, before)}
    assert all(uuids[vif.mac] == vif.uuid for vif in every(VIF, after))
    assert len(every(VIF, after)) == 3


def test_two_interfaces_with_one_address_are_two() -> None:
    xml = BUILD_SERVER.xml.replace("00:00:ab", "00:00:aa")
    vifs = every(VIF, inventory(domains=(replace(BUILD_SERVER, xml=xml),)))
    assert len({vif.uuid for vif in vifs}) == 4


def test_a_running_domain_is_the_same_vm_as_its_definition() -> None:
    found = inventory(domains=(DomainRecord(xml=recorded("domain_web1_running"), state=RUNNING),))
    (vm,) = every(VM, found)
    assert (vm.name_label, vm.memory_static_max) == ("web1", 8 * 2**20)
    (vif,) = every(VIF, found)
    assert vif.network == named(Network, "default", found).uuid
    assert [(v.device, v.type, v.bootable) for v in every(VBD, found)] == [
        ("hda", VbdType.DISK, True),
        ("hdc", VbdType.CD, False),
    ]


@pytest.mark.parametrize(
    ("xml", "bytes_"),
    [
        ("<a><size>5</size></a>", 5),
        ("<a><size unit='KiB'>5</size></a>", 5 * 2**10),
        ("<a><size unit='k'>5</size></a>", 5 * 2**10),
        ("<a><size unit='KB'>5</size></a>", 5_000),
        ("<a><size unit='TiB'>2</size></a>", 2 * 2**40),
        ("<a><size/></a>", 0),
        ("<a/>", 0),
    ],
)
def test_sizes_are_in_bytes_whatever_their_unit(xml: str, bytes_: int) -> None:
    assert size_bytes(parsed(xml), "size") == bytes_
