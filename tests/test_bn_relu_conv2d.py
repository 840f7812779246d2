"""bn_relu_conv2d, conv2d and conv2d_relu_max_pool2d against plain torch."""

import pytest
import torch
from cases import (
    FLOATS,
    HALVES,
    LAYOUTS,
    assert_channels_last,
    assert_equal,
    assert_no_double_backward,
    assert_refuses,
    id_of,
    integers,
    normals,
    random_bytes,
    random_codes,
)
from tolerances import assert_close, assert_no_worse_than_torch

from segnet_ext import ops, reference

# (channels in, out, kernel, size of the map): Winograd's tiles whole and cut, channels around the vectors' lanes and
# the panels' columns; maps of few pixels, convolved directly; what is left to torch: few channels, other kernels.
CASES = [
    (16, 8, 3, (8, 12)),
    (20, 17, 3, (9, 11)),
    (67, 65, 3, (5, 18)),
    (16, 40, 3, (20, 21)),
    (131, 16, 3, (6, 7)),
    (32, 64, 3, (13, 2)),
    (16, 33, 3, (1, 1)),
    (67, 70, 3, (3, 4)),
    (24, 131, 3, (2, 5)),
    (5, 6, 3, (7, 6)),
    (16, 8, 7, (6, 9)),
    (4, 20, 1, (5, 5)),
]
BATCH = 2


def arguments(case, unpool, dtype, layout="channels_last"):
    """(input, codes, output_size), (bn_weight, bn_bias, mean, var), (weight, bias) in ``dtype``."""
    in_channels, out_channels, kernel, size = case
    pooled = tuple((side + 1) // 2 for side in size)
    x = LAYOUTS[layout](normals(BATCH, in_channels, *(pooled if unpool else size), dtype=dtype))
    codes = random_codes(BATCH, in_channels, *pooled) if unpool else None
    bn = (
        normals(in_channels, seed=1, dtype=dtype) + 1.5,
        normals(in_channels, seed=2, dtype=dtype),
        normals(in_channels, seed=3, dtype=dtype),
        normals(in_channels, seed=4, dtype=dtype).abs() + 0.5,
    )
    fan_in = in_channels * kernel * kernel
    weight = (normals(out_channels, in_channels, kernel, kernel, seed=5) / fan_in**0.5).to(dtype)
    return (x, codes, size if unpool else None), bn, (weight, normals(out_channels, seed=6, dtype=dtype))


def convolution(case, dtype, device):
    """x, weight and bias."""
    (x, _, _), _, (weight, bias) = arguments(case, False, dtype)
    return x.to(device), weight.to(device), bias.to(device)


def run(module, case, unpool, training, dtype, layout="channels_last", compute=None, eps=1e-3, device="cpu"):
    """Output, running statistics and all gradients, in ``compute`` from values that are exact in ``dtype``."""
    compute = compute or dtype
    (x, codes, size), bn, conv = arguments(case, unpool, dtype, layout)
    x, codes = x.detach().to(device, compute), None if codes is None else codes.to(device)
    parameters = [t.to(device, compute) for t in (*bn[:2], *conv)]
    leaves = [t.requires_grad_() for t in (x, *parameters)]
    mean, var = (t.to(device, compute).clone() for t in bn[2:])
    output = module.bn_relu_conv2d(
        leaves[0], leaves[1], leaves[2], mean, var, leaves[3], leaves[4], training, 0.2, eps, codes, size
    )
    gradient = normals(*output.shape, seed=7, dtype=dtype).to(device, compute)
    return [output.detach(), mean, var, *torch.autograd.grad(output, leaves, gradient)]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("unpool", [False, True], ids=["map", "unpooled"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_reference_in_float64(device, case, unpool, training):
    if training and unpool and case[3] == (1, 1):
        return test_agrees_with_the_reference_in_float64(device, (16, 33, 3, (3, 1)), unpool, training)
    actual = run(ops, case, unpool, training, torch.float64, device=device)
    expected = run(reference, case, unpool, training, torch.float64, device=device)
    assert_channels_last(actual[0])
    for ours, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-11 * max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("unpool", [False, True], ids=["map", "unpooled"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_is_as_exact_as_torch(device, case, unpool, layout):
    # With fixed statistics: in training both divide by the same rounded statistics only by chance.
    results = [
        run(module, case, unpool, False, torch.float32, layout, compute, device=device)
        for module, compute in ((ops, torch.float32), (reference, torch.float32), (reference, torch.float64))
    ]
    for ours, torchs, truth in zip(*results, strict=True):
        assert_no_worse_than_torch(ours, torchs, truth)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=id_of)
def test_a_map_that_is_written_past_the_caches_is_the_same(dtype):
    x, weight = normals(1, 16, 513, 262, dtype=dtype), normals(32, 16, 3, 3, seed=1, dtype=dtype)
    large = ops.conv2d(x, weight)
    small = ops.conv2d(x[:, :, :100], weight)  # its last tiles of 4 and of 6 rows see rows that are not there
    assert small.nbytes < 4 << 20 < large.nbytes
    assert torch.equal(large[:, :, :96], small[:, :, :96])
    small = ops.conv2d(x[:, :, -105:], weight)  # from a row on at which tiles of both sizes begin
    assert torch.equal(large[:, :, -93:], small[:, :, -93:])


@pytest.mark.parametrize("dtype", HALVES, ids=id_of)
@pytest.mark.parametrize("unpool", [False, True], ids=["map", "unpooled"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_halves_are_as_exact_as_torch(device, case, unpool, dtype):
    results = [
        run(module, case, unpool, False, dtype, compute=compute, device=device)[0]
        for module, compute in ((ops, dtype), (reference, dtype), (reference, torch.float64))
    ]
    assert_no_worse_than_torch(*results)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("unpool", [False, True], ids=["map", "unpooled"])
@pytest.mark.parametrize(
    "case", [(16, 8, 3, (3, 5)), (17, 9, 3, (5, 2)), (3, 4, 3, (3, 4)), (2, 3, 7, (2, 3))], ids=str
)
def test_gradcheck(device, case, unpool, training):
    (x, codes, size), bn, conv = arguments(case, unpool, torch.float64)
    x, bn, conv = x.to(device), [t.to(device) for t in bn], [t.to(device) for t in conv]
    codes = None if codes is None else codes.to(device)

    def function(x, bn_weight, bn_bias, weight, bias):
        mean, var = (None, None) if training else bn[2:]
        return ops.bn_relu_conv2d(
            x, bn_weight, bn_bias, mean, var, weight, bias, training, codes=codes, output_size=size
        )

    leaves = [t.clone().requires_grad_() for t in (x, *bn[:2], *conv)]
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv2d(device, emulated, case, dtype, relu):
    x, weight, bias = convolution(case, dtype, device)
    output = ops.conv2d(x, weight, bias, relu)
    expected = reference.conv2d(x, weight, bias, relu)
    if emulated:  # torch rounds before it adds the bias on a GPU, behind it on the CPU
        expected = reference.conv2d(x, weight) + bias.view(-1, 1, 1)
        expected = expected.relu() if relu else expected
    truth = reference.conv2d(x.double(), weight.double(), bias.double(), relu)
    assert_channels_last(output)
    assert_no_worse_than_torch(output, expected, truth)
    assert_close(ops.conv2d(x, weight), reference.conv2d(x, weight))


@pytest.mark.parametrize("case", [(16, 8, 3, (3, 5)), (3, 4, 5, (3, 4))], ids=str)
def test_conv2d_with_relu_has_gradients(device, case):
    leaves = [t.clone().requires_grad_() for t in convolution(case, torch.float64, device)]
    assert torch.autograd.gradcheck(lambda *args: ops.conv2d(*args, relu=True), leaves, fast_mode=True)


@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv2d_relu_max_pool2d(device, case, dtype):
    x, weight, bias = convolution(case, dtype, device)
    output, codes = ops.conv2d_relu_max_pool2d(x, weight, bias)
    assert_channels_last(output)
    # The pool of our own convolution, exactly: where values tie, rounding would decide between other winners.
    expected, expected_codes = ops.max_pool2d_with_codes(ops.conv2d(x, weight, bias, relu=True), ceil_mode=True)
    assert_equal(output, expected)
    assert_equal(codes, expected_codes)


def test_codes_may_be_any_bytes():
    x, codes = normals(2, 19, 3, 4), random_bytes(2, 19, 3, 4)
    weight = normals(9, 19, 3, 3)
    ones = torch.ones(19, dtype=torch.float64)
    for size in ((5, 7), (6, 8), (7, 9)):
        args = (x, ones, 0 * ones, 0 * ones, ones, weight)
        actual = ops.bn_relu_conv2d(*args, codes=codes, output_size=size)
        assert_close(actual, reference.bn_relu_conv2d(*args, codes=codes, output_size=size))


def test_a_nan_stays_in_the_tiles_that_see_it():
    x = normals(1, 16, 24, 24, dtype=torch.float32)
    weight = normals(8, 16, 3, 3, dtype=torch.float32)
    clean = ops.conv2d(x, weight)
    x[0, 3, 9, 9] = float("nan")
    touched = ops.conv2d(x, weight).isnan()
    assert bool(touched[:, :, 8:11, 8:11].all())
    rows = torch.arange(24)
    near = (rows >= 8) & (rows < 12)
    assert not bool(touched[:, :, ~near].any()) and not bool(touched[:, :, :, ~near].any())
    assert_equal(ops.conv2d(x, weight)[~touched], clean[~touched])


def test_an_empty_batch(device):
    x = torch.zeros(0, 16, 6, 4, device=device, requires_grad=True)
    weight = normals(8, 16, 3, 3, dtype=torch.float32).to(device).requires_grad_()
    output = ops.conv2d(x, weight)
    assert output.shape == (0, 8, 6, 4)
    output.sum().backward()
    assert_equal(weight.grad, torch.zeros_like(weight))


@pytest.mark.parametrize("channels", [16, 5], ids=["kernel", "torch"])
def test_an_empty_batch_behind_batch_norm(device, channels):
    x, weight, scale, shift = (
        torch.ones(size, device=device, requires_grad=True)
        for size in ((0, channels, 6, 4), (8, channels, 3, 3), channels, channels)
    )
    statistics = torch.zeros(channels, device=device), torch.ones(channels, device=device)
    ops.bn_relu_conv2d(x, scale, shift, *statistics, weight).sum().backward()
    for tensor in (x, scale, shift, weight):
        assert_equal(tensor.grad, torch.zeros_like(tensor))


@pytest.mark.parametrize("case", [(64, 64, 3, (21, 30)), (40, 24, 3, (9, 8))], ids=str)
def test_results_do_not_depend_on_the_number_of_threads(case):
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        try:
            results.append(run(ops, case, True, True, torch.float32))
        finally:
            torch.set_num_threads(threads)
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            assert_equal(a, b)


def test_backward_keeps_the_input_alone(device):
    (x, codes, size), bn, (weight, bias) = arguments((32, 32, 3, (8, 8)), True, torch.float32)
    codes = codes.to(device)
    x, weight, bias = (
        t.to(device, memory_format=torch.channels_last if t.dim() == 4 else torch.preserve_format)
        for t in (x, weight, bias)
    )
    bn = [t.to(device) for t in bn]
    leaves = [t.requires_grad_() for t in (x, *bn[:2], weight, bias)]
    known = {t.data_ptr() for t in leaves}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ops.bn_relu_conv2d(
            leaves[0], leaves[1], leaves[2], None, None, weight, bias, True, codes=codes, output_size=size
        )
    extra = {t.data_ptr(): t.nbytes for t in kept if t.data_ptr() not in known}
    assert sum(extra.values()) == codes.nbytes + 2 * 32 * 4  # the statistics


@pytest.mark.parametrize("absent", [(), (1,), (2,), (1, 2), (4,), (1, 2, 4)], ids=str)
@pytest.mark.parametrize("unpool", [False, True], ids=["map", "unpooled"])
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (4,), (0, 3), ()], ids=str)
def test_gradients_are_computed_for_what_wants_them(device, wanted, unpool, absent):
    (x, codes, size), bn, (weight, bias) = arguments((16, 8, 3, (6, 5)), unpool, torch.float64)
    gradients = []
    # The reference on the CPU: torch's CUDA BatchNorm has no gradient for a bias without a weight.
    for module, place in ((ops, device), (reference, "cpu")):
        leaves = [t.to(place, copy=True).requires_grad_(i in wanted) for i, t in enumerate((x, *bn[:2], weight, bias))]
        given = [None if i in absent else leaf for i, leaf in enumerate(leaves)]
        statistics = [t.to(place) for t in bn[2:]]
        placed = None if codes is None else codes.to(place)
        output = module.bn_relu_conv2d(*given[:3], *statistics, *given[3:], codes=placed, output_size=size)
        assert output.requires_grad == any(i not in absent for i in wanted)
        if output.requires_grad:
            output.square().sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for i, (actual, expected) in enumerate(zip(*gradients, strict=True)):
        assert (actual is not None) == (i in wanted and i not in absent)
        if actual is not None:
            assert_close(actual, expected.to(device))


def test_second_derivatives_are_refused():
    weight = normals(8, 16, 3, 3)
    assert_no_double_backward(lambda x, w: ops.conv2d(x, w), normals(1, 16, 4, 4), weight)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=id_of)
@pytest.mark.parametrize("unpool", [False, True], ids=["map", "unpooled"])
@pytest.mark.parametrize("case", [(16, 8, 3, (6, 5)), (43, 70, 3, (9, 8)), (32, 64, 3, (2, 2))], ids=str)
def test_the_layout_of_the_weight_changes_no_result(case, unpool, dtype):
    (x, codes, size), bn, (weight, bias) = arguments(case, unpool, dtype)
    results = []
    for layout in ("contiguous", "channels_last"):
        leaves = [t.detach().requires_grad_() for t in (x, *bn[:2], LAYOUTS[layout](weight), bias)]
        output = ops.bn_relu_conv2d(*leaves[:3], *bn[2:], *leaves[3:], codes=codes, output_size=size)
        results.append((output, *torch.autograd.grad(output, leaves, normals(*output.shape, seed=7, dtype=dtype))))
        assert results[-1][4].stride() == leaves[3].stride()
    for contiguous, channels_last in zip(*results, strict=True):
        assert torch.equal(contiguous, channels_last)


@pytest.mark.parametrize("case", [(16, 8, 3, (6, 5)), (3, 4, 7, (6, 5))], ids=str)
@pytest.mark.parametrize("unpool", [False, True], ids=["map", "unpooled"])
def test_operators_are_registered_soundly(case, unpool):
    (x, codes, _), bn, (weight, bias) = arguments(case, unpool, torch.float32)
    height, width = case[3]
    op = torch.ops.segnet_ext.bn_relu_conv2d.default
    leaves = [t.requires_grad_() for t in (x, *bn[:2], weight, bias)]
    args = (leaves[0], *leaves[1:3], *bn[2:], False, 1e-5, codes, height, width, weight, bias, False)
    torch.library.opcheck(op, args)
    torch.library.opcheck(
        torch.ops.segnet_ext.conv2d_relu_max_pool2d.default,
        (normals(1, *x.shape[1:], dtype=torch.float32), weight.detach(), None),
    )


def test_compiles_whole():
    (x, codes, size), bn, (weight, bias) = arguments((16, 8, 3, (6, 5)), True, torch.float32)
    running = [t.clone() for t in bn[2:]]

    def function(x, weight):
        return ops.bn_relu_conv2d(x, *bn[:2], *running, weight, bias, True, codes=codes, output_size=size).sin()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    leaves = [t.clone().requires_grad_() for t in (x, weight)]
    actual = torch.autograd.grad(compiled(*leaves).sum(), leaves)
    expected = torch.autograd.grad(function(*leaves).sum(), leaves)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b)


def test_autocast():
    (x, codes, size), bn, (weight, bias) = arguments((16, 8, 3, (6, 5)), True, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.conv2d(x, weight, bias).dtype == torch.bfloat16
        output = ops.bn_relu_conv2d(x, *bn, weight, bias, codes=codes, output_size=size)
    assert output.dtype == torch.bfloat16


@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize(
    ("change", "argument", "got"),
    [
        ({"input": torch.zeros(16, 4, 4)}, "input", "4"),
        ({"weight": torch.zeros(8, 16, 2, 2)}, "weight", "2"),
        ({"weight": torch.zeros(8, 17, 3, 3)}, "weight", "17"),
        ({"output_size": (4, 4)}, "output_size", r"\(4, 4\)"),
        ({"running_mean": None}, "running_mean and running_var", "None"),
        ({"codes": torch.zeros(1, 2, 2, 4, dtype=torch.uint8), "output_size": (9, 4)}, "output_size", r"\(9, 4\)"),
    ],
    ids=["rank", "even", "channels", "size", "statistics", "impossible"],
)
def test_bad_input_is_refused_by_name(kernel, change, argument, got):
    good = {
        "input": normals(1, 16, 4, 4, dtype=torch.float32),
        "bn_weight": None,
        "bn_bias": None,
        "running_mean": torch.zeros(16),
        "running_var": torch.ones(16),
        "weight": normals(8, 16, kernel, kernel, dtype=torch.float32),
    }
    if "codes" in change:
        good["input"] = good["input"][:, :, :2, :2]
    assert_refuses(lambda: ops.bn_relu_conv2d(**good | change), "bn_relu_conv2d", argument, got)


@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize(
    ("change", "argument", "got"),
    [
        ({"bias": torch.zeros(7)}, "bias", "7"),
        ({"bias": torch.zeros(8, dtype=torch.float64)}, "bias", "double"),
        ({"weight": torch.zeros(8, 16, 3, 3, dtype=torch.float64)}, "weight", "double"),
        ({"weight": torch.zeros(0, 16, 3, 3)}, "weight", "0"),
        ({"bn_weight": torch.zeros(15)}, "weight", "15"),
        ({"codes": torch.zeros(1, 2, 2, 3, dtype=torch.uint8), "output_size": (4, 4)}, "codes", "3"),
    ],
    ids=["bias", "bias dtype", "weight dtype", "no channels", "bn_weight", "codes"],
)
def test_the_kernels_refuse_by_name(kernel, change, argument, got):
    good = {
        "input": normals(1, 16, *((2, 2) if "codes" in change else (4, 4)), dtype=torch.float32),
        "bn_weight": None,
        "bn_bias": None,
        "running_mean": torch.zeros(16),
        "running_var": torch.ones(16),
        "weight": normals(8, 16, kernel, kernel, dtype=torch.float32),
    }
    assert_refuses(lambda: ops.bn_relu_conv2d(**good | change), "bn_relu_conv2d", argument, got)


def test_refused_arguments_leave_the_running_statistics():
    mean, var = torch.zeros(16), torch.ones(16)
    with pytest.raises(ValueError, match="weight must"):
        ops.bn_relu_conv2d(integers(1, 16, 4, 4).float(), None, None, mean, var, torch.zeros(8, 3, 3, 3), training=True)
    assert_equal(mean, torch.zeros(16))
    assert_equal(var, torch.ones(16))
