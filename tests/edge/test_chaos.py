"""What `make chaos` takes hold of is there: its long run is not part of these tests."""

from __future__ import annotations

from pathlib import Path

from chaos import SAVING, die_within_a_save
from chaos_scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]


def test_a_save_calls_what_is_killed_within() -> None:
    assert all(callable(getattr(module, name)) for module, name in SAVING)
    assert callable(die_within_a_save(7))


def test_every_scenario_has_an_experiment_and_tiny_settings() -> None:
    for name in {scenario.experiment for scenario in SCENARIOS}:
        assert (ROOT / "experiments" / f"{name}.py").is_file()
        assert (ROOT / "configs" / name / "tiny.yaml").is_file()
