"""Leave one voice out on data/fsdd: codes and a decoder of five voices, adapted to the sixth with a
minute of it; words kept and target reached of conversions to it, and of the five before and after.
Conversions of that minute are replayed, as of a shipped model; or recordings of the five.

python benchmarks/adapt_leave_one_out.py [--voices theo lucas] [--codes 3500] [--decoder 6000]
    [--replay conversions|recordings]

Each step is a `vqwave` command in runs/leave-one-out/VOICE; the same command goes on where it was
stopped. All on one thread, so that two of these, of different voices, use two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vqwave.data import Corpus

ROOT = Path(__file__).resolve().parents[1]
MINUTE = 60.0
ROWS = {
    "conversion.content": "words kept",
    "conversion.target": "target reached",
}


def vqwave(*words: object) -> None:
    """One command, in a process of its own."""
    subprocess.run([sys.executable, "-m", "vqwave", *map(str, words)], check=True, cwd=ROOT)


def voices_setting(names: Sequence[str]) -> str:
    return f"data.speakers=[{', '.join(names)}]"


def minute_of(corpus: Path, voice: str, out: Path) -> Path:
    """A manifest of `voice`: a minute of its training recordings, evenly spread, since they come in
    the order of their words; all others that are held out.
    """
    from vqwave import audio

    opened, rows = Corpus.open(corpus), []
    own = [(row, u) for row, u in enumerate(opened.utterances) if u.speaker == voice]
    training = [row for row, u in own if u.split == "train"]
    seconds = sum(u.frames for _, u in own if u.split == "train") / opened.sample_rate
    step = max(1.0, seconds / MINUTE)
    taken = {training[int(k * step)] for k in range(int(len(training) / step))}
    (out / "in").mkdir(parents=True, exist_ok=True)
    for row, u in own:
        if u.split == "train" and row not in taken:
            continue
        path = out / "in" / f"{len(rows):04d}.wav"
        audio.write(path, opened.read(row), opened.sample_rate)
        rows.append({"path": path.name, "speaker": voice, "text": u.text, "split": u.split})
    lines = "\n".join(json.dumps(row) for row in rows)
    (out / "in" / "manifest.jsonl").write_text(lines + "\n", encoding="utf-8")
    vqwave("prepare", "manifest", out / "in", "--out", out / "corpus", "--quiet")
    return out / "corpus"


def figures(report: Path) -> dict[str, Any]:
    """The figures of the model by the name of their row."""
    rows = json.loads(report.read_text(encoding="utf-8"))["rows"]
    return {row["key"]: row["figures"].get("model", {}).get("value") for row in rows}


def to_voice(report: Path, key: str, voice: str) -> float:
    """The figure of the conversions to `voice` alone, %."""
    matrices = json.loads(report.read_text(encoding="utf-8"))["matrices"]
    table = next(each for each in matrices if each["key"] == f"{key}.model")
    column = table["columns"].index(voice)
    return statistics.mean(row[column] for row in table["values"] if row[column] is not None)


def leave_out(voice: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, adapt and measure for one voice."""
    out, data = ROOT / "runs" / "leave-one-out" / voice, arguments.data
    out.mkdir(parents=True, exist_ok=True)
    others = [name for name in Corpus.open(data).speakers if name != voice]
    five, common = voices_setting(others), (f"data.corpus={data}", "train.threads=1", "--quiet")
    codes = (f"frozen_codec={out / 'codes'}", f"run={out / 'five'}")
    pitch = (f"pitch={out / 'pitch'}", f"run={out / 'codes'}")
    train = ("train", "vqvae", "--config")
    vqwave("train", "pitch", "--config", "fsdd", five, *common, f"run={out / 'pitch'}")
    vqwave(*train, "fsdd-codes", five, *common, *pitch, f"train.steps={arguments.codes}")
    vqwave(*train, "fsdd-decoder", five, *common, *codes, f"train.steps={arguments.decoder}")
    corpus = minute_of(data, voice, out)
    began, six = time.perf_counter(), out / f"six-{arguments.replay}"
    # a model folder names no corpus
    given = ("five/model",) if arguments.replay == "conversions" else ("five", "--replay", data)
    vqwave(
        *("adapt", out / given[0], corpus, "--speaker", voice, *given[1:]),
        *("--minutes", arguments.adapt, "--out", six, "--quiet"),
        *("--set", "train.threads=1"),
    )
    result: dict[str, Any] = {"voice": voice, "minutes": (time.perf_counter() - began) / 60}
    for run, names in {"five": others, "six": others, "new": [*others, voice]}.items():
        model = out / "five" if run == "five" else six
        report = out / f"{run}.json" if run == "five" else out / f"{run}-{arguments.replay}.json"
        vqwave(
            *("evaluate", model, "--data", data, "--speakers", ",".join(names)),
            *("--metrics", "conversion", "--out", report, "--quiet"),
        )
        measured = figures(report)
        result[run] = {name: measured.get(key) for key, name in ROWS.items()}
    for key, name in ROWS.items():
        result["new"][f"{name}, to the new voice"] = to_voice(report, key, voice)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "fsdd")
    parser.add_argument("--voices", nargs="*", default=[], help="default: all")
    for name, steps in (("codes", 3500), ("decoder", 6000)):
        parser.add_argument(f"--{name}", type=int, default=steps, help="steps")
    parser.add_argument("--adapt", type=float, default=10.0, help="minutes")
    kinds = ("conversions", "recordings")
    parser.add_argument("--replay", choices=kinds, default=kinds[0], help="of the known voices")
    arguments = parser.parse_args()
    for voice in arguments.voices or Corpus.open(arguments.data).speakers:
        print(json.dumps(leave_out(voice, arguments)), flush=True)


if __name__ == "__main__":
    main()
