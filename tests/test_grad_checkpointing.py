"""Checkpointed models: the same results and statistics as without, with less kept for backward."""

import copy
import pickle
from collections import Counter

import pytest
import torch
from cases import assert_equal
from model_cases import assert_agree, randomise, results, thin_vgg16
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import segnet_ext
from segnet_ext.checkpoint import MODEL_TYPES
from segnet_ext.measure import saved_bytes
from segnet_ext.models.stage import Stage
from segnet_ext.nn import convert_sync_batchnorm


def build(name: str, **arguments) -> nn.Module:
    """A model of 3 classes and few channels, with random content, checkpointed; in training mode."""
    kind = MODEL_TYPES[name]
    if "fc_channels" in kind.factory.__init__.__annotations__:
        arguments = {"fc_channels": 16, **arguments}
    with pytest.MonkeyPatch.context() as patch:
        thin_vgg16(patch)
        model = kind.factory(3, **{**kind.arguments, **arguments})
    randomise(model, seed=0)
    model.set_grad_checkpointing()
    return model


def without(model: nn.Module) -> nn.Module:
    """A copy that keeps all maps."""
    twin = copy.deepcopy(model)
    twin.set_grad_checkpointing(False)
    return twin


def batch(size: tuple[int, int] = (37, 45)) -> tuple[torch.Tensor, torch.Tensor]:
    """Images for a model of :func:`build`, and what its output is multiplied with."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, *size, generator=generator), torch.randn(2, 3, *size, generator=generator)


def seeded_results(model: nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)  # of dropout
    return results(model, *batch())


def assert_same_results(model: nn.Module) -> None:
    expected = seeded_results(without(model))
    actual = seeded_results(model)
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert_equal(actual[key], value)


def calls(model: nn.Module) -> Counter[str]:
    """Counts, from now on, how often each stage runs."""
    counts: Counter[str] = Counter()
    for name, module in model.named_modules():
        if isinstance(module, Stage):
            module.register_forward_pre_hook(lambda module, args, name=name: counts.update([name]))
    return counts


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", MODEL_TYPES)
def test_results_and_statistics_are_the_same(name, training, thread_count):
    assert_same_results(build(name).train(training))


@pytest.mark.parametrize("name", MODEL_TYPES)
def test_all_stages_but_the_last_run_again(name):
    model = build(name)
    counts = calls(model)
    x, projection = batch()
    output = model(x)
    assert set(counts.values()) == {1}
    (output * projection).sum().backward()
    *others, last = (name for name, module in model.named_modules() if isinstance(module, Stage))
    assert [counts[name] for name in others] == [2] * len(others) and counts[last] == 1
    assert saved_bytes(model, x) < saved_bytes(without(model), x)


def test_segnet_keeps_what_stands_between_stages():
    model = build("segnet")
    x, _ = batch((64, 96))
    kept = []
    for stage in model.modules():
        if isinstance(stage, Stage):
            stage.register_forward_pre_hook(lambda stage, args: kept.extend(a for a in args if torch.is_tensor(a)))
    model(x)
    between = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    inside_the_last = 2 * 16 * 64 * 96 * 4  # the classifier's input
    few = 64 * 1024  # statistics
    assert saved_bytes(model, x) <= sum(between.values()) + inside_the_last + few


def test_backward_can_run_twice():
    model = build("segnet")
    loss = model(batch()[0]).square().mean()
    loss.backward(retain_graph=True)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    once = [parameter.grad.clone() for parameter in model.parameters()]
    loss.backward()
    for parameter, gradient in zip(model.parameters(), once, strict=True):
        assert_equal(parameter.grad, 2 * gradient)
    for key, value in model.state_dict().items():
        assert_equal(value, state[key])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_checkpointed(mode):
    model = build("segnet")
    twin = without(model)
    with mode():
        assert_equal(model(batch()[0]), twin(batch()[0]))
    for buffer, other in zip(model.buffers(), twin.buffers(), strict=True):
        assert_equal(buffer, other)


def test_cumulative_average_counts_each_batch_once():
    model = build("segnet-basic")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    twin = without(model)
    for _ in range(3):
        for each in (model, twin):
            each(batch()[0]).sum().backward()
    for (key, buffer), (_, other) in zip(model.named_buffers(), twin.named_buffers(), strict=True):
        assert_equal(buffer, other)
        assert not key.endswith("num_batches_tracked") or buffer == 3


def test_an_error_in_backward_leaves_the_statistics():
    model = build("segnet")
    output = model(batch()[0])
    state = {key: value.clone() for key, value in model.state_dict().items()}
    buffers = [id(buffer) for buffer in model.buffers()]

    def fail(module, args):
        raise RuntimeError("no")

    handle = model.encoder.stage3.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no"):
        output.sum().backward()
    handle.remove()
    assert [id(buffer) for buffer in model.buffers()] == buffers
    for key, value in model.state_dict().items():
        assert_equal(value, state[key])


@pytest.mark.parametrize("name", ["segnet", "bayesian-segnet-basic"])
def test_autocast(name):
    model = build(name)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_results(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype):
    model = build("segnet").to(dtype)
    x, projection = (tensor.to(dtype) for tensor in batch())
    expected, actual = (results(each, x, projection) for each in (without(model), model))
    for key, value in expected.items():
        assert_equal(actual[key], value)


def test_copies_keep_the_setting_and_state_dicts_have_none():
    model = build("segnet")
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        counts = calls(copied)
        copied(batch()[0]).sum().backward()
        assert counts["encoder.stage1"] == 2
    assert list(model.state_dict()) == list(without(model).state_dict())
    counts = calls(twin := without(model))
    twin(batch()[0]).sum().backward()
    assert set(counts.values()) == {1}


def test_freezes_and_exports():
    model = build("segnet").eval()
    x = torch.randn(1, 3, 33, 48)
    with torch.no_grad():
        expected = model(x)
        assert torch.allclose(segnet_ext.freeze(model)(x), expected, rtol=1e-4, atol=1e-4)
    exported = torch.export.export(model, (x,)).module()
    assert torch.allclose(exported(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["segnet", "bayesian-segnet-basic"])
def test_compiles_as_one_graph(name):
    torch._dynamo.reset()
    model = build(name, dropout=0.0).double()
    twin = without(model)
    x, projection = (tensor.double() for tensor in batch())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    (compiled(x) * projection).sum().backward()
    actual = {f"grad {key}": parameter.grad for key, parameter in model.named_parameters()}
    actual |= {key: buffer.clone() for key, buffer in model.named_buffers()}
    expected = results(twin, x, projection)
    assert_agree(actual, {key: expected[key] for key in actual}, training=True)
    torch._dynamo.reset()


def test_alone_in_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        model = convert_sync_batchnorm(build("segnet-basic"))
        expected = seeded_results(without(model))
        parallel = DistributedDataParallel(model)
        torch.manual_seed(2)
        x, projection = batch()
        (parallel(x) * projection).sum().backward()
        for key, parameter in model.named_parameters():
            assert_equal(parameter.grad, expected[f"grad {key}"])
        for key, buffer in model.named_buffers():
            assert_equal(buffer, expected[key])
    finally:
        torch.distributed.destroy_process_group()
