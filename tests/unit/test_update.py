"""Administrative writes: what is taken, and what is refused with its limit."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolcore.errors import PoolError, Reason
from poolcore.model import VM, FailoverTimings, PowerState, VmId
from poolmaster.decide.update import (
    ENTRIES_LIMIT,
    NAME_LIMIT,
    TAGS_LIMIT,
    VALUE_LIMIT,
    MetadataPatch,
    patched,
    prioritized,
    timed,
)
from support.small_pool import IGNITE, host

WEB = VM(uuid=VmId("v"), name_label="web", power_state=PowerState.HALTED, tags=frozenset({"prod"}))


def refused(patch: MetadataPatch) -> str:
    with pytest.raises(PoolError) as refusal:
        patched(WEB, patch)
    assert refusal.value.reason is Reason.INVALID_VALUE
    return refusal.value.params["field"]


def test_what_the_patch_does_not_name_stays() -> None:
    assert patched(WEB, MetadataPatch()) == WEB
    renamed = patched(WEB, MetadataPatch(name_label="mail"))
    assert (renamed.name_label, renamed.tags) == ("mail", frozenset({"prod"}))


def test_tags_and_entries_are_added_and_removed() -> None:
    first = patched(
        WEB, MetadataPatch(add_tags=frozenset({"a"}), set_other_config={"k": "v", "gone": "x"})
    )
    second = patched(
        first,
        MetadataPatch(
            remove_tags=frozenset({"prod", "never there"}),
            remove_other_config=frozenset({"gone", "never there"}),
        ),
    )
    assert second.tags == {"a"}
    assert dict(second.other_config) == {"k": "v"}


@pytest.mark.parametrize(
    "name", ["x", "with some spaces", "ünïcödé 漢字", "n" * NAME_LIMIT, "“quoted”"]
)
def test_names_that_are_taken(name: str) -> None:
    assert patched(WEB, MetadataPatch(name_label=name)).name_label == name


@pytest.mark.parametrize(
    "name",
    ["", "   ", "n" * (NAME_LIMIT + 1), "a\x1b[31mb", "a\nb", "a\tb", "\x00", "\x85", "\ud800"],
)
def test_names_that_are_refused(name: str) -> None:
    assert refused(MetadataPatch(name_label=name)) == "name_label"


def test_descriptions_may_have_lines_and_may_be_empty() -> None:
    patch = MetadataPatch(name_description="first\n\tsecond")
    assert patched(WEB, patch).name_description == "first\n\tsecond"
    assert patched(WEB, MetadataPatch(name_description="")).name_description == ""
    assert refused(MetadataPatch(name_description="a\x07")) == "name_description"


def test_limits_of_number_and_size() -> None:
    many = frozenset(f"t{n}" for n in range(TAGS_LIMIT + 1))
    assert refused(MetadataPatch(add_tags=many)) == "tags"
    entries = {f"k{n}": "v" for n in range(ENTRIES_LIMIT + 1)}
    assert refused(MetadataPatch(set_other_config=entries)) == "other_config"
    assert refused(MetadataPatch(set_other_config={"k": "v" * (VALUE_LIMIT + 1)})) == (
        "other_config.k"
    )


def test_a_tag_cannot_come_and_go_at_once() -> None:
    both = frozenset({"x"})
    assert refused(MetadataPatch(add_tags=both, remove_tags=both)) == "tags"


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=9)
)
def test_any_text_of_visible_characters_is_a_name_unless_it_is_blank(name: str) -> None:
    if name.strip():
        assert patched(WEB, MetadataPatch(name_label=name)).name_label == name
    else:
        assert refused(MetadataPatch(name_label=name)) == "name_label"


def test_timings_change_by_name() -> None:
    after = timed(FailoverTimings(), {"suspect_seconds": 2.0, "vote_seconds": 0.5})
    assert (after.suspect_seconds, after.vote_seconds) == (2.0, 0.5)
    assert after.heartbeat_seconds == FailoverTimings().heartbeat_seconds
    assert timed(after, {}) == after


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"heartbeat_seconds": 0.0}, "heartbeat_seconds"),
        ({"heartbeat_seconds": float("nan")}, "heartbeat_seconds"),
        ({"alive_seconds": float("inf")}, "alive_seconds"),
        ({"confirm_seconds": 61.0}, "confirm_seconds"),
        ({"suspect_seconds": 0.25}, "suspect_seconds"),
        ({"heartbeat_seconds": 0.2}, "suspect_seconds"),
        ({"vote_seconds": 0.6}, "suspect_seconds"),
        ({"confirm_seconds": 3.0}, "alive_seconds"),
    ],
)
def test_timings_that_do_not_go_together_are_refused(changes: dict[str, float], field: str) -> None:
    with pytest.raises(PoolError) as refusal:
        timed(FailoverTimings(), changes)
    assert refusal.value.reason is Reason.INVALID_VALUE
    assert refusal.value.params["field"] == f"failover.{field}"


def test_a_priority_is_from_0_to_1000_and_a_witness_has_none() -> None:
    ignite = host(IGNITE, "ignite", 2)
    assert [prioritized(ignite, n).failover_priority for n in (0, 1000)] == [0, 1000]
    for wrong in (-1, 1001):
        with pytest.raises(PoolError, match="must be from 0 to 1,000"):
            prioritized(ignite, wrong)
    with pytest.raises(PoolError) as refused:
        prioritized(replace(ignite, witness=True), 100)
    assert refused.value.reason is Reason.HOST_IS_WITNESS
