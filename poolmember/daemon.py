"""The daemon: puts the parts together, runs the host's role, ends cleanly."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from poolcore.clock import SystemClock
from poolcore.errors import Exit, PoolError, Reason
from poolcore.facts import Standing
from poolcore.model import Accession
from poolcore.replica import Head, State
from poolcore.wire.channels import SERVER_OPTIONS
from poolcore.wire.serving import Handlers, handlers
from poolmanager.v1 import agent_service_pb2
from poolmaster.grpc_agents import GrpcAgents
from poolmaster.mastership import Mastership
from poolmaster.service.api import SERVICES
from poolmember import config_values
from poolmember.agent import Agent
from poolmember.backup_folder import BackupFolder
from poolmember.backups import Backups
from poolmember.config import Config, pool_file_path
from poolmember.drivers.contract import Driver
from poolmember.emergency import Emergency
from poolmember.etcd.voter import EtcdVoter, Voter
from poolmember.files import HostFiles
from poolmember.following import Uplinks
from poolmember.gateway import Gateway
from poolmember.host_scripts import HostScripts
from poolmember.identity import Identity, Member, as_started, new_identity
from poolmember.inheriting import prepare
from poolmember.measurements import DiskGauge
from poolmember.notify import Notifier
from poolmember.parts import Parts, handlers_while_starting
from poolmember.place import Place, place_of
from poolmember.recovery_folder import RecoveryFolder
from poolmember.roles import Roles
from poolmember.session import Follower
from poolmember.standing import hand_over, standing, take_over
from poolmember.state_dir import BACKUP_FOLDER, ETCD_FOLDER, RECOVERY_FOLDER, StateDir

log = logging.getLogger(__name__)

GRACE_SECONDS = 1.0
AGENT_SERVICE = agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"]


def make_driver(config: Config) -> Driver:
    """The driver that the configuration names."""
    endpoint = str(config.advertise)
    spec = config.driver
    if isinstance(spec, config_values.SimDriver):
        from poolmember.drivers.sim import SimDriver

        return SimDriver(spec.file, host_name=config.name, management_endpoint=endpoint)
    if isinstance(spec, config_values.NoDriver):
        from poolmember.drivers.no_hypervisor import NoHypervisor

        return NoHypervisor(management_endpoint=endpoint)
    # Only here: libvirt is an optional dependency.
    from poolmember.drivers.libvirt_driver import LibvirtDriver

    return LibvirtDriver(
        spec.uri,
        builtin_srs=("default", *config.builtin_srs),
        management_endpoint=endpoint,
    )


class OwnHandlers(grpc.GenericRpcHandler):
    """The services that every host answers for itself."""

    def __init__(self, found: Handlers) -> None:
        self._handlers = found

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call, none for another service's method."""
        return self._handlers.get(handler_call_details.method)


class Daemon:
    """One host's daemon. Implements `poolmember.agent.Home`.

    `notifier` is told what becomes of it.
    """

    def __init__(self, config: Config, state_dir: StateDir, *, notifier: Notifier) -> None:
        self._config = config
        self._state_dir = state_dir
        self._notifier = notifier
        self._clock = SystemClock()
        self._driver = make_driver(config)
        self._gateway = Gateway()
        self._gateway.serve_locally(handlers_while_starting(config.name))
        endpoint = str(config.advertise)
        recoveries = RecoveryFolder(state_dir.path / RECOVERY_FOLDER)
        backup_folder = BackupFolder(state_dir.path / BACKUP_FOLDER, state_dir.replica_path)
        self._backups = Backups(backup_folder, self._replica_state, self._clock)
        self._agent = Agent(
            self,
            self._driver,
            DiskGauge(state_dir.path),
            endpoint=endpoint,
            listen=config.listen.ip,
            clock=self._clock,
            recoveries=recoveries,
            backups=self._backups,
        )
        self._voter = EtcdVoter(
            state_dir.path / ETCD_FOLDER,
            config.name,
            votes=config.voter,
            place=(endpoint, config.listen.ip),
        )
        self._uplinks = Uplinks()
        self._parts = Parts(
            files=HostFiles(state_dir),
            driver=self._driver,
            agent=self._agent,
            agents=GrpcAgents(master=config.name),
            gateway=self._gateway,
            connect=self._uplinks.connected,
            clock=self._clock,
            reached=self.reached,
            on_role=self._on_role,
            history_revisions=config.history_revisions,
            recoveries=recoveries,
            voter=self._voter,
        )
        shared_store = str(config.store) if config.store is not None else None
        self._roles = Roles(self._parts, shared_store=shared_store)
        self.emergency = Emergency(self._parts, self._roles)
        self._scripts = HostScripts(
            self._place,
            pool_file=pool_file_path(config.state_dir),
            hooks_dir=config.hooks_dir,
            hook_seconds=config.hook_seconds,
            clock=self._clock,
        )
        self._ready = False

    # -- what the agent sees ----------------------------------------------------------------------

    @property
    def identity(self) -> Identity:
        """Who this host is and which pool it belongs to."""
        return self._parts.identity

    @property
    def mastership(self) -> Mastership | None:
        """The mastership this host has, if it has one."""
        return self._parts.mastership

    @property
    def follower(self) -> Follower | None:
        """This host's replica, once it is open."""
        return self._parts.follower

    async def standing(self, pool: str, term: int) -> Standing:
        """Where this host stands when its pool looks for a master."""
        return await standing(self._parts, pool, term)

    async def take_over(self, head: Head, why: Accession) -> None:
        """Become the master in the place of the one that `head` names."""
        await take_over(self._parts, head, why)

    async def prepare_succession(self, pool: str, incarnation: str, store: str | None) -> None:
        """Copy what this host has of `pool` into a store of `incarnation`, at that URL if any."""
        await prepare(self._parts, pool, incarnation, store)

    @property
    def voter(self) -> Voter:
        """This host's member of the pool's own etcd."""
        return self._voter

    async def become(self, membership: Member) -> None:
        """Turn into a member of a pool; returns when that is durable."""
        await self._roles.become(membership)

    def reached(self, point: str) -> None:
        """End here as if by a power cut, or freeze, if the simulated host is told to."""
        pretended = self._driver.overrides()
        if point in pretended.kill_at:
            log.critical("killed at %s, as the host file says", point)
            os.kill(os.getpid(), signal.SIGKILL)
        if point in pretended.stop_at:
            log.critical("stopped at %s, as the host file says", point)
            os.kill(os.getpid(), signal.SIGSTOP)

    # -- running ----------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set."""
        name, witness = self._config.name, self._config.witness
        known = self._state_dir.identity
        if known is None:
            self._state_dir.write_identity(new_identity(name, witness=witness))
        elif (now := as_started(known, name=name, witness=witness)) != known:
            self._state_dir.write_identity(now)
        await self._driver.open(self.identity.host)
        try:
            server = await self._serve()
            scripts = asyncio.ensure_future(self._scripts.run())  # noqa: TID251 - awaited below
            voter = asyncio.ensure_future(self._voter.run())  # noqa: TID251 - awaited below
            roles = asyncio.ensure_future(self._roles.run())  # noqa: TID251 - awaited below
            stopping = asyncio.ensure_future(stop.wait())  # noqa: TID251 - awaited below
            backups = asyncio.ensure_future(self._backups.run())  # noqa: TID251 - awaited below
            try:
                await asyncio.wait({roles, stopping, voter}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._notifier.stopping()
                if stopping.done():
                    await hand_over(self._parts)
                tasks = (roles, stopping, voter, backups)
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
                await self._uplinks.close()
                await server.stop(GRACE_SECONDS)
                # Last, so that a hook that takes its time holds nobody up who calls this host.
                self._scripts.finish()
                await scripts
            for result in ended:
                if isinstance(result, Exception):
                    raise result
        finally:
            await self._driver.close()

    async def _serve(self) -> grpc.aio.Server:
        server = grpc.aio.server(options=SERVER_OPTIONS)
        agent = handlers(AGENT_SERVICE, self._agent.functions(), host=self._config.name)
        server.add_generic_rpc_handlers((OwnHandlers(agent), self._gateway))
        checks = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        await checks.set("", health_pb2.HealthCheckResponse.SERVING)
        names = [s.full_name for s in (*SERVICES, AGENT_SERVICE)]
        names += [health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, server)
        self._bind(server)
        await server.start()
        return server

    def _bind(self, server: grpc.aio.Server) -> None:
        listen, path = str(self._config.listen), self._state_dir.socket_path
        try:
            server.add_insecure_port(listen)
        except RuntimeError as error:
            problem = f"cannot listen on {listen}: {error}"
            raise PoolError(Reason.INVALID_CONFIGURATION, key="listen", problem=problem) from error
        # The state directory's lock is ours, so a socket that is there is a dead daemon's.
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            problem = f"cannot listen on {path}: {error}"
            raise PoolError(
                Reason.INVALID_CONFIGURATION, key="state_dir", problem=problem
            ) from error
        finally:
            os.umask(before)

    def _place(self) -> Place | None:
        parts = self._parts
        return place_of(parts.identity, parts.mastership, parts.follower, now=self._clock.now())

    def _replica_state(self) -> State | None:
        follower = self._parts.follower
        return None if follower is None else follower.state

    def _on_role(self, words: str) -> None:
        log.info("%s is %s", self.identity.name, words)
        # In a turn of its own: an error there must not be one of the role.
        asyncio.get_running_loop().call_soon(self._scripts.look)
        if self._ready:
            self._notifier.status(words)
        else:
            self._ready = True
            self._notifier.ready(words)


async def _serve_until_told(config: Config, state_dir: StateDir) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Daemon(config, state_dir, notifier=Notifier(os.environ)).run(stop)


def run(config: Config) -> int:
    """Run the daemon until SIGTERM or SIGINT; the exit code."""
    # What a host holds lives long and is free of cycles. At the default thresholds the search for
    # cycles takes a third of the time of a commit in a pool of 10,000 VMs.
    gc.set_threshold(10_000, 20, 20)
    # A thread that comes back from SQLite or the disk waits so long for the interpreter while the
    # event loop is busy, about ten times in a commit; the default is 5 ms.
    sys.setswitchinterval(0.001)
    with StateDir.open(config.state_dir) as state_dir:
        asyncio.run(_serve_until_told(config, state_dir))
    return Exit.DONE
