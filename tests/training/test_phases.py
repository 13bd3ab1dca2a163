"""What a step's time goes into: phases add up, the mean is a step's, a row takes what was since the
last one.
"""

from __future__ import annotations

import pytest
import torch

from vqwave.training.tracking import phases
from vqwave.training.tracking.phases import PHASES, Phases


def test_phases_are_means_of_steps_and_begin_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(phases.time, "perf_counter", lambda: now[0])
    watch = Phases(torch.device("cpu"))
    for data, forward in ((0.001, 0.010), (0.003, 0.020)):
        for phase, seconds in (
            ("data", data),
            ("forward", forward),
            ("backward", 0.005),
            ("optimizer", 0.001),
        ):
            with watch.of(phase):
                now[0] += seconds
        watch.steps += 1
        now[0] += 100.0  # between the phases: nobody's
    found = watch.taken()
    assert found == pytest.approx(
        {
            "time/data": 2.0,
            "time/forward": 15.0,
            "time/backward": 5.0,
            "time/optimizer": 1.0,
            "time/loader_share": 2 / 23,
        }
    )
    assert set(found) == {*(f"time/{phase}" for phase in PHASES), "time/loader_share"}
    assert not any(watch.taken().values())


def test_a_phase_within_a_step_may_come_several_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accumulation: two forward passes are one step's."""
    now = [0.0]
    monkeypatch.setattr(phases.time, "perf_counter", lambda: now[0])
    watch = Phases(torch.device("cpu"))
    for _ in range(2):
        with watch.of("forward"):
            now[0] += 0.004
    watch.steps += 1
    assert watch.taken()["time/forward"] == pytest.approx(8.0)
