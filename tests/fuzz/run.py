"""The long run of the hostile inputs: `make fuzz N=20000 SEED=0`.

Every surface is fuzzed in processes of its own, with a limit of memory and an alarm for each input.
The last line counts all inputs; the status is 1 unless every one was refused or taken in time.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import TextIO

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.outcome import outcome_of

PIECE = 500  # inputs of a process
SECONDS, SPARE = 20, 120  # for an input; for what a process does beside
MEMORY = 2 << 30  # bytes beyond what the interpreter and torch take
KINDS = ("refused", "accepted", "tracebacks", "hangs", "memory")


class Hang(BaseException):
    """An input takes too long."""


def _alarm(*_: object) -> None:
    raise Hang


def work(name: str, seed: int, first: int, count: int, lines: TextIO) -> None:
    """Writes a line for each input: its number, and what became of it."""
    from fuzz.surfaces import surfaces

    with tempfile.TemporaryDirectory() as home:
        surface = next(each for each in surfaces(Path(home)) if each.name == name)
        surface.once()
        outcome_of(surface, seed, 0)  # loads what is loaded once
        own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (own + MEMORY, own + MEMORY))
        signal.signal(signal.SIGALRM, _alarm)
        for number in range(first, first + count):
            print(f"{number} ", end="", flush=True, file=lines)
            try:
                signal.alarm(SECONDS)
                kind, text = outcome_of(surface, seed, number)
            except Hang:
                kind, text = "hangs", traceback.format_exc()
            finally:
                signal.alarm(0)
            print(kind, flush=True, file=lines)
            if kind not in ("refused", "accepted"):
                print(
                    f"--- {name}, seed {seed}, input {number}\n{text}", file=sys.stderr, flush=True
                )


def piece(name: str, seed: int, first: int, count: int) -> list[list[str]]:
    """What became of each of these inputs, in a forked process, which need import nothing; of the
    last an empty list where it ended the process.
    """
    with tempfile.TemporaryFile("w+") as lines:
        process = multiprocessing.get_context("fork").Process(
            target=work, args=(name, seed, first, count, lines)
        )
        process.start()
        process.join(SPARE + SECONDS * count)
        if process.is_alive():
            process.kill()
            process.join()
        lines.seek(0)
        return [line.split()[1:] for line in lines]


def main(total: int, seed: int) -> int:
    from fuzz.surfaces import surfaces

    names = [surface.name for surface in surfaces(Path())]
    counts: Counter[str] = Counter()
    for place, name in enumerate(names):
        last = total // len(names) + (place < total % len(names))
        own: Counter[str] = Counter()
        number = 0
        while number < last:
            count = min(PIECE, last - number)
            kinds = piece(name, seed, number, count)
            own.update(kind[0] for kind in kinds if kind)
            number += max(1, len(kinds))
            if not kinds or not kinds[-1]:  # it ended the process
                own["tracebacks"] += 1
                print(
                    f"--- {name}, seed {seed}, input {number - 1}: the process ended",
                    file=sys.stderr,
                )
        print(f"{name}: {', '.join(f'{kind} {own[kind]}' for kind in KINDS)}", flush=True)
        counts += own
    print(f"inputs {total}, {', '.join(f'{kind} {counts[kind]}' for kind in KINDS)}")
    return int(counts["refused"] + counts["accepted"] != total)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main(int(sys.argv[1]), int(sys.argv[2])))
