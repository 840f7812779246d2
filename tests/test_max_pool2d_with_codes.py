"""max_pool2d_with_codes against F.max_pool2d: exact, so every comparison is for equality."""

import math

import pytest
import torch
import torch.nn.functional as F
from cases import (
    FLOATS,
    LAYOUTS,
    POOL_CASES,
    assert_channels_last,
    assert_equal,
    assert_no_double_backward,
    assert_refuses,
    id_of,
    integers,
    normals,
    pooled_size,
    spaced,
    torch_pool,
)

from segnet_ext import reference
from segnet_ext.ops import max_pool2d_with_codes


@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "ceil_mode"), POOL_CASES, ids=id_of)
def test_equals_torch(device, shape, ceil_mode, layout, dtype):
    for x in (normals(*shape, dtype=dtype), integers(*shape, dtype=dtype)):
        x = LAYOUTS[layout](x.to(device))
        output, codes = max_pool2d_with_codes(x, ceil_mode)
        expected, expected_codes = torch_pool(x.contiguous(), ceil_mode)
        assert_equal(output, expected)
        assert_equal(codes, expected_codes)
        assert_channels_last(output)
        assert codes.is_contiguous()


@pytest.mark.parametrize(("shape", "ceil_mode"), POOL_CASES, ids=id_of)
def test_reference_equals_torch(device, shape, ceil_mode):
    x = integers(*shape).to(device)
    for actual, expected in zip(reference.max_pool2d_with_codes(x, ceil_mode), torch_pool(x, ceil_mode), strict=True):
        assert_equal(actual, expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        [0.0],
        [-0.0, 0.0],
        [-math.inf],
        [math.inf, 1.0],
        [math.nan, 1.0],
        [math.nan, math.inf, -math.inf, 0.0, -0.0, 2.0],
    ],
    ids=str,
)
def test_ties_and_special_values(device, values, ceil_mode, layout, dtype):
    choice = integers(2, 21, 9, 7, low=0, high=len(values) - 1).long()  # whole vectors of channels and single ones
    x = LAYOUTS[layout](torch.tensor(values, dtype=dtype)[choice].to(device))
    output, codes = max_pool2d_with_codes(x, ceil_mode)
    # torch's CUDA kernel for channels_last gives windows of -inf alone an index outside of them.
    expected, expected_codes = torch_pool(x.contiguous(), ceil_mode)
    assert_equal(output, expected)
    assert_equal(codes, expected_codes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=id_of)
def test_every_number_of_16_bits_is_kept(device, dtype):
    numbers = torch.arange(2**16).to(torch.int32).sub(2**15).to(torch.int16).view(dtype).reshape(1, 256, 16, 16)
    output, _ = max_pool2d_with_codes(numbers.repeat_interleave(2, 2).repeat_interleave(2, 3).to(device))
    assert_equal(output.cpu(), numbers)


@pytest.mark.parametrize("greatest", [2.0, math.nan])
def test_every_pair_of_pixels_of_a_window_can_win(device, greatest):
    # Each of the 3**4 orders of a window's pixels, ties included, in a channel of its own.
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0, greatest])] * 4).reshape(1, 81, 2, 2).to(device)
    output, codes = max_pool2d_with_codes(x)
    expected, expected_codes = torch_pool(x, False)
    assert_equal(output, expected)
    assert_equal(codes, expected_codes)


@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "expanded"])
@pytest.mark.parametrize(("shape", "ceil_mode"), POOL_CASES, ids=id_of)
def test_gradient_equals_torch(device, shape, ceil_mode, layout, dtype):
    values = LAYOUTS[layout](integers(*shape, dtype=dtype).to(device))
    x, y = values.detach().requires_grad_(), values.clone().requires_grad_()
    output, _ = max_pool2d_with_codes(x, ceil_mode)
    expected = F.max_pool2d(y, 2, 2, ceil_mode=ceil_mode)
    gradient = LAYOUTS[layout](normals(*expected.shape, seed=1, dtype=dtype).to(device))
    output.backward(gradient)
    expected.backward(gradient)
    assert_equal(x.grad, y.grad)


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_a_gradient_that_is_written_past_the_caches_equals_torch(ceil_mode):
    x = normals(1, 16, 513, 521, dtype=torch.float32).requires_grad_()
    output, _ = max_pool2d_with_codes(x, ceil_mode)
    grad_output = normals(*output.shape, seed=1, dtype=torch.float32)
    (ours,) = torch.autograd.grad(output, x, grad_output)
    assert ours.nbytes > 4 << 20
    (torchs,) = torch.autograd.grad(F.max_pool2d(x, 2, 2, ceil_mode=ceil_mode), x, grad_output)
    assert torch.equal(ours, torchs)


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_a_map_that_is_written_past_the_caches_equals_torch(ceil_mode):
    x = normals(1, 16, 517, 525, dtype=torch.float32)
    x[0, 3, ::7, ::5] = math.nan  # such a window is written twice
    output, codes = max_pool2d_with_codes(x, ceil_mode)
    assert output.nbytes > 4 << 20
    expected, expected_codes = torch_pool(x, ceil_mode)
    assert_equal(output, expected)
    assert_equal(codes, expected_codes)


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (1, 5, 5, 3), (1, 2, 1, 5), (1, 9, 3, 1)], ids=id_of)
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_gradcheck(device, shape, ceil_mode):
    if min(pooled_size(size, ceil_mode) for size in shape[2:]) == 0:
        pytest.skip("floor mode has no output for a lone row or column")
    x = spaced(*shape).to(device).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: max_pool2d_with_codes(x, ceil_mode)[0], x)


def test_codes_are_not_differentiable(device):
    output, codes = max_pool2d_with_codes(normals(1, 3, 4, 4).to(device).requires_grad_())
    assert output.requires_grad
    assert not codes.requires_grad


def test_no_graph_without_a_gradient_to_compute(device):
    output, _ = max_pool2d_with_codes(normals(1, 3, 4, 4).to(device))
    assert not output.requires_grad


def test_double_backward_is_refused(device):
    assert_no_double_backward(lambda x: max_pool2d_with_codes(x)[0].square(), normals(1, 4, 4, 4).to(device))


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_opcheck(device, ceil_mode):
    x = normals(2, 5, 5, 7).to(device)
    for argument in (x, x.clone().requires_grad_(), LAYOUTS["channels_last"](x).detach().requires_grad_()):
        torch.library.opcheck(torch.ops.segnet_ext.max_pool2d_with_codes.default, (argument, ceil_mode))
    output, codes = max_pool2d_with_codes(x, ceil_mode)
    torch.library.opcheck(torch.ops.segnet_ext.max_pool2d_with_codes_backward.default, (output, codes, 5, 7))


class _Pool(torch.nn.Module):
    def forward(self, x):
        return max_pool2d_with_codes(x, ceil_mode=True)


@pytest.mark.parametrize(("backend", "dynamic"), [("aot_eager", False), ("aot_eager", True), ("inductor", False)])
def test_compile(device, backend, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(_Pool(), fullgraph=True, backend=backend, dynamic=dynamic)
    for shape in [(2, 5, 6, 8), (1, 5, 7, 9)]:
        x, y = (normals(*shape).to(device).requires_grad_() for _ in range(2))
        output, codes = compiled(x)
        expected, expected_codes = max_pool2d_with_codes(y, True)
        assert_equal(output, expected)
        assert_equal(codes, expected_codes)
        output.sum().backward()
        expected.sum().backward()
        assert_equal(x.grad, y.grad)


def test_export(device):
    height, width = torch.export.Dim("height", min=3, max=64), torch.export.Dim("width", min=3, max=64)
    x = normals(2, 5, 6, 8).to(device)
    for shapes in (None, {"x": {2: height, 3: width}}):
        program = torch.export.export(_Pool(), (x,), dynamic_shapes=shapes)
        inputs = [x] if shapes is None else [x, normals(2, 5, 9, 7).to(device)]
        for given in inputs:
            for actual, expected in zip(program.module()(given), max_pool2d_with_codes(given, True), strict=True):
                assert_equal(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=id_of)
def test_autocast_keeps_the_dtype(device, dtype):
    x = normals(1, 4, 4, 4, dtype=dtype).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        assert max_pool2d_with_codes(x)[0].dtype == dtype


@pytest.mark.parametrize(
    ("call", "argument", "got"),
    [
        (lambda: max_pool2d_with_codes(torch.zeros(3, 4, 4)), "input", r"3"),
        (lambda: max_pool2d_with_codes(torch.zeros(1, 1, 3, 4, 4)), "input", r"5"),
        (lambda: max_pool2d_with_codes(torch.zeros(1, 3, 4, 4, dtype=torch.int32)), "input", r"int"),
        (lambda: max_pool2d_with_codes(torch.zeros(1, 3, 4, 4, dtype=torch.complex64)), "input", r"complex"),
        (lambda: max_pool2d_with_codes(torch.zeros(1, 3, 0, 4), True), "input", r"0"),
        (lambda: max_pool2d_with_codes(torch.zeros(1, 3, 4, 0), True), "input", r"0"),
        (lambda: max_pool2d_with_codes(torch.zeros(1, 0, 4, 4)), "input", r"0"),
        (lambda: max_pool2d_with_codes(torch.zeros(1, 3, 1, 4)), "input", r"1"),
        (lambda: max_pool2d_with_codes(torch.zeros(1, 3, 4, 1)), "input", r"1"),
        (lambda: max_pool2d_with_codes([[1.0]]), "input", r"list"),
    ],
    ids=[
        "rank3",
        "rank5",
        "int",
        "complex",
        "no_rows",
        "no_columns",
        "no_channels",
        "floor_row",
        "floor_column",
        "list",
    ],
)
def test_bad_input(call, argument, got):
    assert_refuses(call, "max_pool2d_with_codes", argument, got)
