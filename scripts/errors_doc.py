"""Write docs/errors.md from the error catalog, or check with --check that it is up to date."""

import argparse
import sys
from pathlib import Path

from poolcore.errors import CATALOG, Exit, Reason

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "errors.md"

INTRODUCTION = """\
# Errors

Generated from `poolcore/errors.py` by `scripts/errors_doc.py`; do not edit.

Everything that is refused or fails has a *reason*. On the wire it travels as `google.rpc.ErrorInfo`
(domain `poolmanager`) under the gRPC status below; `pool -o json` prints it as `error.code`. Branch
on the reason, never on text. *XAPI* marks reasons whose names are XAPI's. Words in braces are the
error's parameters. What preflight finds is listed in [preflight.md](preflight.md).
"""


def document() -> str:
    """The whole text."""
    codes = ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in Exit)
    lines = [INTRODUCTION, f"Exit codes of `pool`: {codes}.", ""]
    for reason in Reason:
        entry = CATALOG[reason]
        lines += [
            f"## {reason}",
            "",
            f"{entry.status} · exit {entry.exit.value} · {entry.origin}",
            "",
            f"> {entry.summary}",
            "",
            entry.remedy,
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the file is out of date")
    arguments = parser.parse_args()
    if not arguments.check:
        DOCUMENT.write_text(document(), encoding="utf-8")
    elif not DOCUMENT.exists() or DOCUMENT.read_text(encoding="utf-8") != document():
        sys.exit("docs/errors.md is out of date: run scripts/errors_doc.py")


if __name__ == "__main__":
    main()
