"""What accelerate is given from outside: by its launcher, a config file, the environment.

They reach a process as environment variables, and accelerate takes some of them, or halves of them,
whatever it is given in code. A training is defined by its own settings: a variable that asks for
something else is refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from vqwave.distributed.collectives import Elsewhere
from vqwave.errors import UserInputError
from vqwave.training.settings import TrainSpec

OFF = ("false", "0", "f", "n", "no", "off")
DYNAMO = ("FULLGRAPH", "DYNAMIC", "REGIONAL_COMPILATION")
OTHER_ENGINES = {
    "DEEPSPEED": "DeepSpeed",
    "FSDP": "FSDP",
    "MEGATRON_LM": "Megatron-LM",
    "PARALLELISM_CONFIG": "a parallelism config",
    "SAGEMAKER": "SageMaker",
}


@dataclass(frozen=True)
class Rule:
    """The values, in lower case, that ask for no more than the settings do; the usual one first."""

    allowed: tuple[str, ...]
    instead: str


def rules(train: TrainSpec) -> dict[str, Rule]:
    """By environment variable; one that is not set, or empty, asks for nothing."""
    backends = ("inductor", "no") if train.compile else ("no",)
    return {
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": Rule(
            (str(train.grad_accumulation),),
            f"train.grad_accumulation, here {train.grad_accumulation}",
        ),
        "ACCELERATE_GRADIENT_CLIPPING": Rule(("none", *OFF), "optim.max_grad_norm"),
        "ACCELERATE_MIXED_PRECISION": Rule(
            ("no" if train.precision == "fp32" else train.precision, "no"),
            f"train.precision, here {train.precision}",
        ),
        "ACCELERATE_DYNAMO_BACKEND": Rule(
            backends, f"train.compile, here {str(train.compile).lower()}"
        ),
        "ACCELERATE_DYNAMO_MODE": Rule(("default",), "train.compile alone"),
        **{f"ACCELERATE_DYNAMO_USE_{name}": Rule(OFF, "train.compile alone") for name in DYNAMO},
        **{
            f"ACCELERATE_USE_{name}": Rule(OFF, f"DDP (--multi_gpu): {engine} is not supported")
            for name, engine in OTHER_ENGINES.items()
        },
    }


def check_launcher(train: TrainSpec, environment: Mapping[str, str] = os.environ) -> None:
    """Raises UserInputError for a variable of `accelerate launch` that asks for another training.

    All processes of a host have the same variables: the first one reports it (else `Elsewhere`).
    """
    for name, rule in rules(train).items():
        value = environment.get(name, "").lower()
        if value and value not in rule.allowed:
            error = UserInputError if environment.get("LOCAL_RANK", "0") == "0" else Elsewhere
            raise error(
                f"{name}: {environment[name]}, from `accelerate launch`, its config file or the "
                f"environment, expected {rule.allowed[0]}: use {rule.instead}"
            )
