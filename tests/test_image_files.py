"""Which files of a folder are images, and reading them."""

import os

import numpy as np
import pytest
from conftest import fake_fundus
from PIL import Image

import image_files


@pytest.fixture
def random():
    return np.random.default_rng(0)


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leftover", ["._1.png", ".trash/1.png", "__MACOSX/1.png", "a/__MACOSX/1.png"])
def test_leftovers_of_a_mac_or_an_editor_are_not_visible(tmp_path, leftover):
    for name in ("a/1.png", leftover):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert image_files.visible_below(tmp_path) == [tmp_path / "a", tmp_path / "a/1.png"]


def test_linked_folders_are_searched(tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    for path in (folder, elsewhere):
        path.mkdir()
    (elsewhere / "1.png").touch()
    (folder / "link").symlink_to(elsewhere)
    assert image_files.visible_below(folder) == [folder / "link", folder / "link/1.png"]


def test_links_that_lead_in_a_circle_are_left_out(tmp_path):
    for name, target in (("a/b", "../b"), ("b/a", "../a")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(target)
    (tmp_path / "b/1.png").touch()
    assert image_files.visible_below(tmp_path) == [
        tmp_path / name for name in ("a", "a/b", "a/b/1.png", "b", "b/1.png", "b/a")
    ]


# --- files -> images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "suffix", "options", "tolerance"),
    [
        ("RGB", "png", {}, 0),
        ("RGBA", "png", {}, 0),
        ("RGB", "bmp", {}, 0),
        ("RGB", "tif", {"compression": "tiff_lzw"}, 0),
        ("RGBA", "tif", {"compression": "tiff_lzw"}, 0),
        ("RGB", "jpg", {"quality": 95}, 12),
        ("CMYK", "jpg", {"quality": 95}, 12),
        ("P", "png", {}, 60),  # 256 colours
    ],
)
def test_colour_images_are_read(tmp_path, random, mode, suffix, options, tolerance):
    fundus = fake_fundus(random, 40, 50)
    path = tmp_path / f"1_OD.{suffix}"
    Image.fromarray(fundus).convert(mode).save(path, **options)
    read = image_files.read_fundus(path)
    assert (read.shape, read.dtype) == ((40, 50, 3), np.uint8)
    assert np.abs(read.astype(int) - fundus).max() <= tolerance


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_become_eight(tmp_path, suffix):
    values = np.array([[0, 257 * 7, 257 * 128, 65535]], dtype=np.uint16)
    path = tmp_path / f"1_OD.{suffix}"
    Image.fromarray(values).save(path)
    assert image_files.read_octa(path, 1)[..., 0].tolist() == [[0, 7, 128, 255]]
    assert image_files.read_fundus(path)[0, 1].tolist() == [7, 7, 7]


def test_twelve_bits_in_sixteen_use_all_grey_levels(tmp_path):
    Image.fromarray(np.array([[0, 2048, 4095]], dtype=np.uint16)).save(tmp_path / "1_OD.png")
    assert image_files.read_octa(tmp_path / "1_OD.png", 1)[..., 0].tolist() == [[0, 128, 255]]


def test_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "1_OD.png")
    with pytest.raises(image_files.DataError, match=r"1_OD\.png: not a file"):
        image_files.read_image(tmp_path / "1_OD.png")


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_images_are_read(tmp_path, mode):
    grey = np.uint8([[0, 255, 0], [255, 255, 0]])
    path = tmp_path / "1_OD.png"
    Image.fromarray(grey).convert(mode).save(path)
    assert np.array_equal(image_files.read_octa(path, 1)[..., 0], grey)
    assert np.array_equal(image_files.read_octa(path, 4), np.dstack([grey, grey, grey, np.full_like(grey, 255)]))


def test_octa_has_one_channel_or_four(tmp_path):
    rgba = np.uint8([[[10, 11, 15, 255], [0, 0, 0, 128]]])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert image_files.read_octa(tmp_path / "a.png", 1).tolist() == [[[12], [0]]]
    assert np.array_equal(image_files.read_octa(tmp_path / "a.png", 4), rgba)


@pytest.mark.parametrize("content", [b"", b"this is no image", None, "float"])
def test_file_that_cannot_be_read_is_named(tmp_path, random, content):
    path = tmp_path / "7_OS.png"
    if content is None:
        Image.fromarray(random.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
        content = path.read_bytes()[:3000]
    if content == "float":
        path = tmp_path / "7_OS.tif"
        Image.fromarray(np.zeros((4, 4), np.float32)).save(path)
    else:
        path.write_bytes(content)
    with pytest.raises(image_files.DataError, match=str(path)) as caught:
        image_files.read_image(path)
    assert "\n" not in str(caught.value)
