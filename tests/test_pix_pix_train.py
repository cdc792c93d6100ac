"""Losses, the two steps, and validation; whole runs are in `test_full_runs.py`."""

from dataclasses import replace
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

import pix_pix_train as train
from pairs.dataset import Pair
from pix_losses import LAMBDA_VESSELS, UNKNOWN
from retina.similarity import VALIDATION_SCORES
from run.devices import compiled
from run.log import LOSSES
from run.settings import Settings


@pytest.fixture(scope="module")
def settings():
    return Settings(patch_size=64, batch_size=3, precision="float32", name="x")


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    return [tf.constant(random.uniform(-1, 1, (3, 64, 64, n)), tf.float32) for n in (3, 1)]


@pytest.fixture(scope="module")
def with_vessels(settings, batch):
    """Settings of a run with a vessel output, and a batch for it."""
    images = batch[0], tf.concat([batch[1], batch[1] / 2 + 0.5], -1)
    return replace(settings, data="simulated", vessel_output=True), images


def new_networks(settings):
    keras.utils.set_random_seed(settings.seed)
    return train.Pix2Pix(settings)


def in_graph(networks, step):
    return compiled(getattr(networks, step), networks.signature, tf.distribute.get_strategy())


# --- losses ----------------------------------------------------------------------------------------------------------


def test_generator_loss_by_hand():
    logits = tf.constant([[0.0], [np.log(3.0)]])  # probabilities 1/2 and 3/4 of being real
    total, gan, l1 = train.generator_loss(logits, tf.constant([[0.5, -0.5]]), tf.constant([[0.0, 0.5]]), 100.0)
    assert float(gan) == pytest.approx((np.log(2) + np.log(4 / 3)) / 2)
    assert float(l1) == pytest.approx(0.75)
    assert float(total) == pytest.approx(float(gan) + 75)


CHEQUERED = 0.5 * (-1.0) ** np.add(*np.indices((16, 16)))


@pytest.mark.parametrize(("l1_scale", "expected"), [(1, 0.5), (2, 0.0), (3, 1 / 18)])
def test_l1_loss_compares_averages(l1_scale, expected):
    """A chequered error of 0.5 is none after averaging over squares of 2 px, and 1/9 of that over squares of 3 px."""
    error = np.block([[CHEQUERED, -CHEQUERED], [-CHEQUERED, CHEQUERED]])[np.newaxis, ..., np.newaxis]  # no grid
    loss = train.l1_loss(tf.zeros(error.shape), tf.constant(error, tf.float32), l1_scale)
    assert float(loss) == pytest.approx(expected, rel=0.1, abs=1e-3)  # averages across the tiles' borders differ


def test_a_grid_is_an_error_at_any_scale():
    error = np.tile(CHEQUERED, (2, 2))[np.newaxis, ..., np.newaxis]
    assert float(train.l1_loss(tf.zeros(error.shape), tf.constant(error, tf.float32), 2)) == pytest.approx(0.5)


def test_each_image_has_its_own_grid():
    """The loss of a batch is the mean of its images' losses, so that devices can share it."""
    random = np.random.default_rng(0)
    images = [tf.constant(random.normal(size=(4, 64, 64, 1)), tf.float32) for _ in range(2)]
    apart = [float(train.l1_loss(*(image[n : n + 1] for image in images), 8)) for n in range(4)]
    assert float(train.l1_loss(*images, 8)) == pytest.approx(np.mean(apart), rel=1e-5)


@pytest.mark.parametrize(
    ("l1_only", "input_noise", "steps", "expected"),
    [
        (0.0, 0.0, 6, {1, 2, 3, 4, 5, 6}),
        (0.5, 0.0, 6, {4, 5, 6}),
        (1.0, 0.1, 6, set()),
        (0.5, 0.1, 50, set(range(26, 51, 2))),  # every second step
    ],
)
def test_steps_with_the_discriminator(l1_only, input_noise, steps, expected):
    settings = Settings(l1_only=l1_only, input_noise=input_noise)
    assert {step for step in range(1, steps + 1) if train.has_discriminator(settings, step, steps)} == expected


def test_vessels_are_validated_without_noise_and_speckle_with_it(settings):
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (128, 128, channels), dtype=np.uint8) for channels in (3, 1)]
    pair = Pair(*images, np.ones((128, 128), bool))
    quiet, noisy = (
        train.generate_fundus_oct_pair(new_networks(replace(settings, input_noise=noise)), pair)[1]
        for noise in (0.0, 0.5)
    )
    assert {name for name in quiet if quiet[name] == noisy[name]} >= {"vessel_auc", "vessel_dice"}
    assert quiet["texture"] != noisy["texture"]


def test_noise_on_photographs_is_that_of_the_step():
    settings, black = Settings(input_noise=0.1, seed=3), tf.zeros((2, 64, 64, 3))
    first, again, other = (train.with_noise(black, settings, step).numpy() for step in (7, 7, 8))
    assert first.std() == pytest.approx(0.1, rel=0.05)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_discriminator_loss_by_hand():
    real, generated = tf.constant([[np.log(3)]], tf.float32), tf.constant([[np.log(2)]], tf.float32)  # 3/4 and 2/3
    assert float(train.discriminator_loss(real, generated)) == pytest.approx(np.log(4 / 3) + np.log(3))


def test_vessel_loss_is_the_cross_entropy_of_known_pixels():
    random = np.random.default_rng(0)
    found, drawn = random.uniform(0.01, 0.99, (2, 3, 8, 8, 1)).astype(np.float32)
    known = random.random((3, 8, 8)) < 0.5
    target = np.where(known[..., np.newaxis], 2 * drawn - 1, UNKNOWN)
    expected = keras.losses.binary_crossentropy(drawn, found).numpy()[known].mean()
    assert float(train.vessel_loss(2 * found - 1, target)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("found", "drawn"), [(-1, 1), (1, -1), (1, 1), (0, UNKNOWN)])
def test_vessel_loss_is_finite(found, drawn):
    assert np.isfinite(train.vessel_loss(*(np.full((1, 4, 4, 1), value, np.float32) for value in (found, drawn))))


# --- the steps -------------------------------------------------------------------------------------------------------


def test_train_step_is_the_same_in_eager_and_graph_mode(with_vessels):
    settings, batch = with_vessels
    graph, eager = new_networks(settings), new_networks(settings)
    graph_losses, eager_losses = in_graph(graph, "train_step")(*batch), eager.train_step(*batch)
    assert graph_losses.keys() == eager_losses.keys() == LOSSES.keys()
    for tag, loss in graph_losses.items():
        assert float(loss) == pytest.approx(float(eager_losses[tag]), rel=1e-5)
    for one, other in zip(graph.generator.variables, eager.generator.variables, strict=True):
        # Adam's first step is the sign of the gradient: where that is nearly 0, rounding decides.
        assert np.mean(np.abs(np.asarray(one) - np.asarray(other)) > 1e-6) < 1e-3


@pytest.mark.parametrize("name", [pytest.param("train_step", marks=pytest.mark.slow), "l1_step"])
def test_step_learns_and_is_traced_once(settings, batch, name):
    step = in_graph(new_networks(settings), name)
    losses = [float(step(*batch)["gen_l1_loss"]) for _ in range(8)]
    assert losses[-1] < losses[0]
    step(*(tensor[:1] for tensor in batch))  # a smaller last batch
    assert step.experimental_get_tracing_count() == 1


def test_error_is_of_averages_and_in_the_l1_only_phase_of_pixels_too(settings, batch):
    networks = new_networks(replace(settings, l1_scale=8, learning_rate=1e-9))
    both, averages, against = (
        float(getattr(networks, step)(*batch)["gen_l1_loss"]) for step in ("l1_step", "vessel_step", "train_step")
    )
    assert averages == pytest.approx(against, rel=0.2)  # they differ by their dropout
    assert averages < 0.5 * (both - averages)


def test_discriminator_judges_in_one_batch_or_as_published_in_two(settings, batch):
    real, generated = ([batch[0], contrast * batch[1]] for contrast in (1.0, 0.1))
    for calls in (1, 2):
        networks = new_networks(replace(settings, discriminator_calls=calls))
        judge = partial(networks.discriminator, training=True)
        both = judge([tf.concat(images, 0) for images in zip(real, generated, strict=True)])
        apart = tf.concat([judge(real), judge(generated)], 0)
        judged = tf.concat(networks.judged(*real, generated[1]), 0)
        assert abs(both - apart).numpy().max() > 0.01
        np.testing.assert_allclose(judged, both if calls == 1 else apart, atol=1e-5)


@pytest.mark.parametrize("step", ["train_step", "l1_step"])
def test_discriminator_and_l1_loss_see_the_octa_alone(with_vessels, step, monkeypatch):
    settings, (fundus, target) = with_vessels
    networks, seen = new_networks(settings), []
    networks.generator.weights[-1].assign([-9.0, 9.0])  # biases: the OCT-A is black, and vessels are everywhere
    judged = networks.judged
    monkeypatch.setattr(networks, "judged", lambda *images: seen.append(images) or judged(*images))
    losses = getattr(networks, step)(fundus, target)
    octa, vessels = np.split(target, 2, axis=-1)
    assert all(np.array_equal(real, octa) and generated.numpy().max() < 0 for _, real, generated in seen)
    assert len(seen) == (step == "train_step")
    assert float(losses["gen_l1_loss"]) == pytest.approx((octa + 1).mean(), rel=0.01)
    assert float(losses["gen_vessel_loss"]) == pytest.approx(float(train.vessel_loss(1.0, vessels)), rel=0.01)


def test_total_of_the_generator_has_all_three_losses(with_vessels):
    settings, batch = with_vessels
    losses = {tag: float(loss) for tag, loss in new_networks(settings).train_step(*batch).items()}
    weighted = settings.lambda_l1 * losses["gen_l1_loss"] + LAMBDA_VESSELS * losses["gen_vessel_loss"]
    assert losses["gen_total_loss"] == pytest.approx(losses["gen_gan_loss"] + weighted, rel=1e-5)


@pytest.mark.parametrize("step", ["l1_step", "vessel_step"])
def test_steps_of_the_generator_leave_the_discriminator_alone(with_vessels, step):
    settings, batch = with_vessels
    networks = new_networks(replace(settings, lambda_l1=0.0))  # which such a step allows
    before = [variable.numpy() for variable in networks.discriminator.variables]
    assert getattr(networks, step)(*batch).keys() == {"gen_l1_loss", "gen_vessel_loss"}
    after = [variable.numpy() for variable in networks.discriminator.variables]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.slow
def test_mixed_precision_trains_like_float32(settings, batch):
    exact = in_graph(new_networks(settings), "train_step")
    exact_losses = [exact(*batch) for _ in range(3)][-1]
    mixed = in_graph(new_networks(replace(settings, precision="mixed_bfloat16")), "train_step")
    mixed_losses = [mixed(*batch) for _ in range(3)][-1]
    keras.config.set_dtype_policy("float32")
    for tag, loss in exact_losses.items():
        assert mixed_losses[tag].dtype == tf.float32
        assert float(mixed_losses[tag]) == pytest.approx(float(loss), rel=0.05)


def test_learning_rate_by_hand():
    falling = Settings(learning_rate=1.0, decay=0.5)
    assert [train.learning_rate(falling, step, 8) for step in range(1, 9)] == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert {train.learning_rate(Settings(learning_rate=1.0), step, 8) for step in range(1, 9)} == {1}


# --- validation ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(settings, batch):
    networks = new_networks(settings)
    networks.l1_step(*batch)
    return networks


@pytest.fixture
def half_pair():
    """A pair (80, 80) whose field of view is its left part."""
    random = np.random.default_rng(2)
    fov = np.zeros((80, 80), bool)
    fov[:, :50] = True
    return Pair(*(random.integers(0, 256, (80, 80, n), dtype=np.uint8) for n in (3, 1)), fov)


def test_validation_changes_no_weight(trained, half_pair):
    variables = [*trained.generator.variables, *trained.generator_optimizer.variables]
    before = [variable.numpy().copy() for variable in variables]
    train.generate_fundus_oct_pair(trained, half_pair)
    assert all(np.array_equal(one, other) for one, other in zip(before, variables, strict=True))


def test_pair_is_black_outside_the_field_and_scored_inside(trained, half_pair):
    predicted, scores = train.generate_fundus_oct_pair(trained, half_pair)
    assert not predicted[:, 50:].any()
    error = np.abs(predicted[..., 0] - half_pair.octa[..., 0] / 255)[half_pair.fov].mean()
    assert scores["mae"] == pytest.approx(error, rel=1e-4)
    assert scores.keys() == VALIDATION_SCORES.keys()
