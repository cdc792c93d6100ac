"""Whether disc, fovea and side are found, and whether densities by sector are repeatable, as tables in Markdown.

    python research/landmarks.py found RUN [--list LIST.csv]  # on simulated retinas, whose places are known, or on real
    python research/landmarks.py repeatable RUN               # the same simulated retinas, photographed in other ways

Simulated retinas are those of the set, photographed plainly or with all that the stream varies. landmarks.csv has disc
and fovea of public photographs, in per cent of width and height, as marked by eye; empty where none is seen. LIST.csv
is that of photographs.py.
"""

from common import list_photographs, new_parser, print_head, print_row

# isort: split
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import rotate

from retina.images import read_fundus
from simulation import ranges
from simulation.dataset import PHOTOGRAPH_MM, PHOTOGRAPH_PX, render_full_field
from simulation.eye import Eye, make_eye, values_from
from synthesis import Synthesiser
from synthesis.regions import densities_of

SEED, EYES, REPEATED = 77, 60, 30
PLAIN = {"enlargement": 0.0, "surround": -1.0}  # of the stream, what changes scale or field
NEAR_MM = 0.5  # from the true fovea: found
MOST_OF_SPREAD = 0.2  # that a density may move, of the spread between eyes


def eyes(varied: bool) -> Iterator[Eye]:
    """Eyes of the set, right and left ones, plain or as varied as those of the stream."""
    for number in range(EYES):
        eye = make_eye(number, ("OD", "OS")[number % 2], SEED)
        if varied:
            random = np.random.default_rng([SEED, number])
            features = frozenset(name for name, share in ranges.STREAM_SHARE.items() if random.random() < share)
            appearance = values_from(random, ranges.STREAM_APPEARANCE) | PLAIN
            eye = replace(eye, appearance=appearance, features=features | {"border"})
        yield eye


def found_in_simulated(synthesiser: Synthesiser) -> None:
    """Print distances to the true places."""
    print_head(
        "disc: median error, mm",
        "worst",
        "fovea found",
        "of these nearer than 0.5 mm",
        "median error, mm",
        "side right",
    )
    for title, varied in (("plain photographs", False), ("varied ones", True)):
        discs, foveas, sides = [], [], []
        for eye in eyes(varied):
            found = synthesiser.photograph(render_full_field(eye)).landmarks
            scale = PHOTOGRAPH_PX / PHOTOGRAPH_MM
            true = [(place - eye.field.centre) * scale + (1 + 1j) * (PHOTOGRAPH_PX - 1) / 2 for place in (eye.disc, 0j)]
            away = [
                np.nan if place is None else abs(complex(place[1], place[0]) - at) / scale
                for place, at in zip((found.disc, found.fovea), true, strict=True)
            ]
            discs.append(away[0])
            if found.fovea is not None:
                foveas.append(away[1])
                sides.append(found.eye == ("OS" if eye.disc.real < 0 else "OD"))
        near = f"{np.mean(np.array(foveas) < NEAR_MM):.0%}"
        print_row(
            title,
            [
                np.nanmedian(discs),
                np.nanmax(discs),
                f"{len(foveas)} of {EYES}",
                near,
                np.median(foveas),
                f"{np.mean(sides):.0%}",
            ],
        )


def found_in_real(synthesiser: Synthesiser, table: Path) -> None:
    """Print distances to the places that were marked by eye, in disc diameters (1.8 mm)."""
    marks = pd.read_csv(Path(__file__).with_name("landmarks.csv"), dtype={"image": str}).set_index("image")
    print_head("disc: error, disc diameters", "fovea: error", "eye")
    for image in list_photographs(table)["image"]:
        if image.stem not in marks.index:
            continue
        result, mark = synthesiser.photograph(read_fundus(image)), marks.loc[image.stem]
        height, width = result.fov.shape
        errors = []
        for name, place in (("disc", result.landmarks.disc), ("fovea", result.landmarks.fovea)):
            at = np.array([mark[f"{name}_y"] * height, mark[f"{name}_x"] * width]) / 100
            seen = np.isfinite(at).all()
            if place is None:
                errors.append("not found" if seen else "not found, not seen")
            else:
                errors.append(float(np.hypot(*(place - at)) / result.px_per_mm / 1.8) if seen else "found, not seen")
        print_row(image.stem, [*errors, result.landmarks.eye or "-"])


def jpeg(fundus: np.ndarray) -> np.ndarray:
    """A photograph after compression to quality 50."""
    file = BytesIO()
    Image.fromarray(fundus).save(file, "JPEG", quality=50)
    return np.asarray(Image.open(file))


WAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "half the size": lambda fundus: np.asarray(Image.fromarray(fundus).reduce(2)),
    "rotated by 7 degrees": lambda fundus: rotate(fundus, 7, reshape=False, order=1),
    "darker by a third": lambda fundus: np.uint8(fundus * (2 / 3)),
    "JPEG 50": jpeg,
}


def repeatable(synthesiser: Synthesiser) -> None:
    """Print by sector how far densities move, relative to the spread between eyes."""
    rows = []
    for number, eye in zip(range(REPEATED), eyes(False), strict=False):
        fundus = render_full_field(eye)
        for way, change in {"as it is": lambda image: image, **WAYS}.items():
            found = synthesiser.photograph(change(fundus))
            for region, density in densities_of(found.vessels, None, found.regions, found.px_per_mm).items():
                rows.append((number, way, region, density.vessels, density.skeleton))
    table = pd.DataFrame(rows, columns=["eye", "way", "region", "vessels", "skeleton"])
    wide = table.pivot(index=["region", "eye"], columns="way", values=["vessels", "skeleton"])
    print_head("eyes", *(f"{way}: vessels, skeleton" for way in WAYS), "moves by less than a fifth of the spread")
    for region, values in wide.groupby(level="region"):
        cells, worst = [], 0.0
        for way in WAYS:
            moved = [
                np.median(abs(values[kind, way] - values[kind, "as it is"]).dropna()) / values[kind, "as it is"].std()
                for kind in ("vessels", "skeleton")
            ]
            worst = max(worst, moved[0])
            cells.append(", ".join(f"{value:.2f}" for value in moved))
        print_row(
            region,
            [str(values["vessels", "as it is"].notna().sum()), *cells, "yes" if worst < MOST_OF_SPREAD else "NO"],
        )


def main() -> None:
    """Print the table that the command line asks for."""
    parser = new_parser(__doc__)
    parser.add_argument("what", choices=("found", "repeatable"))
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--list", type=Path, metavar="LIST.csv")
    args = parser.parse_args()
    synthesiser = Synthesiser(args.run)
    if args.what == "repeatable":
        repeatable(synthesiser)
    elif args.list:
        found_in_real(synthesiser, args.list)
    else:
        found_in_simulated(synthesiser)


if __name__ == "__main__":
    main()
