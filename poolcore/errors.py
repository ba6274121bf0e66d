"""The one catalog of errors: what can go wrong, under which code, and what to do about it.

Everything that refuses something raises `PoolError` with a `Reason`. Clients branch on the reason,
never on text. A reason's `Entry` says which gRPC status it travels under, which exit code the CLI
ends with, and gives the sentences a person reads; both are templates filled with the error's
parameters. Reasons that XAPI has keep XAPI's name and are marked so.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from poolcore.model import Finding


class Exit(IntEnum):
    """Exit codes of the command line, one per family of errors."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_ALLOWED = 4
    CONFLICT = 5
    NO_MASTER = 6
    TIMED_OUT = 7
    OUTCOME_UNKNOWN = 8
    INTERRUPTED = 130


class Status(StrEnum):
    """The gRPC status codes in use, by gRPC's names."""

    CANCELLED = "CANCELLED"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"


class Origin(StrEnum):
    """Where a reason's name comes from."""

    XAPI = "XAPI"
    OURS = "ours"


class Reason(StrEnum):
    """Every reason an operation can be refused or fail for."""

    # requests
    INVALID_VALUE = "INVALID_VALUE"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    REQUEST_TOO_OLD = "REQUEST_TOO_OLD"
    REQUEST_TOO_LARGE = "REQUEST_TOO_LARGE"
    OBJECT_NOT_FOUND = "OBJECT_NOT_FOUND"
    OBJECT_AMBIGUOUS = "OBJECT_AMBIGUOUS"
    # mastership, freshness, outcome
    HOST_IS_SLAVE = "HOST_IS_SLAVE"
    NO_MASTER = "NO_MASTER"
    NO_HOST_ANSWERS = "NO_HOST_ANSWERS"
    STALE_ANSWER = "STALE_ANSWER"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    DEADLINE_PASSED = "DEADLINE_PASSED"
    HISTORY_GONE = "HISTORY_GONE"
    INCARNATION_MISMATCH = "INCARNATION_MISMATCH"
    HOST_OF_ANOTHER_POOL = "HOST_OF_ANOTHER_POOL"
    REPLICA_AHEAD = "REPLICA_AHEAD"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    # joining and leaving
    JOIN_REFUSED = "JOIN_REFUSED"
    HOST_UNREACHABLE = "HOST_UNREACHABLE"
    HOST_NAME_UNRESOLVABLE = "HOST_NAME_UNRESOLVABLE"
    NOT_A_POOL_HOST = "NOT_A_POOL_HOST"
    HOST_RESERVED = "HOST_RESERVED"
    POOL_RESERVED = "POOL_RESERVED"
    RESERVATION_GONE = "RESERVATION_GONE"
    JOIN_IN_PROGRESS = "JOIN_IN_PROGRESS"
    STORE_NOT_SHARED = "STORE_NOT_SHARED"
    HOST_IS_MASTER = "HOST_IS_MASTER"
    HOST_HAS_RESIDENT_VMS = "HOST_HAS_RESIDENT_VMS"
    HOST_OFFLINE = "HOST_OFFLINE"
    HOST_IS_LIVE = "HOST_IS_LIVE"
    HOST_NOT_DECLARED_DEAD = "HOST_NOT_DECLARED_DEAD"
    HOST_NOT_IN_POOL = "HOST_NOT_IN_POOL"
    HOST_FORGOTTEN = "HOST_FORGOTTEN"
    HOST_NOT_ELIGIBLE = "HOST_NOT_ELIGIBLE"
    HOST_IS_WITNESS = "HOST_IS_WITNESS"
    HOST_DISABLED = "HOST_DISABLED"
    HANDOVER_FAILED = "HANDOVER_FAILED"
    DRILL_REFUSED = "DRILL_REFUSED"
    DRILL_FAILED = "DRILL_FAILED"
    # emergencies
    CONFIRMATION_MISSING = "CONFIRMATION_MISSING"
    ALREADY_MASTER = "ALREADY_MASTER"
    MASTER_LIVES = "MASTER_LIVES"
    QUORUM_LIVES = "QUORUM_LIVES"
    REPLICA_BEHIND = "REPLICA_BEHIND"
    ETCD_NOT_FOUNDED = "ETCD_NOT_FOUNDED"
    ANOTHER_IN_STEP = "ANOTHER_IN_STEP"
    REPLICA_MISSING = "REPLICA_MISSING"
    LOSS_NOT_ACCEPTED = "LOSS_NOT_ACCEPTED"
    NOT_THE_MASTER = "NOT_THE_MASTER"
    NO_HOST_TO_LEAD = "NO_HOST_TO_LEAD"
    # tasks
    TASK_NOT_CANCELLABLE = "TASK_NOT_CANCELLABLE"
    TASK_CANCELLED = "TASK_CANCELLED"
    # locks
    LOCK_HELD = "LOCK_HELD"
    LOCK_LOST = "LOCK_LOST"
    # backups
    BACKUP_DAMAGED = "BACKUP_DAMAGED"
    BACKUP_TOO_NEW = "BACKUP_TOO_NEW"
    BACKUP_OF_ANOTHER_POOL = "BACKUP_OF_ANOTHER_POOL"
    # state on disk and start
    STATE_CORRUPT = "STATE_CORRUPT"
    STATE_MISSING = "STATE_MISSING"
    STATE_UNREADABLE = "STATE_UNREADABLE"
    STATE_UNWRITABLE = "STATE_UNWRITABLE"
    STATE_ON_NETWORK_FILESYSTEM = "STATE_ON_NETWORK_FILESYSTEM"
    STATE_SCHEMA_TOO_NEW = "STATE_SCHEMA_TOO_NEW"
    STATE_OF_ANOTHER_POOL = "STATE_OF_ANOTHER_POOL"
    STATE_IN_USE = "STATE_IN_USE"
    STORE_MISSING = "STORE_MISSING"
    ETCD_VERSION_REFUSED = "ETCD_VERSION_REFUSED"
    RESET_WITH_VMS = "RESET_WITH_VMS"
    RECOVERY_NOT_FOUND = "RECOVERY_NOT_FOUND"
    WITNESS_CHANGED = "WITNESS_CHANGED"
    NO_HYPERVISOR = "NO_HYPERVISOR"
    INVALID_CONFIGURATION = "INVALID_CONFIGURATION"
    # scripts on the host
    HOOK_FAILED = "HOOK_FAILED"
    HOOK_TIMED_OUT = "HOOK_TIMED_OUT"
    HOOK_REFUSED = "HOOK_REFUSED"


@dataclass(frozen=True, slots=True)
class Entry:
    """What the catalog says of a reason; `summary` and `remedy` are `str.format` templates."""

    status: Status
    exit: Exit
    summary: str
    remedy: str
    origin: Origin = Origin.OURS


CATALOG: Mapping[Reason, Entry] = {
    Reason.INVALID_VALUE: Entry(
        Status.INVALID_ARGUMENT, Exit.USAGE,
        "{field}: {problem}.",
        "Correct the value and try again.",
        Origin.XAPI,
    ),
    Reason.REQUEST_ID_REUSED: Entry(
        Status.INVALID_ARGUMENT, Exit.CONFLICT,
        "Request id {request_id} was used before with another content.",
        "Use a new request id for a new request.",
    ),
    Reason.REQUEST_TOO_OLD: Entry(
        Status.FAILED_PRECONDITION, Exit.OUTCOME_UNKNOWN,
        "Request id {request_id} is older than what the pool remembers (revision {oldest}); "
        "it was not executed now, and may have been before.",
        "Look at the object to see whether the change is there, then repeat with a new request id.",
    ),
    Reason.REQUEST_TOO_LARGE: Entry(
        Status.RESOURCE_EXHAUSTED, Exit.USAGE,
        "The request is larger than this pool takes: {problem}.",
        "Send less at once.",
    ),
    Reason.OBJECT_NOT_FOUND: Entry(
        Status.NOT_FOUND, Exit.NOT_FOUND,
        "There is no {kind} “{name}” in this pool.",
        "`pool {kind} list` shows what there is.",
    ),
    Reason.OBJECT_AMBIGUOUS: Entry(
        Status.FAILED_PRECONDITION, Exit.NOT_FOUND,
        "“{name}” could be several {kind} objects: {candidates}.",
        "Name it by its uuid, or by more of it.",
    ),
    Reason.HOST_IS_SLAVE: Entry(
        Status.UNAVAILABLE, Exit.NO_MASTER,
        "This host is not the master; the master is at {master}.",
        "Ask the master, or any host's gateway.",
        Origin.XAPI,
    ),
    Reason.NO_MASTER: Entry(
        Status.UNAVAILABLE, Exit.NO_MASTER,
        "No master of the pool can be reached from host {host}: {problem}.",
        "Check the master's daemon and the network; `pool status` shows what this host last knew.",
    ),
    Reason.NO_HOST_ANSWERS: Entry(
        Status.UNAVAILABLE, Exit.NO_MASTER,
        "No host answers at {addresses}.",
        "Check the address, and that `poolmember` runs there.",
    ),
    Reason.STALE_ANSWER: Entry(
        Status.UNAVAILABLE, Exit.NO_MASTER,
        "Only a stale answer is to be had: revision {revision}, {age_seconds} s old.",
        "Leave out --require-fresh to see it, or wait until the pool has a master.",
    ),
    Reason.OUTCOME_UNKNOWN: Entry(
        Status.ABORTED, Exit.OUTCOME_UNKNOWN,
        "It is not known whether the change was made.",
        "Repeat it with the same request id: it is never made twice.",
    ),
    Reason.DEADLINE_PASSED: Entry(
        Status.DEADLINE_EXCEEDED, Exit.TIMED_OUT,
        "No answer within {seconds} s.",
        "Allow more time with --timeout.",
    ),
    Reason.HISTORY_GONE: Entry(
        Status.OUT_OF_RANGE, Exit.FAILED,
        "The changes since revision {since} are no longer kept; the oldest is {oldest}.",
        "Start from revision {oldest}, or from a snapshot of what is there now.",
    ),
    Reason.INCARNATION_MISMATCH: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "This pool is of incarnation {actual}, not {expected}.",
        "Read the pool's present state and go on from there.",
    ),
    Reason.HOST_OF_ANOTHER_POOL: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "The host at {address} now belongs to pool {actual}, not {expected}.",
        "Connect anew to work with that pool, or name another host of this one.",
    ),
    Reason.REPLICA_AHEAD: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "The host's replica is at revision {replica}, the pool's store only at {store}: "
        "the store has lost commits.",
        "Do not change anything yet: save the state directories of all hosts, then find out which "
        "of them holds the newest state (`poolmember inspect`).",
    ),
    Reason.INTERNAL_ERROR: Entry(
        Status.INTERNAL, Exit.FAILED,
        "The daemon ran into an error of its own, incident {incident}.",
        "Look for the incident in the log of {host} and report it.",
        Origin.XAPI,
    ),
    Reason.STORE_UNAVAILABLE: Entry(
        Status.UNAVAILABLE, Exit.NO_MASTER,
        "The pool's store does not take the change: {problem}.",
        "Check the disk of the master, or the cluster that is its store; nothing was changed.",
    ),
    Reason.JOIN_REFUSED: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "{host} does not fit into the pool; findings in the way: {count}.",
        "Follow the remedies, then run the same command again; "
        "`--dry-run -o script` prints them as a script.",
    ),
    Reason.HOST_UNREACHABLE: Entry(
        Status.FAILED_PRECONDITION, Exit.FAILED,
        "Nothing answers at {address}: {problem}.",
        "Check the address and that `poolmember` runs there and listens beyond loopback.",
    ),
    Reason.HOST_NAME_UNRESOLVABLE: Entry(
        Status.FAILED_PRECONDITION, Exit.FAILED,
        "The name {name} does not resolve on the master {master}.",
        "Check the spelling, or use the host's IP address.",
    ),
    Reason.NOT_A_POOL_HOST: Entry(
        Status.FAILED_PRECONDITION, Exit.FAILED,
        "What listens at {address} is not a poolmember daemon: {problem}.",
        "Check the port; poolmember's default is 7443.",
    ),
    Reason.HOST_RESERVED: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "{host} is just being taken in by pool {pool_name}.",
        "Wait for that join to end; `poolmember reset` on the host abandons it.",
    ),
    Reason.POOL_RESERVED: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "This host is just joining pool {pool_name} and takes no changes until that has ended.",
        "Wait for the join to end, then make the change in pool {pool_name}.",
    ),
    Reason.RESERVATION_GONE: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "{host} no longer holds the reservation of this join.",
        "Run `pool add-host` again.",
    ),
    Reason.JOIN_IN_PROGRESS: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "Task {task} is already taking in {host}.",
        "`pool task show {task}` says how far it is.",
    ),
    Reason.STORE_NOT_SHARED: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "{host} does not see this pool's store: {problem}.",
        "A pool with a shared SQLite store takes in only hosts of the same machine.",
    ),
    Reason.HOST_IS_MASTER: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "{host} is the master of the pool.",
        "`pool designate-master HOST` makes another host the master first.",
    ),
    Reason.HOST_HAS_RESIDENT_VMS: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "{count} VMs are on {host}: {vms}.",
        "Migrate them to another host, or remove them.",
        Origin.XAPI,
    ),
    Reason.HOST_OFFLINE: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "{host} is not connected to the master.",
        "Start poolmember there and try again.",
        Origin.XAPI,
    ),
    Reason.HOST_IS_LIVE: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "{host} is alive: {problem}.",
        "A host that is there leaves with `pool eject-host`. If it is to be given up all the same, "
        "switch it off first.",
        Origin.XAPI,
    ),
    Reason.HOST_NOT_DECLARED_DEAD: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "Nobody has vouched that {host} is off.",
        "Make sure that it is: its VMs may still run. Then `pool host declare-dead {host}`, or "
        "repeat this with --yes.",
    ),
    Reason.HOST_NOT_IN_POOL: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "This host, {host}, is no member of pool {pool}.",
        "`poolmember reset --keep-vms` makes it a pool of one again.",
    ),
    Reason.HOST_FORGOTTEN: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "Pool {pool} has forgotten this host, {host}.",
        "Nothing here was changed, and this host does nothing more for that pool. To make it a "
        "pool of one with the VMs and local SRs that it has, stop its daemon, run "
        "`poolmember reset --keep-vms` and start it again. Before a VM is started, make sure that "
        "it does not run on another host by now.",
    ),
    Reason.HOST_NOT_ELIGIBLE: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "{host} cannot become the master: {problem}.",
        "`pool status` shows the hosts that can.",
    ),
    Reason.HOST_IS_WITNESS: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "{host} is a witness: {problem}.",
        "Name a host that is no witness; `pool status` shows each host's role. A witness is itself "
        "taken in by such a host, with `pool add-host`.",
    ),
    Reason.HOST_DISABLED: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "{host} is in maintenance.",
        "`pool host maintenance {host} --off` ends that.",
        Origin.XAPI,
    ),
    Reason.NO_HOST_TO_LEAD: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "{host} is the master, and no other host can take that over: {problem}.",
        "Connect a host that may lead; or say --force, and {host} stays the master in maintenance.",
    ),
    Reason.HANDOVER_FAILED: Entry(
        Status.ABORTED, Exit.FAILED,
        "{host} did not take over: {problem}.",
        "`pool status` tells who is master; look into the log of {host} and try again.",
    ),
    Reason.DRILL_REFUSED: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "A failover drill would not be safe now: {problem}.",
        "Nothing was done. `pool status` and `pool task list` show how the pool is; try again when "
        "it is whole.",
    ),
    Reason.DRILL_FAILED: Entry(
        Status.ABORTED, Exit.FAILED,
        "No other host was elected in the drill: {problem}.",
        "The pool goes on with the master that `pool status` names; look into the logs of the "
        "other hosts for why they did not claim.",
    ),
    Reason.CONFIRMATION_MISSING: Entry(
        Status.FAILED_PRECONDITION, Exit.USAGE,
        "{command} has consequences that a person has to answer for.",
        "Read what it says above, then give it again with `--yes`.",
    ),
    Reason.ALREADY_MASTER: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "{host} is the master of the pool already.",
        "`pool recover-members` tells the other hosts so, should one not follow it.",
    ),
    Reason.MASTER_LIVES: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "{host} says that the pool has a master.",
        "`pool designate-master HOST` hands the mastership over. If that host is wrong, switch off "
        "what it takes for the master and try again.",
    ),
    Reason.QUORUM_LIVES: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "{host} reaches the pool's store: a master comes without a person's decision.",
        "`pool status` shows the hosts; `pool designate-master HOST` makes that one the master. If "
        "{host} cannot lead, stop poolmember there first.",
    ),
    Reason.REPLICA_BEHIND: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "{host} is at revision {revision}; {better}, which answers, is at {newer}.",
        "`pool --server {address} emergency-transition-to-master` goes on from there.",
    ),
    Reason.ANOTHER_IN_STEP: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "{better}, which answers, was in step with the master, and {host} was not.",
        "`pool --server {address} emergency-transition-to-master` goes on from there; afterwards "
        "`pool designate-master {host}` hands the pool over to {host}.",
    ),
    Reason.ETCD_NOT_FOUNDED: Entry(
        Status.FAILED_PRECONDITION, Exit.FAILED,
        "The pool's etcd was not founded: {problem}.",
        "The store stays at the master, and nothing is lost. It is tried again; `etcd.log` in the "
        "state directory of each host that was to vote says more.",
    ),
    Reason.REPLICA_MISSING: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "{host} has no replica of the pool to go on from.",
        "Choose a host that was in the pool for longer.",
    ),
    Reason.LOSS_NOT_ACCEPTED: Entry(
        Status.DATA_LOSS, Exit.CONFLICT,
        "{hosts} may have had changes that nobody in reach has: after revision {revision} none of "
        "those in reach is known to have been in step.",
        "Start one of them if you can. Otherwise give `--accept-loss` as well: what they had is "
        "then lost, or saved apart should they come back (`pool recovery list`).",
    ),
    Reason.NOT_THE_MASTER: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "{host} is not the master of this pool: {problem}.",
        "`pool status`, asked of that host, shows whom it follows.",
    ),
    Reason.TASK_NOT_CANCELLABLE: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "Task {task} has passed the point up to which it can be cancelled (step {step}).",
        "Wait for it to end; `pool task show {task}` says how far it is.",
    ),
    Reason.TASK_CANCELLED: Entry(
        Status.CANCELLED, Exit.FAILED,
        "Task {task} was cancelled.",
        "Nothing is left of it; run the command again if you want it after all.",
        Origin.XAPI,
    ),
    Reason.LOCK_HELD: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "Lock “{name}” is held by {holder} since {since}.",
        "Wait for it with --wait SECONDS. `pool lock break {name}` takes it away from its holder, "
        "who is told to stop.",
    ),
    Reason.LOCK_LOST: Entry(
        Status.NOT_FOUND, Exit.FAILED,
        "Lock “{lock}” is lost: {problem}.",
        "Stop what was done under it: somebody else may hold it by now. Then take it anew.",
    ),
    Reason.BACKUP_DAMAGED: Entry(
        Status.DATA_LOSS, Exit.FAILED,
        "{name} cannot be used as a backup: {problem}.",
        "Take another backup: every host keeps its own, and `pool metadata list` at a host names "
        "them.",
    ),
    Reason.BACKUP_TOO_NEW: Entry(
        Status.FAILED_PRECONDITION, Exit.FAILED,
        "{name} was written by a newer release, {release}: its {what} is {found}, this release "
        "knows up to {known}.",
        "Use that release, or a newer one.",
    ),
    Reason.BACKUP_OF_ANOTHER_POOL: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "The backup is of pool {found}, and this is pool {expected}.",
        "If that is meant, look at what `--dry-run` shows, then say --accept-other-pool.",
    ),
    Reason.STATE_CORRUPT: Entry(
        Status.DATA_LOSS, Exit.USAGE,
        "The state in {path} cannot be read: {problem}.",
        "Nothing was changed. Keep a copy; restore the directory from a backup or, if the host "
        "may start over, run `poolmember reset`.",
    ),
    Reason.STATE_MISSING: Entry(
        Status.NOT_FOUND, Exit.NOT_FOUND,
        "There is no state of a host in {path}.",
        "Check --state-dir; a host has a state after its first `poolmember run`.",
    ),
    Reason.STATE_UNREADABLE: Entry(
        Status.PERMISSION_DENIED, Exit.NOT_ALLOWED,
        "{path} cannot be read: {problem}.",
        "Run the command as the user that the daemon runs as, usually root.",
    ),
    Reason.STATE_UNWRITABLE: Entry(
        Status.FAILED_PRECONDITION, Exit.USAGE,
        "The state directory {path} cannot be written: {problem}.",
        "Check its owner, mode and mount, or name another with --state-dir.",
    ),
    Reason.STATE_ON_NETWORK_FILESYSTEM: Entry(
        Status.FAILED_PRECONDITION, Exit.USAGE,
        "{path} is on a network file system ({filesystem}), where SQLite's locks do not hold.",
        "Use a directory on a local disk.",
    ),
    Reason.STATE_SCHEMA_TOO_NEW: Entry(
        Status.FAILED_PRECONDITION, Exit.USAGE,
        "{path} was written by a newer release (schema {found}, this release knows {known}).",
        "Install that release again; nothing was changed.",
    ),
    Reason.STATE_OF_ANOTHER_POOL: Entry(
        Status.FAILED_PRECONDITION, Exit.USAGE,
        "{path} belongs to {found}, not to {expected}.",
        "Check --state-dir and --store; nothing was changed.",
    ),
    Reason.STATE_IN_USE: Entry(
        Status.FAILED_PRECONDITION, Exit.USAGE,
        "Another poolmember already runs on {path}.",
        "Stop it first, or give this one another --state-dir.",
    ),
    Reason.STORE_MISSING: Entry(
        Status.NOT_FOUND, Exit.USAGE,
        "There is no store of pool {pool} at {store}.",
        "Check the cluster and the prefix. If what it held is gone for good, one host can go on "
        "from its replica: `pool emergency-transition-to-master` there.",
    ),
    Reason.ETCD_VERSION_REFUSED: Entry(
        Status.FAILED_PRECONDITION, Exit.USAGE,
        "The member at {address} is not trusted with the pool's metadata: {problem}.",
        "Upgrade etcd there; nothing was changed.",
    ),
    Reason.RESET_WITH_VMS: Entry(
        Status.FAILED_PRECONDITION, Exit.CONFLICT,
        "Host {host} is not reset without --keep-vms: {problem}.",
        "A reset never touches VMs. With --keep-vms they stay as they are, and the pool that the "
        "host founds at its next start will list them.",
    ),
    Reason.RECOVERY_NOT_FOUND: Entry(
        Status.NOT_FOUND, Exit.NOT_FOUND,
        "Host {host} has saved no commits under the name “{name}”.",
        "`pool recovery list` shows what there is.",
    ),
    Reason.WITNESS_CHANGED: Entry(
        Status.FAILED_PRECONDITION, Exit.USAGE,
        "Host {host} is {before} in {pool}, and was now started as {after}.",
        "Start it as it was: {how}. To change what it is, take it out of a pool that it has joined "
        "(`pool eject-host {host}`), stop its daemon, run `poolmember reset`, and start it anew.",
    ),
    Reason.NO_HYPERVISOR: Entry(
        Status.FAILED_PRECONDITION, Exit.USAGE,
        "There is no hypervisor at {uri}: {problem}.",
        "Start libvirtd, or name another with --driver libvirt:URI; `--driver sim` simulates one.",
    ),
    Reason.INVALID_CONFIGURATION: Entry(
        Status.INVALID_ARGUMENT, Exit.USAGE,
        "{key}: {problem}.",
        "See `poolmember run --help`.",
    ),
    Reason.HOOK_FAILED: Entry(
        Status.FAILED_PRECONDITION, Exit.FAILED,
        "The hook {hook} failed: {problem}.",
        "Look at what it printed, in the daemon's log, and correct {path}; it is not run again "
        "before the next such event.",
    ),
    Reason.HOOK_TIMED_OUT: Entry(
        Status.DEADLINE_EXCEEDED, Exit.FAILED,
        "The hook {hook} had not ended after {seconds} s and was ended.",
        "Let {path} leave long work to something else, `systemd-run` for example, or allow more "
        "with --hook-seconds.",
    ),
    Reason.HOOK_REFUSED: Entry(
        Status.FAILED_PRECONDITION, Exit.FAILED,
        "The hook {hook} is not run: {problem}.",
        "Make {path} an executable file that belongs to root or to the daemon's user, in a "
        "directory that does, both writable by nobody else (chmod go-w, chmod +x); a hook that is "
        "not wanted is removed.",
    ),
}  # fmt: skip


def placeholders(template: str) -> frozenset[str]:
    """The parameter names that a template of the catalog wants."""
    return frozenset(name for _, name, _, _ in string.Formatter().parse(template) if name)


class PoolError(Exception):
    """A reason of the catalog with its parameters, and findings where preflight refused."""

    def __init__(
        self, reason: Reason, /, *, findings: tuple[Finding, ...] = (), **params: str
    ) -> None:
        self.reason = reason
        self.params: Mapping[str, str] = params
        self.findings = findings
        super().__init__(self.message)

    @property
    def entry(self) -> Entry:
        """What the catalog says of the reason."""
        return CATALOG[self.reason]

    @property
    def message(self) -> str:
        """What happened, in a sentence."""
        return self.entry.summary.format_map(_Lenient(self.params))

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return self.entry.remedy.format_map(_Lenient(self.params))


class _Lenient(dict[str, str]):
    # An error of another release may lack a parameter: better a gap than an error about an error.
    def __missing__(self, key: str) -> str:
        return f"<{key}>"
