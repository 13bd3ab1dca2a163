"""The listening page, on run folders that are made up here: whole, self-contained, escaped,
faithful to the sound.
"""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from vqwave.audio import Wave, level_db, write
from vqwave.errors import UserInputError
from vqwave.report import listen, write_report
from vqwave.report.figures import Line, chart
from vqwave.report.numbers import mutual_information
from vqwave.report.page import summary
from vqwave.report.run import read_run

pytest.importorskip("matplotlib")

RATE = 8000
VOID = {"meta", "img", "br", "hr", "link", "input"}


def voice(seed: int, seconds: float = 0.25) -> Wave:
    """A buzz of some pitch, with a little noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * (100 + 20 * seed) * k * t) / k for k in range(1, 9))
    return (0.05 * buzz + rng.normal(0, 0.002, len(t))).astype(np.float32)


def write_samples(run: Path, clips: list[tuple[dict[str, Any], Wave]]) -> None:
    """`samples/` with an index of these clips."""
    rows = []
    for number, (about, wave) in enumerate(clips):
        path = f"{number}.wav"
        write(run / "samples" / path, wave, RATE)
        rows.append(
            {
                "path": path,
                "seconds": len(wave) / RATE,
                "level_db": level_db(wave),
                "target": None,
                **about,
            }
        )
    (run / "samples" / "index.json").write_text(
        json.dumps({"step": 900, "sample_rate": RATE, "rows": rows})
    )


def write_numbers(run: Path, bits: float, with_codes: bool) -> None:
    """`metrics.jsonl`, `evaluation.json` and `model/config.json` of a run that ended at `bits`."""
    rng = np.random.default_rng(0)
    rows = []
    for step in range(10, 910, 10):
        row = {
            "step": step,
            "seconds": step / 5,
            "train/nll": bits + 5 * 0.99**step,
            "optim/lr": 1e-3,
            "train/odd": float("nan"),
        }
        if step % 100 == 0:
            row |= {"valid/bits": bits + 5 * 0.99**step, "valid/bits_shuffled_codes": bits + 0.8}
        rows.append(json.dumps(row))
    (run / "metrics.jsonl").write_text("\n".join(rows) + '\n{"step": 91')  # killed while it wrote
    counts = rng.multinomial(500, rng.dirichlet(np.ones(16)), size=2)
    codes = {
        "books": 1,
        "size": 16,
        "perplexity": 9.5,
        "used": 14,
        "bit_rate": 200.0,
        "entropy_rate": 160.4,
        "counts": [counts.sum(0).tolist()],
        "by_speaker": {"theo": counts[0].tolist(), "jackson": counts[1].tolist()},
    }
    nll = {
        "unit": "bits per 16-bit sample",
        "model": bits,
        "baselines": {"uniform": 16.0, "marginal histogram": 12.3, "linear predictor": 9.42},
        "shuffled codes": bits + 0.83 if with_codes else None,
        "shuffled speakers": bits + 0.01,
    }
    spectral = {
        "reconstruction": {"log_spectral_distance_db": 9.25},
        "floor": {"log_spectral_distance_db": 21.0},
    }
    evaluation = {
        "split": "valid",
        "step": 900,
        "nll": nll,
        "spectral": spectral,
        "timing": {"times_real_time": 12.5},
    }
    (run / "evaluation.json").write_text(
        json.dumps(evaluation | ({"codes": codes} if with_codes else {}))
    )
    about = {
        "corpus": "fsdd",
        "parameters": {"encoder": 40_000, "decoder": 1_200_000, "total": 1_240_000},
        "receptive_field": 2047,
        "hop": 160,
        "bit_rate": 200.0 if with_codes else None,
        "steps": 900,
        "seconds": 754.0,
    }
    (run / "model").mkdir()
    card = {
        "format": 1,
        "kind": "vqvae",
        "sample_rate": RATE,
        "labels": {"speaker": ["jackson", "theo"]},
        "spec": {},
    }
    (run / "model" / "config.json").write_text(json.dumps(card | {"about": about}))


def make_vqvae(folder: Path) -> Path:
    """A run folder of a VQ-VAE: two utterances with reconstruction and conversion."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("experiment: vqvae\nmodel:\n  kind: vqvae\n")
    write_numbers(folder, 6.8, with_codes=True)
    clips: list[tuple[dict[str, Any], Wave]] = []
    for number, word in enumerate(("seven", "two")):
        about = {"utterance": f"{number}_theo_3", "speaker": "theo", "text": word}
        clips += [
            ({**about, "kind": "original"}, voice(number)),
            ({**about, "kind": "conversion", "target": "jackson"}, voice(number + 10)),
            ({**about, "kind": "reconstruction"}, voice(number + 20, 0.3)),
        ]
    write_samples(folder, clips)
    return folder


def make_student(folder: Path) -> Path:
    """A run folder of the student distilled from it, with the first utterance."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("experiment: distill\nteacher: runs/vqvae\n")
    write_numbers(folder, 7.4, with_codes=False)
    about = {"utterance": "0_theo_3", "speaker": "theo", "text": "seven"}
    write_samples(
        folder,
        [({**about, "kind": "original"}, voice(0)), ({**about, "kind": "student"}, voice(30))],
    )
    return folder


@dataclass
class Page(HTMLParser):
    """What a page holds. Unclosed or wrongly closed elements fail."""

    open: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @classmethod
    def read(cls, path: Path) -> Page:
        page = cls()
        page.feed(path.read_text(encoding="utf-8"))
        page.close()
        assert page.open == [], "elements that stay open"
        return page

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each such element."""
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        """All text, with single spaces."""
        return " ".join(" ".join(self.texts).split())


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


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    run = tmp_path / "young"
    run.mkdir()
    (run / "config.yaml").write_text("experiment: wavenet\n")
    page = Page.read(write_report([run], tmp_path / "page.html"))
    assert "young is a WaveNet." in page.text
    assert (
        "young has not written training curves, an evaluation, samples and a model yet."
        in page.text
    )
    assert [attributes["href"] for attributes in page.all("a")] == ["#top", "#settings"]


@pytest.mark.parametrize("part", ["evaluation.json", "samples", "model", "metrics.jsonl"])
def test_a_missing_part_is_left_out(part: str, tmp_path: Path) -> None:
    run = make_vqvae(tmp_path / "run")
    (run / part).rename(tmp_path / "gone")
    page = Page.read(write_report([run], tmp_path / "page.html"))
    links = {attributes["href"] for attributes in page.all("a")}
    gone = {
        "evaluation.json": "#codes",
        "samples": "#listen",
        "model": "#model",
        "metrics.jsonl": "#training",
    }
    assert gone[part] not in links
    assert (set(gone.values()) - {gone[part]}) <= links
    assert "has not written" in page.text


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


def damage(run: Path, file: str, text: str) -> None:
    (run / file).write_text(text)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.yaml", "a: [", r"config\.yaml, line 1: not valid YAML"),
        ("config.yaml", "7", r"config\.yaml: expected the settings of a run, found '7'"),
        ("metrics.jsonl", 'x\n{"step": 1}\n', r"metrics\.jsonl, line 1: not JSON"),
        (
            "metrics.jsonl",
            '{"step": 1}\n{"seconds": 1}\n',
            r"metrics\.jsonl, line 2: step: Field required",
        ),
        ("evaluation.json", "[]", r"evaluation\.json: should be an object"),
        ("evaluation.json", "{", r"evaluation\.json: not JSON"),
        (
            "evaluation.json",
            '{"nll": {"unit": "bits"}}',
            r"evaluation\.json: nll: model: Field required",
        ),
        (
            "evaluation.json",
            '{"codes": {"size": "many"}}',
            r"evaluation\.json: codes: size: .* found 'many'",
        ),
        ("model/config.json", '{"kind": "vqvae"}', r"config\.json: sample_rate: Field required"),
        (
            "samples/index.json",
            '{"rows": [{"path": "x"}]}',
            r"index\.json: rows\.0\.utterance: Field required",
        ),
        (
            "samples/index.json",
            '{"rows": [{"utterance": "a", "kind": "original", "path": "../config.yaml"}]}',
            r"index\.json: path '\.\./config\.yaml', expected the name of a file",
        ),
        (
            "samples/index.json",
            '{"rows": [{"utterance": "a", "kind": "original", "path": "gone.wav"}]}',
            r"gone\.wav: no such file, but index\.json lists it",
        ),
    ],
)
def test_damage_is_named(file: str, text: str, message: str, tmp_path: Path) -> None:
    run = make_vqvae(tmp_path / "run")
    damage(run, file, text)
    with pytest.raises(UserInputError, match=message) as caught:
        write_report([run], tmp_path / "page.html")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "page.html").exists()


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserInputError, match=r"nowhere: no such folder, expected a run folder \(config\.yaml"
    ):
        write_report([tmp_path / "nowhere"], tmp_path / "page.html")
    with pytest.raises(UserInputError, match=r"no config\.yaml in it, expected a run folder"):
        write_report([tmp_path], tmp_path / "page.html")
    with pytest.raises(UserInputError, match="no run folder given"):
        write_report([], tmp_path / "page.html")


def test_missing_matplotlib_names_the_extra(
    vqvae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserInputError, match=r"pip install 'vqwave\[report\]'"):
        write_report([vqvae], tmp_path / "page.html")


def test_not_a_number_is_left_out_of_the_curves(vqvae: Path) -> None:
    run = read_run(vqvae)
    assert "train/odd" not in run.series
    assert len(run.series["train/nll"]) == 90
    assert run.series["valid/bits"][0][0] == 100


def test_summary_without_a_model_takes_the_metrics(vqvae: Path, tmp_path: Path) -> None:
    run = make_vqvae(tmp_path / "run")
    (run / "model").rename(tmp_path / "gone")
    assert (
        summary(read_run(run))[0]
        == "is a VQ-VAE whose decoder is a WaveNet, trained for 900 steps in 3 min."
    )


@pytest.mark.parametrize(
    "values", [[1.0], [2.0, 2.0], [0.0, 0.0], [5.0, 3.0, 1e-9], list(range(1000))]
)
def test_charts_of_any_numbers_stay_inside(values: list[float]) -> None:
    y = np.array(values, np.float64)
    picture = chart(
        "loss", [Line(np.arange(len(y), dtype=np.float64), y, "run-0")], "steps", "bits"
    )
    points = re.findall(r"(-?[\d.]+),(-?[\d.]+)", re.search(r'points="([^"]*)"', picture)[1])
    assert 1 <= len(points) <= 240
    assert all(0 <= float(x) <= 360 and 0 <= float(y) <= 214 for x, y in points)


def test_names_of_lines_do_not_overlap() -> None:
    x = np.array([0.0, 1.0])
    lines = [
        Line(x, np.full(2, level), "run-0", f"line {level}") for level in (1.0, 1.01, 1.02, 5.0)
    ]
    names = re.findall(r'y="([\d.]+)">line ([\d.]+)<', chart("loss", lines, "steps", ""))
    # from the top of the picture
    assert [name for _, name in names] == ["5.0", "1.02", "1.01", "1.0"]
    places = [float(y) for y, _ in names]
    assert min(np.diff(places)) >= 12


def test_mutual_information_by_hand() -> None:
    assert mutual_information(np.array([[5.0, 5.0], [5.0, 5.0]])) == pytest.approx(0)
    assert mutual_information(np.array([[10.0, 0.0], [0.0, 10.0]])) == pytest.approx(1)
    # p(s) = 1/2; p(k|a) = (3/4, 1/4), p(k|b) = (1/4, 3/4): 1 - H(1/4) = 0.1887 bits
    assert mutual_information(np.array([[3.0, 1.0], [1.0, 3.0]])) == pytest.approx(
        0.18872, abs=1e-5
    )
