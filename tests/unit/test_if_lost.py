"""What the loss of hosts would come to."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from poolcore.model import PBD, Accession, Host, HostId, MasterRecord, MasterRecordId, Object
from poolcore.outlook import HostRef, Outlook
from poolcore.replica import Put, State, changed
from poolcore.wire.codec import from_proto, to_proto
from poolmaster.decide.if_lost import LiveFacts, if_lost, last_known
from support import strategies
from support.small_pool import (
    IGNITE,
    LOCAL_1,
    NETWORK,
    NFS,
    PHANTOM,
    THEN,
    WEB1,
    host,
    small_pool,
)

SPECTER = HostId("20000000-0000-4000-8000-000000000003")
NAMES = {PHANTOM: "phantom", IGNITE: "ignite", SPECTER: "specter"}


def with_(state: State, *objects: Object) -> State:
    return replace(state, tables=changed(state.tables, map(Put, objects)))


def three(**priorities: int) -> State:
    """The small pool and a third host, which has nothing."""
    state = with_(small_pool(), host(SPECTER, "specter", 3))
    hosts = [
        replace(known, failover_priority=priorities.get(known.name_label, 100))
        for known in state.all(Host)
    ]
    return with_(state, *hosts)


def in_step_with(state: State, host_: HostId) -> State:
    return with_(state, replace(state.pool, in_step=host_))


def facts(
    applied: Mapping[HostId, int] | None = None, *, shared: bool = True, **fields: Any
) -> LiveFacts:
    applied = {PHANTOM: 10, IGNITE: 10, SPECTER: 10} if applied is None else applied
    return LiveFacts(**({"master": PHANTOM} | fields), applied=applied, shared_store=shared)


def lose(state: State, *lost: HostId, at: LiveFacts) -> Outlook:
    return if_lost(state, frozenset(lost), at)


def name(ref: HostRef | None) -> str | None:
    return None if ref is None else ref.name_label


def codes(outlook: Outlook) -> list[str]:
    return [warning.code for warning in outlook.warnings]


def remedy(outlook: Outlook, code: str) -> str:
    return next(w.remedy for w in outlook.warnings if w.code == code)


# -- who is master then ---------------------------------------------------------------------------


def test_on_a_shared_store_the_next_host_takes_over_by_itself() -> None:
    outlook = lose(three(), PHANTOM, at=facts())
    assert (name(outlook.master), name(outlook.next_master)) == ("phantom", "ignite")
    assert (outlook.writes, outlook.survives) == (True, 1)
    assert "`pool designate-master ignite`" in remedy(outlook, "MASTER_CHANGES")


def test_the_newest_replica_wins_then_the_priority_then_the_uuid() -> None:
    newest = facts({PHANTOM: 10, IGNITE: 9, SPECTER: 10})
    assert name(lose(three(ignite=900), PHANTOM, at=newest).next_master) == "specter"
    assert name(lose(three(specter=101), PHANTOM, at=facts()).next_master) == "specter"
    assert name(lose(three(), PHANTOM, at=facts()).next_master) == "ignite"


def test_a_host_of_priority_0_is_never_the_next_master() -> None:
    outlook = lose(three(ignite=0), PHANTOM, at=facts())
    assert (name(outlook.next_master), outlook.survives) == ("specter", 0)
    assert "NO_SPARE" in codes(outlook)
    nobody = lose(three(ignite=0, specter=0), PHANTOM, at=facts())
    assert (nobody.next_master, nobody.writes, nobody.survives) == (None, False, 0)
    assert "`pool host set ignite failover_priority=100`" in remedy(nobody, "NO_CANDIDATE")


def test_a_master_of_priority_0_goes_on_and_counts() -> None:
    outlook = lose(three(phantom=0), IGNITE, at=facts())
    assert (name(outlook.next_master), outlook.writes, outlook.survives) == ("phantom", True, 1)


def test_a_witness_is_never_the_next_master_whatever_its_priority() -> None:
    specter = replace(host(SPECTER, "specter", 3), witness=True)
    state = with_(three(), specter)
    outlook = lose(state, PHANTOM, at=facts())
    assert (name(outlook.next_master), outlook.survives) == ("ignite", 0)
    assert "NO_SPARE" in codes(outlook)
    nobody = lose(state, PHANTOM, IGNITE, at=facts())
    assert (nobody.next_master, nobody.writes, nobody.survives) == (None, False, 0)
    (why,) = (w for w in nobody.warnings if w.code == "NO_CANDIDATE")
    assert "specter is a witness." in why.message
    assert "failover_priority" not in why.remedy
    # A host that is away can be brought back, a witness cannot help.
    away = lose(state, PHANTOM, at=facts({PHANTOM: 10, SPECTER: 10}))
    assert "Start poolmember on ignite" in remedy(away, "NO_CANDIDATE")


def test_a_host_in_maintenance_comes_after_all_others() -> None:
    ignite = replace(host(IGNITE, "ignite", 2), enabled=False, failover_priority=900)
    state = with_(three(), ignite)
    outlook = lose(state, PHANTOM, at=facts({PHANTOM: 10, IGNITE: 10, SPECTER: 9}))
    assert (name(outlook.next_master), outlook.survives) == ("specter", 1)
    assert name(lose(state, PHANTOM, SPECTER, at=facts()).next_master) == "ignite"


def test_a_host_that_is_away_does_not_count() -> None:
    away = facts({PHANTOM: 10, IGNITE: 10})
    outlook = lose(three(), PHANTOM, at=away)
    assert (name(outlook.next_master), outlook.survives) == ("ignite", 0)
    assert "HOST_OFFLINE" in codes(outlook)
    both = lose(three(), PHANTOM, IGNITE, at=away)
    assert both.next_master is None
    assert "`pool designate-master specter`" in remedy(both, "NO_CANDIDATE")


def test_a_pool_whose_store_is_at_its_master_needs_a_person() -> None:
    outlook = lose(three(), PHANTOM, at=facts({PHANTOM: 10, IGNITE: 8, SPECTER: 9}, shared=False))
    assert (name(outlook.next_master), outlook.writes, outlook.survives) == ("specter", False, 0)
    (warning,) = (w for w in outlook.warnings if w.code == "FAILOVER_NEEDS_A_PERSON")
    at_specter = f"`pool --server {three().host(SPECTER).address} emergency-transition-to-master"
    assert f"{at_specter} --yes --accept-loss`" in warning.remedy
    assert "no replica is in step, specter is at revision 9" in warning.message


def test_the_host_in_step_is_the_one_to_go_on_from_and_has_everything() -> None:
    state = in_step_with(three(), IGNITE)
    at = facts({PHANTOM: 10, IGNITE: 9, SPECTER: 10}, shared=False)
    outlook = lose(state, PHANTOM, at=at)
    assert name(outlook.next_master) == "ignite"
    (warning,) = (w for w in outlook.warnings if w.code == "FAILOVER_NEEDS_A_PERSON")
    assert "Nothing that was acknowledged would be lost: ignite has it too." in warning.message
    assert "--yes`" in warning.remedy

    both = lose(state, PHANTOM, IGNITE, at=at)
    assert name(both.next_master) == "specter"
    (warning,) = (w for w in both.warnings if w.code == "FAILOVER_NEEDS_A_PERSON")
    assert "ignite alone had them too, specter is at revision 10" in warning.message
    assert "--accept-loss`" in warning.remedy

    away = lose(state, PHANTOM, at=facts({PHANTOM: 10, SPECTER: 10}, shared=False))
    (warning,) = (w for w in away.warnings if w.code == "FAILOVER_NEEDS_A_PERSON")
    assert "also at ignite, which is not connected" in warning.message


def test_such_a_pool_writes_on_without_any_member() -> None:
    outlook = lose(three(), IGNITE, SPECTER, at=facts(shared=False))
    assert (name(outlook.next_master), outlook.writes, outlook.survives) == ("phantom", True, 0)


def test_with_all_hosts_lost_nobody_is_left() -> None:
    outlook = lose(small_pool(), PHANTOM, IGNITE, at=facts())
    assert (outlook.next_master, outlook.writes) == (None, False)
    assert "NO_HOST_LEFT" in codes(outlook)


def test_a_command_names_a_host_so_that_a_shell_understands_it() -> None:
    odd = with_(three(), replace(host(IGNITE, "ig nite", 2)))
    assert "designate-master 'ig nite'`" in remedy(lose(odd, PHANTOM, at=facts()), "MASTER_CHANGES")
    alike = with_(three(), host(IGNITE, "specter", 2))
    assert f"designate-master {IGNITE}`" in remedy(
        lose(alike, PHANTOM, at=facts()), "MASTER_CHANGES"
    )


# -- what is out of reach -------------------------------------------------------------------------


def test_a_lost_host_takes_its_vms_and_local_srs_along_and_leaves_the_shared_one() -> None:
    outlook = lose(small_pool(), PHANTOM, at=facts())
    assert [(vm.uuid, vm.power_state) for vm in outlook.vms] == [(WEB1, "running")]
    assert [sr.uuid for sr in outlook.srs] == [LOCAL_1]
    assert (outlook.vdis, outlook.networks) == ((), ())
    assert "VMS_STRANDED" in codes(outlook)


def test_a_shared_sr_goes_with_the_last_host_that_has_it_attached() -> None:
    state = small_pool()
    unplugged = (
        replace(pbd, currently_attached=False)
        for pbd in state.all(PBD)
        if (pbd.host, pbd.sr) == (IGNITE, NFS)
    )
    state = with_(state, *unplugged, replace(state.pool, default_sr=NFS))
    outlook = lose(state, PHANTOM, at=facts())
    assert {sr.uuid for sr in outlook.srs} == {LOCAL_1, NFS}
    assert [vdi.name_label for vdi in outlook.vdis] == ["web1-root"]
    assert "DEFAULT_SR_LOST" in codes(outlook)


def test_a_network_goes_with_its_last_interface() -> None:
    assert [n.uuid for n in lose(three(), PHANTOM, IGNITE, at=facts()).networks] == [NETWORK]


# -- laws -----------------------------------------------------------------------------------------

_subsets = st.frozensets(st.sampled_from([PHANTOM, IGNITE, SPECTER]))
_states = st.builds(
    three,
    phantom=st.sampled_from([0, 1, 100]),
    ignite=st.sampled_from([0, 100, 200]),
    specter=st.sampled_from([0, 100]),
)


@given(_states, st.booleans(), _subsets)
def test_the_loss_of_nobody_is_how_things_are(
    state: State, shared: bool, attached: frozenset[HostId]
) -> None:
    now = facts(dict.fromkeys(attached | {PHANTOM}, 10), shared=shared)
    outlook = lose(state, at=now)
    assert outlook.next_master == outlook.master
    assert outlook.writes
    assert (outlook.lost, outlook.vms, outlook.networks) == ((), (), ())
    assert (outlook.srs, outlook.vdis) == ((), ())


@given(_states, _subsets, _subsets)
def test_a_pool_survives_just_as_many_hosts_as_it_says(
    state: State, attached: frozenset[HostId], lost: frozenset[HostId]
) -> None:
    now = facts(dict.fromkeys(attached | {PHANTOM}, 10))
    outlook = if_lost(state, lost, now)
    remaining = [uuid for uuid in NAMES if uuid not in lost]
    if not outlook.writes:
        return
    further = [frozenset(c) for c in _combinations(remaining, outlook.survives)]
    assert all(if_lost(state, lost | more, now).writes for more in further)
    one_more = [frozenset(c) for c in _combinations(remaining, outlook.survives + 1)]
    assert not all(if_lost(state, lost | more, now).writes for more in one_more)


def _combinations(hosts: list[HostId], count: int) -> list[tuple[HostId, ...]]:
    return list(combinations(hosts, count))


@given(_states, st.booleans(), _subsets, _subsets)
def test_losing_more_never_leaves_more_in_reach(
    state: State, shared: bool, some: frozenset[HostId], others: frozenset[HostId]
) -> None:
    few, many = (if_lost(state, lost, facts(shared=shared)) for lost in (some, some | others))
    assert set(few.vms) <= set(many.vms)
    assert set(few.srs) <= set(many.srs)
    assert set(few.networks) <= set(many.networks)
    assert few.writes or not many.writes
    assert few.survives >= many.survives


def test_a_replica_tells_the_last_master_and_the_hosts_that_were_live() -> None:
    record = MasterRecord(
        uuid=MasterRecordId("80000000-0000-4000-8000-000000000001"),
        term=3,
        host=IGNITE,
        since=THEN,
        why=Accession.ELECTED,
    )
    known = last_known(with_(small_pool(), record), shared_store=True)
    assert known.master == IGNITE
    assert known.applied == {PHANTOM: 10, IGNITE: 10}
    assert last_known(small_pool(), shared_store=False).master is None


@given(strategies.instances(Outlook))
def test_an_outlook_survives_the_round_trip(outlook: Outlook) -> None:
    assert from_proto(to_proto(outlook)) == outlook
