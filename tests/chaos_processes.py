"""Processes that `chaos.py` starts and kills, and how a process is made to meet a kill or a full
disk.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos_scenarios import COMMON, Scenario
from forked import fork, free_port

from vqwave.training.command_line import main as train
from vqwave.training.experiment_files import load_experiment

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 600.0  # seconds that an attempt may take on a busy machine
# seconds after which a launcher would have ended the others; training, they leave at once or heed
# no SIGTERM
ALONE = 20.0


@dataclass
class Attempt:
    """The processes of one start of the command; `text` is what they print."""

    pids: list[int]
    log: Path
    status: dict[int, int] = field(default_factory=dict)
    # as a launcher ends what a process of it left behind: one killed at its start is waited for in
    # vain
    ended: bool = False

    def poll(self) -> bool:
        """Whether all have ended."""
        for pid in self.pids:
            if pid not in self.status:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    self.status[pid] = os.waitstatus_to_exitcode(status)
        return len(self.status) == len(self.pids)

    def wait(self) -> list[int]:
        until, alone = time.monotonic() + PATIENCE, None
        while not self.poll():
            if alone is None and any(self.status.values()):
                alone = time.monotonic()
            elif alone is not None and not self.ended and time.monotonic() - alone > ALONE:
                self.ended = True
                self.signal(signal.SIGTERM, self.pids)
            if time.monotonic() > until:
                self.signal(signal.SIGKILL, self.pids)
                raise SystemExit(f"a process hung; {self.log}:\n{self.text}")
            time.sleep(0.05)
        return [self.status[pid] for pid in self.pids]

    def signal(self, number: int, pids: list[int]) -> None:
        for pid in pids:
            if pid not in self.status and number == signal.SIGTERM:
                os.killpg(pid, number)  # with its data workers, as a scheduler does
            elif pid not in self.status:
                os.kill(pid, number)

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")


class Machine:
    """Starts experiments, forked or by command."""

    def __init__(self, folder: Path, commands: bool) -> None:
        self.folder, self.commands, self.count = folder, commands, 0
        names = ("wavenet", "vqvae", "distill", "prior", "adapt")
        self.experiments = {name: load_experiment(name) for name in names}
        for name in (
            "torch._dynamo",
            "torch.utils.data",
            "torch.distributed.algorithms.ddp_comm_hooks",
            "numba",
        ):
            if importlib.util.find_spec(name):  # else every process imports it anew
                importlib.import_module(name)

    def start(
        self, scenario: Scenario, run: Path, hook: Callable[[], None] | None = None
    ) -> Attempt:
        """The command of a scenario, once more. `hook` is called in each forked process first."""
        self.count += 1
        log = self.folder / f"log-{self.count}"
        told = [
            text.replace("{teacher}", str(self.folder / "twins" / "vqvae")).replace(
                "{folder}", str(self.folder)
            )
            for text in scenario.settings
        ]
        config = ROOT / "configs" / scenario.experiment / "tiny.yaml"
        argv = [
            "--config",
            str(config),
            f"run={run}",
            f"data.corpus={self.folder / 'corpus'}",
            *COMMON,
            *told,
            "--quiet",
        ]
        if self.commands:
            return Attempt([self._command(scenario, argv, log)], log)
        port = free_port()
        pids = [
            self.fork(
                lambda: train(self.experiments[scenario.experiment], argv),
                log,
                hook,
                rank,
                scenario.world,
                port,
            )
            for rank in range(scenario.world)
        ]
        return Attempt(pids, log)

    def fork(
        self,
        work: Callable[[], object],
        log: Path,
        hook: Callable[[], None] | None = None,
        rank: int = 0,
        world: int = 1,
        port: int = 0,
    ) -> int:
        """A process of its own that does `work` as rank of `world`."""

        def hooked() -> None:
            if hook is not None:
                hook()
            work()

        return fork(hooked, log, rank=rank, world=world, port=port, own_group=True)

    def _command(self, scenario: Scenario, argv: list[str], log: Path) -> int:
        few = ["--multi_gpu"] if scenario.world > 1 else []
        numbers = [
            "--num_processes",
            str(scenario.world),
            "--num_machines",
            "1",
            "--main_process_port",
            str(free_port()),
        ]
        plain = ["--mixed_precision", "no", "--dynamo_backend", "no"]
        program = [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--quiet",
            *few,
            *numbers,
            *plain,
        ]
        script = str(ROOT / "experiments" / f"{scenario.experiment}.py")
        environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        with log.open("w") as out:
            process = subprocess.Popen(
                [*program, script, *argv],
                stdout=out,
                stderr=out,
                env=environment,
                start_new_session=True,
            )
        return process.pid
