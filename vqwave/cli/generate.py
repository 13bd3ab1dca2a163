"""Speech from a model alone or from features, and how likely a recording is: generate, synthesize,
score.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vqwave.cli.arguments import (
    Add,
    Progress,
    audio_out,
    check_left_out,
    condition_options,
    device_option,
    embeddings_of,
    finite,
    labels_of,
    like_of,
    model_of,
    naming,
    note_rate,
    pairs,
    print_written,
    sampling_of,
    shift_of,
    synthesis_options,
)
from vqwave.cli.code import write_decoded
from vqwave.terminal import output

if TYPE_CHECKING:
    from vqwave.codes import CodeSequence
    from vqwave.inference.code_prior import CodePrior


def add(add: Add) -> None:
    generate = add(
        "generate", generate_file, "Speech without given words, in the voice of a speaker."
    )
    generate.add_argument(
        "model", help="run folder or model folder of a WaveNet, or of a prior over codes"
    )
    generate.add_argument(
        "--seconds", type=finite, help="length (default: 3 for a WaveNet; a prior ends by itself)"
    )
    generate.add_argument(
        "--code-temperature",
        type=finite,
        help="of a prior's codes (default 1)",
    )
    generate.add_argument(
        "--code-top-p",
        type=finite,
        help="draw from a prior's likeliest codes of this mass",
    )
    generate.add_argument("--prompt", type=Path, metavar="IN.wav", help="go on from this recording")
    synthesis_options(generate)

    about = "Speech from given features: predicted mels, or aligned phones."
    synthesize = add("synthesize", synthesize_file, about)
    synthesize.add_argument(
        "model", help="run folder, model folder or name of a WaveNet with such features"
    )
    synthesize.add_argument(
        "--features",
        action="append",
        required=True,
        default=[],
        metavar="NAME=FILE",
        help="mel=x.npy (C, F); phones=x.json",
    )
    synthesize.add_argument(
        "--seconds",
        type=finite,
        help="length (default: that of the features; needed for phones alone)",
    )
    synthesis_options(synthesize, melody=False)

    score = add(
        "score",
        score_file,
        "Negative log-likelihood of a recording under a model, in bits per sample.",
    )
    score.add_argument("model", help="run folder, model folder or name")
    score.add_argument("input", type=Path, help="audio file")
    condition_options(score)
    device_option(score)


def generate_file(arguments: argparse.Namespace) -> None:
    out = audio_out(arguments.out, arguments.prompt, arguments.like)

    model = model_of(arguments)
    from vqwave import audio

    if model.prior is None or arguments.prompt is not None:
        of_codes = ("--code-temperature", "--code-top-p")
        check_left_out(arguments, "is for the codes of a prior, expected none", *of_codes)
    labels, _ = labels_of(arguments, model), shift_of(arguments, model)
    like = like_of(arguments, model)
    if (prior := model.prior) is not None and arguments.prompt is None:
        if like is None:
            model.given.attributes(labels)
        else:
            labels |= {"speaker": like.nearest}
        coded = _sampled_codes(arguments, prior, labels)
        write_decoded(arguments, model, coded, out, labels, like=like)
        return
    seconds = 3.0 if arguments.seconds is None else arguments.seconds
    prompt, rate = (None, None) if arguments.prompt is None else audio.read(arguments.prompt)
    samples = round(seconds * model.sample_rate)
    with Progress(samples, model.sample_rate, quiet=arguments.quiet) as progress:
        wave = model.generate(
            seconds,
            like=like,
            labels=labels,
            prompt=prompt,
            prompt_rate=rate,
            embeddings=embeddings_of(arguments),
            shift_semitones=arguments.shift_semitones,
            sampling=sampling_of(arguments),
            progress=progress,
        )[0]
    audio.write(out, wave, model.sample_rate)
    print_written(out, wave, model.sample_rate)


def _sampled_codes(
    arguments: argparse.Namespace, prior: CodePrior, labels: dict[str, str]
) -> CodeSequence:
    """Codes from a prior."""
    temperature, top_p = arguments.code_temperature, arguments.code_top_p
    return prior.draw(
        arguments.seconds,
        labels=labels,
        seed=arguments.seed,
        temperature=1.0 if temperature is None else temperature,
        top_p=1.0 if top_p is None else top_p,
    )[0]


def synthesize_file(arguments: argparse.Namespace) -> None:
    files = pairs("--features", arguments.features)
    out = audio_out(arguments.out, arguments.like, *map(Path, files.values()))

    model = model_of(arguments)
    from vqwave import audio

    features = {name: _features(Path(path)) for name, path in files.items()}
    wave = model.synthesize(
        features,
        arguments.seconds,
        like=like_of(arguments, model),
        labels=labels_of(arguments, model),
        embeddings=embeddings_of(arguments),
        sampling=sampling_of(arguments),
    )
    audio.write(out, wave, model.sample_rate)
    print_written(out, wave, model.sample_rate)


def _features(path: Path) -> object:
    """An array (.npy), or phones: [[first sample, label], ...] (.json)."""
    from vqwave import parsing
    from vqwave.data.arrays import read_array

    if path.suffix == ".npy":
        return read_array(path)
    phones = parsing.read_json(path, "[[first sample, label], ...]", list[tuple[int, str]])
    return [[start, label] for start, label in phones]


def score_file(arguments: argparse.Namespace) -> None:
    model = model_of(arguments, "a sound file")
    from vqwave import audio

    wave, rate = audio.read(arguments.input)
    note_rate(arguments, rate, model.sample_rate)
    labels, vectors = labels_of(arguments, model), embeddings_of(arguments)
    like = like_of(arguments, model)
    work = partial(model.log_likelihood, wave, rate, like=like, labels=labels, embeddings=vectors)
    score = naming(arguments.input, work)
    output(f"{arguments.input}: {score.bits:.4f} {score.unit}, {score.samples:,} samples")
