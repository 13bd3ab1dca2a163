"""ABX: error rates of cases counted by hand, warping as in the textbook, and what a telling
representation gets.
"""

from __future__ import annotations

import numpy as np
import pytest

from vqwave.metrics.abx import abx, token_distances, warped_distances
from vqwave.metrics.spectral import warped_distance


def test_warping_of_many_tables_is_warping_of_each() -> None:
    rng = np.random.default_rng(0)
    n, m = rng.integers(1, 9, 40), rng.integers(1, 12, 40)
    cost = rng.integers(0, 3, (40, 8, 11)).astype(float)  # few values, so that paths tie
    together = warped_distances(cost, n, m)
    alone = [
        warped_distance(table[:rows, :columns])
        for table, rows, columns in zip(cost, n, m, strict=True)
    ]
    assert together == pytest.approx(alone, abs=1e-12)


def test_distances_are_angles_and_do_not_see_tempo_or_length() -> None:
    east, north, west = np.array([1.0, 0]), np.array([0, 1.0]), np.array([-1.0, 0])
    tokens = [
        np.stack([east, north]),
        np.stack([3 * east, east, north, north]),
        np.stack([west]),
        np.stack([north]),
    ]
    found = token_distances(tokens)
    assert found[0, 1] == pytest.approx(0, abs=1e-7)
    assert found[0, 2] == pytest.approx((1 + 0.5) / 2)  # opposite, then a quarter turn
    assert found[0, 3] == pytest.approx((0.5 + 0) / 2)
    assert np.array_equal(found, found.T)
    assert not found.diagonal().any()


def test_within_a_speaker_by_hand() -> None:
    # one speaker; tokens a1 a2 a3 b1 b2
    distances = np.array(
        [
            [0, 1, 4, 2, 9],
            [1, 0, 6, 5, 7],
            [4, 6, 0, 5, 3],
            [2, 5, 5, 0, 8],
            [9, 7, 3, 8, 0],
        ],
        float,
    )
    found = abx(distances, list("aaabb"), ["s"] * 5)
    # X = a1: A in {1, 4}, B in {2, 9}: 4 > 2 is wrong: 1 of 4. X = a2: A in {1, 6}, B in {5, 7}: 6
    # > 5: 1 of 4.
    # X = a3: A in {4, 6}, B in {5, 3}: 4 > 3, 6 > 5, 6 > 3: 3 of 4. (a, b): 5 of 12.
    # X = b1: A = 8, B in {2, 5, 5}: 3 of 3. X = b2: A = 8, B in {9, 7, 3}: 2 of 3. (b, a): 5 of 6.
    assert found.within is not None
    assert found.within.value == pytest.approx((5 / 12 + 5 / 6) / 2)
    assert found.within.count == 5
    assert found.across is None


def test_across_speakers_by_hand() -> None:
    # a and b by s, a by t: X is the last, A the first, B the second; nothing else can be made a
    # triple of
    distances = np.array([[0, 1, 3], [1, 0, 2], [3, 2, 0]], float)
    found = abx(distances, ["a", "b", "a"], ["s", "s", "t"])
    assert found.within is None
    assert found.across is not None
    assert found.across.value == 1.0  # |X - A| = 3 > |X - B| = 2
    tie = abx(np.ones((3, 3)), ["a", "b", "a"], ["s", "s", "t"])
    assert tie.across is not None
    assert tie.across.value == 0.5


def test_cells_count_alike_however_many_triples_they_hold() -> None:
    # by s, a and b are far apart (three tokens each); by t they are mixed up (two each)
    places = {
        "s": [("a", 0), ("a", 0), ("a", 0), ("b", 9), ("b", 9), ("b", 9)],
        "t": [("a", 0), ("a", 9), ("b", 0), ("b", 9)],
    }
    tokens = [
        (speaker, label, place) for speaker, items in places.items() for label, place in items
    ]
    x = np.array([place for _, _, place in tokens], float)
    distances = np.abs(x[:, None] - x)
    found = abx(distances, [label for _, label, _ in tokens], [speaker for speaker, _, _ in tokens])
    # s: no error. t: A is always 9 away, B is at 0 or 9: wrong, and a tie: 3 of 4.
    assert found.within is not None
    assert found.within.value == pytest.approx((0 + 0.75) / 2)


def test_a_telling_representation_and_noise() -> None:
    rng = np.random.default_rng(0)
    labels = [str(i % 5) for i in range(60)]
    speakers = [str(i // 15) for i in range(60)]
    centres = rng.normal(size=(5, 8))
    telling = [
        centres[int(label)] + 0.1 * rng.normal(size=(int(rng.integers(3, 7)), 8))
        for label in labels
    ]
    noise = [rng.normal(size=(5, 8)) for _ in labels]
    good, bad = (abx(token_distances(tokens), labels, speakers) for tokens in (telling, noise))
    for side in ("within", "across"):
        assert getattr(good, side).value < 0.02
        low, high = getattr(bad, side).low, getattr(bad, side).high
        assert 0.3 < low < 0.5 < high < 0.7
