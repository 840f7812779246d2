"""What the fused operations keep for backward, counted through saved_tensors_hooks."""

import gc

import pytest
import torch
from cases import FLOATS, LAYOUTS, id_of, normals, random_codes
from torch.utils.checkpoint import checkpoint

from segnet_ext import reference
from segnet_ext.ops import bn_relu_conv2d, bn_relu_max_pool2d, max_pool2d_with_codes, max_unpool2d_conv2d


def saved_storages(function):
    """Bytes of each distinct storage that ``function`` saves for backward, by address, and the tensors."""
    saved = []

    def pack(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = function()
    assert output.requires_grad
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in saved}
    return storages, saved


def nbytes(*tensors):
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_bn_relu_max_pool2d_keeps_input_statistics_codes_and_a_full_precision_output(device, layout, dtype, training):
    channels = 64
    x = LAYOUTS[layout](normals(2, channels, 24, 32, dtype=dtype).to(device)).requires_grad_()
    weight, bias, mean, variance = (torch.ones(channels, device=device, dtype=dtype) for _ in range(4))
    weight.requires_grad_()
    bias.requires_grad_()
    kept = []

    def run():
        output, codes = bn_relu_max_pool2d(x, weight, bias, mean, variance, training)
        kept.append(codes)
        if training and dtype in (torch.float32, torch.float64):
            kept.append(output)
        return output

    storages, saved = saved_storages(run)
    assert any(tensor.dtype == torch.uint8 and tensor.shape == kept[0].shape for tensor in saved)
    # At most a handful of values a channel (parameters, statistics) beside the input, the codes and that output.
    assert sum(storages.values()) <= nbytes(x, *kept) + 6 * channels * 8
    if layout == "channels_last":
        assert x.untyped_storage().data_ptr() in storages


def test_max_pool2d_with_codes_keeps_the_codes(device):
    x = normals(2, 64, 24, 32).to(device).requires_grad_()
    kept = []

    def run():
        output, codes = max_pool2d_with_codes(x)
        kept.append(codes)
        return output

    storages, _ = saved_storages(run)
    assert sum(storages.values()) == nbytes(kept[0]) == 2 * 12 * 16 * 16


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("dtype", FLOATS, ids=id_of)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_max_unpool2d_conv2d_keeps_the_pooled_map_and_codes(device, layout, dtype, relu):
    x = LAYOUTS[layout](normals(2, 32, 12, 16, dtype=dtype).to(device)).requires_grad_()
    codes = random_codes(2, 32, 12, 16).to(device)
    weight = normals(16, 32, 3, 3, dtype=dtype).to(device).requires_grad_()
    bias = normals(16, dtype=dtype).to(device).requires_grad_()
    outputs = []

    def run():
        outputs.append(max_unpool2d_conv2d(x, codes, weight, bias, relu=relu))
        return outputs[0]

    storages, _ = saved_storages(run)
    assert sum(storages.values()) <= nbytes(x, codes, weight, bias, *(outputs if relu else ()))
    assert codes.untyped_storage().data_ptr() in storages


def test_only_what_the_wanted_gradients_need_is_kept(device):
    codes = random_codes(2, 32, 12, 16).to(device)
    x, weight = normals(2, 32, 12, 16).to(device), normals(16, 32, 3, 3).to(device)
    bias = normals(16).to(device).requires_grad_()
    storages, _ = saved_storages(lambda: max_unpool2d_conv2d(x, codes, weight, bias))
    assert sum(storages.values()) <= nbytes(x, codes, weight)


def test_the_reference_keeps_many_times_more(device):
    x = LAYOUTS["channels_last"](normals(2, 64, 24, 32).float().to(device)).requires_grad_()
    weight, bias, mean, variance = (torch.ones(64, device=device) for _ in range(4))
    ours, _ = saved_storages(lambda: bn_relu_max_pool2d(x, weight, bias, mean, variance, True)[0])
    theirs, _ = saved_storages(lambda: reference.bn_relu_max_pool2d(x, weight, bias, mean, variance, True)[0])
    assert sum(theirs.values()) > 1.9 * sum(ours.values())


@pytest.mark.parametrize("elements", [1, 3, 4, 5, 64, 67])
def test_codes_take_two_bits_a_window(device, elements):
    _, codes = max_pool2d_with_codes(normals(2, elements, 8, 8).to(device))
    assert codes.numel() == 2 * 4 * 4 * -(-elements // 4)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x, codes, weight: bn_relu_max_pool2d(x, training=True)[0],
        lambda x, codes, weight: max_pool2d_with_codes(x)[0],
        lambda x, codes, weight: max_unpool2d_conv2d(x, codes, weight, relu=True),
        lambda x, codes, weight: bn_relu_conv2d(x, None, None, None, None, weight, training=True),
    ],
    ids=["bn_relu_max_pool2d", "max_pool2d_with_codes", "max_unpool2d_conv2d", "bn_relu_conv2d"],
)
def test_nothing_outlives_checkpointing(device, operation):
    x = normals(2, 8, 11, 13).to(device).requires_grad_()
    codes, weight = random_codes(2, 8, 11, 13).to(device), normals(8, 8, 3, 3).to(device).requires_grad_()

    def is_map(thing):
        return issubclass(type(thing), torch.Tensor) and thing.shape == x.shape

    alive = []
    for _ in range(3):
        # Torch breaks the second run off as soon as all that backward needs is saved: inside the operation.
        checkpoint(operation, x, codes, weight, use_reentrant=False).sum().backward()
        gc.collect()
        alive.append(sum(map(is_map, gc.get_objects())))
    assert alive[0] == alive[2]
