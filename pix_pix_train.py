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

from tqdm import tqdm

from basics.command_line import StopRequest, exit_status, load_tensorflow, need, progress_bar
from run.settings import Settings, as_options, parse_command_line

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
from pix_losses import LAMBDA_VESSELS, discriminator_loss, generator_loss, l1_loss, vessel_loss
from retina.field_of_view import field_to_use
from retina.images import FUNDUS_CHANNELS, octa_to_grey
from retina.similarity import mean_scores, validation_scores, vessel_agreement
from run import checkpoints, devices
from run.batches import SimulatedPatches, TrainingPatches
from run.checkpoints import RunError, checkpoint_folder, saved_by, saved_in_words
from run.data import RunData, load_run_data, training_patches
from run.log import EPOCH, LOSSES, RunLog
from run.new_run import settings_of_new_run, settings_of_resumed_run
from run.pictures import LARGE, beside_fundus, pictures_of
from run.predict import Predictor
from run.schedule import has_discriminator, is_past_l1_only, learning_rate, with_noise
from run.weights import start_from

FETCH_STEPS = 10  # between readings of the losses
CHECKPOINT_EPOCHS, CHECKPOINT_SECONDS = 20, 300  # between checkpoints: the study's; at most, within an epoch too
WHOLE_FUNDUS_EPOCHS = 10  # epochs between pictures of a whole photograph: the study's
SHOWN_LOSSES = ("gen_gan_loss", "gen_l1_loss", "gen_vessel_loss", "disc_loss")  # in the progress bar
LARGE_PICTURES = 25  # of each eye in a run; each takes a megabyte
LEAST_BYTES = 2_400_000_000  # of address space of the networks and the smallest batch, a fifth less than measured
SMALLER_RUN = "start a run with a smaller --batch-size or --patch-size"  # if memory is short


# --- from the command line to the loop -------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, train, and return the exit status: 2 for an error that the user can fix."""
    given = parse_command_line(argv, PROGRAM, __doc__)
    return exit_status(PROGRAM, lambda: run_training(given), "stopped before training began", SMALLER_RUN)


def run_training(given: dict) -> int:
    """Resolve the settings, print them, and train; returns the exit status. Raises UserError, OSError."""
    need(LEAST_BYTES)
    resume, digest = given.pop("resume", None), None
    device = devices.set_up_gpus()
    if resume is None:
        settings = settings_of_new_run(given)
    else:
        settings, digest = settings_of_resumed_run(given, resume)
    print(f"Device: {device}")
    print("Settings:\n" + "\n".join(f"  {option:<21} {value}" for option, value in as_options(settings).items()))
    with devices.errors_in_one_line():
        return train(settings, digest)


def train(settings: Settings, data_digest: str | None = None) -> int:
    """Run the training that resolved settings describe; for a resumed run `data_digest` is that of its data.

    Returns the exit status: 0, or 128 + the signal that stopped the run. Raises DataError, RunError, SettingsError.
    """
    resume = data_digest is not None
    strategy = devices.choose_strategy(settings)
    keras.utils.set_random_seed(settings.seed)
    origin = checkpoint_folder(settings) if resume else settings.init_from
    seen_before = frozenset() if origin is None else checkpoints.read_run(Path(origin)).seen
    data = load_run_data(settings, () if resume else seen_before)
    if resume and data.digest != data_digest:
        raise RunError(f"{settings.data}: its training and validation images differ from the run's; start a new run")
    patches = training_patches(data.train, settings)
    devices.check_shares(patches.patches_per_epoch, patches.batch_size, strategy)
    with strategy.scope():
        networks = Pix2Pix(settings)
    if settings.init_from is not None and not (resume and saved_by(checkpoint_folder(settings))):
        start_from(settings, networks.generator, networks.discriminator)
    chief, log = devices.is_chief(strategy), None
    with ExitStack() as held:
        if chief:
            settings = settings if resume else checkpoints.claim_folder(settings)
            held.enter_context(checkpoints.lock(checkpoint_folder(settings)))
            print(f"Run: {settings.name}")
        else:
            print("Another process writes logs and checkpoints")
        folder = None if settings.name is None else checkpoint_folder(settings)
        state = checkpoints.RunState(networks, folder, settings.keep)
        if resume and state.restore():
            print(f"Continuing after epoch {int(state.epoch)}, step {int(state.step)}, from {folder}")
        elif resume:
            print(f"{folder} has no checkpoint yet: starting from the beginning")
        if int(state.epoch) >= settings.epochs:
            raise RunError(f"--resume: {folder} has completed {settings.epochs} epochs; give a larger --epochs")
        if chief:
            checkpoints.write_run(folder, settings, data.digest, data.seen | seen_before)  # with what was changed
            log = RunLog(checkpoints.log_folder(settings), int(state.epoch) if data.validation else 0)
            held.callback(log.close)
            log.start(settings, int(state.step))
        return train_epochs(Run(settings, data, patches, networks, strategy, state, log))


# --- networks and their two steps ------------------------------------------------------------------------------------


class Pix2Pix:
    """Both networks with their optimisers, and the steps that train them."""

    def __init__(self, settings: Settings):
        """Args: settings, whose precision is a dtype policy, not `auto`."""
        keras.config.set_dtype_policy(settings.precision)
        patch_dim = (settings.patch_size, settings.patch_size)
        self.settings = settings
        self.generator = Generator(FUNDUS_CHANNELS, (None, None), settings.target_channels)
        self.discriminator = Discriminator(FUNDUS_CHANNELS, settings.octa_channels, patch_dim)
        self.generator_optimizer = devices.new_optimizer(self.generator, settings)
        self.discriminator_optimizer = devices.new_optimizer(self.discriminator, settings)
        self.predictor = Predictor(self.generator, settings)
        self.signature = [
            tf.TensorSpec((None, *patch_dim, channels), tf.float32)
            for channels in (FUNDUS_CHANNELS, settings.target_channels)
        ]

    def train_step(self, input_image: tf.Tensor, target: tf.Tensor) -> dict[str, tf.Tensor]:
        """Train both networks on a batch of fundus (batch, patch, patch, 3) and OCT-A (.., channels), [-1, 1].

        With a vessel probability, the target's last channel are the drawn vessels, which the discriminator never sees.

        Returns:
            Scalars: the losses, and the mean probability of being real that the discriminator assigns to real and to
            generated images.
        """
        settings, last = self.settings, self.settings.octa_channels
        with tf.GradientTape() as gen_tape, tf.GradientTape() as disc_tape:
            output = self.generator(input_image, training=True)
            gen_output, octa = output[..., :last], target[..., :last]

            disc_real_output, disc_generated_output = self.judged(input_image, octa, gen_output)

            gen_total_loss, gen_gan_loss, gen_l1_loss = generator_loss(
                disc_generated_output, gen_output, octa, settings.lambda_l1, settings.l1_scale
            )
            disc_loss = discriminator_loss(disc_real_output, disc_generated_output)
            of_vessels = self.vessel_losses(output, target)
            gen_total_loss += LAMBDA_VESSELS * sum(of_vessels.values())

        gen_weights, disc_weights = self.generator.trainable_variables, self.discriminator.trainable_variables
        self.generator_optimizer.apply(gen_tape.gradient(gen_total_loss, gen_weights), gen_weights)
        self.discriminator_optimizer.apply(disc_tape.gradient(disc_loss, disc_weights), disc_weights)
        return {
            "gen_total_loss": gen_total_loss,
            "gen_gan_loss": gen_gan_loss,
            "gen_l1_loss": gen_l1_loss,
            "disc_loss": disc_loss,
            "disc_real_mean": tf.reduce_mean(tf.sigmoid(disc_real_output)),
            "disc_generated_mean": tf.reduce_mean(tf.sigmoid(disc_generated_output)),
        } | of_vessels

    def judged(self, input_image: tf.Tensor, octa: tf.Tensor, gen_output: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The discriminator's logits for real and for generated OCT-A (batch, patch, patch, channels), [-1, 1].

        In one batch both are normalised by the same mean and variance, so that it can see where theirs differ.
        """
        if self.settings.discriminator_calls == 2:
            return tuple(self.discriminator([input_image, image], training=True) for image in (octa, gen_output))
        both = [tf.concat(images, axis=0) for images in ((input_image, input_image), (octa, gen_output))]
        return tuple(tf.split(self.discriminator(both, training=True), 2))

    def l1_step(self, input_image: tf.Tensor, target: tf.Tensor, averages_alone: bool = False) -> dict[str, tf.Tensor]:
        """Train the generator alone, on the error of pixels and averages, and the vessels; images as in `train_step`.

        Of pixels alone it is least for their median, which does not tell how bright a mesh is on average.
        """
        last, scale = self.settings.octa_channels, self.settings.l1_scale
        scales = {scale} if averages_alone else {1, scale}  # see `l1_loss`
        with tf.GradientTape() as tape:
            output = self.generator(input_image, training=True)
            errors = [l1_loss(output[..., :last], target[..., :last], scale) for scale in sorted(scales)]
            gen_l1_loss, of_vessels = sum(errors), self.vessel_losses(output, target)
            total = self.settings.lambda_l1 * gen_l1_loss + LAMBDA_VESSELS * sum(of_vessels.values())
        weights = self.generator.trainable_variables
        self.generator_optimizer.apply(tape.gradient(total, weights), weights)
        return {"gen_l1_loss": gen_l1_loss} | of_vessels

    def vessel_step(self, input_image: tf.Tensor, target: tf.Tensor) -> dict[str, tf.Tensor]:
        """Train the generator alone, on the vessels and the error of averages: that of pixels leaves no speckle."""
        return self.l1_step(input_image, target, averages_alone=True)

    def vessel_losses(self, output: tf.Tensor, target: tf.Tensor) -> dict[str, tf.Tensor]:
        """The loss of the vessel probability, if the generator predicts one."""
        return (
            {"gen_vessel_loss": vessel_loss(output[..., -1:], target[..., -1:])} if self.settings.vessel_output else {}
        )


# --- the loop --------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A run in progress."""

    settings: Settings
    data: RunData
    patches: TrainingPatches | SimulatedPatches
    networks: Pix2Pix
    strategy: tf.distribute.Strategy
    state: checkpoints.RunState
    log: RunLog | None  # None: another process writes logs and checkpoints

    def __post_init__(self):
        self.train_step = devices.compiled(self.networks.train_step, self.networks.signature, self.strategy)
        self.l1_step = devices.compiled(self.networks.l1_step, self.networks.signature, self.strategy)
        self.vessel_step = devices.compiled(self.networks.vessel_step, self.networks.signature, self.strategy)
        self.steps = self.settings.epochs * self.patches.steps_per_epoch
        self.saved_at = time.monotonic()

    def save(self) -> None:
        """Save a checkpoint, not as the best: after some epochs, after minutes within one, and at the end.

        Raises RunError as `RunState.save`.
        """
        if self.log is not None:
            self.state.save()
        self.saved_at = time.monotonic()

    def log_scalars(self, values: dict[str, float], step: int) -> None:
        """Log numbers by tag."""
        if self.log is not None:
            self.log.scalars(values, step)


def train_epochs(run: Run) -> int:
    """Train up to the last epoch, or until a signal stops the run; returns the exit status."""
    settings, state = run.settings, run.state
    with StopRequest() as stop, closing(run.patches.batches(int(state.step), settings.epochs)) as batches:
        if settings.init_from is not None and run.data.validation and not int(state.step):
            end_epoch(run, stop, 0)  # the weights to start from may be the best
        while int(state.epoch) < settings.epochs and not stop.number:
            started = time.monotonic()
            if not (train_epoch(run, batches, stop) and end_epoch(run, stop, int(state.epoch) + 1)):
                break
            if left := settings.epochs - int(state.epoch):
                print(f"  about {tqdm.format_interval(left * (time.monotonic() - started))} left")
        run.save()
    stopped = stop.number if int(state.epoch) < settings.epochs else 0  # a complete run has nothing to resume
    if run.log is not None:
        print(f"Checkpoints, run.json  {state.folder}\nSummaries, metrics.csv {run.log.folder}")
        if stopped:
            print(f"Stopped after step {int(state.step)}. To continue:")
            print(f"  python {PROGRAM} --resume {shlex.quote(str(state.folder))}")
        else:
            print(f"To watch them:\n  tensorboard --logdir={shlex.quote(settings.logs)}")
    return 128 + stopped if stopped else 0


def train_epoch(run: Run, batches: Iterator[tuple[tf.Tensor, tf.Tensor]], stop: StopRequest) -> bool:
    """Train the rest of the current epoch; False if a signal stopped it before. Raises RunError as `check_finite`."""
    stop.at_hand = "step"
    settings, state, networks, patches = run.settings, run.state, run.networks, run.patches
    epoch = int(state.epoch)
    first, last = int(state.step), (epoch + 1) * patches.steps_per_epoch  # steps done, now and at the epoch's end
    if first == last:  # the run was stopped before this epoch was validated
        return True
    done = (first - epoch * patches.steps_per_epoch) * patches.batch_size
    title, started = f"epoch {epoch + 1}/{settings.epochs}", time.monotonic()
    of_epoch: dict[str, list[float]] = {}
    pending: dict[int, dict[str, tf.Tensor | float]] = {}
    shown = {"total": patches.patches_per_epoch, "initial": done, "unit": "img", "desc": title}
    with progress_bar(**shown, disable=run.log is None) as bar:
        for step in range(first + 1, last + 1):
            input_image, target = next(batches)
            rate = learning_rate(settings, step, run.steps)
            networks.generator_optimizer.learning_rate = networks.discriminator_optimizer.learning_rate = rate
            past_l1_only = is_past_l1_only(settings, step, run.steps)
            train_step = run.vessel_step if settings.vessel_output and past_l1_only else run.l1_step
            if has_discriminator(settings, step, run.steps):
                train_step, input_image = run.train_step, with_noise(input_image, settings, step)
            pending[step] = train_step(input_image, target) | {"learning_rate": rate, "phase": float(past_l1_only)}
            bar.update(input_image.shape[0])
            ends = stop.number and step < last
            is_due = time.monotonic() - run.saved_at > CHECKPOINT_SECONDS
            if ends or is_due or step == last or len(pending) == FETCH_STEPS:
                losses = report(run, pending, of_epoch)
                bar.set_postfix({tag: f"{losses[tag]:.3f}" for tag in SHOWN_LOSSES if tag in losses}, refresh=False)
            if ends:
                return False
            if is_due:
                run.save()
    run.log_scalars({"images_per_second": (patches.patches_per_epoch - done) / (time.monotonic() - started)}, last)
    if not done:  # otherwise the mean would differ from that of an unbroken run
        run.log_scalars({EPOCH + tag: float(np.mean(losses)) for tag, losses in of_epoch.items()}, last)
    return True


def report(run: Run, pending: dict[int, dict[str, tf.Tensor | float]], of_epoch: dict[str, list[float]]) -> dict:
    """Fetch and log the numbers of some steps, and empty `pending`; returns those of the last step.

    Fetching waits for the device, which then has nothing to do: so it is not done after each step.
    """
    for step, numbers in pending.items():
        values = {tag: float(number) for tag, number in numbers.items()}
        check_finite(values, step, run.state.folder)
        run.log_scalars(values, step)
        for tag in values:
            if tag in LOSSES:
                of_epoch.setdefault(tag, []).append(values[tag])
    run.state.step.assign(step)
    pending.clear()
    return values


def check_finite(losses: dict[str, float], step: int, folder: Path) -> None:
    """Raises RunError, naming loss and step, if one is not finite."""
    for tag, loss in losses.items():
        if not np.isfinite(loss):
            raise RunError(f"{tag} is {loss} at step {step}: stopped; {saved_in_words(folder)}")


def end_epoch(run: Run, stop: StopRequest, epoch: int) -> bool:
    """Validate, count the epoch (0: before the first one), log scores and pictures, and save what is due.

    Returns False if a signal stopped it before all crops were predicted; then the resumed run begins with them.
    """
    settings, data, state = run.settings, run.data, run.state
    if run.log is None:
        state.epoch.assign(epoch)
        return True
    step, results = int(state.step), {}
    stop.at_hand = "crop"
    for name, pair in (dict(zip(data.names, data.validation, strict=True)) or data.pictured()).items():
        if stop.number:
            return False
        try:
            results[name] = generate_fundus_oct_pair(run.networks, pair)
        except RunError as error:
            saved = saved_in_words(state.folder)
            raise RunError(f"validation after step {step}: a prediction is not finite: stopped; {saved}") from error
    stop.at_hand = "epoch's pictures"
    state.epoch.assign(epoch)
    if data.validation:
        scores = mean_scores([score for _, score in results.values()])
        run.log.scores(scores, epoch, step)
        # Weights from before the discriminator's phase draw no speckle, however well they draw the vessels.
        complete = settings.l1_only == 1 or is_past_l1_only(settings, step, run.steps)
        is_best = complete and settings.score(scores) > float(state.best_score)
        words = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        print(f"  validation: {words}" + (" (best)" if is_best else ""))
        if is_best:
            state.best_score.assign(settings.score(scores))
            state.save_best()
    log_pictures(run, step, results)
    if epoch and epoch % CHECKPOINT_EPOCHS == 0:
        run.save()
    return True


def log_pictures(run: Run, step: int, results: dict[str, tuple[np.ndarray, dict[str, float]]]) -> None:
    """Log pictures of a few pairs, the same in every epoch; `results` are those of `generate_fundus_oct_pair`."""
    shown, epoch, epochs = run.data.pictured(), int(run.state.epoch), run.settings.epochs
    pictures = pictures_of(shown, [results[name] for name in shown], run.networks.predictor)
    if epoch % ceil(epochs / LARGE_PICTURES) and epoch < epochs:
        del pictures[LARGE]
    if (photo := run.data.full_field) is not None and (epoch % WHOLE_FUNDUS_EPOCHS == 0 or epoch == epochs):
        whole = evaluate_whole_fundus(run.networks, photo, run.settings.fov_mask)
        pictures["Whole Fundus"] = [beside_fundus(photo, whole)]
    for tag, images in pictures.items():
        run.log.images(tag, images, step)


def generate_fundus_oct_pair(networks: Pix2Pix, pair: Pair) -> tuple[np.ndarray, dict[str, float]]:
    """Predict the OCT-A of a pair and score it against the real one; vessels are scored without noise.

    Those of a simulated retina are compared with the vessels to find, which its OCT-A shows along with others.

    Returns the prediction (height, width, channels), float32 on [0, 1], black outside the field; and scores by name.
    """
    predictor, real = networks.predictor, octa_to_grey(pair.octa / 255)
    predicted = predictor.predict(pair.fundus, pair.fov)
    scores = validation_scores(real, octa_to_grey(predicted), pair.fov)
    if predictor.vessels_apart:
        drawn = real if pair.drawn is None else pair.drawn.astype(float)
        scores |= vessel_agreement(drawn, predictor.predict_vessels(pair.fundus, pair.fov), pair.fov)
    return predicted, scores


def evaluate_whole_fundus(networks: Pix2Pix, fundus: np.ndarray, fov_mask: bool) -> np.ndarray:
    """The OCT-A, float32 on [0, 1], of a whole photograph, uint8, as synthesis predicts it within the field to use."""
    field = field_to_use(fundus, fov_mask)
    return networks.predictor.predict_photograph(fundus, field.mask, field.diameter(), True, field.stretch).octa


if __name__ == "__main__":
    sys.exit(main())
