"""The one table of tolerances, and the two comparisons that use it.

``assert_close`` compares two results computed in the same dtype. ``assert_no_worse_than_torch`` is the rule for
rounding: against a float64 truth, our largest error is at most twice torch's own in the same dtype.
"""

from typing import NamedTuple

import torch


class Tolerance(NamedTuple):
    rtol: float  # of the expected element
    atol: float  # of the largest expected magnitude: sums cancel, so an element's error follows the tensor's scale
    tiny: float  # of the largest expected magnitude: room where torch happens to be exact


TOLERANCES = {
    torch.float64: Tolerance(rtol=1e-10, atol=1e-12, tiny=1e-14),
    torch.float32: Tolerance(rtol=1e-5, atol=2e-6, tiny=1e-6),
    torch.bfloat16: Tolerance(rtol=1.6e-2, atol=8e-3, tiny=1e-5),
    torch.float16: Tolerance(rtol=2e-3, atol=1e-3, tiny=1e-5),
}


def _scale(expected: torch.Tensor) -> float:
    finite = expected[expected.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def assert_close(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype | None = None) -> None:
    """Same shape and dtype, and equal within the table's tolerance for ``dtype`` (default: of ``expected``)."""
    assert actual.dtype == expected.dtype, f"dtype {actual.dtype}, expected {expected.dtype}"
    tolerance = TOLERANCES[dtype or expected.dtype]
    expected = expected.detach().double()
    torch.testing.assert_close(
        actual.detach().double(),
        expected,
        rtol=tolerance.rtol,
        atol=tolerance.atol * _scale(expected),
        equal_nan=True,
    )


def assert_no_worse_than_torch(actual: torch.Tensor, torchs: torch.Tensor, truth: torch.Tensor) -> None:
    """max |actual - truth| <= 2 max |torchs - truth| + tiny; ``truth`` is float64."""
    assert truth.dtype == torch.float64
    assert actual.dtype == torchs.dtype, f"dtype {actual.dtype}, torch has {torchs.dtype}"
    assert actual.shape == truth.shape, f"shape {tuple(actual.shape)}, expected {tuple(truth.shape)}"
    if truth.numel() == 0:
        return
    ours = float((actual.detach().double() - truth).abs().max())
    theirs = float((torchs.detach().double() - truth).abs().max())
    limit = 2 * theirs + TOLERANCES[actual.dtype].tiny * _scale(truth)
    assert ours <= limit, f"largest error {ours:.3g}, torch's own {theirs:.3g}, limit {limit:.3g} in {actual.dtype}"
