"""Speed and memory of training, as tables in Markdown.

    python research/training.py step      # speed of the training step; also in PyTorch if installed
    python research/training.py epoch     # time that an epoch spends outside its steps
    python research/training.py start     # time to --help, to the first step, to read 362 pairs
    python research/training.py growth    # time and memory for 5 to 2000 crops; with --plot FILE also a picture
    python research/training.py memory    # peak memory of training

Each measurement runs in its own process. The data are a few simulated retinas under many names.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pix_pix_train as train  # first: it keeps TensorFlow's messages away

# isort: split
import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

import pix_layers
import run.devices as pix_devices
from pix_discriminator import Discriminator
from pix_generator import Generator
from retina.ut_fsocta import DATASET_NAME, REGIONS
from run.data import load_run_data, training_patches
from run.settings import Settings
from simulation.dataset import eye_of, write_dataset

POLICIES = ("float32", "mixed_bfloat16")
SECONDS = 8  # minimum duration of the timed calls
ROUNDS = 2  # of measuring the speeds of the step; the mean is printed
MATRIX = 4096  # side of the two matrices whose product shows what the machine can do
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
        images: per second. gflop: arithmetic per image. product: GFLOP/s of the matrix product.
    """

    def timed(work: Callable[[], tf.Tensor]) -> float:
        started = time.perf_counter()
        float(work())  # waits for the result
        return time.perf_counter() - started

    octa_channels = 1
    if way == "published":
        octa_channels = 4
        pix_layers.FusedBatchNorm, pix_devices.Adam = keras.layers.BatchNormalization, keras.optimizers.Adam
    dtype = tf.bfloat16 if policy == "mixed_bfloat16" else tf.float32
    one, other = (tf.cast(tf.random.normal((MATRIX, MATRIX)), dtype) for _ in range(2))
    product = tf.function(lambda: tf.reduce_sum(tf.cast(one @ other, tf.float32)))
    works, seconds = (new_step(policy, batch_size, octa_channels), product), []
    while sum(turn[0] for turn in seconds[2:]) < SECONDS:  # the first two turns compile
        seconds.append([timed(work) for work in works])
    of_step, of_product = np.median(seconds[2:], axis=0).tolist()
    product_gflops = 2 * MATRIX**3 / 1e9 / of_product
    return {"images": batch_size / of_step, "gflop": gflop(octa_channels), "product": product_gflops}


def pytorch(policy: str, batch_size: int) -> dict[str, float]:
    """Images per second of the step in PyTorch, in a process without TensorFlow."""
    command = [sys.executable, Path(__file__).with_name("step_in_pytorch.py"), policy, str(batch_size), str(SECONDS)]
    return {"images": float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)}


def new_step(policy: str, batch_size: int, octa_channels: int = 1) -> Callable[[], tf.Tensor]:
    """The compiled training step on a random batch, to be called repeatedly; returns a loss."""
    networks = train.Pix2Pix(Settings(precision=policy, batch_size=batch_size, octa_channels=octa_channels))
    train_step = pix_devices.compiled(networks.train_step, networks.signature, tf.distribute.get_strategy())
    batch = [tf.random.uniform((batch_size, *image.shape[1:]), -1, 1) for image in networks.signature]
    return lambda: train_step(*batch)["gen_total_loss"]


def gflop(octa_channels: int) -> float:
    """Arithmetic of a step for one patch of 256 px, in GFLOP: that of the convolutions; the rest is negligible.

    A convolution's forward pass, its gradient to the weights and its gradient to the input each cost the same. The
    generator computes the three once. The discriminator judges two images: forward and gradient to the weights twice,
    gradient to the input twice for its own loss and once for the generator's. The first layers need no gradient to the
    input, except the discriminator's for the generator's loss.
    """
    patch, transposed, total = (256, 256), keras.layers.Conv2DTranspose, 0
    generator, discriminator = Generator(3, patch, octa_channels), Discriminator(3, octa_channels, patch)
    for network, passes, passes_of_first in ((generator, 3, 2), (discriminator, 7, 5)):
        for number, layer in enumerate(pix_layers.layers_of(network, (keras.layers.Conv2D, transposed))):
            pixels = np.prod((layer.input if isinstance(layer, transposed) else layer.output).shape[1:3])
            total += (passes if number else passes_of_first) * 2 * pixels * np.prod(layer.kernel.shape)
    return float(total / 1e9)


def epoch(crops: int, way: str) -> dict[str, float]:
    """Train two epochs at batch 4. As published, each epoch also compiles the step again and predicts by patches.

    Returns:
        Seconds: `first`, from the start to the end of the first step; of the second epoch, `all` and those in `steps`.
    """
    steps, ends = [], []  # start and end of each step; ends of the epochs
    compiled, end_epoch = pix_devices.compiled, train.end_epoch

    def timed_compiled(*arguments):
        work = compiled(*arguments)

        def timed_step(*batch):
            started = time.perf_counter()
            losses = work(*batch)
            float(losses["gen_total_loss"])  # waits for the result
            steps.append((started, time.perf_counter()))
            return losses

        return timed_step

    def timed_end(run, stop):
        if way == "published":
            run.train_step = timed_compiled(run.networks.train_step, run.networks.signature, run.strategy)
            pair = run.data.validation[0]
            run.networks.predictor.predict_as_published(pair.fundus, pair.fov, patch_size=256, stride=2, batch_size=4)
        done = end_epoch(run, stop)
        ends.append(time.perf_counter())
        return done

    pix_devices.compiled, train.end_epoch = timed_compiled, timed_end
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        data, started = write_crops(Path("data"), crops), time.perf_counter()
        train.main(f"--data {data} --train-subjects {TRAIN_SUBJECTS} --batch-size 4 --epochs 2".split())
    in_steps = sum(end - start for start, end in steps if start > ends[0])
    return {"first": steps[0][1] - started, "all": ends[1] - ends[0], "steps": in_steps}


def reading(crops: int) -> dict[str, float]:
    """Seconds to read crops as a run does, and to pass over their batches; GB of their pixels, and GB used."""
    with tempfile.TemporaryDirectory() as folder:
        data = str(write_crops(Path(folder), crops))
        # Subject 1 does not exist: only training crops are read.
        settings = Settings(data, train_subjects=TRAIN_SUBJECTS, validation_subjects="1", batch_size=4)
        before, started = own_gb(), time.perf_counter()
        images = load_run_data(settings, verbose=False).train
    read = time.perf_counter()
    for _ in training_patches(images, settings).batches(0, 1):
        pass
    passed, pixels = time.perf_counter(), sum(image.nbytes for image in images) / 1e9
    return {"crops": crops, "pixels": pixels, "read": read - started, "pass": passed - read, "held": own_gb() - before}


def memory(policy: str, batch_size: int) -> dict[str, float]:
    """Peak memory in GB of a process that trains."""
    train_step = new_step(policy, batch_size)
    for _ in range(3):
        float(train_step())
    return {"gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


def own_gb() -> float:
    """Memory in GB that this process uses now, without mapped files, which the system can drop (Linux)."""
    status = Path("/proc/self/status").read_text()
    return sum(map(int, re.findall(r"Rss(?:Anon|Shmem):\s+(\d+) kB", status))) * 1024 / 1e9


def write_crops(folder: Path, crops: int) -> Path:
    """Write a data set with that many training pairs and ten validation pairs; returns its folder."""
    drawn, root = folder / "drawn", folder / DATASET_NAME
    write_dataset(drawn, range(1, EYES + 1), progress=False)
    for number, subject in enumerate([*range(1000, 1000 + crops), *(26 + place // 2 for place in range(10))]):
        region, source = REGIONS[number % 2], 1 + number % EYES
        for kind in ("fundus", "octa"):
            path = root / "cropped" / kind / region / f"{subject}_OD.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(drawn / "cropped" / kind / region / f"{source}_{eye_of(source)}.png", path)
    return root


# --- tables ----------------------------------------------------------------------------------------------------------


def measured(measure: Callable[..., dict[str, float]], *arguments: str | int) -> dict[str, float]:
    """Call a function of this file in its own process. If it fails, end the program with its errors."""
    command = [sys.executable, __file__, "--measure", measure.__name__, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def print_row(*cells: object) -> None:
    """Print a row of a table."""
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def print_head(*titles: str) -> None:
    """Print the head of a table."""
    print_row(*titles)
    print("|---" * len(titles) + "|")


def table_of_steps(_) -> None:
    """The step in both precisions, compared with a matrix product, the published step in float32, and PyTorch."""
    ratios = ("of a matrix product", "of the published step", *(["of PyTorch"] if find_spec("torch") else []))
    print_head("precision", "batch", "images/s", "GFLOP/s", *ratios)
    for batch_size in (1, 4, 8):
        tasks = {"published": (step, "float32", batch_size, "published")}
        for policy in POLICIES:
            tasks[policy] = (step, policy, batch_size, "ours")
            if find_spec("torch"):
                tasks[f"pytorch {policy}"] = (pytorch, policy, batch_size)
        rounds = [{name: measured(*task) for name, task in tasks.items()} for _ in range(ROUNDS)]
        images = {name: np.mean([one[name]["images"] for one in rounds]) for name in tasks}
        for policy in POLICIES:
            gflops = images[policy] * rounds[0][policy]["gflop"]
            product = np.mean([one[policy]["product"] for one in rounds])
            others = [images[policy] / images[name] for name in ("published", f"pytorch {policy}") if name in images]
            ratios = [f"{ratio:.2f}" for ratio in (gflops / product, *others)]
            print_row(policy, batch_size, f"{images[policy]:.2f}", f"{gflops:.0f}", *ratios)
    print(f"\n{rounds[0][policy]['gflop']:.0f} GFLOP an image; the matrix product, {policy}: {product:.0f} GFLOP/s")


def table_of_epochs(_) -> None:
    """An epoch of a few crops, and of as many as UT-FSOCTA has for training, ours and as published."""
    print_head("training crops", "way", "seconds", "outside the steps", "of ours")
    for crops in (5, 100):
        of = {way: measured(epoch, crops, way) for way in ("ours", "published")}
        for way, seconds in of.items():
            outside, ratio = 1 - seconds["steps"] / seconds["all"], seconds["all"] / of["ours"]["all"]
            print_row(crops, way, f"{seconds['all']:.1f}", f"{outside:.1%}", f"{ratio:.2f}")


def table_of_starts(_) -> None:
    """How long a user waits."""

    def seconds_of(*arguments: str) -> float:
        started, project = time.perf_counter(), Path(train.__file__).parent
        subprocess.run([sys.executable, *arguments], cwd=project, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started

    print_head("what", "seconds")
    for program in ("pix_pix_train.py", "pix_pix_gen.py", "pix_pix_eval.py", "dataset_load_mod.py"):
        print_row(f"{program} --help", f"{seconds_of(program, '--help'):.2f}")
    loading = seconds_of("-c", "import pix_pix_train")
    print_row("first training step", f"{loading + measured(epoch, 5, 'ours')['first']:.1f}")
    print_row("362 pairs read, as many as UT-FSOCTA has", f"{measured(reading, 362)['read']:.1f}")


def table_of_growth(plot: Path | None) -> None:
    """Read more and more crops and pass over their batches: an epoch without its steps. Optionally plot the result."""
    print_head("crops", "pixels, GB", "read, s", "pass over the batches, s", "memory held, GB")
    rows = []
    for crops in (5, 50, 500, 2000):
        rows.append(of := measured(reading, crops))
        print_row(crops, f"{of['pixels']:.3f}", f"{of['read']:.2f}", f"{of['pass']:.2f}", f"{of['held']:.2f}")
    if plot is None:
        return
    figure = Figure((9, 3.6), layout="constrained")
    panels = ((("read", "pass"), "seconds", "log"), (("held", "pixels"), "GB", "linear"))
    for axes, (names, label, scale) in zip(figure.subplots(1, 2), panels, strict=True):
        for name in names:
            axes.plot([row["crops"] for row in rows], [row[name] for row in rows], "o-", label=name)
        axes.set(xscale=scale, yscale=scale, xlabel="crops", ylabel=label)
        axes.legend()
    figure.savefig(plot, dpi=100)


def table_of_memory(_) -> None:
    """Peak memory at several batch sizes."""
    print_head("precision", "batch", "peak, GB")
    for policy in POLICIES:
        for batch_size in (1, 8, 32):
            print_row(policy, batch_size, f"{measured(memory, policy, batch_size)['gb']:.1f}")


TABLES = {
    "step": table_of_steps,
    "epoch": table_of_epochs,
    "start": table_of_starts,
    "growth": table_of_growth,
    "memory": table_of_memory,
}


def main() -> None:
    """Print a table, or take one of its measurements and print it as JSON."""
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(globals()[sys.argv[2]](*json.loads(sys.argv[3]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=TABLES)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="picture of the growth to write")
    options = parser.parse_args()
    TABLES[options.what](options.plot)


if __name__ == "__main__":
    main()
