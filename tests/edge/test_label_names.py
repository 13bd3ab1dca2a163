"""A label may have any name, such as those that a ModuleDict has for itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import stack
from torch import nn

from vqwave import audio
from vqwave.data import Corpus, prepare
from vqwave.distributions import Gaussian
from vqwave.inference.model_folder import ModelCard, load_trained, save_trained
from vqwave.metrics.recognizer import RecognizerNetwork, RecognizerSpec
from vqwave.models import WaveNetSpec
from vqwave.models.classifier import ClassifierSpec
from vqwave.nn.auxiliary.conversion_classifier import (
    ConversionClassifier,
    ConversionClassifierSpec,
)
from vqwave.nn.by_name import ModulesByName
from vqwave.nn.condition import ConditionerSpec

NAMES = [
    "type",
    "keys",
    "values",
    "train",
    "half",
    "forward",
    "training",
    "%74raining",
    "_modules",
    "a.b",
    "a%2Eb",
    "a%252Eb",
    "%",
    "",
    ".",
    "100 %",
    "speaker",
]
SIZES = dict.fromkeys(NAMES, 2)
STACK = stack(4)
SPEC = WaveNetSpec(
    head=Gaussian(),
    network=STACK,
    conditioner=ConditionerSpec(channels=4, categorical=tuple(NAMES)),
)


def test_modules_by_any_name() -> None:
    modules = ModulesByName({name: nn.Linear(1, k + 1) for k, name in enumerate(NAMES)})
    assert list(modules) == list(modules.keys()) == [name for name, _ in modules.items()] == NAMES
    assert len(modules) == len(NAMES)
    assert [modules[name].out_features for name in NAMES] == list(range(1, len(NAMES) + 1))
    assert all(name in modules for name in NAMES)
    assert "other" not in modules
    assert modules.train().training
    other = ModulesByName({name: nn.Linear(1, k + 1) for k, name in enumerate(NAMES)})
    other.load_state_dict(modules.state_dict())
    assert torch.equal(other["a.b"].weight, modules["a.b"].weight)
    del modules["a.b"]
    assert "a.b" not in modules
    assert "a%2Eb" in modules


def test_ordinary_names_have_the_parameters_that_a_dictionary_has() -> None:
    names = ("speaker", "100 %", "größe", "a-b", "a_b")
    own = ModulesByName({name: nn.Linear(1, 1) for name in names})
    usual = nn.ModuleDict({name: nn.Linear(1, 1) for name in names})
    assert list(own.state_dict()) == list(usual.state_dict())
    assert str(own) == str(usual).replace("ModuleDict", "ModulesByName")


def test_a_model_is_saved_and_read_with_labels_of_any_name(tmp_path: Path) -> None:
    labels = {name: ["x", "y"] for name in NAMES}
    card = ModelCard(sample_rate=8000, labels=labels, spec=SPEC, about={})
    model = card.build()
    save_trained(tmp_path / "model", model, card)
    loaded = load_trained(tmp_path / "model").model
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_networks_with_an_output_for_each_label() -> None:
    x = torch.randn(2, 4000)
    labels = {name: ["x", "y"] for name in NAMES}
    classifier = ClassifierSpec(categorical=tuple(NAMES), layers=1, channels=4)
    assert list(classifier.build(8000, labels)(x)) == NAMES
    network = RecognizerNetwork(RecognizerSpec(), SIZES)
    assert list(network(torch.rand(2, RecognizerSpec().bands, 100))) == NAMES
    other = ConversionClassifier(ConversionClassifierSpec(), 8, 2, SIZES)
    assert list(other(torch.randn(2, 8, 20))) == NAMES


@pytest.mark.parametrize("name", ["type", "a.b"])
def test_a_manifest_may_have_such_columns(name: str, tmp_path: Path) -> None:
    rows = [f"path,speaker,{name}"]
    for k in range(4):
        noise = np.random.default_rng(k).normal(0, 0.1, 8000).astype(np.float32)
        audio.write(tmp_path / f"{k}.wav", noise, 8000)
        rows.append(f"{k}.wav,ann,{'xy'[k % 2]}")
    (tmp_path / "m.csv").write_text("\n".join(rows))
    prepare("manifest", tmp_path / "m.csv", tmp_path / "out", quiet=True)
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.labels[name] == ["x", "y"]
    spec = replace(SPEC, conditioner=ConditionerSpec(channels=4, categorical=("speaker", name)))
    conditioner = spec.build(8000, corpus.labels).conditioner
    assert list(conditioner.embeddings) == ["speaker", name]
    batch = {name: torch.tensor([ids[name]]) for ids in [corpus.label_ids(0)] for name in ids}
    assert conditioner(None, batch) is not None
