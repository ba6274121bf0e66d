"""A member that was away catches up by itself, and then holds what the master holds."""

import pytest

from poolcore.errors import PoolError, Reason
from poolcore.replica import dump
from poolcore.requests import request_id
from poolmaster.feed import RING
from poolmember.replica_file import ReplicaFile
from poolmember.state_dir import REPLICA_FILE
from support.daemons import Cluster, Host, LocalHost
from support.proxy import Proxy
from support.wholeness import same_replicas

MISSED = 1_000
SHORT_HISTORY = 50
SHORT = f"--history-revisions={SHORT_HISTORY}"


async def a_pool(cluster: Cluster, *options: str) -> tuple[LocalHost, LocalHost, int]:
    """A master, a member, and the revision that both have."""
    phantom, ignite = cluster.local("phantom", options=options), cluster.local("ignite")
    await cluster.start()
    async with phantom.api() as api:
        await api.join(ignite.endpoint)
        revision = (await api.quiet()).revision
    await same_replicas(phantom, ignite)
    return phantom, ignite, revision


async def revision_of(host: Host) -> int:
    async with host.api() as api:
        return (await api.state()).revision


def has_taken_deltas(host: Host, *, since: int) -> bool:
    """Whether the host's replica came from `since` to where it is by deltas, and has them still.

    A snapshot comes without any.
    """
    file = ReplicaFile.open_for_reading(host.state_dir / REPLICA_FILE)
    try:
        return bool(file.log_after(since))
    except PoolError as error:
        if error.reason is not Reason.HISTORY_GONE:
            raise
        return False
    finally:
        file.close()


async def test_a_member_that_missed_a_thousand_commits_gets_these(cluster: Cluster) -> None:
    phantom, ignite, revision = await a_pool(cluster)
    await ignite.stop()
    async with phantom.api() as api:
        await api.commits(MISSED, base_revision=revision)
    await ignite.start()
    await same_replicas(phantom, ignite)
    assert await revision_of(phantom) >= revision + MISSED
    assert has_taken_deltas(ignite, since=revision)
    assert ignite.replica().count("request") >= MISSED, "what was asked came along"


async def test_a_member_that_missed_more_than_is_kept_gets_a_snapshot(cluster: Cluster) -> None:
    phantom, ignite, _ = await a_pool(cluster, SHORT)
    await ignite.stop()
    async with phantom.api() as api:
        await api.commits(3 * SHORT_HISTORY)
        asked = request_id((await api.state()).revision, "renameit")
        await api.update_pool(name_label="renamed", asked=asked)
    # What a master has in memory is more than is kept.
    await phantom.stop()
    await phantom.start()
    async with phantom.api() as api:
        # What the new mastership commits by itself comes before this.
        await api.update_pool(name_description="restarted")
    before = await revision_of(phantom)
    await ignite.start()
    await same_replicas(phantom, ignite)
    assert has_taken_deltas(phantom, since=before - SHORT_HISTORY + 10)
    assert not has_taken_deltas(ignite, since=before - SHORT_HISTORY + 10)
    assert asked in ignite.replica()


@pytest.mark.parametrize(
    ("options", "missed", "deltas"), [((), 100, True), ((SHORT,), RING, False)]
)
async def test_a_member_that_was_cut_off_catches_up_without_a_restart(
    options: tuple[str, ...], missed: int, deltas: bool, cluster: Cluster
) -> None:
    proxied = cluster.loopback.endpoint()
    phantom = cluster.local("phantom", options=[f"--advertise={proxied}", *options])
    ignite = cluster.local("ignite")
    await cluster.start()
    async with (
        Proxy(proxied, phantom.endpoint) as proxy,
        phantom.api() as api,
        ignite.api() as at_member,
    ):
        await api.join(ignite.endpoint)
        proxy.cut()
        await ignite.says("looking for its master")
        for batch in range(0, missed + 2 * SHORT_HISTORY, 1_000):
            await api.commits(min(1_000, missed + 2 * SHORT_HISTORY - batch))
        cut_off_at = await revision_of(phantom)
        proxy.heal()
        await ignite.says("following")
        await same_replicas(phantom, ignite)
        assert has_taken_deltas(ignite, since=cut_off_at - SHORT_HISTORY + 10) is deltas
        assert dump(await at_member.state()) == dump(await api.state())


async def test_whoever_watches_from_before_the_history_is_told_so(cluster: Cluster) -> None:
    phantom, ignite, revision = await a_pool(cluster, SHORT)
    async with phantom.api() as api:
        await api.commits(2 * SHORT_HISTORY)
    # The next master has in memory only what comes from now on.
    await phantom.stop()
    await ignite.says("master of pool")
    await phantom.start()
    await phantom.says("following")
    async with ignite.api() as at_master, phantom.api() as at_member:
        for api in (at_master, at_member):
            with pytest.raises(PoolError) as gone:
                await api.commits_after(revision, 1)
            assert gone.value.reason is Reason.HISTORY_GONE
            oldest = int(gone.value.params["oldest"])
            assert oldest >= revision + SHORT_HISTORY
            (first,) = await api.commits_after(oldest, 1)
            assert first.commit.revision == oldest + 1
