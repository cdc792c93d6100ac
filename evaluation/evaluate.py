"""Read, synthesise and measure every eye, and compare it with another one as a control."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import joblib
import numpy as np
import pandas as pd

from basics.command_line import OptionError, progress_bar
from evaluation.inputs import Comparator, Truth
from evaluation.measures import CONTROL, MEASURES, OURS, Candidate, EyeToMeasure, agreement, measure_eye
from pairs.dataset import is_simulated, load_pair
from pairs.table import unmoved_octa
from retina.images import DataError, octa_to_grey, read_image, to_uint8
from retina.ut_fsocta import EYES
from retina.vessels import WHOLE
from run.predict import Predictor

IDENTITY = ("name", "subject", "eye", "region", "seen")  # of a case, in per_eye.csv
EYES_AT_ONCE = 16  # read and synthesised before they are measured: limits the memory
NEIGHBOURS = 16  # other eyes next in the table, from which the control is chosen
MOST_VESSELS = 0.5  # of the field, in a reference; with more, it is inverted, or its labels are misread
MONTAGE = "montage_"  # before a region: the name of a figure
EYES_PER_PROCESS = 8  # a process takes two seconds to start: not worth it for fewer eyes


@dataclass
class Evaluation:
    """What is evaluated, and how."""

    data: Path
    cases: pd.DataFrame  # as from `load_data_cases`, with `seen`, and each with its width
    comparators: Sequence[Comparator]
    truth: Truth
    predictor: Predictor
    fov_mask: bool
    faults: list[str] = field(default_factory=list)  # unusable files, one line each

    @property
    def octa(self) -> str:
        """What the OCT-A of the data are called."""
        return "simulated OCT-A" if is_simulated(self.data) else "real OCT-A"

    def note(self, fault: DataError) -> None:
        """Remember an unusable file, once: the montage reads its eyes again."""
        if str(fault) not in self.faults:
            self.faults.append(str(fault))

    def read(self, path: Path | None, shape: tuple[int, int]) -> np.ndarray | None:
        """A grey image (height, width), float32 on [0, 1]; None without a path, and for an unusable file (noted)."""
        if path is None:
            return None
        try:
            grey = octa_to_grey(read_image(path)) / 255  # [0, 255] -> [0, 1]
            if grey.shape != shape:
                own, other = (f"{width} x {height} px" for height, width in (grey.shape, shape))
                raise DataError(f"{path}: {own}, but its photograph has {other}")
        except DataError as error:
            self.note(error)
            return None
        return grey.astype(np.float32)

    def read_vessels(self, path: Path | None, fov: np.ndarray) -> np.ndarray | None:
        """As `read`, a vessel map or vessel probability. Of two levels inside the field, whichever, the higher is 1."""
        grey = self.read(path, fov.shape)
        if grey is None or not fov.any():
            return grey
        low, high = grey[fov].min(), grey[fov].max()
        has_two = low < high and np.isin(grey[fov], (low, high)).all()
        return (grey == high).astype(np.float32) if has_two else grey

    def load(self, case: Sequence) -> EyeToMeasure | None:
        """Read and synthesise one case; None if its own images, or its ground truth, are missing or unusable."""
        key, maps = case.name, self.truth.maps
        if maps is not None and key not in maps:
            return None
        try:
            pair = load_pair(case.fundus, unmoved_octa(case), 1, self.fov_mask)
        except DataError as error:
            self.note(error)
            return None
        fov, truth = pair.fov, None
        if maps is not None and (truth := self.read_vessels(maps[key], fov)) is None:
            return None
        predicted = self.predictor.predict_photograph(pair.fundus, fov, None)
        own = predicted.probability
        vessels = self.predictor.map_of(own, fov) if self.predictor.vessel_output else None
        candidates = [Candidate(OURS, octa_to_grey(predicted.octa), True, vessels, own)]
        for comparator in self.comparators:
            path = comparator.images.get(key)
            image = self.read(path, fov.shape) if comparator.is_octa else self.read_vessels(path, fov)
            binary = self.read_vessels(comparator.binary.get(key), fov)
            averaged = self.read(comparator.averaged.get(key), fov.shape)
            if image is not None:
                vessels = None if binary is None else binary > 0.5
                candidates.append(Candidate(comparator.name, image, comparator.is_octa, vessels, averaged))
        octa = octa_to_grey(pair.octa) / 255  # [0, 255] -> [0, 1]
        vessels = None if truth is None else truth > 0.5
        mm_per_px = case.octa_mm / fov.shape[1]
        return EyeToMeasure(pair.fundus, octa, vessels, fov, case.region, case.eye, mm_per_px, tuple(candidates))

    def is_usable(self, case: Sequence, share: float) -> bool:
        """Whether the reference of a case can be right that marks this share of the field as vessels; if not, noted."""
        if 0 < share <= MOST_VESSELS:
            return True
        file = unmoved_octa(case) if self.truth.maps is None else self.truth.maps[case.name]
        marks = f"{share:.0%} of the field of view as vessels: is it inverted?" if share else "no vessel in the field"
        self.note(DataError(f"{file}: as the reference for the vessels it marks {marks}"))
        return False

    def ranked(self, per_eye: pd.DataFrame, region: str) -> Iterator[tuple[str, EyeToMeasure]]:
        """The eyes of a region with the best, the median and the worst Dice of this run, each with a label."""
        ours = per_eye[(per_eye["region"] == region) & (per_eye["candidate"] == OURS) & (per_eye["sector"] == WHOLE)]
        ranked = ours.dropna(subset="dice").sort_values("dice", ascending=False)
        places = {(len(ranked) - 1) // 2: "median", len(ranked) - 1: "worst", 0: "best"}  # with few eyes, the last wins
        for place, rank in sorted(places.items()):
            name, dice = ranked.iloc[place][["name", "dice"]]
            eye = self.load(self.cases.set_index("name", drop=False).loc[name])
            if eye is not None:  # otherwise a file has vanished since the eye was measured
                yield f"{rank}: {name}\nDice {dice:.2f}", eye


@dataclass(frozen=True)
class Measured:
    """What is kept of an eye until all are measured, for the control: 0.6 MB for a crop of 400 x 400 px."""

    case: Sequence
    row: dict  # of this run, for the whole crop: the control's measures are added to it
    octa: np.ndarray  # the real one, (height, width), uint8
    prediction: np.ndarray  # the vessel probability of this run, (height, width), float16 on [0, 1]
    fov: np.ndarray  # (height, width), bool


def evaluate_eyes(evaluation: Evaluation) -> pd.DataFrame:
    """Measure every case: a row for each case, candidate and sector. Raises OptionError if no eye can be evaluated."""
    rows: list[dict] = []
    measured: list[Measured] = []
    cases = list(evaluation.cases.itertuples(index=False))
    processes = max(1, min(os.cpu_count() or 1, len(cases) // EYES_PER_PROCESS))
    with progress_bar(total=len(cases), unit="eye") as progress, joblib.Parallel(processes, max_nbytes=None) as pool:
        for first in range(0, len(cases), EYES_AT_ONCE):
            some = cases[first : first + EYES_AT_ONCE]
            loaded = [(case, eye) for case in some if (eye := evaluation.load(case)) is not None]
            results = pool(joblib.delayed(measure_eye)(eye) for _, eye in loaded)
            for (case, eye), of_eye in zip(loaded, results, strict=True):
                if not evaluation.is_usable(case, of_eye[0]["vessel_density"]):
                    continue
                found = [{column: getattr(case, column) for column in IDENTITY} | row for row in of_eye]
                ours = next(row for row in found if row["candidate"] == OURS)
                octa, prediction = to_uint8(eye.octa), eye.candidates[0].without_speckle
                measured.append(Measured(case, ours, octa, prediction.astype(np.float16), eye.fov))
                rows += found
            progress.update(len(some))
        add_controls(measured, pool)
    if not rows:
        raise OptionError("no eye can be evaluated" + "".join(f"; {fault}" for fault in evaluation.faults[:1]))
    return pd.DataFrame(rows, columns=[*IDENTITY, "candidate", "sector", *MEASURES])


def add_controls(measured: Sequence[Measured], pool: joblib.Parallel) -> None:
    """Add the `agreement` with the prediction for another eye, of the way CONTROL, to the row of each eye.

    An eye without another one, see `other_eye`, has none.
    """
    others = [other_eye(place, measured) for place in range(len(measured))]
    pairs = [(one, other) for one, other in zip(measured, others, strict=True) if other is not None]
    results = pool(
        joblib.delayed(agreement)(CONTROL, one.octa / 255, other.prediction.astype(np.float32), one.fov & other.fov)
        for one, other in pairs
    )
    for (one, _), scores in zip(pairs, results, strict=True):
        one.row.update(scores)


def other_eye(place: int, measured: Sequence[Measured]) -> Measured | None:
    """Another eye of the same region and size as the one at a place; None if there is none.

    Of the NEIGHBOURS next in the table, after whose end its start follows, the one whose field overlaps most.
    """
    own = measured[place]
    others = (
        one
        for one in (*measured[place + 1 :], *measured[:place])
        if (one.case.region, one.octa.shape) == (own.case.region, own.octa.shape)
        # Different eyes for certain: an unknown eye may be either.
        and (one.case.subject != own.case.subject or {one.case.eye, own.case.eye} == set(EYES))
    )
    return max(islice(others, NEIGHBOURS), key=lambda other: (other.fov & own.fov).sum(), default=None)
