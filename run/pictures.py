"""Pictures for TensorBoard that put prediction and truth side by side."""

from collections.abc import Mapping, Sequence

import numpy as np

from pairs.dataset import Pair
from retina.images import black_outside, octa_to_grey, to_uint8
from retina.pictures import missed_and_invented, side_by_side
from retina.vessels import vessel_map
from run.predict import Predictor

LARGE = "Eyes"  # the tag of the pictures side by side
PANEL_PX = 400  # height of a panel at least
WHOLE_PX = 1000  # height of a whole photograph at most: at full size it would take 10 MB


def pictures_of(
    pairs: Mapping[str, Pair], results: Sequence[tuple[np.ndarray, dict[str, float]]], predictor: Predictor
) -> dict[str, list[np.ndarray]]:
    """Pictures for TensorBoard by tag, of some pairs by name.

    Args:
        pairs: the pairs to show.
        results: for each the prediction (height, width, channels), float on [0, 1], and its scores.
        predictor: to predict the vessels without noise.
    """
    pictures = {tag: [] for tag in ("Fundus", "Target OCT", "Predicted OCT", LARGE)}
    for (name, pair), (prediction, scores) in zip(pairs.items(), results, strict=True):
        fundus, octa = black_outside(pair.fundus, pair.fov), black_outside(pair.octa, pair.fov)
        real, predicted = octa_to_grey(octa / 255), octa_to_grey(prediction)  # [0, 255] -> [0, 1]
        probability = predictor.predict_vessels(pair.fundus, pair.fov) if predictor.vessels_apart else predicted
        drawn = vessel_map(real, pair.fov) if pair.drawn is None else pair.drawn
        vessels = missed_and_invented(drawn, predictor.map_of(probability, pair.fov))
        title = f"{name}: vessel AUC {scores['vessel_auc']:.2f}, Dice {scores['vessel_dice']:.2f}"
        panels = fundus, to_uint8(real), to_uint8(predicted), vessels
        row = side_by_side(panels, max(PANEL_PX, len(fundus)), title)
        for tag, picture in zip(pictures, (fundus, octa, prediction, row), strict=True):
            pictures[tag].append(picture)
    return pictures


def beside_fundus(fundus: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """A photograph (height, width, 3), uint8, next to its prediction (.., channels), float on [0, 1]: uint8."""
    return side_by_side([fundus, to_uint8(octa_to_grey(prediction))], min(len(fundus), WHOLE_PX))
