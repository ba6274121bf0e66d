"""What holds for every test: no influence from the developer's own pools, repeatable examples."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Time limits per example fail on busy machines and say nothing about the property. In CI a red
# run must be red again when repeated.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session", autouse=True)
def _no_configuration_from_outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide the environment and the contexts that would lead a test to somebody's real pool."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("POOL_", "POOLMEMBER_")):
                patch.delenv(name)
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield
