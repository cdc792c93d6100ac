"""Pictures of an eye that put prediction and truth side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pairs.dataset import Pair
from retina.images import black_outside, octa_to_grey
from retina.vessels import vessel_map
from run.predict import Predictor

MISSED, INVENTED = (0.84, 0.37, 0.0), (0.34, 0.71, 0.91)  # vermillion and sky blue: seen by the colour-blind too
LARGE = "Eyes"  # the tag of the pictures side by side
PANEL_PX = 400  # height of a panel at least
WHOLE_PX = 1000  # longer side of a whole photograph, about: at full size it would take 10 MB
TITLE_PX = 20  # height of the letters


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
        seen = predicted
        if predictor.input_noise:
            seen = octa_to_grey(predictor.predict(pair.fundus, pair.fov, with_noise=False))
        vessels = missed_and_invented(vessel_map(real, pair.fov), vessel_map(seen, pair.fov))
        title = f"{name}: vessel AUC {scores['vessel_auc']:.2f}, Dice {scores['vessel_dice']:.2f}"
        row = side_by_side([fundus, np.uint8(255 * real), np.uint8(255 * predicted), np.uint8(255 * vessels)], title)
        for tag, picture in zip(pictures, (fundus, octa, prediction, row), strict=True):
            pictures[tag].append(picture)
    return pictures


def beside_fundus(fundus: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """A photograph (height, width, 3), uint8, next to its prediction (.., channels), float on [0, 1]: uint8."""
    step = max(1, max(fundus.shape) // WHOLE_PX)
    grey = np.uint8(np.round(255 * octa_to_grey(prediction)))  # [0, 1] -> [0, 255]
    return np.hstack([fundus, np.dstack([grey] * 3)])[::step, ::step]


def missed_and_invented(truth: np.ndarray, vessels: np.ndarray) -> np.ndarray:
    """Vessels of two maps (height, width), bool, in colour: white in both, or MISSED, INVENTED; float on [0, 1]."""
    overlay = np.zeros((*truth.shape, 3))
    overlay[truth & vessels] = 1
    overlay[truth & ~vessels] = MISSED
    overlay[vessels & ~truth] = INVENTED
    return overlay


def side_by_side(panels: Sequence[np.ndarray], title: str) -> np.ndarray:
    """Panels of one size in a row below a title.

    Args:
        panels: (height, width) or (height, width, 3), uint8.
        title: what is shown.

    Returns:
        (height, width, 3), uint8: panels of less than PANEL_PX are enlarged.
    """
    row = Image.fromarray(np.hstack([panel if panel.ndim == 3 else np.dstack([panel] * 3) for panel in panels]))
    factor = max(1.0, PANEL_PX / row.height)
    row = row.resize((round(row.width * factor), round(row.height * factor)), Image.Resampling.BILINEAR)
    picture = Image.new("RGB", (row.width, row.height + 2 * TITLE_PX))
    picture.paste(row, (0, 2 * TITLE_PX))
    font = ImageFont.load_default(TITLE_PX)
    ImageDraw.Draw(picture).text((TITLE_PX // 2, TITLE_PX // 2), title, fill="white", font=font)
    return np.asarray(picture)
