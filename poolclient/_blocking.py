"""The client without `await`: the same methods, each of which blocks until it is done.

A thread of its own runs the event loop; the client may be used from any number of threads.
Interrupting a call (Ctrl-C) cancels it there, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Generic, Self, TypeVar, Unpack

from poolclient._backup import Restored, RestorePlan
from poolclient._blocking_lock import BlockingPoolLock
from poolclient._client import PoolClient
from poolclient._core import Options
from poolclient._difference import Difference
from poolclient._drill import DrillReport
from poolclient._errors import LockHeld
from poolclient._events import Event
from poolclient._freshness import Cursor, Freshness
from poolclient._gone import DeadHost, ForgetPreview, ForgottenHost
from poolclient._history import Reign
from poolclient._loop_thread import LoopThread
from poolclient._mirror import Mirror
from poolclient._objects import Collection, HostCollection, Listing, WritableCollection
from poolclient._picture import Picture
from poolclient._recovery import RecoveredChange, Recoveries
from poolclient._status import HostCheck, HostReport, PoolStatus
from poolclient._tables import Tables
from poolclient._tasks import TaskHandle
from poolclient._writes import Changes, Committed
from poolcore.facts import StoredBackup
from poolcore.model import SR, Described, Finding, Host, Kind, Lock, Object, Pool, Task, TaskId
from poolcore.outlook import HostRef, Outlook
from poolcore.wire.backup import Backup

R = TypeVar("R")
T = TypeVar("T", bound=Object)
D = TypeVar("D", bound=Described)


class BlockingCollection(Generic[T]):
    """As `Collection`."""

    def __init__(self, thread: LoopThread, collection: Collection[T]) -> None:
        self._thread = thread
        self._collection = collection

    def list(self, *, timeout_seconds: float | None = None) -> Listing[T]:
        """Every object, in order of the uuids."""
        return self._thread.run(self._collection.list(timeout_seconds=timeout_seconds))

    def __iter__(self) -> Iterator[T]:
        return self._thread.iterate(aiter(self._collection))

    def get(self, ref: str | T, *, timeout_seconds: float | None = None) -> T:
        """One object; `NotFound` or `Ambiguous` when `ref` does not name exactly one."""
        return self._thread.run(self._collection.get(ref, timeout_seconds=timeout_seconds))

    def read(self, ref: str | T, *, timeout_seconds: float | None = None) -> tuple[T, Freshness]:
        """As `get`, together with how fresh the answer is."""
        return self._thread.run(self._collection.read(ref, timeout_seconds=timeout_seconds))


class BlockingWritableCollection(BlockingCollection[D]):
    """As `WritableCollection`."""

    def __init__(self, thread: LoopThread, collection: WritableCollection[D]) -> None:
        super().__init__(thread, collection)
        self._writable = collection

    def set(
        self,
        ref: str | D,
        *,
        timeout_seconds: float | None = None,
        request_id: str | None = None,
        **changes: Unpack[Changes],
    ) -> Committed[D]:
        """Change what is given (see `poolclient.Changes`) and leave the rest."""
        return self._thread.run(
            self._writable.set(
                ref, timeout_seconds=timeout_seconds, request_id=request_id, **changes
            )
        )


class BlockingHostCollection(BlockingWritableCollection[Host]):
    """As `HostCollection`."""

    def __init__(self, thread: LoopThread, hosts: HostCollection) -> None:
        super().__init__(thread, hosts)
        self._hosts = hosts

    def set(
        self,
        ref: str | Host,
        *,
        failover_priority: int | None = None,
        timeout_seconds: float | None = None,
        request_id: str | None = None,
        **changes: Unpack[Changes],
    ) -> Committed[Host]:
        """As of every writable collection; `failover_priority` is from 0, never, to 1,000."""
        return self._thread.run(
            self._hosts.set(
                ref,
                failover_priority=failover_priority,
                timeout_seconds=timeout_seconds,
                request_id=request_id,
                **changes,
            )
        )

    def declare_dead(
        self,
        ref: str | Host,
        *,
        timeout_seconds: float | None = None,
        request_id: str | None = None,
    ) -> DeadHost:
        """Vouch that a host is off, so that its VMs can be started elsewhere."""
        return self._thread.run(
            self._hosts.declare_dead(ref, timeout_seconds=timeout_seconds, request_id=request_id)
        )

    def check_forget(
        self, ref: str | Host, *, timeout_seconds: float | None = None
    ) -> ForgetPreview:
        """What forgetting a host would come to; changes nothing."""
        return self._thread.run(self._hosts.check_forget(ref, timeout_seconds=timeout_seconds))

    def forget(
        self,
        ref: str | Host,
        *,
        vouched: bool = False,
        timeout_seconds: float | None = None,
        request_id: str | None = None,
    ) -> ForgottenHost:
        """Remove a host that was declared dead, with what only it had."""
        return self._thread.run(
            self._hosts.forget(
                ref, vouched=vouched, timeout_seconds=timeout_seconds, request_id=request_id
            )
        )


class BlockingTaskHandle:
    """As `TaskHandle`, with `wait` for `await`."""

    def __init__(self, thread: LoopThread, handle: TaskHandle) -> None:
        self._thread = thread
        self._handle = handle

    @property
    def task(self) -> Task:
        """The task as it was last seen."""
        return self._handle.task

    @property
    def uuid(self) -> TaskId:
        """The task's uuid."""
        return self._handle.uuid

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What preflight found and does not stop it."""
        return self._handle.findings

    @property
    def progress(self) -> Iterator[Task]:
        """The task, now and whenever it has advanced, until it has ended."""
        return self._thread.iterate(self._handle.progress)

    def wait(self, *, timeout_seconds: float | None = None) -> Task:
        """Wait for the end; if the task failed, raises why. `TimedOut` leaves it running."""
        return self._thread.run(self._handle.wait(timeout_seconds=timeout_seconds))

    def cancel(self, *, timeout_seconds: float | None = None) -> Task:
        """Ask the task to stop; `Conflict` when it is past the point where it can."""
        return self._thread.run(self._handle.cancel(timeout_seconds=timeout_seconds))


class BlockingMirror(Tables):
    """As `Mirror`: `with pool.mirror() as mirror`."""

    def __init__(self, thread: LoopThread, pool: PoolClient) -> None:
        self._thread = thread
        self._pool = pool
        self._mirror: Mirror | None = None

    def __enter__(self) -> Self:
        async def enter() -> Mirror:
            return await self._pool.mirror().__aenter__()

        self._mirror = self._thread.run(enter())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.run(self._entered().__aexit__(kind, error, traceback))

    def _entered(self) -> Mirror:
        if self._mirror is None:
            raise RuntimeError("use the mirror as `with pool.mirror() as mirror`")
        return self._mirror

    def _now(self) -> Picture:
        return self._entered()._now()

    @property
    def connected(self) -> bool:
        """Whether the stream that feeds the copy is up."""
        return self._entered().connected

    def barrier(self, *, timeout_seconds: float | None = None) -> None:
        """Wait until the copy contains everything that was committed before this call."""
        self._thread.run(self._entered().barrier(timeout_seconds=timeout_seconds))

    def wait_for(
        self, condition: Callable[[Tables], bool], *, timeout_seconds: float | None = None
    ) -> None:
        """Wait until `condition(mirror)` holds; it is called in the loop's thread."""
        self._thread.run(self._entered().wait_for(condition, timeout_seconds=timeout_seconds))


class BlockingPoolClient:
    """As `PoolClient`: `with BlockingPoolClient.connect("10.0.0.1") as pool`."""

    def __init__(self, *addresses: str, **options: Unpack[Options]) -> None:
        self._thread = thread = LoopThread()
        self._client = client = PoolClient(*addresses, **options)
        self.hosts = BlockingHostCollection(thread, client.hosts)
        self.host_metrics = BlockingCollection(thread, client.host_metrics)
        self.srs = BlockingWritableCollection(thread, client.srs)
        self.pbds = BlockingCollection(thread, client.pbds)
        self.vdis = BlockingWritableCollection(thread, client.vdis)
        self.networks = BlockingWritableCollection(thread, client.networks)
        self.pifs = BlockingCollection(thread, client.pifs)
        self.bonds = BlockingCollection(thread, client.bonds)
        self.vlans = BlockingCollection(thread, client.vlans)
        self.tunnels = BlockingCollection(thread, client.tunnels)
        self.vms = BlockingWritableCollection(thread, client.vms)
        self.vbds = BlockingCollection(thread, client.vbds)
        self.vifs = BlockingCollection(thread, client.vifs)
        self.tasks = BlockingCollection(thread, client.tasks)
        self.locks = BlockingCollection(thread, client.locks)
        self.messages = BlockingCollection(thread, client.messages)
        self.master_records = BlockingCollection(thread, client.master_records)

    @classmethod
    def connect(cls, *addresses: str, **options: Unpack[Options]) -> Self:
        """A client to be entered with `with`; for the options see `poolclient.Options`."""
        return cls(*addresses, **options)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._thread.run(self._client.__aenter__())
        except BaseException:
            self._thread.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._thread.run(self._client.__aexit__(kind, error, traceback))
        finally:
            self._thread.stop()

    @property
    def address(self) -> str:
        """The address in use."""
        return self._client.address

    @property
    def pool_uuid(self) -> str:
        """The uuid of the pool."""
        return self._client.pool_uuid

    @property
    def revision(self) -> int:
        """The newest revision that this client has seen."""
        return self._client.revision

    def pool(self, *, timeout_seconds: float | None = None) -> Pool:
        """The pool object: its name and settings."""
        return self._thread.run(self._client.pool(timeout_seconds=timeout_seconds))

    def set(
        self,
        *,
        default_sr: str | SR | None = None,
        host_limit: int | None = None,
        failover: Mapping[str, float] | None = None,
        backup: Mapping[str, int] | None = None,
        timeout_seconds: float | None = None,
        request_id: str | None = None,
        **changes: Unpack[Changes],
    ) -> Committed[Pool]:
        """Change the pool's own settings; `default_sr=""` for none."""
        return self._thread.run(
            self._client.set(
                default_sr=default_sr,
                host_limit=host_limit,
                failover=failover,
                backup=backup,
                timeout_seconds=timeout_seconds,
                request_id=request_id,
                **changes,
            )
        )

    def status(self, *, timeout_seconds: float | None = None) -> PoolStatus:
        """Master, chain, quorum, hosts and warnings."""
        return self._thread.run(self._client.status(timeout_seconds=timeout_seconds))

    def recoveries(self, *, timeout_seconds: float | None = None) -> Recoveries:
        """What live hosts have saved of commits that they had and the pool has not."""
        return self._thread.run(self._client.recoveries(timeout_seconds=timeout_seconds))

    def recovery(
        self, host: str | Host, name: str, *, timeout_seconds: float | None = None
    ) -> tuple[RecoveredChange, ...]:
        """Such commits of one host, in order; `name` is that of a `poolcore.facts.Recovery`."""
        return self._thread.run(self._client.recovery(host, name, timeout_seconds=timeout_seconds))

    def backup(self, *, timeout_seconds: float | None = None) -> Backup:
        """The whole metadata at one revision; its `data` is the content of a backup file."""
        return self._thread.run(self._client.backup(timeout_seconds=timeout_seconds))

    def stored_backups(self, *, timeout_seconds: float | None = None) -> tuple[StoredBackup, ...]:
        """The backups that the host at `address` has written by itself, the newest first."""
        return self._thread.run(self._client.stored_backups(timeout_seconds=timeout_seconds))

    def check_restore(self, backup: Backup, *, timeout_seconds: float | None = None) -> RestorePlan:
        """What `restore` would change, and what it would leave alone; changes nothing."""
        return self._thread.run(self._client.check_restore(backup, timeout_seconds=timeout_seconds))

    def restore(
        self,
        backup: Backup,
        *,
        accept_other_pool: bool = False,
        on_progress: Callable[[float], None] | None = None,
        timeout_seconds: float | None = None,
        request_id: str | None = None,
    ) -> Restored:
        """Bring what people have set back to what a backup says, in commits of this pool."""
        return self._thread.run(
            self._client.restore(
                backup,
                accept_other_pool=accept_other_pool,
                on_progress=on_progress,
                timeout_seconds=timeout_seconds,
                request_id=request_id,
            )
        )

    def if_lost(
        self, *hosts: str | Host, timeout_seconds: float | None = None
    ) -> tuple[Outlook, Freshness]:
        """What the loss of hosts would come to; without any, how things are."""
        return self._thread.run(self._client.if_lost(*hosts, timeout_seconds=timeout_seconds))

    def diff(
        self, since: int, until: int | None = None, *, timeout_seconds: float | None = None
    ) -> Difference:
        """What differs between two revisions, object by object; `until` None for the newest."""
        return self._thread.run(self._client.diff(since, until, timeout_seconds=timeout_seconds))

    def master_history(self, *, timeout_seconds: float | None = None) -> tuple[Reign, ...]:
        """Who was master from when until when, and why; the newest first."""
        return self._thread.run(self._client.master_history(timeout_seconds=timeout_seconds))

    def check_host(
        self, address: str, *, force: bool = False, timeout_seconds: float | None = None
    ) -> HostCheck:
        """Preflight of a host that might join: every finding, and nothing is changed."""
        return self._thread.run(
            self._client.check_host(address, force=force, timeout_seconds=timeout_seconds)
        )

    def add_host(
        self,
        address: str,
        *,
        force: bool = False,
        timeout_seconds: float | None = None,
        request_id: str | None = None,
    ) -> BlockingTaskHandle:
        """Take a host into the pool; `.wait()` for the end of the join."""
        handle = self._client.add_host(
            address, force=force, timeout_seconds=timeout_seconds, request_id=request_id
        )
        return BlockingTaskHandle(self._thread, self._thread.run(handle))

    def eject_host(
        self,
        host: str | Host,
        *,
        timeout_seconds: float | None = None,
        request_id: str | None = None,
    ) -> BlockingTaskHandle:
        """Have a host leave and become a pool of its own; `.wait()` for the end."""
        handle = self._client.eject_host(
            host, timeout_seconds=timeout_seconds, request_id=request_id
        )
        return BlockingTaskHandle(self._thread, self._thread.run(handle))

    def designate_master(
        self,
        host: str | Host,
        *,
        timeout_seconds: float | None = None,
        request_id: str | None = None,
    ) -> BlockingTaskHandle:
        """Hand the mastership over to a host; `.wait()` for the end."""
        handle = self._client.designate_master(
            host, timeout_seconds=timeout_seconds, request_id=request_id
        )
        return BlockingTaskHandle(self._thread, self._thread.run(handle))

    def check_drill(self, *, timeout_seconds: float | None = None) -> HostRef:
        """Who is expected to be master next; `Conflict` when a drill would not be safe now."""
        return self._thread.run(self._client.check_drill(timeout_seconds=timeout_seconds))

    def drill_failover(self, *, timeout_seconds: float | None = None) -> DrillReport:
        """End the present mastership the hard way, and tell what that came to."""
        return self._thread.run(self._client.drill_failover(timeout_seconds=timeout_seconds))

    def set_maintenance(
        self,
        host: str | Host,
        maintenance: bool = True,
        *,
        force: bool = False,
        timeout_seconds: float | None = None,
        request_id: str | None = None,
    ) -> BlockingTaskHandle:
        """Put a host into maintenance, or end that; `.wait()` for the end."""
        handle = self._client.set_maintenance(
            host,
            maintenance,
            force=force,
            timeout_seconds=timeout_seconds,
            request_id=request_id,
        )
        return BlockingTaskHandle(self._thread, self._thread.run(handle))

    def task(self, ref: str | Task) -> BlockingTaskHandle:
        """A handle on a task that is there already, to wait for it or to cancel it."""
        return BlockingTaskHandle(self._thread, self._thread.run(self._client.task(ref)))

    def lock(
        self,
        name: str,
        *,
        ttl_seconds: int = 30,
        wait_seconds: float | None = None,
        holder: str | None = None,
        request_id: str | None = None,
        on_held: Callable[[LockHeld], None] | None = None,
    ) -> BlockingPoolLock:
        """A lock that spans the pool; enter it with `with`."""
        lock = self._client.lock(
            name,
            ttl_seconds=ttl_seconds,
            wait_seconds=wait_seconds,
            holder=holder,
            request_id=request_id,
            on_held=on_held,
        )
        return BlockingPoolLock(self._thread.run, lock)

    def break_lock(self, ref: str | Lock, *, timeout_seconds: float | None = None) -> Lock:
        """Take a lock from its holder, who learns of it at the next renewal; the lock it was."""
        return self._thread.run(self._client.break_lock(ref, timeout_seconds=timeout_seconds))

    def events(
        self,
        *,
        since: int | Cursor | None = None,
        kinds: Iterable[Kind] = (),
        on_break: Callable[[str], None] | None = None,
    ) -> Iterator[Event]:
        """Every commit after `since`, each exactly once and in order, until the caller stops."""
        return self._thread.iterate(
            self._client.events(since=since, kinds=kinds, on_break=on_break)
        )

    def mirror(self) -> BlockingMirror:
        """A live copy of the pool's metadata; enter it with `with`."""
        return BlockingMirror(self._thread, self._client)

    def host_report(self, *, timeout_seconds: float | None = None) -> HostReport:
        """What the host at `address` says of itself; never passed on to another."""
        return self._thread.run(self._client.host_report(timeout_seconds=timeout_seconds))
