"""Real libvirt hosts for the tests in this folder.

With CI=true a lab that cannot start fails; elsewhere the tests are skipped and say why.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec

import pytest

from support.lab import Lab, LabHost, LabUnavailable


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A lab without hosts; each test adds those it needs."""
    with ExitStack() as stack:
        try:
            if find_spec("libvirt") is None:
                raise LabUnavailable("libvirt-python is not installed")
            started = stack.enter_context(Lab())
        except LabUnavailable as reason:
            if os.environ.get("CI") == "true":
                pytest.fail(f"real hosts cannot be made here: {reason}")
            pytest.skip(f"real hosts cannot be made here: {reason}")
        yield started


@pytest.fixture
def host(lab: Lab) -> Iterator[LabHost]:
    """A fresh host, for one test alone."""
    host = lab.add_host("phantom")
    yield host
    lab.remove_host(host)
