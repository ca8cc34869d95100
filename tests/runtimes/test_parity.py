from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fer_runtimes.bundle import Bundle, Reference, read_reference
from fer_runtimes.errors import CheckFailed
from fer_runtimes.parity import Tolerance, check, compare

TIGHT = Tolerance(error_ratio=10, mean_kl=1e-9, flip_margin=1e-3)


def reference(error: float = 1e-6) -> Reference:
    truth = np.random.default_rng(0).normal(0, 2, (64, 7))
    truth[7] = [3, 3.0000001, 0, 0, 0, 0, 0]
    noise = np.random.default_rng(1).uniform(-error, error, truth.shape)
    return Reference(
        np.zeros((64, 1, 48, 48), np.uint8), truth, (truth + noise).astype(np.float32), np.full(64, "face")
    )


def test_float32_pytorch_itself_is_the_unit_of_error() -> None:
    one = reference()
    parity = compare(one, one.logits_fp32)
    assert parity.error_ratio == pytest.approx(1)
    check(parity, TIGHT, "pytorch")


def test_an_error_beyond_the_bound_fails_and_says_where() -> None:
    one = reference()
    wrong = one.logits_fp32.copy()
    wrong[5, 2] += 1e-3
    with pytest.raises(
        CheckFailed, match=r"times that of float32 PyTorch, at most 10 allowed; worst on image 5 \(face\)"
    ):
        check(compare(one, wrong), TIGHT, "engine")


def test_a_changed_label_is_reported_with_its_margin_and_forgiven_only_when_close() -> None:
    one = reference()
    close = one.logits_fp32.copy()
    close[7, 0] += 2e-6
    parity = compare(one, close)
    assert [(flip.image, flip.truth, flip.got) for flip in parity.flips] == [(7, "disgust", "angry")]
    assert parity.flips[0].margin == pytest.approx(1e-7, rel=0.1)
    check(parity, TIGHT, "engine")
    swapped = one.logits_fp32[:, [1, 0, 2, 3, 4, 5, 6]]
    with pytest.raises(CheckFailed, match="changes"):
        check(compare(one, swapped), Tolerance(1e12, np.inf, 1e-3), "engine")


def test_where_float32_itself_breaks_the_bound_on_divergence_its_own_is_the_unit() -> None:
    hard = reference(error=1e-2)
    check(compare(hard, hard.logits_fp32), TIGHT, "pytorch")
    off = hard.logits + 5 * (hard.logits_fp32 - hard.logits)  # five times its error is 25 times its divergence
    with pytest.raises(CheckFailed, match="mean KL"):
        check(compare(hard, off.astype(np.float32)), TIGHT, "engine")
    lost = dataclasses.replace(hard, logits_fp32=np.full_like(hard.logits_fp32, np.inf))
    with pytest.raises(CheckFailed):
        check(compare(lost, hard.logits_fp32), Tolerance(np.inf, 1e-9, 1), "engine")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_fails(value: float) -> None:
    one = reference()
    wrong = one.logits_fp32.copy()
    wrong[3, 3] = value
    with pytest.raises(CheckFailed):
        check(compare(one, wrong), TIGHT, "engine")


def test_a_temperature_that_keeps_every_label_is_caught() -> None:
    one = reference()
    with pytest.raises(CheckFailed):
        check(compare(one, one.logits_fp32 * np.float32(1.01)), TIGHT, "engine")


def test_a_precision_without_a_bound_on_single_logits_is_held_to_the_others() -> None:
    one, bound = reference(), Tolerance(error_ratio=None, mean_kl=0.02, flip_margin=1.0)
    coarse = one.logits_fp32 + np.random.default_rng(2).normal(0, 0.1, one.logits.shape).astype(np.float32)
    check(compare(one, coarse), bound, "engine")
    with pytest.raises(CheckFailed, match="mean KL"):
        check(compare(one, coarse * 1.5), bound, "engine")
    ordered = np.sort(one.logits, 1)
    surest = int((ordered[:, -1] - ordered[:, -2]).argmax())
    coarse[surest] = np.roll(one.logits_fp32[surest], 1)
    with pytest.raises(CheckFailed, match=rf"changes \d+ of 64 labels; image {surest} .* at most 1 forgiven"):
        check(compare(one, coarse), Tolerance(None, np.inf, 1.0), "engine")


def test_certified_labels_are_those_no_error_this_large_can_overturn() -> None:
    one = reference()
    parity = compare(one, one.logits_fp32 + np.float32(0.5))
    margins = np.sort(one.logits, 1)
    assert parity.certified == pytest.approx(((margins[:, -1] - margins[:, -2]) / 2 > parity.max_abs_logit).mean())


def test_the_reference_of_a_bundle_holds_the_hard_images(bundles: dict[str, Bundle]) -> None:
    one = read_reference(bundles["onnx fp32"])
    assert {"drawn face", "smallest margin", "constant", "noise", "stripes", "saturated"} == set(one.kinds.tolist())
    assert 0 < np.abs(one.logits - one.logits_fp32).max() < 1e-4
