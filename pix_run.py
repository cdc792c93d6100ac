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
import platform
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
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
    import keras
    import tensorflow as tf

from filelock import FileLock, Timeout

from dataset_load_mod import find_dataset
from phantom_retina import DRAWN, SAMPLE_FOLDER
from pix_settings import OptionError, Settings, one_line

BEST = "best"
CHECKPOINT = re.compile(r"(ckpt-(\d+))\.(?:index|data-\d+-of-\d+)")
UNFINISHED = "ckpt-*_temp"  # where TensorFlow writes a checkpoint before it gives it its name


class RunError(RuntimeError):
    """A run that cannot start, go on or be used; the message is one line for the user."""


# --- settings --------------------------------------------------------------------------------------------------------


def write_run(folder: Path, settings: Settings, digest: str) -> None:
    """Write run.json: the resolved settings, the data's digest, and what ran it."""
    content = {
        "settings": asdict(settings),
        "data_digest": digest,
        "versions": {"python": platform.python_version(), "tensorflow": tf.__version__, "keras": keras.__version__},
    }
    with whole_file(folder / "run.json") as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_run(folder: Path) -> tuple[Settings, str]:
    """The settings of run.json, and the data's digest. Raises RunError if it is missing, damaged or foreign."""
    path = folder / "run.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings, digest = Settings(**content["settings"]), str(content["data_digest"])
    except FileNotFoundError as error:
        raise RunError(f"{folder}: is no run (it has no run.json)") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunError(f"{path}: damaged, or not of this program ({error})") from error
    if settings.data is None or settings.name is None or settings.precision == "auto":
        raise RunError(f"{path}: damaged, or not of this program (its settings are not resolved)")
    return settings, digest


def dataset_of_run(given: str | None, settings: Settings, option: str) -> Path:
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
            checkpoint.read(path).assert_existing_objects_matched().expect_partial()
        except (AssertionError, IndexError, ValueError, tf.errors.OpError) as error:
            faults.append(f"{path}: damaged, or of another model ({reason_of(error)})")
        else:
            for fault in faults:
                print(f"{one_line(fault)}; the one before it is used")
            return path
    if not faults:
        raise RunError(f"{folder}: holds no checkpoint")
    raise RunError(faults[0] + (f", and {len(faults) - 1} older ones too" if faults[1:] else ""))


def reason_of(error: Exception) -> str:
    """What an error of TensorFlow's says about a file, without the names of its own insides."""
    return re.sub(r"^{{.*?}} ?|/part-[^;\s]*| \[Op:.*", "", (str(error).splitlines() or [""])[0])


def save(checkpoint: tf.train.Checkpoint, folder: Path, step: int, keep: int) -> None:
    """Save a checkpoint as ckpt-STEP, whole or not at all, and remove the oldest.

    Args:
        checkpoint: what to save.
        folder: made if it is not there.
        step: for its name.
        keep: how many, with this one, to keep of those up to this step.

    Raises:
        OSError, tf.errors.OpError: it cannot be written; those before it are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        checkpoint.write(str(folder / f"ckpt-{step}"))
    finally:
        remove_unfinished(folder)
    whole = [path for path in list_checkpoints(folder) if step_of(path) <= step and os.path.exists(f"{path}.index")]
    for old in whole[keep:]:
        for path in sorted(folder.glob(f"{Path(old).name}.*"), reverse=True):  # .index first: without it, it is none
            path.unlink()
    with whole_file(folder / "checkpoint") as part:  # TensorFlow's own record, for other programs
        names = [Path(path).name for path in whole[:keep]]
        lines = [
            f'model_checkpoint_path: "{names[0]}"',
            *(f'all_model_checkpoint_paths: "{name}"' for name in names[::-1]),
        ]
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def remove_unfinished(folder: Path) -> None:
    """Remove the checkpoint that a process was writing when it was killed, or when the disk was full."""
    for unfinished in folder.glob(UNFINISHED):
        shutil.rmtree(unfinished)


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
