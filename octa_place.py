"""Find an OCT-A in a photograph that shows more of the eye, by the vessels that a network sees in the photograph.

Both are reduced to PX_PER_MM and filtered, so that vessels stand out. Then all rotations, scales and shifts within a
range are compared, by the correlation of the two where both show something (template matching: Lewis, Vision Interface
1995;95:120). `registration` corrects the rest, 2 degrees and 3 % of scale.

The mirrored photograph, which does not contain the OCT-A, shows how well an OCT-A matches by chance.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from itertools import product

import numpy as np
from PIL import Image
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import map_coordinates
from skimage.transform import resize

from registration import ENTIRELY, TURNS, blocks, vessel_contrast

PX_PER_MM = 24.0  # at which the two are compared; they are filtered at twice this scale
ANGLES = np.deg2rad(np.arange(-12.0, 13.0, 3.0))
SCALES = 1.06 ** np.arange(-4, 5)  # factors of the photograph's assumed scale: eyes and cameras differ
SEEN = 0.5  # least share of the OCT-A inside the camera's field
CLEARLY = 1.25  # times the correlation by chance


@dataclass(frozen=True)
class Place:
    """The position of an OCT-A in a photograph."""

    centre: tuple[float, float]  # row and column of its middle, px of the photograph
    px_per_mm: float  # of the photograph, as found
    angle: float  # radians, by which its rows are rotated from the photograph's, rows towards columns
    score: float  # correlation of the two
    control: float  # the best one in the photograph mirrored or rotated by 180 degrees
    at_limit: bool = False  # the scale is the smallest or largest of SCALES

    @property
    def is_clear(self) -> bool:
        """Whether it is clearly better than chance, at a scale that is not at the limit of the search."""
        return self.score > 0 and self.score >= CLEARLY * self.control and not self.at_limit


class Seen:
    """What a network sees in a photograph, prepared for the search."""

    def __init__(self, probability: np.ndarray, fov: np.ndarray, px_per_mm: float):
        """Args:
        probability: of a vessel, (height, width), float on [0, 1].
        fov: (height, width), bool: inside the camera's field.
        px_per_mm: of the photograph, as assumed.
        """
        self.px_per_mm = px_per_mm
        size = at_double_scale(fov.shape, px_per_mm)
        inside = resize(fov.astype(np.float32), size, order=1, anti_aliasing=True) > ENTIRELY
        seen = resize(probability.astype(np.float32), size, order=1, anti_aliasing=True)
        self.inside = blocks(inside.astype(np.float32), 2)
        self.contrast = blocks(vessel_contrast(seen, inside, evenly=False) * inside, 2)
        self.factor = np.divide(fov.shape, size) * 2  # px of the photograph per px here, of rows and columns

    def turned(self, down: int, right: int) -> "Seen":
        """The same with rows and columns in these directions, 1 or -1."""
        other = copy(self)
        other.inside, other.contrast = (image[::down, ::right] for image in (self.inside, self.contrast))
        return other


def at_double_scale(shape: Sequence[int], px_per_mm: float) -> tuple[int, int]:
    """The even height and width of an image at twice PX_PER_MM."""
    return tuple(2 * max(8, round(side * PX_PER_MM / px_per_mm)) for side in shape)


def find_place(octa: np.ndarray, side_mm: float, seen: Seen) -> Place:
    """Find an OCT-A (height, width), float on [0, 1], whose width is `side_mm`, in a photograph."""
    size = at_double_scale(octa.shape, octa.shape[1] / side_mm)
    scan = resize(octa.astype(np.float32), size, order=1, anti_aliasing=True)
    scan = blocks(vessel_contrast(scan, np.ones(size, bool), evenly=True), 2)
    templates = [Template(scan, angle, scale) for angle, scale in product(ANGLES, SCALES)]
    longest = np.max([template.shape for template in templates], axis=0)
    padded = [next_fast_len(int(side), real=True) for side in seen.inside.shape + longest]
    right, *mirrored = (Spectra(one, padded) for one in (seen, *(seen.turned(*steps) for steps in TURNS.values())))
    control, best = -1.0, (-2.0, np.zeros(2), templates[0])
    for template in templates:
        moving = template.spectra(padded)
        best = max(best, (*best_shift(template, moving, right), template), key=lambda one: one[0])
        control = max(control, *(best_shift(template, moving, one)[0] for one in mirrored))
    score, corner, template = best
    middle = corner + (np.array(template.shape) - 1) / 2
    centre = (middle + 0.5) * seen.factor - 0.5
    at_limit = template.scale in (SCALES[0], SCALES[-1])
    return Place(tuple(centre), seen.px_per_mm * template.scale, template.angle, score, control, at_limit)


class Spectra:
    """The Fourier transforms of what is seen in a photograph, padded to a size."""

    def __init__(self, seen: Seen, padded: Sequence[int]):
        self.padded, self.shape = padded, seen.inside.shape
        self.contrast, self.square, self.inside = (
            rfft2(image, padded) for image in (seen.contrast, seen.contrast**2, seen.inside)
        )
        self.usual = np.mean(seen.contrast[seen.inside > 0.5] ** 2)


def turning(angle: float) -> np.ndarray:
    """The matrix (2, 2) that rotates a direction in the photograph, row and column, to that in the OCT-A."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


class Template:
    """An OCT-A's vessel contrast, rotated and scaled as it would lie in the photograph."""

    def __init__(self, scan: np.ndarray, angle: float, scale: float):
        self.angle, self.scale = angle, scale
        turn = turning(angle)
        self.shape = tuple(np.ceil(scale * np.abs(turn) @ scan.shape).astype(int))
        here = np.indices(self.shape) - (np.reshape(self.shape, (2, 1, 1)) - 1) / 2
        last = np.reshape(scan.shape, (2, 1, 1)) - 1
        there = np.tensordot(turn / scale, here, 1) + last / 2
        self.shown = ((there >= 0) & (there <= last)).all(axis=0).astype(np.float32)
        self.contrast = map_coordinates(scan, there, order=1) * self.shown

    def spectra(self, padded: Sequence[int]) -> list[np.ndarray]:
        """The conjugate spectra of its contrast, of the square of that, and of where it shows something."""
        return [np.conj(rfft2(image, padded)) for image in (self.contrast, self.contrast**2, self.shown)]


def best_shift(template: Template, moving: Sequence[np.ndarray], photograph: Spectra) -> tuple[float, np.ndarray]:
    """The best correlation of all positions of a template, and its upper left corner there, (2,), px.

    `moving` are the template's own spectra.
    """
    contrast, square, shown = moving
    products = np.stack(
        [
            photograph.contrast * contrast,
            photograph.square * shown,
            photograph.inside * square,
            photograph.inside * shown,
        ]
    )
    together, power, other, area = irfft2(products, photograph.padded, workers=-1)
    power = np.maximum(power, 0) + 0.2 * photograph.usual * template.shown.sum()  # no chance fit to bare areas
    score = together / np.sqrt(power * np.maximum(other, 1e-3))
    score[area < SEEN * template.shown.sum()] = -1
    best = np.array(np.unravel_index(np.argmax(score), score.shape))
    corner = np.where(best > np.array(photograph.shape), best - photograph.padded, best)
    return float(score[tuple(best)]), corner


def cut(fundus: np.ndarray, place: Place, shape_mm: tuple[float, float], px_per_mm: float) -> np.ndarray:
    """Crop a photograph (height, width, 3), uint8, to what an OCT-A of a height and width in mm shows.

    The crop is rotated like the OCT-A and has a scale of `px_per_mm`; it is black beyond the photograph's border.
    """
    factor = px_per_mm / place.px_per_mm
    whole = tuple(max(1, round(side * factor)) for side in fundus.shape[:2])
    centre = (np.array(place.centre) + 0.5) * np.divide(whole, fundus.shape[:2])
    picture = Image.fromarray(fundus).resize(whole[::-1], Image.Resampling.LANCZOS)
    size = tuple(max(1, round(side * px_per_mm)) for side in shape_mm)
    turn = turning(place.angle).T
    first = centre - turn @ (np.array(size) / 2)
    (yy, yx), (xy, xx) = turn
    # Pillow's coefficients: column = a x + b y + c, row = d x + e y + f
    coefficients = (xx, xy, first[1], yx, yy, first[0])
    return np.asarray(picture.transform(size[::-1], Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC))


def corners(place: Place, shape_mm: tuple[float, float]) -> np.ndarray:
    """The corners of an OCT-A of a height and width in mm, in a photograph: (4, 2), rows and columns in px."""
    down, right = np.multiply(shape_mm, place.px_per_mm) / 2
    around = np.array([(-down, -right), (-down, right), (down, right), (down, -right)])
    return np.array(place.centre) + around @ turning(place.angle)
