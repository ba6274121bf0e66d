"""What a host says of its search for the master stays short, however long the search lasts."""

from poolcore.errors import PoolError, Reason
from poolmember.search import Search


def test_before_anybody_was_asked() -> None:
    assert Search().summary() == "it has not been found yet"


def test_hosts_that_ask_each_other_do_not_tell_ever_longer_stories() -> None:
    searches = {"ignite": Search(), "specter": Search()}
    lengths = []
    for _ in range(20):
        for name, other in (("ignite", "specter"), ("specter", "ignite")):
            problem = searches[other].summary()
            error = PoolError(Reason.NO_MASTER, host=other, problem=problem)
            searches[name].in_vain(f"{other}:7443", error)
        lengths.append(max(len(search.summary()) for search in searches.values()))
    assert lengths == lengths[:1] * 20


def test_the_newest_word_on_each_host_is_said_and_no_more_than_a_few_hosts() -> None:
    search = Search()
    for number in range(1, 6):
        endpoint = f"192.0.2.{number}:7443"
        search.in_vain(endpoint, PoolError(Reason.NO_HOST_ANSWERS, addresses=endpoint))
    silent = PoolError(Reason.NO_MASTER, host="this host", problem="silent for 3 s")
    search.in_vain("192.0.2.1:7443", silent)
    assert search.summary() == (
        "192.0.2.4:7443: no answer; 192.0.2.5:7443: no answer; "
        "192.0.2.1:7443: silent for 3 s and 2 more hosts"
    )
