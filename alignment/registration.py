"""Registration: find each point of a photograph in an OCT-A, by the vessels that a network predicts.

A prediction is exactly aligned with its photograph, so the real OCT-A is registered to the predicted one:

1. Both are reduced to about SIDE x SIDE px and filtered, so that vessels stand out from their surroundings.
2. The best similarity is found among all rotations, scales and shifts within a range.
3. Blocks of the prediction are searched for nearby, and the matches are joined into a smooth displacement. Blocks that
   disagree with their surroundings are corrected as those gain weight (as in Heinrich et al., MICCAI 2014;8673:73).
4. The displacement is refined to fractions of a pixel by Gauss-Newton steps (Lucas and Kanade, IJCAI 1981).

The displacement is a surface of cubic B-splines (Rueckert et al., IEEE TMI 1999;18:712). Costs for bending and
stretching keep it regular where there are no vessels, and along straight ones. It is at most LARGEST px long and free
of folds: the determinant of its Jacobian is at least LEAST_JACOBIAN.

A displacement (2, height, width) contains rows and columns, in px: the photograph's pixel (y, x) lies in the OCT-A at
(y, x) + displacement[:, y, x]. In this file an image at working scale is one that `reduced` returns.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.interpolate import BSpline
from scipy.ndimage import gaussian_filter, map_coordinates

from alignment.search import Masked, find_similarities, rotation
from retina.images import SMOOTH, resized
from retina.similarity import SMOOTHING_SIGMA
from retina.ut_fsocta import CROP_PX
from retina.vessels import smooth

SIDE = 200  # px of a square image at working scale; the lengths below are in its pixels
LARGEST = 25 * SIDE / CROP_PX  # of a displacement
LEAST_JACOBIAN = 0.1
ENTIRELY = 0.99  # of a reduced pixel must lie in the field

# Vessels
DETAIL, SURROUNDINGS, AROUND = 0.5, 5.0, 16.0  # sigmas: of vessels' details, beyond vessels, of varying contrast
COARSE = 1.0  # sigma of the first half of the refinement's steps, which reach farther
FAINTEST, CLEAREST = -2.0, 3.0  # standard deviations: values beyond them are faults of the scan, not vessels

# Similarity, searched for at half the working scale
PAIR_ANGLES = np.deg2rad(np.arange(-4.0, 4.5))
PAIR_SCALES = np.arange(0.94, 1.07, 0.02)
SHIFT = 6  # px at half the working scale

# Displacement
KNOTS = 16  # px between the knots of the splines
BLOCK = 8  # px: side of the blocks whose pixels count as one
REACH = 8  # px: how far from the similarity blocks are searched for
AGREEMENT = (0.0, 0.003, 0.01, 0.03, 0.1)  # per px2, rising: cost for a block to match elsewhere than its surroundings
STIFF_MATCHES = 1.5  # against bending the displacement that joins the matches
BENDING, STRETCHING = 0.2, 0.03  # against both, in the refinement: chosen on displaced simulated retinas
STIFFER = (1, 4, 16, 64)  # factors of these two, tried until there is no fold
STEPS = 8  # of the refinement
OUTLIER = 1.0  # of the difference of two images: beyond it, a pixel counts less


class Fit(NamedTuple):
    """The registration of an OCT-A to a prediction."""

    displacement: np.ndarray  # (2, height, width), float32, px, at working scale
    before: float  # correlation of the two, unregistered
    after: float  # and registered


def reduced(image: np.ndarray) -> np.ndarray:
    """An image (height, width), float on [0, 1], at working scale: float32, of about SIDE^2 px."""
    factor = SIDE / np.sqrt(image.size)
    size = [max(4 * BLOCK, round(side * factor)) for side in image.shape]
    return resized(image.astype(np.float32), size, SMOOTH)


def reduced_eye(prediction: np.ndarray, fov: np.ndarray) -> Masked:
    """A prediction, float on [0, 1], and a field of view, bool, of any (height, width), at working scale.

    Returns:
        `image`: float16 on [0, 1], vessels are bright; `mask`: bool, inside the field. Below this is called an eye.
    """
    return Masked(reduced(prediction).astype(np.float16), reduced(fov) > ENTIRELY)


def fit_all(scan: np.ndarray, eyes: Sequence[Masked]) -> list[Fit]:
    """Register an OCT-A, at working scale, to each of some eyes."""
    return [fit(scan, eye) for eye in eyes]


def fit(scan: np.ndarray, eye: Masked) -> Fit:
    """Register an OCT-A (height, width), float on [0, 1], at working scale, to an eye's prediction of the same size."""
    prediction, fov = eye.image.astype(np.float32), eye.mask
    grid = splines(fov.shape)
    fixed = vessel_contrast(prediction, fov, evenly=False)
    moving = vessel_contrast(scan, np.ones_like(fov), evenly=True)
    similarity = find_similarity(grid, fixed, moving, fov)
    matched = match_blocks(grid, fixed, moving, fov, similarity)
    for stiffness in STIFFER:
        coefficients = matched
        for step in range(STEPS):
            sigma = COARSE if step < STEPS // 2 else 0.0
            coefficients = refine(grid, fixed, moving, fov, coefficients, similarity, stiffness, sigma)
        displacement = limited(grid.displacement(coefficients))
        if jacobian(displacement).min() >= LEAST_JACOBIAN:
            break
    else:
        displacement = limited(grid.displacement(similarity))
    shown = fov & lies_inside(displacement)
    before, after = (correlation(image, prediction, shown) for image in (scan, warp(scan, displacement)))
    return Fit(displacement.astype(np.float32), before, after)


def register(octa: np.ndarray, prediction: np.ndarray, fov: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Register an OCT-A to a prediction, of any (height, width), both float on [0, 1]; `fov` is bool.

    Returns:
        The OCT-A warped, float on [0, 1], and where in the field it shows something: (height, width), bool.
    """
    displacement = enlarged(fit(reduced(octa), reduced_eye(prediction, fov)).displacement, fov.shape)
    return warp(octa, displacement), fov & lies_inside(displacement)


def enlarged(displacement: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A displacement at working scale -> (2, height, width), float32, px, of an image of a shape."""
    factors = np.divide(shape, displacement.shape[1:])
    return np.stack([factor * resized(part, shape, SMOOTH) for part, factor in zip(displacement, factors, strict=True)])


def warp(image: np.ndarray, displacement: np.ndarray, order: int = 1) -> np.ndarray:
    """Warp an image (height, width), float, by a displacement; beyond its border it is continued by mirroring.

    `order` of the interpolating splines: 0 keeps the values of a map, 1 is linear, 3 keeps fine speckle.
    """
    return map_coordinates(image, np.indices(image.shape) + displacement, order=order, mode="mirror")


def lies_inside(displacement: np.ndarray) -> np.ndarray:
    """Which pixels of a photograph the OCT-A shows: (height, width), bool."""
    last = np.reshape(displacement.shape[1:], (2, 1, 1)) - 1
    there = np.indices(displacement.shape[1:]) + displacement
    return ((there >= 0) & (there <= last)).all(axis=0)


def jacobian(displacement: np.ndarray) -> np.ndarray:
    """The determinant of the Jacobian of point -> point + displacement: (height, width); at most 0 in a fold."""
    (yy, yx), (xy, xx) = (np.gradient(part) for part in displacement)
    return (1 + yy) * (1 + xx) - yx * xy


def correlation(scan: np.ndarray, prediction: np.ndarray, mask: np.ndarray) -> float:
    """Pearson's r of two images in a mask, smoothed as for `vessel_agreement`; 0 if one is constant there."""
    sigma = SMOOTHING_SIGMA * np.sqrt(mask.size) / CROP_PX
    one, other = (smooth(image, mask, sigma)[mask] for image in (scan, prediction))
    if one.size < 2 or min(np.ptp(one), np.ptp(other)) < 1e-6:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


# --- images at working scale -----------------------------------------------------------------------------------------


def vessel_contrast(image: np.ndarray, fov: np.ndarray, evenly: bool) -> np.ndarray:
    """How much brighter each pixel is than its surroundings, in standard deviations: (height, width), float32.

    These are of the whole field, or with `evenly` of the area nearby, for a scan whose contrast varies. 0 outside the
    field.
    """
    band = np.where(fov, smooth(image, fov, DETAIL) - smooth(image, fov, SURROUNDINGS), 0.0)
    power = smooth(band**2, fov, AROUND) if evenly else np.sum(band**2) / max(1, fov.sum())
    return np.clip(band / np.sqrt(power + 1e-6), FAINTEST, CLEAREST).astype(np.float32)


def blocks(image: np.ndarray, side: int) -> np.ndarray:
    """Means of an image's blocks of `side` x `side` px, without incomplete ones."""
    height, width = (size // side for size in image.shape)
    return image[: height * side, : width * side].reshape(height, side, width, side).mean(axis=(1, 3))


def limited(displacement: np.ndarray) -> np.ndarray:
    """A displacement with its longest vectors shortened to LARGEST."""
    length = np.hypot(*displacement)
    return displacement * np.minimum(1, LARGEST / (length + 1e-5))  # also after rounding


# --- the displacement's surface --------------------------------------------------------------------------------------


class Splines:
    """Surfaces of cubic B-splines over an image at working scale; a displacement is two, rows and columns.

    Coefficients are (2, knots). Pixel (0, 0) has its middle at (0.5, 0.5).

    at_pixels: the basis functions of each axis at the pixels, (height, knots) and (width, knots).
    at_blocks: all basis functions at the middles of the blocks, (blocks, knots).
    bending, stretching: quadratic forms (knots, knots), mean square of a surface's second derivatives, and of its
        first ones.
    """

    def __init__(self, shape: tuple[int, int]):
        self.shape = shape
        self.knots, self.at_pixels, at_blocks, grams = [], [], [], []
        for size in shape:
            intervals = max(2, round(size / KNOTS))
            spacing = size / intervals
            axis = BSpline(np.arange(-3, intervals + 4) * spacing, np.eye(intervals + 3), 3)
            self.knots.append(np.arange(-1, intervals + 2) * spacing)  # the middle of each basis function
            self.at_pixels.append(axis(np.arange(size) + 0.5))
            at_blocks.append(axis(np.arange(size // BLOCK) * BLOCK + BLOCK / 2))
            places = np.arange(0.125, size, 0.25)
            grams.append([values.T @ values / len(places) for values in (axis.derivative(k)(places) for k in range(3))])
        self.at_blocks = np.kron(*at_blocks)
        (flat, first, second), (flat_x, first_x, second_x) = grams
        self.bending = KNOTS**4 * (np.kron(second, flat_x) + 2 * np.kron(first, first_x) + np.kron(flat, second_x))
        self.stretching = KNOTS**2 * (np.kron(first, flat_x) + np.kron(flat, first_x))

    def displacement(self, coefficients: np.ndarray) -> np.ndarray:
        """(2, height, width), float64, px."""
        rows, columns = self.at_pixels
        return np.stack([rows @ part.reshape(rows.shape[1], -1) @ columns.T for part in coefficients])

    def linear(self, matrix: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """Coefficients of the displacement matrix (2, 2) x (place - middle) + shift (2,): splines contain these."""
        places = np.stack(np.meshgrid(*self.knots, indexing="ij")).reshape(2, -1)
        return matrix @ (places - np.divide(self.shape, 2)[:, np.newaxis]) + shift[:, np.newaxis]


splines = lru_cache(maxsize=4)(Splines)  # those of a shape are made once


def find_similarity(grid: Splines, fixed: np.ndarray, moving: np.ndarray, fov: np.ndarray) -> np.ndarray:
    """Coefficients of the best similarity of two images of `vessel_contrast`, a prediction's and an OCT-A's."""
    inside = blocks(fov.astype(np.float32), 2)
    halved = Masked(blocks(fixed, 2) * inside, inside)
    (found,) = find_similarities([halved], blocks(moving, 2), PAIR_ANGLES, PAIR_SCALES, largest_shift=SHIFT)
    matrix = found.scale * rotation(found.angle)
    shift = (np.array(inside.shape) - 1) / 2 - found.centre
    return grid.linear(matrix - np.eye(2), 2 * matrix @ shift)


def match_blocks(
    grid: Splines, fixed: np.ndarray, moving: np.ndarray, fov: np.ndarray, coefficients: np.ndarray
) -> np.ndarray:
    """Coefficients of the displacement that joins the best matches of all blocks, near a given displacement."""
    labels = np.arange(-REACH, REACH + 1)
    near = np.pad(map_coordinates(moving, np.indices(fov.shape) + grid.displacement(coefficients), order=1), REACH)
    target, height, width = fixed * fov, *fov.shape
    products, powers = [], []
    for down, right in product(labels + REACH, repeat=2):
        shifted = near[down : down + height, right : right + width]
        products.append(blocks(target * shifted, BLOCK))
        powers.append(blocks(fov * shifted**2, BLOCK))
    products, powers = (gaussian_filter(np.stack(part), (0, 1, 1)) for part in (products, powers))
    score = products / np.sqrt(powers + 0.2 * powers.mean() + 1e-6)  # larger where there are vessels to match
    score = score.reshape(len(score), -1)  # (shifts, blocks)
    score /= np.median(score.max(axis=0)) + 1e-6
    shifts = np.stack(np.meshgrid(labels, labels, indexing="ij")).reshape(2, -1, 1)
    at_blocks, bending = grid.at_blocks, grid.bending
    joined = np.zeros((2, score.shape[1]))  # the displacement at the blocks
    for cost in AGREEMENT:
        best = np.argmax(score - cost * np.sum((shifts - joined[:, np.newaxis]) ** 2, axis=0), axis=0)  # (blocks,)
        weight = np.maximum(score[best, np.arange(len(best))], 0) ** 2
        weighted = at_blocks.T * weight / len(weight)  # (knots, blocks)
        form = weighted @ at_blocks + STIFF_MATCHES * bending + 1e-6 * np.eye(len(bending))
        change = np.linalg.solve(form, weighted @ shifts[:, best, 0].T).T  # (2, knots)
        joined = change @ at_blocks.T
    return coefficients + change


def refine(
    grid: Splines,
    fixed: np.ndarray,
    moving: np.ndarray,
    fov: np.ndarray,
    coefficients: np.ndarray,
    similarity: np.ndarray,
    stiffness: float,
    sigma: float,
) -> np.ndarray:
    """Coefficients after a Gauss-Newton step towards the least square of fixed - gain x warped moving image.

    The gain is local. Bending and stretching, beyond the similarity, have a cost.
    """
    target, image = (gaussian_filter(part, sigma) if sigma else part for part in (fixed, moving))
    image = map_coordinates(image, np.indices(fov.shape) + grid.displacement(coefficients), order=1)
    gain = smooth(target * image, fov, SURROUNDINGS) / (smooth(image**2, fov, SURROUNDINGS) + 1e-3)
    image *= np.clip(gain, 0.1, 2)
    down, right = np.gradient(image)
    difference = target - image
    weight = fov / (1 + (difference / OUTLIER) ** 2)
    at_blocks = grid.at_blocks

    def form(*factors: np.ndarray) -> np.ndarray:
        """Weighted means of a product of images by block: (blocks,)."""
        return blocks(weight * np.prod(factors, axis=0), BLOCK).ravel()

    parts = form(down, down), form(down, right), form(right, right)
    yy, yx, xx = ((at_blocks.T * part) @ at_blocks / len(part) for part in parts)
    y, x = (at_blocks.T @ form(slope, difference) / len(at_blocks) for slope in (down, right))
    cost = stiffness * (BENDING * grid.bending + STRETCHING * grid.stretching) * (parts[0].mean() + parts[2].mean())
    cost += 1e-6 * np.eye(len(cost))
    strain = cost @ (coefficients - similarity).T  # (knots, 2)
    whole = np.block([[yy + cost, yx], [yx, xx + cost]])
    return coefficients + np.linalg.solve(whole, np.concatenate([y - strain[:, 0], x - strain[:, 1]])).reshape(2, -1)
