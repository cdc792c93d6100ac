"""How sure a vessel map is: each pixel's probability of being right, the Dice to expect, and whether it is usable.

The vessel probability is calibrated: with the photograph's sharpness and scale it becomes how likely somebody who draws
the vessels by hand would draw the pixel. `python research/confidence.py fit RUN` found the numbers below with the
supplied weights, on simulated retinas that were also blurred, darkened and made noisy; with other weights they are
approximate.
"""

from dataclasses import dataclass

import numpy as np
from PIL.Image import Resampling
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.special import expit, logit

from retina.images import resized
from retina.vessels import ratio

FIELD_PX = 700  # diameter of the field of view at which sharpness is measured
FINE, COARSE, AROUND = 1.0, 2.0, 8.0  # px at FIELD_PX: Gaussians; between the first two lie the thinnest vessels
RIM = 8  # px at FIELD_PX: nothing so near to the field's border counts as detail
DARK = 4.0  # grey level: darker surroundings of a detail count as if they had this one

# Calibration: logit of the drawn share = OFFSET + SLOPE * logit of the probability; each is a constant, plus a factor
# of the logarithm of the sharpness, and one of that of the scale over USUAL_PX_PER_MM.
PROBABILITY = 1e-3, 1 - 1e-3  # nearer to 0 and 1 it counts as these
USUAL_PX_PER_MM, SCALES_PX_PER_MM = 80.0, (35.0, 160.0)  # least and greatest that it was fitted with
OFFSET = -0.202, 0.231, -0.232
SLOPE = 0.884, 0.047, 0.120
DICE_SPREAD = 0.15  # of nine in ten maps, the Dice is at most so far from the expected one
DENSITY_SPREAD = 2.5  # of nine in ten maps, the density is within this factor of the expected one

# Limits of a usable photograph
LEAST_DICE = 0.6  # expected
LEAST_BRIGHTNESS = 30.0  # grey levels
LEAST_FIELD = 0.4  # share of the picture; a round field in a picture of 16:9 has 0.44
SHARPNESS = 0.2, 8.0  # per cent; photographs have 0.2 to 5, noise and other pictures more
BLUEST = 0.9  # blue / green; photographs of the retina have 0 to 0.8


@dataclass(frozen=True)
class Confidence:
    """How sure a vessel map is; as text `usable`, or `doubtful` and why.

    right: probability that each pixel of the map is right, (height, width), float on [0, 1], 0 outside the field; None
    without a vessel probability. dice: expected between the map and a manual one, with the ends of an interval that
    holds in nine of ten cases; nan without a vessel probability. field_share: of the picture that is inside the field
    of view. sharpness: see `sharpness`. doubts: why the map is doubtful; none if it is usable.
    """

    right: np.ndarray | None
    dice: tuple[float, float, float]
    field_share: float
    sharpness: float
    doubts: tuple[str, ...]

    def __str__(self) -> str:
        return f"doubtful: {'; '.join(self.doubts)}" if self.doubts else "usable"


def assess(
    fundus: np.ndarray, fov: np.ndarray, sharp: float, drawn: np.ndarray | None, vessels: np.ndarray
) -> Confidence:
    """Assess a photograph and its vessel map.

    Args:
        fundus: (height, width, 3), uint8.
        fov: (height, width), bool: inside the field of view, not empty.
        sharp: see `sharpness`.
        drawn: how likely somebody would draw each pixel: (height, width), float on [0, 1]; None: not predicted.
        vessels: (height, width), bool: the vessel map.
    """
    share, brightness = float(fov.mean()), float(np.median(fundus.max(axis=-1)[fov]))
    right, dice = None, (np.nan,) * 3
    if drawn is not None:
        right = np.where(vessels, drawn, 1 - drawn) * fov
        expected = expected_dice(drawn, vessels)
        dice = expected, max(0.0, expected - DICE_SPREAD), min(1.0, expected + DICE_SPREAD)
    red, green, blue = (float(np.median(fundus[..., channel][fov])) for channel in range(3))
    doubts = {
        "dark": brightness < LEAST_BRIGHTNESS,
        "the field of view is cut off, or a small part of the picture": share < LEAST_FIELD,
        "noisy, or no fundus photograph": sharp > SHARPNESS[1],
        "colours unlike a fundus photograph": red < green or blue > BLUEST * green,
        f"expected Dice below {LEAST_DICE}": dice[0] < LEAST_DICE,
    }
    return Confidence(right, dice, share, sharp, tuple(doubt for doubt, holds in doubts.items() if holds))


def calibrated(probability: np.ndarray, sharp: float, px_per_mm: float | None) -> np.ndarray:
    """How likely somebody would draw each pixel, on [0, 1], from its vessel probability, sharpness and scale.

    It is Platt's scaling (Adv Large Margin Classifiers 1999:61), whose two numbers depend on the sharpness in per cent,
    and on the scale of the photograph: where a pixel is large, thin vessels are drawn wider than they are.
    """
    scale = np.clip(px_per_mm or USUAL_PX_PER_MM, *SCALES_PX_PER_MM)
    facts = 1.0, np.log(np.clip(sharp, *SHARPNESS)), np.log(scale / USUAL_PX_PER_MM)
    return expit(np.dot(OFFSET, facts) + np.dot(SLOPE, facts) * logit(np.clip(probability, *PROBABILITY)))


def expected_dice(drawn: np.ndarray, vessels: np.ndarray) -> float:
    """The Dice to expect between a vessel map (height, width), bool, and one drawn by hand; nan if both are empty.

    `drawn`, (height, width), is how likely each pixel is drawn: 2 sum of `drawn` in the map / (pixels of the map + sum
    of `drawn`), the ratio of the expected overlap and the expected sizes.
    """
    return ratio(2 * float(drawn[vessels].sum()), float(vessels.sum() + drawn.sum()))


def sharpness(fundus: np.ndarray, fov: np.ndarray, diameter: float) -> float:
    """Contrast of the finest details, in per cent of the brightness around them.

    Of the green channel: the standard deviation of a difference of Gaussians of 1 and 2 px, at a field of 700 px.
    `diameter`: of a field of 45 degrees, in px.
    """
    factor = FIELD_PX / diameter
    green, inside = fundus[..., 1], fov
    if factor < 1:
        size = tuple(max(1, round(side * factor)) for side in fov.shape)
        green = resized(green, size)
        inside = resized(fov, size, Resampling.NEAREST)
    px = 1 / max(1.0, factor)  # of a smaller photograph, in its own pixels
    green = green.astype(np.float32)
    fine, coarse, around = (gaussian_filter(green, sigma * px) for sigma in (FINE, COARSE, AROUND))
    inner = binary_erosion(inside, iterations=max(1, round(RIM * px)), border_value=1)
    detail = (fine - coarse) / np.maximum(around, DARK)
    return 100 * float(detail[inner if inner.any() else inside].std())
