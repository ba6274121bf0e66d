"""The repository keeps its promises to those who package, configure and extend it."""

import re
import subprocess
import sys
import tomllib
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"poolcore", "poolclient", "poolmaster", "poolmember", "poolcli", "poolmanager"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The project's wheel, built with the build backend already in the environment."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_installs_exactly_our_packages(wheel: zipfile.ZipFile) -> None:
    installed = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name}
    assert installed == PACKAGES


def test_the_wheel_installs_both_commands(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    points = ConfigParser()
    points.read_string(wheel.read(name).decode())
    assert dict(points["console_scripts"]) == {
        "pool": "poolcli.main:main",
        "poolmember": "poolmember.main:main",
    }


@pytest.mark.parametrize("package", sorted(PACKAGES - {"poolmanager"} | {"poolmanager/v1"}))
def test_every_package_in_the_wheel_says_that_it_is_typed(
    wheel: zipfile.ZipFile, package: str
) -> None:
    assert f"{package}/py.typed" in wheel.namelist()


@pytest.mark.parametrize("folder", ["cli", "proto", "tests", "examples"])
def test_a_folder_that_only_groups_packages_is_no_package(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_the_packaged_configuration_changes_nothing_and_shows_valid_toml() -> None:
    text = (ROOT / "packaging" / "config.toml").read_text()
    assert tomllib.loads(text) == {}
    examples = re.findall(r"^# (\w+ = .+)$", text, flags=re.MULTILINE)
    keys = {key for example in examples for key in tomllib.loads(example)}
    assert keys == {
        "name",
        "listen",
        "advertise",
        "state_dir",
        "driver",
        "store",
        "witness",
        "voter",
        "insecure",
        "log_format",
        "log_level",
        "builtin_srs",
        "history_revisions",
        "hooks_dir",
        "hook_seconds",
    }
