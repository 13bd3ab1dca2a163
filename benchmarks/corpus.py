"""What a large corpus costs a training process: memory, start-up, and clips read ahead of the
model.

python benchmarks/corpus.py data/librispeech --hours 100

The corpus is made by repetition: one full-size shard of the source's recordings over and over, the
other shards links to it. A mapping counts in each process as if its file were another, so memory is
that of as many different recordings; the disk's cache, which holds one shard only, is warmer than
it would be, and the rate of the loader is that of a corpus in the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vqwave.data.corpus import HEADER, INDEX, shard_name
from vqwave.data.corpus_writer import SHARD_SAMPLES

WARM, TIMED = 20, 300  # batches


def enlarge(source: Path, out: Path, hours: float) -> None:
    """Write `hours` of `source`'s utterances, repeated, as a corpus of full shards."""
    header = json.loads((source / HEADER).read_text())
    header.pop("pitch", None)  # which is not repeated
    rows = [json.loads(line) for line in (source / INDEX).read_text().splitlines()]
    wanted, shard, offset, written = hours * 3600 * header["sample_rate"], 0, 0, 0
    with (out / INDEX).open("w") as index, (out / shard_name(0)).open("wb") as file:
        for number in range(10**9):
            row = rows[number % len(rows)]
            if written >= wanted:
                break
            if offset + row["frames"] > SHARD_SAMPLES:
                shard, offset = shard + 1, 0
                (out / shard_name(shard)).symlink_to(shard_name(0))
            if shard == 0:
                with (source / shard_name(row["shard"])).open("rb") as recordings:
                    recordings.seek(2 * row["offset"])
                    file.write(recordings.read(2 * row["frames"]))
            index.write(
                json.dumps(row | {"id": f"{number}/{row['id']}", "shard": shard, "offset": offset})
                + "\n"
            )
            offset, written = offset + row["frames"], written + row["frames"]
    if shard:  # the rows fall otherwise in the other shards, and may reach a little further
        os.truncate(out / shard_name(0), 2 * SHARD_SAMPLES)
    (out / HEADER).write_text(json.dumps(header))


def memory() -> dict[str, float]:
    """This process' memory in MiB: the most there was, and of it now private pages and pages of
    files.
    """
    status = dict(re.findall(r"(\w+):\s+(\d+) kB", Path("/proc/self/status").read_text()))
    return {
        name: round(int(status[key]) / 1024, 1)
        for name, key in (("peak", "VmHWM"), ("own", "RssAnon"), ("files", "RssFile"))
    }


def measure(folder: Path, clip: int, batch: int, workers: int) -> dict[str, float]:
    """Open the corpus and read batches as a training does; run in a process of its own."""
    import resource

    import torch

    from vqwave.data import Corpus, Segments, training_batches

    torch.set_num_threads(1)
    before, began, busy = memory(), time.perf_counter(), time.process_time()
    corpus = Corpus.open(folder)
    opened, opened_busy = time.perf_counter() - began, time.process_time() - busy
    segments = Segments(corpus, "train", clip)
    loader = training_batches(segments, batch, workers=workers)
    batches = iter(loader)
    next(batches)
    first, first_busy = time.perf_counter() - began, time.process_time() - busy
    for _ in range(WARM):
        next(batches)
    began = time.perf_counter()
    for _ in range(TIMED):
        next(batches)
    rate = TIMED * batch * clip / (time.perf_counter() - began)
    used = memory()
    return {
        "hours": round(corpus.seconds() / 3600, 1),
        "utterances": len(corpus.utterances),
        "open_seconds": round(opened, 2),
        "open_cpu_seconds": round(opened_busy, 2),
        "first_batch_seconds": round(first, 2),
        "first_batch_cpu_seconds": round(first_busy, 2),
        "workers": workers,
        "samples_per_second": round(rate),
        "imports_mib": before["peak"],
        **{f"{name}_mib": value for name, value in used.items()},
        "worker_peak_mib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1),
    }


def main() -> None:
    """Prints a JSON line for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a prepared corpus to repeat")
    parser.add_argument("--hours", type=float, default=100.0)
    parser.add_argument("--clip", type=int, default=8192, help="samples of a clip")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(
            json.dumps(measure(options.source, options.clip, options.batch, options.workers[0])),
            flush=True,
        )
        os._exit(0)
    folder = Path(tempfile.mkdtemp(prefix="vqwave-corpus-"))
    try:
        enlarge(options.source, folder, options.hours)
        for workers in options.workers:
            again = [sys.executable, __file__, str(folder), "--measure", "--workers", str(workers)]
            subprocess.run(
                [*again, "--clip", str(options.clip), "--batch", str(options.batch)], check=True
            )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
