"""Where an OCT-A lies in a photograph: place, scale and angle that are known, and how the photograph is cut there."""

import numpy as np
import pytest
from conftest import lines
from scipy.ndimage import map_coordinates

from alignment.find_octa import Photograph, Place, corners, cut, find_place

SIDE, PX_PER_MM = 400, 40.0  # of the photograph
OCTA_MM, OCTA_PX = 4.0, 150


@pytest.fixture(scope="module")
def vessels():
    """The vessels predicted for a photograph: bright lines."""
    return lines(3, SIDE, spacing=12)


def octa_at(vessels, centre, angle, scale):
    """The OCT-A of a place: OCTA_MM of the photograph, if that has `scale` times PX_PER_MM."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    here = (np.indices((OCTA_PX, OCTA_PX)) - (OCTA_PX - 1) / 2) * OCTA_MM / OCTA_PX * PX_PER_MM * scale
    there = np.tensordot(turn, here, 1) + np.reshape(centre, (2, 1, 1))
    return map_coordinates(vessels, there, order=1)


def find(octa, vessels, field=None, octa_mm=OCTA_MM):
    """The place of an OCT-A in a photograph with these vessels."""
    return find_place(octa, octa_mm, Photograph(vessels, np.ones_like(vessels, bool) if field is None else field, 40.0))


@pytest.mark.parametrize(
    ("centre", "degrees", "scale"), [((200, 200), 0, 1.0), ((130, 250), 6, 1.1), ((260, 150), -7, 0.9)]
)
def test_place_scale_and_angle_are_found(vessels, centre, degrees, scale):
    place = find(octa_at(vessels, centre, np.deg2rad(degrees), scale), vessels)
    assert place.centre == pytest.approx(centre, abs=4)
    assert place.px_per_mm == pytest.approx(PX_PER_MM * scale, rel=0.04)
    assert np.rad2deg(place.angle) == pytest.approx(degrees, abs=2)
    assert place.is_clear


def test_right_place_stands_out_from_chance_and_another_eyes_does_not(vessels):
    octa = octa_at(vessels, (220, 180), 0.0, 1.0)
    right, wrong = find(octa, vessels), find(octa, lines(4, SIDE, spacing=12))
    assert right.score > 2 * right.control
    assert wrong.score < 1.2 * wrong.control
    assert (right.is_clear, wrong.is_clear) == (True, False)


@pytest.mark.parametrize(("octa", "side_mm"), [(np.full((50, 50), 0.5), 4.0), (lines(3, 150, spacing=12), 19.0)])
def test_octa_without_vessels_or_larger_than_the_photograph_has_no_clear_place(vessels, octa, side_mm, monkeypatch):
    monkeypatch.setattr("alignment.find_octa.PLACE_ANGLES", [0.0])
    assert not find(octa, vessels, octa_mm=side_mm).is_clear


def test_place_at_the_limit_of_the_scales_is_not_clear(vessels):
    place = find(octa_at(vessels, (200, 200), 0.0, 1.0), vessels, octa_mm=OCTA_MM * 1.3)
    assert place.score > 1.25 * place.control
    assert not place.is_clear


def test_place_lies_in_the_field_of_view(vessels):
    """Only half of the vessels are in the field: an OCT-A of the others is searched for there, and scores less."""
    left = np.broadcast_to(np.arange(SIDE) < 200, vessels.shape)
    place = find(octa_at(vessels, (200, 320), 0.0, 1.0), vessels * left, left)
    assert place.centre[1] < 200
    assert place.score < 0.5


def photograph():
    """Red rises with the row, green with the column: a pixel tells where it is from."""
    rows, columns = np.indices((SIDE, SIDE)) // 2
    return np.dstack([rows, columns, np.zeros_like(rows)]).astype(np.uint8)


def test_photograph_is_cut_to_the_place_at_a_scale():
    part = cut(photograph(), Place((150.0, 220.0), 40.0, 0.0), (2.0, 3.0), 20.0)
    assert part.shape == (40, 60, 3)
    assert part[20, 30, :2] == pytest.approx([75, 110], abs=1)
    assert part[0, 0, :2] == pytest.approx([(150 - 40) / 2, (220 - 60) / 2], abs=1)


def test_cut_photograph_is_turned_as_its_octa(vessels):
    centre, angle = (180, 210), np.deg2rad(9)
    whole = np.uint8(255 * vessels)[..., np.newaxis].repeat(3, axis=-1)
    part = cut(whole, Place(centre, PX_PER_MM, angle), (OCTA_MM, OCTA_MM), OCTA_PX / OCTA_MM)
    octa = octa_at(vessels, centre, angle, 1.0)
    assert np.corrcoef(part[..., 0].ravel(), octa.ravel())[0, 1] > 0.95


def test_beyond_the_photograph_the_cut_is_black():
    part = cut(np.full((SIDE, SIDE, 3), 200, np.uint8), Place((0.0, 200.0), 40.0, 0.0), (4.0, 4.0), 40.0)
    assert part[:70].max() == 0
    assert part[90:].min() == 200


def test_corners_are_those_of_what_is_cut():
    place = Place((150.0, 220.0), 40.0, np.deg2rad(10))
    first = corners(place, (2.0, 3.0))[0]
    part = cut(photograph(), place, (2.0, 3.0), 40.0)
    assert part[0, 0, :2] == pytest.approx(first / 2, abs=1.5)
