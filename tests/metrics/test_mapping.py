"""From codes to labels: counted by hand; frames lie where their phones are."""

from __future__ import annotations

import numpy as np

from vqwave.metrics.code_to_label import CodeMap, frame_labels


def test_a_code_stands_for_what_it_goes_with_most() -> None:
    codes = [np.array([[0, 0, 1, 1, 1]]), np.array([[0, 2, 2]])]
    fitted = CodeMap.fit(codes, [["a", "a", "b", "b", "a"], ["b", "c", "c"]])
    assert fitted.labels == ["a", "b", "c"]
    assert fitted.kinds.tolist() == [[0], [1], [2]]
    assert fitted.counts.tolist() == [[2, 1, 0], [1, 2, 0], [0, 0, 2]]
    assert fitted.read(np.array([[0, 1, 2]])) == ["a", "b", "c"]


def test_codes_of_several_books_are_read_together_and_the_unseen_as_the_commonest() -> None:
    fitted = CodeMap.fit([np.array([[0, 0, 1], [0, 1, 0]])], [["x", "y", "y"]])
    assert fitted.read(np.array([[0, 0, 1, 1], [0, 1, 0, 1]])) == ["x", "y", "y", "y"]
    assert fitted.commonest == "y"


def test_a_frame_has_the_phone_at_its_middle() -> None:
    phones = ((0, "_"), (100, "a"), (260, "b"))
    assert frame_labels(phones, 4, 80) == ["_", "a", "a", "b"]  # middles at 40, 120, 200, 280
    assert frame_labels(phones, 2, 200) == ["a", "b"]  # a phone begins at its first sample
