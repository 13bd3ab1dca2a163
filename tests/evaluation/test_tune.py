"""`vqwave tune`: the search, the score's terms, the card; judges are made up here."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from buzz import RATE, Take, write_corpus
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from small_models import ABOUT, SPECTRAL, STACK, WIDE, saved

import vqwave
from vqwave.audio import Wave
from vqwave.cli import main
from vqwave.data import Corpus
from vqwave.decode.sampling import Sampling, Temperatures
from vqwave.distributions import Gaussian, Head, MixtureOfLogistics, MuLaw
from vqwave.errors import Note, UnavailableError, UserInputError
from vqwave.evaluation import Settings, evaluate, level_tuning, panel, temperature_tuning
from vqwave.evaluation.context import EvaluationContext
from vqwave.evaluation.outputs import SystemOutputs
from vqwave.evaluation.result import EvaluationReport
from vqwave.inference.description import describe
from vqwave.inference.model_folder import ModelCard, save_trained
from vqwave.metrics.naturalness import Scorer
from vqwave.metrics.recognition import Recogniser
from vqwave.models import StudentSpec, VQVAESpec, WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.linear_prediction import LinearPredictorSpec
from vqwave.training.checkpoint import update_card

CONDITIONER = ConditionerSpec(channels=4, categorical=("speaker",))
SPEC = VQVAESpec(encoder=SPECTRAL.encoder, quantizer=SPECTRAL.quantizer, decoder=SPECTRAL.decoder)
LABELS = {"speaker": ["high", "low"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """corpus/ of two voices, and model/, untrained."""
    root = tmp_path_factory.mktemp("tune")
    takes = [
        Take(speaker, pitch * (1 + 0.1 * n), "valid" if n > 1 else "train", f"take {n}")
        for speaker, pitch in (("high", 210), ("low", 95))
        for n in range(4)
    ]
    write_corpus(root / "corpus", takes, 0.4, LABELS["speaker"])
    saved(
        root / "model",
        SPEC,
        LABELS,
        about=ABOUT | {"parameters": {"total": 1}, "receptive_field": 1},
    )
    return root


@pytest.fixture
def context(place: Path) -> EvaluationContext:
    settings = Settings(split="valid", seconds=60.0)
    return EvaluationContext(
        Corpus.open(place / "corpus"), vqwave.load(place / "model"), None, settings
    )


def bowl(best: Temperatures) -> temperature_tuning.Scorer:
    """A score whose parts do not depend on one another."""
    return lambda at: {
        part: (a - b) ** 2 for part, a, b in zip(best._fields, at, best, strict=True)
    }


@pytest.mark.parametrize("best", [(0.8, 0.6, 0.4), (1.0, 1.0, 1.0), (0.7, 0.5, 0.9)])
def test_the_search_finds_the_best_of_the_grid(best: tuple[float, float, float]) -> None:
    trials = temperature_tuning.search(bowl(Temperatures(*best)), ("choice", "scale", "voiced"))
    assert trials[0].settings == best
    assert trials[0].score == 0
    assert [t.score for t in trials] == sorted(t.score for t in trials)
    assert len({t.settings for t in trials}) == len(trials) <= 35  # of 168 in the whole grid


def test_parts_that_do_not_matter_are_tied_and_not_searched() -> None:
    for parts in (("scale",), ("choice",), ("choice", "scale"), ("scale", "voiced")):
        for trial in temperature_tuning.search(bowl(Temperatures(0.7, 0.6, 0.5)), parts):
            assert temperature_tuning.tied(trial.settings, parts) == trial.settings
    assert temperature_tuning.tied(Temperatures(0.1, 0.2, 0.3), ("scale",)) == (0.2, 0.2, 0.2)
    assert temperature_tuning.tied(Temperatures(0.1, 0.2, 0.3), ("choice",)) == (0.1, 0.1, 0.1)
    assert temperature_tuning.tied(Temperatures(0.1, 0.2, 0.3), ("choice", "scale")) == (
        0.1,
        0.2,
        0.2,
    )


def test_what_has_no_score_is_never_the_best() -> None:
    def judge(at: Temperatures) -> dict[str, float]:
        return {"a": math.nan if at.choice < 0.9 else at.choice}

    trials = temperature_tuning.search(judge, ("choice",))
    assert trials[0].settings == (0.9, 0.9, 0.9)
    assert trials[-1].score == math.inf


def test_of_equal_scores_the_first_stands() -> None:
    trials = temperature_tuning.search(lambda at: {"a": 1.0}, ("choice", "scale", "voiced"))
    assert trials[0].settings == (temperature_tuning.EQUAL[0],) * 3


@pytest.mark.parametrize(
    ("head", "taps", "parts"),
    [
        (MuLaw(), 0, ("choice",)),
        (Gaussian(), 0, ("scale",)),
        (Gaussian(), 3, ("scale", "voiced")),
        (MixtureOfLogistics(), 0, ("choice", "scale")),
        (MixtureOfLogistics(), 1, ("choice", "scale", "voiced")),
    ],
)
def test_which_parts_matter(head: Head, taps: int, parts: tuple[str, ...]) -> None:
    predictor = LinearPredictorSpec(order=4) if taps else None
    settings = {"conditioner": CONDITIONER, "predictor": predictor, "pitch_taps": taps}
    frames = (16, 80, WIDE.build(RATE))
    net = WaveNetSpec(head=head, network=STACK, **settings).build(RATE, LABELS, *frames)
    assert net.temperature_parts == parts
    flows = StudentSpec(flows=(1,), network=replace(STACK, skip_channels=0), **settings)
    scales = ("scale", "voiced") if taps else ("scale",)
    assert flows.build(RATE, LABELS, *frames).temperature_parts == scales


def test_recordings_have_no_distance_from_themselves(context: EvaluationContext) -> None:
    spectra, melody = (
        temperature_tuning._by_spectra(context),
        temperature_tuning._by_melody(context),
    )

    def judge(waves: list[Wave]) -> dict[str, float]:
        return {**spectra(waves), **melody(waves)}

    perfect = judge(context.waves)
    assert perfect == pytest.approx(dict.fromkeys(perfect, 0.0), abs=1e-6)
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 0.05, len(w)).astype(np.float32) for w in context.waves]
    assert all(value > 0.1 for value in judge(noise).values())
    silence = judge([np.zeros_like(w) for w in context.waves])
    assert silence["1 - F0 correlation"] == 1.0
    assert silence["voicing error"] > 0.5


class Level:
    """A voice is its level."""

    def embed(self, wave: Wave, sample_rate: int) -> np.ndarray:
        return np.array([1.0, 0.0]) if np.abs(wave).max() > 0.01 else np.array([0.0, 1.0])


def test_judges_that_are_there_are_asked(
    context: EvaluationContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts are take {2,3} of two voices; `take 2` is understood: 2 of 8 words are wrong."""
    monkeypatch.setattr(
        panel, "recogniser", lambda name: Recogniser("one", lambda w, rate: "take 2")
    )
    monkeypatch.setattr(panel, "speaker_encoder", Level)
    monkeypatch.setattr(panel, "dnsmos", lambda: lambda wave, rate: 3.0)
    pytest.importorskip("jiwer")
    judge = temperature_tuning.scorer_of(context)
    terms = judge([0 * context.waves[0], *context.waves[1:]])
    expected = {"WER": 0.25, "1 - similarity": 0.25, "(5 - MOS) / 5": 0.4}
    assert {name: terms[name] for name in expected} == pytest.approx(expected)
    assert set(terms) - set(expected) == {"voicing error", "1 - F0 correlation"}


def no_dnsmos() -> Scorer:
    raise UnavailableError("no DNSMOS here")


def test_a_judge_that_is_missing_is_named(
    context: EvaluationContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel, "dnsmos", no_dnsmos)
    monkeypatch.setattr(panel, "recogniser", lambda name: Recogniser("one", lambda w, rate: ""))
    monkeypatch.setattr(panel, "speaker_encoder", Level)
    with pytest.warns(Note, match="no DNSMOS here; temperatures are chosen by spectra"):
        judge = temperature_tuning.scorer_of(context)
    assert set(judge(context.waves)) == {"LSD / 10 dB", "voicing error", "1 - F0 correlation"}


def test_the_command_writes_the_best_into_the_card(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By a judge of quiet, which wants as little noise as there is; nothing else of the card
    changes.
    """
    model = tmp_path / "model"
    shutil.copytree(place / "model", model)
    before = json.loads((model / "config.json").read_text())
    monkeypatch.setattr(
        temperature_tuning,
        "scorer_of",
        lambda _: lambda waves: {"rms": float(np.mean([w.std() for w in waves]))},
    )
    command = ["tune", str(model), "--data", str(place / "corpus"), "--max-utterances", "2"]
    command += ["--max-seconds", "0.05", "--backend", "reference", "--quiet"]
    main(command)
    assert json.loads((model / "config.json").read_text()) == before
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.split() == ["choice", "scale", "voiced", "score", "rms"]
    assert [line.split()[:3] for line in lines[: len(temperature_tuning.EQUAL)]] == [
        [f"{t:g}"] * 3 for t in temperature_tuning.EQUAL
    ]
    assert lines[-3:-1] == ["best:", first]
    assert lines[-1] == min(lines[:-3], key=lambda line: float(line.split()[3]))
    best = dict(zip(Temperatures._fields, map(float, lines[-1].split()[:3]), strict=True))
    assert best["scale"] == best["voiced"] == 0.5  # the least that is tried
    main([*command, "--write"])
    after = json.loads((model / "config.json").read_text())
    assert after == before | {"about": before["about"] | {"temperature": best}}
    assert [path.name for path in model.iterdir() if path.name.startswith(".")] == []
    assert vqwave.load(model).temperatures == Temperatures(**best)
    assert describe(str(model))["temperature"] == str(Temperatures(**best))


def test_the_strength_of_the_post_filter_has_its_own_search(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By a judge that wants the copies of strength 0.5 and no others, at the card's temperatures.
    A model without predicted frames is refused.
    """
    about = ABOUT | {"parameters": {"total": 1}, "receptive_field": 1, "postfilter": 0.25}
    temperature = {"choice": 0.9, "scale": 0.8, "voiced": 0.6}
    model = saved(tmp_path / "model", SPECTRAL, LABELS, about=about | {"temperature": temperature})
    corpus, voices = Corpus.open(place / "corpus"), vqwave.load(model)
    settings = Settings(split="valid", seconds=0.05, limit=2)
    context = EvaluationContext(corpus, voices, None, settings)
    sampling = Sampling(postfilter=0.5, backend="reference")
    wanted = context.outputs.with_sampling(sampling).reconstructed("model")

    def distance(waves: list[Wave]) -> dict[str, float]:
        return {"off": float(sum(np.abs(a - b).sum() for a, b in zip(waves, wanted, strict=True)))}

    monkeypatch.setattr(temperature_tuning, "scorer_of", lambda _: distance)
    before = json.loads((model / "config.json").read_text())
    command = ["tune", str(model), "--data", str(place / "corpus"), "--max-utterances", "2"]
    command += ["--max-seconds", "0.05", "--backend", "reference", "--quiet", "--postfilter"]
    main([*command, "--write"])
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.split() == ["postfilter", "score", "off"]
    tried = [float(line.split()[0]) for line in lines[: len(temperature_tuning.STRENGTHS)]]
    assert tried == list(temperature_tuning.STRENGTHS)
    assert [float(x) for x in lines[-2].split()] == [0.5, 0, 0]
    assert lines[-1].endswith("config.json: postfilter 0.5")
    after = json.loads((model / "config.json").read_text())
    assert after == before | {"about": before["about"] | {"postfilter": 0.5}}
    command[1] = str(place / "model")
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert "it has no post-filter" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--level"])
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::vqwave.errors.Note")  # of a few utterances
def test_an_evaluation_says_by_which_temperatures(place: Path, tmp_path: Path) -> None:
    """Those of the model's card, and the student's where they are others; one number where all
    parts have it.
    """
    own = {"choice": 0.9, "scale": 0.8, "voiced": 0.6}
    for name, temperature in (("cold", own), ("even", dict.fromkeys(own, 0.7))):
        shutil.copytree(place / "model", tmp_path / name)
        update_card(tmp_path / name, {"temperature": temperature})
    settings = Settings(split="valid", only=("codes",), seconds=0.1)

    def about(model: str, student: str | None = None, **sampling: float) -> EvaluationReport:
        found = evaluate(
            tmp_path / model,
            place / "corpus",
            replace(settings, sampling=Sampling(**sampling)),
            student=student and tmp_path / student,
        )
        return TypeAdapter(EvaluationReport).validate_python(json.loads(json.dumps(found.tree())))

    assert about("cold").temperature == own
    assert about("even").temperature == 0.7
    assert about("cold", temperature=0.5).sampling_text == "temperature 0.5"
    words = "temperature 0.7, of the student 0.9 (choice), 0.8 (scale), 0.6 (voiced)"
    assert about("even", "cold").sampling_text == words
    assert about("even", "even").student_temperature is None
    filtered = replace(about("cold", temperature=0.5), postfilter=[0.75, 0.75])
    assert filtered.sampling_text == "temperature 0.5; post-filter 0.75"
    other = replace(filtered, postfilter=[0.75, 0.5])
    assert other.sampling_text == "temperature 0.5; post-filter 0.75 and 0.5"


def test_a_model_that_makes_no_copies_is_refused(place: Path, tmp_path: Path) -> None:
    spec = WaveNetSpec(network=STACK, conditioner=CONDITIONER)
    card = ModelCard(sample_rate=RATE, labels=LABELS, spec=spec, about={"corpus": "buzz"})
    save_trained(tmp_path / "babble", card.build(), card)
    settings = Settings(split="valid")
    context = EvaluationContext(
        Corpus.open(place / "corpus"), vqwave.load(tmp_path / "babble"), None, settings
    )
    with pytest.raises(temperature_tuning.NotApplicable, match="no copies"):
        temperature_tuning.tune(context, lambda waves: {"a": 0.0})
    with pytest.raises(UserInputError, match="--max-utterances 0"):
        main_of(tmp_path / "babble", place / "corpus", "--max-utterances", "0")


def test_a_gain_moves_every_frame_by_itself(tmp_path: Path) -> None:
    model = vqwave.load(saved(tmp_path / "model", SPECTRAL, LABELS)).model
    predictor = model.spectral_decoder.double()
    z, labels = torch.randn(2, 4, 5).double(), {"speaker": torch.tensor([0, 1])}
    before = predictor.log_mel(predictor(z, labels))
    predictor.amplify(6.0)
    after = predictor.log_mel(predictor(z, labels))
    torch.testing.assert_close(after, before + 6 * math.log(10) / 20)


@pytest.mark.parametrize("slope", [1.0, 0.8, 1.3])
def test_the_gain_that_mends_a_level(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slope: float
) -> None:
    """Of a decoder that is softer by 2.5 dB, and `slope` times as much louder as its frames."""
    saved(tmp_path / "model", SPECTRAL, LABELS)
    context = EvaluationContext(
        Corpus.open(place / "corpus"),
        vqwave.load(tmp_path / "model"),
        None,
        Settings(split="valid"),
    )
    bias = level_tuning.spectral_decoder(context).out.bias.detach()
    scale = level_tuning.spectral_decoder(context).frontend.standardise.std[0]
    start = float(bias[0])

    def measured(_: EvaluationContext) -> float:
        gain = (float(bias[0]) - start) * float(scale) * 20 / math.log(10)
        return slope * gain - 2.5

    monkeypatch.setattr(level_tuning, "level", measured)
    seen: list[tuple[float, float]] = []
    gain = level_tuning.tune(context, lambda *at: seen.append(at))
    assert gain == pytest.approx(2.5 / slope, abs=0.1)
    assert seen[0] == (0.0, pytest.approx(-2.5))
    assert seen[-1] == (pytest.approx(gain), pytest.approx(0, abs=0.1))


@pytest.mark.parametrize("levels", [[3.0] * 4, [3.0, -3.1, 3.2, -3.3], [-9.0, -8, -7, -6]])
def test_a_level_that_does_not_follow_the_frames_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, levels: list[float]
) -> None:
    saved(tmp_path / "model", SPECTRAL, LABELS)
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    measured = iter(levels)
    monkeypatch.setattr(level_tuning, "level", lambda _: next(measured))
    with pytest.raises(UserInputError, match="model: its level does not follow its frames"):
        main_of(tmp_path / "model", place / "corpus", "--level", "--write", "--quiet")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


def test_a_level_of_copies_is_that_of_their_energy(
    context: EvaluationContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    softer = [wave / 2 for wave in context.waves]
    monkeypatch.setattr(SystemOutputs, "reconstructed", lambda *_: softer)
    assert level_tuning.level(context) == pytest.approx(20 * math.log10(0.5))


def test_the_gain_is_written_into_the_weights(
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only into those, in their own type; a model without frames is refused, nothing written."""
    levels = itertools.cycle([-6.0, 0.0])  # an untrained decoder's do not follow its frames
    monkeypatch.setattr(level_tuning, "level", lambda _: next(levels))
    model = tmp_path / "model"
    saved(model, SPECTRAL, LABELS)
    halves = {name: w.half() for name, w in load_file(model / "model.safetensors").items()}
    save_file(halves, model / "model.safetensors")
    card = (model / "config.json").read_text()
    flags = ("--level", "--max-seconds", "0.05", "--max-utterances", "2", "--quiet")
    main_of(model, place / "corpus", *flags)
    assert load_file(model / "model.safetensors").keys() == halves.keys()
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"frames \+0.00 dB: [+-][0-9.]+ dB of the recordings' level, 2.*", lines[0])
    main_of(model, place / "corpus", *flags, "--write")
    again, bias = load_file(model / "model.safetensors"), "spectral_decoder.out.bias"
    changed = [name for name, w in again.items() if not torch.equal(w, halves[name])]
    assert changed == [bias]
    assert again[bias].dtype == torch.float16
    assert (model / "config.json").read_text() == card
    with pytest.raises(UserInputError, match="no spectral decoder of log-mel frames"):
        main_of(place / "model", place / "corpus", *flags)


def main_of(model: Path, corpus: Path, *flags: str) -> None:
    """The command, without its handling of errors."""
    from vqwave.cli import parser

    arguments = parser().parse_args(["tune", str(model), "--data", str(corpus), *flags])
    arguments.command(arguments)
