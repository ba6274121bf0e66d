"""Each check on its own: for every row a host where only it fails, and one where it passes.

One table drives them. `key` is what a simulated host's file has to say to produce the finding; the
rows without one are about the pool, or about who the host is, and change those.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.facts import HostFacts, Unreachable
from poolcore.model import SR, Finding, Pool, Severity
from poolcore.replica import Put, State
from poolmaster.decide.preflight import RULES, Code, preflight, takes_hosts_in
from support.hosts.facts import (
    POOL,
    after,
    facts,
    host_file,
    host_id,
    pool_of,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "preflight.md"

PHANTOM, SPECTER = host_id("phantom"), host_id("specter")
FACTS = {name: facts(name) for name in ("ignite", "specter")}
THE_POOL = pool_of(facts("phantom", host_file("three-shared")), FACTS["specter"])
TAKEN_SR = next(sr for sr in THE_POOL.all(SR) if not sr.shared)


@dataclass(frozen=True, kw_only=True)
class Given:
    """A host that wants to join `THE_POOL`: by its file, and what a file cannot say of it."""

    file: str = ""
    facts: Callable[[HostFacts], HostFacts] = lambda facts: facts
    pool: Callable[[State], State] = lambda pool: pool


FRESH = Given()


@dataclass(frozen=True, kw_only=True)
class Row:
    number: int
    code: Code
    bad: Given
    good: Given = field(default_factory=Given)
    key: str = "–"
    severity: Severity = Severity.ERROR
    forceable: bool = False
    case: str = ""

    def __str__(self) -> str:
        return f"{self.number}-{self.code}{'-' if self.case else ''}{self.case}"


def file(text: str) -> Given:
    return Given(file=text)


def pool_with(**fields: object) -> Given:
    def changed(pool: State) -> State:
        root: Pool = replace(pool.pool, **fields)  # type: ignore[arg-type]
        return after(pool, (Put(root),))

    return Given(pool=changed)


def facts_with(**fields: object) -> Given:
    return Given(facts=lambda facts: replace(facts, **fields))  # type: ignore[arg-type]


def unreachable(host: str) -> Given:
    gap = Unreachable(
        from_host=host, to_host="ignite", endpoint="127.0.0.2:7443", problem="timed out"
    )
    return facts_with(unreachable=(gap,))


def without_management(joining: HostFacts) -> HostFacts:
    inventory = joining.inventory
    objects = tuple(o for o in inventory.objects if o not in inventory.pifs())
    return replace(joining, inventory=replace(inventory, objects=objects))


def vm(state: str) -> Given:
    return file(f'[[vm]]\nname = "web1"\npower_state = "{state}"')


WARNING = Severity.WARNING

TABLE = (
    Row(
        number=1,
        code=Code.SAME_PRODUCT_VERSION,
        key="product_version",
        bad=file('product_version = "0.0.9"'),
    ),
    *(
        Row(number=2, code=Code.HAS_VMS, key="[[vm]]", bad=vm(state), case=state)
        for state in ("running", "halted", "suspended", "paused")
    ),
    Row(
        number=3,
        code=Code.HAS_NETWORKS,
        key="[[network]]",
        bad=file('[[network]]\nname = "storage-net"\nbridge = "xapi1"'),
    ),
    Row(
        number=3,
        code=Code.HAS_BONDS,
        key="[[bond]]",
        bad=file(
            '[[nic]]\ndevice = "eth1"\n[[nic]]\ndevice = "eth2"\n'
            '[[bond]]\ndevice = "bond0"\ninterfaces = ["eth1", "eth2"]'
        ),
        # The bond that carries the management address is part of a fresh host.
        good=file('[management]\ndevice = "bond0"\nbond = ["eth0", "eth1"]'),
    ),
    Row(
        number=3,
        code=Code.HAS_VLANS,
        key="[[vlan]]",
        bad=file("[[vlan]]\ntag = 10"),
        good=file('[[nic]]\ndevice = "eth1"'),
    ),
    Row(
        number=3,
        code=Code.HAS_TUNNELS,
        key="[[tunnel]]",
        bad=file('[[tunnel]]\ndevice = "vxlan0"'),
    ),
    Row(
        number=4,
        code=Code.HAS_SHARED_SRS,
        key="[[sr]] with shared = true",
        bad=file('[[sr]]\nname = "nfs-iso"\ntype = "nfs"\nshared = true'),
    ),
    Row(
        number=4,
        code=Code.HAS_EXTRA_SRS,
        key="[[sr]]",
        bad=file('[[sr]]\nname = "scratch"\ntype = "dir"'),
        good=file('[[sr]]\nname = "Local storage"\ntype = "dir"'),
    ),
    Row(
        number=5,
        code=Code.ALREADY_IN_POOL,
        bad=Given(facts=lambda _: replace(FACTS["specter"], pool=POOL, pool_hosts=2)),
    ),
    Row(
        number=6,
        code=Code.IN_ANOTHER_POOL,
        bad=facts_with(pool_hosts=2, is_master=True),
        case="master",
    ),
    Row(
        number=6,
        code=Code.IN_ANOTHER_POOL,
        bad=facts_with(pool_hosts=2, is_master=False),
        case="member",
    ),
    Row(number=7, code=Code.DUPLICATE_HOST_UUID, bad=facts_with(host=SPECTER)),
    Row(number=7, code=Code.DUPLICATE_HOST_NAME, bad=facts_with(name_label="specter")),
    Row(
        number=7,
        code=Code.DUPLICATE_HOST_ADDRESS,
        bad=facts_with(addresses=FACTS["specter"].addresses),
    ),
    Row(number=8, code=Code.STILL_BOOTING, key="booting", bad=file("booting = true")),
    Row(
        number=8,
        code=Code.HAS_OPERATIONS,
        key="operations",
        bad=file('operations = ["vm.snapshot"]'),
    ),
    Row(number=8, code=Code.IS_UPDATING, key="updating", bad=file("updating = true")),
    Row(
        number=9,
        code=Code.POOL_SIZE_LIMIT,
        bad=pool_with(host_limit=2),
        good=pool_with(host_limit=3),
    ),
    Row(
        number=10,
        code=Code.DUPLICATE_SR_UUID,
        key="uuid in [[sr]]",
        bad=file(f'[[sr]]\nname = "Local storage"\nuuid = "{TAKEN_SR.uuid}"'),
        good=file('[[sr]]\nname = "Local storage"\nuuid = "5a000000-0000-4000-8000-0000000000ff"'),
    ),
    Row(number=11, code=Code.SAME_API_VERSION, key="api_version", bad=file("api_version = 99")),
    Row(number=11, code=Code.SAME_SCHEMA, key="schema_version", bad=file("schema_version = 99")),
    Row(
        number=12,
        code=Code.NOT_COMPATIBLE,
        key="[hypervisor]",
        bad=file('[hypervisor]\nkind = "xen"\nversion = "4.17"'),
        case="kind",
    ),
    Row(
        number=12,
        code=Code.NOT_COMPATIBLE,
        key="[hypervisor]",
        bad=file('[hypervisor]\nversion = "2.0"'),
        case="version",
        forceable=True,
    ),
    Row(
        number=13,
        code=Code.NOT_HOMOGENEOUS,
        key="[cpu]",
        bad=file('[cpu]\narch = "aarch64"\nvendor = "ARM"\nfeatures = []'),
        case="arch",
    ),
    Row(
        number=13,
        code=Code.NOT_HOMOGENEOUS,
        key="[cpu]",
        bad=file('[cpu]\nvendor = "GenuineIntel"'),
        case="vendor",
        forceable=True,
    ),
    Row(
        number=13,
        code=Code.NOT_HOMOGENEOUS,
        key="[cpu]",
        bad=file('[cpu]\nfeatures = ["lm", "nx"]'),
        good=file(
            '[cpu]\nfeatures = ["aes", "avx", "avx2", "avx512f", "lm", "nx", "sse4_2"]\ncount = 2'
        ),
        case="features",
        forceable=True,
    ),
    Row(
        number=14,
        code=Code.FEATURES_INCOMPATIBLE,
        key="storage_types",
        bad=file('storage_types = ["ext", "udev", "iscsi"]'),
        good=file('storage_types = ["iscsi", "nfs"]'),
        case="storage type",
    ),
    Row(
        number=14,
        code=Code.FEATURES_INCOMPATIBLE,
        key="capabilities",
        bad=file('capabilities = ["migrate"]'),
        good=file('capabilities = ["migrate", "snapshot", "backup"]'),
        case="capability",
    ),
    Row(
        number=15,
        code=Code.BACKENDS_DIFFER,
        key="network_backend",
        bad=file('network_backend = "openvswitch"'),
    ),
    Row(number=16, code=Code.HA_IS_ENABLED, bad=pool_with(ha_enabled=True)),
    Row(
        number=17,
        code=Code.NO_MANAGEMENT_IP,
        key="addresses in [management]",
        bad=file("[management]\naddresses = []"),
        good=file('[management]\naddresses = ["10.1.2.3/24"]'),
        case="address",
    ),
    Row(
        number=17,
        code=Code.NO_MANAGEMENT_IP,
        key="addresses in [management]",
        bad=file('[management]\naddresses = ["fe80::1/64", "169.254.1.1/16"]'),
        case="only link-local",
    ),
    Row(
        number=17, code=Code.NO_MANAGEMENT_IP, bad=Given(facts=without_management), case="interface"
    ),
    Row(
        number=17,
        code=Code.ADDRESS_BY_DHCP,
        key="mode in [management]",
        bad=file('[management]\nmode = "dhcp"'),
        good=file('[management]\nmode = "static"'),
        severity=WARNING,
    ),
    Row(
        number=18,
        code=Code.ADDRESS_TYPE_DIFFERS,
        key="addresses in [management]",
        bad=file('[management]\naddresses = ["2001:db8::2/64"]'),
        good=file('[management]\naddresses = ["2001:db8::2/64", "10.1.2.3/24"]'),
    ),
    Row(
        number=18,
        code=Code.VLAN_DIFFERS,
        key="vlan in [management]",
        bad=file("[management]\nvlan = 20"),
    ),
    Row(
        number=18,
        code=Code.MTU_MISMATCH,
        key="mtu in [management]",
        bad=file("[management]\nmtu = 9000"),
        good=file("[management]\nmtu = 1500"),
        forceable=True,
    ),
    Row(
        number=19,
        code=Code.CANNOT_REACH_MEMBER,
        key="unreachable",
        bad=file('unreachable = ["phantom"]'),
        case="there",
    ),
    Row(number=19, code=Code.CANNOT_REACH_MEMBER, bad=unreachable("specter"), case="back"),
    Row(
        number=20,
        code=Code.CLOCK_SKEW,
        key="clock_skew_seconds",
        bad=file("clock_skew_seconds = 1.001"),
        good=file("clock_skew_seconds = 0.199"),
        forceable=True,
    ),
    Row(
        number=20,
        code=Code.CLOCK_SKEW,
        key="clock_skew_seconds",
        bad=file("clock_skew_seconds = -3"),
        forceable=True,
        case="behind",
    ),
    Row(
        number=20,
        code=Code.CLOCK_SKEW,
        key="clock_skew_seconds",
        bad=file("clock_skew_seconds = 0.2"),
        good=file("clock_skew_seconds = -0.1"),
        severity=WARNING,
        case="warning",
    ),
    Row(
        number=23,
        code=Code.DISK_SPACE,
        key="free_disk_bytes",
        bad=file("free_disk_bytes = 1_073_741_823"),
        good=file("free_disk_bytes = 1_073_741_824"),
        severity=WARNING,
    ),
    Row(
        number=23,
        code=Code.SLOW_FSYNC,
        key="fsync_seconds",
        bad=file("fsync_seconds = 0.011"),
        good=file("fsync_seconds = 0.010"),
        severity=WARNING,
    ),
    Row(
        number=24,
        code=Code.ETCD_MISSING,
        key="etcd_version",
        bad=file('etcd_version = "none"'),
        good=file('etcd_version = "3.4.22"'),
    ),
    Row(
        number=24,
        code=Code.ETCD_VERSION_REFUSED,
        key="etcd_version",
        bad=file('etcd_version = "3.5.5"'),
        good=file('etcd_version = "3.5.6"'),
    ),
)


def findings(given: Given, *, force: bool = False) -> tuple[Finding, ...]:
    joining = given.facts(facts("ignite", given.file))
    pool = given.pool(THE_POOL)
    return preflight(pool, joining, master=PHANTOM, would_vote=True, force=force)


WITNESS_ROWS = {1, 5, 6, 7, 8, 11, 17, *range(19, 25)}


def of_witness(given: Given) -> tuple[Finding, ...]:
    joining = replace(given.facts(facts("ignite", given.file)), witness=True)
    return preflight(given.pool(THE_POOL), joining, master=PHANTOM, would_vote=True)


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_of_a_witness_only_the_rows_are_checked_that_it_could_fail(row: Row) -> None:
    found = of_witness(row.bad)

    assert [finding.code for finding in found] == [row.code] * (row.number in WITNESS_ROWS)
    assert of_witness(row.good) == ()
    # It is no hypervisor of the pool's, and never its master.
    assert not any("while it is master" in finding.explanation for finding in found)


def test_a_witness_takes_no_place_in_the_pool_from_a_host() -> None:
    pool = pool_of(FACTS["specter"], replace(facts("vector"), witness=True))
    root: Pool = replace(pool.pool, host_limit=2)
    joining = facts("ignite")
    assert preflight(after(pool, (Put(root),)), joining, master=SPECTER) == ()


def test_a_joining_host_is_not_measured_by_what_a_witness_can_do() -> None:
    poor = "capabilities = []\n[cpu]\nfeatures = []"
    pool = pool_of(FACTS["specter"], replace(facts("vector", poor), witness=True))
    joining = facts("ignite", 'capabilities = ["migrate"]\n[cpu]\nfeatures = ["lm"]')
    codes = [finding.code for finding in preflight(pool, joining, master=SPECTER)]
    assert codes == [Code.NOT_HOMOGENEOUS, Code.FEATURES_INCOMPATIBLE]


def test_a_witness_takes_nobody_in() -> None:
    pool = pool_of(replace(facts("vector"), witness=True))
    with pytest.raises(PoolError) as refused:
        takes_hosts_in(pool.host(host_id("vector")))
    assert refused.value.reason is Reason.HOST_IS_WITNESS
    takes_hosts_in(THE_POOL.host(PHANTOM))


def test_the_document_lists_the_rows_for_a_witness() -> None:
    (rows,) = re.findall(r"A witness .*? is checked on rows ([^.]+)\.", DOCUMENT.read_text())
    spans = [[int(n) for n in span.split(" to ")] for span in re.split(r", | and ", rows)]
    assert {n for span in spans for n in range(span[0], span[-1] + 1)} == WITNESS_ROWS


@pytest.mark.parametrize("row", [row for row in TABLE if row.number == 24], ids=str)
def test_a_host_that_is_to_have_no_vote_needs_no_etcd(row: Row) -> None:
    assert preflight(THE_POOL, facts("ignite", row.bad.file), master=PHANTOM) == ()


def test_a_fresh_host_has_no_findings() -> None:
    assert findings(FRESH) == ()


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_only_this_row_fails(row: Row) -> None:
    (finding,) = findings(row.bad)

    assert finding.code == row.code
    assert finding.severity == row.severity
    assert finding.forceable == row.forceable
    assert finding.blocks == (row.severity is Severity.ERROR)


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_this_row_passes(row: Row) -> None:
    assert findings(row.good) == ()


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_force_overrides_what_it_may_and_the_finding_says_so(row: Row) -> None:
    (finding,) = findings(row.bad, force=True)

    assert finding.overridden == row.forceable
    assert finding.blocks == (row.severity is Severity.ERROR and not row.forceable)


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_a_finding_is_written_for_people(row: Row) -> None:
    (finding,) = findings(row.bad)

    assert finding.subject
    assert finding.expected != finding.actual
    assert finding.remedy[0].isupper()  # an explanation may begin with the host's name
    for sentences in (finding.explanation, finding.remedy):
        assert sentences.endswith(".")
        assert "  " not in sentences
        assert "None" not in sentences


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_the_key_of_the_row_is_in_the_file(row: Row) -> None:
    assert bool(row.bad.file) == (row.key != "–")
    for name in re.findall(r"\[+\w+\]+|\w{5,}|\bmtu\b|\bmode\b|\bvlan\b", row.key):
        assert name == "shared" or name in row.bad.file


def test_the_table_has_every_code_and_every_row_but_those_of_later_releases() -> None:
    assert {row.code for row in TABLE} == set(Code) == set(RULES)
    assert {row.number for row in TABLE} == {*range(1, 25)} - {21, 22}
    assert all(row.number == RULES[row.code].row for row in TABLE)


def test_the_rules_say_what_may_be_forced() -> None:
    for code, rule in RULES.items():
        rows = [row for row in TABLE if row.code is code]
        warnings_only = all(row.severity is WARNING for row in rows)
        assert (rule.force == "warning") == warnings_only
        assert ("yes" in rule.force) == any(row.forceable for row in rows)


def test_the_document_lists_the_table() -> None:
    cells = re.findall(r"^\| (\d+) \| ([A-Z_]+) \| (.+?) \| (.+?) \|$", DOCUMENT.read_text(), re.M)

    documented = {(int(row), code): (force, keys) for row, code, force, keys in cells}

    assert list(documented) == [(rule.row, code) for code, rule in RULES.items()]
    for code, rule in RULES.items():
        force, keys = documented[rule.row, code]
        named = {row.key for row in TABLE if row.code is code}
        assert force == rule.force
        assert {key.replace("`", "") for key in keys.split(", ")} == (
            named - {"–"} if len(named) > 1 else named
        )
