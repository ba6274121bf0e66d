"""A pool small enough to be seen at a glance: two hosts, three SRs, two VMs."""

from datetime import UTC, datetime

from poolcore.model import (
    PBD,
    PIF,
    SR,
    VBD,
    VDI,
    VIF,
    VM,
    Address,
    AddressPurpose,
    Cpu,
    Host,
    HostId,
    HostMetrics,
    HostMetricsId,
    Hypervisor,
    Incarnation,
    Network,
    NetworkId,
    Object,
    PbdId,
    PifId,
    Pool,
    PoolId,
    PowerState,
    SoftwareVersion,
    SrId,
    VbdId,
    VdiId,
    VifId,
    VmId,
)
from poolcore.replica import CommitId, State, snapshot

POOL = "10000000-0000-4000-8000-000000000001"
PHANTOM = HostId("20000000-0000-4000-8000-000000000001")
IGNITE = HostId("20000000-0000-4000-8000-000000000002")
LOCAL_1 = SrId("30000000-0000-4000-8000-000000000001")
LOCAL_2 = SrId("30000000-0000-4000-8000-000000000002")
NFS = SrId("30000000-0000-4000-8000-000000000003")
NETWORK = NetworkId("40000000-0000-4000-8000-000000000001")
WEB1 = VmId("50000000-0000-4000-8000-000000000001")
WEB2 = VmId("50000000-0000-4000-8000-000000000002")
DISK = VdiId("60000000-0000-4000-8000-000000000001")
INCARNATION = Incarnation(1, "70000000-0000-4000-8000-000000000001")
THEN = datetime(2026, 1, 1, tzinfo=UTC)


def host(uuid: HostId, name: str, number: int) -> Host:
    """A host at 127.0.0.`number`."""
    return Host(
        uuid=uuid,
        name_label=name,
        addresses=(Address(purpose=AddressPurpose.MANAGEMENT, endpoint=f"127.0.0.{number}:7443"),),
        software_version=SoftwareVersion(product_version="0.1.0", api_version=1, schema_version=1),
        hypervisor=Hypervisor(kind="sim", version="1.0"),
        cpu=Cpu(arch="x86_64", vendor="AuthenticAMD", count=8),
    )


def small_pool(*, revision: int = 10) -> State:
    """The pool, at a revision of one's choice."""
    objects: list[Object] = [
        Pool(uuid=PoolId(POOL), name_label="phantom"),
        host(PHANTOM, "phantom", 1),
        host(IGNITE, "ignite", 2),
        SR(uuid=LOCAL_1, name_label="Local storage", type="dir", builtin=True),
        SR(uuid=LOCAL_2, name_label="Local storage", type="dir", builtin=True),
        SR(uuid=NFS, name_label="nfs-iso", type="nfs", shared=True),
        Network(uuid=NETWORK, name_label="Pool-wide network", bridge="xenbr0", default=True),
        VM(
            uuid=WEB1,
            name_label="web1",
            power_state=PowerState.RUNNING,
            resident_on=PHANTOM,
            memory_static_max=512 * 1024 * 1024,
        ),
        VM(uuid=WEB2, name_label="web2", power_state=PowerState.HALTED, resident_on=IGNITE),
        VDI(uuid=DISK, name_label="web1-root", sr=NFS, location="web1.qcow2", virtual_size=10**9),
        VBD(uuid=VbdId("61000000-0000-4000-8000-000000000001"), vm=WEB1, vdi=DISK, device="vda"),
        VIF(
            uuid=VifId("62000000-0000-4000-8000-000000000001"),
            vm=WEB1,
            network=NETWORK,
            device="0",
        ),
    ]
    for number, uuid in enumerate((PHANTOM, IGNITE), start=1):
        objects.append(
            HostMetrics(
                uuid=HostMetricsId(f"21000000-0000-4000-8000-00000000000{number}"),
                host=uuid,
                live=True,
                memory_total=2**34,
                last_updated=THEN,
            )
        )
        objects.append(
            PIF(
                uuid=PifId(f"41000000-0000-4000-8000-00000000000{number}"),
                host=uuid,
                network=NETWORK,
                device="eth0",
                management=True,
            )
        )
        own = LOCAL_1 if number == 1 else LOCAL_2
        objects += [
            PBD(uuid=PbdId(f"31000000-0000-4000-8000-0000000000{number}1"), host=uuid, sr=own),
            PBD(uuid=PbdId(f"31000000-0000-4000-8000-0000000000{number}2"), host=uuid, sr=NFS),
        ]
    return snapshot(INCARNATION, CommitId(1, revision), objects, ())
