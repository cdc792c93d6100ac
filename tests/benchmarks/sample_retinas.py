"""What the training retinas are worth: how fast they are drawn, how like photographs they are, what is learned of them.

    python tests/benchmarks/sample_retinas.py rate
    python tests/benchmarks/sample_retinas.py likeness --pairs DIR --photographs DIR
    python tests/benchmarks/sample_retinas.py score RUN... --pairs DIR --photographs DIR
    python tests/benchmarks/sample_retinas.py register RUN... --pairs DIR
    python tests/benchmarks/sample_retinas.py leave-out --pairs DIR --photographs DIR

RUN is a run's folder of checkpoints. --pairs is a dataset in UT-FSOCTA's layout, of which every pair is scored.
--photographs holds photographs NAME.jpg of another camera and manual vessel maps of them NAME_1stHO.png, as CHASE_DB1
does. `register` tells how far the pairs are out of register, and what that costs. `leave-out` trains the generator by
the mean absolute error alone, which takes a quarter of the time, once with all ingredients and once without each.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import count, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pix_run import read_run  # first, as there

# isort: split
import keras
import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates
from scipy.stats import mannwhitneyu
from skimage.morphology import skeletonize
from skimage.registration import optical_flow_tvl1

import phantom_retina
import pix_pix_train
from dataset_load_mod import (
    continue_outside,
    field_of_view,
    find_dataset,
    load_data_cases,
    load_pairs,
    octa_to_grey,
    read_fundus,
)
from phantom_trees import rasterise
from pix_pix_gen import Synthesiser, load_generator
from vessel_metrics import artefacts, checkerboard, smooth, vessel_agreement, vessel_map

PHOTOGRAPH_SIGMA = 1.0  # px: smoothing before a photograph's prediction is held against its manual map
STEPS, BATCH = 300, 4  # of `leave-out`
VESSEL_SIGMA = 3.0  # px: what is registered are the large vessels
FLOW_ATTACHMENT = 5.0  # of the optical flow to the images, against its smoothness
FLOW_SIGMA = 20.0  # px: a displacement that bends less than that cannot move one vessel onto another
WIDTHS = (3, 6, 9, 12, 16)  # px

# What is left out together, as changes of TRAINING_LOOK and TRAINING_SHARE.
INGREDIENTS = {
    "nothing": ({}, ()),
    "wide vessels": ({"calibre": (0.6, 1.0), "px_per_mm": (40, 90)}, ()),
    "reflexes on vessels": ({"reflex_artery": (0, 0), "reflex_vein": (0, 0)}, ()),
    "choroid": ({name: (0, 0) for name in ("choroid", "tessellation", "blotches")}, ()),
    "nerve fibres": ({"sheen": (0, 0)}, ()),
    "variety of the disc's edge": (
        {name: (0, 0) for name in ("pigment_ring", "scleral_ring", "crescent", "halo")} | {"disc_edge": (0.02, 0.03)},
        (),
    ),
    "pigment": ({name: phantom_retina.SAMPLE_LOOK[name] for name in ("red", "green_share", "blue_share")}, ()),
    "uneven light, haze": (
        {name: (0, 0) for name in ("vignette", "tilt", "uneven", "flush", "rim_glow", "veil", "gleam", "cast")},
        (),
    ),
    "blur and noise": ({"blur_px": (0.3, 0.3), "noise": (0.003, 0.003), "jpeg_quality": (98, 98)}, ()),
    "lesions, dust, lashes": ({}, (*phantom_retina.MARKS, "dust", "lashes")),
    "passing vessels": ({}, ("passing",)),
}


class Eyes:
    """Real eyes to score on."""

    def __init__(self, pairs: Path | None, photographs: Path | None):
        """Args: a dataset; a folder of photographs with manual maps. What is None is not scored."""
        self.pairs, self.photographs = {}, {}
        if pairs is not None:
            cases, _ = load_data_cases(find_dataset(pairs))
            for case, pair in zip(cases.itertuples(), load_pairs(cases, 1, True), strict=True):
                self.pairs[f"{case.subject}_{case.eye} {case.region}"] = pair
        if photographs is not None:
            for path in sorted(photographs.glob("*_1stHO.png")):
                fundus = read_fundus(path.with_name(path.name.replace("_1stHO.png", ".jpg")))
                vessels = np.asarray(Image.open(path)) > 0
                self.photographs[path.name.removesuffix("_1stHO.png")] = fundus, vessels, field_of_view(fundus)

    def names(self) -> list[str]:
        """The columns of `scores`."""
        return [*self.pairs, *self.photographs, "checkerboard", "rim"]

    def scores(self, synthesiser: Synthesiser) -> list[float]:
        """Vessel AUC of each pair and of each photograph, mean checkerboard of all, mean rim of the pairs."""
        aucs, boards, rims = [], [], []
        for pair in self.pairs.values():
            octa = octa_to_grey(synthesiser.predict(pair.fundus, pair.fov))
            real = octa_to_grey(pair.octa / 255)
            aucs.append(vessel_agreement(real, octa, pair.fov)["vessel_auc"])
            faults = artefacts(real, octa, pair.fov)
            boards.append(faults["checkerboard"])
            rims.append(faults["rim"])
        for fundus, vessels, fov in self.photographs.values():
            octa = octa_to_grey(synthesiser.predict(fundus, fov))
            smoothed = smooth(octa, fov, PHOTOGRAPH_SIGMA)
            inside, outside = smoothed[vessels & fov], smoothed[~vessels & fov]
            aucs.append(float(mannwhitneyu(inside, outside).statistic / (inside.size * outside.size)))
            boards.append(checkerboard(octa, fov))
        return [*aucs, np.mean(boards), np.nanmean(rims) if np.isfinite(rims).any() else np.nan]


def table_row(name: str, values: Sequence[float]) -> str:
    return f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |"


def header(names: Sequence[str]) -> str:
    return "| " + " | ".join(["", *names]) + " |\n" + "|---" * (len(names) + 1) + "|"


# --- rate ------------------------------------------------------------------------------------------------------------


def rate() -> None:
    """Retinas drawn per second, by one process and by the stream; the share of a training loop spent waiting."""
    for number in range(8):
        phantom_retina.draw_pair(0, number)
    started, drawn = time.perf_counter(), 64
    for number in range(8, 8 + drawn):
        phantom_retina.draw_pair(0, number)
    print(f"one process: {drawn / (time.perf_counter() - started):.1f} retinas a second")
    for workers in (1, 2):
        retinas = phantom_retina.stream(0, 0, workers)
        for _ in islice(retinas, 16 * workers):  # what is drawn ahead is not counted
            pass
        started = time.perf_counter()
        for _ in islice(retinas, 128):
            pass
        print(f"stream, {workers} workers: {128 / (time.perf_counter() - started):.1f} retinas a second")
        retinas.close()

    settings = pix_pix_train.Settings(data=phantom_retina.DRAWN, batch_size=2, name="rate")
    policy, _ = pix_pix_train.resolve_precision(settings.precision)
    networks = pix_pix_train.Pix2Pix(pix_pix_train.replace(settings, precision=policy))
    batches = pix_pix_train.training_patches([], settings).batches(0, 1000)
    waits, steps = [], []
    for _ in range(80):
        started = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - started)
        float(networks.train_step(*batch)["gen_total_loss"])
        steps.append(time.perf_counter() - started)
    waited = sum(waits[20:]) / sum(steps[20:])
    print(f"training, batch 2, {policy}: {120 / sum(steps[20:]):.2f} patches a second, {waited:.1%} of it waiting")


# --- likeness --------------------------------------------------------------------------------------------------------


def look_of(fundus: np.ndarray, vessels: np.ndarray, fov: np.ndarray) -> dict[str, float]:
    """Numbers of one fundus image (height, width, 3), uint8, whose vessels (height, width), bool, are known."""
    fov = fov & (distance_transform_edt(fov) > 10)
    vessels, ground = vessels & fov, fov & ~vessels
    red, green, blue = fundus[ground].mean(axis=0) / 255
    channels = fundus.astype(float) + 1
    levels = gaussian_filter(channels, (1, 1, 0)) / gaussian_filter(channels, (25, 25, 0)) - 1
    numbers = {
        "red": red,
        "green / red": green / red,
        "blue / green": blue / green,
        "ground's contrast, red": levels[ground, 0].std(),
        "ground's contrast, green": levels[ground, 1].std(),
        "vessel density": vessels.sum() / fov.sum(),
    }
    # Width at a vessel pixel: that of the nearest point of the centreline.
    depth, centre = distance_transform_edt(vessels), skeletonize(vessels)
    if centre.any():
        row, column = distance_transform_edt(~centre, return_distances=False, return_indices=True)
        width = 2 * depth[row, column][vessels]
        weight = np.maximum(gaussian_filter(ground.astype(float), 12), 1e-6)
        around = gaussian_filter(np.where(ground, channels[..., 1], 0), 12) / weight
        dip = 1 - (channels[..., 1] / np.maximum(around, 1))[vessels]
        for low, high in zip(WIDTHS, (*WIDTHS[1:], np.inf), strict=True):
            here = (width >= low) & (width < high)
            name = f"{low} to {high} px" if np.isfinite(high) else f"{low} px and more"
            numbers[f"vessel pixels {name} wide"] = here.mean()
            numbers[f"dip of green in them, {name}"] = dip[here].mean() if here.sum() > 50 else np.nan
    return numbers


def likeness(eyes: Eyes) -> None:
    """Percentiles over 150 drawn retinas beside each real eye's own numbers; a pair's vessels are its OCT-A's."""
    drawn = []
    for number in range(0, 1200, 8):
        fundus, _, fov = phantom_retina.draw_pair(1, number)
        eye, window = phantom_retina.make_training_eye(1, number, phantom_retina.CROP_PX)
        trees = rasterise(eye.arteries, window).merge(rasterise(eye.veins, window))
        drawn.append(look_of(fundus, (trees.depth > 0) & (trees.radius > 1), fov))
    real = {
        name: look_of(pair.fundus, vessel_map(octa_to_grey(pair.octa / 255), pair.fov), pair.fov)
        for name, pair in eyes.pairs.items()
    }
    real |= {name: look_of(*photograph) for name, photograph in eyes.photographs.items()}
    print(header(["drawn: 5 %", "50 %", "95 %", *real]))
    for name in next(iter(real.values())):
        values = [numbers.get(name, np.nan) for numbers in drawn]  # nan: no vessel is in sight
        low, middle, high = np.nanpercentile(values, (5, 50, 95))
        print(table_row(name, [low, middle, high, *(numbers[name] for numbers in real.values())]))


# --- register --------------------------------------------------------------------------------------------------------


def displacement(still: np.ndarray, moved: np.ndarray, fov: np.ndarray) -> np.ndarray:
    """Smooth optical flow (2, height, width), px, so that `moved` at a pixel + flow is `still` at the pixel."""

    def levelled(image: np.ndarray) -> np.ndarray:
        smoothed = smooth(image, fov, VESSEL_SIGMA)
        return np.where(fov, (smoothed - smoothed[fov].mean()) / smoothed[fov].std(), 0)

    flow = optical_flow_tvl1(levelled(still), levelled(moved), attachment=FLOW_ATTACHMENT)
    return np.stack([smooth(part, fov, FLOW_SIGMA) for part in flow])


def moved_by(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The image (height, width) at each pixel + flow."""
    return map_coordinates(image, np.indices(image.shape) + flow, order=1, mode="nearest")


def register(eyes: Eyes, synthesiser: Synthesiser) -> list[list[float]]:
    """A row for each pair: what its misalignment costs.

    Returns:
        Median displacement of the OCT-A from the photograph in px. Vessel AUC of the prediction as it is, and moved
        onto the OCT-A; of the OCT-A itself if it lay on the photograph, which is what a perfect prediction would get;
        and, to see how far moving alone can raise it, of the other pairs' predictions, moved likewise, at best.
    """
    octas = {name: octa_to_grey(synthesiser.predict(pair.fundus, pair.fov)) for name, pair in eyes.pairs.items()}
    rows = []
    for name, pair in eyes.pairs.items():
        real, fov = octa_to_grey(pair.octa / 255), pair.fov

        def auc(octa: np.ndarray, real: np.ndarray = real, fov: np.ndarray = fov) -> float:
            return vessel_agreement(real, octa, fov)["vessel_auc"]

        flow = displacement(octas[name], real, fov)
        others = []
        for other in octas.keys() - {name}:
            both = fov & eyes.pairs[other].fov
            others.append(auc(moved_by(octas[other], displacement(real, octas[other], both)), fov=both))
        rows.append(
            [
                float(np.median(np.hypot(*flow)[fov])),
                auc(octas[name]),
                auc(moved_by(octas[name], displacement(real, octas[name], fov))),
                auc(moved_by(real, flow)),
                max(others, default=np.nan),
            ]
        )
    return rows


# --- leave-out -------------------------------------------------------------------------------------------------------


def leave_out(name: str) -> None:
    """Draw without one of INGREDIENTS from now on, in this process."""
    look, shares = INGREDIENTS[name]
    phantom_retina.TRAINING_LOOK.update(look)
    phantom_retina.TRAINING_SHARE.update(dict.fromkeys(shares, 0))


def draw_run(first: int) -> list[np.ndarray]:
    """The retinas that share a tree, from a number on, as training sees them: (400, 400, 4) each."""
    retinas = []
    for number in range(first, first + phantom_retina.TREE_SHARED_BY):
        fundus, octa, fov = phantom_retina.draw_pair(0, number)
        retinas.append(continue_outside(np.dstack([fundus, octa]), fov))
    return retinas


def train_without(name: str) -> Synthesiser:
    """A generator trained on retinas without one of INGREDIENTS."""
    settings = pix_pix_train.Settings(data=phantom_retina.DRAWN, batch_size=BATCH, decay=0.5)
    policy, _ = pix_pix_train.resolve_precision(settings.precision)
    keras.utils.set_random_seed(0)
    networks = pix_pix_train.Pix2Pix(pix_pix_train.replace(settings, precision=policy))
    with ProcessPoolExecutor(1, initializer=leave_out, initargs=(name,)) as pool:

        def draw(first: int) -> Iterator[np.ndarray]:
            size = phantom_retina.TREE_SHARED_BY
            ahead = [pool.submit(draw_run, first + number * size) for number in range(4)]
            for number in count(4):
                yield from ahead.pop(0).result()
                ahead.append(pool.submit(draw_run, first + number * size))

        patches = pix_pix_train.training_patches([], settings)
        patches.draw = draw
        for number, batch in enumerate(patches.batches(0, 1000), start=1):
            networks.generator_optimizer.learning_rate = pix_pix_train.learning_rate(settings, number, STEPS)
            networks.warm_up_step(*batch)
            if number == STEPS:
                break
        pool.shutdown(cancel_futures=True)
    return networks.synthesiser


# --- command line ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rate", "likeness", "score", "register", "leave-out"))
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--pairs", type=Path, metavar="DIR")
    parser.add_argument("--photographs", type=Path, metavar="DIR")
    parser.add_argument("--weights", metavar="best|last")
    args = parser.parse_args()
    if args.what == "rate":
        rate()
        return
    eyes = Eyes(args.pairs, args.photographs)
    if args.what == "likeness":
        likeness(eyes)
        return
    registering = ["displacement, px", "as it is", "registered", "perfect prediction", "another eye's, registered"]
    print(header(registering if args.what == "register" else eyes.names()), flush=True)
    for run in args.runs:
        synthesiser = Synthesiser(load_generator(run, args.weights, read_run(run)[0])[0])
        if args.what == "score":
            print(table_row(run.name, eyes.scores(synthesiser)), flush=True)
        elif args.what == "register":
            for name, values in zip(eyes.pairs, register(eyes, synthesiser), strict=True):
                print(table_row(f"{run.name}, {name}", values), flush=True)
    if args.what == "leave-out":
        for name in INGREDIENTS:
            print(table_row(f"without {name}", eyes.scores(train_without(name))), flush=True)


if __name__ == "__main__":
    main()
