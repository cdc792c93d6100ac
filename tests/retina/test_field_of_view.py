"""The field of view: borders of any brightness, flat sides, letters, arcs, none; odd images."""

import numpy as np
import pytest
from conftest import fake_fundus
from PIL import Image, ImageDraw

from retina.field_of_view import field_of_mask, find_field
from simulation.eye import TREE_SHARED_BY
from simulation.stream import simulated_pair


def photograph(size, centre, radius, border=0, noise=0.0, sides=(0, 10**6)):
    """A smooth bright disc between two rows, on a border of some grey levels; and where it is."""
    random = np.random.default_rng(0)
    rows, columns = np.ogrid[: size[0], : size[1]]
    inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2
    inside = inside & (rows >= sides[0]) & (rows <= sides[1])
    outside = np.clip(border + random.normal(0, 1, (*size, 3)) * noise, 0, 255)
    return np.where(inside[..., np.newaxis], fake_fundus(random, *size), outside).astype(np.uint8), inside


def agreement(one, other):
    """Intersection over union."""
    return (one & other).sum() / (one | other).sum()


@pytest.mark.parametrize(
    ("border", "noise"), [(0, 0), (12, 2), (28, 0), (35, 3), ((40, 30, 20), 1), (110, 0), (200, 0), (255, 0)]
)
def test_field_is_found_on_a_border_of_any_grey(border, noise):
    fundus, inside = photograph((400, 420), (200, 210), 180, border, noise)
    field = find_field(fundus)
    assert agreement(field.mask, inside) > (0.985 if np.max(border) < 100 else 0.975)
    assert field.stretch == 1


@pytest.mark.parametrize(("centre", "radius"), [((200, 200), 170), ((60, 60), 300), ((430, 200), 300)])
def test_circle_is_found_from_an_arc(centre, radius):
    field = find_field(photograph((400, 400), centre, radius, border=20)[0])
    assert max(field.radii) == pytest.approx(radius, rel=0.03)
    assert field.centre == pytest.approx(centre, abs=6)


def test_flat_sides_cut_the_circle():
    fundus, inside = photograph((400, 480), (200, 240), 220, border=22, sides=(40, 360))
    field = find_field(fundus)
    assert agreement(field.mask, inside) > 0.985
    assert max(field.radii) == pytest.approx(220, rel=0.03)
    rows = np.flatnonzero(field.mask.any(axis=1))
    assert (rows[0], rows[-1]) == pytest.approx((40, 360), abs=2)


def test_straight_border_is_found_to_a_pixel():
    fundus = fake_fundus(np.random.default_rng(0), 100, 90)
    fundus[:25] = 0
    assert find_field(fundus).mask[:, 45].argmax() == pytest.approx(25, abs=1)


def test_border_that_fades_is_refined_in_a_large_stretched_photograph():
    fundus = fake_fundus(np.random.default_rng(0), 1200, 1272)
    rows, columns = np.ogrid[:1200, :1272]
    distance = np.hypot((rows - 600) / 550, (columns - 636) / 583)  # 1: the border
    field = find_field((fundus * np.clip((1 - distance) * 140, 0, 1)[..., np.newaxis]).astype(np.uint8))
    assert agreement(field.mask, distance < 1) > 0.995
    assert field.stretch == pytest.approx(1.06, abs=0.003)


def test_letters_outside_are_no_field_and_a_dark_vessel_and_macula_leave_no_holes():
    fundus, inside = photograph((400, 480), (200, 240), 180)
    fundus[:, 235:246] = 3
    fundus[220:280, 310:370] = 2
    picture = Image.fromarray(fundus)
    ImageDraw.Draw(picture).text((5, 5), "OD 2023", fill=(250, 250, 250), font_size=24)
    assert agreement(find_field(np.asarray(picture)).mask, inside) > 0.98


def test_retina_that_fills_the_picture_has_no_border():
    field = find_field(fake_fundus(np.random.default_rng(1), 300, 350))
    assert field.mask.all()
    assert (field.centre, field.radii) == (None, None)


@pytest.mark.parametrize("size", [(1, 1), (65, 1), (23, 400)])
def test_small_and_narrow_images_are_all_field(size):
    assert find_field(np.full((*size, 3), 90, np.uint8)).mask.all()


def test_black_with_single_bright_pixels_is_no_photograph_and_a_dithered_one_is():
    black = np.full((400, 500, 3), 5, np.uint8)
    black[::8, ::8] = 255
    assert not find_field(black).mask.any()
    dithered = np.random.default_rng(0).random((400, 500, 1)) < 0.4
    assert find_field(np.uint8(dithered * 255).repeat(3, -1)).mask.any()


def with_border(fundus, fov, random):
    """A simulated retina whose border is grey or tinted, noisy, and half of the time lettered."""
    colour = random.uniform(0, 40) * random.uniform(0.6, 1, 3)
    border = np.clip(colour + random.normal(0, random.uniform(0, 3), fundus.shape), 0, 255).astype(np.uint8)
    if random.random() < 0.5:
        picture = Image.fromarray(border)
        place, size = random.uniform(0, 0.9, 2) * fov.shape, random.integers(10, 30)
        ImageDraw.Draw(picture).text(tuple(place), "OS 1997", fill=tuple(random.integers(90, 256, 3)), font_size=size)
        border = np.asarray(picture)
    return np.where(fov[..., np.newaxis], fundus, border)


@pytest.mark.slow
def test_field_of_simulated_retinas_with_a_grey_tinted_noisy_or_lettered_border_or_none():
    random = np.random.default_rng(0)
    found, without = [], 0
    for number in range(0, 30 * TREE_SHARED_BY, TREE_SHARED_BY):
        fundus, *_, fov = simulated_pair(5, number)
        found.append(agreement(find_field(with_border(fundus, fov, random)).mask, fov))
        without += fov.all()
    assert 3 < without < 20
    assert np.mean(found) > 0.985
    assert np.mean(np.array(found) > 0.97) > 0.9


# --- other outlines and surroundings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (420, 400)])
def test_stretched_field_is_found_with_its_two_scales(size):
    fundus, inside = photograph((400, 400), (200, 200), 180, border=12)
    stretched = np.asarray(Image.fromarray(fundus).resize(size, Image.Resampling.LANCZOS))
    field = find_field(stretched)
    assert agreement(field.mask, np.asarray(Image.fromarray(inside).resize(size))) > 0.975
    assert field.stretch == pytest.approx(size[0] / size[1], rel=0.015)


def test_field_of_a_twentieth_of_the_picture_is_found():
    fundus, inside = photograph((600, 600), (330, 250), 77)
    assert inside.mean() < 0.055
    assert agreement(find_field(fundus).mask, inside) > 0.97


def test_tilted_ellipse_is_found_and_is_no_stretch():
    rows, columns = np.mgrid[-200:200, -210:210]
    along, across = (columns + rows) / 2**0.5, (columns - rows) / 2**0.5
    inside = (along / 190) ** 2 + (across / 150) ** 2 <= 1
    fundus = fake_fundus(np.random.default_rng(0), 400, 420) * inside[..., np.newaxis].astype(np.uint8)
    field = find_field(fundus)
    assert agreement(field.mask, inside) > 0.97
    assert field.stretch == 1


def test_field_of_a_mask_has_its_diameter_if_it_is_round_and_keeps_the_mask():
    inside, box = photograph((400, 420), (200, 210), 180)[1], np.zeros((300, 400), bool)
    box[40:260, 30:370] = True
    for mask, diameter in ((inside, pytest.approx(360, rel=0.02)), (box, None)):
        field = field_of_mask(mask)
        assert (field.mask == mask).all()
        assert field.diameter() == diameter


def test_slanted_cut_of_a_round_field_is_found():
    fundus, inside = photograph((400, 420), (200, 210), 180)
    rows, columns = np.ogrid[:400, :420]
    inside &= rows - 200 < (columns - 210) / 2 + 80
    assert agreement(find_field(fundus * inside[..., np.newaxis].astype(np.uint8)).mask, inside) > 0.975
