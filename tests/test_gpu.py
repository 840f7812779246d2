"""What only a GPU can show: streams, graphs, silence on the device's queue. Values are compared in the op tests."""

import pytest
import torch
from cases import normals

from segnet_ext.ops import bn_relu_max_pool2d, max_unpool2d_conv2d

pytestmark = pytest.mark.gpu


@pytest.fixture
def x(cuda_device):
    map_ = normals(2, 64, 30, 44).half().to(cuda_device, memory_format=torch.channels_last)
    return map_.requires_grad_()


@pytest.fixture
def step(x):
    """Encoder end and decoder start with gradients, as a function that returns all results."""
    weight = (normals(32, 64, 3, 3, seed=1) / 24).half().to(x.device).requires_grad_()
    scale, shift = (torch.ones(64, device=x.device).requires_grad_() for _ in range(2))
    mean, var = torch.zeros(64, device=x.device), torch.ones(64, device=x.device)

    def run():
        pooled, codes = bn_relu_max_pool2d(x, scale, shift, mean, var, True, ceil_mode=True)
        output = max_unpool2d_conv2d(pooled, codes, weight, output_size=x.shape)
        gradients = torch.autograd.grad(output, (x, weight, scale, shift), torch.ones_like(output))
        return [output.detach(), *gradients]

    run()
    torch.cuda.synchronize()
    return run


def test_nothing_waits_for_the_device(step):
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_current_stream_is_used(x, step):
    before = x.detach().clone()
    with torch.no_grad():
        x.mul_(2)
    expected = step()
    with torch.no_grad():
        x.copy_(before)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        with torch.no_grad():
            x.mul_(2)  # not done yet when a kernel on another stream would read it
        actual = step()
    assert not stream.query()
    stream.synchronize()
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)


def test_graphs_capture_and_replay(step):
    expected = step()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        actual = step()
    for _ in range(2):
        for tensor in actual:
            tensor.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        for a, b in zip(actual, expected, strict=True):
            assert torch.equal(a, b)


def test_tensors_of_another_device_than_the_current_one(step):
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device only")
    with torch.cuda.device(1):
        results = step()
    assert all(result.device.index == 0 for result in results)
