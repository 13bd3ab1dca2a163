"""Audio columns of the library `datasets` become a corpus; without any decoder of that library."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from vqwave.cli import main
from vqwave.data import Corpus, prepare
from vqwave.errors import UserInputError

RATE = 8000


def sound(hertz: float, kind: str = "FLAC") -> bytes:
    file = io.BytesIO()
    tone = 0.1 * np.sin(2 * np.pi * hertz * np.arange(1600) / RATE)
    soundfile.write(file, tone, RATE, format=kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def library() -> Any:  # noqa: ANN401
    return pytest.importorskip("datasets", reason="the extra datasets is not installed")


def table(library: Any, sounds: list[dict[str, object]], **columns: list) -> Any:  # noqa: ANN401
    """As `datasets` stores sounds, made without its encoder."""
    struct = {"bytes": library.Value("binary"), "path": library.Value("string")}
    data = library.Dataset.from_dict({"audio": sounds, **columns})
    return data.cast_column("audio", struct).cast_column("audio", library.Audio())


def tones(*hertz: float) -> list[dict[str, object]]:
    return [{"bytes": sound(each), "path": f"{each:g}.flac"} for each in hertz]


@pytest.fixture(scope="module")
def saved(library: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ANN401
    """Two splits on disk; speakers as classes, and a row that is no sound."""
    root = tmp_path_factory.mktemp("datasets")
    names = library.ClassLabel(names=["ann", "bob"])
    train = table(
        library,
        [*tones(300, 400), {"bytes": b"RIFF", "path": "b.wav"}],
        speaker_id=[0, 1, 1],
        sentence=["one", None, "five"],
        gender=["f", "m", "m"],
        locale=["de", "en", "en"],
        seconds=[1.0, 2.0, 3.0],
    ).cast_column("speaker_id", names)
    other = train.select([1])
    library.disable_progress_bars()
    library.DatasetDict({"train": train, "validation": other}).save_to_disk(str(root / "saved"))
    (root / "files").mkdir()
    other.to_parquet(str(root / "files" / "part.parquet"))
    return root / "saved"


def pitch(wave: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(wave)).argmax() * RATE / len(wave))


def test_a_saved_data_set_becomes_a_corpus(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(["prepare", "datasets", str(saved), "--out", str(out), "--quiet"])
    corpus = Corpus.open(out)
    rows = {u.id: u for u in corpus.utterances}
    assert rows.keys() == {"train/000000", "train/000001", "validation/000000"}
    first, last = rows["train/000000"], rows["validation/000000"]
    assert (first.speaker, first.text, first.labels["gender"]) == ("ann", "one", "f")
    assert (last.speaker, last.text, last.split) == ("bob", "", "valid")
    assert corpus.labels.keys() == {"speaker", "gender"}
    assert pitch(corpus.read(corpus.utterances.index(last))) == pytest.approx(400, abs=5)
    assert "train/row 2" in (out / "rejected.csv").read_text()


@pytest.mark.parametrize("name", ["file.wav", "../gone", "a/..", "/dev/zero", "gone"])
def test_what_is_no_folder_and_no_name_is_not_looked_for(
    library: Any,  # noqa: ANN401
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(library, "load_dataset", None)
    (tmp_path / "file.wav").write_bytes(b"")
    with pytest.raises(UserInputError, match="no such folder, expected one"):
        prepare("datasets", Path(name), tmp_path / "out", quiet=True)


def test_a_row_that_cannot_be_read_is_left_out(
    library: Any,  # noqa: ANN401
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As rows of an altered file are: bytes that are no UTF-8, columns that are not there."""
    data = table(library, tones(300, 400, 500), text=["zero", "one", "two"])
    plain = library.Dataset.__getitem__

    def read(self: Any, key: Any) -> Any:  # noqa: ANN401
        row = plain(self, key)
        if key == 0 and "text" in row:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
        return {} if key == 1 and "audio" in row else row

    monkeypatch.setattr(library, "load_dataset", lambda *_, **__: data)
    monkeypatch.setattr(library.Dataset, "__getitem__", read)
    prepare("datasets", Path("user/name"), tmp_path / "out", quiet=True)
    assert [u.text for u in Corpus.open(tmp_path / "out").utterances] == ["two"]
    rejected = (tmp_path / "out" / "rejected.csv").read_text()
    assert "row 0" in rejected
    assert "row 1: its sound cannot be read (ValueError" in rejected


def test_rows_of_a_split_beside_the_known_ones_are_left_out(
    library: Any,  # noqa: ANN401
    tmp_path: Path,
) -> None:
    """`validated` has the test rows, too."""
    parts = {name: table(library, tones(300), text=["a"]) for name in ("train", "test")}
    parts["validated"] = table(library, tones(300, 400), text=["a", "b"])
    library.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    prepare("datasets", tmp_path / "saved", tmp_path / "out", quiet=True)
    corpus = Corpus.open(tmp_path / "out")
    assert [u.id for u in corpus.utterances] == ["train/000000", "test/000000"]
    left_out = (tmp_path / "out" / "rejected.csv").read_text()
    assert "validated" in left_out
    assert "2 rows of a split next to train" in left_out


def test_ids_of_sentences_are_no_ids_of_recordings(
    library: Any,  # noqa: ANN401
    tmp_path: Path,
) -> None:
    table(library, tones(300, 400), id=[7, 7]).save_to_disk(str(tmp_path / "saved"))
    prepare("datasets", tmp_path / "saved", tmp_path / "out", quiet=True)
    assert [u.id for u in Corpus.open(tmp_path / "out").utterances] == ["000000", "000001"]
    with pytest.raises(UserInputError, match="1 ids occur twice, the first is '7'"):
        prepare("datasets", tmp_path / "saved", tmp_path / "b", columns={"id": "id"}, quiet=True)


def test_data_sets_without_ids_become_one_corpus(
    library: Any,  # noqa: ANN401
    tmp_path: Path,
) -> None:
    sources = [tmp_path / "one", tmp_path / "two"]
    for source, hertz in zip(sources, (300, 400), strict=True):
        table(library, tones(hertz)).save_to_disk(str(source))
    prepare("datasets", sources, tmp_path / "out", quiet=True)
    corpus = Corpus.open(tmp_path / "out")
    assert [u.id for u in corpus.utterances] == ["one/000000", "two/000000"]


def test_columns_are_named(saved: Path, tmp_path: Path) -> None:
    columns = {"speaker": "locale", "text": "gender", "tongue": "locale"}
    prepare("datasets", saved, tmp_path / "out", columns=columns, quiet=True)
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.speakers == ["de", "en"]
    assert corpus.labels["tongue"] == ["de", "en"]
    assert {u.text for u in corpus.utterances} == {"f", "m"}


def test_a_name_of_a_hub_is_loaded_from_there(
    library: Any,  # noqa: ANN401
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some rows have their sound in a file, one has none."""
    asked = []
    soundfile.write(tmp_path / "file.wav", 0.1 * np.sin(np.arange(1600) * 0.3), RATE)
    file = {"bytes": None, "path": str(tmp_path / "file.wav")}
    gone = {"bytes": None, "path": str(tmp_path / "gone.wav")}
    rows = [*tones(300), file, {"bytes": None, "path": None}, gone]
    data = table(library, rows, id=["x", "y", "z", "w"])

    def load(*names: str | None, revision: str | None = None) -> Any:  # noqa: ANN401
        asked.append((*names, revision))
        return data

    monkeypatch.setattr(library, "load_dataset", load)
    prepare("datasets", Path("ann/digits:small@v1"), tmp_path / "out", quiet=True)
    assert asked == [("ann/digits", "small", "v1")]
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.name == "digits:small"
    assert {(u.id, u.speaker) for u in corpus.utterances} == {("x", "unknown"), ("y", "unknown")}
    rejected = (tmp_path / "out" / "rejected.csv").read_text()
    assert "ann/digits:small@v1/row 2,has no sound" in rejected
    assert "gone.wav" in rejected


def test_files_that_the_library_reads(saved: Path, tmp_path: Path, library: Any) -> None:  # noqa: ANN401
    library.config.HF_DATASETS_CACHE = str(tmp_path / "cache")
    prepare("datasets", saved.parent / "files", tmp_path / "out", quiet=True)
    (row,) = Corpus.open(tmp_path / "out").utterances
    assert (row.speaker, row.text) == ("bob", "")


REFUSED = {
    "column": ({"speaker": "speakr_id"}, "no column 'speakr_id' for speaker, .*did you mean sp"),
    "no sounds": ({"audio": "seconds"}, "column 'seconds' has no sounds"),
}


@pytest.mark.parametrize(("columns", "said"), REFUSED.values(), ids=REFUSED)
def test_refusals(columns: dict[str, str], said: str, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=rf"^[^\n]*{said}[^\n]*$"):
        prepare("datasets", saved, tmp_path / "out", columns=columns, quiet=True)
    with pytest.raises(UserInputError, match="prepare folder takes no columns, found speaker"):
        prepare("folder", saved, tmp_path / "out", columns={"speaker": "x"}, quiet=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserInputError, match=r"empty: no data set that can be read"):
        prepare("datasets", tmp_path / "empty", tmp_path / "out", quiet=True)
    with pytest.raises(UserInputError, match=r"no/such/folder: no such folder, expected one"):
        prepare("datasets", Path("no/such/folder"), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserInputError, match=r"pip install 'vqwave\[datasets\]'"):
        prepare("datasets", Path("ann/digits"), tmp_path / "out", quiet=True)
