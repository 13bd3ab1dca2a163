"""The decoder of the CUDA kernel: torch in, torch out.

Its tests also run it on the CPU, with TRITON_INTERPRET=1, slowly.

A stream's samples depend neither on its batch nor on how its time is cut; on another device than
the reference's they agree with it up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from triton.compiler import CompiledKernel

from vqwave.decode.cuda import kernel as cuda_kernel
from vqwave.decode.cuda.packing import pack
from vqwave.decode.cuda.state import ChunkIO, ConditionWindow, State
from vqwave.decode.cuda.tuning import TILE, WARPS, Task, shared_limit, too_wide, tune
from vqwave.decode.plan import Precision, network_input, waveform
from vqwave.decode.sampling import Temperature, checked_temperatures
from vqwave.errors import UserInputError
from vqwave.models.wavenet import WaveNet
from vqwave.nn.condition import Condition
from vqwave.rng.philox import checked_seed

CHUNK = 8192  # samples of a launch at most, between checks for Ctrl-C and progress
LAUNCH_BYTES = (
    1 << 28
)  # bytes of projected conditions, or of parameters to keep, that one launch may need
BLOCK = 32  # outputs of one program of the projection


class Decoder:
    """Streams of one network under way, in device memory: each call continues where the last one
    stopped.
    """

    def __init__(
        self,
        wavenet: WaveNet,
        condition: Condition | None,
        streams: Tensor,
        *,
        weights: Precision = "bf16",
        tile: int = TILE,
        limit: int | None = None,
    ) -> None:
        """streams (B,) number the utterances; condition of B utterances, or of one for all.

        Raises UserInputError.

        `limit`: bytes of shared memory that a program may take, by default what the device has.
        """
        self.wavenet, self.device = wavenet, next(wavenet.parameters()).device
        self.weights, self.shape = pack(wavenet, weights, self.device)
        limit = limit or shared_limit(self.device)
        tuning = tune(self.shape, weights, limit, tile)
        if tuning is None:
            raise UserInputError(f"backend 'triton': {too_wide(self.shape, limit)}")
        self.tuning = tuning
        self.projection = self.weights.projection
        self.hold = condition.repeat if condition is not None else 1
        # (B, F, width): a column's condition channels and, after them, the predictor's
        self.features = self._features(condition, len(streams))
        self.first = torch.zeros(len(streams), dtype=torch.int64, device=self.device)
        self.streams = streams.to(self.device, torch.int64).clone()
        self.state = self._silent(len(streams))

    def set_condition(self, features: Tensor, first: Tensor) -> None:
        """Columns (B, F, width) from now on, numbered from `first` (B,) on; earlier ones go."""
        self.features = self._on_device(torch.as_tensor(features))
        self.first = torch.as_tensor(first).to(self.device, torch.int64)

    def restart(self, row: int, stream: int) -> None:
        """Row `row` becomes utterance number `stream`, before its first sample; the other rows do
        not notice.
        """
        self.streams[row] = stream
        for each in self.state:
            each[row] = 0
        self.state.last[row] = self._silence()

    def prefill(self, x: Tensor, *, keep: bool = False) -> Tensor:
        """Go over given samples x (B, n) -> the head's parameters at each of them (B, C, n), or
        nothing unless `keep`.
        """
        channels = self.wavenet.head.channels
        parts = [torch.zeros(len(x), 0, channels, device=self.device)]
        for chunk in self._advance(
            x.shape[1], self._network_input(x), Task(forced=True, keep=keep)
        ):
            parts += [chunk.params[..., :channels]] * keep
        return torch.cat(parts, 1).transpose(1, 2)

    def sample(
        self,
        count: int,
        seed: int = 0,
        temperature: Temperature = 1.0,
        lengths: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """The next `count` samples, in chunks: waveforms (B, n) float32, on the network's device.

        A stream of fewer `lengths` (B,) than `count` stops there, costs no more memory traffic, and
        is 0 from then on.
        """
        left = torch.full((len(self.streams),), count) if lengths is None else lengths
        for chunk in self._advance(
            count,
            None,
            Task(forced=False, keep=False),
            seed=seed,
            temperature=temperature,
            left=left,
        ):
            wave = self._waveform(chunk.sampled)
            yield wave * (torch.arange(wave.shape[1], device=self.device) < chunk.left[:, None])

    def state_dict(self) -> dict[str, NDArray]:
        """A copy of the streams' state, by name; rings of bfloat16 as 16-bit words."""
        rings = self.state.rings
        words = rings.view(torch.int16) if rings.dtype == torch.bfloat16 else rings
        named = self.state._replace(rings=words).named()
        return {name: np.array(x.cpu().numpy(), order="C") for name, x in named.items()}

    def load_state_dict(self, arrays: Mapping[str, NDArray]) -> None:
        """Continues from the `state_dict` of a decoder of the same network and streams.

        Raises UserInputError for another's.
        """
        given = {
            name: torch.from_numpy(np.array(arrays[name]))
            for name in self.state.named()
            if name in arrays
        }
        rings = self.state.rings
        if (
            "rings" in given
            and rings.dtype == torch.bfloat16
            and given["rings"].dtype == torch.int16
        ):
            given["rings"] = given["rings"].view(torch.bfloat16)
        for name, own in self.state.named().items():
            if name not in given or (given[name].shape, given[name].dtype) != (
                own.shape,
                own.dtype,
            ):
                raise UserInputError(
                    f"{name}: this state was saved by another decoder, expected one of this network"
                    " and back-end"
                )
        for name, own in self.state.named().items():
            own.copy_(given[name])

    def _advance(
        self,
        count: int,
        given: Tensor | None,
        task: Task,
        *,
        seed: int = 0,
        temperature: Temperature = 1.0,
        left: Tensor | None = None,
    ) -> Iterator[ChunkIO]:
        """`given` (B, count) to go over, or None to draw; a launch for each piece that fits into
        `LAUNCH_BYTES`.
        """
        step, B = self._steps(keep=task.keep), len(self.streams)
        left = torch.full((B,), count) if left is None else left
        signed = checked_seed(seed) - (1 << 64) * (seed >> 63)  # the same 64 bits
        for first in range(0, count, step):
            n = min(step, count - first)
            chunk = ChunkIO(
                left=(left.to(self.device) - first).clamp(0, n).int(),
                streams=self.streams,
                seed=torch.tensor([signed], device=self.device),
                given=(
                    torch.zeros(1, device=self.device)
                    if given is None
                    else given[:, first : first + n].contiguous()
                ),
                sampled=torch.zeros((B, n) if given is None else 1, device=self.device),
                params=torch.zeros((B, n, self.shape.out) if task.keep else 1, device=self.device),
            )
            if B:
                with self._current():
                    self._launch(n, chunk, task, temperature)
            yield chunk

    def compile(self, task: Task) -> CompiledKernel:
        """Compiles the kernel for a task, ahead of its first launch, and gives what Triton made."""
        B, width = len(self.streams), len(self.weights.dilated_bias)
        empty = torch.zeros(1, device=self.device)
        columns = torch.zeros(B, 1, width, device=self.device, dtype=self.weights.dilated.dtype)
        conditions = ConditionWindow(columns, self.state.time.int(), empty, empty)
        chunk = ChunkIO(self.state.time.int(), self.streams, self.streams[:1], empty, empty, empty)
        return cuda_kernel.decode.warmup(
            *self._arguments(1, conditions, chunk, task, 1.0), grid=(1,), num_warps=WARPS
        )

    def _launch(self, n: int, chunk: ChunkIO, task: Task, temperature: Temperature) -> None:
        programs = -(-len(self.streams) // self.tuning.tile)
        arguments = self._arguments(n, self._condition_window(n), chunk, task, temperature)
        cuda_kernel.decode[(programs,)](*arguments, num_warps=WARPS)
        if self.device.type == "cuda":
            # a Ctrl-C ends with this chunk; the gap between launches is nothing in comparison
            torch.cuda.synchronize(self.device)

    def _current(self) -> AbstractContextManager:
        """Triton launches on the current device: makes that the network's."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _arguments(
        self,
        n: int,
        conditions: ConditionWindow,
        chunk: ChunkIO,
        task: Task,
        temperature: Temperature,
    ) -> tuple:
        temperatures = checked_temperatures(temperature)
        return (
            self.weights,
            self.state,
            conditions,
            chunk,
            len(self.streams),
            n,
            conditions.columns.shape[1],
            self.hold,
            self.shape.slots,
            temperatures.choice,
            temperatures.scale,
            temperatures.voiced,
            self.shape,
            task,
            self.tuning,
        )

    def _condition_window(self, count: int) -> ConditionWindow:
        """The condition of the next `count` samples, projected for every layer."""
        columns, device = self.features.shape[1], self.device
        first = (self.state.time // self.hold - self.first).clamp(0, columns - 1)  # (B,)
        wanted = min((count - 1) // self.hold + 2, columns)
        index = (first[:, None] + torch.arange(wanted, device=device)).clamp(max=columns - 1)
        features = self.features.gather(1, index[..., None].expand(-1, -1, self.features.shape[2]))
        network, coefficients, periods = self._split(features)
        place = (self.state.time - (self.first + first) * self.hold).clamp(0, 1 << 30)
        B, n, depth = network.shape
        width = len(self.weights.dilated_bias)
        projected = torch.empty(B, n, width, device=device, dtype=self.weights.dilated.dtype)
        cuda_kernel.project[(-(-B * n // TILE), width // BLOCK)](
            network,
            self.projection,
            self.weights.dilated_bias,
            projected,
            B * n,
            width,
            depth,
            TILE,
            BLOCK,
        )
        return ConditionWindow(projected, place.int(), coefficients, periods)

    def _features(self, condition: Condition | None, streams: int) -> Tensor:
        """(B, F, width); one column of zeros for a network without a condition."""
        if condition is None or self.wavenet.stack.projection is None:
            return torch.zeros(streams, 1, self.wavenet.conditioner.width, device=self.device)
        return self._on_device(condition.features.transpose(1, 2)).expand(streams, -1, -1)

    def _on_device(self, features: Tensor) -> Tensor:
        return features.detach().to(self.device, torch.float32)

    def _split(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """features (B, n, width) -> condition channels, padded as the projection's are, and the
        coefficients and periods of `ConditionWindow`.
        """
        channels, order = self.wavenet.conditioner.channels, self.shape.order
        network, missing = features[..., :channels], len(self.projection) - channels
        network = torch.nn.functional.pad(network, (0, missing)) if missing else network
        columns = features[..., channels:].permute(1, 2, 0).contiguous()  # (n, P or P + 1, B)
        coefficients, periods = columns[:, :order], columns[:, order:]
        return network.contiguous(), coefficients.contiguous(), periods.contiguous()

    def _silent(self, streams: int) -> State:
        """Before the first sample: zeros in all rings; the network's first input is silence."""
        shape, device = self.shape, self.device
        return State(
            rings=torch.zeros(
                streams,
                shape.slots,
                shape.residual,
                device=device,
                dtype=self.weights.dilated.dtype,
            ),
            last=torch.full((streams,), self._silence(), device=device),
            time=torch.zeros(streams, dtype=torch.int64, device=device),
            samples=torch.zeros(shape.sample_slots, streams, device=device).t(),
            residuals=torch.zeros(shape.residual_slots, streams, device=device).t(),
        )

    def _silence(self) -> float:
        return float(self._network_input(torch.zeros(1))[0])

    def _steps(self, *, keep: bool) -> int:
        """Samples that one launch may take."""
        B = max(len(self.streams), 1)
        column = B * len(self.weights.dilated_bias) * self.weights.dilated.element_size()
        column += 4 * B * self.shape.order
        steps = max(LAUNCH_BYTES // column - 2, 1) * self.hold
        if keep:
            steps = min(steps, max(LAUNCH_BYTES // (4 * B * self.shape.out), 1))
        return min(steps, CHUNK)

    def _network_input(self, x: Tensor) -> Tensor:
        """Waveforms -> what the network's input takes."""
        return network_input(self.wavenet.head, x.detach().to(self.device, torch.float32))

    def _waveform(self, sampled: Tensor) -> Tensor:
        return waveform(self.wavenet.head, sampled)


def sample_wavenet(
    wavenet: WaveNet,
    condition: Condition | None,
    samples: int,
    *,
    streams: Tensor,
    seed: int = 0,
    temperature: Temperature = 1.0,
    prompt: Tensor | None = None,
    progress: Callable[[int], object] | None = None,
    weights: Precision = "bf16",
    lengths: Tensor | None = None,
    tile: int = TILE,
) -> Tensor:
    """What `reference.sample_wavenet` draws, up to the rounding of the weights' type: (B, samples)
    float32.

    `lengths` (B,): a stream is over after so many samples, and 0 from there on. Raises
    UserInputError for widths that do not fit.
    """
    decoder = Decoder(wavenet, condition, streams, weights=weights, tile=tile)
    if prompt is not None:
        decoder.prefill(prompt)
    chunks = [torch.zeros(len(streams), 0, device=decoder.device)]
    for chunk in decoder.sample(samples, seed, temperature, lengths):
        chunks.append(chunk)
        if progress is not None:
            progress(chunk.shape[1])
    return torch.cat(chunks, 1)


def score_wavenet(
    wavenet: WaveNet,
    x: Tensor,
    condition: Condition | None,
    *,
    weights: Precision = "bf16",
    tile: int = TILE,
) -> Tensor:
    """Teacher-forced, with the very kernel that samples: x (B, T) -> the head's parameters (B, C,
    T), for `wavenet.head`.
    """
    decoder = Decoder(wavenet, condition, torch.arange(len(x)), weights=weights, tile=tile)
    return decoder.prefill(x, keep=True)
