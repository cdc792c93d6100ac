"""The generator of pix2pix: a U-Net that turns fundus patches into OCT-A patches.

The architecture is that of Coronado et al., Sci Rep 2023;13:15325 (after Isola et al., CVPR 2017): six downsampling
and six upsampling steps, skip connections between mirror levels, tanh at the end. Importing this module builds nothing.
"""

import keras

from pix_layers import check_patch_dim, downsample, initial_weights, upsample


def Generator(in_channels: int, patch_dim: tuple[int | None, int | None], out_channels: int) -> keras.Model:
    """Build the U-Net.

    Args:
        in_channels: channels of the fundus, 3.
        patch_dim: height and width of a patch in px, multiples of 64; None allows any such multiple for a side.
        out_channels: channels of the OCT-A, 1 or 4, and one more for a vessel probability p, as 2 p - 1.

    Returns:
        A model (batch, height, width, in_channels) -> (batch, height, width, out_channels), both float32 on [-1, 1].
        29,253,892 parameters at 3 -> 4 channels, 29,247,745 at 3 -> 1, 29,249,794 at 3 -> 2.

    Raises:
        ValueError: a side of the patch is not a multiple of 64.
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
        upsample(512, 4, apply_dropout=True),  # (batch, 8, 8, 512) -> (batch, 8, 8, 1024)
        upsample(512, 4, apply_dropout=True),  # (batch, 16, 16, 512) -> (batch, 16, 16, 1024)
        upsample(256, 4),  # (batch, 32, 32, 256) -> (batch, 32, 32, 512)
        upsample(128, 4),  # (batch, 64, 64, 128) -> (batch, 64, 64, 256)
        upsample(64, 4),  # (batch, 128, 128, 64) -> (batch, 128, 128, 128)
    ]
    last = keras.layers.Conv2DTranspose(
        out_channels,
        4,
        strides=2,
        padding="same",
        kernel_initializer=initial_weights(),
        activation="tanh",
        dtype="float32",  # in mixed precision too: bfloat16 has too few bits for 256 grey levels
        name="gen_output",
    )  # (batch, 256, 256, out_channels)

    x = inputs
    skips = []
    for down in down_stack:
        x = down(x)
        skips.append(x)
    for up, skip in zip(up_stack, reversed(skips[:-1]), strict=True):
        x = keras.layers.Concatenate()([up(x), skip])
    return keras.Model(inputs=inputs, outputs=last(x), name="generator")
