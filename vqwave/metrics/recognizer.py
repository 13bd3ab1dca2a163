"""A recognizer of words and speakers: small convolutional networks that classify a recording.

They are trained on a corpus' real training recordings alone, never on generated speech; their
accuracy on held-out recordings is the ceiling of that on generated speech. There are several
members, which differ by their seed, since the accuracy of a single one varies by a point or two;
their log-probabilities are averaged (deep ensembles: Lakshminarayanan et al., 2017.
arXiv:1612.01474). They are small networks of this project, since recognisers that could be
installed were trained neither on a corpus' speakers nor on words at 8 kHz.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vqwave.atomic_files import new_file
from vqwave.audio import Wave
from vqwave.data import Corpus
from vqwave.data.corpus import HEADER, INDEX, shard_name
from vqwave.distributed.threads import limited_to
from vqwave.features import MelBands
from vqwave.metrics.augment import augmented, fitted
from vqwave.nn.by_name import ModulesByName
from vqwave.nn.finite import check_finite
from vqwave.nn.module_lists import elements

LogProbabilities = dict[str, NDArray[np.float64]]  # (N, K) of each label's values
RECOGNISED = ("text", "speaker")  # label columns, where a corpus has them
LONGEST_SECONDS = 2.0  # of a window
RANGE_DB = 55.0  # below the loudest band of an utterance, where power is clamped


@dataclass(frozen=True)
class RecognizerSpec:
    """Size and training; part of the name under which the weights are kept."""

    version: int = 2
    members: int = 3
    bands: int = 40
    channels: int = 128
    dropout: float = 0.3
    steps: int = 1000
    batch: int = 48
    lr: float = 3e-3
    smoothing: float = 0.05
    seed: int = 0  # of the first member; the others count on


DEFAULT = RecognizerSpec()


class RecognizerNetwork(nn.Module):
    """Four convolutions over log-mel frames, mean and maximum over time, one linear layer a
    label.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, spec: RecognizerSpec, sizes: Mapping[str, int]) -> None:
        super().__init__()
        C = spec.channels
        self.register_buffer("mean", torch.zeros(spec.bands, 1))
        self.register_buffer("deviation", torch.ones(spec.bands, 1))
        widths, pools = (spec.bands, C, C, C, C), (1, 2, 1, 2)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(widths[i], widths[i + 1], 5, padding=2),
                nn.BatchNorm1d(C),
                nn.ReLU(),
                nn.AvgPool1d(pool),
            )
            for i, pool in enumerate(pools)
        )
        self.dropout = nn.Dropout(spec.dropout)
        self.outputs = ModulesByName({name: nn.Linear(2 * C, size) for name, size in sizes.items()})

    def forward(self, power: Tensor) -> dict[str, Tensor]:
        """Mel powers (B, M, F) at any level -> logits (B, K) of each label."""
        loudest = power.amax((1, 2), keepdim=True).clamp_min(1e-20)
        h = ((power / loudest).clamp_min(10 ** (-RANGE_DB / 10)).log() - self.mean) / self.deviation
        for layer in self.layers:
            h = layer(h)
        pooled = self.dropout(torch.cat([h.mean(2), h.amax(2)], 1))
        return {name: output(pooled) for name, output in self.outputs.items()}

    def fit_scale(self, power: Tensor) -> None:
        """Mean and deviation of each band's log power, of (B, M, F)."""
        loudest = power.amax((1, 2), keepdim=True).clamp_min(1e-20)
        log = (power / loudest).clamp_min(10 ** (-RANGE_DB / 10)).log()
        self.mean.copy_(log.mean((0, 2))[:, None])
        self.deviation.copy_(log.std((0, 2))[:, None].clamp_min(1e-3))


class Recognizer:
    """Predicts which of `values` ({"text": [...], "speaker": [...]}) waveforms (T,) at
    `sample_rate` have.
    """

    def __init__(
        self,
        members: nn.ModuleList,
        values: dict[str, list[str]],
        sample_rate: int,
        frames: int,
        bands: int,
    ) -> None:
        self.members, self.values, self.sample_rate, self.frames = (
            members.eval(),
            values,
            sample_rate,
            frames,
        )
        self.mel = mel_of(sample_rate, bands)

    @torch.inference_mode()
    def log_probabilities(self, waves: Sequence[Wave]) -> LogProbabilities:
        """Log-probabilities of each label, averaged over members and over the utterance's windows,
        which overlap by half.
        """
        windows = [self._windows(wave) for wave in waves]
        logits: dict[str, list[Tensor]] = {name: [] for name in self.values}
        for chunk in torch.cat(windows).split(64) if windows else []:
            outputs = [member(chunk) for member in self.members]
            for name, parts in logits.items():
                parts.append(torch.stack([each[name].log_softmax(1) for each in outputs]).mean(0))
        sizes = [len(item) for item in windows]
        return {
            name: (
                torch.stack([part.mean(0) for part in torch.cat(parts).split(sizes)])
                .double()
                .numpy()
                if parts
                else np.zeros((0, 0))
            )
            for name, parts in logits.items()
        }

    def named(self, waves: Sequence[Wave]) -> dict[str, NDArray[np.int64]]:
        """The place of each label's likeliest value in `values`, (N,)."""
        return {name: scores.argmax(1) for name, scores in self.log_probabilities(waves).items()}

    def _windows(self, wave: Wave) -> Tensor:
        """(T,) -> mel powers of its windows (W, M, F); what is shorter than one is put into the
        middle of silence.
        """
        power = powers(self.mel, wave)
        missing = self.frames - power.shape[1]
        if missing >= 0:
            return F.pad(power, (missing // 2, missing - missing // 2))[None]
        starts = (
            np.linspace(0, -missing, 2 + (-missing - 1) // max(1, self.frames // 2))
            .round()
            .astype(int)
        )
        return torch.stack([power[:, start : start + self.frames] for start in starts])


def mel_of(sample_rate: int, bands: int = DEFAULT.bands) -> MelBands:
    """The networks' input: mel powers of 25 ms each 10 ms."""
    return MelBands(
        sample_rate=sample_rate,
        window=round(0.025 * sample_rate),
        hop=round(0.01 * sample_rate),
        bands=bands,
        fmin=60.0,
        fmax=min(7600.0, 0.475 * sample_rate),
        scale="slaney",
        power=2,
    )


def powers(mel: MelBands, wave: Wave) -> Tensor:
    """(T,) -> (M, F), the last frame filled up with silence."""
    x = torch.from_numpy(np.asarray(wave, np.float32))
    return mel(F.pad(x, (0, -len(x) % mel.hop if len(x) else mel.hop))[None])[0]


def recognizer_of(
    corpus: Corpus,
    spec: RecognizerSpec = DEFAULT,
    *,
    keep: Path | None = None,
    progress: Callable[[int], object] | None = None,
) -> Recognizer:
    """The recognizer of a corpus: trained (one to three minutes a member), or read from `keep`, a
    folder where trained ones are kept.

    Kept weights bear the hash of the recordings, the labels and the settings in their name.
    `progress` is called with the number of steps done, of `steps` for each member. What cannot be
    kept (a folder that may not be written) is trained again the next time. Trained on one thread,
    so that it does not depend on their number.
    """
    values = {
        name: corpus.labels[name] for name in RECOGNISED if len(corpus.labels.get(name, [])) > 1
    }
    frames, sizes = _frames(corpus), {name: len(known) for name, known in values.items()}
    with torch.random.fork_rng(devices=[]):
        members = nn.ModuleList(RecognizerNetwork(spec, sizes) for _ in range(spec.members))
    recognizer = Recognizer(members, values, corpus.sample_rate, frames, spec.bands)
    path = None if keep is None else keep / f"judge-{_key(corpus, spec, values)}.safetensors"
    if not values or (path is not None and _restored(members, path)):
        return recognizer
    _train(members, corpus, values, frames=frames, spec=spec, progress=progress)
    if path is not None:
        _keep(members, path)
    return recognizer


def _frames(corpus: Corpus) -> int:
    """How many frames a window has: as long as nearly all utterances where words are recognised,
    else two seconds.
    """
    longest = LONGEST_SECONDS
    if "text" in corpus.labels:
        lengths = [corpus.utterances[row].frames / corpus.sample_rate for row in corpus.of("train")]
        longest = min(max(0.6, float(np.quantile(lengths, 0.98))), 2 * LONGEST_SECONDS)
    return 4 * round(25 * longest)


def _key(corpus: Corpus, spec: RecognizerSpec, values: Mapping[str, Sequence[str]]) -> str:
    digest = hashlib.sha256(repr((sorted(asdict(spec).items()), sorted(values.items()))).encode())
    shards = sorted({shard_name(u.shard) for u in corpus.utterances})
    for name in (HEADER, INDEX, *shards):
        with (corpus.folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _restored(members: nn.ModuleList, path: Path) -> bool:
    try:
        members.load_state_dict(load_file(path))
        check_finite(members, path)
    except (OSError, RuntimeError, ValueError, SafetensorError):
        return False
    return True


def _keep(members: nn.ModuleList, path: Path) -> None:
    weights = {name: value.contiguous() for name, value in members.state_dict().items()}
    with suppress(OSError, SafetensorError):
        path.parent.mkdir(exist_ok=True)
        with new_file(path) as temporary:
            save_file(weights, temporary)


@limited_to(1)  # the features, too: an AVX2 product rounds otherwise on another number of threads
def _train(
    members: nn.ModuleList,
    corpus: Corpus,
    values: Mapping[str, Sequence[str]],
    *,
    frames: int,
    spec: RecognizerSpec,
    progress: Callable[[int], object] | None,
) -> None:
    """Each member by itself, on the training split, on one thread."""
    rows, mel = corpus.of("train"), mel_of(corpus.sample_rate, spec.bands)
    clean = [powers(mel, corpus.read(row)) for row in rows]
    labels = {name: torch.tensor([corpus.label_ids(row)[name] for row in rows]) for name in values}
    steps = count(1)
    for number, member in enumerate(elements(members, RecognizerNetwork)):
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(spec.seed + number)
            _learn(
                member,
                clean,
                labels,
                frames=frames,
                spec=spec,
                stepped=lambda: progress and progress(next(steps)),
            )


def _learn(
    network: RecognizerNetwork,
    clean: list[Tensor],
    labels: Mapping[str, Tensor],
    *,
    frames: int,
    spec: RecognizerSpec,
    stepped: Callable[[], object],
) -> None:
    """One-cycle Adam on augmented windows of the recordings; windows are sampled by length,
    speakers by their frequency.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Linear | nn.BatchNorm1d):
            module.reset_parameters()
    network.fit_scale(
        torch.stack([fitted(power, frames) for power in clean[:: max(1, len(clean) // 500)]])
    )
    share = torch.tensor([max(1.0, power.shape[1] / frames) for power in clean])
    optimizer = torch.optim.AdamW(network.train().parameters(), lr=spec.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, spec.lr, total_steps=spec.steps, pct_start=0.15
    )
    for _ in range(spec.steps):
        rows = torch.multinomial(share, spec.batch, replacement=True)
        scores = network(
            augmented(torch.stack([fitted(clean[i], frames, tempo=0.15) for i in rows.tolist()]))
        )
        losses = [
            F.cross_entropy(scores[name], known[rows], label_smoothing=spec.smoothing)
            for name, known in labels.items()
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()
        stepped()
    network.eval()
