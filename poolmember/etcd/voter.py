"""This host's member of the pool's own etcd: started and ended when the master says so.

It has a folder of its own in the state directory. There the process is found again after a restart
of the daemon. What a member that was ended had is put aside, and kept until the next one is.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from poolcore.errors import PoolError, Reason
from poolcore.facts import KnownCommit, Tail, VoterFacts
from poolcore.model import Task
from poolcore.replica import State
from poolmaster.store.etcd.store import EtcdOptions, key_prefix
from poolmember.etcd.member import (
    DATA_FOLDER,
    MEMBER_FILE,
    EtcdMember,
    EtcdRefused,
    etcd_program,
    etcd_version,
    problem_with,
)
from poolmember.etcd.process import EtcdProcess
from poolmember.etcd.tail import read_tail
from poolmember.etcd.wal import has_log
from poolmember.state_dir import unwritable

log = logging.getLogger(__name__)

AGAIN_SECONDS = 10.0
"""From a start that was refused to the next."""
NO_VOTER = "it was started with --no-voter"


class Voter(Protocol):
    """What a host's agent knows of this; so that a simulation can have another."""

    async def facts(self) -> VoterFacts:
        """What there is."""
        ...

    @property
    def cluster(self) -> tuple[str, str] | None:
        """Token of the cluster that this host has a member of, and the URL of a store there."""
        ...

    async def start(self, member: EtcdMember) -> None:
        """Run that member. Repeating is harmless; another one than is there is refused.

        `HOST_NOT_ELIGIBLE`; `STATE_UNWRITABLE` when the disk refuses.
        """
        ...

    async def stop(self, token: str) -> None:
        """End the member of that cluster, if there is one, and put aside what it had.

        `STATE_UNWRITABLE` when the disk refuses: then it is tried again.
        """
        ...

    async def compare(self, state: State) -> None:
        """End a member that the pool, of which `state` is the newest, does not know of.

        `STATE_UNWRITABLE` as for `stop`, or when it is to be kept that the member's log has begun.
        """
        ...

    async def tail(self, pool: str, last: KnownCommit) -> Tail:
        """What its disk has of the pool's chain beyond the commit `last`.

        Not whole where there is no log: who asks takes the host for a voter.
        """
        ...

    async def leave(self) -> None:
        """End whatever member there is: the host has left the pool that it is of."""
        ...


class NoVoter:
    """A host that has no etcd, and is to have none. Implements `Voter`."""

    def __init__(self, host: str) -> None:
        self._host = host

    async def facts(self) -> VoterFacts:
        """See `Voter`."""
        return VoterFacts()

    @property
    def cluster(self) -> tuple[str, str] | None:
        """See `Voter`."""
        return None

    async def start(self, member: EtcdMember) -> None:
        """See `Voter`."""
        raise PoolError(Reason.HOST_NOT_ELIGIBLE, host=self._host, problem=NO_VOTER)

    async def stop(self, token: str) -> None:
        """See `Voter`."""

    async def compare(self, state: State) -> None:
        """See `Voter`."""

    async def tail(self, pool: str, last: KnownCommit) -> Tail:
        """See `Voter`."""
        return Tail(whole=False)

    async def leave(self) -> None:
        """See `Voter`."""


class EtcdVoter:
    """A host that may have one. Implements `Voter`.

    `folder`: where its member is; `host`: its name; `votes`: whether it may be given a vote. One
    that it has already stays, until the pool has given it to another host. `place`: where the
    daemon is reached, and the IP address that it listens at, for whoever runs the member.
    """

    def __init__(
        self,
        folder: Path,
        host: str,
        *,
        votes: bool = True,
        place: tuple[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._host = host
        self._place = place
        self._votes = votes
        self._process: EtcdProcess | None = None
        self._started = asyncio.Event()
        self._changing = asyncio.Lock()

    async def run(self) -> None:
        """Keep the member running that is to run, until cancelled; then it goes on alone."""
        while True:
            try:
                async with self._changing:
                    self._started.clear()
                    process = self._process = await self._process_of_member()
                if process is None:
                    await self._until_again()
                else:
                    await process.run()
            except (EtcdRefused, OSError) as error:
                log.error("the pool's etcd does not run here: %s", error)
                await self._until_again()
            async with self._changing:
                self._process = None

    async def _process_of_member(self) -> EtcdProcess | None:
        present = EtcdMember.load(self._folder)
        if present is not None:
            await self._follow_the_daemon(present)
            return EtcdProcess(self._folder)
        if _has_remains(self._folder):
            # It is looked at again: the file may be on a disk that is not mounted yet.
            raise EtcdRefused(f"{self._folder / MEMBER_FILE} does not say what it is")
        return None

    async def _until_again(self) -> None:
        """Until there is a new member, or one whose files have been brought back."""
        with suppress(TimeoutError):
            async with asyncio.timeout(AGAIN_SECONDS):
                await self._started.wait()

    def _usable(self) -> EtcdMember | None:
        """The member, if what it has is fit to go on with.

        If not the master takes it out and gives the host a new one. Until then what is left stays
        where it is: what is missing may be on a disk that somebody is about to mount.
        """
        present = EtcdMember.load(self._folder)
        lost = present is not None and present.has_lost_its_log(self._folder)
        return None if lost else present

    async def _follow_the_daemon(self, present: EtcdMember) -> None:
        """Have the member beside the daemon, where that was started with another address.

        The master tells the cluster, when this host has told the master.
        """
        moved = present if self._place is None else present.at(*self._place)
        if moved != present:
            log.warning("the etcd here is at %s from now on", moved.client)
            # Before it is written down: a process that runs is not looked at again.
            await EtcdProcess(self._folder).stop()
            await asyncio.to_thread(moved.save, self._folder)

    @property
    def cluster(self) -> tuple[str, str] | None:
        """See `Voter`."""
        present = EtcdMember.load(self._folder)
        return None if present is None else (present.token, present.store_url)

    async def facts(self) -> VoterFacts:
        """See `Voter`."""
        present = self._usable()
        token = None if present is None else present.token
        if not self._votes:
            return VoterFacts(token=token)
        version = await asyncio.to_thread(etcd_version)
        return VoterFacts(version=version, problem=problem_with(version), token=token)

    async def start(self, member: EtcdMember) -> None:
        """See `Voter`."""
        async with self._changing:
            present = self._usable()
            if present is not None and present.token != member.token:
                problem = "its etcd is of another cluster, which has to end before"
                raise PoolError(Reason.HOST_NOT_ELIGIBLE, host=self._host, problem=problem)
            if present is None and not self._votes:
                raise PoolError(Reason.HOST_NOT_ELIGIBLE, host=self._host, problem=NO_VOTER)
            try:
                await asyncio.to_thread(etcd_program)
            except EtcdRefused as error:
                raise PoolError(
                    Reason.HOST_NOT_ELIGIBLE, host=self._host, problem=str(error)
                ) from error
            if present is None:
                await self._put_aside()
                await self._save(member)
            self._started.set()

    async def stop(self, token: str) -> None:
        """See `Voter`."""
        async with self._changing:
            present = EtcdMember.load(self._folder)
            if present is None or present.token != token:
                return
            await self._put_aside()

    async def compare(self, state: State) -> None:
        """See `Voter`."""
        present = EtcdMember.load(self._folder)
        if present is None or state.reach < present.since:
            return
        if knows(state, present):
            await self._remember_its_log(present)
            return
        log.warning("the pool does not know of the etcd here: it ends, and is put aside")
        await self.stop(present.token)

    async def tail(self, pool: str, last: KnownCommit) -> Tail:
        """See `Voter`."""
        present = self._usable()
        if present is None:
            return Tail(whole=False)
        prefix = key_prefix(EtcdOptions.PREFIX, pool, present.token)
        return await asyncio.to_thread(read_tail, self._folder / DATA_FOLDER, prefix, last)

    async def leave(self) -> None:
        """See `Voter`."""
        async with self._changing:
            # Also one of which nobody can tell any more what it was.
            await self._put_aside()

    async def _remember_its_log(self, present: EtcdMember) -> None:
        if present.begun:
            return
        async with self._changing:
            if EtcdMember.load(self._folder) == present and has_log(self._folder / DATA_FOLDER):
                await self._save(replace(present, begun=True))

    async def _save(self, member: EtcdMember) -> None:
        try:
            await asyncio.to_thread(member.save, self._folder)
        except OSError as error:
            raise unwritable(self._folder, error) from error

    async def _put_aside(self) -> None:
        """End what runs there, and put aside what it had, if anything."""
        await (self._process or EtcdProcess(self._folder)).stop()
        try:
            await asyncio.to_thread(self._rename)
        except OSError as error:
            raise unwritable(self._folder, error) from error

    def _rename(self) -> None:
        if not _has_remains(self._folder):
            return
        aside = self._folder.with_name(self._folder.name + ".retired")
        shutil.rmtree(aside, ignore_errors=True)
        self._folder.rename(aside)


def _has_remains(folder: Path) -> bool:
    """Whether there is anything of a member; what was put aside stays, if there is not."""
    return (folder / MEMBER_FILE).exists() or (folder / DATA_FOLDER).exists()


def knows(state: State, member: EtcdMember) -> bool:
    """Whether the pool, as `state` says, has that member, or is about to."""
    voters = state.pool.voters
    if voters is not None and voters.token == member.token:
        return member.name in {*voters.hosts, *voters.learners}
    # It is about to be founded.
    tasks = (t for t in state.all(Task) if not t.status.is_final)
    return any(task.params.get("token") == member.token for task in tasks)
