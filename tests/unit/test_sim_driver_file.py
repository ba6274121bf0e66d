"""The file of a simulated host: what it can say, and how mistakes in it are answered."""

import re
from pathlib import Path
from typing import TypeVar

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.model import (
    PBD,
    PIF,
    SR,
    VBD,
    VDI,
    VIF,
    VLAN,
    VM,
    Bond,
    IpMode,
    Kind,
    Network,
    Object,
    PowerState,
    Tunnel,
    VbdType,
    derived_uuid,
)
from poolmember.drivers.contract import FactOverrides
from poolmember.drivers.sim_file import parse
from poolmember.drivers.sim_host import SimHost
from poolmember.drivers.sim_objects import objects as objects_on
from support.dangling import dangling
from support.hosts.facts import facts, host_file, host_id, inventory, pool_of

T = TypeVar("T", bound=Object)

IGNITE = host_id("ignite")
DOCUMENT = Path(__file__).parents[2] / "docs" / "sim-host.md"
FRESH = parse("", source="fresh.toml")
EVERYTHING = parse(host_file("everything"), source="everything.toml")


def of(cls: type[T], sim: SimHost) -> list[T]:
    return [o for o in inventory("ignite", sim).objects if isinstance(o, cls)]


def refused(text: str) -> str:
    with pytest.raises(PoolError) as caught:
        parse(text, source="x.toml")
    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    return caught.value.message


# -- a fresh host ----------------------------------------------------------------------------------


def test_a_file_that_says_nothing_is_a_fresh_host() -> None:
    assert SimHost() == FRESH
    assert FactOverrides() == FRESH.overrides


def test_a_fresh_host_has_three_srs_one_network_and_one_interface() -> None:
    srs = of(SR, FRESH)
    assert [sr.name_label for sr in srs] == ["Local storage", "DVD drives", "Removable storage"]
    assert all(sr.builtin and not sr.shared for sr in srs)
    (network,), (pif,) = of(Network, FRESH), of(PIF, FRESH)
    assert (network.bridge, network.default) == ("xenbr0", True)
    assert (pif.network, pif.management, pif.device) == (network.uuid, True, "eth0")
    assert pif.addresses == ("127.0.0.2/8",)
    assert not of(VM, FRESH)


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("127.0.0.7:7443", "127.0.0.7/8"),
        ("10.1.2.3:7443", "10.1.2.3/24"),
        ("[2001:db8::1]:7443", "2001:db8::1/64"),
        ("[::1]:7443", "::1/128"),
    ],
)
def test_the_management_interface_has_the_daemons_address(endpoint: str, expected: str) -> None:
    (pif,) = (o for o in objects_on(FRESH, IGNITE, management_endpoint=endpoint) if type(o) is PIF)
    assert pif.addresses == (expected,)


@pytest.mark.parametrize("endpoint", ["ignite.example:7443", "0.0.0.0:7443", "[::]:7443"])
def test_an_endpoint_without_an_address_gives_one_for_documentation(endpoint: str) -> None:
    (pif,) = (o for o in objects_on(FRESH, IGNITE, management_endpoint=endpoint) if type(o) is PIF)
    (address,) = pif.addresses
    assert re.fullmatch(r"192\.0\.2\.\d+/24", address)


# -- everything a file can say ---------------------------------------------------------------------


def test_every_reference_leads_somewhere() -> None:
    assert dangling(pool_of(facts("ignite", host_file("everything")))) == []


def test_uuids_are_unique_and_the_same_each_time() -> None:
    once, again = inventory("ignite", EVERYTHING), inventory("ignite", EVERYTHING)
    assert once == again
    uuids = [obj.uuid for obj in once.objects]
    assert len(set(uuids)) == len(uuids)


def test_uuids_are_those_of_the_file_or_derived_from_the_host() -> None:
    srs = {sr.name_label: sr.uuid for sr in of(SR, EVERYTHING)}
    assert srs["Local storage"] == "5a000000-0000-4000-8000-00000000000a"
    assert srs["DVD drives"] == derived_uuid(IGNITE, Kind.SR, "DVD drives")
    other = parse(host_file("everything"), source="x.toml")
    assert {o.uuid for o in inventory("specter", other).objects}.isdisjoint(
        {srs["DVD drives"], srs["nfs-iso"]}
    )


def test_what_the_host_is() -> None:
    profile = EVERYTHING.profile
    assert (profile.hypervisor.kind, profile.hypervisor.version) == ("sim2", "2.0")
    assert (profile.cpu.arch, profile.cpu.count) == ("aarch64", 64)
    assert profile.cpu.features == {"sve"}
    assert profile.memory_total == 32768 * 1024**2
    assert profile.capabilities == {"migrate"}
    assert profile.network_backend == "openvswitch"


def test_what_the_host_pretends() -> None:
    assert (
        FactOverrides(
            product_version="9.9.9",
            api_version=7,
            schema_version=8,
            booting=True,
            updating=True,
            operations=("vm.snapshot",),
            clock_skew_seconds=-3.5,
            free_disk_bytes=1048576,
            fsync_seconds=0.05,
            etcd_version="3.5.3",
            unreachable=("phantom", "127.0.0.9:7443"),
            kill_at=("host.join:reserved",),
            stop_at=("host.take_over:asked",),
        )
        == EVERYTHING.overrides
    )


def test_the_management_interface_and_what_carries_it() -> None:
    pifs = {pif.device: pif for pif in of(PIF, EVERYTHING)}
    assert {device for device, pif in pifs.items() if pif.management} == {
        "eth0",
        "eth1",
        "bond0",
        "bond0.20",
    }
    tagged = pifs["bond0.20"]
    assert (tagged.vlan, tagged.ip_configuration_mode) == (20, IpMode.DHCP)
    assert tagged.addresses == ("198.51.100.7/24", "2001:db8::7/64")
    assert pifs["bond0"].addresses == ()


def test_bonds_vlans_and_tunnels_build_on_interfaces() -> None:
    pifs = {pif.uuid: pif.device for pif in of(PIF, EVERYTHING)}
    bonds = {pifs[b.master]: ([pifs[s] for s in b.slaves], b.mode) for b in of(Bond, EVERYTHING)}
    assert bonds == {
        "bond0": (["eth0", "eth1"], "active-backup"),
        "bond1": (["eth2", "eth3"], "802.3ad"),
    }
    vlans = {pifs[v.tagged_pif]: pifs[v.untagged_pif] for v in of(VLAN, EVERYTHING)}
    assert vlans == {"bond0.20": "bond0", "bond1.30": "bond1"}
    (tunnel,) = of(Tunnel, EVERYTHING)
    assert (pifs[tunnel.access_pif], pifs[tunnel.transport_pif]) == ("vxlan0", "bond1")
    assert tunnel.protocol == "gre"


def test_storage_and_what_is_in_it() -> None:
    srs = {sr.name_label: sr for sr in of(SR, EVERYTHING)}
    local = srs["Local storage"]
    assert (local.type, local.builtin, local.physical_size) == ("dir", True, 1000 * 1024**2)
    assert local.physical_utilisation == (10 + 20) * 1024**2
    nfs = srs["nfs-iso"]
    assert (nfs.shared, nfs.content_type, nfs.builtin) == (True, "iso", False)
    attached = {pbd.sr: pbd.currently_attached for pbd in of(PBD, EVERYTHING)}
    assert attached[nfs.uuid] is False
    assert {vdi.name_label for vdi in of(VDI, EVERYTHING) if vdi.sr == nfs.uuid} == {
        "debian-12.iso",
        "worker-1 vda",
        "worker-2 vda",
        "worker-3 vda",
    }


def test_vms_with_their_disks_and_interfaces() -> None:
    vms = {vm.name_label: vm for vm in of(VM, EVERYTHING)}
    assert set(vms) == {"web1", "worker-1", "worker-2", "worker-3"}
    web = vms["web1"]
    assert (web.power_state, web.vcpus_max, web.resident_on) == (PowerState.RUNNING, 4, IGNITE)
    assert web.current_operations == {"snapshot"}
    disks = {vbd.device: vbd for vbd in of(VBD, EVERYTHING) if vbd.vm == web.uuid}
    assert (disks["vda"].type, disks["vda"].bootable) == (VbdType.DISK, True)
    assert (disks["sr0"].type, disks["sr0"].vdi, disks["sr0"].read_only) == (VbdType.CD, None, True)
    networks = {network.uuid: network.name_label for network in of(Network, EVERYTHING)}
    vifs = [vif for vif in of(VIF, EVERYTHING) if vif.vm == web.uuid and vif.network]
    assert [networks[vif.network] for vif in vifs if vif.network] == [
        "storage-net",
        "Pool-wide network associated with bond0",
    ]


def test_faults_of_the_driver() -> None:
    assert EVERYTHING.driver_delay_seconds == 0.01
    assert EVERYTHING.driver_error == "the hypervisor has a bad day"


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[vm]\n", "x.toml: is no TOML"),
        ('produkt_version = "1"', "x.toml: produkt_version: is no known key; did you mean"),
        ('[[vm]]\nname = "a"\nmemory = 1', "x.toml: vm[0].memory: is no known key; did you mean"),
        ("[[vm]]\n", "x.toml: vm[0].name: is missing"),
        ('[[vm]]\nname = ""', "x.toml: vm[0].name: must be a text"),
        (
            '[[vm]]\nname = "a"\npower_state = "on"',
            "x.toml: vm[0].power_state: must be one of halted, running, paused, suspended",
        ),
        ('[[vm]]\nname = "a"\nuuid = "1"', "x.toml: vm[0].uuid: must be a uuid"),
        ('[[vm]]\nname = "a"\nvcpus = 0', "x.toml: vm[0].vcpus: must be a whole number of 1"),
        ('[[vm]]\nname = "a"\nvcpus = true', "x.toml: vm[0].vcpus: must be a whole number"),
        (
            '[[vm]]\nname = "a"\n[[vm.disk]]\nsize = 1',
            "x.toml: vm[0].disk[0].size: is no known key; did you mean “size_mib”?",
        ),
        ('[[vm]]\nname = "a"\n[[vm]]\nname = "a"', "the name “a” is there twice"),
        ('[[vm]]\nname = "a"\ncount = 2\n[[vm]]\nname = "a-2"', "the name “a-2” is there twice"),
        ('[[vm]]\nname = "a"\n[[vm.disk]]\nsr = "nfs"', "vm “a”: there is no SR “nfs”"),
        ('[[vm]]\nname = "a"\n[[vm.nic]]\nnetwork = "n"', "vm “a”: there is no network “n”"),
        (
            '[[vm]]\nname = "a"\nclock_skew_seconds = 5.0',
            "x.toml: vm[0].clock_skew_seconds: belongs to the top of the file",
        ),
        ('[cpu]\nnetwork_backend = "bridge"', "belongs to the top of the file"),
        ('vm = "web1"', "x.toml: vm: must be one table or more, [[vm]] each"),
        ("cpu = 8", "x.toml: cpu: must be a table, [cpu]"),
        ('[[sr]]\nname = "a"', "x.toml: sr[0].type: is missing"),
        (
            '[[sr]]\nname = "DVD drives"\n[[sr]]\nname = "DVD drives"',
            "x.toml: sr[1].name: “DVD drives” is there twice",
        ),
        ('[[network]]\nname = "a"\nbridge = "xenbr0"', "the bridge “xenbr0” is there twice"),
        ("[management]\nvlan = 4095", "management.vlan: must be a whole number from 1 to 4094"),
        ('[management]\naddresses = ["10.0.0"]', "“10.0.0” is no address with prefix"),
        ('[management]\nmode = "auto"', "management.mode: must be one of none, static, dhcp"),
        ('[[nic]]\ndevice = "eth0"', "the device “eth0” is there twice"),
        ('[[nic]]\ndevice = "e"\nmac = "1"', "nic[0].mac: must be six pairs"),
        (
            '[[bond]]\ndevice = "bond0"\ninterfaces = ["eth7"]',
            "interface bond0: there is no interface “eth7” before it",
        ),
        ('[[bond]]\ndevice = "bond0"\ninterfaces = []', "bond[0].interfaces: is missing"),
        ("[[vlan]]\n", "vlan[0].tag: is missing"),
        ("clock_skew_seconds = nan", "clock_skew_seconds: must be a number"),
        ('clock_skew_seconds = "1"', "clock_skew_seconds: must be a number"),
        ("fsync_seconds = -1.0", "fsync_seconds: must be a number of 0 or more"),
        ('booting = "yes"', "booting: must be true or false"),
        ('operations = "vm.start"', "operations: must be a list of texts"),
        ("[faults]\nkill_att = []", "faults.kill_att: is no known key; did you mean “kill_at”?"),
    ],
)
def test_a_mistake_is_answered_with_its_place_and_what_is_wrong(text: str, message: str) -> None:
    assert message in refused(text)


def test_one_uuid_is_not_for_several_vms() -> None:
    uuid = "7a000000-0000-4000-8000-000000000001"
    assert "is for one VM" in refused(f'[[vm]]\nname = "a"\ncount = 2\nuuid = "{uuid}"')
    twice = f'[[vm]]\nname = "a"\nuuid = "{uuid}"\n[[vm]]\nname = "b"\nuuid = "{uuid}"'
    assert f"the uuid “{uuid}” is there twice" in refused(twice)


# -- the document ----------------------------------------------------------------------------------


def test_the_examples_in_the_document_are_files_that_work() -> None:
    examples = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(examples) >= 4
    for example in examples:
        parse(example, source="docs/sim-host.md")


def test_the_document_names_every_key() -> None:
    keys = set(re.findall(r"^\s*(\w+) =", host_file("everything"), re.M)) | {"version"}
    documented = set(re.findall(r"`(\w+)`", DOCUMENT.read_text()))
    assert keys - documented == set()
