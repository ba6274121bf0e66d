"""What a person does when all hosts but one are lost: go on with that one."""

from __future__ import annotations

import asyncio

from net.misfortunes import PATIENCE_SECONDS
from poolcore.replica import State
from poolmember.inspection import inspect
from support.cli import Outcome
from support.netlab.command import command
from support.netlab.host import NetHost

TRANSITION = "emergency-transition-to-master"
NOT_YET = {"ALREADY_MASTER", "MASTER_LIVES", "QUORUM_LIVES"}
"""What a host may still believe for a moment."""


async def asked_for_the_transition(host: NetHost, *options: str) -> Outcome:
    """The command, given again as long as the host has not noticed what is lost."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            done = await command([host], TRANSITION, *options, "-o", "json")
            if not done.code or done.error["code"] not in NOT_YET:
                return done


async def goes_on_alone(host: NetHost) -> Outcome:
    """Make it the master, whatever may be missing."""
    done = await asked_for_the_transition(host, "--yes", "--accept-loss")
    assert done.code == 0, done
    return done


def on_its_disk(host: NetHost) -> State:
    """What the replica of a host holds."""
    state = inspect(host.state_dir).state
    assert state is not None
    return state


def made(state: State) -> dict[str, int]:
    """Which revision each request that is remembered has become."""
    return {record.id: record.revision for record in state.requests.by_id.values()}
