"""Steps chosen from minutes: by the speed of the first steps, once, and the same after a resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vqwave.errors import UserInputError
from vqwave.training.command_line import with_minutes
from vqwave.training.pace import ENDLESS, FILE, MARKS, SHARE, Pace
from vqwave.training.settings import OptimSpec, TrainSpec


def run(pace: Pace, seconds: float, steps: int) -> list[tuple[int, str]]:
    """Steps of `seconds` each -> (step, line) where a line is printed."""
    lines = ((step, pace.after(step, step, step * seconds)) for step in range(1, steps + 1))
    return [(step, line) for step, line in lines if line is not None]


def test_steps_fit_into_the_minutes(tmp_path: Path) -> None:
    pace = Pace(TrainSpec(minutes=10.0))
    pace.resume(tmp_path)
    assert pace.steps == ENDLESS
    ((step, line),) = run(pace, 0.5, 100)
    assert step == MARKS[0]  # five seconds were measured by then
    assert pace.steps == round(SHARE * 600 / 0.5)
    assert line == f"estimate: {pace.steps - step:,} steps of 0.5 s, 9.9 min"


def test_what_comes_before_the_first_step_is_of_the_minutes(tmp_path: Path) -> None:
    """After a resume, too; half of them are left for steps in any case."""
    pace = Pace(TrainSpec(minutes=10.0))
    pace.spend(180.0)
    pace.resume(tmp_path)
    run(pace, 0.5, 50)
    assert pace.steps == round(SHARE * 420 / 0.5)
    for minutes, left in ((10.0, 7.0), (20.0, 17.0), (4.0, 2.0)):
        again = Pace(TrainSpec(minutes=minutes))
        again.resume(tmp_path)
        assert again.steps == round(SHARE * 60 * left / 0.5)


def test_quick_steps_are_measured_longer(tmp_path: Path) -> None:
    pace = Pace(TrainSpec(minutes=1.0))
    pace.resume(tmp_path)
    assert [step for step, _ in run(pace, 0.001, 200)] == [MARKS[-1]]
    assert pace.steps == round(SHARE * 60 / 0.001)


def test_a_resumed_run_has_the_steps_it_began_with(tmp_path: Path) -> None:
    begun = Pace(TrainSpec(minutes=10.0))
    begun.resume(tmp_path)
    run(begun, 0.5, 50)
    again = Pace(TrainSpec(minutes=10.0))
    again.resume(tmp_path)
    assert again.steps == begun.steps
    run(again, 5.0, 50)  # on a slower machine
    assert again.steps == begun.steps
    longer = Pace(TrainSpec(minutes=20.0))
    longer.resume(tmp_path)
    assert longer.steps == 2 * begun.steps


def test_given_steps_are_kept_and_estimated(tmp_path: Path) -> None:
    pace = Pace(TrainSpec(steps=1000))
    pace.resume(tmp_path)
    assert [line for _, line in run(pace, 0.6, 50)] == ["estimate: 988 steps of 0.6 s, 11.0 min"]
    assert pace.steps == 1000
    assert not (tmp_path / FILE).exists()
    short = Pace(TrainSpec(steps=20))
    short.resume(tmp_path)
    assert run(short, 0.1, 20) == []  # known with the last step alone


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"steps_per_minute": -1}))
    with pytest.raises(UserInputError, match=FILE):
        Pace(TrainSpec(minutes=1.0)).resume(tmp_path)


def test_the_schedule_does_not_depend_on_steps_before_they_are_known() -> None:
    optim = OptimSpec(warmup=MARKS[-1])
    begun = [optim.lr_at(step, ENDLESS) for step in range(MARKS[-1])]
    assert begun == [optim.lr_at(step, 1000) for step in range(MARKS[-1])]


def test_the_flag_is_a_setting() -> None:
    assert with_minutes(["--config", "own", "--minutes", "3"])[2:] == ["--train.minutes", "3"]
