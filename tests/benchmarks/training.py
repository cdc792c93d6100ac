"""Speed and memory of training, as tables in Markdown.

    python tests/benchmarks/training.py step      # images a second of the compiled step; with PyTorch, if installed
    python tests/benchmarks/training.py convolutions    # each convolution's speed, as a share of a matrix product's
    python tests/benchmarks/training.py epoch     # what an epoch costs beside its steps, also in the published way
    python tests/benchmarks/training.py start     # seconds to the first step, to --help, to read 362 pairs
    python tests/benchmarks/training.py growth [--plot FILE]    # reading, a pass, memory, for 5 to 2000 crops
    python tests/benchmarks/training.py memory    # peak memory of training at batches of 1, 8, 32

Each measure is taken in a process of its own, those that are compared in turns.
Data are sample retinas, a few of them under many names.
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

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

POLICIES = ("float32", "mixed_bfloat16")
BATCHES = (1, 4, 8)
SECONDS = 8  # at least, of timed steps
ROUNDS = 2  # of what is compared; the mean is shown
MATRIX = 4096  # side of the matrices whose product is the measure of what the machine can do
PRODUCT_GFLOP = 2 * MATRIX**3 / 1e9
EYES = 5  # drawn; the others are links to them
CROPS = (5, 50, 500, 2000)
CACHES = ("memory", "disk")


# --- in a process of their own ---------------------------------------------------------------------------------------


def step(policy: str, batch_size: int, way: str) -> dict[str, float]:
    """Images a second and GFLOP/s of the step, and GFLOP/s of a large matrix product in its type, in turns.

    `published` has four OCT-A channels, and Keras' own norm layers and optimiser in place of the fused ones.
    """
    import pix_pix_train as train

    # isort: split
    import keras
    import numpy as np
    import tensorflow as tf

    import pix_generator

    octa_channels = 1
    if way == "published":
        octa_channels = 4
        pix_generator.FusedBatchNorm, train.FusedAdam = keras.layers.BatchNormalization, keras.optimizers.Adam
    settings = train.Settings(precision=policy, batch_size=batch_size, octa_channels=octa_channels, name="x")
    networks = train.Pix2Pix(settings)
    random = np.random.default_rng(0)
    batch = [
        tf.constant(random.uniform(-1, 1, (batch_size, 256, 256, channels)), tf.float32)
        for channels in (3, octa_channels)
    ]
    product = matrix_product(policy)

    def train_step():
        return networks.train_step(*batch)["gen_total_loss"]

    for work in (train_step, train_step, product, product):
        timed(work)
    steps, products = [], []
    while sum(steps) < SECONDS:
        steps.append(timed(train_step))
        products.append(timed(product))
    images, arithmetic = batch_size / float(np.median(steps)), gflop(convolutions(octa_channels))
    return {
        "images": images,
        "gflops": images * arithmetic,
        "product": PRODUCT_GFLOP / float(np.median(products)),
        "gflop": arithmetic,
    }


def pytorch(policy: str, batch_size: int) -> dict[str, float]:
    """Images a second of the step in PyTorch."""
    import numpy as np
    from step_in_pytorch import new_step

    work, steps = new_step(batch_size, policy == "mixed_bfloat16"), []
    for _ in range(2):
        work()
    while sum(steps) < SECONDS:
        steps.append(timed(work))
    return {"images": batch_size / float(np.median(steps))}


def matrix_product(policy: str) -> Callable[[], object]:
    """A large matrix product, to call again and again."""
    import tensorflow as tf

    kind = tf.bfloat16 if policy == "mixed_bfloat16" else tf.float32
    one, other = (tf.cast(tf.random.normal((MATRIX, MATRIX)), kind) for _ in range(2))
    return tf.function(lambda: tf.reduce_sum(tf.cast(one @ other, tf.float32)))


def timed(work: Callable[[], object]) -> float:
    """Seconds until a scalar result is there."""
    started = time.perf_counter()
    float(work())
    return time.perf_counter() - started


def median_seconds(work: Callable[[], object]) -> float:
    """Of five calls after one."""
    import numpy as np

    return float(np.median([timed(work) for _ in range(6)][1:]))


def convolutions(octa_channels: int) -> list[tuple]:
    """The convolutions of a step as (layer, times forward, times to its input, times to its weights).

    The generator does each once, but its first layer has no gradient to its input. The discriminator judges two
    images: twice forward and to the weights; to the input twice for its own loss (but for the first layer) and once for
    the generator's.
    """
    import keras

    from pix_discriminator import Discriminator
    from pix_generator import Generator
    from pix_pix_gen import layers_of

    patch, kinds = (256, 256), (keras.layers.Conv2D, keras.layers.Conv2DTranspose)
    generator = list(layers_of(Generator(3, patch, octa_channels), kinds))
    discriminator = list(layers_of(Discriminator(3, octa_channels, patch), kinds))
    return [
        *((layer, 1, int(layer is not generator[0]), 1) for layer in generator),
        *((layer, 2, 1 if layer is discriminator[0] else 3, 2) for layer in discriminator),
    ]


def gflop(convolutions: list[tuple]) -> float:
    """Arithmetic of a step for one 256 px patch, in GFLOP: that of its `convolutions`, which is all but all.

    Each convolution is as much work forward, backward to its input, and backward to its weights.
    """
    return sum(sum(times) * layer_gflop(layer) for layer, *times in convolutions)


def layer_gflop(layer) -> float:
    """Arithmetic of a convolution, one way, for one image, in GFLOP."""
    import keras
    import numpy as np

    pixels = layer.input if isinstance(layer, keras.layers.Conv2DTranspose) else layer.output
    return 2 * pixels.shape[1] * pixels.shape[2] * int(np.prod(layer.kernel.shape)) / 1e9


def bare(policy: str, batch_size: int) -> dict:
    """Images a second if a step were its convolutions and nothing else, each timed by itself; and GFLOP/s of each."""
    import pix_run  # noqa: F401  (keeps TensorFlow's messages away)

    # isort: split
    import keras
    import tensorflow as tf

    keras.config.set_dtype_policy(policy)
    total, layers, of_step = 0.0, [], convolutions(octa_channels=1)
    for layer, *times in of_step:
        shapes = [(batch_size, *tensor.shape[1:]) for tensor in (layer.input, layer.output)]
        x, upstream = (tf.cast(tf.random.normal(shape), layer.compute_dtype) for shape in shapes)

        def forward(layer=layer, x=x):
            return layer(x)

        def to_input(layer=layer, x=x, upstream=upstream):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x)
            return tape.gradient(y, x, upstream)

        def to_weights(layer=layer, x=x, upstream=upstream):
            with tf.GradientTape() as tape:
                y = layer(x)
            return tape.gradient(y, layer.kernel.value, upstream)

        rates = []
        for work, number in zip((forward, to_input, to_weights), times, strict=True):
            # A gradient does without the forward part, which is left out of the graph.
            seconds = median_seconds(tf.function(lambda work=work: tf.reshape(work(), [-1])[0]))
            total += number * seconds
            rates.append(batch_size * layer_gflop(layer) / seconds)
        sizes = [f"{tensor.shape[1]} x {tensor.shape[2]} x {tensor.shape[3]}" for tensor in (layer.input, layer.output)]
        share = sum(times) * layer_gflop(layer) / gflop(of_step)
        layers.append({"sizes": " to ".join(sizes), "share": share, "rates": rates})
    product = PRODUCT_GFLOP / median_seconds(matrix_product(policy))
    return {"images": batch_size / total, "layers": layers, "product": product}


def epoch(crops: int, way: str) -> dict[str, float]:
    """Seconds of a second epoch at batch 4, and how many of them are steps.

    `published` traces the step anew and predicts a crop by patches in each epoch, on top of what we do.
    """
    import pix_pix_train as train

    # isort: split
    import tensorflow as tf

    spent = {"steps": 0.0}
    ends: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_crops(Path("data"), crops)
        real_epoch, real_end = train.train_epoch, train.end_epoch

        def timed_epoch(run, batches, stop):
            networks = run.networks
            if way == "published":
                networks.train_step = tf.function(networks._train_step)
            work = networks.train_step

            def timed(*batch):
                started = time.perf_counter()
                losses = work(*batch)
                float(losses["gen_total_loss"])
                spent["steps"] += time.perf_counter() - started
                return losses

            networks.train_step = timed
            try:
                return real_epoch(run, batches, stop)
            finally:
                networks.train_step = work

        def timed_end(run):
            if way == "published":
                pair = run.data.held_out[0]
                run.networks.synthesiser.predict_by_patches(pair.fundus, pair.fov, 256, 2, 4, published=True)
            real_end(run)
            ends.append((time.perf_counter(), spent["steps"]))

        train.train_epoch, train.end_epoch = timed_epoch, timed_end
        status = train.main(["--data", "data", "--batch-size", "4", "--epochs", "2"])
    assert status == 0
    return {"seconds": ends[1][0] - ends[0][0], "steps": ends[1][1] - ends[0][1]}


def first_step() -> dict[str, float]:
    """Seconds of training to the end of the first step, without the import of the modules."""
    import pix_pix_train as train

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_crops(Path("data"), 10)
        written = time.perf_counter()
        done: list[float] = []

        def stop(losses, step, folder):
            done.append(time.perf_counter() - written)
            raise KeyboardInterrupt

        train.check_finite = stop
        train.main(["--data", "data", "--batch-size", "4"])
    return {"seconds": done[0]}


def reading(crops: int, cache: str) -> dict[str, float]:
    """Seconds to read crops, and for a pass over their batches; GB that each adds, and GB of the decoded images."""
    import dataset_load_mod as data
    import pix_run  # noqa: F401  (keeps TensorFlow's messages away)
    from patch_batches import TrainingPatches, training_image

    with tempfile.TemporaryDirectory() as folder:
        write_crops(Path(folder), crops)
        cases = data.load_data_cases(Path(folder) / "UT-FSOCTA-v1")[0]
        cases = cases[cases["split"] != "validation"]
        before = own_gb()
        started = time.perf_counter()
        pairs = data.load_pairs(cases, octa_channels=1, fov_mask=True)
        kept = (training_image(pair, 256) for pair in pairs)
        images = data.keep_images(kept, Path(folder) if cache == "disk" else None)
        read, gb = time.perf_counter() - started, own_gb() - before
    patches = TrainingPatches(images, 256, 4, seed=0, augment=True)
    before, started = own_gb(), time.perf_counter()
    for _ in patches.batches(0, 1):
        pass
    seconds = time.perf_counter() - started
    decoded = sum(image.nbytes for image in images) / 1e9
    passed_gb = own_gb() - before
    return {
        "crops": len(images),
        "read": read,
        "read_gb": gb,
        "pass": seconds,
        "pass_gb": passed_gb,
        "decoded": decoded,
    }


def memory(batch_size: int, policy: str) -> dict[str, float]:
    """Peak memory in GB of a process that trains."""
    import pix_pix_train as train

    # isort: split
    import numpy as np
    import tensorflow as tf

    networks = train.Pix2Pix(train.Settings(precision=policy, batch_size=batch_size, name="x"))
    random = np.random.default_rng(0)
    batch = [tf.constant(random.uniform(-1, 1, (batch_size, 256, 256, channels)), tf.float32) for channels in (3, 1)]
    for _ in range(3):
        float(networks.train_step(*batch)["gen_total_loss"])
    return {"gb": peak_gb()}


def own_gb() -> float:
    """Memory that this process holds now, but for what it maps from files and the system can drop (Linux)."""
    held = re.findall(r"Rss(?:Anon|Shmem):\s+(\d+) kB", Path("/proc/self/status").read_text())
    return sum(map(int, held)) * 1024 / 1e9


def peak_gb() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def write_crops(folder: Path, crops: int) -> None:
    """A dataset with as many training pairs, and ten to validate on: a few sample retinas under many names."""
    import phantom_retina

    drawn = folder / "drawn"
    phantom_retina.write_dataset(drawn, range(1, EYES + 1), progress=False)
    root = folder / "UT-FSOCTA-v1" / "cropped"
    subjects = [(1 + number // 2 % 25, "OD" if number // 50 % 2 else "OS") for number in range(crops)]
    if crops > 100:  # the deposit has no more training crops
        subjects = [(1000 + number, "OD") for number in range(crops)]
    validation = [(26 + number // 2, "OD") for number in range(10)]
    for number, (subject, eye) in enumerate([*subjects, *validation]):
        region, source = phantom_retina.REGIONS[number % 2], 1 + number % EYES
        for kind in ("fundus", "octa"):
            path = root / kind / region / f"{subject}_{eye}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(drawn / "cropped" / kind / region / f"{source}_{phantom_retina.eye_of(source)}.png", path)


# --- tables ----------------------------------------------------------------------------------------------------------


def measured(what: str, *arguments: object) -> dict[str, float]:
    """Call a function of this file in a process of its own."""
    command = [sys.executable, __file__, "--measure", what, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(done.stdout.splitlines()[-1])


def table_of_steps(_) -> None:
    """The step, in both precisions, against a matrix product, the published step (float32) and PyTorch."""
    print("| precision | batch | images/s | GFLOP/s | of a matrix product | of its convolutions | ", end="")
    print("of the published step | of PyTorch |\n|---|---|---|---|---|---|---|---|")
    for batch_size in BATCHES:
        tasks = {"published": ("step", "float32", batch_size, "published")}
        for policy in POLICIES:
            tasks[policy] = ("step", policy, batch_size, "ours")
            tasks[f"bare {policy}"] = ("bare", policy, batch_size)
            if find_spec("torch"):
                tasks[f"pytorch {policy}"] = ("pytorch", policy, batch_size)
        rounds = [{name: measured(*task) for name, task in tasks.items()} for _ in range(ROUNDS)]

        def mean(name: str, value: str, rounds: list[dict] = rounds) -> float:
            return sum(one[name][value] for one in rounds) / ROUNDS

        for policy in POLICIES:
            images, gflops = mean(policy, "images"), mean(policy, "gflops")
            pytorch = f"{images / mean(f'pytorch {policy}', 'images'):.2f}" if find_spec("torch") else ""
            ratios = (
                gflops / mean(policy, "product"),
                images / mean(f"bare {policy}", "images"),
                images / mean("published", "images"),
            )
            line = f"| {policy} | {batch_size} | {images:.2f} | {gflops:.0f}"
            print(line, *(f"{ratio:.2f}" for ratio in ratios), f"{pytorch} |", sep=" | ", flush=True)
    gflop, product = rounds[0][policy]["gflop"], mean(policy, "product")
    print(f"\n{gflop:.0f} GFLOP an image; the matrix product (side {MATRIX}), {policy}: {product:.0f} GFLOP/s")


def table_of_convolutions(_) -> None:
    """Each convolution's speed, against the matrix product's."""
    for policy in POLICIES:
        of = measured("bare", policy, 4)
        print(f"\n| {policy}, batch 4: px and channels | of the step's arithmetic | forward | to input | to weights |")
        print("|---|---|---|---|---|")
        for layer in of["layers"]:
            rates = " | ".join(f"{rate / of['product']:.2f}" for rate in layer["rates"])
            print(f"| {layer['sizes']} | {layer['share']:.1%} | {rates} |", flush=True)


def table_of_epochs(_) -> None:
    """An epoch of few and of many crops, ours and in the published way."""
    print("| training crops | way | seconds | beside the steps | of ours |\n|---|---|---|---|---|")
    for crops in (5, 100):
        ours = None
        for way in ("ours", "published"):
            of = measured("epoch", crops, way)
            ours = ours or of["seconds"]
            beside = 1 - of["steps"] / of["seconds"]
            print(f"| {crops} | {way} | {of['seconds']:.1f} | {beside:.1%} | {of['seconds'] / ours:.2f} |", flush=True)


def table_of_starts(_) -> None:
    """What a user waits for."""
    print("| what | seconds |\n|---|---|")
    for program in ("pix_pix_train.py", "pix_pix_gen.py", "pix_pix_eval.py", "dataset_load_mod.py"):
        started = time.perf_counter()
        subprocess.run([sys.executable, PROJECT / program, "--help"], check=True, stdout=subprocess.DEVNULL)
        print(f"| {program} --help | {time.perf_counter() - started:.2f} |", flush=True)
    started = time.perf_counter()
    importing = [sys.executable, "-c", "import pix_pix_train"]
    subprocess.run(importing, cwd=PROJECT, check=True, stderr=subprocess.DEVNULL)
    importing_seconds = time.perf_counter() - started
    print(f"| first training step | {importing_seconds + measured('first_step')['seconds']:.1f} |")
    of = measured("reading", 362, "memory")
    print(f"| {of['crops']} pairs read ({of['read_gb']:.2f} GB) | {of['read']:.1f} |")


def table_of_growth(plot: Path | None) -> None:
    """Reading and passing over more and more crops."""
    print("| crops | decoded images, GB | --cache | read, s | a pass over the batches, s | memory held, GB |")
    print("|---|---|---|---|---|---|")
    rows = []
    for crops in CROPS:
        for cache in CACHES:
            of = measured("reading", crops, cache) | {"cache": cache}
            of["held"] = of["read_gb"] + of["pass_gb"]
            rows.append(of)
            seconds = f"{of['read']:.2f} | {of['pass']:.2f}"
            print(f"| {of['crops']} | {of['decoded']:.3f} | {cache} | {seconds} | {of['held']:.2f} |", flush=True)
    if plot is not None:
        plot_growth(rows, plot)


def plot_growth(rows: list[dict], path: Path) -> None:
    """Time and memory against the number of crops."""
    from matplotlib.figure import Figure

    figure = Figure((9, 3.6), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    for cache, style in zip(CACHES, ("o-", "s--"), strict=True):
        of = [row for row in rows if row["cache"] == cache]
        crops = [row["crops"] for row in of]
        time_axes.plot(crops, [row["read"] for row in of], f"C0{style}", label=f"read, {cache}")
        time_axes.plot(crops, [row["pass"] for row in of], f"C1{style}", label=f"a pass, {cache}")
        memory_axes.plot(crops, [row["held"] for row in of], f"C2{style}", label=f"held, {cache}")
    memory_axes.plot(crops, [row["decoded"] for row in of], "k:", label="decoded images")
    time_axes.plot(crops, [of[-1]["pass"] * number / crops[-1] for number in crops], "k:", label="in proportion")
    time_axes.set(xscale="log", yscale="log", xlabel="crops", ylabel="seconds")
    memory_axes.set(xlabel="crops", ylabel="GB")
    for axes in (time_axes, memory_axes):
        axes.legend()
    figure.savefig(path, dpi=100)


def table_of_memory(_) -> None:
    """Peak memory at several batches."""
    print("| precision | batch | peak, GB |\n|---|---|---|")
    for policy in POLICIES:
        for batch_size in (1, 8, 32):
            print(f"| {policy} | {batch_size} | {measured('memory', batch_size, policy)['gb']:.1f} |", flush=True)


MEASURES = {
    "step": step,
    "bare": bare,
    "pytorch": pytorch,
    "epoch": epoch,
    "first_step": first_step,
    "reading": reading,
    "memory": memory,
}
TABLES = {
    "step": table_of_steps,
    "convolutions": table_of_convolutions,
    "epoch": table_of_epochs,
    "start": table_of_starts,
    "growth": table_of_growth,
    "memory": table_of_memory,
}


def main() -> None:
    """Print a table, or measure one line of it."""
    if sys.argv[1:2] == ["--measure"]:
        what, *arguments = sys.argv[2:]
        print(json.dumps(MEASURES[what](*(int(one) if one.isdigit() else one for one in arguments))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=TABLES)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="of growth")
    options = parser.parse_args()
    TABLES[options.what](options.plot)


if __name__ == "__main__":
    main()
