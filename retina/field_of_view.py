"""The field of view of a fundus photograph: the ellipse, perhaps with flat sides, in which the retina shows.

Around it lie the surroundings: black, grey, white or tinted, perhaps noisy, with letters or a mark at the rim. A
threshold mistakes grey surroundings for retina, and dark retina for surroundings. This module fits the field's shape to
the edges instead:

1. Reduce the photograph, subtract the surroundings' colour, and find the edges of what is left.
2. Put circles and ellipses through random points of the edges. A round field becomes an ellipse if the photograph is
   resized to a square, or if its pixels are not square.
3. Cut flat sides from the best. Add the convex hulls of what is brighter than the surroundings, for other shapes.
4. Take the outline of which most lies on edges, and move it to the border in the full photograph.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from PIL import Image, ImageFilter
from scipy.ndimage import binary_opening, gaussian_filter, gaussian_filter1d, label, median_filter, uniform_filter
from skimage.feature import canny
from skimage.measure import find_contours
from skimage.morphology import convex_hull_image

DEGREES = 45  # of a field of view, unless specified
FIELD_MM = 13.2  # diameter of a field of 45 degrees on the retina of an average eye

ENTIRELY_DARK = "is entirely dark; remove it, or replace it with the right photograph"
MIN_BRIGHT = 0.01  # share of pixels; a photograph with fewer shows nothing
DARK = 15  # brightest channel, of 255: a pixel that is not brighter shows nothing
NOISE_PX = 5  # side of the squares over which it is averaged, so that single bright pixels on black are no photograph
SMALLEST_SIDE = 24  # px; a smaller image counts as all field
REDUCED_SIDE, COARSE = 400, 4  # px, at most, of the reduced photograph, in which lengths are given; its own reduction

# Surroundings, and the edges of the field
FLAT, MARGIN = 4, 12  # grey levels by which uniform surroundings vary, and those that a camera shows on black
MIN_FLAT = 0.7  # of what varies by less than MARGIN: so much of uniform surroundings varies by less than FLAT
MIN_SURROUNDINGS = 0.02  # of the image's area
BRIGHTEST = 64  # difference from the surroundings' colour, in the channel where it is largest, outside an edge
SIGMA = 1.2  # px
WEAK, STRONG = 1.5, 3.0  # grey levels per px, of a part of an edge, and of the best part of it
ALIGNED = 0.9  # cosine of the largest angle between an edge's gradient and the normal of an outline on it

# Outlines
DRAWN, TRIED, FITTED, BEST = 8000, 500, 4, 3  # sets of points; those that may be a field; fitted; cut
SMALLEST_FIELD, LARGEST_RADIUS, MOST_STRETCH = 0.04, 5.0, 1.8  # of the image's area, and of its longer side; ratio
UPRIGHT, CIRCLE = np.eye(4), np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]])  # what a fit may change, in columns
FEWEST = 8  # points of a fit
DEEPEST_SIDE = 0.35  # of the radius: flat sides lie farther from the centre
LEVELS, MIN_CONVEX = (15, 60), 0.9  # above the surroundings, of what a hull is put around; share of it that is above

# Worth of 1 px of an outline: on an edge; on none, as where dark retina meets the border; with another colour outside
ON_EDGE, UNSEEN, CONTRADICTED = 1.0, -0.2, -1.0
MIN_QUALITY = 0.45  # worth per px; real borders have 0.6 and more
HULL = 0.8  # factor of the worth of a shape that can adapt more than an ellipse
MIN_WORTH = 0.22  # of the longer side; shorter borders cut off less than 3 % of the image
SMALL_FIELD = 0.2  # of the image's area; the image's corners show the surroundings of a smaller one
MIN_UNIFORM = 0.75  # share of surroundings that varies by less than twice FLAT, or MARGIN if they are black

# In the full photograph
EDGE = 0.2  # the field ends where the colour has gone 80 % of the way to the border's: a soft rim belongs to it
MIN_STEP = 6  # grey levels between retina and border where the border is seen
ROUND = 0.015  # stretch that may be a fit's error, as may SURE times its standard error
SURE, CORRELATED = 6, 20  # so many neighbouring points are off by the same
MIN_ELLIPTIC = 0.995  # share of a hull within the ellipse that has its moments, if it is one


@dataclass(frozen=True)
class Field:
    """The field of view.

    mask: (height, width) bool, True inside. centre: (row, column) in px, and radii in px, vertical and horizontal, of
    the ellipse around the field; None if no round border is seen. The radii are equal for a round field. They are also
    equal, the mean, for a tilted ellipse: no resizing makes one.
    """

    mask: np.ndarray
    centre: tuple[float, float] | None = None
    radii: tuple[float, float] | None = None

    @property
    def stretch(self) -> float:
        """The photograph's horizontal scale / its vertical scale; exactly 1 if they agree, or if it is unknown."""
        return 1.0 if self.radii is None else self.radii[1] / self.radii[0]

    def diameter(self, degrees: float | None = None) -> float | None:
        """The larger diameter in px that a field of 45 degrees has if this one has `degrees` (45); None: unknown."""
        return None if self.radii is None else 2 * max(self.radii) * DEGREES / (degrees or DEGREES)


@dataclass(frozen=True)
class Outline:
    """A field's shape: an ellipse, centre (2,) and radii (2,), between flat sides: (2,) top and left, bottom and right.

    hull: (n, 2), points of another convex shape, instead; its radii are nan unless it is a tilted ellipse.
    """

    centre: np.ndarray
    radii: np.ndarray
    low: Sequence[float] = (-np.inf, -np.inf)
    high: Sequence[float] = (np.inf, np.inf)
    hull: np.ndarray | None = None

    def points(self, spacing: float) -> np.ndarray:
        """Points (n, 2) around the field, `spacing` px apart or nearer; of a hull, its own."""
        if self.hull is not None:
            return self.hull
        angles = np.linspace(0, 2 * np.pi, int(2 * np.pi * max(self.radii) / spacing) + 8, endpoint=False)
        unit = np.stack([np.sin(angles), np.cos(angles)], axis=1)
        return np.clip(self.centre + self.radii * unit, self.low, self.high)

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """The inside, (height, width), bool."""
        rows, columns = np.ogrid[: size[0], : size[1]]
        if self.hull is not None:
            hull = np.roll(self.hull, -self.hull[:, 0].argmin(), axis=0)  # down one side, and up the other
            bottom = hull[:, 0].argmax()
            chains = hull[: bottom + 1], np.append(hull[bottom:], hull[:1], axis=0)[::-1]
            ends = np.stack([np.interp(rows, np.maximum.accumulate(chain[:, 0]), chain[:, 1]) for chain in chains])
            shown = (rows >= hull[0, 0]) & (rows <= hull[bottom, 0])
            return shown & (columns >= ends.min(axis=0)) & (columns <= ends.max(axis=0))
        (top, left), (bottom, right) = self.low, self.high
        inside = (rows >= top) & (rows <= bottom) & (columns >= left) & (columns <= right)
        y, x = ((places - c) / r for places, c, r in zip((rows, columns), self.centre, self.radii, strict=True))
        return inside & (y**2 + x**2 <= 1)


@dataclass(frozen=True)
class Edges:
    """What outlines are fitted to: light (h, w), the difference of colours (h, w, 3) from the surroundings'; whether a
    pixel is on an edge (h, w); the direction of its gradient (h, w, 2), a unit vector."""

    colours: np.ndarray
    light: np.ndarray
    edge: np.ndarray
    direction: np.ndarray


def find_field(fundus: np.ndarray) -> Field:
    """Find the field of view.

    Args:
        fundus: (height, width, 3), uint8, any size.

    Returns:
        The field; its mask is all True if the photograph shows no border, all False if it is entirely dark. The
        result depends only on the pixels.
    """
    size = height, width = fundus.shape[:2]
    brightness = fundus[:: max(1, height // 500), :: max(1, width // 500)].max(axis=-1)
    bright = uniform_filter(brightness.astype(np.float32), NOISE_PX) > DARK
    if bright.mean() < MIN_BRIGHT:
        return Field(np.zeros(size, bool))
    scale = -(-max(size) // REDUCED_SIDE)
    reduced = Image.fromarray(fundus).reduce(scale).filter(ImageFilter.MedianFilter(3))
    outline = search(reduced) if min(size) >= SMALLEST_SIDE else None
    if outline is None:
        return Field(np.ones(size, bool))
    outline = refine(fundus, outline, scale)
    ellipse = () if np.isnan(outline.radii[0]) else (outline.centre, outline.radii)
    return Field(outline.mask(size), *(tuple(map(float, pair)) for pair in ellipse))


def field_of_mask(mask: np.ndarray) -> Field:
    """The field of a mask (height, width), bool, which is kept; without centre and radii if it is not round."""
    found = find_field(np.repeat(np.uint8(255) * mask[..., np.newaxis], 3, axis=-1))
    return replace(found, mask=mask) if (found.mask & mask).sum() > 0.95 * (found.mask | mask).sum() else Field(mask)


def field_of_view(fundus: np.ndarray) -> np.ndarray:
    """Where a fundus photograph (height, width, 3), uint8, shows the eye and not the camera's border: bool."""
    return find_field(fundus).mask


def field_to_use(fundus: np.ndarray, fov_mask: bool) -> Field:
    """The field of view, where predictions are made and scored; without `fov_mask` its mask is True everywhere."""
    field = find_field(fundus)
    return field if fov_mask else replace(field, mask=np.ones_like(field.mask))


# --- reduced photograph -> outline -----------------------------------------------------------------------------------


def search(photograph: Image.Image) -> Outline | None:
    """The best outline in the reduced photograph, in its px; None if it shows no border."""
    image = np.asarray(photograph, np.float32)
    for colour in surroundings(np.asarray(photograph.reduce(COARSE), np.float32)):
        edges, best, best_worth = find_edges(abs(image - colour)), None, MIN_WORTH * max(image.shape)
        for outline in chain(propose(edges), find_hulls(edges.light)):
            worth, quality = rate(edges, outline)
            worth *= quality * (1 if outline.hull is None else HULL)
            if worth > best_worth and quality > MIN_QUALITY and is_plausible(edges, outline, colour.any()):
                best, best_worth = outline, worth
        if best is not None:
            return best
    return None


def surroundings(coarse: np.ndarray) -> list[np.ndarray]:
    """Colours (3,) that may surround the field: that of a corner, if much of the image has it, and black."""
    corners = coarse[[0, 0, -1, -1], [0, -1, 0, -1]]
    shares = [[(abs(coarse - corner).max(axis=-1) < by).mean() for by in (FLAT, MARGIN)] for corner in corners]
    (flat, near), corner = max(zip(shares, corners, strict=True), key=lambda pair: pair[0][0])
    is_uniform = flat > max(MIN_SURROUNDINGS, MIN_FLAT * near) and corner.max() > DARK
    return [corner, np.zeros(3)] if is_uniform else [np.zeros(3)]


def find_edges(colours: np.ndarray) -> Edges:
    """The edges of an image (h, w, 3), float, that have about the surroundings' colour, black, on one side."""
    light = colours.max(axis=-1).astype(np.float32)
    direction = np.stack([gaussian_filter(light, SIGMA, order=order) for order in ((1, 0), (0, 1))], axis=-1)
    direction /= np.maximum(np.hypot(direction[..., 0], direction[..., 1]), 1e-6)[..., np.newaxis]
    edge = canny(light, SIGMA, 8 * WEAK, 8 * STRONG)  # its gradient is Sobel's, 8 times as large
    places = np.argwhere(edge)
    beside = [at(light, places + px * direction[edge]) for px in (-3, 3)]
    edge[tuple(places[np.minimum(*beside) > BRIGHTEST].T)] = False
    return Edges(colours, light, edge, direction)


def propose(edges: Edges) -> Iterator[Outline]:
    """Circles and ellipses that edges suggest, with flat sides."""
    size, found, random = np.array(edges.edge.shape), [], np.random.default_rng(0)
    points, directions = np.argwhere(edges.edge).astype(float), edges.direction[edges.edge]
    if len(points) < FEWEST:
        return
    middle, scale = points.mean(axis=0), np.ptp(points, axis=0).max()
    places = (points - middle) / scale
    some = slice(None, None, -(-len(points) // 300))
    for terms in (CIRCLE, UPRIGHT):
        # c y + d x + a y^2 + b x^2 = 1; the noise is so small that it only makes sets of equal points solvable
        drawn = random.integers(len(points), size=(DRAWN, terms.shape[1]))
        equations = (np.hstack([places, places**2]) @ terms)[drawn]
        equations += 1e-6 * random.standard_normal(equations.shape)
        solved = np.linalg.solve(equations, np.ones((*drawn.shape, 1)))[..., 0] @ terms.T
        linear, square = solved[:, :2], solved[:, 2:]
        with np.errstate(all="ignore"):  # other conics give nan
            centres = -linear / square / 2
            radii = np.sqrt((1 + (square * centres**2).sum(axis=1, keepdims=True)) / square) * scale
        usable = np.flatnonzero(is_field(radii, size))[:TRIED]
        centres, radii = centres[usable] * scale + middle, radii[usable]
        distance, normal, _ = distances(points[some], centres[:, np.newaxis], radii[:, np.newaxis])
        near = (abs(distance) < 1.5) & (abs((normal * directions[some]).sum(axis=-1)) > ALIGNED)  # (ellipses, points)
        for _ in range(min(FITTED, len(near))):
            best = near.sum(axis=1).argmax()
            near &= ~near[best]  # the next one is to explain other points
            outline, error = fit(points, Outline(centres[best], radii[best]), terms, (5, 3, 1.5), directions)
            if is_field(outline.radii, size) and abs(np.log(np.divide(*outline.radii))) >= SURE * error:
                found.append(outline)
    found.sort(key=lambda outline: -rate(edges, outline)[0])
    yield from (cut_sides(edges, outline) for outline in found[:BEST])


def is_field(radii: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Whether ellipses with radii (..., 2) may surround the field in an image of this size (2,)."""
    low, high = radii.min(axis=-1), radii.max(axis=-1)
    large = np.pi * low * high > SMALLEST_FIELD * np.prod(size)
    return large & (high < np.minimum(LARGEST_RADIUS * np.max(size), MOST_STRETCH * low))


def distances(points: np.ndarray, centre: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far points (..., 2) lie outside ellipses, to first order; the normal there; the same on the unit circle."""
    unit = (points - centre) / radii
    length = np.maximum(np.hypot(unit[..., 0], unit[..., 1]), 1e-6)[..., np.newaxis]
    unit /= length
    steep = np.hypot(*np.moveaxis(unit / radii, -1, 0))[..., np.newaxis]
    return ((length - 1) / steep)[..., 0], unit / radii / steep, unit


def fit(points, outline: Outline, terms, reaches, directions=None) -> tuple[Outline, float]:
    """Move an ellipse to the points (n, 2) nearer to it than each reach in turn, by least squares; only to those
    to which it is normal if `directions` (n, 2) are given. Returns also the standard error of its stretch."""
    centre, radii, error = outline.centre, outline.radii, np.inf
    for reach in np.repeat(reaches, 2):
        distance, normal, unit = distances(points, centre, radii)
        near = abs(distance) < reach
        if directions is not None:
            near &= abs((normal * directions).sum(axis=1)) > ALIGNED
        if near.sum() < FEWEST:
            break
        equations, distance = np.hstack([normal, normal * unit])[near] @ terms, distance[near]
        inverse = np.linalg.pinv(equations.T @ equations, rcond=1e-12, hermitian=True)
        move = inverse @ (equations.T @ distance)  # Gauss-Newton
        slope = np.append([0, 0], [-1, 1] / radii) @ terms
        error = np.sqrt(CORRELATED * np.mean((distance - equations @ move) ** 2) * (slope @ inverse @ slope))
        move = terms @ move
        if (radii + move[2:]).min() < 2:
            break
        centre, radii = centre + move[:2], radii + move[2:]
    return replace(outline, centre=centre, radii=radii), error


def cut_sides(edges: Edges, outline: Outline) -> Outline:
    """Give an ellipse the flat sides that raise its worth: each where most of the edge inside is level or upright."""
    points, directions = np.argwhere(edges.edge), abs(edges.direction[edges.edge])
    inside = distances(points, outline.centre, outline.radii)[0] < -2
    worth = rate(edges, outline)[0]
    for axis in (0, 1):
        depth = points[:, axis] - outline.centre[axis]
        for end, sign in (("low", -1), ("high", 1)):
            used = inside & (directions[:, axis] > ALIGNED) & (sign * depth > DEEPEST_SIDE * outline.radii[axis])
            counts = np.convolve(np.bincount(points[used, axis], minlength=3), np.ones(3), "same")
            row = counts.argmax()
            if counts[row] < FEWEST:
                continue
            side = np.array(getattr(outline, end))
            side[axis] = row
            cut = replace(outline, **{end: side})
            if (cut_worth := rate(edges, cut)[0]) > worth:
                outline, worth = cut, cut_worth
    return outline


def find_hulls(light: np.ndarray) -> Iterator[Outline]:
    """Convex hulls of the largest part of an image (h, w) that is brighter than each of LEVELS."""
    light = gaussian_filter(light, 1)
    for level in LEVELS:
        parts, _ = label(binary_opening(light > level, iterations=2))
        part = parts == np.bincount(parts.ravel(), minlength=2)[1:].argmax() + 1
        if part.mean() > SMALLEST_FIELD:
            hull = convex_hull_image(np.pad(part, 3, mode="edge"))  # padded: the image's frame is no outline
            if part.sum() > MIN_CONVEX * hull[3:-3, 3:-3].sum():
                points = find_contours(gaussian_filter(np.pad(hull, 1).astype(float), 1), 0.7)[0][:-1] - 4
                yield Outline(points.mean(axis=0), np.full(2, np.nan), hull=points)


def at(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values (h, w, ...) at the pixels nearest to points (..., 2), the image's border repeated outside."""
    rows, columns = np.moveaxis(np.rint(points).astype(int), -1, 0)
    return values[rows.clip(0, values.shape[0] - 1), columns.clip(0, values.shape[1] - 1)]


def trace(outline: Outline, size, spacing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points (n, 2) along an outline, outward normals, px between the points, and whether an image shows them."""
    points = outline.points(spacing)
    steps = np.roll(points, -1, axis=0) - np.roll(points, 1, axis=0)
    lengths = np.maximum(np.hypot(*steps.T), 1e-9)
    seen = ((points > -0.5) & (points < np.array(size) - 0.5)).all(axis=1)
    return points, steps[:, ::-1] * [-1, 1] / lengths[:, np.newaxis], lengths / 2, seen


def rate(edges: Edges, outline: Outline) -> tuple[float, float]:
    """An outline's worth, and its worth per px."""
    *traced, seen = trace(outline, edges.edge.shape, 1)
    points, normals, spacing = (values[seen] for values in traced)
    on_edge = np.zeros(len(points), bool)
    for px in (-1, 0, 1):
        near = points + px * normals
        on_edge |= at(edges.edge, near) & (abs((at(edges.direction, near) * normals).sum(axis=1)) > ALIGNED)
    if on_edge.sum() < FEWEST:
        return 0.0, 0.0
    outside = np.mean([at(edges.colours, points + px * normals) for px in (2, 3, 4)], axis=0)  # (points, 3)
    low, high = np.percentile(outside[on_edge], (10, 90), axis=0)
    alike = ((outside > low - MARGIN) & (outside < high + MARGIN)).all(axis=1)
    worth = (spacing * np.where(alike, np.where(on_edge, ON_EDGE, UNSEEN), CONTRADICTED)).sum()
    return worth, worth / spacing.sum()


def is_plausible(edges: Edges, outline: Outline, uniform: bool) -> bool:
    """Whether the outside of an outline looks like surroundings: `uniform` or nearly so, and darker than the inside."""
    inside = outline.mask(edges.edge.shape)
    share, corners = inside.mean(), inside[[0, 0, -1, -1], [0, -1, 0, -1]]
    if share == 1 or share < SMALLEST_FIELD or (share < SMALL_FIELD and corners.any()):
        return False
    outside = edges.colours[~inside]
    difference = abs(outside - np.median(outside, axis=0)).max(axis=1)
    darkest = min(BRIGHTEST, 0.85 * np.percentile(edges.light[inside], 90))
    is_uniform = (difference < 2 * (FLAT if uniform else MARGIN)).mean() > MIN_UNIFORM
    return is_uniform and np.median(edges.light[~inside]) < darkest


# --- outline in the full photograph ----------------------------------------------------------------------------------


def refine(fundus: np.ndarray, outline: Outline, scale: int) -> Outline:
    """Scale an outline up and move it to the border in the full photograph."""
    size = fundus.shape[:2]
    hull = None if outline.hull is None else (outline.hull + 0.5) * scale - 0.5
    centre, low, high = ((np.array(place) + 0.5) * scale - 0.5 for place in (outline.centre, outline.low, outline.high))
    outline = Outline(centre, outline.radii * scale, low, high, hull)
    for reach in (3 * scale + 4, scale + 6):
        points, normals, _, seen = trace(outline, size, scale)
        offsets = np.full(len(points), np.nan)
        offsets[seen] = border_offsets(fundus, points[seen], normals[seen], reach)
        if outline.hull is not None:
            offsets = median_filter(np.nan_to_num(offsets), len(offsets) // 40, mode="wrap")
            offsets = gaussian_filter1d(offsets, 2, mode="wrap")
            outline = replace(outline, hull=points + offsets[:, np.newaxis] * normals)
            continue
        seen = np.isfinite(offsets)
        points, moved = points[seen], (points + offsets[:, np.newaxis] * normals)[seen]
        low, high = np.array(outline.low), np.array(outline.high)
        for side, axis in ((low, 0), (low, 1), (high, 0), (high, 1)):
            flat = points[:, axis] == side[axis]
            if flat.sum() > FEWEST:
                side[axis] = np.median(moved[flat, axis])
            points, moved = points[~flat], moved[~flat]
        outline = fit_border(moved, replace(outline, low=low, high=high), reach, size)
    if outline.hull is not None:
        places = np.argwhere(outline.mask(size)[::scale, ::scale]) * scale
        centre, spread = places.mean(axis=0), np.cov(places.T)
        squares = ((places - centre) @ np.linalg.inv(spread) * (places - centre)).sum(axis=1)  # at most 4 in an ellipse
        if (squares < 4.1).mean() > MIN_ELLIPTIC:
            upright = abs(spread[0, 1]) < 0.1 * abs(spread[0, 0] - spread[1, 1])
            radii = 2 * np.sqrt(np.diag(spread)) if upright else np.full(2, 2 * np.linalg.det(spread) ** 0.25)
            outline = replace(outline, centre=centre, radii=radii)
    return outline


def fit_border(points: np.ndarray, outline: Outline, reach: float, size) -> Outline:
    """Fit an ellipse to the border's points (n, 2), or a circle if they show no stretch."""
    reaches = (reach, reach / 2, max(1.5, reach / 4))
    fitted, error = fit(points, outline, UPRIGHT, reaches)
    if abs(np.log(fitted.radii[1] / fitted.radii[0])) < max(ROUND, SURE * error) or not is_field(fitted.radii, size):
        circle = replace(outline, radii=np.full(2, outline.radii.mean()))
        fitted, _ = fit(points, circle, CIRCLE, (np.inf, *reaches))
    off = np.abs(distances(points, fitted.centre, fitted.radii)[0])
    return fitted if is_field(fitted.radii, size) and (off < reach).sum() > len(points) / 2 else outline


def border_offsets(fundus: np.ndarray, points: np.ndarray, normals: np.ndarray, reach: int) -> np.ndarray:
    """How far outwards from an outline's points (n, 2) the colour becomes the border's: (n,), px; nan if not seen."""
    steps = np.arange(-reach, reach + 1)
    profiles = at(fundus, points[:, np.newaxis] + steps[:, np.newaxis] * normals[:, np.newaxis])  # (n, steps, 3)
    profiles = gaussian_filter1d(profiles.astype(np.float32), 2, axis=0)
    third = len(steps) // 3
    inside, outside = (np.median(part, axis=1, keepdims=True) for part in (profiles[:, :third], profiles[:, -third:]))
    step = inside - outside
    size = (step**2).sum(axis=2)  # (n, 1)
    share = ((profiles - outside) * step).sum(axis=2) / np.maximum(size, 1e-6)  # 1 inside, 0 outside
    ends = np.cumsum(share - EDGE, axis=1).argmax(axis=1) - reach + 0.5
    return np.where(size[:, 0] > MIN_STEP**2, ends, np.nan)
