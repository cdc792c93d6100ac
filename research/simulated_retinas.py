"""The simulated stream: how fast it is, how similar to photographs, and what a network learns from it.

    python research/simulated_retinas.py rate
    python research/simulated_retinas.py likeness --pairs DIR --photographs DIR
    python research/simulated_retinas.py score RUN... --pairs DIR --photographs DIR
    python research/simulated_retinas.py register RUN... --pairs DIR

RUN is a run's folder of checkpoints. --pairs is a data set in UT-FSOCTA's layout; every pair is scored. --photographs
contains photographs NAME.jpg from another camera and their manual vessel maps NAME_1stHO.png, like CHASE_DB1.
`register` measures how far the pairs are misaligned and what that costs.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

from pairs.dataset import load_pairs
from retina.field_of_view import field_of_view

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from basics.command_line import load_tensorflow

load_tensorflow()

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates
from skimage.morphology import skeletonize
from skimage.registration import optical_flow_tvl1

import dataset_load_mod as data
import pix_pix_train
from retina.images import octa_to_grey, read_fundus
from retina.similarity import artefacts, checkerboard, vessel_agreement
from retina.vessels import roc_auc, smooth, vessel_map
from run.checkpoints import read_run
from run.data import training_patches
from run.devices import compiled, resolve_precision
from run.predict import Predictor, load_predictor
from run.settings import Settings
from simulate_retinas import simulated_pair, stream
from simulation.eye import TREE_SHARED_BY, make_stream_eye

PHOTOGRAPH_SIGMA = 1.0  # px: smoothing before a photograph's prediction is compared with its manual map
VESSEL_SIGMA = 3.0  # px: only large vessels are registered
FLOW_ATTACHMENT = 5.0  # weight of the images in the optical flow, relative to its smoothness
FLOW_SIGMA = 20.0  # px: so smooth a displacement cannot move one vessel onto another
WIDTHS = (3, 6, 9, 12, 16)  # px


def vessel_auc(real: np.ndarray, octa: np.ndarray, fov: np.ndarray) -> float:
    return vessel_agreement(real, octa, fov)["vessel_auc"]


def vessels_seen(predictor: Predictor, fundus: np.ndarray, fov: np.ndarray) -> np.ndarray:
    """The OCT-A (height, width), [0, 1], of a single pass without noise."""
    return octa_to_grey(predictor.predict(fundus, fov, with_noise=False))


class Eyes:
    """Real eyes to score on."""

    def __init__(self, pairs: Path | None, photographs: Path | None):
        """Args: a data set, and a folder of photographs with manual maps; each may be None."""
        self.pairs, self.photographs = {}, {}
        if pairs is not None:
            cases, _ = data.load_data_cases(data.find_dataset(pairs, "--pairs"))
            for case, pair in zip(cases.itertuples(), load_pairs(cases, 1, True), strict=True):
                octa = octa_to_grey(pair.octa / 255)
                self.pairs[f"{case.subject}_{case.eye} {case.region}"] = pair.fundus, octa, pair.fov
        if photographs is not None:
            for path in sorted(photographs.glob("*_1stHO.png")):
                fundus = read_fundus(path.with_name(path.name.replace("_1stHO.png", ".jpg")))
                vessels = np.asarray(Image.open(path)) > 0
                self.photographs[path.name.removesuffix("_1stHO.png")] = fundus, vessels, field_of_view(fundus)

    def names(self) -> list[str]:
        """The names of the values of `scores`."""
        return [*self.pairs, *self.photographs, "checkerboard", "rim"]

    def scores(self, predictor: Predictor) -> list[float]:
        """Vessel AUC of each pair and each photograph, mean checkerboard of all, mean rim of the pairs.

        From a single pass each: the vessels without noise, checkerboard and rim in the OCT-A.
        """
        aucs, boards, rims = [], [], []
        for fundus, real, fov in self.pairs.values():
            aucs.append(vessel_auc(real, vessels_seen(predictor, fundus, fov), fov))
            faults = artefacts(real, octa_to_grey(predictor.predict(fundus, fov)), fov)
            boards.append(faults["checkerboard"])
            rims.append(faults["rim"])
        for fundus, vessels, fov in self.photographs.values():
            smoothed = smooth(vessels_seen(predictor, fundus, fov), fov, PHOTOGRAPH_SIGMA)
            aucs.append(roc_auc(vessels[fov], smoothed[fov]))
            boards.append(checkerboard(octa_to_grey(predictor.predict(fundus, fov)), fov))
        return [*aucs, np.mean(boards), np.nanmean(rims) if np.isfinite(rims).any() else np.nan]


def table_row(name: str, values: Sequence[float]) -> str:
    return f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |"


def header(names: Sequence[str]) -> str:
    return "| " + " | ".join(["", *names]) + " |\n" + "|---" * (len(names) + 1) + "|"


def per_second(items: Iterable, number: int) -> float:
    """The rate of the next `number` items, per second."""
    started = time.perf_counter()
    for _ in islice(items, number):
        pass
    return number / (time.perf_counter() - started)


def new_networks(settings: Settings) -> pix_pix_train.Pix2Pix:
    return pix_pix_train.Pix2Pix(replace(settings, precision=resolve_precision(settings.precision)[0]))


def in_graph(networks: pix_pix_train.Pix2Pix, step: Callable) -> Callable:
    return compiled(step, networks.signature, tf.distribute.get_strategy())


def rate() -> None:
    """Pairs per second, from one process and from the stream; the share of training time spent waiting for them."""
    pairs = (simulated_pair(0, number) for number in count())
    per_second(pairs, TREE_SHARED_BY)
    print(f"one process: {per_second(pairs, 64):.1f} retinas a second")
    for workers in (1, 2):
        pairs = stream(0, 0, workers)
        per_second(pairs, 2 * TREE_SHARED_BY * workers)  # made in advance: not counted
        print(f"stream, {workers} workers: {per_second(pairs, 128):.1f} retinas a second")
        pairs.close()

    settings = Settings(data="simulated", batch_size=2, name="rate")
    networks = new_networks(settings)
    train_step = in_graph(networks, networks.train_step)
    batches = training_patches([], settings).batches(0, 1000)
    waits, steps = [], []
    for _ in range(80):
        started = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - started)
        float(train_step(*batch)["gen_total_loss"])
        steps.append(time.perf_counter() - started)
    waited = sum(waits[20:]) / sum(steps[20:])
    policy = keras.config.dtype_policy().name
    print(f"training, batch 2, {policy}: {120 / sum(steps[20:]):.2f} patches a second, {waited:.1%} of it waiting")


def look_of(fundus: np.ndarray, vessels: np.ndarray, fov: np.ndarray) -> dict[str, float]:
    """Colour, contrast and vessels of a fundus image (height, width, 3), uint8, with its vessel map and field, bool."""
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
    # The width at a vessel pixel is that at the nearest point of the centreline.
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
    """Percentiles of 150 simulated retinas, next to the values of each real eye; a pair's vessels are its OCT-A's."""
    samples = []
    for number in range(0, 1200, TREE_SHARED_BY):
        fundus, _, fov = simulated_pair(1, number)
        eye, window = make_stream_eye(1, number, len(fov))
        vessels = eye.vessels(window)
        vessels = vessels["artery"].merge(vessels["vein"])
        samples.append(look_of(fundus, (vessels.depth > 0) & (vessels.radius > 1), fov))
    real = {name: look_of(fundus, vessel_map(octa, fov), fov) for name, (fundus, octa, fov) in eyes.pairs.items()}
    real |= {name: look_of(*photograph) for name, photograph in eyes.photographs.items()}
    print(header(["samples: 5 %", "50 %", "95 %", *real]))
    for name in next(iter(real.values())):
        values = [numbers.get(name, np.nan) for numbers in samples]  # nan: no vessel is visible
        percentiles = np.nanpercentile(values, (5, 50, 95))
        print(table_row(name, [*percentiles, *(numbers[name] for numbers in real.values())]))


def displacement(still: np.ndarray, moved: np.ndarray, fov: np.ndarray) -> np.ndarray:
    """Smooth optical flow (2, height, width), px: `moved` at a pixel + flow matches `still` at the pixel."""

    def levelled(image: np.ndarray) -> np.ndarray:
        smoothed = smooth(image, fov, VESSEL_SIGMA)
        return np.where(fov, (smoothed - smoothed[fov].mean()) / smoothed[fov].std(), 0)

    flow = optical_flow_tvl1(levelled(still), levelled(moved), attachment=FLOW_ATTACHMENT)
    return np.stack([smooth(part, fov, FLOW_SIGMA) for part in flow])


def moved_by(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The image (height, width) at each pixel + flow."""
    return map_coordinates(image, np.indices(image.shape) + flow, order=1, mode="nearest")


def register(eyes: Eyes, predictor: Predictor) -> list[list[float]]:
    """What misalignment costs, one row per pair.

    Returns:
        Median displacement of the OCT-A from the photograph in px. Vessel AUC of the prediction as it is; of the
        prediction moved onto the OCT-A; of the OCT-A moved onto the photograph, which is what a perfect prediction
        would score; and of the best of the other pairs' predictions, moved in the same way, which shows how much
        moving alone can gain.
    """
    predicted, rows = {}, []
    for name, (fundus, _, fov) in eyes.pairs.items():
        predicted[name] = vessels_seen(predictor, fundus, fov)
    for name, (_, real, fov) in eyes.pairs.items():
        octa, others = predicted[name], []
        for other, (_, _, other_fov) in eyes.pairs.items():
            wrong, both = predicted[other], fov & other_fov
            if other != name:
                others.append(vessel_auc(real, moved_by(wrong, displacement(real, wrong, both)), both))
        flow = displacement(octa, real, fov)
        candidates = (octa, moved_by(octa, displacement(real, octa, fov)), moved_by(real, flow))
        aucs = [vessel_auc(real, candidate, fov) for candidate in candidates]
        rows.append([float(np.median(np.hypot(*flow)[fov])), *aucs, max(others, default=np.nan)])
    return rows


def main() -> None:
    """Print the tables that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rate", "likeness", "score", "register"))
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--pairs", type=Path, metavar="DIR")
    parser.add_argument("--photographs", type=Path, metavar="DIR")
    parser.add_argument("--weights", metavar="best|last")
    args = parser.parse_args()
    if args.what == "rate":
        return rate()
    eyes = Eyes(args.pairs, args.photographs)
    if args.what == "likeness":
        return likeness(eyes)
    registering = ["displacement, px", "as it is", "registered", "perfect prediction", "another eye's, registered"]
    print(header(registering if args.what == "register" else eyes.names()), flush=True)
    for run in args.runs:
        predictor, _ = load_predictor(run, args.weights, read_run(run)[0])
        if args.what == "score":
            print(table_row(run.name, eyes.scores(predictor)), flush=True)
        elif args.what == "register":
            for name, values in zip(eyes.pairs, register(eyes, predictor), strict=True):
                print(table_row(f"{run.name}, {name}", values), flush=True)


if __name__ == "__main__":
    main()
