"""What the libvirt driver finds on a real host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.facts import Inventory
from poolcore.model import (
    PBD,
    PIF,
    SR,
    VBD,
    VDI,
    VIF,
    VM,
    IpMode,
    Network,
    Object,
    PowerState,
    Tunnel,
)
from support.driver_process import DriverProcess
from support.lab import LabHost
from support.lab_guests import define_guest, start_guest

pytestmark = pytest.mark.real

T = TypeVar("T", bound=Object)

GUEST = "5d4b9ac7-1f2e-4a55-8a3d-0000000000d1"
STORAGE_NET = "<network><name>storage-net</name><bridge name='virbr7'/></network>"
NFS = """<pool type='netfs'><name>nfs-iso</name>
<source><host name='10.7.0.254'/><dir path='/export'/><format type='nfs'/></source>
<target><path>/mnt</path></target></pool>"""


@pytest.fixture
async def driver(host: LabHost) -> AsyncIterator[DriverProcess]:
    async with DriverProcess(host) as process:
        yield process


def every(kind: type[T], found: Inventory) -> list[T]:
    return [o for o in found.objects if isinstance(o, kind)]


def named(kind: type[T], name: str, found: Inventory) -> T:
    (only,) = (o for o in every(kind, found) if getattr(o, "name_label", "") == name)
    return only


def beyond_a_fresh_host(found: Inventory) -> set[str]:
    """Names of what preflight's rows 2 to 4 would find."""
    networks = {n.name_label for n in found.networks() if not n.default}
    srs = {sr.name_label for sr in found.srs() if not sr.builtin}
    vms = {vm.name_label for vm in every(VM, found)}
    return networks | srs | vms


# -- a fresh host ----------------------------------------------------------------------------------


async def test_on_a_fresh_host_everything_is_stock(host: LabHost, driver: DriverProcess) -> None:
    found = await driver.inventory()
    assert beyond_a_fresh_host(found) == set()
    assert {o.KIND for o in found.objects} == {"network", "pif", "sr", "pbd"}
    assert named(Network, "default", found).uuid == host.virsh("net-uuid", "default")
    sr = named(SR, "default", found)
    assert sr.uuid == host.virsh("pool-uuid", "default")
    assert (sr.type, sr.shared) == ("dir", False)
    assert 0 < sr.physical_utilisation < sr.physical_size
    (pif,) = every(PIF, found)
    assert (pif.device, pif.management, pif.mtu) == ("eth0", True, 1500)
    assert pif.addresses == (f"{host.address}/24",)
    assert pif.ip_configuration_mode is IpMode.STATIC
    assert pif.mac == host.run(["cat", "/sys/class/net/eth0/address"]).stdout.strip()


async def test_the_profile_is_what_virsh_says(host: LabHost, driver: DriverProcess) -> None:
    profile = (await driver.inventory()).profile
    running = next(
        line for line in host.virsh("version").splitlines() if "Running hypervisor" in line
    )
    assert running.endswith(f"QEMU {profile.hypervisor.version}")
    assert profile.hypervisor.kind == "qemu"
    assert profile.cpu.arch == "x86_64"
    assert f"CPU(s):              {profile.cpu.count}\n" in host.virsh("nodeinfo")
    assert str(profile.memory_total // 1024) in host.virsh("nodememstats")
    assert {"sse2", "cx16"} <= profile.cpu.features
    assert {"dir", "netfs"} <= profile.storage_types


async def test_the_stock_network_in_use_is_still_stock(
    host: LabHost, driver: DriverProcess
) -> None:
    host.virsh("net-start", "default")
    assert beyond_a_fresh_host(await driver.inventory()) == set()


# -- guests ----------------------------------------------------------------------------------------


async def test_a_domain_that_is_only_defined(host: LabHost, driver: DriverProcess) -> None:
    define_guest(host, "web1", uuid=GUEST)
    found = await driver.inventory()
    assert beyond_a_fresh_host(found) == {"web1"}
    vm = named(VM, "web1", found)
    assert vm == VM(
        uuid=vm.uuid,
        name_label="web1",
        power_state=PowerState.HALTED,
        resident_on=vm.resident_on,
        memory_static_max=8 * 2**20,
        vcpus_max=1,
    )
    assert (vm.uuid, vm.resident_on) == (GUEST, host.uuid)
    disk, drive = every(VBD, found)
    assert (disk.device, disk.type, disk.read_only, disk.bootable) == ("hda", "disk", False, True)
    assert (drive.device, drive.type, drive.vdi) == ("hdc", "cd", None)
    image = named(VDI, "web1.img", found)
    assert disk.vdi == image.uuid
    assert (image.location, image.virtual_size) == ("/var/lib/libvirt/images/web1.img", 2**20)
    assert image.sr == named(SR, "default", found).uuid
    (vif,) = every(VIF, found)
    assert vif.network == named(Network, "default", found).uuid
    assert vif.mac == "52:54:00:00:00:d1"


@pytest.mark.parametrize("transient", [False, True])
async def test_a_running_guest(host: LabHost, driver: DriverProcess, *, transient: bool) -> None:
    start_guest(host, "web1", uuid=GUEST, transient=transient)
    found = await driver.inventory()
    vm = named(VM, "web1", found)
    assert (vm.uuid, vm.power_state) == (GUEST, PowerState.RUNNING)
    (vif,) = every(VIF, found)
    assert vif.network == named(Network, "default", found).uuid
    assert every(VBD, found)[0].vdi == named(VDI, "web1.img", found).uuid
    # The guest's end of the cable is on the host now, and no NIC of it.
    assert "vnet0" in host.run(["ip", "-brief", "link"]).stdout
    assert {pif.device for pif in every(PIF, found)} == {"eth0"}


async def test_a_paused_guest_and_one_that_was_saved(host: LabHost, driver: DriverProcess) -> None:
    start_guest(host, "web1", uuid=GUEST)
    host.virsh("suspend", "web1")
    assert named(VM, "web1", await driver.inventory()).power_state is PowerState.PAUSED
    host.virsh("resume", "web1")
    host.virsh("managedsave", "web1")
    assert named(VM, "web1", await driver.inventory()).power_state is PowerState.SUSPENDED
    host.virsh("start", "web1")
    assert named(VM, "web1", await driver.inventory()).power_state is PowerState.RUNNING


# -- networks and storage --------------------------------------------------------------------------


@pytest.mark.parametrize("active", [False, True])
async def test_a_further_network(host: LabHost, driver: DriverProcess, *, active: bool) -> None:
    host.virsh("net-define", "/dev/stdin", input=STORAGE_NET)
    if active:
        host.virsh("net-start", "storage-net")
    found = await driver.inventory()
    assert beyond_a_fresh_host(found) == {"storage-net"}
    network = named(Network, "storage-net", found)
    assert network.uuid == host.virsh("net-uuid", "storage-net")
    assert network.bridge == "virbr7"


@pytest.mark.parametrize("active", [False, True])
async def test_a_further_storage_pool(
    host: LabHost, driver: DriverProcess, *, active: bool
) -> None:
    host.run(["mkdir", "/var/lib/libvirt/fast"])
    host.virsh("pool-define-as", "fast", "dir", "--target", "/var/lib/libvirt/fast")
    if active:
        host.virsh("pool-start", "fast")
        host.virsh("vol-create-as", "fast", "data.qcow2", "1G", "--format", "qcow2")
    found = await driver.inventory()
    assert beyond_a_fresh_host(found) == {"fast"}
    sr = named(SR, "fast", found)
    assert sr.uuid == host.virsh("pool-uuid", "fast")
    (pbd,) = (pbd for pbd in every(PBD, found) if pbd.sr == sr.uuid)
    assert pbd.currently_attached is active
    images = [vdi for vdi in every(VDI, found) if vdi.sr == sr.uuid]
    assert [(vdi.name_label, vdi.virtual_size) for vdi in images] == (
        [("data.qcow2", 2**30)] if active else []
    )


async def test_storage_of_another_machine_is_shared(host: LabHost, driver: DriverProcess) -> None:
    host.virsh("pool-define", "/dev/stdin", input=NFS)
    sr = named(SR, "nfs-iso", await driver.inventory())
    assert (sr.type, sr.shared, sr.builtin) == ("netfs", True, False)


async def test_bridges_and_tunnels_made_without_libvirt_are_found_but_not_dockers(
    host: LabHost, driver: DriverProcess
) -> None:
    for command in (
        "link add br-lan type bridge",
        "link add docker0 type bridge",
        "link add vxlan5 type vxlan id 5 dev eth0 dstport 4789 group 239.1.1.1",
        "link set vxlan5 master br-lan",
    ):
        host.run(["ip", *command.split()])
    found = await driver.inventory()
    assert beyond_a_fresh_host(found) == {"br-lan"}
    (tunnel,) = every(Tunnel, found)
    pifs = {pif.uuid: pif for pif in every(PIF, found)}
    assert tunnel.protocol == "vxlan"
    assert pifs[tunnel.access_pif].device == "vxlan5"
    assert pifs[tunnel.access_pif].network == named(Network, "br-lan", found).uuid
    assert pifs[tunnel.transport_pif].device == "eth0"


async def test_a_management_address_on_a_bridge(host: LabHost, driver: DriverProcess) -> None:
    for command in (
        "link add br0 type bridge",
        "link set eth0 master br0",
        f"addr del {host.address}/24 dev eth0",
        f"addr add {host.address}/24 dev br0",
        "link set br0 up",
    ):
        host.run(["ip", *command.split()])
    found = await driver.inventory()
    assert beyond_a_fresh_host(found) == set()
    (pif,) = every(PIF, found)
    assert (pif.device, pif.management, pif.addresses) == ("eth0", True, (f"{host.address}/24",))
    assert pif.network == named(Network, "br0", found).uuid


# -- identity --------------------------------------------------------------------------------------


async def test_nothing_changes_its_uuid_when_daemons_or_the_host_restart(
    host: LabHost,
) -> None:
    define_guest(host, "web1", uuid=GUEST)
    host.virsh("net-define", "/dev/stdin", input=STORAGE_NET)
    async with DriverProcess(host) as driver:
        before = await driver.inventory()
        assert await driver.inventory() == before
    host.power_off()
    host.power_on()
    async with DriverProcess(host) as driver:
        after = await driver.inventory()
    assert {(o.KIND, o.uuid) for o in after.objects} == {(o.KIND, o.uuid) for o in before.objects}


async def test_without_libvirtd_there_is_no_hypervisor(host: LabHost) -> None:
    host.stop_libvirtd()
    with pytest.raises(PoolError) as caught:
        async with DriverProcess(host):
            pass
    assert caught.value.reason is Reason.NO_HYPERVISOR
    assert caught.value.params["uri"] == "qemu:///system"
