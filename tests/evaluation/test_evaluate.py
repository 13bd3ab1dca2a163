"""`vqwave evaluate` on tiny models and a made-up corpus: what is measured, how it is written, what
is said where it is not.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
import torch
from small_models import RATE, STACK, STUDENT, VQVAE, WAVENET, codec_weights

import vqwave
from vqwave.audio import to_int16
from vqwave.cli import main
from vqwave.data import Corpus
from vqwave.errors import UserInputError
from vqwave.evaluation import Settings, chosen, evaluate
from vqwave.evaluation.context import EvaluationContext
from vqwave.evaluation.likelihood import _batch, _condition
from vqwave.evaluation.outputs import GivenVoice
from vqwave.evaluation.readme_table import BEGIN, END, put, section
from vqwave.evaluation.recognition import conversion
from vqwave.evaluation.result import MetricValue, Result, confusion
from vqwave.evaluation.resume import read_report
from vqwave.evaluation.table import text_table
from vqwave.features import LogMelSpec
from vqwave.metrics import recognizer
from vqwave.models import PriorSpec
from vqwave.nn.condition import ConditionerSpec

SPEAKERS, TEXTS = ["high", "low", "middle"], ["down", "up"]
PRIOR = PriorSpec(
    network=STACK,
    conditioner=ConditionerSpec(channels=4, categorical=("speaker", "text")),
    codec=VQVAE,
)
QUICK = Settings(split="test", batch=64, resamples=50, takes=1)


def write_corpus(folder: Path, takes: int = 6, texts: bool = True) -> Path:
    """Three voices (buzzes of three pitches, each with a resonance of its own) say two words (a
    rising and a falling formant); the last two takes are to test.
    """
    rng, lines, waves, offset = np.random.default_rng(0), [], [], 0
    for speaker, pitch, ring in (("low", 95, 250), ("middle", 140, 3000), ("high", 210, 3500)):
        for text, ends in (("up", (500, 2500)), ("down", (2500, 500))):
            for take in range(takes):
                t = np.arange(round(RATE * rng.uniform(0.25, 0.32))) / RATE
                f0, formant = pitch * rng.uniform(0.95, 1.05), np.geomspace(*ends, len(t))
                tones = [
                    (
                        1 / (1 + ((f0 * k - formant) / 250) ** 2)
                        + 1 / (1 + ((f0 * k - ring) / 150) ** 2)
                    )
                    * np.cos(2 * np.pi * f0 * k * t)
                    for k in range(1, int(3800 / f0))
                ]
                wave = (0.1 * sum(tones)).astype(np.float32)
                said = text if texts else f"{text} {speaker} {take}"
                row = {
                    "id": f"{speaker}/{text}-{take}",
                    "shard": 0,
                    "offset": offset,
                    "frames": len(wave),
                    "text": said,
                }
                row |= {
                    "speaker": speaker,
                    "labels": {"speaker": speaker},
                    "split": "test" if take >= takes - 2 else "train",
                }
                lines.append(
                    json.dumps(
                        row | ({"phones": [[0, "_"], [300, "a"], [1200, "o"]]} if texts else {})
                    )
                )
                offset += len(wave)
                waves.append(wave)
    folder.mkdir(parents=True)
    (folder / "index.jsonl").write_text("\n".join(lines))
    (folder / "shard-00000.i16").write_bytes(to_int16(np.concatenate(waves)).tobytes())
    header = {
        "format": 1,
        "name": "buzz",
        "sample_rate": RATE,
        "labels": {"speaker": SPEAKERS},
        "splits": {},
        "level_db": -23.0,
    }
    (folder / "corpus.json").write_text(json.dumps(header | {"source": "made up"}))
    return folder


ABOUT = small_models.ABOUT | {"receptive_field": 4, "parameters": {"total": 1}}
saved = partial(small_models.saved, labels={"speaker": SPEAKERS, "text": TEXTS}, about=ABOUT)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """corpus/, wordless/, vqvae/, student/, babble/, prior/."""
    root = tmp_path_factory.mktemp("evaluate")
    write_corpus(root / "corpus")
    write_corpus(root / "wordless", texts=False)
    saved(root / "vqvae", VQVAE)
    saved(root / "student", STUDENT, weights=codec_weights(root / "vqvae"))
    saved(root / "babble", WAVENET)
    weights = vqwave.load(root / "vqvae").model.state_dict()
    of_prior = {f"codec.{name}": value for name, value in weights.items()}
    saved(root / "prior", PRIOR, weights=of_prior)
    return root


TRAIN = recognizer.recognizer_of


def recognize_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations have a recognizer of so many steps."""
    small = replace(recognizer.DEFAULT, steps=steps, batch=12, channels=16, members=1)
    monkeypatch.setattr("vqwave.evaluation.context.DEFAULT", small)
    monkeypatch.setattr(
        "vqwave.evaluation.context.recognizer_of",
        lambda corpus, keep, progress: TRAIN(corpus, small, keep=keep, progress=progress),
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recognizer of few steps, voices of few seconds, short babble."""
    recognize_after(120, monkeypatch)
    monkeypatch.setattr("vqwave.evaluation.utterances.TARGET_SECONDS", 1.0)
    monkeypatch.setattr("vqwave.evaluation.recognition.BABBLE_SECONDS", 0.2)
    monkeypatch.setattr("vqwave.evaluation.recognition.LONGEST_WORD", 0.2)


def figures(result: Result) -> dict[str, dict[str, MetricValue]]:
    return {row.key: row.figures for row in result.rows}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judges")


def test_everything_of_a_vqvae_and_its_student(place: Path, kept: Path) -> None:
    result = evaluate(
        place / "vqvae", place / "corpus", replace(QUICK, keep=kept), student=place / "student"
    )
    found, skipped = figures(result), result.skipped
    groups = {row.group for row in result.rows}
    assert groups >= {
        "nll",
        "codes",
        "words",
        "speakers",
        "conversion",
        "spectral",
        "pitch",
        "abx",
        "map",
        "probes",
    }
    for row in result.rows:
        assert "model" in row.figures, row.key
        assert "floor" in row.figures or row.key == "codes.dead", row.key
        for name, figure in row.figures.items():
            if row.group == "pitch":
                # noise of untrained models has no frame that is voiced like the recording's
                continue
            assert math.isfinite(figure.value), (row.key, name)
            if figure.low is not None and row.group != "abx":
                assert figure.low - 1e-9 <= figure.value <= figure.high + 1e-9, (row.key, name)
    assert found["pitch.f0_error"]["ceiling"].value < 1
    for key in ("words.reconstruction", "conversion.target", "spectral.mcd", "pitch.voicing"):
        assert {"ceiling", "model", "student", "floor"} <= set(found[key]), key
    # the recognizer is right about the recordings, not about these untrained models
    assert found["words.reconstruction"]["ceiling"].value > 80
    assert found["speakers.reconstruction"]["ceiling"].value > 80
    assert found["words.reconstruction"]["floor"].value == 50
    assert found["spectral.mcd"]["ceiling"].value < found["spectral.mcd"]["model"].value
    assert found["codes.nominal_rate"]["model"].value == 150
    assert found["codes.entropy_rate"]["model"].value <= 150
    assert "prior" not in skipped
    titles = {matrix.key for matrix in result.matrices}
    assert {
        "words.ceiling",
        "words.model",
        "words.student",
        "conversion.target.model",
        "conversion.source.student",
        "map",
    } <= titles
    assert {name for track in result.tracks for name in track.curves} == {
        "recording",
        "model",
        "student",
    }
    json.dumps(result.tree(), allow_nan=False)
    assert "held-out likelihood" in text_table(result)


def test_the_likelihood_is_the_codecs(place: Path) -> None:
    result = evaluate(place / "vqvae", place / "corpus", replace(QUICK, only=("nll",)))
    codec, corpus = vqwave.load(place / "vqvae"), Corpus.open(place / "corpus")
    # a corpus' recordings are prepared already
    codec.prepare = lambda wave, rate=None: torch.from_numpy(np.asarray(wave))
    bits = samples = 0.0
    for row in corpus.of("test"):
        wave, speaker = corpus.read(row), corpus.utterances[row].speaker
        score = codec.log_likelihood(wave, labels={"speaker": speaker})
        bits, samples = bits + score.bits * score.samples, samples + score.samples
    assert figures(result)["nll.bits"]["model"].value == pytest.approx(bits / samples, rel=1e-4)


def test_a_limit_is_spread_and_the_same_every_time(place: Path) -> None:
    corpus, codec = Corpus.open(place / "corpus"), vqwave.load(place / "vqvae")
    first, second = (
        EvaluationContext(corpus, codec, None, replace(QUICK, limit=5)) for _ in range(2)
    )
    assert first.rows == second.rows
    assert len(set(first.rows)) == 5
    assert len({corpus.utterances[row].speaker for row in first.rows}) > 1
    assert all(
        len(wave) <= 1600
        for wave in EvaluationContext(corpus, codec, None, replace(QUICK, seconds=0.2)).waves
    )


def test_others_are_of_another_speaker_and_word(place: Path) -> None:
    context = EvaluationContext(
        Corpus.open(place / "corpus"), vqwave.load(place / "vqvae"), None, QUICK
    )
    for own, other in enumerate(context.others()):
        assert context.label("speaker")[own] != context.label("speaker")[other]
        assert context.label("text")[own] != context.label("text")[other]


@torch.inference_mode()
def test_each_variant_takes_its_part_from_another_utterance(place: Path) -> None:
    """Codes that are shuffled with the labels kept, and the other way round: column by column what
    the model makes of them.
    """
    corpus, codec = Corpus.open(place / "corpus"), vqwave.load(place / "vqvae")
    context = EvaluationContext(corpus, codec, None, replace(QUICK, limit=5))
    own, others = [*range(len(context.rows))], context.others()
    batch, found = _batch(context, own), {}
    for name, codes_of, voices_of in (
        ("model", own, own),
        ("shuffled codes", others, own),
        ("shuffled speakers", own, others),
    ):
        found[name] = _condition(context, own, batch, name).features
        for i, frames in enumerate(batch.frame_mask(context.vqvae.hop).sum(1).tolist()):
            codes = context.coded[codes_of[i]].codes
            codes = codes.repeat(1, -(-frames // codes.shape[1]))[:, :frames]
            voice = corpus.utterances[context.rows[voices_of[i]]].labels
            condition = context.vqvae.condition(codes[None], codec.given.label_ids(voice))
            end = condition.features.shape[-1] - 8  # what follows is not the same
            torch.testing.assert_close(found[name][i, :, :end], condition.features[0, :, :end])
    for name in ("shuffled codes", "shuffled speakers"):
        assert not torch.allclose(found[name], found["model"])


def test_conversion_counts_a_perfect_converter_as_one(
    place: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recordings of the target saying the same word stand for conversions: the accuracy is that of
    recordings.
    """
    corpus = Corpus.open(place / "corpus")
    context = EvaluationContext(
        corpus, vqwave.load(place / "vqvae"), None, replace(QUICK, keep=kept)
    )

    def perfect(system: str, name: str, coded: list, voices: list[GivenVoice]) -> list[np.ndarray]:
        pairs = [(voice.labels["speaker"], voice.labels["text"]) for voice in voices]
        there = {
            (corpus.utterances[row].speaker, corpus.utterances[row].text): row
            for row in corpus.of("test")
        }
        return [corpus.read(there[pair]) for pair in pairs]

    monkeypatch.setattr(context.outputs, "_decoded", perfect)
    result = Result()
    conversion(context, result)
    found = figures(result)
    assert found["conversion.target"]["model"].value >= 80
    assert found["conversion.content"]["model"].value >= 80
    assert found["conversion.source"]["model"].value <= 20
    (matrix,) = [m for m in result.matrices if m.key == "conversion.target.model"]
    # nobody is converted to himself
    assert [row[i] for i, row in enumerate(matrix.values)] == [None] * 3


def test_a_wavenet_and_a_prior_have_what_applies(place: Path, kept: Path) -> None:
    babble = evaluate(
        place / "babble",
        place / "corpus",
        replace(QUICK, keep=kept, only=("nll", "speakers", "codes", "words")),
    )
    assert set(figures(babble)) == {"nll.bits", "nll.shuffled_speakers", "speakers.babble"}
    assert "no codes" in babble.skipped["codes"]
    said = evaluate(place / "prior", place / "corpus", replace(QUICK, keep=kept))
    found = figures(said)
    assert set(found) == {"prior.bits", "prior.rate", "say.text", "say.speaker", "say.both"}
    assert found["say.both"]["floor"].value == pytest.approx(100 / 6)
    assert found["say.both"]["model"].value <= min(
        found["say.text"]["model"].value, found["say.speaker"]["model"].value
    )
    assert found["prior.bits"]["model"].value > 0


def test_what_a_corpus_does_not_allow_is_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recognize_after(4, monkeypatch)  # which measures there are does not depend on its accuracy
    only = ("words", "abx", "map", "conversion", "probes")
    result = evaluate(place / "vqvae", place / "wordless", replace(QUICK, only=only))
    assert "words" in result.skipped["words"]
    assert "phones" in result.skipped["abx"]
    assert "phones" in result.skipped["map"]
    found = figures(result)
    assert "conversion.target" in found
    assert "conversion.content" not in found
    assert not [key for key in found if key.startswith("probes.words")]


def test_one_utterance_has_no_other_to_be_compared_with(place: Path) -> None:
    """No floor that is the model itself, no rise of zero: each is said to need two."""
    result = evaluate(
        place / "vqvae", place / "corpus", replace(QUICK, only=("nll", "mcd"), limit=1)
    )
    found = figures(result)
    assert set(found) == {"nll.bits", "spectral.mcd", "spectral.lsd"}
    assert set(found["spectral.mcd"]) == {"ceiling", "model"}
    needs = {
        name: reason for name, reason in result.skipped.items() if "needs two utterances" in reason
    }
    floor = "floor (decoded from shuffled codes)"
    assert set(needs) == {floor, "cost under shuffled codes", "cost under shuffled speakers"}


def test_one_speaker_has_no_other_label(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "corpus", tmp_path / "corpus")
    rows = [
        json.loads(line) for line in (tmp_path / "corpus" / "index.jsonl").read_text().splitlines()
    ]
    rows = [row | {"split": "train"} if row["speaker"] != "low" else row for row in rows]
    (tmp_path / "corpus" / "index.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = evaluate(place / "vqvae", tmp_path / "corpus", replace(QUICK, only=("nll",)))
    assert set(figures(result)) == {"nll.bits", "nll.shuffled_codes"}
    assert "of two speakers" in result.skipped["cost under shuffled speakers"]


def test_frames_are_shuffled_in_batches_of_any_size(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An utterance that is alone in its batch gets another's frames, too."""
    vocoder = replace(WAVENET, features=LogMelSpec(bands=8, fmax=4000))
    saved(tmp_path / "vocoder", vocoder)
    rises = []
    for samples in (1 << 17, 1):
        monkeypatch.setattr("vqwave.evaluation.likelihood.SAMPLES", samples)
        result = evaluate(tmp_path / "vocoder", place / "corpus", replace(QUICK, only=("nll",)))
        rises.append(figures(result)["nll.shuffled_frames"]["model"].value)
    assert rises[0] == pytest.approx(rises[1], abs=1e-5)
    assert abs(rises[0]) > 1e-4


def test_names_of_measures() -> None:
    assert chosen(("digits", "words", "mcd")) == ("words", "spectral")
    with pytest.raises(UserInputError, match="did you mean"):
        chosen(("speakrs",))


def test_confusion_by_hand() -> None:
    matrix = confusion(
        "k", "t", ("said", "heard"), ["a", "b", "c"], reference=[0, 0, 2], predicted=[0, 1, 2]
    )
    assert matrix.rows == ["a", "c"]
    assert matrix.columns == ["a", "b", "c"]
    assert matrix.values == [[1, 1, 0], [0, 0, 1]]


def test_the_command_writes_all_or_nothing(
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    refused: Callable[..., str],
) -> None:
    out = tmp_path / "metrics.json"
    command = ["evaluate", str(place / "vqvae"), "--data", str(place / "corpus"), "--quiet"]
    main([*command, "--metrics", "codes", "--out", str(out)])
    assert "codebook perplexity" in capsys.readouterr().out
    tree: dict[str, Any] = json.loads(out.read_text())
    assert tree["model"] == "vqvae"
    assert {row["group"] for row in tree["rows"]} == {"codes"}
    for wrong, complaint in (
        (["--metrics", "colour"], "measure 'colour'"),
        (["--max-utterances", "0"], "--max-utterances 0"),
        (["--split", "tset"], "no split 'tset'"),
        (["--out", str(tmp_path / "none" / "x.json")], "no such folder"),
        (["--student", str(place / "babble")], "student: has other codes"),
    ):
        assert complaint in refused(*command, *wrong)


def test_the_readme_gets_its_table(place: Path, tmp_path: Path) -> None:
    out, readme = tmp_path / "metrics.json", tmp_path / "README.md"
    main(
        [
            "evaluate",
            str(place / "vqvae"),
            "--data",
            str(place / "corpus"),
            "--metrics",
            "codes",
            "--quiet",
            "--out",
            str(out),
        ]
    )
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        main(["results", str(out), "--readme", str(readme)])
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert text.count("| bit rate, nominal, bit/s ↓ |") == 1
    assert section([read_report(out)]) in text
    bare = tmp_path / "bare.md"
    bare.write_text("nothing")
    with pytest.raises(UserInputError, match="expected the lines"):
        put(bare, "x")
    assert bare.read_text() == "nothing"
    out.write_text("{}")
    with pytest.raises(UserInputError, match="expected an evaluation"):
        read_report(out)
