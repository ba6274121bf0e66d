"""The commands of `pool`: data, notes and exit codes."""

import dataclasses
import json
from collections.abc import Iterator

import pytest
import yaml
from immutables import Map

from poolcore.model import Finding, Kind, PowerState, Severity
from support.cli import Pool
from support.fake_server import FakeHost, Fault
from support.fakes import served
from support.small_pool import NFS, PHANTOM, POOL, WEB1, WEB2

REFUSED = Finding(
    code="JOINING_HOST_CANNOT_HAVE_VMS",
    severity=Severity.ERROR,
    subject="leftover",
    expected="no VM",
    actual="a halted VM",
    explanation="A host brings no VMs into a pool.",
    remedy="Migrate it, or save it with `virsh dumpxml --inactive leftover > leftover.xml` first.",
)
SKEW = dataclasses.replace(
    REFUSED, code="CLOCK_SKEW", subject="misfit", forceable=True, remedy="Set the clock."
)
NOTED = dataclasses.replace(SKEW, code="SLOW_FSYNC", severity=Severity.WARNING, forceable=False)


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeHost]:
    with served() as (host, _):
        yield host


@pytest.fixture
def host(shared: FakeHost) -> Iterator[FakeHost]:
    """A host as at the beginning; its pool only goes forward."""
    before = shared.pool.state.tables
    yield shared
    shared.pool.state = dataclasses.replace(shared.pool.state, tables=before)
    shared.pool.findings = ()
    shared.stale = False
    shared.faults.clear()


@pytest.fixture
def pool(host: FakeHost, capsys: pytest.CaptureFixture[str]) -> Pool:
    return Pool(host.address, capsys)


# -- reading --------------------------------------------------------------------------------------


def test_status_has_exactly_the_agreed_keys(pool: Pool) -> None:
    status = pool("status", "-o", "json").json
    assert set(status) == {
        "pool", "quorum", "master", "hosts", "durable_on", "fresh", "warnings",
    }  # fmt: skip
    assert status["pool"] | {"revision": 0} == {
        "uuid": POOL,
        "name": "phantom",
        "incarnation": 1,
        "incarnation_uuid": "70000000-0000-4000-8000-000000000001",
        "term": 1,
        "revision": 0,
        "engine": "memory",
    }
    assert status["quorum"] == {"voters": 1, "needed": 1, "survives": 0}
    assert status["master"] == {"uuid": PHANTOM, "name": "phantom", "address": "127.0.0.1:7443"}
    assert set(status["hosts"][0]) == {
        "uuid", "name", "address", "role", "live", "in_step", "applied_revision", "lag_seconds",
        "enabled", "declared_dead",
    }  # fmt: skip
    assert [h["role"] for h in status["hosts"]] == ["master", "member"]
    assert status["fresh"] is True
    assert status["warnings"] == [
        {"code": "A_WARNING", "message": "Mind this.", "remedy": "Do that."}
    ]


def test_status_for_people_fits_on_a_terminal(pool: Pool) -> None:
    outcome = pool("status")
    assert outcome.code == 0
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert "Master  phantom, 127.0.0.1:7443" in outcome.out
    assert "Warning A_WARNING: Mind this." in outcome.out


@pytest.mark.parametrize(
    "noun",
    [
        "host",
        "sr",
        "pbd",
        "vdi",
        "network",
        "pif",
        "bond",
        "vlan",
        "tunnel",
        "vm",
        "vbd",
        "vif",
        "task",
        "message",
        "lock",
    ],
)
def test_every_noun_lists_as_table_json_yaml_and_names(pool: Pool, noun: str) -> None:
    table, as_json = pool(noun, "list"), pool(noun, "list", "-o", "json")
    assert (table.code, as_json.code) == (0, 0)
    number = len(as_json.json)
    assert len(table.rows) == (number + 1 if number else 0)
    assert max(map(len, table.out.splitlines()), default=0) <= 80
    assert all(set(obj) >= {"uuid"} for obj in as_json.json)
    assert yaml.safe_load(pool(noun, "list", "-o", "yaml").out) == as_json.json
    assert len(pool(noun, "list", "-o", "name").out.splitlines()) == number
    for obj in as_json.json[:1]:
        shown = pool(noun, "show", obj["uuid"], "-o", "json")
        assert shown.json == obj
        assert obj["uuid"] in pool(noun, "show", obj["uuid"]).out


def test_lists_name_fields_as_xapi_does(pool: Pool) -> None:
    web1 = next(vm for vm in pool("vm", "list", "-o", "json").json if vm["name_label"] == "web1")
    assert web1["power_state"] == "running"
    assert web1["resident_on"] == PHANTOM
    assert web1["memory_static_max"] == 512 * 1024 * 1024
    nfs = next(sr for sr in pool("sr", "list", "-o", "json").json if sr["uuid"] == NFS)
    assert (nfs["shared"], nfs["type"]) == (True, "nfs")
    metrics = pool("host", "list", "-o", "json").json
    assert metrics[0]["address"] == "127.0.0.1:7443"


def test_tables_say_names_where_objects_have_uuids(pool: Pool) -> None:
    assert ["web1", "running", "phantom", "1", "512 MiB", "50000000"] in [
        [c.strip() for c in row] for row in pool("vm", "list").rows
    ]
    assert (
        "phantom, ignite" in pool("sr", "list").out or "ignite, phantom" in pool("sr", "list").out
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("-o", "json", "host", "list"),
        ("host", "-o", "json", "list"),
        ("host", "list", "-o", "json"),
        ("host", "list", "--output=json"),
    ],
)
def test_general_options_stand_before_or_after_the_command(
    pool: Pool, arguments: tuple[str, ...]
) -> None:
    assert len(pool(*arguments).json) == 2


def test_the_server_may_stand_after_the_command_or_in_the_environment(
    host: FakeHost, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pool("show", "--server", host.address, server="").code == 0
    assert pool("show", "--server", f"127.0.0.1:1,{host.address}", server="").code == 0
    monkeypatch.setenv("POOL_SERVER", host.address)
    assert pool("show", server="").code == 0


def test_show_is_the_pool_object(pool: Pool) -> None:
    shown = pool("show", "-o", "json").json
    assert (shown["uuid"], shown["name_label"], shown["host_limit"]) == (POOL, "phantom", 64)
    assert pool("show", "-o", "name").out == "phantom\n"


# -- writing --------------------------------------------------------------------------------------


def test_set_changes_names_tags_and_entries(host: FakeHost, pool: Pool) -> None:
    outcome = pool(
        "vm", "set", "web1", "name_label=web=1", "tags+=a", "tags+=b", "other_config.k=v"
    )
    assert outcome.code == 0
    assert outcome.out == ""
    assert "Changed vm web=1 (revision " in outcome.err
    changed = pool("vm", "set", WEB1, "tags-=a", "other_config.k=", "-o", "json").json
    assert (changed["name_label"], changed["tags"], changed["other_config"]) == ("web=1", ["b"], {})


def test_the_pool_is_set_in_the_same_words(pool: Pool) -> None:
    changed = pool("set", "name_label=lab", "host_limit=8", "tags+=x", "-o", "json").json
    assert (changed["name_label"], changed["host_limit"], changed["tags"]) == ("lab", 8, ["x"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("vm", "set", "web1"),
        ("vm", "set", "web1", "name_label"),
        ("vm", "set", "web1", "power_state=running"),
        ("vm", "set", "web1", "other_config.=x"),
        ("set", "host_limit=many"),
        ("set", "failover.suspect_seconds=soon"),
        ("set", "failover.suspect_seconds=-1"),
        ("vm", "set", "web1", "name_label="),
        ("vm", "list", "-o", "script"),
        ("vm", "list", "--timeout", "0"),
        ("vm", "list", "-o", "xml"),
        ("vm", "list", "--nonesuch"),
        ("vm", "show"),
        ("events", "--types", "vm,cow"),
        ("wait", "vm", "--for", "x=y"),
        ("wait", "vm/web1", "--for", "power_state"),
        ("wait", "vm/web1", "--for", "nonesuch=1"),
        ("add-host", "misfit", "-o", "script"),
        ("show", "--server", ","),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(pool: Pool, arguments: tuple[str, ...]) -> None:
    outcome = pool(*arguments)
    assert outcome.code == 2
    assert outcome.err.startswith("pool: ")
    assert outcome.out == ""


def test_a_change_of_unknown_outcome_says_how_to_repeat_it(host: FakeHost, pool: Pool) -> None:
    host.fault("UpdatePool", *[Fault.SILENT] * 3)
    outcome = pool("set", "name_label=x", "--timeout", "0.2", "-o", "json")
    assert outcome.code == 8
    assert outcome.error["code"] == "OUTCOME_UNKNOWN"
    request_id = outcome.error["details"]["request_id"]
    assert request_id in outcome.error["hint"]
    host.faults.clear()
    assert pool("set", "name_label=x", "--request-id", request_id).code == 0
    assert pool("set", "name_label=x", "--request-id", request_id).code == 0
    assert host.pool.executed[request_id] == 1


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("vm", "show", "nonesuch"), 3, "OBJECT_NOT_FOUND"),
        (("vm", "show", "web"), 3, "OBJECT_AMBIGUOUS"),
        (("vm", "set", "nonesuch", "tags+=x"), 3, "OBJECT_NOT_FOUND"),
        (("set", "name_label="), 2, "INVALID_VALUE"),
        (("events", "--since", "1"), 1, "HISTORY_GONE"),
    ],
)
def test_an_error_is_json_where_data_is(
    pool: Pool, arguments: tuple[str, ...], code: int, reason: str
) -> None:
    outcome = pool(*arguments, "-o", "json")
    assert outcome.code == code
    assert outcome.out == ""
    assert set(outcome.error) == {"code", "message", "hint", "details"}
    assert outcome.error["code"] == reason
    assert outcome.error["message"]
    assert outcome.error["hint"]


def test_an_error_for_people_has_its_remedy(pool: Pool) -> None:
    outcome = pool("vm", "show", "nonesuch")
    assert outcome.err.splitlines() == [
        "pool: There is no vm “nonesuch” in this pool.",
        "`pool vm list` shows what there is.",
    ]


def test_usage_errors_are_json_too(pool: Pool) -> None:
    assert pool("nonesuch", "-o", "json").error["code"] == "USAGE"
    assert pool("vm", "set", "web1", "x", "-o", "json").error["code"] == "USAGE"
    assert pool("vm", "list", "--nonesuch", "--output", "json").error["code"] == "USAGE"


def test_where_no_host_answers_the_exit_code_is_6(pool: Pool) -> None:
    outcome = pool("status", "-o", "json", server="127.0.0.1:1")
    assert outcome.code == 6
    assert outcome.error["details"] == {"addresses": "127.0.0.1:1"}


def test_without_a_server_the_hosts_own_socket_is_asked(pool: Pool) -> None:
    outcome = pool("status", server="")
    assert outcome.code == 6
    assert "unix:///run/poolmember/api.sock" in outcome.err
    assert "--server" in outcome.err


def test_no_answer_in_time_is_7(host: FakeHost, pool: Pool) -> None:
    host.fault("ListVms", Fault.SILENT)
    outcome = pool("vm", "list", "--timeout", "0.2")
    assert outcome.code == 7
    assert "No answer within 0." in outcome.err


def test_a_stale_answer_is_noted_and_refused_where_a_fresh_one_is_required(
    host: FakeHost, pool: Pool
) -> None:
    host.stale = True
    outcome = pool("vm", "list", "-o", "json")
    assert outcome.code == 0
    assert len(outcome.json) == 2
    assert "stale: revision " in outcome.err
    assert "12 s old" in outcome.err
    assert pool("status", "-o", "json").json["master"] is None
    assert pool("status", "-o", "json").json["fresh"] is False
    refused = pool("vm", "list", "--require-fresh", "-o", "json")
    assert (refused.code, refused.error["code"]) == (6, "STALE_ANSWER")
    assert pool("--require-fresh", "vm", "list").code == 6


def test_names_cannot_command_the_terminal(host: FakeHost, pool: Pool) -> None:
    evil = "\x1b]0;owned\x07\n\u202eweb\x9b31m[red]"
    host.pool.put(host.pool.find(Kind.VM, WEB2), name_label=evil, other_config=Map({"k": evil}))
    for arguments in (
        ["vm", "list"],
        ["vm", "show", WEB2],
        ["vm", "list", "-o", "name"],
        ["vm", "list", "-o", "json"],
        ["vm", "list", "-o", "yaml"],
        ["vm", "set", WEB2, "tags+=x"],
        ["vm", "show", evil + "x"],
        ["vm", "show", evil + "x", "-o", "json"],
        ["events", "--since", str(host.pool.state.revision - 1), "--count", "1"],
    ):
        outcome = pool(*arguments)
        shown = outcome.out + outcome.err
        assert not any(c in shown for c in "\x1b\x07\x9b\u202e"), arguments
    listed = pool("vm", "list", "-o", "json").json
    assert evil in [vm["name_label"] for vm in listed]
    assert yaml.safe_load(pool("vm", "list", "-o", "yaml").out) == listed
    assert "\\x1b]0;owned\\x07\\n\\u202eweb\\x9b31m[red]" in pool("vm", "list", "-o", "name").out


# -- hosts coming and going -----------------------------------------------------------------------


def test_a_refused_host_is_told_every_reason(host: FakeHost, pool: Pool) -> None:
    host.pool.findings = (REFUSED, SKEW, NOTED)
    outcome = pool("add-host", "misfit", "-o", "json")
    assert outcome.code == 5
    assert set(outcome.json) == {"joined", "host", "findings"}
    assert (outcome.json["joined"], outcome.json["host"]) == (False, None)
    assert [f["code"] for f in outcome.json["findings"]] == [
        "JOINING_HOST_CANNOT_HAVE_VMS",
        "CLOCK_SKEW",
        "SLOW_FSYNC",
    ]
    assert set(outcome.json["findings"][0]) == {
        "code", "severity", "subject", "expected", "actual", "explanation", "remedy",
        "forceable", "overridden",
    }  # fmt: skip
    assert outcome.error["code"] == "JOIN_REFUSED"
    table = pool("add-host", "misfit")
    assert table.code == 5
    assert "CLOCK_SKEW (error, --force overrides it)" in table.out
    assert "SLOW_FSYNC (warning)" in table.out
    assert "Migrate it" in table.out
    assert "does not fit" in table.err


def test_a_dry_run_starts_nothing(host: FakeHost, pool: Pool) -> None:
    host.pool.findings = (NOTED,)
    before = host.calls["AddHost"]
    outcome = pool("add-host", "specter", "--dry-run", "-o", "json")
    assert outcome.code == 0
    assert (outcome.json["joined"], len(outcome.json["findings"])) == (False, 1)
    host.pool.findings = (REFUSED,)
    assert pool("add-host", "specter", "--dry-run").code == 5
    script = pool("add-host", "specter", "--dry-run", "-o", "script")
    assert script.code == 5
    assert script.out.startswith("#!/bin/sh\n")
    assert "virsh dumpxml --inactive leftover > leftover.xml" in script.out
    assert host.calls["AddHost"] == before


def test_without_waiting_the_task_is_printed(host: FakeHost, pool: Pool) -> None:
    task = pool("add-host", "specter", "--no-wait", "-o", "json").json
    assert task["operation"] == "host.join"
    assert task["status"] == "pending"
    uuid = pool("eject-host", "ignite", "--yes", "--no-wait").out.strip()
    assert pool("task", "show", uuid, "-o", "json").json["operation"] == "host.eject"
    cancelled = pool("task", "cancel", uuid, "-o", "json").json
    assert cancelled["status"] == "cancelling"
    assert f"Task {uuid} is cancelling." in pool("task", "cancel", uuid).err


def test_when_time_runs_out_the_task_goes_on(pool: Pool) -> None:
    outcome = pool("add-host", "specter", "--timeout", "0.3")
    assert outcome.code == 7
    assert "goes on; `pool task show " in outcome.err.replace("\n", " ")
    as_json = pool("eject-host", "ignite", "--yes", "--timeout", "0.3", "-o", "json")
    assert as_json.code == 7
    assert as_json.error["code"] == "DEADLINE_PASSED"


def test_ejecting_asks_and_where_nobody_can_be_asked_needs_yes(host: FakeHost, pool: Pool) -> None:
    before = host.calls["EjectHost"]
    outcome = pool("eject-host", "ignite")
    assert outcome.code == 2
    assert "--yes" in outcome.err
    assert host.calls["EjectHost"] == before


# -- following ------------------------------------------------------------------------------------


def test_events_are_json_lines(host: FakeHost, pool: Pool) -> None:
    since = host.pool.state.revision
    web1 = host.pool.find(Kind.VM, WEB1)
    host.pool.put(host.pool.find(Kind.SR, NFS), name_label="x")
    host.pool.put(web1, name_label="web-1")
    host.pool.remove(web1)
    arguments = ("events", "--since", str(since), "--types", "vm", "--count", "2")
    put, remove = map(json.loads, pool(*arguments, "-o", "json").out.splitlines())
    assert (put["revision"], put["type"], put["kind"], put["uuid"]) == (
        since + 2,
        "put",
        "vm",
        WEB1,
    )
    assert put["object"]["name_label"] == "web-1"
    assert (remove["type"], remove["object"]) == ("remove", None)
    assert [row[-1].strip() for row in pool(*arguments).rows] == ["web-1", WEB1]
    assert pool(*arguments, "-o", "name").out.splitlines() == ["vm/web-1", f"vm/{WEB1}"]
    documents = yaml.safe_load_all(pool(*arguments, "-o", "yaml").out)
    assert [d["type"] for d in documents] == ["put", "remove"]


def test_waiting_ends_when_it_is_so(host: FakeHost, pool: Pool) -> None:
    assert pool("wait", "vm/web1", "--for", "power_state=running").code == 0
    assert pool("wait", "sr/nfs-iso", "--for", "shared=true").code == 0
    waiting = ("wait", "vm/web2", "--for", "power_state=running", "--timeout", "0.2")
    assert pool(*waiting).code == 7
    host.pool.put(host.pool.find(Kind.VM, WEB2), power_state=PowerState.RUNNING, tags={"a", "b"})
    assert pool(*waiting, "-o", "json").json["power_state"] == "running"
    assert pool("wait", "vm/web2", "--for", "tags=b").code == 0
    assert pool("wait", "vm/nonesuch", "--for", "tags=b").code == 3


def test_help_needs_no_pool(pool: Pool) -> None:
    for arguments in ([], ["--help"], ["-h"], ["host"], ["vm", "set", "--help"], ["context"]):
        outcome = pool(*arguments, server="")
        assert outcome.code == 0
        assert outcome.out.startswith("Usage: pool")


# -- doctor ---------------------------------------------------------------------------------------


def test_the_doctor_says_what_is_wrong(pool: Pool) -> None:
    found = pool("doctor", "-o", "json").json
    by_check = {d["check"]: d for d in found}
    assert by_check["daemon"]["state"] == "ok"
    assert by_check["master"]["message"] == "phantom is the master."
    assert by_check["pool"]["remedy"] == "Do that."
    assert all(set(d) == {"check", "state", "message", "remedy"} for d in found)
    outcome = pool("doctor", server="127.0.0.1:1")
    assert outcome.code == 1
    assert "problem" in outcome.out
