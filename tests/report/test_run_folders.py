"""Reports of run folders that are young, damaged or lack a part, or are none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from html_page import Page
from report_runs import make_vqvae

from vqwave.errors import UserInputError
from vqwave.report import write_report
from vqwave.report.page import summary
from vqwave.report.run import read_run

pytest.importorskip("matplotlib")


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
    (run / file).write_text(text)
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vqvae = make_vqvae(tmp_path / "vqvae")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserInputError, match=r"pip install 'vqwave\[report\]'"):
        write_report([vqvae], tmp_path / "page.html")


def test_not_a_number_is_left_out_of_the_curves(tmp_path: Path) -> None:
    run = read_run(make_vqvae(tmp_path / "run"))
    assert "train/odd" not in run.series
    assert len(run.series["train/nll"]) == 90
    assert run.series["valid/bits"][0][0] == 100


def test_summary_without_a_model_takes_the_metrics(tmp_path: Path) -> None:
    run = make_vqvae(tmp_path / "run")
    (run / "model").rename(tmp_path / "gone")
    assert (
        summary(read_run(run))[0]
        == "is a VQ-VAE whose decoder is a WaveNet, trained for 900 steps in 3 min."
    )
