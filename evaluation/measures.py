"""Everything that the evaluation measures in one region of one eye: arrays in, rows of numbers out.

Candidates are compared with the real OCT-A and with the ground truth of the vessels: this run's synthetic OCT-A, other
methods' images, and two baselines that need no training.

`fundus` is a photograph (height, width, 3), uint8; `fov` and vessel maps are bool arrays (height, width).
"""

from dataclasses import dataclass

import numpy as np
from skimage.filters import sato

from alignment.registration import register
from retina.images import to_uint8
from retina.similarity import grain, ground_of, image_similarity, likeness, vessel_agreement
from retina.vessels import (
    VESSEL_MAP_SIGMA,
    VESSEL_SCORE_NAMES,
    foveal_avascular_zone,
    otsu_threshold,
    sector_masks,
    skeleton_density,
    skeleton_lengths,
    smooth,
    vessel_density,
    vessel_scores,
    vessel_threshold,
)

BACKGROUND_SIGMA = 0.25  # mm: wider than the widest vessel
RIDGE_SIGMAS = (0.015, 0.025, 0.04, 0.06)  # mm: half the widths of the vessels that crops show
RIDGE_FULL = 0.995  # the quantile that counts as a certain vessel

REAL, SEGMENTED, OURS = "reference", "real OCT-A, segmented", "this run"
PROBABILITY_LEVELS = 1024  # of a pooled curve: all pixels of all eyes would not fit into memory


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
OCTA_MEASURES = {"macula": "faz_mm2", "disc": "grain"}  # by region, of an OCT-A alone
PROPERTIES = (*DENSITY_NAMES, *OCTA_MEASURES.values())  # of one image each: compared with the real one's across eyes
AGREEMENTS = {"vessel_auc": "vessel AUC", "vessel_correlation": "correlation"}  # with the large vessels of an OCT-A
CONTROL = "control_"
WAYS = {"": "unregistered", "registered_": "registered", CONTROL: "another eye, registered"}  # the real OCT-A
WAYS_IF_MOVED = WAYS | {"": "registered beforehand"}  # of pairs whose unmoved OCT-A are lost
REGISTERED_NAMES = tuple(f"{way}{name}" for name in AGREEMENTS for way in WAYS)  # of this run
MEASURES = (*SIMILARITY_NAMES, *VESSEL_SCORE_NAMES, *PROPERTIES, *REGISTERED_NAMES)


@dataclass(frozen=True)
class Candidate:
    """An image to compare with the real OCT-A of an eye and with the ground truth."""

    name: str
    image: np.ndarray  # (height, width), float on [0, 1]: an OCT-A, or a vessel probability
    is_octa: bool
    vessels: np.ndarray | None = None  # (height, width), bool: a map that comes with it; None: made from the image
    averaged: np.ndarray | None = None  # the image without speckle (averaged out), if it comes with one

    @property
    def seen(self) -> np.ndarray:
        """The image to find vessels in: with the speckle averaged out, if there is one."""
        return self.image if self.averaged is None else self.averaged

    def segment(self, fov: np.ndarray, region: str) -> tuple[np.ndarray, np.ndarray]:
        """Vessel probability, float on [0, 1], and vessel map; an OCT-A's as in `vessel_map`, any other by Otsu."""
        probability = smooth(self.seen, fov, VESSEL_MAP_SIGMA) if self.is_octa else self.seen
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
    candidates: tuple[Candidate, ...]

    def truth(self) -> np.ndarray:
        """The ground truth vessels inside the field, bool."""
        return Candidate(REAL, self.octa, True, self.vessels).segment(self.fov, self.region)[1]


@dataclass(frozen=True)
class Kept:
    """What remains of an eye in memory for the control: 0.5 MB for a crop of 400 x 400 px, 3.1 bytes per pixel."""

    octa: np.ndarray  # the real one, (height, width), uint8
    prediction: np.ndarray  # the vessel probability of this run, (height, width), float16 on [0, 1]
    packed_fov: np.ndarray  # of each row, `np.packbits`

    @classmethod
    def of(cls, eye: EyeToMeasure) -> "Kept":
        """What to keep of an eye, whose first candidate is this run's."""
        seen = eye.candidates[0].seen.astype(np.float16)
        return cls(to_uint8(eye.octa), seen, np.packbits(eye.fov, axis=1))

    @property
    def fov(self) -> np.ndarray:
        """The field of view: (height, width), bool."""
        return np.unpackbits(self.packed_fov, axis=1, count=self.octa.shape[1]).astype(bool)

    def upside_down(self) -> "Kept":
        """A stand-in for another eye: the same, upside down."""
        return Kept(self.octa[::-1], self.prediction[::-1], self.packed_fov[::-1])


def control_agreements(eye: Kept, other: Kept) -> dict[str, float]:
    """AGREEMENTS of the real OCT-A with the prediction for another eye of its size, after registration to that.

    They show the effect of registration alone, because an OCT-A cannot agree with another eye.
    """
    prediction = other.prediction.astype(np.float32)
    scores = vessel_agreement(*with_registered(eye.octa / 255, prediction, eye.fov & other.fov))
    return {f"{CONTROL}{name}": scores[name] for name in AGREEMENTS}


def measure_eye(eye: EyeToMeasure) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Compute every measure of one region of one eye, except those of the control, see `control_agreements`.

    Returns a row for each candidate and sector, and for the real OCT-A (REAL), with `candidate`, `sector` and those of
    MEASURES that apply; nan if they cannot be measured. The baselines are candidates too, and the segmenter's map of
    the real OCT-A (SEGMENTED) if a ground truth is given. And for each candidate the number of pixels without and with
    a vessel at each probability: (2, PROBABILITY_LEVELS).
    """
    truth = eye.truth()
    sectors = sector_masks(eye.fov, eye.region, eye.eye, eye.mm_per_px)
    candidates = list(eye.candidates)
    if eye.vessels is not None:
        candidates.append(Candidate(SEGMENTED, eye.octa, True))
    for name, (baseline, is_octa) in BASELINES.items():
        candidates.append(Candidate(name, baseline(eye.fundus, eye.fov, eye.mm_per_px), is_octa))

    rows, counts = densities_by_sector(Candidate(REAL, eye.octa, True), truth, eye, sectors), {}
    for candidate in candidates:
        probability, vessels = candidate.segment(eye.fov, eye.region)
        of_candidate = densities_by_sector(candidate, vessels, eye, sectors)
        of_candidate[0] |= vessel_scores(truth, probability, vessels, eye.fov)
        if candidate.is_octa and candidate.name != SEGMENTED:
            of_candidate[0] |= image_similarity(eye.octa, candidate.image, eye.fov)
            of_candidate[0] |= likeness(eye.octa, candidate.image, eye.fov)
        if candidate.name == OURS:
            of_candidate[0] |= agreements(eye, candidate)
        rows += of_candidate
        level = np.round(np.clip(probability, 0, 1) * (PROBABILITY_LEVELS - 1)).astype(int)
        classes = eye.fov & ~truth, truth
        counts[candidate.name] = np.stack([np.bincount(level[kind], minlength=PROBABILITY_LEVELS) for kind in classes])
    return rows, counts


def agreements(eye: EyeToMeasure, ours: Candidate) -> dict[str, float]:
    """`vessel_agreement` with the real OCT-A, unregistered and registered: REGISTERED_NAMES without the control.

    Real pairs lie some pixels apart, which no prediction can know. Registration moves the real OCT-A onto the
    prediction that it is compared with, and so also hides errors of position.
    """
    compared = {
        "": (eye.octa, ours.seen, eye.fov),
        "registered_": with_registered(eye.octa, ours.seen, eye.fov),
    }
    scores = {way: vessel_agreement(*images) for way, images in compared.items()}
    return {f"{way}{name}": scores[way][name] for name in AGREEMENTS for way in compared}


def with_registered(octa: np.ndarray, prediction: np.ndarray, fov: np.ndarray) -> tuple[np.ndarray, ...]:
    """Arguments of `vessel_agreement`: an OCT-A moved onto a prediction, the prediction, and where both are seen."""
    moved, seen = register(octa, prediction, fov)
    return moved, prediction, seen


def densities_by_sector(
    candidate: Candidate, vessels: np.ndarray, eye: EyeToMeasure, sectors: dict[str, np.ndarray | None]
) -> list[dict]:
    """Rows with the densities of a candidate's vessel map (height, width), bool; the first is the whole crop's."""
    lengths, rows = skeleton_lengths(vessels), []
    for name, sector in sectors.items():
        densities = dict.fromkeys(PROPERTIES, np.nan)
        if sector is not None:
            densities["vessel_density"] = vessel_density(vessels, sector)
            densities["skeleton_density"] = skeleton_density(lengths, sector, eye.mm_per_px)
        rows.append({"candidate": candidate.name, "sector": name, **densities})
    if candidate.is_octa and candidate.name != SEGMENTED:
        if eye.region == "macula":
            zone = foveal_avascular_zone(candidate.image, eye.fov, eye.mm_per_px)
            rows[0]["faz_mm2"] = np.nan if zone is None else zone.sum() * eye.mm_per_px**2
        elif eye.region == "disc":
            rows[0]["grain"] = grain(candidate.image, ground_of(candidate.image, eye.fov), eye.mm_per_px)
    return rows
