"""How well runs find the vessels of real photographs with manual vessel maps, as a table in Markdown.

    python research/photographs.py LIST.csv RUN... [--by COLUMN] [--weights best|last] [--scale mean|fast|own]

LIST.csv has the columns `image`, `manual` and `mask`: paths relative to the table. Only pixels inside `mask` are
scored; if it is empty, those inside the field that the program finds. README.md lists the files of public data sets.
For several runs, their means are printed. `--by` adds a table that groups the photographs by an additional column, such
as `camera`, with the range over the runs.

AUC is computed from the vessel probability, smoothed as for the vessel map. Dice is computed from the program's own
vessel map (`--vessels`). Thin and wide sensitivity are the shares of manual vessel pixels that this map contains, in
vessels narrower than 3 px at a field of 1000 px, and in wider ones. The baseline is a ridge filter on the green
channel, which needs no training.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from basics.command_line import load_tensorflow

load_tensorflow()

import numpy as np
import pandas as pd
from scipy.ndimage import distance_transform_edt
from simulated_retinas import header, table_row
from skimage.morphology import skeletonize
from skimage.transform import resize

from evaluation.measures import ridge_filter
from retina.field_of_view import find_field
from retina.images import octa_to_grey, read_fundus, read_image
from retina.vessels import checkerboard, map_vessels, roc_auc
from run.checkpoints import read_run
from run.predict import Predictor, load_predictor

WIDE = 3.0  # px at a field of FIELD px
FIELD = 1000  # px
FIELD_MM = 13.0  # diameter of 45 degrees, for the baseline's widths
COLUMNS = ("AUC", "Dice", "thin", "wide", "checkerboard", "seconds", "ridge filter: AUC")


def sensitivities(truth: np.ndarray, vessels: np.ndarray, diameter: float) -> tuple[float, float]:
    """Shares of `truth` (height, width), bool, that `vessels` contains: in thin vessels, and in wide ones."""
    size = [max(1, round(side * FIELD / diameter)) for side in truth.shape]
    truth, vessels = (resize(image, size, order=0) for image in (truth, vessels))
    # The width at a vessel pixel is that at the nearest point of the centreline.
    depth, centre = distance_transform_edt(truth), skeletonize(truth)
    row, column = distance_transform_edt(~centre, return_distances=False, return_indices=True)
    thin = 2 * depth[row, column] < WIDE
    return vessels[truth & thin].mean(), vessels[truth & ~thin].mean()


def scores(predictor: Predictor, image: Path, manual: Path, mask: Path | None, scale: str) -> list[float]:
    """The values of COLUMNS for one photograph."""
    fundus, truth = read_fundus(image), octa_to_grey(read_image(manual)) > 127
    field = find_field(fundus)
    fov, diameter = field.mask, field.diameter()
    counts = fov if mask is None else octa_to_grey(read_image(mask)) > 127
    started = time.perf_counter()
    predicted = predictor.predict_photograph(fundus, fov, None if scale == "own" else diameter, scale == "fast")
    seconds = time.perf_counter() - started
    vessels, smoothed, _ = map_vessels(predicted.probability, fov, None, diameter)
    truth, diameter = truth & counts, diameter or max(fov.shape)
    ridges = ridge_filter(fundus, fov, FIELD_MM / diameter)
    return [
        roc_auc(truth[counts], smoothed[counts]),
        2 * (vessels & truth).sum() / ((vessels & counts).sum() + truth.sum()),
        *sensitivities(truth, vessels, diameter),
        checkerboard(octa_to_grey(predicted.octa), fov),
        seconds,
        roc_auc(truth[counts], ridges[counts]),
    ]


def paths_of(row: Any, table: Path) -> list[Path | None]:
    """Image, manual map and mask of a row of LIST.csv; None for an empty cell."""
    return [None if pd.isna(path) else table.parent / path for path in (row.image, row.manual, row.mask)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path, metavar="LIST.csv")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--by", metavar="COLUMN")
    parser.add_argument("--weights", choices=("best", "last"))
    parser.add_argument("--scale", choices=("mean", "fast", "own"), default="mean")
    args = parser.parse_args()
    predictors = [load_predictor(run, args.weights, read_run(run)[0])[0] for run in args.runs]
    photographs = pd.read_csv(args.list, dtype=str)
    if args.by is not None and args.by not in photographs:
        parser.error(f"--by {args.by}: {args.list} has no such column")
    print(header(COLUMNS))
    values = np.empty((len(photographs), len(predictors), len(COLUMNS)))
    for number, row in enumerate(photographs.itertuples()):
        values[number] = [scores(predictor, *paths_of(row, args.list), args.scale) for predictor in predictors]
        print(table_row(Path(row.image).stem, values[number].mean(axis=0)), flush=True)
    print(table_row("mean", np.nanmean(values, axis=(0, 1))))
    if args.by is not None:
        print("\n" + header(COLUMNS))
        for group, members in photographs.groupby(args.by, sort=False).indices.items():
            by_run = np.nanmean(values[members], axis=0)  # (runs, columns)
            spread = zip(by_run.mean(axis=0), by_run.min(axis=0), by_run.max(axis=0), strict=True)
            cells = [f"{mean:.3f} ({least:.3f}-{most:.3f})" for mean, least, most in spread]
            print(f"| {group}, {len(members)} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
