"""Which ingredients of the simulated retinas matter: trains a generator with all of them, and once without each.

    python research/leave_out.py LIST.csv [NAME...] [--seeds N]

LIST.csv is as for photographs.py, with an additional column `camera`. Each training has 300 steps at batch 4 with the
mean absolute error alone. Prints the AUC of one pass at the scale that the program chooses: the mean over each camera's
photographs, the mean over the cameras, and its range over the seeds. NAME is one of INGREDIENTS (default: all).
"""

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count, islice
from pathlib import Path

from retina.images import continue_outside

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from basics.command_line import load_tensorflow

load_tensorflow()

import keras
import numpy as np
import pandas as pd
from photographs import paths_of, scores
from simulated_retinas import header, in_graph, new_networks, table_row

import pix_pix_train
from run.data import training_patches
from run.predict import Predictor
from run.settings import Settings
from simulate_retinas import simulated_pair
from simulation import looks
from simulation.eye import TREE_SHARED_BY

STEPS, BATCH = 300, 4


def without(*names: str) -> dict[str, tuple[float, float]]:
    return dict.fromkeys(names, (0, 0))


# What to change to leave an ingredient out: ranges to use in looks.STREAM_LOOK or looks.STREAM_HABIT, and names in
# looks.STREAM_SHARE to set to 0.
INGREDIENTS = {
    "nothing": {},
    "wide vessels": {"calibre": (0.6, 1.0), "px_per_mm": (40, 90)},
    "reflexes on vessels": without("reflex_artery", "reflex_vein"),
    "choroid": without("choroid", "tessellation", "blotches"),
    "nerve fibres": without("sheen"),
    "variety of the disc's edge": {"disc_edge": (0.02, 0.03)}
    | without("pigment_ring", "scleral_ring", "crescent", "halo"),
    "pigment": {name: looks.SET_LOOK[name] for name in ("red", "green_share", "blue_share")},
    "uneven light, haze": without("vignette", "tilt", "uneven", "flush", "rim_glow", "veil", "gleam", "cast"),
    "blur and noise": {"blur_px": (0.3, 0.3), "noise": (0.003, 0.003), "jpeg_quality": (98, 98)},
    "lesions, dust, lashes": without(*looks.LESIONS, "dust", "lashes"),
    "passing vessels": without("passing"),
    "dense trees": {"spacing": (0.9, 2.0)},
    "wide range of scales": {"px_per_mm": (50, 110)},
    "few pixels": without("enlargement"),
    "dusk": without("dusk"),
    "seams and grey around the field": without("fringe_px", "surround", "found_px"),
    "plaques, blots": without("plaques", "blots"),
    "atrophy, wide crescents": without("atrophy") | {"crescent_width": (1, 1)},
}


def leave_out(name: str) -> None:
    """From now on, leave one of INGREDIENTS out of the simulated retinas of this process."""
    for ingredient, limits in INGREDIENTS[name].items():
        if ingredient in looks.STREAM_SHARE:
            looks.STREAM_SHARE[ingredient] = 0
        elif ingredient in looks.STREAM_HABIT:
            looks.STREAM_HABIT[ingredient] = limits
        else:
            looks.STREAM_LOOK[ingredient] = limits


def pairs_of_a_tree(seed: int, first: int) -> list[np.ndarray]:
    """The pairs that share a tree, starting at number `first`, as training reads them: (400, 400, 4) each."""
    pairs = (simulated_pair(seed, number) for number in range(first, first + TREE_SHARED_BY))
    return [continue_outside(np.dstack([fundus, octa]), fov) for fundus, octa, fov in pairs]


def train_without(name: str, seed: int) -> Predictor:
    """A generator trained on simulated retinas without one of INGREDIENTS, with the mean absolute error alone."""
    settings = Settings(data="simulated", batch_size=BATCH, decay=0.5, seed=seed)
    keras.utils.set_random_seed(seed)
    networks = new_networks(settings)
    with ProcessPoolExecutor(1, initializer=leave_out, initargs=(name,)) as pool:

        def draw(first: int) -> Iterator[np.ndarray]:
            starts = count(first, TREE_SHARED_BY)
            ahead = [pool.submit(pairs_of_a_tree, seed, start) for start in islice(starts, 4)]
            for start in starts:
                yield from ahead.pop(0).result()
                ahead.append(pool.submit(pairs_of_a_tree, seed, start))

        l1_step = in_graph(networks, networks.l1_step)
        patches = training_patches([], settings)
        patches.draw = draw
        for number, batch in enumerate(islice(patches.batches(0, 1000), STEPS), start=1):
            networks.generator_optimizer.learning_rate = pix_pix_train.learning_rate(settings, number, STEPS)
            l1_step(*batch)
        pool.shutdown(cancel_futures=True)
    return networks.predictor


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path, metavar="LIST.csv")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seeds", type=int, default=2, metavar="N")
    args = parser.parse_args()
    photographs = pd.read_csv(args.list, dtype=str)
    cameras = photographs["camera"].unique()
    print(header((*cameras, "mean", "least", "most")), flush=True)
    for name in args.names or INGREDIENTS:
        aucs = np.empty((args.seeds, len(photographs)))
        for seed in range(args.seeds):
            predictor = train_without(name, seed)
            rows = photographs.itertuples()
            aucs[seed] = [scores(predictor, *paths_of(row, args.list), "fast")[0] for row in rows]
        by_camera = np.stack([aucs[:, photographs["camera"] == camera].mean(axis=1) for camera in cameras])
        means = by_camera.mean(axis=0)  # (seeds,)
        row = [*by_camera.mean(axis=1), means.mean(), means.min(), means.max()]
        print(table_row(f"without {name}", row), flush=True)


if __name__ == "__main__":
    main()
