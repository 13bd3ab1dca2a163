"""Layers, kinds, literals, messages, help, and the way back from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

from vqwave.config import Request, build, differences, dump, option, parse, spec, to_tree
from vqwave.errors import UserInputError


@spec
class Ema:
    """Moving averages."""

    kind: Literal["ema"] = "ema"
    num_codes: int = option(default=512, help="codes in the book")
    decay: float = 0.99


@spec
class Fsq:
    kind: Literal["fsq"] = "fsq"
    levels: tuple[int, ...] = (8, 5, 5, 5)


@spec
class Residual:
    kind: Literal["residual"] = "residual"
    depth: int = 4
    quantizer: Annotated[Ema | Fsq, Field(discriminator="kind")] = Fsq(levels=(3, 3))


Quantizer = Annotated[Ema | Fsq | Residual, Field(discriminator="kind")]


@spec
class Model:
    """The network."""

    hidden: int = 128
    quantizer: Quantizer = Ema(num_codes=64)
    prior: Annotated[Ema | Fsq, Field(discriminator="kind")] | None = None


@spec
class Optim:
    lr: float = option(default=3e-4, help="peak learning rate")
    betas: tuple[float, float] = (0.9, 0.95)
    steps: Annotated[int, Field(gt=0)] = 100
    max_grad_norm: float | None = 1.0

    def __post_init__(self) -> None:
        if self.betas[0] > self.betas[1]:
            raise UserInputError(f"expected rising betas, found {self.betas}")


@spec
class Config:
    data: Path = Path("data/demo")
    run: str = "runs/x"
    seed: int | None = 0
    average: bool = False
    precision: Literal["no", "bf16"] = "no"
    size: int | Literal["auto"] = "auto"
    losses: dict[str, float] = option(default={"nll": 1.0, "commitment": 0.25}, help="weights")
    tags: list[str] = option(default=[], help="words")
    model: Model = Model()
    optim: Optim = Optim()


@spec
class Student:
    teacher: Path = option(help="run folder of the teacher")
    quantizer: Quantizer = Ema()


def config(*argv: str) -> Config:
    return parse(Config, argv).config


def message(*argv: str, cls: type = Config) -> str:
    with pytest.raises(UserInputError) as caught:
        parse(cls, argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(folder: Path, text: str, name: str = "x.yaml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_defaults() -> None:
    assert parse(Config, []) == Request(config=Config())


@pytest.mark.parametrize("words", [["optim.lr=0.1"], ["--optim.lr=0.1"], ["--optim.lr", "0.1"]])
def test_three_ways_to_write_an_override(words: list[str]) -> None:
    assert config(*words) == Config(optim=Optim(lr=0.1))


def test_a_value_may_be_negative_or_hold_an_equals_sign() -> None:
    assert config("--seed", "-1", "run=a=b") == Config(seed=-1, run="a=b")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("average=True", Config(average=True)),
        ("average=true", Config(average=True)),
        ("seed=None", Config(seed=None)),
        ("seed=null", Config(seed=None)),
        ("seed=64.0", Config(seed=64)),
        ("seed=1e3", Config(seed=1000)),
        ("seed=9007199254740993", Config(seed=2**53 + 1)),
        ("optim.lr=1e-05", Config(optim=Optim(lr=1e-5))),
        ("optim.lr=3e-4", Config(optim=Optim(lr=3e-4))),
        ("optim.lr=1", Config(optim=Optim(lr=1.0))),
        ("optim.max_grad_norm=.inf", Config(optim=Optim(max_grad_norm=float("inf")))),
        ("optim.max_grad_norm=None", Config(optim=Optim(max_grad_norm=None))),
        ("optim.betas=[0, 1e-1]", Config(optim=Optim(betas=(0.0, 0.1)))),
        ("tags=['a', 'b c']", Config(tags=["a", "b c"])),
        ("tags=[1, no, None]", Config(tags=["1", "no", "None"])),
        ("size=32", Config(size=32)),
        ("size=auto", Config(size="auto")),
        ("precision=no", Config(precision="no")),
        ("losses={'nll': 1e-05}", Config(losses={"nll": 1e-5, "commitment": 0.25})),
        (
            "model.quantizer={'kind': 'fsq', 'levels': [8, 5]}",
            Config(model=Model(quantizer=Fsq(levels=(8, 5)))),
        ),
        ("run=123", Config(run="123")),
        ("run=1e-05", Config(run="1e-05")),
        ("run=None", Config(run="None")),
        ("run=[a", Config(run="[a")),
        ("data=no", Config(data=Path("no"))),
    ],
)
def test_values_are_read_by_the_type_of_their_field(word: str, expected: Config) -> None:
    found = config(word)
    assert found == expected
    assert repr(found) == repr(expected)  # 1 == 1.0 == True


def test_yaml_values_are_read_by_the_type_of_their_field(tmp_path: Path) -> None:
    text = """
run: 2024-01-01
precision: no
seed: null
average: true
tags: [3, on]
optim: {lr: 3e-4, max_grad_norm: 1e3, betas: [0.5, 0.75]}
losses:
  spectral: 1
model: # an empty section changes nothing
"""
    losses = {"nll": 1.0, "commitment": 0.25, "spectral": 1.0}
    optim = Optim(lr=3e-4, max_grad_norm=1000.0, betas=(0.5, 0.75))
    expected = Config(
        run="2024-01-01", seed=None, average=True, tags=["3", "on"], optim=optim, losses=losses
    )
    assert config("--config", written(tmp_path, text)) == expected


def test_layers_come_in_order_and_overrides_last(tmp_path: Path) -> None:
    first = written(tmp_path, "optim: {lr: 0.1, steps: 7}\nseed: 1", "first.yaml")
    second = written(tmp_path, "optim: {lr: 0.2}\nseed: 2", "second.yaml")
    found = config("seed=3", "--config", first, f"--config={second}", "seed=4")
    assert found == Config(seed=4, optim=Optim(lr=0.2, steps=7))


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert config("--config", written(tmp_path, "# nothing yet\n")) == Config()


def test_a_changed_kind_replaces_the_whole_part(tmp_path: Path) -> None:
    file = written(
        tmp_path, "model: {hidden: 32, quantizer: {kind: ema, num_codes: 7, decay: 0.5}}"
    )
    assert config("--config", file, "model.quantizer.kind=fsq").model == Model(
        hidden=32, quantizer=Fsq()
    )
    both = config("--config", file, "model.quantizer.levels=[8,5,5]", "model.quantizer.kind=fsq")
    assert both.model.quantizer == Fsq(levels=(8, 5, 5))


def test_the_same_kind_keeps_the_part(tmp_path: Path) -> None:
    file = written(tmp_path, "model: {quantizer: {num_codes: 7}}")
    kept = config("--config", file, "model.quantizer.kind=ema", "model.quantizer.decay=0.5")
    assert kept.model.quantizer == Ema(num_codes=7, decay=0.5)


def test_kinds_inside_kinds() -> None:
    assert config("model.quantizer.kind=residual").model.quantizer == Residual()
    inside = config(
        "model.quantizer.kind=residual", "model.quantizer.quantizer.levels=[5]"
    ).model.quantizer
    assert inside == Residual(quantizer=Fsq(levels=(5,)))
    other = config(
        "model.quantizer.kind=residual", "model.quantizer.quantizer.kind=ema"
    ).model.quantizer
    assert other == Residual(quantizer=Ema())


def test_an_optional_part_can_be_chosen_and_left_out(tmp_path: Path) -> None:
    assert config("model.prior.kind=fsq").model.prior == Fsq()
    file = written(tmp_path, "model: {prior: {kind: fsq}}")
    assert config("--config", file, "model.prior=None").model.prior is None


def test_flags() -> None:
    asked = parse(Config, ["--dry-run", "seed=1", "--quiet"])
    assert asked == Request(config=Config(seed=1), dry_run=True, restart=False, quiet=True)
    assert parse(Config, ["--restart"]).restart


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("optim.lrr=1", "optim.lrr: unknown key; did you mean optim.lr?"),
        ("lr=1", "lr: unknown key; did you mean optim.lr?"),
        ("modle.hidden=1", "modle: unknown key; did you mean model?"),
        ("optim.lr=fast", "optim.lr: expected a number, found 'fast'"),
        ("seed=1.5", "seed: expected a whole number, found '1.5'"),
        ("average=yes", "average: expected true or false, found 'yes'"),
        ("precision=fp8", "precision: expected 'no' or 'bf16', found 'fp8'"),
        ("size=big", "size: expected a whole number or 'auto', found 'big'"),
        ("tags=3", "tags: expected a list, found '3'"),
        ("losses.nll=x", "losses.nll: expected a number, found 'x'"),
        ("losses=3", "losses: expected named values, found '3'"),
        ("optim=3", "optim: expected a group of settings, found '3'"),
        ("optim.lr.x=3", "optim.lr: expected a number, found {'x': '3'}"),
        ("optim.betas=[1,2,3]", "optim.betas: expected 2 values, found 3"),
        ("optim.betas=[0.1,x]", "optim.betas[1]: expected a number, found 'x'"),
        ("optim.betas=[2,1]", "optim: expected rising betas, found (2.0, 1.0)"),
        ("optim.steps=0", "optim.steps: should be greater than 0, found 0"),
        (
            "model.quantizer.kind=fqs",
            "model.quantizer.kind: unknown kind 'fqs'; expected ema or fsq or residual; did",
        ),
        (
            "model.quantizer.levels=[3]",
            "model.quantizer.levels: unknown key here; it belongs to model.quantizer.kind=fsq",
        ),
        (
            "model.quantizer.num_code=3",
            "model.quantizer.num_code: unknown key; did you mean model.quantizer.num_codes?",
        ),
        ("optim.lr=fast seed=x", "seed: expected a whole number, found 'x' (and 1 more)"),
        ("foo", "foo: expected key=value, --key=value or --config FILE"),
        ("optim.=3", "optim.=3: expected key=value"),
        ("--optim.lr", "--optim.lr: found no value; expected --optim.lr=VALUE"),
        ("--optim.lr --dry-run", "--optim.lr: found no value"),
        ("--dryrun", "--dryrun: found no value; expected --dryrun=VALUE; did you mean --dry-run?"),
        ("--dry-run=true", "dry-run: a flag takes no value; did you mean --dry-run?"),
    ],
)
def test_bad_words_get_one_line(words: str, line: str) -> None:
    assert message(*words.split()).startswith(line)


def test_a_setting_without_default_is_required() -> None:
    assert message(cls=Student) == "teacher: found no value, and it has no default"
    assert parse(Student, ["teacher=runs/a"]).config == Student(teacher=Path("runs/a"))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("optim:\n  lr: fast\n", "optim.lr: expected a number, found 'fast' (in {file})"),
        ("optim:\n  lrr: 1\n", "optim.lrr: unknown key; did you mean optim.lr? (in {file})"),
        ("tags: [a, [b]]\n", "tags[1]: expected text, found ['b'] (in {file})"),
        ("seed: 1\nlosses: [3\n", "{file}, line 3: not valid YAML: "),
        ("seed: 1\nrun: a\nseed: 2\n", "{file}, line 3: not valid YAML: key 'seed' is given twice"),
        ("- seed\n", "{file}: expected settings (key: value), found a list"),
        ("seed\n", "{file}: expected settings (key: value), found 'seed'"),
        ("seed: !thing 1\n", "{file}, line 1: not valid YAML: "),
        ("tags: &a [*a]\n", "{file}, line 1: not valid YAML: alias 'a' inside"),
        ("--- {}\n--- {}\n", "{file}, line 2: not valid YAML: "),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, line: str) -> None:
    file = written(tmp_path, text)
    assert message("--config", file).startswith(line.format(file=file))


def test_an_override_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "optim: {lr: 0.1}")
    assert message("--config", file, "optim.lr=fast") == "optim.lr: expected a number, found 'fast'"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert message("--config", str(tmp_path / "none.yaml")).startswith(
        f"{tmp_path / 'none.yaml'}: no such file"
    )
    assert message("--config", str(tmp_path)).startswith(
        f"{tmp_path}: is a folder, expected a file"
    )
    (tmp_path / "latin.yaml").write_bytes(b"run: \xe9\n")
    assert "not UTF-8 text" in message("--config", str(tmp_path / "latin.yaml"))


RESOLVED = [
    Config(),
    Config(
        run="3e-4",
        seed=None,
        tags=["no", "1", "", "~", "ä: b"],
        losses={"nll": 1e-5, "commitment": 0.0, "on": 3e20},
    ),
    Config(
        model=Model(quantizer=Residual(quantizer=Ema(decay=1e-7)), prior=Fsq(levels=())), size=3
    ),
    Config(optim=Optim(lr=3e-4, betas=(0.1, 1e22), max_grad_norm=float("inf"))),
    Student(teacher=Path("runs/a b"), quantizer=Fsq(levels=(2, 2))),
]


@pytest.mark.parametrize("given", RESOLVED)
def test_dump_reads_back(given: Config | Student, tmp_path: Path) -> None:
    text = dump(given)
    assert build(type(given), yaml.safe_load(text)) == given
    assert parse(type(given), ["--config", written(tmp_path, text)]).config == given
    assert build(type(given), to_tree(given)) == given
    assert dump(build(type(given), yaml.safe_load(text))) == text


def test_dump_is_readable() -> None:
    lines = dump(Config(model=Model(quantizer=Fsq()))).splitlines()
    assert lines[0] == "data: data/demo"
    assert "  lr: 0.0003" in lines
    assert "    levels: [8, 5, 5, 5]" in lines


def test_build_fills_gaps_and_is_strict() -> None:
    assert build(Config, {"model": {"quantizer": {"decay": 0.5}}}).model.quantizer == Ema(
        num_codes=64, decay=0.5
    )
    for tree in ({"seed": "1"}, {"seed": 1.5}, {"average": 1}, {"run": 3}, {"sed": 1}):
        with pytest.raises(UserInputError):
            build(Config, tree)


def test_differences() -> None:
    other = Config(seed=1, model=Model(quantizer=Fsq()), losses={"nll": 1.0})
    found = differences(to_tree(Config()), to_tree(other))
    quantizer = [f"model.quantizer.{name}" for name in ("kind", "num_codes", "decay", "levels")]
    assert found == ["seed", "losses.commitment", *quantizer]
    assert differences(to_tree(other), to_tree(other)) == []


def test_defaults_are_not_shared() -> None:
    config().losses["nll"] = 5.0
    assert config().losses["nll"] == 1.0


def leaves(tree: Any, path: str = "") -> list[str]:  # noqa: ANN401 - a tree
    if not isinstance(tree, dict) or not tree:
        return [path]
    return [
        leaf
        for name, inner in tree.items()
        for leaf in leaves(inner, f"{path}.{name}" if path else name)
    ]


def test_help_lists_every_key_of_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse(Config, ["--help"], program="experiments/x.py", description="Trains x.")
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: experiments/x.py [--config FILE]")
    assert "Trains x." in text
    rows = {
        line.split()[0]: " ".join(line.split()[1:])
        for line in text.splitlines()
        if line.startswith("  ")
    }
    assert rows["optim.lr"] == "float 0.0003 peak learning rate"
    assert rows["model.quantizer.kind"] == "ema|fsq|residual ema"
    assert rows["model.quantizer.num_codes"] == "int 64 codes in the book"
    assert rows["model.quantizer.levels"] == "[int, ...] [8, 5, 5, 5]"
    assert rows["model.quantizer.quantizer.levels"] == "[int, ...] [3, 3]"
    assert rows["model.prior"] == "settings|null null"
    for variant in (Ema(), Fsq(), Residual(), Residual(quantizer=Ema())):
        tree = to_tree(Config(model=Model(quantizer=variant, prior=Ema()), losses={}))
        assert set(leaves(tree)) <= set(rows)
    assert "model.quantizer (kind=ema, the default): Moving averages." in text
    assert {"--config", "--dry-run", "--restart", "--quiet"} <= set(rows)


def test_help_marks_what_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Student, ["-h"])
    assert "required" in next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("  teacher ")
    )


def test_what_a_sweep_agent_runs() -> None:
    """wandb writes one `--key=value` a parameter, the value by Python's `str`."""
    chosen = {
        "model.quantizer.kind": "fsq",
        "model.quantizer.levels": [8, 5],
        "optim.lr": 1e-5,
        "average": True,
    }
    expected = Config(average=True, model=Model(quantizer=Fsq(levels=(8, 5))), optim=Optim(lr=1e-5))
    assert config(*(f"--{key}={value}" for key, value in chosen.items())) == expected
