"""Stories about one host that looks for a master, and what it decides at each moment of them.

A story is a text. What is indented with an arrow is the decision of
`poolmaster.decide.leadership.next_action`, in full; everything else is what it is decided on.

    # Comments and empty lines stay as they are.
    this ignite revision=10              the host whose decisions these are
    hosts 3
    timings suspect_seconds=0.5          as in FailoverTimings; others keep their defaults

    0.0  heard
      -> wait until 0.5: the master is heard
    0.5  time passes
      -> ask: the master is silent
    0.6  answers specter deaf revision=10 priority=100 store=yes
         answers umbra hears
         alive gone
      -> claim: 2 of 3 hosts do not hear the master

A line that begins with a number begins a moment: seconds on the host's own monotonic clock, and the
first fact of that moment; further facts of the same moment follow on indented lines. What stands
before the first moment holds from the beginning. The facts:

    heard                      the master is heard: there is no round of asking any more
    session-lost               the session with the master has ended
    time passes                nothing has happened
    answers HOST deaf|hears|hears=TERM|leads [revision=N] [priority=N] [store=yes|no]
            [maintenance=yes|no]
                               in the round of asking that ends at this moment; with a term, what
                               it says depends on which term it is asked about; who leads is whom
                               the register names
    nobody answers             a round ends at this moment without any answer
    alive there|gone|unknown   the key in the store, as the rounds from now on find it
    register names HOST|us     HOST has taken over and is looked for from now on; us: this host
    claim-lost                 this host's claim came too late: one more change in vain
    this HOST [revision=N] …   how this host stands itself, as in an answer
    term N                     which term it asks the others about
    hosts N, in-vain N, jitter X, timings NAME=SECONDS …   as in Facts and FailoverTimings

Whether this host hears its master follows from `heard` and `session-lost`, as in the daemon.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from poolcore.facts import Standing
from poolcore.model import FailoverTimings, HostId
from poolmaster.decide.leadership import Action, Ask, Claim, Facts, Round, Wait, next_action

ARROW = "  -> "
_YES_NO = {"yes": True, "no": False}


class BadStory(ValueError):
    """A line that is not of the language; names its number."""


def told(story: str) -> str:
    """The story with the decisions as they are today in place of those that it had."""
    host = _Host()
    lines: list[str] = []
    for number, line, ends_a_moment in _facts(story):
        lines.append(line)
        try:
            host.learn(line)
        except (ValueError, KeyError, TypeError) as error:
            raise BadStory(f"line {number}: {line.strip()!r}: {error}") from error
        if ends_a_moment:
            lines.append(ARROW + _shown(host.decide()))
    return "\n".join(lines) + "\n"


def _facts(story: str) -> Iterator[tuple[int, str, bool]]:
    """Every line but the decisions, with its number and whether a moment ends with it."""
    lines = [
        (number, line.rstrip())
        for number, line in enumerate(story.splitlines(), start=1)
        if not line.startswith(ARROW)
    ]
    within = False
    for index, (number, line) in enumerate(lines):
        within = _begins_a_moment(line) or (within and line.startswith(" "))
        following = lines[index + 1][1] if index + 1 < len(lines) else ""
        yield number, line, within and not following.startswith(" ")


def _begins_a_moment(line: str) -> bool:
    return line[:1].isdigit()


def _shown(action: Action) -> str:
    match action:
        case Wait(until, why):
            return f"wait until {_seconds(until)}: {why}"
        case Ask(why):
            return f"ask: {why}"
        case Claim(why):
            return f"claim: {why}"


def _seconds(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


@dataclass
class _Host:
    """What the host knows by now."""

    facts: Facts = field(default_factory=lambda: Facts(now=0.0, hosts=1, heard_at=0.0, lost=False))
    timings: FailoverTimings = field(default_factory=FailoverTimings)
    name: str = "us"
    term: int = 1
    stands: dict[str, str] = field(default_factory=dict)
    alive: bool | None = True
    answers: list[Standing] | None = None
    """Of the round that ends at this moment; none when none does."""
    master_answers: bool = False

    def learn(self, line: str) -> None:
        """Take in what a line of the story says."""
        words = shlex.split(line, comments=True)
        if _begins_a_moment(line):
            now = float(words.pop(0))
            if now < self.facts.now:
                raise ValueError("time does not go back")
            self.facts = replace(self.facts, now=now)
        if words:
            learners: dict[str, Callable[..., None]] = {
                "heard": self._heard,
                "session-lost": self._session_lost,
                "time": self._time,
                "answers": self._answers,
                "nobody": self._nobody,
                "alive": self._alive,
                "register": self._register,
                "claim-lost": self._claim_lost,
                "this": self._this,
                "term": self._term,
                "hosts": self._hosts,
                "in-vain": self._in_vain,
                "jitter": self._jitter,
                "timings": self._timings,
            }
            learners[words[0]](*words[1:])

    def decide(self) -> Action:
        """What the host does at this moment."""
        if self.answers is not None:
            round_ = Round(
                ended_at=self.facts.now,
                own=_standing(self.name, self.stands, hears=self._hears()),
                answers=tuple(self.answers),
                master_answers=self.master_answers,
                alive=self.alive,
            )
            self.facts, self.answers = replace(self.facts, round=round_), None
            self.master_answers = False
        return next_action(self.facts, self.timings)

    def _hears(self) -> bool:
        silent_for = self.facts.now - self.facts.heard_at
        return not self.facts.lost and silent_for < self.timings.suspect_seconds

    # -- the facts --------------------------------------------------------------------------------

    def _heard(self) -> None:
        self.facts = replace(self.facts, heard_at=self.facts.now, lost=False, round=None)

    def _session_lost(self) -> None:
        self.facts = replace(self.facts, lost=True)

    def _time(self, passes: str) -> None:
        _expect(passes, "passes")

    def _answers(self, name: str, hearing: str, *stands: str) -> None:
        word, _, term = hearing.partition("=")
        heard = not term or int(term) >= self.term
        hears = {"deaf": False, "hears": heard, "leads": True}[word]
        self.master_answers |= word == "leads"
        standing = _standing(name, _pairs(stands), hears=hears)
        self.answers = [*(self.answers or ()), standing]

    def _nobody(self, answers: str) -> None:
        _expect(answers, "answers")
        self.answers = []

    def _alive(self, how: str) -> None:
        self.alive = {"there": True, "gone": False, "unknown": None}[how]

    def _register(self, names: str, host: str) -> None:
        _expect(names, "names")
        if host == "us":
            self.facts = replace(self.facts, ours=True)
        else:
            self.facts = replace(self.facts, heard_at=self.facts.now, lost=False, ours=False)

    def _claim_lost(self) -> None:
        in_vain = self.facts.in_vain + 1
        self._heard()
        self.facts = replace(self.facts, in_vain=in_vain)

    def _this(self, name: str, *stands: str) -> None:
        self.name = name
        self.stands |= _pairs(stands)

    def _term(self, number: str) -> None:
        self.term = int(number)

    def _hosts(self, number: str) -> None:
        self.facts = replace(self.facts, hosts=int(number))

    def _in_vain(self, number: str) -> None:
        self.facts = replace(self.facts, in_vain=int(number))

    def _jitter(self, number: str) -> None:
        self.facts = replace(self.facts, jitter=float(number))

    def _timings(self, *pairs: str) -> None:
        seconds = {name: float(value) for name, value in _pairs(pairs).items()}
        self.timings = replace(self.timings, **seconds)


def _expect(word: str, expected: str) -> None:
    if word != expected:
        raise ValueError(f"{word!r} where {expected!r} belongs")


def _pairs(words: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is no NAME=VALUE")
        pairs[name] = value
    return pairs


def _standing(name: str, stands: dict[str, str], *, hears: bool) -> Standing:
    """A host as it stands.

    Revision 1, priority 100, with the store and not in maintenance unless it says otherwise.
    """
    unknown = stands.keys() - {"revision", "priority", "store", "maintenance"}
    if unknown:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
    return Standing(
        host=HostId(name),
        revision=int(stands.get("revision", "1")),
        priority=int(stands.get("priority", "100")),
        hears_master=hears,
        reaches_store=_YES_NO[stands.get("store", "yes")],
        in_maintenance=_YES_NO[stands.get("maintenance", "no")],
    )
