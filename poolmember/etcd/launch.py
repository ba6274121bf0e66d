"""How etcd's process is started so that it outlives the daemon: as a unit of systemd, or detached.

Where systemd runs, what a service has started ends or stays with that service, as its `KillMode`
says, and shares its limits. So etcd is a service of its own there, a transient one: nothing has to
be installed for it, and nothing is left of it. Whoever looks for the process finds it in the same
way, whichever way it was started.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

BOOTED = Path("/run/systemd/system")
"""There is such a folder where the machine was booted by systemd: sd_booted(3)."""
UNIT_SECONDS = 10.0
"""How long systemd may take to start a process; it waits when the daemon's unit is being ended."""

_PROPERTIES = (
    # When the machine is switched off, the daemon hands over first, while the store answers still.
    "Before=poolmember.service",
    "After=network.target",
    # The daemon starts it again, and looks at its release before: nobody else does.
    "Restart=no",
    "TimeoutStopSec=30",
    # As the daemon's own unit has them.
    "LimitNOFILE=65536",
    "OOMScoreAdjust=-500",
    "NoNewPrivileges=yes",
    "ProtectSystem=full",
)


def has_systemd() -> bool:
    """Whether a process can be given to systemd, which would start it where this one is.

    In a network of its own, as containers have it, only its own first process may be systemd.
    """
    try:
        first = Path("/proc/1/comm").read_text().strip()
        same_network = Path("/proc/1/ns/net").samefile("/proc/self/ns/net")
    except OSError:
        return False
    return BOOTED.is_dir() and first == "systemd" and same_network and os.geteuid() == 0


def unit_name(folder: Path) -> str:
    """The unit of the etcd in that folder, an absolute path: the same one at every start."""
    return f"poolmember-etcd-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}.service"


def start_as_unit(command: Sequence[str], folder: Path, log_file: Path) -> None:
    """Have systemd run it in `folder`; returns when it has been started.

    Raises `subprocess.SubprocessError` when systemd refuses, or takes too long.
    """
    properties = (
        *_PROPERTIES,
        f"WorkingDirectory={folder}",
        f"StandardOutput=append:{log_file}",
        f"StandardError=append:{log_file}",
    )
    done = subprocess.run(
        [
            "systemd-run",
            "--quiet",
            # However it ends, its name is free for the next start.
            "--collect",
            f"--unit={unit_name(folder)}",
            "--description=etcd of the pool that this host is of",
            "--service-type=exec",
            *(f"--property={line}" for line in properties),
            "--",
            # It would take what follows a $ for a variable's name.
            *(word.replace("$", "$$") for word in command),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=UNIT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise subprocess.SubprocessError(f"systemd-run: {done.stderr.strip()}")


def start_detached(command: Sequence[str], folder: Path, log_file: Path) -> int:
    """Run it in `folder`, beyond the reach of what ends this process; its number."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCD_")}
    with log_file.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=environment,
            # Neither a signal to the daemon's group nor the end of its session reaches it.
            start_new_session=True,
        )
    # Nobody waits for it here: whoever holds it collects its exit status if it ends before us.
    process.returncode = 0
    return process.pid
