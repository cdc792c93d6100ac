"""Training pairs -> batches of patches: shuffled, cut, augmented and batched, by a thread that works ahead.

The patches and their order depend on the run's seed and the step alone, so that a run can resume at any step.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count, islice
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
BATCHES_AHEAD = 4
Batch = tuple[tf.Tensor, tf.Tensor]  # fundus and target, float32 on [-1, 1]


def training_image(pair: Pair, patch_size: int) -> np.ndarray:
    """Fundus and OCT-A as channels of one array, so that they are cut, flipped and rotated together.

    Both are continued outside the field, as the fundus is in prediction: from black borders the network would learn
    that dark retina is black.

    Returns:
        (height, width, 3 + octa channels), uint8; images smaller than a patch are extended to it by reflection.
    """
    stacked = np.concatenate([pair.fundus, pair.octa], axis=-1)
    return reflect_to_patch(continue_outside(stacked, pair.fov), (patch_size, patch_size))


def cut(images: Sequence[np.ndarray], plan: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Patches (size, size, channels) of images (height, width, channels): all channels are cut and turned together.

    `plan` has a row for each patch, see `TrainingPatches.plan`.
    """
    for number, row, column, turns, flip in plan:
        patch = np.rot90(images[number][row : row + size, column : column + size], turns)
        yield patch[:, ::-1] if flip else patch


def batch_of(patches: Iterable[np.ndarray]) -> Batch:
    """A batch of patches (size, size, 3 + target channels), uint8, for the networks."""
    with tf.device("CPU:0"):  # the step itself moves it to a GPU
        batch = np.stack(list(patches))
        return preprocess_sample(batch[..., :FUNDUS_CHANNELS], batch[..., FUNDUS_CHANNELS:])


def ahead(batches: Generator[Batch, None, None]) -> Iterator[Batch]:
    """The same batches, which a thread makes in advance; when this iterator is closed, they are closed too."""
    pool = ThreadPoolExecutor(1)
    try:
        waiting = deque(pool.submit(next, batches, None) for _ in range(BATCHES_AHEAD))
        while batch := waiting.popleft().result():
            waiting.append(pool.submit(next, batches, None))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
        batches.close()


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

    def patches(self, first: int) -> Iterator[np.ndarray]:
        """Patches (size, size, 3 + octa channels), uint8, epoch after epoch without end, from a global number on."""
        first_epoch, done = divmod(first, self.patches_per_epoch)
        for epoch in count(first_epoch):
            yield from cut(self.images, self.plan(epoch)[done:], self.patch_size)
            done = 0

    def batches(self, first_step: int, epochs: int) -> Iterator[Batch]:
        """Batches (input_image, target) from a global step up to the end of the last epoch."""

        def made() -> Iterator[Batch]:
            epoch, done = divmod(first_step, self.steps_per_epoch)
            patches = self.patches(epoch * self.patches_per_epoch + done * self.batch_size)
            for step in range(first_step, epochs * self.steps_per_epoch):
                before = step % self.steps_per_epoch * self.batch_size  # patches of this epoch
                yield batch_of(islice(patches, min(self.batch_size, self.patches_per_epoch - before)))

        return ahead(made())


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
        self.draw, self.patch_size = draw, settings.patch_size
        self.batch_size, self.seed = settings.batch_size, settings.seed
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

    def patches(self, first: int) -> Iterator[np.ndarray]:
        """Patches of simulated retinas (size, size, 3 + target channels), uint8, without end, from a number on."""
        first_block, done = divmod(first, RETINAS_PER_BLOCK * self.per_retina)
        with closing(self.draw(first_block * RETINAS_PER_BLOCK)) as retinas:
            for block in count(first_block):
                drawn = list(islice(retinas, RETINAS_PER_BLOCK))
                yield from cut(drawn, self.plan(block)[done:], self.patch_size)
                done = 0

    def batches(self, first_step: int, epochs: int) -> Iterator[Batch]:
        """Batches (input_image, target) from a global step up to the end of the last epoch.

        Close it: what `draw` started ends with it. Raises any error of `draw`.
        """

        def made() -> Iterator[Batch]:
            of_real = self.batch_size - self.simulated_per_batch
            real = self.real.patches(first_step * of_real) if self.real else None
            with closing(self.patches(first_step * self.simulated_per_batch)) as simulated:
                for _ in range(first_step, epochs * self.steps_per_epoch):
                    batch = batch_of(islice(simulated, self.simulated_per_batch))
                    yield self.joined(batch, batch_of(islice(real, of_real))) if real else batch

        return ahead(made())

    def joined(self, simulated: Batch, real: Batch) -> Batch:
        """One batch from two; the vessels of real pairs are unknown."""
        missing = simulated[1].shape[-1] - real[1].shape[-1]
        target = tf.pad(real[1], [[0, 0]] * 3 + [[0, missing]], constant_values=UNKNOWN)
        return tf.concat([simulated[0], real[0]], axis=0), tf.concat([simulated[1], target], axis=0)


def preprocess_sample(sample_fundus: tf.Tensor, sample_octa: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Uint8 on [0, 255] -> float32 on [-1, 1], both images, any shape."""
    return tf.cast(sample_fundus, tf.float32) / 127.5 - 1, tf.cast(sample_octa, tf.float32) / 127.5 - 1
