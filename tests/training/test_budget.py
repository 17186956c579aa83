from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from medseg.training.budget import Line, Pace, SharedPace, ends_of_next


class World:
    """A clock that only steps, looks and validation move; what each takes may depend on when it happens."""

    def __init__(self, step_s: Callable[[float], float]) -> None:
        self.now, self.step_s = 0.0, step_s

    def clock(self) -> float:
        return self.now

    def train(
        self,
        pace: Pace,
        first: int = 0,
        until: float = float("inf"),
        looks: tuple[float, ...] = (),
        look_s: float = 0.0,
    ) -> tuple[int, list[float]]:
        """Steps until the schedule is used up, or the time comes; the last one, and the share before each."""
        step, shares, todo = first, [], list(looks)
        while (share := pace.share(step)) < 1.0 and self.now < until:
            shares.append(share)
            self.now += self.step_s(self.now)
            step += 1
            pace.done(step)
            while todo and pace.share(step) >= todo[0]:
                todo.pop(0)
                self.now += look_s
                pace.pause()
        return step, shares


def rises_smoothly(shares: list[float], most: float) -> bool:
    return all(0 <= b - a <= most for a, b in itertools.pairwise(shares))


def test_a_line_runs_straight_to_its_end() -> None:
    line = Line(10, 0.5, 20)
    assert [line.at(n) for n in (10, 15, 20, 25)] == [0.5, 0.75, 1.0, 1.0]
    assert Line(10, 0.5, 10).at(10) == 1.0


@pytest.mark.parametrize("budget_s", [60.0, 180.0, 1800.0])
@pytest.mark.parametrize("step_s", [0.05, 0.7])
def test_an_even_machine(budget_s: float, step_s: float) -> None:
    world = World(lambda _: step_s)
    pace = Pace(world.clock, budget_s, lambda _: 5.0)
    step, shares = world.train(pace)
    assert world.now + 5.0 == pytest.approx(budget_s, abs=0.015 * budget_s)
    assert step == pytest.approx((budget_s - 5.0) / step_s, rel=0.03)
    assert rises_smoothly(shares, 1.5 * step_s / (budget_s - 5.0))
    assert shares[-1] > 0.95
    assert pace.total == step


def test_the_first_steps_take_long() -> None:
    world = World(lambda now: 8.0 if now < 16 else 0.1)
    pace = Pace(world.clock, 180.0, lambda _: 10.0)
    step, shares = world.train(pace)
    assert world.now + 10 == pytest.approx(180, abs=2)
    assert step == pytest.approx(1540, rel=0.05)
    assert shares[-1] > 0.95


@pytest.mark.parametrize("factor", [0.2, 0.5, 2.0, 6.0])
@pytest.mark.parametrize("when", [0.1, 0.5, 0.9])
def test_the_machine_changes_its_speed(factor: float, when: float) -> None:
    world = World(lambda now: 0.2 if now < when * 180 else 0.2 * factor)
    pace = Pace(world.clock, 180.0, lambda _: 10.0)
    _, shares = world.train(pace)
    assert world.now + 10 == pytest.approx(180, abs=0.05 * 180)
    assert rises_smoothly(shares, 0.1)


def test_steps_that_vary() -> None:
    world = World(lambda now: 0.1 + 0.4 * ((now * 7919.0) % 1.0) ** 4)
    _, shares = world.train(Pace(world.clock, 120.0, lambda _: 0.0))
    assert world.now == pytest.approx(120, abs=3)
    assert shares[-1] > 0.95


def test_a_few_slow_steps_are_all_that_fits() -> None:
    world = World(lambda _: 20.0)
    step, _ = world.train(Pace(world.clock, 180.0, lambda _: 8.0))
    assert step in (8, 9)
    assert abs(world.now + 8 - 180) <= 12


def test_looks_and_a_validation_that_takes_longer_than_foreseen() -> None:
    world = World(lambda _: 0.1)
    looks, look_s, known = tuple(k / 8 for k in range(1, 8)), 2.0, {"look": 0.5, "end": 5.0}

    def foreseen(share: float) -> float:
        return known["end"] + known["look"] * sum(at > share for at in looks)

    pace = Pace(world.clock, 180.0, foreseen)
    first, _ = world.train(pace, until=60.0, looks=looks, look_s=look_s)
    known |= {"look": 2.0, "end": 20.0}
    step, shares = world.train(pace, first, looks=tuple(at for at in looks if at > pace.share(first)), look_s=look_s)
    assert world.now + 20 == pytest.approx(180, abs=9)
    assert step < 1600
    assert shares[-1] > 0.95


def test_after_an_interruption_the_fitted_schedule_goes_on() -> None:
    world = World(lambda _: 0.1)
    pace = Pace(world.clock, 120.0, lambda _: 4.0)
    step, _ = world.train(pace, until=50.0)
    share, total = pace.share(step), pace.total
    assert total is not None
    world.now += 1000.0  # while nothing runs; the checkpoint is as it was
    again = Pace(world.clock, world.now + 70.0, lambda _: 4.0, step, share, total)
    assert again.share(step) == share
    assert again.total == total
    ended, shares = world.train(again, step)
    assert world.now - 1000 + 4 == pytest.approx(120, abs=2)
    assert ended == pytest.approx(total, rel=0.03)
    assert shares[-1] > 0.95


def test_a_slower_machine_after_an_interruption() -> None:
    world = World(lambda _: 0.4)
    pace = Pace(world.clock, 60.0, lambda _: 4.0, 300, 0.5, 600)
    step, shares = world.train(pace, 300)
    assert world.now + 4 == pytest.approx(60, abs=3)
    assert step == pytest.approx(300 + 56 / 0.4, rel=0.03)
    assert shares[0] == 0.5
    assert rises_smoothly(shares, 0.02)


def test_a_step_that_is_held_up_does_not_use_up_the_schedule() -> None:
    held_up = iter([40.0])
    world = World(lambda now: next(held_up, 0.1) if now >= 60 else 0.1)
    _, shares = world.train(Pace(world.clock, 180.0, lambda _: 0.0))
    assert world.now == pytest.approx(180, abs=2)
    assert rises_smoothly(shares, 1.5 * (1 - 60 / 180) / (80 / 0.1))
    assert shares[-1] > 0.99


def test_time_that_is_up_ends_it_at_once() -> None:
    world = World(lambda _: 1.0)
    assert Pace(world.clock, -5.0, lambda _: 0.0).share(0) == 1.0
    assert Pace(world.clock, 5.0, lambda _: 10.0).share(0) == 1.0
    assert Pace(world.clock, 5.0, lambda _: 10.0, 3, 0.4, 9).share(3) == 1.0


def test_fitting_is_told_only_where_something_changes() -> None:
    world = World(lambda now: 0.1 if now < 100 else 0.3)
    pace = Pace(world.clock, 200.0, lambda _: 0.0)
    fitted: list[tuple[float, int]] = []
    step = 0
    while pace.share(step) < 1.0:
        world.now += world.step_s(world.now)
        step += 1
        if line := pace.done(step):
            fitted.append((world.now, line.total))
    assert fitted[0][0] < 4
    assert fitted[0][1] == pytest.approx(2000, rel=0.02)
    assert all(now > 100 for now, _ in fitted[1:])
    assert 1 < len(fitted) < 60
    assert fitted[-1][1] == pytest.approx(1000 + 333, rel=0.03)


def test_folds_share_what_is_left() -> None:
    assert ends_of_next(10.0, 100.0, [30.0, 30.0, 30.0]) == 40.0
    assert ends_of_next(50.0, 100.0, [30.0, 30.0]) == 75.0  # the first took too long
    assert ends_of_next(0.0, 100.0, [10.0, 30.0]) == 25.0  # the first was begun before
    assert ends_of_next(5.0, 5.0, [0.0]) == 5.0


def test_all_ranks_go_by_the_first_ones_schedule() -> None:
    world = World(lambda now: 0.05 if now < 30 else 0.2)
    pace = Pace(world.clock, 60.0, lambda _: 0.0)
    told: list[float] = []
    first = SharedPace(pace, lambda value: told.append(value) or value)  # type: ignore[func-returns-value]
    heard = iter(told)
    other = SharedPace(None, lambda _: next(heard))
    shares: list[float] = []
    step = 0
    while (share := first(step)) < 1.0:
        assert other(step) == share
        assert first(step) == other(step) == share  # asked again
        shares.append(share)
        world.now += world.step_s(world.now)
        step += 1
        pace.done(step)
    assert other(step) >= 1.0
    assert next(heard, None) is None
    assert world.now == pytest.approx(60, abs=3)
    assert shares[-1] > 0.9
    assert rises_smoothly(shares, 0.05)
    assert len(told) < 3 * len(shares) / 3  # not at every step, once their number is known
