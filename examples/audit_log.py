"""Append every change of the pool to a file, each exactly once, across restarts.

    python examples/audit_log.py 10.0.0.1 changes.jsonl

The last line says where to go on. A pool that no longer keeps what comes next says so
(`HistoryGone`): then the log has a gap, and a line that tells.
"""

import json
import sys
from pathlib import Path
from typing import TextIO

from poolclient import BlockingPoolClient, Cursor, HistoryGone
from poolcore.replica import Put


def position(log: Path) -> Cursor | None:
    """Behind the last line of the log; none for a log that has not begun."""
    lines = log.read_text().splitlines() if log.exists() else []
    if not lines:
        return None
    last = json.loads(lines[-1])
    return Cursor(last["incarnation"], last["revision"])


def append(pool: BlockingPoolClient, since: Cursor | None, stream: TextIO, enough: int) -> None:
    """Append a line for each event until there are `enough`; 0 is never."""
    for event in pool.events(since=since):
        changes = [
            f"put {c.object.KIND} {c.object.uuid}"
            if isinstance(c, Put)
            else f"remove {c.kind} {c.uuid}"
            for c in event.changes
        ]
        at = {"incarnation": event.incarnation, "revision": event.revision}
        print(json.dumps({**at, "changes": changes}), file=stream, flush=True)
        enough -= 1
        if enough == 0:
            return


def main(address: str, file: str, enough: str = "0") -> None:
    """Go on with the log in `file`; end after `enough` events."""
    since = position(Path(file))
    with BlockingPoolClient.connect(address) as pool, Path(file).open("a") as stream:
        try:
            append(pool, since, stream, int(enough))
        except HistoryGone:
            present = pool.hosts.list().freshness
            gap = {"incarnation": present.incarnation, "revision": present.revision, "gap": True}
            print(json.dumps(gap), file=stream)


if __name__ == "__main__":
    main(*sys.argv[1:])
