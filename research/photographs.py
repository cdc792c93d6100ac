"""How well runs find the vessels of real photographs with manual vessel maps, as a table in Markdown.

    python research/photographs.py LIST.csv RUN... [--by COLUMN] [--weights best|last] [--fast]

LIST.csv has the columns `image`, `manual` and `mask`: paths relative to the table. Only pixels inside `mask` are
scored; if it is empty, those inside the field of view that the program finds. README.md lists the files of public data
sets. For several runs, their means are printed. `--by` groups the photographs by an additional column, such as
`camera`.

AUC is computed from the vessel probability. Dice is computed from the program's own
vessel map (`--vessels`). Thin and wide sensitivity are the shares of manual vessel pixels that this map contains, in
vessels narrower than 3 px at a field of 1000 px, and in wider ones. The baseline is a ridge filter on the green
channel, which needs no training.
"""

from common import list_photographs, new_parser, print_head, print_row

# isort: split
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.morphology import skeletonize
from skimage.transform import resize

from evaluation.measures import ridge_filter
from retina.field_of_view import FIELD_MM
from retina.images import octa_to_grey, read_image
from retina.vessels import roc_auc
from synthesis import Synthesiser

WIDE = 3.0  # px at a field of FIELD px
FIELD = 1000  # px
COLUMNS = ("AUC", "Dice", "thin vessels found", "wide ones", "ridge filter: AUC")


def sensitivities(truth: np.ndarray, vessels: np.ndarray, diameter: float) -> tuple[float, float]:
    """Shares of `truth` (height, width), bool, that `vessels` contains: in thin vessels, and in wide ones."""
    size = [max(1, round(side * FIELD / diameter)) for side in truth.shape]
    truth, vessels = (resize(image, size, order=0) for image in (truth, vessels))
    # The width at a vessel pixel is that at the nearest point of the centreline.
    depth, centre = distance_transform_edt(truth), skeletonize(truth)
    row, column = distance_transform_edt(~centre, return_distances=False, return_indices=True)
    thin = 2 * depth[row, column] < WIDE
    return vessels[truth & thin].mean(), vessels[truth & ~thin].mean()


def scores(synthesiser: Synthesiser, image: Path, manual: Path, mask: Path | None) -> list[float]:
    """The values of COLUMNS for one photograph."""
    found, truth = synthesiser.photograph(image), octa_to_grey(read_image(manual)) > 127
    counts = found.fov if mask is None else octa_to_grey(read_image(mask)) > 127
    truth, diameter = truth & counts, found.diameter or max(found.fov.shape)
    ridges = ridge_filter(found.fundus, found.fov, FIELD_MM / diameter)
    return [
        roc_auc(truth[counts], found.probability[counts]),
        2 * (found.vessels & truth).sum() / ((found.vessels & counts).sum() + truth.sum()),
        *sensitivities(truth, found.vessels, diameter),
        roc_auc(truth[counts], ridges[counts]),
    ]


def main() -> None:
    """Print the table."""
    parser = new_parser(__doc__)
    parser.add_argument("list", type=Path, metavar="LIST.csv")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--by", metavar="COLUMN")
    parser.add_argument("--weights", choices=("best", "last"))
    parser.add_argument("--fast", action="store_true")
    args = parser.parse_args()
    synthesisers = [Synthesiser(run, args.weights, args.fast) for run in args.runs]
    photographs = list_photographs(args.list)
    if args.by is not None and args.by not in photographs:
        parser.error(f"--by {args.by}: {args.list} has no such column")
    print_head(*COLUMNS)
    values = np.empty((len(photographs), len(COLUMNS)))
    for number, row in enumerate(photographs.itertuples()):
        of_runs = [scores(one, row.image, row.manual, row.mask) for one in synthesisers]
        values[number] = np.mean(of_runs, axis=0)
        if args.by is None:
            print_row(row.image.stem, values[number])
    if args.by is not None:
        for group, members in photographs.groupby(args.by, sort=False).indices.items():
            print_row(f"{group}, {len(members)}", np.nanmean(values[members], axis=0))
    print_row("mean", np.nanmean(values, axis=0))


if __name__ == "__main__":
    main()
