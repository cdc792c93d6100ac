"""Building blocks of both networks: down- and upsampling, fused batch normalisation, dropout."""

from collections.abc import Iterator

import keras
import tensorflow as tf

SIZE_MULTIPLE = 2**6  # px: the generator downsamples six times


def downsample(filters: int, size: int, apply_batchnorm: bool = True) -> keras.Sequential:
    """Halve height and width: convolution (stride 2, no bias), batch normalisation if asked for, LeakyReLU.

    Args:
        filters: output channels.
        size: edge of the square kernel, in px.
        apply_batchnorm: False omits batch normalisation, as in the first block of both networks.

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
    block.add(keras.layers.LeakyReLU())  # Keras' default slope, 0.3, as published
    return block


def upsample(filters: int, size: int, apply_dropout: bool = False) -> keras.Sequential:
    """Double height and width: transposed convolution (stride 2, no bias), batch normalisation, dropout, ReLU.

    Args:
        filters: output channels.
        size: edge of the square kernel, in px.
        apply_dropout: True drops half of the activations in training.

    Returns:
        A block (batch, height, width, channels) -> (batch, 2 * height, 2 * width, filters).
    """
    block = keras.Sequential()
    block.add(
        keras.layers.Conv2DTranspose(
            filters, size, strides=2, padding="same", use_bias=False, kernel_initializer=initial_weights()
        )
    )
    block.add(batch_norm())
    if apply_dropout:
        block.add(Dropout(0.5))
    block.add(keras.layers.ReLU())
    return block


@keras.saving.register_keras_serializable("pix_layers")
class FusedBatchNorm(keras.layers.BatchNormalization):
    """Keras' batch normalisation with TensorFlow's fused kernel; that of Keras 3 reads the images a dozen times.

    For images (batch, height, width, channels), over the last axis, on one device.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: None = None) -> tf.Tensor:
        """In training, normalise with the batch's statistics and update the moving ones; otherwise use the moving ones.

        Args:
            inputs: (batch, height, width, channels), any floating type; statistics are float32.
            training: whether to use the batch's own statistics.
            mask: Keras passes it on; images have none.

        Returns:
            Shape and type of `inputs`.
        """
        scale, offset, mean, variance = map(
            tf.convert_to_tensor, (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        moving = {} if training else {"mean": mean, "variance": variance}
        outputs, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, scale, offset, epsilon=self.epsilon, is_training=bool(training), **moving
        )
        if training:
            count = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], batch_variance.dtype)
            batch_variance *= tf.maximum(count - 1, 1) / count  # the kernel divides by count - 1, Keras by count
            share = 1 - self.momentum
            self.moving_mean.assign(mean + share * (batch_mean - mean))
            self.moving_variance.assign(variance + share * (batch_variance - variance))
        return outputs


@keras.saving.register_keras_serializable("pix_layers")
class Dropout(keras.layers.Dropout):
    """Keras' dropout, but each device draws its own masks; Keras draws the same ones on all devices."""

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """In training set a share `rate` of the inputs to 0 and scale up the others."""
        if not training or not self.rate:
            return inputs
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        seed += [tf.distribute.get_replica_context().replica_id_in_sync_group, 0]
        return tf.nn.experimental.stateless_dropout(inputs, self.rate, seed)


def batch_norm() -> keras.layers.Layer:
    """Batch normalisation over the whole batch, so a run gives the same result on one device or several."""
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return keras.layers.BatchNormalization(synchronized=True)
    return FusedBatchNorm()


def initial_weights() -> keras.initializers.Initializer:
    """The initial weights of both networks: N(0, 0.02)."""
    return keras.initializers.RandomNormal(mean=0.0, stddev=0.02)


def check_patch_dim(patch_dim: tuple[int | None, int | None]) -> None:
    """Raise ValueError unless height and width, in px, are positive multiples of 64, or None for a free side."""
    if any(side is not None and (side < SIZE_MULTIPLE or side % SIZE_MULTIPLE) for side in patch_dim):
        raise ValueError(f"patch of {patch_dim[0]} x {patch_dim[1]} px: sides must be multiples of {SIZE_MULTIPLE} px")


def layers_of(model: keras.Model, kind: type | tuple[type, ...] = keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """All layers of one kind, including those nested in blocks and custom layers."""
    return (layer for layer in model._flatten_layers(include_self=False) if isinstance(layer, kind))
