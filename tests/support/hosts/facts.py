"""Facts and pools of simulated hosts, put together as a host's daemon and its master do."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from poolcore import API_VERSION, PRODUCT_VERSION, SCHEMA_VERSION
from poolcore.facts import HostFacts, Inventory, Unreachable
from poolcore.model import (
    Address,
    AddressPurpose,
    HostId,
    HostMetrics,
    Incarnation,
    Pool,
    PoolId,
    SoftwareVersion,
)
from poolcore.replica import Change, CommitId, Put, State, changed, snapshot
from poolmaster.decide.inventory import joined
from poolmember.drivers.sim_file import parse
from poolmember.drivers.sim_host import SimHost
from poolmember.drivers.sim_objects import objects
from poolmember.etcd.member import problem_with

FILES = Path(__file__).parent
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
POOL = PoolId("b0000000-0000-4000-8000-000000000000")
UNREACHABLE = "connection refused"

NAMES = ("phantom", "ignite", "specter", "vector")


def host_id(name: str) -> HostId:
    """The uuid of a host, made from its name."""
    return HostId(str(uuid.uuid5(uuid.NAMESPACE_DNS, name)))


def host_file(name: str) -> str:
    """The text of a host file of this folder."""
    return (FILES / f"{name}.toml").read_text(encoding="utf-8")


def endpoint_of(name: str) -> str:
    """The address of one of the hosts of the tests: 127.0.0.1 for phantom, and so on."""
    return f"127.0.0.{NAMES.index(name) + 1}:7443" if name in NAMES else name


def inventory(name: str, sim: SimHost) -> Inventory:
    """What the driver of that host reports."""
    found = objects(sim, host_id(name), management_endpoint=endpoint_of(name))
    return Inventory(profile=sim.profile, objects=tuple(found))


def facts(name: str, text: str = "") -> HostFacts:
    """What the host of that name and file says of itself when it would join a pool."""
    sim = parse(text, source=f"{name}.toml")
    pretended = sim.overrides
    etcd = None if pretended.etcd_version == "none" else pretended.etcd_version or "3.4.23"
    return HostFacts(
        host=host_id(name),
        name_label=name,
        addresses=(Address(purpose=AddressPurpose.MANAGEMENT, endpoint=endpoint_of(name)),),
        pool=PoolId(str(uuid.uuid5(uuid.NAMESPACE_DNS, f"pool of {name}"))),
        pool_name=name,
        pool_hosts=1,
        is_master=True,
        software_version=SoftwareVersion(
            product_version=pretended.product_version or PRODUCT_VERSION,
            api_version=API_VERSION if pretended.api_version is None else pretended.api_version,
            schema_version=SCHEMA_VERSION
            if pretended.schema_version is None
            else pretended.schema_version,
        ),
        inventory=inventory(name, sim),
        operations=pretended.operations,
        booting=bool(pretended.booting),
        updating=bool(pretended.updating),
        clock_offset_seconds=pretended.clock_skew_seconds or 0.0,
        unreachable=tuple(
            Unreachable(
                from_host=name, to_host=other, endpoint=endpoint_of(other), problem=UNREACHABLE
            )
            for other in pretended.unreachable
        ),
        free_disk_bytes=100 * 1024**3
        if pretended.free_disk_bytes is None
        else pretended.free_disk_bytes,
        fsync_seconds=0.001 if pretended.fsync_seconds is None else pretended.fsync_seconds,
        etcd_version=etcd,
        etcd_problem=problem_with(etcd),
    )


def empty_pool() -> State:
    """A pool that is just being founded: it has its pool object and no host."""
    incarnation = Incarnation(1, "c0000000-0000-4000-8000-000000000000")
    pool = Pool(uuid=POOL, name_label="phantom")
    return snapshot(incarnation, CommitId(1, 1), [pool], ())


def after(state: State, changes: tuple[Change, ...]) -> State:
    """The state with the changes made."""
    return replace(state, tables=changed(state.tables, changes))


def with_live_hosts(state: State) -> State:
    """The state with the session of every host up."""
    return after(state, tuple(Put(replace(m, live=True)) for m in state.all(HostMetrics)))


def pool_of(*hosts: HostFacts) -> State:
    """The pool that the first host founded and the others joined, all of them live."""
    state = empty_pool()
    for host in hosts:
        state = with_live_hosts(after(state, joined(state, host, now=NOW)))
    return state
