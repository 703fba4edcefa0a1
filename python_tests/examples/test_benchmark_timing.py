"""What the benchmark programs share: statistics of calls, how often and in which order they are made, the page."""

from common import timing
from common.timing import Timing, time_in_turn
from measuring import page
from measuring.results import cell


def test_statistics_of_calls():
    assert Timing.of([4.0, 1.0, 2.0, 3.0, 5.0]) == Timing(3.0, 2.0, 4.0, 5)
    assert Timing.of([7.0]) == Timing(7.0, 7.0, 7.0, 1)
    assert Timing.of([1.0, 2.0]).spread() == "1.25..1.75"


def recorded(order, name):
    return lambda: order.append(name)


def test_calls_are_taken_in_turn():
    """Every turn in the other order, after the warm-up."""
    order = []
    taken = time_in_turn({name: recorded(order, name) for name in "abc"}, 3, warmups=2)
    assert "".join(order) == "aabbcc" + "cba" + "abc" + "cba"
    assert [timing.calls for timing in taken.values()] == [3, 3, 3]


def test_a_burst_begins_with_a_call_that_is_not_timed(monkeypatch):
    monkeypatch.setattr(timing, "_BURST_SECONDS", 1e6)  # no call is too slow for a whole burst
    order = []
    taken = time_in_turn({name: recorded(order, name) for name in "ab"}, 2, warmups=1, burst=4)
    assert "".join(order) == "ab" + "bbbbb" + "aaaaa" + "aaaaa" + "bbbbb"
    assert [timing.calls for timing in taken.values()] == [8, 8]


def test_a_function_that_takes_too_long_is_timed_once():
    order = []
    taken = time_in_turn({"a": recorded(order, "a")}, 50, seconds=0.0)
    assert order == ["a", "a"] and taken["a"].calls == 1


def test_cells_and_escapes_of_the_page():
    assert [cell(value) for value in (None, True, 0.123456, 123456.7, 12, "x")] == [
        "-",
        "yes",
        "0.1235",
        "123457",
        "12",
        "x",
    ]
    made = page.table({"a": "<a>", "b": "b"}, [{"a": "<script>", "b": 1.5}])
    assert "<script>" not in made and "&lt;script&gt;" in made and "&lt;a&gt;" in made
    assert '<td class="text">&lt;script&gt;</td><td>1.5</td>' in made
