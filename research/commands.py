"""Run the README's commands in an empty folder, and print how long they take and how good the results are.

    python research/commands.py [--pairs PAIRS]

It prints three tables in Markdown: the times; the last scores of a run without data; and Dice and clDice of the vessel
maps of simulated retinas. With --pairs, it registers these real pairs, too, and prints what registration gains.
"""

from common import new_parser, print_head, print_row

# isort: split
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

PROJECT = Path(__file__).resolve().parents[1]
WEIGHTS = str(PROJECT / "weights")
SUBJECTS = "31-42"
SCORES = ("vessel_auc", "vessel_dice", "vessel_correlation", "mae", "texture", "checkerboard")
CANDIDATES = {"this run": "vessel map", "OCT-A, segmented": "OCT-A, segmented", "ridge filter": "ridge filter"}


def timed(folder: Path, title: str, command: str) -> None:
    """Run one of the project's programs in a folder, and print a row of the table of times."""
    program, *arguments = command.replace("WEIGHTS", WEIGHTS).split()
    started = time.perf_counter()
    subprocess.run([sys.executable, str(PROJECT / program), *arguments], cwd=folder, check=True, stdout=sys.stderr)
    seconds = time.perf_counter() - started
    print_row(title, [f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"])


def print_times(folder: Path) -> None:
    """Run the commands in a folder, and print how long each takes, with loading."""
    print_head("time")
    timed(folder, "`--help` of a program", "pix_pix_gen.py --help")
    timed(folder, "simulated retinas of 12 subjects", f"simulate_retinas.py --output set --subjects {SUBJECTS}")
    photographs, crops = (sorted(folder.glob(f"set/{kind}/*")) for kind in ("fov45/fundus", "cropped/fundus/*"))
    one = photographs[0].relative_to(folder)
    timed(folder, "a photograph with `--vessels`", f"pix_pix_gen.py {one} --vessels --output one")
    title = f"{len(photographs)} photographs with `--vessels --figure`"
    timed(folder, title, "pix_pix_gen.py set/fov45 --vessels --figure")
    timed(folder, f"registering {len(crops)} pairs", "dataset_load_mod.py register set --output moved --run WEIGHTS")
    timed(folder, f"evaluating {len(crops)} pairs", "pix_pix_eval.py --data set --run WEIGHTS --output eval")
    timed(folder, "the run without data", "pix_pix_train.py")


def print_scores(folder: Path) -> None:
    """Print the last scores of the run."""
    (table,) = folder.glob("logs/fit/*/metrics.csv")
    print()
    print_head(*SCORES)
    print_row("run without data", pd.read_csv(table).iloc[-1][list(SCORES)])


def print_evaluation(folder: Path) -> None:
    """Print Dice and clDice of the vessel maps by region."""
    (table,) = folder.glob("eval/*/summary.csv")
    summary = pd.read_csv(table)
    columns = [(region, measure) for region in ("disc", "macula") for measure in ("dice", "cldice")]
    print()
    print_head(*(f"{region}: {'clDice' if measure == 'cldice' else 'Dice'}" for region, measure in columns))
    whole = summary[summary["sector"] == "whole"].set_index(["candidate", "region", "measure"])["mean"]
    for candidate, title in CANDIDATES.items():
        print_row(title, [whole[candidate, region, measure] for region, measure in columns])


def print_registration(folder: Path) -> None:
    """Print what registration gains on the real pairs."""
    table = pd.read_csv(folder / "real" / "registration.csv")
    print()
    print_head("displacement, px", "correlation before", "after", "best other eye")
    for row in table.itertuples():
        print_row(str(row.name), [f"{row.displacement:.1f}", row.before, row.after, row.control])


def main() -> None:
    """Run the commands, and print the tables."""
    parser = new_parser(__doc__)
    parser.add_argument("--pairs", type=Path, metavar="PAIRS")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print_times(folder)
        if args.pairs is not None:
            command = f"dataset_load_mod.py register {args.pairs.resolve()} --output real --run WEIGHTS"
            timed(folder, "registering the real pairs", command)
        print_scores(folder)
        print_evaluation(folder)
        if args.pairs is not None:
            print_registration(folder)


if __name__ == "__main__":
    main()
