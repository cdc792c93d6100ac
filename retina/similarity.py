"""How alike a real and a generated OCT-A are: the scores that training logs after each epoch, and the speckle.

A fundus photograph does not show the capillary speckle, so no model can predict it, and `image_similarity`, which
compares pixels, tells little. `vessel_agreement` smooths the speckle away and compares the large vessels. `likeness`
asks whether the speckle between them looks alike, wherever it is. `artefacts` measures two typical faults: a
checkerboard, and a rim along the border of the field of view.

An image (`real`, `generated`, `octa`) is a float array (height, width) on [0, 1]; `fov`, True inside the field of view,
and `ground` are bool arrays (height, width). Pixels outside them never count. What cannot be computed is nan.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from itertools import pairwise, product

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import distance_transform_edt
from scipy.stats import wasserstein_distance
from skimage.metrics import structural_similarity

from retina.ut_fsocta import CROP_PX
from retina.vessels import otsu_threshold, roc_auc, smooth, vessel_map

SMOOTHING_SIGMA = 3.0  # px at CROP_PX, scaled for other sizes: removes speckle, keeps vessels from about 6 px up
SSIM_SIGMA = 1.5  # px, with the Gaussian window of 11 px: Wang et al., IEEE TIP 2004;13:600
SSIM_BORDER = 5  # px: half the window; nearer to the image's border the window is incomplete
OCTAVES = (0.5, 1.0, 2.0, 4.0, 8.0)  # px at CROP_PX: sigmas of Gaussians; the bands of `texture` lie between them
LEAST_POWER = 1e-6  # of an octave: that of rounding to 8 bits
GROUND_MARGIN = 3  # px at CROP_PX around the vessels of a vessel map
CHECKERBOARD_PERIOD = 16  # px: the U-Net's last four upsamplings can leave periods of 2, 4, 8 and 16 px
CHECKERBOARD_WINDOW = 128  # px: separates a frequency of 1/16 per px from its neighbours
CHECKERBOARD_STEP = 32  # px between windows
RIM_PX = 12  # px at CROP_PX: width of the band along the field's border

VALIDATION_SCORES = {  # name -> description, in the order of metrics.csv
    "mae": "mean absolute error on [0, 1], inside the field of view; 0 is best",
    "psnr": "peak signal-to-noise ratio in dB, for a data range of 1; inf for equal images",
    "ssim": "structural similarity (Wang et al., IEEE TIP 2004;13:600); 1 is best",
    "vessel_auc": "large vessels: area under the ROC curve of the smoothed vessel probability (Gaussian, 3 px at 400 "
    "px; of the OCT-A in a run without one) against the Otsu map of the smoothed real OCT-A; 0.5 is chance",
    "vessel_dice": "large vessels: overlap of the two Otsu maps; 1 is best",
    "vessel_correlation": "Pearson's r of the two smoothed images",
    "texture": "background between the large vessels: power of details of 0.5 to 1, 1 to 2, 2 to 4 and 4 to 8 px at "
    "400 px; mean absolute log2 of its ratio, generated to real; 0 is best",
    "grey_levels": "background between the large vessels: distance of the two images' grey levels (Wasserstein's, on "
    "[0, 1]); 0 is best",
    "checkerboard": "share of the generated image's power at the frequencies of the transposed convolutions' steps "
    "(periods of 2 to 16 px), beyond that of its surroundings; real OCT-A have 0.01 to 0.02",
    "rim": "error of the smoothed image within 12 px of the border of the field of view / error inside it; 1 is best, "
    "nan without a border in the image",
}


def validation_scores(real: np.ndarray, generated: np.ndarray, fov: np.ndarray) -> dict[str, float]:
    """Every score of VALIDATION_SCORES, in that order."""
    measures = image_similarity, vessel_agreement, likeness, artefacts
    return {name: score for measure in measures for name, score in measure(real, generated, fov).items()}


def mean_scores(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each validation score over the crops that have it; nan if none has."""
    return pd.DataFrame(scores, columns=list(VALIDATION_SCORES), dtype=float).mean(skipna=True).to_dict()


def with_scores(*names: str) -> Callable[[Callable], Callable]:
    """Decorate a measure of (real, generated, fov) with the `names` of its scores, which are nan for an empty field."""

    def decorate(measure: Callable) -> Callable:
        @wraps(measure)
        def checked(real: np.ndarray, generated: np.ndarray, fov: np.ndarray) -> dict[str, float]:
            if not fov.any():
                return dict.fromkeys(names, np.nan)
            return measure(real.astype(float), generated.astype(float), fov)

        checked.names = names
        return checked

    return decorate


@with_scores("mae", "psnr", "ssim")
def image_similarity(real: np.ndarray, generated: np.ndarray, fov: np.ndarray) -> dict[str, float]:
    """Compare the pixels of two images inside the field."""
    difference = (generated - real)[fov]
    mean_square = float(np.mean(difference**2))
    psnr = float(-10 * np.log10(mean_square)) if mean_square > 0 else np.inf
    ssim = np.nan
    inner = (slice(SSIM_BORDER, -SSIM_BORDER),) * 2
    if min(real.shape) > 2 * SSIM_BORDER and fov[inner].any():
        # Black outside the field in both images, so that windows across its border see no difference there.
        images = np.where(fov, real, 0), np.where(fov, generated, 0)
        wang = {"gaussian_weights": True, "sigma": SSIM_SIGMA, "use_sample_covariance": False}
        ssim_map = structural_similarity(*images, data_range=1, full=True, **wang)[1]
        ssim = float(ssim_map[inner][fov[inner]].mean())
    return {"mae": float(np.mean(np.abs(difference))), "psnr": psnr, "ssim": ssim}


@with_scores("vessel_auc", "vessel_dice", "vessel_correlation")
def vessel_agreement(real: np.ndarray, generated: np.ndarray, fov: np.ndarray) -> dict[str, float]:
    """Compare the large vessels of two images: where each, smoothed, lies above its own Otsu threshold."""
    sigma = SMOOTHING_SIGMA * np.sqrt(real.size) / CROP_PX
    smooth_real = smooth(real, fov, sigma)[fov]  # (pixels inside,)
    smooth_generated = smooth(generated, fov, sigma)[fov]
    thresholds = otsu_threshold(smooth_real), otsu_threshold(smooth_generated)  # nan: the same value everywhere
    vessels, generated_vessels = smooth_real > thresholds[0], smooth_generated > thresholds[1]
    scores = dict.fromkeys(vessel_agreement.names, np.nan) | {"vessel_auc": roc_auc(vessels, smooth_generated)}
    if not np.isnan(thresholds).any():
        overlap = np.sum(vessels & generated_vessels)
        scores["vessel_dice"] = float(2 * overlap / (vessels.sum() + generated_vessels.sum()))
        scores["vessel_correlation"] = float(np.corrcoef(smooth_real, smooth_generated)[0, 1])
    return scores


@with_scores("texture", "grey_levels")
def likeness(real: np.ndarray, generated: np.ndarray, fov: np.ndarray) -> dict[str, float]:
    """Compare the capillary speckle of two images as a texture, wherever it is in each."""
    grounds = ground_of(real, fov), ground_of(generated, fov)
    if not all(ground.any() for ground in grounds):
        return dict.fromkeys(likeness.names, np.nan)
    powers = [octave_powers(image, ground) for image, ground in zip((real, generated), grounds, strict=True)]
    return {
        "texture": float(np.mean(abs(np.log2(powers[1] / powers[0])))),
        "grey_levels": float(wasserstein_distance(real[grounds[0]], generated[grounds[1]])),
    }


@with_scores("checkerboard", "rim")
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
