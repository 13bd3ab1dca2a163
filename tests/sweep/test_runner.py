"""Trials run one after another, are killed and taken up again, and stopped early."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sweep_plans import PROGRAM, plan_of

from vqwave.cli import main
from vqwave.errors import UserInputError
from vqwave.sweep import Plan, StoppedError, Sweep, best_of
from vqwave.sweep.journal import JOURNAL
from vqwave.sweep.table import text_table

ROOT = Path(__file__).parents[2]


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


def test_a_parameter_whose_values_are_mappings_has_its_column(tmp_path: Path) -> None:
    quantizers = [{"kind": "ema", "codebook_size": 8}, {"kind": "fsq"}]
    plan = plan_of(tmp_path, parameters={"model.quantizer": {"values": quantizers}})
    trials = [
        SimpleNamespace(
            number=number,
            value=1.0,
            state=SimpleNamespace(name="COMPLETE"),
            user_attrs={"values": {"model.quantizer": each}, "seconds": 1.0},
        )
        for number, each in enumerate(quantizers)
    ]
    lines = text_table(plan, trials, tmp_path).splitlines()
    assert "kind=ema, codebook_size=8" in lines[1]
    assert "kind=fsq" in lines[2]


def test_a_program_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(tmp_path)
    (tmp_path / "program.py").unlink()
    for words in ([], ["--dry-run"]):
        with pytest.raises(SystemExit) as end:
            main(["sweep", str(plan.file), "--out", str(tmp_path / "out"), *words])
        assert end.value.code == 2
        assert "program.py, no such file here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


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


def test_under_nohup_a_closed_terminal_stops_no_sweep(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    closed = "import os, signal\nos.kill(os.getppid(), signal.SIGHUP)\n"
    (tmp_path / "program.py").write_text(closed + PROGRAM)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        trials = Sweep(plan, tmp_path / "out", quiet=True).run()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert [trial.value for trial in trials] == [4.0, 1.0, 0.0, 1.0]


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
