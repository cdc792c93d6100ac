"""Measures between a real and a generated OCT-A: arrays in, numbers out.

`image_similarity` compares pixels (MAE, PSNR, SSIM). Capillary speckle is noise to a fundus camera and cannot be
predicted, so pixels alone say little; `vessel_agreement` compares what is left after levelling it: the large vessels.
`artefacts` measures two faults of such generators: a checkerboard, and a rim along the border of the camera's field.
For the evaluation, `vessel_scores` holds a vessel map against the true one, `sector_masks`, `vessel_density`,
`skeleton_lengths` and `foveal_avascular_zone` measure one, `measure_eye` takes all of one eye, and what stands below
"across eyes" compares many.

Everywhere: an image is a 2-D float array on [0, 1]; `fov` is a boolean array of its shape, True inside the camera's
field, or None for "everywhere". Pixels outside the field have no influence on any number. A measure that has nothing to
compute on is nan, and the reason is logged.
"""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import binary_fill_holes, distance_transform_edt, gaussian_filter, label
from scipy.stats import mannwhitneyu, pearsonr, spearmanr, wilcoxon
from skimage.filters import sato, threshold_multiotsu, threshold_otsu
from skimage.metrics import structural_similarity
from skimage.morphology import skeletonize
from sklearn.metrics import average_precision_score, roc_auc_score

log = logging.getLogger(__name__)

SMOOTHING_SIGMA = 3.0  # px at 400 px: levels the capillary speckle, keeps vessels from about 6 px up
SMOOTHING_SIZE = 400  # px: the size of a crop for which the sigma is stated; other sizes scale it
VESSEL_MAP_SIGMA = 2.0  # px: of 1, 1.5, 2 and 3 the nearest to the manual vessel maps of whole photographs (CHASE_DB1)
SSIM_SIGMA = 1.5  # px, with the Gaussian window of 11 px: Wang et al., IEEE TIP 2004;13:600
SSIM_BORDER = 5  # px: half the window; nearer to the image's border the window is not whole
CHECKERBOARD_PERIOD = 16  # px: the last four doublings of the U-Net leave periods of 2, 4, 8 and 16 px
CHECKERBOARD_WINDOW = 128  # px: so a frequency of 1/16 per px stands apart from its neighbours
CHECKERBOARD_STEP = 32  # px between windows
RIM_PX = 12  # px at 400 px: the band along the border of the field that is held against the inside

# Sectors; diameters in mm, about the middle of the crop, where the scans are centred
ETDRS_MM = (1.0, 3.0, 6.0)  # Early Treatment Diabetic Retinopathy Study, Ophthalmology 1991;98:786
DISC_RING_MM = (2.0, 4.0)  # the peripapillary ring of AngioVue's report
QUADRANTS = ("superior", "nasal", "inferior", "temporal")
WHOLE = "whole"  # the crop
SECTORS = {
    "disc": (WHOLE, *(f"ring {name}" for name in QUADRANTS)),
    "macula": (WHOLE, "centre", *(f"{ring} {name}" for ring in ("inner", "outer") for name in QUADRANTS)),
}
SECTOR_HELD = 0.9  # of a sector's area must be seen, else its density is that of another place

# Foveal avascular zone; mm
FAZ_SIGMA = 0.045  # closes the gaps between capillaries, which are about as wide
FAZ_SEARCH = 0.5  # from the middle of the crop, in which the zone's darkest point lies
FAZ_GROUND = (0.75, 1.5)  # from the middle: the ring whose median the zone is held against
FAZ_REACH = 1.0  # from its darkest point: what goes on further is no zone, but a dark scan
FAZ_DARK = 0.75  # of that median: what is not darker at its darkest is no zone

SIMILARITY_NAMES = ("mae", "psnr", "ssim")
AGREEMENT_NAMES = ("vessel_auc", "vessel_dice", "vessel_correlation")
ARTEFACT_NAMES = ("checkerboard", "rim")
VESSEL_SCORE_NAMES = ("roc_auc", "average_precision", "dice", "sensitivity", "specificity", "cldice")

DENSITY_NAMES = ("vessel_density", "skeleton_density", "faz_mm2")

# Floors; mm
BACKGROUND_SIGMA = 0.25  # wider than the widest vessel
RIDGE_SIGMAS = (0.015, 0.025, 0.04, 0.06)  # half the widths of the vessels that crops show
RIDGE_FULL = 0.995  # the quantile that counts as a sure vessel

# One eye
REAL, SEGMENTED = "real OCT-A", "real OCT-A, segmented"  # by the true vessels; by the segmenter
LIKELIHOOD_LEVELS = 1024  # of a pooled curve: all pixels of all eyes would not fit into memory

# Brightness classes of a smoothed OCT-A, the brightest of which are the vessels: gaps, capillary mesh, vessels; at the
# macula the avascular zone too. Against the exact vessels of eight sample retinas: Dice 0.85 at the disc (4 classes
# 0.82, 2 classes 0.75), 0.70 at the macula (3: 0.60, 2: 0.36), r of the densities 0.95 and 0.92.
OCTA_CLASSES = {"disc": 3, "macula": 4}
OCTA_LEVELS = 128  # grey levels among which the thresholds are sought; 256 take much longer and give the same

# Across eyes
MIN_SUBJECTS = 10  # with fewer, intervals, correlations and tests would feign knowledge
CONFIDENCE = 0.95
LIMITS_OF_AGREEMENT = 1.96  # standard deviations: 95 % of normal differences


def image_similarity(real: np.ndarray, generated: np.ndarray, fov: np.ndarray | None = None) -> dict[str, float]:
    """Compare the pixels of two images inside the field.

    Args:
        real: (height, width), float on [0, 1].
        generated: (height, width), float on [0, 1].
        fov: (height, width), bool, or None.

    Returns:
        `mae`, mean absolute error, 0 is best; `psnr`, peak signal-to-noise ratio in dB for a data range of 1, inf for
        equal images; `ssim`, structural similarity (Wang et al., IEEE TIP 2004;13:600), 1 is best.

    Raises:
        ValueError: the arrays differ in shape, or are not 2-D.
    """
    real, generated, fov = checked(real, generated, fov)
    if reason := nothing_to_compare(real, generated, fov):
        return no_answer(SIMILARITY_NAMES, reason)

    difference = (generated - real)[fov]
    mean_square = float(np.mean(difference**2))
    ssim = np.nan
    inner = (slice(SSIM_BORDER, -SSIM_BORDER),) * 2
    if min(real.shape) <= 2 * SSIM_BORDER or not fov[inner].any():
        log.warning("ssim is nan: no window of %d px lies inside the field and the image", 2 * SSIM_BORDER + 1)
    else:
        # Black outside the field in both, so that windows that reach over its border see no difference there.
        _, ssim_map = structural_similarity(
            np.where(fov, real, 0),
            np.where(fov, generated, 0),
            data_range=1,
            gaussian_weights=True,
            sigma=SSIM_SIGMA,
            use_sample_covariance=False,
            full=True,
        )
        ssim = float(ssim_map[inner][fov[inner]].mean())
    return {
        "mae": float(np.mean(np.abs(difference))),
        "psnr": float(-10 * np.log10(mean_square)) if mean_square > 0 else np.inf,
        "ssim": ssim,
    }


def vessel_agreement(real: np.ndarray, generated: np.ndarray, fov: np.ndarray | None = None) -> dict[str, float]:
    """Compare the large vessels of two images inside the field.

    Both images are smoothed; the real one's large-vessel map is where it lies above its own Otsu threshold.

    Args:
        real: (height, width), float on [0, 1].
        generated: (height, width), float on [0, 1].
        fov: (height, width), bool, or None.

    Returns:
        `vessel_auc`, area under the ROC curve of the smoothed generated image against the real map (the probability
        that a vessel pixel is brighter than another: Hanley and McNeil, Radiology 1982;143:29), 0.5 is chance;
        `vessel_dice`, overlap of the two maps after the same thresholding, 1 is best; `vessel_correlation`, Pearson's
        r of the smoothed images.

    Raises:
        ValueError: the arrays differ in shape, or are not 2-D.
    """
    real, generated, fov = checked(real, generated, fov)
    if reason := nothing_to_compare(real, generated, fov):
        return no_answer(AGREEMENT_NAMES, reason)

    sigma = SMOOTHING_SIGMA * np.sqrt(real.size) / SMOOTHING_SIZE
    smooth_real = smooth(real, fov, sigma)[fov]  # (pixels inside,)
    smooth_generated = smooth(generated, fov, sigma)[fov]
    vessels = above_otsu(smooth_real)
    if vessels is None:
        return no_answer(AGREEMENT_NAMES, "the real image has one value all over, so no vessel")
    ranks = mannwhitneyu(smooth_generated[vessels], smooth_generated[~vessels], method="asymptotic")
    scores = {"vessel_auc": float(ranks.statistic / (vessels.sum() * (~vessels).sum()))}

    generated_vessels = above_otsu(smooth_generated)
    if generated_vessels is None:
        return scores | no_answer(AGREEMENT_NAMES[1:], "the generated image has one value all over")
    overlap = np.sum(vessels & generated_vessels)
    scores["vessel_dice"] = float(2 * overlap / (vessels.sum() + generated_vessels.sum()))
    scores["vessel_correlation"] = float(np.corrcoef(smooth_real, smooth_generated)[0, 1])
    return scores


def artefacts(real: np.ndarray, generated: np.ndarray, fov: np.ndarray | None = None) -> dict[str, float]:
    """Measure two faults of the generated image inside the field.

    Args:
        real: (height, width), float on [0, 1].
        generated: (height, width), float on [0, 1].
        fov: (height, width), bool, or None.

    Returns:
        `checkerboard`, as the function of that name says, of the generated image; `rim`, the mean absolute error of the
        smoothed images in a band along the field's border, divided by that further inside: 1 is best, nan where the
        field has no border in the image.

    Raises:
        ValueError: the arrays differ in shape, or are not 2-D.
    """
    real, generated, fov = checked(real, generated, fov)
    if reason := nothing_to_compare(real, generated, fov):
        return no_answer(ARTEFACT_NAMES, reason)
    scale = np.sqrt(real.size) / SMOOTHING_SIZE
    scores = {"checkerboard": checkerboard(generated, fov), "rim": np.nan}
    if not fov.all():
        band = fov & (distance_transform_edt(fov) <= RIM_PX * scale)
        error = abs(smooth(real - generated, fov, SMOOTHING_SIGMA * scale))
        inside = error[fov & ~band]
        if inside.any():
            scores["rim"] = float(error[band].mean() / inside.mean())
    return scores


def checkerboard(image: np.ndarray, fov: np.ndarray) -> float:
    """How much of an image's power repeats itself at the steps of the transposed convolutions.

    The power spectrum is averaged over windows (Welch, IEEE Trans Audio Electroacoust 1967;15:70). At the frequencies
    of patterns that repeat themselves after 2, 4, 8 or 16 px, what exceeds their surroundings counts.

    Args:
        image: (height, width), float.
        fov: (height, width), bool: inside the camera's field.

    Returns:
        Share of the power, about 0 where there is no such pattern, up to 1; nan if no window of 128 px lies in the
        field.
    """
    side = CHECKERBOARD_WINDOW
    if min(image.shape) < side:
        return np.nan
    step = (slice(None, None, CHECKERBOARD_STEP),) * 2
    whole = sliding_window_view(fov, (side, side))[step].all(axis=(2, 3))
    windows = sliding_window_view(image, (side, side))[step][whole]  # (windows, side, side)
    if not len(windows):
        return np.nan
    windows = (windows - windows.mean(axis=(1, 2), keepdims=True)) * np.outer(*2 * [np.hanning(side + 1)[:-1]])
    power = np.mean(abs(np.fft.fft2(windows)) ** 2, axis=0)  # (side, side)
    if power.sum() < 1e-12 * windows.size:
        return 0.0
    excess, reach, spacing = 0.0, 3, side // CHECKERBOARD_PERIOD
    padded = np.pad(power, reach, mode="wrap")
    for row in range(0, side, spacing):
        for column in range(0, side, spacing):
            if row or column:
                around = padded[row : row + 2 * reach + 1, column : column + 2 * reach + 1].copy()
                peak = around[reach - 1 : reach + 2, reach - 1 : reach + 2].copy()  # as wide as the window makes it
                around[reach - 1 : reach + 2, reach - 1 : reach + 2] = np.nan
                # The spectrum falls steeply, so its surroundings are averaged by their logarithms.
                excess += np.sum(peak - np.exp(np.nanmean(np.log(around + 1e-12))))
    # The windows' Hann spreads the mean over the lowest frequencies: they are no power of the image.
    lowest = padded[reach - 1 : reach + 2, reach - 1 : reach + 2].sum()
    return float(excess / (power.sum() - lowest))


def vessel_map(octa: np.ndarray, fov: np.ndarray) -> np.ndarray:
    """The large vessels of an OCT-A image: where it lies, smoothed, above its Otsu threshold.

    Args:
        octa: (height, width), float on [0, 1], at the scale of UT-FSOCTA's crops, whatever its size.
        fov: (height, width), bool: inside the camera's field.

    Returns:
        (height, width), bool; all False outside the field, and for an image that is the same all over.
    """
    vessels = np.zeros(fov.shape, dtype=bool)
    above = above_otsu(smooth(octa, fov, VESSEL_MAP_SIGMA)[fov]) if fov.any() else None
    if above is not None:
        vessels[fov] = above
    return vessels


def vessel_density(vessels: np.ndarray, fov: np.ndarray) -> float:
    """Vessel pixels / field pixels of a vessel map (height, width), bool; nan if the field is empty."""
    return float((vessels & fov).sum() / fov.sum()) if fov.any() else np.nan


def smooth(image: np.ndarray, fov: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing that takes in nothing from outside the field.

    Args:
        image: (height, width), float.
        fov: (height, width), bool.
        sigma: of the Gaussian, in px.

    Returns:
        (height, width), float: inside the field the weighted mean of the pixels of the field (normalised convolution,
        Knutsson and Westin, CVPR 1993), outside it 0.
    """
    weight = gaussian_filter(fov.astype(float), sigma)
    total = gaussian_filter(np.where(fov, image, 0.0), sigma)
    return np.divide(total, weight, out=np.zeros_like(total), where=fov)


def above_otsu(values: np.ndarray) -> np.ndarray | None:
    """Where values lie above their Otsu threshold (IEEE Trans SMC 1979;9:62); None if they are all but equal."""
    if np.ptp(values) < 1e-6:  # rounding of the smoothing, far below one grey level
        return None
    return values > threshold_otsu(values)


def checked(
    real: np.ndarray, generated: np.ndarray, fov: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three arrays as float, float and bool, (height, width) each; ValueError if they are not of one shape."""
    real, generated = np.asarray(real, dtype=float), np.asarray(generated, dtype=float)
    fov = np.ones(real.shape, dtype=bool) if fov is None else np.asarray(fov, dtype=bool)
    if real.ndim != 2 or not real.shape == generated.shape == fov.shape:
        raise ValueError(f"want three 2-D arrays of one shape, got {real.shape}, {generated.shape} and {fov.shape}")
    return real, generated, fov


def nothing_to_compare(real: np.ndarray, generated: np.ndarray, fov: np.ndarray) -> str:
    """Why two images cannot be compared, or an empty string."""
    if not fov.any():
        return "no pixel lies inside the field"
    if not (np.isfinite(real[fov]).all() and np.isfinite(generated[fov]).all()):
        return "an image has pixels that are not finite"
    return ""


def no_answer(names: tuple[str, ...], reason: str) -> dict[str, float]:
    """Nan for each of the names, with the reason logged."""
    log.warning("%s: nan, because %s", ", ".join(names), reason)
    return dict.fromkeys(names, np.nan)


# --- vessel maps -----------------------------------------------------------------------------------------------------


def vessel_scores(truth: np.ndarray, likelihood: np.ndarray, vessels: np.ndarray, fov: np.ndarray) -> dict[str, float]:
    """Hold a vessel map against the true one, inside the field.

    Args:
        truth: (height, width), bool: the true vessels.
        likelihood: (height, width), float: the larger, the likelier is a vessel.
        vessels: (height, width), bool: the map made of it.
        fov: (height, width), bool.

    Returns:
        `roc_auc` and `average_precision` of the likelihood; `dice`, `sensitivity`, `specificity` of the map; and
        `cldice`, the Dice of the centrelines (Shit et al., CVPR 2021): the harmonic mean of the share of the map's
        centreline in the true vessels, and of the true centreline in the map. Nan where what it divides by is empty.

    Raises:
        ValueError: the arrays differ in shape, or are not 2-D.
    """
    shapes = {np.shape(array) for array in (truth, likelihood, vessels, fov)}
    if len(shapes) > 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"want four 2-D arrays of one shape, got {sorted(shapes)}")
    truth, vessels = truth & fov, vessels & fov
    number, hits, found = truth.sum(), (truth & vessels).sum(), vessels.sum()
    others = fov.sum() - number
    scores = dict.fromkeys(VESSEL_SCORE_NAMES, np.nan)
    if number and others:
        scores["roc_auc"] = float(roc_auc_score(truth[fov], likelihood[fov]))
        scores["average_precision"] = float(average_precision_score(truth[fov], likelihood[fov]))
    if number + found:
        scores["dice"] = float(2 * hits / (number + found))
    if number:
        scores["sensitivity"] = float(hits / number)
    if others:
        scores["specificity"] = float(1 - (found - hits) / others)
    true_line, line = skeletonize(truth), skeletonize(vessels)
    if true_line.any() and line.any():
        precise, complete = truth[line].mean(), vessels[true_line].mean()
        scores["cldice"] = float(2 * precise * complete / (precise + complete)) if precise + complete else 0.0
    return scores


def skeleton_lengths(vessels: np.ndarray) -> np.ndarray:
    """How much of the vessels' length lies at each pixel, in px: (height, width), float; the sum is the length.

    The centrelines are those of scikit-image. Neighbours are joined by 1, or by the square root of 2 where only their
    corners touch (Freeman, Comput Surv 1974;6:57); half of a joint counts at either end. Between the eight directions
    of the pixels the way is up to a tenth longer than the vessel.

    Args:
        vessels: (height, width), bool.
    """
    line = skeletonize(vessels)
    lengths = np.zeros(line.shape)

    def join(first: tuple[slice, slice], second: tuple[slice, slice], joined: np.ndarray, length: float) -> None:
        lengths[first] += length / 2 * joined
        lengths[second] += length / 2 * joined

    every, ahead, behind = slice(None), slice(1, None), slice(None, -1)
    join((every, behind), (every, ahead), line[:, :-1] & line[:, 1:], 1.0)
    join((behind, every), (ahead, every), line[:-1] & line[1:], 1.0)
    # Where a third pixel joins two corners, that way is counted already.
    upper_left, upper_right, lower_left, lower_right = line[:-1, :-1], line[:-1, 1:], line[1:, :-1], line[1:, 1:]
    falling = upper_left & lower_right & ~upper_right & ~lower_left
    join((behind, behind), (ahead, ahead), falling, np.sqrt(2))
    rising = lower_left & upper_right & ~upper_left & ~lower_right
    join((ahead, behind), (behind, ahead), rising, np.sqrt(2))
    return lengths


def skeleton_density(lengths: np.ndarray, region: np.ndarray, mm_per_px: float) -> float:
    """Length of the vessels per area, mm per mm2; nan if the region is empty.

    Args:
        lengths: (height, width), as `skeleton_lengths` gives them.
        region: (height, width), bool: where to measure.
        mm_per_px: of the image.
    """
    return float(lengths[region].sum() / (region.sum() * mm_per_px)) if region.any() else np.nan


def foveal_avascular_zone(octa: np.ndarray, fov: np.ndarray, mm_per_px: float) -> np.ndarray | None:
    """The dark zone without capillaries about the fovea, in an OCT-A image of the macula.

    The image is smoothed until the mesh of capillaries closes. The zone is what hangs together with the darkest point
    near the middle and lies nearer to that point's brightness than to that of the ring around.

    Args:
        octa: (height, width), float on [0, 1], the fovea near its middle.
        fov: (height, width), bool.
        mm_per_px: of the image.

    Returns:
        (height, width), bool; None where no such zone is dark enough and closed.
    """
    smoothed = smooth(octa, fov, FAZ_SIGMA / mm_per_px)
    away = np.hypot(*_from_middle(octa.shape)) * mm_per_px  # mm
    ring = fov & (away >= FAZ_GROUND[0]) & (away <= FAZ_GROUND[1])
    search = fov & (away <= FAZ_SEARCH)
    if not ring.any() or not search.any():
        return None
    ground = np.median(smoothed[ring])
    darkest = np.unravel_index(np.argmin(np.where(search, smoothed, np.inf)), octa.shape)
    if smoothed[darkest] > FAZ_DARK * ground:
        return None
    parts, _ = label(fov & (smoothed < (smoothed[darkest] + ground) / 2))
    zone = binary_fill_holes(parts == parts[darkest])
    rows, columns = np.nonzero(zone)
    if np.hypot(rows - darkest[0], columns - darkest[1]).max() * mm_per_px > FAZ_REACH:
        return None
    return zone


# --- sectors ---------------------------------------------------------------------------------------------------------


def _from_middle(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Distances from the middle of an image, in px: to the right (1, width), and up (height, 1)."""
    height, width = shape
    return np.arange(width)[np.newaxis] - (width - 1) / 2, (height - 1) / 2 - np.arange(height)[:, np.newaxis]


def sector_masks(fov: np.ndarray, region: str, eye: str, mm_per_px: float) -> dict[str, np.ndarray | None]:
    """The sectors of a crop, inside the camera's field.

    At the macula the ETDRS grid: a circle of 1 mm, and the quadrants of rings to 3 and to 6 mm. At the disc the
    quadrants of the ring from 2 to 4 mm. Quadrants meet at the diagonals; in a right eye (OD) nasal is to the right.

    Args:
        fov: (height, width), bool.
        region: "disc" or "macula".
        eye: "OD" or "OS".
        mm_per_px: of the crop.

    Returns:
        For each of SECTORS[region] its pixels (height, width), bool; None if less than nine tenths of its area lie in
        crop and field. The whole crop is always there, unless the field is empty.
    """
    right, up = _from_middle(fov.shape)
    nasal = right if eye == "OD" else -right
    across = 2 * np.hypot(right, up) * mm_per_px  # mm: diameter of the circle through each pixel
    # A diagonal's pixels belong to the upper or lower quadrant, so that mirrored eyes have mirrored sectors.
    quadrants = {
        "superior": up >= abs(nasal),
        "nasal": nasal > abs(up),
        "inferior": -up >= abs(nasal),
        "temporal": -nasal > abs(up),
    }
    rings = {"ring": DISC_RING_MM} if region == "disc" else {"inner": ETDRS_MM[:2], "outer": ETDRS_MM[1:]}
    wanted = {
        f"{ring} {name}": ((across >= low) & (across < high) & quadrants[name], np.pi * (high**2 - low**2) / 16)
        for ring, (low, high) in rings.items()
        for name in QUADRANTS
    }
    if region == "macula":
        wanted["centre"] = across < ETDRS_MM[0], np.pi * ETDRS_MM[0] ** 2 / 4
    masks = {WHOLE: fov if fov.any() else None}
    for name in SECTORS[region][1:]:
        sector, area = wanted[name]  # bool, mm2
        seen = sector & fov
        masks[name] = seen if seen.sum() * mm_per_px**2 >= SECTOR_HELD * area else None
    return masks


# --- across eyes -----------------------------------------------------------------------------------------------------
#
# The two eyes of a subject are alike. So what is drawn again and again, with replacement, are subjects with all their
# eyes (Davison and Hinkley, Bootstrap Methods and their Application, 1997, 3.8), and intervals are percentiles.


def resample_subjects(subjects: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each eye is drawn: (resamples, eyes), int.

    Args:
        subjects: (eyes,): whose eye each is.
        resamples: how many times as many subjects as there are are drawn.
        seed: of the draws.
    """
    names, whose = np.unique(subjects, return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return drawn[:, whose]


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled values (resamples,); those that are nan are left out; nan if all are."""
    values = values[np.isfinite(values)]
    if not values.size:
        return np.nan, np.nan
    low, high = np.quantile(values, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(low), float(high)


def mean_of_eyes(values: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """`mean`, `sd` and the interval `low` to `high` of the mean, of (eyes,); for `drawn` see `resample_subjects`."""
    low, high = interval(drawn @ values / drawn.sum(axis=1))
    sd = float(np.std(values, ddof=1)) if values.size > 1 else np.nan
    return {"mean": float(np.mean(values)), "sd": sd, "low": low, "high": high}


def correlations(real: np.ndarray, other: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """Pearson's and Spearman's correlation of (eyes,) with (eyes,), each with its interval.

    Returns:
        `pearson`, `pearson_low`, `pearson_high`, `spearman`, `spearman_low`, `spearman_high`; nan where one of the two
        is the same in all eyes.
    """
    names = [f"{kind}{end}" for kind in ("pearson", "spearman") for end in ("", "_low", "_high")]
    if np.ptp(real) == 0 or np.ptp(other) == 0:
        return dict.fromkeys(names, np.nan)
    pearson = interval(_weighted_pearson(real, other, drawn))
    spearman = interval(_weighted_pearson(_weighted_ranks(real, drawn), _weighted_ranks(other, drawn), drawn))
    values = (pearsonr(real, other).statistic, *pearson, spearmanr(real, other).statistic, *spearman)
    return dict(zip(names, map(float, values), strict=True))


def _weighted_pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson's r of each row (resamples,), where each eye counts as often as `weights` (resamples, eyes) says."""
    total = weights.sum(axis=1, keepdims=True)
    x = x - (weights * x).sum(axis=1, keepdims=True) / total  # (resamples, eyes)
    y = y - (weights * y).sum(axis=1, keepdims=True) / total
    both, xx, yy = ((weights * product).sum(axis=1) for product in (x * y, x * x, y * y))
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample may hold one value only
        return np.where((xx > 1e-18) & (yy > 1e-18), both / np.sqrt(xx * yy), np.nan)


def _weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean ranks of the eyes (resamples, eyes) among all that are drawn in a row."""
    levels, level = np.unique(values, return_inverse=True)
    of_level = np.zeros((len(weights), len(levels)))
    np.add.at(of_level.T, level, weights.T)
    ranks = np.cumsum(of_level, axis=1) - (of_level - 1) / 2  # (resamples, levels)
    return ranks[:, level]


def bland_altman(real: np.ndarray, other: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """Bias of `other` (eyes,) against `real` (eyes,) and the limits of agreement (Lancet 1986;327:307).

    Returns:
        `bias`, the mean of other - real, with its interval `bias_low` to `bias_high`; `limit_low` and `limit_high`,
        which hold 95 % of the differences.
    """
    summary = mean_of_eyes(other - real, drawn)
    reach = LIMITS_OF_AGREEMENT * summary["sd"]
    return {
        "bias": summary["mean"],
        "bias_low": summary["low"],
        "bias_high": summary["high"],
        "limit_low": summary["mean"] - reach,
        "limit_high": summary["mean"] + reach,
    }


def paired_difference(one: np.ndarray, other: np.ndarray, subjects: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """How much larger `one` (eyes,) is than `other` (eyes,).

    Returns:
        `difference`, its mean over the eyes, with the interval `difference_low` to `difference_high`; `p` of the
        two-sided signed-rank test (Wilcoxon, Biometrics Bull 1945;1:80) on the subjects' mean differences, 1 where
        there is no difference at all.
    """
    summary = mean_of_eyes(one - other, drawn)
    _, whose = np.unique(subjects, return_inverse=True)
    by_subject = np.bincount(whose, one - other) / np.bincount(whose)
    p = float(wilcoxon(by_subject).pvalue) if by_subject.any() else 1.0
    return {
        "difference": summary["mean"],
        "difference_low": summary["low"],
        "difference_high": summary["high"],
        "p": p,
    }


# --- one eye ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """What is held against the real OCT-A of an eye, and against its true vessels."""

    name: str
    image: np.ndarray  # (height, width), float on [0, 1]: an OCT-A, or the likelihood of a vessel
    is_octa: bool
    vessels: np.ndarray | None = None  # (height, width), bool: the map that comes with it; None: made of the image


@dataclass(frozen=True)
class EyeToMeasure:
    """One region of one eye; the arrays are (height, width)."""

    fundus: np.ndarray  # (height, width, 3), uint8: for the two floors
    octa: np.ndarray  # the real one, float on [0, 1]
    vessels: np.ndarray | None  # the true vessels, bool; None: those that the segmenter finds in the real OCT-A
    fov: np.ndarray  # bool
    region: str
    eye: str
    mm_per_px: float
    candidates: tuple[Candidate, ...]


def inverted_green(fundus: np.ndarray, fov: np.ndarray, mm_per_px: float) -> np.ndarray:
    """A floor that needs no training: the green channel against its background, inverted; vessels are bright.

    Args:
        fundus: (height, width, 3), uint8.
        fov: (height, width), bool.
        mm_per_px: of the image.

    Returns:
        (height, width), float on [0, 1]: 0.5 for what is as bright as its surroundings, and outside the field.
    """
    green = fundus[..., 1] / 255  # [0, 255] -> [0, 1]
    background = smooth(green, fov, BACKGROUND_SIGMA / mm_per_px)
    share = np.divide(green, background, out=np.ones_like(green), where=fov & (background > 0))
    return np.clip(1.5 - share, 0, 1)


def ridge_filter(fundus: np.ndarray, fov: np.ndarray, mm_per_px: float) -> np.ndarray:
    """Another floor: a ridge filter of several widths (Sato et al., Med Image Anal 1998;2:143) on `inverted_green`.

    Args and returns as there: (height, width), float on [0, 1], 0 outside the field.
    """
    sigmas = [sigma / mm_per_px for sigma in RIDGE_SIGMAS]
    ridges = np.where(fov, sato(inverted_green(fundus, fov, mm_per_px), sigmas, black_ridges=False), 0)
    highest = np.quantile(ridges[fov], RIDGE_FULL)
    return np.clip(ridges / highest, 0, 1) if highest > 0 else ridges


FLOORS = {"green channel": (inverted_green, True), "ridge filter": (ridge_filter, False)}  # is it like an OCT-A


def segment(candidate: Candidate, fov: np.ndarray, region: str) -> tuple[np.ndarray, np.ndarray]:
    """The likelihood (height, width), float on [0, 1], and the map (height, width), bool, of a candidate's vessels.

    An OCT-A is smoothed (`VESSEL_MAP_SIGMA`); its vessels are the brightest of OCTA_CLASSES[region] classes by Otsu's
    criterion (Liao et al., J Inf Sci Eng 2001;17:713). A likelihood is taken as it is; its vessels lie above its Otsu
    threshold. A map that comes with the candidate goes before both. An image with too few values has no vessels.
    """
    likelihood = smooth(candidate.image, fov, VESSEL_MAP_SIGMA) if candidate.is_octa else candidate.image
    if candidate.vessels is not None:
        return likelihood, candidate.vessels & fov
    vessels = np.zeros(fov.shape, dtype=bool)
    values = likelihood[fov]
    if not candidate.is_octa:
        above = above_otsu(values)
        vessels[fov] = False if above is None else above
    elif len(np.unique(np.round(values * OCTA_LEVELS))) > OCTA_CLASSES[region]:
        vessels[fov] = values > threshold_multiotsu(values, OCTA_CLASSES[region], nbins=OCTA_LEVELS)[-1]
    return likelihood, vessels


def measure_eye(eye: EyeToMeasure) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Every measure of one region of one eye.

    Returns:
        A row for each candidate and sector, and for the real one (REAL), with `candidate`, `sector`, and those of
        SIMILARITY_NAMES, VESSEL_SCORE_NAMES and DENSITY_NAMES that apply; what cannot be measured is nan. If the true
        vessels are given, the segmenter's map of the real OCT-A is a candidate too (SEGMENTED).
        And for each candidate how many pixels without and with a vessel have a likelihood: (2, LIKELIHOOD_LEVELS).
    """
    real = Candidate(REAL, eye.octa, True, eye.vessels)
    truth = segment(real, eye.fov, eye.region)[1]
    sectors = sector_masks(eye.fov, eye.region, eye.eye, eye.mm_per_px)
    candidates = list(eye.candidates)
    if eye.vessels is not None:
        candidates.append(Candidate(SEGMENTED, eye.octa, True))
    for name, (floor, is_octa) in FLOORS.items():
        candidates.append(Candidate(name, floor(eye.fundus, eye.fov, eye.mm_per_px), is_octa))

    rows = densities_by_sector(real, truth, eye, sectors)
    counts = {}
    for candidate in candidates:
        likelihood, vessels = segment(candidate, eye.fov, eye.region)
        scores = vessel_scores(truth, likelihood, vessels, eye.fov)
        if candidate.is_octa and candidate.name != SEGMENTED:
            scores |= image_similarity(eye.octa, candidate.image, eye.fov)
        of_candidate = densities_by_sector(candidate, vessels, eye, sectors)
        of_candidate[0] |= scores
        rows += of_candidate
        level = np.round(np.clip(likelihood[eye.fov], 0, 1) * (LIKELIHOOD_LEVELS - 1)).astype(int)
        counts[candidate.name] = np.stack(
            [np.bincount(level[truth[eye.fov] == kind], minlength=LIKELIHOOD_LEVELS) for kind in (False, True)]
        )
    return rows, counts


def densities_by_sector(
    candidate: Candidate, vessels: np.ndarray, eye: EyeToMeasure, sectors: dict[str, np.ndarray | None]
) -> list[dict]:
    """Rows with the densities of a candidate's vessel map (height, width), bool; the first is of the whole crop."""
    lengths = skeleton_lengths(vessels & eye.fov)
    rows = []
    for name, sector in sectors.items():
        row = {"candidate": candidate.name, "sector": name, **dict.fromkeys(DENSITY_NAMES, np.nan)}
        if sector is not None:
            row["vessel_density"] = vessel_density(vessels, sector)
            row["skeleton_density"] = skeleton_density(lengths, sector, eye.mm_per_px)
        rows.append(row)
    if eye.region == "macula" and candidate.is_octa and candidate.name != SEGMENTED:
        zone = foveal_avascular_zone(candidate.image, eye.fov, eye.mm_per_px)
        rows[0]["faz_mm2"] = np.nan if zone is None else zone.sum() * eye.mm_per_px**2
    return rows
