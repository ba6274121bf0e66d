"""The blocking twin does what the asynchronous client does."""

import inspect
import threading
from functools import partial

import pytest

import poolclient
from poolclient import BlockingPoolClient, NoHostAnswers, NotFound, PoolClient
from poolcore.model import Kind, TaskStatus
from support.fakes import served
from support.small_pool import WEB1


def test_reads_and_writes() -> None:
    with served() as (host, _), BlockingPoolClient.connect(host.address) as pool:
        assert pool.pool().name_label == "phantom"
        assert pool.pool_uuid == pool.pool().uuid
        assert pool.address == host.address
        assert [h.name_label for h in pool.hosts.list()] == ["phantom", "ignite"]
        assert [vm.name_label for vm in pool.vms] == ["web1", "web2"]
        assert pool.vms.set(WEB1, add_tags=["x"]).revision == 11
        assert pool.set(name_label="lab").object.name_label == "lab"
        vm, freshness = pool.vms.read(WEB1)
        assert (list(vm.tags), freshness.revision) == (["x"], 12)
        assert pool.revision == 12
        assert pool.status().pool_name == "lab"
        assert pool.check_host("specter").may_join
        with pytest.raises(NotFound):
            pool.vms.get("nonesuch")


def test_tasks_events_and_mirror() -> None:
    with served() as (host, loop), BlockingPoolClient.connect(host.address) as pool:
        handle = pool.add_host("specter")
        assert pool.task(handle.uuid).task == handle.task
        assert handle.findings == ()
        with pool.mirror() as mirror:
            seen = []
            for task in handle.progress:
                seen.append(task.status)
                if not task.status.is_final:
                    found = host.pool.find(Kind.TASK, handle.uuid)
                    loop.call_soon_threadsafe(
                        partial(host.pool.put, found, status=TaskStatus.SUCCESS)
                    )
            assert seen == [TaskStatus.PENDING, TaskStatus.SUCCESS]
            assert handle.wait().status is TaskStatus.SUCCESS
            mirror.barrier()
            mirror.wait_for(lambda m: len(m.tasks) == 1)
            assert mirror.connected
            assert mirror.tasks[handle.uuid].object == handle.task
            assert mirror.vms["web1"].name_label == "web1"
        for event in pool.events(since=10):
            assert event.revision == 11
            break
        ejecting = pool.eject_host("ignite")
        assert ejecting.cancel().status is TaskStatus.CANCELLING


def test_entering_fails_as_the_client_does_and_leaves_no_thread() -> None:
    with pytest.raises(NoHostAnswers):
        BlockingPoolClient.connect("127.0.0.1:1").__enter__()
    assert not [t for t in threading.enumerate() if t.name == "poolclient"]
    with pytest.raises(RuntimeError, match="enter the client first"):
        BlockingPoolClient.connect("127.0.0.1:1").pool()


@pytest.mark.parametrize(
    "name",
    [
        "PoolClient",
        "Collection",
        "WritableCollection",
        "TaskHandle",
        "PoolLock",
        "Mirror",
        "EmergencyHost",
    ],
)
def test_the_twin_has_every_method_with_the_same_arguments(name: str) -> None:
    cls, twin = getattr(poolclient, name), getattr(poolclient, f"Blocking{name}")
    for method, function in inspect.getmembers(cls, inspect.isfunction):
        if method.startswith("_") or (name, method) == ("Mirror", "changes"):
            continue
        theirs = inspect.signature(function).parameters
        ours = inspect.signature(getattr(twin, method)).parameters
        assert list(theirs) == list(ours), method
    assert issubclass(PoolClient, object)
