"""`vqwave train`: experiments and configurations by name, from a source tree and from a wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from vqwave import cli
from vqwave.errors import UserInputError
from vqwave.training import command_line, experiment_files
from vqwave.training.experiment_files import (
    config_file,
    experiment_file,
    experiment_summaries,
    folder_of,
    load_experiment,
    with_config_files,
)

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))

OWN = '''"""An experiment of one's own."""
from vqwave.training.experiment import Experiment

class Own(Experiment):
    name = "own"
'''


def test_every_experiment_has_a_sentence_and_one_class() -> None:
    assert list(experiment_summaries()) == EXPERIMENTS
    assert all(text.endswith(".") for text in experiment_summaries().values())
    for name in EXPERIMENTS:
        assert load_experiment(name).name == name


def test_every_configuration_has_a_name() -> None:
    for name in EXPERIMENTS:
        files = sorted((ROOT / "configs" / name).glob("*.yaml"))
        assert files
        assert [config_file(name, file.stem) for file in files] == files


def test_names_become_files_wherever_they_stand() -> None:
    tiny, small = (str(ROOT / "configs" / "vqvae" / f"{name}.yaml") for name in ("tiny", "paper"))
    given = ["--config", "tiny", "seed=3", "--config=paper", "--quiet", "--config", "own.yaml"]
    expected = ["--config", tiny, "seed=3", "--config", small, "--quiet", "--config", "own.yaml"]
    assert with_config_files("vqvae", given) == expected
    assert with_config_files("vqvae", ["--config"]) == ["--config"]


def test_a_script_takes_names_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As accelerate launch and sweeps start it."""
    seen: list[list[str]] = []
    monkeypatch.setattr(
        command_line.settings, "parse", lambda _, argv, **__: seen.append(argv) or sys.exit(0)
    )
    with pytest.raises(SystemExit):
        command_line.main(load_experiment("wavenet"), ["--config", "tiny", "--quiet"])
    assert seen == [["--config", str(ROOT / "configs" / "wavenet" / "tiny.yaml"), "--quiet"]]


def test_unknown_names_are_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"^vqve: no such experiment; did you mean vqvae"):
        experiment_file("vqve")
    with pytest.raises(UserInputError, match="expected one of adapt, classifier, distill"):
        experiment_file("zzz")
    with pytest.raises(UserInputError, match=r"--config tny: no such file, .* did you mean tiny"):
        config_file("vqvae", "tny")
    with pytest.raises(UserInputError, match="no such file, expected an experiment"):
        experiment_file(str(tmp_path / "own.py"))


def test_an_experiment_of_ones_own_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    assert load_experiment(str(tmp_path / "own.py")).name == "own"
    (tmp_path / "none.py").write_text('"""Nothing."""\n')
    with pytest.raises(UserInputError, match="defines 0 experiments, expected one"):
        load_experiment(str(tmp_path / "none.py"))


def test_a_wheel_has_folders_of_its_own(tmp_path: Path) -> None:
    package = tmp_path / "vqwave"
    assert folder_of("experiments", package) == tmp_path / "experiments"
    (package / "_experiments").mkdir(parents=True)
    assert folder_of("experiments", package) == package / "_experiments"


def test_help_lists_the_experiments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in EXPERIMENTS)


def test_settings_reach_the_experiment(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    calls: list[tuple[str, list[str], str]] = []

    def main(experiment: type, argv: list[str], *, program: str) -> None:
        calls.append((experiment.name, argv, program))

    monkeypatch.setattr("vqwave.training.command_line.main", main)
    cli.main(["train", "--quiet", "vqvae", "--config", "tiny", "train.steps=3", "--dry-run"])
    file = str(experiment_files.config_file("vqvae", "tiny"))
    settings = ["--config", file, "train.steps=3", "--dry-run", "--quiet"]
    assert calls == [("vqvae", settings, "vqwave train vqvae")]
    assert "did you mean vqvae" in refused("train", "vqve")


def test_the_help_of_an_experiment_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "classifier", "--help"])
    assert capsys.readouterr().out.startswith("usage: vqwave train classifier [--config FILE]")


@pytest.mark.slow
def test_a_wheel_carries_models_pages_experiments_and_configurations(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="a wheel needs hatchling: pip install hatchling")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        tiny = yaml.safe_load(archive.read("vqwave/_configs/vqvae/tiny.yaml"))
    assert tiny == yaml.safe_load((ROOT / "configs" / "vqvae" / "tiny.yaml").read_text())
    assert {f"vqwave/_experiments/{name}.py" for name in EXPERIMENTS} <= names
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"vqwave/_configs/{path.relative_to(ROOT / 'configs').as_posix()}" in names
    package = [path for path in (ROOT / "vqwave").rglob("*") if path.is_file()]
    shipped = {p.relative_to(ROOT).as_posix() for p in package if "__pycache__" not in p.parts}
    assert {"vqwave/pretrained/fsdd/model.safetensors", "vqwave/app/page.js"} <= shipped <= names
