"""Kills trainings at random moments and compares what they become with their uninterrupted twins:
`make chaos`.

Each scenario is one experiment at a tiny size, on one process or two. It is killed again and again
(SIGKILL at any moment and within saves, SIGTERM), meets a full disk and finds its newest checkpoint
damaged; each time the same command goes on. At the end weights, averages, optimizer, codebook,
logged losses, evaluation and samples must be those of the twin, bit for bit.

Processes are forked from this one, which has imported everything but run nothing: a start costs a
tenth of a second rather than five. `--commands` starts `accelerate launch experiments/...` instead,
without the kills that need a hook in a save. A disk that is full is a limit on the size of files
(EFBIG in place of ENOSPC). The kills are drawn from `--seed`; the moment within a step at which a
signal strikes is the machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from random import Random

from chaos_commands import endure_all
from chaos_processes import Attempt, Machine
from chaos_scenarios import DAMAGE, SCENARIOS, STEPS, Scenario, make_corpus, result

from vqwave import atomic_files
from vqwave.inference import model_folder
from vqwave.training import checkpoint

SAVING = (
    (model_folder, "save_model"),
    (checkpoint, "save_file"),
    (checkpoint, "file_digest"),
    (checkpoint, "_flush"),
    (atomic_files, "replace_folder"),
    (checkpoint, "_prune"),
)
"""What a save is made of, by the modules that call it."""


def last_step(run: Path) -> int:
    """The newest step in the log; 0 before the first."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)
    except FileNotFoundError:
        return 0


def die_within_a_save(call: int) -> Callable[[], None]:
    """A hook: the process kills itself around its `call`-th step of saving (a file written,
    flushed, renamed, removed).
    """

    def arm() -> None:
        left = call

        def dying(work: Callable[..., object]) -> Callable[..., object]:
            def stand_in(*arguments: object, **settings: object) -> object:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return work(*arguments, **settings)

            return stand_in

        for module, name in SAVING:
            setattr(module, name, dying(getattr(module, name)))
        os.replace = dying(os.replace)

    return arm


def small_files() -> None:
    """A hook: no file may grow beyond 12 kB, which is enough for logs, and not for weights."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))


class Chaos:
    """One scenario and its twin."""

    def __init__(self, machine: Machine, scenario: Scenario, seed: int) -> None:
        self.machine, self.scenario = machine, scenario
        self.random = Random(f"{seed} {scenario.name}")
        slug = "".join(c if c.isalnum() else "-" for c in scenario.name)
        self.run, self.twin = machine.folder / "runs" / slug, machine.folder / "twins" / slug
        self.happened: Counter[str] = Counter()
        ways = (
            ["moment", "term"] if machine.commands else ["moment", "save", "term", "moment", "save"]
        )
        self.ways = cycle(self.random.sample(ways, len(ways)))

    def prepare(self) -> None:
        """The twin, which nothing happens to."""
        self.finish(self.twin)

    def finish(self, run: Path) -> None:
        attempt = self.machine.start(self.scenario, run)
        status = attempt.wait()
        if any(status):
            raise SystemExit(
                f"{self.scenario.name}: status {status}, expected 0; {attempt.log}:\n{attempt.text}"
            )
        self.expect_note(attempt)

    def endure(self) -> None:
        """All that shall happen to it, then to the end."""
        kills, damage = self.scenario.kills, list(self.scenario.damage)
        for number in range(kills):
            least = STEPS * number / kills
            self.kill(least, least + STEPS / kills)
            if self.scenario.full_disk and number == 1 and not self.machine.commands:
                self.fill_disk()
            if damage and number >= kills - len(damage):
                self.damage(damage.pop())
        self.finish(self.run)
        if self.owed is not None:
            raise SystemExit(f"{self.scenario.name}: {self.owed} was damaged, and no start said so")

    def kill(self, least: float, most: float) -> None:
        way = next(self.ways)
        if way == "save":
            attempt = self.machine.start(
                self.scenario, self.run, die_within_a_save(self.random.randint(2, 45))
            )
        else:
            attempt = self.machine.start(self.scenario, self.run)
            self.strike(
                attempt,
                self.random.uniform(least, most),
                signal.SIGTERM if way == "term" else signal.SIGKILL,
            )
        status = attempt.wait()
        self.expect_note(attempt)
        self.judge(way, attempt, status)

    def strike(self, attempt: Attempt, moment: float, number: int) -> None:
        """A signal once the run has come to this step and a bit, to one process or to all."""
        began, gone, seen = time.monotonic(), time.monotonic(), last_step(self.run)
        while last_step(self.run) < int(moment) and not attempt.poll():
            time.sleep(0.01)
            now = last_step(self.run)
            if now != seen:
                gone, began, seen = time.monotonic() - began, time.monotonic(), now
        time.sleep(self.random.uniform(0, min(0.5, max(0.02, gone if moment >= 1 else 0.5))))
        victims = (
            attempt.pids
            if number == signal.SIGTERM and self.random.random() < 0.5
            else [self.random.choice(attempt.pids)]
        )
        # the launcher has a process group of its own: all of them, as a scheduler would
        if self.machine.commands:
            os.killpg(attempt.pids[0], number)
        elif not attempt.poll():
            attempt.signal(number, victims)

    def judge(self, way: str, attempt: Attempt, status: list[int]) -> None:
        """Count what came of a kill, and insist on clear words."""
        text = attempt.text
        if not any(status):
            self.happened["over before the kill"] += 1
            return
        self.happened["killed"] += 1
        self.happened[f"by {way}"] += 1
        self.happened["survivors ended before they trained"] += attempt.ended
        if self.machine.commands:
            return
        left = [*self.run.glob(".*"), *(self.run / "checkpoints").glob(".*")]
        self.happened["left half-written"] += bool(left)
        dead = [
            rank for rank, code in enumerate(status) if code in (-signal.SIGKILL, -signal.SIGTERM)
        ]
        if (
            way == "term"
            and not dead
            and ("run the same command" not in text or set(status) != {143})
        ):
            raise SystemExit(f"{self.scenario.name}: SIGTERM ended with {status}:\n{text}")
        if way != "term" and len(status) > len(dead) and 99 in status:
            raise SystemExit(f"{self.scenario.name}: a survivor ended with a traceback:\n{text}")
        if dead and len(dead) < len(status) and self.run.exists() and "lost rank" in text:
            self.happened["lost rank named"] += 1

    def fill_disk(self) -> None:
        before = sorted(path.name for path in (self.run / "checkpoints").glob("step-*"))
        attempt = self.machine.start(self.scenario, self.run, small_files)
        status, after = (
            attempt.wait(),
            sorted(path.name for path in (self.run / "checkpoints").glob("step-*")),
        )
        if (
            set(status) != {2}
            or "cannot be written (File too large)" not in attempt.text
            or not set(before) <= set(after)
        ):
            raise SystemExit(
                f"{self.scenario.name}: on a full disk {status}, {before} ->"
                f" {after}:\n{attempt.text}"
            )
        if list(self.run.glob(".*")) or list((self.run / "checkpoints").glob(".*")):
            raise SystemExit(f"{self.scenario.name}: a full disk left something half-written")
        self.happened["full disk"] += 1

    def damage(self, kind: str) -> None:
        steps = sorted((self.run / "checkpoints").glob("step-*"))
        if not steps:
            raise SystemExit(f"{self.scenario.name}: no checkpoint to damage")
        other = (
            steps[0] if len(steps) > 1 else sorted((self.twin / "checkpoints").glob("step-*"))[-1]
        )
        DAMAGE[kind](steps[-1], other)
        self.happened["damaged"] += 1
        self.owed = steps[-1].name

    owed: str | None = None

    def expect_note(self, attempt: Attempt) -> None:
        """After a checkpoint was damaged, the first start that comes so far says that it passes it
        over.
        """
        if self.owed is None:
            return
        if f"{self.owed}: not complete" in attempt.text:
            self.owed = None

    def differences(self) -> list[str]:
        """What is not as in the twin."""
        mine, theirs = (result(run) for run in (self.run, self.twin))
        return sorted(
            name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)
        )


def endure_trainings(machine: Machine, seed: int, wanted: list[Scenario]) -> Counter[str]:
    """Every scenario; prints a line for each -> what happened, `wrong` among it."""
    total = Counter[str]()
    if not wanted:
        return total
    log = machine.folder / "log-corpus"
    Attempt([machine.fork(lambda: make_corpus(machine.folder), log)], log).wait()
    if (
        any("{teacher}" in " ".join(scenario.settings) for scenario in wanted)
        and SCENARIOS[0] not in wanted
    ):
        Chaos(machine, SCENARIOS[0], seed).prepare()
    for scenario in wanted:
        chaos = Chaos(machine, scenario, seed)
        chaos.prepare()
        chaos.endure()
        different = chaos.differences()
        chaos.happened["runs"] += 1
        chaos.happened["identical"] += not different
        chaos.happened["wrong"] += bool(different)
        total += chaos.happened
        told = ", ".join(
            f"{what} {count}"
            for what, count in chaos.happened.items()
            if what not in ("identical", "runs") and count
        )
        verdict = "identical" if not different else f"DIFFERENT: {', '.join(different[:8])}"
        print(f"{scenario.name}: {told}; {verdict}", flush=True)
    return total


def main() -> None:
    """Prints a line a scenario, then the counts of all; status 1 unless everything is identical,
    nothing is left and nothing ended with a traceback.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", default="", help="scenarios in whose name this regular expression is found"
    )
    parser.add_argument(
        "--commands",
        action="store_true",
        help="start `accelerate launch experiments/...` rather than fork",
    )
    parser.add_argument("--keep", action="store_true", help="keep the runs")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="vqwave-chaos-"))
    machine, began = Machine(folder, options.commands), time.monotonic()
    wanted = [scenario for scenario in SCENARIOS if re.search(options.only, scenario.name)]
    total = endure_all(machine, options.seed, lambda name: bool(re.search(options.only, name)))
    total += endure_trainings(machine, options.seed, wanted)
    if not options.keep:
        shutil.rmtree(folder)
    print(
        f"kills {total['killed']}, full disks {total['full disk']}, damaged {total['damaged']},"
        f" identical {total['identical']} of {total['runs']}, left {total['left']},"
        f" tracebacks {total['tracebacks']}, wrong {total['wrong']};"
        f" {time.monotonic() - began:.0f} s"
    )
    raise SystemExit(total["wrong"] != 0 or total["identical"] != total["runs"])


if __name__ == "__main__":
    main()
