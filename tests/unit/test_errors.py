"""The catalog of errors: total, truthful, and what its document says."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from poolcore.errors import CATALOG, PoolError, Reason, placeholders

ROOT = Path(__file__).parents[2]
PACKAGES = ("poolcore", "poolmaster", "poolmember", "poolclient", "cli/poolcli")


def raises() -> Iterator[tuple[str, Reason, frozenset[str]]]:
    """Every `PoolError(Reason.X, a=…)` in the product: where, the reason, the parameters given."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "PoolError"):
                    continue
                reason = node.args[0] if node.args else None
                names = frozenset(k.arg for k in node.keywords if k.arg) - {"findings"}
                spread = any(k.arg is None for k in node.keywords)
                if isinstance(reason, ast.Attribute) and not spread:
                    where = f"{path.relative_to(ROOT)}:{node.lineno}"
                    yield where, Reason[reason.attr], names


def needed(reason: Reason) -> frozenset[str]:
    entry = CATALOG[reason]
    return placeholders(entry.summary) | placeholders(entry.remedy)


def test_every_reason_has_an_entry() -> None:
    assert set(CATALOG) == set(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_every_entry_travels_under_a_status_and_says_what_to_do(reason: Reason) -> None:
    entry = CATALOG[reason]
    assert grpc.StatusCode[entry.status] is not grpc.StatusCode.OK
    assert entry.summary.endswith((".", "}"))
    assert entry.remedy.endswith((".", "}"))


def test_every_error_is_raised_with_what_its_sentences_need() -> None:
    lacking = [
        f"{where}: {reason} lacks {sorted(missing)}"
        for where, reason, given in raises()
        if (missing := needed(reason) - given)
    ]
    assert lacking == []


def test_an_error_without_a_parameter_is_still_a_sentence() -> None:
    error = PoolError(Reason.HOST_OFFLINE)
    assert error.message == "<host> is not connected to the master."


def test_the_document_is_what_the_catalog_says() -> None:
    script = ROOT / "scripts" / "errors_doc.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
