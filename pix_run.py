"""A run on disk: its settings, its checkpoints and its lock, as training, synthesis and evaluation know them.

    training_checkpoints/NAME/run.json     the settings, and a digest of the data
    training_checkpoints/NAME/ckpt-STEP.*  the newest checkpoints: their .data and then their .index is written
    training_checkpoints/NAME/best/        the best by validation
    training_checkpoints/NAME/.lock        held while a process trains the run

All of it may come from someone else: JSON and TensorFlow's checkpoints hold numbers and names, and nothing in them is
executed. Import this module first: it keeps TensorFlow's start-up messages from the user.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path


@contextmanager
def without_chatter() -> Iterator[None]:
    """Keep TensorFlow's start-up messages from the user, unless TF_CPP_MIN_LOG_LEVEL is set.

    TensorFlow writes some before it reads that variable, to the file descriptor; so that is turned away. What cannot be
    imported or found still raises.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", QUIET) != QUIET:
        yield
        return
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


QUIET = "3"  # TensorFlow's level that hides all but fatal errors
with without_chatter():
    import tensorflow as tf

from filelock import FileLock, Timeout

from dataset_load_mod import find_dataset, one_line
from phantom_retina import DRAWN, SAMPLE_FOLDER, parse_subjects

CHECKPOINTS = "training_checkpoints"
SPLITS = ("train", "validation", "test")
BEST = "best"
CHECKPOINT = re.compile(r"(ckpt-(\d+))\.(?:index|data-\d+-of-\d+)")
UNFINISHED = "ckpt-*_temp"  # where TensorFlow writes a checkpoint before it gives it its name


class RunError(RuntimeError):
    """A run that cannot start, go on or be used; the message is one line for the user."""


class OptionError(ValueError):
    """Options or inputs that make no sense; the message is one line that names them."""


# --- settings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunSettings:
    """What synthesis and evaluation need to know of a run; the names are those of run.json."""

    octa_channels: int
    upsampling: str
    fov_mask: bool
    patch_size: int
    batch_size: int
    precision: str
    seed: int
    data: str
    train_subjects: str
    val_subjects: str
    test_subjects: str
    logs: str

    def splits(self) -> dict[str, list[int]]:
        """The subject ids of each of SPLITS."""
        return dict(
            zip(SPLITS, map(parse_subjects, (self.train_subjects, self.val_subjects, self.test_subjects)), strict=True)
        )


def read_run(folder: Path) -> dict:
    """Read run.json: a dict with `settings` (a dict) and `data_digest`. Raises RunError if it is missing or damaged."""
    path = folder / "run.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {"settings": dict(content["settings"]), "data_digest": str(content["data_digest"])}
    except FileNotFoundError as error:
        raise RunError(f"{folder}: is no run (it has no run.json)") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunError(f"{path}: damaged, or not of this program ({error})") from error


def read_run_settings(folder: Path) -> RunSettings:
    """The part of run.json that synthesis needs. Raises RunError if it is missing, damaged or foreign."""
    settings = read_run(folder)["settings"]
    for spec in fields(RunSettings):
        if type(settings.get(spec.name)) is not spec.type:
            raise RunError(f"{folder / 'run.json'}: damaged, or not of this program ({spec.name})")
    return RunSettings(**{spec.name: settings[spec.name] for spec in fields(RunSettings)})


def dataset_of_run(given: str | None, settings: RunSettings, option: str) -> Path:
    """The dataset that was given, else the run's own. Raises OptionError, naming the option, if there is none."""
    named = Path(given or settings.data)
    if named == Path(DRAWN):
        named = SAMPLE_FOLDER
    dataset = find_dataset(named)
    if dataset is None:
        raise OptionError(f"{option} {named}: holds no cropped/fundus and cropped/octa")
    return dataset


def newest_run(checkpoints: Path, option: str, untrained: bool = False) -> Path:
    """The run whose newest checkpoint, or with `untrained` run.json, is the newest.

    Raises:
        RunError: there is none; the message names the option.
    """
    files = [*checkpoints.glob("*/ckpt-*.index"), *(checkpoints.glob("*/run.json") if untrained else ())]
    if not files:
        raise RunError(f"{option}: no run with a checkpoint in {checkpoints}/")
    return max(files, key=lambda path: path.stat().st_mtime).parent


# --- checkpoints -----------------------------------------------------------------------------------------------------


def list_checkpoints(folder: Path) -> list[str]:
    """The checkpoints of a folder by what their files are called, the newest first, whole or not."""
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := CHECKPOINT.fullmatch(path.name):
            found[int(match[2])] = str(folder / match[1])
    return [found[step] for step in sorted(found, reverse=True)]


def step_of(checkpoint: str) -> int:
    """The step at which a checkpoint was saved, by its name."""
    return int(checkpoint.rpartition("-")[2])


def find_weights(run: Path, weights: str | None) -> list[str]:
    """The checkpoints of a run to predict with: the one to take, then those for which it stands if it is damaged.

    Args:
        run: the run's folder of checkpoints.
        weights: `best` by validation, `last`, or None for the best if there is one.

    Raises:
        RunError: there is no such checkpoint.
    """
    best, last = list_checkpoints(run / BEST), list_checkpoints(run)
    found = {"best": best, "last": last, None: best + last}[weights]
    if not found:
        raise RunError(f"{run}: holds no {weights or 'best or last'} checkpoint")
    return found


def restore(checkpoint: tf.train.Checkpoint, paths: Sequence[str], folder: Path) -> str:
    """Restore every object from the first of some checkpoints that is whole; says which are not.

    Returns:
        The path of the one that is restored.

    Raises:
        RunError: none is whole and fits, or there is none.
    """
    faults = []
    for path in paths:
        try:
            checkpoint.restore(path).assert_existing_objects_matched().expect_partial()
        except (AssertionError, IndexError, ValueError, tf.errors.OpError) as error:
            faults.append(f"{path}: damaged, or of another model ({str(error).splitlines()[0]})")
        else:
            for fault in faults:
                print(f"{one_line(fault)}; the one before it is used")
            return path
    if not faults:
        raise RunError(f"{folder}: holds no checkpoint")
    raise RunError(faults[0] + (f", and {len(faults) - 1} older ones too" if faults[1:] else ""))


def mend_records(folder: Path) -> None:
    """Put a folder of checkpoints in order after a process that was killed.

    What it had not finished is removed, and TensorFlow's record of the checkpoints, which may be lost or older, is
    written anew.
    """
    for unfinished in folder.glob(UNFINISHED):
        shutil.rmtree(unfinished)
    whole = [path for path in reversed(list_checkpoints(folder)) if os.path.exists(f"{path}.index")]
    if whole:
        tf.compat.v1.train.update_checkpoint_state(
            str(folder), whole[-1], whole
        )  # TensorFlow 2 has no other name for it


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a run for one process; the system lets go of it when the process ends, however it ends.

    Raises:
        RunError: another process holds it.
    """
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise RunError(f"{folder}: another process trains this run; wait for it, or start another run") from error


# --- files that are whole or not there -------------------------------------------------------------------------------


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write a file so that in the end it is there whole or not at all. Errors of the disk name the file."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        part.unlink(missing_ok=True)
