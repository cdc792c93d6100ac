"""The log of a run: TensorBoard's summaries, all at the global step, and metrics.csv, one row per epoch.

logs/fit/NAME/events.out.tfevents.*    for `tensorboard --logdir=logs`; docs/tensorboard.md explains every tag
logs/fit/NAME/metrics.csv              epoch, step and the validation scores
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from tensorboard.plugins.hparams import api as hp

from basics.command_line import UserError, why
from basics.files import atomic_file, read_table
from retina.similarity import VALIDATION_SCORES
from run.settings import Settings, as_options
from run.tags import DESCRIPTIONS, VALIDATION, layout

MIN_FREE_BYTES = 20e6  # on the disk of the logs: an epoch's pictures take at most a few MB


class RunLog:
    """Writes what a run reports."""

    def __init__(self, folder: Path, epochs: int = 0):
        """Args: the run's folder of logs; the validated epochs that the run resumes after, 0 for a new one.

        A damaged metrics.csv is kept under another name, which is printed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.table = folder, folder / "metrics.csv"
        try:
            self.writer = tf.summary.create_file_writer(str(folder))
        except tf.errors.OpError as error:
            raise UserError(f"{folder}: cannot be written to ({why(error)})") from error
        try:
            self.rows = read_metrics(self.table, epochs)
        except (UserError, ValueError) as error:
            self.rows = []
            print(f"{self.table}: damaged ({error})" + kept_aside(self.table))

    def flush(self) -> None:
        """Write everything to the disk. Raises UserError if it is full: TensorFlow would lose summaries silently."""
        self._make_again()
        if shutil.disk_usage(self.folder).free < MIN_FREE_BYTES:
            raise UserError(f"{self.folder}: the disk is full; make room, then --resume")
        with self.writing():
            self.writer.flush()

    def close(self) -> None:
        """Write everything to the disk, and close the file. Raises UserError if it cannot be written."""
        with self.writing():
            self.writer.close()

    @contextmanager
    def writing(self, step: int | None = None) -> Iterator[None]:
        """Write summaries of a step, to the disk at once. Raises UserError if they cannot be written."""
        try:
            with self.writer.as_default(step):
                yield
        except tf.errors.OpError as error:
            raise UserError(f"{self.folder}: cannot be written to; make room on the disk, then --resume") from error

    def _make_again(self) -> None:
        """Make the folder again if it was deleted meanwhile: this need not stop training."""
        if not self.folder.exists():
            self.close()
            self.folder.mkdir(parents=True)
            self.writer = tf.summary.create_file_writer(str(self.folder))
            print(f"\n{self.folder} was deleted: made again, without its earlier curves")

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Log numbers by tag."""
        self._make_again()
        with self.writing(step):
            for tag, value in values.items():
                tf.summary.scalar(tag, value, description=DESCRIPTIONS.get(tag))

    def images(self, tag: str, images: Sequence[np.ndarray], step: int) -> None:
        """Log images (height, width, channels), uint8 on [0, 255] or float on [0, 1], under one tag."""
        with self.writing(step):
            tf.summary.image(tag, as_batch(images), max_outputs=len(images), description=DESCRIPTIONS.get(tag))

    def start(self, settings: Settings, facts: dict[str, str], step: int) -> None:
        """Log a description of the run (facts, changed settings, the other settings) and the charts' layout."""
        used, defaults = as_options(settings), as_options(Settings())
        differing = {option: value for option, value in used.items() if defaults.get(option) != value}
        lines = [f"| {name} | {value} |" for name, value in (facts | differing).items()]
        others = " ".join(f"`{option} {value}`" for option, value in used.items() if option not in differing)
        text = "\n".join(["| | |", "|---|---|", *lines, "", f"As published: {others}"])
        with self.writing(step):
            tf.summary.text("settings", text)
            hp.hparams({option.lstrip("-"): value or "yes" for option, value in differing.items()})
            # As `tensorboard.plugins.custom_scalar.summary.pb` does, for TensorFlow 2
            metadata = tf.compat.v1.SummaryMetadata(plugin_data={"plugin_name": "custom_scalars"})
            tf.summary.write("custom_scalars__config__", layout().SerializeToString(), metadata=metadata)

    def scores(self, scores: dict[str, float], epoch: int, step: int) -> None:
        """Log validation scores, to TensorBoard and, by name, to metrics.csv, where a missing score is nan."""
        self.scalars({VALIDATION + name: value for name, value in scores.items()}, step)
        self.rows.append({"epoch": epoch, "step": step} | scores)
        with atomic_file(self.table) as part:
            pd.DataFrame(self.rows).to_csv(part, index=False, na_rep="nan")


def read_metrics(table: Path, epochs: int) -> list[dict[str, str]]:
    """The rows of metrics.csv of the first epochs; later ones will be written again.

    Raises:
        UserError, ValueError: it is damaged; the message says how.
    """
    rows = read_table(table) if table.exists() else []
    if rows and (missing := [column for column in ("epoch", "step") if column not in rows[0]]):
        raise ValueError(f"has no column {missing[0]!r}")
    if rows and (unknown := [column for column in rows[0] if column not in ("epoch", "step", *VALIDATION_SCORES)]):
        raise ValueError(f"unknown column {unknown[0]!r}")
    rows = [row for row in rows if int(row["epoch"]) <= epochs]
    if [int(row["epoch"]) for row in rows] != list(range(1, epochs + 1)):
        raise ValueError(f"has {len(rows)} of {epochs} epochs")
    for row in rows:
        if "" in row.values():
            raise ValueError(f"epoch {row['epoch']} lacks a value")
    return rows


def kept_aside(table: Path) -> str:
    """Rename a damaged table; returns what was done, in words."""
    if not table.exists():
        return "; a new one is started"
    places = (table.with_name(f"{table.stem}-damaged-{number}.csv") for number in count(1))
    place = table.rename(next(place for place in places if not place.exists()))
    return f"; kept as {place.name}, and a new one is started"


def as_batch(images: Sequence[np.ndarray]) -> np.ndarray:
    """Stack images of any sizes (height, width, channels), black added below and to the right of the smaller ones."""
    largest = np.max([image.shape for image in images], axis=0)
    batch = np.zeros((len(images), *largest), dtype=images[0].dtype)
    for image, place in zip(images, batch, strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    return batch
