"""What preparing leaves on disk: levels, rates, labels, phones; and that it leaves a whole corpus
or none.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vqwave.audio import level_db
from vqwave.data import Corpus, prepare
from vqwave.data.corpus import PITCH, shard_name
from vqwave.data.corpus_writer import ShardWriter
from vqwave.data.manifest import Recording
from vqwave.data.preprocess import Prepared
from vqwave.errors import UserInputError


def noise(seed: int, frames: int, gain: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, gain, frames)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two speakers at 16 kHz, 40 dB apart, one with DC; the manifest has phones, labels and a
    stretch of a file.
    """
    folder = tmp_path / "in"
    folder.mkdir()
    soundfile.write(folder / "loud.wav", noise(0, 16000, 0.2), 16000, subtype="FLOAT")
    soundfile.write(folder / "quiet.wav", noise(1, 8000, 0.002) + 0.1, 16000, subtype="FLOAT")
    ann = {"path": "loud.wav", "speaker": "ann", "gender": "f"}
    rows = [
        ann | {"text": "hello", "split": "train", "phones": [[0, "a"], [8000, "b"]]},
        ann | {"split": "valid", "start": 4000, "frames": 8000, "phones": [[6000, "c"]]},
        {"path": "quiet.wav", "speaker": "bob", "split": "test", "sample_rate": 16000},
        {
            "path": "quiet.wav",
            "speaker": "bob",
            "split": "test",
            "sample_rate": 8000,
            "id": "wrong",
        },
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_levels_rates_labels_and_phones(source: Path, tmp_path: Path) -> None:
    summary = prepare("manifest", source, tmp_path / "out", sample_rate=8000, quiet=True)
    corpus = Corpus.open(tmp_path / "out")
    assert (corpus.name, corpus.sample_rate, corpus.splits) == (
        "in",
        8000,
        {"train": 1, "valid": 1, "test": 1},
    )
    assert corpus.labels == {"speaker": ["ann", "bob"], "gender": ["f", "unknown"]}
    assert [u.frames for u in corpus.utterances] == [8000, 4000, 4000]
    assert [u.phones for u in corpus.utterances] == [((0, "a"), (4000, "b")), ((1000, "c"),), ()]
    assert corpus.label_ids(2) == {"speaker": 1, "gender": 1}
    for i in range(3):
        wave = corpus.read(i)
        assert level_db(wave) == pytest.approx(-23.0, abs=0.01)
        assert abs(wave.mean()) < 1e-4
        assert np.array_equal(corpus.read(i, 50, 20), wave[50:70])
    assert len(np.unique(corpus.read(2))) > 1000, (
        "a quiet file must not keep the coarse steps of its low level"
    )
    assert [row.reason for row in summary.rejected] == ["is at 16000 Hz, the manifest has 8000"]
    assert summary.total.utterances == 3
    assert summary.total.minutes == pytest.approx(2 / 60)
    for word in ("train", "ann", "bob", "rejected", "the manifest has 8000"):
        assert word in summary.table()


def test_the_rate_of_most_files_is_the_default(tmp_path: Path) -> None:
    for k, rate in enumerate((11025, 8000, 11025)):
        (tmp_path / "in" / "ann").mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "in" / "ann" / f"{k}.wav", noise(k, rate), rate)
    assert prepare("folder", tmp_path / "in", tmp_path / "out", quiet=True).sample_rate == 11025


def test_preparing_twice_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        prepare("manifest", source, tmp_path / name, quiet=True)
    for file in ("corpus.json", "index.jsonl", "shard-00000.i16"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_an_interrupted_prepare_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: ShardWriter, prepared: Prepared) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "add", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare("manifest", source, tmp_path / "out", quiet=True)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_an_interrupted_prepare_keeps_the_old(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    prepare("manifest", source, out, quiet=True)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    replace = os.replace

    def fail_on(source_suffix: str) -> Callable[[Path, Path], None]:
        def fails(old: Path, new: Path) -> None:
            if str(old).endswith(source_suffix):
                raise OSError("disk on fire")
            replace(old, new)

        return fails

    for suffix in (".partial", "out"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fail_on(suffix))
            with pytest.raises(OSError, match="disk on fire"):
                prepare("manifest", source, out, sample_rate=8000, quiet=True)
        assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert prepare("manifest", source, out, sample_rate=8000, quiet=True).sample_rate == 8000
    assert Corpus.open(out).sample_rate == 8000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_what_is_no_corpus_is_never_overwritten(source: Path, tmp_path: Path) -> None:
    precious = tmp_path / "out"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years of work")
    for out in (precious, precious / "thesis.tex", source):
        with pytest.raises(UserInputError, match="exists and is no prepared corpus"):
            prepare("manifest", source, out, quiet=True)
    assert (precious / "thesis.tex").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    prepare("manifest", source, tmp_path / "empty", quiet=True)
    assert len(Corpus.open(tmp_path / "empty").utterances) == 3


def test_arrays_that_somebody_has_put_there_are_not_lost(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare("manifest", source, out, quiet=True)
    for name in ("frames/mel/a.npy", "vectors/face.npy"):
        own = out / name
        own.parent.mkdir(parents=True)
        own.write_bytes(b"mine")
        with pytest.raises(UserInputError, match=r"is not made by prepare and would be lost"):
            prepare("manifest", source, out, quiet=True)
        assert own.read_bytes() == b"mine"
        shutil.rmtree(out / name.split("/")[0])
    (out / "vectors").mkdir()
    (out / "vectors" / "speaker_vector.npy").touch()  # which vqwave voices makes
    prepare("manifest", source, out, quiet=True)


def test_bad_requests_say_what_is_expected(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"no recipe 'librispech'.*did you mean librispeech"):
        prepare("librispech", source, tmp_path / "out", quiet=True)
    with pytest.raises(UserInputError, match="takes no source"):
        prepare("demo", source, tmp_path / "out", quiet=True)
    with pytest.raises(UserInputError, match="sample rate 0"):
        prepare("manifest", source, tmp_path / "out", sample_rate=0, quiet=True)
    with pytest.raises(UserInputError, match="level 3"):
        prepare("manifest", source, tmp_path / "out", level_db=3.0, quiet=True)


def test_shards_hold_whole_utterances(tmp_path: Path) -> None:
    lengths = [60, 60, 30, 150, 20]
    with ShardWriter(tmp_path, size=100) as shards:
        made = [
            Prepared(
                Recording(Path("x"), "ann", str(n)),
                np.full(n, n, np.int16),
                (),
                np.full(n, n, np.float32),
            )
            for n in lengths
        ]
        rows = [shards.add(prepared) for prepared in made]
    assert [(row.shard, row.offset) for row in rows] == [(0, 0), (1, 0), (1, 60), (2, 0), (3, 0)]
    for row, n in zip(rows, lengths, strict=True):
        shard = np.fromfile(tmp_path / shard_name(row.shard), "<i2")
        assert shard[row.offset : row.offset + row.frames].tolist() == [n] * n
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.glob("*.i16")
    }
    assert shards.hashes == files
    assert len(files) == 4
    assert np.fromfile(tmp_path / PITCH, "<f4").tolist() == [n for n in lengths for _ in range(n)]


def test_the_header_has_the_digest_of_the_samples(source: Path, tmp_path: Path) -> None:
    """So that a resumed run knows its corpus without reading all of it."""
    prepare("manifest", source, tmp_path / "out", quiet=True)
    digest = hashlib.sha256((tmp_path / "out" / shard_name(0)).read_bytes()).hexdigest()
    assert Corpus.open(tmp_path / "out").shard_hashes == {shard_name(0): digest}


def test_opening_reads_no_shard(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sparse shard of 3 GB: opening it maps nothing, and reading one crop maps the shard and
    copies the crop alone.
    """
    out = tmp_path / "out"
    prepare("manifest", source, out, quiet=True)
    rows = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    rows[-1]["offset"], rows[-1]["frames"] = 1_000_000, 1_499_000_000
    os.truncate(out / shard_name(0), 3_000_000_000)
    os.truncate(out / PITCH, 100_000_000)
    (out / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mapped, memmap = [], np.memmap
    monkeypatch.setattr(
        np, "memmap", lambda path, **how: mapped.append(path.name) or memmap(path, **how)
    )
    monkeypatch.setattr(np, "fromfile", lambda path, *_: pytest.fail(f"{path} is read whole"))
    corpus = Corpus.open(out)
    assert mapped == []
    tracemalloc.start()
    try:
        assert corpus.read(2, 1_400_000_000, 1000).tolist() == [0.0] * 1000
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert mapped == [shard_name(0)]
    assert most < 1_000_000  # bytes, as numpy counts them, of a shard of 3e9


def test_damaged_corpora_are_named(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for folder in (tmp_path / "missing", source):
        with pytest.raises(UserInputError, match="vqwave prepare"):
            Corpus.open(folder)
    prepare("manifest", source, out, quiet=True)
    corpus = Corpus.open(out)
    there = r"there are train \(1\), valid \(1\), test \(1\); did you mean valid"
    with pytest.raises(UserInputError, match=f"no split 'validation', {there}"):
        corpus.of("validation")
    with pytest.raises(UserInputError, match="no speaker 'anne' among 2; did you mean ann"):
        corpus.label_id("speaker", "anne")
    with pytest.raises(UserInputError, match="no label 'accent', there are speaker, gender"):
        corpus.label_id("accent", "x")
    os.truncate(out / shard_name(0), 100)
    with pytest.raises(UserInputError, match="100 bytes, the index expects"):
        Corpus.open(out)
    (out / "index.jsonl").write_text('{"id": 3}\n')
    with pytest.raises(UserInputError, match="damaged corpus"):
        Corpus.open(out)


def test_what_a_killed_preparation_left_is_cleared(source: Path, tmp_path: Path) -> None:
    """Half-written folders of dead processes go; a corpus that was being replaced comes back; a
    living process is left alone.
    """
    out, gone = tmp_path / "out", subprocess.Popen(["true"])
    gone.wait()
    prepare("manifest", source, out, quiet=True)
    out.replace(tmp_path / f".out.{gone.pid}.old")
    (tmp_path / f".out.{gone.pid}.partial").mkdir()
    (tmp_path / ".out.1.partial").mkdir()
    (tmp_path / f".out2.{gone.pid}.partial").mkdir()
    (tmp_path / "none.csv").write_text("path,speaker\nno.wav,ann\n")
    with pytest.raises(UserInputError, match="none of 1 recordings"):
        prepare("manifest", tmp_path / "none.csv", out, sample_rate=8000, quiet=True)
    left = sorted(path.name for path in tmp_path.iterdir() if "out" in path.name)
    assert left == [".out.1.partial", f".out2.{gone.pid}.partial", "out"]
    assert len(Corpus.open(out).utterances) == 3


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_reading_all_of_a_corpus_keeps_none_of_it(source: Path, tmp_path: Path) -> None:
    """Pages of a shard that were read are let go: else a process grows to the size of the
    corpus.
    """
    out = tmp_path / "out"
    prepare("manifest", source, out, quiet=True)
    rows = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    rows[-1]["offset"], rows[-1]["frames"] = 100_000, 50_000_000
    os.truncate(out / shard_name(0), 2 * 50_100_000)
    os.truncate(out / PITCH, 4_000_000)
    (out / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = Corpus.open(out)

    def of_files() -> int:
        return int(re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])

    corpus.read(2, 0, 1000)
    before = of_files()
    for start in range(0, 50_000_000, 500_000):
        corpus.read(2, start, 500_000)
    assert of_files() - before < 20_000  # kB, of 100,000


def test_several_sources_become_one_corpus(tmp_path: Path) -> None:
    """In their order; an id that two of them have is refused."""
    for place in ("one", "two"):
        (tmp_path / place / place).mkdir(parents=True)
        soundfile.write(tmp_path / place / place / "a.wav", noise(len(place), 8000), 8000)
    summary = prepare("folder", [tmp_path / "one", tmp_path / "two"], tmp_path / "out", quiet=True)
    corpus = Corpus.open(tmp_path / "out")
    assert [u.speaker for u in corpus.utterances] == ["one", "two"] == corpus.speakers
    assert corpus.source == "one + two"
    assert "all" in summary.table()
    with pytest.raises(
        UserInputError,
        match=r"one, .*one: 1 ids occur twice, the first is 'one/a', expected it once",
    ):
        prepare("folder", [tmp_path / "one", tmp_path / "one"], tmp_path / "twice", quiet=True)
    assert not (tmp_path / "twice").exists()
