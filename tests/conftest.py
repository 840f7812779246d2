"""Fixtures and settings shared by all tests."""

import os
import sys
from pathlib import Path

import hypothesis
import pytest
import torch

# The tests share plain modules (tolerances, cases) and are collected with --import-mode=importlib, which leaves
# sys.path alone.
sys.path.insert(0, str(Path(__file__).parent))

hypothesis.settings.register_profile("default", deadline=None, max_examples=50)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


def _require_cuda() -> None:
    """Skip, or fail where SEGNET_EXT_REQUIRE_CUDA=1, when no CUDA device or no CUDA build is there."""
    import segnet_ext

    if not torch.cuda.is_available():
        reason = "no CUDA device"
    elif not segnet_ext.build_info()["cuda"]:
        reason = "segnet_ext was built without CUDA"
    else:
        return
    if os.environ.get("SEGNET_EXT_REQUIRE_CUDA") == "1":
        pytest.fail(f"{reason}, and SEGNET_EXT_REQUIRE_CUDA=1 asks for one")
    pytest.skip(f"{reason} (SEGNET_EXT_REQUIRE_CUDA=1 turns this skip into a failure)")


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device the ops run on."""
    if request.param == "cuda":
        _require_cuda()
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def thread_count():
    """Restores torch's thread count after a test that sets it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
