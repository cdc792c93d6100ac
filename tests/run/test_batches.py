"""Batches of patches: cut and augmented as one, shuffled, the same from any step on."""

from contextlib import closing
from itertools import count

import numpy as np
import pytest

from pairs.dataset import Pair
from pix_losses import UNKNOWN
from retina.patches import break_img_to_patches, reflect_to_patch
from retina.ut_fsocta import CROP_PX
from run.batches import (
    RETINAS_PER_BLOCK,
    SIMULATED_PATCHES_PER_EPOCH,
    SimulatedPatches,
    TrainingPatches,
    training_image,
)
from run.settings import Settings


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def pairs(random):
    """Two pairs of two sizes, the second smaller than a patch; the OCT-A is the fundus' green."""
    fundus = [random.integers(0, 256, size, dtype=np.uint8) for size in ((150, 100, 3), (50, 70, 3))]
    return [Pair(image, image[..., 1:2], np.ones(image.shape[:2], bool)) for image in fundus]


def patches_of(pairs, batch_size, seed=0, augment=True, size=64):
    settings = Settings(patch_size=size, batch_size=batch_size, seed=seed, augment=augment)
    return TrainingPatches([training_image(pair, size) for pair in pairs], settings)


def epochs_of(patches, epochs, first_step=0):
    return [(fundus.numpy(), octa.numpy()) for fundus, octa in patches.batches(first_step, epochs)]


def test_both_images_are_cropped_flipped_and_turned_together(pairs):
    patches = patches_of(pairs, 3)
    assert (patches.patches_per_epoch, patches.steps_per_epoch) == (3 * 2 + 1 * 2, 3)
    batches = epochs_of(patches, 2)
    assert [len(fundus) for fundus, _ in batches] == [3, 3, 2, 3, 3, 2]  # the last of an epoch may be smaller
    for fundus, octa in batches:
        assert np.array_equal(fundus[..., 1:2], octa)


def test_training_sees_no_border_of_the_field(random):
    pair = Pair(*(random.integers(60, 200, (128, 128, n), dtype=np.uint8) for n in (3, 1)), np.ones((128, 128), bool))
    pair.fov[:, 80:] = False
    for image in (pair.fundus, pair.octa):
        image[~pair.fov] = 0
    for fundus, octa in epochs_of(patches_of([pair], 1, size=128), 2):
        assert fundus.min() > -0.6  # 60 / 127.5 - 1
        assert octa.min() > -0.6


def test_epochs_follow_from_the_seed_alone(pairs):
    def run(seed, first_step=0):
        return epochs_of(patches_of(pairs, 3, seed), 3, first_step)

    first, again, other = run(7), run(7), run(8)
    assert all(np.array_equal(one[0], two[0]) for one, two in zip(first, again, strict=True))
    assert not np.array_equal(first[0][0], other[0][0])
    assert not np.array_equal(first[0][0], first[3][0])  # the next epoch has other crops
    resumed = run(7, first_step=4)
    assert all(np.array_equal(one[0], two[0]) for one, two in zip(first[4:], resumed, strict=True))


def test_without_augmentation_an_epoch_is_the_published_grid_shuffled(pairs):
    patches = patches_of(pairs, 100, augment=False)
    (first, _), (second, _) = epochs_of(patches, 2)
    images = [reflect_to_patch(pair.fundus, (64, 64)) for pair in pairs]
    grid = np.concatenate([break_img_to_patches(image, patch_size=(64, 64))[0] for image in images])

    def as_set(batch):
        return {patch.tobytes() for patch in batch}

    assert as_set(np.uint8(np.round((first + 1) * 127.5))) == as_set(grid)
    assert as_set(first) == as_set(second)
    assert not np.array_equal(first, second)


def test_all_eight_positions_occur():
    corner = np.zeros((64, 64, 3), np.uint8)
    corner[0, 1] = 255  # one pixel tells the eight positions of a square apart
    pair = Pair(corner, corner[..., :1], np.ones((64, 64), bool))
    patches = patches_of([pair], 1)
    seen = {tuple(np.argwhere(octa[0, ..., 0] > 0)[0]) for _, octa in epochs_of(patches, 100)}
    assert seen == {(0, 1), (0, 62), (1, 0), (1, 63), (62, 0), (62, 63), (63, 1), (63, 62)}


# --- simulated retinas ------------------------------------------------------------------------------------------------


def numbered_retinas(first, channels=4):
    """Retinas that carry their number in every pixel; the OCT-A is the fundus' green."""
    for number in count(first):
        yield np.full((CROP_PX, CROP_PX, channels), number % 256, np.uint8)


def simulated_patches(draw=numbered_retinas, real=None, **options):
    return SimulatedPatches(draw, Settings(patch_size=64, seed=3, **options), real)


def numbers_of(patches):
    """Which retina each patch of a batch comes from."""
    return [round(float(value + 1) * 127.5) for value in patches[:, 0, 0, 0]]


@pytest.mark.parametrize("per_retina", [4, 8])
def test_simulated_patches_come_shuffled_some_of_each_retina(per_retina):
    patches = simulated_patches(batch_size=32, patches_per_retina=per_retina)
    batches = list(patches.batches(0, 1))
    assert len(batches) == patches.steps_per_epoch == -(-SIMULATED_PATCHES_PER_EPOCH // 32)
    assert all(fundus.shape == (32, 64, 64, 3) and octa.shape == (32, 64, 64, 1) for fundus, octa in batches)
    numbers = [number for fundus, _ in batches for number in numbers_of(fundus)]
    size = RETINAS_PER_BLOCK * per_retina
    block, after = numbers[:size], numbers[size : 2 * size]
    assert sorted(block) == sorted(list(range(RETINAS_PER_BLOCK)) * per_retina)
    assert block != sorted(block)
    assert set(after) == set(range(RETINAS_PER_BLOCK, 2 * RETINAS_PER_BLOCK))


def test_simulated_patches_go_on_anywhere():
    patches = simulated_patches(batch_size=6)
    whole = list(patches.batches(0, 1))
    rest = list(simulated_patches(batch_size=6).batches(7, 1))
    assert len(rest) == len(whole) - 7
    for (fundus, octa), (fundus_again, octa_again) in zip(whole[7:], rest, strict=True):
        assert np.array_equal(fundus, fundus_again)
        assert np.array_equal(octa, octa_again)


def test_simulated_patches_are_mixed_with_real_ones(pairs):
    real = patches_of(pairs, 4, seed=3)
    assert simulated_patches(batch_size=4, real=real, mix=0.99).simulated_per_batch == 3  # one of each kind at least
    mixed = simulated_patches(batch_size=4, real=real, mix=0.75)
    assert mixed.steps_per_epoch == real.patches_per_epoch
    batches = list(mixed.batches(0, 2))
    assert len(batches) == 2 * real.patches_per_epoch
    assert [np.ptp(patch) == 0 for fundus, _ in batches[:5] for patch in fundus] == [True, True, True, False] * 5
    alone = np.concatenate([fundus for fundus, _ in real.batches(0, 2)])
    assert np.array_equal(np.concatenate([fundus[3:] for fundus, _ in batches]), alone)
    again = list(simulated_patches(batch_size=4, real=real, mix=0.75).batches(5, 2))
    assert np.array_equal(again[0][0], batches[5][0])


def test_vessels_are_known_of_simulated_retinas_only(pairs):
    real = patches_of([Pair(pair.fundus, pair.octa.repeat(4, axis=-1), pair.fov) for pair in pairs], 4)
    given = {"real": real, "octa_channels": 4, "batch_size": 4, "mix": 0.5, "vessel_output": True}
    _, target = next(simulated_patches(lambda first: numbered_retinas(first, 8), **given).batches(0, 1))
    assert (target.numpy() == UNKNOWN).mean(axis=(1, 2)).tolist() == [[0] * 5] * 2 + [[0] * 4 + [1]] * 2


WAYS_TO_END = ["after the last step", "error in a step", "error in the pipeline", "error of what draws"]


@pytest.mark.parametrize("way", WAYS_TO_END)
def test_what_draws_retinas_is_closed_however_training_ends(monkeypatch, way):
    closed = []

    def draw(first):
        try:
            for number, retina in enumerate(numbered_retinas(first)):
                yield retina
                if way == "error of what draws" and number == RETINAS_PER_BLOCK:
                    raise OSError(5, "no more", "a file")
        finally:
            closed.append(way)

    patches = simulated_patches(draw, batch_size=4)
    plan = patches.plan

    def failing_plan(block):
        if block and way == "error in the pipeline":
            raise MemoryError("std::bad_alloc")
        return plan(block)

    monkeypatch.setattr(patches, "plan", failing_plan)
    error = None
    try:
        with closing(patches.batches(0, 1)) as batches:
            for number, _ in enumerate(batches):
                if number == 3 and way == "error in a step":
                    raise ZeroDivisionError
    except Exception as raised:
        error = raised  # whose traceback is kept, as an uncaught error's is
    assert (error is None) == (way in WAYS_TO_END[:1])
    assert way != "error of what draws" or error.filename == "a file"
    assert closed == [way]
