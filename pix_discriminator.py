"""The discriminator of pix2pix: a PatchGAN that judges fundus and OCT-A together, patch by patch.

The architecture is that of Coronado et al., Sci Rep 2023;13:15325: one level shallower than the 70 x 70 PatchGAN of
Isola et al., CVPR 2017, so that each output sees 34 x 34 px. Importing this module builds nothing.
"""

import keras

from pix_layers import batch_norm, check_patch_dim, downsample, initial_weights


def Discriminator(in_channels: int, out_channels: int, patch_dim: tuple[int, int]) -> keras.Model:
    """Build the PatchGAN.

    Args:
        in_channels: channels of the fundus, 3.
        out_channels: channels of the OCT-A, 1 or 4.
        patch_dim: height and width of a patch in px, multiples of 64.

    Returns:
        A model of [fundus (batch, height, width, in_channels), OCT-A (batch, height, width, out_channels)], float32 on
        [-1, 1], -> logits (batch, height / 4 - 2, width / 4 - 2, 1), float32; large means "real OCT-A".
        2,647,041 parameters at 3 + 4 channels, 2,640,897 at 3 + 1.

    Raises:
        ValueError: a side of the patch is not a multiple of 64.
    """
    check_patch_dim(patch_dim)
    # Shapes are those of a 256 x 256 patch.
    input_image = keras.layers.Input(shape=(*patch_dim, in_channels), name="input_image")  # (batch, 256, 256, 3)
    target = keras.layers.Input(shape=(*patch_dim, out_channels), name="target")  # (batch, 256, 256, out_channels)
    x = keras.layers.Concatenate()([input_image, target])  # (batch, 256, 256, 3 + out_channels)
    x = downsample(128, 4, apply_batchnorm=False)(x)  # (batch, 128, 128, 128)
    x = downsample(256, 4)(x)  # (batch, 64, 64, 256)
    x = keras.layers.ZeroPadding2D()(x)  # (batch, 66, 66, 256)
    x = keras.layers.Conv2D(512, 4, use_bias=False, kernel_initializer=initial_weights())(x)  # (batch, 63, 63, 512)
    x = batch_norm()(x)
    x = keras.layers.LeakyReLU()(x)
    x = keras.layers.ZeroPadding2D()(x)  # (batch, 65, 65, 512)
    logits = keras.layers.Conv2D(
        1,
        4,
        kernel_initializer=initial_weights(),
        dtype="float32",  # in mixed precision too: the losses are computed from these
        name="logits",
    )(x)  # (batch, 62, 62, 1)
    return keras.Model(inputs=[input_image, target], outputs=logits, name="discriminator")
