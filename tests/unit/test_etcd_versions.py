"""Releases of etcd that are known to lose data are not used."""

import pytest

from poolmaster.store.etcd.versions import refusal


@pytest.mark.parametrize("version", ["3.4.22", "3.4.23", "3.5.6", "3.5.30", "3.6.0", "3.6.0-rc.2"])
def test_good_releases_are_taken(version: str) -> None:
    assert refusal(version) is None


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("3.3.25", "too old"),
        ("3.4.21", "too old"),
        ("2.3.8", "too old"),
        ("3.5.0", "lose data"),
        ("3.5.5", "lose data"),
        ("", "no version"),
        ("latest", "no version"),
    ],
)
def test_bad_releases_are_refused(version: str, says: str) -> None:
    assert says in (refusal(version) or "")
