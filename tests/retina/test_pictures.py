"""Pictures for people: colours of vessels, outlines, panels."""

import numpy as np

from retina.pictures import (
    BORDER,
    INVENTED,
    MISSED,
    missed_and_invented,
    side_by_side,
    with_border,
    with_outline,
    with_vessels,
)

GREY = np.full((60, 80, 3), 100, np.uint8)


def test_vessels_are_white_in_both_maps_and_coloured_in_one():
    truth, vessels = np.array([[True, True, False, False]]), np.array([[True, False, True, False]])
    assert missed_and_invented(truth, vessels).tolist() == [[[255] * 3, list(MISSED), list(INVENTED), [0] * 3]]


def test_vessels_over_a_photograph_are_a_translucent_fill():
    vessels = np.indices((60, 80))[1] % 10 == 0
    over = with_vessels(GREY, vessels)
    assert (over[~vessels] == 100).all()
    assert (over[vessels] == [45, 185, 185]).all()


def test_border_lies_just_inside_the_field_of_view():
    fov = np.hypot(*np.ogrid[-30:30, -40:40]) < 20
    is_border = (with_border(GREY, fov) == BORDER).all(axis=-1)
    assert is_border[30, 21]
    assert not is_border[30, 20]  # outside
    assert not is_border[30, 24]
    assert np.array_equal(with_border(GREY, fov | True), GREY)


def test_outline_joins_its_corners():
    picture = with_outline(GREY, np.array([(10, 20), (10, 70), (50, 70), (50, 20)]), BORDER)
    assert (picture[[10, 30, 50, 30], [40, 70, 40, 20]] == BORDER).all()
    assert (picture[30, 40] == 100).all()


def test_panels_have_one_height_in_a_row_below_the_title():
    panels = [np.full((400, 400), 50, np.uint8), np.full((100, 50, 3), 200, np.uint8)]
    assert side_by_side(panels, 200).shape == (200, 300, 3)
    picture = side_by_side(panels, 200, "x")
    assert picture[-1, [10, -10], 0].tolist() == [50, 200]
    assert picture[:-200].max() == 255
