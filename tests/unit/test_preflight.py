"""The preflight as a whole: everything at once, in order, and sound whatever a host says."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolcore.facts import HostFacts
from poolcore.model import SR, VM, Finding, Hypervisor, PowerState, Severity, VmId
from poolmaster.decide.preflight import RULES, Code, preflight
from poolmaster.decide.preflight.case import LISTED, SHOWN_LENGTH
from support import strategies as model_strategies
from support.hosts.facts import POOL, facts, host_file, host_id, pool_of

PHANTOM = host_id("phantom")
THE_POOL = pool_of(facts("phantom", host_file("three-shared")), facts("specter"))


def check(joining: HostFacts, *, force: bool = False) -> tuple[Finding, ...]:
    return preflight(THE_POOL, joining, master=PHANTOM, force=force)


def on_libvirt(joining: HostFacts) -> HostFacts:
    profile = replace(joining.inventory.profile, hypervisor=Hypervisor(kind="qemu", version="9.0"))
    return replace(joining, inventory=replace(joining.inventory, profile=profile))


def with_vms(joining: HostFacts, *vms: VM) -> HostFacts:
    objects = (*joining.inventory.objects, *vms)
    return replace(joining, inventory=replace(joining.inventory, objects=objects))


def test_all_five_reasons_are_given_at_once() -> None:
    found = check(facts("ignite", host_file("misfit")))

    assert [f.code for f in found] == [
        "POOL_JOINING_HOST_MUST_HAVE_SAME_PRODUCT_VERSION",
        "JOINING_HOST_CANNOT_HAVE_VMS",
        "POOL_JOINING_HOST_HAS_NETWORKS",
        "JOINING_HOST_CANNOT_CONTAIN_SHARED_SRS",
        "CLOCK_SKEW",
    ]
    assert all(f.remedy for f in found)


def test_force_lets_only_the_clock_pass_and_still_lists_it() -> None:
    found = check(facts("ignite", host_file("misfit")), force=True)

    assert [f.code for f in found if f.overridden] == ["CLOCK_SKEW"]
    assert sum(f.blocks for f in found) == 4


def test_a_host_with_everything_wrong_gets_every_row_in_order() -> None:
    found = check(facts("ignite", host_file("everything")))

    rows = [RULES[Code(f.code)].row for f in found]
    assert rows == sorted(rows)
    assert set(rows) == {1, 2, 3, 4, 8, 11, 12, 13, 14, 15, 17, 18, 19, 20, 23}


def test_the_same_facts_give_the_same_findings() -> None:
    text = host_file("everything")
    assert check(facts("ignite", text)) == check(facts("ignite", text))


def test_a_member_duplicates_only_itself() -> None:
    found = check(replace(facts("specter"), pool=POOL, pool_hosts=2, is_master=False))
    assert [f.code for f in found] == ["HOST_ALREADY_IN_POOL"]


def test_the_master_is_told_that_it_is_the_master() -> None:
    joining = replace(facts("phantom"), pool=POOL, pool_hosts=2)
    (finding,) = check(joining)
    assert finding.actual == "the master of the pool"


def test_a_copied_host_gets_every_double_reported() -> None:
    copied = replace(facts("specter"), pool=facts("ignite").pool)

    codes = [f.code for f in check(copied)]

    assert codes[:3] == ["DUPLICATE_HOST_UUID", "DUPLICATE_HOST_NAME", "DUPLICATE_HOST_ADDRESS"]
    assert codes[3:] == ["DUPLICATE_SR_UUID"] * 3


def test_a_copied_disk_image_is_a_double_too() -> None:
    image = '[[sr]]\nname = "Local storage"\n[[sr.image]]\nname = "golden"\nuuid = "{}"'
    uuid = "1a000000-0000-4000-8000-000000000009"
    pool = pool_of(facts("phantom", image.format(uuid)))

    (finding,) = preflight(pool, facts("ignite", image.format(uuid)), master=PHANTOM)

    assert (finding.code, finding.subject) == ("DUPLICATE_SR_UUID", "golden")


def test_features_that_only_some_members_have_are_not_asked_for() -> None:
    lean = '[cpu]\nfeatures = ["lm", "nx"]'
    pool = pool_of(facts("phantom"), facts("specter", lean))

    assert preflight(pool, facts("ignite", lean), master=PHANTOM) == ()


def test_a_vlan_that_carries_the_management_address_is_part_of_a_fresh_host() -> None:
    vlan = "[management]\nvlan = 20"
    pool = pool_of(facts("phantom", vlan))

    assert preflight(pool, facts("ignite", vlan), master=PHANTOM) == ()
    (finding,) = preflight(pool, facts("ignite"), master=PHANTOM)
    assert (finding.expected, finding.actual) == ("VLAN 20", "no VLAN")


def test_a_clock_that_is_no_number_is_wrong() -> None:
    (finding,) = check(replace(facts("ignite"), clock_offset_seconds=math.nan))
    assert finding.severity is Severity.ERROR


def test_ten_thousand_vms_give_an_answer_that_can_be_sent() -> None:
    vms = [
        VM(uuid=VmId(f"vm-{n}"), name_label=f"vm-{n}", power_state=PowerState.HALTED)
        for n in range(10_000)
    ]
    running = VM(uuid=VmId("r"), name_label="zz-runs", power_state=PowerState.RUNNING)

    found = check(with_vms(facts("ignite"), *vms, running))

    assert len(found) == LISTED
    assert found[0].subject == "zz-runs"
    assert found[-1].subject == f"{10_001 - (LISTED - 1)} more VMs"


def test_what_is_being_done_with_a_vm_is_an_operation_too() -> None:
    found = check(facts("ignite", '[[vm]]\nname = "web1"\noperations = ["snapshot"]'))
    assert [(f.code, f.subject) for f in found] == [
        ("JOINING_HOST_CANNOT_HAVE_VMS", "web1"),
        ("JOINING_HOST_CANNOT_HAVE_VMS_WITH_CURRENT_OPERATIONS", "web1"),
    ]


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "x" * 300, "`reboot`", "$(reboot)"])
def test_a_name_cannot_break_out_of_a_finding(name: str) -> None:
    vm = VM(uuid=VmId(name), name_label=name, power_state=PowerState.HALTED)

    (finding,) = (
        f for f in check(on_libvirt(with_vms(facts("ignite"), vm))) if f.code == Code.HAS_VMS
    )

    for text in (finding.subject, finding.explanation, finding.remedy, finding.actual):
        assert text.isprintable()
    assert len(finding.subject) <= SHOWN_LENGTH
    assert finding.remedy.count("`") % 2 == 0
    assert "`reboot`" not in finding.remedy
    assert "undefine --keep-nvram $(" not in finding.remedy


def test_remedies_for_libvirt_hosts_save_before_they_remove_and_keep_the_disks() -> None:
    uuid = "7a000000-0000-4000-8000-000000000001"
    vm = VM(uuid=VmId(uuid), name_label="web1", power_state=PowerState.HALTED)
    storage = '[[sr]]\nname = "nfs-iso"\ntype = "nfs"\nshared = true'
    joining = on_libvirt(with_vms(facts("ignite", storage), vm))

    remedies = {f.code: f.remedy for f in check(joining)}

    of_vm = remedies[Code.HAS_VMS]
    assert of_vm.index(f"`virsh dumpxml --inactive {uuid} > {uuid}.xml`") < of_vm.index(
        "virsh undefine"
    )
    assert "--remove-all-storage" not in of_vm
    of_sr = remedies[Code.HAS_SHARED_SRS]
    sr = next(o for o in joining.inventory.objects if isinstance(o, SR) and o.shared)
    assert of_sr.index("pool-dumpxml") < of_sr.index(f"`virsh pool-undefine {sr.uuid}`")
    assert "`virsh pool-delete" not in of_sr


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("running", "virsh shutdown"),
        ("paused", "virsh resume"),
        ("suspended", "would lose its memory"),
        ("halted", "Migrate it"),
    ],
)
def test_the_remedy_for_a_vm_fits_what_it_is_doing(state: str, expected: str) -> None:
    vm = VM(uuid=VmId("v"), name_label="web1", power_state=PowerState(state))
    found = check(on_libvirt(with_vms(facts("ignite"), vm)))
    assert expected in next(f.remedy for f in found if f.code == Code.HAS_VMS)


def test_libvirts_own_network_is_undefined_and_a_bridge_of_the_host_is_unconfigured() -> None:
    networks = (
        '[[network]]\nname = "isolated"\nbridge = "virbr7"\n'
        'uuid = "0e000000-0000-4000-8000-000000000001"\n'
        '[[network]]\nname = "br9"\nbridge = "br9"'
    )
    found = check(on_libvirt(facts("ignite", networks)))
    remedies = {f.subject: f.remedy for f in found if f.code == Code.HAS_NETWORKS}

    assert "`virsh net-undefine 0e000000-0000-4000-8000-000000000001`" in remedies["isolated"]
    assert "`ip link delete br9`" in remedies["br9"]


@settings(max_examples=60)
@given(model_strategies.facts, st.booleans())
def test_no_facts_whatever_make_it_fail_or_speak_in_riddles(
    joining: HostFacts, force: bool
) -> None:
    for finding in check(joining, force=force):
        assert finding.code in RULES
        assert finding.explanation.isprintable()
        assert finding.remedy.isprintable()
        assert finding.overridden == (force and finding.forceable)
