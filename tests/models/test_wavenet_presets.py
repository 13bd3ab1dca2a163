"""Every preset is read, builds at its own rate, and says the sizes that its head line promises."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from vqwave.config import parse
from vqwave.training.card_writer import bit_rate

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = {
    "text": ["0", "1"],
    "speaker": ["a", "b"],
    "gender": ["f", "m"],
    "phones": ["_", "a", "z"],
}
RATES = {
    "vocoder-8k": 8000,
    "vocoder-22k": 22050,
    "vocoder-24k": 24000,
    "tacotron2": 24000,
} | dict.fromkeys(
    (
        "vocoder-16k",
        "paper",
        "librispeech",
        "chorowski",
        "van-niekerk",
        "speech-codes",
        "speech-decoder",
        "speech-decoder-finish",
        "speech-vectors-codes",
        "speech-vectors",
    ),
    16000,
)
PRESETS = sorted(
    f"{kind}/{path.stem}"
    for kind in ("wavenet", "vqvae")
    for path in (ROOT / "configs" / kind).glob("*.yaml")
)


def experiment(kind: str) -> ModuleType:
    source = importlib.util.spec_from_file_location(
        f"preset_{kind}", ROOT / "experiments" / f"{kind}.py"
    )
    module = importlib.util.module_from_spec(source)
    sys.modules[source.name] = module
    source.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "path",
    [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "configs").glob("*/*.yaml"))
        if path.parent.name != "sweeps"
    ],
)
def test_the_settings_of_every_shipped_file_are_known(path: str) -> None:
    kind = Path(path).parent.name
    given = ["--config", str(ROOT / path)]
    found = parse(experiment(kind).Config, given).config
    assert str(found.run).startswith("runs/")


CONFIGS = {kind: experiment(kind).Config for kind in ("wavenet", "vqvae")}


@cache
def built(path: str) -> tuple[Any, torch.nn.Module]:
    """The config and the model of configs/PATH.yaml."""
    kind, name = path.split("/")
    config = parse(CONFIGS[kind], ["--config", str(ROOT / "configs" / f"{path}.yaml")]).config
    model, codes = config.model, getattr(config, "frozen_codec", None)
    if codes is not None:  # parts of the run that another preset makes
        first = next(
            built(other)[0]
            for other in PRESETS
            if other.endswith("-codes") and built(other)[0].run == codes
        )
        model = replace(
            model,
            encoder=first.model.encoder,
            quantizer=first.model.quantizer,
            spectral_decoder=first.model.spectral_decoder,
        )
    return config, model.build(RATES.get(name, 8000), VOCABULARY)


@pytest.mark.parametrize("path", PRESETS)
def test_a_preset_builds(path: str) -> None:
    """Strict keys; clips of at least a frame."""
    config, model = built(path)
    assert config.data.clip_seconds * RATES.get(path.split("/")[1], 8000) >= model.hop
    assert sum(p.numel() for p in model.parameters()) > 1000


@pytest.mark.parametrize(
    ("name", "hop", "receptive_field"),
    [
        ("tacotron2", 300, 6139),
        ("vocoder-8k", 100, 505),
        ("vocoder-16k", 200, 505),
        ("vocoder-22k", 275, 505),
        ("paper", 1, 5116),
    ],
)
def test_hop_and_receptive_field(name: str, hop: int, receptive_field: int) -> None:
    """Tacotron 2, table 4: 6,139 and 505 samples."""
    _, model = built(f"wavenet/{name}")
    assert (model.hop, model.receptive_field) == (hop, receptive_field)


@pytest.mark.parametrize(
    ("name", "bits"),
    [("paper", 2250), ("librispeech", 450), ("chorowski", 450), ("van-niekerk", 450)],
)
def test_bit_rate(name: str, bits: int) -> None:
    assert bit_rate(built(f"vqvae/{name}")[1], 16000) == bits
