"""The codec of a model on batches, as EnCodec and DAC have it: padded tensors in and out.

B utterances, T samples, F frames of `hop` samples, Q codebooks, D latent channels. Row b of a
result is what a call with this row alone gives, bit for bit, whatever the padding and the other
rows have: rows are computed one after another, since the rounding of a product depends on the
size of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from vqwave import inputs
from vqwave.codes import CodeSequence, Header, PitchFormat
from vqwave.data.voices import VoicePitch
from vqwave.decode.batching import DecodeRequest
from vqwave.decode.sampling import DEFAULT, Sampling
from vqwave.distributed.torch_defaults import inference
from vqwave.errors import UserInputError, under
from vqwave.inference.chunked_encoding import latents_chunked
from vqwave.inference.decoder_inputs import Labels, Vectors
from vqwave.inference.pitch_encoding import format_of, known_voice
from vqwave.models.vqvae import VQVAE

Integers = Tensor | np.ndarray | Sequence[int]
Speakers = str | Sequence[str | None] | None


class Recordings(Protocol):
    """What a `Codec` uses of a `SpeechModel`."""

    sample_rate: int

    @property
    def device(self) -> torch.device: ...

    @property
    def speakers(self) -> list[str]: ...

    def check(self, coded: CodeSequence, /) -> None: ...

    def prepare(self, wave: Tensor, sample_rate: int | None, /) -> Tensor: ...

    def encode_prepared(self, wave: Tensor, speaker: str | None, /) -> CodeSequence: ...

    def header(self, speaker: str | None, samples: int, pitch: PitchFormat | None, /) -> Header: ...

    def task(
        self,
        coded: CodeSequence,
        speaker: str | None,
        labels: Labels | None,
        embeddings: Vectors | None,
        shift_semitones: float,
        /,
    ) -> DecodeRequest: ...

    def decode_each(
        self,
        tasks: Iterable[tuple[int, DecodeRequest]],
        sampling: Sampling,
        progress: Callable[[int], object] | None,
        /,
    ) -> Iterator[tuple[Any, Tensor]]: ...


class EncodedBatch(NamedTuple):
    """B utterances as codes; `codec.decode(*encoded)` decodes them.

    Beyond the end of an utterance, codes are 0.
    """

    codes: Tensor
    """(B, Q, F) int64."""
    frames: Tensor
    """(B,) int64, of F."""
    samples: Tensor
    """(B,) int64, at the model's rate: the last frame of an utterance may be cut."""
    pitch_codes: Tensor | None = None
    """(B, Q_p, F_p) int64 of a model with melody, F_p = ceil(F / pitch_ratio)."""
    voices: Tensor | None = None
    """(B, 2): mean and deviation of ln(F0 / 100 Hz) that each melody was normalised with."""


class Codec:
    """`SpeechModel.codec`: the codec of a model on padded batches.

    Waves are float (B, T) or (B, 1, T) in [-1, 1]; lengths are (B,), None where all rows are full.
    Results are on the model's device, and may take part in a training.
    """

    def __init__(self, speech: Recordings, model: VQVAE) -> None:
        self._speech, self._model, self._melody = speech, model, model.melody
        self.sample_rate = speech.sample_rate
        self.hop = model.hop
        self.num_codebooks = model.quantizer.num_codebooks
        self.codebook_size = model.quantizer.codebook_size
        self.latent_dim = model.encoder.latent_dim

    def __repr__(self) -> str:
        books = f"{self.num_codebooks} x {self.codebook_size}"
        if self._melody is not None:
            pitch = self._melody.codec
            books += f" and {pitch.books} x {pitch.size} of pitch, one for {self.pitch_ratio}"
        return f"Codec({books}, {self.frame_rate:g} frames a second, D={self.latent_dim})"

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.hop

    @property
    def pitch_ratio(self) -> int:
        """Frames that a pitch code covers; 1 where there are none."""
        return 1 if self._melody is None else self._melody.codec.hop // self.hop

    def encode(
        self,
        waves: Tensor | np.ndarray,
        lengths: Integers | None = None,
        sample_rate: int | None = None,
        *,
        speaker: Speakers = None,
        prepared: bool = False,
    ) -> EncodedBatch:
        """Recordings, of which `lengths` samples are real -> codes, frames, samples, and of a model
        with melody pitch codes and voices.

        Each is brought to the model's rate and level as `SpeechModel.encode` does, or, if
        `prepared`, taken as a corpus holds it. `speaker`, one for all or one for each: a known one
        has its melody normalised by its own range. Raises UserInputError that names the row.
        """
        rows = list(self._rows(waves, lengths, sample_rate, prepared=prepared))
        names = self._speakers(speaker, len(rows))
        return self.batch(
            self._speech.encode_prepared(row, name) for row, name in zip(rows, names, strict=True)
        )

    def latents(
        self,
        waves: Tensor | np.ndarray,
        lengths: Integers | None = None,
        sample_rate: int | None = None,
        *,
        prepared: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The same -> z_e, what the encoder gives and the quantizer takes, (B, D, F), and frames
        (B,).
        """
        rows = self._rows(waves, lengths, sample_rate, prepared=prepared)
        return self._padded([latents_chunked(self._model, row, self.sample_rate) for row in rows])

    def embed(self, codes: Tensor | np.ndarray, frames: Integers | None = None) -> Tensor:
        """Codes (B, Q, F), of which `frames` are real -> z_q, their entries of the codebook, (B, D,
        F), zero beyond. Raises UserInputError.
        """
        rows = [row.codes for row in self._sequences(codes, frames)]
        columns = inputs.array(codes, "codes").shape[-1]
        return self._padded([self._embed(row) for row in rows], columns)[0]

    @inference()
    def _embed(self, codes: Tensor) -> Tensor:
        """(Q, n) -> (D, n)."""
        if not codes.shape[1]:
            return torch.zeros(self.latent_dim, 0, device=self._speech.device)
        return self._model.quantizer.decode(codes[None].to(self._speech.device))[0]

    def decode(
        self,
        codes: Tensor | np.ndarray,
        frames: Integers | None = None,
        samples: Integers | None = None,
        pitch_codes: Tensor | np.ndarray | None = None,
        voices: Tensor | np.ndarray | None = None,
        *,
        speaker: Speakers = None,
        labels: Sequence[Labels] | None = None,
        embeddings: Sequence[Vectors] | None = None,
        shift_semitones: float = 0.0,
        seed: int | None = None,
        temperature: float | None = None,
        sampling: Sampling = DEFAULT,
        progress: Callable[[int], object] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Codes (B, Q, F), and of a model with melody pitch codes (B, Q_p, F_p) -> waves (B, T),
        zero beyond the lengths (B,), which follow.

        What is left out: all frames, whole frames of samples, the range of the speaker. `speaker`
        is one for all or one for each, or a label; `labels` and `embeddings` are one for each; the
        rest as in `SpeechModel.decode`. Bit for bit what that gives on a CPU. Raises
        UserInputError that names the row.
        """
        if speaker is None and labels is not None and len(labels) == len(codes):
            speaker = [inputs.by_name(names, "labels").get("speaker") for names in labels]
        coded = self._sequences(codes, frames, samples, pitch_codes, voices, speaker=speaker)
        count = len(coded)
        none: list[Mapping[str, str]] = [{}] * count
        given = {"labels": labels or none, "embeddings": embeddings or none}
        of_rows = zip(coded, *inputs.one_each(count, given), strict=True)
        tasks = []
        for b, (row, names, vectors) in enumerate(of_rows):
            with under(f"row {b}"):
                task = self._speech.task(row, row.speaker, names, vectors, shift_semitones)
            tasks += [(b, task)] if task.samples else []
        settings = sampling.given(seed, temperature)
        waves = [torch.zeros(1, 0)] * count
        for b, wave in self._speech.decode_each(tasks, settings, progress):
            waves[b] = wave[None]
        padded, lengths = self._padded(waves)
        return padded[:, 0], lengths

    def sequences(self, batch: EncodedBatch, speaker: Speakers = None) -> list[CodeSequence]:
        """Each utterance as a `CodeSequence`, which `vqwave.save_codes` writes.

        Raises UserInputError.
        """
        return self._sequences(*batch, speaker=speaker)

    def batch(self, sequences: Iterable[CodeSequence]) -> EncodedBatch:
        """The inverse: utterances of this codec, such as `vqwave.load_codes` reads, as one batch.

        Raises UserInputError.
        """
        coded = [CodeSequence.checked(each) for each in sequences]
        if not coded:
            raise UserInputError("codes: no utterances, expected at least one")
        for b, row in enumerate(coded):
            with under(f"row {b}"):
                self._speech.check(row)
        codes, frames = self._padded([row.codes for row in coded])
        samples = torch.tensor([row.samples for row in coded], device=codes.device)
        melodies = [row.pitch for row in coded if row.pitch is not None]
        if not melodies:
            return EncodedBatch(codes, frames, samples)
        pitch_codes, _ = self._padded([melody.codes for melody in melodies])
        voices = [[melody.mean, melody.deviation] for melody in melodies]
        return EncodedBatch(
            codes, frames, samples, pitch_codes, torch.tensor(voices, device=codes.device)
        )

    def _rows(
        self,
        waves: Tensor | np.ndarray,
        lengths: Integers | None,
        sample_rate: int | None,
        *,
        prepared: bool,
    ) -> Iterator[Tensor]:
        """Each recording (T,) as the encoder takes it."""
        given = inputs.array(waves, "waves")
        if given.ndim == 3 and given.shape[1] == 1:
            given = given[:, 0]
        if given.ndim != 2:
            raise UserInputError(f"waves: shape {given.shape}, expected (B, T) or (B, 1, T)")
        if prepared and sample_rate not in (None, self.sample_rate):
            wanted = f"expected the model's {self.sample_rate} Hz"
            raise UserInputError(f"sample_rate: {sample_rate} of prepared recordings, {wanted}")
        counts = inputs.lengths(lengths, given.shape, "lengths", least=1)
        for b, (row, n) in enumerate(zip(given, counts, strict=True)):
            with under(f"row {b}"):
                wave = torch.from_numpy(inputs.mono(row[:n], "wave"))
                yield wave if prepared else self._speech.prepare(wave, sample_rate)

    def _speakers(self, speaker: Speakers, count: int) -> list[str | None]:
        names = [speaker] * count if speaker is None or isinstance(speaker, str) else speaker
        inputs.one_each(count, {"speaker": names})
        return list(names)

    def _sequences(
        self,
        codes: Tensor | np.ndarray,
        frames: Integers | None = None,
        samples: Integers | None = None,
        pitch_codes: Tensor | np.ndarray | None = None,
        voices: Tensor | np.ndarray | None = None,
        *,
        speaker: Speakers = None,
    ) -> list[CodeSequence]:
        """The rows of a batch, each without its padding."""
        own = _three_axes(codes, self.num_codebooks, "codes")
        count, _, columns = own.shape
        counts = inputs.lengths(frames, (count, columns), "frames")
        most = [n * self.hop for n in counts]
        lengths = most if samples is None else inputs.lengths(samples, (count, 1 << 53), "samples")
        names = self._speakers(speaker, count)
        pitch, formats = self._pitch(pitch_codes, voices, names)
        rows = []
        for b, n in enumerate(counts):
            with under(f"row {b}"):
                values = inputs.codes(own[b, :, :n], self.num_codebooks, self.codebook_size)
                inputs.fits(lengths[b], n, self.hop)
                due = -(-n // self.pitch_ratio)
                melody = None if pitch is None else torch.from_numpy(pitch[b, :, :due])
                header = self._speech.header(names[b], lengths[b], formats[b])
                rows.append(CodeSequence.checked(header.with_codes(values, melody)))
        return rows

    def _pitch(
        self,
        pitch_codes: Tensor | np.ndarray | None,
        voices: Tensor | np.ndarray | None,
        names: Sequence[str | None],
    ) -> tuple[np.ndarray | None, list[PitchFormat | None]]:
        """Pitch codes (B, Q_p, F_p) and, of each row, what is noted with them."""
        if pitch_codes is None:
            return None, [None] * len(names)
        if self._melody is None:
            raise UserInputError("pitch_codes: given, expected none: this model codes no melody")
        codes = _three_axes(pitch_codes, self._melody.codec.books, "pitch_codes")
        ranges = None if voices is None else inputs.floats(voices, "voices")
        if len(codes) != len(names) or (ranges is not None and ranges.shape != (len(names), 2)):
            given = f"pitch_codes, voices: {len(codes)} rows" + (
                "" if ranges is None else f" and shape {ranges.shape}"
            )
            raise UserInputError(f"{given}, expected those of {len(names)} utterances")
        formats: list[PitchFormat | None] = []
        for b, name in enumerate(names):
            if ranges is not None:
                voice = VoicePitch(*ranges[b].tolist())
            elif name in self._speech.speakers:
                voice = known_voice(self._melody, self._speech.speakers.index(str(name)))
            else:
                raise UserInputError(
                    f"row {b}: neither a speaker of this model nor `voices`, expected the range of"
                    " the melody"
                )
            formats.append(format_of(self._melody, voice))
        return codes, formats

    def _padded(self, rows: Sequence[Tensor], columns: int = 0) -> tuple[Tensor, Tensor]:
        """Rows (C, n) -> (B, C, N), zero beyond each, N at least `columns`; and their n (B,)."""
        counts = [row.shape[1] for row in rows]
        longest = max([*counts, columns])
        padded = rows[0].new_zeros(len(rows), rows[0].shape[0], longest, device=self._speech.device)
        for target, row in zip(padded, rows, strict=True):
            target[:, : row.shape[1]] = row
        return padded, torch.tensor(counts, device=padded.device)


def _three_axes(values: Tensor | np.ndarray, books: int, name: str) -> np.ndarray:
    """Codes of a batch, in which each row is checked later."""
    given = inputs.array(values, name)
    if given.ndim != 3 or given.shape[1] != books or given.dtype.kind not in "iu":
        wanted = f"whole numbers (B, {books}, F)"
        raise UserInputError(f"{name}: {given.dtype} of shape {given.shape}, expected {wanted}")
    return given
