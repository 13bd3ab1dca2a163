"""Quantizers at equal steps and equal bit rate (400 bit/s) on data/fsdd; the table goes into
docs/quantizers.md.

python benchmarks/compare_quantizers.py [--steps 2000] [--seed 0] [--only ema gradient]

Each is a run of experiments/vqvae.py over configs/vqvae/compare.yaml; the same command goes on
where it was stopped, and does not repeat what is done.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor

from vqwave.config import build, spec
from vqwave.data import Corpus
from vqwave.inference.speech_model import SpeechModel
from vqwave.metrics.probes import Probe, probe_accuracy
from vqwave.nn.quantize import QuantizerSpec

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- comparison: benchmarks/compare_quantizers.py -->", "<!-- end of comparison -->"
WAIT = 200
"""Steps before k-means places the codes, in all that have codes to place."""
QUANTIZERS: dict[str, str] = {
    "ema": f"{{kind: ema, codebook_size: 256, kmeans_after_steps: {WAIT}}}",
    "gradient": f"{{kind: gradient, codebook_size: 256, kmeans_after_steps: {WAIT}}}",
    "ema, rotation": (
        f"{{kind: ema, codebook_size: 256, kmeans_after_steps: {WAIT}, gradient_estimator:"
        " rotation}"
    ),
    "product 2 x 16": (
        "{kind: product, groups: 2, quantizer: {kind: ema, codebook_size: 16,"
        f" kmeans_after_steps: {WAIT}}}}}"
    ),
    "residual 2 x 16": (
        "{kind: residual, num_quantizers: 2, quantizer: {kind: ema, codebook_size: 16,"
        f" kmeans_after_steps: {WAIT}}}}}"
    ),
    "fsq 4 x 4 x 4 x 4": "{kind: fsq, levels: [4, 4, 4, 4]}",
}


@dataclass(frozen=True)
class Result:
    """What a trained quantizer reached; bits are per 16-bit sample of the held-out split,
    perplexity is a book's mean.
    """

    bits: float
    rise: float
    bit_rate: float
    entropy_rate: float
    perplexity: float
    codes: int
    dead: int
    digit: Probe
    speaker: Probe
    steps: int
    seconds: float

    def row(self, name: str) -> str:
        cells = (
            name,
            f"{self.bits:.3f}",
            f"{self.rise:+.3f}",
            f"{self.entropy_rate:.0f}",
            f"{self.perplexity:.1f}",
            f"{self.dead} of {self.codes}",
            f"{100 * self.digit.accuracy:.1f} %",
            f"{100 * self.speaker.accuracy:.1f} %",
        )
        return f"| {' | '.join(cells)} |"


@spec
class Holder:
    """As a model holds its quantizer."""

    quantizer: QuantizerSpec


def settings(tree: Mapping[str, object], prefix: str) -> Iterator[str]:
    """A tree as dotted overrides."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from settings(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}={value}"


def train(run: Path, quantizer: str, config: Path, steps: int, seed: int) -> None:
    """The experiment as anybody would run it; done at once if it already reached its end."""
    tree = yaml.safe_load(quantizer)
    build(Holder, {"quantizer": tree})
    words = [
        f"run={run}",
        f"seed={seed}",
        f"train.steps={steps}",
        *settings(tree, "model.quantizer"),
    ]
    command = [
        sys.executable,
        str(ROOT / "experiments" / "vqvae.py"),
        "--config",
        str(config),
        *words,
        "--quiet",
    ]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


@torch.inference_mode()
def embedded(
    codec: SpeechModel, corpus: Corpus, splits: tuple[str, ...]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The embedded codes (D, F) of all utterances of some splits, and their labels."""
    rows = [row for split in splits for row in corpus.of(split)]
    codes = [
        codec.model.quantizer.decode(codec.encode(corpus.read(row)).codes[None])[0] for row in rows
    ]
    texts = sorted({utterance.text for utterance in corpus.utterances})
    digit = torch.tensor([texts.index(corpus.utterances[row].text) for row in rows])
    return codes, {
        "digit": digit,
        "speaker": torch.tensor(
            [corpus.speakers.index(corpus.utterances[row].speaker) for row in rows]
        ),
    }


def measure(run: Path, corpus: Corpus) -> Result:
    """Reads the run's own evaluation, and probes its codes: trained on the train split, tested on
    valid and test.
    """
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    about = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))["about"]
    codec = SpeechModel.load(run)
    codes, labels = embedded(codec, corpus, ("train",))
    test_codes, test_labels = embedded(codec, corpus, ("valid", "test"))
    probes = {
        name: probe_accuracy(codes, labels[name], test_codes, test_labels[name]) for name in labels
    }
    nll, use = evaluation["nll"], evaluation["codes"]
    total = use["books"] * use["size"]
    return Result(
        bits=nll["model"],
        rise=nll["shuffled codes"] - nll["model"],
        bit_rate=use["bit_rate"],
        entropy_rate=use["entropy_rate"],
        perplexity=use["perplexity"],
        codes=total,
        dead=total - use["used"],
        digit=probes["digit"],
        speaker=probes["speaker"],
        steps=about["steps"],
        seconds=about["seconds"],
    )


def result_of(
    folder: Path, name: str, config: Path, corpus: Corpus, *, steps: int, seed: int
) -> Result:
    """Trained and measured, or read back if that was done before."""
    run = folder / "".join(c if c.isalnum() else "-" for c in name)
    done = run / "comparison.json"
    if not done.exists():
        train(run, QUANTIZERS[name], config, steps, seed)
        done.write_text(json.dumps(asdict(measure(run, corpus)), indent=1), encoding="utf-8")
    numbers = json.loads(done.read_text(encoding="utf-8"))
    result = Result(
        **{**numbers, "digit": Probe(**numbers["digit"]), "speaker": Probe(**numbers["speaker"])}
    )
    if result.steps != steps:
        sys.exit(
            f"{run}: trained for {result.steps} steps, expected {steps}; choose another --folder"
        )
    return result


def table(results: Mapping[str, Result], corpus: Corpus, steps: int, seed: int) -> str:
    """Markdown, with all that one needs to repeat it."""
    first = next(iter(results.values()))
    lines = [
        (
            f"{len(results)} runs of {steps:,} steps, seed {seed}, on `{corpus.name}`;"
            f" {first.bit_rate:g} bit/s nominal each; {platform.machine()}, 1 thread, torch"
            f" {torch.__version__}, {time.strftime('%Y-%m-%d')}."
        ),
        (
            f"Probes are tested on {first.digit.utterances} held-out utterances; chance is"
            f" {100 * first.digit.chance:.0f} % for the digit and {100 * first.speaker.chance:.0f}"
            " % for the speaker."
        ),
        "",
        (
            "| quantizer | bits a sample | rise, shuffled codes | entropy bit/s | perplexity a book"
            " | dead codes | digit probe | speaker probe |"
        ),
        "|---|---|---|---|---|---|---|---|",
        *(result.row(name) for name, result in results.items()),
    ]
    return "\n".join(lines)


def write(page: Path, text: str) -> None:
    """Put the table between its two marks."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="training steps of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--config",
        type=Path,
        default=ROOT / "configs" / "vqvae" / "compare.yaml",
        help="what all have in common",
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/compare"), help="for the runs")
    parser.add_argument(
        "--page",
        type=Path,
        default=ROOT / "docs" / "quantizers.md",
        help="the page that takes the table",
    )
    parser.add_argument("--only", nargs="+", choices=list(QUANTIZERS), default=list(QUANTIZERS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    corpus = Corpus.open(
        ROOT / yaml.safe_load(args.config.read_text(encoding="utf-8"))["data"]["corpus"]
    )
    results = {}
    for name in args.only:
        results[name] = result_of(
            args.folder.resolve(), name, args.config, corpus, steps=args.steps, seed=args.seed
        )
        print(results[name].row(name), flush=True)
    if len(results) == len(QUANTIZERS):  # the page has all
        write(args.page, table(results, corpus, args.steps, args.seed))
        print(f"the table is in {args.page}")


if __name__ == "__main__":
    main()
