"""The networks are the study's: parameters, shapes, slopes, biases, initial weights, precision of the outputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pix_discriminator import Discriminator
from pix_generator import UPSAMPLING, FusedBatchNorm, Generator, downsample, upsample


def all_layers(model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from all_layers(layer)
        else:
            yield layer


@pytest.fixture
def bfloat16_policy():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize(("channels", "parameters"), [(4, 29_253_892), (1, 29_247_745)])
def test_generator_has_the_published_size(channels, parameters):
    model = Generator(3, (256, 256), channels)
    assert model.count_params() == parameters
    assert model.output_shape == (None, 256, 256, channels)


@pytest.mark.parametrize(("channels", "parameters"), [(4, 2_647_041), (1, 2_640_897)])
def test_discriminator_has_the_published_size(channels, parameters):
    model = Discriminator(3, channels, (256, 256))
    assert model.count_params() == parameters
    assert model.output_shape == (None, 62, 62, 1)


def test_generator_is_built_as_in_the_study():
    layers = list(all_layers(Generator(3, (64, 64), 1)))
    down = [layer for layer in layers if type(layer) is keras.layers.Conv2D]
    up = [layer for layer in layers if type(layer) is keras.layers.Conv2DTranspose]
    assert [layer.filters for layer in down] == [64, 128, 256, 512, 512, 512]
    assert [layer.filters for layer in up] == [512, 512, 256, 128, 64, 1]
    assert [layer.use_bias for layer in down + up] == [False] * 11 + [True]
    assert {(layer.kernel_size, layer.strides, layer.padding) for layer in down + up} == {((4, 4), (2, 2), "same")}
    assert [layer.rate for layer in layers if isinstance(layer, keras.layers.Dropout)] == [0.5, 0.5]
    assert len([layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]) == 10
    slopes = [layer.negative_slope for layer in layers if isinstance(layer, keras.layers.LeakyReLU)]
    assert slopes == pytest.approx([0.3] * 6)


@pytest.mark.parametrize(("channels", "parameters"), [(4, 21_336_836), (1, 21_333_377)])
def test_generator_without_checkerboard_differs_in_its_doublings_alone(channels, parameters):
    model = Generator(3, (256, 256), channels, "resize")
    assert (model.count_params(), model.output_shape) == (parameters, (None, 256, 256, channels))
    published, resized = (
        [type(layer).__name__ for layer in all_layers(network)] for network in (Generator(3, (64, 64), channels), model)
    )
    doubled = resized.count("UpSampling2D")
    assert doubled == published.count("Conv2DTranspose") == 6
    assert [name for name in resized if name != "UpSampling2D"] == [
        name.removesuffix("Transpose") for name in published
    ]
    with pytest.raises(ValueError, match="upsampling must be one of transposed, resize, not 'bicubic'"):
        Generator(3, (64, 64), 1, "bicubic")


def test_repeated_pixels_leave_no_checkerboard():
    """What one doubling makes of an even image: the same everywhere, but for the border."""
    even = np.ones((1, 8, 8, 3), np.float32)
    spread = {way: np.ptp(upsample(4, 4, False, way)(even)[0, 4:-4, 4:-4], axis=(0, 1)).max() for way in UPSAMPLING}
    assert spread["resize"] < 1e-6 < 1e-3 < spread["transposed"]


def test_generator_with_free_sides_takes_images_of_any_size():
    model = Generator(3, (None, None), 1)
    assert model.count_params() == 29_247_745
    assert model(np.zeros((1, 64, 192, 3), np.float32)).shape == (1, 64, 192, 1)


def test_discriminator_is_built_as_in_the_study():
    layers = [layer for layer in all_layers(Discriminator(3, 1, (64, 64))) if isinstance(layer, keras.layers.Conv2D)]
    assert [layer.filters for layer in layers] == [128, 256, 512, 1]
    assert [layer.use_bias for layer in layers] == [False, False, False, True]
    assert [layer.strides for layer in layers] == [(2, 2), (2, 2), (1, 1), (1, 1)]


@pytest.mark.parametrize("model", [Generator(3, (64, 64), 1), Discriminator(3, 1, (64, 64))])
def test_weights_start_from_the_studys_normal_distribution(model):
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Conv2DTranspose):
            kernel = np.asarray(layer.kernel)
            spread = 0.02 / np.sqrt(kernel.size)  # of the mean; that of the standard deviation is smaller
            assert abs(kernel.mean()) < 5 * spread
            assert kernel.std() == pytest.approx(0.02, abs=5 * spread)


def test_blocks_halve_and_double():
    image = np.zeros((2, 16, 24, 3), np.float32)
    assert downsample(5, 4)(image).shape == (2, 8, 12, 5)
    assert upsample(5, 4)(image).shape == (2, 32, 48, 5)
    assert [type(layer).__name__ for layer in downsample(5, 4, apply_batchnorm=False).layers] == ["Conv2D", "LeakyReLU"]
    assert "Dropout" in [type(layer).__name__ for layer in upsample(5, 4, apply_dropout=True).layers]


def test_outputs_are_float32_in_mixed_precision(bfloat16_policy):
    image = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    octa = np.asarray(Generator(3, (64, 64), 1)(image))
    logits = np.asarray(Discriminator(3, 1, (64, 64))([image, octa]))
    assert octa.dtype == logits.dtype == "float32"
    for output in (octa, logits):  # some values are not on the grid of bfloat16's eight bits
        assert np.any(output.view(np.uint32) & 0xFFFF)


@pytest.mark.parametrize("build", [lambda dim: Generator(3, dim, 1), lambda dim: Discriminator(3, 1, dim)])
@pytest.mark.parametrize("patch_dim", [(100, 128), (128, 100), (0, 64), (-64, 64)])
def test_another_patch_size_is_refused(build, patch_dim):
    with pytest.raises(ValueError, match=f"{patch_dim[0]} x {patch_dim[1]} px: sides must be multiples of 64"):
        build(patch_dim)


def normed(layer, images):
    """What a norm layer makes of two batches in training and of one after it, its averages, and three gradients."""
    layer.build((None, None, None, 3))
    random = np.random.default_rng(1)
    for variable in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance):
        variable.assign(random.uniform(0.5, 2, 3))
    values = [layer(images, training=True), layer(2 * images + 1, training=True), layer(images, training=False)]
    with tf.GradientTape() as tape:
        tape.watch(images)
        loss = tf.reduce_sum(tf.cast(layer(images, training=True), tf.float32) ** 3)
    gradients = tape.gradient(loss, [images, *layer.trainable_variables])
    return [*values, layer.moving_mean, layer.moving_variance, *gradients]


@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (1, 1, 2, 3), (1, 1, 1, 3)])
def test_fused_norm_layer_is_keras_norm_layer(shape):
    images = tf.constant(np.random.default_rng(0).normal(0.5, 3, shape), tf.float32)
    for fused, kept in zip(
        normed(FusedBatchNorm(), images), normed(keras.layers.BatchNormalization(), images), strict=True
    ):
        np.testing.assert_allclose(fused, kept, rtol=1e-4, atol=1e-4)


def test_fused_norm_layer_counts_in_float32_under_mixed_precision(bfloat16_policy):
    images = tf.constant(np.random.default_rng(0).normal(0.5, 3, (4, 16, 16, 3)), tf.bfloat16)
    layers = FusedBatchNorm(), keras.layers.BatchNormalization()
    (fused, *_, mean, variance), (kept, *_, kept_mean, kept_variance) = (normed(one, images)[:5] for one in layers)
    assert fused.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(fused, tf.float32), tf.cast(kept, tf.float32), atol=0.04)  # bits of bfloat16
    np.testing.assert_allclose(mean, kept_mean, rtol=1e-5)
    np.testing.assert_allclose(variance, kept_variance, rtol=1e-5)
