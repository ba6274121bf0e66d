"""The client's public names and its exceptions."""

import pytest

import poolclient
from poolclient import _errors
from poolclient._errors import client_error
from poolcore.errors import CATALOG, Exit, PoolError, Reason
from poolcore.model import Finding, Severity

FINDING = Finding(
    code="JOINING_HOST_CANNOT_HAVE_VMS",
    severity=Severity.ERROR,
    subject="web1",
    expected="no VM",
    actual="halted",
    explanation="It has a VM.",
    remedy="Remove it.",
)


def test_exports_are_these() -> None:
    assert sorted(poolclient.__all__) == [
        "Ambiguous",
        "AskedHost",
        "Backup",
        "BlockingCollection",
        "BlockingEmergencyHost",
        "BlockingHostCollection",
        "BlockingMirror",
        "BlockingPoolClient",
        "BlockingPoolLock",
        "BlockingTaskHandle",
        "BlockingWritableCollection",
        "Changes",
        "Collection",
        "Committed",
        "Conflict",
        "Cursor",
        "DEFAULT_PORT",
        "DeadHost",
        "Difference",
        "DrillReport",
        "EmergencyHost",
        "Event",
        "Failed",
        "ForgetPreview",
        "ForgottenHost",
        "Freshness",
        "HistoryGone",
        "HostCheck",
        "HostCollection",
        "HostReport",
        "HostStatus",
        "InvalidRequest",
        "JoinRefused",
        "Listing",
        "LockHeld",
        "LockLost",
        "Mirror",
        "NamedObject",
        "NoHostAnswers",
        "NoMaster",
        "NotAllowed",
        "NotFound",
        "Options",
        "OutcomeUnknown",
        "PoolClient",
        "PoolClientError",
        "PoolLock",
        "PoolStatus",
        "Quorum",
        "RecoveredChange",
        "Recoveries",
        "Reign",
        "RestorePlan",
        "Restored",
        "Role",
        "StaleAnswer",
        "StatusWarning",
        "TaskCancelled",
        "TaskHandle",
        "TimedOut",
        "Transition",
        "View",
        "ViewTable",
        "WritableCollection",
        "normal_address",
        "read_backup",
    ]
    assert all(hasattr(poolclient, name) for name in poolclient.__all__)


def test_nothing_else_is_public() -> None:
    public = {name for name in vars(poolclient) if not name.startswith("_")}
    assert public == set(poolclient.__all__)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_an_exception_of_its_family(reason: Reason) -> None:
    families: dict[Exit, tuple[type[poolclient.PoolClientError], ...]] = {
        Exit.FAILED: (_errors.Failed,),
        Exit.USAGE: (_errors.InvalidRequest,),
        Exit.NOT_FOUND: (_errors.NotFound, _errors.Ambiguous),
        Exit.NOT_ALLOWED: (_errors.NotAllowed,),
        Exit.CONFLICT: (_errors.Conflict,),
        Exit.NO_MASTER: (_errors.NoMaster,),
        Exit.TIMED_OUT: (_errors.TimedOut,),
        Exit.OUTCOME_UNKNOWN: (_errors.OutcomeUnknown,),
    }
    error = client_error(PoolError(reason, a="1"))
    assert isinstance(error, families[CATALOG[reason].exit])
    assert (error.reason, error.params) == (reason, {"a": "1"})


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    classes = {
        name: cls
        for name, cls in vars(_errors).items()
        if isinstance(cls, type) and issubclass(cls, _errors.PoolClientError)
    }
    drawn = [line for line in (_errors.__doc__ or "").splitlines() if "──" in line]
    parents = {"PoolClientError": "PoolError"}
    parent = ""
    for line in drawn:
        name = line.split("──")[1].split()[0]
        if line.index("──") > 6:
            parents[name] = parent
        else:
            parents[name] = "PoolClientError"
            parent = name
    assert parents == {name: cls.__mro__[1].__name__ for name, cls in classes.items()}


def test_a_refused_join_keeps_its_findings() -> None:
    error = client_error(PoolError(Reason.JOIN_REFUSED, findings=(FINDING,), host="h", count="1"))
    assert isinstance(error, poolclient.JoinRefused)
    assert error.findings == (FINDING,)
    assert error.message == "h does not fit into the pool; findings in the way: 1."
    assert "--dry-run" in error.remedy


def test_an_unknown_outcome_says_under_which_id_to_repeat() -> None:
    error = client_error(PoolError(Reason.OUTCOME_UNKNOWN, request_id="7-abcdefgh"))
    assert isinstance(error, poolclient.OutcomeUnknown)
    assert error.request_id == "7-abcdefgh"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("phantom", "phantom:7443"),
        ("phantom.example.org:99", "phantom.example.org:99"),
        ("10.0.0.1", "10.0.0.1:7443"),
        ("::1", "[::1]:7443"),
        ("[fe80::1%eth0]:8000", "[fe80::1%eth0]:8000"),
        ("[::1]", "[::1]:7443"),
        ("unix:///run/poolmember/api.sock", "unix:///run/poolmember/api.sock"),
    ],
)
def test_an_address_gets_the_default_port(written: str, meant: str) -> None:
    assert poolclient.normal_address(written) == meant


@pytest.mark.parametrize(
    "written", ["", "a b", "http://phantom", "phantom:", "phantom:x", "phantom:0", "phantom:65536"]
)
def test_what_is_no_address_is_refused(written: str) -> None:
    with pytest.raises(poolclient.InvalidRequest):
        poolclient.normal_address(written)
