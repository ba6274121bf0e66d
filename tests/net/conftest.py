"""A network lab for each test in this folder; when one fails, its report has all the logs.

With CI=true a lab that cannot start fails; elsewhere the tests are skipped and say why.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator
from contextlib import AsyncExitStack

import pytest

from support.lab_network import LabUnavailable
from support.netlab.lab import NetLab, running_lab

LAB: pytest.StashKey[NetLab] = pytest.StashKey()


@pytest.fixture
async def lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[NetLab]:
    """A lab whose hosts are switched off; a parameter is what `running_lab` is told."""
    # Not `tmp_path`: with a long test name in it, a socket's path would be too long.
    folder = tmp_path_factory.mktemp("net")
    async with AsyncExitStack() as stack:
        try:
            running = running_lab(folder, **getattr(request, "param", {}))
            lab = await stack.enter_async_context(running)
        except LabUnavailable as reason:
            if os.environ.get("CI") == "true":
                pytest.fail(f"no network lab can be made here: {reason}")
            pytest.skip(f"no network lab can be made here: {reason}")
        request.node.stash[LAB] = lab
        yield lab


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a test after the lab that it is in."""
    if argname != "lab" or not isinstance(val, dict):
        return None
    return f"{'own' if val.get('own_etcd') else 'given'} etcd at {val.get('size', 3)} hosts"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the logs of all hosts into the report of a failed test."""
    report = yield
    lab = item.stash.get(LAB, None)
    if report.failed and lab is not None:
        for host in lab.wired_hosts:
            report.sections.append((f"log of {host.name} at {host.endpoint}", host.log))
            report.sections.append((f"what etcd on {host.name} warned of", host.etcd.log))
    return report
