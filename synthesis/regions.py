"""Densities of a vessel map, of the whole field and by sector, with the interval in which a manual one should lie."""

from dataclasses import dataclass

import numpy as np

from retina.vessels import ratio, skeleton_density, skeleton_lengths
from synthesis.confidence import DENSITY_SPREAD

# Sectors of photographs that are left out: photographed otherwise, the same eye has a density there that differs by
# more than a fifth of the spread between eyes, see `python research/landmarks.py repeatable RUN`.
NOT_REPEATABLE = "disc ring nasal", "macula outer inferior"


@dataclass(frozen=True)
class Density:
    """Of a region: nan or 0 px where it is unknown.

    vessels: share of the region's pixels on [0, 1]; px: vessel pixels and all. expected: of a manual map, with the
    ends of an interval that holds in nine of ten cases. skeleton: length of the vessels' centrelines, mm per mm2.
    area: mm2.
    """

    vessels: float
    px: tuple[int, int]
    expected: tuple[float, float, float]
    skeleton: float
    area: float


def densities_of(
    vessels: np.ndarray, drawn: np.ndarray | None, regions: dict[str, np.ndarray], px_per_mm: float | None
) -> dict[str, Density]:
    """The densities of a vessel map (height, width), bool, by region.

    Args:
        vessels: the map.
        drawn: how likely somebody would draw each pixel, (height, width) on [0, 1]; None: unknown.
        regions: masks (height, width), bool, by name.
        px_per_mm: scale; None: unknown.
    """
    lengths = skeleton_lengths(vessels)
    found = {}
    for name, region in regions.items():
        px = int((vessels & region).sum()), int(region.sum())
        expected = np.nan if drawn is None else float(drawn[region].mean())
        skeleton = skeleton_density(lengths, region, 1 / px_per_mm) if px_per_mm else np.nan
        area = px[1] / px_per_mm**2 if px_per_mm else np.nan
        spread = expected, expected / DENSITY_SPREAD, min(expected * DENSITY_SPREAD, 1.0)  # in this order nan stays nan
        found[name] = Density(ratio(*px), px, spread, skeleton, area)
    return found
