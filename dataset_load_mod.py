"""Prepare pairs: download, pair, check, crop, register. The study's data functions can be imported from here.

    python dataset_load_mod.py download [DIR]                         # fetch UT-FSOCTA from Zenodo into data/, or DIR
    python dataset_load_mod.py pair FUNDUS OCTA --output pairs.csv    # two folders -> a table of pairs, by equal names
    python dataset_load_mod.py check [DATA]                           # what a data set contains; could training start?
    python dataset_load_mod.py crop DATA --octa-mm 6 --output DIR     # photographs that show more than their OCT-A
    python dataset_load_mod.py register DATA --output DIR             # align each OCT-A with its photograph

A data set is a table of pairs (`pairs.table`), or laid out as UT-FSOCTA (`pairs.dataset`). Images stay uint8 on [0,
255] in memory and are decoded once per run; they become float32 on [-1, 1] in the batches (`run.batches`).
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from basics.command_line import (
    OneLineParser,
    OptionError,
    add_scale_options,
    exit_status,
    fault_of_scales,
    flag,
    load_tensorflow,
    report_error,
)
from pairs.check import check_dataset
from pairs.dataset import DATA_FOLDERS, find_dataset
from pairs.dataset import load_data_cases as load_data_cases  # the published scripts' names, for their users
from pairs.download import download
from pairs.folders import pair_folders
from pairs.table import WIDTHS_MM, PairTableError, is_table
from retina.images import DataError
from retina.patches import break_img_to_patches as break_img_to_patches
from retina.patches import put_img_back_from_patches as put_img_back_from_patches
from run.settings import add_run_options

if TYPE_CHECKING:
    import tensorflow as tf

PROGRAM = "dataset_load_mod.py"
CROP = """Crop each photograph of some pairs to the area of its OCT-A, for photographs that show more of the eye.

The network finds the vessels of the complete photograph, and the program searches it for those of the OCT-A. Writes
DIR/pairs.csv with the images, DIR/crop.csv with a row for each pair, and with --figures DIR/crop/NAME.png. Doubtful
matches are reported and left out of DIR/pairs.csv. DATA are never changed, and the same command resumes.
"""
REGISTER = """Register each OCT-A of a data set to its photograph, because real pairs lie some pixels apart.

The network predicts an OCT-A that is aligned with the photograph, and the real OCT-A is warped onto it, if it then fits
better than before, and clearly better than it fits other eyes. Writes DIR/pairs.csv with the images, also the unmoved
OCT-A, DIR/registration.csv with a row for each pair, and with --figures DIR/registration/NAME.png. DATA are never
changed, and the same command resumes.
"""


def preprocess_sample(sample_fundus: "tf.Tensor", sample_octa: "tf.Tensor") -> tuple["tf.Tensor", "tf.Tensor"]:
    """Uint8 on [0, 255] -> float32 on [-1, 1], both images, any shape."""
    from run.batches import preprocess_sample  # here, so that the commands need not wait for TensorFlow

    return preprocess_sample(sample_fundus, sample_octa)


def parse_command_line(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options. Ends the program with status 2 and one line if they are invalid."""
    parser = OneLineParser(prog=PROGRAM, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{download,pair,check,crop,register}")
    fetch = commands.add_parser("download", help="fetch UT-FSOCTA into a folder")
    fetch.add_argument("folder", nargs="?", type=Path, default=DATA_FOLDERS[0].parent, metavar="DIR")
    fetch.add_argument("--archive", type=Path, metavar="FILE", help="the zip, downloaded by hand")
    pair = commands.add_parser("pair", help="write a table of the images in two folders that have the same names")
    pair.add_argument("fundus", type=Path, metavar="FUNDUS", help="folder of the photographs")
    pair.add_argument("octa", type=Path, metavar="OCTA", help="folder of the OCT-A")
    pair.add_argument(
        "--output", required=True, type=Path, metavar="TABLE", help="the table to write, such as pairs.csv"
    )
    check = commands.add_parser("check", help="list what a data set contains, and whether training could start")
    check.add_argument("folder", nargs="?", type=Path, metavar="DATA", help=f"(default: {DATA_FOLDERS[0]})")
    crop = commands.add_parser("crop", help="crop photographs to the area of their OCT-A", description=CROP)
    crop.add_argument("--octa-mm", type=float, metavar="MM", help="width of each OCT-A that has none in the table")
    add_scale_options(crop)
    register = commands.add_parser("register", help="align each OCT-A with its photograph", description=REGISTER)
    for command in (crop, register):
        command.add_argument("data", metavar="DATA", help="the pairs: a table, or a folder in the layout of UT-FSOCTA")
        command.add_argument("--output", required=True, metavar="DIR", help="folder for the new pairs and their table")
        add_run_options(command)
        command.add_argument("--figures", action="store_true", help="also a picture of each pair")
    options = parser.parse_args(argv)
    if options.command == "crop":
        if fault := fault_of_scales(vars(options), flag):
            crop.error(fault)
        if options.octa_mm is not None and not WIDTHS_MM[0] <= options.octa_mm <= WIDTHS_MM[1]:
            crop.error(f"--octa-mm {options.octa_mm:g}: must be from {WIDTHS_MM[0]:g} to {WIDTHS_MM[1]:g} mm")
    return options


def run_download(options: argparse.Namespace) -> int:
    """Download UT-FSOCTA; returns the exit status."""
    dataset = download(options.folder, options.archive)
    print(f"To examine it: python {PROGRAM} check {shlex.quote(str(dataset))}")
    return 0


def run_pairing(options: argparse.Namespace) -> int:
    """Write a table of the pairs in two folders; returns the exit status. Raises OptionError, see `pair_folders`."""
    if not is_table(options.output):
        raise OptionError(f"--output {options.output}: must be a table, such as pairs.csv")
    print(*pair_folders(options.fundus, options.octa, options.output), sep="\n")
    print(f"Next: python {PROGRAM} check {shlex.quote(str(options.output))}")
    return 0


def run_check(options: argparse.Namespace) -> int:
    """Check a data set; returns the exit status: 2 if a table of pairs has mistakes.

    Raises:
        DataError: there is no data set, or training could not start.
    """
    dataset = find_dataset(options.folder, "check")
    if dataset is None:
        where = " and ".join(map(str, DATA_FOLDERS))
        raise DataError(f"no data set in {where}; `python {PROGRAM} download` fetches it")
    try:
        lines, obstacles = check_dataset(dataset)
    except PairTableError as error:
        for mistake in error.mistakes:
            report_error(PROGRAM, mistake)
        return 2
    print(f"Data set: {dataset}", "", *lines, sep="\n")
    if obstacles:
        more = f" (and {len(obstacles) - 1} more)" if obstacles[1:] else ""
        raise DataError(f"training could not start: {obstacles[0]}{more}")
    data = f" --data {shlex.quote(str(options.folder))}" if options.folder else ""
    print("Register pairs that are not aligned before training, see docs/registration.md")
    print(f"Training could start: python pix_pix_train.py{data}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, do what it asks for, and return the exit status: 2 for an error that the user can fix."""
    options = parse_command_line(argv)
    commands = {"download": run_download, "pair": run_pairing, "check": run_check}
    if options.command not in commands:
        load_tensorflow()  # before `exit_status`, whose handlers of signals it would replace
        from alignment.crop import run_cropping
        from alignment.register import run_registration

        commands |= {"crop": run_cropping, "register": run_registration}
    again = "starts again" if options.command == "download" else "resumes"
    return exit_status(PROGRAM, lambda: commands[options.command](options), f"stopped; the same command {again}")


if __name__ == "__main__":
    sys.exit(main())
