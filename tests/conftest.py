"""Fixtures and settings shared by all tests."""

import importlib
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


def _emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the operations run their CUDA side on the host, with CPU tensors."""
    import emulation

    importlib.import_module("segnet_ext.ops")  # whose modules are looked up below
    if reason := emulation.missing():
        if os.environ.get("SEGNET_EXT_REQUIRE_EMULATION") == "1":
            pytest.fail(f"{reason}, and SEGNET_EXT_REQUIRE_EMULATION=1 asks for it")
        pytest.skip(f"{reason} (SEGNET_EXT_REQUIRE_EMULATION=1 turns this skip into a failure)")
    module = emulation.load()
    for name, operation in list(sys.modules.items()):
        if name.startswith("segnet_ext.ops.") and hasattr(operation, "_C"):
            monkeypatch.setattr(operation, "_C", module)
    # Of any kernel, as for a tensor on CUDA.
    monkeypatch.setattr(sys.modules["segnet_ext.ops.bn_relu_conv2d"], "_has_kernel", lambda input, weight: True)


@pytest.fixture(params=["cpu", "emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Every device the ops run on; `emulated` executes the CUDA kernels on the CPU."""
    if request.param == "cpu":
        return torch.device("cpu")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # the tests compare float32, not tf32
    if request.param == "emulated":
        _emulate(monkeypatch)
        return torch.device("cpu")
    _require_cuda()
    return torch.device("cuda")


@pytest.fixture
def emulated(request: pytest.FixtureRequest) -> bool:
    """Whether this is the row of `device` that executes CUDA kernels on the host, which takes its time."""
    return request.node.callspec.params["device"] == "emulated"


@pytest.fixture
def cuda_device() -> torch.device:
    """A GPU, for tests that mean nothing elsewhere."""
    _require_cuda()
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def thread_count():
    """Restores torch's thread count after a test that sets it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
