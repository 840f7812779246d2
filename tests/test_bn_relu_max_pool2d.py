"""bn_relu_max_pool2d against F.batch_norm, relu and F.max_pool2d."""

import math

import pytest
import torch
import torch.nn.functional as F
from cases import (
    FLOATS,
    HALVES,
    LAYOUTS,
    POOL_CASES,
    assert_channels_last,
    assert_equal,
    assert_no_double_backward,
    assert_refuses,
    id_of,
    integers,
    normals,
    spaced,
    torch_pool,
)
from tolerances import TOLERANCES, assert_close, assert_no_worse_than_torch

from segnet_ext import reference
from segnet_ext.ops import bn_relu_max_pool2d, codes_to_indices

EPS = 1e-5


def parameters(channels, dtype=torch.float64, device="cpu"):
    """weight (some negative), bias, running_mean, running_var."""
    weight, bias, mean = (normals(channels, seed=seed) for seed in (11, 12, 13))
    variance = 0.5 + normals(channels, seed=14).square()
    return [p.to(device, dtype) for p in (weight, bias, mean, variance)]


def clones(tensors):
    return [t if t is None else t.detach().clone() for t in tensors]


def unfused(x, parameters, training, momentum=0.1, eps=EPS):
    """The normalised and rectified map that the fused op never writes."""
    weight, bias, mean, variance = parameters
    return F.relu(F.batch_norm(x, mean, variance, weight, bias, training, momentum, eps))


def winners(rectified, codes):
    """The values that the codes choose, differentiable: no tie can be settled another way."""
    indices = codes_to_indices(codes, rectified.shape)
    return rectified.flatten(2).gather(2, indices.flatten(2)).view(indices.shape)


def has_statistics(shape, training):
    """torch refuses batch statistics of one value."""
    return not training or shape[0] * shape[2] * shape[3] != 1


CASES = [(*case, training) for case in POOL_CASES for training in (False, True) if has_statistics(case[0], training)]


@pytest.mark.parametrize("channels", [1, 5, 7])
@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
def test_pad_bits_are_zero_without_an_eps(device, dtype, channels):
    """Nothing that stands for the channels behind the last one may win, were it NaN."""
    x = normals(2, channels, 6, 8).to(device, dtype)
    acc = torch.float64 if dtype is torch.float64 else torch.float32
    _, codes = bn_relu_max_pool2d(x, *parameters(channels, acc, device), eps=0.0)
    assert_equal(codes[..., -1] >> 2 * (channels % 4), torch.zeros_like(codes[..., -1]))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize(("shape", "ceil_mode", "training"), CASES, ids=id_of)
def test_forward(device, shape, ceil_mode, training, dtype, layout):
    x = LAYOUTS[layout](normals(*shape, dtype=dtype).to(device))
    given = parameters(shape[1], dtype, device)
    ours, torchs, truths = clones(given), clones(given), [p.double() for p in given]

    weight, bias, mean, variance = ours
    output, codes = bn_relu_max_pool2d(x, weight, bias, mean, variance, training, 0.1, EPS, ceil_mode)
    rectified = unfused(x.contiguous(), torchs, training)
    truth = unfused(x.contiguous().double(), truths, training)

    expected, expected_codes = torch_pool(rectified, ceil_mode)
    assert codes.shape == expected_codes.shape
    assert_channels_last(output)
    assert codes.is_contiguous()
    assert_no_worse_than_torch(output, expected, torch_pool(truth, ceil_mode)[0])
    if dtype == torch.float64:
        assert_close(output, expected)
    # Where our rounding and torch's order two pixels differently, both are the maximum within rounding.
    assert_no_worse_than_torch(winners(truth, codes).to(dtype), expected, torch_pool(truth, ceil_mode)[0])
    for actual, theirs, true in zip(ours[2:], torchs[2:], truths[2:], strict=True):
        assert_no_worse_than_torch(actual, theirs, true)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("shape", "ceil_mode"), POOL_CASES, ids=id_of)
def test_codes_equal_torch_in_float64(device, shape, ceil_mode, training):
    if not has_statistics(shape, training):
        pytest.skip("torch refuses batch statistics of one value")
    x = normals(*shape).to(device)
    ours, theirs = parameters(shape[1], device=device), parameters(shape[1], device=device)
    _, codes = bn_relu_max_pool2d(x, *ours, training, 0.1, EPS, ceil_mode)
    assert_equal(codes, torch_pool(unfused(x, theirs, training), ceil_mode)[1])


@pytest.mark.parametrize("params_dtype", ["same", torch.float32], ids=id_of)
@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize(("shape", "ceil_mode"), POOL_CASES, ids=id_of)
def test_ties_equal_torch_where_the_values_are_exact(device, shape, ceil_mode, layout, dtype, params_dtype):
    if params_dtype == torch.float32 and dtype not in HALVES:
        pytest.skip("float32 parameters go with float32 and half inputs")
    params_dtype = dtype if params_dtype == "same" else params_dtype
    x = LAYOUTS[layout](integers(*shape, dtype=dtype).to(device))
    channel = torch.arange(shape[1], device=device)
    # 1/sqrt(3.75 + 0.25) is 0.5: every normalised value is a small multiple of 0.25, of either sign or 0.
    weight = torch.tensor([1.0, -2.0, 0.0, 0.5, -1.0], device=device)[channel % 5].to(params_dtype)
    bias = torch.tensor([0.0, 0.5, -0.5], device=device)[channel % 3].to(params_dtype)
    mean = torch.tensor([0.0, 1.0, -2.0], device=device)[channel % 3].to(params_dtype)
    variance = torch.full_like(mean, 3.75)
    output, codes = bn_relu_max_pool2d(x, weight, bias, mean, variance, False, 0.1, 0.25, ceil_mode)
    rectified = unfused(x.double(), [p.double() for p in (weight, bias, mean, variance)], False, eps=0.25)
    expected, expected_codes = torch_pool(rectified, ceil_mode)
    assert_equal(output, expected.to(dtype))
    assert_equal(codes, expected_codes)


@pytest.mark.parametrize("dtype", HALVES, ids=id_of)
def test_a_tie_made_by_rounding_to_a_half_type_goes_to_the_first(device, dtype):
    # The second pixel's normalised value is larger, and equal once rounded to the input's dtype.
    x = torch.tensor([1.0, 1.0 + 2 * torch.finfo(dtype).eps, 1.0, 1.0], dtype=dtype, device=device).reshape(1, 1, 2, 2)
    mean, variance = torch.zeros(1, device=device), torch.full((1,), 0.75, device=device)
    weight, bias = torch.ones(1, device=device), torch.full((1,), 64.0, device=device)
    output, codes = bn_relu_max_pool2d(x, weight, bias, mean, variance, False, 0.1, 0.25)
    assert int(codes) == 0
    assert float(output) == 65.0


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", HALVES, ids=id_of)
def test_float32_parameters_with_a_half_input(device, dtype, training):
    x = normals(2, 13, 9, 7, dtype=dtype).to(device).requires_grad_()
    y, truth_x = x.detach().clone().requires_grad_(), x.detach().double().requires_grad_()
    ours, torchs = parameters(13, torch.float32, device), parameters(13, torch.float32, device)
    truths = [p.double() for p in torchs]
    for given in (ours, torchs, truths):
        given[0].requires_grad_()
        given[1].requires_grad_()
    output, codes = bn_relu_max_pool2d(x, *ours, training, 0.1, EPS)
    expected = winners(unfused(y, torchs, training), codes)
    truth = winners(unfused(truth_x, truths, training), codes)
    assert_no_worse_than_torch(output, expected, truth.detach())
    gradient = normals(*output.shape, seed=1, dtype=dtype).to(device)
    output.backward(gradient)
    expected.backward(gradient)
    truth.backward(gradient.double())
    assert_no_worse_than_torch(x.grad, y.grad, truth_x.grad)
    for actual, theirs, true in zip(ours[:2], torchs[:2], truths[:2], strict=True):
        assert actual.grad.dtype == torch.float32
        assert_no_worse_than_torch(actual.grad, theirs.grad, true.grad)
    for actual, theirs, true in zip(ours[2:], torchs[2:], truths[2:], strict=True):
        assert_no_worse_than_torch(actual, theirs, true)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "expanded"])
@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize(("shape", "ceil_mode", "training"), CASES, ids=id_of)
def test_gradients(device, shape, ceil_mode, training, dtype, layout):
    values = LAYOUTS[layout](normals(*shape, dtype=dtype).to(device))
    given = parameters(shape[1], dtype, device)

    def gradients(x, given, fused):
        x = x.detach().requires_grad_()
        weight, bias, mean, variance = clones(given)
        weight.requires_grad_()
        bias.requires_grad_()
        if fused:
            output, codes = bn_relu_max_pool2d(x, weight, bias, mean, variance, training, 0.1, EPS, ceil_mode)
        else:
            codes = gradients.codes
            output = winners(unfused(x, (weight, bias, mean, variance), training), codes)
        gradients.codes = codes
        gradient = LAYOUTS[layout](normals(*output.shape, seed=1, dtype=dtype).to(device))
        return torch.autograd.grad(output, (x, weight, bias), gradient.to(output.dtype))

    ours = gradients(values, given, True)
    torchs = gradients(values.contiguous(), given, False)
    truths = gradients(values.contiguous().double(), [p.double() for p in given], False)
    for actual, theirs, true in zip(ours, torchs, truths, strict=True):
        assert_no_worse_than_torch(actual, theirs, true)
    if dtype == torch.float64:
        for actual, theirs in zip(ours, torchs, strict=True):
            assert_close(actual, theirs)


@pytest.mark.parametrize(
    ("deviation", "offset"), [*((deviation, 0.0) for deviation in (1e-9, 1e-6, 1e-4, 1e-2, 1.0, 1e3)), (1.0, 1e3)]
)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-4, 0.06, 0.07, -1.0, 1e3, 1e30])
def test_gradients_of_a_weight_of_any_size_in_float32(device, scale, deviation, offset):
    # Backward finds the winners' inputs by undoing BatchNorm on the output where that loses nothing.
    values = (normals(2, 6, 18, 22, dtype=torch.float32) * deviation + offset).to(device)
    bias, mean, variance = (torch.ones(6, device=device) for _ in range(3))
    gradient = normals(2, 6, 9, 11, seed=1, dtype=torch.float32).abs().to(device)  # no error cancels another
    codes = bn_relu_max_pool2d(values, bias * scale, bias, mean.clone(), variance.clone(), training=True)[1]

    def gradients(dtype, fused):
        x, weight, shift = (t.to(dtype, copy=True).requires_grad_() for t in (values, bias * scale, bias))
        statistics = mean.to(dtype, copy=True), variance.to(dtype, copy=True)
        if fused:
            output, _ = bn_relu_max_pool2d(x, weight, shift, *statistics, training=True)
        else:
            output = winners(unfused(x, (weight, shift, *statistics), True), codes)
        return torch.autograd.grad(output, (x, weight, shift), gradient.to(dtype))

    for ours, torchs, truth in zip(
        gradients(torch.float32, True), gradients(torch.float32, False), gradients(torch.float64, False), strict=True
    ):
        assert_no_worse_than_torch(ours, torchs, truth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=id_of)
@pytest.mark.parametrize("channels", [16, 67, 128])
def test_each_channel_goes_by_its_output_or_its_input(device, channels, dtype):
    # Near these two weights BatchNorm on the output can and cannot be undone: it differs by channel and by vector.
    values = normals(2, channels, 18, 22, dtype=dtype).to(device)
    weight, bias, mean, variance = (torch.ones(channels, device=device, dtype=dtype) for _ in range(4))
    weight[channels // 2 :] = 0.01
    weight[:3] = 0.01
    output, codes = bn_relu_max_pool2d(values, weight, bias, mean, variance, training=True)
    gradient = normals(*output.shape, seed=1, dtype=dtype).to(device)
    mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3), correction=0)
    backward = torch.ops.segnet_ext.bn_relu_max_pool2d_backward
    results = [backward(gradient, values, codes, y, weight, bias, mean, variance, EPS, True) for y in (output, None)]
    rounding = 8 * torch.finfo(dtype).eps
    for by_output, by_input in zip(*results, strict=True):
        assert float((by_output - by_input).abs().max()) <= rounding * float(by_input.abs().max())
    assert_equal(results[0][1][:3], results[1][1][:3])  # by the input in both
    with pytest.raises(ValueError, match="output must have shape"):
        backward(gradient, values, codes, output[:, :, 1:], weight, bias, mean, variance, EPS, True)


def test_an_output_that_backward_needs_must_not_change(device):
    weight, bias, mean, variance = parameters(4, torch.float32, device)
    x = normals(1, 4, 6, 6, dtype=torch.float32).to(device).requires_grad_()
    for training in (False, True):
        output, _ = bn_relu_max_pool2d(x, weight, bias, mean, variance, training)
        output.mul_(2)
        if training:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                output.sum().backward()
        else:
            output.sum().backward()


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_a_gradient_that_is_written_past_the_caches_is_the_same(ceil_mode):
    weight, bias, mean, var = parameters(16, torch.float32)

    def gradient(x, grad_output):
        x = x.clone(memory_format=torch.channels_last).requires_grad_()
        output, _ = bn_relu_max_pool2d(x, weight, bias, mean, var, ceil_mode=ceil_mode)
        return torch.autograd.grad(output, x, grad_output.contiguous(memory_format=torch.channels_last))[0]

    x = normals(1, 16, 513, 521, dtype=torch.float32)
    pooled = (257, 261) if ceil_mode else (256, 260)
    grad_output = normals(1, 16, *pooled, seed=1, dtype=torch.float32)
    large = gradient(x, grad_output)
    small = gradient(x[:, :, 400:], grad_output[:, :, 200:])
    assert small.nbytes < 4 << 20 < large.nbytes
    assert torch.equal(large[:, :, 400:], small)


@pytest.mark.parametrize("training", [False, True])
def test_without_weight_and_bias(device, training):
    values = normals(2, 5, 6, 7).to(device)
    x, y = values.clone().requires_grad_(), values.clone().requires_grad_()
    _, _, mean, variance = parameters(5, device=device)
    output, codes = bn_relu_max_pool2d(x, None, None, mean.clone(), variance.clone(), training)
    expected, expected_codes = torch_pool(unfused(y, (None, None, mean, variance), training), False)
    assert_close(output, expected)
    assert_equal(codes, expected_codes)
    output.square().sum().backward()
    expected.square().sum().backward()
    assert_close(x.grad, y.grad)


@pytest.mark.parametrize("absent", ["weight", "bias"])
def test_with_one_of_weight_and_bias(device, absent):
    values = normals(2, 5, 6, 7).to(device)
    weight, bias, mean, variance = parameters(5, device=device)
    weight, bias = (None, bias) if absent == "weight" else (weight, None)
    output, codes = bn_relu_max_pool2d(values, weight, bias, mean, variance)
    expected, expected_codes = torch_pool(unfused(values, (weight, bias, mean, variance), False), False)
    assert_close(output, expected)
    assert_equal(codes, expected_codes)


@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.5, 1.0])
def test_running_statistics(device, momentum):
    ours, torchs = parameters(5, device=device), parameters(5, device=device)
    for step in range(3):
        x = normals(3, 5, 7, 6, seed=step).to(device) * 2 + 1
        bn_relu_max_pool2d(x, *ours, True, momentum, EPS)
        unfused(x, torchs, True, momentum)
    for actual, expected in zip(ours, torchs, strict=True):
        assert_close(actual, expected)


def apart(tensor, layout):
    """The same vector, not where its buffer begins or with gaps."""
    if layout == "offset":  # by one element: not at an address that vectors are loaded from
        return torch.cat([tensor.new_zeros(1), tensor])[1:]
    return torch.stack([tensor, tensor.new_zeros(len(tensor))], dim=1)[:, 0]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("layout", ["offset", "strided"])
def test_vectors_that_lie_anywhere(device, layout, training):
    x = normals(2, 8, 6, 5).float().to(device)
    plain = parameters(8, torch.float32, device)
    moved = [apart(vector, layout) for vector in plain]
    wanted, actual = (bn_relu_max_pool2d(x, *vectors, training) for vectors in (plain, moved))
    for tensors in (zip(wanted, actual, strict=True), zip(plain, moved, strict=True)):
        assert all(torch.equal(*pair) for pair in tensors)


def test_a_graph_sees_that_running_statistics_moved(device):
    x = normals(2, 3, 4, 4).float().to(device).requires_grad_()
    vectors = parameters(3, torch.float32, device)
    output, _ = bn_relu_max_pool2d(x, *vectors, False)
    bn_relu_max_pool2d(x.detach(), *vectors, True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_statistics_count_every_pixel_that_floor_mode_drops(device):
    x = normals(2, 3, 5, 7).to(device)
    ours, torchs = parameters(3, device=device), parameters(3, device=device)
    bn_relu_max_pool2d(x, *ours, True, 0.1, EPS, False)
    unfused(x, torchs, True)
    assert_close(ours[2], torchs[2])
    assert_close(ours[3], torchs[3])


def test_evaluation_leaves_running_statistics_alone(device):
    given = parameters(5, device=device)
    before = clones(given)
    bn_relu_max_pool2d(normals(2, 5, 6, 6).to(device), *given, False)
    for actual, expected in zip(given, before, strict=True):
        assert_equal(actual, expected)


def test_training_without_running_statistics(device):
    x = normals(2, 5, 6, 6).to(device)
    weight, bias, _, _ = parameters(5, device=device)
    output, _ = bn_relu_max_pool2d(x, weight, bias, None, None, True)
    assert_close(output, torch_pool(unfused(x, (weight, bias, None, None), True), False)[0])


def test_an_empty_batch_leaves_running_statistics_alone(device):
    given = parameters(5, device=device)
    before = clones(given)
    x = torch.zeros(0, 5, 6, 6, dtype=torch.float64, device=device, requires_grad=True)
    weight, bias = (p.requires_grad_() for p in given[:2])
    output, codes = bn_relu_max_pool2d(x, weight, bias, *given[2:], True)
    assert output.shape == (0, 5, 3, 3)
    assert codes.shape == (0, 3, 3, 2)
    output.sum().backward()
    assert x.grad.shape == x.shape
    assert_equal(weight.grad, torch.zeros_like(weight))
    assert_equal(bias.grad, torch.zeros_like(bias))
    for actual, expected in zip(given[2:], before[2:], strict=True):
        assert_equal(actual, expected)


def test_statistics_of_one_value_are_refused_as_torch_does(device):
    x = torch.zeros(1, 5, 1, 1, device=device)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        F.batch_norm(x, None, None, training=True)
    with pytest.raises(ValueError, match=r"bn_relu_max_pool2d: input must .*more than (1|one) value.*got"):
        bn_relu_max_pool2d(x, None, None, None, None, True, ceil_mode=True)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("offset", [0.0, 1e3, -1e5])
def test_variance_of_values_far_from_zero_in_float32(device, offset, scale):
    x = (normals(4, 8, 16, 16) * scale + offset).float().to(device)
    mean, variance = torch.zeros(8, device=device), torch.ones(8, device=device)
    theirs = clones((mean, variance))
    truths = [t.double() for t in theirs]
    bn_relu_max_pool2d(x, None, None, mean, variance, True, 1.0)
    F.batch_norm(x, *theirs, training=True, momentum=1.0)
    F.batch_norm(x.double(), *truths, training=True, momentum=1.0)
    assert_no_worse_than_torch(mean, theirs[0], truths[0])
    assert_no_worse_than_torch(variance, theirs[1], truths[1])


@pytest.mark.parametrize("place", [(0, 0), (7, 9)], ids=str)
def test_statistics_beside_one_value_far_from_the_rest_in_float32(device, place):
    x = normals(2, 8, 37, 41).float().to(device)
    x[0, :, place[0], place[1]] = 1e3
    mean, variance = torch.zeros(8, device=device), torch.ones(8, device=device)
    truths = [t.double() for t in (mean, variance)]
    bn_relu_max_pool2d(x, None, None, mean, variance, True, 1.0)
    F.batch_norm(x.double(), *truths, training=True, momentum=1.0)
    assert float((mean - truths[0]).abs().max()) <= 1e-6 * float(truths[1].sqrt().min())
    assert float((variance / truths[1] - 1).abs().max()) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=id_of)
@pytest.mark.parametrize("channels", [4, 8, 16, 32, 64, 96, 128, 256])
def test_statistics_of_rows_of_any_length(device, channels, dtype):
    scale, offset = 0.5 + normals(channels).abs(), 4 * normals(channels, seed=1)
    x = (normals(2, channels, 17, 23) * scale[:, None, None] + offset[:, None, None]).to(device, dtype)
    mean, variance = torch.ops.segnet_ext.bn_relu_max_pool2d_stats(x)
    true_mean, true_variance = x.double().mean((0, 2, 3)), x.double().var((0, 2, 3), correction=0)
    rounding = 8 * torch.finfo(mean.dtype).eps
    assert float(((mean - true_mean).abs() / (true_mean.abs() + true_variance.sqrt())).max()) <= rounding
    assert float((variance / true_variance - 1).abs().max()) <= rounding


@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        [0.0, -0.0, 1.0],
        [math.nan, 1.0],
        [math.inf, 1.0, -1.0],
        [-math.inf, 1.0],
        [math.nan, math.inf, -math.inf, 0.0, 1.0],
    ],
    ids=str,
)
def test_special_values(device, values, ceil_mode, layout, dtype):
    choice = integers(2, 21, 9, 7, low=0, high=len(values) - 1).long()  # whole vectors of channels and single ones
    x = LAYOUTS[layout](torch.tensor(values, dtype=dtype)[choice].to(device))
    y = x.clone()
    mean, variance = torch.zeros(21, dtype=dtype, device=device), torch.full((21,), 3.75, dtype=dtype, device=device)
    weight = torch.tensor([1.0, -2.0], dtype=dtype, device=device)[torch.arange(21, device=device) % 2]
    x.requires_grad_()
    y.requires_grad_()
    output, codes = bn_relu_max_pool2d(x, weight, None, mean, variance, False, 0.1, 0.25, ceil_mode)
    expected, expected_codes = torch_pool(unfused(y, (weight, None, mean, variance), False, eps=0.25), ceil_mode)
    assert_equal(output, expected)
    assert_equal(codes, expected_codes)
    gradient = integers(*output.shape, seed=1, dtype=dtype).to(device)
    output.backward(gradient)
    expected.backward(gradient)
    assert_equal(x.grad, y.grad)


@pytest.mark.parametrize("place", [(0, 0), (2, 3)], ids=str)  # statistics may start from the first pixel
@pytest.mark.parametrize("special", [math.nan, math.inf])
def test_training_on_special_values(device, special, place):
    x = normals(2, 19, 6, 6)
    x[(0, 1, *place)] = special
    ours, torchs = parameters(19, device=device), parameters(19)
    output, codes = bn_relu_max_pool2d(x.to(device), *ours, True)
    # By torch on the CPU: on CUDA its means of infinite values are infinite or NaN, as its kernels happen to sum.
    expected, expected_codes = torch_pool(unfused(x, torchs, True), False)
    assert_close(output.cpu(), expected)
    assert_equal(codes.cpu(), expected_codes)
    assert_close(ours[2].cpu(), torchs[2])
    assert_close(ours[3].cpu(), torchs[3])


def far_from_ties(shape, training):
    """Input and parameters whose normalised values are no closer than 1e-3 to 0 or to another of their window."""
    for seed in range(100):
        x = spaced(*shape, seed=seed)
        weight, bias, mean, variance = parameters(shape[1])
        y = F.batch_norm(x, mean.clone(), variance.clone(), weight, bias, training)
        rows = F.unfold(F.pad(y, (0, 1, 0, 1), value=99.0), 2, stride=2).unflatten(1, (shape[1], 4))
        ordered = rows.sort(dim=2).values
        gaps = ordered.diff(dim=2)
        if float(y.abs().min()) > 1e-3 and float(gaps[ordered[:, :, 1:] < 99].min()) > 1e-3:
            return x, weight, bias, mean, variance
    raise AssertionError(f"no seed keeps {shape} away from ties")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 2, 5, 5), (2, 5, 3, 2), (1, 1, 7, 3)], ids=id_of)
def test_gradcheck(device, shape, ceil_mode, training):
    x, weight, bias, mean, variance = (t.to(device) for t in far_from_ties(shape, training))

    def function(x, weight, bias):
        return bn_relu_max_pool2d(x, weight, bias, mean.clone(), variance.clone(), training, 0.1, EPS, ceil_mode)[0]

    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("training", [False, True])
def test_gradcheck_without_affine_and_running_statistics(device, training):
    x, _, _, mean, variance = (t.to(device) for t in far_from_ties((2, 3, 4, 5), training))
    mean, variance = (None, None) if training else (mean, variance)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: bn_relu_max_pool2d(x, None, None, mean, variance, training)[0], x)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), ()], ids=str)
def test_only_the_wanted_gradients(device, wanted, training):
    names = ("input", "weight", "bias")
    values = [normals(2, 5, 6, 7).to(device), *parameters(5, device=device)]
    full = [t.clone() for t in values]
    for i in range(3):
        full[i].requires_grad_()
    expected = torch.autograd.grad(bn_relu_max_pool2d(*full, training)[0].square().sum(), full[:3])
    for i in wanted:
        values[i].requires_grad_()
    output, codes = bn_relu_max_pool2d(*values, training)
    assert not codes.requires_grad
    assert output.requires_grad == bool(wanted)
    if wanted:
        output.square().sum().backward()
    for i, name in enumerate(names):
        if i in wanted:
            assert_equal(values[i].grad, expected[i])
        else:
            assert values[i].grad is None, f"{name} got a gradient that nothing asked for"


def test_double_backward_is_refused(device):
    weight, bias, mean, variance = parameters(4, device=device)
    assert_no_double_backward(
        lambda x: bn_relu_max_pool2d(x, weight, bias, mean, variance)[0].square(), normals(1, 4, 4, 4).to(device)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=id_of)
@pytest.mark.parametrize("training", [False, True])
def test_autocast_keeps_the_dtype_as_batch_norm_does(device, training, dtype):
    x = normals(2, 4, 6, 6, dtype=dtype).to(device)
    given = parameters(4, torch.float32, device)
    plain, plain_codes = bn_relu_max_pool2d(x, *clones(given), training)
    with torch.autocast(device.type, torch.bfloat16):
        output, codes = bn_relu_max_pool2d(x, *clones(given), training)
        assert unfused(x, clones(given), training).dtype == output.dtype == dtype
    assert_equal(output, plain)
    assert_equal(codes, plain_codes)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_opcheck(device, affine, training, layout):
    x = LAYOUTS[layout](normals(2, 5, 5, 7).to(device))
    weight, bias, mean, variance = parameters(5, device=device)
    weight, bias = (weight, bias) if affine else (None, None)
    ops = torch.ops.segnet_ext
    for wanted in (False, True):
        inputs = [t if t is None else t.detach().requires_grad_(wanted) for t in (x, weight, bias)]
        arguments = (*inputs, mean, variance, training, EPS, True)
        torch.library.opcheck(ops.bn_relu_max_pool2d.default, arguments)
    torch.library.opcheck(ops.bn_relu_max_pool2d_stats.default, (x,))
    output, codes = ops.bn_relu_max_pool2d(x, weight, bias, mean, variance, training, EPS, True)
    for known in (None, output):
        arguments = (output, x, codes, known, weight, bias, mean, variance, EPS, training)
        torch.library.opcheck(ops.bn_relu_max_pool2d_backward.default, arguments)


class _Encoder(torch.nn.Module):
    def __init__(self, device):
        super().__init__()
        weight, bias, mean, variance = parameters(5, device=device)
        self.weight, self.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)
        self.register_buffer("mean", mean)
        self.register_buffer("variance", variance)

    def forward(self, x):
        return bn_relu_max_pool2d(
            x, self.weight, self.bias, self.mean, self.variance, self.training, 0.1, EPS, ceil_mode=True
        )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("backend", "dynamic"), [("aot_eager", False), ("aot_eager", True), ("inductor", False)])
def test_compile(device, backend, dynamic, training):
    torch._dynamo.reset()
    eager, module = _Encoder(device).train(training), _Encoder(device).train(training)
    compiled = torch.compile(module, fullgraph=True, backend=backend, dynamic=dynamic)
    for shape in [(2, 5, 6, 8), (1, 5, 7, 9)]:
        x, y = (normals(*shape).to(device).requires_grad_() for _ in range(2))
        output, codes = compiled(x)
        expected, expected_codes = eager(y)
        assert_close(output, expected)
        assert_equal(codes, expected_codes)
        output.square().sum().backward()
        expected.square().sum().backward()
        assert_close(x.grad, y.grad)
    for name, parameter in eager.named_parameters():
        assert_close(module.get_parameter(name).grad, parameter.grad)
    for name, buffer in eager.named_buffers():
        assert_close(module.get_buffer(name), buffer)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_export(device, dynamic, training):
    height, width = torch.export.Dim("height", min=3, max=64), torch.export.Dim("width", min=3, max=64)
    shapes = {"x": {2: height, 3: width}} if dynamic else None
    x = normals(2, 5, 6, 8).to(device)
    program = torch.export.export(_Encoder(device).train(training), (x,), dynamic_shapes=shapes)
    for given in [x, normals(2, 5, 9, 7).to(device)] if dynamic else [x]:
        expected = _Encoder(device).train(training)(given)
        for actual, wanted in zip(program.module()(given)[:2], expected, strict=True):
            if wanted.is_floating_point() and not training:
                assert_close(actual, wanted)
            else:
                assert actual.shape == wanted.shape


def test_reference_equals_torch(device):
    for shape, ceil_mode, training in CASES:
        x = normals(*shape).to(device)
        ours, torchs = parameters(shape[1], device=device), parameters(shape[1], device=device)
        output, codes = reference.bn_relu_max_pool2d(x, *ours, training, 0.1, EPS, ceil_mode)
        expected, expected_codes = torch_pool(unfused(x, torchs, training), ceil_mode)
        assert_equal(output, expected)
        assert_equal(codes, expected_codes)
        assert_equal(ours[2], torchs[2])
        assert_equal(ours[3], torchs[3])


X = torch.zeros(2, 3, 4, 4)
C3 = torch.ones(3)
BOTH = "running_mean and running_var"


@pytest.mark.parametrize(
    ("arguments", "argument", "got"),
    [
        ({"input": torch.zeros(3, 4, 4)}, "input", "3"),
        ({"input": torch.zeros(1, 1, 3, 4, 4)}, "input", "5"),
        ({"input": X.int()}, "input", "int"),
        ({"input": torch.zeros(2, 3, 0, 4), "ceil_mode": True}, "input", "0"),
        ({"input": torch.zeros(2, 3, 4, 0), "ceil_mode": True}, "input", "0"),
        ({"input": torch.zeros(2, 3, 1, 4)}, "input", "1"),
        ({"input": torch.zeros(2, 3, 4, 1)}, "input", "1"),
        ({"input": "image"}, "input", "str"),
        ({"weight": torch.ones(4)}, "weight", "4"),
        ({"weight": torch.ones(3, 1)}, "weight", "1"),
        ({"weight": torch.ones(3, dtype=torch.float64)}, "weight", "float64|double"),
        ({"weight": [1.0, 1.0, 1.0]}, "weight", "list"),
        ({"bias": torch.ones(2)}, "bias", "2"),
        ({"bias": torch.ones(3, dtype=torch.int64)}, "bias", "int64|long"),
        ({"running_mean": torch.ones(4)}, "running_mean", "4"),
        ({"running_mean": torch.ones(3, dtype=torch.float16)}, "running_mean", "float16|half"),
        ({"running_var": torch.ones(4)}, "running_var", "4"),
        ({"running_mean": None}, BOTH, "None"),
        ({"running_var": None}, BOTH, "None"),
        ({"running_mean": None, "running_var": None, "training": False}, BOTH, "None"),
        ({"running_var": None, "training": True}, BOTH, "None"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_bad_input(arguments, argument, got):
    call = {"input": X, "weight": C3, "bias": C3, "running_mean": C3.clone(), "running_var": C3.clone(), **arguments}
    assert_refuses(lambda: bn_relu_max_pool2d(**call), "bn_relu_max_pool2d", argument, got)


def test_arguments_on_two_devices_are_refused(device):
    if device.type == "cpu":
        pytest.skip("needs a second device")
    for name in ("weight", "bias", "running_mean", "running_var"):
        call = {"input": X, "weight": C3, "bias": C3, "running_mean": C3, "running_var": C3}
        call = {key: value if key == name else value.to(device) for key, value in call.items()}
        assert_refuses(lambda call=call: bn_relu_max_pool2d(**call), "bn_relu_max_pool2d", name, "cpu")


def test_meta_tensors_give_shapes():
    meta = [t.to("meta") for t in (X, C3, C3, C3, C3)]
    for training in (False, True):
        output, codes = bn_relu_max_pool2d(*meta, training)
        assert output.device.type == codes.device.type == "meta"
        assert output.shape == (2, 3, 2, 2)
        assert codes.shape == (2, 2, 2, 1)


def test_bad_input_changes_no_running_statistics():
    mean, variance = torch.zeros(3), torch.ones(3)
    with pytest.raises((ValueError, RuntimeError)):
        bn_relu_max_pool2d(X, torch.ones(4), None, mean, variance, True)
    assert_equal(mean, torch.zeros(3))
    assert_equal(variance, torch.ones(3))


def test_the_table_covers_every_dtype():
    assert set(TOLERANCES) == set(FLOATS)
