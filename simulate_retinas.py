"""Simulated retinas: colour fundus, OCT-A and ground truth vessels of eyes that do not exist, in two kinds:

- The simulated set, files to try the other programs on. Its eyes are healthy and seen by one camera. Each subject has
  one eye, OD (right) for odd ids and OS (left) for even ones.
- The simulated stream, endless pairs to train and validate on (`python pix_pix_train.py --data simulated`). They cover
  what real photographs vary in, and more, and contain features that resemble vessels but show in the fundus only.

Everything follows from the seed; no eye depends on which others are made.

    python simulate_retinas.py --output data/simulated
    python simulate_retinas.py --output data/simulated --subjects 1-12,26-28,31-36 --seed 7

It writes the set, in the layout and with the file names of UT-FSOCTA:

    DIR/SIMULATED.txt                                       says so, with seed and version; programs look for it
    DIR/cropped/fundus/{disc,macula}/<subject>_<eye>.png    RGB, 400 x 400
    DIR/cropped/octa/{disc,macula}/<subject>_<eye>.png      RGBA, alpha 255, 400 x 400
    DIR/cropped/truth/{disc,macula}/<subject>_<eye>.png     grey, 255 in the vessels of the two trees, 0 elsewhere
    DIR/fov45/fundus/<subject>_<eye>.jpg                    RGB, round field of 45 degrees on black
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from basics.command_line import OneLineParser, OptionError, exit_status
from retina.ut_fsocta import parse_subjects
from simulation.dataset import DEFAULT_SUBJECTS, write_dataset

PROGRAM = "simulate_retinas.py"


def build_parser() -> OneLineParser:
    parser = OneLineParser(prog=PROGRAM, description="Make simulated retinas: fundus, OCT-A and ground truth vessels.")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write to: empty or new")
    parser.add_argument("--subjects", default=DEFAULT_SUBJECTS, help="subject ids (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other eyes (default: %(default)s)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Write the set; returns 0. Raises OptionError, or OSError if writing fails."""
    if not 0 <= args.seed < 2**32:
        raise OptionError(f"--seed {args.seed}: must be from 0 to {2**32 - 1}")
    try:
        subjects = parse_subjects(args.subjects)
    except ValueError as error:
        raise OptionError(f"--subjects: {error}") from None
    write_dataset(args.output, subjects, args.seed)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, 2 after one line on standard error for the user's mistakes."""
    args = build_parser().parse_args(argv)
    return exit_status(PROGRAM, lambda: run(args), "stopped; no partial set was left")


if __name__ == "__main__":
    sys.exit(main())
