"""The command line: each command on a tiny model, and what bad input gets: one line, status 2,
nothing half-written.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import small_models
import torch
from small_models import STUDENT, VQVAE, WAVENET, codec_weights

import vqwave
from vqwave import audio
from vqwave.cli import main, notes, parser
from vqwave.config.renamed import COMMAND_LINE
from vqwave.config.yaml_layers import split
from vqwave.distributions import MuLaw
from vqwave.errors import Note, UserInputError
from vqwave.failures import about

LABELS = {"speaker": ["george", "jackson", "theo"]}
ABOUT = small_models.ABOUT | {"receptive_field": 4, "parameters": {"total": 1}}
saved = partial(small_models.saved, labels=LABELS, about=ABOUT)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vqvae/, student/, babble/, speech.wav (16 kHz) and a .vqw made from it."""
    root = tmp_path_factory.mktemp("cli")
    saved(root / "vqvae", VQVAE)
    saved(root / "student", STUDENT, weights=codec_weights(root / "vqvae"))
    saved(root / "babble", WAVENET)
    time = np.arange(8000) / 16000
    audio.write(
        root / "speech.wav", (0.2 * np.sin(2 * np.pi * 220 * time)).astype(np.float32), 16000
    )
    main(
        [
            "encode",
            str(root / "vqvae"),
            str(root / "speech.wav"),
            "--out",
            str(root / "codes.vqw"),
            "--speaker",
            "theo",
        ]
    )
    return root


Refused = Callable[..., str]


@pytest.mark.parametrize("model", ["vqvae", "student"])
def test_decoding_has_the_length_of_the_recording(place: Path, model: str, tmp_path: Path) -> None:
    main(
        [
            "decode",
            str(place / model),
            str(place / "codes.vqw"),
            "--out",
            str(tmp_path / "out.wav"),
            "--quiet",
        ]
    )
    wave, rate = audio.read(tmp_path / "out.wav")
    assert (len(wave), rate) == (4000, 8000)


def test_the_same_seed_gives_the_same_file(place: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = tmp_path / f"{name}.wav"
        main(
            [
                "convert",
                str(place / "vqvae"),
                str(place / "speech.wav"),
                "--speaker",
                "theo",
                "--out",
                str(out),
                "--seed",
                str(seed),
            ]
        )
    a, b, c = (audio.read(tmp_path / f"{name}.wav")[0] for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_generate_and_info(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "babble.wav"
    main(
        [
            "generate",
            str(place / "babble"),
            "--speaker",
            "theo",
            "--seconds",
            "0.05",
            "--out",
            str(out),
            "--quiet",
        ]
    )
    assert len(audio.read(out)[0]) == 400
    for what in ("vqvae", "codes.vqw"):
        main(["info", str(place / what)])
    shown = capsys.readouterr().out
    assert "150 bit/s" in shown
    assert "speaker   theo" in shown


def test_a_note_is_a_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    with notes(quiet=False):
        for text in ("one", "two", "one"):
            warnings.warn(text, Note, stacklevel=1)
            with warnings.catch_warnings():  # as numba's compiler does
                warnings.simplefilter("ignore")
    assert capsys.readouterr().err == "note: one\nnote: two\n"


def test_a_slower_decoder_is_taken_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that says why; none where nothing faster was asked for, or with --quiet."""
    model = saved(tmp_path / "classes", replace(WAVENET, head=MuLaw()))
    call = [
        "generate",
        str(model),
        "--speaker",
        "theo",
        "--seconds",
        "0.01",
        "--out",
        str(tmp_path / "x.wav"),
    ]
    main([*call, "--top-p", "0.9"])
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: the reference decoder is taken: top_p and guidance are the reference decoder's alone"
    ]
    main([*call, "--top-p", "0.9", "--quiet"])
    main([*call, "--backend", "reference"])
    assert "note:" not in capsys.readouterr().err


def test_the_python_names(place: Path) -> None:
    model = vqwave.load(place / "vqvae")
    wave, rate = vqwave.read(place / "speech.wav")
    coded = model.encode(wave, rate)
    assert coded.codes.shape == (1, 25)
    assert model.decode(coded, speaker="theo").shape == (4000,)
    assert torch.equal(model.convert(wave, rate, speaker="theo"), model.decode(coded, "theo"))


def test_bad_models(place: Path, refused: Refused, tmp_path: Path) -> None:
    out = tmp_path / "x.vqw"
    assert "no such model" in refused(
        "encode", place / "nowhere", place / "speech.wav", "--out", out
    )
    (tmp_path / "empty").mkdir()
    assert "no model in it" in refused("info", tmp_path / "empty")
    assert "without codes" in refused(
        "encode", place / "babble", place / "speech.wav", "--out", out
    )
    assert not out.exists()


def test_bad_recordings(place: Path, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio at all")
    (tmp_path / "empty.wav").write_bytes(b"")
    audio.write(tmp_path / "silent.wav", np.zeros(100, np.float32), 8000)
    for name in ("text.wav", "empty.wav", "silent.wav", "missing.wav"):
        line = refused(
            "convert",
            place / "vqvae",
            tmp_path / name,
            "--speaker",
            "theo",
            "--out",
            tmp_path / "out.wav",
        )
        assert name in line
    assert not (tmp_path / "out.wav").exists()


def test_what_is_read_is_not_written_over(place: Path, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    speech = tmp_path / "in" / "speech.wav"
    speech.write_bytes((place / "speech.wav").read_bytes())
    before = speech.read_bytes()
    vqvae, theo = place / "vqvae", ("--speaker", "theo")
    assert "is what is read" in refused("encode", vqvae, speech, "--out", speech)
    assert "is what is read" in refused(
        "convert", vqvae, speech, *theo, "--out", tmp_path / "in" / ".." / "in" / "speech.wav"
    )
    assert "is what is read" in refused(
        "convert", vqvae, tmp_path / "in", *theo, "--out", tmp_path / "in", "--overwrite"
    )
    assert "--out: not given" in refused("convert", vqvae, speech, *theo)
    assert "is a folder" in refused("encode", vqvae, speech, "--out", tmp_path)
    assert speech.read_bytes() == before


def test_bad_names(place: Path, refused: Refused, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    assert "did you mean theo?" in refused(
        "convert", place / "vqvae", place / "speech.wav", "--speaker", "thea", "--out", out
    )
    red = ("--speaker", "theo", "--label", "colour=red")
    assert "--label colour: no condition" in refused(
        "convert", place / "vqvae", place / "speech.wav", *red, "--out", out
    )
    assert "speaker: not given" in refused("generate", place / "babble", "--out", out)
    assert "expected NAME=VALUE" in refused(
        "generate", place / "babble", "--label", "speaker", "--out", out
    )
    assert "ends in .wav or .flac" in refused(
        "generate", place / "babble", "--out", tmp_path / "out.mp3"
    )
    assert "no such folder" in refused(
        "generate", place / "babble", "--out", tmp_path / "no" / "out.wav"
    )
    assert "temperature" in refused(
        "generate", place / "babble", "--speaker", "theo", "--temperature", "-1", "--out", out
    )
    assert "backend" in refused(
        "generate", place / "babble", "--speaker", "theo", "--backend", "cuda", "--out", out
    )
    assert not out.exists()


def test_bad_codes(place: Path, refused: Refused, tmp_path: Path) -> None:
    whole = (place / "codes.vqw").read_bytes()
    (tmp_path / "cut.vqw").write_bytes(whole[:-5])
    (tmp_path / "text.vqw").write_text("hello")
    out = tmp_path / "out.wav"
    assert "truncated or damaged" in refused(
        "decode", place / "vqvae", tmp_path / "cut.vqw", "--out", out
    )
    assert "not a .vqw file" in refused(
        "decode", place / "vqvae", tmp_path / "text.vqw", "--out", out
    )
    other = replace(VQVAE, time_jitter=0.5)
    saved(tmp_path / "other", other, weights={"encoder.out.bias": torch.ones(4)})
    assert "codes.vqw: these codes are of codec" in refused(
        "decode", tmp_path / "other", place / "codes.vqw", "--out", out
    )
    assert not out.exists()


def test_a_bad_corpus_folder(refused: Refused, tmp_path: Path) -> None:
    assert "nowhere" in refused(
        "prepare", "folder", tmp_path / "nowhere", "--out", tmp_path / "out"
    )
    assert "did you mean fsdd" in refused("prepare", "fssd", tmp_path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def distill(words: list[str]) -> None:
    """experiments/distill.py's own main, in this process."""
    script = Path(__file__).parents[2] / "experiments" / "distill.py"
    place = importlib.util.spec_from_file_location("distill_experiment", script)
    assert place is not None
    assert place.loader is not None
    module = sys.modules["distill_experiment"] = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    module.main(module.DistillExperiment, words)


def test_a_student_is_no_teacher_and_a_wrong_key_is_named(
    place: Path, tmp_path: Path, refused: Refused
) -> None:
    for speaker in LABELS["speaker"]:
        (tmp_path / "in" / speaker).mkdir(parents=True)
        for take in range(12):
            noise = 0.1 * np.random.default_rng(take).standard_normal(800)
            audio.write(tmp_path / "in" / speaker / f"{take}.wav", noise.astype(np.float32), 8000)
    main(["prepare", "folder", str(tmp_path / "in"), "--out", str(tmp_path / "corpus"), "--quiet"])
    common = (f"data.corpus={tmp_path / 'corpus'}", f"run={tmp_path / 'run'}")
    (tmp_path / "wrong.yaml").write_text("optim:\n  lrr: 0.1\n")
    nowhere = place / "nowhere"
    for argv, expected in (
        (("teacher=" + str(place / "student"), *common), "is itself a student"),
        (("--config", tmp_path / "wrong.yaml", *common), "did you mean optim.lr"),
        (("teacher=" + str(nowhere), *common), f"teacher: {nowhere}: no such model"),
    ):
        assert expected in refused(*argv, command=distill)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["speak", "m"], "speak: is now synthesize; see vqwave --help"),
        (
            ["evaluate", "m", "--limit", "3"],
            "--limit: is now --max-utterances; see",
        ),
        (["evaluate", "m", "--only=codes"], "--only: is now --metrics"),
        (["tune", "m", "--seconds", "3"], "--seconds: is now --max-seconds; see vqwave tune"),
        (["encode", "m", "-", "--level", "-20"], "--level: is now --input-rms-db"),
        (["encode", "m", "-", "--block", "1"], "--block: is now --chunk-seconds"),
        (["score", "m", "x.wav", "--vector", "a=b"], "--vector: is now --embedding"),
        (["synthesize", "m", "--frames", "a=b"], "--frames: is now --features"),
        (["generate", "m", "--prime", "x.wav"], "--prime: is now --prompt"),
        (["info", "m", "--limit", "3"], "unrecognized arguments: --limit 3"),
    ],
)
def test_an_old_flag_is_answered_with_the_new_one(
    words: list[str], line: str, refused: Refused
) -> None:
    assert refused(*words).startswith(f"error: {line}")


def test_every_new_flag_is_one_of_some_command(capsys: pytest.CaptureFixture[str]) -> None:
    commands = parser().commands
    flags = {flag for command in commands.values() for flag in command._option_string_actions}
    missing = {new for new in COMMAND_LINE.values() if new not in {*flags, *commands}}
    assert missing == set()
    with pytest.raises(UserInputError, match="--fresh: is now --restart"):
        split(["--fresh"])
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert (stopped.value.code, capsys.readouterr().out) == (0, f"vqwave {vqwave.__version__}\n")
    for name in ("encode", "decode", "convert", "generate", "synthesize", "score", "evaluate"):
        assert "--device" in commands[name]._option_string_actions, name


def test_help_and_errors_of_arguments_come_without_torch() -> None:
    """What is slow to import is imported once a command does its work."""
    script = """
import sys
from vqwave.cli import main, notes, parser
from vqwave.config.renamed import COMMAND_LINE
from vqwave.config.yaml_layers import split
def run(*words):
    try:
        main(words)
    except SystemExit as end:
        assert end.code == (0 if words[-1] == "--help" else 2), words
    assert not {"torch", "numba", "optuna"} & set(sys.modules), words
run("--help")
run("info", "--help")
run("nonsense")
run("evaluate", "m", "--limit", "3")
run("evaluate", "m")
run("evaluate", "m", "--data", "d", "--max-seconds", "0")
run("tune", "m", "--data", "d", "--max-utterances", "-1")
run("encode", "m", "x.wav")
run("decode", "m", "x.vqw", "--raw", "--out", "x.wav")
run("generate", "m", "--out", "x.mp3")
run("synthesize", "m", "--out", "x.wav", "--features", "mel")
run("sweep", "x.yaml", "--count", "0")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_model_says_what_it_is(place: Path) -> None:
    assert (
        repr(vqwave.load(place / "vqvae"))
        == "SpeechModel(vqvae, 8000 Hz, 150 bit/s, 3 speakers, decoder WaveNet)"
    )
    assert "decoder Student" in repr(vqwave.load(place / "student"))


@pytest.mark.parametrize(
    ("path", "line", "named"),
    [
        ("a", "the recording is silent", "a: the recording is silent"),
        ("run", "run/model: damaged", "run/model: damaged"),
        ("d/a.wav", "d/a.wav: empty", "d/a.wav: empty"),
        ("d/a.wav", "d/b.wav and d/a.wav are one", "d/b.wav and d/a.wav are one"),
    ],
)
def test_a_line_names_its_file_once(path: str, line: str, named: str) -> None:
    with pytest.raises(UserInputError) as found, about(path):
        raise UserInputError(line)
    assert str(found.value) == named
