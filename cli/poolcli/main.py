"""The command `pool`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import cache

import typer
from typer.main import get_command

from poolcli.failures import UsageError, report
from poolcli.output import Format, write


@cache
def build() -> Callable[..., object]:
    """All commands, as one to be called with a command line."""
    from poolcli import (
        bond,
        context,
        demo,
        diff,
        doctor,
        drill,
        emergency,
        events,
        host,
        lock,
        master,
        mastership,
        membership,
        message,
        metadata,
        network,
        pbd,
        pif,
        pool,
        recovery,
        sr,
        status,
        task,
        tunnel,
        vbd,
        vdi,
        vif,
        vlan,
        vm,
        wait,
    )  # fmt: skip
    from poolcli.app import command, new_app

    app = new_app(
        "Manage a pool of hypervisor hosts.\n\n"
        "Asks the pool's hosts given by --server or POOL_SERVER, those of the chosen context, or "
        "the poolmember daemon of this host. HOST, VM and so on are names, uuids or unique "
        "prefixes of either. `pool --version` tells the release.",
        completion=True,
    )
    command(app, "status")(status.status)
    pool.add_to(app)
    command(app, "add-host")(membership.add_host)
    command(app, "eject-host")(membership.eject_host)
    command(app, "designate-master")(mastership.designate_master)
    command(app, emergency.TRANSITION)(emergency.emergency_transition_to_master)
    command(app, "emergency-reset-master")(emergency.emergency_reset_master)
    command(app, "recover-members")(emergency.recover_members)
    for noun in (
        host, sr, network, vm, task, vdi, pbd, pif, bond, vlan, tunnel, vbd, vif, message, lock,
    ):  # fmt: skip
        app.add_typer(noun.app, name=noun.__name__.rpartition(".")[2])
    command(app, "events")(events.events)
    command(app, "diff")(diff.diff)
    app.add_typer(master.app, name="master")
    app.add_typer(drill.app, name="drill")
    app.add_typer(recovery.app, name="recovery")
    app.add_typer(metadata.app, name="metadata")
    command(app, "wait")(wait.wait)
    app.add_typer(context.app, name="context")
    command(app, "doctor")(doctor.doctor)
    demo.add_to(app, run)
    return get_command(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the code of its outcome."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Run the command line; the exit code of its outcome."""
    # Of gRPC's own log nothing is for the person who runs a command.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if arguments == ["--version"]:
        from poolcore import PRODUCT_VERSION

        write(f"pool {PRODUCT_VERSION}")
        return 0
    try:
        code = build()(arguments, prog_name="pool", standalone_mode=False)
        sys.stdout.flush()
    except UsageError as error:
        report("USAGE", error.message, error.hint, {}, _format(arguments))
        return 2
    except typer.TyperException as error:
        report("USAGE", error.format_message(), "`--help` says more.", {}, _format(arguments))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough; nothing is left to be said to them.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code if isinstance(code, int) else 0


def _format(arguments: Sequence[str]) -> Format:
    """The format of an error about a command line that could not be understood."""
    for option, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if option in {"-ojson", "--output=json", "-o=json"}:
            return Format.JSON
        if option in {"-o", "--output"} and value == "json":
            return Format.JSON
    return Format.TABLE
