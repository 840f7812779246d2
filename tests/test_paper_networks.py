"""FCN, DeepLab-LargeFOV and DeconvNet: each against its plain-torch twin, its size, its promises."""

import pytest
import torch
import torch.nn.functional as F
from cases import assert_equal, id_of, random_codes
from model_cases import assert_agree, randomise, results, thin_vgg16
from torch import nn

import segnet_ext
from segnet_ext import models, reference
from segnet_ext.checkpoint import MODEL_TYPES
from segnet_ext.models.vgg16 import vgg16_keys
from segnet_ext.nn import BNReLUMaxPool2d, MaxUnpoolConv2d

# Name on the command line -> parameters for 11 classes.
PARAMETERS = {
    "fcn": 134_338_913,
    "fcn-learnt-deconv": 134_373_761,
    "deeplab-largefov": 20_507_723,
    "deconvnet": 81_917_259,
}
NETWORKS = list(PARAMETERS)
DROPOUT = [name for name in NETWORKS if name != "deconvnet"]


def build(name: str, twin: bool = False, **arguments) -> nn.Module:
    """The network or its twin, of 3 classes and few channels: a quarter in the stages, 16 in fc6 and fc7."""
    kind = MODEL_TYPES[name]
    factory = getattr(reference, kind.factory.__name__) if twin else kind.factory
    with pytest.MonkeyPatch.context() as patch:
        thin_vgg16(patch)
        return factory(3, **{"fc_channels": 16, **kind.arguments, **arguments})


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request) -> list[nn.Module]:
    """The network and its twin in float64, with the same random content."""
    dropout = {"dropout": 0.0} if request.param in DROPOUT else {}
    fast, plain = (build(request.param, twin, **dropout).double() for twin in (False, True))
    randomise(plain, seed=0)
    fast.load_state_dict(plain.state_dict())
    return [fast, plain]


@pytest.mark.parametrize("size, training", [((32, 32), False), ((37, 45), True)], ids=id_of)
def test_agrees_with_the_reference_in_float64(pair, size, training):
    generator = torch.Generator().manual_seed(0)
    x, projection = (torch.randn(2, 3, *size, generator=generator, dtype=torch.float64) for _ in range(2))
    fast, plain = (results(model.train(training), x, projection) for model in pair)
    assert fast["output"].shape == (2, 3, *size)
    assert_agree(fast, plain, training)


@pytest.mark.parametrize("name", NETWORKS)
def test_same_keys_and_same_weights_from_one_seed(name):
    states = []
    for twin in (False, True):
        torch.manual_seed(3)
        states.append(build(name, twin).state_dict())
    assert list(states[0]) == list(states[1])
    for key, value in states[0].items():
        assert_equal(value, states[1][key])


@pytest.mark.parametrize("name", NETWORKS)
def test_parameter_counts(name):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in MODEL_TYPES[name].build(11).parameters()) == PARAMETERS[name]


def test_sizes_are_those_of_the_papers_table():
    # 539 and 83 MB (Table 6). DeconvNet's 877 MB are more than its fc layers of 1024 channels can take.
    assert 4 * PARAMETERS["fcn-learnt-deconv"] / 1e6 == pytest.approx(539, rel=0.005)
    assert 4 * PARAMETERS["deeplab-largefov"] / 1e6 == pytest.approx(83, rel=0.015)


@pytest.mark.parametrize("name", NETWORKS[1:])  # the first differs from the second in what nn.Upsample does alone
def test_exports_compiles_and_takes_half_precision(name):
    model, plain = (build(name, twin).eval() for twin in (False, True))
    plain.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 33, 48)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), expected)
        half, torchs = (module.to(torch.bfloat16)(x.to(torch.bfloat16)) for module in (model, plain))
    assert half.dtype == torch.bfloat16 and half.shape == expected.shape
    ours, theirs = (float((output.float() - expected).square().mean()) for output in (half, torchs))
    assert ours <= 2 * theirs


@pytest.mark.parametrize("name", NETWORKS)
def test_loads_vgg16(name):
    model = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    keys = {key: f"encoder.{ours}" for key, ours in vgg16_keys(batch_norm=True).items()}
    weights = {key: torch.rand(before[ours].shape).to(before[ours].dtype) for key, ours in keys.items()}
    model.load_vgg16(weights)
    for key, ours in keys.items():
        assert_equal(model.state_dict()[ours], weights[key])
    for key in before.keys() - keys.values():
        assert_equal(model.state_dict()[key], before[key])
    with pytest.raises(ValueError, match=r"^load_vgg16: the state dict must hold torchvision's vgg16"):
        model.load_vgg16({"features.0.weight": torch.zeros(1)})


@pytest.mark.parametrize("name", DROPOUT)
def test_dropout_is_at_work_in_training_alone(name):
    fast, plain = (build(name, twin).eval() for twin in (False, True))
    plain.load_state_dict(fast.state_dict())
    x = torch.randn(2, 3, 40, 48)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), plain(x), rtol=1e-3, atol=1e-3)
        assert torch.equal(fast(x), fast(x))
        for module in fast.modules():
            module.train(isinstance(module, nn.Dropout))  # as Monte Carlo dropout has it
        assert not torch.equal(fast(x), fast(x))
    assert [module.p for module in fast.modules() if isinstance(module, nn.Dropout)] == [0.5]


def test_fused_layers_sit_at_the_pools():
    def names(model, kind):
        return [name for name, module in model.named_modules() if isinstance(module, kind)]

    pools = [f"encoder.stage{s}.bn{2 if s < 3 else 3}" for s in (1, 2, 3, 4, 5)]
    with torch.device("meta"):
        assert names(models.FCN(2), BNReLUMaxPool2d) == pools
        assert names(models.DeepLabLargeFOV(2), BNReLUMaxPool2d) == pools[:3]
        assert names(models.DeconvNet(2), BNReLUMaxPool2d) == pools
        unpoolings = [f"decoder.stage{s}.conv{2 if s < 3 else 3}" for s in (5, 4, 3, 2, 1)]
        assert names(models.DeconvNet(2), MaxUnpoolConv2d) == unpoolings


def test_deconvolution_is_a_convolution_by_the_turned_kernel():
    conv = MaxUnpoolConv2d(8, 5).double()
    x, codes = torch.randn(2, 8, 5, 7).double(), random_codes(2, 8, 5, 7)
    indices = segnet_ext.ops.codes_to_indices(codes, (2, 8, 10, 14))
    kernel = conv.weight.flip(2, 3).transpose(0, 1)  # ConvTranspose2d's: [C, K, 3, 3]
    expected = F.conv_transpose2d(F.max_unpool2d(x, indices, 2, 2), kernel, conv.bias, padding=1)
    torch.testing.assert_close(conv(x, codes), expected)


def test_learnt_deconvolutions_start_as_the_fixed_ones():
    fixed, learnt = (build(name).eval() for name in ("fcn", "fcn-learnt-deconv"))
    for s in (5, 4, 3):
        upsampling = getattr(learnt, f"upsample{s}")
        x = torch.randn(1, 3, 6, 9)
        edge = upsampling.stride[0]
        inside = (..., slice(edge, -edge), slice(edge, -edge))
        torch.testing.assert_close(upsampling(x)[inside], getattr(fixed, f"upsample{s}")(x)[inside])


@pytest.mark.parametrize("name", NETWORKS)
def test_bad_arguments_and_input(name):
    kind = MODEL_TYPES[name]
    for make in (kind.factory, getattr(reference, kind.factory.__name__)):
        title = make.__name__
        with torch.device("meta"):
            with pytest.raises(ValueError, match=f"^{title}: num_classes must be at least 1, got 0$"):
                make(0)
            with pytest.raises(ValueError, match=f"^{title}: fc_channels must be at least 1, got 0$"):
                make(2, fc_channels=0)
            with pytest.raises(ValueError, match=rf"^{title}: input must be \[N, 3, H, W\] with H, W >= 32, got "):
                make(2, fc_channels=4)(torch.zeros(1, 3, 32, 31))


def test_freeze_refuses_them():
    with torch.device("meta"):
        model = models.DeconvNet(2, fc_channels=4)
    with pytest.raises(TypeError, match=r"^freeze: model must be .*got DeconvNet$"):
        segnet_ext.freeze(model)
