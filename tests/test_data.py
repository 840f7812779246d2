"""Reading CamVid's layout, image kinds, resizing, order, and the drawn scenes."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from camvid_layout import write_camvid
from data_files import error_of
from PIL import Image

from segnet_ext.data import (
    CAMVID,
    Augmentation,
    EpochSampler,
    FileDataset,
    Loader,
    camvid_dataset,
    synthetic_dataset,
)
from segnet_ext.data.images import (
    colorize,
    image_size,
    normalize,
    overlay,
    read_image,
    read_label,
    resize_image,
    resize_label,
)
from segnet_ext.errors import InputError


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    return write_camvid(tmp_path / "camvid")


# ---- CamVid's layout


def test_camvid_maps_published_paths(camvid):
    dataset = camvid_dataset(camvid, "train", (16, 20))
    assert len(dataset) == 5
    assert dataset.pairs[0] == (camvid / "train" / "0000.png", camvid / "trainannot" / "0000.png")
    image, label = dataset[0]
    assert image.shape == (16, 20, 3) and label.shape == (16, 20)
    assert image.dtype == label.dtype == torch.uint8


def test_camvid_fingerprint_does_not_depend_on_the_folder(camvid, tmp_path):
    elsewhere = write_camvid(tmp_path / "elsewhere")
    shorter = write_camvid(tmp_path / "shorter", train=4)
    fingerprint = camvid_dataset(camvid, "train").fingerprint()
    assert fingerprint == camvid_dataset(elsewhere, "train").fingerprint()
    assert fingerprint != camvid_dataset(shorter, "train").fingerprint()


def test_camvid_missing_or_malformed(camvid):
    assert "does not exist" in error_of(camvid_dataset, camvid / "nowhere", "train")
    assert str(camvid / "test.txt") in error_of(camvid_dataset, camvid, "test")
    (camvid / "empty.txt").write_text("\n\n")
    assert "empty" in error_of(camvid_dataset, camvid, "empty")
    (camvid / "odd.txt").write_text("train/0000.png\n")
    assert "line 1" in error_of(camvid_dataset, camvid, "odd")
    (camvid / "binary.txt").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in error_of(camvid_dataset, camvid, "binary")


@pytest.mark.parametrize("folder", ["train", "trainannot"])
def test_camvid_missing_or_broken_file(camvid, folder):
    path = camvid / folder / "0001.png"
    path.write_bytes(b"no image")
    assert error_of(camvid_dataset, camvid, "train") == f"{path} cannot be read as an image: not an image file"
    path.unlink()
    assert error_of(camvid_dataset, camvid, "train") == f"{path} does not exist"


def test_camvid_mismatched_sizes(camvid):
    Image.new("L", (30, 24)).save(camvid / "trainannot" / "0002.png")
    message = error_of(camvid_dataset, camvid, "train")
    assert "0002.png is 24x32" in message and "is 24x30" in message


def test_truncated_pixels_are_named(camvid):
    path = camvid / "train" / "0000.png"
    path.write_bytes(path.read_bytes()[:-200])
    dataset = camvid_dataset(camvid, "train")  # the header is whole
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"0000\.png cannot be read as an image"):
            list(Loader(dataset, 2, workers=workers))


# ---- label maps


def test_labels_out_of_range_name_file_and_value(tmp_path):
    label = np.zeros((4, 6), np.uint8)
    label[2, 3] = 37
    Image.fromarray(label).save(tmp_path / "label.png")
    message = error_of(read_label, tmp_path / "label.png", 11)
    assert message == (
        f"{tmp_path / 'label.png'} has the label 37 at row 2, column 3; labels must be 0 to 10, or 11 for void"
    )


def test_palette_labels_are_indices(tmp_path):
    label = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = Image.fromarray(label)
    palette.putpalette(list(range(255, -1, -1)) * 3)
    palette.save(tmp_path / "label.png")
    assert np.array_equal(read_label(tmp_path / "label.png", 11), label)


def test_colour_labels_are_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "label.png")
    assert "single-channel" in error_of(read_label, tmp_path / "label.png", 11)


# ---- images


def test_image_kinds(tmp_path):
    grey = np.array([[0, 255], [128, 7]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, 2))

    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.array_equal(read_image(tmp_path / "deep.png"), np.repeat(grey[..., None], 3, 2))

    Image.fromarray(np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8)).save(tmp_path / "alpha.png")
    assert read_image(tmp_path / "alpha.png").tolist() == [[[10, 20, 30], [255, 255, 255]]]

    Image.fromarray(np.array([[[9, 8, 7], [1, 2, 3]]], np.uint8)).quantize(4).save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png").tolist() == [[[9, 8, 7], [1, 2, 3]]]

    Image.new("F", (2, 2)).save(tmp_path / "float.tiff")
    assert "floating-point" in error_of(read_image, tmp_path / "float.tiff")


def test_image_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (8, 4, 3)
    assert image_size(tmp_path / "turned.jpg") == (8, 4)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_labels_must_fit_the_image_as_it_is_turned(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (8, 4)).save(tmp_path / f"image{suffix}", exif=exif)
    dataset = FileDataset([(tmp_path / f"image{suffix}", tmp_path / "label.png")], CAMVID)
    Image.new("L", (4, 8)).save(tmp_path / "label.png")
    dataset.check_files()
    Image.new("L", (8, 4)).save(tmp_path / "label.png")
    assert "is 8x4 but its annotation" in error_of(dataset.check_files)


def test_resizing():
    image = np.array([[[0, 0, 0], [100, 100, 100]]], np.uint8)
    assert resize_image(image, (1, 2)) is image
    assert resize_image(image, (1, 4))[0, :, 0].tolist() == [0, 25, 75, 100]
    label = np.array([[1, 9]], np.uint8)
    assert resize_label(label, (2, 4)).tolist() == [[1, 1, 9, 9]] * 2


def test_normalize_is_imagenets():
    images = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = (images.permute(0, 3, 1, 2) / 255 - mean) / std
    result = normalize(images)
    torch.testing.assert_close(result, expected)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_colours():
    label = np.array([[0, 3], [10, 11]], np.uint8)
    colors = colorize(label, CAMVID.colors)
    assert colors.tolist() == [[[128, 128, 128], [128, 64, 128]], [[0, 128, 192], [0, 0, 0]]]
    image = np.full((2, 2, 3), 200, np.uint8)
    assert np.array_equal(overlay(image, label, CAMVID.colors, opacity=0), image)
    assert np.array_equal(overlay(image, label, CAMVID.colors, opacity=1), colors)


# ---- order


def test_sampler_depends_on_seed_and_epoch_alone():
    def keys(seed, epoch):
        sampler = EpochSampler(20, seed)
        sampler.epoch = epoch
        return list(sampler)

    assert keys(3, 1) == keys(3, 1)
    assert keys(3, 1) != keys(3, 2) != keys(4, 2)
    assert sorted(index for index, _ in keys(3, 1)) == list(range(20))
    assert all(seed == (3, 1, index) for index, seed in keys(3, 1))
    assert keys(None, 5) == [(index, None) for index in range(20)]


def test_batches_do_not_depend_on_workers(camvid):
    dataset = camvid_dataset(camvid, "train", (16, 16))
    state = torch.get_rng_state()
    changes = Augmentation(scale=(0.5, 2), crop=(12, 20), color=0.3)
    loaders = [Loader(dataset, 2, seed=7, workers=workers, augmentation=changes) for workers in (0, 2)]
    for epoch in range(2):
        for loader in loaders:
            loader.sampler.epoch = epoch
        alone, shared = (list(loader) for loader in loaders)
        assert [len(images) for images, _ in alone] == [2, 2, 1]
        for first, second in zip(alone, shared, strict=True):
            assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
            assert first[0].shape[1:] == (12, 20, 3) and first[1].dtype == torch.int64
    assert torch.equal(torch.get_rng_state(), state), "loading must not draw from the model's random numbers"


# ---- drawn scenes


def test_scenes_are_deterministic_and_labelled():
    first, again, other = (synthetic_dataset(6, (48, 64), seed) for seed in (1, 1, 2))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    labels = np.stack(first.labels)
    assert set(np.unique(labels)) == set(range(11)), "every class occurs, and no pixel is void"
    assert first.images[0].shape == (48, 64, 3) and first.images[0].dtype == np.uint8


# ---- the real thing


@pytest.fixture
def real_camvid() -> Path:
    folder = os.environ.get("SEGNET_EXT_DATA")
    if not folder:
        pytest.skip("SEGNET_EXT_DATA does not name a folder that holds camvid/")
    return Path(folder) / "camvid"


def test_real_camvid_reads(real_camvid):
    train, val = (camvid_dataset(real_camvid, split, (180, 240)) for split in ("train", "val"))
    assert (len(train), len(val)) == (367, 101)
    image, label = train[0]
    assert image.shape == (180, 240, 3) and label.max() <= 11
    assert isinstance(train, FileDataset) and train.load_label(0).shape == (360, 480)
