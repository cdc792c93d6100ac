"""Where disc and fovea are in a photograph, and which eye it is.

Vessels converge at the disc, and the disc is bright. The fovea is a dark spot without vessels, temporal of it. What is
not found with certainty is None: no position is guessed.
"""

from dataclasses import dataclass

import numpy as np
from PIL.Image import Resampling
from scipy.ndimage import gaussian_filter

from retina.images import resized

PX_PER_MM = 20.0  # scale at which they are looked for
REACH_MM, FADING_MM = 4.0, 2.0  # how far along a vessel's direction the disc may lie, and where that counts less
DIRECTIONS = 6  # of vessels that are told apart: those at the disc have many
DISC_MM, FOVEA_MM, AROUND_MM = 0.35, 0.3, 1.3  # Gaussians of the disc and the fovea; distance of what is around a fovea
DISTANCE_MM, ANGLE = (4.65, 0.3), (0.1, 0.08)  # of the fovea from the disc, and downwards in rad: mean, deviation
MARGIN = 14.0  # least difference in score of a fovea to the best place on the disc's other side
UNLIKELY = 9.0  # a fovea whose place is that far from the mean, in squared deviations, is none
FEWEST_PX = 50  # of vessels


@dataclass(frozen=True)
class Landmarks:
    """Row and column in px, or None if not found; eye: OD, OS, or "" if the fovea is not found."""

    disc: tuple[float, float] | None = None
    fovea: tuple[float, float] | None = None
    eye: str = ""

    @property
    def turned(self) -> float:
        """By how much the photograph is turned anticlockwise, in rad, as the line from disc to fovea tells; else 0."""
        if self.fovea is None:
            return 0.0
        down, right = np.subtract(self.fovea, self.disc)
        return float((np.arctan2(down, abs(right)) - ANGLE[0]) * -np.sign(right))


def find_landmarks(fundus: np.ndarray, vessels: np.ndarray, fov: np.ndarray, px_per_mm: float) -> Landmarks:
    """Disc and fovea of a whole photograph with equal scales along both axes.

    Args:
        fundus: (height, width, 3), uint8.
        vessels, fov: the vessel map and the inside of the field of view, (height, width), bool.
        px_per_mm: scale.
    """
    factor = PX_PER_MM / px_per_mm
    size = tuple(max(8, round(side * factor)) for side in fov.shape)
    kernel = Resampling.BOX if factor < 1 else Resampling.BILINEAR
    share, image = resized(vessels.astype(np.float32), size, kernel), resized(fundus, size).astype(np.float32)
    inside = resized(fov, size)
    if (share > 0.3).sum() < FEWEST_PX or not inside.any():
        return Landmarks()
    weight = inside.astype(np.float32)

    def local(values: np.ndarray, sigma_mm: float) -> np.ndarray:
        """The weighted mean of the field's pixels around each."""
        seen = gaussian_filter(weight, sigma_mm * PX_PER_MM)
        return gaussian_filter(values * weight, sigma_mm * PX_PER_MM) / np.maximum(seen, 0.05)

    brightest = image.max(axis=-1)
    bright = local(brightest, DISC_MM) / np.maximum(local(brightest, 1.5), 1) - 1
    score = np.where(inside, convergence(share, inside) * np.exp(1.5 * bright.clip(-0.3, 0.5)), 0)
    disc = np.array(np.unravel_index(score.argmax(), size))

    dark = darkness(local(image[..., 1] + 0.5 * image[..., 0], FOVEA_MM), inside)
    down, right = ((place - middle) / PX_PER_MM for place, middle in zip(np.indices(size), disc, strict=True))
    distance, angle = np.hypot(down, right), np.arctan2(down, abs(right))
    likely = ((distance - DISTANCE_MM[0]) / DISTANCE_MM[1]) ** 2 + ((angle - ANGLE[0]) / ANGLE[1]) ** 2
    near = gaussian_filter(share, FOVEA_MM * PX_PER_MM)  # vessels
    score = 30 * dark.clip(-0.3, 0.3) - 20 * near - likely / 2
    score[gaussian_filter(weight, 0.4 * PX_PER_MM) < 0.97] = -np.inf  # too near to the border
    both = [np.where(side * right > 0, score, -np.inf) for side in (1, -1)]
    best = max(both, key=np.max)
    fovea = np.array(np.unravel_index(best.argmax(), size))
    disc, place = (tuple(map(float, at / factor)) for at in (disc, fovea))
    if best.max() - min(np.max(one) for one in both) < MARGIN or likely[tuple(fovea)] > UNLIKELY:
        return Landmarks(disc)
    return Landmarks(disc, place, "OS" if place[1] > disc[1] else "OD")


def convergence(share: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """How many vessels of how many directions point to each pixel; `share` of each pixel that is vessel, [0, 1].

    A Hough transform: each vessel pixel votes for the line along its vessel, whose direction is that of the structure
    tensor (Bigün and Granlund, ICCV 1987).
    """
    down, right = np.gradient(gaussian_filter(share, 1.5))
    yy, xy, xx = (gaussian_filter(product, 2.0) for product in (down * down, down * right, right * right))
    along = 0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2
    certain = np.hypot(xx - yy, 2 * xy) / (xx + yy + 1e-9)
    places = np.argwhere((share > 0.3) & inside)
    angle, strength = (values[tuple(places.T)] for values in (along, certain * share))
    step = np.arange(-REACH_MM * PX_PER_MM, REACH_MM * PX_PER_MM + 1)
    rows = np.rint(places[:, :1] + np.sin(angle)[:, np.newaxis] * step).astype(int)
    columns = np.rint(places[:, 1:] + np.cos(angle)[:, np.newaxis] * step).astype(int)
    votes = strength[:, np.newaxis] * np.exp(-((step / (FADING_MM * PX_PER_MM)) ** 2))
    height, width = share.shape
    valid = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    of_direction = np.floor(angle % np.pi / np.pi * DIRECTIONS).astype(int).clip(0, DIRECTIONS - 1)[:, np.newaxis]
    index = ((of_direction * height + rows) * width + columns)[valid]
    total = np.bincount(index, votes[valid], DIRECTIONS * height * width).reshape(DIRECTIONS, height, width)
    smooth = gaussian_filter(total, (0, DISC_MM * PX_PER_MM, DISC_MM * PX_PER_MM))
    return np.sqrt(smooth).sum(axis=0) ** 2


def darkness(level: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """How much darker each pixel is than both places on either side of it, relative, the mean of four directions.

    A border, a shadow or a slope is dark on one side only. Places outside the field do not count.
    """
    reach = round(AROUND_MM * PX_PER_MM)
    height, width = level.shape
    padded = np.pad(np.where(inside, level, np.nan), reach, constant_values=np.nan)

    def beside(turn: float) -> np.ndarray:
        down, right = round(reach * np.sin(turn)), round(reach * np.cos(turn))
        return padded[reach + down : reach + down + height, reach + right : reach + right + width]

    sides = [np.fmin(beside(turn), beside(turn + np.pi)) for turn in np.pi * np.arange(4) / 4]
    known = np.isfinite(sides)
    mean = np.where(known, sides, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(known.any(axis=0) & inside, mean / np.maximum(level, 1) - 1, -1)
