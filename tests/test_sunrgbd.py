"""SUN RGB-D: the toolbox's .mat files, the two layouts in PNG files, and what is refused."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from data_files import error_of, save, save_image
from scipy import io

import segnet_ext.errors
from segnet_ext.data import SUNRGBD, Loader, palette, sunrgbd_dataset
from segnet_ext.loss import median_frequency_weights


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_sunrgbd_classes():
    assert len(SUNRGBD) == len(set(SUNRGBD.colors)) == 37 and (0, 0, 0) not in SUNRGBD.colors
    # Of VOClabelcolormap.m, without its black first.
    assert palette(4) == ((128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))
    assert palette(255)[-1] == (224, 224, 192) and len(set(palette(255))) == 255


def png_layout(root: Path, random: np.random.Generator, reorganized: bool) -> Path:
    """11 images to train and 2 to test; label maps of two columns: the image's number, and void."""
    for part, count in (("train", 11), ("test", 2)):
        for number in range(1, count + 1):
            if reorganized:
                image = root / "image" / part / f"img-{number:06}.jpg"
                label = root / "label37" / part / f"{number:08}.png"
            else:
                image = root / f"SUNRGBD-{part}_images" / f"img-{number:06}.jpg"
                shift = 5050 if part == "train" else 0
                label = root / "sunrgbd_train_test_labels" / f"img-{number + shift:06}.png"
            save_image(image, random, (6, 8))
            save(np.repeat(np.array([[number, 0]], np.uint8), 6, 0).repeat(4, 1), label)
    return root


@pytest.mark.parametrize("reorganized", [True, False])
def test_sunrgbd_png(tmp_path, random, reorganized):
    root = png_layout(tmp_path, random, reorganized)
    splits = {split: sunrgbd_dataset(root, split) for split in ("train", "val", "trainval", "test")}
    assert {split: len(dataset) for split, dataset in splits.items()} == {
        "train": 10, "val": 1, "trainval": 11, "test": 2,
    }  # fmt: skip
    assert [splits["train"].load_label(index)[0, 0] for index in range(10)] == [*range(9), 10]
    assert splits["val"].load_label(0)[0].tolist() == [9] * 4 + [37] * 4
    assert splits["test"].load_label(1)[0, 0] == 1
    assert splits["train"].classes == SUNRGBD
    weights = median_frequency_weights(splits["trainval"])
    assert weights.tolist() == [1.0] * 11 + [0.0] * 26, "each class has half of the pixels of the image that has it"

    path = splits["test"].pairs[0][1]
    save(np.full((6, 8), 38, np.uint8), path)
    assert error_of(splits["test"].load_label, 0) == (
        f"{path} has the label 38 at row 0, column 0, which SUN RGB-D (0 to 37) does not have"
    )
    save(np.zeros((6, 8, 3), np.uint8), path)
    assert "single-channel" in error_of(splits["test"].load_label, 0)
    path.unlink()
    assert error_of(sunrgbd_dataset, root, "test").startswith(f"{splits['test'].pairs[0][0]} has no labels: ")


def test_sunrgbd_png_with_a_number_twice(tmp_path, random):
    root = png_layout(tmp_path, random, reorganized=True)
    save_image(root / "image" / "test" / "other-2.png", random)
    assert "have the same number" in error_of(sunrgbd_dataset, root, "test")


SCENES = ("kv1/NYUdata/NYU0001", "kv2/kinect2data/000002_2014", "xtion/sun3ddata/home/0003", "realsense/lg/0004")


@pytest.fixture
def toolbox(tmp_path, random) -> Path:
    """Four scenes of the release, three to train with and one to test; labels 1 to 4 by scene, and a column of void."""
    root = tmp_path / "sun"
    metadata = root / "SUNRGBDtoolbox" / "Metadata"
    metadata.mkdir(parents=True)
    authors = "/n/fs/sun3d/data/SUNRGBD"
    meta = np.zeros((1, 4), [("rgbpath", object), ("rgbname", object)])
    with h5py.File(metadata / "SUNRGBD2Dseg.mat", "w", userblock_size=512) as file:
        references = file.create_dataset("SUNRGBD2Dseg/seglabel", (4, 1), h5py.ref_dtype)
        for index, scene in enumerate(SCENES):
            save_image(root / "SUNRGBD" / scene / "image" / f"{index:07}.jpg", random, (6, 8))
            meta[0, index] = (f"{authors}/{scene}/image/{index:07}.jpg", f"{index:07}.jpg")
            label = np.full((6, 8), index + 1, np.uint8)
            label[:, 0] = 0
            references[index, 0] = file.create_dataset(f"#refs#/{index}", data=label.T).ref
    io.savemat(metadata / "SUNRGBDMeta.mat", {"SUNRGBDMeta": meta})
    io.savemat(metadata / "seg37list.mat", {"seg37list": np.array([SUNRGBD.names], object)})
    splits = root / "SUNRGBDtoolbox" / "traintestSUNRGBD"
    splits.mkdir()
    scenes = np.array([[f"{authors}/{scene}" for scene in SCENES]], object)
    io.savemat(splits / "allsplit.mat", {"alltrain": scenes[:, 1:], "alltest": scenes[:, :1]})
    return root


def test_sunrgbd_toolbox(toolbox):
    test, train = (sunrgbd_dataset(toolbox, split, (12, 16)) for split in ("test", "train"))
    assert [image for image, _ in test.pairs] == [toolbox / "SUNRGBD" / SCENES[0] / "image" / "0000000.jpg"]
    assert test.load_label(0).tolist() == [[37] + [0] * 7] * 6
    assert len(train) == 3
    alone, shared = (list(Loader(train, 2, workers=workers)) for workers in (0, 1))
    for (_, labels), (_, others) in zip(alone, shared, strict=True):
        assert torch.equal(labels, others)
    labels = torch.cat([labels for _, labels in alone])
    assert labels.shape == (3, 12, 16) and labels[:, 0, -1].tolist() == [1, 2, 3] and (labels[:, :, :2] == 37).all()
    assert train.sample_size(0) == (12, 16) and sunrgbd_dataset(toolbox, "train").sample_size(0) == (6, 8)
    assert train.fingerprint() == sunrgbd_dataset(toolbox, "trainval").fingerprint() != test.fingerprint()


def test_sunrgbd_toolbox_with_other_labels(toolbox):
    path = toolbox / "SUNRGBDtoolbox" / "Metadata" / "SUNRGBD2Dseg.mat"
    image = toolbox / "SUNRGBD" / SCENES[0] / "image" / "0000000.jpg"
    dataset = sunrgbd_dataset(toolbox, "test")
    with h5py.File(path, "r+") as file:
        file["#refs#/0"][3, 2] = 38
    message = (
        f"{image}, entry 1 of {path}, has the label 38 at row 2, column 3, which SUN RGB-D (0 to 37) does not have"
    )
    assert error_of(dataset.load_label, 0) == message
    with h5py.File(path, "r+") as file:
        file["SUNRGBD2Dseg/seglabel"][0, 0] = file.create_dataset("#refs#/x", data=np.zeros((8, 5), np.uint8)).ref
    message = f"{image} is 6x8 but its labels, entry 1 of {path}, are 5x8 (height x width)"
    assert error_of(sunrgbd_dataset, toolbox, "test") == message


def test_sunrgbd_toolbox_that_is_damaged(toolbox):
    metadata = toolbox / "SUNRGBDtoolbox" / "Metadata"
    io.savemat(metadata / "seg37list.mat", {"seg37list": np.array([[*SUNRGBD.names[:-1], "suitcase"]], object)})
    assert "must have the classes wall, floor" in error_of(sunrgbd_dataset, toolbox, "test")
    (metadata / "seg37list.mat").unlink()
    labels = metadata / "SUNRGBD2Dseg.mat"
    labels.write_bytes(labels.read_bytes()[:700])
    assert error_of(sunrgbd_dataset, toolbox, "test").startswith(f"{labels} is damaged, or not SUN RGB-D's file")
    labels.unlink()
    assert error_of(sunrgbd_dataset, toolbox, "test") == f"{labels} does not exist"
    (metadata / "SUNRGBDMeta.mat").write_bytes(b"MATLAB")
    assert "SUNRGBDMeta.mat is damaged, or has no SUNRGBDMeta" in error_of(sunrgbd_dataset, toolbox, "test")
    (toolbox / "SUNRGBDtoolbox" / "traintestSUNRGBD" / "allsplit.mat").unlink()
    assert "allsplit.mat does not exist" in error_of(sunrgbd_dataset, toolbox, "test")


def test_sunrgbd_needs_h5py(toolbox, monkeypatch):
    monkeypatch.setattr(segnet_ext.errors, "_is_installed", lambda module: module != "h5py")
    message = "SUN RGB-D's toolbox needs h5py: pip install 'segnet_ext[train]'"
    assert error_of(sunrgbd_dataset, toolbox, "test") == message


def test_sunrgbd_splits(tmp_path):
    assert "train, val, trainval and test, got 'all'" in error_of(sunrgbd_dataset, tmp_path, "all")
    assert "none of SUN RGB-D's folders for test" in error_of(sunrgbd_dataset, tmp_path, "test")
