"""Where a network lab is: namespaces of the test process's own, which no other process sees.

The process leaves the machine's network and the machine's mounts for good. What it makes from then
on (interfaces, names of namespaces, file systems in memory) ends with the last process in there.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from functools import cache
from pathlib import Path

from support.lab_network import LabUnavailable, ip, run

NAME = "tests"
"""Of the network namespace that the test process is in."""
PROGRAMS = ("ip", "nft", "nsenter", "mount", "umount", "etcd")
_NAMES = Path("/run/netns")
_CLONE_NEWNS, _CLONE_NEWNET = 0x0002_0000, 0x4000_0000


@cache
def enter() -> None:
    """Move this process into namespaces of its own, once; `LabUnavailable` where that cannot be."""
    if os.geteuid() != 0:
        raise LabUnavailable("network namespaces need root")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise LabUnavailable(f"not installed here: {', '.join(missing)}")
    # A thread that runs already would stay behind, with gRPC's connections.
    if len(os.listdir("/proc/self/task")) > 1:
        raise LabUnavailable("this process has threads already: run these tests by themselves")
    # os.unshare is there from Python 3.12 on.
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS | _CLONE_NEWNET) != 0:
        problem = os.strerror(ctypes.get_errno())
        raise LabUnavailable(f"no namespaces can be made here: {problem}")
    run("mount", "--make-rprivate", "/")
    _NAMES.mkdir(exist_ok=True)
    # Names that are given here are given here only.
    run("mount", "-t", "tmpfs", "tmpfs", str(_NAMES))
    ip("link", "set", "lo", "up")
    ip("netns", "attach", NAME, str(os.getpid()))
