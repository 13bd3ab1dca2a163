"""The words of a trial are those of wandb's agent; the shipped files set what experiments have."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from sweep_plans import plan_of

from vqwave.config import parse
from vqwave.sweep import Plan, read

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))


def agents_command(
    plan: Plan, values: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """What wandb's own agent would run for these values; nothing of it is ours."""
    from wandb import wandb_agent

    seen: list[list[str]] = []
    monkeypatch.setenv("WANDB_DIR", str(folder))
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    monkeypatch.setattr(
        wandb_agent,
        "AgentProcess",
        lambda command, **_: seen.append(command) or type("Process", (), {})(),
    )
    agent = wandb_agent.Agent(api=None, queue=None, sweep_id="s")
    agent._sweep_command = list(plan.tree["command"])
    args = {name: {"value": value} for name, value in values.items()}
    response = agent._process_command(
        {"type": "run", "run_id": "trial", "program": plan.program, "args": args}
    )
    assert "exception" not in response, response
    monkeypatch.undo()  # the agent puts WANDB_RUN_ID and more into the environment
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        os.environ.pop(name, None)
    return seen[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_our_command_is_that_of_wandbs_agent(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = read(file)
    for values in plan.trials(3, 0):
        assert agents_command(plan, values, tmp_path, monkeypatch) == plan.words(values)


@pytest.mark.parametrize("form", ["${args}", "${args_no_hyphens}", "${args_no_equals}"])
def test_every_form_of_arguments_reads_as_wandbs(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = {
        "a.b": {"value": 1e-05},
        "c": {"value": [8, 5]},
        "d": {"value": None},
        "e": {"value": {"kind": "x"}},
    }
    plan = plan_of(
        tmp_path, parameters=parameters, command=["${env}", "python", "${program}", form]
    )
    values = plan.trials(1, 0)[0]
    assert agents_command(plan, values, tmp_path, monkeypatch) == plan.words(values)


def settings_of(program: str, words: list[str]) -> Any:  # noqa: ANN401 - the settings class is the experiment's own
    """The config that an experiment reads from a command line."""
    place = importlib.util.spec_from_file_location(f"swept_{Path(program).stem}", ROOT / program)
    module = sys.modules[place.name] = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return parse(module.Config, words).config


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_setting_of_the_shipped_sweeps_is_one_of_its_experiment(file: Path) -> None:
    plan = read(file)
    for values in plan.trials(12, 0):
        words = plan.words(values)
        config = settings_of(plan.program, words[words.index(plan.program) + 1 :])
        assert config.train.tracker == "wandb"
        assert "{settings}" in str(config.run)
