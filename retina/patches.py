"""The grid of patches of the study: images -> patches -> images."""

from collections.abc import Iterable, Sequence
from math import ceil

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def patch_corners(img_resolution: Sequence[int], patch_size: Sequence[int], stride: int = 1) -> np.ndarray:
    """Upper left corners of the study's grid of patches.

    There are ceil(stride * (size - patch) / patch) + 1 patches per axis; the last is shifted to the image's border.

    Args:
        img_resolution: height and width of the image in px.
        patch_size: height and width of a patch in px.
        stride: steps per patch: 1 puts patches side by side, 2 overlaps them by half, 8 by 87.5 %.

    Returns:
        (patches, 2), int: row and column, the row running fastest, as in the published scripts.

    Raises:
        ValueError: the image is smaller than a patch, or the stride is not an integer from 1 to the patch's side.
    """
    if img_resolution[0] < patch_size[0] or img_resolution[1] < patch_size[1]:
        raise ValueError(f"image {tuple(img_resolution[:2])} is smaller than a patch {tuple(patch_size[:2])}")
    if stride != int(stride) or not 1 <= stride <= min(patch_size[:2]):
        raise ValueError(f"stride {stride}: must be a whole number of steps per patch, from 1 to {min(patch_size[:2])}")
    axes = []
    for size, patch in zip(img_resolution[:2], patch_size[:2], strict=True):
        steps = ceil(stride * (size - patch) / patch) + 1
        axes.append(np.minimum(np.arange(steps) * patch // stride, size - patch))
    columns, rows = np.meshgrid(axes[1], axes[0], indexing="ij")
    return np.stack([rows.ravel(), columns.ravel()], axis=1)


def break_img_to_patches(
    img_input: np.ndarray, img_label: np.ndarray | None = None, patch_size: Sequence[int] = (256, 256), stride: int = 1
) -> tuple[np.ndarray, np.ndarray | None]:
    """Cut an image, and its label in the same way, into the study's grid of patches.

    Args:
        img_input: (height, width, channels).
        img_label: (height, width, label channels), or None.
        patch_size: height and width of a patch in px.
        stride: steps per patch, see `patch_corners`.

    Returns:
        (patches, *patch_size, channels), the same of the label or None; dtypes as given.

    Raises:
        ValueError: as `patch_corners`; or the label has another height or width.
    """
    if img_label is not None and img_label.shape[:2] != img_input.shape[:2]:
        raise ValueError(f"image {img_input.shape[:2]} and label {img_label.shape[:2]} differ in size")
    corners = patch_corners(img_input.shape, patch_size, stride)
    patches = cut_at_corners(img_input, corners, patch_size)
    return patches, None if img_label is None else cut_at_corners(img_label, corners, patch_size)


def cut_at_corners(image: np.ndarray, corners: np.ndarray, patch_size: Sequence[int]) -> np.ndarray:
    """Patches (patches, h, w, channels) of an image (height, width, channels) at some of `patch_corners`."""
    rows, columns = corners.T
    windows = sliding_window_view(image, tuple(patch_size[:2]), axis=(0, 1))  # a view: no copy yet
    return np.moveaxis(windows[rows, columns], 1, -1)  # (patches, channels, h, w) -> (patches, h, w, channels)


def put_img_back_from_patches(
    patches: Iterable[np.ndarray], out_img_resolution: Sequence[int], stride: int = 1
) -> np.ndarray:
    """Blend patches of the study's grid back into an image.

    Overlaps are averaged with a smooth window, so that no patch ends abruptly. Patches may come from a generator: only
    the image is kept in memory, however large the overlap.

    Args:
        patches: (h, w, channels) each, in the order of `patch_corners`.
        out_img_resolution: height and width of the image in px.
        stride: steps per patch, as when cutting.

    Returns:
        (height, width, channels), float32, or float64 for patches of float64.

    Raises:
        ValueError: there are too few or too many patches for this image and stride.
    """
    height, width = out_img_resolution[:2]
    total = weight = corners = None
    dtype = np.dtype(np.float32)
    count = 0
    for patch in patches:
        patch = np.asarray(patch)
        if total is None:
            corners = patch_corners((height, width), patch.shape, stride)
            window = blending_window(patch.shape)  # (h, w, 1)
            total, weight = np.zeros((height, width, patch.shape[2])), np.zeros((height, width, 1))
            dtype = np.result_type(patch.dtype, np.float32)
        if count < len(corners):
            row, column = corners[count]
            place = (slice(row, row + patch.shape[0]), slice(column, column + patch.shape[1]))
            total[place] += window * patch
            weight[place] += window
        count += 1
    if total is None or count != len(corners):
        wanted = "at least one" if corners is None else len(corners)
        raise ValueError(f"{count} patches for an image of {height} x {width} px at stride {stride}: expected {wanted}")
    return (total / weight).astype(dtype)


def blending_window(patch_shape: Sequence[int]) -> np.ndarray:
    """Weights (h, w, 1) on (0, 1]: a raised cosine along each axis, nearly 0 at the border, 1 in the middle."""
    axes = [np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2 for size in patch_shape[:2]]
    return (axes[0][:, np.newaxis] * axes[1])[..., np.newaxis]


def reflect_to_patch(image: np.ndarray, patch_size: Sequence[int]) -> np.ndarray:
    """Extend (height, width, channels) by reflection, below and to the right, to at least the size of a patch."""
    return reflect_out(image, [max(0, patch - size) for patch, size in zip(patch_size, image.shape[:2], strict=True)])


def reflect_to_multiple(image: np.ndarray, multiple: int) -> np.ndarray:
    """Extend (height, width, channels) by reflection, below and to the right, until its sides are multiples of this."""
    return reflect_out(image, [-size % multiple for size in image.shape[:2]])


def reflect_out(image: np.ndarray, missing: Sequence[int]) -> np.ndarray:
    """Extend (height, width, channels) by reflection by that many px below and to the right."""
    return np.pad(image, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="reflect") if any(missing) else image
