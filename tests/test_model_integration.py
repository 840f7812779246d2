"""The models inside the machinery of torch: compile, export, copies, dtypes, layouts, workers, processes."""

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from cases import HALVES, assert_equal, id_of
from model_cases import MODELS, pair, randomise
from tolerances import assert_close
from torch.utils.data import DataLoader, Dataset
from worker_pair import run_pair

from segnet_ext import SegNetBasic


@pytest.fixture(params=MODELS)
def name(request) -> str:
    return request.param


def make(name: str) -> torch.nn.Module:
    model = MODELS[name][0](num_classes=3, **({"width": 8} if name == "SegNetBasic" else {}))
    randomise(model, seed=0)
    return model.eval()


# --------------------------------------------------------------------------------------------------- compile and export


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_compiles_as_one_graph(name, training, fresh_compiler):
    model = make(name).train(training)
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 33, 48)
    output, expected = compiled(x), twin(x)
    assert_close(output, expected)
    output.square().mean().backward()
    expected.square().mean().backward()
    for (key, parameter), (_, other) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        if parameter.dim() == 4:
            assert_close(parameter.grad, other.grad)
    for (_, buffer), (_, other) in zip(model.named_buffers(), twin.named_buffers(), strict=True):
        assert_close(buffer.float(), other.float())


def test_compiles_with_dynamic_shapes(name, fresh_compiler):
    model = make(name)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for size in [(2, 33, 48), (3, 40, 35), (4, 64, 51)]:
            x = torch.randn(size[0], 3, *size[1:])
            assert_close(compiled(x), model(x))


def test_compiles_with_inductor(fresh_compiler):
    model = make("SegNetBasic")
    x = torch.randn(2, 3, 17, 24)
    with torch.no_grad():
        assert_close(torch.compile(model, fullgraph=True)(x), model(x))


def test_exports_and_survives_a_file(name):
    model = make(name)
    # AUTO, not Dim("h", min=...): torch guards strides with inequalities it cannot prove for every H and W.
    sizes = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(model, (torch.randn(2, 3, 45, 61),), dynamic_shapes={"x": sizes})
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    with torch.no_grad():
        for shape in [(2, 3, 45, 61), (1, 3, 64, 48), (3, 3, 40, 33)]:
            x = torch.randn(shape)
            assert_close(loaded(x), model(x))


# ------------------------------------------------------------------------------------------------ copies, dtype, layout


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies(name, copied):
    model = make(name)
    x = torch.randn(1, 3, 32, 40)
    with torch.no_grad():
        assert_equal(copied(model)(x), model(x))


def test_state_dict_round_trip_through_a_file(name, tmp_path):
    model = make(name)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = make(name)
    randomise(other, seed=1)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    x = torch.randn(1, 3, 32, 40)
    with torch.no_grad():
        assert_equal(other(x), model(x))


@pytest.mark.parametrize("dtype", HALVES, ids=id_of)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_half_precision(name, dtype, training):
    model = make(name).train(training).to(dtype)
    output = model(torch.randn(2, 3, 32, 40, dtype=dtype))
    assert output.dtype == dtype and output.isfinite().all()
    output.float().square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad.dtype == dtype and parameter.grad.isfinite().all(), key


def test_autocast(name):
    model = make(name)
    x = torch.randn(2, 3, 32, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(x)
    assert output.dtype == torch.bfloat16
    output.float().square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all(), key


def test_memory_format(name):
    model = make(name)
    x = torch.randn(2, 3, 32, 40)
    with torch.no_grad():
        expected = model(x)
        moved = copy.deepcopy(model).to(memory_format=torch.channels_last)
        assert_close(moved(x), expected)
        assert_close(moved(x.contiguous(memory_format=torch.channels_last)), expected)
        assert_close(model(x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)), expected)


def test_a_step_of_sgd_lowers_the_loss(name):
    fast, _ = pair(name, seed=0, dtype=torch.float32)
    x, labels = torch.randn(2, 3, 32, 32), torch.randint(0, 3, (2, 32, 32))
    optimizer = torch.optim.SGD(fast.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):  # in the first few, BatchNorm over the last stage's few values has it rise now and then
        loss = torch.nn.functional.cross_entropy(fast(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


# ------------------------------------------------------------------------------------------------ workers and processes


class Predictions(Dataset):
    """Items that a model computes inside the worker."""

    def __init__(self, model: torch.nn.Module, images: torch.Tensor) -> None:
        self.model, self.images = model, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        with torch.no_grad():
            return self.model(self.images[index : index + 1])[0]


@pytest.mark.parametrize("threads", [1, 2])
def test_runs_in_forked_workers(name, threads, thread_count):
    torch.set_num_threads(threads)
    model, images = make(name), torch.randn(4, 3, 32, 40)
    with torch.no_grad():
        expected = model(images)  # starts the parent's threads, which the workers do not have
    loader = DataLoader(
        Predictions(model, images), batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    assert_close(torch.cat(list(loader)), expected)


def test_distributed_data_parallel(tmp_path):
    first, second = run_pair(Path(__file__).with_name("ddp_worker.py"), tmp_path, timeout=120)
    for key in ("initial", "gradients", "trained"):
        for name, value in first[key].items():
            assert_equal(second[key][name], value)

    alone = SegNetBasic(num_classes=3, width=8).double()
    alone.load_state_dict(first["initial"])
    alone.eval()(first["x"]).square().mean().backward()
    for name, parameter in alone.named_parameters():
        assert_close(first["gradients"][name], parameter.grad)
