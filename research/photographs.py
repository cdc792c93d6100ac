"""How well runs find the vessels of real photographs with manual vessel maps, as a table in Markdown.

    python research/photographs.py LIST.csv RUN... [--by COLUMN] [--weights best|last] [--scale mean|fast|own]

LIST.csv has the columns `image`, `manual` and `mask`: paths relative to the table. Only pixels inside `mask` are
scored; if it is empty, those inside the field of view that the program finds. README.md lists the files of public data
sets. For several runs, their means are printed. `--by` adds a table that groups the photographs by an additional
column, such as `camera`, with the range over the runs.

AUC is computed from the vessel probability. Dice is computed from the program's own
vessel map (`--vessels`). Thin and wide sensitivity are the shares of manual vessel pixels that this map contains, in
vessels narrower than 3 px at a field of 1000 px, and in wider ones. The baseline is a ridge filter on the green
channel, which needs no training.
"""

from common import list_photographs, map_of, new_parser, predictor_of, print_head, print_row

# isort: split
import time
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.morphology import skeletonize
from skimage.transform import resize

from evaluation.measures import ridge_filter
from retina.field_of_view import FIELD_MM, find_field
from retina.images import octa_to_grey, read_fundus, read_image
from retina.similarity import checkerboard
from retina.vessels import roc_auc
from run.predict import Predictor

WIDE = 3.0  # px at a field of FIELD px
FIELD = 1000  # px
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
    vessels = map_of(predictor, fundus, fov, diameter, predicted.probability)
    truth, diameter = truth & counts, diameter or max(fov.shape)
    ridges = ridge_filter(fundus, fov, FIELD_MM / diameter)
    return [
        roc_auc(truth[counts], predicted.probability[counts]),
        2 * (vessels & truth).sum() / ((vessels & counts).sum() + truth.sum()),
        *sensitivities(truth, vessels, diameter),
        checkerboard(octa_to_grey(predicted.octa), fov),
        seconds,
        roc_auc(truth[counts], ridges[counts]),
    ]


def main() -> None:
    """Print the table."""
    parser = new_parser(__doc__)
    parser.add_argument("list", type=Path, metavar="LIST.csv")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--by", metavar="COLUMN")
    parser.add_argument("--weights", choices=("best", "last"))
    parser.add_argument("--scale", choices=("mean", "fast", "own"), default="mean")
    args = parser.parse_args()
    predictors = [predictor_of(run, args.weights) for run in args.runs]
    photographs = list_photographs(args.list)
    if args.by is not None and args.by not in photographs:
        parser.error(f"--by {args.by}: {args.list} has no such column")
    print_head(*COLUMNS)
    values = np.empty((len(photographs), len(predictors), len(COLUMNS)))
    for number, row in enumerate(photographs.itertuples()):
        values[number] = [scores(one, row.image, row.manual, row.mask, args.scale) for one in predictors]
        print_row(row.image.stem, values[number].mean(axis=0))
    print_row("mean", np.nanmean(values, axis=(0, 1)))
    if args.by is not None:
        print()
        print_head(*COLUMNS)
        for group, members in photographs.groupby(args.by, sort=False).indices.items():
            by_run = np.nanmean(values[members], axis=0)  # (runs, columns)
            spread = zip(by_run.mean(axis=0), by_run.min(axis=0), by_run.max(axis=0), strict=True)
            cells = [f"{mean:.3f} ({least:.3f} to {most:.3f})" for mean, least, most in spread]
            print_row(f"{group}, {len(members)}", cells)


if __name__ == "__main__":
    main()
