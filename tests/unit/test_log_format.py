import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest

from poolmember.config_values import LogFormat, LogLevel
from poolmember.log_format import configure

log = logging.getLogger("poolmember.test")


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Put the logging of the test run back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    asyncio_level = logging.getLogger("asyncio").level
    root.handlers = []
    yield
    logging.captureWarnings(False)
    root.handlers, root.level = handlers, level
    logging.getLogger("asyncio").setLevel(asyncio_level)


def configured(log_format: LogFormat, level: LogLevel = LogLevel.INFO) -> io.StringIO:
    stream = io.StringIO()
    configure(log_format, level, stream)
    return stream


def failing() -> None:
    try:
        raise ValueError("bad\nthing")
    except ValueError:
        log.exception("it failed")


def test_text_is_a_line_with_what_the_event_brings_along() -> None:
    stream = configured(LogFormat.TEXT)
    log.info("%s joined", "ignite", extra={"pool": "my pool", "revision": 7})
    (line,) = stream.getvalue().splitlines()
    time, rest = line.split(" ", 1)
    assert time.endswith("Z")
    assert rest == 'INFO    poolmember.test: ignite joined pool="my pool" revision=7'


def test_json_is_an_object_with_the_same() -> None:
    stream = configured(LogFormat.JSON)
    log.warning("%s left", "ignite", extra={"pool": "my pool", "revision": 7, "level": "mine"})
    event = json.loads(stream.getvalue())
    assert event.pop("time").endswith("Z")
    assert event == {
        "level": "warning",
        "logger": "poolmember.test",
        "message": "ignite left",
        "pool": "my pool",
        "revision": 7,
    }


@pytest.mark.parametrize("log_format", LogFormat)
def test_an_event_is_one_line_whoever_its_text_came_from(log_format: LogFormat) -> None:
    stream = configured(log_format)
    log.info("named %s", "x\nERROR forged\r\x1b[31m\u2028", extra={"by": "a\nb c"})
    failing()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert "Traceback" in lines[1]
    assert "bad" in lines[1]


def test_events_below_the_level_are_left_out() -> None:
    stream = configured(LogFormat.TEXT, LogLevel.WARNING)
    log.info("quiet")
    log.error("loud")
    assert len(stream.getvalue().splitlines()) == 1


def test_warnings_of_libraries_become_events() -> None:
    stream = configured(LogFormat.JSON)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert json.loads(stream.getvalue())["logger"] == "py.warnings"
