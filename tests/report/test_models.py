"""Pages of trained models, which have neither curves nor settings of a training, and of runs that
trained codes alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from vqwave.errors import UserInputError
from vqwave.inference.model_files import SHIPPED
from vqwave.report import write_report
from vqwave.report.page import page, summary
from vqwave.report.run import read_run

pytest.importorskip("matplotlib")


def test_shipped_models_share_a_page(tmp_path: Path) -> None:
    html = write_report(["fsdd", Path("speech")], tmp_path / "page.html").read_text()
    assert "<title>fsdd and speech</title>" in html
    assert "fsdd is a trained model, without curves" in html
    assert "has not written" not in html
    assert 'id="conversion"' in html  # measured, though nothing can be played
    assert ">words recognised in reconstructions, % ↑<" in html


def test_a_name_and_a_folder_are_one_model(tmp_path: Path) -> None:
    by_name, by_folder = read_run(Path("fsdd")), read_run(SHIPPED / "fsdd")
    assert by_name.name == by_folder.name == "fsdd"
    assert by_name.settings == by_folder.settings
    assert not by_name.is_run
    assert by_name.card is not None
    assert yaml.safe_load(by_name.settings)["model"] == by_name.card.spec


def test_a_run_folder_of_the_name_goes_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fsdd").mkdir()
    (tmp_path / "fsdd" / "config.yaml").write_text("experiment: wavenet\n")
    monkeypatch.chdir(tmp_path)
    assert read_run(Path("fsdd")).is_run


def test_what_is_no_model_names_those_that_ship() -> None:
    with pytest.raises(UserInputError, match=r"fsd: no such folder, .* or one of .*fsdd-student"):
        read_run(Path("fsd"))


def test_a_student_and_a_prior_are_called_so() -> None:
    student, prior = read_run(Path("fsdd-student")), read_run(Path("fsdd-prior"))
    assert summary(student)[0].startswith("is a Parallel WaveNet student, trained on fsdd")
    assert student.is_student
    assert summary(prior)[0].startswith("is a prior over codes, trained on fsdd")


def test_voices_that_the_decoder_was_not_trained_on_do_not_count() -> None:
    speech = read_run(Path("speech"))
    assert speech.card is not None
    untrained = speech.card.about.untrained_labels.get("speaker", [])
    count = len(speech.card.labels["speaker"]) - len(untrained)
    assert f"({count} speakers, 16 kHz)" in summary(speech)[0]
    assert f"{count}: " in page([speech])


def codes_only(folder: Path, *, with_card: bool) -> Path:
    folder.mkdir()
    losses = {"nll": 0.0, "spectral": 1.0}
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"experiment": "vqvae", "losses": losses, "model": {"kind": "vqvae"}})
    )
    if with_card:
        (folder / "model").mkdir()
        about = {"speaks": False, "parameters": {"total": 5}, "receptive_field": 511}
        card = {"kind": "vqvae", "sample_rate": 8000, "about": about}
        (folder / "model" / "config.json").write_text(json.dumps(card))
    return folder


@pytest.mark.parametrize("with_card", [False, True])
def test_codes_alone_are_called_so(with_card: bool, tmp_path: Path) -> None:
    run = read_run(codes_only(tmp_path / "codes", with_card=with_card))
    assert summary(run)[0].startswith("is a codes-only VQ-VAE")
    html = page([run])
    assert "samples" not in html.split("has not written")[1].split("yet.")[0]
    assert f"frozen_codec={run.folder}" in html
    assert "Receptive field" not in html
