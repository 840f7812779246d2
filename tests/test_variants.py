"""The decoder variants of the paper's Table 1: each against its plain-torch twin, and the paper's parameter counts."""

import pytest
import torch
import torch.nn.functional as F
from cases import assert_equal, id_of
from model_cases import assert_agree, randomise, results
from torch import nn

import segnet_ext
from segnet_ext import models, reference
from segnet_ext.checkpoint import MODEL_TYPES
from segnet_ext.cli import _settings

# Table 1's row -> name on the command line, millions of parameters in the paper, and what ours has for 11 classes.
TABLE_1 = {
    "Bilinear-Interpolation": ("bilinear-interpolation", 0.625, 613_003),
    "SegNet-Basic": ("segnet-basic", 1.425, 1_416_587),
    "SegNet-Basic-EncoderAddition": ("segnet-basic-encoder-addition", 1.425, 1_416_587),
    "SegNet-Basic-SingleChannelDecoder": ("segnet-basic-single-channel-decoder", 0.625, 626_315),
    "FCN-Basic": ("fcn-basic", 0.65, 646_839),
    "FCN-Basic-NoAddition": ("fcn-basic-no-addition", 0.65, 643_979),
    "FCN-Basic-NoDimReduction": ("fcn-basic-no-dim-reduction", 1.625, 1_661_579),
    "FCN-Basic-NoAddition-NoDimReduction": ("fcn-basic-no-addition-no-dim-reduction", 1.625, 1_661_579),
}
VARIANTS = [name for name, _, _ in TABLE_1.values() if name != "segnet-basic"]


def pair(name, dtype=torch.float64, num_classes=3, **arguments) -> list[nn.Module]:
    """The fast model and its twin with the same random content."""
    kind = MODEL_TYPES[name]
    twin = getattr(reference, kind.factory.__name__)
    fast, plain = (make(num_classes, **kind.arguments, **arguments).to(dtype) for make in (kind.factory, twin))
    randomise(plain, seed=0)
    fast.load_state_dict(plain.state_dict())
    return [fast, plain]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("size", [(16, 16), (37, 45)], ids=id_of)
@pytest.mark.parametrize("name", VARIANTS)
def test_agrees_with_the_reference_in_float64(name, size, training):
    fast, plain = pair(name, width=16)
    generator = torch.Generator().manual_seed(0)
    x, projection = (torch.randn(2, 3, *size, generator=generator, dtype=torch.float64) for _ in range(2))
    assert_agree(results(fast.train(training), x, projection), results(plain.train(training), x, projection), training)


@pytest.mark.parametrize("name", VARIANTS)
def test_same_keys_and_same_weights_from_one_seed(name):
    kind = MODEL_TYPES[name]
    states = []
    for make in (kind.factory, getattr(reference, kind.factory.__name__)):
        torch.manual_seed(3)
        states.append(make(5, **kind.arguments, width=8).state_dict())
    assert list(states[0]) == list(states[1])
    for key, value in states[0].items():
        assert_equal(value, states[1][key])


# The paper gives its counts in steps of 0.025 M. Ours are the nearest step, but for NoDimReduction: its four kernels
# of 64 x 64 x 8 x 8 are 2^20 weights, which the paper seems to count as 1.0 M beside the 0.625 M of encoder and
# classifier; without that they round to 1.65. The paper's models have no biases; ours have the prototxt files', 0.5 k.
@pytest.mark.parametrize("row", TABLE_1)
def test_parameter_counts_are_the_papers(row):
    name, paper, ours = TABLE_1[row]
    count = sum(parameter.numel() for parameter in MODEL_TYPES[name].build(11).parameters())
    assert count == ours
    unexplained = 2**20 - 10**6 if "NoDimReduction" in row else 0
    assert abs(count - unexplained - paper * 1e6) <= 12_500


@pytest.mark.parametrize("name", VARIANTS)
def test_exports_and_takes_half_precision(name):
    model = pair(name, torch.float32, width=8)[0].eval()
    x = torch.randn(2, 3, 33, 48)
    with torch.no_grad():
        expected = model(x)
        program = torch.export.export(model, (x,))
        torch.testing.assert_close(program.module()(x), expected)
        half = model.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16 and half.shape == expected.shape
    assert float((half.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt()) < 0.1


def test_upsampling_starts_as_bilinear_interpolation():
    model = models.FCNBasic(4, width=8, addition=False)
    x = torch.randn(1, 4, 6, 9)
    upsampled = model.decoder.stage1.upsample(x)
    expected = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsampled[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


def test_encoder_addition_without_its_maps_is_segnet_basic():
    # With the scale of the encoder's BatchNorms at 0 and a shift below 0, ReLU leaves maps of zeros to add.
    added, basic = models.SegNetBasicEncoderAddition(3, width=8).eval(), segnet_ext.SegNetBasic(3, width=8).eval()
    for module in added.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.weight)
            nn.init.constant_(module.bias, -1.0)
    basic.load_state_dict(added.state_dict())
    x = torch.randn(1, 3, 33, 40)
    torch.testing.assert_close(added(x), basic(x))


@pytest.mark.parametrize("name", VARIANTS)
def test_bad_arguments_and_input(name):
    kind = MODEL_TYPES[name]
    for make in (kind.factory, getattr(reference, kind.factory.__name__)):
        title = make.__name__
        with pytest.raises(ValueError, match=f"^{title}: num_classes must be at least 1, got 0$"):
            make(0)
        with pytest.raises(ValueError, match=f"^{title}: width must be at least 1, got 0$"):
            make(2, width=0)
        with pytest.raises(ValueError, match=rf"^{title}: input must be \[N, 3, H, W\] with H, W >= 16, got "):
            make(2, width=4)(torch.zeros(1, 3, 16, 15))


@pytest.mark.parametrize("name", VARIANTS)
def test_frozen_they_give_the_same(name):
    fast, plain = (model.eval() for model in pair(name, width=8))
    for lrn in (True, False):
        fast.lrn = plain.lrn = lrn
        frozen = segnet_ext.freeze(fast)
        for size in [(16, 16), (37, 45)]:
            x = torch.rand(2, 3, *size, dtype=torch.float64)
            with torch.inference_mode():
                actual, expected = frozen(x), plain(x)
                half = segnet_ext.freeze(fast, torch.bfloat16)(x)
            torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
            assert half.dtype == torch.bfloat16 and not list(frozen.parameters())
            assert float((half - expected).square().mean().sqrt() / expected.square().mean().sqrt()) < 0.15
    assert not {buffer.data_ptr() for buffer in frozen.buffers()} & {value.data_ptr() for value in fast.parameters()}


@pytest.mark.parametrize("name, model", [("bayesian-segnet-basic", "SegNetBasic"), ("bayesian-segnet", "SegNet")])
def test_bayesian_models_have_the_dropout_of_the_prototxt(name, model):
    with torch.device("meta"):
        built, plain = MODEL_TYPES[name].build(2), getattr(segnet_ext, model)(2)
    assert type(built) is getattr(segnet_ext, model)
    probabilities = [module.p for module in built.modules() if isinstance(module, nn.Dropout)]
    assert probabilities == [0.5] * (6 if model == "SegNet" else 4)
    assert built.state_dict().keys() == plain.state_dict().keys()


def test_train_knows_every_model():
    assert list(_settings.MODELS) == list(MODEL_TYPES)
