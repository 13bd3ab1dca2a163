"""What a command costs before its work: torch is imported where something is computed, alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vqwave
from vqwave import codes
from vqwave.codes import CodeSequence
from vqwave.inference.description import describe
from vqwave.inference.model_description import rows_of, store_description
from vqwave.inference.model_files import DESCRIPTION, SHIPPED, WEIGHTS, stored_rows

NAMES = sorted(folder.name for folder in SHIPPED.iterdir()) if SHIPPED.exists() else []
SCRIPT = """
import sys
from vqwave.cli import main
try:
    main(sys.argv[2:])
except SystemExit as end:
    assert end.code == int(sys.argv[1]), end.code
heavy = {"torch", "numba", "scipy"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_description_is_that_of_the_model(name: str) -> None:
    model = vqwave.load(name)
    rows = rows_of(model)
    assert stored_rows(SHIPPED / name) == rows, (
        "store_description(folder, model, card) writes it anew, `vqwave export` as well"
    )
    assert describe(name) == rows | {"model": f"{name}: {rows['model']}"}


def test_a_description_of_other_weights_is_not_taken(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(SHIPPED / "fsdd-student", folder)
    assert stored_rows(folder) is not None
    rows = describe(str(folder))
    changed = bytearray((folder / WEIGHTS).read_bytes())
    changed[-1] ^= 1
    (folder / WEIGHTS).write_bytes(changed)
    assert stored_rows(folder) is None
    assert describe(str(folder)).keys() == rows.keys()
    model = vqwave.load(folder)
    store_description(folder, model.model, model.card)
    assert stored_rows(folder) is not None
    for damage in ("{", '{"check": 1}', "[]"):
        (folder / DESCRIPTION).write_text(damage)
        assert stored_rows(folder) is None
    card = folder / "config.json"
    store_description(folder, model.model, model.card)
    card.write_text(json.dumps(json.loads(card.read_text())))
    assert stored_rows(folder) is None


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "info fsdd-student"),
        (0, "info {codes}"),
        (2, "info nothing"),
        (2, "info nothing.vqw"),
        (2, "decode fsdd nothing.vqw --out x.wav"),
        (2, "decode nothing {codes} --out x.wav"),
        (2, "encode fsdd nothing.wav --out x.vqw"),
        (2, "convert nothing nothing.wav --speaker a --out x.wav"),
        (2, "generate nothing --out x.wav"),
        (2, "score fsdd nothing.wav"),
    ],
)
def test_without_torch(status: int, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.vqw"
    codes.save_codes(path, CodeSequence(torch.zeros(1, 3).long(), 8000, 160, 480, 256, "0" * 16))
    call = [word.format(codes=path) for word in words.split()]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(status), *call], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("\n") == (1 if status else 0)
