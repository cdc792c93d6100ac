"""Patches and back, and images beyond the border of the field of view."""

import numpy as np
import pytest

from retina.images import black_outside, continue_outside
from retina.patches import (
    break_img_to_patches,
    patch_corners,
    put_img_back_from_patches,
    reflect_to_multiple,
    reflect_to_patch,
)


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.mark.parametrize("stride", [1, 2, 8])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (100, 32), (95, 129)])
def test_patches_give_the_image_and_its_label_back(random, stride, size):
    image = random.uniform(-1, 1, (*size, 3)).astype(np.float32)
    patches, labels = break_img_to_patches(image, image[..., :1], (32, 32), stride=stride)
    expected = [int(np.ceil(stride * (side - 32) / 32)) + 1 for side in size]
    assert patches.shape == (expected[0] * expected[1], 32, 32, 3)
    assert np.array_equal(patches[..., :1], labels)
    back = put_img_back_from_patches(iter(patches), size, stride)
    assert back.dtype == np.float32
    assert np.abs(back - image).max() <= 1e-6


def test_grid_is_the_published_one():
    """Worked by hand for 400 px: ceil(2 * 144 / 256) + 1 = 3 steps, at 0, 128 and, shifted, 144; rows run fastest."""
    corners = patch_corners((400, 256), (256, 256), stride=2)
    assert corners.tolist() == [[0, 0], [128, 0], [144, 0]]
    assert patch_corners((300, 300), (256, 256)).tolist() == [[0, 0], [44, 0], [0, 44], [44, 44]]


def test_overlaps_are_blended_smoothly():
    """Two patches of constant 0 and 1 that overlap: their blend rises without a step."""
    patches = [np.zeros((32, 32, 1)), np.ones((32, 32, 1))]
    image = put_img_back_from_patches(patches, (48, 32), 2)[:, 0, 0]
    assert image[0] == 0
    assert image[-1] == 1
    assert np.all(np.diff(image) >= 0)
    assert np.diff(image).max() < 0.15


@pytest.mark.parametrize("number", [0, 3, 5])
def test_wrong_number_of_patches_is_refused(number):
    with pytest.raises(ValueError, match=f"{number} patches for an image of 64 x 64 px"):
        put_img_back_from_patches([np.zeros((32, 32, 1))] * number, (64, 64))


@pytest.mark.parametrize("stride", [0, -1, 1.5, 33])
def test_wrong_stride_is_refused(stride):
    with pytest.raises(ValueError, match="stride"):
        patch_corners((64, 64), (32, 32), stride)


def test_image_smaller_than_a_patch_is_refused_and_can_be_reflected():
    image = np.arange(12.0).reshape(3, 4, 1)
    with pytest.raises(ValueError, match="smaller than a patch"):
        break_img_to_patches(image, patch_size=(4, 4))
    assert reflect_to_multiple(image, 1) is image
    reflected = reflect_to_patch(image, (4, 9))
    assert reflected.shape == (4, 9, 1)
    assert np.array_equal(reflected[:3, :4], image)
    assert np.array_equal(reflected[3], reflected[1])


def test_image_is_mirrored_at_the_border_of_the_field():
    """In one row: columns 0 to 29 are the field, 24 to 29 its rim; column 24 shows 22, 25 shows 21, and so on."""
    columns = np.arange(100, dtype=np.uint8)
    image = np.broadcast_to(columns, (40, 100))[..., np.newaxis]
    fov = np.broadcast_to(columns < 30, (40, 100))
    continued = continue_outside(image, fov)
    assert continued.shape == image.shape
    expected = np.where(columns < 24, columns, np.where(columns <= 46, 46 - columns.astype(int), 0))
    assert np.array_equal(continued[20, :, 0], expected)
    assert np.array_equal(continued, np.broadcast_to(continued[:1], continued.shape))


def test_picture_is_black_outside_the_field_except_its_alpha(random):
    image, fov = random.integers(1, 255, (8, 8, 4), dtype=np.uint8), np.indices((8, 8))[1] < 5
    black = black_outside(image, fov)
    assert not black[~fov, :3].any()
    assert np.array_equal(black[fov], image[fov])
    assert np.array_equal(black[..., 3], image[..., 3])
