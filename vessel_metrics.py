"""Measures between a real and a generated OCT-A: arrays in, numbers out.

`image_similarity` compares pixels (MAE, PSNR, SSIM). Capillary speckle is noise to a fundus camera and cannot be
predicted, so pixels alone say little; `vessel_agreement` compares what is left after levelling it: the large vessels.
`artefacts` measures two faults of such generators: a checkerboard, and a rim along the border of the camera's field.

Everywhere: an image is a 2-D float array on [0, 1]; `fov` is a boolean array of its shape, True inside the camera's
field, or None for "everywhere". Pixels outside the field have no influence on any number. A measure that has nothing to
compute on is nan, and the reason is logged.
"""

import logging

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.stats import mannwhitneyu
from skimage.filters import threshold_otsu
from skimage.metrics import structural_similarity

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

SIMILARITY_NAMES = ("mae", "psnr", "ssim")
AGREEMENT_NAMES = ("vessel_auc", "vessel_dice", "vessel_correlation")
ARTEFACT_NAMES = ("checkerboard", "rim")


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
