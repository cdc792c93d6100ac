"""Which weights to predict with or to start from: a run's checkpoints, or a single file, such as the one in weights/.

    python pix_pix_gen.py --run training_checkpoints/X --export weights --format weights    # wrote the file in weights/

A folder with a single file is a run that cannot be resumed: its run.json keeps the settings and the file's digest. The
file contains the generator only, with kernels in float16: half the size, and grey levels that differ by less than one.
"""

import hashlib
import io
import os
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from basics.command_line import VERSION, one_line, why
from basics.files import atomic_file
from pairs.origin import printable
from pix_generator import Generator
from retina.images import FUNDUS_CHANNELS
from run.checkpoints import RunError, find_weights, read_run, restore, step_of, write_run
from run.settings import CHECKPOINTS, Settings

EPOCH = "epoch/.ATTRIBUTES/VARIABLE_VALUE"  # the name of `RunState.epoch` in a checkpoint
NAMED = 2  # of the runs that are not used, with the reason
SHIPPED = Path(__file__).resolve().parents[1] / "weights"  # the supplied weights


def run_to_use(option: str | None) -> tuple[Path, str]:
    """The run given by `--run`, otherwise the newest finished one on real pairs, otherwise the supplied weights.

    Returns:
        Its folder. And why it is used, in words, with the newer runs that are not; "" for `--run`.
    """
    if option is not None:
        return Path(option), ""
    reasons = []
    files = sorted(Path(CHECKPOINTS).glob("*/ckpt-*.index"), key=lambda path: -path.stat().st_mtime)
    for run in dict.fromkeys(path.parent for path in files):
        if not (reason := why_not(run)):
            return run, "; ".join(["the newest finished run on real pairs", *reasons[:NAMED]])
        reasons.append(one_line(f"{run} {reason}"))
    shipped = Path("weights") if Path("weights").resolve() == SHIPPED else SHIPPED
    return shipped, "; ".join(reasons[:NAMED]) or f"no run in {CHECKPOINTS}/"


def why_not(run: Path) -> str:
    """Why a run is used only if `--run` names it, in words; "" if it is used without."""
    try:
        made = read_run(run)
        done = int(tf.train.load_checkpoint(find_weights(run, "last")).get_tensor(EPOCH))
    except (RunError, RuntimeError, TypeError, ValueError, tf.errors.OpError) as error:
        return f"cannot be used ({why(error)})"
    if made.simulated:
        return "was trained on simulated retinas alone"
    return "" if done >= made.settings.epochs else f"has completed {done} of {made.settings.epochs} epochs"


def load_weights(generator: keras.Model, run: Path, weights: str | None = None) -> str:
    """Load the weights of a run into a generator, from the run's checkpoints or its single file.

    Args:
        generator: with the number of channels given in run.json.
        run: the run's folder.
        weights: which checkpoint, see `find_weights`.

    Returns:
        The path that they were read from.

    Raises:
        RunError: they are missing, damaged, or of another model.
    """
    if (entry := read_run(run).weights) is None:
        path = find_weights(run, weights)
        restore(tf.train.Checkpoint(generator=generator), path)
        return path
    if weights == "last":
        raise RunError(f"{run}: has only one file of weights, the best; drop --weights last")
    path = run / Path(entry["file"]).name
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        again = "`git checkout -- weights`, or train a run" if run.resolve() == SHIPPED else "export it again"
        raise RunError(f"{path}: missing or damaged, not the file that run.json describes; to get it back: {again}")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        values = [arrays[name] for name in arrays.files]
    if [value.shape for value in values] != [variable.shape for variable in generator.weights]:
        raise RunError(f"{path}: the weights are of another model")
    for variable, value in zip(generator.weights, values, strict=True):
        variable.assign(value)
    return str(path)


def describe(path: str) -> str:
    """The path of weights, with a remark on the supplied ones."""
    shipped = Path(path).resolve().parent == SHIPPED
    return path + (" (supplied weights, trained on simulated retinas only)" if shipped else "")


def made_from(run: Path, path: str) -> str:
    """What predictions depend on besides image and options: the same text in every current folder.

    Args:
        run: the run's folder.
        path: the path that its weights were read from, see `load_weights`.

    Returns:
        The path of the weights from the run's folder on with a short digest, the arithmetic, and the program's version.
    """
    file = Path(path if Path(path).exists() else f"{path}.index")  # the index has a checksum of each tensor
    weights = Path(run.resolve().name, os.path.relpath(path, run)).as_posix()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    return f"{printable(Path(weights))} ({digest}), {keras.config.dtype_policy().name}, version {VERSION}"


def write_weights(generator: keras.Model, run: Path, source: str, folder: Path) -> Path:
    """Write a generator as one file, with a run.json that names it.

    Args:
        generator: with the weights of a run.
        run: the run's folder.
        source: the path that its weights were read from, see `load_weights`.
        folder: to write to; made if it does not exist.

    Returns:
        The file.

    Raises:
        RunError: the folder is that of a run of checkpoints.
        OSError: it cannot be written.
    """
    arrays = {}
    for number, variable in enumerate(generator.weights):
        value = variable.numpy()
        # Scales, offsets and statistics are few, and some of these are too large for float16.
        arrays[f"{number:02}_{variable.name}"] = value.astype(np.float16) if value.ndim > 1 else value
    content = io.BytesIO()
    np.savez(content, **arrays)
    if (folder / "run.json").exists() and read_run(folder).weights is None:
        raise RunError(f"--export {folder}: is a run, which its weights would replace; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"ckpt-{step_of(source)}.npz"
    with atomic_file(file) as part:
        part.write_bytes(content.getvalue())
    entry = {"file": file.name, "sha256": hashlib.sha256(content.getvalue()).hexdigest()}
    write_run(folder, *read_run(run)[:3], entry, read_run(run).simulated)
    return file


def start_from(settings: Settings, generator: keras.Model, discriminator: keras.Model) -> None:
    """Load the weights of the run given by `--init-from`, the best by validation if there are any.

    A single file of weights has no discriminator, which then starts untrained.

    Raises:
        RunError: the folder is not a run, or its OCT-A have another number of channels.
    """
    folder = Path(settings.init_from)
    run = read_run(folder)
    its, mine = run.settings.octa_channels, settings.octa_channels
    if its != mine:
        raise RunError(f"--init-from {folder}: its --octa-channels is {its}, this run's is {mine}")
    source = generator
    if run.settings.vessel_output != settings.vessel_output:
        source = Generator(FUNDUS_CHANNELS, (None, None), run.settings.target_channels)
    path = load_weights(source, folder)
    if run.weights is None:
        restore(tf.train.Checkpoint(discriminator=discriminator), path)
    if source is not generator:
        copy_weights(source, generator)
    print(f"Weights from {path}")


def copy_weights(source: keras.Model, generator: keras.Model) -> None:
    """Copy the weights of a generator into one with a vessel probability more, or less.

    A new vessel probability starts as a copy of the OCT-A, which is bright where vessels are.
    """
    for one, other in zip(source.weights, generator.weights, strict=True):
        value, axis = one.numpy(), -2 if one.name == "kernel" else -1  # of the output channels of the last layer
        if one.shape != other.shape:
            channels = [*range(min(one.shape[axis], other.shape[axis])), 0]
            value = value.take(channels[: other.shape[axis]], axis)
        other.assign(value)
