"""The losses of both networks, as in the study: of the generator and of the discriminator."""

import tensorflow as tf

LAMBDA_VESSELS = 20.0  # weight of `vessel_loss` in the generator's
UNKNOWN = -3.0  # in place of drawn vessels: those of a real pair
LEAST = 1e-6  # probability, so that its logarithm is finite
GRID_PX = 16  # the last four transposed convolutions, each of stride 2, can leave patterns with periods of 2 to 16 px


def generator_loss(
    disc_generated_output: tf.Tensor, gen_output: tf.Tensor, target: tf.Tensor, lambda_l1: float, l1_scale: int = 1
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """How far the generator is from fooling the discriminator and from the target (Isola et al., CVPR 2017, eq. 4).

    Args:
        disc_generated_output: (batch, h, w, 1), logits for generated images.
        gen_output, target: (batch, height, width, channels), [-1, 1].
        lambda_l1, l1_scale: weight of the mean absolute error, and its scale, see `l1_loss`.

    Returns:
        Three scalars: the total, the adversarial term (cross-entropy with "real") and the mean absolute error.
    """
    gan_loss = cross_entropy(1.0, disc_generated_output)
    gen_l1_loss = l1_loss(gen_output, target, l1_scale)
    return gan_loss + lambda_l1 * gen_l1_loss, gan_loss, gen_l1_loss


def l1_loss(gen_output: tf.Tensor, target: tf.Tensor, l1_scale: int = 1) -> tf.Tensor:
    """Mean absolute error of images (batch, height, width, channels), [-1, 1], averaged over l1_scale x l1_scale px.

    A photograph does not show where speckle is, so pixel by pixel the best prediction has none. After averaging, any
    speckle with the right mean scores equally well. The cheapest would be a grid with the stride of the transposed
    convolutions; so above 1 the error of the mean tile is added, in which speckle averages out but a grid does not.
    """
    difference = target - gen_output
    if l1_scale == 1:
        return tf.reduce_mean(tf.abs(difference))
    averages = tf.nn.avg_pool2d(difference, l1_scale, strides=1, padding="VALID")
    return tf.reduce_mean(tf.abs(averages)) + tf.reduce_mean(tf.abs(mean_tile(difference)))


def mean_tile(images: tf.Tensor) -> tf.Tensor:
    """The mean of all tiles of 16 x 16 px of each image (batch, height, width, channels): (batch, 16, 16, channels)."""
    batch, height, width, channels = tf.unstack(tf.shape(images))
    tiles = tf.reshape(images, (batch, height // GRID_PX, GRID_PX, width // GRID_PX, GRID_PX, channels))
    return tf.reduce_mean(tiles, axis=(1, 3))


def vessel_loss(gen_vessels: tf.Tensor, vessels: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy of a vessel probability p = (gen_vessels + 1) / 2 with the drawn vessels, over known pixels.

    Args:
        gen_vessels: (batch, height, width, 1), [-1, 1], the generator's last channel.
        vessels: (batch, height, width, 1): how likely somebody would draw a vessel, as 2 q - 1, or UNKNOWN.
    """
    known = tf.cast(vessels >= -1, tf.float32)
    drawn, found = (vessels + 1) / 2, (gen_vessels + 1) / 2
    entropy = -(drawn * tf.math.log(found + LEAST) + (1 - drawn) * tf.math.log(1 - found + LEAST))
    return tf.math.divide_no_nan(tf.reduce_sum(known * entropy), tf.reduce_sum(known))


def discriminator_loss(disc_real_output: tf.Tensor, disc_generated_output: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of the discriminator's logits (batch, h, w, 1) with "real" and "generated"; summed, not halved."""
    return cross_entropy(1.0, disc_real_output) + cross_entropy(0.0, disc_generated_output)


def cross_entropy(label: float, logits: tf.Tensor) -> tf.Tensor:
    """Mean binary cross-entropy of logits with one label for all."""
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), label), logits))
