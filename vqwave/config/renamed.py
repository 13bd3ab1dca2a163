"""Settings that have another name since format 2, and how a tree of format 1 becomes one of format
2.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass

from vqwave.config.specs import Hint, Tree, arms, hints, variant

RENAMED: dict[str, dict[str, str]] = {  # by the spec's name: old key -> new key
    "VQVAESpec": {
        "hears": "decoder_input",
        "noise": "decoder_input_noise",
        "readout": "spectral_decoder",
        "adversary": "adversarial_classifier",
        "listener": "conversion_classifier",
        "jitter": "time_jitter",
    },
    "Config": {
        "codes": "frozen_codec",
        "slice": "decoder_segment_seconds",
        "shown": "num_samples",
        "shown_seconds": "sample_seconds",
    },
    "FrameEncoderSpec": {"warp": "vtlp", "dim": "latent_dim"},
    "WaveformEncoderSpec": {"dim": "latent_dim"},
    "BatchNormEncoderSpec": {"dim": "latent_dim"},
    "PitchCodecSpec": {"dim": "latent_dim", "ratio": "downsample"},
    "CodebookQuantizerSpec": {
        "size": "codebook_size",
        "code_dim": "codebook_dim",
        "cosine": "l2_normalize",
        "restart": "dead_code_threshold",
        "start_after": "kmeans_after_steps",
        "estimator": "gradient_estimator",
    },
    "GradientQuantizerSpec": {"rate": "lr_scale"},
    "ResidualQuantizerSpec": {
        "stages": "num_quantizers",
        "dropout": "quantizer_dropout",
        "inner": "quantizer",
    },
    "ProductQuantizerSpec": {"inner": "quantizer"},
    "HierarchicalQuantizerSpec": {"ratio": "downsample"},
    "LocationScale": {"location_unit": "location_scale"},
    "MixtureOfLogistics": {"levels": "sample_bits"},
    "StackSpec": {
        "cycle": "dilation_cycle",
        "kernel": "kernel_size",
        "residual": "residual_channels",
        "gate": "gate_channels",
        "skip": "skip_channels",
        "hidden": "hidden_channels",
    },
    "ContextSpec": {"kernel": "kernel_size", "residual": "residual_channels"},
    "WaveNetSpec": {"past": "input_dropout"},
    "InputDropoutSpec": {"drop": "prob", "noise": "noise_std"},
    "ConditionerSpec": {
        "labels": "categorical",
        "vectors": "embeddings",
        "kernel": "kernel_size",
    },
    "ClassifierSpec": {
        "labels": "categorical",
        "cycle": "dilation_cycle",
        "kernel": "kernel_size",
    },
    "DiscriminatorSpec": {"kernel": "kernel_size"},
    "ConditionDropoutSpec": {"whole": "all"},
    "StudentSpec": {
        "fold": "squeeze",
        "stagger": "stagger_blocks",
        "direction": "flow_type",
        "location_unit": "location_scale",
    },
    "PriorSpec": {"untold": "label_dropout", "dropout": "token_dropout"},
    "RandomisedQuantiles": {"draws": "num_samples"},
    "IndependentDraws": {"draws": "num_samples"},
    "PowerSpec": {"by_frame": "per_frame"},
    "DataSpec": {"clip": "clip_seconds", "valid_clip": "valid_clip_seconds"},
    "OptimSpec": {"clip": "max_grad_norm", "average": "ema_decay", "final": "final_lr_ratio"},
    "TrainSpec": {
        "accumulate": "grad_accumulation",
        "checkpointing": "activation_checkpointing",
        "keep": "keep_checkpoints",
        "patience": "dist_timeout_minutes",
    },
}
KINDS = {"frames": "spectral", "two_level": "hierarchical", "independent": "monte_carlo"}
VALUES = {"decoder_input": {"frames": "spectrogram"}, "precision": {"no": "fp32"}}
LOSSES = {
    "adversary": "domain_adversarial",
    "listening": "auxiliary_classification",
    "conversion": "conversion_classification",
    "cycle": "cycle_consistency",
    "spread": "log_scale_regularizer",
}

ABOUT = {"speaks": "decoder_trained", "unheard": "untrained_labels"}  # of a model's card

OLD_KINDS = {new: old for old, new in KINDS.items()}
COMMAND_LINE = {  # old flag or command -> new one, where the command at hand has that
    "--block": "--chunk-seconds",
    "--frames": "--features",
    "--fresh": "--restart",
    "--level": "--input-rms-db",
    "--limit": "--max-utterances",
    "--only": "--metrics",
    "--pairs": "--max-conversions",
    "--prime": "--prompt",
    "--seconds": "--max-seconds",
    "--takes": "--samples-per-pair",
    "--targets": "--max-targets",
    "--vector": "--embedding",
    "speak": "synthesize",
}
PARAMETERS = {  # parts of parameters' names: format 1 -> format 2
    "heard": "input_embedding",
    "readout": "spectral_decoder",
    "adversary": "adversarial_classifier",
    "listener": "conversion_classifier",
}


def new_parameter(name: str) -> str:
    """A parameter's name of format 1 (or 2) -> its name of format 2.

    >>> new_parameter("decoder.heard.conv.weight")
    'decoder.input_embedding.conv.weight'
    """
    return ".".join(PARAMETERS.get(part, part) for part in name.split("."))


def new_card(tree: Mapping[str, Tree]) -> dict[str, Tree]:
    """A model's card with the names of today in its section `about`."""
    about = tree.get("about")
    if not isinstance(about, Mapping):
        return dict(tree)
    return {**tree, "about": {ABOUT.get(key, key): value for key, value in about.items()}}


def old_parameter(name: str) -> str:
    """The inverse of `new_parameter`: fingerprints of weights do not move by a renaming."""
    older = {new: old for old, new in PARAMETERS.items()}
    return ".".join(older.get(part, part) for part in name.split("."))


def old_repr(settings: object) -> str:
    """`repr` of settings by their names of format 1: names that were made of it do not move by a
    renaming either.
    """
    if not is_dataclass(settings):
        return repr(settings)
    parts = (
        f"{old_key(type(settings), f.name)}={old_repr(getattr(settings, f.name))}"
        for f in fields(settings)
    )
    return f"{type(settings).__qualname__}({', '.join(parts)})"


def old_key(cls: type, key: str) -> str:
    """What a key of this spec was called in format 1."""
    for base in cls.__mro__:
        for old, new in RENAMED.get(base.__name__, {}).items():
            if new == key:
                return old
    return key


def new_key(cls: type, key: str) -> str | None:
    """What a key of format 1 is called in this spec, or None where it never was one."""
    for base in cls.__mro__:
        if key in RENAMED.get(base.__name__, {}):
            return RENAMED[base.__name__][key]
    return None


def migrated(hint: Hint, tree: Tree) -> Tree:
    """A tree of format 1, for a field of this type, with the names of format 2; what is none of
    these stays.
    """
    if isinstance(tree, list):
        inside = next((typing.get_args(arm) for arm in arms(hint) if typing.get_args(arm)), ())
        return [migrated(inside[0], item) for item in tree] if inside else tree
    if not isinstance(tree, Mapping):
        return tree
    kind = tree.get("kind")
    if variant(hint, kind) is None:
        kind = KINDS.get(str(kind), kind)
    cls = variant(hint, kind)
    if cls is None:
        return dict(tree)
    result = {}
    for key, value in tree.items():
        name = key if key in hints(cls) else new_key(cls, key) or key
        value = kind if key == "kind" else migrated(hints(cls).get(name, str), value)
        if name == "losses" and isinstance(value, Mapping):
            value = {LOSSES.get(loss, loss): weight for loss, weight in value.items()}
        result[name] = VALUES.get(name, {}).get(value, value) if isinstance(value, str) else value
    return result
