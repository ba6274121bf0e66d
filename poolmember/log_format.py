"""Log events as single lines on stderr: text for people, JSON for machines.

What `extra=` adds to an event becomes `key=value` behind the message, or a key of the JSON object.
Line breaks and other control characters are escaped, whoever they came from: an event is one line,
and nothing that a client sends can look like another.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from poolmember.config_values import LogFormat, LogLevel

_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _extra(record: logging.LogRecord) -> Mapping[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _OWN_ATTRIBUTES}


def _escaped(text: str) -> str:
    """The text in one line, printable: what is not is written as its Python escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _quoted(value: object) -> str:
    text = str(value)
    return (
        text if text and not any(c in ' "=' for c in text) else json.dumps(text, ensure_ascii=False)
    )


class TextFormatter(logging.Formatter):
    """`TIME LEVEL logger: message key=value`, times in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """The event in one line; a traceback follows the message, its line breaks escaped."""
        line = f"{_time(record)} {record.levelname:7} {record.name}: {record.getMessage()}"
        line += "".join(f" {key}={_quoted(value)}" for key, value in _extra(record).items())
        if record.exc_info:
            line += f" | {self.formatException(record.exc_info)}"
        if record.stack_info:
            line += f" | {self.formatStack(record.stack_info)}"
        return _escaped(line)


class JsonFormatter(logging.Formatter):
    """An object with `time`, `level`, `logger`, `message`, the extras, and `exception` if any."""

    def format(self, record: logging.LogRecord) -> str:
        """The event in one line."""
        event: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key, value in _extra(record).items():
            event.setdefault(key, value)
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            event["stack"] = self.formatStack(record.stack_info)
        return json.dumps(event, default=str)


def configure(log_format: LogFormat, level: LogLevel, stream: TextIO | None = None) -> None:
    """Send every event of at least `level` to `stream`, by default stderr; replaces what was set.

    Warnings of Python and its libraries become events, too.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.JSON else TextFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(True)
    # Its debug events tell of every call on the loop, none of the pool.
    logging.getLogger("asyncio").setLevel(max(logging.INFO, logging.getLogger().level))
