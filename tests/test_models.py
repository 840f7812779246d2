"""Both models against the reference (the master test), their layout and their errors."""

import functools
import unittest.mock
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import assert_channels_last, assert_equal, id_of, random_codes
from model_cases import MODELS, assert_agree, pair, randomise, results, scale
from tolerances import TOLERANCES, assert_no_worse_than_torch
from torch import nn

from segnet_ext import SegNet, SegNetBasic, ops, reference
from segnet_ext.models.segnet_basic import BasicDecoderStage
from segnet_ext.nn import BNReLUMaxPool2d, MaxUnpoolConv2d
from segnet_ext.ops._batch_norm import batch_moments

SIZES = [(32, 32), (37, 45), (64, 48)]


def images(*size: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images and the projection of their three-class logits to a number. Values are exact in float32."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, 3, *size, generator=generator).to(dtype) for _ in range(2))


# --------------------------------------------------------------------------------------------------------- master test


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("size", SIZES, ids=id_of)
@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_the_reference_in_float64(name, size, training):
    fast, plain = pair(name, seed=0)
    x, projection = images(*size)
    assert_agree(results(fast.train(training), x, projection), results(plain.train(training), x, projection), training)


# In float32 a network of max pools and ReLUs jumps where two pixels tie or a value is 0, so rounding can send either
# model down another branch than the float64 truth takes. A seed where that happens compares nothing and is passed over;
# a wrong result would change branches at every seed. Whole gradients go through fifty layers, where BatchNorm over few
# values multiplies rounding: they are compared in float64 above, and stage by stage here. All run in channels_last, as
# our models do: torch's own kernels round differently in its two layouts.

DTYPES = [torch.float32, torch.float32, torch.float64]  # of a trio


def decisions(
    model: nn.Module, fused: set[str], relu: Callable[[str], bool], run: Callable[[], object]
) -> list[torch.Tensor]:
    """What rounding can flip in ``run()``: winners of the pools at BatchNorms ``fused``, and signs at the ReLUs."""
    found = []

    def observer(name):
        def observe(_module, _inputs, output):
            if isinstance(output, tuple):  # BNReLUMaxPool2d
                found.extend([output[1], output[0] > 0])
            elif name in fused:  # the reference's BatchNorm before a pool
                output, codes = reference.max_pool2d_with_codes(F.relu(output), ceil_mode=True)
                found.extend([codes, output > 0])
            else:
                found.append(output > 0)

        return observe

    def channels(vector):
        return vector.double()[:, None, None]

    handles = [
        module.register_forward_hook(observer(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d) and relu(name)
    ]

    def fused_op(input, bn_weight, bn_bias, running_mean, running_var, weight, bias, training, momentum, eps, *unpool):
        # As the operation does it: torch's own rounding may differ in a sign. In float64 the product is exact.
        mean, var = batch_moments(input) if training else (running_mean, running_var)
        scale = bn_weight * (var + eps).rsqrt()
        shift = bn_bias - mean * scale
        found.append(input.double() * channels(scale) + channels(shift) > 0)
        args = (running_mean, running_var, weight, bias, training, momentum, eps)
        return bn_relu_conv2d(input, bn_weight, bn_bias, *args, *unpool)

    # A BatchNorm that is fused with the convolution behind it is not called, so no hook on it runs.
    bn_relu_conv2d = ops.bn_relu_conv2d
    with torch.no_grad(), unittest.mock.patch.object(ops, "bn_relu_conv2d", fused_op):
        run()
    for handle in handles:
        handle.remove()
    return found


def same(paths: list[list[torch.Tensor]]) -> bool:
    return all(torch.equal(a, b) for path in paths[1:] for a, b in zip(path, paths[0], strict=True))


def fused_names(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, BNReLUMaxPool2d)}


def assert_within_twice_torchs_error(actual, torchs, truth, training) -> None:
    for key, value in truth.items():
        largest = scale(key, truth, training)
        ours, theirs = (float((found[key] - value).abs().max()) / largest for found in (actual, torchs))
        limit = 2 * theirs + TOLERANCES[torch.float32].tiny
        assert ours <= limit, f"{key}: relative error {ours:.3g}, torch's own {theirs:.3g}"


@pytest.fixture(scope="module", params=MODELS)
def trio(request) -> list[nn.Module]:
    """The fast model and the reference in float32, and the reference in float64; contents are the test's to set."""
    fast, plain = MODELS[request.param]
    return [fast(num_classes=3), plain(num_classes=3), plain(num_classes=3).double()]


def fill(trio: list[nn.Module], seed: int) -> None:
    randomise(trio[1], seed)
    for model in (trio[0], trio[2]):
        model.load_state_dict(trio[1].state_dict())


def test_outputs_are_as_exact_as_torchs_in_float32(trio):
    relu = (lambda _name: True) if isinstance(trio[0], SegNet) else (lambda name: name.startswith("encoder."))
    for seed in range(6):
        fill(trio, seed)
        x, _ = images(32, 32, seed=seed)
        outputs, paths = [], []
        for model, dtype in zip(trio, DTYPES, strict=True):
            run = functools.partial(model.eval(), x.to(dtype, memory_format=torch.channels_last))
            paths.append(decisions(model, fused_names(trio[0]), relu, run))
            outputs.append(run().detach())
        if same(paths):
            assert_no_worse_than_torch(*outputs)
            return
    pytest.fail("at none of six seeds did the models take the same winners and ReLU branches")


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_stages_are_as_exact_as_torchs_in_float32(trio, half, training):
    fill(trio, seed=0)
    for name, _ in getattr(trio[0], half).named_children():
        stages = [getattr(m, half).get_submodule(name).train(training) for m in trio]
        for seed in range(6):
            if agree_or_differ_in_branch(stages, half, seed, training):
                break
        else:
            pytest.fail(f"{half}.{name}: at none of six seeds were the same winners and ReLU branches taken")


def agree_or_differ_in_branch(stages: list[nn.Module], half: str, seed: int, training: bool) -> bool:
    """Compare one stage's results on one random input; False if rounding changed a branch."""
    generator = torch.Generator().manual_seed(seed)
    channels = next(m.in_channels for m in stages[0].modules() if isinstance(m, nn.Conv2d))
    x = torch.randn(2, channels, 11, 14, generator=generator).double()
    pools: list[tuple] = [()] * 3
    if half == "decoder":
        x = x.relu()
        codes, size = random_codes(2, channels, 11, 14, seed=seed), (21, 28)
        indices = reference.codes_to_indices(codes, (2, channels, *size))
        pools = [(codes, size), (indices, size), (indices, size)]
    basic_decoder = half == "decoder" and isinstance(stages[0], BasicDecoderStage)

    found, paths = [], []
    for stage, extra, dtype in zip(stages, pools, DTYPES, strict=True):
        x = x.to(dtype, memory_format=torch.channels_last)

        def run(stage=stage, extra=extra, x=x):
            output = stage(x, *extra)
            return output[0] if isinstance(output, tuple) else output

        paths.append(decisions(stage, fused_names(stages[0]), lambda _name: not basic_decoder, run))
        leaf = x.clone().requires_grad_()
        output = run(x=leaf)
        projection = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed + 100)).to(x.dtype)
        gradients = torch.autograd.grad((output * projection).sum(), [leaf, *stage.parameters()])
        names = ["grad input", *(f"grad {name}" for name, _ in stage.named_parameters())]
        found.append({"output": output.detach(), **dict(zip(names, gradients, strict=True))})
    if not same(paths):
        return False
    assert_within_twice_torchs_error(*found, training)
    return True


# -------------------------------------------------------------------------------------------------------------- layout


@pytest.mark.parametrize("name", MODELS)
def test_same_keys_and_same_weights_from_one_seed(name):
    states = []
    for model in MODELS[name]:
        torch.manual_seed(3)
        states.append(model(num_classes=5).state_dict())
    assert list(states[0]) == list(states[1])
    for key, value in states[0].items():
        assert_equal(value, states[1][key])


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameter_counts():
    assert parameters(SegNet(num_classes=11)) == 29_449_355
    assert parameters(SegNetBasic(num_classes=11)) == 1_416_587


def test_segnet_layers_are_those_of_the_prototxt():
    # Output channels of conv1_1 ... conv5_3, conv5_3_D ... conv1_2_D, conv1_1_D, in order.
    convs = {
        name: (m.in_channels, m.out_channels) for name, m in SegNet(11).named_modules() if isinstance(m, nn.Conv2d)
    }
    assert convs == {
        "encoder.stage1.conv1": (3, 64),
        "encoder.stage1.conv2": (64, 64),
        "encoder.stage2.conv1": (64, 128),
        "encoder.stage2.conv2": (128, 128),
        "encoder.stage3.conv1": (128, 256),
        "encoder.stage3.conv2": (256, 256),
        "encoder.stage3.conv3": (256, 256),
        "encoder.stage4.conv1": (256, 512),
        "encoder.stage4.conv2": (512, 512),
        "encoder.stage4.conv3": (512, 512),
        "encoder.stage5.conv1": (512, 512),
        "encoder.stage5.conv2": (512, 512),
        "encoder.stage5.conv3": (512, 512),
        "decoder.stage5.conv3": (512, 512),
        "decoder.stage5.conv2": (512, 512),
        "decoder.stage5.conv1": (512, 512),
        "decoder.stage4.conv3": (512, 512),
        "decoder.stage4.conv2": (512, 512),
        "decoder.stage4.conv1": (512, 256),
        "decoder.stage3.conv3": (256, 256),
        "decoder.stage3.conv2": (256, 256),
        "decoder.stage3.conv1": (256, 128),
        "decoder.stage2.conv2": (128, 128),
        "decoder.stage2.conv1": (128, 64),
        "decoder.stage1.conv2": (64, 64),
        "classifier": (64, 11),
    }


def test_fused_layers_sit_at_the_pools():
    def names(model, kind):
        return [name for name, module in model.named_modules() if isinstance(module, kind)]

    assert names(SegNet(2), BNReLUMaxPool2d) == [f"encoder.stage{s}.bn{2 if s < 3 else 3}" for s in (1, 2, 3, 4, 5)]
    assert names(SegNet(2), MaxUnpoolConv2d) == [f"decoder.stage{s}.conv{2 if s < 3 else 3}" for s in (5, 4, 3, 2, 1)]
    assert names(SegNetBasic(2), BNReLUMaxPool2d) == [f"encoder.stage{s}.bn" for s in (1, 2, 3, 4)]
    assert names(SegNetBasic(2), MaxUnpoolConv2d) == [f"decoder.stage{s}.conv" for s in (4, 3, 2, 1)]


@pytest.mark.parametrize("model, bn_bias", [(SegNet, 0.0), (SegNetBasic, 0.001)])
def test_initialisation_is_the_prototxts(model, bn_bias):
    for module in model(num_classes=11).modules():
        if isinstance(module, nn.Conv2d):
            assert not module.bias.any()
            if module.weight.numel() > 10_000:
                expected = (2 / module.weight[0].numel()) ** 0.5
                assert float(module.weight.std()) == pytest.approx(expected, rel=0.05)
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and torch.allclose(module.bias, torch.tensor(bn_bias))


# ------------------------------------------------------------------------------------------------- arguments and input


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("SegNet", {"in_channels": 1, "extra_conv": True}),
        ("SegNetBasic", {"in_channels": 6}),
        ("SegNetBasic", {"lrn": False, "width": 5}),
    ],
)
def test_other_arguments_agree_with_the_reference(name, arguments):
    fast, plain = pair(name, seed=0, **arguments)
    x = torch.randn(2, arguments.get("in_channels", 3), 33, 40, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), plain(x), rtol=1e-9, atol=1e-9)


def test_lrn_changes_the_result():
    plain = SegNetBasic(3, width=8).eval()
    without = SegNetBasic(3, width=8, lrn=False).eval()
    without.load_state_dict(plain.state_dict())
    x = 20 * torch.randn(1, 3, 16, 16)
    assert not torch.allclose(plain(x), without(x))


DROPOUTS = {
    "SegNet": [
        "encoder.stage3",
        "encoder.stage4",
        "encoder.stage5",
        "decoder.stage5",
        "decoder.stage4",
        "decoder.stage3",
    ],
    "SegNetBasic": ["encoder.stage3", "encoder.stage4", "decoder.stage4", "decoder.stage3"],
}


@pytest.mark.parametrize("name, places", DROPOUTS.items())
def test_dropout_sits_where_bayesian_segnet_has_it(name, places):
    for model in MODELS[name]:
        found = {place: m.p for place, m in model(2, dropout=0.5).named_modules() if isinstance(m, nn.Dropout)}
        assert found == {f"{place}.dropout": 0.5 for place in places}
        assert not any(isinstance(m, nn.Dropout) for m in model(2).modules())


def test_dropout_draws_in_training_and_rests_in_evaluation():
    model = SegNetBasic(2, dropout=0.5, width=8)
    x = torch.randn(2, 3, 16, 16)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"num_classes": 2, "in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"num_classes": 2, "dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"num_classes": 2, "dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1"),
        ({"num_classes": 2, "dropout": float("nan")}, r"dropout must be in \[0, 1\), got nan"),
    ],
)
def test_bad_arguments(name, arguments, message):
    for model in MODELS[name]:
        with pytest.raises(ValueError, match=f"^{name}: {message}$"):
            model(**arguments)


def test_bad_width():
    for model in MODELS["SegNetBasic"]:
        with pytest.raises(ValueError, match=r"^SegNetBasic: width must be at least 1, got 0$"):
            model(2, width=0)


@pytest.mark.parametrize(
    "shape", [(1, 3, 16, 15), (1, 3, 15, 64), (1, 4, 64, 64), (3, 64, 64), (1, 1, 3, 64, 64)], ids=id_of
)
@pytest.mark.parametrize("name, least", [("SegNet", 32), ("SegNetBasic", 16)])
def test_bad_input(name, least, shape):
    for model in MODELS[name]:
        with pytest.raises(ValueError) as raised:
            model(2)(torch.zeros(shape))
        assert str(raised.value) == f"{name}: input must be [N, 3, H, W] with H, W >= {least}, got {list(shape)}"


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name, least", [("SegNet", 32), ("SegNetBasic", 16)])
def test_least_size(name, least, training):
    model = MODELS[name][0](2).train(training)
    assert model(torch.randn(1, 3, least, least)).isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_empty_batch(name):
    model = MODELS[name][0](2).eval()
    assert model(torch.zeros(0, 3, 33, 47)).shape == (0, 2, 33, 47)


@pytest.mark.parametrize("name", MODELS)
def test_activations_are_channels_last(name):
    model = MODELS[name][0](2).eval()
    seen = []
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.register_forward_hook(
                lambda _module, _inputs, output: seen.append(output[0] if isinstance(output, tuple) else output)
            )
    with torch.no_grad():
        model(torch.randn(2, 3, 40, 56))
    for activation in seen:
        assert_channels_last(activation)


def test_randomise_reaches_every_tensor():
    model = SegNetBasic(3, width=8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    randomise(model, seed=0)
    for key, value in model.state_dict().items():
        assert not value.is_floating_point() or not torch.equal(value, before[key]), key
