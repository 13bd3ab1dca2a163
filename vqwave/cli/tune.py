"""tune: which temperatures, post-filter and level suit a model best."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vqwave.cli.arguments import Add, backend_options, check_positive, finite
from vqwave.errors import UserInputError
from vqwave.terminal import output

if TYPE_CHECKING:
    from vqwave.evaluation.context import EvaluationContext
    from vqwave.evaluation.temperature_tuning import Trial


def add(add: Add) -> None:
    about = (
        "Choose a model's temperatures by its copies of held-out recordings; the best is its own"
        " default."
    )
    tune = add("tune", tune_model, about)
    tune.add_argument("model", help="run folder, model folder or name")
    tune.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="CORPUS",
        help="folder that `vqwave prepare` wrote",
    )
    tune.add_argument("--split", default="valid", help="train, valid or test (default %(default)s)")
    tune.add_argument("--write", action="store_true", help="put the best into the model's card")
    instead = tune.add_mutually_exclusive_group()
    instead.add_argument(
        "--postfilter",
        action="store_true",
        help="instead of the temperatures, the strength of the post-filter, 0 to 1",
    )
    instead.add_argument(
        "--level",
        action="store_true",
        help="instead of the temperatures, the gain of the spectral decoder's frames with which"
        " copies are as loud as the recordings; --write adds it to the weights",
    )
    spread = "utterances at most, spread over the split (default %(default)s)"
    tune.add_argument("--max-utterances", type=int, default=24, metavar="N", help=spread)
    cut = "longer utterances are cut (default: none is)"
    tune.add_argument("--max-seconds", type=finite, help=cut)
    tune.add_argument(
        "--whisper", default="tiny.en", metavar="NAME", help="recogniser, as of evaluate"
    )
    tune.add_argument("--seed", type=int, default=0, help="of all trials (default %(default)s)")
    backend_options(tune)


def tune_model(arguments: argparse.Namespace) -> None:
    check_positive(arguments, "--max-utterances", "--max-seconds")

    from vqwave.cli.evaluate import UNCUT, bars
    from vqwave.data import Corpus
    from vqwave.decode.sampling import Sampling
    from vqwave.evaluation import Settings, temperature_tuning
    from vqwave.evaluation.context import EvaluationContext
    from vqwave.evaluation.progress import NotApplicable
    from vqwave.inference.model_files import find_model, own_folder
    from vqwave.inference.speech_model import SpeechModel
    from vqwave.training.checkpoint import update_card

    settings = Settings(
        split=arguments.split,
        limit=arguments.max_utterances,
        seconds=arguments.max_seconds or UNCUT,
        whisper=arguments.whisper,
        sampling=Sampling(
            seed=arguments.seed, backend=arguments.backend, precision=arguments.precision
        ),
    )
    folder = (own_folder if arguments.write else find_model)(arguments.model)
    model = SpeechModel.load(arguments.model, arguments.device)
    context = EvaluationContext(
        Corpus.open(arguments.data), model, None, settings, bars(quiet=arguments.quiet)
    )
    if arguments.level:
        _tune_level(arguments.model, folder if arguments.write else None, context)
        return
    try:
        scorer = temperature_tuning.scorer_of(context)
        if arguments.postfilter:
            trials = temperature_tuning.tune_postfilter(context, scorer, _Printed())
        else:
            trials = temperature_tuning.tune(context, scorer, _Printed())
    except NotApplicable as error:
        raise UserInputError(f"{arguments.model}: {error}") from None
    best = trials[0]
    output(f"best:\n{temperature_tuning.table(trials[:1])}")
    if arguments.write:
        update_card(folder, best.about)
        output(f"{folder / 'config.json'}: {', '.join(best.about)} {best.settings}")


def _tune_level(name: str, folder: Path | None, context: EvaluationContext) -> None:
    """folder: of the model whose weights are changed; none: of no model."""
    from vqwave.evaluation import level_tuning
    from vqwave.evaluation.progress import NotApplicable
    from vqwave.training.checkpoint import update_weights

    def printed(gain: float, level: float) -> None:
        line = f"frames {gain:+.2f} dB: {level:+.2f} dB of the recordings' level"
        output(f"{line}, {len(context.waves)} copies", flush=True)

    try:
        level_tuning.tune(context, printed)
        bias = level_tuning.spectral_decoder(context).out.bias
    except NotApplicable as error:
        raise UserInputError(f"{name}: {error}") from None
    if folder is not None:
        named = context.codec.kind.complete.named_parameters()
        update_weights(folder, {name: weight for name, weight in named if weight is bias})
        output(f"{folder / 'model.safetensors'}: frames amplified")


class _Printed:
    """Prints each trial as it ends, the names of the columns before the first."""

    def __init__(self) -> None:
        self.first = True

    def __call__(self, trial: Trial) -> None:
        from vqwave.evaluation import temperature_tuning

        if self.first:
            output(temperature_tuning.heading(trial))
        output(temperature_tuning.line(trial), flush=True)
        self.first = False
