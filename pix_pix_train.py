"""Train pix2pix to turn fundus photographs into OCT-A images, as in Coronado et al., Sci Rep 2023;13:15325.

    python pix_pix_train.py                            # UT-FSOCTA in data/, or sample retinas if there is none
    python pix_pix_train.py --data DIR --batch-size 8  # data elsewhere, a smaller batch
    python pix_pix_train.py --resume                   # go on with the newest run
    tensorboard --logdir=logs                          # watch

Writes logs/fit/NAME/ (TensorBoard, metrics.csv) and training_checkpoints/NAME/ (ckpt-STEP, best/, run.json).
`--help` lists every setting with its reason.
"""

import csv
import errno
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import count
from pathlib import Path

from pix_settings import (
    CHANGEABLE,
    FINE_TUNING,
    SAMPLE_RUN,
    Settings,
    SettingsError,
    flag,
    one_line,
    parse_command_line,
    prepare_process,
)

PROGRAM = "pix_pix_train.py"
if __name__ == "__main__":
    parse_command_line(None, PROGRAM, __doc__)  # help and mistakes, before TensorFlow takes its seconds to load

from pix_run import (  # first: it keeps TensorFlow's start-up messages from the user
    BEST,
    RunError,
    find_weights,
    list_checkpoints,
    lock,
    newest_run,
    read_run,
    reason_of,
    remove_unfinished,
    restore,
    save,
    step_of,
    whole_file,
    write_run,
)

# isort: split
import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from tqdm import tqdm

import phantom_retina
from dataset_download import DATASET_NAME
from dataset_load_mod import (
    DATA_FOLDERS,
    FUNDUS_CHANNELS,
    REGIONS,
    DataError,
    Pair,
    continue_outside,
    find_data_folder,
    find_dataset,
    held_out_full_field,
    keep_images,
    load_data_cases,
    load_pairs,
    octa_to_grey,
    read_fundus,
)
from patch_batches import DrawnPatches, TrainingPatches, training_image
from phantom_retina import DRAWN, SAMPLE_FOLDER, parse_subjects
from pix_discriminator import Discriminator
from pix_generator import Generator
from pix_pix_gen import Synthesiser, field_to_predict, layers_of, set_up_gpus
from vessel_metrics import (
    AGREEMENT_NAMES,
    ARTEFACT_NAMES,
    SIMILARITY_NAMES,
    artefacts,
    image_similarity,
    vessel_agreement,
)

MAX_DRAWING = 8  # processes that draw sample retinas: enough for nearly 200 patches a second
CHECKPOINT_EPOCHS = 20  # epochs between periodic checkpoints: the study's
MIN_FREE_BYTES = 20e6  # on the disk of the logs: an epoch's pictures take at most a few MB
CHECKPOINT_SECONDS = 300  # at most between checkpoints, whatever an epoch takes: no more is lost to a broken computer
WHOLE_FUNDUS_EPOCHS = 10  # epochs between pictures of a whole photograph: the study's
PICTURED_CROPS = 3  # held-out crops shown in TensorBoard
SHOWN_LOSSES = ("gen_gan_loss", "gen_l1_loss", "disc_loss")  # in the progress bar
SCORE_NAMES = SIMILARITY_NAMES + AGREEMENT_NAMES + ARTEFACT_NAMES
BEST_SCORE = "vessel_auc"  # decides which checkpoint is the best: it needs no threshold and ignores the speckle


# --- losses ----------------------------------------------------------------------------------------------------------


def generator_loss(
    disc_generated_output: tf.Tensor, gen_output: tf.Tensor, target: tf.Tensor, lambda_l1: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """How far the generator is from fooling the discriminator and from the target (Isola et al., CVPR 2017, eq. 4).

    Args:
        disc_generated_output: (batch, h, w, 1), logits for generated images.
        gen_output: (batch, height, width, channels), [-1, 1].
        target: (batch, height, width, channels), [-1, 1].
        lambda_l1: weight of the mean absolute error.

    Returns:
        Three scalars: the total, the adversarial term (cross-entropy with "real") and the mean absolute error.
    """
    gan_loss = cross_entropy(1.0, disc_generated_output)
    l1_loss = tf.reduce_mean(tf.abs(target - gen_output))
    return gan_loss + lambda_l1 * l1_loss, gan_loss, l1_loss


def discriminator_loss(disc_real_output: tf.Tensor, disc_generated_output: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of the discriminator's logits (batch, h, w, 1) with "real" and "generated"; summed, not halved."""
    return cross_entropy(1.0, disc_real_output) + cross_entropy(0.0, disc_generated_output)


def cross_entropy(label: float, logits: tf.Tensor) -> tf.Tensor:
    """Mean binary cross-entropy of logits with one label for all."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), label), logits))


# --- networks and steps ----------------------------------------------------------------------------------------------


def resolve_precision(choice: str) -> tuple[str, str]:
    """Keras' dtype policy for a choice of precision, and the reason for it."""
    if choice != "auto":
        return choice, "as asked for"
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        if all(detail.get("compute_capability", (0, 0)) >= (8, 0) for detail in details):  # Ampere and later
            return "mixed_bfloat16", "the GPU computes in bfloat16"
        return "float32", "the GPU does not compute in bfloat16"
    cpu_info = Path("/proc/cpuinfo")  # Linux only; elsewhere nothing tells, and emulated bfloat16 is slow
    flags = set(cpu_info.read_text().split()) if cpu_info.exists() else set()
    if flags & {"avx512_bf16", "amx_bf16", "bf16"}:  # Intel and AMD, Intel, Arm
        return "mixed_bfloat16", "the processor computes in bfloat16"
    return "float32", "the processor is not known to compute in bfloat16"


def share_the_work(settings: Settings) -> tf.distribute.Strategy:
    """How to train on the devices that there are: on one, on several, or with other workers that TF_CONFIG names.

    All devices of a worker take part; else as many as `--devices` says, or all GPUs, up to one a patch of a batch.

    Raises:
        SettingsError: there are not so many GPUs.
        RunError: TF_CONFIG cannot be used.
    """
    if "TF_CONFIG" in os.environ:
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except (ValueError, KeyError, TypeError, RuntimeError, tf.errors.OpError) as error:
            raise RunError(f"TF_CONFIG: {error}") from error
    gpus, devices = tf.config.list_physical_devices("GPU"), settings.devices
    if devices > len(gpus) > 0:
        raise SettingsError(f"--devices {devices}: there are {len(gpus)} GPUs")
    if devices > 1 and not gpus:
        parts = [tf.config.LogicalDeviceConfiguration()] * devices
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    kind, number = ("GPU", devices or min(len(gpus), settings.batch_size)) if gpus else ("CPU", devices)
    if number > 1:
        return tf.distribute.MirroredStrategy([f"{kind}:{index}" for index in range(number)])
    return tf.distribute.get_strategy()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes logs and checkpoints: the first worker, or the only one."""
    resolver = strategy.cluster_resolver
    if resolver is None or resolver.task_type != "worker":  # a lone process, or TF_CONFIG's "chief"
        return True
    return resolver.task_id == 0 and "chief" not in resolver.cluster_spec().as_dict()


class Pix2Pix:
    """Both networks, both optimisers, the compiled step over them, and the way to predict."""

    def __init__(self, settings: Settings, strategy: tf.distribute.Strategy | None = None):
        """Args: settings, whose precision is a dtype policy, not `auto`; how to share the work, None: one device."""
        keras.config.set_dtype_policy(settings.precision)
        patch_dim = (settings.patch_size, settings.patch_size)
        self.lambda_l1 = settings.lambda_l1
        self.strategy = strategy or tf.distribute.get_strategy()
        with self.strategy.scope():
            self.generator = Generator(FUNDUS_CHANNELS, (None, None), settings.octa_channels, settings.upsampling)
            self.discriminator = Discriminator(FUNDUS_CHANNELS, settings.octa_channels, patch_dim)
            self.generator_optimizer = new_optimizer(self.generator, settings)
            self.discriminator_optimizer = new_optimizer(self.discriminator, settings)
        fundus = tf.TensorSpec((None, *patch_dim, FUNDUS_CHANNELS), tf.float32)
        octa = tf.TensorSpec((None, *patch_dim, settings.octa_channels), tf.float32)
        self.train_step = tf.function(self._train_step, input_signature=[fundus, octa])
        self.warm_up_step = tf.function(self._warm_up_step, input_signature=[fundus, octa])
        self.synthesiser = Synthesiser(self.generator)

    def _train_step(self, input_image: tf.Tensor, target: tf.Tensor) -> dict[str, tf.Tensor]:
        """One step of both networks on a batch (batch, patch, patch, channels), [-1, 1].

        Returns:
            Scalars: the four losses, and the mean probability that the discriminator gives to real and to generated
            images of being real.
        """
        return self._on_all_devices(self._train_on_part, input_image, target)

    def _warm_up_step(self, input_image: tf.Tensor, target: tf.Tensor) -> dict[str, tf.Tensor]:
        """One step of the generator by the weighted mean absolute error alone; images as in `_train_step`."""
        return self._on_all_devices(self._warm_up_on_part, input_image, target)

    def _on_all_devices(
        self, step: Callable[..., dict[str, tf.Tensor]], input_image: tf.Tensor, target: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Let each device do a step on its part of the batch; sums what they return.

        Every loss is weighted with the share that the part has in the batch, so that the sums, of losses and of
        gradients, are the means over the batch.
        """

        def on_part(input_image: tf.Tensor, target: tf.Tensor) -> dict[str, tf.Tensor]:
            replica = tf.distribute.get_replica_context()
            total, parts = tf.shape(input_image)[0], replica.num_replicas_in_sync
            if parts > 1:
                number = replica.replica_id_in_sync_group
                with tf.device("CPU:0"):  # only its part goes to the device
                    input_image, target = input_image[number::parts], target[number::parts]
            share = tf.cast(tf.shape(input_image)[0], tf.float32) / tf.cast(total, tf.float32)
            return step(input_image, target, share)

        losses = self.strategy.run(on_part, args=(input_image, target))
        return {tag: self.strategy.reduce(tf.distribute.ReduceOp.SUM, loss, axis=None) for tag, loss in losses.items()}

    def _train_on_part(self, input_image: tf.Tensor, target: tf.Tensor, share: tf.Tensor) -> dict[str, tf.Tensor]:
        """The step of both networks on a part of a batch; returns that part's share of each scalar."""
        with tf.GradientTape() as gen_tape, tf.GradientTape() as disc_tape:
            gen_output = self.generator(input_image, training=True)
            disc_real_output = self.discriminator([input_image, target], training=True)
            disc_generated_output = self.discriminator([input_image, gen_output], training=True)
            gen_total_loss, gen_gan_loss, gen_l1_loss = generator_loss(
                disc_generated_output, gen_output, target, self.lambda_l1
            )
            disc_loss = discriminator_loss(disc_real_output, disc_generated_output)
            # Scaled in float16 only, where small gradients would vanish; `apply` scales back.
            scaled_gen_loss = self.generator_optimizer.scale_loss(share * gen_total_loss)
            scaled_disc_loss = self.discriminator_optimizer.scale_loss(share * disc_loss)
        for network, optimizer, tape, loss in (
            (self.generator, self.generator_optimizer, gen_tape, scaled_gen_loss),
            (self.discriminator, self.discriminator_optimizer, disc_tape, scaled_disc_loss),
        ):
            optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)
        return {
            "gen_total_loss": share * gen_total_loss,
            "gen_gan_loss": share * gen_gan_loss,
            "gen_l1_loss": share * gen_l1_loss,
            "disc_loss": share * disc_loss,
            "disc_real_mean": share * tf.reduce_mean(tf.sigmoid(disc_real_output)),
            "disc_generated_mean": share * tf.reduce_mean(tf.sigmoid(disc_generated_output)),
        }

    def _warm_up_on_part(self, input_image: tf.Tensor, target: tf.Tensor, share: tf.Tensor) -> dict[str, tf.Tensor]:
        """The step of the generator alone on a part of a batch; returns that part's share of the scalar."""
        with tf.GradientTape() as tape:
            gen_l1_loss = share * tf.reduce_mean(tf.abs(target - self.generator(input_image, training=True)))
            scaled_loss = self.generator_optimizer.scale_loss(self.lambda_l1 * gen_l1_loss)
        weights = self.generator.trainable_variables
        self.generator_optimizer.apply(tape.gradient(scaled_loss, weights), weights)
        return {"gen_l1_loss": gen_l1_loss}


class FusedAdam(keras.optimizers.Adam):
    """Keras' Adam, each weight updated by TensorFlow's fused kernel: in one pass, without copies of all weights."""

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Update one weight and its two moments (Kingma and Ba, ICLR 2015, section 2, the order for efficiency)."""
        index, step = self._get_variable_index(variable), tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, variable.dtype),
        )


def new_optimizer(network: keras.Model, settings: Settings) -> keras.optimizers.Optimizer:
    """Adam for one network, built; with loss scaling in float16."""
    optimizer = FusedAdam(settings.learning_rate, beta_1=0.5)
    if settings.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(network.trainable_variables)  # now, so that a checkpoint finds its slots
    return optimizer


# --- prediction, validation, pictures --------------------------------------------------------------------------------


def generate_fundus_oct_pair(networks: Pix2Pix, pair: Pair) -> tuple[np.ndarray, dict[str, float]]:
    """Predict the OCT-A of a pair and score it against the real one.

    Returns:
        The prediction (height, width, channels), float32 on [0, 1], black outside the field; and the scores by name.
    """
    predicted = networks.synthesiser.predict(pair.fundus, pair.fov)
    real, generated = octa_to_grey(pair.octa / 255), octa_to_grey(predicted)  # (height, width), [0, 1]
    measures = (image_similarity, vessel_agreement, artefacts)
    return predicted, {name: score for of in measures for name, score in of(real, generated, pair.fov).items()}


def evaluate_whole_fundus(networks: Pix2Pix, fundus: np.ndarray, settings: Settings) -> np.ndarray:
    """Predict the OCT-A of a whole photograph.

    Args:
        networks: of the run.
        fundus: (height, width, 3), uint8.
        settings: of the run.

    Returns:
        (height, width, channels), float32 on [0, 1], black outside the field.
    """
    return networks.synthesiser.predict(fundus, field_to_predict(fundus, settings.fov_mask))


def mean_scores(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of each score over the crops that have it; nan where none has."""
    table = pd.DataFrame(scores, columns=SCORE_NAMES, dtype=float)
    return table.mean(skipna=True).to_dict()


def as_batch(images: Sequence[np.ndarray]) -> np.ndarray:
    """Stack images of any sizes (height, width, channels), black added below and to the right of the smaller ones."""
    largest = np.max([image.shape for image in images], axis=0)
    batch = np.zeros((len(images), *largest), dtype=images[0].dtype)
    for image, place in zip(images, batch, strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    return batch


# --- data of a run ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunData:
    """What a run reads."""

    train: list[np.ndarray]  # of `training_image`
    held_out: list[Pair]  # the validation cases
    full_field: np.ndarray | None  # whole photograph (height, width, 3), uint8, of the first held-out eye that has one
    digest: str  # of the training and validation images: the same data give the same


def find_data(given: str | None) -> str:
    """The dataset that was asked for, else the deposit where it is expected, else the word for sample retinas.

    Raises:
        DataError: the folder that was given holds no dataset.
    """
    if given == DRAWN:
        return DRAWN
    if given is not None:
        found = find_dataset(Path(given))
        if found is None:
            raise DataError(
                f"--data {given}: holds no {DATASET_NAME} (a folder with cropped/fundus and cropped/octa); "
                "`python dataset_load_mod.py download` gets it, `check DIR` says what a folder holds"
            )
        return str(found)
    return str(find_data_folder(None) or DRAWN)


def use_sample_retinas() -> None:
    """Say, so that no one can miss it, that a run uses sample retinas; make them if they are not there yet."""
    lines = [
        "NO REAL DATA: THIS RUN USES SAMPLE RETINAS, made by this program.",
        "It is for trying the program; what it learns is nothing to publish.",
        "",
        f"Real data are expected in {DATA_FOLDERS[0]} (or give --data DIR).",
        "  python dataset_load_mod.py download    brings them from Zenodo: 1.2 GB,",
        "                                         free for non-commercial research;",
        "  python dataset_load_mod.py check [DIR] says whether training could start.",
        "",
        f"Sample retinas to validate on: {SAMPLE_FOLDER}",
    ]
    width = max(map(len, lines))
    print("\n".join(["#" * (width + 4), *(f"# {line:<{width}} #" for line in lines), "#" * (width + 4)]))
    if not SAMPLE_FOLDER.exists():
        try:
            phantom_retina.write_dataset(SAMPLE_FOLDER, parse_subjects(phantom_retina.DEFAULT_SUBJECTS))
        except OSError:
            if not SAMPLE_FOLDER.exists():  # else another run was faster
                raise


def load_run_data(settings: Settings, verbose: bool) -> RunData:
    """Read all that a run needs, and print what there is. A run on drawn retinas validates on the sample set.

    Raises:
        DataError: no training case, or a file that cannot be used.
    """
    splits = settings.splits()
    drawn = settings.data == DRAWN
    if drawn:
        print("Training: sample retinas, drawn as they are needed, each for a few patches. Validation:")
        splits["train"] = []
    data_fold = SAMPLE_FOLDER if drawn else Path(settings.data)
    cases, unpaired = load_data_cases(data_fold, splits)
    chosen = {split: cases[cases["split"] == split] for split in splits}
    if chosen["train"].empty and not drawn:
        there = ", ".join(map(str, sorted(cases["subject"].unique()))) or "none"
        raise DataError(f"{data_fold}: no case of --train-subjects {settings.train_subjects}; subjects there: {there}")

    if settings.mix:
        print(f"Training: {settings.mix:.0%} of each batch are sample retinas, drawn as they are needed")
    print(f"Data: {data_fold}")
    for split, rows in chosen.items():
        if drawn and split == "train":
            continue
        regions = ", ".join(f"{region} {(rows['region'] == region).sum()}" for region in REGIONS)
        print(f"  {split:<10} {rows['subject'].nunique():>3} subjects, {len(rows):>3} pairs ({regions})")
    if not drawn and (unused := int(cases["split"].isna().sum())):
        print(f"  unused     {unused} pairs of subjects that no split names")
    if unpaired:
        print(f"  {len(unpaired)} files have no partner" + ("" if verbose else "; --verbose names them"))
        for path in unpaired if verbose else ():
            print(f"    {path}")
    if chosen["validation"].empty:
        print("  NOTE: no validation pair, so no scores, no pictures and no best checkpoint; see --val-subjects")

    digest = 0

    def read(split: str) -> Iterator[Pair]:
        nonlocal digest
        for pair in load_pairs(chosen[split], settings.octa_channels, settings.fov_mask):
            for image in (pair.fundus, pair.octa):
                digest = zlib.crc32(np.ascontiguousarray(image), zlib.crc32(repr(image.shape).encode(), digest))
            yield pair

    cache = Path(settings.checkpoints) if settings.cache == "disk" else None
    train = keep_images((training_image(pair, settings.patch_size) for pair in read("train")), cache)
    held_out = keep_images(
        (image for pair in read("validation") for image in (pair.fundus, pair.octa, pair.fov)), cache
    )
    full_field = held_out_full_field(data_fold, cases)
    return RunData(
        train=train,
        held_out=[Pair(*held_out[first : first + 3]) for first in range(0, len(held_out), 3)],
        full_field=None if full_field is None else read_fundus(full_field),
        digest=f"{digest:08x}",
    )


# --- checkpoints and run.json ----------------------------------------------------------------------------------------


class RunState:
    """All that a run needs to go on, as one checkpoint: networks, optimisers, dropout's seeds, where it stands."""

    def __init__(self, networks: Pix2Pix, folder: Path | None, keep: int):
        """Args: the networks; the run's folder of checkpoints (None: never saved); how many periodic ones to keep."""
        self.step = tf.Variable(0, dtype=tf.int64)  # steps done
        self.epoch = tf.Variable(0, dtype=tf.int64)  # epochs done
        self.best_score = tf.Variable(-np.inf, dtype=tf.float64)
        optimizers = {
            "generator_optimizer": networks.generator_optimizer,
            "discriminator_optimizer": networks.discriminator_optimizer,
        }
        dropout = layers_of(networks.generator, keras.layers.Dropout)
        self.checkpoint = tf.train.Checkpoint(
            generator=networks.generator,
            discriminator=networks.discriminator,
            # Of a loss-scaled one the optimiser within, so that its slots have one place in every precision.
            **{name: getattr(optimizer, "inner_optimizer", optimizer) for name, optimizer in optimizers.items()},
            loss_scales=[
                [optimizer.dynamic_scale, optimizer.step_counter]
                for optimizer in optimizers.values()
                if isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
            ],
            dropout_seeds=[layer.seed_generator.state for layer in dropout],
            step=self.step,
            epoch=self.epoch,
            best_score=self.best_score,
        )
        self.weights = [*networks.generator.variables, *networks.discriminator.variables]
        self.folder, self.keep = folder, keep
        self.saved: int | None = None  # the step that is saved as a periodic checkpoint

    def remove_unfinished(self) -> None:
        """Remove what a killed process was writing."""
        for place in (self.folder, self.folder / BEST):
            remove_unfinished(place)

    def save(self) -> None:
        """Save as the newest checkpoint, unless this step is saved already.

        Raises:
            RunError: it cannot be written, or a weight is not finite.
        """
        if self.saved != int(self.step):
            self._save(self.folder, self.keep)
            self.saved = int(self.step)

    def save_best(self) -> None:
        """Save as the best checkpoint, in place of the one before. Raises RunError as `save`."""
        self._save(self.folder / BEST, keep=1)

    def _save(self, folder: Path, keep: int) -> None:
        step = int(self.step)
        for weights in self.weights:
            if not np.isfinite(weights.numpy()).all():
                raise RunError(f"{weights.path} is not finite after step {step}: not saved; {self.folder} is as it was")
        try:
            save(self.checkpoint, folder, step, keep)
        except (OSError, tf.errors.OpError) as error:
            raise RunError(
                f"the checkpoint of step {step} could not be written ({reason_of(error)}); "
                f"those before it in {self.folder} are whole: make room, then --resume"
            ) from error

    def restore(self) -> bool:
        """Take up the newest checkpoint that is whole, be it periodic or the best; False if none was ever saved.

        Raises:
            RunError: there are checkpoints, but none is whole.
        """
        periodic, best = list_checkpoints(self.folder), list_checkpoints(self.folder / BEST)
        paths = sorted(periodic + best, key=step_of, reverse=True)
        if not paths:
            return False
        if restore(self.checkpoint, paths, self.folder) in periodic:
            self.saved = int(self.step)
        return True


def initialise(networks: Pix2Pix, settings: Settings) -> None:
    """Take over the weights of the run that `--init-from` names, if it does: the best by validation, if there is one.

    Raises:
        RunError: the folder is no run, or its networks have another shape.
    """
    if settings.init_from is None:
        return
    folder = Path(settings.init_from)
    other, _ = read_run(folder)
    for name in ("octa_channels", "upsampling"):
        its, mine = getattr(other, name), getattr(settings, name)
        if its != mine:
            raise RunError(f"--init-from {folder}: its {flag(name)} is {its}, this run's {mine}")
    both = tf.train.Checkpoint(generator=networks.generator, discriminator=networks.discriminator)
    print(f"Weights from {restore(both, find_weights(folder, None), folder)}")


# --- the log of a run ------------------------------------------------------------------------------------------------


class RunLog:
    """TensorBoard's summaries, all at the global step, and metrics.csv."""

    def __init__(self, folder: Path, step: int):
        """Args: the run's folder of logs; the step that the run goes on from, 0 for a new one."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.table = folder, folder / "metrics.csv"
        try:
            self.writer = tf.summary.create_file_writer(str(folder))
            rows = csv.DictReader(self.table.read_text(encoding="utf-8").splitlines()) if self.table.exists() else ()
            self.rows = [row for row in rows if int(row["step"]) <= step]  # those after the checkpoint come again
        except tf.errors.OpError as error:
            raise RunError(f"{folder}: cannot be written to ({reason_of(error)})") from error
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{self.table}: damaged ({error}); move it away, then --resume") from error

    def flush(self) -> None:
        """Bring all that is logged to the disk. Raises RunError if it is full: TensorFlow would lose it in silence."""
        if shutil.disk_usage(self.folder).free < MIN_FREE_BYTES:
            raise RunError(f"{self.folder}: the disk is full; make room, then --resume")
        self.writer.flush()

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Log numbers by tag."""
        with self.writer.as_default(step):
            for tag, value in values.items():
                tf.summary.scalar(tag, value)

    def images(self, tag: str, images: Sequence[np.ndarray], step: int) -> None:
        """Log images (height, width, channels), uint8 on [0, 255] or float on [0, 1], under one tag."""
        with self.writer.as_default(step):
            tf.summary.image(tag, as_batch(images), max_outputs=len(images))

    def settings(self, settings: Settings, step: int) -> None:
        """Log the settings as a table."""
        lines = [f"| {flag(name)} | {value} |" for name, value in asdict(settings).items()]
        with self.writer.as_default(step):
            tf.summary.text("settings", "\n".join(["| setting | value |", "|---|---|", *lines]))

    def scores(self, scores: dict[str, float], epoch: int, step: int) -> None:
        """Log validation scores, to TensorBoard and to metrics.csv."""
        self.scalars({f"validation/{name}": value for name, value in scores.items()}, step)
        self.rows.append({"epoch": epoch, "step": step} | scores)
        lines = [",".join(self.rows[-1])]
        lines += [",".join(str(value) for value in row.values()) for row in self.rows]
        with whole_file(self.table) as part:
            part.write_text("\n".join(lines) + "\n", encoding="utf-8")


# --- the loop --------------------------------------------------------------------------------------------------------


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a wish to stop after the step; a second one ends the program at once."""

    number = 0  # of the signal; 0: none came

    def __enter__(self) -> "StopRequest":
        self.before = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, _frame) -> None:
        """The signals' handler."""
        self.number = number
        for other in self.before:
            signal.signal(other, signal.SIG_DFL)
        print("\nStopping: finishing the step, then saving. Once more to stop without saving.", file=sys.stderr)


@dataclass
class Run:
    """A run under way."""

    settings: Settings
    data: RunData
    patches: TrainingPatches | DrawnPatches
    networks: Pix2Pix
    state: RunState
    log: RunLog | None  # None: another process writes logs and checkpoints
    saved_at: float = 0.0  # of the clock `time.monotonic`

    def save(self) -> None:
        """Save a checkpoint, and before it what is logged up to it. Raises RunError if the disk is full."""
        if self.log is not None:
            self.log.flush()
            self.state.save()
        self.saved_at = time.monotonic()

    def note(self, values: dict[str, float], step: int) -> None:
        """Log numbers by tag."""
        if self.log is not None:
            self.log.scalars(values, step)

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.settings.epochs * self.patches.steps_per_epoch

    @property
    def log_folder(self) -> Path:
        """Where TensorBoard's summaries and metrics.csv are."""
        return log_folder(self.settings)

    @property
    def checkpoint_folder(self) -> Path:
        """Where the checkpoints and run.json are."""
        return checkpoint_folder(self.settings)


def log_folder(settings: Settings) -> Path:
    """Where a run keeps TensorBoard's summaries and metrics.csv."""
    return Path(settings.logs) / "fit" / settings.name


def checkpoint_folder(settings: Settings) -> Path:
    """Where a run keeps its checkpoints and run.json."""
    return Path(settings.checkpoints) / settings.name


def train(settings: Settings, resume: bool = False, data_digest: str | None = None, verbose: bool = False) -> int:
    """Run the training that the settings describe.

    Args:
        settings: resolved: with a data folder, and a precision that is a dtype policy; a resumed run's with its name.
        resume: go on with the run of that name, to `settings.epochs` in all.
        data_digest: of the data that the resumed run was trained on.
        verbose: name the files that have no partner.

    Returns:
        The exit status: 0; or 128 + the signal that stopped the run (130 Ctrl-C, 143 SIGTERM).

    Raises:
        DataError, RunError: see there.
    """
    strategy = share_the_work(settings)
    keras.utils.set_random_seed(settings.seed)
    data = load_run_data(settings, verbose)
    if resume and data.digest != data_digest:
        raise RunError(f"{settings.data}: not the training and validation images that the run was made with")
    patches = training_patches(data.train, settings)
    check_shares(patches, strategy.num_replicas_in_sync)
    networks = Pix2Pix(settings, strategy)
    if not resume:
        initialise(networks, settings)
    chief = is_chief(strategy)
    with ExitStack() as held:
        if not chief:
            print("Another process writes logs and checkpoints")
        else:
            settings = settings if resume else claim_folders(settings, data.digest)
            held.enter_context(lock(checkpoint_folder(settings)))
            print(f"Run: {settings.name}")
        state = RunState(networks, None if settings.name is None else checkpoint_folder(settings), settings.keep)
        if resume:
            take_up(networks, state, settings)
        log = None
        if chief:
            state.remove_unfinished()
            write_run(state.folder, settings, data.digest)
            log = RunLog(log_folder(settings), int(state.step))
            log.settings(settings, int(state.step))
        return train_epochs(Run(settings, data, patches, networks, state, log))


def check_shares(patches: TrainingPatches | DrawnPatches, devices: int) -> None:
    """Raises SettingsError if a batch, such as the last one of an epoch, has fewer patches than there are devices."""
    smallest = patches.patches_per_epoch % patches.batch_size or patches.batch_size
    if smallest < devices:
        raise SettingsError(
            f"--batch-size {patches.batch_size}: the last batch of an epoch has {smallest} patches "
            f"for {devices} devices; take another, or fewer --devices"
        )


def take_up(networks: Pix2Pix, state: RunState, settings: Settings) -> None:
    """Go on where a run stands, or begin it if it was stopped before its first checkpoint.

    Raises:
        RunError: its checkpoints are damaged, or its epochs are done.
    """
    if state.restore():
        print(f"Going on after epoch {int(state.epoch)}, step {int(state.step)}, from {state.folder}")
    else:
        print(f"{state.folder} has no checkpoint yet: starting at its beginning")
        initialise(networks, settings)
    if int(state.epoch) >= settings.epochs:
        raise RunError(f"--resume: {state.folder} has its {int(state.epoch)} epochs already; give a larger --epochs")


def claim_folders(settings: Settings, digest: str) -> Settings:
    """Make the folders of a new run, with its run.json; returns the settings with the run's name.

    A run without a name gets date and time, with a number behind it if another run has it, or takes it just now.

    Raises:
        OSError: a folder cannot be made, or is there though its name was given; neither is made, then.
    """
    if settings.name is not None:
        make_folders(settings, digest)
        return settings
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in count(1):
        named = replace(settings, name=now if number == 1 else f"{now}-{number}")
        try:
            make_folders(named, digest)
        except FileExistsError:
            if not (log_folder(named).exists() or checkpoint_folder(named).exists()):
                raise  # it is a file, where a folder should hold all runs
            continue
        return named


def make_folders(settings: Settings, digest: str) -> None:
    """Make both folders of a run, that of the checkpoints with its run.json in it, or neither.

    Raises:
        OSError: one cannot be made, or is there already.
    """
    logs, folder = log_folder(settings), checkpoint_folder(settings)
    logs.mkdir(parents=True)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{settings.name}-", dir=folder.parent) as temporary:
            made = Path(temporary) / "run"
            made.mkdir()
            write_run(made, settings, digest)
            if folder.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))
            made.rename(folder)
    except OSError:
        logs.rmdir()
        raise


def training_patches(images: list[np.ndarray], settings: Settings) -> TrainingPatches | DrawnPatches:
    """The batches that the settings ask for: of real pairs, of sample retinas, or mixed."""
    real = None
    if settings.data != DRAWN:
        real = TrainingPatches(images, settings.patch_size, settings.batch_size, settings.seed, settings.augment)
        if not settings.mix:
            return real
    workers = min(max(1, (os.cpu_count() or 1) - 1), MAX_DRAWING)

    def draw(first: int) -> Iterator[np.ndarray]:
        for retina in phantom_retina.stream(settings.seed, first, workers):  # (400, 400, 3 + 1 + 1)
            # As it is shown in prediction. From black borders the network would learn to draw dark retina black.
            pair = continue_outside(retina[..., :-1], retina[..., -1] > 0)
            if settings.octa_channels == 4:  # as in the deposit's files: grey, with an alpha that carries nothing
                grey = pair[..., -1]
                pair = np.dstack([pair, grey, grey, np.full_like(grey, 255)])
            yield pair

    return DrawnPatches(
        draw=draw,
        size=phantom_retina.CROP_PX,
        channels=settings.octa_channels,
        patch_size=settings.patch_size,
        batch_size=settings.batch_size,
        seed=settings.seed,
        real=real,
        share=settings.mix,
    )


def train_epochs(run: Run) -> int:
    """Train up to the last epoch or a signal to stop; returns the exit status."""
    settings, state = run.settings, run.state
    batches = run.patches.batches(int(state.step), settings.epochs)
    run.saved_at = time.monotonic()
    with StopRequest() as stop:
        while int(state.epoch) < settings.epochs and not stop.number:
            started = time.monotonic()
            if not train_epoch(run, batches, stop):
                break
            end_epoch(run)
            left = (settings.epochs - int(state.epoch)) * (time.monotonic() - started)
            print(f"  about {duration(left)} left" if left else "  done")
        run.save()
    if run.log is None:
        return 128 + stop.number if stop.number else 0
    run.log.writer.close()
    print(f"Checkpoints, run.json  {run.checkpoint_folder}")
    print(f"Summaries, metrics.csv {run.log_folder}")
    if stop.number:
        print(f"Stopped after step {int(state.step)}. To go on:")
        print(f"  python {PROGRAM} --resume {shlex.quote(str(run.checkpoint_folder))}")
        return 128 + stop.number
    print(f"To see them:\n  tensorboard --logdir={shlex.quote(settings.logs)}")
    return 0


def train_epoch(run: Run, batches: Iterator[tuple[tf.Tensor, tf.Tensor]], stop: StopRequest) -> bool:
    """Train the rest of the epoch that the run is in; False if a signal stopped it on the way.

    Raises:
        RunError: a loss is not finite.
    """
    state, patches = run.state, run.patches
    epoch = int(state.epoch)
    first, last = int(state.step), (epoch + 1) * patches.steps_per_epoch  # steps done, now and at the epoch's end
    done = (first - epoch * patches.steps_per_epoch) * patches.batch_size
    bar = tqdm(
        total=patches.patches_per_epoch,
        initial=done,
        unit="img",
        desc=f"epoch {epoch + 1}/{run.settings.epochs}",
        mininterval=0.5 if sys.stderr.isatty() else 30,  # s: a log file need not see each step
        disable=run.log is None,
    )
    started = time.monotonic()
    with bar:
        for step in range(first + 1, last + 1):
            input_image, target = next(batches)
            set_rate(run, step)
            warm_up = step <= run.settings.warm_up * run.steps
            train_step = run.networks.warm_up_step if warm_up else run.networks.train_step
            losses = {tag: float(loss) for tag, loss in train_step(input_image, target).items()}
            check_finite(losses, step, run.state.folder)
            state.step.assign(step)
            run.note(losses, step)
            shown = {tag: f"{losses[tag]:.3f}" for tag in SHOWN_LOSSES if tag in losses}
            bar.set_postfix(shown, refresh=False)
            bar.update(input_image.shape[0])
            if stop.number and step < last:
                return False
            if time.monotonic() - run.saved_at > CHECKPOINT_SECONDS:
                run.save()
    rate = (patches.patches_per_epoch - done) / (time.monotonic() - started)
    run.note({"images_per_second": rate}, last)
    return True


def set_rate(run: Run, step: int) -> None:
    """Give both optimisers the rate of a step."""
    for optimizer in (run.networks.generator_optimizer, run.networks.discriminator_optimizer):
        optimizer.learning_rate = learning_rate(run.settings, step, run.steps)


def learning_rate(settings: Settings, step: int, steps: int) -> float:
    """The rate of a step (from 1 to `steps`): as set, then falling to 0 in a line over the last `decay` of the run."""
    falling = settings.decay * steps
    left = steps - step + 1
    return settings.learning_rate * min(1.0, left / falling) if falling else settings.learning_rate


def check_finite(losses: dict[str, float], step: int, folder: Path) -> None:
    """Raises RunError, naming loss and step, if one is not finite."""
    for tag, loss in losses.items():
        if not np.isfinite(loss):
            raise RunError(f"{tag} is {loss} at step {step}: stopped; the last good checkpoint is in {folder}")


def end_epoch(run: Run) -> None:
    """Count the epoch, validate, log scores and pictures, and save what is due."""
    settings, data, networks, state = run.settings, run.data, run.networks, run.state
    state.epoch.assign_add(1)
    epoch, step = int(state.epoch), int(state.step)
    if run.log is None:
        return
    if data.held_out:
        try:
            results = [generate_fundus_oct_pair(networks, pair) for pair in data.held_out]
        except RunError as error:
            raise RunError(f"validation after step {step}: {error}") from error
        scores = mean_scores([score for _, score in results])
        run.log.scores(scores, epoch, step)
        shown = pictured(len(results))
        run.log.images("Fundus", [data.held_out[number].fundus for number in shown], step)
        run.log.images("Target OCT", [data.held_out[number].octa for number in shown], step)
        run.log.images("Predicted OCT", [results[number][0] for number in shown], step)
        is_best = scores[BEST_SCORE] > float(state.best_score)
        print("  validation: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()), end="")
        print(" (best)" if is_best else "")
        if is_best:
            state.best_score.assign(scores[BEST_SCORE])
            state.save_best()
    if data.full_field is not None and (epoch % WHOLE_FUNDUS_EPOCHS == 0 or epoch == settings.epochs):
        run.log.images("Whole Fundus", [evaluate_whole_fundus(networks, data.full_field, settings)], step)
    run.log.flush()
    if epoch % CHECKPOINT_EPOCHS == 0:
        run.save()


def pictured(number: int) -> list[int]:
    """Which of a number of held-out crops TensorBoard shows: a few, evenly spread, the same every epoch."""
    return sorted({round(place) for place in np.linspace(0, number - 1, PICTURED_CROPS)})


def duration(seconds: float) -> str:
    """Hours and minutes for people."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


# --- command line ----------------------------------------------------------------------------------------------------


def settings_of_new_run(given: dict) -> Settings:
    """The resolved settings of a new run: what was given, else the defaults, of sample retinas where there is no data.

    Raises:
        SettingsError, DataError, RunError: see there.
    """
    if "name" in given:
        refuse_taken_name(Settings(**given))
    data = find_data(given.get("data"))
    defaults, reason = {}, ""
    if data == DRAWN:
        defaults, reason = SAMPLE_RUN, "sample retinas"
    elif "init_from" in given:
        other, _ = read_run(Path(given["init_from"]))
        defaults, reason = FINE_TUNING | {"upsampling": other.upsampling}, "--init-from"
    settings = Settings(**(defaults | given | {"data": data}))
    if data == DRAWN:
        use_sample_retinas()
    if defaults:
        print(f"Defaults for {reason}: " + ", ".join(f"{flag(name)} {value}" for name, value in defaults.items()))
    return replace(settings, precision=precision_policy(settings.precision))


def refuse_taken_name(settings: Settings) -> None:
    """Raises SettingsError if a folder of the run's name is there."""
    for folder in (log_folder(settings), checkpoint_folder(settings)):
        if folder.exists():
            raise SettingsError(f"--name {settings.name}: {folder} exists; take another name, or --resume")


def precision_policy(choice: str) -> str:
    """Keras' dtype policy for a choice of precision; says which and why."""
    policy, reason = resolve_precision(choice)
    print(f"Precision: {policy} ({reason})")
    return policy


def settings_of_old_run(given: dict, resume: str) -> tuple[Settings, str]:
    """The settings of a run that is to go on, from its run.json, and the digest of its data.

    Args:
        given: options of the command line by field of Settings.
        resume: the run's folder of checkpoints, or "" for the newest.

    Raises:
        RunError: there is no such run, or what was given contradicts run.json.
    """
    checkpoints = Path(given.get("checkpoints", Settings.checkpoints))
    folder = Path(resume) if resume else newest_run(checkpoints, "--resume", untrained=True)
    old, data_digest = read_run(folder)
    old = replace(old, checkpoints=str(folder.parent), name=folder.name)
    new = replace(old, **{name: given[name] for name in CHANGEABLE & given.keys()})
    asked = replace(new, **given)
    if asked.precision == "auto":
        asked = replace(asked, precision=old.precision)
    if clashes := [
        f"{flag(name)} {value} (was {getattr(new, name)})"
        for name, value in asdict(asked).items()
        if name not in ("checkpoints",) and value != getattr(new, name)
    ]:
        raise RunError(f"--resume: {folder} was made with other settings: {', '.join(clashes)}")
    if "data" in given:
        new = replace(new, data=find_data(given["data"]))
    elif new.data == DRAWN:
        use_sample_retinas()
    elif find_dataset(Path(new.data)) is None:
        raise RunError(f"--resume: {new.data} is gone; name the data's new place with --data")
    return new, data_digest


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, train, and return the exit status: 2 for anything that the user can mend."""
    given = parse_command_line(argv, PROGRAM, __doc__)
    verbose, resume = given.pop("verbose", False), given.pop("resume", None)
    prepare_process()
    try:
        device = set_up_gpus()
        if resume is None:
            settings, digest = settings_of_new_run(given), None
        else:
            settings, digest = settings_of_old_run(given, resume)
        print(f"Device: {device}")
        chosen = {name: value for name, value in asdict(settings).items() if value is not None}
        print("Settings:\n" + "\n".join(f"  {flag(name):<18} {value}" for name, value in chosen.items()))
        return train(settings, resume is not None, digest, verbose)
    except (SettingsError, DataError, RunError, OSError) as error:
        print(f"{PROGRAM}: error: {one_line(error)}", file=sys.stderr)
        return 2
    except (tf.errors.UnavailableError, tf.errors.AbortedError):
        advice = "it ended, or cannot be reached; start all workers again, with --resume"
        print(f"{PROGRAM}: error: another worker is lost: {advice}", file=sys.stderr)
        return 2
    except tf.errors.ResourceExhaustedError:
        print(f"{PROGRAM}: error: out of memory; take a smaller --batch-size or --patch-size", file=sys.stderr)
        return 2
    except tf.errors.UnknownError as error:  # so the pipeline hands on what `draw` raised
        if phantom_retina.WORKER_ENDED not in str(error):
            raise
        print(f"{PROGRAM}: error: {phantom_retina.WORKER_ENDED}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped before training began; nothing to resume", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
