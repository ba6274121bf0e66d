"""A simulated host: its disk, its hypervisor, and the daemon that runs while it has power.

The daemon is the real one but for what reaches outside: files, network, hypervisor and clock are
the simulation's. Its parts are put together as `poolmember.daemon` does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from poolcore.errors import PoolError, Reason
from poolcore.facts import Inventory, Standing, Unreachable
from poolcore.model import Accession, HostId
from poolcore.replica import Head
from poolcore.wire.serving import Handlers
from poolcore.wire.status import error_from_rpc
from poolmanager.v1 import pool_service_pb2
from poolmaster.mastership import Mastership
from poolmember.agent import ASK_SECONDS, Agent
from poolmember.drivers.contract import DriverError, FactOverrides
from poolmember.drivers.sim_host import SimHost as Description
from poolmember.drivers.sim_objects import objects
from poolmember.emergency import Emergency
from poolmember.gateway import Gateway, Upstream
from poolmember.identity import Identity, Member, Membership
from poolmember.measurements import Disk as DiskMeasure
from poolmember.measurements import DiskGauge
from poolmember.parts import Parts
from poolmember.roles import Roles
from poolmember.session import Follower, Link
from poolmember.standing import standing, take_over
from sim.asking import Asking
from sim.disk import Disk, DiskFiles, PowerCut
from sim.network import Connection

if TYPE_CHECKING:
    from sim.world import World

T = TypeVar("T")

CALL_SECONDS = 10.0
GET_JOIN = "/poolmanager.v1.PoolService/GetJoin"


class Hypervisor:
    """A driver of what a description says; `describe` is how things change on the host."""

    def __init__(self, endpoint: str) -> None:
        self.description = Description()
        self.fails = False
        self._endpoint = endpoint
        self._host: HostId | None = None
        self._changed = asyncio.Event()

    def describe(self, description: Description) -> None:
        """Make the host be as described from now on."""
        self.description = description
        self._changed.set()
        self._changed = asyncio.Event()

    async def open(self, host: HostId) -> None:
        self._host = host

    async def inventory(self) -> Inventory:
        if self.fails or self._host is None:
            raise DriverError("the simulated hypervisor does not answer")
        found = objects(self.description, self._host, management_endpoint=self._endpoint)
        return Inventory(profile=self.description.profile, objects=tuple(found))

    async def changes(self) -> AsyncIterator[None]:
        while True:
            await self._changed.wait()
            yield

    def overrides(self) -> FactOverrides:
        return FactOverrides()

    async def close(self) -> None:
        return


class SteadyDisk(DiskGauge):
    """A disk of always the same speed."""

    def __init__(self) -> None:
        pass

    def read(self) -> DiskMeasure:
        return DiskMeasure(free_bytes=2**40, fsync_seconds=0.001)


class SimGateway(Gateway):
    """The gateway, and what a call to it would meet."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: Handlers = {}
        self.upstream: str | None = None

    def serve_locally(self, handlers: Handlers) -> None:
        super().serve_locally(handlers)
        self.handlers, self.upstream = handlers, None

    def pass_on(self, upstream: Upstream, fallback: Handlers) -> None:
        super().pass_on(upstream, fallback)
        self.handlers, self.upstream = fallback, upstream.endpoint


class _Context:
    """As much of gRPC's context as the handlers use."""

    async def abort(self, code: grpc.StatusCode, text: str, metadata: Any) -> None:
        raise grpc.aio.AioRpcError(
            code, grpc.aio.Metadata(), grpc.aio.Metadata(*metadata), details=text
        )


class Life:
    """One run of a host's daemon. Implements `poolmember.agent.Home` and `Network`."""

    def __init__(self, host: SimHost) -> None:
        self.over = False
        self._host = host
        self._world = host.world
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self.gateway = SimGateway()
        self.agent = Agent(
            self,
            host.hypervisor,
            SteadyDisk(),
            endpoint=host.endpoint,
            clock=self._world.clock,
            network=self,
        )
        self.parts = Parts(
            files=DiskFiles(
                host.disk,
                self,
                self._world.hooks_of(host),
                shared=self._world.shared,
                clock=self._world.clock,
                dice=random.Random(f"{self._world.seed} disk of {host.name}"),
            ),
            driver=host.hypervisor,
            agent=self.agent,
            agents=Asking(self._world, host.endpoint),
            gateway=self.gateway,
            connect=self._connect,
            clock=self._world.clock,
            reached=self.reached,
            on_role=lambda _: None,
        )
        self._roles = Roles(self.parts, shared_store=host.founds_in)
        self.emergency = Emergency(self.parts, self._roles)
        self._running = self.begin(self._run())

    async def _run(self) -> None:
        await self._host.hypervisor.open(self.identity.host)
        await self._roles.run()

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do something in this life; it ends with the power."""
        task = asyncio.ensure_future(work)  # noqa: TID251 - kept, and cancelled by `end`
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled() or self.over:
            # What ended with the power ended somehow; nobody is there to be told.
            task.cancelled() or task.exception()
            return
        error = task.exception()
        if error is not None and not isinstance(error, PoolError):
            self._world.violations.expect(False, f"{self._host.name} ran into {error!r}")

    def end(self) -> None:
        """The power is off, from this very moment."""
        self.over = True
        for task in tuple(self._tasks):
            task.cancel()

    def ensure(self) -> None:
        """Raise `PowerCut` if the power is off."""
        if self.over:
            raise PowerCut

    # -- the daemon, as its agent sees it ---------------------------------------------------------

    @property
    def identity(self) -> Identity:
        return self.parts.identity

    @property
    def mastership(self) -> Mastership | None:
        return self.parts.mastership

    @property
    def follower(self) -> Follower | None:
        return self.parts.follower

    async def standing(self, pool: str, term: int) -> Standing:
        return await standing(self.parts, pool, term)

    async def take_over(self, head: Head, why: Accession) -> None:
        """Become the master in the place of the one that `head` names."""
        await take_over(self.parts, head, why)

    async def become(self, membership: Member) -> None:
        await self._roles.become(membership)

    def reached(self, point: str) -> None:
        self.ensure()
        self._world.reached(self._host, point)
        self.ensure()

    # -- calls to others --------------------------------------------------------------------------

    async def get_join(
        self, endpoint: str, request: pool_service_pb2.GetJoinRequest
    ) -> pool_service_pb2.GetJoinResponse:
        response: pool_service_pb2.GetJoinResponse = await self._world.network.call(
            self._host.endpoint,
            endpoint,
            lambda life: life.answer(GET_JOIN, request),
            seconds=ASK_SECONDS,
        )
        return response

    async def unreachable(
        self, from_host: str, targets: tuple[tuple[str, str], ...]
    ) -> tuple[Unreachable, ...]:
        found = []
        for name, endpoint in targets:
            try:
                await self._world.network.reach(self._host.endpoint, endpoint)
            except PoolError as error:
                found.append(
                    Unreachable(
                        from_host=from_host,
                        to_host=name,
                        endpoint=endpoint,
                        problem=error.params["problem"],
                    )
                )
        return tuple(found)

    @asynccontextmanager
    async def _connect(self, endpoint: str) -> AsyncIterator[tuple[Upstream, Link]]:
        network, clock = self._world.network, self._world.clock

        async def link(requests: Any, send: Any) -> None:
            listener: Any = await network.reach(self._host.endpoint, endpoint)
            connection = Connection(network, clock, self._host.endpoint, endpoint)
            await connection.carry(listener, listener.serve_session, requests, send)

        yield Upstream(endpoint, None), link  # type: ignore[arg-type]  # nobody passes calls on

    # -- calls from others ------------------------------------------------------------------------

    async def serve_session(self, requests: Any, send: Any) -> None:
        """A member's session: only the master itself has any."""
        if self.mastership is not None:
            await self.mastership.sessions.serve(requests, send)
        elif self.parts.ceding is not None:
            await self.parts.ceding.serve(requests, send)
        elif self.gateway.upstream is not None:
            raise PoolError(Reason.HOST_IS_SLAVE, master=self.gateway.upstream)
        else:
            raise PoolError(Reason.NO_MASTER, host=self._host.name, problem="it has none")

    async def answer(self, path: str, request: Any, *, passed_on: bool = False) -> Any:
        """A unary call of the API, passed on once if another host is the master."""
        upstream = self.gateway.upstream
        if upstream is not None and not passed_on:
            return await self._world.network.call(
                self._host.endpoint,
                upstream,
                lambda life: life.answer(path, request, passed_on=True),
                seconds=CALL_SECONDS,
            )
        handler = self.gateway.handlers.get(path)
        if handler is None:
            raise PoolError(Reason.NO_MASTER, host=self._host.name, problem="it is starting")
        try:
            return await handler.unary_unary(request, _Context())
        except grpc.aio.AioRpcError as error:
            told = error_from_rpc(error)
        if told.reason is Reason.INTERNAL_ERROR:
            self._world.violations.expect(False, f"{path} at {self._host.name}: {told.message}")
        raise told


class SimHost:
    """A machine: its disk and hypervisor stay, its daemon lives while the power is on."""

    def __init__(
        self, world: World, name: str, number: int, *, founds_in: str | None = None
    ) -> None:
        self.world = world
        self.founds_in = founds_in
        """URL of the shared store in which it founds its pool; none: in one of its own."""
        self.name = name
        self.endpoint = f"10.0.0.{number}:7443"
        self.uuid = HostId(f"20000000-0000-4000-8000-{number:012}")
        self.disk = Disk(identity=Identity(host=self.uuid, name=name))
        self.hypervisor = Hypervisor(self.endpoint)
        self.life: Life | None = None
        self._dice = random.Random(f"{world.seed} host {name}")

    @property
    def mastership(self) -> Mastership | None:
        """The mastership of its daemon, if it has one."""
        return None if self.life is None else self.life.mastership

    @property
    def membership(self) -> Membership | None:
        """Which pool it is in, by its own account."""
        return None if self.disk.identity is None else self.disk.identity.membership

    def power_on(self) -> None:
        """Start the daemon."""
        if self.life is None:
            self.life = Life(self)
            files = self.life.parts.files
            assert isinstance(files, DiskFiles)
            files.finish_interrupted()
            self.world.network.listening[self.endpoint] = self.life

    def cut_power(self) -> None:
        """Kill the daemon. What it had sent to its disk may or may not have got there."""
        if self.life is None:
            return
        self.life.end()
        self.life = None
        del self.world.network.listening[self.endpoint]
        if self.disk.store is not None:
            data = self.disk.store.data
            if self._dice.random() < 0.5:
                data.settle(self.world.clock.monotonic() + 1.0)
            data.crash()

    def reset(self) -> None:
        """What a person does who starts the host over: `poolmember reset`."""
        self.cut_power()
        self.disk = Disk(identity=Identity(host=self.uuid, name=self.name))
        self.power_on()
