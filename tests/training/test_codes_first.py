"""Codes first, the decoder afterwards: two runs, the second of which takes the first's codes as
they are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from vqwave import audio
from vqwave.data import Batch, prepare
from vqwave.errors import UserInputError
from vqwave.evaluation import Settings, evaluate
from vqwave.inference.model_folder import load_trained
from vqwave.inference.speech_model import SpeechModel
from vqwave.models import VQVAE
from vqwave.training import decoder_training
from vqwave.training.command_line import main

CODES = [
    "model.encoder.kind=spectral",
    "model.encoder.channels=8",
    "model.encoder.latent_dim=4",
    "model.encoder.features={kind: log_mel, bands: 8, fmin: 100, fmax: 4000}",
    "model.quantizer.codebook_size=8",
    (
        "model.spectral_decoder={channels: 8, features: {kind: log_mel, bands: 8, fmin: 100, fmax:"
        " 4000}}"
    ),
    "losses={nll: 0.0, spectral: 1.0, commitment: 0.25}",
]
DECODER = [
    "model.decoder_input=both",
    "model.decoder.network={layers: 2, dilation_cycle: 2, residual_channels: 4, gate_channels: 4}",
    "model.decoder.network.skip_channels=4",
    "model.decoder.network.hidden_channels=4",
    "num_samples=1",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    rows = ["path,speaker,split"]
    for i in range(9):
        audio.write(folder / f"{i}.wav", (0.2 * rng.standard_normal(6400)).astype(np.float32), 8000)
        rows.append(f"{i}.wav,{'ab'[i % 2]},{'valid' if i > 6 else 'train'}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    prepare("manifest", folder, folder / "corpus")
    return folder / "corpus"


@pytest.fixture(scope="module")
def experiment(experiment_script: Callable[[str], ModuleType]) -> ModuleType:
    return experiment_script("vqvae")


def train(experiment: ModuleType, run: Path, corpus: Path, *settings: str) -> None:
    sizes = [
        f"run={run}",
        f"data.corpus={corpus}",
        "data.clip_seconds=0.4",
        "data.batch=2",
        "data.valid_clip_seconds=0.4",
        "train.steps=2",
    ]
    main(experiment.VQVAEExperiment, [*sizes, *settings, "--quiet"])


@pytest.fixture(scope="module")
def coder(experiment: ModuleType, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained codes alone."""
    run = tmp_path_factory.mktemp("codes") / "run"
    train(experiment, run, corpus, *CODES)
    return run


def test_the_decoder_is_trained_on_the_codes_of_another_run(
    experiment: ModuleType, corpus: Path, coder: Path, tmp_path: Path
) -> None:
    train(experiment, tmp_path / "whole", corpus, f"frozen_codec={coder}", *DECODER)
    codes, whole = load_trained(coder), load_trained(tmp_path / "whole")
    assert whole.card.spec.encoder == codes.card.spec.encoder
    for part in ("encoder", "quantizer", "spectral_decoder"):
        theirs = getattr(codes.model, part).state_dict()
        assert all(
            torch.equal(value, theirs[name])
            for name, value in getattr(whole.model, part).state_dict().items()
        )
    coded = SpeechModel.load(coder).encode(np.sin(np.arange(1600, dtype=np.float32)))
    assert len(SpeechModel.load(tmp_path / "whole").decode(coded, "a")) == 1600
    with pytest.raises(UserInputError, match="this model has codes alone"):
        SpeechModel.load(coder).decode(coded, "a")
    untrained = whole.card.spec.build(8000, whole.card.labels).decoder.state_dict()
    assert any(
        not torch.equal(value, untrained[name])
        for name, value in whole.model.decoder.state_dict().items()
    )


def test_a_decoder_of_segments_has_the_frames_of_complete_clips(
    experiment: ModuleType,
    corpus: Path,
    coder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = [f"frozen_codec={coder}", *DECODER]
    seen, real = [], decoder_training.sliced

    def spied(
        batch: Batch, frames: torch.Tensor, samples: float, hop: int
    ) -> tuple[Batch, torch.Tensor]:
        seen.append((batch, frames, *real(batch, frames, samples, hop)))
        return seen[-1][2:]

    monkeypatch.setattr(decoder_training, "sliced", spied)
    train(experiment, tmp_path / "run", corpus, *settings, "decoder_segment_seconds=0.1")
    model = load_trained(tmp_path / "run").model
    for batch, frames, part, segment in seen:
        assert (part.wave.shape[1], segment.shape[-1] * model.hop) == (
            800,
            800 * frames.shape[-1] // (batch.wave.shape[1] // model.hop),
        )
        assert torch.equal(
            frames,
            model.decoder_features(
                model.quantizer.decode(model.encode(batch.wave, batch.lengths)), batch.labels
            ),
        )
    assert len(seen) == 2
    for wrong in (["decoder_segment_seconds=0.1"], [*settings, "decoder_segment_seconds=0.5"]):
        with pytest.raises(SystemExit):
            train(experiment, tmp_path / "wrong", corpus, *wrong)
        assert "expected at most data.clip_seconds, and frozen_codec" in capsys.readouterr().err


SPECTROGRAM = [*DECODER, "model.decoder_input=spectrogram"]


def test_recordings_may_be_filtered_to_the_frames_of_their_codes(
    experiment: ModuleType,
    corpus: Path,
    coder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The decoder then learns waveforms that have the frames which condition it."""
    seen, real = [], decoder_training.decoder_batch

    def spied(model: VQVAE, batch: Batch, *given: object, **named: object) -> object:
        seen.append((batch, real(model, batch, *given, **named)))
        return seen[-1][1]

    monkeypatch.setattr(decoder_training, "decoder_batch", spied)
    settings = [f"frozen_codec={coder}", *SPECTROGRAM, "filtered_recordings=true"]
    train(experiment, tmp_path / "run", corpus, *settings)
    model = load_trained(tmp_path / "run").model
    features = model.spectral_decoder.spectrum
    assert len(seen) == 2
    for recorded, (filtered, frames) in seen:
        predicted = model.predicted_log_mel(recorded.wave, recorded.labels, recorded.lengths)
        standard = model.spectral_decoder.frontend.standardise(predicted)
        torch.testing.assert_close(standard, frames, rtol=1e-4, atol=1e-4)
        before, after = (
            (features(batch.wave) - predicted).abs().mean() for batch in (recorded, filtered)
        )
        assert after < before / 2


def test_a_decoder_starts_from_another(
    experiment: ModuleType,
    corpus: Path,
    coder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = [f"frozen_codec={coder}", *SPECTROGRAM]
    train(experiment, tmp_path / "first", corpus, *settings)
    start = f"start_from={tmp_path / 'first'}"
    still = [*settings, start, "optim.lr=0", "optim.ema_decay=0"]
    train(experiment, tmp_path / "second", corpus, *still)
    first, second = (load_trained(tmp_path / name).model for name in ("first", "second"))
    theirs = second.decoder.state_dict()
    assert all(torch.equal(x, theirs[name]) for name, x in first.decoder.state_dict().items())
    other = [*settings, start, "model.decoder.network.layers=3"]
    for wrong, said in (
        (other, "has another decoder, expected that of `model`"),
        ([*CODES, start], "start_from: "),
        ([*CODES, "filtered_recordings=true"], "expected none without frozen_codec"),
        (
            [*settings, "filtered_recordings=true", "recorded_spectrum=true"],
            "filtered_recordings: expected a frozen_codec with a spectral decoder",
        ),
        (
            [*settings, "filtered_recordings=true", "model.decoder_input=latents"],
            "filtered_recordings: expected a frozen_codec with a spectral decoder",
        ),
    ):
        with pytest.raises(SystemExit) as stop:
            train(experiment, tmp_path / "wrong", corpus, *wrong)
        assert stop.value.code == 2
        assert said in capsys.readouterr().err


def test_codes_come_from_a_vqvae(experiment: ModuleType, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        train(experiment, tmp_path / "run", corpus, f"frozen_codec={tmp_path / 'nowhere'}")
    assert stop.value.code == 2
    assert not (tmp_path / "run").exists()


def test_a_cycle_needs_an_encoder_of_the_predicted_features(
    experiment: ModuleType, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cycle = "losses={nll: 0.0, spectral: 1.0, commitment: 0.25, cycle_consistency: 1.0}"
    with pytest.raises(SystemExit) as stop:
        train(
            experiment,
            tmp_path / "no",
            corpus,
            *CODES,
            cycle,
            "model.spectral_decoder.features.bands=9",
        )
    assert stop.value.code == 2
    assert "losses.cycle_consistency: expected a spectral decoder" in capsys.readouterr().err
    train(experiment, tmp_path / "run", corpus, *CODES, cycle, "train.log_every=1")
    assert '"train/cycle_consistency"' in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_codes_that_are_taken_have_no_losses_of_their_own(
    experiment: ModuleType, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = "losses={nll: 0.0, spectral: 1.0, commitment: 0.25, auxiliary_classification: 0.1}"
    listener = ["model.conversion_classifier.channels=8", losses]
    # it may listen without a say
    train(experiment, tmp_path / "codes", corpus, *CODES, *listener, "train.log_every=1")
    rows = (tmp_path / "codes" / "metrics.jsonl").read_text()
    assert '"train/auxiliary_classification"' in rows
    assert '"valid/conversion_accuracy"' in rows
    settings = [f"frozen_codec={tmp_path / 'codes'}", *DECODER, "losses={nll: 1.0, spectral: 1.0}"]
    with pytest.raises(SystemExit):
        train(experiment, tmp_path / "no", corpus, *settings)
    assert "losses.spectral: expected no `frozen_codec`" in capsys.readouterr().err
    train(
        experiment,
        tmp_path / "whole",
        corpus,
        f"frozen_codec={tmp_path / 'codes'}",
        *DECODER,
        *listener[:1],
    )
    assert load_trained(tmp_path / "whole").card.spec.conversion_classifier is None
    found = evaluate(tmp_path / "codes", corpus, Settings(split="valid", only=("nll", "codes")))
    assert "codes alone" in found.skipped["nll"]
    assert {row.group for row in found.rows} == {"codes"}
