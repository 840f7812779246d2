"""freeze: outputs of the model, and everything one does with a module for inference."""

import copy
import io
import pickle
import threading

import pytest
import torch
from cases import assert_equal, id_of
from model_cases import MODELS, randomise
from tolerances import TOLERANCES
from torch import nn
from torch.nn import functional as F

import segnet_ext
from segnet_ext import SegNet, SegNetBasic, freeze
from segnet_ext.inference import average_over_views, monte_carlo_dropout


def models(name, seed=0):
    fast, plain = (model(num_classes=5) for model in MODELS[name])
    randomise(plain, seed)
    fast.load_state_dict(plain.state_dict())
    return fast.eval(), plain.eval()


@pytest.fixture(scope="module", params=MODELS)
def name(request):
    return request.param


def images(*size, n=2, seed=0):
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(32, 32), (45, 60), (37, 64)], ids=id_of)
def test_outputs_are_the_models_in_float64(name, size):
    fast, plain = models(name)
    frozen = freeze(fast.double())
    x = images(*size).double()
    with torch.inference_mode():
        expected, actual = plain.double()(x), frozen(x)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_outputs_are_the_models_in_float32(name):
    # A winner or a ReLU that rounding flips moves whole values: a seed where the model in plain torch itself is off by
    # more than rounding compares nothing and is passed over.
    for seed in range(8):
        fast, plain = models(name, seed)
        x = images(32, 48, seed=seed)
        with torch.inference_mode():
            actual, torchs = freeze(fast)(x), plain(x)
            truth = plain.double()(x.double())
        scale = float(truth.abs().max())
        ours, theirs = (float((found - truth).abs().max()) / scale for found in (actual, torchs))
        if ours <= 2 * theirs + 10 * TOLERANCES[torch.float32].tiny:
            return
    pytest.fail("at none of eight seeds were the same winners and ReLU branches taken")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=id_of)
def test_dtype(name, dtype):
    fast, _ = models(name)
    frozen = freeze(fast, dtype=dtype)
    x = images(32, 40)
    with torch.inference_mode():
        actual, expected = frozen(x), fast(x)
    assert actual.dtype == dtype and all(buffer.dtype == dtype for buffer in frozen.buffers())
    assert float((actual.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt()) < 0.15
    assert float((actual.argmax(1) == expected.argmax(1)).float().mean()) > 0.8


def test_the_model_is_left_alone(name):
    fast, _ = models(name)
    fast.train()
    before = copy.deepcopy(fast.state_dict())
    frozen = freeze(fast)
    frozen(images(32, 32))
    for key, value in fast.state_dict().items():
        assert_equal(value, before[key])
    assert fast.training
    own = {buffer.data_ptr() for buffer in frozen.buffers()}
    assert not own & {tensor.data_ptr() for tensor in fast.state_dict().values()}
    assert not list(frozen.parameters())


def test_train_changes_nothing(name):
    frozen = freeze(models(name)[0])
    x = images(32, 32)
    expected = frozen(x)
    assert frozen.train() is frozen and not frozen.training
    assert_equal(frozen(x), expected)
    assert not expected.requires_grad


def test_dropout_is_left_out():
    torch.manual_seed(0)
    bayesian = SegNet(num_classes=3, dropout=0.5).eval()
    plain = SegNet(num_classes=3).eval()
    plain.load_state_dict(bayesian.state_dict())
    x = images(32, 32)
    assert_equal(freeze(bayesian)(x), freeze(plain)(x))


def test_copies(name):
    frozen = freeze(models(name)[0])
    x = images(33, 47)
    expected = frozen(x)
    assert_equal(copy.deepcopy(frozen)(x), expected)
    assert_equal(pickle.loads(pickle.dumps(frozen))(x), expected)
    other = freeze(models(name, seed=1)[0])
    other.load_state_dict(frozen.state_dict())
    assert_equal(other(x), expected)
    file = io.BytesIO()
    torch.save(frozen.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_equal(other(x), expected)


def test_threads(name):
    frozen = freeze(models(name)[0])
    inputs = [images(32 + i, 40, seed=i) for i in range(4)]
    expected = [frozen(x) for x in inputs]
    found = [None] * 4

    def work(i):
        with torch.inference_mode():
            for _ in range(3):
                found[i] = frozen(inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for actual, wanted in zip(found, expected, strict=True):
        assert_equal(actual, wanted)


def test_results_of_passes_that_reuse_memory_are_apart():
    frozen = freeze(SegNet(num_classes=11).eval())
    images = torch.randn(2, 3, 176, 176)
    with torch.inference_mode():
        fresh = [type(frozen).forward.__wrapped__(frozen, image[None]) for image in images]
        results = [frozen(image[None]) for image in images]
    for result, expected in zip(results, fresh, strict=True):
        assert_equal(result, expected)


def test_export_and_compile(name):
    frozen = freeze(models(name)[0])
    x = images(32, 48)
    expected = frozen(x)
    assert_equal(torch.export.export(frozen, (x,)).module()(x), expected)
    assert_equal(torch.compile(frozen, fullgraph=True, backend="aot_eager")(x), expected)


def test_moves_between_dtypes(name):
    fast, _ = models(name)
    x = images(32, 32)
    assert freeze(fast).to(torch.bfloat16)(x).dtype == torch.bfloat16


def test_refusals(name):
    fast, _ = models(name)
    with pytest.raises(TypeError, match=r"freeze: model must be .*got Linear"):
        freeze(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"freeze: dtype must be .*got torch.int8"):
        freeze(fast, dtype=torch.int8)
    with pytest.raises(ValueError, match=r"Frozen\w+: input must be .*got \[1, 4, 32, 32\]"):
        freeze(fast)(torch.rand(1, 4, 32, 32))
    for module in fast.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = module.running_var = None
    with pytest.raises(ValueError, match="freeze: model must have running statistics"):
        freeze(fast)


def test_it_is_a_name_of_the_package():
    assert segnet_ext.freeze is freeze
    assert isinstance(freeze(SegNetBasic(2)), nn.Module)


# ---- Monte Carlo dropout


def bayesian():
    fast, plain = (model(num_classes=5, dropout=0.5) for model in MODELS["SegNetBasic"])
    randomise(plain, 0)
    fast.load_state_dict(plain.state_dict())
    # Masks are drawn in the order of the memory, which for the fast model is channels_last.
    return fast, plain.to(memory_format=torch.channels_last)


def test_monte_carlo_dropout_is_the_loop_in_plain_torch():
    fast, plain = (model.double() for model in bayesian())
    x = images(19, 22).double()
    before = copy.deepcopy(fast.state_dict())
    fast.train()
    fast.classifier.eval()
    modes = [module.training for module in fast.modules()]
    state = torch.get_rng_state()
    mean, variance = monte_carlo_dropout(fast, x, samples=6, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in fast.modules()] == modes
    for key, value in fast.state_dict().items():
        assert_equal(value, before[key])

    plain.eval()
    for module in plain.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    torch.manual_seed(3)
    with torch.no_grad():
        seen = x.contiguous(memory_format=torch.channels_last)
        samples = torch.stack([F.softmax(plain(seen), 1) for _ in range(6)])
    torch.testing.assert_close(mean, samples.mean(0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(variance, samples.var(0, correction=0), rtol=1e-9, atol=1e-9)
    assert float(variance.max()) > 1e-4, "the samples differ"


def test_monte_carlo_dropout_is_seeded():
    model, _ = bayesian()
    x = images(16, 20)
    once, again, other = (monte_carlo_dropout(model, x, 3, seed)[1] for seed in (1, 1, 2))
    assert torch.equal(once, again) and not torch.equal(once, other)
    first, second = (monte_carlo_dropout(model, x, 3)[1] for _ in range(2))
    assert not torch.equal(first, second), "without a seed, torch's generator goes on"
    assert not monte_carlo_dropout(model, x, 1, 0)[1].any()


def test_monte_carlo_dropout_in_half_precision_averages_in_float32():
    model, _ = bayesian()
    mean, variance = monte_carlo_dropout(model.bfloat16(), images(16, 20).bfloat16(), 3, 0)
    assert mean.dtype == variance.dtype == torch.float32
    torch.testing.assert_close(mean.sum(1), torch.ones(2, 16, 20))


def test_monte_carlo_dropout_refuses():
    for model in (SegNetBasic(5), freeze(bayesian()[0]), nn.Dropout(0)):
        expected = f"model must have dropout with a probability above 0, got {type(model).__name__} without"
        with pytest.raises(ValueError, match=expected):
            monte_carlo_dropout(model, images(32, 32))
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        monte_carlo_dropout(bayesian()[0], images(32, 32), samples=0)


# ---- test-time augmentation


def test_views_are_turned_back_and_averaged():
    x = images(8, 12)
    seen = []

    def predict(view):
        seen.append(view)
        return view

    # Each view says what it sees, so turned back they all say the same.
    torch.testing.assert_close(average_over_views(predict, x), x)
    assert len(seen) == 2 and torch.equal(seen[1], x.flip(-1))

    seen.clear()
    average_over_views(predict, x, scales=(0.5, 1, 1.25), mirror=False)
    assert [tuple(view.shape[-2:]) for view in seen] == [(4, 6), (8, 12), (10, 15)]


def test_views_of_a_model_are_the_mean_of_its_answers():
    model, _ = models("SegNetBasic")
    x = images(20, 28)
    with torch.inference_mode():
        actual = average_over_views(lambda view: model(view).softmax(1), x)
        expected = (model(x).softmax(1) + model(x.flip(-1)).softmax(1).flip(-1)) / 2
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("scales", [(), (0.0,), (1, -1), (float("nan"),)])
def test_views_refuse_scales(scales):
    with pytest.raises(ValueError, match="scales must be numbers above 0"):
        average_over_views(lambda view: view, images(8, 8), scales)
