"""The search for a similarity transform: known ones, masks, and the limits of shift and overlap."""

import numpy as np
import pytest
from conftest import lines
from scipy.ndimage import map_coordinates

from alignment.search import Masked, find_similarities, rotation

SIDE = 96


def vessels(seed=1):
    """Vessel contrast (96, 96), with a mean of 0."""
    image = lines(seed, SIDE, spacing=5).astype(np.float32)
    return image - image.mean()


def search(fixed, moving, angles=(0.0,), scales=(1.0,), mask=None, **limits):
    """The best similarity of a moving image with a fixed one."""
    mask = np.ones_like(fixed) if mask is None else mask
    return find_similarities([Masked(fixed * mask, mask)], moving, angles, scales, **limits)[0]


def part_of(image, centre, angle, scale, side=48):
    """The moving image of a known similarity with another one."""
    here = np.indices((side, side)) - (side - 1) / 2
    there = np.tensordot(rotation(angle).T / scale, here, 1) + np.reshape(centre, (2, 1, 1))
    return map_coordinates(image, there, order=1)


@pytest.mark.parametrize(("centre", "degrees", "scale"), [((40, 55), 0, 1.0), ((50, 42), 6, 1.1), ((45, 47), -6, 0.9)])
def test_known_similarity_is_found(centre, degrees, scale):
    moving = part_of(vessels(), centre, np.deg2rad(degrees), scale)
    found = search(vessels(), moving, np.deg2rad([-6, 0, 6]), [0.9, 1.0, 1.1])
    assert (np.rad2deg(found.angle), found.scale) == (pytest.approx(degrees), scale)
    assert found.centre == pytest.approx(centre, abs=1)


def test_moving_image_that_reaches_over_the_border_is_found():
    found = search(vessels()[12:, 8:], vessels()[:40, :40], least_overlap=0.5)
    assert found.centre == pytest.approx((19.5 - 12, 19.5 - 8))


def test_only_the_mask_is_searched():
    left = np.broadcast_to(np.arange(SIDE) < 40, (SIDE, SIDE)).astype(np.float32)
    found = search(vessels(), vessels()[30:62, 60:92], mask=left, least_overlap=1.0)
    assert found.centre[1] < 40 - 15
    assert found.score < 0.7


def test_no_shift_is_allowed_that_shows_too_little_of_the_moving_image():
    small = np.zeros((SIDE, SIDE), np.float32)
    small[40:50, 40:50] = 1
    assert search(vessels(), vessels()[30:62, 30:62], mask=small, least_overlap=0.5).score == -1


@pytest.mark.parametrize("largest", [0, 5])
def test_shift_is_at_most_the_largest(largest):
    found = search(vessels(), np.roll(vessels(), (9, -9), axis=(0, 1)), largest_shift=largest)
    assert np.abs(found.centre - (SIDE - 1) / 2).max() <= largest


def test_each_fixed_image_has_its_own_best_similarity_and_mirror_images_match_less():
    fixed = Masked(vessels(), np.ones_like(vessels()))
    found = find_similarities([fixed, *fixed.mirrored()], vessels()[20:60, 30:70], [0.0], [1.0])
    assert found[0].score > 0.9 > 0.6 > max(one.score for one in found[1:])


def test_nothing_matches_where_there_is_hardly_any_contrast():
    """Without a baseline, a faint copy would match as well as a clear one."""
    fixed = np.concatenate([vessels(), 0.01 * vessels(2)], axis=1)
    assert search(fixed, vessels(2)[30:70, 30:70]).score < 0.7
