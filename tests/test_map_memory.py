"""Where the memory of large CPU maps comes from and goes to."""

import sys

import pytest
import torch
from cases import assert_equal
from torch.profiler import ProfilerActivity, profile

import segnet_ext
from segnet_ext import ops
from segnet_ext._extension import _C
from segnet_ext.measure import _status_bytes

needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere maps have torch's own memory")

MEBI = 1 << 20


def resident():
    """MiB of memory that this process has."""
    return _status_bytes("VmRSS") / MEBI


def large_map(mebibytes):
    """A result of so many MiB, of much smaller arguments."""
    image, weight = torch.ones(1, 16, 16 * mebibytes, 64), torch.ones(256, 16, 3, 3)
    with torch.no_grad():
        result = ops.conv2d(image, weight)
    assert result.nbytes == mebibytes * MEBI
    return result


@needs_linux
def test_memory_of_maps_is_given_back():
    large_map(24)  # which also starts threads
    segnet_ext.empty_cache()
    before = resident()
    maps = [large_map(24) for _ in range(16)]
    most = resident()
    assert most - before > 350
    between = [torch.ones(MEBI // 8)]  # that memory does not lie between the maps
    del maps[1::2]
    maps.append(large_map(100))  # fits none of what is free, of which some makes room
    assert resident() < most + 64  # of the threads' heaps
    del maps
    assert resident() - before < 256 + 64
    segnet_ext.empty_cache()
    assert resident() - before < 64
    assert between[0].sum() == MEBI // 8


@needs_linux
@pytest.mark.parametrize("mebibytes", [1, 3, 12])
def test_the_next_map_gets_the_memory_of_the_last(mebibytes):
    first = large_map(mebibytes)
    place = first.data_ptr()
    second = large_map(mebibytes)
    assert second.data_ptr() != place
    del first
    assert large_map(mebibytes).data_ptr() == place


@needs_linux
def test_large_maps_take_no_memory_of_medium_ones():
    segnet_ext.empty_cache()
    maps = [large_map(1), large_map(1)]
    places = {result.data_ptr() for result in maps}
    maps.append(large_map(40))
    maps.clear()
    maps.append(large_map(20))  # fits none of what is free
    assert {large_map(1).data_ptr() for _ in range(3)} <= places


@needs_linux
def test_blocks_of_a_pass():
    x, weight = torch.randn(1, 16, 300, 300), torch.randn(16, 16, 3, 3)
    with torch.inference_mode():
        expected = ops.conv2d(x, weight)
        assert expected.nbytes > 4 << 20
        with _C.MapReuse():
            first = ops.conv2d(x, weight)
            place = first.data_ptr()
            with _C.MapReuse():  # has blocks of its own
                assert ops.conv2d(x, weight).data_ptr() != place
            second = ops.conv2d(x, weight)
            assert second.data_ptr() != place
            del first
            third = ops.conv2d(x, weight)
            assert third.data_ptr() == place
            small = ops.conv2d(x[:, :, :8], weight)  # too small to lie in a block
        for result in (second, third):  # also when the blocks are gone
            assert_equal(result, expected)
        assert_equal(small[:, :, :7], expected[:, :, :7])


def test_a_map_can_be_resized():
    result = large_map(8)
    result.resize_(2, *result.shape)
    result.zero_()
    assert result.untyped_storage().nbytes() == 16 * MEBI
    assert result.sum() == 0


def test_a_map_outlives_the_pass_that_made_it():
    with _C.MapReuse():
        inside = large_map(8)
    outside = large_map(8)
    assert inside.data_ptr() != outside.data_ptr()
    assert_equal(inside, outside)


def test_the_profiler_sees_the_memory_of_maps():
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = large_map(8)
        del result
    sizes = [event.self_cpu_memory_usage for event in profiler.events()]
    assert max(sizes) >= 8 * MEBI
    assert min(sizes) <= -8 * MEBI
