"""Whether the vessel map of a photograph is usable or doubtful, by four measures.

The limits were set on simulated retinas, unchanged and deliberately blurred, darkened or cut, and on pictures of other
things: `python research/confidence.py RUN` prints the results.
"""

from dataclasses import dataclass

import numpy as np
from PIL.Image import Resampling
from scipy.ndimage import binary_erosion, gaussian_filter

from retina.images import resized

FIELD_PX = 700  # diameter of the field of view at which sharpness is measured
FINE, COARSE, AROUND = 1.0, 2.0, 8.0  # px at FIELD_PX: Gaussians; between the first two lie the thinnest vessels
RIM = 8  # px at FIELD_PX: nothing so near to the field's border counts as detail
DARK = 4.0  # grey level: darker surroundings of a detail count as if they had this one

# Limits of a usable photograph
LEAST_BRIGHTNESS = 30.0  # grey levels
LEAST_FIELD = 0.4  # share of the picture; a round field in a picture of 16:9 has 0.44
SHARPNESS = 0.45, 8.0  # per cent; sharp photographs have 1 to 5, noise and other pictures more
BLUEST = 0.9  # blue / green; photographs of the retina have 0 to 0.8
LEAST_CONTRAST = 0.29  # of the vessel map; most simulated photographs have 0.33 and more
LEAST_WITHOUT_BORDER = 0.3  # the same where no border of the field of view is seen: the picture may show anything


@dataclass(frozen=True)
class Confidence:
    """Measures of a photograph and its vessel map; as text `usable`, or `doubtful` and why.

    field_share: of the picture that is inside the field of view. sharpness: see `sharpness`. brightness: median of the
    brightest channel, 0 to 255. contrast: mean vessel probability in the map minus that between the vessels, 0 to 1.
    doubts: why the map is doubtful; none if it is usable.
    """

    field_share: float
    sharpness: float
    brightness: float
    contrast: float
    doubts: tuple[str, ...]

    def __str__(self) -> str:
        return f"doubtful: {'; '.join(self.doubts)}" if self.doubts else "usable"


def assess(
    fundus: np.ndarray, fov: np.ndarray, diameter: float | None, probability: np.ndarray, vessels: np.ndarray
) -> Confidence:
    """Assess a photograph and its prediction.

    Args:
        fundus: (height, width, 3), uint8.
        fov: (height, width), bool: inside the field of view, not empty.
        diameter: of the field in px; None: no border is seen.
        probability: of a vessel: (height, width), float on [0, 1].
        vessels: (height, width), bool: the vessel map.
    """
    share, brightness = float(fov.mean()), float(np.median(fundus.max(axis=-1)[fov]))
    sharp = sharpness(fundus, fov, diameter or max(fov.shape))
    between = fov & ~vessels
    both = vessels.any() and between.any()
    contrast = float(probability[vessels].mean() - probability[between].mean()) if both else 0.0
    red, green, blue = (float(np.median(fundus[..., channel][fov])) for channel in range(3))
    doubts = {
        "dark": brightness < LEAST_BRIGHTNESS,
        "the field of view is cut off, or a small part of the picture": share < LEAST_FIELD,
        "blurred": sharp < SHARPNESS[0],
        "noisy, or no fundus photograph": sharp > SHARPNESS[1],
        "colours unlike a fundus photograph": red < green or blue > BLUEST * green,
        "low vessel contrast": contrast < (LEAST_WITHOUT_BORDER if diameter is None else LEAST_CONTRAST),
    }
    return Confidence(share, sharp, brightness, contrast, tuple(doubt for doubt, holds in doubts.items() if holds))


def sharpness(fundus: np.ndarray, fov: np.ndarray, diameter: float) -> float:
    """Contrast of the finest details, in per cent of the brightness around them; arguments as of `assess`.

    Of the green channel: the standard deviation of a difference of Gaussians of 1 and 2 px, at a field of 700 px.
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
