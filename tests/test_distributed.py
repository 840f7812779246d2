"""Two processes that train together do what one does with the whole batches."""

import copy
import csv
import subprocess
import sys
from pathlib import Path

import distributed_worker
import pytest
import torch
from camvid_layout import write_camvid
from cases import assert_equal
from torch import nn
from worker_pair import run_pair

from segnet_ext.checkpoint import read_checkpoint
from segnet_ext.cli import main
from segnet_ext.nn import BNReLUMaxPool2d, SyncBatchNorm2d, SyncBNReLUMaxPool2d, convert_sync_batchnorm


@pytest.fixture(autouse=True)
def _one_thread(thread_count):
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("distributed")
    return run_pair(Path(distributed_worker.__file__), folder, timeout=300)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, name: str = "", tolerance: float = 1e-10) -> None:
    """Equal but for rounding in float64, of values of about 1."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, msg=lambda text: f"{name}: {text}")


def test_synchronised_layers_are_those_of_the_whole_batch(results):
    model, maps, weights = distributed_worker.layers()
    first, second = (result["layers"] for result in results)
    for x, mine, others in zip(maps, first["inputs"], second["inputs"], strict=True):
        x.requires_grad_()
        distributed_worker.layers_loss(model, x, weights).backward()
        assert_close(torch.cat([mine, others]), x.grad)
        x.requires_grad_(False)
    for name, parameter in model.named_parameters():
        assert_close(first["parameters"][name], parameter.grad, name)
    assert first["state"].keys() == model.state_dict().keys()
    for name, expected in model.state_dict().items():
        assert_close(first["state"][name].double(), expected.double(), name)
        assert_equal(second["state"][name], first["state"][name])
    with torch.no_grad():
        assert_close(first["evaluated"], model.eval()(maps[0]))


@pytest.mark.parametrize("name", distributed_worker.RUNS)
def test_a_run_is_that_of_one_process(results, name):
    ours, others = (result["runs"][name] for result in results)
    settings = distributed_worker.RUNS[name] | {"grad_checkpointing": False}
    alone = distributed_worker.outcome(distributed_worker.training_run(name, **settings))
    for key, value in alone["weights"].items():
        # Four steps through all layers let differences grow.
        assert_close(ours["weights"][key].double(), value.double(), key, 1e-8)
        assert_equal(others["weights"][key], ours["weights"][key])
    assert others["figures"] == ours["figures"]
    # The loss is in float32; so are the logits that it sees.
    assert ours["figures"] == pytest.approx(alone["figures"], rel=1e-6)


def test_converting_keeps_parameters_and_keys():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), BNReLUMaxPool2d(4, ceil_mode=True), nn.Sequential(nn.BatchNorm2d(4)))
    before, keys = list(model.parameters()), list(model.state_dict())
    assert convert_sync_batchnorm(model.eval()) is model
    assert [type(model[1]), type(model[2][0])] == [SyncBNReLUMaxPool2d, SyncBatchNorm2d]
    assert model[1].ceil_mode and not model[1].training
    assert all(a is b for a, b in zip(model.parameters(), before, strict=True)) and list(model.state_dict()) == keys
    assert type(convert_sync_batchnorm(nn.BatchNorm2d(4))) is SyncBatchNorm2d


def test_alone_nothing_is_synchronised():
    plain, x = nn.BatchNorm2d(4), torch.randn(2, 4, 5, 6)
    synchronised = convert_sync_batchnorm(copy.deepcopy(plain))
    assert_equal(synchronised(x), plain(x))
    assert_equal(synchronised.running_var, plain.running_var)


def test_a_run_is_resumed_bit_by_bit(results):
    for result in results:
        straight, resumed = result["resumed"]["straight"], result["resumed"]["resumed"]
        for key, value in straight.items():
            assert_equal(resumed[key], value)
    first, second = results[0]["resumed"]["random"]
    assert not torch.equal(first, second), "each process draws its own dropout"


def log(folder: Path) -> list[dict[str, str]]:
    with open(folder / "log.csv") as file:
        return list(csv.DictReader(file))


def test_a_process_that_leaves_says_all_and_has_its_status(tmp_path):
    script = "from segnet_ext.distributed import leave\nprint('said', end='')\nleave(3)\nprint('never')"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert (run.returncode, run.stdout, run.stderr) == (3, "said", "")


def test_torchrun(tmp_path, capfd):
    data = write_camvid(tmp_path / "camvid")
    options = ["--data", str(data), "--workers", "0", "--threads", "1", "--out"]
    fresh = ["--model", "segnet-basic", "--size", "16x24", "--lr", "0.005", "--epochs", "2"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "segnet_ext", "train", *options, str(tmp_path / "two"), *fresh, "--batch-size", "2"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert [line.split()[:2] for line in run.stdout.splitlines()] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert run.stderr.count("class weights: Sky") == 1
    assert main(["train", *options, str(tmp_path / "one"), *fresh, "--batch-size", "4"]) == 0
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}
    for ours, alone in zip(log(tmp_path / "two"), log(tmp_path / "one"), strict=True):
        assert float(ours["loss"]) == pytest.approx(float(alone["loss"]), rel=1e-3)
    weights, expected = (read_checkpoint(tmp_path / name / "last.pt").weights for name in ("two", "one"))
    for key in expected:
        torch.testing.assert_close(weights[key], expected[key], rtol=1e-4, atol=1e-6)
    capfd.readouterr()
    assert main(["train", *options, str(tmp_path / "two"), "--resume"]) == 2
    assert "is of 2 processes, not 1: start it again by torchrun --nproc-per-node 2" in capfd.readouterr().err
