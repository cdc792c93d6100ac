"""The pictures in README and docs, drawn from simulated retinas that no run trains on.

    python research/pictures.py RUN [--output docs]

Writes whole_photograph.jpg (a whole photograph, its OCT-A, its vessel map, how sure that is), failures.jpg (of EYES
retinas of the stream, those with the most false and the most missed vessels), simulated_retinas.jpg (what runs on
simulated retinas train on), cut_photographs.jpg (positions of OCT-A in a photograph), and data_flow.jpg (the data
pipeline from a file to a table, and which module does what).
"""

from common import UNSEEN, new_parser

# isort: split
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from alignment.crop import CROP_PX_PER_MM, FOUND, MARKS
from alignment.find_octa import Photograph, corners, cut, find_place
from evaluation.measures import vessel_scores
from pairs.dataset import Pair
from retina.images import black_outside, octa_to_grey
from retina.pictures import missed_and_invented, with_border, with_outline, with_vessels
from retina.ut_fsocta import CROP_MM, CROP_PX, REGIONS
from retina.vessels import vessel_map
from run.batches import TrainingPatches, training_image
from run.predict import Predictor
from run.settings import Settings
from simulation.dataset import TRUTH_MIN_WIDTH_MM, render_crop, render_full_field
from simulation.eye import TREE_SHARED_BY, Eye, make_eye, make_stream_eye
from simulation.stream import simulated_pair
from synthesis import Synthesiser
from synthesis.synthesiser import Result

SUBJECT, SEED = 101, 7  # of the whole photograph: in no simulated set that the program writes automatically
EYES = 48  # of the stream, each from its own tree
FAILURES = 2  # shown of each kind
JPEG = {"quality": 88}
STEPS = 5  # of the data pipeline, per row
PATCH_PX = 256
ROTATED_BORDER = 40  # px, cropped from a rotated OCT-A


def draw(rows: list[list[np.ndarray]], titles: list[str], names: list[str], path: Path, side: float = 3.6) -> None:
    """Images (height, width) or (height, width, 3) in rows, `side` inches each, titles above and names on the left."""
    figure = Figure(figsize=(side * len(titles), side * len(rows) + 0.3), dpi=100, layout="constrained")
    for row, (images, name) in enumerate(zip(rows, names, strict=True)):
        for column, image in enumerate(images):
            panel = figure.add_subplot(len(rows), len(titles), row * len(titles) + column + 1)
            panel.imshow(image, cmap="gray", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[], title="" if row else titles[column], ylabel="" if column else name)
    figure.savefig(path, pil_kwargs=JPEG)


def halves(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The left half of one image and the right half of another of the same size, grey or colour, uint8 or [0, 1]."""
    middle, whole = left.shape[1] // 2, np.zeros((*left.shape[:2], 3))
    for image, part in ((left, np.s_[:, :middle]), (right, np.s_[:, middle:])):
        whole[part] = np.atleast_3d(image / 255 if image.dtype == np.uint8 else image)[part]
    return whole


def draw_whole_photograph(whole: Result, path: Path) -> None:
    """A whole photograph, its OCT-A, the vessels over the photograph, and how sure they are."""
    images = [whole.fundus, whole.octa, with_vessels(whole.fundus, whole.vessels), whole.confidence.right]
    draw([images], ["Photograph (simulated)", "Synthetic OCT-A", "Vessel map", "Confidence of the map"], [""], path)


def draw_failures(predictor: Predictor, path: Path) -> None:
    """The eyes with the largest shares of false vessels and of missed ones."""
    found = []
    for number in range(UNSEEN, UNSEEN + EYES * TREE_SHARED_BY, TREE_SHARED_BY):
        eye, window = make_stream_eye(0, number, CROP_PX)
        fundus, octa, _, fov = simulated_pair(0, number)
        wide = eye.vessels(window, TRUTH_MIN_WIDTH_MM)
        truth = (wide["artery"].merge(wide["vein"]).depth > 0) & fov
        probability = predictor.vessel_probability(fundus, fov, None)
        vessels = predictor.map_of(probability, fov, "disc")
        missed, invented = truth & ~vessels, vessels & ~truth
        images = [black_outside(fundus, fov), octa_to_grey(octa / 255), probability]
        images += [missed_and_invented(truth, vessels)]
        found.append((invented.sum() / fov.sum(), missed.sum() / fov.sum(), images))
    chosen = [
        (f"{kind} {eye[column]:.0%} of the field", eye[2])
        for column, kind in enumerate(("invents", "misses"))
        for eye in sorted(found, key=lambda eye: -eye[column])[:FAILURES]
    ]
    titles = ["Photograph (simulated retina)", "Its OCT-A", "Vessel probability", "Missed (orange), invented (blue)"]
    draw([images for _, images in chosen], titles, [name for name, _ in chosen], path)


def draw_places(eye: Eye, whole: Result, path: Path) -> None:
    """The positions found for rotated OCT-A of an eye in its photograph, and the crops."""
    rows = []
    for region, degrees in zip(REGIONS, (6, -5), strict=True):
        octa = Image.fromarray(octa_to_grey(render_crop(eye, region)["octa"]).astype(np.float32) / 255)  # [0, 1]
        octa = np.asarray(octa.rotate(degrees))[ROTATED_BORDER:-ROTATED_BORDER, ROTATED_BORDER:-ROTATED_BORDER]
        side_mm = CROP_MM[region] * len(octa) / CROP_PX
        place = find_place(octa, side_mm, Photograph(whole.probability, whole.fov, whole.px_per_mm))
        outlined = with_outline(whole.fundus, corners(place, (side_mm, side_mm)), MARKS[FOUND])
        rows.append([outlined, cut(whole.fundus, place, (side_mm, side_mm), CROP_PX_PER_MM), octa])
    draw(rows, ["Photograph (simulated retina)", "Crop", "Its OCT-A"], [name.capitalize() for name in REGIONS], path)


def draw_retinas(path: Path) -> None:
    """Pairs of the stream, each with another tree."""
    rows, columns = 2, 6
    images, names = [], []
    for row in range(rows):
        pairs = [simulated_pair(0, (row * columns + column) * TREE_SHARED_BY) for column in range(columns)]
        images += [[fundus for fundus, *_ in pairs], [octa_to_grey(octa / 255) for _, octa, *_ in pairs]]
        names += ["Photograph", "Its OCT-A"]
    draw(images, [""] * columns, names, path, side=2.4)


def draw_data_flow(predictor: Predictor, whole: Result, path: Path) -> None:
    """The data pipeline: three rows of steps, each with an image or the text of a file, its name, and its module."""
    fundus, octa, _, fov = simulated_pair(0, UNSEEN)
    pair = Pair(fundus, octa, fov)
    patches = TrainingPatches([training_image(pair, PATCH_PX)], Settings(patch_size=PATCH_PX, batch_size=4))
    inputs, targets = (np.array(images / 2 + 0.5) for images in next(patches.batches(0, 1)))
    crop = predictor.predict_photograph(fundus, fov, None)
    crop_octa, real = octa_to_grey(crop.octa), octa_to_grey(octa / 255)
    found, truth = vessel_map(crop.probability, fov, "disc"), vessel_map(real, fov, "disc")
    scores = vessel_scores(truth, crop.probability, found, fov)
    errors = missed_and_invented(truth, found)
    table = f"path, density, ...\n\nphoto.png,\n{whole.density:.4f}, ..."
    eye = "subject, eye, dice, ...\n\n" + f"31, OD,\n{scores['dice']:.3f}, ..."
    four = np.vstack([np.hstack(inputs[:2]), np.hstack(inputs[2:])])
    rows = [
        (
            "Training",
            (halves(fundus, real), "a pair, from the layout\nor a table of pairs", "pairs/dataset"),
            (with_border(fundus, fov), "the field of view:\nnothing outside counts", "retina/field_of_view"),
            (four, "patches of 256 px,\nrotated and flipped", "run/batches"),
            (halves(inputs[0], targets[0]), "each with its OCT-A,\nthrough both networks", "pix_pix_train"),
            ("ckpt-STEP, best/\nrun.json\n\nTensorBoard\nmetrics.csv", "a run", "run/checkpoints.py, run/log"),
        ),
        (
            "Synthesis",
            (whole.fundus, "a photograph\nof any camera", "synthesis/photographs"),
            (
                with_border(whole.fundus, whole.fov),
                f"its field, {whole.diameter:.0f} px wide:\nthe scale",
                "retina/field_of_view",
            ),
            (whole.octa, "the OCT-A,\nfor viewing", "run/predict"),
            (with_vessels(whole.fundus, whole.vessels), "the vessel map,\nfor measurements", "retina/vessels"),
            (table, "densities.csv", "synthesis/synthesise"),
        ),
        (
            "Evaluation",
            (halves(fundus, crop_octa), "a test pair's\nsynthetic OCT-A", "run/predict"),
            (halves(1.0 * found, 1.0 * truth), "its vessels,\nand the reference's", "retina/vessels"),
            (errors, "missed (orange),\ninvented (blue)", "evaluation/measures"),
            (eye, "per_eye.csv", "evaluation/evaluate"),
            ("means over subjects,\nintervals, figures", "summary.csv,\nreport.html", "evaluation/report"),
        ),
    ]
    figure = Figure(figsize=(12, 9.6), dpi=100)
    for place, (name, *steps) in enumerate(rows):
        top = 0.77 - 0.335 * place
        figure.text(0.012, top + 0.09, name, rotation=90, va="center", weight="bold")
        for column, (shown, what, module) in enumerate(steps):
            left = 0.04 + column * 0.194
            panel = figure.add_axes((left, top, 0.16, 0.2))
            panel.set(xticks=[], yticks=[])
            if isinstance(shown, str):
                panel.text(0.5, 0.5, shown, ha="center", va="center", family="monospace", fontsize=9)
            else:
                panel.imshow(shown, cmap="gray", vmin=0, vmax=1)
            figure.text(left + 0.08, top - 0.01, what, ha="center", va="top", fontsize=9)
            figure.text(left + 0.08, top - 0.058, module + ".py", ha="center", va="top", family="monospace", fontsize=8)
            if column < STEPS - 1:
                figure.text(left + 0.177, top + 0.1, "\N{RIGHTWARDS ARROW}", ha="center", va="center", fontsize=16)
    figure.savefig(path, pil_kwargs=JPEG)


def main() -> None:
    """Draw all pictures."""
    parser = new_parser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--output", type=Path, default=Path("docs"), metavar="DIR")
    args = parser.parse_args()
    synthesiser, eye = Synthesiser(args.run), make_eye(SUBJECT, "OD", SEED)
    predictor, whole = synthesiser.predictor, synthesiser.photograph(render_full_field(eye))
    draw_whole_photograph(whole, args.output / "whole_photograph.jpg")
    draw_failures(predictor, args.output / "failures.jpg")
    draw_retinas(args.output / "simulated_retinas.jpg")
    draw_places(eye, whole, args.output / "cut_photographs.jpg")
    draw_data_flow(predictor, whole, args.output / "data_flow.jpg")


if __name__ == "__main__":
    main()
