"""Measures of one OCT-A image, of a real and a generated one, and of vessel maps: arrays in, numbers out.

`validation_scores` computes what training logs after each epoch, by four measures. `image_similarity` compares pixels;
a fundus photograph does not show the capillary speckle, so no model can predict it, and pixels alone tell little.
`vessel_agreement` smooths the speckle away and compares the large vessels. `likeness` asks whether the speckle between
them looks alike, wherever it is. `artefacts` measures two typical faults: a checkerboard, and a rim along the border
of the field of view. The rest is for the evaluation: vessel maps compared with the ground truth, densities
by sector.

In this file, an image (`real`, `generated`, `octa`) is a float array (height, width) on [0, 1] and `fundus` a
photograph (height, width, 3), uint8. `fov`, True inside the field of view, and vessel maps (`vessels`, `truth`) are
bool arrays (height, width). Pixels outside the field never count. A measure without anything to compute on is nan.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from itertools import pairwise, product

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import distance_transform_edt, gaussian_filter, label
from scipy.stats import mannwhitneyu, wasserstein_distance
from skimage.filters import threshold_multiotsu, threshold_otsu
from skimage.metrics import structural_similarity
from skimage.morphology import skeletonize
from sklearn.metrics import average_precision_score

from retina.ut_fsocta import CROP_PX, EYES, OTHER_REGION

log = logging.getLogger(__name__)

SMOOTHING_SIGMA = 3.0  # px at CROP_PX, scaled for other sizes: removes speckle, keeps vessels from about 6 px up
SSIM_SIGMA = 1.5  # px, with the Gaussian window of 11 px: Wang et al., IEEE TIP 2004;13:600
SSIM_BORDER = 5  # px: half the window; nearer to the image's border the window is incomplete
OCTAVES = (0.5, 1.0, 2.0, 4.0, 8.0)  # px at CROP_PX: sigmas of Gaussians; the bands of `texture` lie between them
LEAST_POWER = 1e-6  # of an octave: that of rounding to 8 bits
GROUND_MARGIN = 3  # px at CROP_PX around the vessels of a vessel map
GRAIN_RING = (1.0, 2.1)  # mm from the middle of a disc crop: outside the disc, inside the crop
CHECKERBOARD_PERIOD = 16  # px: the U-Net's last four upsamplings can leave periods of 2, 4, 8 and 16 px
CHECKERBOARD_WINDOW = 128  # px: separates a frequency of 1/16 per px from its neighbours
CHECKERBOARD_STEP = 32  # px between windows
RIM_PX = 12  # px at CROP_PX: width of the band along the field's border
VESSEL_MAP_SIGMA = 2.0  # px: of 1, 1.5, 2 and 3 the nearest to the manual vessel maps of whole photographs (CHASE_DB1)
SPECK = 50  # px: parts of a photograph's vessel map that are smaller are removed; Dice falls by 0.002 at most
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


# --- validation scores -----------------------------------------------------------------------------------------------

VALIDATION_SCORES: dict[str, str] = {}  # name -> description, in the order of definition
_measures: list[Callable[..., dict[str, float]]] = []


def validation_score(**descriptions: str) -> Callable[[Callable], Callable]:
    """Decorate a measure of (real, generated, fov) that returns a dict with a score for each name given here.

    This registers the scores: training computes, logs and documents all of them. The decorated function has the names
    as `names`, accepts `fov` None for "everywhere", and returns nan, with the reason logged, for images that cannot be
    compared. It raises ValueError for arrays of different shapes, and if the measure returns other names.
    """
    names = tuple(descriptions)

    def register(measure: Callable) -> Callable:
        @wraps(measure)
        def validated(real: np.ndarray, generated: np.ndarray, fov: np.ndarray | None = None) -> dict[str, float]:
            real, generated = np.asarray(real, dtype=float), np.asarray(generated, dtype=float)
            fov = np.ones(real.shape, dtype=bool) if fov is None else np.asarray(fov, dtype=bool)
            if real.ndim != 2 or not real.shape == generated.shape == fov.shape:
                raise ValueError(f"expected 2-D arrays of one shape: {real.shape}, {generated.shape}, {fov.shape}")
            if not fov.any():
                return no_scores(names, "no pixel lies inside the field")
            if not np.isfinite((real[fov], generated[fov])).all():
                return no_scores(names, "an image has pixels that are not finite")
            scores = measure(real, generated, fov)
            check_names(measure.__name__, scores, names)
            return {name: scores[name] for name in names}

        if taken := VALIDATION_SCORES.keys() & names:
            raise ValueError(f"{measure.__name__}: validation scores exist already: {sorted(taken)}")
        VALIDATION_SCORES.update(descriptions)
        _measures.append(validated)
        validated.names = names
        return validated

    return register


def check_names(source: str, scores: Iterable[str], names: Iterable[str]) -> None:
    """Raise ValueError, naming the scores, unless they are exactly the registered ones."""
    missing, foreign = sorted(set(names) - set(scores)), sorted(set(scores) - set(names))
    if missing or foreign:
        raise ValueError(f"{source}: validation scores missing: {missing}, not registered: {foreign}")


def no_scores(names: Sequence[str], reason: str) -> dict[str, float]:
    """Nan for each of the names, with the reason logged."""
    log.warning("%s: nan, because %s", ", ".join(names), reason)
    return dict.fromkeys(names, np.nan)


def validation_scores(real: np.ndarray, generated: np.ndarray, fov: np.ndarray | None = None) -> dict[str, float]:
    """Every score of VALIDATION_SCORES, in that order."""
    return {name: score for measure in _measures for name, score in measure(real, generated, fov).items()}


def mean_scores(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each validation score over the crops that have it; nan if none has. ValueError for other names."""
    for of_crop in scores:
        check_names("mean_scores", of_crop, VALIDATION_SCORES)
    return pd.DataFrame(scores, columns=list(VALIDATION_SCORES), dtype=float).mean(skipna=True).to_dict()


@validation_score(
    mae="mean absolute error on [0, 1], inside the field of view; 0 is best",
    psnr="peak signal-to-noise ratio in dB, for a data range of 1; inf for equal images",
    ssim="structural similarity (Wang et al., IEEE TIP 2004;13:600); 1 is best",
)
def image_similarity(real: np.ndarray, generated: np.ndarray, fov: np.ndarray) -> dict[str, float]:
    """Compare the pixels of two images inside the field."""
    difference = (generated - real)[fov]
    mean_square = float(np.mean(difference**2))
    psnr = float(-10 * np.log10(mean_square)) if mean_square > 0 else np.inf
    ssim = np.nan
    inner = (slice(SSIM_BORDER, -SSIM_BORDER),) * 2
    if min(real.shape) <= 2 * SSIM_BORDER or not fov[inner].any():
        log.warning("ssim is nan: no window of %d px lies inside the field and the image", 2 * SSIM_BORDER + 1)
    else:
        # Black outside the field in both images, so that windows across its border see no difference there.
        images = np.where(fov, real, 0), np.where(fov, generated, 0)
        wang = {"gaussian_weights": True, "sigma": SSIM_SIGMA, "use_sample_covariance": False}
        ssim_map = structural_similarity(*images, data_range=1, full=True, **wang)[1]
        ssim = float(ssim_map[inner][fov[inner]].mean())
    return {"mae": float(np.mean(np.abs(difference))), "psnr": psnr, "ssim": ssim}


@validation_score(
    vessel_auc="large vessels: both images smoothed (Gaussian, 3 px at 400 px); area under the ROC curve of the "
    "generated image against the real one's Otsu map; 0.5 is chance",
    vessel_dice="large vessels: overlap of the two Otsu maps; 1 is best",
    vessel_correlation="Pearson's r of the two smoothed images",
)
def vessel_agreement(real: np.ndarray, generated: np.ndarray, fov: np.ndarray) -> dict[str, float]:
    """Compare the large vessels of two images: where each, smoothed, lies above its own Otsu threshold."""
    sigma = SMOOTHING_SIGMA * np.sqrt(real.size) / CROP_PX
    smooth_real = smooth(real, fov, sigma)[fov]  # (pixels inside,)
    smooth_generated = smooth(generated, fov, sigma)[fov]
    threshold = otsu_threshold(smooth_real)
    if threshold is None:
        return no_scores(vessel_agreement.names, "the real image has the same value everywhere, so no vessel")
    vessels = smooth_real > threshold
    scores = {"vessel_auc": roc_auc(vessels, smooth_generated)}
    threshold = otsu_threshold(smooth_generated)
    if threshold is None:
        return scores | no_scores(vessel_agreement.names[1:], "the generated image has the same value everywhere")
    generated_vessels = smooth_generated > threshold
    overlap = np.sum(vessels & generated_vessels)
    scores["vessel_dice"] = float(2 * overlap / (vessels.sum() + generated_vessels.sum()))
    scores["vessel_correlation"] = float(np.corrcoef(smooth_real, smooth_generated)[0, 1])
    return scores


@validation_score(
    texture="background between the large vessels: power of details of 0.5 to 1, 1 to 2, 2 to 4 and 4 to 8 px at "
    "400 px; mean absolute log2 of its ratio, generated to real; 0 is best",
    grey_levels="background between the large vessels: distance of the two images' grey levels (Wasserstein's, on "
    "[0, 1]); 0 is best",
)
def likeness(real: np.ndarray, generated: np.ndarray, fov: np.ndarray) -> dict[str, float]:
    """Compare the capillary speckle of two images as a texture, wherever it is in each."""
    grounds = ground_of(real, fov), ground_of(generated, fov)
    if not all(ground.any() for ground in grounds):
        return no_scores(likeness.names, "an image has no ground between its vessels")
    powers = [octave_powers(image, ground) for image, ground in zip((real, generated), grounds, strict=True)]
    return {
        "texture": float(np.mean(abs(np.log2(powers[1] / powers[0])))),
        "grey_levels": float(wasserstein_distance(real[grounds[0]], generated[grounds[1]])),
    }


def ground_of(octa: np.ndarray, fov: np.ndarray) -> np.ndarray:
    """The field without the large vessels of an OCT-A and GROUND_MARGIN around them: (height, width), bool."""
    away = distance_transform_edt(~vessel_map(octa, fov))
    return fov & (away > GROUND_MARGIN * np.sqrt(octa.size) / CROP_PX)


def octave_powers(octa: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Mean power of an image's ground in each of OCTAVES: that of the difference of two Gaussians of the ground alone.

    At least LEAST_POWER, so that two images without any detail of a size count as alike.
    """
    scale = np.sqrt(octa.size) / CROP_PX
    smoothed = [smooth(octa, ground, sigma * scale)[ground] for sigma in OCTAVES]
    return np.array([max(LEAST_POWER, np.mean((one - next_one) ** 2)) for one, next_one in pairwise(smoothed)])


def grain(octa: np.ndarray, ground: np.ndarray, mm_per_px: float) -> float:
    """How much the speckle around the disc follows the nerve fibres, in an OCT-A with the disc near its middle.

    There the fibres run radially. Of the gradient's power in the ring GRAIN_RING, the share across the fibres minus
    the share along them: 1 for streaks along them, -1 for streaks across, 0 for speckle without a direction. It is the
    coherence of the structure tensor (Bigun and Granlund, ICCV 1987) in a known direction.
    """
    right, up = from_middle(octa.shape)
    away = np.hypot(right, up)
    inside = distance_transform_edt(ground) > 2  # where smoothing and differences see no vessel
    ring = inside & (away * mm_per_px >= GRAIN_RING[0]) & (away * mm_per_px <= GRAIN_RING[1])
    down, across = np.gradient(smooth(octa, ground, 1.0))
    radial = ((across * right - down * up) / np.maximum(away, 1))[ring]
    total = (down**2 + across**2)[ring].sum()
    return 1 - 2 * ratio((radial**2).sum(), total)


@validation_score(
    checkerboard="share of the generated image's power at the frequencies of the transposed convolutions' steps "
    "(periods of 2 to 16 px), beyond that of its surroundings; real OCT-A have 0.01 to 0.02",
    rim="error of the smoothed image within 12 px of the border of the field of view / error inside it; 1 is best, "
    "nan without a border in the image",
)
def artefacts(real: np.ndarray, generated: np.ndarray, fov: np.ndarray) -> dict[str, float]:
    """Measure two faults of the generated image: a checkerboard, and a larger error along the field's border."""
    scale = np.sqrt(real.size) / CROP_PX
    scores = {"checkerboard": checkerboard(generated, fov), "rim": np.nan}
    if not fov.all():
        band = fov & (distance_transform_edt(fov) <= RIM_PX * scale)
        error = abs(smooth(real - generated, fov, SMOOTHING_SIGMA * scale))
        inside = error[fov & ~band]
        if inside.any():
            scores["rim"] = float(error[band].mean() / inside.mean())
    return scores


def checkerboard(image: np.ndarray, fov: np.ndarray) -> float:
    """How much of an image's power repeats at the steps of the transposed convolutions.

    The power spectrum is averaged over windows (Welch, IEEE Trans Audio Electroacoust 1967;15:70). The power that
    exceeds its surroundings counts, at the frequencies of patterns that repeat after 2, 4, 8 or 16 px. The result is
    its share: about 0 without such a pattern, up to 1; nan if no window of 128 px lies in the field.
    """
    side = CHECKERBOARD_WINDOW
    if min(image.shape) < side:
        return np.nan
    step = (slice(None, None, CHECKERBOARD_STEP),) * 2
    complete = sliding_window_view(fov, (side, side))[step].all(axis=(2, 3))
    windows = sliding_window_view(image, (side, side))[step][complete]  # (windows, side, side)
    if not len(windows):
        return np.nan
    windows = (windows - windows.mean(axis=(1, 2), keepdims=True)) * np.outer(*2 * [np.hanning(side + 1)[:-1]])
    power = np.mean(abs(np.fft.fft2(windows)) ** 2, axis=0)  # (side, side)
    if power.sum() < 1e-12 * windows.size:
        return 0.0
    excess, reach, spacing = 0.0, 3, side // CHECKERBOARD_PERIOD
    padded = np.pad(power, reach, mode="wrap")
    middle = (slice(reach - 1, reach + 2),) * 2  # as wide as the window makes a peak
    for row, column in product(range(0, side, spacing), repeat=2):
        if row or column:
            around = padded[row : row + 2 * reach + 1, column : column + 2 * reach + 1].copy()
            peak = around[middle].copy()
            around[middle] = np.nan
            # The spectrum falls steeply, so its surroundings are averaged by their logarithms.
            excess += np.sum(peak - np.exp(np.nanmean(np.log(around + 1e-12))))
    # The Hann windows spread the mean over the lowest frequencies, so these do not count as power of the image.
    return float(excess / (power.sum() - padded[middle].sum()))


# --- vessel maps -----------------------------------------------------------------------------------------------------


def smooth(image: np.ndarray, fov: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing, sigma in px, of the field alone (normalised convolution: Knutsson and Westin, CVPR 1993).

    Returns (height, width), float: inside the field the weighted mean of the field's pixels, outside it 0.
    """
    weight = gaussian_filter(fov.astype(float), sigma)
    total = gaussian_filter(np.where(fov, image, 0.0), sigma)
    return np.divide(total, weight, out=np.zeros_like(total), where=fov)


def vessel_map_sigma(diameter: float | None) -> float:
    """Smoothing before a vessel map, in px: 1 px at a field of 1000 px; VESSEL_MAP_SIGMA for crops (None)."""
    return VESSEL_MAP_SIGMA if diameter is None else diameter / 1000


def otsu_threshold(values: np.ndarray) -> float | None:
    """The threshold of Otsu, IEEE Trans SMC 1979;9:62; None if the values are equal, except for rounding."""
    return None if np.ptp(values) < 1e-6 else threshold_otsu(values)  # far below one grey level


def vessel_threshold(values: np.ndarray, region: str | None = None) -> float | None:
    """The brightness above which a pixel of a smoothed OCT-A is a vessel; None with too few grey levels for any.

    Multi-Otsu: Liao et al., J Inf Sci Eng 2001;17:713. `values` (pixels,) are `smooth(octa, fov, VESSEL_MAP_SIGMA)`
    inside the field; `region` is "disc", "macula", or None for a whole photograph.
    """
    if len(np.unique(np.round(values * OCTA_LEVELS))) <= OCTA_CLASSES[region]:
        return None
    return threshold_multiotsu(values, OCTA_CLASSES[region], nbins=OCTA_LEVELS)[-1]


def above(image: np.ndarray, fov: np.ndarray, threshold: float | None) -> np.ndarray:
    """Where an image lies above a threshold inside the field: (height, width), bool; nowhere for None."""
    return np.zeros_like(fov) if threshold is None else fov & (image > threshold)


def without_specks(vessels: np.ndarray, diameter: float | None) -> np.ndarray:
    """A vessel map (height, width), bool, without parts below SPECK px at a field of 1000 px; None: unchanged."""
    if diameter is None:
        return vessels
    parts, _ = label(vessels, np.ones((3, 3)))
    large = np.bincount(parts.ravel()) >= SPECK * (diameter / 1000) ** 2
    large[0] = False  # the ground
    return large[parts]


def vessel_map(octa: np.ndarray, fov: np.ndarray, region: str | None = None) -> np.ndarray:
    """The large vessels of an OCT-A at the scale of UT-FSOCTA's crops, of any size; `region` as for the threshold."""
    return map_vessels(octa, fov, region, None)[0]


def map_vessels(
    octa: np.ndarray, fov: np.ndarray, region: str | None, diameter: float | None
) -> tuple[np.ndarray, np.ndarray, float | None]:
    """The large vessels of an OCT-A, with the image and the threshold that they were found by.

    Args:
        octa: (height, width), float on [0, 1].
        fov: (height, width), bool: inside the field of view.
        region: as for `vessel_threshold`.
        diameter: of the field in px; None: unknown, or the scale is that of UT-FSOCTA's crops.

    Returns:
        The map (height, width), bool; the smoothed OCT-A; and the threshold on it, None if there is none.
    """
    smoothed = smooth(octa, fov, vessel_map_sigma(diameter))
    threshold = vessel_threshold(smoothed[fov], region)
    return without_specks(above(smoothed, fov, threshold), diameter), smoothed, threshold


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


VESSEL_SCORE_NAMES = ("roc_auc", "average_precision", "dice", "sensitivity", "specificity", "cldice")


def vessel_scores(truth: np.ndarray, probability: np.ndarray, vessels: np.ndarray, fov: np.ndarray) -> dict[str, float]:
    """Compare a vessel map, and the vessel probability (on any scale) it is made from, with the ground truth.

    Returns `roc_auc` and `average_precision` of the probability; `dice`, `sensitivity`, `specificity` of the map; and
    `cldice`, the Dice of the centrelines (Shit et al., CVPR 2021): the harmonic mean of the share of the map's
    centreline in the ground truth, and of the ground truth's centreline in the map. Nan for a division by 0.
    """
    truth, vessels = truth & fov, vessels & fov
    number, hits, found, others = truth.sum(), (truth & vessels).sum(), vessels.sum(), (fov & ~truth).sum()
    true_line, line = skeletonize(truth), skeletonize(vessels)
    precise, complete = ratio((line & truth).sum(), line.sum()), ratio((true_line & vessels).sum(), true_line.sum())
    average_precision = average_precision_score(truth[fov], probability[fov]) if number and others else np.nan
    return {
        "roc_auc": roc_auc(truth[fov], probability[fov]),
        "average_precision": float(average_precision),
        "dice": ratio(2 * hits, number + found),
        "sensitivity": ratio(hits, number),
        "specificity": 1 - ratio(found - hits, others),
        "cldice": 0.0 if precise + complete == 0 else 2 * precise * complete / (precise + complete),
    }


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


def from_middle(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Distances from the middle of an image, in px: to the right (1, width), and up (height, 1)."""
    height, width = shape
    return np.arange(width)[np.newaxis] - (width - 1) / 2, (height - 1) / 2 - np.arange(height)[:, np.newaxis]


def sector_masks(fov: np.ndarray, region: str, eye: str, mm_per_px: float) -> dict[str, np.ndarray | None]:
    """The sectors of a crop of a region of an eye ("OD", "OS", or "" if unknown), inside the field of view.

    At the macula the ETDRS grid: a circle of 1 mm, and the quadrants of rings to 3 and to 6 mm. At the disc the
    quadrants of the ring from 2 to 4 mm. Quadrants meet at the diagonals; in a right eye (OD) nasal is to the right.

    Returns, for each of SECTORS[region], its pixels (height, width), bool; None if less than nine tenths of its area
    lie in crop and field, or if it depends on the eye and that is unknown. The whole crop is None only if the field is
    empty.
    """
    right, up = from_middle(fov.shape)
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
