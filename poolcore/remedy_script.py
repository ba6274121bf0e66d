"""The remedies of a refused join as a shell script that a person reviews and completes.

As it comes, the script only looks and saves: of the commands in the remedies those are active that
are known to change nothing but the file they write. All others are there as comments.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator

from poolcore.model import Finding, Severity

_COMMAND = re.compile(r"`([^`]+)`")
_PROGRAMS = frozenset(
    {
        "apt-get",
        "chronyc",
        "df",
        "ip",
        "nc",
        "pool",
        "poolmember",
        "systemctl",
        "timedatectl",
        "virsh",
    }
)
# Complete commands, so that nothing can hide behind a known beginning.
_HARMLESS = re.compile(
    r"virsh (dumpxml --inactive|net-dumpxml|pool-dumpxml) ([\w.-]+) > \2\.xml"
    r"|virsh (net-|pool-)?list --all"
    r"|virsh domjobinfo [\w.-]+"
    r"|ip -brief address"
    r"|df -h [\w./-]+"
)
_WIDTH = 96


def remedy_script(findings: Iterable[Finding]) -> str:
    """A POSIX shell script for the joining host that explains each finding and what to do.

    It never overwrites a file and stops at the first command that fails, so that a definition that
    could not be saved is not removed either.
    """
    found = list(findings)
    blocking = sum(finding.blocks for finding in found)
    lines = [
        "#!/bin/sh",
        *_comment(
            "What was found on the host that is to join the pool, and how to put it right: "
            f"{len(found)} findings, {blocking} of which stop the join."
        ),
        *_comment(
            "To be run on that host, as root. As it is, this script only looks and saves. Review "
            "the lines that begin with “#>”: take these two characters away where you agree."
        ),
        "set -euC",
    ]
    for number, finding in enumerate(found, start=1):
        lines += ["", *_section(number, finding)]
    return "\n".join(lines) + "\n"


def _section(number: int, finding: Finding) -> Iterator[str]:
    weight = "overridden" if finding.overridden else str(finding.severity)
    if finding.forceable and not finding.overridden and finding.severity is Severity.ERROR:
        weight += ", --force overrides it"
    yield from _comment(f"{number}. {finding.code} ({weight}): {finding.subject}")
    yield from _comment(f"Expected: {finding.expected}. Found: {finding.actual}.", indent="   ")
    yield from _comment(finding.explanation, indent="   ")
    yield from _comment(finding.remedy.replace("`", ""), indent="   ")
    for command in _COMMAND.findall(finding.remedy):
        program, _, arguments = command.partition(" ")
        if program in _PROGRAMS and arguments and command.isprintable():
            yield command if _HARMLESS.fullmatch(command) else f"#> {command}"


def _comment(text: str, *, indent: str = "") -> Iterator[str]:
    # Whatever a host may have put into a name, it stays in the comment.
    plain = "".join(c if c.isprintable() else " " for c in text)
    for line in textwrap.wrap(plain, _WIDTH - len(indent)):
        yield f"# {indent}{line}"
