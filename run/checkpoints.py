"""A run on disk: its folders, its settings, its checkpoints and its lock.

    training_checkpoints/NAME/run.json     the settings, a digest of the data, and which photographs were seen
    training_checkpoints/NAME/ckpt-STEP.*  the newest checkpoints: first their .data is written, then their .index
    training_checkpoints/NAME/best/        the best checkpoint by validation
    training_checkpoints/NAME/.lock        held while a process trains the run
    logs/fit/NAME/                         see `run.log`

A run may come from someone else: JSON and TensorFlow's checkpoints contain numbers and names, and nothing in them is
executed.
"""

import json
import platform
import re
import shutil
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from basics.command_line import VERSION, UserError, why
from basics.files import atomic_file, hold
from pairs.dataset import is_simulated
from pix_layers import layers_of
from run.settings import Settings

BEST = "best"
PARTS = ("generator", "discriminator", "generator_optimizer", "discriminator_optimizer")  # their names in a checkpoint
ONE_FILE, SEEN = "weights", "seen"  # in run.json
UNFINISHED = "ckpt-*_temp"  # where TensorFlow writes a checkpoint before renaming it


class RunError(UserError):
    """A run that cannot start, continue or be used."""


# --- folders ---------------------------------------------------------------------------------------------------------


def log_folder(settings: Settings) -> Path:
    """Where a run keeps TensorBoard's summaries and metrics.csv."""
    return Path(settings.logs) / "fit" / settings.name


def checkpoint_folder(settings: Settings) -> Path:
    """Where a run keeps its checkpoints and run.json."""
    return Path(settings.checkpoints) / settings.name


def claim_folder(settings: Settings) -> Settings:
    """Make the folder of a new run's checkpoints; returns the settings with the run's name.

    A run without a name is named by date and time, with a number added if another run has that name.

    Raises:
        OSError: the folder, or that of the logs, cannot be made, or it exists although its name was given.
    """
    for parent in (Path(settings.logs, "fit"), Path(settings.checkpoints)):
        parent.mkdir(parents=True, exist_ok=True)
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in count(1):
        named = replace(settings, name=settings.name or (now if number == 1 else f"{now}-{number}"))
        try:
            checkpoint_folder(named).mkdir()
            return named
        except FileExistsError:
            if settings.name is not None:
                raise


def newest_run(checkpoints: Path) -> Path:
    """The run with the newest checkpoint or run.json, to resume. Raises RunError if there is none."""
    files = [*checkpoints.glob("*/ckpt-*.index"), *checkpoints.glob("*/run.json")]
    files = [path for path in files if not any(path.parent.glob("ckpt-*.npz"))]  # one file of weights has no more steps
    if not files:
        raise RunError(f"--resume: no run in {checkpoints}/; train one with pix_pix_train.py")
    return max(files, key=lambda path: path.stat().st_mtime).parent


def lock(folder: Path) -> AbstractContextManager[None]:
    """Hold a run for one process, see `hold`. Raises OptionError if another one holds it."""
    return hold(folder / ".lock", f"{folder}: another process is training this run; wait for it, or start another run")


# --- settings --------------------------------------------------------------------------------------------------------


def write_run(
    folder: Path,
    settings: Settings,
    digest: str,
    seen: Collection[str] = (),
    weights: dict | None = None,
    simulated: bool = False,
) -> None:
    """Write run.json: the resolved settings, the photographs seen, and the versions of the software.

    `seen` are the photographs that it, or a run it started from, is trained or validated on, and those that they were
    cropped from (see `photo_digest`); `weights` those of a run that consists of one file, see `RunJson`; `simulated`:
    its data are simulated retinas, wherever they are now.
    """
    content = {
        "settings": asdict(settings),
        "data_digest": digest,
        "simulated": simulated or is_simulated(settings.data),
        "versions": {
            "program": VERSION,
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
    }
    if seen:
        content[SEEN] = sorted(seen)
    if weights is not None:
        content[ONE_FILE] = weights
    with atomic_file(folder / "run.json") as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


class RunJson(NamedTuple):
    """What run.json contains, see `write_run`."""

    settings: Settings
    digest: str  # of the data
    seen: frozenset[str]  # see `photo_digest`
    weights: dict | None  # name (`file`) and digest (`sha256`) of the run's only file; None: it has checkpoints
    simulated: bool  # its data were known to be simulated retinas when it was written


def read_run(folder: Path) -> RunJson:
    """All that a run's run.json contains. Raises RunError if it is missing, damaged or foreign."""
    path = folder / "run.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings, digest = Settings.of_run(content["settings"]), str(content["data_digest"])
        seen, weights = frozenset(map(str, list(content.get(SEEN, [])))), content.get(ONE_FILE)
        if weights is not None:
            weights = {key: str(weights[key]) for key in ("file", "sha256")}
        simulated = bool(content["simulated"])
        if settings.data is None or settings.name is None or settings.precision == "auto":
            raise ValueError("its settings are not resolved")
    except FileNotFoundError as error:
        raise RunError(f"{folder}: not a run (it has no run.json)") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RunError(f"{path}: damaged, or from another version or program ({why(error)})") from error
    return RunJson(settings, digest, seen, weights, simulated)


# --- checkpoints -----------------------------------------------------------------------------------------------------


class RunState:
    """Everything that a run needs to continue, as one checkpoint: networks, optimisers, dropout's seeds, progress."""

    def __init__(self, networks: object, folder: Path, keep: int):
        """Args:
        networks: both networks and their optimisers, built, as attributes with the names PARTS.
        folder: the run's folder of checkpoints.
        keep: how many periodic checkpoints to keep.
        """
        self.step = tf.Variable(0, dtype=tf.int64)  # steps done
        self.epoch = tf.Variable(0, dtype=tf.int64)  # epochs done
        self.best_score = tf.Variable(-np.inf, dtype=tf.float64)
        dropout = layers_of(networks.generator, keras.layers.Dropout)
        self.checkpoint = tf.train.Checkpoint(
            **{name: getattr(networks, name) for name in PARTS},
            dropout_seeds=[layer.seed_generator.state for layer in dropout],
            step=self.step,
            epoch=self.epoch,
            best_score=self.best_score,
        )
        self.weights = [*networks.generator.variables, *networks.discriminator.variables]
        self.folder, self.keep = folder, keep

    def save(self) -> None:
        """Save the newest checkpoint. Raises RunError if it cannot be written, or a weight is not finite."""
        self._save(self.folder, self.keep)

    def save_best(self) -> None:
        """Save the best checkpoint, replacing the previous one. Raises RunError as `save`."""
        self._save(self.folder / BEST, keep=1)

    def _save(self, folder: Path, keep: int) -> None:
        """Write ckpt-STEP, which appears only when complete, and remove the oldest so that `keep` remain."""
        step = int(self.step)
        if not self.folder.is_dir():
            raise RunError(f"{self.folder} was deleted while the run trains: stopped; it cannot be resumed")
        for weights in self.weights:
            if not np.isfinite(weights.numpy()).all():
                fault = f"{weights.path} is not finite after step {step}: not saved"
                raise RunError(f"{fault}; {saved_in_words(self.folder)}")
        try:
            folder.mkdir(exist_ok=True)
            try:
                self.checkpoint.write(str(folder / f"ckpt-{step}"))
            finally:
                for unfinished in folder.glob(UNFINISHED):  # of this process, or of one that was killed
                    shutil.rmtree(unfinished)
            saved = [Path(path).name for path in list_checkpoints(folder)]
            for old in saved[keep:]:
                for path in sorted(folder.glob(f"{old}.*"), reverse=True):  # .index first: it makes the checkpoint
                    path.unlink()
            with atomic_file(folder / "checkpoint") as part:  # TensorFlow's own record, for other programs
                lines = [f'all_model_checkpoint_paths: "{name}"\n' for name in saved[keep - 1 :: -1]]
                part.write_text("".join([f'model_checkpoint_path: "{saved[0]}"\n', *lines]), encoding="utf-8")
        except (OSError, tf.errors.OpError) as error:
            raise RunError(
                f"the checkpoint of step {step} could not be written ({reason_of(error)}); "
                f"{saved_in_words(self.folder)}; make room, then --resume {self.folder}"
            ) from error

    def restore(self) -> bool:
        """Restore the newest checkpoint, periodic or best; False if none was ever saved. Raises as `restore`."""
        if not (saved := saved_by(self.folder)):
            return False
        restore(self.checkpoint, max(saved, key=step_of))
        return True


def list_checkpoints(folder: Path) -> list[str]:
    """The checkpoints of a folder, newest first. Without its .index, a .data was left by a process that was killed."""
    found = [str(path.with_suffix("")) for path in folder.glob("ckpt-*.index") if path.stem[5:].isdecimal()]
    return sorted(found, key=step_of, reverse=True)


def saved_by(run: Path) -> list[str]:
    """The checkpoints of a run: the best, and the periodic ones."""
    return list_checkpoints(run / BEST) + list_checkpoints(run)


def saved_in_words(run: Path) -> str:
    """Which checkpoint a run that must stop has, in words."""
    saved = saved_by(run)
    return f"the last good checkpoint is {max(saved, key=step_of)}" if saved else f"{run} has no checkpoint yet"


def step_of(checkpoint: str) -> int:
    """The step at which a checkpoint, or one file of weights, was saved, from its name."""
    return int(Path(checkpoint).stem.rpartition("-")[2])


def find_weights(run: Path, weights: str | None) -> str:
    """The checkpoint of a run to predict with.

    Args:
        run: the run's folder of checkpoints.
        weights: `best` by validation, `last`, or None for the best if there is one.

    Raises:
        RunError: there is no such checkpoint.
    """
    found = saved_by(run) if weights is None else list_checkpoints(run / BEST if weights == "best" else run)
    if not found:
        raise RunError(f"{run}: has no {weights or 'best or last'} checkpoint; train it, or choose another --run")
    return found[0]


def restore(checkpoint: tf.train.Checkpoint, path: str) -> None:
    """Restore every object from a checkpoint. Raises RunError if it is damaged or does not fit."""
    try:
        checkpoint.read(path).assert_existing_objects_matched().expect_partial()
    except (AssertionError, IndexError, ValueError, tf.errors.OpError) as error:
        reason = f"damaged, or of another model ({reason_of(error)})"
        raise RunError(f"{path}: {reason}; to use the checkpoint before it, if any, delete {path}.*") from error


def reason_of(error: Exception) -> str:
    """The message of a TensorFlow error about a file, without TensorFlow's internal names."""
    return re.sub(r"^{{.*?}} ?|/part-[^;\s]*| \[Op:.*", "", (str(error).splitlines() or [""])[0])
