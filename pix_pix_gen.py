"""Synthesise: turn fundus photographs of any size into OCT-A images and vessel maps, with a trained run.

    python pix_pix_gen.py photo.jpg folder list.csv    # each photograph -> synthetic_octa/NAME.png, of the same size
    python pix_pix_gen.py folder --vessels --figure    # and vessel maps with their densities, and figures to look at
    python pix_pix_gen.py --dataset DIR --split test   # a dataset in UT-FSOCTA's layout, for the evaluation
    python pix_pix_gen.py --export DIR                 # the generator as SavedModel and .keras, for other programs

Takes the newest run in training_checkpoints/, and its best weights, unless told otherwise. What is there already is
kept, so the same command goes on with an interrupted folder. `--help` lists every option.

Training predicts with this module too (`Synthesiser`): there is one way to predict.
"""

import argparse
import csv
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pix_settings import (
    CHECKPOINTS,
    SIZE_MULTIPLE,
    SPLITS,
    OneLineParser,
    OptionError,
    Settings,
    one_line,
    prepare_process,
)

PROGRAM = "pix_pix_gen.py"
OUTPUT = "synthetic_octa"
DENSITIES = "densities.csv"
PUBLISHED_STRIDE = 8  # steps per patch of the study's final synthesis


def parse_command_line(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options. Ends the program with status 2 and one line for what makes no sense."""
    parser = OneLineParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("inputs", nargs="*", metavar="INPUT", help="photograph, folder (and all below), or CSV with a path column")
    add("--run", metavar="DIR", help=f"the run's folder of checkpoints (default: the newest in {CHECKPOINTS}/)")
    add("--weights", choices=("best", "last"), help="by validation, or the newest (default: best, if there is one)")
    add("--output", default=OUTPUT, metavar="DIR", help="where the results go (default: %(default)s)")
    add("--vessels", action="store_true", help=f"also NAME_vessels.png, the binary vessel map, and {DENSITIES}")
    add("--figure", action="store_true", help="also NAME_figure.png: fundus, synthetic OCT-A, vessels")
    add("--overwrite", action="store_true", help="make anew what is there already")
    add("--dataset", nargs="?", const="", metavar="DIR", help="a dataset's photographs (default: the run's own data)")
    add("--split", choices=(*SPLITS, "all"), help="with --dataset: the run's subjects of a split (default: test)")
    add("--stride", type=int, metavar="N", help="by overlapping patches, N steps per patch (default: in one pass)")
    add("--batch-size", type=int, metavar="N", help="patches at once, with --stride (default: that of the run)")
    add(
        "--published",
        action="store_true",
        help="as published, to compare: patches, statistics of their batch, dropout on "
        f"(with --stride {PUBLISHED_STRIDE} and the run's --batch-size, unless given)",
    )
    add("--export", metavar="DIR", help="write the generator as SavedModel and .keras")
    options = parser.parse_args(argv)
    if options.inputs and options.dataset is not None:
        parser.error("INPUT and --dataset: give one of them")
    if not options.inputs and options.dataset is None and options.export is None:
        parser.error("give a photograph, a folder, a CSV table, --dataset or --export")
    if options.split and options.dataset is None:
        parser.error("--split goes with --dataset")
    if options.published and options.stride is None:
        options.stride = PUBLISHED_STRIDE
    for name in ("stride", "batch_size"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least 1")
    if options.batch_size is not None and options.stride is None:
        parser.error("--batch-size goes with --stride or --published")
    return options


if __name__ == "__main__":
    parse_command_line(None)  # help and mistakes, before TensorFlow takes its seconds to load

from pix_run import (  # first: it keeps TensorFlow's start-up messages from the user
    RunError,
    dataset_of_run,
    find_weights,
    newest_run,
    read_run,
    restore,
    whole_file,
    without_chatter,
)

# isort: split
import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from dataset_download import naming
from dataset_load_mod import (
    FUNDUS_CHANNELS,
    REGIONS,
    DataError,
    continue_outside,
    cut_at_corners,
    field_of_view,
    list_eyes,
    list_full_fields,
    octa_to_grey,
    patch_corners,
    put_img_back_from_patches,
    read_fundus,
    reflect_to_multiple,
    reflect_to_patch,
)
from pix_generator import Generator
from vessel_metrics import vessel_density, vessel_map

DENSITY_COLUMNS = ("path", "vessel_density", "vessel_px", "field_px")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

# A block of 64 x 64 px on the grid of the U-Net's halvings depends on no more than the 127 px around it.
MARGIN = 2 * SIZE_MULTIPLE  # px
TILE = 28 * SIZE_MULTIPLE  # px: 1792 x 1792 go through in one pass, with 2.3 GB in float32; more is cut into tiles


# --- prediction ------------------------------------------------------------------------------------------------------


class Synthesiser:
    """A generator made ready to predict.

    The norm layers take the statistics of the image at hand, dropout off: what training does with a batch of one. So a
    result depends on nothing but the image and the weights, and a photograph of another brightness is levelled. The
    generator may go on learning; its newest weights are used, and nothing of it is changed.
    """

    def __init__(self, generator: keras.Model):
        """Args: a generator for images of any size, `Generator(3, (None, None), channels)`."""
        self.generator = generator
        fundus = tf.TensorSpec((None, None, None, FUNDUS_CHANNELS), tf.float32)
        statistics = [tf.TensorSpec(value.shape, value.dtype) for value in generator.non_trainable_variables]
        self.with_own_statistics = tf.function(self._with_own_statistics, input_signature=[fundus])
        self.with_statistics = tf.function(self._with_statistics, input_signature=[fundus, statistics])
        self.with_batch_statistics = tf.function(self._with_batch_statistics, input_signature=[fundus])

    def _with_own_statistics(self, fundus: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """OCT-A (1, height, width, channels), [-1, 1], of one fundus image (1, height, width, 3), [-1, 1].

        Returns:
            The OCT-A, and what the norm layers saw, as values of generator.non_trainable_variables. A norm layer moves
            its averages to momentum * average + (1 - momentum) * statistic: from averages of zero, what comes back
            divided by (1 - momentum) is the image's own statistic.
        """
        share = {
            variable.path: 1 - layer.momentum
            for layer in layers_of(self.generator, keras.layers.BatchNormalization)
            for variable in (layer.moving_mean, layer.moving_variance)
        }
        fixed = self.generator.non_trainable_variables
        zeros = [tf.zeros_like(variable.value) if variable.path in share else variable.value for variable in fixed]
        with without_dropout(self.generator):
            weights = self.generator.trainable_variables
            octa, moved = self.generator.stateless_call(weights, zeros, fundus, training=True)
        return octa, [
            value / share[variable.path] if variable.path in share else value
            for variable, value in zip(fixed, moved, strict=True)
        ]

    def _with_statistics(self, fundus: tf.Tensor, statistics: list[tf.Tensor]) -> tf.Tensor:
        """OCT-A of fundus images, [-1, 1], with statistics as `with_own_statistics` returns them."""
        return self.generator.stateless_call(self.generator.trainable_variables, statistics, fundus, training=False)[0]

    def _with_batch_statistics(self, fundus: tf.Tensor) -> tf.Tensor:
        """OCT-A of fundus patches, [-1, 1], as published: statistics of the batch, dropout on."""
        variables = self.generator.trainable_variables, self.generator.non_trainable_variables
        return self.generator.stateless_call(*variables, fundus, training=True)[0]

    def predict(self, fundus: np.ndarray, fov: np.ndarray, tile: int = TILE) -> np.ndarray:
        """OCT-A of a whole image: in one pass, or by tiles if it is larger than `tile` x `tile` px.

        Tiles overlap by what a pixel's result depends on, and lie on the grid of the network's halvings; so they give
        what one pass with the same statistics gives, without seams. The statistics are then those of the middle tile.

        Args:
            fundus: (height, width, 3), uint8.
            fov: (height, width), bool: inside the camera's field. Outside the network sees the retina continued.
            tile: side in px, a multiple of 64 from 320 up.

        Returns:
            (height, width, channels), float32 on [0, 1], black outside the field (alpha, if there, as predicted).
        """
        height, width = fov.shape
        whole = reflect_to_multiple(continue_outside(fundus, fov), SIZE_MULTIPLE)
        if whole.shape[0] * whole.shape[1] <= tile**2:
            octa, _ = self.with_own_statistics(to_model(whole)[np.newaxis])
            return to_octa(octa[0].numpy()[:height, :width], fov)
        statistics = self.statistics(whole, tile)
        octa = np.empty((*whole.shape[:2], self.generator.output_shape[-1]), np.float32)
        core = tile - 2 * MARGIN
        for row in range(0, whole.shape[0], core):
            for column in range(0, whole.shape[1], core):
                top, left = max(0, row - MARGIN), max(0, column - MARGIN)
                seen = whole[top : row + core + MARGIN, left : column + core + MARGIN]
                part = self.with_statistics(to_model(seen)[np.newaxis], statistics)[0].numpy()
                place = (slice(row, row + core), slice(column, column + core))
                octa[place] = part[row - top : row - top + core, column - left : column - left + core]
        return to_octa(octa[:height, :width], fov)

    def predict_by_patches(
        self, fundus: np.ndarray, fov: np.ndarray, patch_size: int, stride: int, batch_size: int, published: bool
    ) -> np.ndarray:
        """OCT-A of a whole image by blended patches on the study's grid.

        Args:
            fundus: (height, width, 3), uint8.
            fov: (height, width), bool: inside the camera's field.
            patch_size: side of a patch in px.
            stride: steps per patch, see `patch_corners`.
            batch_size: patches predicted at once; without influence on the result, unless published.
            published: with statistics of the batch, dropout on, and black outside the field.

        Returns:
            As `predict`.

        Raises:
            ValueError: as `patch_corners`.
        """
        patch = (patch_size, patch_size)
        whole = reflect_to_patch(fundus if published else continue_outside(fundus, fov), patch)
        corners = patch_corners(whole.shape, patch, stride)
        statistics = None if published else self.statistics(reflect_to_multiple(whole, SIZE_MULTIPLE), TILE)

        def predicted_patches() -> Iterator[np.ndarray]:
            for first in range(0, len(corners), batch_size):
                batch = to_model(cut_at_corners(whole, corners[first : first + batch_size], patch))
                octa = self.with_batch_statistics(batch) if published else self.with_statistics(batch, statistics)
                yield from octa.numpy()

        octa = put_img_back_from_patches(predicted_patches(), whole.shape, stride)
        return to_octa(octa[: fov.shape[0], : fov.shape[1]], fov)

    def statistics(self, whole: np.ndarray, tile: int) -> list[tf.Tensor]:
        """Statistics, for `with_statistics`, of the middle of an image (height, width, 3), uint8, sides of n * 64."""
        middle = []
        for size in whole.shape[:2]:
            first = max(0, size - tile) // 2 // SIZE_MULTIPLE * SIZE_MULTIPLE
            middle.append(slice(first, first + tile))
        return self.with_own_statistics(to_model(whole[tuple(middle)])[np.newaxis])[1]


def field_to_predict(fundus: np.ndarray, fov_mask: bool) -> np.ndarray:
    """Where to predict (height, width), bool: in the camera's field, or everywhere if a run is without `fov_mask`."""
    return field_of_view(fundus) if fov_mask else np.ones(fundus.shape[:2], dtype=bool)


@contextmanager
def without_dropout(network: keras.Model) -> Iterator[None]:
    """Trace a network without its dropout, but with all else as in training."""
    rates = {layer: layer.rate for layer in layers_of(network, keras.layers.Dropout)}
    for layer in rates:
        layer.rate = 0.0
    try:
        yield
    finally:
        for layer, rate in rates.items():
            layer.rate = rate


def layers_of(model: keras.Model, kind: type | tuple[type, ...]) -> Iterator[keras.layers.Layer]:
    """The layers of one kind, also those in blocks."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from layers_of(layer, kind)
        elif isinstance(layer, kind):
            yield layer


def to_model(image: np.ndarray) -> np.ndarray:
    """Uint8 on [0, 255] -> float32 on [-1, 1]."""
    return image.astype(np.float32) / 127.5 - 1


def to_octa(gen_output: np.ndarray, fov: np.ndarray) -> np.ndarray:
    """What the generator gives (height, width, channels), [-1, 1] -> [0, 1], its colours black outside the field.

    Raises:
        RunError: it is not finite.
    """
    if not np.isfinite(gen_output).all():
        raise RunError("the predicted OCT-A is not finite: the weights are damaged, take an earlier checkpoint")
    octa = gen_output * 0.5 + 0.5
    octa[~fov, :3] = 0
    return octa


def export(generator: keras.Model, folder: Path) -> None:
    """Write the generator as folder/generator.keras and folder/saved_model, for programs without this module.

    Both take (batch, height, width, 3), float32 on [-1, 1], sides any multiples of 64, and give (batch, height, width,
    channels), float32 on [-1, 1]: what `Synthesiser` gives for each image by itself. Batch norm over the one image
    at hand is instance norm (Ulyanov et al., 2016), and is written as such.
    """

    def for_one_image(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.layers.BatchNormalization):
            return keras.layers.GroupNormalization(groups=-1, epsilon=layer.epsilon, name=layer.name)
        if isinstance(layer, keras.layers.Dropout):
            return keras.layers.Dropout(layer.rate, name=layer.name)
        return type(layer).from_config(layer.get_config())

    model = keras.models.clone_model(generator, clone_function=for_one_image, recursive=True)
    weighted = (keras.layers.Conv2D, keras.layers.Conv2DTranspose, keras.layers.BatchNormalization)
    written = (keras.layers.Conv2D, keras.layers.Conv2DTranspose, keras.layers.GroupNormalization)
    for source, target in zip(layers_of(generator, weighted), layers_of(model, written), strict=True):
        for one, other in zip(source.trainable_variables, target.trainable_variables, strict=True):
            other.assign(one)
    folder.mkdir(parents=True, exist_ok=True)
    # Made beside its place, so that nothing is there half.
    with naming(folder), tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as temporary:
        made = Path(temporary)
        model.save(made / "generator.keras")
        model.export(made / "saved_model", verbose=False)
        shutil.rmtree(folder / "saved_model", ignore_errors=True)
        for name in ("generator.keras", "saved_model"):
            (made / name).replace(folder / name)


# --- a run's generator -----------------------------------------------------------------------------------------------


def set_up_gpus() -> str:
    """Let the GPUs' memory grow with need, and say which device will work."""
    with without_chatter():
        gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if not gpus:
        return f"CPU, {os.cpu_count()} cores"
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", gpus[0].name)


def load_generator(run: Path, weights: str | None, settings: Settings) -> tuple[keras.Model, str]:
    """The generator of a run, for images of any size, and the checkpoint that it is from.

    Args:
        run: the run's folder of checkpoints.
        weights: which, see `find_weights`.
        settings: of the run.

    Raises:
        RunError: there is no such checkpoint, or it is damaged and so are those that could stand for it.
    """
    paths = find_weights(run, weights)
    keras.utils.set_random_seed(settings.seed)  # of the dropout that the published way keeps on
    keras.config.set_dtype_policy(settings.precision)
    generator = Generator(FUNDUS_CHANNELS, (None, None), settings.octa_channels, settings.upsampling)
    return generator, restore(tf.train.Checkpoint(generator=generator), paths, run)


# --- photographs and what is written for them ------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One photograph and where its results go."""

    source: Path
    target: Path  # the synthetic OCT-A; relative to the output folder

    @property
    def vessels(self) -> Path:
        """Where the vessel map goes."""
        return self.target.with_name(f"{self.target.stem}_vessels.png")

    @property
    def figure(self) -> Path:
        """Where the figure goes."""
        return self.target.with_name(f"{self.target.stem}_figure.png")


def list_jobs(inputs: Sequence[str], output: Path) -> list[Job]:
    """Photographs of files, folders (searched below too, the tree kept) and CSV tables with a `path` column.

    Hidden files, and what lies in the output folder, are no input. A table's relative paths start at the table, and
    keep their tree.

    Raises:
        OptionError: an input is not there, holds no photograph, or is the output folder.
    """
    jobs = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            if path.resolve() == output.resolve():
                raise OptionError(f"--output {output}: is an input; take another folder")
            found = [Job(file, file.relative_to(path).with_suffix(".png")) for file in photographs_below(path, output)]
            if not found:
                raise OptionError(f"{name}: holds no photograph ({', '.join(IMAGE_SUFFIXES)})")
        elif path.suffix.lower() == ".csv" and path.is_file():
            found = [Job(path.parent / row, target_of_row(Path(row))) for row in paths_of_table(path)]
        elif path.exists():
            found = [Job(path, Path(path.stem + ".png"))]
        else:
            raise OptionError(f"{name}: there is no such file or folder")
        jobs += found
    return list(dict.fromkeys(jobs))


def target_of_row(path: Path) -> Path:
    """Where the result for a path of a table goes: by its tree if it is relative and leads nowhere else."""
    inside = not path.is_absolute() and ".." not in path.parts
    return (path if inside else Path(path.name)).with_suffix(".png")


def photographs_below(folder: Path, output: Path) -> list[Path]:
    """Image files in a folder and below, sorted; without hidden ones and those in the output folder."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts)
        and output.resolve() not in path.resolve().parents
    )


def paths_of_table(path: Path) -> list[str]:
    """The `path` column of a CSV file. Raises OptionError if it cannot be read, or has none."""
    try:
        table = pd.read_csv(path, dtype=str)
    except (OSError, ValueError) as error:  # pandas' errors of parsing are ValueErrors
        raise OptionError(f"{path}: cannot be read as a CSV table ({str(error).splitlines()[0]})") from error
    if "path" not in table or table["path"].isna().all():
        raise OptionError(f"{path}: has no column named path, or nothing in it")
    return table["path"].dropna().tolist()


def list_dataset_jobs(dataset: Path, subjects: Sequence[int] | None) -> list[Job]:
    """The crops and whole photographs of some subjects, or of all (None), with the deposit's names for the results.

    Raises:
        OptionError: there is none.
    """
    jobs = []
    for region in REGIONS:
        for (subject, eye), path in list_eyes(dataset / "cropped" / "fundus" / region).items():
            jobs.append((subject, Job(path, Path("cropped", "synthetic_octa", region, f"{subject}_{eye}.png"))))
    for (subject, eye), path in list_full_fields(dataset).items():
        jobs.append((subject, Job(path, Path("fov45", "synthetic_octa", f"{subject}_{eye}.png"))))
    chosen = [job for subject, job in jobs if subjects is None or subject in subjects]
    if not chosen:
        raise OptionError(f"--dataset {dataset}: no photograph of the --split")
    return chosen


def check_jobs(jobs: Sequence[Job], output: Path) -> None:
    """Raises OptionError if two photographs, or a photograph and a result, would be one file."""
    sources = {job.source.resolve() for job in jobs}
    taken: dict[Path, Path] = {}
    for job in jobs:
        for target in (job.target, job.vessels, job.figure):
            place = output / target
            if place.resolve() in sources:
                raise OptionError(f"{place}: would be written over an input; take another --output")
            other = taken.setdefault(place, job.source)
            if other != job.source:
                raise OptionError(f"{other} and {job.source} would both be written to {place}; give them apart")


class Densities:
    """The table of vessel densities, one row per photograph; rows of an earlier call are kept."""

    def __init__(self, path: Path):
        """Read what is there. A row that an earlier call did not finish is left out."""
        self.path = path
        self.rows: dict[str, dict] = {}
        if path.exists():
            for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
                if None not in row.values() and tuple(row) == DENSITY_COLUMNS:
                    self.rows[row["path"]] = row

    def add(self, target: Path, density: float, vessel_px: int, field_px: int) -> None:
        """Set the row of one photograph, and write the table anew."""
        name = target.as_posix()
        self.rows[name] = dict(zip(DENSITY_COLUMNS, (name, f"{density:.6f}", vessel_px, field_px), strict=True))
        with whole_file(self.path) as part, open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, DENSITY_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows.values())


def write_png(image: np.ndarray, path: Path) -> None:
    """Write (height, width), uint8 or bool."""
    with whole_file(path) as part:
        Image.fromarray(image).save(part, format="PNG")


def write_figure(fundus: np.ndarray, octa: np.ndarray, vessels: np.ndarray, path: Path) -> None:
    """Draw fundus, synthetic OCT-A and the vessels' outline over the fundus, side by side.

    Args:
        fundus: (height, width, 3), uint8.
        octa: (height, width), float on [0, 1].
        vessels: (height, width), bool.
        path: of the PNG.
    """
    figure = Figure(figsize=(12, 4.3), dpi=150, layout="constrained")
    panels = figure.subplots(1, 3)
    for panel, title in zip(panels, ("Fundus", "Synthetic OCT-A", "Vessels"), strict=True):
        panel.set_title(title)
        panel.set_axis_off()
    panels[0].imshow(fundus)
    panels[1].imshow(octa, cmap="gray", vmin=0, vmax=1)
    panels[2].imshow(fundus)
    if vessels.any() and min(vessels.shape) > 1:
        panels[2].contour(vessels, levels=[0.5], colors="cyan", linewidths=0.6)
    with whole_file(path) as part:
        figure.savefig(part, format="png")


@dataclass(frozen=True)
class Synthesis:
    """How photographs are turned into results, and where these go."""

    synthesiser: Synthesiser
    settings: Settings
    output: Path
    vessels: bool
    figure: bool
    stride: int | None  # None: in one pass
    batch_size: int
    published: bool
    overwrite: bool
    densities: Densities | None

    def is_done(self, job: Job) -> bool:
        """Whether all that is wanted of a photograph is there."""
        wanted = [job.target]
        wanted += [job.vessels] if self.vessels else []
        wanted += [job.figure] if self.figure else []
        return all((self.output / path).exists() for path in wanted) and (
            self.densities is None or job.target.as_posix() in self.densities.rows
        )

    def run(self, job: Job) -> None:
        """Write the results for one photograph.

        Raises:
            DataError: it cannot be read, or shows nothing.
        """
        fundus = read_fundus(job.source)
        fov = field_to_predict(fundus, self.settings.fov_mask)
        if not fov.any():
            raise DataError(f"{job.source}: is dark all over")
        if self.stride is None:
            octa = self.synthesiser.predict(fundus, fov)
        else:
            octa = self.synthesiser.predict_by_patches(
                fundus, fov, self.settings.patch_size, self.stride, self.batch_size, self.published
            )
        octa = octa_to_grey(octa)  # (height, width), [0, 1]
        target = self.output / job.target
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.vessels or self.figure:
            vessels = vessel_map(octa, fov)
        if self.vessels:
            write_png(vessels, self.output / job.vessels)
            self.densities.add(job.target, vessel_density(vessels, fov), int(vessels.sum()), int(fov.sum()))
        if self.figure:
            write_figure(fundus, octa, vessels, self.output / job.figure)
        write_png(np.round(octa * 255).astype(np.uint8), target)  # [0, 1] -> [0, 255]


def synthesise(synthesis: Synthesis, jobs: Sequence[Job]) -> list[str]:
    """Work through the photographs; returns why some failed, a line each."""
    todo = [job for job in jobs if synthesis.overwrite or not synthesis.is_done(job)]
    if kept := len(jobs) - len(todo):
        print(f"{kept} of {len(jobs)} are there already and kept (--overwrite makes them anew)")
    failed = []
    progress = tqdm(todo, unit="photo", disable=len(todo) < 2, mininterval=0.5 if sys.stderr.isatty() else 30)
    with progress:  # whatever ends it, the bar's line ends too
        for job in progress:
            try:
                synthesis.run(job)
            except DataError as error:
                failed.append(str(error))
            except (MemoryError, tf.errors.ResourceExhaustedError):
                failed.append(f"{job.source}: out of memory; --stride 2 takes less")
    print(f"{len(todo) - len(failed)} written to {synthesis.output}/")
    return failed


# --- command line ----------------------------------------------------------------------------------------------------


def jobs_of(options: argparse.Namespace, settings: Settings) -> list[Job]:
    """The photographs that the options name. Raises OptionError if there are none, or results would clash."""
    if options.dataset is not None:
        dataset = dataset_of_run(options.dataset, settings, "--dataset")
        split = options.split or "test"
        jobs = list_dataset_jobs(dataset, None if split == "all" else settings.splits()[split])
    else:
        jobs = list_jobs(options.inputs, Path(options.output))
    check_jobs(jobs, Path(options.output))
    return jobs


def run_synthesis(options: argparse.Namespace) -> int:
    """Do what the options ask for; returns the exit status: 2 if a photograph failed.

    Raises:
        OptionError, RunError, OSError: nothing can be done at all, or no further.
    """
    run = Path(options.run) if options.run else newest_run(Path(CHECKPOINTS), "--run")
    settings, _ = read_run(run)
    if options.stride is not None and options.stride > settings.patch_size:
        raise OptionError(f"--stride {options.stride}: at most the run's patch, {settings.patch_size} px")
    jobs = jobs_of(options, settings) if options.inputs or options.dataset is not None else []
    print(f"Device: {set_up_gpus()}, precision: {settings.precision}")
    generator, path = load_generator(run, options.weights, settings)
    print(f"Weights: {path}")
    if options.export:
        export(generator, Path(options.export))
        print(f"Exported to {options.export}/")
    if not jobs:
        return 0

    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    synthesis = Synthesis(
        synthesiser=Synthesiser(generator),
        settings=settings,
        output=output,
        vessels=options.vessels,
        figure=options.figure,
        stride=options.stride,
        batch_size=options.batch_size or settings.batch_size,
        published=options.published,
        overwrite=options.overwrite,
        densities=Densities(output / DENSITIES) if options.vessels else None,
    )
    failed = synthesise(synthesis, jobs)
    for reason in failed:
        print(f"{PROGRAM}: error: {one_line(reason)}", file=sys.stderr)
    return 2 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, synthesise, and return the exit status: 2 for anything that the user can mend."""
    prepare_process()
    try:
        return run_synthesis(parse_command_line(argv))
    except (OptionError, RunError, DataError, OSError) as error:
        print(f"{PROGRAM}: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: stopped; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
