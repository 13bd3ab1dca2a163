"""Every layout, as people have it on disk, in small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from vqwave.data import RECIPES, prepare
from vqwave.data.manifest import Recording, Rejected, read_manifest, write_manifest
from vqwave.data.splits import assign_splits
from vqwave.errors import UserInputError


def put(path: Path, rate: int = 8000, frames: int = 1600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(str(path))).normal(0, 0.1, frames)
    soundfile.write(path, noise, rate)
    return path


def rows(kind: str, source: Path) -> tuple[dict[str, Recording], list[Rejected]]:
    found = list(RECIPES[kind].rows(source))
    recordings = assign_splits([row for row in found if isinstance(row, Recording)])
    return {row.id: row for row in recordings}, [row for row in found if isinstance(row, Rejected)]


def test_fsdd_as_its_repository(tmp_path: Path) -> None:
    for name in ("0_theo_0", "7_theo_4", "7_theo_5", "3_george_9", "3_george_10", "9_jackson_49"):
        put(tmp_path / "recordings" / f"{name}.wav")
    put(tmp_path / "recordings" / "noise.wav")
    found, rejected = rows("fsdd", tmp_path)
    assert {name: row.split for name, row in found.items()} == {
        "0_theo_0": "test",
        "7_theo_4": "test",
        "7_theo_5": "valid",
        "3_george_9": "valid",
        "3_george_10": "train",
        "9_jackson_49": "train",
    }
    assert (found["3_george_10"].speaker, found["3_george_10"].text) == ("george", "3")
    assert [row.path.name for row in rejected] == ["noise.wav"]
    assert rows("fsdd", tmp_path / "recordings")[0].keys() == found.keys()


def test_fsdd_as_a_folder_with_a_manifest(tmp_path: Path) -> None:
    put(tmp_path / "theo" / "1_theo_7.flac")
    (tmp_path / "manifest.csv").write_text(
        "path,speaker,text,take,split\ntheo/1_theo_7.flac,theo,1,7,valid\n"
    )
    (tmp_path / "speakers.csv").write_text("speaker,gender,seconds\ntheo,male,12\n")
    found, _ = rows("fsdd", tmp_path)
    assert found["theo/1_theo_7"].split == "valid"
    assert found["theo/1_theo_7"].labels == {"gender": "male"}


@pytest.mark.parametrize("inside", ["", "LibriSpeech", "test-speech"])
def test_librispeech(tmp_path: Path, inside: str) -> None:
    """Whatever the folder of all parts is called."""
    root = tmp_path / inside
    source = tmp_path if inside == "LibriSpeech" else root
    for part, name in (
        ("train-clean-100", "19-198-0000"),
        ("dev-clean", "84-121-0001"),
        ("test-other", "61-70-0002"),
    ):
        speaker, chapter, _ = name.split("-")
        folder = put(root / part / speaker / chapter / f"{name}.flac").parent
        (folder / f"{speaker}-{chapter}.trans.txt").write_text(f"{name} NORTHANGER ABBEY\n")
    with (folder / "61-70.trans.txt").open("a") as file:
        file.write("61-70-0003 NO SUCH FILE\n")
    put(folder / "other.flac")
    table = "; a comment\n19   | F | train-clean-100 | 25.03 | Kara\n84 | M | dev-clean | 8 | C\n"
    (root / "SPEAKERS.TXT").write_text(table)
    found, rejected = rows("librispeech", source)
    assert {name: row.split for name, row in found.items()} == {
        "19-198-0000": "train",
        "84-121-0001": "valid",
        "61-70-0002": "test",
    }
    assert found["19-198-0000"].labels == {"gender": "F"}
    assert found["61-70-0002"].labels == {}
    assert {row.text for row in found.values()} == {"NORTHANGER ABBEY"}
    assert {row.path.name for row in rejected} == {"61-70-0003.flac", "other.flac"}


@pytest.mark.parametrize(
    ("audio", "ending", "header"),
    [("wav48", ".wav", "225"), ("wav48_silence_trimmed", "_mic1.flac", "p225")],
)
def test_vctk(tmp_path: Path, audio: str, ending: str, header: str) -> None:
    for k in (1, 2):
        put(tmp_path / audio / "p225" / f"p225_00{k}{ending}")
    put(tmp_path / audio / "s5" / f"s5_001{ending}")
    if "mic1" in ending:
        put(tmp_path / audio / "p225" / "p225_001_mic2.flac")
    (tmp_path / "txt" / "p225").mkdir(parents=True)
    (tmp_path / "txt" / "p225" / "p225_001.txt").write_text("Please call Stella.\n")
    table = f"ID  AGE  GENDER  ACCENTS  REGION\n{header}  23  F    English    Southern  England\n"
    (tmp_path / "speaker-info.txt").write_text(table)
    found, rejected = rows("vctk", tmp_path)
    assert set(found) == {"p225_001", "p225_002", "s5_001"}
    assert found["p225_001"].text == "Please call Stella."
    assert found["p225_002"].text == ""
    assert found["p225_001"].labels == {"gender": "F", "accent": "English"}
    assert found["s5_001"].labels == {}
    assert rejected == []


def test_ljspeech(tmp_path: Path) -> None:
    put(tmp_path / "wavs" / "LJ001-0001.wav", 22050)
    put(tmp_path / "wavs" / "stray.wav", 22050)
    table = 'LJ001-0001|"Printing, in 1450|"Printing, in fourteen fifty\nLJ001-0002|gone|gone\n'
    (tmp_path / "metadata.csv").write_text(table)
    found, rejected = rows("ljspeech", tmp_path)
    assert set(found) == {"LJ001-0001", "LJ001-0002"}
    assert found["LJ001-0001"].text == '"Printing, in fourteen fifty'
    assert [row.path.name for row in rejected] == ["stray.wav"]
    summary = prepare("ljspeech", tmp_path, tmp_path / "out", quiet=True)
    assert {(row.path.name, row.reason.split(",")[0]) for row in summary.rejected} == {
        ("stray.wav", "not in metadata.csv"),
        ("LJ001-0002.wav", "no such file"),
    }


@pytest.mark.parametrize("language", ["english", "surprise", "."])
def test_zerospeech2019(tmp_path: Path, language: str) -> None:
    root = tmp_path / language
    for name in (
        "train/voice/V001_01",
        "train/unit/S015_02",
        "train/parallel/voice/V002_03",
        "test/S002_04",
    ):
        put(root / f"{name}.wav", 16000)
    put(root / "train" / "stray.wav", 16000)
    found, rejected = rows("zerospeech2019", tmp_path)
    assert {row.speaker for row in found.values()} == {"V001", "S015", "V002", "S002"}
    assert [row.speaker for row in found.values() if row.split == "test"] == ["S002"]
    assert {row.split for row in found.values()} == {"train", "valid", "test"}
    assert [row.path.name for row in rejected] == ["stray.wav"]


def test_folder_with_and_without_splits(tmp_path: Path) -> None:
    for name in ("ann/a", "ann/deep/b", "bob/c"):
        put(tmp_path / "plain" / f"{name}.wav")
        put(tmp_path / "split" / "train" / f"{name}.wav")
    put(tmp_path / "plain" / "stray.wav")
    (tmp_path / "plain" / "ann" / "a.txt").write_text("hello\n")
    put(tmp_path / "split" / "dev" / "ann" / "d.wav")
    plain, rejected = rows("folder", tmp_path / "plain")
    assert {name: row.speaker for name, row in plain.items()} == {
        "ann/a": "ann",
        "ann/deep/b": "ann",
        "bob/c": "bob",
    }
    assert plain["ann/a"].text == "hello"
    assert [row.path.name for row in rejected] == ["stray.wav"]
    split, _ = rows("folder", tmp_path / "split")
    assert split["dev/ann/d"].split == "valid"
    assert split["train/ann/deep/b"].speaker == "ann"
    put(tmp_path / "plain" / "ann" / "a.flac")
    assert set(rows("folder", tmp_path / "plain")[0]) == {
        "ann/a.wav",
        "ann/a.flac",
        "ann/deep/b",
        "bob/c",
    }


def test_splits_next_to_other_folders(tmp_path: Path) -> None:
    """One without recordings changes nothing; with recordings, nobody knows what is held out."""
    for name in ("train/ann/a", "test/ann/b"):
        put(tmp_path / f"{name}.wav")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "readme.md").touch()
    found, _ = rows("folder", tmp_path)
    assert {name: row.split for name, row in found.items()} == {
        "train/ann/a": "train",
        "test/ann/b": "test",
    }
    put(tmp_path / "more" / "ann" / "c.wav")
    with pytest.raises(UserInputError, match=r"test/SPEAKER and in more, expected all of them in"):
        rows("folder", tmp_path)


def test_the_mark_at_the_beginning_of_a_text_is_not_said(tmp_path: Path) -> None:
    put(tmp_path / "ann" / "a.wav")
    (tmp_path / "ann" / "a.txt").write_text("hello\n", encoding="utf-8-sig")
    assert rows("folder", tmp_path)[0]["ann/a"].text == "hello"


def test_a_manifest_comes_back_as_written(tmp_path: Path) -> None:
    written = [
        Recording(
            path=tmp_path / "a.wav",
            speaker="ann",
            id="one",
            text='hé, "x"',
            split="train",
            sample_rate=8000,
            labels={"gender": "f"},
            phones=((0, "_"), (9, "a")),
        ),
        Recording(tmp_path / "a.wav", "ann", "two", start=400, frames=800),
    ]
    write_manifest(tmp_path / "manifest.jsonl", written)
    assert list(read_manifest(tmp_path / "manifest.jsonl")) == written


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "file,speaker\na.wav,ann\n", "line 2: no 'path'.*file"),
        ("m.csv", "path,speaker\na.wav,\n", "line 2: no 'speaker'"),
        ("m.csv", "path,speaker,split\na.wav,ann,tset\n", "split 'tset'.*test"),
        ("m.csv", "path,speaker,start\na.wav,ann,x\n", "start is 'x'"),
        ("m.csv", "path,speaker,start\na.wav,ann,-4\n", "no negative"),
        ("m.jsonl", '{"path": "a.wav", "speaker": "ann"}\n{"path": \n', "line 2: not JSON"),
        ("m.jsonl", "[1]\n", "line 1: should be an object"),
        ("m.jsonl", '{"path": "a.wav", "speaker": "ann", "phones": [3]}\n', "line 1: phones"),
        ("m.csv", "path,speaker\n", "no recordings found"),
        ("m.csv", "path,speaker\na.wav,ann\na.wav,bob\n", "ids occur twice.*'a'"),
    ],
)
def test_a_bad_manifest_is_named_with_its_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    put(tmp_path / "a.wav")
    (tmp_path / name).write_text(text)
    with pytest.raises(UserInputError, match=message) as error:
        prepare("manifest", tmp_path / name, tmp_path / "out", quiet=True)
    assert name in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [name for name, recipe in RECIPES.items() if recipe.needs_source])
def test_a_folder_without_the_layout_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    cases = (
        (tmp_path / "missing", "no such"),
        (tmp_path / "in", "expected|holds no"),
        (None, "needs a source"),
    )
    for source, message in cases:
        with pytest.raises(UserInputError, match=message):
            prepare(kind, source, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()
