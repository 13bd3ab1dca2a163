"""A sweep of a program that writes one number."""

from __future__ import annotations

from pathlib import Path

import yaml

from vqwave.sweep import Plan, read

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
