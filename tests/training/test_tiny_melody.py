"""A model with melody from its configs: trained, distilled, given a prior, measured; and the laws
of a melody in codes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

import vqwave
from vqwave import audio
from vqwave.cli import main as command
from vqwave.codes import CodeSequence, load_codes, save_codes
from vqwave.config import parse
from vqwave.data import Corpus, prepare
from vqwave.decode.postfilter import STRENGTH
from vqwave.decode.sampling import Sampling
from vqwave.evaluation import Settings, evaluate
from vqwave.export import export_onnx
from vqwave.inference.description import describe
from vqwave.inference.model_folder import ModelCard, load_trained, save_trained
from vqwave.inference.speech_model import SpeechModel
from vqwave.metrics import recognizer
from vqwave.models import VQVAESpec, WaveNetSpec
from vqwave.models.pitch import SEMITONE
from vqwave.nn.wavenet import StackSpec
from vqwave.report import write_report
from vqwave.training.command_line import main
from vqwave.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
RATE = 8000
SPEAKERS = {"high": 210.0, "low": 100.0, "mid": 145.0}
WORDS = {"fall": -0.35, "rise": 0.35}  # how ln F0 goes
STEPS = ["train.log_every=10", "train.threads=1"]
SMALL = [
    "data.clip_seconds=0.24",
    "data.batch=2",
    "data.valid_clip_seconds=0.24",
    "data.valid_clips=4",
    "num_samples=0",
    *STEPS,
]
PITCH = ["train.steps=120", "train.valid_every=120", "data.clip_seconds=0.4", *STEPS]
PRIOR = ["train.steps=4", "sample_seconds=0.04", "num_samples=1", *STEPS]
EXPERIMENTS = {
    "pitch": "PitchExperiment",
    "vqvae": "VQVAEExperiment",
    "prior": "PriorExperiment",
    "distill": "DistillExperiment",
}
PLAIN = Sampling(backend="reference")


def word(speaker: str, text: str, take: int) -> np.ndarray:
    """0.4 s of harmonics that rise or fall; a voice has its own height, and resonance."""
    rng, t = np.random.default_rng(take), np.arange(3200) / RATE
    f0 = SPEAKERS[speaker] * rng.uniform(0.97, 1.03) * np.exp(WORDS[text] * (t / 0.4 - 0.5))
    phase, formant = 2 * np.pi * np.cumsum(f0) / RATE, 500 + 3 * SPEAKERS[speaker]
    wave = sum(np.cos(k * phase) / (1 + ((f0 * k - formant) / 400) ** 2) for k in range(1, 14))
    return (0.05 * wave + 1e-3 * rng.standard_normal(len(t))).astype(np.float32)


@dataclass(frozen=True)
class Chain:
    """A corpus and the runs that were trained on it."""

    folder: Path

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus"

    def run(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def chain(
    tmp_path_factory: pytest.TempPathFactory, experiment_script: Callable[[str], ModuleType]
) -> Chain:
    """pitch (so long that contours are told apart), vqvae, prior, distill: some steps of each tiny
    config.
    """
    it = Chain(tmp_path_factory.mktemp("chain"))
    rows = ["path,speaker,text,split"]
    for number, speaker in enumerate(SPEAKERS):
        for text in WORDS:
            for take in range(5):
                name = f"{speaker}-{text}-{take}.wav"
                audio.write(it.folder / name, word(speaker, text, 10 * number + take), RATE)
                rows.append(
                    f"{name},{speaker},{text},{['train', 'valid', 'test'][max(0, take - 2)]}"
                )
    (it.folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    prepare("manifest", it.folder, it.corpus, quiet=True)

    model = it.run("model")
    for name, run, config, settings in (
        ("pitch", "pitch", "pitch/tiny.yaml", PITCH),
        (
            "vqvae",
            "model",
            "vqvae/tiny-melody.yaml",
            [f"pitch={it.run('pitch')}", "train.steps=24", *SMALL],
        ),
        ("prior", "prior", "prior/tiny.yaml", [f"codec={model}", *PRIOR]),
        ("distill", "student", "distill/tiny.yaml", [f"teacher={model}", "train.steps=2", *SMALL]),
    ):
        arguments = ["--config", str(ROOT / "configs" / config), f"run={it.run(run)}"]
        arguments += [f"data.corpus={it.corpus}", *settings, "--quiet"]
        main(getattr(experiment_script(name), EXPERIMENTS[name]), arguments)
    return it


@pytest.fixture(scope="module")
def model(chain: Chain) -> SpeechModel:
    return SpeechModel.load(chain.run("model"))


@pytest.fixture(scope="module")
def said(chain: Chain, model: SpeechModel) -> dict[str, CodeSequence]:
    """A word of each contour, of the speaker mid."""
    corpus = Corpus.open(chain.corpus)
    rows = {
        corpus.utterances[i].text: i
        for i in corpus.of("test")
        if corpus.utterances[i].speaker == "mid"
    }
    return {text: model.encode(corpus.read(row), speaker="mid") for text, row in rows.items()}


def conditioned(
    model: SpeechModel, coded: CodeSequence, speaker: str, shift: float = 0.0
) -> Tensor:
    """ln F0 (F,) that the decoder is conditioned on, NaN where unvoiced; which is what `decode`
    makes its condition of.
    """
    conditions = model.given.voice(speaker, {}, None)
    conditions |= model.given.range_of(conditions, coded.pitch, shift)
    frames = coded.codes.shape[1]
    pitch = model.model.pitch(coded.pitch.codes[None], conditions, frames)[0]
    whole = model.model.condition(
        coded.codes[None], conditions, pitch_codes=coded.pitch.codes[None]
    )
    task = model.task(coded, speaker, shift_semitones=shift)
    torch.testing.assert_close(task.condition.features, whole.features, rtol=1e-4, atol=1e-4)
    return torch.where(pitch[1] > 0, pitch[0], torch.nan)


def with_pitch(coded: CodeSequence, codes: Tensor) -> CodeSequence:
    return replace(coded, pitch=replace(coded.pitch, codes=codes))


@torch.inference_mode()
def test_semitones_move_the_median_f0(model: SpeechModel, said: dict[str, CodeSequence]) -> None:
    plain = conditioned(model, said["rise"], "mid").nanmedian()
    for semitones in (-5.0, 0.5, 12.0):
        moved = conditioned(model, said["rise"], "mid", semitones).nanmedian()
        assert float(moved - plain) == pytest.approx(semitones * SEMITONE, abs=1e-5)


@torch.inference_mode()
def test_a_conversion_lands_in_the_range_of_its_target(
    model: SpeechModel, said: dict[str, CodeSequence]
) -> None:
    """Above and below the mean as much, in the target's deviations, as in the source's."""
    voices = dict(zip(model.speakers, model.model.melody.voices.tolist(), strict=True))
    scores = [
        (conditioned(model, said["fall"], name) - mean) / spread
        for name, (mean, spread) in voices.items()
    ]
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0], rtol=1e-4, atol=1e-4, equal_nan=True)
    medians = [float(conditioned(model, said["fall"], name).nanmedian()) for name in voices]
    for median, (mean, _) in zip(medians, voices.values(), strict=True):
        assert abs(median - mean) < 3 * SEMITONE


@torch.inference_mode()
def test_the_contour_of_another_utterance_goes_with_its_own(
    model: SpeechModel, said: dict[str, CodeSequence]
) -> None:
    """Content of a falling word and the melody of a rising one rise, and are conditioned on just
    what that one is.
    """
    own = {text: conditioned(model, coded, "mid") for text, coded in said.items()}
    swapped = conditioned(model, with_pitch(said["fall"], said["rise"].pitch.codes), "mid")
    torch.testing.assert_close(swapped, own["rise"], equal_nan=True)
    assert slope(own["fall"]) < 0 < slope(own["rise"]) == pytest.approx(slope(swapped))
    same = said["fall"].codes
    assert torch.equal(with_pitch(said["fall"], said["rise"].pitch.codes).codes, same)


@torch.inference_mode()
def test_flattened_codes_take_the_melody_away(
    model: SpeechModel, said: dict[str, CodeSequence]
) -> None:
    """One code throughout is one F0, beyond what the ends change; the words' own codes are not."""
    codes = said["rise"].pitch.codes
    melody, flats = model.model.melody, []
    beyond = melody.reach * melody.ratio
    for code in range(melody.codec.size):
        pitch = replace(said["rise"].pitch, codes=torch.full((1, 30), code))
        long = replace(
            said["rise"], codes=said["rise"].codes.repeat(1, 6), samples=120 * 160, pitch=pitch
        )
        flats.append(conditioned(model, long, "mid")[beyond:-beyond])
    voiced = [flat for flat in flats if not flat.isnan().any()]
    assert voiced
    assert all(float(flat.max() - flat.min()) < 1e-5 for flat in voiced)
    own = conditioned(model, said["rise"], "mid")
    own = own[~own.isnan()]
    assert codes.unique().numel() > 1
    assert float(own.max() - own.min()) > 2 * SEMITONE


def slope(log_f0: Tensor) -> float:
    """Of ln F0 over its voiced frames, a frame."""
    there = ~log_f0.isnan()
    t = torch.arange(len(log_f0))[there].double()
    t, y = t - t.mean(), log_f0[there].double()
    return float((t * (y - y.mean())).sum() / t.square().sum())


def test_what_is_said_of_the_model(chain: Chain) -> None:
    """Both bit rates, and each voice's range in Hz."""
    for name in ("model", "student", "prior"):
        rows = describe(str(chain.run(name)))
        assert "300 bit/s (250 and 50 of pitch)" in rows["codes"]
        assert rows["pitch codes"] == "1 x 16, 12.5 a second"
        ranges = rows["F0 of voices"].removeprefix("3: ").split(", ")
        for (speaker, f0), said in zip(SPEAKERS.items(), ranges, strict=True):
            who, low, _, high, unit = said.split(" ")
            assert (who, unit) == (speaker, "Hz")
            assert int(low) < f0 < int(high)


def test_a_model_with_melody_is_measured(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every measure that needs no judge from elsewhere; the student's sound, since it is made
    fast.
    """
    small = replace(recognizer.DEFAULT, steps=4, batch=4, channels=8, members=1)
    real = recognizer.recognizer_of
    monkeypatch.setattr(
        "vqwave.evaluation.context.recognizer_of",
        lambda corpus, keep, progress: real(corpus, small, keep=keep, progress=progress),
    )
    monkeypatch.setattr("vqwave.evaluation.utterances.TARGET_SECONDS", 0.1)
    quick = Settings(resamples=10, seconds=0.3, targets=2, pairs=4, takes=1)
    plain = evaluate(
        chain.run("model"), chain.corpus, replace(quick, only=("nll", "codes", "map", "abx"))
    )
    found = {row.key for row in plain.rows}
    assert {
        "nll.bits",
        "nll.shuffled_codes",
        "nll.shuffled_speakers",
        "codes.pitch.perplexity",
        "map.accuracy",
    } <= found
    rows = {row.key: row.figures for row in plain.rows}
    assert rows["codes.nominal_rate"]["model"].value == pytest.approx(300)
    sound = evaluate(
        chain.run("student"),
        chain.corpus,
        replace(quick, only=("words", "conversion", "spectral", "pitch")),
    )
    assert set(sound.skipped) <= {"pitch"}  # without Praat
    assert {"words.reconstruction", "conversion.target", "spectral.mcd"} <= {
        row.key for row in sound.rows
    }
    assert (
        "nll" in evaluate(chain.run("student"), chain.corpus, replace(quick, only=("nll",))).skipped
    )
    prior = evaluate(chain.run("prior"), chain.corpus, replace(quick, only=("prior",)))
    assert {"prior.bits", "prior.pitch_bits", "prior.rate"} <= {row.key for row in prior.rows}


def test_a_report_and_a_graph(chain: Chain, tmp_path: Path) -> None:
    runs = [chain.run(name) for name in ("model", "student")]
    write_report(runs, tmp_path / "page.html")
    write_report([chain.run("prior")], tmp_path / "prior.html")
    for onnx in ("onnx", "onnxruntime"):
        pytest.importorskip(onnx)
    assert export_onnx(chain.run("student"), tmp_path / "decoder.onnx").largest < 1e-3
    assert export_onnx(chain.run("student"), tmp_path / "encoder.onnx", "encoder").largest <= 0.02


def run(*argv: object) -> None:
    command([str(each) for each in argv] + ["--quiet"])


def test_semitones_on_the_command_line(chain: Chain, tmp_path: Path) -> None:
    """decode, convert, folders and streams make what the Python API makes of a shift."""
    student, wav = chain.run("student"), chain.folder / "mid-rise-4.wav"
    it, options = (
        vqwave.load(student),
        ("--backend", "reference", "--speaker", "low", "--shift-semitones", -4),
    )
    coded = it.encode_file(wav)
    save_codes(tmp_path / "a.vqw", coded)
    expected, unmoved = (
        audio.to_int16(it.decode(coded, "low", shift_semitones=k, sampling=PLAIN).numpy())
        for k in (-4, 0)
    )
    assert not np.array_equal(expected, unmoved)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.vqw").write_bytes((tmp_path / "a.vqw").read_bytes())
    run("decode", student, tmp_path / "a.vqw", "--out", tmp_path / "decoded.wav", *options)
    run("decode", student, tmp_path / "in", "--out", tmp_path / "out", *options)
    run(
        "decode",
        student,
        tmp_path / "a.vqw",
        "--stream",
        "--out",
        tmp_path / "streamed.wav",
        *options,
    )
    run("convert", student, wav, "--out", tmp_path / "converted.wav", *options)
    for name in ("decoded", "out/b", "streamed", "converted"):
        assert np.array_equal(audio.to_int16(audio.read(tmp_path / f"{name}.wav")[0]), expected), (
            name
        )
    run(
        "generate",
        chain.run("prior"),
        "--seconds",
        0.04,
        "--speaker",
        "low",
        "--shift-semitones",
        2,
        "--out",
        tmp_path / "drawn.wav",
    )
    assert (tmp_path / "drawn.wav").stat().st_size > 44


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            [
                "decode",
                "student",
                "a.vqw",
                "--out",
                "b.wav",
                "--speaker",
                "low",
                "--shift-semitones",
                "60",
            ],
            "expected at most 48",
        ),
        (
            [
                "convert",
                "student",
                "a.wav",
                "--out",
                "b.wav",
                "--speaker",
                "low",
                "--shift-semitones",
                "nan",
            ],
            "expected a finite number",
        ),
        (
            ["decode", "plain", "a.vqw", "--stream", "--speaker", "low", "--shift-semitones", "2"],
            "has no codes of a melody",
        ),
        (
            [
                "generate",
                "plain",
                "--out",
                "b.wav",
                "--speaker",
                "low",
                "--shift-semitones",
                "2",
            ],
            "has no codes of a melody",
        ),
        (
            ["encode", "student", "a.wav", "--out", "b.vqw", "--pitch-range", "120,3"],
            "--pitch-range: is for a pipe",
        ),
        (
            ["encode", "student", "-", "--pitch-range", "120"],
            "--pitch-range 120: expected HZ,SEMITONES, such as 120,3",
        ),
        (
            ["encode", "student", "-", "--pitch-range", "deep"],
            "--pitch-range deep: expected HZ,SEMITONES, such as 120,3",
        ),
    ],
)
def test_refused_in_one_line(
    chain: Chain,
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before anything is read or made."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.vqw", "a.wav"):
        (tmp_path / name).touch()
    network = StackSpec(layers=2, residual_channels=4, gate_channels=4, skip_channels=4)
    plain = VQVAESpec(decoder=WaveNetSpec(network=network))  # without a melody
    card = ModelCard(sample_rate=RATE, labels={"speaker": ["low"]}, spec=plain, about={})
    save_trained(tmp_path / "plain", card.build(), card)
    given = io.BytesIO((chain.folder / "mid-rise-4.wav").read_bytes())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(given))
    with pytest.raises(SystemExit) as end:
        command([str(chain.run("student")) if each == "student" else each for each in arguments])
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert said in line
    assert {path.name for path in tmp_path.iterdir()} == {"a.vqw", "a.wav", "plain"}


def test_speech_and_melody_through_a_pipe(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The codes of a stream in Python, and the range of the file; back to speech in the voice that
    the header names.
    """

    def piped(given: bytes, *argv: object) -> bytes:
        out = io.BytesIO()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out))
        run(*argv)
        return out.getvalue()

    student, wav = chain.run("student"), chain.folder / "high-fall-4.wav"
    it = vqwave.load(student)
    for speaker in ("high", None):
        noted = () if speaker is None else ("--speaker", speaker)
        codes = piped(wav.read_bytes(), "encode", student, "-", *noted)
        (tmp_path / "piped.vqw").write_bytes(codes)
        mine, whole = load_codes(tmp_path / "piped.vqw"), it.encode_file(wav, speaker)
        stream = it.encode_stream(RATE, speaker=speaker)
        blocks = [stream.push(audio.read(wav)[0]), stream.flush()]
        assert torch.equal(mine.codes, torch.cat([block.codes for block in blocks], 1))
        assert torch.equal(mine.pitch.codes, torch.cat([block.pitch for block in blocks], 1))
        assert (mine.samples, mine.speaker) == (whole.samples, speaker)
        assert (mine.pitch.mean, mine.pitch.deviation) == pytest.approx(
            (whole.pitch.mean, whole.pitch.deviation), abs=1e-3
        )
        conditions = () if speaker else ("--speaker", "low")
        sound = piped(
            codes,
            "decode",
            student,
            "-",
            "--stream",
            "--raw",
            "--backend",
            "reference",
            *conditions,
        )
        expected = it.decode(mine, None if speaker else "low", sampling=PLAIN)
        assert sound == audio.to_int16(expected.numpy()).tobytes()
    given = piped(wav.read_bytes(), "encode", student, "-", "--pitch-range", "200,3")
    (tmp_path / "given.vqw").write_bytes(given)
    assert load_codes(tmp_path / "given.vqw").pitch.mean == pytest.approx(math.log(2))


def test_the_card_keeps_the_ranges(chain: Chain, model: SpeechModel) -> None:
    """A student has those of its teacher, bit for bit, and its codes."""
    theirs = load_trained(chain.run("student")).model.melody
    assert torch.equal(theirs.voices, model.model.melody.voices)
    assert vqwave.load(chain.run("student")).fingerprint == model.fingerprint


def test_the_card_keeps_the_strength_of_the_post_filter(chain: Chain) -> None:
    """The decoder is conditioned on frames that are predicted from codes."""
    for name in ("model", "student", "prior"):
        assert load_trained(chain.run(name)).card.about["postfilter"] == STRENGTH
        assert SpeechModel.load(chain.run(name)).postfilter == STRENGTH


def test_a_student_is_trained_by_the_noise_of_its_temperatures(
    chain: Chain, experiment_script: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    """Narrower in voiced samples than in the others."""
    script = experiment_script("distill")
    stored = [
        "losses={kl: 0.0, power: 0.0, energy_distance: 1.0}",
        "scale_temperature=0.5",
        "voiced_temperature=0.25",
    ]
    settings = [f"teacher={chain.run('model')}", f"run={tmp_path / 'run'}", *SMALL, *stored]
    settings += [f"data.corpus={chain.corpus}"]
    path = ROOT / "configs" / "distill" / "tiny.yaml"
    parsed = parse(script.Config, ["--config", str(path), *settings]).config
    trainer = Trainer(script.DistillExperiment(parsed), quiet=True)
    trainer.held.close()
    experiment, batch = trainer.experiment, next(iter(trainer.experiment.valid_batches()))
    frames, student = experiment.kind.decoder_features(batch), script.student_of(trainer.model)
    u = torch.rand(4, *batch.wave.shape).clamp(1e-6, 1 - 1e-6)
    flowed, _ = experiment._compare(student, batch, frames, lambda: u, experiment.config.kl)
    _, columns = student.conditioner.split(student.condition(frames, batch.labels))
    voiced = student.predictor.voiced(columns.at(0, batch.wave.shape[1]))
    assert voiced.any()
    assert not voiced.all()
    z = student.noise(u) * torch.where(voiced, 0.25, 0.5)
    wanted = student(z, batch.labels, frames, batch.frame_mask(experiment.hop))
    torch.testing.assert_close(flowed.x, wanted.x)
