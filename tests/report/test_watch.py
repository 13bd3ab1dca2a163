"""A live page: written while a run grows, left alone while nothing changes, and at rest at its
end.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vqwave.atomic_files import alone, fcntl
from vqwave.cli import main
from vqwave.errors import UserInputError
from vqwave.report import watch_report
from vqwave.report.watch import watch

pytest.importorskip("matplotlib")
EVERY = 5.0


def make_run(folder: Path, planned: int = 100) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(f"experiment: wavenet\ntrain:\n  steps: {planned}\n")
    return folder


def log(run: Path, step: int) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "seconds": step * 6.0, "train/nll": 1 / step}) + "\n")


def finish(run: Path, step: int) -> None:
    (run / "evaluation.json").write_text(json.dumps({"split": "valid", "step": step}))


def watched(run: Path, *events: Callable[[], object]) -> list[str]:
    """The pages that were there before each wait, while `events` happen one a wait, and the last
    one.
    """
    out, pages, left = run / "report.html", [], list(events)

    def wait(seconds: float) -> None:
        assert seconds == EVERY
        pages.append(out.read_text())
        if not left:
            raise KeyboardInterrupt
        left.pop(0)()

    try:
        watch([run], out, EVERY, wrote=lambda path: pages.append(str(path)), wait=wait)
    except KeyboardInterrupt:
        pages.append("interrupted")
    assert pages.pop(0) == str(out)
    pages.append(out.read_text())
    assert {path.name for path in run.iterdir() if path.name.startswith(".")} == set()
    return pages


def test_a_page_grows_with_its_run_and_ends_with_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    log(run, 10)
    events = [lambda: log(run, 20), lambda: log(run, 100), lambda: finish(run, 100), lambda: None]
    pages = watched(run, *events)
    assert "run: step 10 of 100, about 9 min to go." in pages[0]
    assert "run: step 20 of 100, about 8 min to go." in pages[1]
    assert "run: all 100 steps" in pages[2]
    assert all('data-refresh="5.0"' in page for page in pages[:4])
    assert "interrupted" not in pages
    assert 'data-refresh="' not in pages[-1]


def test_a_run_of_some_minutes_ends_after_the_steps_of_these(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "config.yaml").write_text("train:\n  steps: 100\n  minutes: 2.0\n")
    log(run, 10)
    pace = json.dumps({"steps_per_minute": 25.0, "minutes_before": 0.0})
    known = [lambda: (run / "pace.json").write_text(pace), lambda: log(run, 50)]
    pages = watched(run, *known, lambda: finish(run, 50), lambda: None)
    assert "run: step 10." in pages[0]
    assert "run: step 10 of 50, about 4 min to go." in pages[1]
    assert "interrupted" not in pages


@pytest.mark.skipif(fcntl is None, reason="no locks here")
def test_a_run_that_stops_early_ends_once_nobody_trains_there(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    log(run, 40)
    finish(run, 40)
    with alone(run):  # validated at its last step so far
        assert watched(run, lambda: None, lambda: None)[-2] == "interrupted"
    assert "interrupted" not in watched(run, lambda: None)


def test_nothing_new_is_not_written_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    log(run, 10)
    times = []
    note = lambda: times.append((run / "report.html").stat().st_mtime_ns)  # noqa: E731
    watched(run, note, note)
    assert times[0] == times[1]


def test_what_is_half_written_is_read_the_next_time(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    log(run, 10)
    broken = lambda: (run / "evaluation.json").write_text("{")  # noqa: E731
    pages = watched(run, broken, lambda: finish(run, 10))
    assert pages[0] == pages[1]
    assert pages[2] != pages[1]


def test_an_interrupted_watch_leaves_a_page_at_rest(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    pages = watched(run)
    assert pages[-2] == "interrupted"
    assert 'data-refresh="5.0"' in pages[0]
    assert 'data-refresh="' not in pages[-1]


def test_every_part_that_can_change_has_a_name(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    log(run, 10)
    log(run, 20)
    page = watched(run)[0]
    for name in ("nav", "header", "key-numbers", "training", "settings"):
        assert page.count(f'data-part="{name}"') == 1


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(UserInputError, match=r"--watch 0\.1: expected at least 1 s"):
        watch_report([run], run / "report.html", 0.1, print)
    with pytest.raises(UserInputError, match="a trained model does not change"):
        watch_report(["fsdd"], tmp_path / "page.html", 5.0, print)
    assert not list(tmp_path.rglob("*.html"))


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run), "--watch", "--recordings", "x.wav"])
    assert ended.value.code == 2
    assert "--recordings: not with --watch" in capsys.readouterr().err
    log(run, 100)
    finish(run, 100)
    main(["report", str(run), "--watch", "1"])
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
