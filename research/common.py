"""What the programs in this folder share: options, runs, real eyes, tables in Markdown.

Import it first: it finds the project's modules, and keeps TensorFlow's messages away.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from basics.command_line import load_tensorflow

load_tensorflow()

import numpy as np
import pandas as pd

from pairs.dataset import find_dataset, load_data_cases, load_pairs
from retina.images import octa_to_grey
from run.checkpoints import read_run
from run.predict import Predictor, load_predictor
from simulation.eye import TREE_SHARED_BY

UNSEEN = TREE_SHARED_BY * 3 * 10**8  # a retina of seed 0; from here on, none is used for training or validation


def new_parser(description: str) -> argparse.ArgumentParser:
    """A command line that prints a module's docstring as its help."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def predictor_of(run: Path, weights: str | None = None) -> Predictor:
    """The predictor of a run's folder; `weights` is best or last."""
    return load_predictor(run, weights, read_run(run).settings)[0]


def real_pairs(dataset: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Name, photograph (height, width, 3), uint8, OCT-A (height, width) on [0, 1], and field of each pair."""
    cases, _ = load_data_cases(find_dataset(dataset, "--pairs"))
    for name, pair in zip(cases["name"], load_pairs(cases, 1, True), strict=True):
        yield name, pair.fundus, octa_to_grey(pair.octa / 255), pair.fov


def list_photographs(table: Path) -> pd.DataFrame:
    """LIST.csv (see README.md): `image`, `manual` and `mask` are paths, None for an empty cell."""
    photographs = pd.read_csv(table, dtype=str).astype(object)
    for column in {"image", "manual", "mask"} & set(photographs):
        photographs[column] = [None if pd.isna(path) else table.parent / path for path in photographs[column]]
    return photographs


def print_head(*columns: str) -> None:
    """Print the head of a table whose first column has no name."""
    print("| " + " | ".join(["", *columns]) + " |\n" + "|---" * (len(columns) + 1) + "|", flush=True)


def print_row(name: str, values: Iterable[float | str]) -> None:
    """Print a row of a table, numbers with three decimals."""
    cells = [value if isinstance(value, str) else f"{value:.3f}" for value in values]
    print("| " + " | ".join([name, *cells]) + " |", flush=True)
