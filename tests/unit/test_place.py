"""What of a host's place in its pool is news."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from poolcore.model import PoolId
from poolcore.replica import Head
from poolmember.identity import Identity, Member, Own
from poolmember.place import (
    Event,
    Master,
    Place,
    Role,
    Told,
    carried_on,
    news,
    place_of,
    stopped,
)
from poolmember.session import Follower
from support.memory_replica import MemoryReplica, ReplicaContent
from support.places import FOLLOWING, LEADING, SEARCHING
from support.small_pool import IGNITE, INCARNATION, PHANTOM, POOL, THEN, small_pool
from support.virtual_clock import VirtualClock

OTHER = PoolId("10000000-0000-4000-8000-000000000002")
LOST = (Event.LOST_MASTER,)
BECAME = (Event.BECAME_MASTER,)
CHANGED = (Event.MASTER_CHANGED,)


def story(*places: Place, told: Told | None = None) -> list[tuple[Event, ...]]:
    """What each of them is news of, told one after the other."""
    told, heard = told or Told(), []
    for place in places:
        events, told = news(told, place)
        heard.append(events)
    return heard


def test_a_mastership_is_told_when_it_begins_and_when_it_ends() -> None:
    assert story(LEADING, LEADING, SEARCHING, SEARCHING, FOLLOWING) == [
        BECAME, (), LOST, (), CHANGED,
    ]  # fmt: skip


def test_a_new_mastership_right_behind_another_is_told_by_its_beginning() -> None:
    assert story(LEADING, replace(LEADING, term=3)) == [BECAME, BECAME]


def test_the_same_master_found_again_is_no_news() -> None:
    assert story(FOLLOWING, SEARCHING, FOLLOWING) == [CHANGED, (), ()]
    assert story(FOLLOWING, SEARCHING, replace(FOLLOWING, term=4)) == [CHANGED, (), ()]


def test_another_master_is_told_once_it_is_known_where_it_is() -> None:
    known = replace(FOLLOWING, master=Master(PHANTOM, "phantom", "127.0.0.1:7443"), term=5)
    unknown = replace(known, master=Master(PHANTOM))
    assert story(FOLLOWING, unknown, known) == [CHANGED, (), CHANGED]


def test_a_host_that_joins_was_master_and_is_then_told_of_the_pool_once() -> None:
    joining = replace(SEARCHING, pool=OTHER)
    joined = replace(FOLLOWING, pool=OTHER)
    assert story(LEADING, joining, joined, joining, joined) == [
        BECAME, LOST, (Event.JOINED_POOL,), (), (),
    ]  # fmt: skip


def test_a_host_that_leaves_is_master_of_its_own_pool_then() -> None:
    alone = replace(LEADING, pool=OTHER, term=2)
    left = (Event.LEFT_POOL, Event.BECAME_MASTER)
    assert story(FOLLOWING, replace(SEARCHING, pool=OTHER), alone, alone) == [CHANGED, (), left, ()]


def test_a_daemon_that_ends_is_master_no_longer_and_a_member_has_nothing_to_say() -> None:
    assert story(LEADING, stopped(LEADING, now=THEN)) == [BECAME, LOST]
    assert story(FOLLOWING, stopped(FOLLOWING, now=THEN)) == [CHANGED, ()]
    ended = stopped(LEADING, now=THEN)
    assert (ended.role, ended.master, ended.pool) == (Role.STOPPED, None, LEADING.pool)


def test_the_end_of_a_mastership_that_a_kill_cut_short_is_told_by_the_next_daemon() -> None:
    left = Told(pool=PoolId(POOL), mastership=LEADING.mastership)
    assert story(SEARCHING, FOLLOWING, told=left) == [LOST, CHANGED]
    assert story(replace(LEADING, term=3), told=left) == [BECAME]


def test_a_role_begins_when_it_begins_and_not_at_each_look() -> None:
    later = replace(LEADING, since=THEN + timedelta(hours=1), revision=99, pool_name="renamed")
    carried = carried_on(LEADING, later)
    assert (carried.since, carried.revision, carried.pool_name) == (THEN, 10, "renamed")
    newer = replace(later, term=3)
    assert carried_on(LEADING, newer) == newer
    assert carried_on(None, later) == later
    heard = replace(SEARCHING, term=9, since=later.since)
    assert carried_on(SEARCHING, heard).since == THEN


MEMBER = Member(pool=PoolId(POOL), pool_name="of old", addresses=("127.0.0.2:7443",))
IDENTITY = Identity(host=PHANTOM, name="phantom", membership=MEMBER)


def a_follower() -> Follower:
    pool = PoolId(POOL)
    return Follower(PHANTOM, pool, (), MemoryReplica(ReplicaContent(pool)), VirtualClock())


def test_a_host_without_a_pool_stands_nowhere() -> None:
    assert place_of(replace(IDENTITY, membership=None), None, None, now=THEN) is None


def test_a_member_without_its_replica_knows_its_pools_name_at_least() -> None:
    for follower in (None, a_follower()):
        found = place_of(IDENTITY, None, follower, now=THEN)
        assert found is not None
        assert (found.role, found.pool_name, found.master) == (Role.SEARCHING, "of old", None)
        assert (found.term, found.revision, found.incarnation) == (0, 0, None)


def test_a_member_knows_its_master_by_uuid_first_and_by_name_with_the_replica() -> None:
    follower = a_follower()
    follower.following = Head(INCARNATION, term=4, revision=17, master=IGNITE)
    found = place_of(IDENTITY, None, follower, now=THEN)
    assert found is not None
    assert (found.role, found.master, found.settled) == (Role.MEMBER, Master(IGNITE), False)
    follower.state = small_pool()
    found = place_of(IDENTITY, None, follower, now=datetime(2026, 1, 2, tzinfo=UTC))
    assert found is not None
    assert found.master == Master(IGNITE, "ignite", "127.0.0.2:7443")
    assert (found.pool_name, found.term, found.revision) == ("phantom", 4, 17)
    assert found.incarnation == INCARNATION


def test_the_replica_of_the_pool_before_says_nothing() -> None:
    follower = a_follower()
    follower.state = small_pool()
    own = replace(IDENTITY, membership=Own(pool=OTHER, incarnation=INCARNATION.uuid))
    found = place_of(own, None, follower, now=THEN)
    assert found is not None
    assert (found.pool, found.pool_name, found.role) == (OTHER, "phantom", Role.SEARCHING)
    assert found.revision == 0
