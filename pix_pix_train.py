"""Train pix2pix to turn fundus photographs into OCT-A images, as in Coronado et al., Sci Rep 2023;13:15325.

    python pix_pix_train.py                            # UT-FSOCTA in data/, or simulated retinas if there is none
    python pix_pix_train.py --data DIR --batch-size 8  # data elsewhere, a smaller batch
    python pix_pix_train.py --resume                   # continue the newest run
    tensorboard --logdir=logs                          # watch

Writes logs/fit/NAME/ (TensorBoard, metrics.csv) and training_checkpoints/NAME/ (ckpt-STEP, best/, run.json).
`--help` lists every setting with its reason.
"""

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from basics.command_line import VERSION, StopRequest, exit_status, load_tensorflow, need, progress_bar
from run.settings import BEST_BY, DEFAULT_BEST_BY, Settings, as_options, parse_command_line

PROGRAM = "pix_pix_train.py"
if __name__ == "__main__":
    parse_command_line(None, PROGRAM, __doc__)  # help and errors at once: loading TensorFlow takes seconds
load_tensorflow()

import keras
import numpy as np
import tensorflow as tf

from pairs.dataset import Pair
from pix_discriminator import Discriminator
from pix_generator import Generator
from pix_layers import layers_of
from retina.field_of_view import field_to_use
from retina.images import FUNDUS_CHANNELS, octa_to_grey
from retina.similarity import mean_scores, validation_scores, vessel_agreement
from run.batches import SimulatedPatches, TrainingPatches
from run.checkpoints import (
    RunError,
    RunState,
    checkpoint_folder,
    claim_folders,
    lock,
    log_folder,
    saved_in_words,
    seen_by,
    write_run,
)
from run.data import RunData, load_run_data, training_patches
from run.devices import (
    check_shares,
    choose_strategy,
    compiled,
    errors_in_one_line,
    is_chief,
    new_optimizer,
    set_up_gpus,
)
from run.log import RunLog
from run.new_run import settings_of_new_run, settings_of_resumed_run
from run.pictures import LARGE, beside_fundus, pictures_of
from run.predict import Predictor
from run.schedule import has_discriminator, is_past_l1_only, learning_rate, with_noise
from run.tags import EPOCH
from run.weights import start_from

CHECKPOINT_EPOCHS = 20  # epochs between periodic checkpoints: the study's
CHECKPOINT_SECONDS = 300  # at most between checkpoints, within a long epoch too: a crash loses no more
WHOLE_FUNDUS_EPOCHS = 10  # epochs between pictures of a whole photograph: the study's
SHOWN_LOSSES = ("gen_gan_loss", "gen_l1_loss", "disc_loss")  # in the progress bar
LARGE_PICTURES = 25  # of each eye in a run; each takes a megabyte
LEAST_BYTES = 2_400_000_000  # of address space of the networks and the smallest batch, a fifth less than measured
SMALLER_RUN = "start a run with a smaller --batch-size or --patch-size"  # if memory is short
GRID_PX = 16  # the last four transposed convolutions, each of stride 2, can leave patterns with periods of 2 to 16 px
SPECKLE_WEIGHT = 0.01  # vessel AUC that a run which learns speckle gives up to halve the error of its power


# --- losses ----------------------------------------------------------------------------------------------------------


def generator_loss(
    disc_generated_output: tf.Tensor, gen_output: tf.Tensor, target: tf.Tensor, lambda_l1: float, l1_scale: int = 1
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """How far the generator is from fooling the discriminator and from the target (Isola et al., CVPR 2017, eq. 4).

    Args:
        disc_generated_output: (batch, h, w, 1), logits for generated images.
        gen_output: (batch, height, width, channels), [-1, 1].
        target: (batch, height, width, channels), [-1, 1].
        lambda_l1: weight of the mean absolute error.
        l1_scale: of the mean absolute error, see `l1_loss`.

    Returns:
        Three scalars: the total, the adversarial term (cross-entropy with "real") and the mean absolute error.
    """
    gan_loss = cross_entropy(1.0, disc_generated_output)
    gen_l1_loss = l1_loss(gen_output, target, l1_scale)
    return gan_loss + lambda_l1 * gen_l1_loss, gan_loss, gen_l1_loss


def l1_loss(gen_output: tf.Tensor, target: tf.Tensor, l1_scale: int = 1) -> tf.Tensor:
    """Mean absolute error of images (batch, height, width, channels), [-1, 1], averaged over l1_scale x l1_scale px.

    A photograph does not show where an OCT-A has speckle, so pixel by pixel the best prediction has none. After
    averaging, any speckle with the right mean scores equally well, and the discriminator demands some. The cheapest
    would be a grid with the stride of the transposed convolutions. So above 1 the error of the mean tile is added, in
    which speckle averages out but a grid does not.
    """
    difference = target - gen_output
    if l1_scale == 1:
        return tf.reduce_mean(tf.abs(difference))
    averages = tf.nn.avg_pool2d(difference, l1_scale, strides=1, padding="VALID")
    return tf.reduce_mean(tf.abs(averages)) + tf.reduce_mean(tf.abs(mean_tile(difference)))


def mean_tile(images: tf.Tensor) -> tf.Tensor:
    """The mean of all tiles of 16 x 16 px of each image (batch, height, width, channels): (batch, 16, 16, channels)."""
    batch, height, width, channels = tf.unstack(tf.shape(images))
    tiles = tf.reshape(images, (batch, height // GRID_PX, GRID_PX, width // GRID_PX, GRID_PX, channels))
    return tf.reduce_mean(tiles, axis=(1, 3))


def discriminator_loss(disc_real_output: tf.Tensor, disc_generated_output: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of the discriminator's logits (batch, h, w, 1) with "real" and "generated"; summed, not halved."""
    return cross_entropy(1.0, disc_real_output) + cross_entropy(0.0, disc_generated_output)


def cross_entropy(label: float, logits: tf.Tensor) -> tf.Tensor:
    """Mean binary cross-entropy of logits with one label for all."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), label), logits))


# --- networks and their two steps ------------------------------------------------------------------------------------


class Pix2Pix:
    """Both networks with their optimisers, and the steps that train them."""

    def __init__(self, settings: Settings):
        """Args: settings, whose precision is a dtype policy, not `auto`."""
        keras.config.set_dtype_policy(settings.precision)
        patch_dim = (settings.patch_size, settings.patch_size)
        self.lambda_l1, self.l1_scale = settings.lambda_l1, settings.l1_scale
        self.generator = Generator(FUNDUS_CHANNELS, (None, None), settings.octa_channels)
        self.discriminator = Discriminator(FUNDUS_CHANNELS, settings.octa_channels, patch_dim)
        self.generator_optimizer = new_optimizer(self.generator, settings)
        self.discriminator_optimizer = new_optimizer(self.discriminator, settings)
        self.predictor = Predictor(self.generator, settings.input_noise)
        self.signature = [
            tf.TensorSpec((None, *patch_dim, channels), tf.float32)
            for channels in (FUNDUS_CHANNELS, settings.octa_channels)
        ]

    def train_step(self, input_image: tf.Tensor, target: tf.Tensor) -> dict[str, tf.Tensor]:
        """Train both networks on a batch of fundus (batch, patch, patch, 3) and OCT-A (.., channels), [-1, 1].

        Returns:
            Scalars: the four losses, and the mean probability of being real that the discriminator assigns to real and
            to generated images.
        """
        with tf.GradientTape() as gen_tape, tf.GradientTape() as disc_tape:
            gen_output = self.generator(input_image, training=True)

            disc_real_output = self.discriminator([input_image, target], training=True)
            disc_generated_output = self.discriminator([input_image, gen_output], training=True)

            gen_total_loss, gen_gan_loss, gen_l1_loss = generator_loss(
                disc_generated_output, gen_output, target, self.lambda_l1, self.l1_scale
            )
            disc_loss = discriminator_loss(disc_real_output, disc_generated_output)
            # In float16, small gradients would vanish: the loss is scaled up, and `apply` scales back.
            scaled_gen_loss = self.generator_optimizer.scale_loss(gen_total_loss)
            scaled_disc_loss = self.discriminator_optimizer.scale_loss(disc_loss)

        gen_weights, disc_weights = self.generator.trainable_variables, self.discriminator.trainable_variables
        self.generator_optimizer.apply(gen_tape.gradient(scaled_gen_loss, gen_weights), gen_weights)
        self.discriminator_optimizer.apply(disc_tape.gradient(scaled_disc_loss, disc_weights), disc_weights)
        return {
            "gen_total_loss": gen_total_loss,
            "gen_gan_loss": gen_gan_loss,
            "gen_l1_loss": gen_l1_loss,
            "disc_loss": disc_loss,
            "disc_real_mean": tf.reduce_mean(tf.sigmoid(disc_real_output)),
            "disc_generated_mean": tf.reduce_mean(tf.sigmoid(disc_generated_output)),
        }

    def l1_step(self, input_image: tf.Tensor, target: tf.Tensor) -> dict[str, tf.Tensor]:
        """Train the generator alone, on the weighted mean absolute error; images as in `train_step`."""
        with tf.GradientTape() as tape:
            gen_l1_loss = l1_loss(self.generator(input_image, training=True), target)
            scaled_loss = self.generator_optimizer.scale_loss(self.lambda_l1 * gen_l1_loss)
        weights = self.generator.trainable_variables
        self.generator_optimizer.apply(tape.gradient(scaled_loss, weights), weights)
        return {"gen_l1_loss": gen_l1_loss}


# --- the loop --------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A run in progress."""

    settings: Settings
    data: RunData
    patches: TrainingPatches | SimulatedPatches
    networks: Pix2Pix
    strategy: tf.distribute.Strategy
    state: RunState
    log: RunLog | None  # None: another process writes logs and checkpoints
    seen: frozenset[str]  # `photo_digest` of what this run, or one it started from, is trained or validated on

    def __post_init__(self):
        self.train_step = compiled(self.networks.train_step, self.networks.signature, self.strategy)
        self.l1_step = compiled(self.networks.l1_step, self.networks.signature, self.strategy)
        self.steps = self.settings.epochs * self.patches.steps_per_epoch
        self.saved_at = time.monotonic()

    def save(self) -> None:
        """Save log, checkpoint and, in case the folder was deleted, run.json. Raises UserError if the disk is full."""
        if self.log is not None:
            self.log.flush()
            self.state.save()
            write_run(self.state.folder, self.settings, self.data.digest, self.seen)
        self.saved_at = time.monotonic()

    def log_scalars(self, values: dict[str, float], step: int) -> None:
        """Log numbers by tag."""
        if self.log is not None:
            self.log.scalars(values, step)


def train_epochs(run: Run) -> int:
    """Train up to the last epoch, or until a signal stops the run; returns the exit status."""
    settings, state = run.settings, run.state
    with StopRequest() as stop, closing(run.patches.batches(int(state.step), settings.epochs)) as batches:
        while int(state.epoch) < settings.epochs and not stop.number:
            started = time.monotonic()
            if not (train_epoch(run, batches, stop) and end_epoch(run, stop)):
                break
            left = (settings.epochs - int(state.epoch)) * (time.monotonic() - started)
            print(f"  about {duration(left)} left" if left else "  done")
        run.save()
    stopped = stop.number if int(state.epoch) < settings.epochs else 0  # a complete run has nothing to resume
    if run.log is not None:
        print(f"Checkpoints, run.json  {run.state.folder}")
        print(f"Summaries, metrics.csv {run.log.folder}")
        if stopped:
            print(f"Stopped after step {int(state.step)}. To continue:")
            print(f"  python {PROGRAM} --resume {shlex.quote(str(run.state.folder))}")
        else:
            print(f"To watch them:\n  tensorboard --logdir={shlex.quote(settings.logs)}")
    return 128 + stopped if stopped else 0


def train_epoch(run: Run, batches: Iterator[tuple[tf.Tensor, tf.Tensor]], stop: StopRequest) -> bool:
    """Train the rest of the current epoch; False if a signal stopped it before its last step.

    Raises:
        RunError: a loss is not finite.
    """
    stop.at_hand = "step"
    settings, state, networks, patches = run.settings, run.state, run.networks, run.patches
    epoch = int(state.epoch)
    first, last = int(state.step), (epoch + 1) * patches.steps_per_epoch  # steps done, now and at the epoch's end
    if first == last:  # the run was stopped before this epoch was validated
        return True
    done = (first - epoch * patches.steps_per_epoch) * patches.batch_size
    title, started = f"epoch {epoch + 1}/{settings.epochs}", time.monotonic()
    of_epoch: dict[str, list[float]] = {}
    with progress_bar(
        total=patches.patches_per_epoch, initial=done, unit="img", desc=title, disable=run.log is None
    ) as bar:
        for step in range(first + 1, last + 1):
            input_image, target = next(batches)
            rate = learning_rate(settings, step, run.steps)
            networks.generator_optimizer.learning_rate = networks.discriminator_optimizer.learning_rate = rate
            train_step = run.l1_step
            if has_discriminator(settings, step, run.steps):
                train_step, input_image = run.train_step, with_noise(input_image, settings, step)
            losses = {tag: float(loss) for tag, loss in train_step(input_image, target).items()}
            check_finite(losses, step, state.folder)
            state.step.assign(step)

            phase = float(is_past_l1_only(settings, step, run.steps))
            run.log_scalars(losses | {"learning_rate": rate, "phase": phase}, step)
            for tag, loss in losses.items():
                of_epoch.setdefault(tag, []).append(loss)
            bar.set_postfix({tag: f"{losses[tag]:.3f}" for tag in SHOWN_LOSSES if tag in losses}, refresh=False)
            bar.update(input_image.shape[0])
            if stop.number and step < last:
                return False
            if time.monotonic() - run.saved_at > CHECKPOINT_SECONDS:
                run.save()
    run.log_scalars({"images_per_second": (patches.patches_per_epoch - done) / (time.monotonic() - started)}, last)
    if not done:  # otherwise the mean would differ from that of an unbroken run
        run.log_scalars({EPOCH + tag: float(np.mean(losses)) for tag, losses in of_epoch.items()}, last)
    return True


def check_finite(losses: dict[str, float], step: int, folder: Path) -> None:
    """Raises RunError, naming loss and step, if one is not finite."""
    for tag, loss in losses.items():
        if not np.isfinite(loss):
            raise RunError(f"{tag} is {loss} at step {step}: stopped; {saved_in_words(folder)}")


def end_epoch(run: Run, stop: StopRequest) -> bool:
    """Validate, count the epoch, log scores and pictures, and save what is due.

    Returns:
        False if a signal stopped it before all crops were predicted. Then nothing has changed, so that the resumed run
        begins with the validation.
    """
    settings, data, state = run.settings, run.data, run.state
    if run.log is None:
        state.epoch.assign_add(1)
        return True
    epoch, step = int(state.epoch) + 1, int(state.step)
    results, whole = {}, None
    stop.at_hand = "crop"
    for name, pair in (dict(zip(data.names, data.validation, strict=True)) or data.pictured()).items():
        if stop.number:
            return False
        results[name] = validate(run, pair, step)
    if data.full_field is not None and (epoch % WHOLE_FUNDUS_EPOCHS == 0 or epoch == settings.epochs):
        if stop.number:
            return False
        stop.at_hand = "photograph"
        whole = evaluate_whole_fundus(run.networks, data.full_field, settings.fov_mask)
    stop.at_hand = "epoch's pictures"
    state.epoch.assign(epoch)
    if data.validation:
        scores = mean_scores([score for _, score in results.values()])
        run.log.scores(scores, epoch, step)
        # Weights from before the discriminator's phase draw no speckle, however well they draw the vessels.
        complete = settings.l1_only == 1 or is_past_l1_only(settings, step, run.steps)
        score = best_score(settings, scores)
        is_best = complete and score > float(state.best_score)
        print("  validation: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()), end="")
        print(" (best)" if is_best else "")
        if is_best:
            state.best_score.assign(score)
            state.save_best()
    log_pictures(run, step, results)
    if whole is not None:
        run.log.images("Whole Fundus", [beside_fundus(data.full_field, whole)], step)
    run.log.flush()
    if epoch % CHECKPOINT_EPOCHS == 0:
        run.save()
    return True


def best_score(settings: Settings, scores: dict[str, float]) -> float:
    """A checkpoint's score, higher is better: vessel AUC, with `--l1-scale` above 1 less a penalty for wrong speckle.

    With another `--best-by`, that score alone, negated if lower is better.
    """
    score = scores[settings.best_by]
    if settings.best_by == DEFAULT_BEST_BY and settings.l1_scale > 1:
        return score - SPECKLE_WEIGHT * scores["texture"]
    return score if BEST_BY[settings.best_by] else -score


def validate(run: Run, pair: Pair, step: int) -> tuple[np.ndarray, dict[str, float]]:
    """As `generate_fundus_oct_pair`; an error says that training has failed and where its last checkpoint is."""
    try:
        return generate_fundus_oct_pair(run.networks, pair)
    except RunError as error:
        saved = saved_in_words(run.state.folder)
        raise RunError(f"validation after step {step}: a prediction is not finite: stopped; {saved}") from error


def log_pictures(run: Run, step: int, results: dict[str, tuple[np.ndarray, dict[str, float]]]) -> None:
    """Log pictures of a few pairs, the same in every epoch; `results` are those of `generate_fundus_oct_pair`."""
    shown, epoch = run.data.pictured(), int(run.state.epoch)
    pictures = pictures_of(shown, [results[name] for name in shown], run.networks.predictor)
    if epoch % ceil(run.settings.epochs / LARGE_PICTURES) and epoch < run.settings.epochs:
        del pictures[LARGE]
    for tag, images in pictures.items():
        run.log.images(tag, images, step)


def generate_fundus_oct_pair(networks: Pix2Pix, pair: Pair) -> tuple[np.ndarray, dict[str, float]]:
    """Predict the OCT-A of a pair and score it against the real one; vessels are scored without noise.

    Returns:
        The prediction (height, width, channels), float32 on [0, 1], black outside the field; and the scores by name.
    """
    predictor, real = networks.predictor, octa_to_grey(pair.octa / 255)
    predicted = predictor.predict(pair.fundus, pair.fov)
    scores = validation_scores(real, octa_to_grey(predicted), pair.fov)
    if predictor.input_noise:
        without_noise = octa_to_grey(predictor.predict(pair.fundus, pair.fov, with_noise=False))
        scores |= vessel_agreement(real, without_noise, pair.fov)
    return predicted, scores


def evaluate_whole_fundus(networks: Pix2Pix, fundus: np.ndarray, fov_mask: bool) -> np.ndarray:
    """Predict the OCT-A of a whole photograph (height, width, 3), uint8, as synthesis does.

    Without `fov_mask` it is also predicted outside the field of view.

    Returns:
        (height, width, channels), float32 on [0, 1], black outside the field.
    """
    field = field_to_use(fundus, fov_mask)
    return networks.predictor.predict_photograph(fundus, field.mask, field.diameter(), True, field.stretch).octa


def duration(seconds: float) -> str:
    """A duration in words: hours and minutes."""
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


# --- from the command line to the loop -------------------------------------------------------------------------------


def train(settings: Settings, data_digest: str | None = None, verbose: bool = False) -> int:
    """Run the training that the settings describe.

    Args:
        settings: resolved: with a data folder, and a dtype policy as precision; for a resumed run, with its name.
        data_digest: to resume the run of that name, the digest of its data; None for a new run.
        verbose: list the files that have no partner.

    Returns:
        The exit status: 0; or 128 + the signal that stopped the run (130 Ctrl-C, 143 SIGTERM).

    Raises:
        DataError, RunError, SettingsError: see these classes.
    """
    resume = data_digest is not None
    strategy = choose_strategy(settings)
    keras.utils.set_random_seed(settings.seed)
    origin = checkpoint_folder(settings) if resume else settings.init_from
    seen_before = frozenset() if origin is None else seen_by(Path(origin))
    data = load_run_data(settings, verbose, () if resume else seen_before)
    seen = data.seen | seen_before
    if resume and data.digest != data_digest:
        raise RunError(f"{settings.data}: its training and validation images differ from the run's; start a new run")
    patches = training_patches(data.train, settings)
    check_shares(patches.patches_per_epoch % patches.batch_size or patches.batch_size, patches.batch_size, strategy)
    with strategy.scope():
        networks = Pix2Pix(settings)
    if settings.init_from is not None and not resume:
        start_from(settings, networks.generator, networks.discriminator)
    chief, log = is_chief(strategy), None
    with ExitStack() as held:
        if chief:
            settings = settings if resume else claim_folders(settings, data.digest, seen)
            held.enter_context(lock(checkpoint_folder(settings)))
            print(f"Run: {settings.name}")
        else:
            print("Another process writes logs and checkpoints")
        state = run_state(networks, settings)
        if resume and not state.restore():
            print(f"{state.folder} has no checkpoint yet: starting from the beginning")
            if settings.init_from is not None:
                start_from(settings, networks.generator, networks.discriminator)
        elif resume:
            print(f"Continuing after epoch {int(state.epoch)}, step {int(state.step)}, from {state.folder}")
        if int(state.epoch) >= settings.epochs:
            raise RunError(f"--resume: {state.folder} has completed {settings.epochs} epochs; give a larger --epochs")
        if chief:
            state.remove_unfinished()
            write_run(state.folder, settings, data.digest, seen)
            log = RunLog(log_folder(settings), int(state.epoch) if data.validation else 0)
            held.callback(log.close)
            log.start(settings, facts(data, patches), int(state.step))
        return train_epochs(Run(settings, data, patches, networks, strategy, state, log, seen))


def facts(data: RunData, patches: TrainingPatches | SimulatedPatches) -> dict[str, str]:
    """Facts about a run that TensorBoard shows in addition to its settings."""
    gpus = tf.config.list_physical_devices("GPU")
    return {
        "device": ", ".join(gpu.name for gpu in gpus) or "CPU",
        "version": f"{VERSION}, TensorFlow {tf.__version__}",
        "training pairs": str(len(data.train) or "simulated retinas"),
        "validation pairs": str(len(data.validation)),
        "patches per epoch": str(patches.patches_per_epoch),
    }


def run_state(networks: Pix2Pix, settings: Settings) -> RunState:
    """All that a checkpoint of a run contains."""
    parts = {
        "generator": networks.generator,
        "discriminator": networks.discriminator,
        "generator_optimizer": networks.generator_optimizer,
        "discriminator_optimizer": networks.discriminator_optimizer,
    }
    folder = None if settings.name is None else checkpoint_folder(settings)
    return RunState(parts, list(layers_of(networks.generator, keras.layers.Dropout)), folder, settings.keep)


def run_training(given: dict) -> int:
    """Resolve the settings, print them, and train; returns the exit status. Raises UserError, OSError."""
    need(LEAST_BYTES)
    verbose, resume = given.pop("verbose", False), given.pop("resume", None)
    device, digest = set_up_gpus(), None
    if resume is None:
        settings = settings_of_new_run(given)
    else:
        settings, digest = settings_of_resumed_run(given, resume)
    print(f"Device: {device}")
    print("Settings:\n" + "\n".join(f"  {option:<21} {value}" for option, value in as_options(settings).items()))
    with errors_in_one_line():
        return train(settings, digest, verbose)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, train, and return the exit status: 2 for an error that the user can fix."""
    given = parse_command_line(argv, PROGRAM, __doc__)
    return exit_status(PROGRAM, lambda: run_training(given), "stopped before training began", SMALLER_RUN)


if __name__ == "__main__":
    sys.exit(main())
