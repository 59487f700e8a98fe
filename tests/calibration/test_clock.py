"""How times are measured: interleaved rounds, quartiles, disturbed rounds left out, interrupts that lose nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ebmsim.calibration import clock
from ebmsim.calibration.clock import Measured, measure


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The pulse beats as told, and then quietly."""

    def told(*seconds: float) -> None:
        left: Iterator[float] = iter(seconds)
        monkeypatch.setattr(clock._Pulse, "beat", lambda self: next(left, 1.0))

    told()
    return told


def run(log: list[str], name: str, *seconds: float) -> Callable[[], dict[str, float]]:
    """Takes the seconds told one after another, the last again and again."""
    left = list(seconds)

    def one() -> dict[str, float]:
        log.append(name)
        return {"t": left.pop(0) if len(left) > 1 else left[0], "half": 0.5}

    return one


@pytest.mark.usefixtures("beats")
def test_rounds_go_through_all_runs() -> None:
    log: list[str] = []
    told: list[tuple[int, int]] = []
    found = measure([run(log, "a", 1.0), run(log, "b", 0.01)], "t", 3, 0.05, lambda *done: told.append(done))
    assert "".join(log) == "aaa" + "bbb" + 3 * ("a" + 5 * "b")
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert [m.seconds for m in found] == [{"t": 1.0, "half": 0.5}, {"t": 0.01, "half": 0.5}]
    assert [(m.rounds, m.disturbed, m.repeat_error) for m in found] == [(3, 0, 0.0)] * 2


@pytest.mark.usefixtures("beats")
def test_quartiles_spread_and_repeat_error() -> None:
    """Warm-ups do not count; rounds of 1, 2, 3, 4 and 5 s, of which the even ones are 1, 3 and 5 s."""
    (found,) = measure([run([], "a", 9, 9, 9, 1, 2, 3, 4, 5)], "t", 5)
    assert found.seconds["t"] == 2.0
    assert found.spread == {"t": pytest.approx(2 / 3), "half": 0.0}
    assert found.repeat_error == pytest.approx(2.5 / 2.0 - 1)  # lower quartiles of 2, 4 and of 1, 3, 5


def test_disturbed_rounds_are_left_out(beats: Callable[..., None]) -> None:
    """Two beats a round, before and after; the third and fourth rounds are slow."""
    beats(1, 1, 1.2, 1, 1, 1.3, 2, 1, 1, 1, 1, 1)
    (found,) = measure([run([], "a", 9, 9, 9, 1, 1, 7, 7, 1, 1)], "t", 6)
    assert (found.seconds["t"], found.rounds, found.disturbed) == (1.0, 4, 2)


def test_where_most_rounds_are_disturbed_all_count(beats: Callable[..., None]) -> None:
    beats(1, 1, 1, 1, *[1, 2] * 4)
    (found,) = measure([run([], "a", 9, 9, 9, 1, 2, 3, 4, 5, 6)], "t", 6)
    assert (found.rounds, found.disturbed) == (6, 4)
    assert found.seconds["t"] == 2.25


@pytest.mark.usefixtures("beats")
@pytest.mark.parametrize(("done", "lost"), [(2, True), (3, False)])
def test_an_interrupt_keeps_what_is_done(done: int, lost: bool) -> None:
    taken = [0]

    def interrupted() -> dict[str, float]:
        taken[0] += 1
        if taken[0] == 4 + done:
            raise KeyboardInterrupt
        return {"t": 1.0}

    def go() -> list[Measured]:
        return measure([interrupted], "t", 9)

    if lost:
        with pytest.raises(KeyboardInterrupt):
            go()
    else:
        assert go()[0].rounds == done


def test_the_pulse_beats() -> None:
    pulse = clock._Pulse()
    assert 0 < pulse.beat() < 1
