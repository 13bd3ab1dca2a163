"""Settings that no memory can hold are refused before anything is made."""

from __future__ import annotations

import pytest

from vqwave.config import parse
from vqwave.errors import UserInputError
from vqwave.training.experiment_files import load_experiment
from vqwave.training.settings import DataSpec, ExperimentSpec


@pytest.mark.parametrize("name", ["clip_seconds", "valid_clip_seconds"])
@pytest.mark.parametrize("value", ["1e300", "3601", "0", "nan", "inf"])
def test_a_clip_has_seconds(name: str, value: str) -> None:
    with pytest.raises(UserInputError, match=rf"^{name}: "):
        parse(DataSpec, [f"{name}={value}"])


@pytest.mark.parametrize("name", ["batch", "valid_clips", "workers"])
@pytest.mark.parametrize("value", ["1000000000000", "-1", "1e300"])
def test_counts_of_clips_are_bounded(name: str, value: str) -> None:
    with pytest.raises(UserInputError, match=rf"^{name}: "):
        parse(DataSpec, [f"{name}={value}"])


@pytest.mark.parametrize("experiment", ["flow", "prior", "wavenet"])
def test_a_sample_has_seconds(experiment: str) -> None:
    config = load_experiment(experiment).config_class
    with pytest.raises(UserInputError, match=r"^sample_seconds: "):
        parse(config, ["sample_seconds=1e300"])


@pytest.mark.parametrize("name", ["steps", "minutes", "dist_timeout_minutes", "threads"])
@pytest.mark.parametrize("value", ["1000000000001", "-1", "1e300", "inf", "nan"])
def test_a_training_ends(name: str, value: str) -> None:
    with pytest.raises(UserInputError, match=rf"^train.{name}: "):
        parse(ExperimentSpec, [f"train.{name}={value}"])


def test_a_batch_is_shared_and_has_bounds() -> None:
    DataSpec(batch=8).check_batch(4)
    with pytest.raises(UserInputError, match=r"^data.batch: 8, expected a multiple of 3 "):
        DataSpec(batch=8).check_batch(3)
    with pytest.raises(UserInputError, match=r"^data.batch: 1000000 clips of 1 s, expected at"):
        DataSpec(batch=1_000_000, clip_seconds=1.0).check_batch(1)


@pytest.mark.parametrize("key", ["batch", "clip_seconds"])
def test_a_line_shows_a_long_value_in_part(key: str) -> None:
    with pytest.raises(UserInputError) as error:
        parse(DataSpec, [f"{key}={'9' * 100_000}"])
    assert len(str(error.value)) < 300
