"""What the long runs of the hostile inputs have found."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import pytest
from fuzz import surfaces
from fuzz.mutations import HOSTILE, any_tree

from vqwave.data.external_formats import lhotse
from vqwave.data.manifest import Rejected
from vqwave.errors import UserInputError
from vqwave.parsing import is_file, read_yaml
from vqwave.report.run import read_run


@pytest.mark.parametrize("name", ["x" * 300, "x" * 70_000])
def test_a_sample_of_a_name_that_no_file_can_have_is_missing(name: str, tmp_path: Path) -> None:
    assert not is_file(tmp_path / name)
    (tmp_path / "samples").mkdir()
    for file in ("config.yaml", "metrics.jsonl"):
        rows = surfaces.RUN[file]
        rows = rows if isinstance(rows, list) else [rows]
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    clip = surfaces.CLIP | {"path": name}
    (tmp_path / "samples" / "index.json").write_text(json.dumps({"rows": [clip], "step": 2}))
    with pytest.raises(UserInputError, match=r"no such file, but index\.json lists it"):
        read_run(tmp_path)


@pytest.mark.parametrize("name", [[], {}, [1], None, 1.5])
def test_a_supervision_of_no_recording_is_left_out(name: object, tmp_path: Path) -> None:
    (tmp_path / "recordings.jsonl").write_text(json.dumps({"id": "r"}) + "\n")
    row = {"id": "s", "recording_id": name, "start": 0.0, "duration": 1.0}
    (tmp_path / "supervisions.jsonl").write_text(json.dumps(row) + "\n")
    found = list(lhotse(tmp_path))
    assert all(isinstance(each, Rejected) for each in found)
    assert len(found) == 2


@pytest.mark.parametrize("text", ['a: "\\ud800"\n', '"\\udfff": 1\n', 'a: ["x\\uD83D"]\n'])
def test_half_a_surrogate_pair_is_no_text_of_yaml(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserInputError, match="half a surrogate pair") as caught:
        read_yaml(tmp_path / "x.yaml", "settings")
    assert str(tmp_path / "x.yaml") in str(caught.value)


def test_hostile_variants_are_functions_of_the_seed_alone() -> None:
    before, trees = copy.deepcopy(HOSTILE), []
    for _ in range(2):
        rng = random.Random(0)
        trees.append([repr(any_tree({"a": [1, {"b": 2}]}, rng)) for _ in range(300)])
    assert trees[0] == trees[1]
    assert repr(before) == repr(HOSTILE)
