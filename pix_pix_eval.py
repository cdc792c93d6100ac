"""Evaluate as the study does: compare synthetic OCT-A and their vessels with the real ones, at the disc and the macula.

    python pix_pix_eval.py                                 # your newest finished run, on its test subjects
    python pix_pix_eval.py --data DIR --run training_checkpoints/X --split validation
    python pix_pix_eval.py --compare mine=DIR              # another folder of synthetic OCT-A
    python pix_pix_eval.py --compare-vessels net=DIR       # another folder of vessel maps

Besides the run it evaluates the images of other methods in the data (the study's synthetic OCT-A and its denoised form,
SA-UNet, IterNet), and two baselines that need no training. Writes logs/eval/TIME/: report.html, the same as summary.md,
per_eye.csv, summary.csv, figures as PNG and PDF; and the main results for TensorBoard to logs/fit/NAME/evaluation/.
`--help` lists every option.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path

from basics.command_line import OneLineParser, OptionError, exit_status, load_tensorflow, progress_bar, report_error
from pairs.table import WIDTH, is_table
from retina.ut_fsocta import CROP_MM, EYES, OTHER_REGION
from run.settings import SPLIT_HELP, SPLITS, Settings, add_run_options

PROGRAM = "pix_pix_eval.py"
CROPS_MM = 0.5, 50.0  # least and greatest width of a crop: others are in other units
MAX_RESAMPLES = 100_000  # more would change no digit, and take gigabytes


def parse_command_line(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options. Ends the program with status 2 and one line for invalid ones."""
    parser = OneLineParser(prog=PROGRAM, description=__doc__)
    add = parser.add_argument
    repeatable = {"action": "append", "default": [], "metavar": "NAME=DIR"}
    add("--data", metavar="DATA", help="a folder in UT-FSOCTA's layout, or a table of pairs (default: the run's own)")
    add_run_options(parser)
    add("--split", choices=(*SPLITS, "all"), help=SPLIT_HELP)
    add(
        "--include-seen",
        action="store_true",
        help="also evaluate subjects that the run, or one that it started from, was trained or validated on; otherwise "
        "these are left out, except of --split train and validation",
    )
    add("--compare", **repeatable, help="a folder of synthetic OCT-A; repeatable")
    add("--compare-vessels", **repeatable, help="a folder of vessel maps or vessel probabilities; repeatable")
    add("--segmenter", action="store_true", help="ground truth from the segmenter, even if the data contain one")
    for region, assumed in CROP_MM.items():
        add(
            f"--{region}-mm",
            type=float,
            metavar="MM",
            help=f"width of a crop, region {region}, where a table has no {WIDTH} (default: {assumed:g})",
        )
    add("--resamples", type=int, default=2000, metavar="N", help="number of bootstrap resamples (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the bootstrap (default: %(default)s)")
    add("--output", default="logs/eval", metavar="DIR", help="results are written to DIR/TIME/ (default: %(default)s)")
    options = parser.parse_args(argv)
    for region in CROP_MM:
        width = getattr(options, f"{region}_mm")
        if width is not None and not CROPS_MM[0] <= width <= CROPS_MM[1]:
            parser.error(f"--{region}-mm {width:g}: must be from {CROPS_MM[0]:g} to {CROPS_MM[1]:g} mm")
    for name, least, most in (("resamples", 1, MAX_RESAMPLES), ("seed", 0, 2**32 - 1)):
        if not least <= (value := getattr(options, name)) <= most:
            parser.error(f"--{name} {value}: must be from {least} to {most}")
    return options


if __name__ == "__main__":
    parse_command_line(None)  # help and mistakes, before TensorFlow takes seconds to load
load_tensorflow()

import joblib
import numpy as np
import pandas as pd
import tensorflow as tf
from tensorboard.plugins.hparams import api as hp

import evaluation.figures as eval_figures
import evaluation.report as eval_report
from evaluation.inputs import (
    DRAWN,
    PUBLISHED,
    Comparator,
    Truth,
    find_cases,
    find_comparators,
    find_truth,
    find_widths,
    list_images,
)
from evaluation.measures import (
    MEASURES,
    OURS,
    REAL,
    WAYS,
    WAYS_IF_MOVED,
    Candidate,
    EyeToMeasure,
    Kept,
    control_agreements,
    measure_eye,
)
from evaluation.report import counted
from evaluation.statistics import CONFIDENCE, MIN_SUBJECTS, summarise
from pairs.dataset import find_dataset, load_pair
from pairs.moved import moved_for_good, unmoved_octa
from retina.images import DataError, black_outside, octa_to_grey, read_image
from retina.vessels import OCTA_CLASSES, VESSEL_MAP_SIGMA, WHOLE
from run.checkpoints import read_run, step_of
from run.data import HAS_SEEN
from run.log import RunLog
from run.predict import Predictor, announced_predictor
from run.weights import run_to_use

IDENTITY = ("name", "subject", "eye", "region", "seen")  # of a case, in per_eye.csv
EYES_AT_ONCE = 16  # read and synthesised before they are measured: limits the memory
NEIGHBOURS = 16  # other eyes next in the table, from which the control is chosen
MOST_VESSELS = 0.5  # of the field, in a reference; with more, it is inverted, or its labels are misread
EYES_PER_PROCESS = 8  # a process takes two seconds to start: not worth it for fewer eyes


# --- measure ---------------------------------------------------------------------------------------------------------


@dataclass
class Evaluation:
    """What is evaluated, and how."""

    predictor: Predictor
    fov_mask: bool
    cases: pd.DataFrame
    left_out: int  # subjects that the run has seen
    is_table: bool  # the data: a table has no other methods
    comparators: list[Comparator]
    truth: Truth
    crop_mm: dict[str, float]  # width of a crop by region, where the cases do not state it
    faults: list[str] = field(default_factory=list)  # unusable files, one line each
    alone: int = 0  # eyes without another one to compare with

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
                sizes = (" x ".join(map(str, size[::-1])) for size in (grey.shape, shape))
                raise DataError(f"{path}: {next(sizes)} px, but its photograph has {next(sizes)} px")
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
        candidates = [Candidate(OURS, octa_to_grey(predicted.octa), True, averaged=predicted.probability)]
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
        mm_per_px = (self.crop_mm[case.region] if pd.isna(case.octa_mm) else case.octa_mm) / fov.shape[1]
        return EyeToMeasure(pair.fundus, octa, vessels, fov, case.region, case.eye, mm_per_px, tuple(candidates))

    def is_usable(self, case: Sequence, share: float) -> bool:
        """Whether the reference of a case can be right that marks this share of the field as vessels; if not, noted."""
        if 0 < share <= MOST_VESSELS:
            return True
        file = unmoved_octa(case) if self.truth.maps is None else self.truth.maps[case.name]
        marks = f"{share:.0%} of the field of view as vessels: is it inverted?" if share else "no vessel in the field"
        self.note(DataError(f"{file}: as the reference for the vessels it marks {marks}"))
        return False


@dataclass(frozen=True)
class Measured:
    """What is kept of an eye until all are measured, for the control."""

    case: Sequence
    kept: Kept
    row: dict  # of this run, for the whole crop: the control's measures are added to it


def evaluate_eyes(evaluation: Evaluation) -> tuple[pd.DataFrame, dict[tuple[str, str], np.ndarray]]:
    """Measure every case.

    Returns:
        A row for each case, candidate and sector. And, for each (region, candidate), the number of pixels without and
        with a vessel at each vessel probability, over all eyes: (2, PROBABILITY_LEVELS).
    """
    rows: list[dict] = []
    counts: dict[tuple[str, str], np.ndarray] = {}
    measured: list[Measured] = []
    cases = list(evaluation.cases.itertuples(index=False))
    processes = max(1, min(os.cpu_count() or 1, len(cases) // EYES_PER_PROCESS))
    with progress_bar(total=len(cases), unit="eye") as progress, joblib.Parallel(processes, max_nbytes=None) as pool:
        for first in range(0, len(cases), EYES_AT_ONCE):
            some = cases[first : first + EYES_AT_ONCE]
            loaded = [(case, eye) for case in some if (eye := evaluation.load(case)) is not None]
            results = pool(joblib.delayed(measure_eye)(eye) for _, eye in loaded)
            for (case, eye), (of_eye, of_counts) in zip(loaded, results, strict=True):
                if not evaluation.is_usable(case, of_eye[0]["vessel_density"]):
                    continue
                found = [{column: getattr(case, column) for column in IDENTITY} | row for row in of_eye]
                measured.append(Measured(case, Kept.of(eye), next(row for row in found if row["candidate"] == OURS)))
                rows += found
                for name, pixels in of_counts.items():
                    counts[case.region, name] = counts.get((case.region, name), 0) + pixels
            progress.update(len(some))
        evaluation.alone = add_controls(measured, pool)
    if not rows:
        raise OptionError("no eye can be evaluated" + "".join(f"; {fault}" for fault in evaluation.faults[:1]))
    return pd.DataFrame(rows, columns=[*IDENTITY, "candidate", "sector", *MEASURES]), counts


def add_controls(measured: Sequence[Measured], pool: joblib.Parallel) -> int:
    """Add `control_agreements` to the row of each eye; returns how many eyes have no other one to compare with."""
    others = [other_eye(place, measured) for place in range(len(measured))]
    results = pool(
        joblib.delayed(control_agreements)(one.kept, one.kept.upside_down() if other is None else other)
        for one, other in zip(measured, others, strict=True)
    )
    for one, scores in zip(measured, results, strict=True):
        one.row.update(scores)
    return sum(other is None for other in others)


def other_eye(place: int, measured: Sequence[Measured]) -> Kept | None:
    """Another eye of the same region and size as the one at a place; None if there is none.

    Of the NEIGHBOURS next in the table, after whose end its start follows, the one whose field overlaps most.
    """
    own = measured[place]
    others = (
        one.kept
        for one in (*measured[place + 1 :], *measured[:place])
        if differ(one.case, own.case)
        and (one.case.region, one.kept.octa.shape) == (own.case.region, own.kept.octa.shape)
    )
    fov = own.kept.fov
    return max(islice(others, NEIGHBOURS), key=lambda other: (other.fov & fov).sum(), default=None)


def differ(one: Sequence, other: Sequence) -> bool:
    """Whether two cases show different eyes for certain."""
    return one.subject != other.subject or {one.eye, other.eye} == set(EYES)


def montage_rows(evaluation: Evaluation, per_eye: pd.DataFrame, region: str) -> list[eval_figures.MontageRow]:
    """The eyes with the best, the median and the worst Dice of this run."""
    ours = per_eye[(per_eye["region"] == region) & (per_eye["candidate"] == OURS) & (per_eye["sector"] == WHOLE)]
    ranked = ours.dropna(subset="dice").sort_values("dice", ascending=False)
    places = {(len(ranked) - 1) // 2: "median", len(ranked) - 1: "worst", 0: "best"}  # with few eyes, the last wins
    rows = []
    for place, rank in sorted(places.items()):
        name, dice = ranked.iloc[place][["name", "dice"]]
        eye = evaluation.load(evaluation.cases.set_index("name", drop=False).loc[name])
        if eye is None:  # a file has vanished since the eye was measured
            continue
        label, ours = f"{rank}: {name}\nDice {dice:.2f}", eye.candidates[0]
        fundus, octa = black_outside(eye.fundus, eye.fov), black_outside(eye.octa, eye.fov)
        _, vessels = ours.segment(eye.fov, region)
        images = fundus, octa, ours.image, eye.truth(), vessels
        rows.append(eval_figures.MontageRow(label, *images, eye.mm_per_px))
    if not rows:
        raise DataError(evaluation.faults[-1])
    return rows


# --- report ----------------------------------------------------------------------------------------------------------


def moved_in_words(data: Path, cases: pd.DataFrame) -> str:
    """The first line of printout and report if the unmoved OCT-A of some pairs are lost; otherwise ""."""
    number, made_with = moved_for_good(data, cases.itertuples(index=False))
    if not number:
        return ""
    return (
        f"MOVED BEFOREHAND: registration has moved {number} OCT-A of {data} (with {made_with}) and did not keep the "
        "unmoved ones. ALL SCORES INCLUDE ITS GAIN, those without further registration too. For others, register the "
        "original data again, and evaluate the result."
    )


def opening(evaluation: Evaluation, per_eye: pd.DataFrame, data: Path, why: str, weights: str) -> list[str]:
    """What is evaluated, `why` these subjects, and what a reader must know first; a sentence each."""
    real = per_eye[(per_eye["sector"] == WHOLE) & (per_eye["candidate"] == REAL)]
    regions = eval_report.regions_of(real)
    eyes = ", ".join(f"{counted((real['region'] == region).sum(), 'eye')}, {region}" for region in regions)
    subjects = real["subject"].nunique()
    found = [f"{counted(subjects, 'subject')} ({eyes}) of {data}: {why}; weights: {weights}."]
    if list_images(data / "cropped" / DRAWN, regions):
        found.append(
            "NO REAL EYES: the program drew these simulated retinas, photographs as well as OCT-A; what is called real "
            "OCT-A below is the drawn one."
        )
    if subjects < MIN_SUBJECTS:
        found.append(
            f"ONLY {counted(subjects, 'subject').upper()}: correlations, intervals, limits of agreement "
            f"and tests would be misleading and are left out (below {MIN_SUBJECTS}); take the means as examples."
        )
    if known := evaluation.cases[evaluation.cases["seen"]]["subject"].nunique():
        number = evaluation.cases["subject"].nunique()
        found.append(f"NOT A TEST: {HAS_SEEN.format(f'{known} of {number} subjects')}.")
    return found


def remarks(evaluation: Evaluation, per_eye: pd.DataFrame) -> list[str]:
    """What is absent; a line each."""
    found = []
    measured = per_eye[per_eye["sector"] == WHOLE]
    present = {comparator.name for comparator in evaluation.comparators}
    absent = [name for name in PUBLISHED if name not in present]
    if absent and not evaluation.is_table:
        found.append(f"absent from the data: {', '.join(absent)}")
    crops = len(measured[measured["candidate"] == REAL])
    if lost := len(evaluation.cases) - crops:
        found.append(f"left out, without a usable pair or ground truth: {lost} of {len(evaluation.cases)} crops")
    for comparator in evaluation.comparators:
        if lost := crops - int(np.sum(measured["candidate"] == comparator.name)):
            found.append(f"{comparator.name}: absent for {lost} of {crops} crops")
    if evaluation.left_out:
        subjects = counted(evaluation.left_out, "subject")
        found.append(f"left out, see --include-seen: {HAS_SEEN.format(subjects)}")
    if evaluation.alone:
        found.append(
            f"without another eye of the same region and size: {evaluation.alone} of {crops} crops; their own "
            "prediction upside down takes the place of another eye's"
        )
    if unknown := int(np.sum(evaluation.cases["region"] == OTHER_REGION)):
        pairs = len(evaluation.cases)
        found.append(f"without a region, and so without sectors and measures that need one: {unknown} of {pairs} pairs")
    sectors = per_eye[(per_eye["candidate"] == REAL) & (per_eye["sector"] != WHOLE)]
    if lost := int(sectors["vessel_density"].isna().sum()):
        why = "not inside crop and field of view, or of an unknown eye"
        found.append(f"nan, {why}: {lost} of {len(sectors)} sectors")
    return found + [f"unusable: {fault}" for fault in evaluation.faults]


def conditions(evaluation: Evaluation, regions: Sequence[str], options: argparse.Namespace) -> list[str]:
    """How the evaluation was made; a line each."""
    classes = " and ".join(f"{OCTA_CLASSES[region]} classes ({region})" for region in regions)
    widths = "; ".join(width_in_words(evaluation, region, options) for region in regions)
    return [
        f"reference: {evaluation.truth.origin}",
        f"segmenter, the same for every OCT-A: Gaussian of {VESSEL_MAP_SIGMA:g} px, then the brightest of {classes} "
        "(multi-Otsu); vessel probabilities: above Otsu's threshold, or the binary map that comes with them",
        "registered: the real OCT-A moved onto the prediction. Real pairs lie some pixels apart, which lowers the "
        "scores of any prediction. Registration also hides errors of position; the prediction for another eye, "
        "registered in the same way, shows its effect alone. All else is measured without this registration",
        *(["of registered pairs, the unmoved OCT-A"] if evaluation.cases["octa_unmoved"].notna().any() else []),
        "what each measure is, and which way is better: docs/evaluation.md",
        f"width of a crop: {widths}",
        f"intervals: {CONFIDENCE:.0%}, bootstrap over subjects, {options.resamples} resamples, seed {options.seed}; "
        "p: signed-rank test over subjects, not corrected for multiple tests",
    ]


def width_in_words(evaluation: Evaluation, region: str, options: argparse.Namespace) -> str:
    """Where the widths of a region's crops come from: the table, an option, or an assumption."""
    widths = evaluation.cases[evaluation.cases["region"] == region][WIDTH]
    origin = "assumed" if getattr(options, f"{region}_mm") is None else f"from --{region}-mm"
    general = f"{evaluation.crop_mm[region]:g} mm, {origin}"
    missing, pairs = int(widths.isna().sum()), len(widths)
    if missing == pairs:
        return f"{region} {general}"
    rest = f" ({missing} of {pairs} pairs without it: {general})" if missing else ""
    return f"{region} as in the table's {WIDTH}{rest}"


def write_summaries(
    summary: pd.DataFrame, report: str, montages: Mapping[str, Path], run: Path, settings: Settings, checkpoint: str
) -> Path:
    """The main results of this run for TensorBoard, at the step of its weights; returns the folder.

    Its scores, the report as Markdown, and the montages by region; under HParams the scores are next to the names of
    the run and of its weights.
    """
    folder = Path(settings.logs) / "fit" / run.resolve().name / "evaluation"
    with closing(RunLog(folder)) as log, log.writing(step_of(checkpoint)):
        for row in summary[(summary["candidate"] == OURS) & (summary["sector"] == WHOLE)].itertuples(index=False):
            tag = f"evaluation/{row.region}/{row.measure}"
            for name, tag_of_value in (("mean", tag), ("pearson", f"{tag} pearson"), ("bias", f"{tag} bias")):
                if np.isfinite(value := getattr(row, name, np.nan)):
                    tf.summary.scalar(tag_of_value, value)
        tf.summary.text("evaluation", report)
        for region, path in montages.items():
            tf.summary.image(f"evaluation/{region}", tf.image.decode_png(path.read_bytes(), channels=3)[tf.newaxis])
        hp.hparams({"run": run.resolve().name, "weights": Path(checkpoint).name})
    return folder


def run_evaluation(options: argparse.Namespace) -> int:
    """Evaluate as the options say; returns the exit status: 2 if a file was unusable.

    Raises:
        UserError, OSError: nothing can be evaluated, or written.
    """
    started = datetime.now()
    run, why = run_to_use(options.run)
    settings = read_run(run).settings
    data = find_dataset(options.data or settings.data, "--data")
    choice, unpaired = find_cases(options, data, settings, read_run(run).seen)
    cases = choice.photographs
    if moved := moved_in_words(data, cases):
        print(moved)
    if unpaired:
        print(f"{unpaired} files of the data have no partner and are left out")
    print(choice)
    crop_mm = find_widths(cases, data, options)
    comparators = find_comparators(data, cases, options)
    truth = find_truth(data, eval_report.regions_of(cases), options.segmenter)
    predictor, checkpoint = announced_predictor(run, options.weights, settings, why)
    subjects = counted(cases["subject"].nunique(), "subject")
    print(f"{counted(len(cases), 'crop')} of {subjects}; reference: {truth.origin}")
    mask, left_out, is_table_of_pairs = settings.fov_mask, choice.left_out, is_table(data)
    evaluation = Evaluation(predictor, mask, cases, left_out, is_table_of_pairs, comparators, truth, crop_mm)

    per_eye, counts = evaluate_eyes(evaluation)
    first = opening(evaluation, per_eye, data, choice.why, str(Path(checkpoint).relative_to(run)))
    absent, regions = remarks(evaluation, per_eye), eval_report.regions_of(per_eye)
    bootstrap = f"Bootstrap over subjects: {options.resamples} resamples, seed {options.seed}"
    print(*first[1:], *absent, bootstrap, sep="\n")
    summary = summarise(per_eye, options.resamples, options.seed)
    figures = {
        eval_report.MONTAGE + region: eval_figures.draw_montage(montage_rows(evaluation, per_eye, region), truth.kind)
        for region in regions
    }
    figures |= {
        "density_scatter": eval_figures.draw_densities(per_eye, summary, False, truth.kind),
        "bland_altman": eval_figures.draw_densities(per_eye, summary, True, truth.kind),
        "precision_recall": eval_figures.draw_precision_recall(counts, per_eye),
    }
    notes = conditions(evaluation, regions, options) + absent
    captions = {name: eval_figures.caption_of(name) for name in figures}
    first, ways = ([moved, *first], WAYS_IF_MOVED) if moved else (first, WAYS)
    blocks = eval_report.describe(f"Evaluation of {run}", first, notes, summary, truth.kind, captions, ways)
    folder = Path(options.output) / f"{started:%Y%m%d-%H%M%S}"
    folder = eval_report.write_results(folder, {"per_eye": per_eye, "summary": summary}, blocks, figures)
    montages = {region: folder / f"{eval_report.MONTAGE}{region}.png" for region in regions}
    report = (folder / "summary.md").read_text(encoding="utf-8")
    tensorboard = write_summaries(summary, report, montages, run, settings, checkpoint)
    print(*eval_report.headlines(summary, ways), sep="\n")
    print(f"Written: {folder}/ (start with report.html); for TensorBoard: {tensorboard}/")
    for fault in evaluation.faults:
        report_error(PROGRAM, fault)
    return 2 if evaluation.faults else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, evaluate, and return the exit status: 2 for any error that the user can fix."""
    return exit_status(PROGRAM, lambda: run_evaluation(parse_command_line(argv)), "stopped; nothing is written")


if __name__ == "__main__":
    sys.exit(main())
