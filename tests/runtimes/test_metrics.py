from __future__ import annotations

import numpy as np
import pytest

from fer_runtimes import metrics


def test_figures_of_a_table_worked_out_by_hand() -> None:
    table = metrics.confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]), 3)
    assert table.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    assert metrics.accuracy(table) == 0.5
    assert metrics.recall(table).tolist() == [0.5, 1, 0]
    assert metrics.macro_f1(table) == pytest.approx((2 / 3 + 0.5 + 0) / 3)


def test_recall_of_a_class_without_images_is_not_a_number() -> None:
    assert np.isnan(metrics.recall(np.array([[1, 0], [0, 0]]))[1])


def test_softmax_survives_large_logits() -> None:
    np.testing.assert_allclose(metrics.softmax(np.array([[1000.0, 1000.0, -1000.0]])), [[0.5, 0.5, 0]])
