"""Evaluate as the study does: vessels and their density in synthetic OCT-A against real ones, disc and macula apart.

    python pix_pix_eval.py                                 # the newest run, on the test subjects of its data
    python pix_pix_eval.py --data DIR --run training_checkpoints/X --split validation
    python pix_pix_eval.py --compare mine=DIR              # a further folder of synthetic OCT-A
    python pix_pix_eval.py --compare-vessels net=DIR       # a further folder of vessel maps

Beside the run's own synthesis stand what the data hold of others (the study's synthetic OCT-A and its denoised form,
SA-UNet, IterNet), and two floors that need no training. Writes logs/eval/TIME/: per_eye.csv, summary.csv, summary.md,
figures; and the headline numbers for TensorBoard to logs/fit/NAME/evaluation/. `--help` lists every option.
"""

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path

from pix_settings import CHECKPOINTS, SPLITS, OneLineParser, OptionError, Settings, one_line, prepare_process

PROGRAM = "pix_pix_eval.py"
OUTPUT = "logs/eval"
SIDE_MM = {"disc": 4.5, "macula": 6.0}  # of a crop; AngioVue's usual scans: the deposit does not say
RESAMPLES = 2000
MOST_RESAMPLES = 100_000  # more would change no digit, and take gigabytes


def parse_command_line(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options. Ends the program with status 2 and one line for what makes no sense."""
    parser = OneLineParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--data", metavar="DIR", help="a dataset in UT-FSOCTA's layout (default: the run's own)")
    add("--run", metavar="DIR", help=f"the run's folder of checkpoints (default: the newest in {CHECKPOINTS}/)")
    add("--weights", choices=("best", "last"), help="by validation, or the newest (default: best, if there is one)")
    add("--split", choices=(*SPLITS, "all"), default="test", help="the run's subjects of a split (default: test)")
    add("--compare", action="append", default=[], metavar="NAME=DIR", help="a folder of synthetic OCT-A; repeatable")
    add(
        "--compare-vessels",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a folder of vessel maps, binary or likelihoods; repeatable",
    )
    add("--segmenter", action="store_true", help="true vessels by the segmenter, even where the data hold them")
    for region, side in SIDE_MM.items():
        add(
            f"--{region}-mm",
            type=float,
            default=side,
            metavar="MM",
            help=f"side of a {region} crop (default: {side:g})",
        )
    add("--resamples", type=int, default=RESAMPLES, metavar="N", help="of the bootstrap (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the bootstrap (default: %(default)s)")
    add("--output", default=OUTPUT, metavar="DIR", help="results go to its TIME/ (default: %(default)s)")
    options = parser.parse_args(argv)
    for region in SIDE_MM:
        side = getattr(options, f"{region}_mm")
        if not 0 < side < math.inf:
            parser.error(f"--{region}-mm {side:g}: must be above 0")
    if not 1 <= options.resamples <= MOST_RESAMPLES:
        parser.error(f"--resamples {options.resamples}: must be from 1 to {MOST_RESAMPLES}")
    if not 0 <= options.seed < 2**32:
        parser.error(f"--seed {options.seed}: must be from 0 to {2**32 - 1}")
    return options


if __name__ == "__main__":
    parse_command_line(None)  # help and mistakes, before TensorFlow takes its seconds to load

from pix_run import (  # first: it keeps TensorFlow's start-up messages from the user
    RunError,
    dataset_of_run,
    newest_run,
    read_run,
    step_of,
)

# isort: split
import joblib
import numpy as np
import pandas as pd
import tensorflow as tf
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve
from tqdm import tqdm

from dataset_download import naming
from dataset_load_mod import (
    REGIONS,
    DataError,
    list_eyes,
    load_data_cases,
    load_pair,
    octa_to_grey,
    read_image,
)
from pix_pix_gen import Synthesiser, load_generator, set_up_gpus
from vessel_metrics import (
    CONFIDENCE,
    DENSITY_NAMES,
    FLOORS,
    LIKELIHOOD_LEVELS,
    MIN_SUBJECTS,
    OCTA_CLASSES,
    REAL,
    SECTORS,
    SEGMENTED,
    SIMILARITY_NAMES,
    VESSEL_MAP_SIGMA,
    VESSEL_SCORE_NAMES,
    WHOLE,
    Candidate,
    EyeToMeasure,
    bland_altman,
    correlations,
    mean_of_eyes,
    measure_eye,
    paired_difference,
    resample_subjects,
    segment,
)

OURS = "this run"
MEASURES = (*SIMILARITY_NAMES, *VESSEL_SCORE_NAMES, *DENSITY_NAMES)
EYES_AT_ONCE = 16  # read and synthesised before they are measured: bounds the memory
EYES_PER_PROCESS = 8  # a process takes two seconds to start: with fewer eyes it does not pay
DPI = 300
DENSITY_MARGIN = 0.02  # about the points of a figure

# The deposit's folders: where the images lie below cropped/, whether they are OCT-A, and where their binary maps are.
DEPOSIT = {
    "synthetic_octa": ("synthetic_octa", True, None),
    "denoised_synthetic_octa": ("denoised_synthetic_octa/noThresh", False, "denoised_synthetic_octa/Thresh"),
    "SA_Unet": ("SA_Unet", False, None),
    "Iternet": ("Iternet", False, None),
}
EXACT_TRUTH = "truth"  # of sample retinas
DEPOSIT_TRUTH = ("GT_OCT_net/Thresh", "GT_OCT_net/noThresh")  # binary, probability
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")  # Okabe and Ito

Case = tuple[int, str, str]  # subject, eye, region


# --- what there is to compare ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparator:
    """Images of another method, by case."""

    name: str
    is_octa: bool
    images: dict[Case, Path]
    binary: dict[Case, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Truth:
    """Where the true vessels come from."""

    description: str
    maps: dict[Case, Path] | None  # None: the segmenter's, of the real OCT-A


def list_cases(folder: Path, regions: Sequence[str]) -> dict[Case, Path]:
    """The images of a folder by case: in disc/ and macula/ below it, or in itself if the data have one region only."""
    found = {
        (*key, region): path
        for region in REGIONS
        if region in regions
        for key, path in list_eyes(folder / region).items()
    }
    if not found and len(regions) == 1:
        found = {(*key, regions[0]): path for key, path in list_eyes(folder).items()}
    return found


def find_comparators(dataset: Path, regions: Sequence[str], options: argparse.Namespace) -> list[Comparator]:
    """What the data hold of other methods, and the folders of --compare and --compare-vessels.

    Raises:
        OptionError: such a folder is not there, holds no image of the layout, or has a name that is taken.
    """
    found = []
    for name, (images, is_octa, binary) in DEPOSIT.items():
        maps = list_cases(dataset / "cropped" / binary, regions) if binary else {}
        found.append(Comparator(name, is_octa, list_cases(dataset / "cropped" / images, regions), maps))
    found = [comparator for comparator in found if comparator.images]
    taken = {REAL, SEGMENTED, OURS, *FLOORS, *DEPOSIT}
    for option, is_octa in (("compare", True), ("compare_vessels", False)):
        for text in getattr(options, option):
            flag = f"--{option.replace('_', '-')} {text}"
            name, _, folder = text.partition("=")
            if not name or not folder:
                raise OptionError(f"{flag}: write it as NAME=DIR")
            if name in taken:
                raise OptionError(f"{flag}: the name {name} is taken")
            images = list_cases(Path(folder), regions)
            if not images:
                raise OptionError(f"{flag}: no <subject>_<OD|OS>.png in {' or '.join(regions)} below it")
            taken.add(name)
            found.append(Comparator(name, is_octa, images))
    return found


def find_truth(dataset: Path, regions: Sequence[str], segmenter: bool) -> Truth:
    """The exact vessels of sample retinas, the deposit's map, or (where neither is, or asked for) the segmenter's."""
    exact = list_cases(dataset / "cropped" / EXACT_TRUTH, regions)
    if exact and not segmenter:
        return Truth("the exact vessels of the sample retinas (cropped/truth)", exact)
    for name in DEPOSIT_TRUTH:
        maps = list_cases(dataset / "cropped" / name, regions)
        if maps and not segmenter:
            return Truth(f"the deposit's map of the real OCT-A ({name})", maps)
    return Truth("the segmenter's map of the real OCT-A", None)


def read_grey(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A grey image (height, width), float32 on [0, 1]. Raises DataError if it cannot be read or is of another size."""
    grey = octa_to_grey(read_image(path)) / 255  # [0, 255] -> [0, 1]
    if grey.shape != shape:
        sizes = " x ".join(map(str, grey.shape[::-1])), " x ".join(map(str, shape[::-1]))
        raise DataError(f"{path}: {sizes[0]} px, but the real OCT-A has {sizes[1]} px")
    return grey.astype(np.float32)


# --- each eye --------------------------------------------------------------------------------------------------------


@dataclass
class Evaluation:
    """One evaluation: what is compared, and how."""

    synthesiser: Synthesiser
    fov_mask: bool
    cases: pd.DataFrame
    comparators: list[Comparator]
    truth: Truth
    side_mm: dict[str, float]
    faults: list[str] = field(default_factory=list)  # files that could not be used, a line each

    def read(self, path: Path, shape: tuple[int, int]) -> np.ndarray | None:
        """As `read_grey`, but None for a file that cannot be used, which is noted."""
        try:
            return read_grey(path, shape)
        except DataError as error:
            self.note(error)
            return None

    def note(self, fault: DataError) -> None:
        """Remember what could not be used, once: the montage reads its eyes again."""
        if str(fault) not in self.faults:
            self.faults.append(str(fault))

    def load(self, case: Sequence) -> EyeToMeasure | None:
        """Read and synthesise one case; None if its own images, or its true vessels, are not to be had."""
        key = (case.subject, case.eye, case.region)
        if self.truth.maps is not None and key not in self.truth.maps:
            return None
        try:
            pair = load_pair(case.fundus, case.octa, 1, self.fov_mask)
        except DataError as error:
            self.note(error)
            return None
        shape = pair.fov.shape
        vessels = None
        if self.truth.maps is not None:
            likelihood = self.read(self.truth.maps[key], shape)
            if likelihood is None:
                return None
            vessels = likelihood > 0.5
        ours = octa_to_grey(self.synthesiser.predict(pair.fundus, pair.fov))
        candidates = [Candidate(OURS, ours, True)]
        for comparator in self.comparators:
            if key not in comparator.images:
                continue
            image = self.read(comparator.images[key], shape)
            binary = self.read(comparator.binary[key], shape) if key in comparator.binary else None
            if image is not None:
                candidates.append(
                    Candidate(comparator.name, image, comparator.is_octa, None if binary is None else binary > 0.5)
                )
        return EyeToMeasure(
            fundus=pair.fundus,
            octa=octa_to_grey(pair.octa) / 255,  # [0, 255] -> [0, 1]
            vessels=vessels,
            fov=pair.fov,
            region=case.region,
            eye=case.eye,
            mm_per_px=self.side_mm[case.region] / shape[1],
            candidates=tuple(candidates),
        )


def evaluate_eyes(evaluation: Evaluation) -> tuple[pd.DataFrame, dict[tuple[str, str], np.ndarray]]:
    """Measure every case.

    Returns:
        A row for each case, candidate and sector. And for each (region, candidate) how many pixels without and with a
        vessel have a likelihood, over all eyes: (2, LIKELIHOOD_LEVELS).
    """
    rows: list[dict] = []
    counts: dict[tuple[str, str], np.ndarray] = {}
    cases = list(evaluation.cases.itertuples(index=False))
    processes = max(1, min(os.cpu_count() or 1, len(cases) // EYES_PER_PROCESS))
    progress = tqdm(total=len(cases), unit="eye", mininterval=0.5 if sys.stderr.isatty() else 30)
    with progress, joblib.Parallel(processes, max_nbytes=None) as pool:
        for first in range(0, len(cases), EYES_AT_ONCE):
            some = cases[first : first + EYES_AT_ONCE]
            loaded = [(case, eye) for case in some if (eye := evaluation.load(case)) is not None]
            results = pool(joblib.delayed(measure_eye)(eye) for _, eye in loaded)
            for (case, _), (of_eye, of_counts) in zip(loaded, results, strict=True):
                rows += [{"subject": case.subject, "eye": case.eye, "region": case.region} | row for row in of_eye]
                for name, pixels in of_counts.items():
                    counts[case.region, name] = counts.get((case.region, name), 0) + pixels
            progress.update(len(some))
    if not rows:
        raise OptionError("no eye could be evaluated" + "".join(f"; {fault}" for fault in evaluation.faults[:1]))
    columns = ["subject", "eye", "region", "candidate", "sector", *MEASURES]
    return pd.DataFrame(rows, columns=columns), counts


# --- across eyes -----------------------------------------------------------------------------------------------------


def summarise(per_eye: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """A row for each region, candidate, sector and measure.

    `eyes` and `subjects` are those that could be measured, `missing` the eyes that could not. Intervals, correlations
    and tests are nan with fewer than MIN_SUBJECTS subjects. The last columns hold a candidate against this run, on the
    eyes that both have.
    """
    rows = []
    for (region, sector), part in per_eye.groupby(["region", "sector"], sort=False):
        table = part.pivot(index=["subject", "eye"], columns="candidate", values=list(MEASURES))
        subjects = table.index.get_level_values("subject").to_numpy()
        for name in part["candidate"].unique():
            for measure in applying_measures(table, name, region, sector):
                values = table[measure, name].to_numpy()
                there = np.isfinite(values)
                row = {"region": region, "candidate": name, "sector": sector, "measure": measure}
                row["missing"] = int(np.sum(~there))
                row["eyes"], row["subjects"] = int(there.sum()), len(np.unique(subjects[there]))
                real = table[measure, REAL].to_numpy() if name != REAL and measure in DENSITY_NAMES else None
                ours = table[measure, OURS].to_numpy() if name not in (REAL, OURS) else None
                rows.append(row | across_eyes(values, real, ours, subjects, resamples, seed))
    return pd.DataFrame(rows)


def applying_measures(table: pd.DataFrame, name: str, region: str, sector: str) -> list[str]:
    """The measures that make sense for a candidate: pixels and avascular zone are those of OCT-A images."""
    is_octa = name == REAL or table["mae", name].notna().any()
    measures = list(DENSITY_NAMES[:2])
    if sector == WHOLE:
        measures += [name for name in DENSITY_NAMES[2:] if region == "macula" and is_octa]
        measures += [] if name == REAL else VESSEL_SCORE_NAMES
        measures += SIMILARITY_NAMES if is_octa and name != REAL else []
    return measures


def across_eyes(
    values: np.ndarray,
    real: np.ndarray | None,
    ours: np.ndarray | None,
    subjects: np.ndarray,
    resamples: int,
    seed: int,
) -> dict[str, float]:
    """The statistics of one measure of one candidate.

    Args:
        values: (eyes,), nan where there is none.
        real: (eyes,), the same of the real OCT-A; None if it has no such measure.
        ours: (eyes,), the same of this run; None for this run itself.
        subjects: (eyes,), whose eye each is.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        As the functions of `vessel_metrics` for what is across eyes; without what cannot be had.
    """

    def on(both: np.ndarray) -> tuple[np.ndarray, bool]:
        """The resampled eyes, and whether there are enough subjects to speak of an interval."""
        enough = len(np.unique(subjects[both])) >= MIN_SUBJECTS
        return resample_subjects(subjects[both], resamples if enough else 1, seed), enough

    there = np.isfinite(values)
    if not there.any():
        return {}
    drawn, enough = on(there)
    statistics = mean_of_eyes(values[there], drawn)
    if not enough:
        statistics |= {"low": np.nan, "high": np.nan}
    if real is not None and (both := there & np.isfinite(real)).any():
        drawn, enough = on(both)
        if enough:
            statistics |= correlations(real[both], values[both], drawn) | bland_altman(real[both], values[both], drawn)
        else:
            statistics["bias"] = float(np.mean(values[both] - real[both]))
    if ours is not None and (both := there & np.isfinite(ours)).any():
        drawn, enough = on(both)
        if enough:
            statistics |= paired_difference(values[both], ours[both], subjects[both], drawn)
        else:
            statistics["difference"] = float(np.mean(values[both] - ours[both]))
    return statistics


def curve_of(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Precision, recall and average precision of pooled pixels, counted as `measure_eye` does."""
    level = np.tile(np.arange(LIKELIHOOD_LEVELS), 2)
    vessel = np.repeat([0, 1], LIKELIHOOD_LEVELS)
    there = counts.ravel() > 0
    level, vessel, weight = level[there], vessel[there], counts.ravel()[there]
    precision, recall, _ = precision_recall_curve(vessel, level, sample_weight=weight)
    return precision, recall, float(average_precision_score(vessel, level, sample_weight=weight))


# --- what is written -------------------------------------------------------------------------------------------------


def number(value: float, decimals: int = 3) -> str:
    """A number for a table; a dash for nan."""
    return f"{value:.{decimals}f}" if np.isfinite(value) else "-"


def with_interval(row: pd.Series, name: str, low: str, high: str) -> str:
    """A number with its interval, if there is one."""
    if not np.isfinite(row.get(low, np.nan)):
        return number(row.get(name, np.nan))
    return f"{number(row[name])} [{number(row[low])}, {number(row[high])}]"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]


HEADINGS = {
    "mae": "MAE",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "dice": "Dice",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "cldice": "clDice",
    "vessel_density": "vessel density",
    "skeleton_density": "skeleton density, mm/mm²",
    "faz_mm2": "avascular zone, mm²",
}


def describe_region(summary: pd.DataFrame, region: str) -> list[str]:
    """The tables of one region as lines of Markdown."""
    part = summary[summary["region"] == region].set_index(["candidate", "sector", "measure"])
    names = list(dict.fromkeys(part.index.get_level_values("candidate")))

    def row_of(name: str, measure: str, sector: str = WHOLE) -> pd.Series:
        key = (name, sector, measure)
        return part.loc[key] if key in part.index else pd.Series({"eyes": 0})

    lines = [
        f"## {region.capitalize()}",
        "",
        "Vessels against the true ones, and pixels against the real OCT-A; mean",
        "",
    ]
    measures = (*VESSEL_SCORE_NAMES, *SIMILARITY_NAMES)
    lines += markdown_table(
        ["", "eyes", *(HEADINGS[measure] for measure in measures)],
        [
            [name, f"{row_of(name, 'dice')['eyes']:.0f}"]
            + [with_interval(row_of(name, measure), "mean", "low", "high") for measure in measures]
            for name in names
            if name != REAL
        ],
    )
    for measure in DENSITY_NAMES:
        if not any((name, WHOLE, measure) in part.index for name in names):
            continue
        lines += ["", f"{HEADINGS[measure].capitalize()} against the real OCT-A, whole crop", ""]
        rows = []
        for name in names:
            row = row_of(name, measure)
            if not row["eyes"] and (name, WHOLE, measure) not in part.index:
                continue
            rows.append(
                [name, f"{row['eyes']:.0f}", f"{row['missing']:.0f}", with_interval(row, "mean", "low", "high")]
                + [with_interval(row, kind, f"{kind}_low", f"{kind}_high") for kind in ("pearson", "spearman", "bias")]
                + [f"{number(row.get('limit_low', np.nan))} to {number(row.get('limit_high', np.nan))}"]
            )
        lines += markdown_table(
            ["", "eyes", "missing", "mean", "Pearson's r", "Spearman's rho", "bias", "limits of agreement"], rows
        )
    sectors = SECTORS[region][1:]
    lines += ["", "Vessel density by sector: Pearson's r with the real OCT-A (eyes that hold the sector)", ""]
    lines += markdown_table(
        ["", *sectors],
        [
            [name]
            + [
                f"{number(row.get('pearson', np.nan))} ({row['eyes']:.0f})"
                for row in (row_of(name, "vessel_density", sector) for sector in sectors)
            ]
            for name in names
            if name != REAL
        ],
    )
    lines += ["", "Difference from this run, on the eyes that both have", ""]
    measures = ("roc_auc", "average_precision", "dice", "cldice")
    lines += markdown_table(
        ["", *(f"{HEADINGS[measure]}{end}" for measure in measures for end in ("", ", p"))],
        [
            [name]
            + [
                cell
                for row in (row_of(name, measure) for measure in measures)
                for cell in (
                    with_interval(row, "difference", "difference_low", "difference_high"),
                    f"{row['p']:.2g}" if np.isfinite(row.get("p", np.nan)) else "-",
                )
            ]
            for name in names
            if name not in (REAL, OURS)
        ],
    )
    return [*lines, ""]


def panels_of(per_eye: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The regions, and the candidates that have a density, for the rows and columns of a figure."""
    names = [name for name in per_eye["candidate"].unique() if name != REAL]
    return [region for region in REGIONS if region in set(per_eye["region"])], names


def draw_densities(per_eye: pd.DataFrame, summary: pd.DataFrame, agreement: bool) -> Figure:
    """Vessel density of each candidate against that of the real OCT-A; with `agreement` as Bland and Altman do."""
    regions, names = panels_of(per_eye)
    of_density = (summary["sector"] == WHOLE) & (summary["measure"] == "vessel_density")
    lines = summary[of_density].set_index(["region", "candidate"])
    whole = per_eye[per_eye["sector"] == WHOLE]
    figure = Figure(figsize=(2.1 * len(names) + 0.6, 2.2 * len(regions) + 0.5), layout="constrained")
    panels = figure.subplots(len(regions), len(names), squeeze=False, sharex="row", sharey="row")
    for row, region in zip(panels, regions, strict=True):
        table = whole[whole["region"] == region].pivot(
            index=["subject", "eye"], columns="candidate", values="vessel_density"
        )
        real = table[REAL].to_numpy()
        limits = np.nanmin(table) - DENSITY_MARGIN, np.nanmax(table) + DENSITY_MARGIN
        for panel, name, colour in zip(row, names, np.resize(COLOURS, len(names)), strict=True):
            panel.set_title(name if region == regions[0] else "", fontsize=8)
            panel.tick_params(labelsize=7)
            if name not in table:
                continue
            values = table[name].to_numpy()
            if agreement:
                difference = values - real
                panel.plot((values + real) / 2, difference, ".", color=colour, markersize=4)
                panel.axhline(0, color="0.6", linewidth=0.6)
                for column, style in (("bias", "-"), ("limit_low", "--"), ("limit_high", "--")):
                    panel.axhline(
                        lines.loc[region, name].get(column, np.nan), color=colour, linewidth=0.8, linestyle=style
                    )
            else:
                panel.plot(real, values, ".", color=colour, markersize=4)
                panel.axline((0, 0), slope=1, color="0.6", linewidth=0.6)
                panel.set(xlim=limits, ylim=limits, aspect="equal")
        row[0].set_ylabel(f"{region}: {'candidate - real' if agreement else 'candidate'}", fontsize=8)
    figure.supxlabel("mean of the two vessel densities" if agreement else "vessel density, real OCT-A", fontsize=8)
    return figure


def draw_precision_recall(counts: dict[tuple[str, str], np.ndarray]) -> Figure:
    """Pooled precision-recall curves of all candidates by region."""
    regions = [region for region in REGIONS if any(region == key[0] for key in counts)]
    figure = Figure(figsize=(4 * len(regions), 3.8), layout="constrained")
    for panel, region in zip(figure.subplots(1, len(regions), squeeze=False)[0], regions, strict=True):
        of_region = {name: pixels for (place, name), pixels in counts.items() if place == region}
        for (name, pixels), colour in zip(of_region.items(), np.resize(COLOURS, len(of_region)), strict=True):
            if pixels[1].any():
                precision, recall, area = curve_of(pixels)
                panel.plot(recall, precision, color=colour, linewidth=1.2, label=f"{name} ({area:.2f})")
        panel.set(title=region, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        panel.legend(fontsize=7, loc="lower left", title="average precision", title_fontsize=7)
    return figure


def draw_montage(evaluation: Evaluation, per_eye: pd.DataFrame, region: str) -> Figure:
    """The eyes with the best, the median and the worst Dice of this run: fundus, real, synthetic, vessels."""
    of_region = per_eye[(per_eye["region"] == region) & (per_eye["candidate"] == OURS) & (per_eye["sector"] == WHOLE)]
    ranked = of_region.dropna(subset="dice").sort_values("dice", ascending=False)
    places = {(len(ranked) - 1) // 2: "median", len(ranked) - 1: "worst", 0: "best"}  # the last counts, with few eyes
    places = dict(sorted(places.items()))
    figure = Figure(figsize=(8.4, 2.2 * len(places) + 0.3), layout="constrained")
    for row, (place, rank) in zip(figure.subplots(len(places), 4, squeeze=False), places.items(), strict=True):
        chosen = ranked.iloc[place]
        cases = evaluation.cases
        case = cases[
            (cases["subject"] == chosen["subject"]) & (cases["eye"] == chosen["eye"]) & (cases["region"] == region)
        ]
        eye = evaluation.load(next(case.itertuples(index=False)))
        ours = eye.candidates[0]
        truth = segment(Candidate(REAL, eye.octa, True, eye.vessels), eye.fov, region)[1]
        vessels = segment(ours, eye.fov, region)[1]
        overlay = np.zeros((*truth.shape, 3))
        overlay[truth & vessels] = (1, 1, 1)
        overlay[truth & ~vessels] = (0.84, 0.37, 0.0)  # vermillion
        overlay[vessels & ~truth] = (0.34, 0.71, 0.91)  # sky blue
        for panel, picture in zip(row, (eye.fundus, eye.octa, ours.image, overlay), strict=True):
            panel.imshow(picture, cmap="gray", vmin=0, vmax=1)
            panel.set_xticks([])
            panel.set_yticks([])
        row[0].set_ylabel(f"{rank}: {chosen['subject']} {chosen['eye']}\nDice {chosen['dice']:.2f}", fontsize=8)
        if place == 0:
            titles = ("fundus", "real OCT-A", "synthetic OCT-A", "vessels: both, missed, invented")
            for panel, title in zip(row, titles, strict=True):
                panel.set_title(title, fontsize=8)
    figure.supxlabel(
        "vessels: white in both, orange in the real OCT-A only, blue in the synthetic one only", fontsize=7
    )
    return figure


def describe(
    evaluation: Evaluation, per_eye: pd.DataFrame, summary: pd.DataFrame, options: argparse.Namespace, weights: str
) -> str:
    """The whole report, as Markdown."""
    measured = per_eye[per_eye["sector"] == WHOLE]
    subjects = measured["subject"].nunique()
    lines = [
        f"# Evaluation of {options.run}",
        "",
        f"- weights: {weights}; data: {options.data}; split: {options.split}",
        f"- {subjects} subjects: "
        + ", ".join(
            f"{len(of_region[['subject', 'eye']].drop_duplicates())} eyes at the {region}"
            for region, of_region in measured.groupby("region")
        ),
        f"- true vessels: {evaluation.truth.description}",
        f"- segmenter, of every OCT-A alike: Gaussian of {VESSEL_MAP_SIGMA:g} px, then the brightest of "
        + " and ".join(f"{classes} classes at the {region}" for region, classes in OCTA_CLASSES.items())
        + " (multi-Otsu); vessel likelihoods: above Otsu's threshold, or the binary map beside them",
        "- side of a crop, assumed unless given: "
        + ", ".join(f"{region} {side:g} mm" for region, side in evaluation.side_mm.items()),
        f"- intervals: {CONFIDENCE:.0%}, bootstrap over subjects, {options.resamples} resamples, seed {options.seed}; "
        "p: signed-rank test over subjects, not corrected for their number",
    ]
    lines += [f"- {remark}" for remark in remarks(evaluation, per_eye)]
    lines.append("")
    for region in REGIONS:
        if region in set(measured["region"]):
            lines += describe_region(summary, region)
    return "\n".join(lines)


def remarks(evaluation: Evaluation, per_eye: pd.DataFrame) -> list[str]:
    """What is absent, and what must not be read into the numbers; a line each."""
    found = []
    measured = per_eye[per_eye["sector"] == WHOLE]
    if (subjects := measured["subject"].nunique()) < MIN_SUBJECTS:
        found.append(
            f"ONLY {subjects} SUBJECT{'S' if subjects > 1 else ''}: correlations, intervals, limits of agreement "
            f"and tests would mean nothing and are left out (below {MIN_SUBJECTS}); take the means as examples"
        )
    there = {comparator.name for comparator in evaluation.comparators}
    if absent := [name for name in DEPOSIT if name not in there]:
        found.append(f"absent from the data: {', '.join(absent)}")
    crops = len(measured[measured["candidate"] == REAL])
    if lost := len(evaluation.cases) - crops:
        found.append(f"{lost} of {len(evaluation.cases)} crops are left out: no usable pair, or no true vessels")
    for comparator in evaluation.comparators:
        if lost := crops - int(np.sum(measured["candidate"] == comparator.name)):
            found.append(f"{comparator.name}: {lost} of {crops} crops are absent")
    sectors = per_eye[(per_eye["candidate"] == REAL) & (per_eye["sector"] != WHOLE)]
    if lost := int(sectors["vessel_density"].isna().sum()):
        found.append(f"{lost} of {len(sectors)} sectors are not held by crop and camera's field, and nan")
    return found + [f"not usable: {fault}" for fault in evaluation.faults]


def write_headlines(summary: pd.DataFrame, run: Path, settings: Settings, checkpoint: str) -> Path:
    """The headline numbers of this run, for TensorBoard, at the step of its weights; returns the folder."""
    folder = Path(settings.logs) / "fit" / run.resolve().name / "evaluation"
    ours = summary[(summary["candidate"] == OURS) & (summary["sector"] == WHOLE)]
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default(step_of(checkpoint)):
        for row in ours.itertuples(index=False):
            tag = f"evaluation/{row.region}/{row.measure}"
            for name, tag_of_value in (("mean", tag), ("pearson", f"{tag} pearson"), ("bias", f"{tag} bias")):
                if np.isfinite(value := getattr(row, name, np.nan)):
                    tf.summary.scalar(tag_of_value, value)
    writer.close()
    return folder


def write_results(
    folder: Path,
    evaluation: Evaluation,
    per_eye: pd.DataFrame,
    summary: pd.DataFrame,
    counts: dict[tuple[str, str], np.ndarray],
    report: str,
) -> Path:
    """Write tables and figures into a new folder, all or nothing; returns it, with a number if its name was taken."""
    figures = {
        "density_scatter": draw_densities(per_eye, summary, agreement=False),
        "bland_altman": draw_densities(per_eye, summary, agreement=True),
        "precision_recall": draw_precision_recall(counts),
    }
    for region in panels_of(per_eye)[0]:
        figures[f"montage_{region}"] = draw_montage(evaluation, per_eye, region)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with naming(folder), tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        made = Path(temporary) / "results"
        made.mkdir()
        per_eye.to_csv(made / "per_eye.csv", index=False, float_format="%.6g")
        summary.to_csv(made / "summary.csv", index=False, float_format="%.6g")
        (made / "summary.md").write_text(report, encoding="utf-8")
        for name, figure in figures.items():
            figure.savefig(made / f"{name}.png", dpi=DPI)
        names = (folder if number == 1 else folder.with_name(f"{folder.name}-{number}") for number in count(1))
        return made.rename(next(name for name in names if not name.exists()))


# --- command line ----------------------------------------------------------------------------------------------------


def chosen_cases(options: argparse.Namespace, dataset: Path, splits: dict[str, list[int]]) -> pd.DataFrame:
    """The pairs of the split. Raises OptionError if there is none."""
    cases, unpaired = load_data_cases(dataset, splits)
    if unpaired:
        print(f"{len(unpaired)} files of the data have no partner and are left out")
    if options.split != "all":
        cases = cases[cases["split"] == options.split]
    if cases.empty:
        raise OptionError(f"--split {options.split}: {dataset} holds no pair of it")
    return cases


def run_evaluation(options: argparse.Namespace) -> int:
    """Do what the options ask for; returns the exit status: 2 if a file could not be used.

    Raises:
        OptionError, RunError, DataError, OSError: nothing can be done at all.
    """
    started = datetime.now()
    run = Path(options.run) if options.run else newest_run(Path(CHECKPOINTS), "--run")
    settings, _ = read_run(run)
    dataset = dataset_of_run(options.data, settings, "--data")
    cases = chosen_cases(options, dataset, settings.splits())
    regions = [region for region in REGIONS if region in set(cases["region"])]
    comparators = find_comparators(dataset, regions, options)
    truth = find_truth(dataset, regions, options.segmenter)
    options.run, options.data = run, dataset
    print(f"Device: {set_up_gpus()}, precision: {settings.precision}")
    generator, path = load_generator(run, options.weights, settings)
    print(f"Weights: {path}")
    print(f"{len(cases)} crops of {cases['subject'].nunique()} subjects; true vessels: {truth.description}")
    evaluation = Evaluation(
        synthesiser=Synthesiser(generator),
        fov_mask=settings.fov_mask,
        cases=cases,
        comparators=comparators,
        truth=truth,
        side_mm={region: getattr(options, f"{region}_mm") for region in REGIONS},
    )
    per_eye, counts = evaluate_eyes(evaluation)
    for remark in remarks(evaluation, per_eye):
        print(remark)
    print(f"Bootstrap over subjects: {options.resamples} resamples, seed {options.seed}")
    summary = summarise(per_eye, options.resamples, options.seed)
    report = describe(evaluation, per_eye, summary, options, str(Path(path).relative_to(run)))
    folder = write_results(
        Path(options.output) / f"{started:%Y%m%d-%H%M%S}", evaluation, per_eye, summary, counts, report
    )
    headlines = write_headlines(summary, run, settings, path)
    print_headlines(summary)
    print(f"Written: {folder}/ (start with summary.md); for TensorBoard: {headlines}/")
    for fault in evaluation.faults:
        print(f"{PROGRAM}: error: {one_line(fault)}", file=sys.stderr)
    return 2 if evaluation.faults else 0


def print_headlines(summary: pd.DataFrame) -> None:
    """ROC AUC, Dice and the density's correlation of every candidate."""
    for region, part in summary[summary["sector"] == WHOLE].groupby("region", sort=False):
        print(f"{region:26} ROC AUC    Dice  clDice  density  Pearson's r")
        for name, rows in part[part["candidate"] != REAL].groupby("candidate", sort=False):
            of = rows.set_index("measure")
            means = [number(of.loc[measure, "mean"]) for measure in ("roc_auc", "dice", "cldice", "vessel_density")]
            r = number(of.loc["vessel_density"].get("pearson", np.nan))
            print(f"  {name:24} {means[0]:>7} {means[1]:>7} {means[2]:>7} {means[3]:>8} {r:>12}")


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, evaluate, and return the exit status: 2 for anything that the user can mend."""
    prepare_process()
    try:
        return run_evaluation(parse_command_line(argv))
    except (OptionError, RunError, DataError, OSError) as error:
        print(f"{PROGRAM}: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: stopped; nothing is written", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
