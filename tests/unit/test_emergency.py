"""Whether a host may go on without its master, what that would lack, and how that is told."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from poolcli.emergency import show_members
from poolcli.emergency_outlook import outlook_json, show_outlook
from poolcli.output import Format
from poolcore.errors import PoolError, Reason
from poolcore.facts import EmergencyOutlook, RecoveredMember, Standing, Tail
from poolcore.model import Host, HostId, Incarnation, Voters
from poolcore.replica import Put, State, changed
from poolcore.wire.codec import from_proto, to_proto
from poolmaster.decide.emergency import outlook
from support.small_pool import IGNITE, PHANTOM, host, small_pool

SPECTER = HostId("20000000-0000-4000-8000-000000000003")


def pool(*, in_step: HostId | None = IGNITE, witness: HostId | None = None) -> State:
    """Three hosts; the store was at phantom."""
    state = small_pool()
    hosts = [*state.all(Host), host(SPECTER, "specter", 3)]
    puts = [Put(replace(h, witness=h.uuid == witness)) for h in hosts]
    pool_ = Put(replace(state.pool, in_step=in_step))
    return replace(state, tables=changed(state.tables, [pool_, *puts]))


def standing(
    state: State, uuid: HostId, *, behind: int = 0, leads: bool = False, hears: bool = False,
    incarnation: Incarnation | None = None,
) -> Standing:  # fmt: skip
    return Standing(
        host=uuid,
        revision=state.revision - behind,
        priority=100,
        hears_master=hears,
        reaches_store=False,
        leads=leads,
        incarnation=incarnation or state.incarnation,
    )


def seen(state: State, own: HostId = IGNITE, **answers: Standing | None) -> EmergencyOutlook:
    """What the host finds that is asked; hosts that are not among `answers` are silent."""
    others = sorted((h for h in state.all(Host) if h.uuid != own), key=lambda h: h.name_label)
    return outlook(state, state.host(own), [(h, answers.get(h.name_label)) for h in others])


def refusal(state: State, own: HostId = IGNITE, **answers: Standing | None) -> PoolError:
    with pytest.raises(PoolError) as refused:
        seen(state, own, **answers)
    return refused.value


# -- what would be missing ------------------------------------------------------------------------


def test_nothing_is_missing_where_the_host_in_step_answers() -> None:
    state = pool(in_step=IGNITE)
    found = seen(state, specter=standing(state, SPECTER))
    assert (found.may_lack, [p.name_label for p in found.to_be_off]) == (False, ["phantom"])


@pytest.mark.parametrize("in_step", [None, SPECTER])
def test_changes_may_be_missing_where_nobody_in_reach_was_in_step(in_step: HostId | None) -> None:
    found = seen(pool(in_step=in_step))
    assert found.may_lack
    assert [p.name_label for p in found.may_have_more] == ["phantom", "specter"]


def test_nothing_is_missing_where_every_host_answers() -> None:
    state = pool(in_step=None)
    found = seen(
        state, phantom=standing(state, PHANTOM, behind=2), specter=standing(state, SPECTER)
    )
    assert (found.may_lack, found.to_be_off) == (False, ())


@pytest.mark.parametrize("host", [PHANTOM, IGNITE])
def test_after_a_handover_the_former_master_counts(host: HostId) -> None:
    # Phantom has handed over to ignite.
    state = pool(in_step=PHANTOM)
    others = [(h, None) for h in state.all(Host) if h.uuid != host]
    found = outlook(state, state.host(host), others, succeeded=True)
    assert (found.may_lack, found.in_step) == (host != PHANTOM, "phantom")


@pytest.mark.parametrize("host", [PHANTOM, IGNITE])
def test_after_a_handover_nobody_counts_without_the_one_that_was_in_step(host: HostId) -> None:
    # Specter was in step before, and may not know of it.
    state = pool(in_step=PHANTOM)
    state = replace(state, tables=changed(state.tables, [was_in_step(state, SPECTER)]))
    others = [h for h in state.all(Host) if h.uuid != host]
    there = [(h, None if h.uuid == SPECTER else standing(state, h.uuid)) for h in others]
    assert outlook(state, state.host(host), there, succeeded=True).may_lack
    all_there = [(h, standing(state, h.uuid)) for h in others]
    assert not outlook(state, state.host(host), all_there, succeeded=True).may_lack


def was_in_step(state: State, uuid: HostId) -> Put:
    return Put(replace(state.pool, was_in_step=uuid))


def test_a_host_that_does_not_say_what_it_has_may_have_more() -> None:
    state = pool(in_step=SPECTER)
    starting = replace(standing(state, SPECTER), incarnation=None, revision=0)
    found = seen(state, phantom=standing(state, PHANTOM), specter=starting)
    assert found.may_lack
    assert [p.name_label for p in found.may_have_more] == ["specter"]


def test_a_host_that_has_the_store_leads_though_it_is_only_just_starting() -> None:
    state = pool()
    starting = replace(standing(state, PHANTOM), incarnation=None, revision=0, reaches_store=True)
    assert refusal(state, phantom=starting).reason is Reason.QUORUM_LIVES


def test_a_host_with_the_store_is_not_sent_to_the_one_in_step() -> None:
    state = pool(in_step=IGNITE)
    answers = [
        (state.host(IGNITE), standing(state, IGNITE)),
        (state.host(SPECTER), None),
    ]
    assert outlook(state, state.host(PHANTOM), answers, has_store=True).may_lack


# -- who may not ----------------------------------------------------------------------------------


def test_a_host_that_has_more_is_the_one_to_go_on_from() -> None:
    state = pool()
    refused = refusal(state, specter=standing(state, SPECTER, behind=-1))
    assert refused.reason is Reason.REPLICA_BEHIND
    assert state.host(SPECTER).address in refused.remedy


def test_the_host_in_step_is_the_one_to_go_on_from() -> None:
    state = pool(in_step=IGNITE)
    refused = refusal(state, SPECTER, ignite=standing(state, IGNITE))
    assert refused.reason is Reason.ANOTHER_IN_STEP
    assert state.host(IGNITE).address in refused.remedy


def test_a_host_that_has_not_confirmed_that_it_is_in_step_is_none() -> None:
    state = pool(in_step=IGNITE)
    assert seen(state, SPECTER, ignite=standing(state, IGNITE, behind=1)).may_lack


def test_a_witness_in_step_tells_nobody_that_nothing_is_missing() -> None:
    state = pool(in_step=IGNITE, witness=IGNITE)
    assert seen(state, SPECTER, ignite=standing(state, IGNITE)).may_lack


def test_a_master_that_one_of_the_hosts_hears_is_not_replaced() -> None:
    state = pool()
    for answer in (
        standing(state, SPECTER, hears=True),
        standing(state, SPECTER, leads=True),
    ):
        assert refusal(state, specter=answer).reason is Reason.MASTER_LIVES


def test_a_master_of_an_earlier_incarnation_does_not_count() -> None:
    state = pool()
    earlier = replace(state.incarnation, counter=state.incarnation.counter - 1)
    answer = standing(state, SPECTER, leads=True, behind=3, incarnation=earlier)
    assert seen(state, specter=answer).revision == state.revision


def test_a_host_with_the_store_leads_without_a_person() -> None:
    state = pool()
    waiting = replace(standing(state, PHANTOM), reaches_store=True)
    assert refusal(state, phantom=waiting).reason is Reason.QUORUM_LIVES
    left_behind = replace(waiting, incarnation=Incarnation(0, state.incarnation.uuid))
    assert seen(state, phantom=left_behind).may_lack is False


def test_what_only_a_witness_has_may_be_lost() -> None:
    state = pool(witness=SPECTER)
    found = seen(state, specter=standing(state, SPECTER, behind=-1))
    assert found.may_lack
    assert [p.name_label for p in found.may_have_more] == ["phantom", "specter"]
    assert [p.name_label for p in found.to_be_off] == ["phantom"]


VOTING = (PHANTOM, IGNITE, SPECTER)


def read(state: State, tails: Mapping[HostId, Tail | None]) -> EmergencyOutlook:
    """What ignite finds when every host answers, with what was read on the voters' disks."""
    answers = [(host, standing(state, host.uuid)) for host in state.all(Host)]
    others = [(host, answer) for host, answer in answers if host.uuid != IGNITE]
    return outlook(state, state.host(IGNITE), others, tails=tails)


def in_etcd() -> State:
    """As `pool`, with the store in an etcd of the three; nobody is in step there."""
    state = pool(in_step=None)
    voters = Voters("token", VOTING)
    return replace(state, tables=changed(state.tables, [Put(replace(state.pool, voters=voters))]))


@pytest.mark.parametrize("unread", [None, Tail(whole=False)])
def test_nothing_is_missing_only_where_every_voter_s_disk_was_read(unread: Tail | None) -> None:
    state = in_etcd()
    tails: dict[HostId, Tail | None] = {host: Tail() for host in VOTING}
    assert not read(state, tails).may_lack
    assert read(state, {**tails, SPECTER: unread}).may_lack
    assert read(state, {}).may_lack


def test_what_a_voter_s_disk_has_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    state = in_etcd()
    longer = {IGNITE: Tail((1, 2, 7), (b"a",)), SPECTER: Tail((1, 2, 8), (b"a", b"b"))}
    found = read(state, longer)
    assert (found.tail_from, found.tail_commits, found.may_lack) == ("specter", 2, True)
    words = shown(found, capsys)
    assert f"specter's etcd has 2 later changes, up to revision {state.revision + 2}" in words
    assert from_proto(to_proto(found)) == found


def test_an_outlook_comes_back_from_the_wire() -> None:
    state = pool()
    found = seen(state, specter=standing(state, SPECTER))
    assert from_proto(to_proto(found)) == found


# -- how that is told -----------------------------------------------------------------------------


def shown(found: EmergencyOutlook, captured: pytest.CaptureFixture[str]) -> str:
    captured.readouterr()
    show_outlook(found, address="127.0.0.2:7443")
    return captured.readouterr().out


def test_people_see_who_answers_and_which_hosts_must_be_off(
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = pool()
    text = shown(seen(state, specter=standing(state, SPECTER, behind=2)), capsys)
    rows = [line.split() for line in text.splitlines()]
    revision = str(state.revision)
    assert ["ignite", "this", "host", "1", revision, "127.0.0.2:7443"] in rows
    assert ["specter", "yes", "1", str(state.revision - 2), state.host(SPECTER).address] in rows
    assert ["phantom", "no", state.host(PHANTOM).address] in rows
    words = " ".join(text.split())
    assert "MUST BE SWITCHED OFF: phantom." in words
    assert "ignite was in step: nothing that was acknowledged is missing if it was up" in words
    assert "VMs on phantom count as unknown until" in words
    assert max(map(len, text.splitlines())) <= 80


def test_people_are_warned_of_changes_that_may_be_lost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = " ".join(shown(seen(pool(in_step=None)), capsys).split())
    assert "CHANGES MAY BE LOST: phantom, specter may have later ones" in words
    assert "In step no host, as far as ignite has heard" in words


def test_names_do_not_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    state = pool()
    odd = replace(state.host(PHANTOM), name_label="\x1b[2Jphantom")
    found = seen(replace(state, tables=changed(state.tables, [Put(odd)])))
    assert "\x1b" not in shown(found, capsys)


def test_scripts_get_the_same() -> None:
    state = pool()
    found = outlook_json(seen(state, specter=standing(state, SPECTER)))
    assert set(found) == {
        "pool", "incarnation", "revision", "in_step", "may_lack", "tail_from", "tail_commits",
        "peers", "to_be_off",
    }  # fmt: skip
    silent, answering = found["peers"]
    assert (silent["name"], silent["answers"], silent["revision"]) == ("phantom", False, None)
    assert (answering["incarnation"], answering["revision"]) == (1, state.revision)


def test_what_became_of_each_member(capsys: pytest.CaptureFixture[str]) -> None:
    members = (
        RecoveredMember(uuid=IGNITE, name_label="ignite", follows=True),
        RecoveredMember(
            uuid=SPECTER, name_label="specter", follows=False, problem="Nothing answers."
        ),
    )
    show_members(members, Format.TABLE)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1:] == [["ignite", "yes"], ["specter", "no", "Nothing", "answers."]]
    show_members(members, Format.NAME)
    assert capsys.readouterr().out == "ignite\nspecter\n"
