"""The log of a run: TensorBoard's summaries, all at the global step, and metrics.csv, one row per epoch.

It holds a description of each tag, and the charts that TensorBoard opens on.

logs/fit/NAME/events.out.tfevents.*    for `tensorboard --logdir=logs`; docs/tensorboard.md explains every tag
logs/fit/NAME/metrics.csv              epoch, step and the validation scores
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api as hp

from basics.command_line import UserError, flag, why
from basics.files import atomic_file
from retina.similarity import VALIDATION_SCORES
from run.settings import FINE_TUNING, SIMULATED_RUN, Settings, as_options

LOSSES = {
    "gen_total_loss": "generator: gen_gan_loss + lambda x gen_l1_loss + 20 x gen_vessel_loss, if there is one",
    "gen_gan_loss": "generator: cross-entropy of the discriminator's verdict with `real`; 0.69: undecided",
    "gen_l1_loss": "generator: mean absolute error of the training patches, on [-1, 1]; speckle keeps it high",
    "gen_vessel_loss": "generator: cross-entropy of its vessel probability with the drawn vessels of simulated retinas",
    "disc_loss": "discriminator: on real and generated images, summed; 1.39: undecided, near 0: it always wins",
    "disc_real_mean": "discriminator: mean probability of being real that it gives to real patches",
    "disc_generated_mean": "discriminator: mean probability of being real that it gives to generated patches",
}
PROGRESS = {
    "learning_rate": "of both optimisers",
    "phase": "0: the generator learns without the discriminator; 1: against it too",
    "images_per_second": "patches trained per second",
}
EPOCH = "epoch/"  # before a loss: its mean over the epoch
VALIDATION = "validation/"
PICTURES = {
    "Fundus": "the same crops in every epoch",
    "Target OCT": "their real OCT-A",
    "Predicted OCT": "their predicted OCT-A",
    "Eyes": "fundus, real OCT-A, predicted OCT-A, and the vessels: white in both, orange missed, blue invented",
    "Whole Fundus": "a whole photograph of a validation eye, and its prediction",
}
DESCRIPTIONS = (
    LOSSES
    | PROGRESS
    | PICTURES
    | {EPOCH + tag: f"mean of the epoch; {text}" for tag, text in LOSSES.items()}
    | {VALIDATION + name: text for name, text in VALIDATION_SCORES.items()}
)
CHARTS = {  # group -> chart -> a regular expression of its tags; only the first group starts open
    "validation": {
        "vessels": "validation/vessel_(auc|dice|correlation)",
        "pixels": "validation/(mae|ssim)",
        "speckle": "validation/(texture|grey_levels)",
        "faults": "validation/(checkerboard|rim)",
    },
    "losses, means of epochs": {
        "mean absolute error": "epoch/gen_l1_loss",
        "vessels": "epoch/gen_vessel_loss",
        "adversarial": "epoch/(gen_gan|disc)_loss",
    },
    "discriminator": {"probability of being real": "disc_(real|generated)_mean"},
    "progress": {"learning rate": "learning_rate", "phase": "phase", "speed": "images_per_second"},
}
COMPARED = ("vessel_auc", "vessel_dice", "vessel_correlation", "mae", "texture", "checkerboard")  # scores in HParams


class RunLog:
    """Writes what a run reports."""

    def __init__(self, folder: Path, epochs: int = 0):
        """Args: the run's folder of logs; the validated epochs that the run resumes after, 0 for a new one.

        Raises:
            UserError: the folder cannot be written to, or its metrics.csv is damaged; then it is left as it is.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.table = folder, folder / "metrics.csv"
        self.rows = read_metrics(self.table, epochs)
        try:
            self.writer = tf.summary.create_file_writer(str(folder))
        except tf.errors.OpError as error:
            raise UserError(f"{folder}: cannot be written to ({why(error)})") from error

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

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Log numbers by tag."""
        with self.writing(step):
            for tag, value in values.items():
                tf.summary.scalar(tag, value, description=DESCRIPTIONS.get(tag))

    def images(self, tag: str, images: Sequence[np.ndarray], step: int) -> None:
        """Log images (height, width, channels), uint8 on [0, 255] or float on [0, 1], under one tag."""
        largest = np.max([image.shape for image in images], axis=0)  # the others get black below and to the right
        batch = np.stack([np.pad(image, [(0, more) for more in largest - image.shape]) for image in images])
        with self.writing(step):
            tf.summary.image(tag, batch, max_outputs=len(images), description=DESCRIPTIONS.get(tag))

    def start(self, settings: Settings, step: int) -> None:
        """Log the settings that are not as published as hyperparameters, and the charts.

        TensorBoard lists those that the first run names: so each names the ones in which runs of any kind differ.
        """
        used, published = as_options(settings).items(), as_options(Settings()).items()
        differing = {name: value or "yes" for name, value in used if (name, value) not in published}
        usual = {flag(name) for name in SIMULATED_RUN | FINE_TUNING}
        metrics = [hp.Metric(VALIDATION + name, display_name=name) for name in COMPARED]
        with self.writing(step):
            hp.hparams_config([hp.HParam(name.lstrip("-")) for name in sorted(usual | differing.keys())], metrics)
            hp.hparams({name.lstrip("-"): value for name, value in differing.items()})
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
    """The rows of metrics.csv up to an epoch, if it exists: later ones will be written again.

    Raises:
        UserError: it cannot be read.
    """
    if not (epochs and table.exists()):
        return []
    try:
        rows = pd.read_csv(table, dtype=str, keep_default_na=False)  # a score may be the word nan
        return rows[rows["epoch"].astype(int) <= epochs].to_dict("records")
    except (ValueError, KeyError) as error:
        raise UserError(f"{table}: damaged ({why(error)}); move it away, and --resume starts a new one") from error


def layout() -> layout_pb2.Layout:
    """CHARTS, for TensorBoard's tab Custom Scalars."""
    groups = []
    for group, charts in CHARTS.items():
        content = {title: layout_pb2.MultilineChartContent(tag=[f"^{tags}$"]) for title, tags in charts.items()}
        made = [layout_pb2.Chart(title=title, multiline=multiline) for title, multiline in content.items()]
        groups.append(layout_pb2.Category(title=group, chart=made, closed=group != "validation"))
    return layout_pb2.Layout(category=groups)
