"""Sweeps: wandb's files by wandb's rules; trials one after another, killed and taken up again; the
shipped files run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from vqwave.cli import main
from vqwave.config import parse
from vqwave.errors import UserInputError
from vqwave.sweep import Plan, StoppedError, Sweep, best_of, read
from vqwave.sweep.journal import JOURNAL
from vqwave.sweep.space import draw, grid, read_parameters

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))
DRAWS = 2000

PROGRAM = """
import json, pathlib, sys, time
words = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
run = pathlib.Path(words["run"])
run.mkdir(exist_ok=True)
(run / "argv").open("a").write(json.dumps(sys.argv[1:]) + "\\n")
x = float(words["x"])
if x == 13.0:
    sys.exit("error: x: 13 is unlucky")
time.sleep(float(words.get("sleep", 0)))
rows = [{"step": 1, "valid/bits": 99.0}, {"step": 2, "valid/bits": (x - 2) ** 2}]
(run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
"""


def plan_of(folder: Path, **changes: object) -> Plan:
    """A sweep of PROGRAM over x = 0, 1, 2, 3."""
    (folder / "program.py").write_text(PROGRAM)
    tree = {
        "program": str(folder / "program.py"),
        "method": "grid",
        "metric": {"name": "valid/bits", "goal": "minimize"},
        "parameters": {"x": {"values": [0, 1, 2, 3]}},
        "command": ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"],
    } | changes
    file = folder / "sweep.yaml"
    file.write_text(
        yaml.safe_dump({key: value for key, value in tree.items() if value is not None})
    )
    return read(file)


@pytest.mark.parametrize(
    ("entry", "law"),
    [
        ({"min": 0.5, "max": 2.0}, stats.uniform(0.5, 1.5)),
        ({"distribution": "uniform", "min": -1, "max": 3}, stats.uniform(-1, 4)),
        (
            {"distribution": "log_uniform", "min": -3.0, "max": 1.0},
            stats.loguniform(np.exp(-3), np.exp(1)),
        ),
        (
            {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2},
            stats.loguniform(1e-5, 1e-2),
        ),
        (
            {"distribution": "inv_log_uniform_values", "min": 1e-5, "max": 1e-2},
            stats.loguniform(1e-5, 1e-2),
        ),
        (
            {"distribution": "inv_log_uniform", "min": -1.0, "max": 3.0},
            stats.loguniform(np.exp(-3), np.exp(1)),
        ),
        ({"distribution": "normal", "mu": 2.0, "sigma": 0.5}, stats.norm(2.0, 0.5)),
        ({"distribution": "log_normal", "sigma": 0.5}, stats.lognorm(0.5)),
        ({"distribution": "beta", "a": 2.0, "b": 5.0}, stats.beta(2.0, 5.0)),
    ],
)
def test_draws_follow_their_law(entry: dict[str, Any], law: stats.rv_continuous) -> None:
    parameters = read_parameters({"x": entry})
    drawn = [draw(parameters, 0, trial)["x"] for trial in range(DRAWS)]
    assert stats.kstest(drawn, law.cdf).pvalue > 1e-3
    assert len(set(drawn)) == DRAWS


@pytest.mark.parametrize(
    ("entry", "shares"),
    [
        ({"values": ["a", "b"]}, {"a": 0.5, "b": 0.5}),
        (
            {"values": [True, None, 3], "probabilities": [0.1, 0.6, 0.3]},
            {True: 0.1, None: 0.6, 3: 0.3},
        ),
        ({"min": 3, "max": 6}, dict.fromkeys(range(3, 7), 0.25)),
        (
            {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.5},
            {0.0: 0.25, 0.5: 0.5, 1.0: 0.25},
        ),
        ({"value": 7}, {7: 1.0}),
    ],
)
def test_choices_come_in_their_shares(entry: dict[str, Any], shares: dict[object, float]) -> None:
    parameters = read_parameters({"x": entry})
    found = Counter(draw(parameters, 1, trial)["x"] for trial in range(DRAWS))
    assert found.keys() == shares.keys()
    for value, share in shares.items():
        assert abs(found[value] / DRAWS - share) < 4.5 * np.sqrt(share * (1 - share) / DRAWS) + 1e-9


@pytest.mark.parametrize("name", ["q_normal", "q_log_normal", "q_log_uniform_values", "q_beta"])
def test_steps_are_multiples(name: str) -> None:
    entry = {"distribution": name, "q": 0.25} | (
        {"min": 0.5, "max": 8.0} if "uniform" in name else {}
    )
    drawn = [draw(read_parameters({"x": entry}), 0, trial)["x"] for trial in range(200)]
    assert all(value % 0.25 == 0 for value in drawn)
    assert len(set(drawn)) > 3


def test_a_trial_depends_on_seed_number_and_name_alone() -> None:
    one = read_parameters({"a": {"min": 0.0, "max": 1.0}})
    two = read_parameters({"a": {"min": 0.0, "max": 1.0}, "b": {"min": 0.0, "max": 1.0}})
    assert draw(one, 0, 5)["a"] == draw(two, 0, 5)["a"] != draw(two, 0, 5)["b"]
    assert len({draw(one, seed, trial)["a"] for seed in (0, 1) for trial in (0, 1)}) == 4


def test_a_grid_is_every_combination_and_nests() -> None:
    parameters = read_parameters(
        {
            "b": {"values": [1, 2]},
            "a": {"parameters": {"x": {"min": 0, "max": 1}, "y": {"value": "k"}}},
            "c": {"value": 5},
        }
    )
    assert grid(parameters) == [
        {"a": {"x": x, "y": "k"}, "b": b, "c": 5} for x in (0, 1) for b in (1, 2)
    ]
    steps = read_parameters({"x": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25}})
    # as wandb's own engine has it
    assert [row["x"] for row in grid(steps)] == np.arange(0.0, 1.0, 0.25).tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "gird"}, "method 'gird', expected grid, random or bayes"),
        ({"early_terminate": {"type": "hyperban"}}, "early_terminate: expected {type: hyperband"),
        ({"early_terminate": {"type": "hyperband"}}, "expected min_iter, or max_iter and s"),
        ({"early_terminate": {"type": "hyperband", "eta": 1}}, "early_terminate.eta: 1, expected"),
        ({"early_terminate": {"type": "hyperband", "mini": 1}}, "mini: no such.*min_iter"),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 9, "max_iter": 3}},
            "max_iter 3 is below min_iter 9",
        ),
        ({"metric": None}, "no metric"),
        ({"metric": {"name": "x", "goal": "up"}}, "metric.goal"),
        ({"metrics": {}}, "metrics: no such key.*metric"),
        ({"parameters": {}}, "parameters: expected names"),
        ({"parameters": {"optim.lr": {"max": 1e-3}}}, r"parameters.optim.lr: found max"),
        (
            {"parameters": {"lr": {"min": "1e-4", "max": 1.0}}},
            r"lr.min: found '1e-4'.*YAML wants a dot",
        ),
        ({"parameters": {"lr": {"min": 2.0, "max": 1.0}}}, "min 2.0 is not below max 1.0"),
        (
            {"parameters": {"lr": {"distribution": "log_uniform_values", "min": 0.0, "max": 1.0}}},
            "above zero",
        ),
        (
            {"parameters": {"lr": {"distribution": "unifrom", "min": 0.0, "max": 1.0}}},
            "no distribution 'unifrom'; did you mean",
        ),
        ({"parameters": {"lr": {"values": [1, 2], "probabilities": [0.5, 0.6]}}}, "probabilities"),
        (
            {"parameters": {"lr": {"values": [1, 2], "mu": 3}}},
            "lr.mu: categorical has no such setting",
        ),
        ({"command": ["python", "x.py"]}, "holds no"),
        ({"run_cap": 0}, "run_cap"),
    ],
)
def test_a_bad_file_is_answered_in_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserInputError, match=message) as error:
        plan_of(tmp_path, **changes)
    assert "\n" not in str(error.value)
    assert "sweep.yaml" in str(error.value)


def test_grids_of_ranges_and_endless_draws_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"x: a grid takes values.*found uniform"):
        plan_of(tmp_path, parameters={"x": {"min": 0.0, "max": 1.0}}).trials(None, 0)
    random = plan_of(tmp_path, method="random")
    with pytest.raises(UserInputError, match="--count"):
        random.trials(None, 0)
    with pytest.raises(UserInputError, match="bayes has no end; expected --count N"):
        plan_of(tmp_path, method="bayes").trials(None, 0)
    assert len(plan_of(tmp_path, method="random", run_cap=3).trials(None, 0)) == 3


def test_brackets_of_hyperband_are_wandbs(tmp_path: Path) -> None:
    """min_iter, or the s brackets below max_iter; eta is 3 unless given."""
    assert plan_of(tmp_path).hyperband is None
    wanted: list[tuple[dict[str, int], tuple[int, int | str, int]]] = [
        ({"min_iter": 4}, (4, "auto", 3)),
        ({"min_iter": 4, "max_iter": 64, "eta": 2}, (4, 64, 2)),
        ({"max_iter": 27, "s": 2}, (3, 27, 3)),
        ({"max_iter": 5, "s": 3}, (1, 5, 3)),
    ]
    for entry, settings in wanted:
        plan = plan_of(tmp_path, early_terminate={"type": "hyperband", **entry})
        assert plan.hyperband is not None
        assert tuple(plan.hyperband.values()) == settings


def test_trials_run_and_the_best_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(tmp_path, parameters={"x": {"values": [0, 13, 2, 3]}, "y": {"value": None}})
    main(["sweep", str(plan.file), "--out", str(tmp_path / "out"), "--set", "z=1", "--quiet"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["1", "0"],
        ["2", "13"],
        ["*", "3"],
        ["4", "3"],
    ]
    assert "failed: x: 13 is unlucky" in lines[2]
    assert lines[-1] == f"best: trial 3, valid/bits 0.0000, in {tmp_path / 'out' / 'trial-003'}"
    given = json.loads((tmp_path / "out" / "trial-003" / "argv").read_text())
    assert given == [
        "x=2",
        "y=None",
        f"run={tmp_path / 'out' / 'trial-003'}",
        "train.tracker=none",
        "z=1",
    ]
    # all are done: none runs again
    main(["sweep", str(plan.file), "--out", str(tmp_path / "out"), "--set", "z=1"])
    assert capsys.readouterr().out.splitlines() == lines
    assert len((tmp_path / "out" / "trial-003" / "argv").read_text().splitlines()) == 1


def test_a_dry_run_prints_what_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan_of(tmp_path)
    call = [
        "sweep",
        str(tmp_path / "sweep.yaml"),
        "--out",
        str(tmp_path / "out"),
        "--count",
        "2",
        "--set",
        "y=1",
        "--quiet",
    ]
    main([*call, "--dry-run"])
    printed = capsys.readouterr().out.splitlines()
    assert not (tmp_path / "out").exists()
    main(call)
    logs = [
        (tmp_path / "out" / f"trial-00{number}.log").read_text().splitlines()[0]
        for number in (1, 2)
    ]
    assert logs == [f"$ {line}" for line in printed]


def test_maximize_and_more_trials_later(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, metric={"name": "valid/bits", "goal": "maximize"})
    few = Sweep(plan, tmp_path / "out", count=2, quiet=True)
    best = best_of(few.run(), minimize=plan.minimize)
    assert best is not None
    assert best.number == 0
    more = Sweep(plan, tmp_path / "out", count=4, quiet=True)
    assert [trial.value for trial in more.run()] == [4.0, 1.0, 0.0, 1.0]
    assert len((tmp_path / "out" / "trial-001" / "argv").read_text().splitlines()) == 1


def test_another_sweep_in_the_folder_is_refused(tmp_path: Path) -> None:
    Sweep(plan_of(tmp_path), tmp_path / "out", count=1, quiet=True).run()
    with pytest.raises(UserInputError, match=r"other sweep\.parameters\.x\.values, seed"):
        Sweep(
            plan_of(tmp_path, parameters={"x": {"values": [1]}}),
            tmp_path / "out",
            seed=1,
            quiet=True,
        ).run()
    with pytest.raises(UserInputError, match="not empty and holds no sweep"):
        Sweep(plan_of(tmp_path), tmp_path, quiet=True).run()


def test_a_sweep_whose_trials_all_fail_stops(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, parameters={"x": {"value": 13.0}}, method="random", run_cap=9)
    with pytest.raises(
        UserInputError, match="the first 3 trials all failed, the last: x: 13 is unlucky"
    ):
        Sweep(plan, tmp_path / "out", quiet=True).run()
    # mended: the same command goes on
    (tmp_path / "program.py").write_text(PROGRAM.replace("x == 13.0", "False"))
    assert [trial.value for trial in Sweep(plan, tmp_path / "out", quiet=True).run()] == [121.0] * 9
    wrong = plan_of(tmp_path, metric={"name": "valid/bit"})
    with pytest.raises(UserInputError, match=r"no metric valid/bit in .*; did you mean valid/bits"):
        Sweep(wrong, tmp_path / "other", quiet=True).run()


def wait_for(condition: Callable[[], bool], seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def start(plan: Plan, out: Path, *words: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "vqwave",
        "sweep",
        str(plan.file),
        "--out",
        str(out),
        "--quiet",
        *words,
    ]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_killed_in_the_middle_it_goes_on(tmp_path: Path) -> None:
    plan, out = plan_of(tmp_path), tmp_path / "out"
    process = start(plan, out, "--set", "sleep=1.5")
    wait_for(lambda: (out / "trial-002" / "argv").exists())
    process.kill()
    process.communicate()
    assert [trial.number for trial in Sweep(plan, out).finished()] == [0]
    began = time.monotonic()
    sweep = Sweep(plan, out, overrides=["sleep=1.5"], quiet=True)
    assert [trial.value for trial in sweep.run()] == [4.0, 1.0, 0.0, 1.0]
    # the trial that was left running had its end waited for
    assert time.monotonic() - began > 3 * 1.5
    counts = [len((out / f"trial-00{k}" / "argv").read_text().splitlines()) for k in (1, 2, 3, 4)]
    assert counts == [1, 2, 1, 1]


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_trial_and_says_how_to_go_on(tmp_path: Path, number: int) -> None:
    plan, out = plan_of(tmp_path), tmp_path / "out"
    process = start(plan, out, "--set", "sleep=100")
    wait_for(lambda: (out / "trial-001" / "argv").exists())
    process.send_signal(number)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 128 + number
    assert errors.splitlines()[-1].startswith("stopped: 0 trials are done")
    assert "run the same command to go on" in errors


def test_two_sweeps_at_once_share_the_trials(tmp_path: Path) -> None:
    """Each trial is run once; both print the same table of all."""
    plan, out = plan_of(tmp_path), tmp_path / "out"
    processes = [start(plan, out, "--set", "sleep=1") for _ in range(2)]
    tables = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], tables
    assert tables[0][0] == tables[1][0]
    assert len(tables[0][0].splitlines()) == 6
    assert {len((out / f"trial-00{k}" / "argv").read_text().splitlines()) for k in range(1, 5)} == {
        1
    }


def test_a_line_that_a_kill_cut_off_was_not_written(tmp_path: Path) -> None:
    plan, out = plan_of(tmp_path), tmp_path / "out"
    Sweep(plan, out, count=2, quiet=True).run()
    with (out / JOURNAL).open("a") as file:
        file.write('{"op_code":5,"worker')
    assert [trial.value for trial in Sweep(plan, out, quiet=True).run()] == [4.0, 1.0, 0.0, 1.0]
    for line in (out / JOURNAL).read_text().splitlines():
        json.loads(line)


def test_a_missing_optuna_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserInputError, match=r"optuna is not installed.*vqwave\[sweep\]"):
        Sweep(plan_of(tmp_path), tmp_path / "out", quiet=True).run()
    assert not (tmp_path / "out").exists()


def test_bayes_comes_closer_than_its_first_draws(tmp_path: Path) -> None:
    """(x - 2)^2 over [-10, 10]; a resumed sweep goes on where it was, with other draws."""
    entry = {"x": {"min": -10.0, "max": 10.0}, "y": {"values": [{"kind": "a"}, None]}}
    plan = plan_of(tmp_path, method="bayes", parameters=entry | {"z": {"value": 7}})
    first = Sweep(plan, tmp_path / "out", count=10, quiet=True).run()
    values = [trial.user_attrs["values"] for trial in first]
    assert len({value["x"] for value in values}) == 10
    assert all(-10 < value["x"] < 10 and value["z"] == 7 for value in values)
    assert {json.dumps(value["y"]) for value in values} == {'{"kind": "a"}', "null"}
    trials = Sweep(plan, tmp_path / "out", count=25, quiet=True).run()
    assert [trial.value for trial in trials[:10]] == [trial.value for trial in first]
    assert min(trial.value or 0 for trial in trials[10:]) < min(trial.value or 0 for trial in first)
    assert np.median([t.value for t in trials[10:]]) < np.median([t.value for t in first])
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", str(plan.file), "--count", "3", "--dry-run"])
    assert stopped.value.code == 2


SLOW = """
import json, pathlib, sys, time
words = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
run, x = pathlib.Path(words["run"]), float(words["x"])
run.mkdir(exist_ok=True)
for step in range(1, 10 if x < 2 else 10_000):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "valid/bits": x + 1 / step}) + "\\n")
    time.sleep(0.02)
"""


def test_hyperband_stops_hopeless_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials 2 and 4 would run for minutes; they are stopped and cannot be the best."""
    monkeypatch.setattr("vqwave.sweep.runner.POLL", 0.1)
    hyperband = {"type": "hyperband", "min_iter": 2, "max_iter": 5}
    values = {"x": {"values": [1, 5, 0, 7]}}
    plan = plan_of(tmp_path, parameters=values, early_terminate=hyperband)
    (tmp_path / "program.py").write_text(SLOW)
    main(["sweep", str(plan.file), "--out", str(tmp_path / "out"), "--quiet"])
    lines = capsys.readouterr().out.splitlines()
    assert ["stopped early" in line for line in lines[1:5]] == [False, True, False, True]
    assert lines[-1].startswith("best: trial 3, valid/bits 0.1111")


def test_hyperband_stops_a_trial_that_diverges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not finite is no metric: the trial failed."""
    monkeypatch.setattr("vqwave.sweep.runner.POLL", 0.1)
    hyperband = {"type": "hyperband", "min_iter": 1, "max_iter": 3}
    plan = plan_of(tmp_path, parameters={"x": {"value": 5}}, early_terminate=hyperband)
    (tmp_path / "program.py").write_text(SLOW.replace("x + 1 / step", "float('nan')"))
    (trial,) = Sweep(plan, tmp_path / "out", quiet=True).run()
    assert trial.value is None
    assert trial.user_attrs["reason"] == "valid/bits is nan"


def test_a_trial_that_was_stopped_stops_the_sweep(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    (tmp_path / "program.py").write_text(
        "import sys; sys.exit('stopped at step 3 of 9, all saved: run the same command to go on')"
    )
    with pytest.raises(StoppedError):
        Sweep(plan, tmp_path / "out", quiet=True).run()
    assert Sweep(plan, tmp_path / "out").finished() == []


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
