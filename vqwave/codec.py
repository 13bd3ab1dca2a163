"""A trained model as people use it: waveforms and speaker names in, codes and waveforms out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vqwave.audio import normalise_level, remove_dc, resample
from vqwave.checkpoint import Loaded, ModelCard, load_trained
from vqwave.codes import Coded
from vqwave.decode.backends import sample
from vqwave.errors import BadInput, nearest
from vqwave.models import VQVAE, Model, Student, WaveNet
from vqwave.nn.condition import Condition

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Task:
    """One utterance to decode: what the decoder is told, and how many samples to make."""

    condition: Condition | None
    samples: int


class Codec:
    """Encode, decode, convert, generate. Waveforms are float32 tensors (T,) in [-1, 1] at `sample_rate`.

    >>> model = Codec.load("runs/vqvae-fsdd")                         # doctest: +SKIP
    >>> coded = model.encode(wave, 16000)                             # doctest: +SKIP
    >>> theo = model.decode(coded, speaker="theo")                    # doctest: +SKIP
    """

    def __init__(self, model: Model, card: ModelCard) -> None:
        self.model = model
        self.card = card
        self.sample_rate = card.sample_rate
        self.labels = card.labels

    @classmethod
    def load(cls, name: str | Path, device: str = "cpu") -> Codec:
        """A run folder, a model folder, or the name of a shipped model. Raises BadInput."""
        loaded: Loaded = load_trained(name, device)
        return cls(loaded.model, loaded.card)

    @property
    def decoder(self) -> WaveNet | Student:
        return self.model.decoder if isinstance(self.model, VQVAE) else self.model

    @property
    def speakers(self) -> list[str]:
        return list(self.labels.get("speaker", []))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def fingerprint(self) -> str:
        """Names the encoder and the codebook: a teacher and its student, which share them, read each other's codes."""
        digest = hashlib.sha256()
        for part in (self._vqvae.encoder, self._vqvae.quantizer):
            for name, tensor in sorted(part.state_dict().items()):
                digest.update(name.encode() + np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
        return digest.hexdigest()[:16]

    @property
    def _vqvae(self) -> VQVAE:
        if not isinstance(self.model, VQVAE):
            raise BadInput(f"this model is a {self.card.kind} without codes, expected a vqvae (or its student)")
        return self.model

    def prepare(self, wave: Tensor | np.ndarray, sample_rate: int | None = None) -> Tensor:
        """(T,) or (C, T) audio at any rate and level -> (T,) as the model was trained on: mono, no DC, its level."""
        samples = np.asarray(wave, np.float32)
        samples = samples.mean(0) if samples.ndim == 2 else samples
        if not np.isfinite(samples).all() or not np.abs(samples).max(initial=0.0) > 0:
            raise BadInput("the recording is empty, silent or not finite, expected audio")
        samples = resample(remove_dc(samples), sample_rate or self.sample_rate, self.sample_rate)
        level = self.card.about.get("level_db", -23.0)
        return torch.from_numpy(normalise_level(samples, level)).to(self.device)

    @torch.inference_mode()
    def encode(self, wave: Tensor | np.ndarray, sample_rate: int | None = None, speaker: str | None = None) -> Coded:
        """(T,) audio, at `sample_rate` if not the model's own -> codes (Q, F). `speaker` is noted beside them."""
        model, x = self._vqvae, self.prepare(wave, sample_rate)
        frames = -(-len(x) // model.hop)
        padded = torch.nn.functional.pad(x, (0, frames * model.hop - len(x)))
        codes = model.encode(padded[None])[0].cpu()
        return Coded(codes, self.sample_rate, model.hop, len(x), model.quantizer.size, self.fingerprint, speaker)

    def decode(
        self,
        coded: Coded,
        speaker: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        backend: str = "auto",
        progress: Progress | None = None,
    ) -> Tensor:
        """Codes -> waveform (T,), in the voice of `speaker` (or of the speaker noted beside the codes)."""
        many = self.decode_many(
            [coded], [speaker], labels=labels, seed=seed, temperature=temperature, backend=backend, progress=progress
        )
        return many[0]

    @torch.inference_mode()
    def decode_many(
        self,
        coded: Sequence[Coded],
        speakers: Sequence[str | None],
        *,
        labels: Mapping[str, str] | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        backend: str = "auto",
        progress: Progress | None = None,
    ) -> list[Tensor]:
        """As `decode` for several utterances at once; each comes out as it would alone."""
        tasks = []
        for item, speaker in zip(coded, speakers, strict=True):
            self._check(item)
            ids = self.label_ids({**(labels or {}), "speaker": speaker or item.speaker})
            tasks.append(Task(self._vqvae.condition(item.codes[None].to(self.device), ids), item.samples))
        return self._run(tasks, [0] * len(tasks), seed, temperature, backend, progress)

    def convert(
        self,
        wave: Tensor | np.ndarray,
        speaker: str,
        sample_rate: int | None = None,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        backend: str = "auto",
        progress: Progress | None = None,
    ) -> Tensor:
        """The same words in the voice of `speaker`: keep the codes, change the speaker."""
        coded = self.encode(wave, sample_rate)
        return self.decode(coded, speaker, seed=seed, temperature=temperature, backend=backend, progress=progress)

    @torch.inference_mode()
    def generate(
        self,
        seconds: float,
        *,
        labels: Mapping[str, str | None] | None = None,
        count: int = 1,
        seed: int = 0,
        temperature: float = 1.0,
        backend: str = "auto",
        progress: Progress | None = None,
    ) -> list[Tensor]:
        """Babble: `count` waveforms drawn from a WaveNet that hears no frames, only labels."""
        decoder = self.decoder
        if isinstance(self.model, VQVAE):
            raise BadInput("this model speaks from codes; to babble it needs a prior over them, or use a plain WaveNet")
        if decoder.frontend is not None:
            raise BadInput("this model is a vocoder: it speaks from spectral frames, expected a WaveNet without features")
        if not seconds > 0:
            raise BadInput(f"seconds {seconds}: expected a number above 0")
        ids = self.label_ids(labels or {})
        samples = round(seconds * self.sample_rate)
        tasks = [Task(decoder.condition(None, ids), samples) for _ in range(count)]
        return self._run(tasks, range(count), seed, temperature, backend, progress)

    @torch.inference_mode()
    def resynthesise(
        self,
        wave: Tensor | np.ndarray,
        sample_rate: int | None = None,
        *,
        labels: Mapping[str, str | None] | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        backend: str = "auto",
        progress: Progress | None = None,
    ) -> Tensor:
        """A vocoder's copy of a recording (T,), from its spectral frames alone."""
        decoder = self.decoder
        if decoder.frontend is None:
            raise BadInput("this model has no spectral front end, expected a vocoder")
        x = self.prepare(wave, sample_rate)
        frames = -(-len(x) // decoder.hop)
        padded = torch.nn.functional.pad(x, (0, frames * decoder.hop - len(x)))
        condition = decoder.condition(decoder.frontend(padded[None]), self.label_ids(labels or {}))
        return self._run([Task(condition, len(x))], [0], seed, temperature, backend, progress)[0]

    def label_ids(self, labels: Mapping[str, str | None]) -> dict[str, Tensor]:
        """Label names -> ids (1,), for the labels that the decoder hears. Raises BadInput with the nearest names."""
        ids = {}
        for name in self.decoder.conditioner.labels:
            value, known = labels.get(name), self.labels[name]
            if value is None:
                raise BadInput(f"{name}: not given, expected one of {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}")
            if value not in known:
                shown = nearest(value, known) or f", expected one of {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}"
                raise BadInput(f"{name} {value!r}: not among the {len(known)} this model knows{shown}")
            ids[name] = torch.tensor([known.index(value)], device=self.device)
        return ids

    def _check(self, coded: Coded) -> None:
        if coded.fingerprint != self.fingerprint:
            raise BadInput(f"these codes are of codec {coded.fingerprint}, expected {self.fingerprint}: encode with this model")

    def _run(
        self,
        tasks: Sequence[Task],
        streams: Sequence[int],
        seed: int,
        temperature: float,
        backend: str,
        progress: Progress | None,
    ) -> list[Tensor]:
        """All tasks in one batch; each condition was made alone, so that no utterance hears its neighbours' padding."""
        samples = max((task.samples for task in tasks), default=0)
        condition = join([task.condition for task in tasks])
        waves = sample(
            self.decoder,
            condition,
            samples,
            streams=torch.tensor(list(streams)),
            seed=seed,
            temperature=temperature,
            backend=backend,
            progress=progress,
        )
        return [wave[: task.samples].float().cpu() for wave, task in zip(waves, tasks, strict=True)]


def join(conditions: Sequence[Condition | None]) -> Condition | None:
    """Conditions of single utterances (1, H, F_i) -> one (B, H, max F), the last column held."""
    if not conditions or conditions[0] is None:
        return None
    most = max(c.features.shape[-1] for c in conditions)
    padded = [torch.nn.functional.pad(c.features, (0, most - c.features.shape[-1]), mode="replicate") for c in conditions]
    return Condition(torch.cat(padded), conditions[0].hold)


def load(name: str | Path, device: str = "cpu") -> Codec:
    """`vqwave.load`: a run folder, a model folder, or the name of a shipped model. Raises BadInput."""
    return Codec.load(name, device)
