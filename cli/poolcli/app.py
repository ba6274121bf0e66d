"""How commands are declared and run.

Every command takes the same general options, before or after its name: `pool -o json host list`
and `pool host list -o json` are the same. `command` adds them to what a command declares itself,
and runs the command with a `Session` that has them.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Never

import typer
from typer.core import TyperGroup

from poolcli.failures import Ended, UsageError, report, report_crash, report_error
from poolcli.foreign import suggestion
from poolcli.output import Format, note
from poolcli.session import Given, Session, no_host_hint, target

Handler = Callable[..., Awaitable[None]]

PANEL = "Options of every command"

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="ADDR[,ADDR…]",
        help="Hosts of the pool, or a socket (unix:///PATH). Default: POOL_SERVER, the chosen "
        "context, this host's own socket.",
        rich_help_panel=PANEL,
    ),
]
Output = Annotated[
    Format | None,
    typer.Option("--output", "-o", help="How to show data. Default: table.", rich_help_panel=PANEL),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", metavar="SECONDS", help="How long it may take.", rich_help_panel=PANEL
    ),
]
RequireFresh = Annotated[
    bool,
    typer.Option(
        "--require-fresh",
        help="Fail (exit code 6) rather than show a stale answer.",
        rich_help_panel=PANEL,
    ),
]

_GENERAL = {"server": Server, "output": Output, "timeout": Timeout, "require_fresh": RequireFresh}


class Group(TyperGroup):
    """A group of commands that knows what people of other tools type."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first argument names; a helpful `UsageError` if none does."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            path = ctx.command_path.split()[1:]
            message, hint = suggestion(path, args, sorted(self.commands))
            raise UsageError(message, hint)
        return super().resolve_command(ctx, args)


def new_app(help_text: str, *, completion: bool = False, group: type[Group] = Group) -> typer.Typer:
    """A group of commands; without a command it shows its help."""
    app = typer.Typer(
        cls=group,
        help=help_text,
        invoke_without_command=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None,
        add_completion=completion,
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def general(
        ctx: typer.Context,
        server: Server = None,
        output: Output = None,
        timeout: Timeout = None,
        require_fresh: RequireFresh = False,
    ) -> None:
        ctx.obj = Given(server, output, timeout, require_fresh).over(ctx.obj or Given())
        if ctx.invoked_subcommand is None:
            typer.echo(ctx.get_help())

    # The callback's own docstring would replace the help.
    general.__doc__ = None
    return app


def command(app: typer.Typer, name: str) -> Callable[[Handler], Handler]:
    """Make a coroutine `handler(session, …)` the command `name` of `app`.

    What follows `session` in its signature is the command's own arguments and options, as typer
    has them; its docstring is the help.
    """

    def register(handler: Handler) -> Handler:
        signature = inspect.signature(handler, eval_str=True)
        own = list(signature.parameters.values())[1:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        given = [
            inspect.Parameter("ctx", keyword, annotation=typer.Context),
            *(p.replace(kind=keyword) for p in own),
            *(
                inspect.Parameter(
                    option,
                    keyword,
                    annotation=annotation,
                    default=False if option == "require_fresh" else None,
                )
                for option, annotation in _GENERAL.items()
            ),
        ]

        def run(**values: Any) -> None:
            before: Given = values.pop("ctx").obj or Given()
            options = Given(**{option: values.pop(option) for option in _GENERAL}).over(before)
            _run(handler, options, values)

        run.__doc__ = handler.__doc__
        run.__signature__ = inspect.Signature(given)  # type: ignore[attr-defined]  # as inspect documents
        run.__annotations__ = {p.name: p.annotation for p in given}
        app.command(name)(run)
        return handler

    return register


def _run(handler: Handler, given: Given, values: dict[str, Any]) -> None:
    """Run a command to its end and turn what happens into an exit code."""
    shown_as = given.output or Format.TABLE
    session: Session | None = None
    try:
        session = Session(given)
        with asyncio.Runner() as runner:
            runner.run(_awaited(handler(session, **values)))
    except UsageError as error:
        report("USAGE", error.message, error.hint, {}, shown_as)
        _exit(2)
    except Ended as ended:
        _exit(ended.code)
    except KeyboardInterrupt:
        _goes_on(session)
        _exit(130)
    except BrokenPipeError:
        raise
    except Exception as error:
        _exit(_failed(error, session, given, shown_as))


async def _awaited(command: Awaitable[None]) -> None:
    await command


def _failed(error: Exception, session: Session | None, given: Given, shown_as: Format) -> int:
    from poolclient import NoHostAnswers, OutcomeUnknown, TimedOut
    from poolcore.errors import PoolError

    if not isinstance(error, PoolError):
        return report_crash(error, shown_as)
    hint = ""
    if isinstance(error, NoHostAnswers):
        hint = no_host_hint(target(given.server))
    if isinstance(error, OutcomeUnknown) and error.request_id:
        hint = (
            f"Run the same command again with --request-id {error.request_id}: "
            "it is never made twice."
        )
    if isinstance(error, TimedOut) and session is not None and session.task:
        hint = _task_hint(session.task)
    return report_error(error, shown_as, hint=hint)


def _goes_on(session: Session | None) -> None:
    if session is not None and session.task:
        note(_task_hint(session.task))


def _task_hint(task: str) -> str:
    return f"Task {task} goes on; `pool task show {task}`, `pool task cancel {task}`."


def _exit(code: int) -> Never:
    raise typer.Exit(code)
