"""What `accelerate launch` and the environment ask for is what the settings say, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env

from vqwave.distributed.collectives import Elsewhere
from vqwave.errors import UserInputError
from vqwave.training.command_line import main
from vqwave.training.experiment import Evaluation, Experiment, StepOutput
from vqwave.training.launcher import check_launcher
from vqwave.training.settings import ExperimentSpec, TrainSpec
from vqwave.training.trainer import Trainer

PLAIN, HALF = TrainSpec(), TrainSpec(precision="bf16")
COMPILED, MICRO = TrainSpec(compile=True), TrainSpec(grad_accumulation=2)
REFUSED = [
    (PLAIN, "ACCELERATE_MIXED_PRECISION", "fp16", "expected no: use train.precision, here fp32"),
    (PLAIN, "ACCELERATE_MIXED_PRECISION", "bf16", "expected no: use train.precision, here fp32"),
    (HALF, "ACCELERATE_MIXED_PRECISION", "fp8", "expected bf16: use train.precision, here bf16"),
    (
        PLAIN,
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
        "4",
        "expected 1: use train.grad_accumulation",
    ),
    (
        MICRO,
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
        "1",
        "expected 2: use train.grad_accumulation",
    ),
    (PLAIN, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "auto", "expected 1"),
    (PLAIN, "ACCELERATE_GRADIENT_CLIPPING", "0.5", "expected none: use optim.max_grad_norm"),
    (PLAIN, "ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "expected no: use train.compile, here false"),
    (COMPILED, "ACCELERATE_DYNAMO_BACKEND", "EAGER", "expected inductor: use train.compile"),
    (COMPILED, "ACCELERATE_DYNAMO_MODE", "max-autotune", "expected default: use train.compile"),
    (COMPILED, "ACCELERATE_DYNAMO_USE_DYNAMIC", "True", "expected false"),
    (PLAIN, "ACCELERATE_DYNAMO_USE_FULLGRAPH", "perhaps", "expected false"),
    (COMPILED, "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION", "1", "expected false"),
    (PLAIN, "ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed is not supported"),
    (PLAIN, "ACCELERATE_USE_FSDP", "1", "FSDP is not supported"),
    (PLAIN, "ACCELERATE_USE_MEGATRON_LM", "True", "Megatron-LM is not supported"),
    (PLAIN, "ACCELERATE_USE_PARALLELISM_CONFIG", "true", "a parallelism config is not supported"),
    (PLAIN, "ACCELERATE_USE_SAGEMAKER", "true", "SageMaker is not supported"),
]
TAKEN = [
    (PLAIN, "ACCELERATE_MIXED_PRECISION", "no"),
    (HALF, "ACCELERATE_MIXED_PRECISION", "no"),
    (HALF, "ACCELERATE_MIXED_PRECISION", "BF16"),
    (MICRO, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2"),
    (PLAIN, "ACCELERATE_DYNAMO_BACKEND", "NO"),
    (PLAIN, "ACCELERATE_DYNAMO_MODE", "default"),
    (COMPILED, "ACCELERATE_DYNAMO_BACKEND", "INDUCTOR"),
    (COMPILED, "ACCELERATE_DYNAMO_USE_DYNAMIC", "False"),
    (PLAIN, "ACCELERATE_USE_FSDP", "false"),
    (PLAIN, "ACCELERATE_USE_DEEPSPEED", ""),
]


class Unbuilt(Experiment[ExperimentSpec, Any]):
    """Nothing of it is asked for before the launcher's settings are looked at."""

    name = "unbuilt"
    config_class = ExperimentSpec

    def __init__(self, config: ExperimentSpec) -> None:
        self.config = config

    hop = model_spec = property()

    def build(self) -> None:
        raise AssertionError("built")

    def losses(self, batch: object) -> StepOutput:
        raise AssertionError("trained")

    def evaluate(self, model: object) -> Evaluation:
        raise AssertionError("evaluated")


@pytest.mark.parametrize(
    ("train", "name", "value", "said"), REFUSED, ids=[f"{row[1]}={row[2]}" for row in REFUSED]
)
def test_another_training_is_refused_before_anything_is_written(
    train: TrainSpec,
    name: str,
    value: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(
        UserInputError, match=f"{name}: {value}, from `accelerate launch`.*{said}"
    ) as error:
        Trainer(Unbuilt(ExperimentSpec(run=tmp_path / "run", train=train)), quiet=True)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("train", "name", "value"), TAKEN, ids=[f"{row[1]}={row[2]}" for row in TAKEN]
)
def test_what_says_the_same_is_taken(train: TrainSpec, name: str, value: str) -> None:
    check_launcher(train, {name: value})


def test_one_process_of_a_host_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    said = []
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(SystemExit) as end:
            main(Unbuilt, [f"run={tmp_path / 'run'}"])
        assert end.value.code == 2
        said.append(capsys.readouterr().err.splitlines())
    assert [len(lines) for lines in said] == [1, 0]
    with pytest.raises(Elsewhere):
        check_launcher(PLAIN, {"ACCELERATE_USE_FSDP": "true", "LOCAL_RANK": "1"})


def launched(*options: str) -> dict[str, str]:
    """The environment that `accelerate launch OPTIONS script.py` gives to the script."""
    arguments = launch_command_parser().parse_args([*options, "script.py"])
    arguments, _, _ = _validate_launch_command(arguments)
    return prepare_simple_launcher_cmd_env(arguments)[1]


def test_a_config_file_of_accelerate(tmp_path: Path) -> None:
    """Its fp16 is refused; one without any of it, or overruled on the command line, is taken."""
    half, plain = tmp_path / "half.yaml", tmp_path / "plain.yaml"
    common = "compute_environment: LOCAL_MACHINE\nnum_processes: 1\nuse_cpu: true\n"
    half.write_text(common + "distributed_type: 'NO'\nmixed_precision: fp16\n")
    plain.write_text(common + "distributed_type: 'NO'\nmixed_precision: 'no'\n")
    with pytest.raises(UserInputError, match="ACCELERATE_MIXED_PRECISION: fp16"):
        check_launcher(PLAIN, launched("--config_file", str(half)))
    check_launcher(PLAIN, launched("--config_file", str(half), "--mixed_precision", "no"))
    for train in (PLAIN, HALF, MICRO, COMPILED):
        check_launcher(train, launched("--config_file", str(plain)))
    check_launcher(HALF, launched("--config_file", str(plain), "--mixed_precision", "bf16"))
    with pytest.raises(UserInputError, match="ACCELERATE_MIXED_PRECISION: bf16"):
        check_launcher(PLAIN, launched("--config_file", str(plain), "--mixed_precision", "bf16"))
    with pytest.raises(UserInputError, match="ACCELERATE_DYNAMO_BACKEND: INDUCTOR"):
        check_launcher(PLAIN, launched("--config_file", str(plain), "--dynamo_backend", "inductor"))
