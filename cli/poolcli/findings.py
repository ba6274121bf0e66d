"""What preflight found, for people and for scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from poolcli.output import bold, write
from poolcli.text import safe

if TYPE_CHECKING:
    from poolcore.model import Finding


def join_json(
    joined: bool, host: dict[str, Any] | None, findings: Sequence[Finding]
) -> dict[str, Any]:
    """The outcome of `add-host` as scripts get it."""
    from poolcore.replica import plain

    return {"joined": joined, "host": host, "findings": plain(tuple(findings))}


def show_findings(findings: Sequence[Finding]) -> None:
    """Every finding: what it is, expected and actual, why, and what to do."""
    for finding in findings:
        write("\n".join(_lines(finding)))


def _lines(finding: Finding) -> Iterator[str]:
    from textwrap import wrap

    kind = finding.severity.value
    if finding.overridden:
        kind += ", overridden by --force"
    elif finding.forceable and finding.blocks:
        kind += ", --force overrides it"
    yield ""
    yield f"{bold(finding.code)} ({kind})"
    for name, text in (
        ("subject", finding.subject),
        ("expected", finding.expected),
        ("actual", finding.actual),
        ("why", finding.explanation),
        ("remedy", finding.remedy),
    ):
        # Commands in a remedy are copied from here: better a long line than a broken word.
        lines = wrap(safe(text), 66, break_long_words=False, break_on_hyphens=False) or [""]
        yield f"  {name:<8}  {lines[0]}"
        yield from (f"  {'':<8}  {line}" for line in lines[1:])


def count(findings: Sequence[Finding]) -> str:
    """How many there are and how many of them block."""
    blocking = sum(f.blocks for f in findings)
    total = f"{len(findings)} finding" + ("" if len(findings) == 1 else "s")
    return total if blocking == len(findings) else f"{total}, {blocking} of which block"
