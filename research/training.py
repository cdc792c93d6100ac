"""Speed and memory of training, as tables in Markdown.

    python research/training.py step      # speed of the training step
    python research/training.py growth    # time and memory to read 5 to 500 crops, and to pass over them once
    python research/training.py memory    # peak memory of training

Each measurement runs in its own process. The data are a few simulated retinas under many names.
"""

from common import new_parser, print_head, print_row

# isort: split
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import pix_layers
import pix_pix_train as train
from retina.ut_fsocta import DATASET_NAME, REGIONS
from run import devices
from run.data import load_run_data, training_patches
from run.settings import Settings
from simulation.dataset import eye_of, write_dataset

POLICIES = ("float32", "mixed_bfloat16")
SECONDS = 8  # minimum duration of the timed calls
ROUNDS = 2  # of measuring the speeds of the step; the mean is printed
MATRIX = 4096  # side of the two matrices whose product shows what the machine can do
GFLOP = (
    183.3  # of a step for each patch of 256 px: the convolutions, forward and both gradients; the rest is negligible
)
EYES = 5  # simulated retinas on disk; the other names are links to them
TRAIN_SUBJECTS = "1000-2999"  # enough for the most crops; distinct from the published validation ids


# --- measurements, each in its own process ----------------------------------------------------------------------------


def step(policy: str, batch_size: int, way: str) -> dict[str, float]:
    """Speed of the training step, and of a large matrix product of the same type, measured alternately.

    Args:
        policy: Keras' dtype policy.
        batch_size: patches of 256 px per step.
        way: ours; or published: four OCT-A channels, and Keras' own batch normalisation and Adam, not fused ones.

    Returns:
        patches: per second. product: GFLOP/s of the matrix product.
    """

    def timed(work: Callable[[], tf.Tensor]) -> float:
        started = time.perf_counter()
        float(work())  # waits for the result
        return time.perf_counter() - started

    if way == "published":
        pix_layers.FusedBatchNorm, devices.Adam = keras.layers.BatchNormalization, keras.optimizers.Adam
    dtype = tf.bfloat16 if policy == "mixed_bfloat16" else tf.float32
    one, other = (tf.cast(tf.random.normal((MATRIX, MATRIX)), dtype) for _ in range(2))
    product = tf.function(lambda: tf.reduce_sum(tf.cast(one @ other, tf.float32)))
    works, seconds = (new_step(policy, batch_size, 4 if way == "published" else 1), product), []
    while sum(turn[0] for turn in seconds[2:]) < SECONDS:  # the first two turns compile
        seconds.append([timed(work) for work in works])
    of_step, of_product = np.median(seconds[2:], axis=0).tolist()
    return {"patches": batch_size / of_step, "product": 2 * MATRIX**3 / 1e9 / of_product}


def new_step(policy: str, batch_size: int, octa_channels: int = 1) -> Callable[[], tf.Tensor]:
    """The compiled training step on a random batch, to be called repeatedly; returns a loss."""
    networks = train.Pix2Pix(Settings(precision=policy, batch_size=batch_size, octa_channels=octa_channels))
    train_step = devices.compiled(networks.train_step, networks.signature, tf.distribute.get_strategy())
    batch = [tf.random.uniform((batch_size, *image.shape[1:]), -1, 1) for image in networks.signature]
    return lambda: train_step(*batch)["gen_total_loss"]


def reading(crops: int) -> dict[str, float]:
    """Seconds to read crops as a run does, and to pass over their batches; GB of their pixels, and GB used."""
    with tempfile.TemporaryDirectory() as folder:
        # Subject 1 does not exist: only training crops are read.
        data = str(write_crops(Path(folder), crops))
        settings = Settings(data, train_subjects=TRAIN_SUBJECTS, validation_subjects="1", batch_size=4)
        before, started = own_gb(), time.perf_counter()
        images = load_run_data(settings).train
    read = time.perf_counter()
    for _ in training_patches(images, settings).batches(0, 1):
        pass
    passed, pixels = time.perf_counter(), sum(image.nbytes for image in images) / 1e9
    return {"pixels": pixels, "read": read - started, "pass": passed - read, "held": own_gb() - before}


def own_gb() -> float:
    """Memory in GB that this process uses now, without mapped files, which the system can drop (Linux)."""
    status = Path("/proc/self/status").read_text()
    return sum(map(int, re.findall(r"Rss(?:Anon|Shmem):\s+(\d+) kB", status))) * 1024 / 1e9


def write_crops(folder: Path, crops: int) -> Path:
    """Write a data set with that many training pairs and ten validation pairs; returns its folder."""
    simulated, root = folder / "simulated", folder / DATASET_NAME
    write_dataset(simulated, range(1, EYES + 1))
    for number, subject in enumerate([*range(1000, 1000 + crops), *(26 + place // 2 for place in range(10))]):
        region, source = REGIONS[number % 2], 1 + number % EYES
        for kind in ("fundus", "octa"):
            path = root / "cropped" / kind / region / f"{subject}_OD.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(simulated / "cropped" / kind / region / f"{source}_{eye_of(source)}.png", path)
    return root


def memory(policy: str, batch_size: int) -> dict[str, float]:
    """Peak memory in GB of a process that trains."""
    train_step = new_step(policy, batch_size)
    for _ in range(3):
        float(train_step())
    return {"gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


# --- tables ----------------------------------------------------------------------------------------------------------


def measured(measure: Callable[..., dict[str, float]], *arguments: str | int) -> dict[str, float]:
    """Call a function of this file in its own process. If it fails, end the program with its errors."""
    command = [sys.executable, __file__, "--measure", measure.__name__, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def table_of_steps() -> None:
    """The step in both precisions, compared with a matrix product and with the published step in float32."""
    print_head("batch", "patches/s", "of a matrix product", "of the published step")
    for batch_size in (1, 4, 8):
        tasks = {policy: (step, policy, batch_size, "ours") for policy in POLICIES}
        tasks["published"] = (step, "float32", batch_size, "published")
        rounds = [{name: measured(*task) for name, task in tasks.items()} for _ in range(ROUNDS)]
        for policy in POLICIES:
            patches, published = (np.mean([one[name]["patches"] for one in rounds]) for name in (policy, "published"))
            product = np.mean([one[policy]["product"] for one in rounds])
            values = patches, GFLOP * patches / product, patches / published
            print_row(policy, [str(batch_size), *(f"{value:.2f}" for value in values)])


def table_of_growth() -> None:
    """Read more and more crops and pass over their batches: an epoch without its steps."""
    print_head("pixels, GB", "read, s", "a pass over the batches, s", "memory, GB")
    for crops in (5, 50, 500):
        of = measured(reading, crops)
        print_row(f"{crops} crops", [f"{of[name]:.2f}" for name in ("pixels", "read", "pass", "held")])


def table_of_memory() -> None:
    """Peak memory at several batch sizes."""
    sizes = 1, 8, 32
    print_head(*(f"batch {size}" for size in sizes))
    for policy in POLICIES:
        print_row(policy, [f"{measured(memory, policy, size)['gb']:.1f} GB" for size in sizes])


TABLES = {"step": table_of_steps, "growth": table_of_growth, "memory": table_of_memory}


def main() -> None:
    """Print a table, or take one of its measurements and print it as JSON."""
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(globals()[sys.argv[2]](*json.loads(sys.argv[3]))))
        return
    parser = new_parser(__doc__)
    parser.add_argument("what", choices=TABLES)
    TABLES[parser.parse_args().what]()


if __name__ == "__main__":
    main()
