"""Decoding as a stream: codes in as they come, samples out as soon as they are determined.

The output has the bits of decoding everything at once, however the codes are cut: columns are
made in windows of their own (`conditions.py`), engines draw in chunks that do not depend on what
was pushed when (`engines.py`), and random numbers are keyed on a sample's time. Memory does not
grow. A stream can be copied, saved and resumed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave import inputs
from vqwave.config.renamed import old_parameter
from vqwave.decode.backend import build_engine
from vqwave.decode.postfilter import FILTERED, PostfilterState, postfilter_of
from vqwave.decode.sampling import Sampling
from vqwave.decode.streaming.conditions import CodeConditions
from vqwave.decode.streaming.engines import Arrays
from vqwave.decode.streaming.saved_state import (
    ATTRIBUTES,
    ENGINE,
    FORMAT,
    POSTFILTER,
    StreamState,
    check_arrays,
    check_voices,
)
from vqwave.distributed.torch_defaults import inference, own_defaults
from vqwave.errors import UserInputError
from vqwave.models.vqvae import VQVAE

COUNTS = ("first", "frame", "pitch_code")  # of `conditions.PendingFrames`
Wave = NDArray[np.float32]


class Stream:
    """An utterance that is being decoded: `push` codes, take samples; `flush` at the end.

    >>> decoder = model.stream(speaker="theo", seed=0)          # doctest: +SKIP
    >>> for codes in pieces:                                    # doctest: +SKIP
    ...     play(decoder.push(codes))
    >>> play(decoder.flush())                                   # doctest: +SKIP
    """

    def __init__(
        self, model: VQVAE, attributes: Mapping[str, Tensor], sampling: Sampling, sample_rate: int
    ) -> None:
        """attributes: labels and vectors (1, ...) that the decoder is conditioned on."""
        self.model, self.attributes, self.sampling = model, dict(attributes), sampling
        self.sample_rate = sample_rate
        self.engine = build_engine(model.decoder, sampling)
        self.conditions = CodeConditions(model, attributes)
        self.postfilter = postfilter_of(model, sampling.postfilter)
        self.columns = torch.zeros(0)  # (1, H, n) that are made and not yet decoded
        self.first = 0  # the number of the first of them
        self.pushed = self.sent = 0  # frames, samples
        self.over = False

    @property
    def latency(self) -> int:
        """By how many samples the output lags behind the codes, at the most."""
        hop, hold, block = self.model.hop, self.conditions.conditioner.hold, self.engine.block
        step, ahead = math.gcd(hop, block), -(-self.engine.ahead // hold) * hold
        melody = self.model.melody
        later = 0 if melody is None else melody.reach * melody.codec.hop
        filtering = 0 if self.postfilter is None else self.postfilter.latency
        return (
            later
            + filtering
            + (self.conditions.wait + self.conditions.block - 1) * hop
            + (block + ahead - 1) // step * step
        )

    @inference()
    def push(
        self,
        codes: Tensor | NDArray[np.integer],
        pitch: Tensor | NDArray[np.integer] | None = None,
    ) -> Wave:
        """Codes (Q, n), any n -> the samples that they determine, float32.

        Raises UserInputError for what is not a code.

        pitch: of a model with melody, the pitch codes (Q_p, m) that begin among these frames, or
        some of these later on.
        """
        if self.over:
            raise UserInputError("push: this stream is over, expected a new one")
        codes = inputs.codes(
            codes, self.model.quantizer.num_codebooks, self.model.quantizer.codebook_size, "push"
        )
        pitch = None if pitch is None else self._checked_pitch(pitch)
        self.pushed += codes.shape[1]
        made = self.conditions.push(codes, pitch)
        self._keep(made.columns)
        wave = self._draw(None)
        if self.postfilter is not None:
            wave = self.postfilter.push(wave, made.frames)
        self.sent += len(wave)
        return wave

    @inference()
    def flush(self, samples: int | None = None) -> Wave:
        """The last samples, and the end.

        `samples`: how many the utterance has in all; without, its last frame is complete.

        Raises UserInputError for a number that does not fit the frames.
        """
        hop = self.model.hop
        if self.over:
            raise UserInputError("flush: this stream is over, expected a new one")
        total = self.pushed * hop if samples is None else samples
        inputs.fits(total, self.pushed, hop, "flush")
        made, drawn = self.conditions.flush(), self.first * self.conditions.conditioner.hold
        self._keep(made.columns)
        wave = self._draw(total)[: total - drawn]
        if self.postfilter is not None:
            last = self.postfilter.push(wave, made.frames)
            wave = np.concatenate([last, self.postfilter.flush(total)])
        self.sent, self.over = total, True
        return wave

    @inference()
    def prove(self) -> None:
        """Draw a block that nobody wants: what a state has begun must fit its engine.

        Raises UserInputError. The stream cannot be used afterwards.
        """
        conditioner, engine = self.conditions.conditioner, self.engine
        count = -(-(engine.block + engine.ahead) // conditioner.hold)
        columns = torch.zeros(1, conditioner.width, count).to(self.conditions.pending.z)
        try:
            none = torch.zeros_like(self.conditions.pending.codes[:, :0])
            self._keep(self.conditions.push(none).columns)
            engine.sample(columns, self.first, engine.block)
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            why = " ".join(str(error).split())[:100]
            raise UserInputError(f"this stream's state does not fit its engine ({why})") from None

    def copy(self, seed: int | None = None) -> Stream:
        """A stream that continues from here by itself; with another `seed`, differently."""
        return self.resumed(self.model, self.state(), self.sample_rate, seed)

    def state(self) -> StreamState:
        """Its state; see `Stream.resumed`."""
        pending = self.conditions.pending
        arrays = {f"{ENGINE}{name}": value for name, value in self.engine.state_dict().items()}
        arrays |= {ATTRIBUTES + name: x.cpu().numpy() for name, x in self.attributes.items()}
        arrays |= {name: getattr(pending, name).cpu().numpy() for name in self._pending}
        arrays["columns"] = self.columns.cpu().numpy()
        counts = {"pushed": self.pushed, "sent": self.sent, "column": self.first}
        if self.postfilter is not None:
            filtering = vars(self.postfilter.state)
            arrays |= {POSTFILTER + name: filtering[name] for name in FILTERED}
            counts["filtered"] = self.postfilter.state.frame
        header = {
            "format": FORMAT,
            "model": model_name(self.model),
            "engine": self.engine.name,
            "sampling": asdict(self.sampling),
            "counts": counts,
            "pending": {name: getattr(pending, name) for name in COUNTS},
            "over": self.over,
        }
        return StreamState(header, {name: np.array(value) for name, value in arrays.items()})

    def save(self, path: str | Path) -> None:
        """Write `state()`: safetensors with a JSON header."""
        self.state().save(path)

    @classmethod
    @own_defaults()
    def resumed(
        cls, model: VQVAE, state: StreamState, sample_rate: int, seed: int | None = None
    ) -> Stream:
        """Continue where `state` was taken.

        Raises UserInputError for the state of another model, or of an engine that is not here.
        """
        header, arrays = state.header, state.arrays
        if header["model"] != model_name(model):
            raise UserInputError(
                f"this stream is of model {header['model']!r}, expected {model_name(model)}"
            )
        device = next(model.parameters()).device
        voices = _below(ATTRIBUTES, arrays)
        check_voices(voices)
        attributes = {name: torch.from_numpy(np.array(x)).to(device) for name, x in voices.items()}
        sampling = Sampling(**header["sampling"])
        if seed is not None:
            sampling = replace(sampling, seed=seed)
        try:
            stream = cls(model, attributes, sampling, sample_rate)
        except (RuntimeError, LookupError, TypeError) as error:
            raise UserInputError(f"this stream's state: its voice is none ({error})") from None
        if header["engine"] != stream.engine.name:
            raise UserInputError(
                f"this stream was decoded by {header['engine']!r}, expected {stream.engine.name}:"
                " their states differ"
            )
        codes = {"codes": model.quantizer.codebook_size}
        codes |= {} if model.melody is None else {"pitch_codes": model.melody.codec.size}
        check_arrays(arrays, stream.state().arrays, codes)
        try:
            stream.engine.load_state_dict(_below(ENGINE, arrays))
        except (RuntimeError, LookupError, TypeError, ValueError) as error:
            raise UserInputError(f"this stream's state does not fit its engine ({error})") from None
        pending, counts = stream.conditions.pending, header["counts"]
        for name in stream._pending:
            setattr(pending, name, torch.from_numpy(np.array(arrays[name])).to(device))
        stream.columns = torch.from_numpy(np.array(arrays["columns"])).to(device)
        for name in COUNTS:
            setattr(pending, name, header["pending"].get(name, 0))
        if stream.postfilter is not None:
            filtering = {name: np.array(arrays[POSTFILTER + name]) for name in FILTERED}
            stream.postfilter.state = PostfilterState(frame=counts.get("filtered", 0), **filtering)
        stream.pushed, stream.sent, stream.first = (
            counts[name] for name in ("pushed", "sent", "column")
        )
        stream.over = header["over"]
        stream._check()
        return stream

    def _check(self) -> None:
        """Whether the parts of a state are of one moment: the engine's kernels look up columns by
        their numbers. Raises UserInputError.
        """
        conditioner = self.conditions.conditioner
        sampled = self.first * conditioner.hold
        shape, computed = self.columns.shape, self.columns.shape[-1]
        if computed and shape[:2] != (1, conditioner.width):
            raise UserInputError(f"this stream's state: columns of shape {tuple(shape)}")
        done = sampled
        if self.postfilter is not None:
            frames, done = self.conditions.spectral_frames, self.postfilter.sent
            if not self.over:
                self.postfilter.check(sampled, frames)
        sent = self.sent <= sampled if self.over else self.sent == done
        if self.engine.time != sampled or not sent:
            raise UserInputError(
                f"this stream's state: {self.engine.time} samples drawn and {self.sent} sent,"
                f" expected {sampled} and {done}"
            )
        self.conditions.check(self.pushed, self.first + computed)

    def __repr__(self) -> str:
        seconds = self.sent / self.sample_rate
        return (
            f"Stream({self.engine.name}, {seconds:.2f} s sent, latency"
            f" {1000 * self.latency / self.sample_rate:.0f} ms)"
        )

    @property
    def _pending(self) -> tuple[str, ...]:
        """The tensors of `conditions.pending` that a state holds."""
        return (
            ("codes", "z") if self.model.melody is None else ("codes", "z", "pitch_codes", "pitch")
        )

    def _checked_pitch(self, pitch: Tensor | NDArray[np.integer]) -> Tensor:
        melody = self.model.melody
        if melody is None:
            raise UserInputError("push: pitch codes for a model without melody, expected none")
        return inputs.codes(pitch, melody.codec.books, melody.codec.size, "push: pitch codes")

    def _keep(self, columns: Tensor) -> None:
        self.columns = torch.cat([self.columns, columns], -1) if self.columns.numel() else columns

    def _draw(self, total: int | None) -> Wave:
        """As many blocks as can be drawn; given the `total` of the utterance's samples, all that
        is left.
        """
        hold, hop, parts, at = self.conditions.conditioner.hold, self.model.decoder.hop, [], 0
        computed, end = self.columns.shape[-1], None if total is None else -(-total // hop) * hop
        while at < computed:
            left = self.engine.block if end is None else end - (self.first + at) * hold
            count = min(self.engine.block, left)
            needed = -(-(count + self.engine.ahead) // hold)  # columns
            if count <= 0 or (end is None and at + needed > computed):
                break
            window = self.columns[..., at : at + needed].contiguous()
            parts.append(self.engine.sample(window, self.first + at, count))
            at += count // hold
        self.columns, self.first = self.columns[..., at:].clone(), self.first + at
        return torch.cat(parts).float().cpu().numpy() if parts else np.zeros(0, np.float32)


def _below(prefix: str, arrays: Arrays) -> Arrays:
    """The arrays whose names begin so, by the rest of their names."""
    return {n.removeprefix(prefix): x for n, x in arrays.items() if n.startswith(prefix)}


def model_name(model: VQVAE) -> str:
    """16 hexadecimal digits that name what a stream's state depends on: the codebook and the
    decoder.
    """
    digest = hashlib.sha256()
    for part in (model.quantizer, model.melody, model.decoder):
        if part is None:
            continue
        for name, tensor in sorted(
            (old_parameter(name), tensor) for name, tensor in part.state_dict().items()
        ):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
