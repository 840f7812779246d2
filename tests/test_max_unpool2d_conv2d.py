"""max_unpool2d_conv2d against F.max_unpool2d and F.conv2d."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from cases import (
    FLOATS,
    HALVES,
    LAYOUTS,
    assert_channels_last,
    assert_equal,
    assert_exact,
    assert_no_double_backward,
    assert_refuses,
    id_of,
    integers,
    normals,
    random_bytes,
    random_codes,
)
from tolerances import assert_close, assert_no_worse_than_torch

from segnet_ext import reference
from segnet_ext.ops import codes_to_indices, max_unpool2d_conv2d

# (pooled map [N, C, OH, OW], output channels, kernel, output size): sizes 2O-1, 2O and 2O+1, one window, one row, one
# column, channel counts around 4, 8 and 64, kernels wider than the map, an empty batch.
CASES = [
    ((2, 8, 3, 5), 8, 3, (6, 10)),
    ((2, 3, 4, 3), 5, 3, (7, 5)),
    ((1, 13, 3, 4), 7, 3, (7, 9)),
    ((1, 1, 1, 1), 1, 3, (1, 1)),
    ((1, 5, 1, 1), 3, 7, (2, 3)),
    ((3, 5, 1, 4), 4, 5, (1, 7)),
    ((2, 4, 3, 1), 13, 5, (6, 1)),
    ((1, 64, 4, 3), 64, 3, (8, 6)),
    ((1, 67, 5, 2), 65, 3, (9, 4)),
    ((1, 36, 1, 3), 70, 3, (2, 6)),
    ((2, 67, 2, 2), 17, 3, (4, 3)),
    ((1, 64, 5, 5), 11, 7, (9, 10)),
    ((2, 3, 6, 9), 66, 7, (11, 18)),
    ((2, 13, 3, 4), 6, 1, (5, 8)),
    ((0, 5, 3, 2), 4, 3, (6, 4)),
]


def unfused(x, indices, weight, bias, size, relu):
    n, c = x.shape[:2]
    # F.max_unpool2d checks that a size lies within one of the default, which 2O-1 with O = 1 does too.
    unpooled = x.new_zeros(n, c, size[0] * size[1])
    unpooled = unpooled.scatter(2, indices.flatten(2), x.flatten(2)).view(n, c, *size)
    output = F.conv2d(unpooled, weight, bias, padding=weight.shape[-1] // 2)
    return F.relu(output) if relu else output


def conv(out_channels, in_channels, kernel, dtype=torch.float64, device="cpu", make=normals):
    weight = make(out_channels, in_channels, kernel, kernel, seed=21)
    return weight.to(device, dtype), make(out_channels, seed=22).to(device, dtype)


@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize(("shape", "out_channels", "kernel", "size"), CASES, ids=id_of)
def test_forward(device, shape, out_channels, kernel, size, dtype, relu, with_bias):
    n, c, oh, ow = shape
    x = normals(*shape, dtype=dtype).to(device)
    codes = random_codes(n, c, oh, ow).to(device)
    weight, bias = conv(out_channels, c, kernel, dtype, device)
    bias = bias if with_bias else None
    indices = codes_to_indices(codes, (n, c, *size))
    output = max_unpool2d_conv2d(x, codes, weight, bias, size, relu)
    expected = unfused(x, indices, weight, bias, size, relu)
    truth = unfused(x.double(), indices, weight.double(), bias if bias is None else bias.double(), size, relu)
    assert_channels_last(output)
    assert_no_worse_than_torch(output, expected, truth)
    if dtype == torch.float64:
        assert_close(output, expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "out_channels", "kernel", "size"), CASES, ids=id_of)
def test_integers_are_exact_in_every_layout(device, emulated, shape, out_channels, kernel, size, layout, dtype):
    n, c, oh, ow = shape
    # Products of -1, 0 and 1: each sum is an integer that even bfloat16 holds.
    x = LAYOUTS[layout](integers(*shape, low=-1, high=1, dtype=dtype).to(device))
    codes = random_codes(n, c, oh, ow).to(device)
    weight, bias = conv(
        out_channels, c, kernel, dtype, device, lambda *s, seed: integers(*s, low=-1, high=1, seed=seed)
    )
    weight = LAYOUTS[layout](weight) if layout != "expanded" else weight
    output = max_unpool2d_conv2d(x, codes, weight, bias, size)
    indices = codes_to_indices(codes, (n, c, *size))
    truth = unfused(x.double(), indices, weight.double(), bias.double(), size, False)
    assert truth.numel() == 0 or float(truth.abs().max()) <= 256
    assert_exact(output, truth.to(dtype), weight, emulated)
    assert_equal(reference.max_unpool2d_conv2d(x.double(), codes, weight.double(), bias.double(), size), truth)


@pytest.mark.parametrize("ragged", list(itertools.product((-1, 0, 1), repeat=2)), ids=id_of)
@pytest.mark.parametrize("full_size", [False, True], ids=["HW", "NCHW"])
@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_output_size(device, ragged, full_size, kernel):
    x = integers(2, 5, 3, 4).to(device)
    codes = random_codes(2, 5, 3, 4).to(device)
    weight, bias = conv(4, 5, kernel, device=device, make=integers)
    size = (6 + ragged[0], 8 + ragged[1])
    output_size = (2, 5, *size) if full_size else size
    expected = F.max_unpool2d(x, codes_to_indices(codes, (2, 5, *size)), 2, output_size=size)
    expected = F.conv2d(expected, weight, bias, padding=kernel // 2)
    assert_equal(max_unpool2d_conv2d(x, codes, weight, bias, output_size), expected)
    assert_equal(max_unpool2d_conv2d(x, codes, weight, bias, torch.Size(output_size)), expected)
    assert_equal(max_unpool2d_conv2d(x, codes, weight, bias, list(output_size)), expected)
    if ragged == (0, 0):
        assert_equal(max_unpool2d_conv2d(x, codes, weight, bias), expected)


@pytest.mark.parametrize("out_channels", [4, 64])
@pytest.mark.parametrize("size", [(5, 7), (6, 8), (7, 9)], ids=id_of)
def test_any_bytes_as_codes(device, size, out_channels):
    for seed in range(6):
        x = integers(2, 13, 3, 4, seed=seed).to(device)
        codes = random_bytes(2, 13, 3, 4, seed=seed).to(device)
        weight, bias = conv(out_channels, 13, 3, device=device, make=integers)
        ours = [t.clone().requires_grad_() for t in (x, weight, bias)]
        theirs = [t.clone().requires_grad_() for t in (x, weight, bias)]
        output = max_unpool2d_conv2d(ours[0], codes, ours[1], ours[2], size)
        expected = reference.max_unpool2d_conv2d(theirs[0], codes, theirs[1], theirs[2], size)
        assert_equal(output, expected)
        gradient = integers(*output.shape, seed=seed).to(device)
        output.backward(gradient)
        expected.backward(gradient)
        for actual, wanted in zip(ours, theirs, strict=True):
            assert_equal(actual.grad, wanted.grad)


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize(("shape", "out_channels", "kernel", "size"), CASES, ids=id_of)
def test_gradients(device, emulated, shape, out_channels, kernel, size, layout, dtype, relu):
    if emulated and layout != "channels_last" and kernel > 3:
        pytest.skip("minutes for what the CUDA side does not see: layouts are brought into one before it")
    n, c, oh, ow = shape
    values = LAYOUTS[layout](normals(*shape, dtype=dtype).to(device))
    codes = random_codes(n, c, oh, ow).to(device)
    weight, bias = conv(out_channels, c, kernel, dtype, device)
    indices = codes_to_indices(codes, (n, c, *size))

    def gradients(function, dtype, mask=None):
        inputs = [t.detach().to(dtype).requires_grad_() for t in (values, weight, bias)]
        output = function(*inputs)
        gradient = LAYOUTS[layout](normals(*output.shape, seed=1, dtype=values.dtype).to(device)).to(dtype)
        # The relu of all three passes at the same pixels, or a rounded zero would decide between 0 and the gradient.
        gradient = gradient if mask is None else gradient * mask
        return output.detach(), torch.autograd.grad(output, inputs, gradient)

    output, ours = gradients(lambda x, w, b: max_unpool2d_conv2d(x, codes, w, b, size, relu), dtype)
    mask = output > 0 if relu else None
    _, torchs = gradients(lambda x, w, b: unfused(x, indices, w, b, size, False), dtype, mask)
    _, truths = gradients(lambda x, w, b: unfused(x, indices, w, b, size, False), torch.float64, mask)
    for actual, theirs, true in zip(ours, torchs, truths, strict=True):
        assert_no_worse_than_torch(actual, theirs, true)
    if dtype == torch.float64:
        for actual, theirs in zip(ours, torchs, strict=True):
            assert_close(actual, theirs)


@pytest.mark.parametrize("layout", ["channels_last", "expanded", "transposed"])
def test_gradient_of_any_layout(device, layout):
    codes = random_codes(2, 5, 3, 4).to(device)
    weight, bias = conv(6, 5, 3, device=device, make=integers)
    gradient = LAYOUTS[layout](integers(2, 6, 6, 8).to(device))
    results = []
    for g in (gradient, gradient.contiguous()):
        inputs = [t.clone().requires_grad_() for t in (integers(2, 5, 3, 4).to(device), weight, bias)]
        results.append(torch.autograd.grad(max_unpool2d_conv2d(inputs[0], codes, *inputs[1:]), inputs, g))
    for actual, expected in zip(*results, strict=True):
        assert_equal(actual, expected)


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize(
    ("shape", "out_channels", "kernel", "size"),
    [
        ((1, 2, 2, 2), 3, 3, None),
        ((2, 3, 2, 1), 2, 3, (3, 1)),
        ((1, 5, 2, 2), 1, 3, (5, 4)),
        ((1, 2, 2, 2), 2, 7, (4, 3)),
        ((1, 1, 1, 2), 2, 7, (3, 5)),
        ((1, 3, 2, 2), 2, 1, None),
        ((1, 2, 2, 2), 2, 5, (3, 3)),
    ],
    ids=id_of,
)
def test_gradcheck(device, emulated, shape, out_channels, kernel, size, with_bias, relu):
    n, c, oh, ow = shape
    codes = random_codes(n, c, oh, ow).to(device)
    weight, bias = conv(out_channels, c, kernel, device=device)
    inputs = [normals(*shape).to(device), weight, *([bias] if with_bias else [])]

    def function(x, weight, bias=None):
        return max_unpool2d_conv2d(x, codes, weight, bias, size, relu)

    # No sum but those with no winner in their footprint, which stay 0, may come near relu's corner.
    output = reference.max_unpool2d_conv2d(inputs[0], codes, weight, bias if with_bias else None, size)
    assert not relu or float(output[output != 0].abs().min()) > 1e-4
    # The fast mode compares random projections of the Jacobians: two evaluations rather than hundreds.
    assert torch.autograd.gradcheck(function, [t.requires_grad_() for t in inputs], fast_mode=emulated)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), ()], ids=str)
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
def test_only_the_wanted_gradients(device, wanted, relu):
    codes = random_codes(2, 5, 3, 4).to(device)
    values = [normals(2, 5, 3, 4).to(device), *conv(6, 5, 3, device=device)]

    def run(tensors):
        return max_unpool2d_conv2d(tensors[0], codes, tensors[1], tensors[2], relu=relu)

    full = [t.clone().requires_grad_() for t in values]
    expected = torch.autograd.grad(run(full).square().sum(), full)
    for i in wanted:
        values[i].requires_grad_()
    output = run(values)
    assert output.requires_grad == bool(wanted)
    if wanted:
        output.square().sum().backward()
    for i, name in enumerate(("input", "weight", "bias")):
        if i in wanted:
            assert_equal(values[i].grad, expected[i])
        else:
            assert values[i].grad is None, f"{name} got a gradient that nothing asked for"


def test_an_empty_batch_has_zero_gradients(device):
    weight, bias = (t.requires_grad_() for t in conv(6, 5, 3, device=device))
    x = torch.zeros(0, 5, 3, 4, dtype=torch.float64, device=device, requires_grad=True)
    codes = torch.zeros(0, 3, 4, 2, dtype=torch.uint8, device=device)
    output = max_unpool2d_conv2d(x, codes, weight, bias)
    assert output.shape == (0, 6, 6, 8)
    output.sum().backward()
    assert x.grad.shape == x.shape
    assert_equal(weight.grad, torch.zeros_like(weight))
    assert_equal(bias.grad, torch.zeros_like(bias))


@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize("special", [math.nan, math.inf])
def test_special_values_reach_only_their_footprint(device, special, dtype):
    x = integers(1, 5, 4, 4, dtype=dtype).to(device)
    x[0, 2, 1, 1] = special
    codes = random_codes(1, 5, 4, 4).to(device)
    weight, bias = conv(6, 5, 3, dtype, device, lambda *s, seed: integers(*s, low=1, high=2, seed=seed))
    output = max_unpool2d_conv2d(x, codes, weight, bias)
    expected = unfused(x, codes_to_indices(codes, (1, 5, 8, 8)), weight, bias, (8, 8), False)
    assert_equal(output, expected)
    assert int((~output.isfinite()).sum()) == 9 * 6


def test_relu_keeps_nan(device):
    x = torch.full((1, 1, 1, 1), math.nan, device=device)
    codes = torch.zeros(1, 1, 1, 1, dtype=torch.uint8, device=device)
    assert max_unpool2d_conv2d(x, codes, torch.ones(1, 1, 3, 3, device=device), relu=True).isnan().all()


def test_double_backward_is_refused(device):
    codes = random_codes(1, 4, 2, 2).to(device)
    weight, bias = conv(3, 4, 3, device=device)
    assert_no_double_backward(
        lambda x, w: max_unpool2d_conv2d(x, codes, w, bias).square(), normals(1, 4, 2, 2).to(device), weight
    )


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
def test_autocast_as_conv2d(device, relu):
    values = [normals(2, 13, 3, 4).float().to(device), *(t.float() for t in conv(6, 13, 3, device=device))]
    codes = random_codes(2, 13, 3, 4).to(device)
    indices = codes_to_indices(codes, (2, 13, 6, 8))
    ours, torchs, truths = (
        [t.clone().to(d).requires_grad_() for t in values] for d in (torch.float32,) * 2 + (torch.float64,)
    )
    with torch.autocast(device.type, torch.bfloat16):
        output = max_unpool2d_conv2d(ours[0], codes, ours[1], ours[2], relu=relu)
        expected = unfused(torchs[0], indices, torchs[1], torchs[2], (6, 8), relu)
    truth = unfused(truths[0], indices, truths[1], truths[2], (6, 8), relu)
    assert output.dtype == expected.dtype == torch.bfloat16
    assert_no_worse_than_torch(output, expected, truth.detach())
    gradient = normals(*output.shape, seed=1, dtype=torch.bfloat16).to(device) * (truth.detach().abs() > 0.1)
    output.backward(gradient)
    expected.backward(gradient)
    truth.backward(gradient.double())
    for actual, theirs, true in zip(ours, torchs, truths, strict=True):
        assert actual.grad.dtype == torch.float32
        assert_no_worse_than_torch(actual.grad, theirs.grad, true.grad)


@pytest.mark.parametrize("dtype", HALVES, ids=id_of)
def test_half_weights_without_autocast(device, dtype):
    x = normals(2, 13, 3, 4, dtype=dtype).to(device)
    weight, bias = conv(6, 13, 3, dtype, device)
    assert max_unpool2d_conv2d(x, random_codes(2, 13, 3, 4).to(device), weight, bias).dtype == dtype


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("size", [[7, 9], [6, 8], [5, 7]], ids=str)
def test_reference_equals_torch(device, size, relu):
    x, codes = normals(2, 5, 3, 4).to(device), random_codes(2, 5, 3, 4).to(device)
    weight, bias = conv(6, 5, 3, device=device)
    expected = F.max_unpool2d(x, codes_to_indices(codes, (2, 5, *size)), 2, output_size=size)
    expected = F.conv2d(expected, weight, bias, padding=1)
    assert_close(
        reference.max_unpool2d_conv2d(x, codes, weight, bias, size, relu), F.relu(expected) if relu else expected
    )


@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize("layout", ["channels_last", "sliced"])
@pytest.mark.parametrize(
    ("channels", "out_channels", "kernel_size", "size"),
    [(16, 8, 3, (7, 6)), (43, 70, 3, (9, 8)), (32, 64, 3, (4, 4)), (5, 6, 3, (6, 6)), (5, 3, 7, (6, 5))],
    ids=str,
)
def test_the_layout_of_the_weight_changes_no_result(device, channels, out_channels, kernel_size, size, layout, dtype):
    pooled = [(side + 1) // 2 for side in size]
    x, codes = normals(2, channels, *pooled, dtype=dtype).to(device), random_codes(2, channels, *pooled).to(device)
    weight = normals(out_channels, channels, kernel_size, kernel_size, seed=1, dtype=dtype).to(device)
    grad_output = normals(2, out_channels, *size, seed=2, dtype=dtype).to(device)
    results = []
    for laid_out in (weight, LAYOUTS[layout](weight)):
        inputs = x.clone().requires_grad_(), laid_out.detach().requires_grad_()
        output = max_unpool2d_conv2d(inputs[0], codes, inputs[1], output_size=size)
        results.append((output, *torch.autograd.grad(output, inputs, grad_output)))
    for contiguous, other in zip(*results, strict=True):
        assert torch.equal(contiguous, other)
    assert results[0][2].is_contiguous()
    assert results[1][2].is_contiguous(memory_format=torch.channels_last) == (layout == "channels_last")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no_bias"])
def test_opcheck(device, with_bias, relu, layout):
    x, codes = LAYOUTS[layout](normals(2, 5, 3, 4).to(device)), random_codes(2, 5, 3, 4).to(device)
    weight, bias = conv(6, 5, 3, device=device)
    bias = bias if with_bias else None
    ops = torch.ops.segnet_ext
    for wanted in (False, True):
        inputs = [t if t is None else t.detach().requires_grad_(wanted) for t in (x, weight, bias)]
        torch.library.opcheck(ops.max_unpool2d_conv2d.default, (inputs[0], codes, *inputs[1:], 5, 8, relu))
    gradient = LAYOUTS[layout](normals(2, 6, 5, 8).to(device))
    torch.library.opcheck(ops.max_unpool2d_conv2d_grad_input.default, (gradient, codes, weight, 3, 4))
    torch.library.opcheck(
        ops.max_unpool2d_conv2d_grad_weight.default, (gradient, x, codes, 3, layout == "channels_last")
    )
    torch.library.opcheck(ops.conv_bias_grad.default, (gradient,))


class _Decoder(torch.nn.Module):
    def __init__(self, device, relu=True):
        super().__init__()
        weight, bias = conv(6, 5, 3, device=device)
        self.weight, self.bias, self.relu = torch.nn.Parameter(weight), torch.nn.Parameter(bias), relu

    def forward(self, x, codes):
        size = (2 * x.shape[2] - 1, 2 * x.shape[3])
        return max_unpool2d_conv2d(x, codes, self.weight, self.bias, size, self.relu)


@pytest.mark.parametrize(("backend", "dynamic"), [("aot_eager", False), ("aot_eager", True), ("inductor", False)])
def test_compile(device, backend, dynamic):
    torch._dynamo.reset()
    eager, module = _Decoder(device), _Decoder(device)
    compiled = torch.compile(module, fullgraph=True, backend=backend, dynamic=dynamic)
    for shape in [(2, 5, 3, 4), (1, 5, 4, 6)]:
        codes = random_codes(*shape).to(device)
        x, y = (normals(*shape).to(device).requires_grad_() for _ in range(2))
        output, expected = compiled(x, codes), eager(y, codes)
        assert_close(output, expected)
        output.square().sum().backward()
        expected.square().sum().backward()
        assert_close(x.grad, y.grad)
    for name, parameter in eager.named_parameters():
        assert_close(module.get_parameter(name).grad, parameter.grad)


def test_compile_under_autocast(device):
    torch._dynamo.reset()
    module = _Decoder(device).float()
    x, codes = normals(2, 5, 3, 4).float().to(device), random_codes(2, 5, 3, 4).to(device)

    def run(module):
        with torch.autocast(device.type, torch.bfloat16):
            return module(x, codes)

    compiled = run(torch.compile(module, fullgraph=True, backend="aot_eager"))
    assert compiled.dtype == torch.bfloat16
    assert_equal(compiled, run(module))


@pytest.mark.parametrize("dynamic", [False, True])
def test_export(device, dynamic):
    height, width = torch.export.Dim("height", min=3, max=64), torch.export.Dim("width", min=3, max=64)
    shapes = {"x": {2: height, 3: width}, "codes": {1: height, 2: width}} if dynamic else None
    module = _Decoder(device)
    x, codes = normals(2, 5, 3, 4).to(device), random_codes(2, 5, 3, 4).to(device)
    program = torch.export.export(module, (x, codes), dynamic_shapes=shapes)
    sizes = [(3, 4), (5, 6)] if dynamic else [(3, 4)]
    for size in sizes:
        x, codes = normals(2, 5, *size).to(device), random_codes(2, 5, *size).to(device)
        assert_close(program.module()(x, codes), module(x, codes))


X = torch.zeros(2, 5, 3, 4)
CODES = torch.zeros(2, 3, 4, 2, dtype=torch.uint8)
WEIGHT = torch.zeros(6, 5, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "argument", "got"),
    [
        ({"input": X[0]}, "input", "3"),
        ({"input": X.int()}, "input", "int"),
        ({"input": torch.zeros(2, 5, 0, 4), "codes": CODES[:, :0].contiguous()}, "input", "0"),
        (
            {"input": torch.zeros(2, 0, 3, 4), "codes": CODES[..., :0].contiguous(), "weight": WEIGHT[:, :0]},
            "input",
            "0",
        ),
        ({"codes": CODES.int()}, "codes", "int"),
        ({"codes": CODES[0]}, "codes", "3"),
        ({"codes": CODES[..., :1].contiguous()}, "codes", "1"),
        ({"codes": CODES[:1]}, "codes", "1"),
        ({"codes": CODES[:, :2].contiguous()}, "codes", "2"),
        ({"codes": torch.zeros(2, 3, 8, 2, dtype=torch.uint8)[:, :, ::2]}, "codes", "stride|contiguous"),
        ({"weight": WEIGHT[0]}, "weight", "3"),
        ({"weight": WEIGHT[:, :4]}, "weight", "4"),
        ({"weight": WEIGHT[..., :2, :2]}, "weight", "2"),
        ({"weight": WEIGHT[..., :1]}, "weight", "1"),
        ({"weight": WEIGHT.double()}, "weight", "float64|double"),
        ({"weight": WEIGHT[:0]}, "weight", "0"),
        ({"bias": torch.zeros(5)}, "bias", "5"),
        ({"bias": torch.zeros(6, 1)}, "bias", "1"),
        ({"bias": torch.zeros(6).double()}, "bias", "float64|double"),
        ({"output_size": (8, 8)}, "output_size", "8"),
        ({"output_size": (4, 8)}, "output_size", "4"),
        ({"output_size": (6, 10)}, "output_size", "10"),
        ({"output_size": (6,)}, "output_size", "6"),
        ({"output_size": (2, 6, 8)}, "output_size", "2, 6, 8"),
        ({"output_size": "6x8"}, "output_size", "6.*x.*8"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_bad_input(arguments, argument, got):
    call = {"input": X, "codes": CODES, "weight": WEIGHT, "bias": torch.zeros(6), **arguments}
    assert_refuses(lambda: max_unpool2d_conv2d(**call), "max_unpool2d_conv2d", argument, got)


def test_arguments_on_two_devices_are_refused(device):
    if device.type == "cpu":
        pytest.skip("needs a second device")
    for name in ("codes", "weight", "bias"):
        call = {"input": X, "codes": CODES, "weight": WEIGHT, "bias": torch.zeros(6)}
        call = {key: value if key == name else value.to(device) for key, value in call.items()}
        assert_refuses(lambda call=call: max_unpool2d_conv2d(**call), "max_unpool2d_conv2d", name, "cpu")


def test_meta_tensors_give_shapes():
    output = max_unpool2d_conv2d(X.to("meta"), CODES.to("meta"), WEIGHT.to("meta"), None, (5, 9))
    assert output.device.type == "meta"
    assert output.shape == (2, 6, 5, 9)
    assert_channels_last(output)
