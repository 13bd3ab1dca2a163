"""Word and character errors by hand-made cases, the spelling rule, where weights are looked for."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from vqwave.errors import UnavailableError, UserInputError
from vqwave.metrics import recognition
from vqwave.metrics.recognition import character_error_rate, error_sums, word_error_rate
from vqwave.metrics.transcripts import cardinal, normalise, ordinal, year


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello,  WORLD!", "hello world"),
        ("Don't; the kings' men\u2019s", "dont the kings mens"),
        ("well-known \u2014 caf\u00e9", "well known cafe"),
        ("7", "seven"),
        ("I have 21 of 1,250.", "i have twenty one of one thousand two hundred fifty"),
        (
            "In 1864, in 1907, in 2005.",
            "in eighteen sixty four in nineteen oh seven in two thousand five",
        ),
        ("the 1st, 22nd and 30th", "the first twenty second and thirtieth"),
        ("3.14", "three point one four"),
        ("$5 & 10%", "five dollars and ten percent"),
        ("Mr. and Mrs. Stone", "mister and missus stone"),
        ("THE MISTER", "the mister"),
        ("...", ""),
    ],
)
def test_one_spelling(text: str, expected: str) -> None:
    assert normalise(text) == expected
    assert normalise(expected) == expected  # what is normal stays


def test_numbers_in_words() -> None:
    assert cardinal(10**6 + 15) == "one million fifteen"
    assert cardinal(10**12) == "one" + " zero" * 12
    assert ordinal(1000) == "one thousandth"
    assert year(1999) == "nineteen ninety nine"
    assert len({cardinal(n) for n in range(3000)}) == 3000


def test_edits_are_counted_by_words_and_characters() -> None:
    pytest.importorskip("jiwer")
    sums = error_sums(
        ["The cat sat.", "a b", "one"],
        ["the cat sat", "a c d", ""],  # right; a substitution and an insertion; a deletion
    )
    assert sums.tolist() == [[0, 3, 0, 11], [2, 2, 3, 3], [1, 1, 3, 3]]


def test_rates_are_of_the_corpus_not_means_of_utterances() -> None:
    sums = np.array([[1.0, 1.0, 2.0, 4.0], [0.0, 9.0, 0.0, 36.0]])
    total = sums.sum(0, keepdims=True)
    assert word_error_rate(total)[0] == 0.1
    assert character_error_rate(total)[0] == 0.05


def test_a_reference_without_a_word_is_refused() -> None:
    pytest.importorskip("jiwer")
    with pytest.raises(UserInputError, match="holds no word"):
        error_sums(["?!"], ["x"])


def test_weights_are_looked_for_in_a_folder_first(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"holds no model\.bin"):
        recognition.whisper_folder(str(tmp_path))
    (tmp_path / "model.bin").write_bytes(b"x")
    assert recognition.whisper_folder(str(tmp_path)) == tmp_path


def test_an_unknown_name_of_weights_is_refused() -> None:
    pytest.importorskip("faster_whisper")
    with pytest.raises(UserInputError, match=r"'tiny\.fr': .*tiny\.en"):
        recognition.whisper_folder("tiny.fr")


def test_without_cache_a_package_and_then_the_hub_are_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    utils = pytest.importorskip("faster_whisper.utils")
    asked = []

    def download(name: str, local_files_only: bool) -> str:
        asked.append(local_files_only)
        raise OSError("no network\nat all")

    monkeypatch.setattr(utils, "download_model", download)
    monkeypatch.setattr(recognition, "_carried", lambda name: tmp_path)
    assert recognition.whisper_folder("tiny.en") == tmp_path
    assert asked == [True]
    monkeypatch.setattr(recognition, "_carried", lambda name: None)
    with pytest.raises(UnavailableError, match=r"no network\)"):
        recognition.whisper_folder("tiny.en")
    assert asked == [True, True, False]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognition.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"vqwave\[judges\]"):
        recognition.recogniser()


def test_text_that_repeats_itself_is_decoded_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without draws: the second pass forbids repeated trigrams."""
    passes = []

    class Segment:
        def __init__(self, text: str, ratio: float) -> None:
            self.text, self.compression_ratio = text, ratio

    class Model:
        def __init__(self, *_: object, **__: object) -> None: ...

        def transcribe(self, wave: np.ndarray, **settings: object) -> tuple[list[Segment], None]:
            passes.append(settings)
            once = "no_repeat_ngram_size" in settings
            return [Segment(" go on", 1.0) if once else Segment(" go go go", 3.0)], None

    fake = type(sys)("faster_whisper")
    fake.WhisperModel = Model
    monkeypatch.setitem(sys.modules, "faster_whisper", fake)
    monkeypatch.setattr(recognition.importlib.util, "find_spec", lambda name: fake)
    monkeypatch.setattr(recognition, "whisper_folder", lambda weights: tmp_path)
    found = recognition.recogniser()
    assert found.transcribe(np.zeros(8000, np.float32), 8000) == "go on"
    assert [settings["temperature"] for settings in passes] == [0.0, 0.0]
