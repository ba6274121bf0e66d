"""The client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, Unpack

from poolclient._backup import (
    Restored,
    RestorePlan,
    check_restore,
    restore,
    stored_backups,
    take_backup,
)
from poolclient._core import Core, Options
from poolclient._difference import Difference, difference
from poolclient._drill import DrillReport, check_drill, drill_failover
from poolclient._errors import JoinRefused, LockHeld
from poolclient._events import Event, events
from poolclient._freshness import Cursor, Freshness
from poolclient._history import Reign, reigns
from poolclient._locks import PoolLock, release
from poolclient._mirror import Mirror
from poolclient._objects import Collection, HostCollection, WritableCollection, reference
from poolclient._recovery import (
    RecoveredChange,
    Recoveries,
    list_recoveries,
    read_recovery,
)
from poolclient._status import HostCheck, HostReport, PoolStatus
from poolclient._tasks import TaskHandle
from poolclient._writes import Changes, Committed, metadata_patch, new_request_id
from poolcore.facts import StoredBackup
from poolcore.model import (
    PBD,
    PIF,
    SR,
    VBD,
    VDI,
    VIF,
    VLAN,
    VM,
    Bond,
    Host,
    HostId,
    HostMetrics,
    Kind,
    Lock,
    MasterRecord,
    Message,
    Network,
    Pool,
    Task,
    Tunnel,
)
from poolcore.outlook import HostRef, Outlook
from poolcore.wire.backup import Backup
from poolcore.wire.codec import from_proto
from poolmanager.v1 import agent_service_pb2, host_service_pb2, pool_service_pb2, resources_pb2

PREFLIGHT_TIMEOUT_SECONDS = 30.0
"""The time limit of `check_host` and `add_host`: the master asks several hosts meanwhile."""


class PoolClient:
    """A connection to a pool, through any of its hosts.

    ::

        async with PoolClient.connect("10.0.0.1", "10.0.0.2") as pool:
            for vm in await pool.vms.list():
                print(vm.name_label, vm.power_state)
            await pool.vms.set("web1", add_tags=["prod"], other_config={"owner": "ops"})

    Addresses are `HOST`, `HOST:PORT` (7443 if none is given) or `unix:///PATH` of a host's own
    socket. All are asked at once, the first that answers is used, and the others stand in when it
    fails. Belongs to the event loop in which it was entered.
    """

    def __init__(self, *addresses: str, **options: Unpack[Options]) -> None:
        self._core = Core(addresses, options)
        self.hosts = HostCollection(self._core, Kind.HOST)
        self.host_metrics: Collection[HostMetrics] = Collection(self._core, Kind.HOST_METRICS)
        self.srs: WritableCollection[SR] = WritableCollection(self._core, Kind.SR)
        self.pbds: Collection[PBD] = Collection(self._core, Kind.PBD)
        self.vdis: WritableCollection[VDI] = WritableCollection(self._core, Kind.VDI)
        self.networks: WritableCollection[Network] = WritableCollection(self._core, Kind.NETWORK)
        self.pifs: Collection[PIF] = Collection(self._core, Kind.PIF)
        self.bonds: Collection[Bond] = Collection(self._core, Kind.BOND)
        self.vlans: Collection[VLAN] = Collection(self._core, Kind.VLAN)
        self.tunnels: Collection[Tunnel] = Collection(self._core, Kind.TUNNEL)
        self.vms: WritableCollection[VM] = WritableCollection(self._core, Kind.VM)
        self.vbds: Collection[VBD] = Collection(self._core, Kind.VBD)
        self.vifs: Collection[VIF] = Collection(self._core, Kind.VIF)
        self.tasks: Collection[Task] = Collection(self._core, Kind.TASK)
        self.locks: Collection[Lock] = Collection(self._core, Kind.LOCK)
        self.messages: Collection[Message] = Collection(self._core, Kind.MESSAGE)
        self.master_records: Collection[MasterRecord] = Collection(self._core, Kind.MASTER_RECORD)

    @classmethod
    def connect(cls, *addresses: str, **options: Unpack[Options]) -> Self:
        """A client to be entered with `async with`; nothing is connected before that.

        For the options see `poolclient.Options`. Entering it raises `NoHostAnswers` when no
        address answers.
        """
        return cls(*addresses, **options)

    async def __aenter__(self) -> Self:
        await self._core.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._core.close()

    @property
    def address(self) -> str:
        """The address in use."""
        return self._core.transport.address

    @property
    def pool_uuid(self) -> str:
        """The uuid of the pool."""
        return self._core.transport.pool_uuid

    @property
    def revision(self) -> int:
        """The newest revision that this client has seen."""
        return self._core.transport.horizon.revision

    # -- the pool itself --------------------------------------------------------------------------

    async def pool(self, *, timeout_seconds: float | None = None) -> Pool:
        """The pool object: its name and settings."""
        answer, _ = await self._core.transport.read(
            lambda c: c.pool.GetPool,
            pool_service_pb2.GetPoolRequest(),
            self._core.deadline(timeout_seconds),
        )
        pool: Pool = from_proto(answer.pool)
        return pool

    async def set(
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
        """Change the pool's own settings; `default_sr=""` for none.

        `failover`: seconds by the names of `poolcore.model.FailoverTimings`; `backup`: numbers by
        those of `BackupSchedule`.
        """
        deadline = self._core.deadline(timeout_seconds)
        request = pool_service_pb2.UpdatePoolRequest(
            request_id=request_id or new_request_id(self._core.transport),
            patch=metadata_patch(changes),
            default_sr=None if default_sr is None else reference(default_sr),
            host_limit=host_limit,
            failover=None if failover is None else resources_pb2.FailoverTimings(**failover),
            backup=None if backup is None else resources_pb2.BackupSchedule(**backup),
        )
        answer = await self._core.transport.write(
            lambda c: c.pool.UpdatePool, request, deadline, request.request_id
        )
        await self._core.transport.written(answer.incarnation, answer.revision, deadline)
        pool = from_proto(answer.pool) if answer.HasField("pool") else await self.pool()
        return Committed(pool, answer.revision, answer.incarnation)

    async def status(self, *, timeout_seconds: float | None = None) -> PoolStatus:
        """Master, chain, quorum, hosts and warnings."""
        return await self._core.status(timeout_seconds)

    # -- before and after a change ----------------------------------------------------------------

    async def if_lost(
        self, *hosts: str | Host, timeout_seconds: float | None = None
    ) -> tuple[Outlook, Freshness]:
        """What the loss of hosts would come to; without any, how things are.

        A stale answer is from what the answering host last knew. `NotFound`, `Ambiguous` for a
        host that is not exactly one.
        """
        request = pool_service_pb2.CheckLossRequest(hosts=map(reference, hosts))
        answer, freshness = await self._core.transport.read(
            lambda c: c.pool.CheckLoss, request, self._core.deadline(timeout_seconds)
        )
        return from_proto(answer.outlook), freshness

    async def diff(
        self, since: int, until: int | None = None, *, timeout_seconds: float | None = None
    ) -> Difference:
        """What differs between two revisions, object by object; `until` None for the newest.

        `HistoryGone` when `since` is older than what is kept; its `.params["oldest"]` is the
        oldest revision that can be compared with.
        """
        deadline = self._core.deadline(timeout_seconds)
        return await difference(self._core.transport, since, until, deadline)

    async def recoveries(self, *, timeout_seconds: float | None = None) -> Recoveries:
        """What live hosts have saved of commits that they had and the pool has not."""
        return await list_recoveries(self._core, timeout_seconds=timeout_seconds)

    async def recovery(
        self, host: str | Host, name: str, *, timeout_seconds: float | None = None
    ) -> tuple[RecoveredChange, ...]:
        """Such commits of one host, in order; `name` is that of a `poolcore.facts.Recovery`.

        `NotFound` when the host has none of that name, `Conflict` when it is not connected.
        """
        return await read_recovery(
            self._core, reference(host), name, timeout_seconds=timeout_seconds
        )

    # -- backups ----------------------------------------------------------------------------------

    async def backup(self, *, timeout_seconds: float | None = None) -> Backup:
        """The whole metadata at one revision; its `data` is the content of a backup file.

        From a host without a master it is as stale as every answer there: `header.fresh` tells.
        """
        return await take_backup(self._core, timeout_seconds=timeout_seconds)

    async def stored_backups(
        self, *, timeout_seconds: float | None = None
    ) -> tuple[StoredBackup, ...]:
        """The backups that the host at `address` has written by itself, the newest first."""
        return await stored_backups(self._core, timeout_seconds=timeout_seconds)

    async def check_restore(
        self, backup: Backup, *, timeout_seconds: float | None = None
    ) -> RestorePlan:
        """What `restore` would change, and what it would leave alone; changes nothing."""
        return await check_restore(self._core, backup, timeout_seconds=timeout_seconds)

    async def restore(
        self,
        backup: Backup,
        *,
        accept_other_pool: bool = False,
        on_progress: Callable[[float], None] | None = None,
        timeout_seconds: float | None = None,
        request_id: str | None = None,
    ) -> Restored:
        """Bring what people have set back to what a backup says, in commits of this pool.

        A large one takes several commits, and `on_progress` is told how far it is, from 0 to 1.
        Interrupted, it is done again as a whole: what is restored already is left as it is.
        `timeout_seconds` is for each call. `Conflict` for a backup of another pool unless that is
        accepted.
        """
        return await restore(
            self._core,
            backup,
            accept_other_pool=accept_other_pool,
            on_progress=on_progress,
            timeout_seconds=timeout_seconds,
            request_id=request_id,
        )

    async def master_history(self, *, timeout_seconds: float | None = None) -> tuple[Reign, ...]:
        """Who was master from when until when, and why; the newest first."""
        return reigns(await self.master_records.list(timeout_seconds=timeout_seconds))

    # -- hosts coming and going -------------------------------------------------------------------

    async def check_host(
        self, address: str, *, force: bool = False, timeout_seconds: float | None = None
    ) -> HostCheck:
        """Preflight of a host that might join: every finding, and nothing is changed."""
        request = pool_service_pb2.CheckHostRequest(address=address, force=force)
        deadline = self._core.deadline(timeout_seconds or PREFLIGHT_TIMEOUT_SECONDS)
        answer = await self._core.transport.ask(lambda c: c.pool.CheckHost, request, deadline)
        return HostCheck(
            host_uuid=HostId(answer.host_uuid),
            host_name=answer.host_name,
            findings=tuple(map(from_proto, answer.findings)),
            may_join=answer.may_join,
        )

    async def add_host(
        self,
        address: str,
        *,
        force: bool = False,
        timeout_seconds: float | None = None,
        request_id: str | None = None,
    ) -> TaskHandle:
        """Take a host into the pool; await the handle for the end of the join.

        `JoinRefused` with every finding when it does not fit.
        """
        request = pool_service_pb2.AddHostRequest(
            request_id=request_id or new_request_id(self._core.transport),
            address=address,
            force=force,
        )
        deadline = self._core.deadline(timeout_seconds or PREFLIGHT_TIMEOUT_SECONDS)
        try:
            answer = await self._core.transport.write(
                lambda c: c.pool.AddHost, request, deadline, request.request_id
            )
        except JoinRefused as refused:
            if len(refused.findings) < int(refused.params.get("found", "0")):
                # More than an error can carry.
                check = await self.check_host(address, force=force, timeout_seconds=timeout_seconds)
                refused.findings = check.findings
            raise
        findings = tuple(map(from_proto, answer.findings))
        return TaskHandle(self._core, from_proto(answer.task), findings)

    async def eject_host(
        self,
        host: str | Host,
        *,
        timeout_seconds: float | None = None,
        request_id: str | None = None,
    ) -> TaskHandle:
        """Have a host leave and become a pool of its own; await the handle for the end."""
        request = pool_service_pb2.EjectHostRequest(
            request_id=request_id or new_request_id(self._core.transport), host=reference(host)
        )
        answer = await self._core.transport.write(
            lambda c: c.pool.EjectHost,
            request,
            self._core.deadline(timeout_seconds),
            request.request_id,
        )
        return TaskHandle(self._core, from_proto(answer.task))

    async def designate_master(
        self,
        host: str | Host,
        *,
        timeout_seconds: float | None = None,
        request_id: str | None = None,
    ) -> TaskHandle:
        """Hand the mastership over to a host; await the handle for the end."""
        request = pool_service_pb2.DesignateMasterRequest(
            request_id=request_id or new_request_id(self._core.transport), host=reference(host)
        )
        answer = await self._core.transport.write(
            lambda c: c.pool.DesignateMaster,
            request,
            self._core.deadline(timeout_seconds),
            request.request_id,
        )
        return TaskHandle(self._core, from_proto(answer.task))

    async def check_drill(self, *, timeout_seconds: float | None = None) -> HostRef:
        """Who is expected to be master next; `Conflict` when a drill would not be safe now."""
        return await check_drill(self._core, timeout_seconds)

    async def drill_failover(self, *, timeout_seconds: float | None = None) -> DrillReport:
        """End the present mastership the hard way, and tell what that came to.

        The master falls silent until another host was elected; writes wait meanwhile. `Conflict`
        when that would not be safe now, `Failed` when no other host was elected.
        """
        return await drill_failover(self._core, timeout_seconds)

    async def set_maintenance(
        self,
        host: str | Host,
        maintenance: bool = True,
        *,
        force: bool = False,
        timeout_seconds: float | None = None,
        request_id: str | None = None,
    ) -> TaskHandle:
        """Put a host into maintenance, or end that; await the handle for the end.

        A master hands the mastership over first. `Conflict` when no other host can take it;
        with `force` the host then stays the master. VMs are not moved: `if_lost` names those that
        are on the host.
        """
        request = host_service_pb2.SetMaintenanceRequest(
            request_id=request_id or new_request_id(self._core.transport),
            host=reference(host),
            maintenance=maintenance,
            force=force,
        )
        answer = await self._core.transport.write(
            lambda c: c.host.SetMaintenance,
            request,
            self._core.deadline(timeout_seconds),
            request.request_id,
        )
        return TaskHandle(self._core, from_proto(answer.task))

    async def task(self, ref: str | Task) -> TaskHandle:
        """A handle on a task that is there already, to wait for it or to cancel it."""
        return TaskHandle(self._core, await self.tasks.get(ref))

    # -- locks ------------------------------------------------------------------------------------

    def lock(
        self,
        name: str,
        *,
        ttl_seconds: int = 30,
        wait_seconds: float | None = None,
        holder: str | None = None,
        request_id: str | None = None,
        on_held: Callable[[LockHeld], None] | None = None,
    ) -> PoolLock:
        """A lock that spans the pool; enter it with `async with`.

        Entering it raises `LockHeld` when somebody has it, and still has after `wait_seconds`;
        `on_held` is told by whom when the waiting begins.
        `ttl_seconds`, from 1 to 86,400: how long it outlives a holder that is no longer heard of.
        `holder` says to others who holds it, by default `USER@HOST`. Give `lock.token` to whatever
        the lock protects (`poolcore.model.Lock`).
        """
        return PoolLock(
            self._core,
            name,
            ttl_seconds=ttl_seconds,
            wait_seconds=wait_seconds,
            holder=holder,
            request_id=request_id,
            on_held=on_held,
        )

    async def break_lock(self, ref: str | Lock, *, timeout_seconds: float | None = None) -> Lock:
        """Take a lock from its holder, who learns of it at the next renewal; the lock it was.

        `NotFound` when nobody holds it, `LockLost` when it was given up at this moment.
        """
        lock = await self.locks.get(ref, timeout_seconds=timeout_seconds)
        await release(self._core, lock.uuid, timeout_seconds)
        return lock

    # -- following the pool -----------------------------------------------------------------------

    async def events(
        self,
        *,
        since: int | Cursor | None = None,
        kinds: Iterable[Kind] = (),
        on_break: Callable[[str], None] | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Every commit after `since`, each exactly once and in order, until the caller stops.

        `since` None: after the present one. Reconnects by itself, and tells `on_break` why.
        `HistoryGone` when the pool no longer keeps what comes next, `Conflict` when a cursor is of
        another incarnation. With `kinds`, only their changes and no commits without any.
        """
        if since is None:
            _, freshness = await self._core.transport.read(
                lambda c: c.pool.GetPool,
                pool_service_pb2.GetPoolRequest(),
                self._core.deadline(None),
            )
            since = Cursor(freshness.incarnation, freshness.revision)
        elif isinstance(since, int):
            since = Cursor("", since)
        stream = events(
            self._core.transport,
            since=since,
            kinds=kinds,
            connect_seconds=self._core.timeout_seconds,
            on_break=on_break,
        )
        try:
            async for event in stream:
                yield event
        finally:
            await stream.aclose()

    def mirror(self) -> Mirror:
        """A live copy of the pool's metadata; enter it with `async with`."""
        return Mirror(self._core)

    # -- the host that answers --------------------------------------------------------------------

    async def host_report(self, *, timeout_seconds: float | None = None) -> HostReport:
        """What the host at `address` says of itself; never passed on to another."""
        started, before = asyncio.get_running_loop().time(), datetime.now(UTC)
        answer = await self._core.transport.ask(
            lambda c: c.agent.GetFacts,
            agent_service_pb2.GetFactsRequest(),
            self._core.deadline(timeout_seconds),
        )
        took = asyncio.get_running_loop().time() - started
        clock = answer.clock.ToDatetime(tzinfo=UTC)
        return HostReport(
            address=self.address,
            facts=from_proto(answer.facts),
            clock=clock,
            clock_offset_seconds=(clock - before).total_seconds() - took / 2,
        )
