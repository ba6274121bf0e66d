"""The stories of `tests/sim/scenarios`: what a host decides at each moment of an election.

Their language is told in `support.leadership_scenarios`. With `REWRITE=1` in the environment the
decisions in the files become those of today; read the difference before you commit it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.leadership_scenarios import BadStory, told

STORIES = sorted((Path(__file__).parents[1] / "sim" / "scenarios").glob("*.txt"))
REWRITE = os.environ.get("REWRITE") == "1"


def test_there_are_stories_and_each_says_first_what_it_tells() -> None:
    assert STORIES
    for story in STORIES:
        assert story.read_text().startswith("# "), story.name


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_a_host_decides_as_the_story_tells(path: Path) -> None:
    story = path.read_text()
    today = told(story)
    if REWRITE and story != today:
        path.write_text(today)
    else:
        assert today == story


@pytest.mark.parametrize(
    "line",
    [
        "rumour",
        "0.0 rumour",
        "0.0 answers specter",
        "0.0 answers specter perhaps",
        "0.0 answers specter deaf 10",
        "0.0 answers specter deaf weight=10",
        "0.0 alive perhaps",
        "0.0 time flies",
        "timings suspicion_seconds=1",
        "1.0 heard\n0.5 heard",
    ],
)
def test_a_line_that_is_not_of_the_language_is_named(line: str) -> None:
    with pytest.raises(BadStory, match=r"^line \d: "):
        told(line)


def test_decisions_that_were_there_do_not_matter() -> None:
    once = told("hosts 3\n0.0 heard\n")
    assert once == "hosts 3\n0.0 heard\n  -> wait until 0.5: the master is heard\n"
    assert told(once) == once
    assert told(once.replace("0.5", "7")) == once
