"""The number of threads changes no bit of any result; SIMD levels agree within rounding."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import FLOATS, assert_equal, id_of, normals, random_codes
from tolerances import assert_close

import segnet_ext
from segnet_ext.ops import (
    bn_relu_max_pool2d,
    codes_to_indices,
    indices_to_codes,
    max_pool2d_with_codes,
    max_unpool2d_conv2d,
)


def run_apart(script: str, level: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code at a SIMD level, away from the source folder: what is imported is what is installed."""
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "SEGNET_EXT_SIMD": level},
        cwd=Path(sys.executable).parent,
        capture_output=True,
        text=True,
        check=False,
    )


def every_result(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Outputs and gradients of every op, at sizes that are split over threads and leave remainders."""
    results = {}
    x = normals(3, 67, 45, 37, dtype=dtype).requires_grad_()
    output, codes = max_pool2d_with_codes(x, True)
    (results["pool.grad"],) = torch.autograd.grad(output, x, normals(*output.shape, seed=1, dtype=dtype))
    results |= {"pool": output, "pool.codes": codes}
    results["indices"] = codes_to_indices(codes, x.shape)
    results["codes"] = indices_to_codes(results["indices"], x.shape)
    for training in (False, True):
        weight, bias = (normals(67, seed=seed, dtype=dtype).requires_grad_() for seed in (2, 3))
        mean, variance = torch.zeros(67, dtype=dtype), torch.ones(67, dtype=dtype)
        output, codes = bn_relu_max_pool2d(x, weight, bias, mean, variance, training, 0.1, 1e-5, True)
        gradients = torch.autograd.grad(output, (x, weight, bias), normals(*output.shape, seed=4, dtype=dtype))
        for name, tensor in zip(("input", "weight", "bias"), gradients, strict=True):
            results[f"bn.{training}.{name}.grad"] = tensor
        results |= {f"bn.{training}": output, f"bn.{training}.mean": mean, f"bn.{training}.variance": variance}
        results[f"bn.{training}.codes"] = codes
    for kernel in (3, 7):
        pooled = normals(3, 67, 12, 9, seed=5, dtype=dtype).requires_grad_()
        weight = normals(70, 67, kernel, kernel, seed=6, dtype=dtype).requires_grad_()
        bias = normals(70, seed=7, dtype=dtype).requires_grad_()
        output = max_unpool2d_conv2d(pooled, random_codes(3, 67, 12, 9), weight, bias, (23, 19))
        gradients = torch.autograd.grad(output, (pooled, weight, bias), normals(*output.shape, seed=8, dtype=dtype))
        for name, tensor in zip(("input", "weight", "bias"), gradients, strict=True):
            results[f"conv{kernel}.{name}.grad"] = tensor
        results[f"conv{kernel}"] = output
    return {name: tensor.detach() for name, tensor in results.items()}


@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
def test_threads_change_nothing(thread_count, dtype):
    torch.set_num_threads(1)
    expected = every_result(dtype)
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        for name, actual in every_result(dtype).items():
            assert torch.equal(actual, expected[name]), f"{name} changes with {threads} threads"


def test_runs_under_deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    try:
        actual = every_result(torch.float32)
    finally:
        torch.use_deterministic_algorithms(False)
    for name, expected in every_result(torch.float32).items():
        assert_equal(actual[name], expected)


def test_codes_to_indices_on_many_threads(thread_count):
    codes = random_codes(2, 67, 40, 40)
    torch.set_num_threads(1)
    expected = codes_to_indices(codes, (2, 67, 80, 79))
    torch.set_num_threads(4)
    assert_equal(codes_to_indices(codes, (2, 67, 80, 79)), expected)


def results_at_level(level: str, path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """every_result in a process of its own: the level is chosen once a process."""
    script = (
        "import sys, torch, segnet_ext\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_determinism import every_result\n"
        f"assert segnet_ext.build_info()['simd'] == {level!r}, segnet_ext.build_info()\n"
        "dtypes = (torch.float64, torch.float32, torch.bfloat16)\n"
        f"torch.save({{str(dtype): every_result(dtype) for dtype in dtypes}}, {str(path)!r})\n"
    )
    run = run_apart(script, level)
    assert run.returncode == 0, run.stderr
    return torch.load(path, weights_only=True)


def test_simd_levels_agree_within_rounding(tmp_path):
    levels = segnet_ext.build_info()["simd_supported"]
    assert "portable" in levels
    if len(levels) == 1:
        pytest.skip("this machine has no SIMD level beside the portable one")
    results = {level: results_at_level(level, tmp_path / f"{level}.pt") for level in levels}
    expected = results.pop("portable")
    for level, by_dtype in results.items():
        for dtype, tensors in by_dtype.items():
            for name, actual in tensors.items():
                wanted = expected[dtype][name]
                if not wanted.is_floating_point() and not name.startswith("bn"):
                    assert_equal(actual, wanted)
                elif dtype == "torch.float64" or name.startswith(("pool", "conv")):
                    assert_close(actual, wanted) if wanted.is_floating_point() else assert_equal(actual, wanted)
                else:
                    # A near tie may be settled the other way, which moves one gradient between two pixels.
                    assert _share_that_differs(actual, wanted) < 1e-3, f"{name} at {level} in {dtype}"


def _share_that_differs(actual: torch.Tensor, expected: torch.Tensor) -> float:
    if not expected.is_floating_point():
        return float((actual != expected).double().mean())
    return float((~torch.isclose(actual.double(), expected.double(), rtol=2e-2, atol=1e-2)).double().mean())


def test_an_unknown_simd_level_is_refused():
    script = "import torch, segnet_ext.ops as ops\nops.max_pool2d_with_codes(torch.zeros(1, 4, 2, 2))"
    run = run_apart(script, "mmx")
    assert run.returncode != 0
    assert "SEGNET_EXT_SIMD must be one of" in run.stderr
    assert "mmx" in run.stderr
