"""Codes <-> as few bits as a prior gives them: range coding with the network's own probabilities,
without loss.

Both sides feed the codes one by one through the same float64 network, so that they have the same
probabilities; these are rounded to integer frequencies, which rounding errors near 1e-13 move about
once in a million codes and more. A file also carries a checksum of its codes (`codes/`): should two
machines ever differ, the reader gets an error and no wrong speech.

The coder is `constriction` (Bamler, 2022. arXiv:2201.01741), extra `code`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave.errors import UserInputError
from vqwave.models.prior import CodeNetwork, CodeStream

PRECISION = 20  # bits: frequencies sum to 2^20


def frequencies(log_p: Tensor) -> NDArray[np.int64]:
    """ln p (N,) float64, N below 2^19 -> integers above 0 that sum to 2^PRECISION, in the
    ratio of p.

    >>> frequencies(torch.tensor([0.5, 0.25, 0.25, 0.0], dtype=torch.float64).log()).tolist()
    [524287, 262144, 262144, 1]
    """
    p = log_p.exp().numpy()
    counts = 1 + np.floor(p * (2**PRECISION - len(p))).astype(np.int64)
    counts[counts.argmax()] += 2**PRECISION - counts.sum()
    return counts


@torch.inference_mode()
def compress(
    network: CodeNetwork, codes: Tensor, labels: Mapping[str, Tensor], pitch: Tensor | None = None
) -> bytes:
    """codes (Q, F), and pitch codes (Q_p, F_p) if the network models them, of an utterance ->
    bytes.

    network: from `CodeNetwork.exact()`; labels name -> (1,).
    """
    coder, stream = _constriction().stream, CodeStream(network, labels, ends=False)
    encoder, last = coder.queue.RangeEncoder(), torch.tensor([network.end])
    for code in network.order.flat(codes, pitch)[:, None]:
        encoder.encode(int(code), _model(coder, stream.next(last)))
        last = code
    return encoder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


@torch.inference_mode()
def decompress(
    network: CodeNetwork, data: bytes, frames: int, labels: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor | None]:
    """The inverse of `compress`: codes (Q, F) and pitch codes (Q_p, F_p) or None.

    Bytes that `compress` did not write give codes that nobody encoded, or raise UserInputError.
    """
    coder, stream = _constriction().stream, CodeStream(network, labels, ends=False)
    padded = data + bytes(8 + -len(data) % 4)  # zeros at the end were left out
    decoder = coder.queue.RangeDecoder(np.frombuffer(padded, "<u4").astype(np.uint32))
    last, codes = torch.tensor([network.end]), []
    for _ in range(network.order.count(frames)):
        table = _model(coder, stream.next(last))
        try:
            last = torch.tensor([decoder.decode(table)])
        except AssertionError:
            raise UserInputError(
                "its bytes are no codes of this prior, expected a complete file"
            ) from None
        codes.append(last)
    flat = torch.cat(codes) if codes else torch.zeros(0, dtype=torch.int64)
    return network.order.unflatten(flat)


def _model(coder: ModuleType, log_p: Tensor) -> object:
    """The coder's table for one symbol, ln p (1, N): it is given exact multiples of 2^-PRECISION,
    the same everywhere.
    """
    return coder.model.Categorical(frequencies(log_p[0]) * 2.0**-PRECISION, perfect=False)


def _constriction() -> ModuleType:
    try:
        return importlib.import_module("constriction")
    except ImportError:
        raise UserInputError(
            "entropy coding needs the package constriction: pip install 'vqwave[code]'"
        ) from None
