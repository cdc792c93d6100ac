"""The search for a similarity transform: known ones, masks, and the limits of shift and overlap."""

import numpy as np
import pytest
from conftest import lines
from scipy.ndimage import map_coordinates

from alignment.search import Masked, find_similarities, mirror_images, rotation

SIDE = 96


def vessels(seed=1):
    """Vessel contrast (96, 96), with a mean of 0."""
    image = lines(seed, SIDE, spacing=5).astype(np.float32)
    return image - image.mean()


def complete(image):
    """An image that shows something everywhere."""
    return Masked(image, np.ones_like(image))


def part_of(image, centre, angle, scale, side=48):
    """The moving image of a known similarity with another one."""
    here = np.indices((side, side)) - (side - 1) / 2
    there = np.tensordot(rotation(angle).T / scale, here, 1) + np.reshape(centre, (2, 1, 1))
    return map_coordinates(image, there, order=1)


@pytest.mark.parametrize(("centre", "degrees", "scale"), [((40, 55), 0, 1.0), ((50, 42), 6, 1.1), ((45, 47), -6, 0.9)])
def test_known_similarity_is_found(centre, degrees, scale):
    moving = part_of(vessels(), centre, np.deg2rad(degrees), scale)
    (found,) = find_similarities([complete(vessels())], moving, np.deg2rad([-6, 0, 6]), [0.9, 1.0, 1.1])
    assert (np.rad2deg(found.angle), found.scale) == (pytest.approx(degrees), scale)
    assert found.centre == pytest.approx(centre, abs=1)


def test_moving_image_that_reaches_over_the_border_is_found():
    moving = vessels()[:40, :40]
    (found,) = find_similarities([complete(vessels()[12:, 8:])], moving, [0.0], [1.0], least_overlap=0.5)
    assert found.centre == pytest.approx((19.5 - 12, 19.5 - 8))


def test_only_the_mask_is_searched():
    left = np.broadcast_to(np.arange(SIDE) < 40, (SIDE, SIDE)).astype(np.float32)
    moving = vessels()[30:62, 60:92]
    (found,) = find_similarities([Masked(vessels() * left, left)], moving, [0.0], [1.0], least_overlap=1.0)
    assert found.centre[1] < 40 - 15
    assert found.score < 0.7


def test_no_shift_is_allowed_that_shows_too_little_of_the_moving_image():
    small = np.zeros((SIDE, SIDE), np.float32)
    small[40:50, 40:50] = 1
    moving = vessels()[30:62, 30:62]
    (found,) = find_similarities([Masked(vessels() * small, small)], moving, [0.0], [1.0], least_overlap=0.5)
    assert found.score == -1


@pytest.mark.parametrize("largest", [0, 5])
def test_shift_is_at_most_the_largest(largest):
    moving = np.roll(vessels(), (9, -9), axis=(0, 1))
    (found,) = find_similarities([complete(vessels())], moving, [0.0], [1.0], largest_shift=largest)
    assert np.abs(found.centre - (SIDE - 1) / 2).max() <= largest


def test_each_fixed_image_has_its_own_best_similarity():
    fixed = [complete(image) for image in (vessels(), *mirror_images(vessels()))]
    scores = [one.score for one in find_similarities(fixed, vessels()[20:60, 30:70], [0.0], [1.0])]
    assert scores[0] > 0.9 > 0.6 > max(scores[1:])


def test_nothing_matches_where_there_is_hardly_any_contrast():
    """Without a baseline, a faint copy would match as well as a clear one."""
    fixed = np.concatenate([vessels(), 0.01 * vessels(2)], axis=1)
    (found,) = find_similarities([complete(fixed)], vessels(2)[30:70, 30:70], [0.0], [1.0])
    assert found.score < 0.7
