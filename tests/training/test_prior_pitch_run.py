"""A prior trained on two streams: what `experiments/prior.py` needs of a model with pitch codes."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from vqwave import audio
from vqwave.codes import from_bytes, to_bytes
from vqwave.data import Corpus, prepare
from vqwave.data.frame_tracks import stored_pitch
from vqwave.decode.sampling import Temperatures
from vqwave.errors import UserInputError
from vqwave.inference.description import describe
from vqwave.inference.model_folder import ModelCard, load_trained, save_trained
from vqwave.inference.speech_model import SpeechModel
from vqwave.models.pitch import PitchCodecSpec
from vqwave.models.prior import PriorSpec
from vqwave.models.vqvae import VQVAESpec
from vqwave.models.wavenet import WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import FrameEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec
from vqwave.nn.wavenet import StackSpec
from vqwave.training.code_dataset import CodeCorpus
from vqwave.training.command_line import main

ROOT = Path(__file__).resolve().parents[2]
SMALL = StackSpec(
    layers=2, residual_channels=4, gate_channels=4, skip_channels=4, hidden_channels=4
)
OWN = {"choice": 0.9, "scale": 0.8, "voiced": 0.6}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    rows = ["path,speaker,split"]
    for i in range(9):
        time = np.arange(4000 + 700 * i) / 8000
        phase = 2 * np.pi * (100 + 10 * i + 30 * np.sin(6 * time)) * time
        wave = 0.05 * sum(np.sin(k * phase) for k in range(1, 8))
        wave += 0.01 * rng.standard_normal(len(time))
        audio.write(folder / f"{i}.wav", wave.astype(np.float32), 8000)
        rows.append(f"{i}.wav,{'ab'[i % 2]},{'valid' if i > 6 else 'train'}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    prepare("manifest", folder, folder / "corpus")
    return folder / "corpus"


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    """A model folder of codes alone: 50 frames and 12.5 pitch codes a second."""
    spec = VQVAESpec(
        encoder=FrameEncoderSpec(channels=8),
        quantizer=EMAQuantizerSpec(codebook_size=8),
        melody=PitchCodecSpec(
            channels=8, latent_dim=4, quantizer=EMAQuantizerSpec(codebook_size=5)
        ),
        decoder=WaveNetSpec(network=SMALL, conditioner=ConditionerSpec(channels=4)),
    )
    labels = {"speaker": ["a", "b"]}
    torch.manual_seed(0)
    model = spec.build(8000, labels)
    model.melody.voices.copy_(torch.tensor([[0.25, 0.125], [0.5, 0.25]]))
    about = {"steps": 0, "seconds": 0.0, "corpus": "none", "seed": 0, "parameters": {"total": 1}}
    about |= {"receptive_field": 1, "hop": 160, "bit_rate": 179.0, "level_db": -23.0}
    card = ModelCard(
        sample_rate=8000,
        labels=labels,
        spec=spec,
        about=about | {"decoder_trained": False, "temperature": OWN, "postfilter": 0.25},
    )
    save_trained(tmp_path / "codec", model, card)
    return tmp_path / "codec"


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = importlib.util.spec_from_file_location(
        "prior_experiment", ROOT / "experiments" / "prior.py"
    )
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, found.name, module)  # its dataclasses look themselves up
    found.loader.exec_module(module)
    return module


def test_pieces_are_of_whole_pitch_codes(codec: Path, corpus: Path) -> None:
    model, data = SpeechModel.load(codec), Corpus.open(corpus)
    coded = CodeCorpus(model, data)
    conditioner = ConditionerSpec(channels=4)
    spec = PriorSpec(network=SMALL, conditioner=conditioner, codec=model.card.spec)
    network = spec.build(8000, {"speaker": ["a", "b"]}).network
    assert network.order.pitch is not None
    rows = data.of("train")
    for seed in range(3):
        torch.manual_seed(seed)
        batch = coded.pieces(network, rows, 9)  # two pitch codes and their frames
        assert batch.symbols.shape == (len(rows), network.order.slots, 2)
        for grid, before, row in zip(batch.symbols, batch.before, rows, strict=True):
            codes, pitch = coded.of([row])[0], coded.pitch_of([row])[0]
            whole = network.with_end(
                codes[None], torch.tensor([codes.shape[1]]), pitch[None]
            ).symbols[0]
            starts = [
                i for i in range(whole.shape[1] - 1) if torch.equal(whole[:, i : i + 2], grid)
            ]
            assert any((int(whole[-1, i - 1]) if i else network.end) == before for i in starts)


def test_a_run(experiment: ModuleType, codec: Path, corpus: Path, tmp_path: Path) -> None:
    """Trained, evaluated by stream, drawn from, and its own coder of both streams."""
    pytest.importorskip("constriction")
    settings = [
        f"run={tmp_path / 'run'}",
        f"codec={codec}",
        f"data.corpus={corpus}",
        "data.clip_seconds=0.4",
    ]
    settings += [
        "data.batch=4",
        (
            "model.network={layers: 3, residual_channels: 8, gate_channels: 8, skip_channels: 8,"
            " hidden_channels: 8}"
        ),
    ]
    main(experiment.PriorExperiment, [*settings, "train.steps=3", "--quiet"])
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert evaluation["pitch"]["baselines"]["uniform"] == pytest.approx(np.log2(5))
    assert evaluation["bit_rate"]["nominal"] == pytest.approx(50 * 3 + 12.5 * np.log2(5))
    bits = evaluation["prior"]
    assert evaluation["bit_rate"]["prior"] == pytest.approx(
        50 * bits["bits"] + 12.5 * bits["bits_pitch"]
    )
    model = SpeechModel.load(tmp_path / "run")
    assert model.temperatures == Temperatures(**OWN)
    assert model.card.about["postfilter"] == 0.25
    assert load_trained(tmp_path / "run").model.network.order.pitch.ratio == 4
    lengths = Corpus.open(corpus)
    longest = max(lengths.utterances[row].frames for row in lengths.of("train"))
    assert max(model.prior.longest["speaker"].values()) == round(longest / lengths.sample_rate, 2)
    it = model.prior.draw(0.5, labels={"speaker": "a"})[0]
    assert (it.pitch.mean, it.pitch.codes.shape) == (0.25, (1, 7))
    back = from_bytes(to_bytes(it, model.prior), "x", model.prior)
    assert torch.equal(back.pitch.codes, it.pitch.codes)
    rows = describe(str(tmp_path / "run"))
    assert rows["pitch codes"] == "1 x 5, 12.5 a second"
    assert "models codes and pitch codes jointly" in rows["prior"]


def test_voices_that_its_codec_cannot_decode(
    experiment: ModuleType,
    codec: Path,
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The card lists them as untrained, and the commands that are printed name another."""
    loaded = load_trained(codec)
    about = loaded.card.about | {"untrained_labels": {"speaker": ["a"]}, "decoder_trained": True}
    save_trained(tmp_path / "decoder", loaded.model, replace(loaded.card, about=about))
    network = "{layers: 2, residual_channels: 8, gate_channels: 8, skip_channels: 8}"
    names = {"run": tmp_path / "run", "codec": tmp_path / "decoder", "data.corpus": corpus}
    settings = [f"{name}={value}" for name, value in names.items()]
    settings += [f"model.network={network}", "data.clip_seconds=0.4", "data.batch=2"]
    main(experiment.PriorExperiment, [*settings, "train.steps=1"])
    assert load_trained(tmp_path / "run").card.untrained("speaker") == ["a"]
    assert "--speaker b --out generated.wav" in capsys.readouterr().out


def test_pitch_codes_are_those_of_the_stored_f0(codec: Path, corpus: Path) -> None:
    """Normalised by the speaker's voice, one for 80 ms begun, whatever the recording's length."""
    model, data = SpeechModel.load(codec), Corpus.open(corpus)
    coded, melody = CodeCorpus(model, data), model.model.melody
    for row in data.of("train"):
        (codes,), (pitch,) = coded.of([row]), coded.pitch_of([row])
        assert pitch.shape == (1, -(-codes.shape[1] // 4))
        contour = torch.from_numpy(stored_pitch(data).stored(data, row))[None]
        speaker = torch.tensor([data.label_ids(row)["speaker"]])
        assert torch.equal(melody.encode(contour, {"speaker": speaker})[0], pitch)
    model.model.melody.codec.hop *= 2
    with pytest.raises(UserInputError, match="F0 each 80 samples, expected each 160"):
        CodeCorpus(model, data)
