"""Checkpoint files: round trips, and every kind of file that is none."""

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch

import segnet_ext
from segnet_ext.checkpoint import FORMAT, Checkpoint, read_checkpoint, write_checkpoint
from segnet_ext.data import CAMVID, ClassSet
from segnet_ext.errors import InputError
from segnet_ext.input_form import InputForm


def basic(training=None) -> Checkpoint:
    return Checkpoint("segnet-basic", CAMVID, (24, 32), segnet_ext.SegNetBasic(11).state_dict(), training)


def error_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_round_trip(tmp_path, name):
    written = basic()
    write_checkpoint(tmp_path / name, written)
    read = read_checkpoint(tmp_path / name)
    assert dataclasses.replace(read, weights={}) == dataclasses.replace(written, weights={})
    images = torch.randn(1, 3, 20, 28)
    model = segnet_ext.SegNetBasic(11)
    model.load_state_dict(written.weights)
    assert torch.equal(read.build_model()(images), model.eval()(images))
    assert [path.name for path in tmp_path.iterdir()] == [name], "no temporary file is left"


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_input_form_is_kept_and_used(tmp_path, name):
    form = InputForm((2, 1, 0), (58.0, 57.0, 57.5), (103.5, 116.25, 124.0))
    write_checkpoint(tmp_path / name, dataclasses.replace(basic(), input=form))
    read = read_checkpoint(tmp_path / name)
    assert read.input == form
    x = torch.randn(1, 3, 20, 28).double()
    own = x[:, [2, 1, 0]] * torch.tensor(form.scale).view(3, 1, 1) + torch.tensor(form.shift).view(3, 1, 1)
    model, plain = read.build_model().double(), dataclasses.replace(read, input=None).build_model().double()
    assert torch.equal(model(x), plain(own))
    torch.testing.assert_close(segnet_ext.freeze(model)(x), plain(own))
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_wrong_input_forms_are_named(tmp_path):
    path = tmp_path / "a.pt"
    write_checkpoint(path, dataclasses.replace(basic(), input=InputForm((0, 1, 2), (1.0,) * 3, (0.0,) * 3)))
    good = torch.load(path, weights_only=True)
    for form, message in [
        ({"order": [0, 1, 1], "scale": [1, 1, 1], "shift": [0, 0, 0]}, "must be of the same channels"),
        ({"order": [0], "scale": [1], "shift": [0]}, "must have 3 channels, got 1"),
        ({"order": [0, 1, 2]}, "'scale' is missing"),
    ]:
        torch.save(good | {"input": form}, path)
        assert message in error_of(path)
    torch.save(good | {"model": "fcn-basic"}, path)
    assert "fcn-basic takes no other input form" in error_of(path)


def test_training_state_is_kept(tmp_path):
    state = torch.get_rng_state()
    write_checkpoint(tmp_path / "a.pt", basic({"run": {"rng": state}}))
    training = read_checkpoint(tmp_path / "a.pt").training
    assert training is not None and torch.equal(training["run"]["rng"], state)


def test_segnet_and_other_classes(tmp_path):
    classes = ClassSet(("road", "rest"), ((1, 2, 3), (4, 5, 6)))
    write_checkpoint(tmp_path / "a.pt", Checkpoint("segnet", classes, (32, 32), segnet_ext.SegNet(2).state_dict()))
    read = read_checkpoint(tmp_path / "a.pt")
    assert read.classes == classes and isinstance(read.build_model(), segnet_ext.SegNet)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_truncated(tmp_path, name, share):
    path = tmp_path / name
    write_checkpoint(path, basic())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert error_of(path) == f"{path} is cut short or not a checkpoint of segnet-ext"


def test_foreign_files(tmp_path):
    path = tmp_path / "a.pt"
    assert error_of(path) == f"the checkpoint {path} does not exist"
    assert error_of(tmp_path) == f"the checkpoint {tmp_path} is not a file"
    path.write_text("hello")
    assert "cut short or not a checkpoint" in error_of(path)
    torch.save(segnet_ext.SegNetBasic(11).state_dict(), path)
    assert error_of(path) == f"{path} is not a checkpoint of segnet-ext"
    torch.save([1, 2], path)
    assert error_of(path) == f"{path} is not a checkpoint of segnet-ext"
    (tmp_path / "b.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    assert "not a checkpoint of segnet-ext" in error_of(tmp_path / "b.safetensors")


def test_code_in_a_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "a.pt"
    torch.save({"format": FORMAT, "trap": Trap()}, path)
    assert "cut short or not a checkpoint" in error_of(path)
    path.write_bytes(pickle.dumps(Trap()))
    assert "cut short or not a checkpoint" in error_of(path)
    assert not (tmp_path / "sprung").exists()


def test_wrong_contents_are_named(tmp_path):
    path = tmp_path / "a.pt"
    write_checkpoint(path, basic())
    good = torch.load(path, weights_only=True)

    def error_with(**changes) -> str:
        torch.save(good | changes, path)
        return error_of(path)

    assert "version 2; this segnet-ext reads version 1" in error_with(version=2)
    assert "one of segnet-basic, segnet, bayesian-segnet-basic" in error_with(model="unet")
    assert "got 'unet'" in error_with(model="unet")
    assert "size must be two positive integers" in error_with(size=[0, 5])
    assert "names and colors must be as many" in error_with(class_names=["only"])
    assert "weights must be tensors" in error_with(weights={"a": 1})
    weights = dict(good["weights"])
    kernel = weights.pop("classifier.weight")
    assert "the tensor classifier.weight of segnet-basic is missing" in error_with(weights=weights)
    cut = good["weights"] | {"classifier.weight": kernel[:5]}
    assert "classifier.weight must have the shape [11, 64, 1, 1], got [5, 64, 1, 1]" in error_with(weights=cut)
    assert "segnet-basic has no tensor extra" in error_with(weights=good["weights"] | {"extra": kernel})
    torch.save({key: value for key, value in good.items() if key != "size"}, path)
    assert "'size' is missing" in error_of(path)


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    write_checkpoint(path, basic())
    before = path.read_bytes()

    def full_disk(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(InputError, match=r"a\.pt cannot be written: No space left on device"):
        write_checkpoint(path, basic())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pt"]
