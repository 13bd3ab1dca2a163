"""Numbers of a report, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from vqwave.report.numbers import mutual_information


def test_mutual_information_by_hand() -> None:
    assert mutual_information(np.array([[5.0, 5.0], [5.0, 5.0]])) == pytest.approx(0)
    assert mutual_information(np.array([[10.0, 0.0], [0.0, 10.0]])) == pytest.approx(1)
    # p(s) = 1/2; p(k|a) = (3/4, 1/4), p(k|b) = (1/4, 3/4): 1 - H(1/4) = 0.1887 bits
    assert mutual_information(np.array([[3.0, 1.0], [1.0, 3.0]])) == pytest.approx(
        0.18872, abs=1e-5
    )
