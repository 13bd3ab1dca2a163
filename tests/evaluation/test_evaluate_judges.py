"""`vqwave evaluate` by judges trained elsewhere, which are made up here; two folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from buzz import RATE, Take, buzz, write_corpus
from small_models import SPECTRAL, saved

import vqwave
from vqwave.audio import Wave, write
from vqwave.cli import main
from vqwave.errors import Note, UnavailableError, UserInputError
from vqwave.evaluation import Settings, evaluate, panel
from vqwave.evaluation.baselines import own_frames, true_frames
from vqwave.evaluation.context import EvaluationContext
from vqwave.evaluation.folders import evaluate_folders, pairs, read_transcripts
from vqwave.evaluation.outputs import SystemOutputs
from vqwave.evaluation.panel import Measure, Panel, clustered, losses, ratio
from vqwave.evaluation.registry import MEASURES
from vqwave.evaluation.result import MetricValue, Result
from vqwave.evaluation.resume import fingerprint_of
from vqwave.metrics.naturalness import Scorer

PITCHES = {"high": 210, "low": 95}
SETTINGS = Settings(seconds=60.0, resamples=20)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """corpus/ of two voices, a text an utterance, and vqvae/, untrained, with a readout."""
    root = tmp_path_factory.mktemp("judges")
    takes = [
        Take(speaker, pitch, "test" if n > 2 else "train", f"take {speaker} {n}")
        for speaker, pitch in PITCHES.items()
        for n in range(5)
    ]
    labels = {"speaker": list(PITCHES)}
    write_corpus(root / "corpus", takes, 0.3, labels["speaker"])
    saved(root / "vqvae", SPECTRAL, labels)
    return root


class PitchEncoder:
    """A voice is high or low."""

    def embed(self, wave: Wave, sample_rate: int) -> np.ndarray:
        spectrum = np.abs(np.fft.rfft(wave))
        frequency = np.fft.rfftfreq(len(wave), 1 / sample_rate)
        high = float(spectrum[frequency < 150].max() < spectrum[frequency >= 150].max())
        return np.array([high, 1 - high])


@pytest.fixture(autouse=True)
def made_up(judges: Callable[[str, type], None]) -> None:
    judges("take high 3", PitchEncoder)


def figures(result: Result) -> dict[str, dict[str, MetricValue]]:
    return {row.key: row.figures for row in result.rows}


def test_words_of_a_constant_recogniser(place: Path) -> None:
    """Texts are take {high,low} {3,4}: of 12 words 4 are wrong, whatever is said."""
    settings = replace(SETTINGS, only=("wer",))
    with pytest.warns(Note, match="too few"):
        found = figures(evaluate(place / "vqvae", place / "corpus", settings))
    columns = {"ceiling", "mu-law", "griffin-lim", "frames", "model"}
    assert set(found) == {"wer.words", "wer.characters"}
    assert set(found["wer.words"]) == columns
    for figure in found["wer.words"].values():
        assert figure.value == pytest.approx(100 * 4 / 12)


def test_similarity_to_training_recordings(place: Path) -> None:
    with pytest.warns(Note):
        row = figures(
            evaluate(place / "vqvae", place / "corpus", replace(SETTINGS, only=("similarity",)))
        )
    ceiling, floor = (row["similarity.voice"][name] for name in ("ceiling", "floor"))
    assert (ceiling.value, floor.value) == (1.0, 0.0)


def test_cut_utterances_have_no_words(place: Path) -> None:
    settings = replace(SETTINGS, only=("wer", "mos"), seconds=0.2)
    with pytest.warns(Note):
        result = evaluate(place / "vqvae", place / "corpus", settings)
    assert result.skipped == {"wer": "no utterance that was read completely has a text"}
    assert set(figures(result)) == {"mos.overall"}


def test_conversions_beside_a_perfect_converter(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is a recording of the target: it is nearer always, and its F0 is the target's."""
    pytest.importorskip("parselmouth", reason="F0 is Praat's: pip install 'vqwave[metrics]'")
    recordings = {name: buzz(pitch, 0.3) for name, pitch in PITCHES.items()}

    def decoded(self: SystemOutputs, system: str, name: str, coded: list, *_: object) -> list[Wave]:
        return [recordings[item.speaker].copy() for item in coded]

    monkeypatch.setattr(SystemOutputs, "_decoded", decoded)
    with pytest.warns(Note):
        result = evaluate(place / "vqvae", place / "corpus", replace(SETTINGS, only=("converted",)))
    found = figures(result)
    (similarity,) = (each for each in result.matrices if each.key == "converted.similarity.model")
    assert similarity.rows == similarity.columns == sorted(PITCHES)
    assert similarity.values == [[None, 1.0], [1.0, None]]
    assert found["converted.target"]["model"].value == 1
    assert found["converted.source"]["model"].value == 0
    assert found["converted.nearer"]["model"].value == 100
    assert found["converted.nearer"]["floor"].value == 0
    assert found["converted.nearer"]["ceiling"].value == 100
    assert found["converted.f0"]["model"].value < 0.1
    assert found["converted.f0"]["floor"].value == pytest.approx(12 * np.log2(210 / 95), abs=0.2)
    assert found["converted.words"]["model"].value == pytest.approx(100 * 4 / 12)
    assert {"ceiling", "frames", "model"} <= set(found["converted.mos"])


def test_only_some_speakers(place: Path) -> None:
    codec, corpus = vqwave.load(place / "vqvae"), vqwave.evaluation.Corpus.open(place / "corpus")
    context = EvaluationContext(corpus, codec, None, replace(SETTINGS, speakers=("low",)))
    assert set(context.label("speaker")) == {"low"}
    assert context.targets == ["low"]
    assert context.pairs == []
    with pytest.raises(UserInputError, match=r"no speaker 'lwo'.*low"):
        EvaluationContext(corpus, codec, None, replace(SETTINGS, speakers=("lwo",)))


def test_voices_that_the_decoder_was_not_trained_on_are_not_measured(place: Path) -> None:
    """Neither as sources nor as targets, although the corpus has training recordings of them."""
    codec, corpus = vqwave.load(place / "vqvae"), vqwave.evaluation.Corpus.open(place / "corpus")
    codec.card.about["untrained_labels"] = {"speaker": ["high"]}
    context = EvaluationContext(corpus, codec, None, SETTINGS)
    assert set(context.label("speaker")) == set(context.targets) == {"low"}


def test_own_frames_are_the_readouts(place: Path) -> None:
    """Where every predicted frame is the same loud one, Griffin-Lim has that frame."""
    codec, corpus = vqwave.load(place / "vqvae"), vqwave.evaluation.Corpus.open(place / "corpus")
    torch.nn.init.zeros_(codec.model.spectral_decoder.out.weight)
    torch.nn.init.zeros_(codec.model.spectral_decoder.out.bias)
    codec.model.spectral_decoder.frontend.standardise.mean.fill_(-1.5)
    context = EvaluationContext(corpus, codec, None, SETTINGS)
    waves = own_frames(context)
    assert [len(wave) for wave in waves] == [len(wave) for wave in context.waves]
    features = codec.model.spectral_decoder.frontend.features
    frames = features(torch.from_numpy(waves[0])[None])[..., 2:-2]
    assert float((frames + 1.5).abs().mean()) < 0.3
    again = features(torch.from_numpy(true_frames(context)[0])[None])
    true = features(torch.from_numpy(context.waves[0])[None])
    assert float((again - true).abs().mean()) < 0.2


def test_a_decoder_that_loses_to_its_own_frames_says_so() -> None:
    better = Measure("x.y", "score", "%", "higher", ratio)
    worse = replace(better, better="lower")
    row = {"frames": MetricValue(2.0), "model": MetricValue(1.0), "student": MetricValue(3.0)}
    assert losses(better, row) == [
        "the model's decoder loses to Griffin-Lim of its own frames, 1 against 2 %"
    ]
    assert len(losses(worse, row)) == 1
    assert "student" in losses(worse, row)[0]
    assert not losses(better, {"model": MetricValue(1.0)})
    result, judges = Result(), Panel(RATE, resamples=0)
    columns = {"frames": lambda: [np.ones(1)], "model": lambda: [np.zeros(1)]}
    with pytest.warns(Note, match="score: the model's decoder loses"):
        judges.table(result, columns, (better,), lambda name, waves: np.array([[waves[0][0], 1.0]]))
    assert "loses" in result.rows[0].note


def test_each_waveform_is_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(panel, "dnsmos", lambda: lambda wave, rate: calls.append(len(wave)) or 1.0)
    judges, wave = Panel(RATE), np.zeros(3, np.float32)
    assert judges.scores("a", [wave, wave]) == [1.0, 1.0]
    judges.scores("b", [wave, np.zeros(4, np.float32)])
    assert calls == [3, 4]


def test_clusters_are_summed() -> None:
    sums = np.array([[1.0, 1.0], [0.0, 1.0], [5.0, 1.0]])
    assert clustered(sums, [7, 7, 2]).tolist() == [[5, 1], [1, 2]]


def test_what_was_measured_is_kept_when_it_is_stopped(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped as the model decodes: columns before it are on disk, missing ones named."""
    out = tmp_path / "metrics.json"

    def stopped(self: SystemOutputs, system: str) -> list[Wave]:
        raise KeyboardInterrupt

    monkeypatch.setattr(SystemOutputs, "reconstructed", stopped)
    command = ["evaluate", str(place / "vqvae"), "--data", str(place / "corpus"), "--quiet"]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main([*command, "--metrics", "codes,wer,mos", "--out", str(out)])
    tree = json.loads(out.read_text())
    rows = {row["key"]: row for row in tree["rows"]}
    assert "codes.perplexity" in rows
    assert set(rows["wer.words"]["figures"]) == {"ceiling", "mu-law", "griffin-lim", "frames"}
    assert tree["pending"] == ["wer", "mos"]


def halved(self: SystemOutputs, system: str) -> list[Wave]:
    """What stands for reconstructions."""
    return [wave / 2 for wave in self.utterances.waves]


def test_an_interrupted_evaluation_goes_on(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same command measures what is missing, column by column, and writes the same file as one
    that was not interrupted.
    """
    scored = []
    monkeypatch.setattr(
        panel, "dnsmos", lambda: lambda wave, rate: scored.append(1) or float(np.abs(wave).max())
    )
    command = ["evaluate", str(place / "vqvae"), "--data", str(place / "corpus")]
    command += ["--metrics", "codes,mos,wer", "--out"]
    out, uninterrupted = str(tmp_path / "out.json"), str(tmp_path / "uninterrupted.json")

    def stopped(self: SystemOutputs, system: str) -> list[Wave]:
        raise KeyboardInterrupt

    monkeypatch.setattr(SystemOutputs, "reconstructed", stopped)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main([*command, out])
    monkeypatch.setattr(SystemOutputs, "reconstructed", halved)
    main([*command, uninterrupted])
    assert "taken over" not in capsys.readouterr().err
    scored.clear()
    with monkeypatch.context() as patch:
        patch.setitem(MEASURES, "codes", lambda context, result: pytest.fail("measured again"))
        main([*command, out])
    assert len(scored) == 4  # the model's copies alone
    assert Path(out).read_text() == Path(uninterrupted).read_text()
    line = f"{out}: taken over codes, a part of mos; --restart measures anew"
    assert capsys.readouterr().err.count(line) == 1


def test_measures_that_are_not_asked_for_again_stay(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SystemOutputs, "reconstructed", halved)
    monkeypatch.setitem(MEASURES, "wer", lambda context, result: None)
    out = tmp_path / "out.json"
    command = ["evaluate", str(place / "vqvae"), "--data", str(place / "corpus"), "--out", str(out)]
    main([*command, "--metrics", "mos"])
    rows = json.loads(out.read_text())["rows"]
    assert rows
    main([*command, "--metrics", "wer"])
    again = json.loads(out.read_text())
    assert again["rows"] == rows
    assert set(again["finished"]) == {"mos", "wer"}


def test_a_file_of_other_settings_is_overwritten(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    taken = []
    monkeypatch.setitem(MEASURES, "mos", lambda context, result: taken.append(context.settings))
    out = tmp_path / "out.json"
    command = ["evaluate", str(place / "vqvae"), "--data", str(place / "corpus")]
    command += ["--metrics", "mos", "--out", str(out)]
    main(command)
    main(command)
    assert len(taken) == 1
    main([*command, "--restart"])
    assert len(taken) == 2
    capsys.readouterr()
    main([*command, "--seed", "1"])
    assert len(taken) == 3
    assert "it is overwritten" in capsys.readouterr().err
    assert json.loads(out.read_text())["seed"] == 1
    out.write_text("no JSON")
    main(command)
    assert len(taken) == 4
    assert json.loads(out.read_text())["seed"] == 0


def test_a_model_is_named_by_its_weights_and_its_card(place: Path) -> None:
    codec = vqwave.load(place / "vqvae")
    names = [fingerprint_of(codec), fingerprint_of(vqwave.load(place / "vqvae"))]
    assert names[0] == names[1]
    codec.card.about["temperature"] = {"choice": 0.5}
    names.append(fingerprint_of(codec))
    torch.nn.init.zeros_(next(codec.decoder.parameters()))
    names.append(fingerprint_of(codec))
    assert len(set(names)) == 3


@pytest.mark.parametrize(
    ("names", "seconds"), [("wer", 3600.0), ("codes", 4.0), ("codes,dnsmos", 3600.0)]
)
def test_utterances_whose_words_count_are_whole(
    names: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    monkeypatch.setattr(
        "vqwave.evaluation.evaluate",
        lambda model, data, settings, **_: taken.append(settings) or Result(),
    )
    main(["evaluate", "x", "--data", "y", "--metrics", names])
    main(
        [
            "evaluate",
            "x",
            "--data",
            "y",
            "--metrics",
            names,
            "--max-seconds",
            "2",
            "--speakers",
            "a, b",
        ]
    )
    assert [settings.seconds for settings in taken] == [seconds, 2.0]
    assert taken[1].speakers == ("a", "b")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """recordings/SPEAKER/N.flac with a manifest, copies/N.wav at another rate."""
    recordings, copies = tmp_path / "recordings", tmp_path / "copies"
    lines = ["path,speaker,text"]
    for number, (speaker, pitch) in enumerate(2 * list(PITCHES.items())):
        name = f"{speaker}/{number}.flac"
        write(recordings / name, buzz(pitch, 0.4), RATE)
        write(copies / f"{number}.wav", buzz(pitch, 0.4)[::2], RATE // 2)
        lines.append(f"{name},{speaker},take high 3")
    (recordings / "manifest.csv").write_text("\n".join(lines))
    return recordings, copies


def test_two_folders(folders: tuple[Path, Path]) -> None:
    found = evaluate_folders(*folders, only=("wer", "similarity", "mos"), resamples=20)
    rows = figures(found)
    assert found.about["utterances"] == 4
    assert found.about["sample_rate"] == RATE
    assert set(rows["wer.words"]) == {"ceiling", "mu-law", "griffin-lim", "model"}
    assert rows["wer.words"]["model"].value == 0
    assert rows["similarity.voice"]["ceiling"].value == 1
    assert rows["mos.overall"]["model"].value == pytest.approx(
        rows["mos.overall"]["ceiling"].value, rel=0.2
    )
    assert found.pending == []


def test_the_command_on_two_folders(
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    refused: Callable[..., str],
) -> None:
    def no_dnsmos() -> Scorer:
        raise UnavailableError("not to be asked for")

    recordings, copies = map(str, folders)
    command = ["evaluate", "--recordings", recordings, "--copies", copies, "--quiet"]
    main([*command, "--metrics", "mos", "--out", str(tmp_path / "x.json")])
    assert "DNSMOS" in capsys.readouterr().out
    assert json.loads((tmp_path / "x.json").read_text())["kind"] == "copies"
    with monkeypatch.context() as patch:  # which takes nothing that it has already
        patch.setattr(panel, "dnsmos", no_dnsmos)
        main([*command, "--metrics", "mos", "--out", str(tmp_path / "x.json")])
        assert "not to be asked for" not in capsys.readouterr().out
        again = [*command, "--metrics", "mos", "--out", str(tmp_path / "x.json"), "--restart"]
        assert "nothing was measured: not to be asked for" in refused(*again)
    for wrong, complaint in (
        (["evaluate", "--recordings", recordings], "--copies: not given"),
        (["evaluate", "fsdd"], "--data: not given"),
        (["evaluate", "fsdd", *command[1:]], "need no model"),
        ([*command, "--metrics", "abx"], "measure 'abx': expected of wer"),
        ([*command, "--transcripts", str(tmp_path / "none.txt")], "no such file"),
        ([*command, "--resamples", "0"], "--resamples 0"),
        ([*command, "--max-utterances", "1"], "--max-utterances: is of a model on a corpus"),
        ([*command, "--speakers", "low"], "--speakers: is of a model on a corpus"),
    ):
        assert complaint in refused(*wrong)


def test_pairs_by_name(folders: tuple[Path, Path], tmp_path: Path) -> None:
    recordings, copies = folders
    found = pairs(recordings, copies)
    assert (found[0].name, found[0].copy.name, found[0].transcript.speaker) == (
        "high/0",
        "0.wav",
        "high",
    )
    texts = tmp_path / "texts.txt"
    texts.write_text("0 HELLO THERE\nlow/1 OTHER\n")
    said = {pair.name: pair.transcript.text for pair in pairs(recordings, copies, texts)}
    assert said == {"high/0": "HELLO THERE", "low/1": "OTHER", "high/2": "", "low/3": ""}
    (copies / "2.wav").unlink()
    with pytest.warns(Note, match="1 of 4 recordings have no copy"):
        assert len(pairs(recordings, copies)) == 3
    write(copies / "9.wav", buzz(100, 0.1), RATE)
    with pytest.raises(UserInputError, match=r"9\.wav: no recording of this name"):
        pairs(recordings, copies)
    write(recordings / "low/0.flac", buzz(100, 0.1), RATE)
    (copies / "9.wav").unlink()
    with pytest.raises(UserInputError, match=r"0\.wav: recordings high/0, low/0"):
        pairs(recordings, copies)


def test_transcripts_of_each_kind(tmp_path: Path) -> None:
    table = tmp_path / "x.csv"
    table.write_text("path,text,speaker\na/b.flac,One two,me\n")
    assert read_transcripts(table)["a/b"] == read_transcripts(table)["b"]
    assert read_transcripts(table)["b"].speaker == "me"
    table.write_text("file,words\na,b\n")
    with pytest.raises(UserInputError, match="line 2: expected the columns path and text"):
        read_transcripts(table)
    lines = tmp_path / "19-198.trans.txt"
    lines.write_text("19-198-0000 NORTHANGER ABBEY\n")
    assert read_transcripts(lines)["19-198-0000"].text == "NORTHANGER ABBEY"
    lines.write_text("a\tone two\nb\n")
    assert {name: each.text for name, each in read_transcripts(lines).items()} == {
        "a": "one two",
        "b": "",
    }


def test_places_in_a_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: tuple[Path, Path]
) -> None:
    """Absolute, elsewhere, or several in one file, whose texts are not that of the file."""
    recordings, copies = folders
    (recordings / "manifest.csv").unlink()
    rows = [
        {"path": str(recordings / "high" / "0.flac"), "speaker": "h", "text": "one"},
        {"path": "low/1.flac", "speaker": "l", "start": 0, "frames": 100, "text": "two"},
        {"path": "low/1.flac", "speaker": "l", "start": 100, "frames": 100, "text": "three"},
        {"path": "high/2.flac", "speaker": "h", "start": 100, "frames": 100, "text": "four"},
    ]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (recordings / "manifest.jsonl").write_text(lines)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(Note, match=r"low/1\.flac has several texts"):
        found = pairs(Path("recordings"), copies)
    texts = {pair.name: pair.transcript.text for pair in found}
    assert texts == {"high/0": "one", "low/1": "", "high/2": "", "low/3": ""}
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "texts.jsonl").write_text(lines.splitlines()[0])
    elsewhere = pairs(recordings, copies, tmp_path / "meta" / "texts.jsonl")
    assert [pair.transcript.text for pair in elsewhere] == ["one", "", "", ""]


def test_a_text_without_a_word_is_left_out(folders: tuple[Path, Path]) -> None:
    recordings, _ = folders
    manifest = recordings / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("take high 3", "...", 1))
    rows = figures(evaluate_folders(*folders, only=("wer",), resamples=20))
    assert rows["wer.words"]["model"].value == 0


def test_nothing_measured_is_an_error(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where measures were named, and the package of each is missing."""
    monkeypatch.setattr(panel, "speaker_encoder", missing)
    words = ["evaluate", str(place / "vqvae"), "--data", str(place / "corpus")]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--metrics", "similarity", "--quiet"])
    assert stopped.value.code == 2
    assert "--metrics similarity: nothing was measured: not here" in capsys.readouterr().err


def missing() -> None:
    raise UnavailableError("not here")
