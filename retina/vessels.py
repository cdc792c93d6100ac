"""Vessel maps of an OCT-A, their densities by sector, and their comparison with the ground truth.

An OCT-A is a float array (height, width) on [0, 1]; `fov`, True inside the field of view, and vessel maps (`vessels`,
`truth`) are bool arrays (height, width). Pixels outside the field never count. What cannot be computed is nan.
"""

from itertools import product

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import mannwhitneyu
from skimage.filters import threshold_multiotsu, threshold_otsu
from skimage.morphology import skeletonize

from retina.ut_fsocta import EYES, OTHER_REGION

VESSEL_MAP_SIGMA = 2.0  # px: of 1, 1.5, 2 and 3 the nearest to the manual vessel maps of whole photographs (CHASE_DB1)
# Brightness classes of a smoothed OCT-A; the brightest are the vessels. The others are gaps and capillary mesh, and at
# the macula the avascular zone. Against the exact vessels of eight simulated retinas: Dice 0.85 at the disc (4 classes
# 0.82, 2 classes 0.75), 0.70 at the macula (3: 0.60, 2: 0.36), r of the densities 0.95 and 0.92. None: whole
# photographs; against the manual maps of eleven, from five cameras: mean Dice 0.65 (2 classes 0.645, 4: 0.60).
OCTA_CLASSES = {"disc": 3, "macula": 4, OTHER_REGION: 3, None: 3}
OCTA_LEVELS = 128  # grey levels to choose the thresholds from; 256 take much longer and give the same

# Diameters in mm of circles around the middle of the crop, where the scans are centred: the grid of the ETDRS,
# Ophthalmology 1991;98:786; and at the disc the ring of AngioVue's report
RINGS_MM = {"centre": (0, 1), "inner": (1, 3), "outer": (3, 6), "ring": (2, 4)}
QUADRANTS = ("superior", "nasal", "inferior", "temporal")
WHOLE = "whole"  # the crop
SECTORS = {
    "disc": (WHOLE, *(f"ring {name}" for name in QUADRANTS)),
    "macula": (WHOLE, "centre", *(f"{ring} {name}" for ring in ("inner", "outer") for name in QUADRANTS)),
    OTHER_REGION: (WHOLE,),
}
MIN_SECTOR_SEEN = 0.9  # of a sector's area; with less, its density would be that of another area


def smooth(image: np.ndarray, fov: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing, sigma in px, of the field alone (normalised convolution: Knutsson and Westin, CVPR 1993).

    Returns (height, width), float: inside the field the weighted mean of the field's pixels, outside it 0.
    """
    weight = gaussian_filter(fov.astype(float), sigma)
    total = gaussian_filter(np.where(fov, image, 0.0), sigma)
    return np.divide(total, weight, out=np.zeros_like(total), where=fov)


def otsu_threshold(values: np.ndarray) -> float:
    """The threshold of Otsu, IEEE Trans SMC 1979;9:62; nan if the values are equal, except for rounding."""
    return np.nan if np.ptp(values) < 1e-6 else threshold_otsu(values)  # far below one grey level


def vessel_threshold(values: np.ndarray, region: str | None = None) -> float:
    """The brightness above which a pixel of a smoothed OCT-A is a vessel; nan with too few grey levels for any.

    Multi-Otsu: Liao et al., J Inf Sci Eng 2001;17:713. `values` (pixels,) are `smooth(octa, fov, VESSEL_MAP_SIGMA)`
    inside the field; `region` is "disc", "macula", or None for a whole photograph.
    """
    if len(np.unique(np.round(values * OCTA_LEVELS))) <= OCTA_CLASSES[region]:
        return np.nan
    return threshold_multiotsu(values, OCTA_CLASSES[region], nbins=OCTA_LEVELS)[-1]


def vessel_map(octa: np.ndarray, fov: np.ndarray, region: str | None = None) -> np.ndarray:
    """The large vessels of an OCT-A (height, width), bool; `region` as for `vessel_threshold`."""
    smoothed = smooth(octa, fov, VESSEL_MAP_SIGMA)
    return fov & (smoothed > vessel_threshold(smoothed[fov], region))


def ratio(part: float, whole: float) -> float:
    """Part / whole; nan if the whole is 0."""
    return float(part / whole) if whole else np.nan


def vessel_density(vessels: np.ndarray, fov: np.ndarray) -> float:
    """Vessel pixels / field pixels of a vessel map; nan if the field is empty."""
    return ratio((vessels & fov).sum(), fov.sum())


def roc_auc(vessels: np.ndarray, probability: np.ndarray) -> float:
    """Area under the ROC curve of a vessel probability (pixels,) for vessels (pixels,), bool; 0.5 is chance, 1 is best.

    It is how often a vessel pixel has a higher value than another one, ties count half (Hanley and McNeil, Radiology
    1982;143:29). Nan without a vessel pixel, or without any other.
    """
    pairs = vessels.sum() * (~vessels).sum()
    if not pairs:
        return np.nan
    probability = probability.astype(float)  # sums of ranks in float32 are wrong
    return float(mannwhitneyu(probability[vessels], probability[~vessels], method="asymptotic").statistic / pairs)


def skeleton_lengths(vessels: np.ndarray) -> np.ndarray:
    """How much of the vessels' length lies at each pixel, in px: (height, width), float; the sum is the length.

    The centrelines are those of scikit-image. Neighbours are joined by 1, or by the square root of 2 where only their
    corners touch (Freeman, Comput Surv 1974;6:57); half of a joint counts at either end. Between the eight directions
    of the pixels this is up to a tenth longer than the vessel.
    """
    line = skeletonize(vessels)
    padded, lengths = np.pad(line, 1), np.zeros(line.shape)

    def neighbours(down: int, right: int) -> np.ndarray:
        return np.roll(padded, (-down, -right), axis=(0, 1))[1:-1, 1:-1]

    for down, right in product((-1, 0, 1), repeat=2):
        joined = line & neighbours(down, right)
        if down and right:  # where a third pixel joins two corners, its two joints are counted already
            joined &= ~neighbours(down, 0) & ~neighbours(0, right)
        lengths += np.hypot(down, right) / 2 * joined
    return lengths


def skeleton_density(lengths: np.ndarray, sector: np.ndarray, mm_per_px: float) -> float:
    """Length per area of a sector (height, width), bool, in mm per mm2, from `skeleton_lengths`; nan if it is empty."""
    return ratio(lengths[sector].sum(), sector.sum() * mm_per_px)


def from_middle(shape: tuple[int, int], centre: tuple[float, float] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Distances from the middle of an image, or from a row and column, in px: (1, width) rightwards, (height, 1) up."""
    row, column = centre or ((shape[0] - 1) / 2, (shape[1] - 1) / 2)
    return np.arange(shape[1])[np.newaxis] - column, row - np.arange(shape[0])[:, np.newaxis]


def sector_masks(
    fov: np.ndarray,
    region: str,
    eye: str,
    mm_per_px: float,
    centre: tuple[float, float] | None = None,
    turned: float = 0.0,
) -> dict[str, np.ndarray | None]:
    """The sectors of a region of an eye ("OD", "OS", or "" if unknown), inside the field of view.

    They lie around the middle of the image, that of a crop, or around the row and column `centre`; `turned` is by how
    much the image is turned anticlockwise, in rad.

    At the macula the ETDRS grid: a circle of 1 mm, and the quadrants of rings to 3 and to 6 mm. At the disc the
    quadrants of the ring from 2 to 4 mm. Quadrants meet at the diagonals; in a right eye (OD) nasal is to the right.

    Returns, for each of SECTORS[region], its pixels (height, width), bool; None if less than nine tenths of its area
    lie in crop and field, or if it depends on the eye and that is unknown. The whole crop is None only if the field is
    empty.
    """
    right, up = from_middle(fov.shape, centre)
    if turned:
        cosine, sine = np.cos(turned), np.sin(turned)
        right, up = right * cosine + up * sine, up * cosine - right * sine
    nasal = right if eye == "OD" else -right
    diameter = 2 * np.hypot(right, up) * mm_per_px  # mm: of the circle through each pixel
    # A diagonal's pixels belong to the upper or lower quadrant, so mirrored eyes have mirrored sectors.
    quadrants = up >= abs(nasal), nasal > abs(up), -up >= abs(nasal), -nasal > abs(up)
    masks = {WHOLE: fov if fov.any() else None}
    for name in SECTORS[region][1:]:
        ring, _, quadrant = name.partition(" ")
        low, high = RINGS_MM[ring]
        sector, area = (diameter >= low) & (diameter < high), np.pi * (high**2 - low**2) / 4  # bool, mm2
        if quadrant:
            sector, area = sector & quadrants[QUADRANTS.index(quadrant)], area / 4
        seen = sector & fov
        is_known = eye in EYES or quadrant not in ("nasal", "temporal")
        masks[name] = seen if is_known and seen.sum() * mm_per_px**2 >= MIN_SECTOR_SEEN * area else None
    return masks
