"""What only the CUDA side has, executed on the host: kinds of GPU, tf32, tiles that do not fit."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import emulation
import pytest
import torch
from cases import assert_equal, id_of, integers, normals, random_codes
from tolerances import assert_close

from segnet_ext import reference
from segnet_ext.ops import max_unpool2d_conv2d

ARCHS = {75: 64 << 10, 80: 163 << 10, 86: 99 << 10, 90: 227 << 10}  # shared memory that a block may ask for


@pytest.fixture
def device(device, request):
    """The device fixture's emulated and real GPU alone."""
    if request.node.callspec.params["device"] == "cpu":
        pytest.skip("about GPUs")
    return device


@pytest.fixture
def set_gpu(request):
    if request.node.callspec.params["device"] != "emulated":
        pytest.skip("a real GPU is what it is")
    set_host_device = emulation.load().set_host_device
    before = set_host_device(80, ARCHS[80])
    yield lambda arch, shared_limit=None: set_host_device(arch, shared_limit or ARCHS[arch])
    set_host_device(*before)


def problem(dtype, kernel_size, channels=24, out_channels=72, device="cpu"):
    """Integer values, whose sums are exact in every dtype: all kernels must give the same."""
    low, high = -1, 1
    x = integers(1, channels, 5, 9, low=low, high=high, dtype=dtype).to(device)
    weight = integers(out_channels, channels, kernel_size, kernel_size, low=low, high=high, seed=1, dtype=dtype)
    grad = integers(1, out_channels, 9, 18, low=low, high=high, seed=2, dtype=dtype).to(device)
    return x, random_codes(1, channels, 5, 9).to(device), weight.to(device), grad


def run(function, x, codes, weight, grad):
    x, weight = (t.detach().clone().requires_grad_() for t in (x, weight))
    output = function(x, codes, weight, None, grad.shape[2:])
    return (output.detach(), *torch.autograd.grad(output, (x, weight), grad))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=id_of)
@pytest.mark.parametrize("arch", ARCHS)
def test_every_architecture_computes_the_same(device, set_gpu, arch, dtype):
    given = problem(dtype, 3, device=device)
    set_gpu(arch)
    for actual, expected in zip(
        run(max_unpool2d_conv2d, *given), run(reference.max_unpool2d_conv2d, *given), strict=True
    ):
        assert_equal(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=id_of)
def test_a_kernel_whose_tile_does_not_fit(device, set_gpu, dtype):
    given = problem(dtype, 5, channels=5, out_channels=6, device=device)
    set_gpu(75, 48 << 10)
    for actual, expected in zip(
        run(max_unpool2d_conv2d, *given), run(reference.max_unpool2d_conv2d, *given), strict=True
    ):
        assert_equal(actual, expected)


FORWARD_AT_9_0 = """
import sys

sys.path.insert(0, {tests!r})
import emulation
import torch

module = emulation.load()


def forward(weight, shared_limit):
    module.set_host_device(90, shared_limit)
    x, codes = torch.ones(1, 4, 2, 2).half(), torch.zeros(1, 2, 2, 1, dtype=torch.uint8)
    return module.max_unpool2d_conv2d_forward(x, codes, weight, None, 4, 4, False)


print(forward(torch.ones(4, 4, 3, 3).half(), 227 << 10).sum().item())
# Of the zeros of an unpooled map an infinite weight makes NaN. A fused kernel without tiles does not meet them.
print(forward(torch.full((4, 4, 3, 3), torch.inf).half(), 1024).max().item())
"""


@pytest.mark.parametrize(("choice", "of_infinite"), [("", "nan"), ("fused", "inf"), ("dense", None)])
def test_products_are_left_to_cudnn_unless_asked_not_to(device, set_gpu, choice, of_infinite):
    ended = subprocess.run(
        [sys.executable, "-c", FORWARD_AT_9_0.format(tests=str(Path(__file__).parent))],
        env={**os.environ, "SEGNET_EXT_CUDA_CONV": choice},
        capture_output=True,
        text=True,
    )
    if of_infinite is None:
        assert "ValueError: SEGNET_EXT_CUDA_CONV must be fused or unset, got 'dense'" in ended.stderr
    else:
        # In each of four channels the winners reach 4, 6, 6 and 9 pixels of four channels.
        assert ended.stdout.split() == ["400.0", of_infinite], ended.stderr


def cut(x: torch.Tensor) -> torch.Tensor:
    """float32 rounded to the ten bits of mantissa that tf32 has, halves away from zero."""
    bits = x.view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("switch", ["cudnn.allow_tf32", "cudnn.conv.fp32_precision"])
def test_float32_uses_tf32_where_torch_allows_it_for_convolutions(device, switch):
    *path, name = switch.split(".")
    holder = functools.reduce(getattr, path, torch.backends)
    if not hasattr(holder, name):
        pytest.skip(f"torch {torch.__version__} has no torch.backends.{switch}")
    x, weight = normals(1, 16, 4, 8).float().to(device), normals(64, 16, 3, 3, seed=1).float().to(device)
    codes, grad = random_codes(1, 16, 4, 8).to(device), normals(1, 64, 8, 16, seed=2).float().to(device)
    exact = run(max_unpool2d_conv2d, x, codes, weight, grad)
    for actual, expected in zip(exact, run(reference.max_unpool2d_conv2d, x, codes, weight, grad), strict=True):
        assert_close(actual, expected)

    if device.type == "cuda" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("tf32 needs compute capability 8.0")
    before = getattr(holder, name)
    setattr(holder, name, "tf32" if name == "fp32_precision" else True)  # monkeypatch cannot take all of these back
    try:
        rounded = run(max_unpool2d_conv2d, x, codes, weight, grad)
    finally:
        setattr(holder, name, before)

    def double(change):
        return run(
            reference.max_unpool2d_conv2d, change(x).double(), codes, *(change(t).double() for t in (weight, grad))
        )

    for actual, plain, truth, terms, of_cut in zip(
        rounded, exact, double(torch.clone), double(torch.abs), double(cut), strict=True
    ):
        # Two factors cut to ten bits lose less than 2**-10 each, however that rounds.
        assert bool(((actual - truth).abs() <= 2**-9 * 1.001 * terms).all())
        if device.type == "cpu":  # cuDNN, which multiplies on some GPUs, rounds in ways of its own, or not at all
            assert not torch.equal(actual, plain)
            assert_close(actual, of_cut.float())


def test_tf32_switch_of_matrix_products_is_not_the_one_of_convolutions(device):
    x, weight = normals(1, 8, 4, 4).float().to(device), normals(8, 8, 3, 3, seed=1).float().to(device)
    codes = random_codes(1, 8, 4, 4).to(device)
    exact = max_unpool2d_conv2d(x, codes, weight)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True  # which pytest's monkeypatch cannot take back
    try:
        assert_equal(max_unpool2d_conv2d(x, codes, weight), exact)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert_close(exact, reference.max_unpool2d_conv2d(x, codes, weight))
