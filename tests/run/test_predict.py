"""Prediction: one pass and tiles, statistics and dropout, scales and orientations, noise, even light."""

import keras
import numpy as np
import pytest
from conftest import fake_fundus, round_field
from PIL import Image

import run.predict as program
from pix_generator import Generator
from pix_layers import layers_of
from retina.field_of_view import find_field
from retina.patches import reflect_to_multiple
from run.checkpoints import RunError
from run.predict import Predictor
from run.settings import Settings

COMPLETE_NETWORKS = True  # an untrained narrow one hardly depends on the image
DIAMETER = 115  # px: of the round field


def everywhere(fundus):
    return np.ones(fundus.shape[:2], dtype=bool)


@pytest.fixture(scope="module")
def predictor():
    """That of an untrained generator."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    return Predictor(Generator(3, (None, None), 1), Settings())


@pytest.fixture(scope="module")
def noisy(predictor):
    """The same generator with noise."""
    return Predictor(predictor.generator, Settings(input_noise=0.2))


@pytest.fixture(scope="module")
def fundus():
    return fake_fundus(np.random.default_rng(1), 150, 100)


@pytest.fixture(scope="module")
def photograph():
    """A photograph with a round field whose left half is in shadow, and its field."""
    fundus = round_field(128)
    fundus[:, :64] //= 2
    return fundus, find_field(fundus).mask


@pytest.fixture
def small_scales(monkeypatch):
    monkeypatch.setattr(program, "DIAMETERS", (70, 100, 140))
    monkeypatch.setattr(program, "ENLARGED", 140)
    monkeypatch.setattr(program, "MOST_SHRUNK", 0.3)


# --- one image -------------------------------------------------------------------------------------------------------


def test_prediction_is_repeatable_and_changes_nothing(predictor, fundus):
    before = [variable.numpy().copy() for variable in predictor.generator.variables]
    octas = [predictor.predict(fundus, everywhere(fundus)) for _ in range(2)]
    assert (octas[0].shape, octas[0].dtype) == ((150, 100, 1), np.float32)
    assert 0 <= octas[0].min() < octas[0].max() <= 1
    assert np.array_equal(*octas)
    after = [variable.numpy() for variable in predictor.generator.variables]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert [layer.rate for layer in layers_of(predictor.generator, keras.layers.Dropout)] == [0.5, 0.5]


def test_statistics_are_those_that_training_uses(predictor):
    """One pass gives what training computes on the image alone, except for dropout; so do its statistics."""
    image = np.random.default_rng(2).uniform(-1, 1, (1, 128, 64, 3)).astype(np.float32)
    octa, statistics = predictor.with_own_statistics(image)
    generator = keras.models.clone_model(predictor.generator)
    generator.set_weights(predictor.generator.get_weights())
    with program.without_dropout(generator):
        expected = generator(image, training=True)
    assert np.abs(octa - expected).max() < 1e-5
    assert np.abs(octa - predictor.with_statistics(image, statistics)).max() < 1e-4
    assert np.abs(octa - predictor.generator(image, training=False)).max() > 1e-2  # the moving averages lag behind


@pytest.mark.parametrize(("shape", "noise"), [((1100, 300), 0.0), ((590, 570), 0.1)])
def test_tiles_give_what_one_pass_gives(predictor, shape, noise, monkeypatch):
    """Everywhere, given the same statistics; of a tile of 576 px only the innermost 320 px are kept."""
    monkeypatch.setattr(program, "TILE", 576)
    fundus = fake_fundus(np.random.default_rng(4), *shape)
    whole = reflect_to_multiple(fundus, 64)
    statistics = predictor.statistics(whole, noise)
    one_pass = predictor.with_statistics(program.seen_by_network(whole, noise), statistics)
    expected = one_pass.numpy()[0, : shape[0], : shape[1]] * 0.5 + 0.5
    tiles = Predictor(predictor.generator, Settings(input_noise=noise)).predict(fundus, everywhere(fundus))
    assert tiles.shape == (*shape, 1)
    assert np.abs(tiles - expected).max() < 1e-4


def test_pixels_outside_the_field_have_no_influence_and_are_black(predictor, photograph):
    fundus, fov = photograph
    octa = predictor.predict(fundus, fov)
    grey = np.where(fov[..., np.newaxis], fundus, 90).astype(np.uint8)
    assert np.array_equal(octa, predictor.predict(grey, fov))
    assert not octa[~fov].any()
    assert octa[fov].all()


def test_prediction_that_is_not_finite_is_an_error():
    keras.config.set_dtype_policy("float32")
    image = keras.Input((None, None, 3))
    network = keras.Model(
        image, keras.layers.Conv2D(1, 1, kernel_initializer=keras.initializers.Constant(np.nan))(image)
    )
    with pytest.raises(RunError, match="not finite"):
        Predictor(network, Settings()).predict(np.full((64, 64, 3), 99, np.uint8), np.ones((64, 64), bool))


@pytest.mark.parametrize("channels", [1, 4])
def test_vessel_probability_is_the_last_channel_and_the_octa_all_before(fundus, channels):
    settings = Settings(octa_channels=channels, vessel_output=True)
    both, inside = Predictor(Generator(3, (None, None), channels + 1), settings), everywhere(fundus)
    output = both.generated(fundus, inside, with_noise=False) / 2 + 0.5
    photo = both.predict_photograph(fundus, inside, None, fast=True)
    for found in (
        (both.predict(fundus, inside), both.predict_vessels(fundus, inside)),
        (photo.octa, photo.probability),
    ):
        np.testing.assert_allclose(np.dstack(found), output, atol=1e-6)


# --- a photograph of any scale ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("diameter", "diameters"),
    [
        (540, [700, 1000, 1400]),
        (3000, [1400, 2000, 2800]),
        (7000, [2800]),
        (300, [700]),
        (100, [300]),
    ],
)
def test_scales_follow_from_the_diameter_of_the_field(diameter, diameters):
    assert program.scale_factors(diameter) == pytest.approx([px / diameter for px in diameters])


@pytest.mark.parametrize("size", [(100, 80), (80, 100)])  # width and height in per cent
def test_stretched_photograph_gives_the_octa_of_the_round_one(predictor, small_scales, size):
    def agreement(stretch):
        """Correlation of the OCT-A, resized, with that of the round photograph."""
        octa = predictor.predict_photograph(squeezed, field, 270.0, fast=True, stretch=stretch).octa[..., 0]
        back = np.asarray(Image.fromarray(octa).resize((300, 300), Image.Resampling.BICUBIC))
        return np.corrcoef(back[fov], whole[fov])[0, 1]

    photo = round_field(300)
    fov = find_field(photo).mask
    whole = predictor.predict_photograph(photo, fov, 270.0, fast=True).octa[..., 0]
    narrow = tuple(3 * side for side in size)
    squeezed = np.asarray(Image.fromarray(photo).resize(narrow, Image.Resampling.LANCZOS))
    field = np.asarray(Image.fromarray(fov).resize(narrow))
    assert agreement(size[0] / size[1]) > 0.85 > agreement(1.0) + 0.1


def test_octa_is_one_pass_and_the_probability_the_mean_of_several(predictor, small_scales, photograph):
    whole, fast = (predictor.predict_photograph(*photograph, DIAMETER, fast) for fast in (False, True))
    np.testing.assert_array_equal(whole.octa, fast.octa)
    np.testing.assert_array_equal(fast.probability, fast.octa[..., 0])
    assert abs(whole.probability - whole.octa[..., 0]).max() > 1e-3


def test_probability_of_a_crop_is_one_pass_at_its_own_scale(noisy, fundus):
    inside = everywhere(fundus)
    predicted = noisy.predict_photograph(fundus, inside, None)
    np.testing.assert_array_equal(predicted.probability, noisy.predict_vessels(fundus, inside))


@pytest.mark.parametrize("fast", [False, True])
def test_vessel_probability_alone_is_that_of_the_prediction(noisy, small_scales, photograph, fast):
    alone = noisy.vessel_probability(*photograph, DIAMETER, fast)
    np.testing.assert_array_equal(alone, noisy.predict_photograph(*photograph, DIAMETER, fast).probability, strict=True)


# --- noise and light -------------------------------------------------------------------------------------------------


def test_noise_is_in_the_octa_only_and_always_the_same(predictor, noisy, fundus):
    quiet, *others = (
        one.predict_photograph(fundus, everywhere(fundus), None, fast=True) for one in (predictor, noisy, noisy)
    )
    np.testing.assert_array_equal(others[0].probability, quiet.probability)
    np.testing.assert_array_equal(others[0].octa, others[1].octa)
    assert abs(others[0].octa - quiet.octa).max() > 1e-3


def test_even_light_takes_a_shadow_away():
    fundus = np.full((200, 200, 3), 160, np.uint8)
    fundus[:, :100] //= 2
    evened = program.with_even_light(fundus, everywhere(fundus), 200)
    assert evened[:, :60].mean() == pytest.approx(evened[:, -60:].mean(), rel=0.02)


def test_even_light_keeps_colours_vessels_and_what_lies_outside_the_field():
    fundus = np.full((200, 200, 3), (160, 100, 60), np.uint8)
    fundus[:, 98:102] //= 2  # a vessel
    fov = everywhere(fundus)
    fov[:, :20] = False
    fundus[~fov] = 0
    evened = program.with_even_light(fundus, fov, 200).astype(float)
    assert not evened[~fov].any()
    assert evened[100, 150, 1] / evened[100, 150, 0] == pytest.approx(100 / 160, rel=0.02)
    assert evened[100, 100, 0] / evened[100, 150, 0] == pytest.approx(0.5, abs=0.05)


def test_published_prediction_has_the_statistics_of_its_batch_and_dropout(predictor, fundus):
    patch = program.to_model(fundus[:64, :64])[np.newaxis]
    own = predictor.with_own_statistics(patch)[0].numpy()
    with program.without_dropout(predictor.generator):
        published = Predictor(predictor.generator, Settings()).as_published(patch)
    np.testing.assert_allclose(published, own, atol=1e-4)
    assert np.abs(predictor.as_published(patch) - own).max() > 1e-2
