"""The networks are the study's: parameters, shapes, slopes, biases, initial weights, precision of the outputs."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import PROJECT

import pix_layers
from pix_discriminator import Discriminator
from pix_generator import Generator
from pix_layers import FusedBatchNorm, downsample, layers_of, upsample
from run import settings

COMPLETE_NETWORKS = True


@pytest.fixture
def bfloat16_policy():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize(("channels", "parameters"), [(4, 29_253_892), (1, 29_247_745)])
def test_generator_has_the_published_size_and_takes_images_of_any_size(channels, parameters):
    model = Generator(3, (None, None), channels)
    assert model.count_params() == parameters
    assert model(np.zeros((1, 64, 192, 3), np.float32)).shape == (1, 64, 192, channels)


@pytest.mark.parametrize(("channels", "parameters"), [(4, 2_647_041), (1, 2_640_897)])
def test_discriminator_has_the_published_size(channels, parameters):
    model = Discriminator(3, channels, (256, 256))
    assert (model.count_params(), model.output_shape) == (parameters, (None, 62, 62, 1))


def test_generator_is_built_as_in_the_study():
    model = Generator(3, (64, 64), 1)
    down = sorted((layer for layer in layers_of(model) if type(layer) is keras.layers.Conv2D), key=lambda one: one.name)
    up = list(layers_of(model, keras.layers.Conv2DTranspose))
    assert sorted(layer.filters for layer in down) == [64, 128, 256, 512, 512, 512]
    assert sorted(layer.filters for layer in up) == [1, 64, 128, 256, 512, 512]
    assert sum(layer.use_bias for layer in down + up) == 1
    assert {(layer.kernel_size, layer.strides, layer.padding) for layer in down + up} == {((4, 4), (2, 2), "same")}
    assert [layer.rate for layer in layers_of(model, keras.layers.Dropout)] == [0.5, 0.5]
    assert len(list(layers_of(model, keras.layers.BatchNormalization))) == 10
    slopes = [layer.negative_slope for layer in layers_of(model, keras.layers.LeakyReLU)]
    assert slopes == pytest.approx([0.3] * 6)


def test_discriminator_is_built_as_in_the_study():
    convolutions = {layer.filters: layer for layer in layers_of(Discriminator(3, 1, (64, 64)), keras.layers.Conv2D)}
    assert convolutions.keys() == {128, 256, 512, 1}
    assert [filters for filters, layer in convolutions.items() if layer.use_bias] == [1]
    assert {filters for filters, layer in convolutions.items() if layer.strides == (2, 2)} == {128, 256}


@pytest.mark.parametrize("build", [lambda: Generator(3, (64, 64), 1), lambda: Discriminator(3, 1, (64, 64))])
def test_weights_start_from_the_studys_normal_distribution(build):
    for layer in layers_of(build(), (keras.layers.Conv2D, keras.layers.Conv2DTranspose)):
        kernel = np.asarray(layer.kernel)
        spread = 0.02 / np.sqrt(kernel.size)  # of the mean; that of the standard deviation is smaller
        assert abs(kernel.mean()) < 5 * spread
        assert kernel.std() == pytest.approx(0.02, abs=5 * spread)


def test_blocks_halve_and_double_the_image_with_what_is_asked_for():
    image = np.zeros((2, 16, 24, 3), np.float32)
    down, up = downsample(5, 4, apply_batchnorm=False), upsample(5, 4, apply_dropout=True)
    assert (down(image).shape, up(image).shape) == ((2, 8, 12, 5), (2, 32, 48, 5))
    assert [type(layer).__name__ for layer in down.layers] == ["Conv2D", "LeakyReLU"]
    assert [type(layer).__name__ for layer in up.layers] == ["Conv2DTranspose", "FusedBatchNorm", "Dropout", "ReLU"]


def test_outputs_are_float32_in_mixed_precision(bfloat16_policy):
    image = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    octa = np.asarray(Generator(3, (64, 64), 1)(image))
    logits = np.asarray(Discriminator(3, 1, (64, 64))([image, octa]))
    for output in (octa, logits):  # some values are not on the grid of bfloat16's eight bits
        assert output.dtype == "float32"
        assert np.any(output.view(np.uint32) & 0xFFFF)


@pytest.mark.parametrize("build", [lambda dim: Generator(3, dim, 1), lambda dim: Discriminator(3, 1, dim)])
def test_another_patch_size_is_refused(build):
    assert settings.SIZE_MULTIPLE == pix_layers.SIZE_MULTIPLE
    with pytest.raises(ValueError, match="100 x 128"):
        build((100, 128))


def test_networks_load_no_library_but_keras():
    """Keras itself loads SciPy and requests."""
    code = "import sys, keras; before = set(sys.modules); import pix_generator, pix_discriminator; "
    code += "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    ours = {"pix_generator", "pix_discriminator", "pix_layers"}
    assert set(loaded.stdout.split()) - set(sys.stdlib_module_names) <= ours


# --- batch normalisation ---------------------------------------------------------------------------------------------


def normalised(layer, images):
    """Outputs for two batches in training and one after it, the moving statistics, and three gradients."""
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
def test_fused_batch_normalisation_equals_keras(shape):
    images = tf.constant(np.random.default_rng(0).normal(0.5, 3, shape), tf.float32)
    fused, kept = (normalised(kind(), images) for kind in (FusedBatchNorm, keras.layers.BatchNormalization))
    for one, other in zip(fused, kept, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_fused_batch_normalisation_counts_in_float32_under_mixed_precision(bfloat16_policy):
    images = tf.constant(np.random.default_rng(0).normal(0.5, 3, (4, 16, 16, 3)), tf.bfloat16)
    fused, kept = (normalised(kind(), images)[:5] for kind in (FusedBatchNorm, keras.layers.BatchNormalization))
    np.testing.assert_allclose(tf.cast(fused[0], tf.float32), tf.cast(kept[0], tf.float32), atol=0.04)  # bfloat16's
    for one, other in zip(fused[3:], kept[3:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
