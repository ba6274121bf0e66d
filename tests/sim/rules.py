"""What must hold between hosts: who is in which pool, what replicas hold, what is left in the end.

At every commit, every change of a host's identity and every write of a replica:

* At most one pool has a host that is not its own pool; and while one has it, the host takes no
  writes in a pool of its own.
* A pool that is reserved takes no writes but those that end the reservation, and its liveness.
* Replicas are prefixes of the chain, they never go back, and no master believes a replica further
  than it is.

`check_settled`: when all links are whole and all hosts are up, everything under way comes to its
end. Every host is wholly in a pool or wholly out of it, no reservation is left, no task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolcore.errors import Reason
from poolcore.model import Host, HostMetrics, Kind, PoolId, Task
from poolcore.replica import Delta, Put, State
from poolmaster.layout import HEAD
from poolmember.identity import Member, Own
from sim.disk import StoreOnDisk
from sim.register import Register, Violations
from support.dangling import dangling
from support.memory_replica import ReplicaContent

if TYPE_CHECKING:
    from sim.host import SimHost
    from sim.world import World


def begun(store: StoreOnDisk | None) -> StoreOnDisk | None:
    """The store, if it has a register: without one it was only prepared."""
    if store is None or not store.data.read(HEAD, None, None).items:
        return None
    return store


class Rules:
    """See the module's docstring."""

    def __init__(self, world: World, violations: Violations) -> None:
        self._world = world
        self._violations = violations
        self.registers: dict[PoolId, Register] = {}
        """Of every pool there ever was."""

    def expect(self, holds: bool, rule: str) -> None:
        moment = self._world.clock.monotonic()
        self._violations.expect(holds, f"at {moment:.4f} s: {rule}")

    def own_register(self, host: SimHost) -> Register | None:
        """The register of the pool that the host's store is of, once it is founded."""
        membership, store = host.membership, begun(host.disk.store)
        pool = None if store is None else store.pool
        if pool is None and isinstance(membership, Own):
            pool = membership.pool
        register = None if pool is None else self.registers.get(pool)
        return register if register is not None and register.head is not None else None

    def pools_with(self, host: SimHost) -> list[Register]:
        """The other hosts' pools that have this host."""
        found = []
        for other in self._world.hosts.values():
            register = self.own_register(other)
            if other is host or register is None:
                continue
            # Two hosts may have a store of it: one that has ended, and its successor.
            if register.state.get(Host, host.uuid) is not None and register not in found:
                found.append(register)
        own = host.membership
        if not found and isinstance(own, Member) and own.store is not None:
            # The pool's store is in etcd: no host has it more than another.
            register = self.register_of(host)
            if register is not None and register.state.get(Host, host.uuid) is not None:
                found.append(register)
        return found

    # -- at every change --------------------------------------------------------------------------

    def store_founded(self, founder: str, store: StoreOnDisk) -> Register:
        """Watch a new store."""
        name = f"the store that {founder} founded"
        parent = self.registers.get(store.pool)
        register = Register(store.data, self._violations, name, self.committed, parent)
        if parent is None:
            self.registers[store.pool] = register
        else:
            register.on_begin = self._goes_on
        return register

    def _goes_on(self, register: Register) -> None:
        """A pool's chain goes on in another store."""
        pools = [p for p, r in self.registers.items() if r is register.parent]
        self.expect(pools != [], f"{register.name} goes on from one that has another successor")
        for pool in pools:
            self.registers[pool] = register

    def committed(self, register: Register, before: State, delta: Delta) -> None:
        """A commit has been applied."""
        if before.revision:
            self._check_reserved(register, before, delta)
        self.check_membership()
        self.check_applied()

    def _check_reserved(self, register: Register, before: State, delta: Delta) -> None:
        if before.pool.reservation is None:
            return
        for change in delta.changes:
            kind = change.object.KIND if isinstance(change, Put) else change.kind
            self.expect(
                kind in {Kind.POOL, Kind.HOST_METRICS},
                f"{register.name}: a write to {kind} while it is reserved",
            )

    def check_membership(self) -> None:
        """No host is in two pools."""
        for host in self._world.hosts.values():
            pools = self.pools_with(host)
            self.expect(len(pools) <= 1, f"{host.name} is in {len(pools)} pools")
            own = self.own_register(host)
            if not pools or own is None or not isinstance(host.membership, Own):
                continue
            if own is pools[0]:
                continue  # Its store has a successor at another host.
            reservation = own.state.pool.reservation
            promised = reservation is not None and reservation.pool == pools[0].state.pool.uuid
            self.expect(promised, f"{host.name} is in a pool and its own one takes writes")

    def replica_changed(self, host: SimHost, before: State | None, content: ReplicaContent) -> None:
        """A replica has become durable."""
        state = content.state
        register = self.registers.get(content.pool)
        if state is None or register is None:
            self.expect(False, f"{host.name} has a replica of a pool that nobody founded")
            return
        # What an heir commits to itself is in no store yet.
        if state.incarnation.counter <= register.state.incarnation.counter:
            self.expect(
                any(life.states.get(state.revision) == state for life in register.lives()),
                f"{host.name}'s replica is no prefix of the chain",
            )
        # What it would take along if it were told that it has been ejected.
        self.expect(state.get(Host, host.uuid) is not None, f"{host.name}'s replica lacks it")
        went_back = (
            before is not None
            and before.revision > state.revision
            and before.incarnation == state.incarnation
        )
        self.expect(not went_back, f"{host.name}'s replica went back to {state.revision}")

    def check_applied(self) -> None:
        """No master believes a replica further than it is."""
        for leader in self._world.hosts.values():
            master = leader.mastership
            for host in self._world.hosts.values():
                session = None if master is None else master.sessions.get(host.uuid)
                if session is None or master is None or host.disk.replica is None:
                    continue
                state = host.disk.replica.state
                same = host.disk.replica.pool == master.pool
                revision = 0 if state is None else state.revision
                self.expect(
                    not same or session.applied <= revision,
                    f"{leader.name} believes {host.name} at {session.applied}, it is at {revision}",
                )

    # -- in the end -------------------------------------------------------------------------------

    def unsettled(self) -> str | None:
        """What is still under way, if anything is."""
        for host in self._world.hosts.values():
            register = self.register_of(host)
            if register is None:
                return f"{host.name} has no pool"
            pool = register.state
            if pool.pool.reservation is not None:
                return f"the pool of {host.name} is reserved"
            for task in pool.all(Task):
                if not task.status.is_final:
                    return f"{task.name_label} is at {task.step}"
            replica = host.disk.replica
            if replica is None or replica.state != pool:
                return f"{host.name}'s replica is not at the end of the chain"
            if (why := self._not_led(host, pool)) is not None:
                return why
            if any(not m.live for m in pool.all(HostMetrics)):
                return f"not every host of {pool.pool.name_label} counts as live"
        return None

    def _not_led(self, host: SimHost, pool: State) -> str | None:
        """What the pool of a host lacks to be led wholly, if it lacks something."""
        if isinstance(host.membership, Member) and not self.pools_with(host):
            # Its heir has yet to found it.
            return f"nobody has the store of {host.name}'s pool"
        if isinstance(host.membership, Member) and host.membership.store is None:
            return None
        master = self._world.master_of(pool.pool.uuid)
        if master is None:
            return f"the pool of {host.name} has no master"
        if any(master.sessions.get(h.uuid) is None for h in pool.all(Host)):
            return f"not every host of {pool.pool.name_label} is attached"
        return None

    def is_dead_reservation(self, host: SimHost) -> bool:
        """Whether the host is reserved for a pool that has itself been given up for another.

        Nobody can say any more how that join ended. A person ends the reservation by a reset.
        """
        own = self.own_register(host)
        reservation = None if own is None else own.state.pool.reservation
        if reservation is None:
            return False
        stores = [other.disk.store for other in self._world.hosts.values()]
        stores += self._world.shared.values()
        return all(store is None or store.pool != reservation.pool for store in stores)

    def register_of(self, host: SimHost) -> Register | None:
        """The register of the pool that the host is of, by its own account."""
        membership = host.membership
        if membership is None:
            return None
        register = self.registers.get(membership.pool)
        return register if register is not None and register.head is not None else None

    def check_settled(self) -> None:
        """Everything is as it should be when nothing is under way."""
        for register in self.registers.values():
            register.check_whole()
        for host in self._world.hosts.values():
            own = self.register_of(host)
            replica = host.disk.replica
            if own is None or replica is None or replica.state is None:
                self.expect(False, f"{host.name} has no pool")
                continue
            state = own.state
            self.expect(replica.state == state, f"{host.name}'s replica differs")
            self.expect(dangling(state) == [], f"references to nothing in {host.name}'s pool")
            self._check_wholly(host, own)
            for task in state.all(Task):
                internal = task.error is not None and task.error.reason is Reason.INTERNAL_ERROR
                self.expect(not internal, f"{task.name_label} ran into an internal error")

    def _check_wholly(self, host: SimHost, register: Register) -> None:
        is_there = register.state.get(Host, host.uuid) is not None
        self.expect(is_there, f"{host.name} says it is in a pool that does not have it")
        pools = self.pools_with(host)
        if isinstance(host.membership, Member):
            names = [pool.name for pool in pools]
            self.expect(pools == [register], f"{host.name} is a member of {names}")
            kept = begun(host.disk.store)
            self.expect(kept is None, f"{host.name} has kept its old store")
        else:
            self.expect(pools == [], f"{host.name} is its own pool, and in another")
