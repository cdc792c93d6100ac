"""Find the similarity transform (rotation, scale, shift) that moves an image onto another one, which may be larger.

Rotations and scales are tried one after another, and for each all shifts at once: the normalised cross-correlation of
the two images where both show something is computed from their Fourier transforms (Padfield, IEEE TIP 2012;21:2706).
Local means are not subtracted, because the images are vessel contrast, whose mean is about 0. Instead, the power of the
fixed image has a baseline, so that nothing matches by chance where the fixed image contains hardly any vessels.

A direction d in the fixed image, row and column, is scale x rotation(angle) x d in the moving one.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import affine_transform

BASELINE = 0.2  # of the mean power of the fixed image


class Masked(NamedTuple):
    """An image and where it shows something."""

    image: np.ndarray  # (height, width), float; of `find_similarities` float32, 0 outside the mask
    mask: np.ndarray  # (height, width), bool, or float32 on [0, 1]

    def mirrored(self) -> list["Masked"]:
        """Left to right, upside down, and rotated by 180 degrees: controls, which match only by chance."""
        ways = np.s_[:, ::-1], np.s_[::-1], np.s_[::-1, ::-1]
        return [Masked(self.image[way], self.mask[way]) for way in ways]

    def spectra(self, size: Sequence[int]) -> np.ndarray:
        """The Fourier transforms of image, squared image and mask, padded with zeros to a size: (3, ...), complex64."""
        return rfft2(np.stack([self.image, self.image**2, self.mask]), size)


class Similarity(NamedTuple):
    """The best position of a moving image in a fixed one."""

    score: float  # correlation of the two; -1 if no shift is allowed
    angle: float  # radians, rows towards columns
    scale: float  # px of the moving image per px of the fixed one
    centre: np.ndarray  # (2,), row and column of the moving image's middle, px of the fixed image


def rotation(angle: float) -> np.ndarray:
    """The matrix (2, 2) that rotates a direction in the fixed image, row and column, to that in the moving one."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def transformed(moving: np.ndarray, angle: float, scale: float, shape: Sequence[int] | None = None) -> Masked:
    """A moving image, rotated and scaled to the fixed one, in a frame with the same middle; by default it fits in."""
    if shape is None:
        shape = np.ceil(np.abs(rotation(angle)) @ moving.shape / scale).astype(int)
    matrix = scale * rotation(angle)
    offset = (np.array(moving.shape) - 1) / 2 - matrix @ (np.array(shape) - 1) / 2
    parts = (affine_transform(part, matrix, offset, tuple(shape), order=1) for part in (moving, np.ones_like(moving)))
    return Masked(*parts)


def find_similarities(
    fixed: Sequence[Masked],
    moving: np.ndarray,
    angles: Sequence[float],
    scales: Sequence[float],
    *,
    least_overlap: float = 0.0,
    largest_shift: float = np.inf,
) -> list[Similarity]:
    """The best similarity of a moving image (height, width), float32, with each of some fixed images of one shape.

    Args:
        least_overlap: share of the moving image that must lie in the mask of the fixed one.
        largest_shift: px, of an image of about the shape of the fixed ones from their middle.
    """
    shape, is_near = fixed[0].mask.shape, largest_shift < np.inf
    pairs = list(product(angles, scales))
    candidates = [transformed(moving, *pair, shape=shape if is_near else None) for pair in pairs]
    border = 2 * largest_shift if is_near else np.max([one.mask.shape for one in candidates], axis=0)
    size = [next_fast_len(int(side), real=True) for side in np.array(shape) + border]
    # Rows and columns of a candidate's first pixel in the fixed image; the last ones are negative
    corners = [np.arange(length) for length in size]
    corners = [np.where(one > side, one - len(one), one) for one, side in zip(corners, shape, strict=True)]
    excluded = np.maximum.outer(*map(np.abs, corners)) > largest_shift
    spectra = [one.spectra(size)[[0, 1, 2, 2]] for one in fixed]
    baselines = [BASELINE * np.sum(one.image**2) / max(1, one.mask.sum()) for one in fixed]

    def best_shifts(candidate: Masked, angle: float, scale: float) -> Iterator[Similarity]:
        """The best of all shifts of a candidate in each fixed image."""
        own, area = np.conj(candidate.spectra(size))[[0, 2, 1, 2]], candidate.mask.sum()
        for spectrum, baseline in zip(spectra, baselines, strict=True):
            products, power, own_power, overlap = irfft2(spectrum * own, size)
            power = np.maximum(power + baseline * area, 1e-3)
            score = products / np.sqrt(power * np.maximum(own_power, 1e-3))
            score[excluded | (overlap < least_overlap * area)] = -1
            row, column = np.unravel_index(np.argmax(score), score.shape)
            corner = np.array([corners[0][row], corners[1][column]])
            centre = corner + (np.array(candidate.mask.shape) - 1) / 2
            yield Similarity(float(score[row, column]), angle, scale, centre)

    found = [best_shifts(candidate, *pair) for candidate, pair in zip(candidates, pairs, strict=True)]
    return [max(of_one, key=lambda one: one.score) for of_one in zip(*found, strict=True)]
