"""Reading and changing objects."""

import asyncio
import dataclasses

import pytest

from poolclient import Ambiguous, InvalidRequest, NotFound, PoolClient, TimedOut
from poolcore.model import VM, PowerState, VmId
from poolcore.replica import Put
from support.fake_server import Fault
from support.fakes import fake_hosts
from support.small_pool import IGNITE, NFS, PHANTOM, WEB1


async def test_lists_have_the_objects_in_order_and_say_how_fresh_they_are() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        hosts = await pool.hosts.list()
        assert [h.name_label for h in hosts] == ["phantom", "ignite"]
        assert [h.uuid for h in hosts] == [PHANTOM, IGNITE]
        assert (hosts.freshness.revision, hosts.freshness.stale) == (10, False)
        assert hosts[:1] == (hosts[0],)
        assert len(await pool.bonds.list()) == 0


@pytest.mark.parametrize(
    ("collection", "number"),
    [
        ("hosts", 2),
        ("host_metrics", 2),
        ("srs", 3),
        ("pbds", 4),
        ("vdis", 1),
        ("networks", 1),
        ("pifs", 2),
        ("bonds", 0),
        ("vlans", 0),
        ("tunnels", 0),
        ("vms", 2),
        ("vbds", 1),
        ("vifs", 1),
        ("tasks", 0),
        ("messages", 0),
    ],
)
async def test_every_kind_has_its_collection(collection: str, number: int) -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        assert len(await getattr(pool, collection).list()) == number


async def test_long_lists_come_page_by_page() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        many = [
            VM(
                uuid=VmId(f"51000000-0000-4000-8000-{n:012}"),
                name_label=f"vm{n}",
                power_state=PowerState.HALTED,
            )
            for n in range(2_100)
        ]
        host.pool.commit(*map(Put, many))
        assert len(await pool.vms.list()) == 2_102
        assert host.calls["ListVms"] == 3
        assert len([vm async for vm in pool.vms]) == 2_102


async def test_an_object_is_found_by_uuid_name_or_prefix() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        web1 = await pool.vms.get("web1")
        assert web1.uuid == WEB1
        assert await pool.vms.get(WEB1) == web1
        assert await pool.vms.get(web1) == web1
        assert (await pool.hosts.get("phan")).name_label == "phantom"
        with pytest.raises(NotFound) as missing:
            await pool.vms.get("nonesuch")
        assert missing.value.params == {"kind": "vm", "name": "nonesuch"}
        with pytest.raises(Ambiguous):
            await pool.vms.get("web")


async def test_a_change_gives_the_object_and_its_revision() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        done = await pool.vms.set(
            "web1", name_label="web-1", add_tags=["a", "b"], other_config={"k": "v", "gone": "x"}
        )
        assert (done.object.name_label, done.revision) == ("web-1", 11)
        assert done.object.tags == {"a", "b"}
        done = await pool.vms.set("web-1", remove_tags=["a"], other_config={"gone": None})
        assert done.object.tags == {"b"}
        assert dict(done.object.other_config) == {"k": "v"}
        assert (await pool.vms.get(WEB1)).name_label == "web-1"
        assert pool.revision == 12


@pytest.mark.parametrize("collection", ["hosts", "srs", "vdis", "networks", "vms"])
async def test_whatever_has_a_name_can_be_renamed(collection: str) -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        objects = getattr(pool, collection)
        first = (await objects.list())[0]
        done = await objects.set(first, name_description="changed")
        assert done.object == dataclasses.replace(first, name_description="changed")


async def test_the_pool_itself_is_changed_in_the_same_words() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        done = await pool.set(name_label="lab", host_limit=8)
        assert (done.object.name_label, done.object.host_limit) == ("lab", 8)
        assert (await pool.pool()).name_label == "lab"


async def test_a_bad_value_is_refused_with_the_field() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        with pytest.raises(InvalidRequest) as refused:
            await pool.vms.set("web1", name_label="")
        assert refused.value.params["field"] == "name_label"


async def test_status_names_the_master() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        status = await pool.status()
        assert status.pool_name == "phantom"
        assert status.master is not None
        assert status.master.name == "phantom"
        assert [h.role for h in status.hosts] == ["master", "member"]
        assert status.warnings[0].code == "A_WARNING"


async def test_changes_asked_for_together_share_a_call() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        dones = await asyncio.gather(
            *(pool.vms.set("web1", other_config={f"k{n}": "v"}) for n in range(600))
        )
        assert len({done.revision for done in dones}) == 600
        assert host.batches == [256, 256, 88]
        assert len((await pool.vms.get("web1")).other_config) == 600


async def test_of_a_shared_call_each_change_has_its_own_outcome() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        good, bad, missing = await asyncio.gather(
            pool.vms.set("web1", name_label="x"),
            pool.vms.set("web2", name_label=""),
            pool.srs.set("nonesuch", name_label="y"),
            return_exceptions=True,
        )
        assert not isinstance(good, BaseException)
        assert isinstance(bad, InvalidRequest)
        assert isinstance(missing, NotFound)
        assert host.batches == [3]


async def test_at_most_four_calls_are_under_way_and_the_rest_gathers() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        host.fault("BatchUpdate", *[Fault.SILENT] * 4)
        async with asyncio.TaskGroup() as group:
            stuck = []
            for n in range(4):
                stuck.append(group.create_task(pool.vms.set("web1", add_tags=[f"s{n}"])))
                await host.until_called("BatchUpdate", n + 1)
            late = await asyncio.gather(
                *(pool.srs.set(NFS, add_tags=[f"t{n}"], timeout_seconds=0.1) for n in range(50)),
                return_exceptions=True,
            )
            # Never sent, so certainly not made: that is a timeout, not an unknown outcome.
            assert {type(outcome) for outcome in late} == {TimedOut}
            assert host.calls["BatchUpdate"] == 4
            for task in stuck:
                task.cancel()


async def test_a_caller_that_gives_up_does_not_take_others_along() -> None:
    async with fake_hosts() as [host], PoolClient.connect(host.address) as pool:
        async with asyncio.TaskGroup() as group:
            leaving = group.create_task(pool.vms.set("web1", add_tags=["leaving"]))
            staying = group.create_task(pool.vms.set("web1", add_tags=["staying"]))
            await host.until_called("BatchUpdate")
            leaving.cancel()
            done = await staying
        assert "staying" in done.object.tags
