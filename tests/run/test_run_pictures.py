"""Pictures for TensorBoard that put prediction and truth side by side."""

import numpy as np
from conftest import SeesVessels

from pairs.dataset import Pair
from run.pictures import WHOLE_PX, beside_fundus, pictures_of


def test_prediction_equal_to_the_real_octa_misses_and_invents_nothing(tmp_path):
    grey = np.uint8(40 + 150 * (np.arange(400) % 40 < 8) * np.ones((400, 1)))
    pair = Pair(np.dstack([255 - grey] * 3), grey[..., np.newaxis], np.ones((400, 400), bool))
    result = grey[..., np.newaxis] / 255, {"vessel_auc": 1.0, "vessel_dice": 1.0}
    row = pictures_of({"x": pair}, [result], SeesVessels())["Eyes"][0]
    vessels = row[-400:, -400:]
    assert (vessels.min(axis=-1) == vessels.max(axis=-1)).all()  # black and white only
    assert vessels.max() == 255


def test_whole_photograph_is_shown_smaller_with_its_prediction_beside_it():
    side = 2 * WHOLE_PX
    picture = beside_fundus(np.full((side, side, 3), 90, np.uint8), np.ones((side, side, 1)))
    assert picture.shape == (WHOLE_PX, 2 * WHOLE_PX, 3)
    assert picture[0, [0, -1], 0].tolist() == [90, 255]
