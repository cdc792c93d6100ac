"""Evaluate as the study does: compare synthetic OCT-A and their vessels with the real ones, at the disc and the macula.

    python pix_pix_eval.py                                 # your newest finished run, on its test subjects
    python pix_pix_eval.py --data DIR --run training_checkpoints/X --split validation
    python pix_pix_eval.py --compare mine=DIR              # another folder of synthetic OCT-A
    python pix_pix_eval.py --compare-vessels net=DIR       # another folder of vessel maps

Besides the run it evaluates the images of other methods in the data (the study's synthetic OCT-A and its denoised form,
SA-UNet, IterNet), and two baselines that need no training. Writes logs/eval/TIME/: report.html, per_eye.csv,
summary.csv, and figures as PNG.
`--help` lists every option.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from basics.command_line import OneLineParser, OptionError, exit_status, load_tensorflow, report_error
from pairs.table import WIDTH
from retina.ut_fsocta import CROP_MM
from run.settings import SPLIT_HELP, SPLITS, add_run_options

PROGRAM = "pix_pix_eval.py"
CROPS_MM = 0.5, 50.0  # least and greatest width of a crop: others are in other units


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
    add("--output", default="logs/eval", metavar="DIR", help="results are written to DIR/TIME/ (default: %(default)s)")
    options = parser.parse_args(argv)
    for region in CROP_MM:
        width = getattr(options, f"{region}_mm")
        if width is not None and not CROPS_MM[0] <= width <= CROPS_MM[1]:
            parser.error(f"--{region}-mm {width:g}: must be from {CROPS_MM[0]:g} to {CROPS_MM[1]:g} mm")
    return options


if __name__ == "__main__":
    parse_command_line(None)  # help and mistakes, before TensorFlow takes seconds to load
load_tensorflow()

import evaluation.report as report
from evaluation.evaluate import Evaluation, evaluate_eyes
from evaluation.figures import draw_figures
from evaluation.inputs import find_comparators, find_truth, regions_of, with_widths
from evaluation.statistics import summarise
from pairs.dataset import find_dataset
from run.checkpoints import read_run
from run.data import choose, load_cases
from run.predict import announced_predictor
from run.weights import run_to_use


def run_evaluation(options: argparse.Namespace) -> int:
    """Evaluate as the options say; returns the exit status: 2 if a file was unusable.

    Raises:
        UserError, OSError: nothing can be evaluated, or written.
    """
    started = datetime.now()
    run, why = run_to_use(options.run)
    made = read_run(run)
    settings = made.settings
    if options.data is None and made.weights is not None:
        raise OptionError(f"--data: {run} has no data of its own; give some, or name a run with --run ({why})")
    data = find_dataset(options.data or settings.data, "--data")
    listed, unpaired = load_cases(data, options.split, settings)
    use_seen = options.include_seen or options.split not in (None, "test", "all")
    choice = choose(data, listed, options.split, made.seen, None if use_seen else "--include-seen")
    if unpaired:
        print(f"{len(unpaired)} files of the data have no partner and are left out")
    print(choice)
    given = {region: getattr(options, f"{region}_mm") for region in CROP_MM}
    cases, widths = with_widths(data, choice.photographs, given)
    comparators = find_comparators(data, cases, options.compare, options.compare_vessels)
    truth = find_truth(data, regions_of(cases), options.segmenter)
    predictor, weights = announced_predictor(run, options.weights, settings, why)
    evaluation = Evaluation(data, cases, comparators, truth, predictor, settings.fov_mask)
    reference = truth.origin.replace("real OCT-A", evaluation.octa)
    print(f"{report.counted(len(cases), 'crop')}; reference: {reference}")
    per_eye = evaluate_eyes(evaluation)
    summary = summarise(per_eye)
    pictures = {name: report.as_png(figure) for name, figure in draw_figures(evaluation, per_eye, summary).items()}

    texts = report.as_text(summary)
    first, *warnings = report.opening(evaluation, choice, per_eye, str(Path(weights).relative_to(run)))
    missing, found = report.remarks(evaluation, per_eye), report.sentences(texts, truth.kind)
    tables = {region: report.tables_of(texts, region, truth.kind) for region in regions_of(texts)}
    notes = report.conditions(evaluation, widths) + missing
    page = report.make_page(f"Evaluation of {run}", [first, *warnings, *found], tables, pictures, notes)
    page = page.replace("real OCT-A", evaluation.octa)
    folder = Path(options.output) / f"{started:%Y%m%d-%H%M%S}"
    report.write_results(folder, {"per_eye": per_eye, "summary": summary}, page, pictures)
    lines = [*warnings, *missing, report.results_to_print(texts), *found]
    print("\n".join(lines).replace("real OCT-A", evaluation.octa))
    print(f"Written: {folder}/ (start with report.html)")
    for fault in evaluation.faults:
        report_error(PROGRAM, fault)
    return 2 if evaluation.faults else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, evaluate, and return the exit status: 2 for any error that the user can fix."""
    return exit_status(PROGRAM, lambda: run_evaluation(parse_command_line(argv)), "stopped; nothing is written")


if __name__ == "__main__":
    sys.exit(main())
