"""Shards of WebDataset and manifests of lhotse: what is in them arrives in the corpus, what cannot
be used is reported.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from vqwave import audio
from vqwave.data import RECIPES, Corpus, prepare
from vqwave.data.manifest import Recording, Rejected
from vqwave.errors import UserInputError

RATE = 8000


def tone(hertz: float, frames: int = 1600) -> np.ndarray:
    return 0.1 * np.sin(2 * np.pi * hertz * np.arange(frames) / RATE)


def sound(hertz: float, kind: str = "FLAC") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(hertz), RATE, format=kind)
    return file.getvalue()


def shard(path: Path, members: dict[str, bytes | str | dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            text = json.dumps(content) if isinstance(content, dict) else content
            data = text.encode() if isinstance(text, str) else text
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def rows(kind: str, source: Path) -> tuple[dict[str, Recording], list[Rejected]]:
    found = list(RECIPES[kind].rows(source))
    return {row.id: row for row in found if isinstance(row, Recording)}, [
        row for row in found if isinstance(row, Rejected)
    ]


def pitch(wave: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(wave)).argmax() * RATE / len(wave))


def test_shards_arrive_with_their_texts_speakers_and_splits(tmp_path: Path) -> None:
    shard(
        tmp_path / "in" / "train-0000.tar",
        {
            "a/1.flac": sound(400),
            "a/1.json": {"speaker_id": 17, "text": "from json", "gender": "f", "duration": 3.2},
            "a/2.wav": sound(600, "WAV"),
            "a/2.txt": "from txt\n",
            "a/2.json": {"speaker": "bob", "text": "not this"},
            "b.v1.flac": sound(800),
        },
    )
    shard(
        tmp_path / "in" / "dev" / "0.tar",
        {"c.flac": sound(1000), "c.cls": "3", "c.png": b"not read"},
    )
    found, rejected = rows("webdataset", tmp_path / "in")
    # its ending is v1.flac, as WebDataset has it
    assert [row.reason for row in rejected] == ["no sound of the key 'b'"]
    assert {name: (row.speaker, row.text, row.split) for name, row in found.items()} == {
        "train-0000/a/1": ("17", "from json", "train"),
        "train-0000/a/2": ("bob", "from txt", "train"),
        "dev/0/c": ("unknown", "", "valid"),
    }
    assert found["train-0000/a/1"].labels == {"gender": "f"}
    assert found["dev/0/c"].labels == {"class": "3"}
    prepare("webdataset", tmp_path / "in", tmp_path / "out", quiet=True)
    corpus = Corpus.open(tmp_path / "out")
    assert (corpus.name, corpus.sample_rate) == ("in", RATE)
    pitches = {u.id: pitch(corpus.read(row)) for row, u in enumerate(corpus.utterances)}
    assert pitches == {"train-0000/a/1": 400.0, "train-0000/a/2": 600.0, "dev/0/c": 1000.0}


def test_one_shard_alone(tmp_path: Path) -> None:
    path = shard(tmp_path / "all.tar", {f"{k}.flac": sound(300 + 100 * k) for k in range(4)})
    summary = prepare("webdataset", path, tmp_path / "out", quiet=True)
    assert summary.total.utterances == 4
    assert {u.split for u in Corpus.open(tmp_path / "out").utterances} == {"train", "valid", "test"}


def test_what_shards_hold_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    whole = shard(
        tmp_path / "in" / "0.tar",
        {
            "good.flac": sound(400),
            "good.json": {"speaker": "ann"},
            "torn.flac": sound(500)[:300],
            "two.flac": sound(500),
            "two.wav": sound(500, "WAV"),
            "bad.flac": sound(500),
            "bad.json": "{",
            "silent.flac": sound(0),
            "textonly.txt": "hello",
        },
    )
    (tmp_path / "in" / "1.tar").write_bytes(whole.read_bytes()[:700])
    (tmp_path / "in" / "2.tar.gz").write_bytes(gzip.compress(whole.read_bytes()))
    (tmp_path / "in" / "3.tar").write_bytes(b"no tar at all" * 100)
    summary = prepare("webdataset", tmp_path / "in", tmp_path / "out", quiet=True)
    assert [u.id for u in Corpus.open(tmp_path / "out").utterances] == ["0/good"]
    reasons = {(row.path.name, " ".join(row.reason.split()[:4])) for row in summary.rejected}
    assert {
        ("0.tar", "holds two sounds of"),
        ("0.tar", "bad.json is no JSON"),
        ("0.tar", "0/silent: silent"),
        ("0.tar", "no sound of the"),
        ("1.tar", "not a complete, plain"),
        ("2.tar.gz", "is compressed, expected a"),
        ("3.tar", "not a complete, plain"),
    } <= reasons
    assert sum(reason.startswith("0/torn: ") for _, reason in reasons) == 1
    with pytest.raises(UserInputError, match="no recordings found"):
        prepare("webdataset", tmp_path / "in" / "3.tar", tmp_path / "other", quiet=True)


def manifest(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def recording(name: str, path: str, **changes: object) -> dict[str, Any]:
    sources = [{"type": "file", "channels": [0], "source": path}]
    return {
        "id": name,
        "sources": sources,
        "sampling_rate": RATE,
        "num_samples": 3200,
        "duration": 0.4,
        "channel_ids": [0],
    } | changes


def supervision(
    name: str, of: str, start: float = 0.0, duration: float = 0.4, **more: object
) -> dict[str, Any]:
    return {
        "id": name,
        "recording_id": of,
        "start": start,
        "duration": duration,
        "channel": 0,
    } | more


def two_tones(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write(path, np.concatenate([tone(400), tone(800)]).astype(np.float32), RATE)


def test_recordings_and_supervisions(tmp_path: Path) -> None:
    two_tones(tmp_path / "wav" / "one.wav")
    manifest(
        tmp_path / "x_recordings_train.jsonl.gz",
        [recording("one", "wav/one.wav"), recording("alone", "wav/one.wav")],
    )
    phones = [["a", 0.2, 0.1, None], ["b", 0.3, 0.1, None]]
    spoken = [
        supervision(
            "one-1", "one", 0.0, 0.2, speaker="ann", text="low", gender="f", custom={"accent": "us"}
        ),
        supervision(
            "one-2", "one", 0.2, 0.2, speaker="bob", text="high", alignment={"phone": phones}
        ),
        supervision("two-1", "two"),
    ]
    manifest(tmp_path / "x_supervisions_train.jsonl.gz", spoken)
    found, rejected = rows("lhotse", tmp_path)
    assert found.keys() == {"one-1", "one-2"}
    assert found["one-1"].labels == {"gender": "f", "accent": "us"}
    assert found["one-2"].phones == ((1600, "a"), (2400, "b"))
    assert {row.reason for row in rejected} == {
        "supervision 'two-1' is of the recording 'two', which is nowhere",
        "no supervision of the recording 'alone'",
    }
    prepare("lhotse", tmp_path, tmp_path / "out", quiet=True)
    corpus = Corpus.open(tmp_path / "out")
    by_name = {
        u.id: (u.speaker, u.text, pitch(corpus.read(row)), u.phones)
        for row, u in enumerate(corpus.utterances)
    }
    assert by_name == {
        "one-1": ("ann", "low", 400.0, ()),
        "one-2": ("bob", "high", 800.0, ((0, "a"), (800, "b"))),
    }


def test_cuts(tmp_path: Path) -> None:
    two_tones(tmp_path / "one.wav")
    inside = {"type": "MonoCut", "channel": 0, "recording": recording("one", "one.wav")}
    cuts = [
        inside
        | {
            "id": "c1",
            "start": 0.2,
            "duration": 0.2,
            "supervisions": [supervision("s1", "one", -0.1, 9.0, speaker="ann")],
        },
        inside | {"id": "c2", "start": 0.0, "duration": 0.2, "supervisions": []},
        {"type": "MixedCut", "id": "c3", "tracks": []},
        inside
        | {
            "id": "c4",
            "start": 0.0,
            "duration": 0.4,
            "recording": recording(
                "u", "x", sources=[{"type": "url", "channels": [0], "source": "x"}]
            ),
            "supervisions": [supervision("s4", "u")],
        },
        inside
        | {
            "id": "c5",
            "start": 0.0,
            "duration": 0.4,
            "recording": recording("one", "one.wav", transforms=[{"name": "Speed"}]),
            "supervisions": [supervision("s5", "one")],
        },
    ]
    manifest(tmp_path / "corpus_cuts_dev-clean.jsonl.gz", cuts)
    for source in (tmp_path, tmp_path / "corpus_cuts_dev-clean.jsonl.gz"):
        found, rejected = rows("lhotse", source)
        assert [(row.start, row.frames, row.split, row.speaker) for row in found.values()] == [
            (1600, 1600, "valid", "ann")
        ]
        assert [row.reason for row in rejected] == [
            "no supervision of the cut 'c2'",
            "'c3' is a MixedCut without a recording, expected a MonoCut",
            "the sound of 's4' is of type url, expected one file of one channel",
            "the sound of 's5' has transforms, expected it as its file is",
        ]


@pytest.mark.parametrize(
    "content",
    [
        b"not gzip",
        gzip.compress(b"{", mtime=0),
        gzip.compress(b"[1]\n", mtime=0),
        gzip.compress(b'{"id": "x"}\n', mtime=0)[:-9],
    ],
)
def test_a_broken_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cuts.jsonl.gz").write_bytes(content)
    with pytest.raises(UserInputError, match=r"cuts\.jsonl\.gz"):
        prepare("lhotse", tmp_path, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_what_lhotse_itself_writes(tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    two_tones(tmp_path / "one.wav")
    made = lhotse.Recording.from_file(tmp_path / "one.wav")
    words = lhotse.SupervisionSegment(
        "s1", made.id, 0.2, 0.2, speaker="ann", text="high", gender="f"
    )
    recordings, supervisions = (
        lhotse.RecordingSet.from_recordings([made]),
        lhotse.SupervisionSet.from_segments([words]),
    )
    for name in ("split", "cuts"):
        (tmp_path / name).mkdir()
    recordings.to_file(tmp_path / "split" / "x_recordings_test.jsonl.gz")
    supervisions.to_file(tmp_path / "split" / "x_supervisions_test.jsonl.gz")
    cut = lhotse.CutSet.from_manifests(recordings, supervisions).truncate(
        max_duration=0.4, offset_type="start"
    )
    cut.trim_to_supervisions().to_file(tmp_path / "cuts" / "x_cuts_test.jsonl.gz")
    for name in ("split", "cuts"):
        found, rejected = rows("lhotse", tmp_path / name)
        assert rejected == []
        row = found["s1"]
        assert (row.start, row.frames, row.speaker, row.text, row.split) == (
            1600,
            1600,
            "ann",
            "high",
            "test",
        )
        assert (row.labels, row.path) == ({"gender": "f"}, tmp_path / "one.wav")


def test_libritts(tmp_path: Path) -> None:
    root = tmp_path / "LibriTTS"
    for part, name in (
        ("train-clean-100", "19_198_000000_000000"),
        ("dev-clean", "84_121_000000_000000"),
    ):
        speaker, chapter, *_ = name.split("_")
        folder = root / part / speaker / chapter
        folder.mkdir(parents=True)
        audio.write(folder / f"{name}.wav", tone(400).astype(np.float32), 24000)
        (folder / f"{name}.original.txt").write_text("Mr. Elton")
    (folder / f"{name}.normalized.txt").write_text("Mister Elton")
    audio.write(folder / "stray.wav", tone(400).astype(np.float32), 24000)
    (root / "speakers.tsv").write_text(
        "READER\tGENDER\tSUBSET\tNAME\n19\tF\ttrain-clean-100\tKara\n"
    )
    found, rejected = rows("libritts", tmp_path)
    assert {name: (row.text, row.split, row.labels) for name, row in found.items()} == {
        "19_198_000000_000000": ("Mr. Elton", "train", {"gender": "F"}),
        "84_121_000000_000000": ("Mister Elton", "valid", {}),
    }
    assert [row.path.name for row in rejected] == ["stray.wav"]
