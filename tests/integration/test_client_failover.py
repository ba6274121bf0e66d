"""Hosts that go away, lag or lie, and a client that gets by."""

import asyncio
import dataclasses

import grpc
import pytest

from poolclient import (
    Conflict,
    Freshness,
    NoHostAnswers,
    NoMaster,
    OutcomeUnknown,
    PoolClient,
    StaleAnswer,
    TimedOut,
)
from poolclient._writes import MAX_CALLS
from poolcore.model import VM, Incarnation, PoolId
from poolcore.replica import CommitId, State, snapshot
from support.fake_pool import FakePool
from support.fake_server import FakeHost, Fault
from support.fakes import fake_hosts
from support.small_pool import WEB1, small_pool

NOBODY = "127.0.0.1:1"


async def test_the_first_address_that_answers_is_used() -> None:
    async with fake_hosts() as [host], PoolClient.connect(NOBODY, host.address) as pool:
        assert pool.address == host.address
        assert pool.pool_uuid == host.pool.state.pool.uuid


async def test_when_none_answers_all_are_named() -> None:
    with pytest.raises(NoHostAnswers) as error:
        async with PoolClient.connect(NOBODY, "127.0.0.1:2"):
            raise AssertionError
    assert error.value.params["addresses"] == "127.0.0.1:1, 127.0.0.1:2"


async def test_something_that_is_no_pool_host_is_told_apart() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with pytest.raises(Exception, match="not a poolmember") as error:
            async with PoolClient.connect(f"127.0.0.1:{port}"):
                raise AssertionError
        assert error.value.reason == "NOT_A_POOL_HOST"  # type: ignore[attr-defined]
    finally:
        await server.stop(None)


async def test_reads_go_on_at_another_host_when_one_dies() -> None:
    async with fake_hosts(2) as [one, two], PoolClient.connect(one.address, two.address) as pool:
        first = one if pool.address == one.address else two
        await first.stop()
        assert len(await pool.vms.list()) == 2
        assert pool.address != first.address


async def test_a_host_that_comes_back_is_found_again() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        await host.stop()
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(pool.vms.list())
            await asyncio.sleep(0.1)
            await host.start()
            assert len(await reading) == 2


async def test_a_fresh_host_is_preferred_to_a_stale_one() -> None:
    async with fake_hosts(2) as [stale, fresh]:
        stale.stale = True
        async with PoolClient.connect(stale.address, fresh.address) as pool:
            assert pool.address == fresh.address


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LOST_AFTER])
@pytest.mark.parametrize("method", ["BatchUpdate", "UpdatePool"])
async def test_a_write_whose_connection_broke_is_repeated_and_made_once(
    fault: Fault, method: str
) -> None:
    async with fake_hosts(2) as hosts, PoolClient.connect(*(h.address for h in hosts)) as pool:
        for host in hosts:
            host.fault(method, fault)
        if method == "BatchUpdate":
            revision = (await pool.vms.set("web1", name_label="x")).revision
        else:
            revision = (await pool.set(name_label="x")).revision
        assert revision == 11
        assert list(hosts[0].pool.executed.values()) == [1]


@pytest.mark.parametrize("fault", [Fault.UNKNOWN_BEFORE, Fault.UNKNOWN_AFTER])
@pytest.mark.parametrize("method", ["BatchUpdate", "item", "UpdatePool", "AddHost"])
async def test_a_write_of_unknown_outcome_is_repeated_and_made_once(
    fault: Fault, method: str
) -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        host.fault(method, fault)
        if method == "UpdatePool":
            await pool.set(name_label="x")
        elif method == "AddHost":
            _ = await pool.add_host("specter")
        else:
            await pool.vms.set("web1", name_label="x")
        assert list(host.pool.executed.values()) == [1]
        assert host.pool.state.revision == 11


async def test_a_write_that_nobody_answers_has_an_unknown_outcome_and_its_id_repeats_it() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        host.fault("BatchUpdate", Fault.SILENT)
        with pytest.raises(OutcomeUnknown) as error:
            await pool.vms.set("web1", name_label="x", timeout_seconds=0.2)
        request_id = error.value.request_id
        assert request_id.startswith("10-")
        again = await pool.vms.set("web1", name_label="x", request_id=request_id)
        once_more = await pool.vms.set("web1", name_label="x", request_id=request_id)
        assert again.revision == once_more.revision == 11
        assert host.pool.executed[request_id] == 1


@pytest.mark.parametrize("method", ["ListVms", "BatchUpdate", "UpdatePool"])
async def test_a_host_that_hangs_is_left_for_one_that_answers(method: str) -> None:
    async with fake_hosts(2) as [one, two], PoolClient.connect(one.address, two.address) as pool:
        hanging = one if pool.address == one.address else two
        for silent in (method, "GetStatus", "GetStatus"):
            hanging.fault(silent, Fault.SILENT)
        if method == "ListVms":
            assert not (await pool.vms.list()).freshness.stale
        elif method == "BatchUpdate":
            await pool.vms.set("web1", name_label="x")
        else:
            await pool.set(name_label="x")
        assert pool.address != hanging.address
        assert all(times == 1 for times in hanging.pool.executed.values())


async def test_a_host_that_is_only_slow_is_not_left() -> None:
    async with fake_hosts(2) as [one, two], PoolClient.connect(one.address, two.address) as pool:
        slow, other = (one, two) if pool.address == one.address else (two, one)
        slow.fault("ListVms", Fault.SILENT)
        with pytest.raises(TimedOut):
            await pool.vms.list(timeout_seconds=1.5)
        assert pool.address == slow.address
        assert other.calls["ListVms"] == 0


async def test_a_host_that_hangs_is_waited_for_when_no_other_has_a_master() -> None:
    async with fake_hosts(2) as [one, two], PoolClient.connect(one.address, two.address) as pool:
        hanging, other = (one, two) if pool.address == one.address else (two, one)
        hanging.fault("ListVms", Fault.SILENT)
        hanging.fault("GetStatus", *[Fault.SILENT] * 20)
        other.stale = True
        with pytest.raises(TimedOut):
            await pool.vms.list(timeout_seconds=1.5)
        assert other.calls["ListVms"] == 0


async def test_a_write_that_never_left_is_no_unknown_outcome() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        await host.stop()
        with pytest.raises(NoHostAnswers):  # now the client knows that the connection is gone
            await pool.vms.list(timeout_seconds=0.2)
        with pytest.raises(NoHostAnswers):
            await pool.set(name_label="x", timeout_seconds=0.2)


async def test_a_read_ends_by_its_deadline() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        host.fault("ListVms", Fault.SILENT)
        with pytest.raises(TimedOut) as error:
            await pool.vms.list(timeout_seconds=0.1)
        assert error.value.message == "No answer within 0.1 s."


async def test_a_write_waits_a_little_for_a_master() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        for method in ("BatchUpdate", "UpdatePool"):
            host.fault(method, Fault.NO_MASTER, Fault.NO_MASTER)
        assert (await pool.vms.set("web1", name_label="x")).revision == 11
        assert (await pool.set(name_label="x")).revision == 12


async def test_without_a_master_a_write_fails_when_patience_ends() -> None:
    async with fake_hosts() as [host]:
        async with PoolClient.connect(host.address, master_patience_seconds=0.1) as pool:
            for method in ("BatchUpdate", "UpdatePool"):
                host.fault(method, *[Fault.NO_MASTER] * 20)
            with pytest.raises(NoMaster):
                await pool.vms.set("web1", name_label="x")
            with pytest.raises(NoMaster):
                await pool.set(name_label="x")
        assert not host.pool.executed


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LOST_AFTER])
async def test_a_write_that_may_have_been_made_is_not_called_refused_for_want_of_a_master(
    fault: Fault,
) -> None:
    async with (
        fake_hosts() as [host],
        PoolClient.connect(host.address, master_patience_seconds=0.1) as pool,
    ):
        host.fault("BatchUpdate", fault)
        host.fault("item", *[Fault.NO_MASTER] * 1000)
        with pytest.raises(OutcomeUnknown):
            await pool.vms.set("web1", name_label="x")


async def test_a_repetition_that_is_never_sent_leaves_the_outcome_unknown() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:

        async def write() -> None:
            with pytest.raises(OutcomeUnknown):
                await pool.vms.set("web1", name_label="x", timeout_seconds=0.5)

        host.fault("item", Fault.UNKNOWN_AFTER)
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(write())
            await host.until_called("BatchUpdate")
            # All calls that there may be at a time are taken by others before it is sent again.
            host.fault("BatchUpdate", *[Fault.SILENT] * 2 * MAX_CALLS)
            others = []
            for number in range(MAX_CALLS):
                others.append(tasks.create_task(pool.vms.set("web1", name_label=f"{number}")))
                await host.until_called("BatchUpdate", 2 + number)
            await writing
            for other in others:
                other.cancel()


async def test_a_stale_answer_is_marked_and_told() -> None:
    told: list[Freshness] = []
    async with fake_hosts() as [host]:
        host.stale = True
        async with PoolClient.connect(host.address, on_stale=told.append) as pool:
            hosts = await pool.hosts.list()
            assert hosts.freshness.stale
            assert [(f.revision, f.age_seconds) for f in told] == [(10, 12.5)]
            status = await pool.status()
            assert status.master is None


async def test_a_stale_answer_is_refused_where_a_fresh_one_is_required() -> None:
    async with fake_hosts() as [host]:
        host.stale = True
        async with PoolClient.connect(
            host.address, require_fresh=True, master_patience_seconds=0.2
        ) as pool:
            with pytest.raises(StaleAnswer) as error:
                await pool.hosts.list()
            assert error.value.params == {"revision": "10", "age_seconds": "12.5"}


async def test_a_read_that_must_be_fresh_waits_a_little_for_a_master() -> None:
    async with fake_hosts() as [host]:
        host.stale = True
        async with PoolClient.connect(host.address, require_fresh=True) as pool:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(pool.hosts.list())
                await host.until_called("ListHosts")
                host.stale = False
            assert not reading.result().freshness.stale


async def test_a_read_at_a_master_that_has_just_ended_is_asked_again() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        host.fault("ListVms", Fault.NO_MASTER, Fault.NO_MASTER)
        assert len(await pool.vms.list()) == 2


async def test_without_a_master_calls_with_little_time_say_so_before_it_ends() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        host.fault("UpdatePool", *[Fault.NO_MASTER] * 20)
        host.fault("ListVms", *[Fault.NO_MASTER] * 20)
        with pytest.raises(NoMaster):
            await pool.set(name_label="x", timeout_seconds=0.3)
        with pytest.raises(NoMaster):
            await pool.vms.list(timeout_seconds=0.3)


async def test_a_host_that_turns_stale_is_left_for_a_fresh_one() -> None:
    async with (
        fake_hosts(2) as [one, two],
        PoolClient.connect(one.address, two.address, require_fresh=True) as pool,
    ):
        current = one if pool.address == one.address else two
        current.stale = True
        assert not (await pool.hosts.list()).freshness.stale
        assert pool.address != current.address


async def test_an_answer_from_before_what_was_seen_is_never_fresh() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        before = host.pool.state
        await pool.vms.set("web1", name_label="new")
        host.frozen_at = before  # says that it is fresh
        vms = await pool.vms.list()
        assert vms.freshness.stale
        assert vms.freshness.revision == 10


async def test_a_later_incarnation_is_followed_and_an_earlier_one_is_stale() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        await pool.vms.set("web1", name_label="lost")
        old = host.pool.state
        forked = Incarnation(2, "70000000-0000-4000-8000-000000000002", forked_at=10)
        host.pool.state = dataclasses.replace(small_pool(), incarnation=forked)
        assert (await pool.vms.get(WEB1)).name_label == "web1"
        assert pool.revision == 10
        host.pool.state = old
        assert (await pool.vms.list()).freshness.stale
        assert pool.revision == 10


def other_pool() -> State:
    state = small_pool()
    objects = [
        dataclasses.replace(o, uuid=PoolId("99999999-0000-4000-8000-000000000001"))
        if o is state.pool
        else o
        for o in state.objects()
    ]
    return snapshot(Incarnation(1, "other"), CommitId(1, 3), objects, ())


async def test_a_host_that_went_to_another_pool_is_no_longer_asked() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        host.pool.state = other_pool()
        with pytest.raises(Conflict) as error:
            await pool.vms.list()
        assert error.value.reason == "HOST_OF_ANOTHER_POOL"


async def test_addresses_of_two_pools_are_a_mistake_not_a_choice() -> None:
    stranger = FakeHost(FakePool(other_pool()))
    async with fake_hosts() as [host]:
        await stranger.start()
        try:
            with pytest.raises(Conflict) as error:
                async with PoolClient.connect(host.address, stranger.address):
                    raise AssertionError
            assert error.value.reason == "HOST_OF_ANOTHER_POOL"
        finally:
            await stranger.stop()


async def test_where_the_pool_is_named_hosts_of_others_are_left_alone() -> None:
    stranger = FakeHost(FakePool(other_pool()))
    async with fake_hosts() as [host]:
        await stranger.start()
        try:
            async with PoolClient.connect(
                stranger.address, host.address, pool=host.pool.state.pool.uuid
            ) as pool:
                assert pool.address == host.address
                await host.stop()
                with pytest.raises(NoHostAnswers):
                    await pool.vms.list(timeout_seconds=0.5)
                assert stranger.calls["ListVms"] == 0
        finally:
            await stranger.stop()


async def test_calls_of_a_closed_client_fail_instead_of_hanging() -> None:
    async with fake_hosts() as [host]:
        pool = PoolClient.connect(host.address)
        with pytest.raises(RuntimeError, match="enter the client first"):
            await pool.vms.list()
        host.fault("ListVms", Fault.SILENT)
        async with asyncio.TaskGroup() as group:
            async with pool:
                hanging = group.create_task(_swallow(pool))
                await host.until_called("ListVms")
            assert "closed" in await hanging
        with pytest.raises(RuntimeError, match="closed"):
            await pool.vms.list()


async def _swallow(pool: PoolClient) -> str:
    try:
        vms: list[VM] = list(await pool.vms.list())
    except RuntimeError as error:
        return str(error)
    return f"{vms}"
