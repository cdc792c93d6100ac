"""Pictures that put prediction and truth side by side."""

from types import SimpleNamespace

import numpy as np

from pairs.dataset import Pair
from run.pictures import (
    INVENTED,
    MISSED,
    PANEL_PX,
    WHOLE_PX,
    beside_fundus,
    missed_and_invented,
    pictures_of,
    side_by_side,
)


def test_vessels_are_white_in_both_maps_and_coloured_in_one():
    truth, vessels = np.array([[True, True, False, False]]), np.array([[True, False, True, False]])
    assert missed_and_invented(truth, vessels).tolist() == [[[1, 1, 1], list(MISSED), list(INVENTED), [0, 0, 0]]]


def test_small_panels_are_enlarged():
    picture = side_by_side([np.zeros((50, 60, 3), np.uint8), np.zeros((50, 60), np.uint8)], "x")
    assert picture.shape[1] == 2 * 60 * PANEL_PX // 50


def test_panels_lie_in_a_row_below_the_title():
    picture = side_by_side([np.full((400, 400), level, np.uint8) for level in (50, 200)], "")
    assert picture[-1, [10, -10], 0].tolist() == [50, 200]


def test_prediction_equal_to_the_real_octa_misses_and_invents_nothing(tmp_path):
    grey = np.uint8(40 + 150 * (np.arange(400) % 40 < 8) * np.ones((400, 1)))
    pair = Pair(np.dstack([grey] * 3), grey[..., np.newaxis], np.ones((400, 400), bool))
    result = grey[..., np.newaxis] / 255, {"vessel_auc": 1.0, "vessel_dice": 1.0}
    row = pictures_of({"x": pair}, [result], SimpleNamespace(input_noise=0.0))["Eyes"][0]
    vessels = row[-400:, -400:]
    assert (vessels.min(axis=-1) == vessels.max(axis=-1)).all()  # black and white only
    assert vessels.max() == 255


def test_whole_photograph_has_its_prediction_beside_it():
    picture = beside_fundus(np.full((10, 20, 3), 90, np.uint8), np.full((10, 20, 1), 1.0))
    assert picture[0, [0, -1], 0].tolist() == [90, 255]


def test_large_photograph_is_shown_smaller():
    side = 3 * WHOLE_PX
    assert beside_fundus(np.zeros((side, side, 3), np.uint8), np.zeros((side, side, 1))).shape[0] == WHOLE_PX
