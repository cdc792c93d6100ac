"""Find an OCT-A in a photograph that shows more of the eye, by the vessels that a network predicts.

Both are reduced to PLACE_PX_PER_MM and filtered, so that vessels stand out. Then all rotations, scales and shifts
within a range are compared (`alignment.search`). `alignment.registration` corrects the rest, 2 degrees and 3 % of
scale.

The mirrored photograph, which does not contain the OCT-A, shows how well an OCT-A matches by chance.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.Image import Resampling
from scipy.fft import set_workers

from alignment.registration import ENTIRELY, blocks, vessel_contrast
from alignment.search import Masked, find_similarities, rotation
from retina.images import SMOOTH, resized

PLACE_PX_PER_MM = 24.0  # at which the two are compared; they are filtered at twice this scale
PLACE_ANGLES = np.deg2rad(np.arange(-12.0, 13.0, 3.0))
# Of the OCT-A, relative to the photograph's assumed scale: eyes and cameras differ
PLACE_SCALES = 1.06 ** np.arange(-4, 5)
LEAST_OVERLAP = 0.5  # share of the OCT-A inside the field of view
TIMES_CHANCE = 1.25  # by how much an OCT-A must match better than by chance


class Place(NamedTuple):
    """The position of an OCT-A in a photograph."""

    centre: tuple[float, float]  # row and column of its middle, px of the photograph
    px_per_mm: float  # of the photograph, as found
    angle: float  # radians, by which its rows are rotated from the photograph's, rows towards columns
    score: float = 0.0  # correlation of the two
    control: float = 0.0  # the best one in the photograph mirrored or rotated by 180 degrees
    is_clear: bool = False  # clearly better than chance, at a scale that is not at the limit of the search


class Photograph:
    """The vessels predicted for a photograph, prepared as the fixed image of the search."""

    def __init__(self, probability: np.ndarray, fov: np.ndarray, px_per_mm: float):
        """Args:
        probability: of a vessel, (height, width), float on [0, 1].
        fov: (height, width), bool: inside the field of view.
        px_per_mm: of the photograph, as assumed.
        """
        self.px_per_mm = px_per_mm
        size = at_double_scale(fov.shape, px_per_mm)
        inside = resized(fov.astype(np.float32), size, SMOOTH) > ENTIRELY
        contrast = vessel_contrast(resized(probability, size, SMOOTH), inside, evenly=False) * inside
        self.fixed = Masked(blocks(contrast, 2), blocks(inside.astype(np.float32), 2))
        self.factor = np.divide(fov.shape, size) * 2  # px of the photograph per px of `fixed`, of rows and columns


def at_double_scale(shape: Sequence[int], px_per_mm: float) -> tuple[int, int]:
    """The even height and width of an image at twice PLACE_PX_PER_MM."""
    return tuple(2 * max(8, round(side * PLACE_PX_PER_MM / px_per_mm)) for side in shape)


def find_place(octa: np.ndarray, side_mm: float, photograph: Photograph) -> Place:
    """Find an OCT-A (height, width), float on [0, 1], whose width is `side_mm`, in a photograph."""
    size = at_double_scale(octa.shape, octa.shape[1] / side_mm)
    scan = resized(octa, size, SMOOTH)
    moving = blocks(vessel_contrast(scan, np.ones(size, bool), evenly=True), 2)
    fixed = [photograph.fixed, *photograph.fixed.mirrored()]
    with set_workers(-1):  # all cores
        found, *controls = find_similarities(fixed, moving, PLACE_ANGLES, PLACE_SCALES, least_overlap=LEAST_OVERLAP)
    centre = tuple((found.centre + 0.5) * photograph.factor - 0.5)
    control = max(one.score for one in controls)
    at_limit = found.scale in (PLACE_SCALES[0], PLACE_SCALES[-1])
    is_clear = found.score > 0 and found.score >= TIMES_CHANCE * control and not at_limit
    return Place(centre, photograph.px_per_mm / found.scale, found.angle, found.score, control, is_clear)


def cut(fundus: np.ndarray, place: Place, shape_mm: tuple[float, float], px_per_mm: float) -> np.ndarray:
    """Crop a photograph (height, width, 3), uint8, to what an OCT-A of a height and width in mm shows.

    The crop is rotated like the OCT-A and has a scale of `px_per_mm`; it is black beyond the photograph's border.
    """
    factor = px_per_mm / place.px_per_mm
    whole = tuple(max(1, round(side * factor)) for side in fundus.shape[:2])
    centre = (np.array(place.centre) + 0.5) * np.divide(whole, fundus.shape[:2])
    picture = Image.fromarray(resized(fundus, whole, Resampling.LANCZOS))
    size = tuple(max(1, round(side * px_per_mm)) for side in shape_mm)
    matrix = rotation(place.angle).T
    first = centre - matrix @ (np.array(size) / 2)
    (yy, yx), (xy, xx) = matrix
    # Pillow's coefficients: column = a x + b y + c, row = d x + e y + f
    coefficients = (xx, xy, first[1], yx, yy, first[0])
    return np.asarray(picture.transform(size[::-1], Image.Transform.AFFINE, coefficients, Resampling.BICUBIC))


def corners(place: Place, shape_mm: tuple[float, float]) -> np.ndarray:
    """The corners of an OCT-A of a height and width in mm, in a photograph: (4, 2), rows and columns in px."""
    down, right = np.multiply(shape_mm, place.px_per_mm) / 2
    around = np.array([(-down, -right), (-down, right), (down, right), (down, -right)])
    return np.array(place.centre) + around @ rotation(place.angle)
