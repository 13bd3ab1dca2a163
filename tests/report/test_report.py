"""The listening page of made-up run folders: complete, self-contained, escaped, faithful to the
sound.
"""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from html_page import Page
from report_runs import RATE, make_student, make_vqvae, voice, write_samples

from vqwave.audio import Wave, level_db
from vqwave.errors import UserInputError
from vqwave.report import listen, write_report
from vqwave.report.numbers import _use
from vqwave.report.page import _coding
from vqwave.report.run import Codes

pytest.importorskip("matplotlib")


def decoded(source: str | None) -> tuple[Wave, int]:
    """The sound in a data URI."""
    assert source is not None
    head, content = source.split(",", 1)
    assert head == "data:audio/wav;base64"
    return soundfile.read(io.BytesIO(base64.b64decode(content)), dtype="float32")


@pytest.fixture(scope="module")
def vqvae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vqvae(tmp_path_factory.mktemp("runs") / "vqvae")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("runs") / "student")


@pytest.fixture(scope="module")
def page(vqvae: Path, student: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page.read(
        write_report([vqvae, student], tmp_path_factory.mktemp("out") / "deep" / "report.html")
    )


def test_page_needs_nothing_else(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "poster", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (
                f"<{tag} {name}={value[:60]!r}>"
            )
    assert not page.all("link")
    assert not re.search(
        r"url\(|@import|https?:", (Path(listen.__file__).parent / "page.css").read_text()
    )
    assert not re.search(
        r"fetch\(|import |https?:", (Path(listen.__file__).parent / "page.js").read_text()
    )


def test_page_is_for_everyone(page: Page) -> None:
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    assert all(attributes["alt"] for attributes in page.all("img"))
    assert all(attributes["aria-label"] for attributes in page.all("audio"))
    assert all(
        attributes["aria-label"]
        for attributes in page.all("svg")
        if attributes.get("class") == "chart"
    )
    assert all(attributes["scope"] in ("row", "col") for attributes in page.all("th"))
    names = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(names) == len(set(names))
    assert {attributes["href"] for attributes in page.all("a")} == {f"#{name}" for name in names}


def test_players_hold_the_same_samples(page: Page) -> None:
    sounds = [
        (attributes["aria-label"], *decoded(attributes["src"])) for attributes in page.all("audio")
    ]
    labels = [label for label, _, _ in sounds]
    assert labels == [
        "Original: “seven”",  # both runs hold it; it is shown once
        "Reconstruction: “seven”",
        "Student: “seven”",
        "Converted to jackson: “seven”",
        "Original: “two”",
        "Reconstruction: “two”",
        "Converted to jackson: “two”",
    ]
    expected = [voice(0), voice(20, 0.3), voice(30), voice(10), voice(1), voice(21, 0.3), voice(11)]
    for (_, found, rate), wave in zip(sounds, expected, strict=True):
        assert rate == RATE
        np.testing.assert_allclose(found, wave, atol=0.5 / 32768 + 1e-7)


def test_length_and_level_stand_beside_the_player(page: Page) -> None:
    expected = f"0.30 s {level_db(voice(20, 0.3)):.1f} dBFS".replace("-", "−")
    assert expected in page.text


def test_codes_of_several_books_are_counted_together() -> None:
    codes = Codes(size=8, perplexity=3.0, used=20, counts=[[1] * 8] * 3, books=3, bit_rate=450)
    assert _coding(codes) == "Speech becomes 450 bit/s of codes, of which 20 of 24 are in use."
    text = _use(0, "run", codes).text
    assert text.startswith("20 of 24 codes, 8 a codebook, are in use, as evenly as 3")


def test_text_says_what_was_reached(page: Page) -> None:
    for sentence in (
        (
            "vqvae is a VQ-VAE whose decoder is a WaveNet, trained on fsdd (2 speakers, 8 kHz) for"
            " 900 steps in 13 min."
        ),
        (
            "Held-out speech costs it 6.80 bits per 16-bit sample, against 9.42 for a linear"
            " predictor, 12.30 for a marginal histogram and 16.00 with no model at all."
        ),
        "It uses the codes: shuffled, they cost it 0.83 more.",
        "It hardly uses the speakers: shuffled, they change its cost by +0.01.",
        "Speech becomes 200 bit/s of codes, of which 14 of 16 are in use.",
        "student is a Parallel WaveNet student of vqvae, trained",
        "2,047 samples, 255.9 ms",
        "160 samples, 20 ms; 50 frames a second",
        "log spectral distance, dB",
    ):
        assert sentence in page.text


def test_bars_are_as_long_as_their_numbers(page: Page) -> None:
    lengths = [attributes["style"] for attributes in page.all("i") if attributes.get("style")]
    assert lengths[:6] == [
        f"width:{100 * bits / 16:.1f}%" for bits in (6.8, 7.63, 6.81, 9.42, 12.3, 16.0)
    ]


def test_hostile_names_are_only_text(vqvae: Path, tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>\'&amp;'
    run = make_vqvae(tmp_path / "<img src=x onerror=1>")
    (run / "config.yaml").write_text(f"experiment: vqvae\nnote: {json.dumps(evil)}\n")
    about = {"utterance": evil, "speaker": evil, "text": evil, "kind": evil, "target": evil}
    write_samples(run, [(about, voice(0))])
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["nll"]["baselines"][evil] = 11.0
    evaluation["codes"]["by_speaker"][evil] = [1] * 16
    evaluation[evil] = {evil: {evil: 1.0}}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": n, evil: n}) + "\n" for n in (1, 2))
    )
    card = json.loads((run / "model" / "config.json").read_text())
    card["labels"][evil] = [evil]
    card["about"]["corpus"] = evil
    (run / "model" / "config.json").write_text(json.dumps(card))
    plain, found = (
        Page.read(write_report([r], tmp_path / f"{n}.html")) for n, r in enumerate((vqvae, run))
    )
    assert len(found.all("script")) == len(plain.all("script")) == 1
    assert not [attributes for _, attributes in found.tags if "onerror" in attributes]
    assert evil in found.text
    assert found.all("audio")[0]["aria-label"] == f"{evil.capitalize()} as {evil}: “{evil}”"


def test_what_was_generated_stands_together_at_the_end(tmp_path: Path) -> None:
    run = make_student(tmp_path / "wavenet")
    about = {"speaker": "theo", "text": "seven"}
    babble = [
        ({**about, "utterance": f"babble {n}", "kind": "generation"}, voice(n)) for n in (1, 2)
    ]
    write_samples(
        run, [*babble, ({**about, "utterance": "0_theo_3", "kind": "original"}, voice(0))]
    )
    page = Page.read(write_report([run], tmp_path / "page.html"))
    labels = [attributes["aria-label"] for attributes in page.all("audio")]
    assert labels == ["Original: “seven”", "babble 1: Generated", "babble 2: Generated"]


def test_silence_and_a_single_sample_are_shown(tmp_path: Path) -> None:
    run = make_student(tmp_path / "run")
    about = {"utterance": "a", "speaker": "theo", "text": ""}
    waves = [np.zeros(2000, np.float32), np.full(1, 0.5, np.float32)]
    write_samples(
        run,
        [
            ({**about, "kind": kind}, wave)
            for kind, wave in zip(("original", "student"), waves, strict=True)
        ],
    )
    text = Page.read(write_report([run], tmp_path / "page.html")).text
    assert "0.25 s silent" in text
    assert "0.00 s −6.0 dBFS" in text


def test_runs_of_one_name_each_have_their_column(vqvae: Path, tmp_path: Path) -> None:
    page = Page.read(
        write_report([vqvae, make_student(tmp_path / vqvae.name)], tmp_path / "page.html")
    )
    assert page.text.count("2,047 samples, 255.9 ms") == 2


def test_utterances_beyond_the_budget_are_counted(
    vqvae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "BUDGET", 40_000)
    page = Page.read(write_report([vqvae], tmp_path / "page.html"))
    assert "1 of 2 utterances are shown." in page.text
    assert len(page.all("audio")) == 3


def test_the_same_run_twice_is_one(vqvae: Path, tmp_path: Path) -> None:
    page = Page.read(write_report([vqvae, vqvae / "."], tmp_path / "page.html"))
    assert len(page.all("audio")) == 6


def test_a_page_is_replaced_whole(vqvae: Path, tmp_path: Path) -> None:
    out = write_report([vqvae], tmp_path / "page.html")
    before = out.read_bytes()
    broken = make_vqvae(tmp_path / "broken")
    (broken / "samples" / "1.wav").write_text("no sound")
    with pytest.raises(UserInputError, match=r"1\.wav"):
        write_report([broken], out)
    assert out.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", "broken"}
