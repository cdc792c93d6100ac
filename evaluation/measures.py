"""Everything that the evaluation measures in one region of one eye: arrays in, rows of numbers out.

Candidates are compared with the real OCT-A and with the ground truth of the vessels: this run's synthetic OCT-A, other
methods' images, and two baselines that need no training.

`fundus` is a photograph (height, width, 3), uint8; `fov` and vessel maps are bool arrays (height, width).
"""

from dataclasses import dataclass

import numpy as np
from skimage.filters import sato
from skimage.morphology import skeletonize
from sklearn.metrics import average_precision_score

from alignment.registration import register
from retina.similarity import image_similarity, likeness, vessel_agreement
from retina.vessels import (
    VESSEL_MAP_SIGMA,
    otsu_threshold,
    ratio,
    roc_auc,
    sector_masks,
    skeleton_density,
    skeleton_lengths,
    smooth,
    vessel_density,
    vessel_threshold,
)

VESSEL_SCORE_NAMES = ("roc_auc", "average_precision", "dice", "sensitivity", "specificity", "cldice")

BACKGROUND_SIGMA = 0.25  # mm: wider than the widest vessel
RIDGE_SIGMAS = (0.015, 0.025, 0.04, 0.06)  # mm: half the widths of the vessels that crops show
RIDGE_FULL = 0.995  # the quantile that counts as a certain vessel

REAL, SEGMENTED, OURS = "reference", "OCT-A, segmented", "this run"


def inverted_green(fundus: np.ndarray, fov: np.ndarray, mm_per_px: float) -> np.ndarray:
    """A baseline without training: the green channel relative to its background, inverted; vessels are bright.

    Returns (height, width), float on [0, 1]: 0.5 for a pixel as bright as its surroundings, and outside the field.
    """
    green = fundus[..., 1] / 255  # [0, 255] -> [0, 1]
    background = smooth(green, fov, BACKGROUND_SIGMA / mm_per_px)
    share = np.divide(green, background, out=np.ones_like(green), where=fov & (background > 0))
    return np.clip(1.5 - share, 0, 1)


def ridge_filter(fundus: np.ndarray, fov: np.ndarray, mm_per_px: float) -> np.ndarray:
    """Another baseline: a ridge filter of several widths (Sato et al., Med Image Anal 1998;2:143) on `inverted_green`.

    Returns the vessel probability (height, width), float on [0, 1], 0 outside the field.
    """
    sigmas = [sigma / mm_per_px for sigma in RIDGE_SIGMAS]
    ridges = np.where(fov, sato(inverted_green(fundus, fov, mm_per_px), sigmas, black_ridges=False), 0)
    highest = np.quantile(ridges[fov], RIDGE_FULL)
    return np.clip(ridges / highest, 0, 1) if highest > 0 else ridges


BASELINES = {"green channel": (inverted_green, True), "ridge filter": (ridge_filter, False)}  # True: like an OCT-A
SIMILARITY_NAMES = (*image_similarity.names, *likeness.names)  # of two OCT-A
DENSITY_NAMES = ("vessel_density", "skeleton_density")  # of vessel maps, also by sector
AGREEMENTS = ("vessel_auc", "vessel_correlation")  # of this run with the large vessels of the real OCT-A
REGISTERED, CONTROL = "registered_", "control_"
WAYS = {"": "unregistered", REGISTERED: "registered", CONTROL: "another eye, registered"}  # the real OCT-A
AGREEMENT_NAMES = tuple(f"{way}{name}" for name in AGREEMENTS for way in WAYS)
MEASURES = (*SIMILARITY_NAMES, *VESSEL_SCORE_NAMES, *DENSITY_NAMES, *AGREEMENT_NAMES)


@dataclass(frozen=True)
class Candidate:
    """An image to compare with the real OCT-A of an eye and with the ground truth."""

    name: str
    image: np.ndarray  # (height, width), float on [0, 1]: an OCT-A, or a vessel probability
    is_octa: bool
    vessels: np.ndarray | None = None  # (height, width), bool: a map that comes with it; None: made from the image
    averaged: np.ndarray | None = None  # its vessel probability, or the image without speckle, if it comes with one

    @property
    def without_speckle(self) -> np.ndarray:
        """The image to find vessels in: with the speckle averaged out, if there is one."""
        return self.image if self.averaged is None else self.averaged

    def segment(self, fov: np.ndarray, region: str) -> tuple[np.ndarray, np.ndarray]:
        """Vessel probability, float on [0, 1], and vessel map; an OCT-A's as in `vessel_map`, any other by Otsu.

        An OCT-A is smoothed first, unless it comes with both.
        """
        image, has_both = self.without_speckle, self.averaged is not None and self.vessels is not None
        probability = smooth(image, fov, VESSEL_MAP_SIGMA) if self.is_octa and not has_both else image
        if self.vessels is not None:
            return probability, self.vessels & fov
        values = probability[fov]
        threshold = vessel_threshold(values, region) if self.is_octa else otsu_threshold(values)
        return probability, fov & (probability > threshold)


@dataclass(frozen=True)
class EyeToMeasure:
    """One region of one eye; the arrays are (height, width)."""

    fundus: np.ndarray  # (height, width, 3), uint8: for the baselines
    octa: np.ndarray  # the real one, float on [0, 1], in steps of 1 / 255
    vessels: np.ndarray | None  # ground truth, bool; None: the segmenter's map of the real OCT-A
    fov: np.ndarray  # bool
    region: str
    eye: str
    mm_per_px: float
    candidates: tuple[Candidate, ...]  # the first one is this run's

    def truth(self) -> np.ndarray:
        """The ground truth vessels inside the field, bool."""
        return Candidate(REAL, self.octa, True, self.vessels).segment(self.fov, self.region)[1]


def measure_eye(eye: EyeToMeasure) -> list[dict]:
    """Compute every measure of one region of one eye, except those of the control, see `evaluate.add_controls`.

    Returns a row for each candidate and sector with those of MEASURES that apply, nan if they cannot be measured. The
    baselines are candidates too, and the segmenter's map of the real OCT-A (SEGMENTED) if a ground truth is given.
    """
    truth, fov = eye.truth(), eye.fov
    candidates = list(eye.candidates)
    if eye.vessels is not None:
        candidates.append(Candidate(SEGMENTED, eye.octa, True))
    for name, (baseline, is_octa) in BASELINES.items():
        candidates.append(Candidate(name, baseline(eye.fundus, fov, eye.mm_per_px), is_octa))

    sectors = sector_masks(fov, eye.region, eye.eye, eye.mm_per_px)
    rows = densities_by_sector(REAL, truth, sectors, eye.mm_per_px)
    for candidate in candidates:
        probability, vessels = candidate.segment(fov, eye.region)
        of_candidate = densities_by_sector(candidate.name, vessels, sectors, eye.mm_per_px)
        of_candidate[0] |= vessel_scores(truth, probability, vessels, fov)
        if candidate.is_octa and candidate.name != SEGMENTED:
            of_candidate[0] |= image_similarity(eye.octa, candidate.image, fov)
            of_candidate[0] |= likeness(eye.octa, candidate.image, fov)
        if candidate.name == OURS:
            for way in ("", REGISTERED):
                of_candidate[0] |= agreement(way, eye.octa, candidate.without_speckle, fov)
        rows += of_candidate
    return rows


def agreement(way: str, octa: np.ndarray, prediction: np.ndarray, fov: np.ndarray) -> dict[str, float]:
    """AGREEMENTS of a real OCT-A with a prediction, with one of WAYS before their names.

    Unless the way is unregistered, the OCT-A is registered to the prediction first. Real pairs are some pixels apart,
    which no prediction can know; registration corrects this, and so also hides errors of position. The prediction for
    another eye (CONTROL) shows its effect alone, because an OCT-A cannot agree with another eye.
    """
    if way:
        octa, fov = register(octa, prediction, fov)
    scores = vessel_agreement(octa, prediction, fov)
    return {f"{way}{name}": scores[name] for name in AGREEMENTS}


def densities_by_sector(
    name: str, vessels: np.ndarray, sectors: dict[str, np.ndarray | None], mm_per_px: float
) -> list[dict]:
    """Rows with the densities of a candidate's vessel map (height, width), bool; the first is the whole crop's."""
    lengths, rows = skeleton_lengths(vessels), []
    for place, sector in sectors.items():
        row = {"candidate": name, "sector": place} | dict.fromkeys(DENSITY_NAMES, np.nan)
        if sector is not None:
            row["vessel_density"] = vessel_density(vessels, sector)
            row["skeleton_density"] = skeleton_density(lengths, sector, mm_per_px)
        rows.append(row)
    return rows


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
