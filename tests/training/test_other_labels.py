"""Labels of somebody else: always of somebody with training recordings, never one's own where there
is another.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vqwave import audio
from vqwave.data import prepare
from vqwave.data.segments import collate, read_crop
from vqwave.metrics import likelihood
from vqwave.models import WaveNetSpec
from vqwave.nn.wavenet import StackSpec
from vqwave.training.experiment import Evaluation, Experiment, StepOutput
from vqwave.training.settings import DataSpec, ExperimentSpec

GENDER = {"a": "F", "b": "M", "c": "F", "d": "M"}


class Labelled(Experiment[ExperimentSpec, Any]):
    name = "labelled"
    config_class = ExperimentSpec
    hop = 1
    model_spec = None

    def build(self) -> torch.nn.Module:
        return torch.nn.Linear(1, 1)

    def losses(self, batch: object) -> StepOutput:
        return StepOutput({})

    def evaluate(self, model: object) -> Evaluation:
        return Evaluation("", {})


def experiment(folder: Path, trained: str) -> Labelled:
    """Three recordings of each speaker: of `trained` for training, of d for validation."""
    rows = ["path,speaker,split,gender,text"]
    rng = np.random.default_rng(0)
    for speaker in trained + "d":
        for i in range(3):
            audio.write(
                folder / f"{speaker}{i}.wav",
                (0.2 * rng.standard_normal(800)).astype(np.float32),
                8000,
            )
            split, odd = "valid" if speaker == "d" else "train", "yes" if i % 2 else "no"
            about = f"{split},{GENDER[speaker]},{odd}"
            rows.append(f"{speaker}{i}.wav,{speaker},{about}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    prepare("manifest", folder, folder / "corpus")
    return Labelled(ExperimentSpec(data=DataSpec(corpus=folder / "corpus")))


@pytest.mark.parametrize("name", ["mismatched_labels", "sample_target_voice"])
def test_others_have_training_recordings(tmp_path: Path, name: str) -> None:
    it = experiment(tmp_path, "abc")
    batch = collate([read_crop(it.corpus, row, 0, 800) for row in range(12)])
    names = it.corpus.labels["speaker"]
    reached: dict[str, set[str]] = {speaker: set() for speaker in names}
    torch.manual_seed(0)
    for _ in range(20):
        others = getattr(it.voices, name)(batch)["speaker"]
        for own, other in zip(batch.labels["speaker"].tolist(), others.tolist(), strict=True):
            reached[names[own]].add(names[other])
    assert reached == {"a": set("bc"), "b": set("ac"), "c": set("ab"), "d": set("abc")}


def test_nobody_else(tmp_path: Path) -> None:
    it = experiment(tmp_path, "a")
    batch = collate([read_crop(it.corpus, row, 0, 800) for row in range(3)])
    for others in (it.voices.mismatched_labels(batch), it.voices.sample_target_voice(batch)):
        assert torch.equal(others["speaker"], batch.labels["speaker"])


def test_another_voice_has_its_own_labels_and_says_the_same(tmp_path: Path) -> None:
    """Labels that follow from the speaker come with him; the text stays."""
    it = experiment(tmp_path, "abc")
    batch = collate([read_crop(it.corpus, row, 0, 800) for row in range(9)])
    assert {"speaker", "gender", "text"} == set(it.corpus.labels)
    torch.manual_seed(0)
    for step in range(10):
        voice = it.voices.sample_target_voice(batch, drawn=step > 0)
        assert torch.equal(voice["text"], batch.labels["text"])
        for speaker, gender in zip(
            voice["speaker"].tolist(), voice["gender"].tolist(), strict=True
        ):
            assert (
                it.corpus.labels["gender"][gender] == GENDER[it.corpus.labels["speaker"][speaker]]
            )


@pytest.mark.parametrize(
    ("trained", "clips", "expected"),
    [
        ("ab", 4, (2.0, 3.0, 4.0)),
        ("ab", 1, (2.0, None, 4.0)),
        ("a", 4, (2.0, 3.0, None)),
        ("a", 1, (2.0, None, None)),
    ],
)
def test_costs_with_nobody_else_are_not_measured(
    tmp_path: Path, trained: str, clips: int, expected: tuple[float | None, ...]
) -> None:
    """One clip has no other's codes, one speaker no other label: the model would be compared with
    itself.
    """
    it = experiment(tmp_path, trained)
    it.config = replace(
        it.config, data=replace(it.config.data, valid_clips=clips, valid_clip_seconds=0.05)
    )
    decoder = WaveNetSpec(network=StackSpec(layers=1)).build(8000, it.corpus.labels)
    total = {"bits": 20.0, "codes": 30.0, "speakers": 40.0, "samples": 10.0}
    costs = likelihood.costs(total, it.comparable(decoder), "codes", "speakers")
    assert costs == expected
    kept = likelihood.measured(dict(zip(("bits", "others", "labels"), costs, strict=True)))
    assert list(kept.values()) == [cost for cost in costs if cost is not None]
