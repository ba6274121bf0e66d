"""The remedies as a shell script that does nothing until somebody has read it."""

import subprocess
from dataclasses import replace

from hypothesis import given, settings

from poolcore.model import VM, Finding, Hypervisor, PowerState, VmId
from poolcore.remedy_script import remedy_script
from poolmaster.decide.preflight import preflight
from support import strategies as model_strategies
from support.hosts.facts import facts, host_file, host_id, pool_of

UUID = "7a000000-0000-4000-8000-000000000001"


def findings(*vms: VM) -> tuple[Finding, ...]:
    joining = facts("ignite", host_file("misfit"))
    profile = replace(joining.inventory.profile, hypervisor=Hypervisor(kind="qemu", version="9.0"))
    inventory = replace(
        joining.inventory, profile=profile, objects=(*joining.inventory.objects, *vms)
    )
    pool = pool_of(facts("phantom"))
    return preflight(pool, replace(joining, inventory=inventory), master=host_id("phantom"))


def active(script: str) -> list[str]:
    return [line for line in script.splitlines() if line and not line.startswith("#")]


def test_what_saves_is_active_and_what_changes_something_is_not() -> None:
    script = remedy_script(
        findings(VM(uuid=VmId(UUID), name_label="web2", power_state=PowerState.HALTED))
    )

    assert f"virsh dumpxml --inactive {UUID} > {UUID}.xml" in active(script)
    assert f"#> virsh undefine --keep-nvram {UUID}" in script.splitlines()
    for line in active(script):
        assert line == "set -euC" or "dumpxml" in line or line.startswith(("df", "ip -brief"))


def test_every_finding_is_explained_in_order() -> None:
    found = findings()
    text = " ".join(remedy_script(found).replace("#", " ").split())

    places = [text.index(f"{n}. {f.code}") for n, f in enumerate(found, start=1)]
    assert places == sorted(places)
    for finding in found:
        assert " ".join(finding.explanation.split()) in text


def test_the_shell_takes_it() -> None:
    script = remedy_script(findings())
    subprocess.run(["sh", "-n"], input=script, text=True, check=True, timeout=10)


def test_the_definition_that_was_saved_is_not_lost_when_the_script_runs_again() -> None:
    # The shell opens the file before virsh can fail; without -C that would empty it.
    assert active(remedy_script(findings()))[0] == "set -euC"


def test_no_findings_give_a_script_that_does_nothing() -> None:
    assert active(remedy_script(())) == ["set -euC"]


def test_a_hostile_name_stays_a_comment() -> None:
    hostile = VM(
        uuid=VmId("x > x.xml; reboot\nreboot"),
        name_label="web\nreboot\r\nreboot `virsh dumpxml a > a.xml\nreboot`",
        power_state=PowerState.HALTED,
    )
    for line in active(remedy_script(findings(hostile))):
        assert "reboot" not in line


@settings(max_examples=60)
@given(model_strategies.instances(Finding))
def test_whatever_a_finding_says_nothing_but_harmless_commands_is_active(finding: Finding) -> None:
    remedy = f"{finding.remedy} `virsh dumpxml x > x.xml;{finding.subject}` `{finding.actual}`"
    script = remedy_script([replace(finding, remedy=remedy)])

    assert active(script) == ["set -euC"]
