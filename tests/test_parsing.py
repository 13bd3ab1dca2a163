"""JSON and YAML of files: limits, one line that names the file, one strict schema."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vqwave import audio, inputs, parsing
from vqwave.audio.streaming import WavReader
from vqwave.codes.file_format import from_bytes, seal
from vqwave.codes.types import Header
from vqwave.config import option, parse, spec
from vqwave.data.arrays import read_array
from vqwave.errors import UserInputError
from vqwave.sweep import plan


@dataclass(frozen=True)
class Row:
    id: str
    count: parsing.Count


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 100_000, "inside one another"),
        ("[" * 70 + "]" * 70, "more than 64 lists"),
        ('{"a": 1, "a": 2}', "key 'a' is given twice"),
        ("NaN", "NaN, expected a finite number"),
        ("-Infinity", "expected a finite number"),
        ("1e999", "1e999, expected a finite number"),
        ("9" * 5000, "5000 digits"),
        ("1." + "0" * 5000, "5002 characters"),
        (r'"\u0000"', "holds a NUL"),
        (r'"\ud800"', "half a surrogate pair"),
        ("{", "not JSON"),
        ("", "not JSON"),
    ],
)
def test_json_outside_the_limits_is_refused(text: str, problem: str) -> None:
    with pytest.raises(UserInputError, match=problem) as caught:
        parsing.parse_json(text, "x.json")
    assert str(caught.value).startswith("x.json: ")
    assert "\n" not in str(caught.value)


def test_json_within_the_limits_is_as_json_reads_it() -> None:
    for text in (
        "[" * 64 + "]" * 64,
        r'{"a\\u0000": "[[[{{{", "b": 1e-9}',
        "[1" + ",[2]" * 500 + "]",
    ):
        assert parsing.parse_json(text, "x") == json.loads(text)
    assert np.isnan(parsing.parse_json("[NaN]", "x", finite=False)[0])


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        ({"id": "a"}, "count: Field required"),
        ({"id": "a", "count": "3"}, "count: .* found '3'"),
        ({"id": "a", "count": True}, "count: .* found True"),
        ({"id": "a", "count": -1}, "count: .* found -1"),
        ({"id": "a", "count": 1 << 60}, "count: "),
        ({"id": 7, "count": 1}, "id: .* found 7"),
        ([], "should be an object"),
    ],
)
def test_a_schema_is_strict(tree: object, problem: str) -> None:
    assert parsing.checked(Row, {"id": "a", "count": 3}, "x") == Row("a", 3)
    with pytest.raises(UserInputError, match=f"^x: {problem}"):
        parsing.checked(Row, tree, "x")


def test_lines_are_named_and_torn_ones_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": "a", "count": 1}\n\n{"id": "b", "count": 2}\n{"id": "c", "cou')
    with pytest.raises(UserInputError, match=r"x\.jsonl, line 4: not JSON"):
        list(parsing.read_json_lines(path, "rows", Row))
    rows = [(1, Row("a", 1)), (3, Row("b", 2))]
    assert list(parsing.read_json_lines(path, "rows", Row, torn="last")) == rows
    packed = tmp_path / "x.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"id": "a", "count": 1}\n'))
    assert list(parsing.read_json_lines(packed, "rows", Row)) == rows[:1]
    packed.write_bytes(gzip.compress(b" " * (50 << 20))[:-20])
    with pytest.raises(UserInputError, match=r"x\.jsonl\.gz"):
        list(parsing.read_json_lines(packed, "rows", Row))


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "[" * 2000,
        "a: &a [*a]",
        "a: 1\na: 2",
        "a: !!int x",
        "a: !!python/object/apply:os.system [ls]",
        "a: !!timestamp 7",
        "a: 2024-99-99",
        "a: " + "9" * 5000,
        "a: \0",
        "".join(f"k{i}: 1\n" for i in range(20_000)),
        "? [1]\n: 2",
        "7",
    ],
)
def test_yaml_outside_the_limits_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserInputError, match=r"x\.yaml[:,]") as caught:
        parsing.read_yaml(path, "settings")
    assert "\n" not in str(caught.value)


def test_aliases_and_tags_of_usual_files_are_read() -> None:
    text = "a: &a {x: 1}\nb: {<<: *a, y: !!str 2}\nc: *a\n"
    assert parsing.parse_yaml(text) == {"a": {"x": 1}, "b": {"x": 1, "y": "2"}, "c": {"x": 1}}


@spec
class Part:
    size: int = 1
    other: dict[str, int] = option(default={})


@spec
class Whole:
    part: Part = option(default=Part())


@pytest.mark.parametrize("text", ["part.size: 2\n", "part: {a.b: 1}\n", "part: {'x[0]': {y: 1}}\n"])
def test_dotted_keys_inside_a_file_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserInputError, match=r"x\.yaml, line \d: .*without dots and brackets"):
        parse(Whole, ["--config", str(path)])


def test_of_many_unknown_keys_one_is_explained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[object] = []
    from vqwave.config import error_messages

    explain = error_messages._unknown
    monkeypatch.setattr(error_messages, "_unknown", lambda *a: asked.append(a) or explain(*a))
    path = tmp_path / "x.yaml"
    path.write_text("".join(f"k{i}: 1\n" for i in range(5000)))
    with pytest.raises(UserInputError, match=r"k0: unknown key.*\(and 4999 more\)"):
        parse(Whole, ["--config", str(path)])
    assert len(asked) == 1


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "x.wav"
    os.mkfifo(fifo)
    for read in (lambda: audio.read(fifo), lambda: parsing.read_bytes(fifo, "a file")):
        with pytest.raises(UserInputError, match=r"x\.wav: is a pipe or a device"):
            read()
    assert audio.rate_of(fifo) is None
    with pytest.raises(UserInputError, match="is a pipe or a device"):
        parsing.read_bytes("/dev/zero", "a file")
    with pytest.raises(UserInputError, match="a name with NUL"):
        parsing.read_bytes("a\0b", "a file")
    (tmp_path / "y").write_bytes(b"1234")
    with pytest.raises(UserInputError, match="more than 3 bytes"):
        parsing.read_bytes(tmp_path / "y", "a file", 3)


def test_sound_outside_bounds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.ones(50, np.float32) / 2, 1)
    with pytest.raises(UserInputError, match=r"x\.wav: 1 channels at 1 Hz"):
        audio.read(path)
    soundfile.write(path, np.ones(50, np.float32) / 2, 8000)
    head = bytearray(path.read_bytes())
    head[22:28] = b"\xff\xff" + (4_000_000_000).to_bytes(4, "little")
    path.write_bytes(head)
    with (
        path.open("rb") as file,
        pytest.raises(UserInputError, match="65535 channels at 4000000000"),
    ):
        WavReader(file, "x")
    flac = tmp_path / "x.flac"
    soundfile.write(flac, np.ones(5000, np.float32) / 2, 8000)
    head = bytearray(flac.read_bytes())
    head[21] |= 0x0F
    head[22:26] = b"\xff" * 4  # 2^36 - 1 samples
    flac.write_bytes(head)
    with pytest.raises(UserInputError, match=r"x\.flac: "):
        audio.read(flac)


def test_lengths_are_finite_and_bounded() -> None:
    for seconds in (float("inf"), float("nan"), 1e300, -1):
        with pytest.raises(UserInputError, match="expected a number above 0"):
            inputs.seconds(seconds)
    with pytest.raises(UserInputError, match="expected whole Hz"):
        inputs.sample_rate(4_000_000_000)


@pytest.mark.parametrize(
    "facts",
    [
        {"sample_rate": 4_000_000_000},
        {"books": 300, "frames": 2, "samples": 320},
        {"size": 1 << 40},
        {"prior": "ab", "check": 1, "frames": 10**9, "samples": 160 * 10**9},
    ],
)
def test_forged_code_files_are_refused(facts: dict[str, object]) -> None:
    usual = {"sample_rate": 8000, "hop": 160, "samples": 320, "size": 256, "fingerprint": "ab"}
    header = Header(**{"books": 1, "frames": 2, **usual, **facts})  # type: ignore[arg-type]
    payload = b"x" * (10 if header.prior else header.packed_bytes(header.frames))
    with pytest.raises(UserInputError, match=r"^x: its header cannot be read"):
        from_bytes(seal(header, payload), "x")


def test_a_forged_array_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.ones((2, 3), np.float32))
    assert read_array(path).shape == (2, 3)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"(2, 3), }            ", b"(9999999999, 99999)}"[:21].ljust(21)))
    with pytest.raises(UserInputError, match=r"x\.npy: no array of numbers"):
        read_array(path)


SWEEP = """
program: x.py
method: {method}
metric: {{name: valid/bits}}
parameters: {{a: {a}, b: {{min: 1, max: 4}}}}
"""


@pytest.mark.parametrize(
    ("method", "a"),
    [
        ("grid", "{min: 1, max: 1000000000000}"),
        ("grid", "{distribution: q_uniform, min: 0.0, max: 1.0, q: 1.0e-12}"),
        ("random", "{distribution: log_uniform, min: 0.0, max: 1000.0}"),
        ("random", "{distribution: log_normal, mu: 900.0, sigma: 1.0}"),
        ("random", "{distribution: normal, mu: 0.0, sigma: .inf}"),
        ("random", "{values: [1, 2], probabilities: [.nan, 1.0]}"),
        ("[random]", "{value: 1}"),
    ],
)
def test_sweeps_without_end_are_refused(method: str, a: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(SWEEP.format(method=method, a=a))
    with pytest.raises(UserInputError, match=r"parameters\.a|method"):
        plan.read(path).trials(3, 0)


@pytest.mark.parametrize("flag", ["--seconds", "--temperature"])
@pytest.mark.parametrize("value", ["nan", "inf", "1e999", "x"])
def test_options_that_are_no_numbers_are_refused(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from vqwave.cli import main

    with pytest.raises(SystemExit) as caught:
        main(["generate", "fsdd-prior", "--out", "x.wav", flag, value])
    assert caught.value.code == 2
    assert f"'{value}', expected a finite number" in capsys.readouterr().err
