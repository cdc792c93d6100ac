"""The generator of pix2pix: a U-Net that turns fundus patches into OCT-A patches.

The architecture is that of Coronado et al., Sci Rep 2023;13:15325 (after Isola et al., CVPR 2017): six halvings, six
doublings, skip connections between mirror levels, tanh at the end. Importing this module builds nothing.
"""

import keras
import tensorflow as tf

from pix_settings import SIZE_MULTIPLE, UPSAMPLING


def downsample(filters: int, size: int, apply_batchnorm: bool = True) -> keras.Sequential:
    """Halve height and width: convolution (stride 2, no bias), batch norm if asked for, LeakyReLU.

    Args:
        filters: channels that come out.
        size: edge of the square kernel, in px.
        apply_batchnorm: False leaves the norm layer out, as in the first block of both networks.

    Returns:
        A block (batch, height, width, channels) -> (batch, height / 2, width / 2, filters).
    """
    block = keras.Sequential()
    block.add(
        keras.layers.Conv2D(
            filters, size, strides=2, padding="same", use_bias=False, kernel_initializer=initial_weights()
        )
    )
    if apply_batchnorm:
        block.add(batch_norm())
    block.add(keras.layers.LeakyReLU())  # Keras' default slope, 0.3: the study's
    return block


def upsample(filters: int, size: int, apply_dropout: bool = False, upsampling: str = "transposed") -> keras.Sequential:
    """Double height and width (`doubling`, no bias), then batch norm, dropout if asked for, ReLU.

    Args:
        filters: channels that come out.
        size: edge of the square kernel, in px.
        apply_dropout: True drops half of the activations in training.
        upsampling: one of UPSAMPLING.

    Returns:
        A block (batch, height, width, channels) -> (batch, 2 * height, 2 * width, filters).
    """
    block = keras.Sequential()
    for layer in doubling(filters, size, upsampling, use_bias=False):
        block.add(layer)
    block.add(batch_norm())
    if apply_dropout:
        block.add(Dropout(0.5))
    block.add(keras.layers.ReLU())
    return block


def doubling(filters: int, size: int, upsampling: str, **options) -> list[keras.layers.Layer]:
    """The layers that double height and width.

    `transposed` is the study's transposed convolution of stride 2, `size` px wide. `resize` repeats each pixel and then
    convolves, one px narrower (Odena et al., Distill 2016, doi 10.23915/distill.00003): the four pixels that come of
    one share their weights, so they can't differ in a pattern of their own.

    Raises:
        ValueError: another `upsampling`.
    """
    if upsampling == "transposed":
        convolution = keras.layers.Conv2DTranspose(
            filters, size, strides=2, padding="same", kernel_initializer=initial_weights(), **options
        )
        return [convolution]
    if upsampling != "resize":
        raise ValueError(f"upsampling must be one of {', '.join(UPSAMPLING)}, not {upsampling!r}")
    convolution = keras.layers.Conv2D(
        filters, size - 1, padding="same", kernel_initializer=initial_weights(), **options
    )
    return [keras.layers.UpSampling2D(interpolation="nearest"), convolution]


def Generator(
    in_channels: int, patch_dim: tuple[int | None, int | None], out_channels: int, upsampling: str = "transposed"
) -> keras.Model:
    """Build the U-Net.

    Args:
        in_channels: channels of the fundus, 3.
        patch_dim: height and width of a patch in px, multiples of 64; None leaves a side free, for images of any size
            whose sides are such multiples.
        out_channels: channels of the OCT-A, 1 or 4.
        upsampling: how to double, see `doubling`.

    Returns:
        A model (batch, height, width, in_channels) -> (batch, height, width, out_channels), both float32 on [-1, 1].
        29,253,892 parameters at 3 -> 4 channels, 29,247,745 at 3 -> 1; with `resize` 21,336,836 and
        21,333,377.

    Raises:
        ValueError: a side of the patch is no multiple of 64, or another `upsampling`.
    """
    check_patch_dim(patch_dim)
    # Shapes are those of a 256 x 256 patch.
    inputs = keras.layers.Input(shape=(*patch_dim, in_channels), name="input_image")  # (batch, 256, 256, 3)
    down_stack = [
        downsample(64, 4, apply_batchnorm=False),  # (batch, 128, 128, 64)
        downsample(128, 4),  # (batch, 64, 64, 128)
        downsample(256, 4),  # (batch, 32, 32, 256)
        downsample(512, 4),  # (batch, 16, 16, 512)
        downsample(512, 4),  # (batch, 8, 8, 512)
        downsample(512, 4),  # (batch, 4, 4, 512)
    ]
    up_stack = [  # before -> after concatenation with the mirror level
        upsample(512, 4, True, upsampling),  # (batch, 8, 8, 512) -> (batch, 8, 8, 1024)
        upsample(512, 4, True, upsampling),  # (batch, 16, 16, 512) -> (batch, 16, 16, 1024)
        upsample(256, 4, False, upsampling),  # (batch, 32, 32, 256) -> (batch, 32, 32, 512)
        upsample(128, 4, False, upsampling),  # (batch, 64, 64, 128) -> (batch, 64, 64, 256)
        upsample(64, 4, False, upsampling),  # (batch, 128, 128, 64) -> (batch, 128, 128, 128)
    ]
    last = doubling(
        out_channels,
        4,
        upsampling,
        activation="tanh",
        dtype="float32",  # in mixed precision too: half a byte of OCT-A is lost in bfloat16's eight bits
        name="gen_output",
    )  # (batch, 256, 256, out_channels)

    x = inputs
    skips = []
    for down in down_stack:
        x = down(x)
        skips.append(x)
    for up, skip in zip(up_stack, reversed(skips[:-1]), strict=True):
        x = keras.layers.Concatenate()([up(x), skip])
    for layer in last:
        x = layer(x)
    return keras.Model(inputs=inputs, outputs=x, name="generator")


@keras.saving.register_keras_serializable("pix_generator")
class FusedBatchNorm(keras.layers.BatchNormalization):
    """Keras' norm layer, computed by TensorFlow's fused kernel: Keras 3 makes a dozen passes over the images instead.

    Over images (batch, height, width, channels) alone, by their last axis, on one device.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: None = None) -> tf.Tensor:
        """Normalise by the batch's mean and variance, which move the averages; or by the averages, if not in training.

        Args:
            inputs: (batch, height, width, channels), any floating type; statistics are float32.
            training: whether the batch's own statistics are taken.
            mask: Keras hands it on; images have none.

        Returns:
            Shape and type of `inputs`.
        """
        scale, offset, mean, variance = map(
            tf.convert_to_tensor, (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        averages = {} if training else {"mean": mean, "variance": variance}
        outputs, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, scale, offset, epsilon=self.epsilon, is_training=bool(training), **averages
        )
        if training:
            count = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], batch_variance.dtype)
            batch_variance *= tf.maximum(count - 1, 1) / count  # the kernel's divides by count - 1, Keras' by count
            share = 1 - self.momentum
            self.moving_mean.assign(mean + share * (batch_mean - mean))
            self.moving_variance.assign(variance + share * (batch_variance - variance))
        return outputs


@keras.saving.register_keras_serializable("pix_generator")
class Dropout(keras.layers.Dropout):
    """Keras' dropout, but each device has masks of its own: Keras draws the same on all."""

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Set a share `rate` of the inputs to 0, and scale up the others; in training alone."""
        if not training or not self.rate:
            return inputs
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        seed += [tf.distribute.get_replica_context().replica_id_in_sync_group, 0]
        return tf.nn.experimental.stateless_dropout(inputs, self.rate, seed)


def batch_norm() -> keras.layers.Layer:
    """A norm layer over the whole batch, on however many devices it lies: so a run is the same on one and on many."""
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return keras.layers.BatchNormalization(synchronized=True)
    return FusedBatchNorm()


def initial_weights() -> keras.initializers.Initializer:
    """Weights of both networks start from N(0, 0.02)."""
    return keras.initializers.RandomNormal(mean=0.0, stddev=0.02)


def check_patch_dim(patch_dim: tuple[int | None, int | None]) -> None:
    """Raise ValueError unless height and width, in px, are positive multiples of 64, or None for a free side."""
    if any(side is not None and (side < SIZE_MULTIPLE or side % SIZE_MULTIPLE) for side in patch_dim):
        raise ValueError(f"patch of {patch_dim[0]} x {patch_dim[1]} px: sides must be multiples of {SIZE_MULTIPLE} px")
