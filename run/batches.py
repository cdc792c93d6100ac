"""Training pairs -> batches of patches, with `tf.data`: shuffled, cut, augmented, batched, prefetched.

The patches and their order depend on the run's seed and the step alone, so that a run can resume at any step.
"""

from collections.abc import Callable, Iterator, Sequence
from math import ceil

import numpy as np
import tensorflow as tf

from pairs.dataset import Pair
from pix_losses import UNKNOWN
from retina.images import FUNDUS_CHANNELS, continue_outside
from retina.patches import patch_corners, reflect_to_patch
from retina.ut_fsocta import CROP_PX
from run.settings import Settings

SIMULATED_PATCHES_PER_EPOCH = 320  # between two validations, in a run on simulated retinas alone
RETINAS_PER_BLOCK = 16  # simulated retinas whose patches are shuffled together


def training_image(pair: Pair, patch_size: int) -> np.ndarray:
    """Fundus and OCT-A as channels of one array, so that they are cut, flipped and rotated together.

    Both are continued outside the field, as the fundus is in prediction: from black borders the network would learn
    that dark retina is black.

    Returns:
        (height, width, 3 + octa channels), uint8; images smaller than a patch are extended to it by reflection.
    """
    stacked = np.concatenate([pair.fundus, pair.octa], axis=-1)
    return reflect_to_patch(continue_outside(stacked, pair.fov), (patch_size, patch_size))


def turned_patch(pair: tf.Tensor, turns: tf.Tensor, flip: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Rotate and flip a fundus patch and its OCT-A patch together.

    Args:
        pair: (size, size, 3 + octa channels), uint8.
        turns: quarter turns, 0 to 3.
        flip: 0 or 1.

    Returns:
        (size, size, 3) and (size, size, octa channels), float32 on [-1, 1].
    """
    turned = tf.image.rot90(pair, turns)
    turned = tf.cond(flip == 1, lambda: tf.reverse(turned, axis=[1]), lambda: turned)
    turned = tf.ensure_shape(turned, pair.shape)
    return preprocess_sample(turned[..., :FUNDUS_CHANNELS], turned[..., FUNDUS_CHANNELS:])


class TrainingPatches:
    """Batches of patches cut from training images.

    Attributes:
        patches_per_epoch: the number in the study's grid at stride 1, over all images.
        steps_per_epoch: batches per epoch; the last may be smaller.
    """

    def __init__(self, images: Sequence[np.ndarray], settings: Settings):
        """Args: images from `training_image`, of any sizes; the settings: without `augment`, the study's grid."""
        self.images, self.patch_size, self.batch_size = images, settings.patch_size, settings.batch_size
        self.seed, self.augment = settings.seed, settings.augment
        self.sizes = np.array([image.shape[:2] for image in images])  # (images, 2)
        grids = [patch_corners(size, (self.patch_size, self.patch_size), stride=1) for size in self.sizes]
        numbers = np.repeat(np.arange(len(grids)), [len(grid) for grid in grids])
        self.grid = np.column_stack([numbers, np.concatenate(grids)])  # (patches, 3): image, row, column
        self.patches_per_epoch = len(self.grid)
        self.steps_per_epoch = ceil(self.patches_per_epoch / self.batch_size)

    def plan(self, epoch: int) -> np.ndarray:
        """The patches of an epoch (from 0) in order; they depend on the run's seed and the epoch alone.

        Returns:
            (patches, 5), int32: image, row, column, quarter turns (0 to 3), flip (0 or 1).
        """
        random = np.random.default_rng([self.seed, epoch])
        plan = np.column_stack([self.grid, np.zeros((len(self.grid), 2), dtype=int)])
        if self.augment:
            images = plan[:, 0]
            free = self.sizes[images] - self.patch_size  # (patches, 2): where a corner may lie
            plan[:, 1:3] = random.integers(0, free, endpoint=True)
            plan[:, 3] = random.integers(0, 4, len(plan))
            plan[:, 4] = random.integers(0, 2, len(plan))
        return random.permutation(plan).astype(np.int32)

    def cut(self, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The patch (size, size, 3) of the fundus, [-1, 1], and that of the OCT-A, for a row (5,) of the plan."""
        size = self.patch_size
        pair = tf.numpy_function(
            lambda number, row, column: self.images[number][row : row + size, column : column + size],
            [place[0], place[1], place[2]],
            tf.uint8,
            stateful=False,
        )
        return turned_patch(tf.ensure_shape(pair, (size, size, self.images[0].shape[-1])), place[3], place[4])

    def epoch(self, epoch: tf.Tensor) -> tf.data.Dataset:
        """The batches of one epoch: shuffled (by the plan), cut and augmented, batched."""
        plan = tf.numpy_function(self.plan, [epoch], tf.int32, stateful=False)
        return (
            tf.data.Dataset.from_tensor_slices(tf.ensure_shape(plan, (self.patches_per_epoch, 5)))
            .map(self.cut, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .batch(self.batch_size)
        )

    def patches(self, first: int) -> tf.data.Dataset:
        """Single patches, (input_image, target), epoch after epoch without end, starting at a global number."""
        first_epoch, done = divmod(first, self.patches_per_epoch)
        return tf.data.Dataset.counter(first_epoch).flat_map(self.epoch).unbatch().skip(done)

    def batches(self, first_step: int, epochs: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """Batches (input_image, target), float32 on [-1, 1], from a global step up to the end of the last epoch.

        One pipeline serves the whole run, so that prefetching continues between epochs.
        """
        first_epoch, done = divmod(first_step, self.steps_per_epoch)
        dataset = tf.data.Dataset.range(first_epoch, epochs).flat_map(self.epoch)
        yield from dataset.skip(done).prefetch(tf.data.AUTOTUNE)


class SimulatedPatches:
    """Batches of patches from simulated retinas, which are drawn as needed, alone or mixed with patches of real pairs.

    Each simulated retina yields a few patches and is never used again. The patches of a block of retinas are shuffled,
    so that a batch contains several retinas. Everything depends on the seed and the patch's number alone, so that a run
    can resume.

    Attributes:
        patches_per_epoch: from simulated retinas and real pairs together.
        steps_per_epoch: batches per epoch; all are full.
    """

    def __init__(
        self, draw: Callable[[int], Iterator[np.ndarray]], settings: Settings, real: TrainingPatches | None = None
    ):
        """Args:
        draw: yields retinas without end, starting at a number: (CROP_PX, CROP_PX, 3 + target channels), uint8.
        settings: of the run.
        real: patches of real pairs to mix in, by the share `mix`, at least one of each kind in a batch.
        """
        self.draw, self.channels = draw, FUNDUS_CHANNELS + settings.target_channels
        self.patch_size, self.batch_size, self.seed = settings.patch_size, settings.batch_size, settings.seed
        self.per_retina = settings.patches_per_retina
        self.real, self.simulated_per_batch = real, self.batch_size
        if real is None:
            self.steps_per_epoch = ceil(SIMULATED_PATCHES_PER_EPOCH / self.batch_size)
        else:
            self.simulated_per_batch = min(max(1, round(settings.mix * self.batch_size)), self.batch_size - 1)
            self.steps_per_epoch = ceil(real.patches_per_epoch / (self.batch_size - self.simulated_per_batch))
        self.patches_per_epoch = self.steps_per_epoch * self.batch_size

    def plan(self, block: int) -> np.ndarray:
        """The patches of a block of retinas in order: (patches, 5), int32, as in `TrainingPatches.plan`."""
        random = np.random.default_rng([self.seed, block, 1])  # 1: other random numbers than in the plans of real pairs
        count = RETINAS_PER_BLOCK * self.per_retina
        corners = random.integers(0, CROP_PX - self.patch_size, (count, 2), endpoint=True)
        turns, flips = random.integers(0, 4, count), random.integers(0, 2, count)
        plan = np.column_stack([np.repeat(np.arange(RETINAS_PER_BLOCK), self.per_retina), corners, turns, flips])
        return random.permutation(plan).astype(np.int32)

    def patches(self, first: int, faults: list[Exception]) -> tf.data.Dataset:
        """Single patches of simulated retinas, (input_image, target), without end, starting at a global number.

        An error of `draw` is added to `faults`, because `tf.data` turns it into one of its own.
        """
        first_block, done = divmod(first, RETINAS_PER_BLOCK * self.per_retina)

        def drawn() -> Iterator[np.ndarray]:
            try:
                yield from self.draw(first_block * RETINAS_PER_BLOCK)
            except Exception as error:
                faults.append(error)
                raise

        def cut(retinas: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            number, row, column, turns, flip = tf.unstack(place)
            patch = retinas[number, row : row + self.patch_size, column : column + self.patch_size]
            return turned_patch(tf.ensure_shape(patch, (self.patch_size, self.patch_size, self.channels)), turns, flip)

        def cut_block(block: tf.Tensor, retinas: tf.Tensor) -> tf.data.Dataset:
            plan = tf.ensure_shape(tf.numpy_function(self.plan, [block], tf.int32, stateful=False), (None, 5))
            return tf.data.Dataset.from_tensor_slices(plan).map(lambda place: cut(retinas, place))

        signature = tf.TensorSpec((CROP_PX, CROP_PX, self.channels), tf.uint8)
        retinas = tf.data.Dataset.from_generator(drawn, output_signature=signature)
        blocks = retinas.prefetch(RETINAS_PER_BLOCK).batch(RETINAS_PER_BLOCK, drop_remainder=True)
        return blocks.enumerate(first_block).flat_map(cut_block).skip(done)

    def joined(
        self, simulated: tuple[tf.Tensor, tf.Tensor], real: tuple[tf.Tensor, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One batch from two; the vessels of real pairs are unknown."""
        missing = self.channels - FUNDUS_CHANNELS - real[1].shape[-1]
        target = tf.pad(real[1], [[0, 0]] * 3 + [[0, missing]], constant_values=UNKNOWN)
        return tf.concat([simulated[0], real[0]], axis=0), tf.concat([simulated[1], target], axis=0)

    def batches(self, first_step: int, epochs: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        """Batches (input_image, target), float32 on [-1, 1], from a global step up to the end of the last epoch.

        Close it: what `draw` started ends with it.

        Raises:
            Any error of `draw`.
        """
        faults: list[Exception] = []
        dataset = self.patches(first_step * self.simulated_per_batch, faults).batch(self.simulated_per_batch)
        if self.real is not None:
            per_batch = self.batch_size - self.simulated_per_batch
            real = self.real.patches(first_step * per_batch).batch(per_batch)
            dataset = tf.data.Dataset.zip(dataset, real).map(self.joined)
        try:
            yield from dataset.take(epochs * self.steps_per_epoch - first_step).prefetch(tf.data.AUTOTUNE)
            return
        except tf.errors.OpError as error:
            # Without the traceback, which would keep the pipeline alive, and with it what `draw` started.
            fault = faults[0].with_traceback(None) if faults else type(error)(None, None, error.message)
        raise fault


def preprocess_sample(sample_fundus: tf.Tensor, sample_octa: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Uint8 on [0, 255] -> float32 on [-1, 1], both images, any shape."""
    return tf.cast(sample_fundus, tf.float32) / 127.5 - 1, tf.cast(sample_octa, tf.float32) / 127.5 - 1
