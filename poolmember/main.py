"""The command `poolmember`: run the daemon, look at its state, start over."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer

from poolcore import API_VERSION, PRODUCT_VERSION, SCHEMA_VERSION
from poolcore.errors import Exit, PoolError, Reason
from poolcore.replica import dump as canonical
from poolmember.config import Config, load, state_directory
from poolmember.config_values import LogFormat
from poolmember.inspection import as_plain, as_rows, inspect
from poolmember.log_format import configure
from poolmember.options import (
    AdvertiseOption,
    BuiltinSrsOption,
    ConfigOption,
    DriverOption,
    DumpOption,
    HistoryRevisionsOption,
    HooksDirOption,
    HookSecondsOption,
    InsecureOption,
    KeepVmsOption,
    ListenOption,
    LogFormatOption,
    LogLevelOption,
    NameOption,
    Output,
    OutputOption,
    StateDirOption,
    StoreOption,
    VoterOption,
    WitnessOption,
    YesOption,
)
from poolmember.reset import Outcome, reset
from poolmember.state_dir import REPLICA_FILE

log = logging.getLogger("poolmember")

app = typer.Typer(
    name="poolmember",
    help="The pool manager's daemon on a hypervisor host.\n\n"
    "`poolmember run` drives this host's hypervisor, keeps a copy of the pool's metadata and "
    "answers the API; a host that is in no pool yet is a pool of one. Hosts are joined with "
    "`pool add-host`. Stopping or losing the daemon never touches a guest.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@contextmanager
def _refusals(output: Output = Output.TABLE) -> Iterator[None]:
    """Turn what is refused into a text on stderr and the exit code of its family."""
    try:
        yield
    except PoolError as error:
        _tell(error, output)
        raise typer.Exit(error.entry.exit) from None


def _tell(error: PoolError, output: Output) -> None:
    if output is Output.JSON:
        told = {
            "code": error.reason,
            "message": error.message,
            "hint": error.remedy,
            "details": dict(error.params),
        }
        text = json.dumps({"error": told}, ensure_ascii=False)
    else:
        text = f"{_printable(error.message)}\n{_printable(error.remedy)}"
    typer.echo(text, err=True)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@app.command()
def run(
    *,
    name: NameOption = None,
    listen: ListenOption = None,
    advertise: AdvertiseOption = None,
    state_dir: StateDirOption = None,
    driver: DriverOption = None,
    store: StoreOption = None,
    witness: WitnessOption = None,
    voter: VoterOption = None,
    insecure: InsecureOption = None,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
    builtin_srs: BuiltinSrsOption = None,
    history_revisions: HistoryRevisionsOption = None,
    hooks_dir: HooksDirOption = None,
    hook_seconds: HookSecondsOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Run the daemon until SIGTERM or SIGINT.

    A wrong setting ends it with exit code 2 and the reason, before anything is started or
    written. Exit code 0 is a clean end.
    """
    flags = {
        "name": name,
        "listen": listen,
        "advertise": advertise,
        "state_dir": state_dir,
        "driver": driver,
        "store": store,
        "witness": witness,
        "voter": voter,
        "insecure": insecure,
        "log_format": log_format,
        "log_level": log_level,
        "builtin_srs": builtin_srs,
        "history_revisions": history_revisions,
        "hooks_dir": hooks_dir,
        "hook_seconds": hook_seconds,
        "config": config_file,
    }
    with _refusals():
        settings = load(flags, os.environ)
    raise typer.Exit(_run_daemon(settings))


def _run_daemon(settings: Config) -> int:
    configure(settings.log_format, settings.log_level)
    from poolmember.daemon import run as run_daemon  # quick help and refusals without it

    try:
        return run_daemon(settings)
    except PoolError as error:
        if settings.log_format is LogFormat.JSON:
            log.critical(error.message, extra={"code": error.reason, "hint": error.remedy})
        else:
            _tell(error, Output.TABLE)
        return error.entry.exit
    except Exception:  # the log is where an administrator looks for it, in the log's format
        log.critical("The daemon ended by an error of its own.", exc_info=True)
        return Exit.FAILED


@app.command()
def version(*, output: OutputOption = Output.TABLE) -> None:
    """Print which release this is, and the versions of its API and of what it writes to disk."""
    if output is Output.JSON:
        told = {
            "version": PRODUCT_VERSION,
            "api_version": API_VERSION,
            "schema_version": SCHEMA_VERSION,
            "python": platform.python_version(),
        }
        typer.echo(json.dumps(told))
    else:
        typer.echo(f"poolmember {PRODUCT_VERSION} (API {API_VERSION}, schema {SCHEMA_VERSION})")


@app.command("inspect")
def inspect_state(
    *,
    state_dir: StateDirOption = None,
    config_file: ConfigOption = None,
    dump: DumpOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show who this host is and what its replica holds, from the disk alone.

    Works with the daemon running or not, and with every other host of the pool dead. Changes
    nothing. What cannot be read is said on stderr, and the exit code is that of the error.
    """
    with _refusals(output):
        found = inspect(state_directory(_place(state_dir, config_file), os.environ))
        if dump:
            if found.state is None:
                raise next(iter(found.refusals), None) or PoolError(
                    Reason.STATE_MISSING, path=str(found.path / REPLICA_FILE)
                )
            typer.echo(canonical(found.state), nl=False)
        elif output is Output.JSON:
            typer.echo(json.dumps(as_plain(found), ensure_ascii=False))
        else:
            for what, how in as_rows(found):
                typer.echo(f"{what:<16} {_printable(how)}")
        for refusal in found.refusals:
            raise refusal


@app.command("reset")
def reset_host(
    *,
    keep_vms: KeepVmsOption = False,
    yes: YesOption = False,
    state_dir: StateDirOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Make this host a pool of one again, whatever pool it is in or is promised to.

    For a host that its pool has forgotten, that waits for a join which will never end, or whose
    state cannot be read. Stop the daemon first. Store and replica are moved aside, not deleted;
    guests, their disks and the hypervisor's own configuration are not touched. A host that its
    pool still reaches leaves it with `pool eject-host` instead.
    """
    with _refusals():
        path = state_directory(_place(state_dir, config_file), os.environ)
        outcome = reset(path, keep_vms=keep_vms, confirm=_told if yes else _agreed)
    if outcome is Outcome.DECLINED:
        typer.echo("Nothing was changed.", err=True)
        raise typer.Exit(Exit.FAILED)
    if outcome is Outcome.NOT_NEEDED:
        typer.echo("The host is in no pool: nothing was to be done.", err=True)
    else:
        typer.echo("Done. Start the daemon: the host is a pool of one.", err=True)


def _place(state_dir: str | None, config_file: str | None) -> dict[str, object]:
    return {"state_dir": state_dir, "config": config_file}


def _told(sentences: Sequence[str]) -> bool:
    for sentence in sentences:
        typer.echo(_printable(sentence), err=True)
    return True


def _agreed(sentences: Sequence[str]) -> bool:
    _told(sentences)
    if not sys.stdin.isatty():
        problem = "is needed where nobody can be asked"
        raise PoolError(Reason.INVALID_VALUE, field="--yes", problem=problem)
    return typer.confirm("Go on?", err=True)


def main() -> None:
    """Entry point of the command."""
    app()
