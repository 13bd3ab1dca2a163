"""Philox 4x32-10: the published vectors, and uniforms that depend on (seed, stream, time) alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vqwave.decode.sampling import Sampling
from vqwave.errors import UserInputError
from vqwave.rng.philox import philox, uniforms

# Random123's known answers (Salmon et al., 2011): counter, key -> words.
ANSWERS = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def words(text: str) -> np.ndarray:
    return np.array([int(word, 16) for word in text.split()], np.uint64)


@pytest.mark.parametrize(("counter", "key", "expected"), ANSWERS)
def test_known_answers(counter: str, key: str, expected: str) -> None:
    low, high = (int(word) for word in words(key))
    assert philox(words(counter), low | high << 32).tolist() == words(expected).tolist()


def test_many_counters_at_once() -> None:
    counters = np.arange(12, dtype=np.uint64).reshape(4, 3)
    together = philox(counters, 5)
    assert together.tolist() == np.stack([philox(counters[:, i], 5) for i in range(3)], 1).tolist()


def test_uniforms_are_the_words_of_their_counter() -> None:
    """Counter (time, stream, high words of time and of stream); 23 bits of each word, at the middle
    of their interval.
    """
    time, seed = (1 << 32) + 7, 12345 + (9 << 40)
    for stream, high in ((3, 0), (3 + (5 << 32), 5)):
        expected = philox(np.array([7, 3, 1, high], np.uint64), seed)
        result = uniforms(seed, torch.tensor([stream]), time, 1)[:, 0, 0].double().numpy()
        assert result.tolist() == ((expected // 2**9 + 0.5) / 2**23).tolist()


def test_draws_of_small_seeds_and_streams_stay_what_they_were() -> None:
    """Random123's first answer, which seed 0, stream 0 and time 0 have always had."""
    expected = (words("6627e8d5 e169c58d bc57ac4c 9b00dbd8") // 2**9 + 0.5) / 2**23
    assert uniforms(0, torch.tensor([0]), 0, 1)[:, 0, 0].double().tolist() == expected.tolist()


@pytest.mark.parametrize("stream", [0, 4, 4 + (3 << 32), 2**63 - 1])
@pytest.mark.parametrize("seed", [0, 7 + (1 << 33), 2**64 - 1])
def test_the_kernels_have_the_same_uniforms(seed: int, stream: int) -> None:
    pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'vqwave[fast]'")
    from vqwave.decode.cpu.head_sampling import uniforms as compiled

    time = (1 << 32) + 7
    expected = uniforms(seed, torch.tensor([stream]), time, 1)[:3, 0, 0].double()
    assert list(compiled(np.uint64(seed), stream, time)) == expected.tolist()


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_has_64_bits(seed: int) -> None:
    with pytest.raises(UserInputError, match=f"seed {seed}: expected 0 to"):
        uniforms(seed, torch.tensor([0]), 0, 1)
    with pytest.raises(UserInputError, match=f"seed {seed}: expected 0 to"):
        Sampling(seed=seed)


def test_uniforms_do_not_depend_on_chunks_or_batch() -> None:
    streams = torch.tensor([4, 0, 9])
    full = uniforms(1, streams, 10, 50)
    assert full.shape == (4, 3, 50)
    assert torch.equal(
        torch.cat([uniforms(1, streams, s, n) for s, n in ((10, 1), (11, 29), (40, 20))], 2), full
    )
    assert torch.equal(
        torch.cat([uniforms(1, streams[i : i + 1], 10, 50) for i in range(3)], 1), full
    )
    assert torch.equal(uniforms(1, streams.flip(0), 10, 50), full.flip(1))


@pytest.mark.parametrize(
    ("seed", "stream", "start"),
    [(2, 4, 10), (1 + (1 << 32), 4, 10), (1, 5, 10), (1, 4 + (1 << 32), 10), (1, 4, 11)],
)
def test_another_seed_stream_or_time_gives_others(seed: int, stream: int, start: int) -> None:
    one, other = (
        uniforms(1, torch.tensor([4]), 10, 200),
        uniforms(seed, torch.tensor([stream]), start, 200),
    )
    assert (one == other).float().mean() < 0.01


def test_uniforms_are_uniform_and_never_zero_or_one() -> None:
    u = uniforms(0, torch.arange(8), 0, 25_000).double()
    assert u.min() > 0
    assert u.max() < 1
    counts = torch.histc(u, 100, 0, 1)
    chi2 = ((counts - 8000) ** 2 / 8000).sum().item()
    assert 60 < chi2 < 150  # 99 degrees of freedom
    flat = u.reshape(4, -1)
    assert (torch.corrcoef(flat) - torch.eye(4)).abs().max() < 0.02
    lag = torch.corrcoef(torch.stack([flat[0, 1:], flat[0, :-1]]))[0, 1]
    assert abs(lag) < 0.02


def test_the_extreme_words_stay_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in (0, 2**32 - 1):
        monkeypatch.setattr(
            "vqwave.rng.philox.philox",
            lambda counter, _seed, word=word: np.full_like(counter, word),
        )
        u = uniforms(0, torch.tensor([0]), 0, 1)
        assert u.dtype == torch.float32
        assert ((u > 0) & (u < 1)).all()
