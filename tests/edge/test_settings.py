"""Settings that no memory can hold are refused before anything is made."""

from __future__ import annotations

import pytest

from vqwave.config import parse
from vqwave.errors import UserInputError
from vqwave.training.experiment_files import load_experiment
from vqwave.training.settings import DataSpec


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
