"""A program that lets no commit to SQLite files end for a while, again and again.

    python disk_staller.py HELD_SECONDS BETWEEN_SECONDS FILE…

Holds the write lock of each file by itself, until its standard input ends. A process of its own: in
one that has other things to do, garbage to collect above all, a lock could be held for seconds.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
from contextlib import closing


def _stall(file: str, over: threading.Event, *, held: float, between: float) -> None:
    with closing(sqlite3.connect(file, isolation_level=None, timeout=60.0)) as connection:
        while not over.wait(between):
            connection.execute("BEGIN IMMEDIATE")
            over.wait(held)
            connection.execute("ROLLBACK")


def _main(held: float, between: float, files: list[str]) -> None:
    over = threading.Event()
    threads = [
        threading.Thread(target=_stall, args=(f, over), kwargs={"held": held, "between": between})
        for f in files
    ]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    _main(float(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
