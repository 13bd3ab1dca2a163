"""Kills commands in the middle, and fills the disk under them: the part of `make chaos` without
training.

Each command is done once undisturbed, its twin. Then it is killed again and again in one place:
SIGKILL at a random moment and at a random file operation, SIGTERM at both; and in other places its
disk has too little room. Then the same command goes on, and must leave what the twin left, bit for
bit; before, what is there under its own name must be complete. A disk is a tmpfs of its own, which
grows before the command goes on; who is not root has a limit on the size of files instead.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import torch
from chaos_processes import Attempt, Machine
from chaos_scenarios import result

from vqwave import audio
from vqwave.cli import main as vqwave
from vqwave.data import prepare
from vqwave.distributions import MixtureOfLogistics
from vqwave.evaluation.resume import read_report
from vqwave.features import LogMelSpec
from vqwave.inference.model_folder import ModelCard, load_trained, save_trained
from vqwave.models import VQVAESpec, WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import FrameEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec
from vqwave.nn.wavenet import StackSpec
from vqwave.sweep import Sweep, read

RATE, PAGE = 8000, 4096
CLONE_NEWNS = 0x20000  # Linux: mounts of its own
WAYS = ("moment", "operation", "term", "operation", "term at operation", "moment", "operation")
ROOM = (0.05, 0.4, 0.8)  # of what the twin wrote
PREPARED = "run-corpus/"  # of `vqwave adapt --out run`
WRITES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.symlink")
PROGRAM = """
import json, pathlib, sys, time
given = dict(word.split("=") for word in sys.argv[1:])
run = pathlib.Path(given["run"])
run.mkdir(exist_ok=True)
time.sleep(0.1)
row = {"step": 1, "seconds": 0.1, "valid/bits": (float(given["x"]) - 2) ** 2}
(run / "metrics.jsonl").write_text(json.dumps(row) + "\\n")
"""
SWEEP = {
    "program": "program.py",
    "method": "grid",
    "metric": {"name": "valid/bits", "goal": "minimize"},
    "parameters": {"x": {"values": [0, 1, 2, 3]}},
    "command": ["${interpreter}", "${program}", "${args_no_hyphens}"],
}


# ---------------------------------------------------------------- what is done


def files_of(place: Path) -> dict[str, object]:
    """Every file's content by its place."""
    return {
        path.relative_to(place).as_posix(): path.read_bytes()
        for path in place.rglob("*")
        if path.is_file()
    }


def evaluated(place: Path) -> dict[str, object]:
    """The figures, and the recognizers that were trained for them."""
    tree = json.loads((place / "metrics.json").read_text())
    kept = {name: data for name, data in files_of(place).items() if name != "metrics.json"}
    return kept | {"metrics.json": {k: v for k, v in tree.items() if k != "seconds"}}


def swept(place: Path) -> dict[str, object]:
    """The trials without times."""
    plan = read(place / "sweep.yaml")
    trials = Sweep(plan, place / "out", quiet=True).finished()
    found: dict[str, object] = {
        f"trial {trial.number}": (trial.user_attrs["values"], trial.value, trial.state.name)
        for trial in trials
    }
    timed = ("out/journal.jsonl", ".log")
    return found | {k: v for k, v in files_of(place).items() if not k.endswith(timed)}


def adapted(place: Path) -> dict[str, object]:
    """The prepared recordings, and the run without times."""
    prepared = {name: data for name, data in files_of(place).items() if name.startswith(PREPARED)}
    return result(place / "run") | prepared


def resumable(place: Path, twin: dict[str, object]) -> None:
    """The prepared recordings are complete, and a model that is there can be read."""
    for name, data in files_of(place).items():
        assert not name.startswith(PREPARED) or data == twin[name], f"{name} is not complete"
    if (place / "run" / "model").exists():
        load_trained(place / "run")


def complete(place: Path, twin: dict[str, object]) -> None:
    """What has its own name is what the twin left there."""
    for name, data in files_of(place).items():
        hidden = any(part.startswith(".") for part in Path(name).parts)
        assert hidden or data == twin.get(name), f"{name} is there, and is not complete"


def readable(place: Path, twin: dict[str, object]) -> None:
    if (place / "metrics.json").exists():
        read_report(place / "metrics.json")


def countable(place: Path, twin: dict[str, object]) -> None:
    """Trials that have ended are those of the twin."""
    if (place / "out").exists():
        mine = {k: v for k, v in swept(place).items() if k.startswith("trial ")}
        assert mine.items() <= twin.items(), f"other trials: {mine}"


@dataclass(frozen=True)
class Command:
    """Words of the command line; {place} is where it writes, {inputs} what all of them read.

    `copied`: what is copied into its place first. `result`: what it leaves. `check`: raises where
    something that is not complete lies under its own name after a kill. `done`: how a command
    refuses to do again what is complete.
    """

    name: str
    words: str
    copied: tuple[str, ...] = ()
    result: Callable[[Path], dict[str, object]] = files_of
    check: Callable[[Path, dict[str, object]], None] = complete
    done: str = ""


ADAPTATION = (
    "train.steps=9 train.minutes=null train.valid_every=4 train.save_every=3 train.log_every=2"
    " train.threads=1 data.batch=2 data.clip_seconds=0.06 data.valid_clip_seconds=0.06"
    " data.valid_clips=2 decoder_segment_seconds=0.03 num_samples=0"
)
COMMANDS = (
    Command("prepare", "prepare folder {inputs}/in --out {place}/corpus --quiet"),
    Command(
        "prepare again", "prepare folder {inputs}/in --out {place}/corpus --quiet", ("corpus",)
    ),
    Command("encode FOLDER", "encode {inputs}/model {inputs}/in --out {place}/codes --quiet"),
    Command(
        "decode FOLDER",
        "decode {inputs}/model {inputs}/codes --out {place}/waves --quiet --backend reference",
    ),
    Command(
        "evaluate",
        "evaluate {inputs}/model --data {place}/corpus --out {place}/metrics.json --quiet --split"
        " train --metrics nll,codes,spectral,pitch --max-utterances 4 --max-seconds 0.08"
        " --resamples 20 --backend reference",
        ("corpus",),
        evaluated,
        readable,
    ),
    Command(
        "sweep",
        "sweep {place}/sweep.yaml --out {place}/out --quiet",
        ("sweep.yaml",),
        swept,
        countable,
    ),
    Command(
        "export of a folder",
        "export {inputs}/model --format safetensors --out {place}/out --quiet",
        done="there already, expected a new or empty folder",
    ),
    Command(
        "export of a graph",
        "export {inputs}/model --format onnx --part encoder --out {place}/out.onnx --quiet",
    ),
    Command(
        "adapt",
        "adapt {inputs}/model {inputs}/voice --speaker cid --replay {inputs}/corpus --out"
        f" {{place}}/run --quiet --set {' --set '.join(ADAPTATION.split())}",
        result=adapted,
        check=resumable,
    ),
)


def make_inputs(inputs: Path) -> None:
    """Recordings of two speakers, a corpus, an untrained codec, its codes, and a sweep."""
    rng = np.random.default_rng(0)
    (inputs / "short").mkdir(parents=True)
    for number, speaker in enumerate(("ann", "bob")):
        (inputs / "in" / speaker).mkdir(parents=True)
        for take in range(12):
            t = np.arange(2400 + 100 * take) / RATE
            tone = 0.1 * np.sin(2 * np.pi * (110 + 60 * number + 10 * take) * t)
            wave = (tone + 0.03 * rng.standard_normal(len(t))).astype(np.float32)
            audio.write(inputs / "in" / speaker / f"{speaker}-{take}.wav", wave, RATE)
            if number == 1 and take < 6:
                audio.write(inputs / "voice" / f"{take}.wav", np.roll(wave, 400), RATE)
            if take < 3:  # the reference decoder is slow
                audio.write(inputs / "short" / f"{speaker}-{take}.wav", wave[: RATE // 20], RATE)
    prepare("folder", inputs / "in", inputs / "corpus", quiet=True)
    stack = StackSpec(layers=2, dilation_cycle=2, residual_channels=8, gate_channels=8)
    spec = VQVAESpec(
        encoder=FrameEncoderSpec(features=LogMelSpec(bands=8, fmax=4000), channels=8, latent_dim=4),
        quantizer=EMAQuantizerSpec(codebook_size=8),
        decoder=WaveNetSpec(
            head=MixtureOfLogistics(components=2),
            network=stack,
            conditioner=ConditionerSpec(channels=4),
        ),
    )
    labels = {"speaker": ["ann", "bob"]}
    card = ModelCard(sample_rate=RATE, labels=labels, spec=spec, about={"corpus": "chaos"})
    torch.manual_seed(0)
    save_trained(inputs / "model", card.build(), card)
    words = ("--out", str(inputs / "codes"), "--speaker", "ann", "--quiet")
    vqwave(["encode", str(inputs / "model"), str(inputs / "short"), *words])
    (inputs / "program.py").write_text(PROGRAM)
    plan = SWEEP | {"program": str(inputs / "program.py")}
    (inputs / "sweep.yaml").write_text(json.dumps(plan))


# ---------------------------------------------------------------- kills and disks


def counting(log: Path) -> Callable[[], None]:
    """A hook: a byte in `log` for each file operation."""
    return _at_operations(lambda number, file: os.write(file, b"."), log)


def dying_at(operation: int, number: int) -> Callable[[], None]:
    """A hook: the process gets the signal right before its file operation of this number."""
    strikes = {operation}
    return _at_operations(
        lambda count, _: count in strikes and os.kill(os.getpid(), number), Path(os.devnull)
    )


def _at_operations(strike: Callable[[int, int], object], log: Path) -> Callable[[], None]:
    def arm() -> None:
        file, own, count = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), os.getpid(), 0

        def audit(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            if event == "open":
                flags = arguments[2]
                writes = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
                writes &= str(arguments[0]) not in (os.devnull, str(log))
            else:
                writes = event in WRITES
            if writes and os.getpid() == own:
                count += 1
                strike(count, file)

        sys.addaudithook(audit)

    return arm


def small_files(most: int) -> Callable[[], None]:
    """A hook: no file may grow beyond so many bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def can_mount(folder: Path) -> bool:
    """Whether this process may mount; what it mounts is seen by nobody else, and ends with it."""
    linux = sys.platform == "linux" and os.geteuid() == 0
    own = ctypes.CDLL(None).unshare(CLONE_NEWNS) if linux else -1
    private = ["mount", "--make-rprivate", "/"]
    if own != 0 or subprocess.run(private, capture_output=True).returncode != 0:
        return False
    (folder / "disk").mkdir(parents=True)
    with disk(folder / "disk", 1 << 20) as mounted:
        return mounted


@contextmanager
def disk(place: Path, size: int) -> Iterator[bool]:
    """A disk of so many bytes at `place` -> whether it could be mounted."""
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(words, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


def pages(folder: Path) -> int:
    """Bytes of a folder's files on a disk."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in folder.rglob("*"))


class Wrong(Exception):
    """Something that the command must not do or leave."""


@dataclass
class Trouble:
    """One command and its twin."""

    machine: Machine
    command: Command
    inputs: Path
    random: Random
    mounts: bool
    happened: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        slug = "".join(c if c.isalnum() else "-" for c in self.command.name)
        return self.machine.folder / "commands" / slug

    def start(self, place: Path, hook: Callable[[], None] | None = None) -> Attempt:
        words = self.command.words.format(place=place, inputs=self.inputs).split()
        log = self.home / f"log-{self.machine.count}"
        self.machine.count += 1

        def work() -> None:
            tempfile.tempdir = str(self.home / "tmp")
            vqwave(words)

        return Attempt([self.machine.fork(work, log, hook)], log)

    def new_place(self, name: str) -> Path:
        place = self.home / name
        place.mkdir(parents=True)
        return place

    def copy_inputs(self, place: Path) -> None:
        for name in self.command.copied:
            source = self.inputs / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, place / name)

    def endure(self) -> None:
        """The twin, then all that shall happen; what is wrong is noted."""
        (self.home / "tmp").mkdir(parents=True)
        twin = self.new_place("twin")
        self.copy_inputs(twin)
        before, began = pages(twin), time.monotonic()
        self.finish(twin, "undisturbed", counting(self.home / "operations"))
        self.seconds = time.monotonic() - began
        self.operations = (self.home / "operations").stat().st_size
        self.twin, self.names = self.command.result(twin), self.left(twin)
        self.written = pages(twin) - before or before  # made anew
        self.largest = max(path.stat().st_size for path in twin.rglob("*") if path.is_file())
        for trouble in (self.kills, *(self.room(share) for share in ROOM)):
            try:
                trouble()
            except (Wrong, AssertionError) as error:
                self.wrong.append(" ".join(str(error).split("\n", 1)[0].split()))
                print(f"{self.command.name}: {error}", file=sys.stderr)

    def left(self, place: Path) -> set[str]:
        """Names of files and folders, whatever they contain."""
        return {path.relative_to(place).as_posix() for path in place.rglob("*")}

    def kills(self) -> None:
        place = self.new_place("killed")
        self.copy_inputs(place)
        for way in WAYS:
            if self.is_killed(place, way):
                self.command.check(place, self.twin)
                continue
            self.happened["over before the kill"] += 1  # so that there is nothing left to do
            self.compare(place, f"over before a kill by {way}")
            shutil.rmtree(place)
            self.copy_inputs(self.new_place("killed"))
        self.go_on(place, "after kills")

    def is_killed(self, place: Path, way: str) -> bool:
        """Whether it was not over before; `way` is one of WAYS."""
        number = signal.SIGTERM if way.startswith("term") else signal.SIGKILL
        if way.endswith("operation"):
            at = self.random.randint(1, self.operations)
            attempt = self.start(place, dying_at(at, number))
        else:
            attempt = self.start(place)
            time.sleep(self.random.uniform(0, self.seconds))
            if not attempt.poll():
                attempt.signal(number, attempt.pids)
        (status,) = attempt.wait()
        self.expect_a_line(attempt, f"killed by {way}")
        if status == 0 or (status == 2 and self.is_done(attempt)):
            return False
        last = (attempt.text.splitlines() or [""])[-1]
        told = last.startswith("stopped") or "run the same command" in last
        if status != -number and (status != 128 + number or not told):
            raise Wrong(f"killed by {way}: status {status}\n{attempt.text}")
        self.happened["killed"] += 1
        self.happened[f"by {way}"] += 1
        return True

    def room(self, share: float) -> Callable[[], None]:
        def fill() -> None:
            place = self.new_place(f"full-{share}")
            if self.mounts:
                probe = self.new_place(f"inputs-{share}")
                self.copy_inputs(probe)
                size = max(PAGE, pages(probe) + round(share * self.written / PAGE) * PAGE)
                with disk(place, size):
                    self.copy_inputs(place)
                    self.meet_the_end(place, share, None)
                    grow = ["mount", "-o", f"remount,size={2 * (size + self.written)}", str(place)]
                    subprocess.run(grow, check=True)
                    self.go_on(place, f"after a full disk ({share})")
            else:
                self.copy_inputs(place)
                self.meet_the_end(place, share, small_files(round(share * self.largest)))
                self.go_on(place, f"after files that could not grow ({share})")

        return fill

    def meet_the_end(self, place: Path, share: float, hook: Callable[[], None] | None) -> None:
        attempt = self.start(place, hook)
        (status,) = attempt.wait()
        self.expect_a_line(attempt, f"on a full disk ({share})")
        text = attempt.text.lower()
        room = "no space left on device" in text or "file too large" in text
        if status == 2 and room and str(place).lower() in text:
            self.happened["full disk"] += 1
        elif status != 0:
            raise Wrong(f"on a full disk ({share}): status {status}\n{attempt.text}")
        hidden = [name for name in self.left(place) - self.names if "/." in f"/{name}"]
        if hidden:
            raise Wrong(f"on a full disk ({share}): left {sorted(hidden)}\n{attempt.text}")
        self.command.check(place, self.twin)

    def is_done(self, attempt: Attempt) -> bool:
        return bool(self.command.done) and self.command.done in attempt.text

    def expect_a_line(self, attempt: Attempt, when: str) -> None:
        text = attempt.text
        if "Traceback" in text or "a mistake of vqwave" in text:
            self.happened["tracebacks"] += 1
            raise Wrong(f"{when}: a traceback\n{text}")

    def finish(self, place: Path, when: str, hook: Callable[[], None] | None = None) -> None:
        attempt = self.start(place, hook)
        (status,) = attempt.wait()
        self.expect_a_line(attempt, when)
        if status != 0 and not self.is_done(attempt):
            raise Wrong(f"{when}: status {status}, expected 0\n{attempt.text}")

    def go_on(self, place: Path, when: str) -> None:
        """The same command to its end."""
        self.finish(place, when)
        self.compare(place, when)

    def compare(self, place: Path, when: str) -> None:
        """What is there is what the twin left, and nothing more."""
        mine = self.command.result(place)
        different = {n for n in mine.keys() | self.twin.keys() if mine.get(n) != self.twin.get(n)}
        left = self.left(place) - self.names
        left |= {path.name for path in (self.home / "tmp").iterdir()}
        self.happened["runs"] += 1
        self.happened["left"] += len(left)
        if different or left:
            raise Wrong(f"{when}: different {sorted(different)[:6]}, left {sorted(left)[:6]}")
        self.happened["identical"] += 1


def endure_all(machine: Machine, seed: int, wanted: Callable[[str], bool]) -> Counter[str]:
    """Every command; prints a line for each -> what happened, `wrong` among it."""
    commands = [command for command in COMMANDS if wanted(command.name)]
    total: Counter[str] = Counter()
    if not commands:
        return total
    inputs = machine.folder / "inputs"
    log = machine.folder / "log-inputs"
    made = Attempt([machine.fork(lambda: make_inputs(inputs), log)], log)
    if any(made.wait()):
        raise SystemExit(f"the inputs of the commands could not be made:\n{made.text}")
    mounts = can_mount(machine.folder)
    if not mounts:
        print("no disk can be mounted here: files that cannot grow stand for a full disk")
    for command in commands:
        random = Random(f"{seed} {command.name}")
        trouble = Trouble(machine, command, inputs, random, mounts)
        trouble.endure()
        total += trouble.happened
        total["wrong"] += len(trouble.wrong)
        told = ", ".join(f"{what} {n}" for what, n in trouble.happened.items() if n)
        verdict = "; ".join(trouble.wrong) or "as the twin"
        print(f"{command.name}: {told}; {verdict}", flush=True)
    return total
