"""The field of view of a fundus photograph: the ellipse, perhaps with flat sides, in which the retina shows.

Around it lie uniform surroundings: black, grey, white or tinted, perhaps noisy, with letters or a mark at the rim. A
threshold mistakes grey surroundings for retina, and dark retina for surroundings. This module fits the field's shape to
the edges instead:

1. Reduce the photograph and find the ridges of its colour gradient.
2. Put circles and ellipses through random ridge points that are met first from the sides of the image.
3. Cut flat sides from the best of them, and score each outline by how much of it lies on ridges.
4. Move the best outline to the border in the full photograph.

A photograph that was resized to a square, or has pixels that are not square, shows an ellipse whose axes are those of
the image. Other convex shapes are found as the hull of what is not surroundings.
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import (
    binary_opening,
    gaussian_filter,
    gaussian_filter1d,
    label,
    map_coordinates,
    median_filter,
    uniform_filter,
)
from scipy.spatial import ConvexHull

ENTIRELY_DARK = "is entirely dark; remove it, or replace it with the right photograph"

DEGREES = 45  # of a camera's field, unless specified
FIELD_MM = 13.2  # diameter of a field of 45 degrees on the retina of an average eye

MIN_BRIGHT = 0.01  # share of pixels; a photograph with fewer shows nothing
DARK = 15  # brightest channel, of 255: a pixel that is not brighter shows nothing
NOISE_PX = 5  # side of the squares over which it is averaged, so that single bright pixels on black are no photograph
SMALLEST_SIDE = 24  # px; a smaller image counts as all field
REDUCED_SIDE = 400  # px, at most, of the reduced photograph; the lengths below are in its pixels

# Ridges of the gradient
SIGMA = 1.2  # of the Gaussian whose derivative is the gradient
MIN_GRADIENT = 1.5  # grey levels per px: half of that at a step of 10 levels
ABOVE_MEAN = 2.0  # times the mean gradient nearby, so that noise and texture leave no ridges
NEARBY = 8
MIN_RIDGE = 8
ALIGNED = 0.9  # cosine of the largest angle between a ridge's gradient and the normal of an outline on it

# Circles and ellipses
FIRST = 3  # ridges that each row and column contributes from either end: letters may come before the border
DRAWN = 12_000  # sets of points
SPANS = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0)  # of a set: share of all points, in order around their middle
SMALLEST_FIELD, LARGEST_RADIUS = 0.04, 6.0  # of the image's area, and of its longer side
MOST_STRETCH = 1.5
TRIED, FITTED = 1000, 12  # of each kind: those that are compared with the ridges; best of them that are fitted

# Worth of 1 px of an outline: on a ridge; on none, as where dark retina meets the border; with another colour outside
ON_RIDGE, UNSEEN, CONTRADICTED = 1.0, -0.2, -1.0
MARGIN = 12  # grey levels by which the border's colour may vary beyond most of it
BRIGHTEST_BORDER = 64  # brightest channel, or largest difference from the corners' colour
DEEPEST_SIDE = 0.35  # of the radius: flat sides lie farther from the centre
SHALLOWEST = 3  # px that a flat side cuts off at least
MIN_QUALITY = 0.45  # worth per px; real borders have 0.6 and more
WITHOUT_CIRCLE = 0.8  # factor for outlines of flat sides alone, which are rare
MIN_WORTH = 0.22  # of the longer side; shorter borders cut off less than 3 % of the image
MIN_UNIFORM = 0.75  # share of the outside that has about its median colour; letters and a scan's frame have others

# In the full photograph
EDGE = 0.2  # the field ends where the colour has gone 80 % of the way to the border's: a soft rim belongs to it
MIN_STEP = 6  # grey levels between retina and border where the border is seen
ROUND = 0.015  # stretch that counts as none

FLAT = 4
SMALL_FIELD = 0.2
MIN_SHARE = 0.02
OBLIQUE = 0.99
LEVELS = (10, 25, 45)
HULL, ELLIPSE = 0.8, 0.9
CORRELATED = 20

# What a fit may change, as columns: an ellipse's centre (row, column) and its radii; a circle's radii change alike
UPRIGHT = np.eye(4)
CIRCLE = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]])


@dataclass(frozen=True)
class Field:
    mask: np.ndarray
    centre: tuple[float, float] | None = None
    radii: tuple[float, float] | None = None
    sides: tuple[float | None, float | None, float | None, float | None] = (None, None, None, None)

    @property
    def stretch(self) -> float:
        """Horizontal scale of the photograph / its vertical scale; 1 where none is seen."""
        return 1.0 if self.radii is None else self.radii[1] / self.radii[0]

    def diameter(self, degrees: float | None = None) -> float | None:
        return None if self.radii is None else 2 * max(self.radii) * DEGREES / (degrees or DEGREES)


@dataclass(frozen=True)
class Outline:
    """A field's outline: an ellipse, centre (2,) and radii (2,), cut by sides (4,), as Field's, infinite for None.

    hull: (n, 2), points 1 px apart instead, if it is another shape; its radii are nan unless it is a tilted ellipse.
    """

    centre: np.ndarray
    radii: np.ndarray
    sides: np.ndarray
    hull: np.ndarray | None = None


@dataclass(frozen=True)
class Edges:
    colours: np.ndarray
    light: np.ndarray
    ridge: np.ndarray
    direction: np.ndarray


UNCUT = np.array([-np.inf, np.inf, -np.inf, np.inf])


def find_field(fundus: np.ndarray) -> Field:
    shape = height, width = fundus.shape[:2]
    brightness = fundus[:: max(1, height // 500), :: max(1, width // 500)].max(axis=-1)
    bright = uniform_filter(brightness.astype(np.float32), NOISE_PX) > DARK
    if bright.mean() < MIN_BRIGHT:
        return Field(np.zeros(shape, bool))
    scale = -(-max(shape) // REDUCED_SIDE)
    outline = search(fundus, scale) if min(shape) >= SMALLEST_SIDE else None
    if outline is None:
        return Field(np.ones(shape, bool))
    outline = refine(fundus, outline, scale)
    mask = draw(outline, shape)
    if outline.hull is not None:
        outline = ellipse_of(mask[::scale, ::scale], outline, scale)
    sides = tuple(float(side) if np.isfinite(side) else None for side in outline.sides)
    if np.isnan(outline.radii).any():
        return Field(mask, sides=sides)
    centre, radii = (tuple(map(float, pair)) for pair in (outline.centre, outline.radii))
    return Field(mask, centre, radii, sides)


def ellipse_of(mask, outline, scale):
    """Give a hull the radius of the ellipse with the mask's moments."""
    places = np.argwhere(mask)
    centre, spread = places.mean(axis=0), np.cov(places.T)
    squares = np.einsum("ni,ij,nj->n", places - centre, np.linalg.inv(spread), places - centre)
    elliptic = (squares < 4.1).mean() > 0.995  # at most 4 in an ellipse
    radius = 2 * np.linalg.det(spread) ** 0.25 if elliptic else np.nan
    return replace(outline, centre=centre * scale, radii=np.full(2, radius * scale))


def field_of_mask(mask):
    found = find_field(np.repeat(np.uint8(255) * mask[..., np.newaxis], 3, axis=-1))
    return replace(found, mask=mask) if (found.mask & mask).sum() > 0.95 * (found.mask | mask).sum() else Field(mask)


def draw(outline: Outline, shape: tuple[int, int]) -> np.ndarray:
    """The outline's inside as a mask (height, width), bool."""
    if outline.hull is not None:
        mask = Image.new("1", shape[::-1])
        ImageDraw.Draw(mask).polygon([tuple(point) for point in outline.hull[:, ::-1]], fill=1)
        return np.asarray(mask)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    top, bottom, left, right = outline.sides
    inside = (rows >= top) & (rows <= bottom) & (columns >= left) & (columns <= right)
    y, x = ((places - c) / r for places, c, r in zip((rows, columns), outline.centre, outline.radii))
    return inside & (y**2 + x**2 <= 1)


# --- reduced photograph -> outline -----------------------------------------------------------------------------------


def search(fundus: np.ndarray, scale: int) -> Outline | None:
    """The best outline in the photograph reduced by `scale`, in its px; None if it shows no border."""
    image = np.asarray(Image.fromarray(fundus).reduce(scale), np.float32)
    for colour in surroundings(image):
        edges = find_edges(abs(image - colour))
        best, best_worth = None, MIN_WORTH * max(edges.ridge.shape)
        for proposed in propose(edges):
            outline, worth, length = cut_sides(edges, proposed)
            quality = worth / max(length, 1)
            trust = quality * (
                HULL if outline.hull is not None else 1 if outline.radii[0] == outline.radii[1] else ELLIPSE
            )
            if worth * trust > best_worth and quality > MIN_QUALITY and plausible(edges, outline, colour.any()):
                best, best_worth = outline, worth * trust
        if best is not None:
            return best
    return None


def surroundings(image: np.ndarray) -> list[np.ndarray]:
    """Colours that may be around the field: that of a corner, if much of the image has it, and black."""
    size = max(3, min(image.shape[:2]) // 40)
    ends = slice(size), slice(-size, None)
    corners = [np.median(image[rows, columns], axis=(0, 1)) for rows in ends for columns in ends]
    shares = [(abs(image - corner) < FLAT).all(axis=-1).mean() for corner in corners]
    black = np.zeros(3, np.float32)
    best = corners[np.argmax(shares)]
    return [best, black] if max(shares) > MIN_SHARE and best.max() > DARK else [black]


def find_edges(image: np.ndarray) -> Edges:
    """Ridges of the gradient of an image (h, w, 3), float32: as Canny's, in the channel where it is steepest."""
    colours = np.ascontiguousarray(np.moveaxis(image, -1, 0))
    gradient = np.stack([[gaussian_filter(c, SIGMA, order=order) for order in ((1, 0), (0, 1))] for c in colours])
    steepness = np.hypot(gradient[:, 0], gradient[:, 1])  # (3, h, w)
    steepest = steepness.argmax(axis=0)[np.newaxis]
    steepness = np.take_along_axis(steepness, steepest, 0)[0]
    direction = np.take_along_axis(gradient, steepest[:, np.newaxis], 0)[0] / np.maximum(steepness, 1e-6)
    here = np.indices(steepness.shape)
    ahead, behind = (map_coordinates(steepness, here + s * direction, order=1, mode="constant") for s in (1, -1))
    enough = np.maximum(MIN_GRADIENT, ABOVE_MEAN * gaussian_filter(steepness, NEARBY))
    ridge = (steepness > enough) & (steepness >= ahead) & (steepness > behind)
    light = colours.max(axis=0)
    ridge &= np.minimum(at(light, here + 3 * direction), at(light, here - 3 * direction)) < BRIGHTEST_BORDER
    parts, _ = label(ridge, np.ones((3, 3)))
    long = np.bincount(parts.ravel()) >= MIN_RIDGE
    return Edges(colours, light, ridge & long[parts], direction)


def propose(edges: Edges) -> list[Outline]:
    """Outlines that ridges suggest, and hulls of what is brighter than the border."""
    size = np.array(edges.ridge.shape)
    found = hulls(edges)
    first = np.zeros_like(edges.ridge)
    for ridge, chosen in ((edges.ridge, first), (edges.ridge.T, first.T)):
        for order in (slice(None), slice(None, None, -1)):
            chosen[order] |= ridge[order] & (np.cumsum(ridge[order], axis=0) <= FIRST)
    points = np.argwhere(first)
    points = points[np.argsort(np.arctan2(*(points - np.median(points, axis=0)).T), kind="stable")].astype(float)
    directions = edges.direction[(slice(None), *points.T.astype(int))].T
    oblique = abs(directions).max(axis=1) < OBLIQUE
    for terms, use in ((CIRCLE, np.full(len(points), True)), (UPRIGHT, oblique)):
        if use.sum() < MIN_RIDGE:
            continue
        known = []
        centres, radii = through_random_points(points[use], directions[use], terms)
        usable = is_field(radii, size)
        centres, radii = centres[usable][:TRIED], radii[usable][:TRIED]
        places, normals, spacing = trace(centres, radii, size, 128)
        visible, on_ridge = compare(edges, places, normals)
        scores = (spacing * np.where(on_ridge, 1, -0.3 * visible)).sum(axis=-1)
        for k in np.argsort(-scores, kind="stable")[:FITTED]:
            fitted, _ = fit(points, Outline(centres[k], radii[k], UNCUT), terms, (5, 3, 1.5), directions)
            new = all(
                max(abs(fitted.centre - other.centre).max(), abs(fitted.radii - other.radii).max()) > 3
                for other in known
            )
            if new and is_field(fitted.radii, size):
                known.append(fitted)
        found += known
    return found


def is_field(radii, size):
    """Whether ellipses with radii (..., 2) may be around the field in an image of this size (2,)."""
    low, high = radii.min(axis=-1), radii.max(axis=-1)
    return (np.pi * low * high > SMALLEST_FIELD * size.prod()) & (
        high < np.minimum(LARGEST_RADIUS * size.max(), MOST_STRETCH * low)
    )


def hulls(edges):
    found = []
    for level in LEVELS:
        parts, count = label(binary_opening(gaussian_filter(edges.light, 1) > level, iterations=2))
        if not count:
            continue
        part = parts == np.bincount(parts.ravel())[1:].argmax() + 1
        corners = np.argwhere(np.pad(part, 3, mode="edge")) - 3  # the frame is no outline
        if part.mean() < SMALLEST_FIELD:
            continue
        hull = ConvexHull(corners)
        if len(corners) < 0.9 * hull.volume:
            continue
        corners = corners[np.append(hull.vertices, hull.vertices[0])]
        along = np.append(0, np.hypot(*np.diff(corners, axis=0).T).cumsum())
        points = np.stack([np.interp(np.arange(0, along[-1]), along, c) for c in corners.T], axis=1)
        points = gaussian_filter1d(points, 1, axis=0, mode="wrap")
        found.append(Outline(points.mean(axis=0), np.full(2, np.nan), UNCUT, points))
    return found


def through_random_points(points, directions, terms):
    """Centres (n, 2) and radii (n, 2) of circles or ellipses through random points whose gradients are normal."""
    random = np.random.default_rng(0)
    count = terms.shape[1]
    span = np.maximum(MIN_RIDGE, len(points) * random.choice(SPANS, DRAWN))
    drawn = (random.integers(len(points), size=DRAWN) + random.random((count, DRAWN)) * span).astype(int).T % len(
        points
    )
    middle, size = points.mean(axis=0), np.ptp(points, axis=0).max()
    places = (points - middle) / size
    equations = np.hstack([places, places**2]) @ terms
    equations = equations[drawn] + 1e-6 * random.standard_normal((DRAWN, count, count))  # never singular
    solved = np.linalg.solve(equations, np.ones((DRAWN, count, 1)))[..., 0] @ terms.T
    linear, square = solved[:, :2], solved[:, 2:]
    with np.errstate(all="ignore"):
        centres = -linear / square / 2
        radii = np.sqrt((1 + (square * centres**2).sum(axis=1, keepdims=True)) / square)
        normals = (places[drawn] - centres[:, np.newaxis]) / radii[:, np.newaxis] ** 2
        cosines = (normals * directions[drawn]).sum(axis=-1) / np.linalg.norm(normals, axis=-1)
        normal = (abs(cosines) > ALIGNED).all(axis=1)
    return centres[normal] * size + middle, radii[normal] * size


def fit(points, outline, terms, reaches, directions=None):
    """Move an outline's ellipse to the points (n, 2) that lie nearer to it than each reach in turn, by least squares.

    Returns also the standard error of its stretch."""
    centre, radii, error = outline.centre, outline.radii, np.inf
    for reach in np.repeat(reaches, 3):
        unit = (points - centre) / radii
        size = np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-6)
        unit /= size
        normal = unit / radii
        steep = np.linalg.norm(normal, axis=1, keepdims=True)
        normal /= steep
        distance = ((size - 1) / steep)[:, 0]
        near = abs(distance) < reach
        if directions is not None:
            near &= abs((normal * directions).sum(axis=1)) > ALIGNED
        if near.sum() < MIN_RIDGE:
            break
        equations = np.hstack([normal, normal * unit])[near] @ terms
        move, *_ = np.linalg.lstsq(equations, distance[near], rcond=1e-6)  # Gauss-Newton
        left = np.mean((distance[near] - equations @ move) ** 2)
        slope = np.append([0, 0], [-1, 1] / radii) @ terms
        error = np.sqrt(CORRELATED * left * slope @ np.linalg.pinv(equations.T @ equations) @ slope)
        move = terms @ move
        if (radii + move[2:]).min() < 2:
            break
        centre, radii = centre + move[:2], radii + move[2:]
    return replace(outline, centre=centre, radii=radii), error


def trace(centre: np.ndarray, radii: np.ndarray, size, count: int):
    """Points along the part of ellipses, centre (..., 2) and radii (..., 2), that an image of a size may show.

    Returns points (2, ..., count), outward normals (2, ..., count), and px between the points (..., count).
    """
    towards = (np.asarray(size) / 2 - centre) / radii
    distance, reach = np.linalg.norm(towards, axis=-1), np.hypot(*size) / 2 / radii.min(axis=-1)
    half = np.where(distance > reach, np.arcsin(np.minimum(1, reach / np.maximum(distance, reach))), np.pi)
    middle = np.arctan2(towards[..., 0], towards[..., 1])
    angles = middle[..., np.newaxis] + half[..., np.newaxis] * ((np.arange(count) + 0.5) / count * 2 - 1)
    centre, radii = (np.moveaxis(values, -1, 0)[..., np.newaxis] for values in (centre, radii))
    unit = np.stack([np.sin(angles), np.cos(angles)])  # (2, ..., count)
    normals = unit / radii
    steps = np.hypot(*(unit[::-1] * radii)) * (2 * half / count)[..., np.newaxis]
    return centre + radii * unit, normals / np.hypot(*normals), steps


def trace_hull(hull):
    """The same for a hull (n, 2)."""
    steps = np.roll(hull, -1, axis=0) - np.roll(hull, 1, axis=0)
    steps = gaussian_filter1d(steps, 2, axis=0, mode="wrap")
    length = np.hypot(*steps.T)
    normals = steps[:, ::-1] * [-1, 1] / np.maximum(length, 1e-6)[:, np.newaxis]
    if ((hull - hull.mean(axis=0)) * normals).sum() < 0:
        normals = -normals
    return hull.T, normals.T, length / 2


def at(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values (..., h, w) at the pixels nearest to points (2, ...), the image's border repeated outside."""
    rows, columns = np.rint(points).astype(int)
    return values[..., rows.clip(0, values.shape[-2] - 1), columns.clip(0, values.shape[-1] - 1)]


def is_within(points: np.ndarray, shape) -> np.ndarray:
    """Whether points (2, ...) lie in an image."""
    return (points[0] > -0.5) & (points[0] < shape[0] - 0.5) & (points[1] > -0.5) & (points[1] < shape[1] - 0.5)


def compare(edges: Edges, points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether points of outlines, (2, ...), lie in the image; and whether within 1 px of a ridge of their direction."""
    on_ridge = False
    for near in (points - normals, points, points + normals):
        on_ridge |= at(edges.ridge, near) & (abs((at(edges.direction, near) * normals).sum(axis=0)) > ALIGNED)
    visible = is_within(points, edges.ridge.shape)
    return visible, on_ridge & visible


def cut_sides(edges: Edges, outline: Outline) -> tuple[Outline, float, float]:
    """Give an ellipse the flat sides that raise its worth. Returns the outline, its worth and its length in px."""
    size, sides = edges.ridge.shape, outline.sides.copy()
    points, normals, spacing = (
        trace(outline.centre, outline.radii, size, 512) if outline.hull is None else trace_hull(outline.hull)
    )
    visible, on_ridge = compare(edges, points, normals)
    points, normals, on_ridge, spacing = points[:, visible], normals[:, visible], on_ridge[visible], spacing[visible]
    if on_ridge.sum() < MIN_RIDGE:
        return outline, 0.0, 0.0
    outside = np.mean([at(edges.colours, points + px * normals) for px in (2, 3, 4)], axis=0)  # (3, points)
    low, high = np.percentile(outside[:, on_ridge], (20, 80), axis=1)[..., np.newaxis] + [[[-MARGIN]], [[MARGIN]]]
    alike = ((outside > low) & (outside < high)).all(axis=0)
    values = spacing * np.where(alike, np.where(on_ridge, ON_RIDGE, UNSEEN), CONTRADICTED)
    if outline.hull is not None:
        return outline, values.sum(), spacing.sum()
    low, high = low[..., np.newaxis], high[..., np.newaxis]
    bordering = ((edges.colours > low) & (edges.colours < high)).all(axis=0)  # where the image has the border's colour
    inside = draw(outline, size)
    for side, (axis, sign) in enumerate(((0, -1), (0, 1), (1, -1), (1, 1))):
        # "row" is a column for the left and right sides
        level = edges.ridge & (abs(edges.direction[axis]) > ALIGNED)
        level = level | np.roll(level, 1, axis) | np.roll(level, -1, axis)
        seen = np.where(np.roll(bordering, -3 * sign, axis), np.where(level, ON_RIDGE, UNSEEN), CONTRADICTED)
        width = inside.sum(axis=1 - axis)
        chord = np.sum(seen, axis=1 - axis, where=inside)
        rows = np.arange(size[axis])
        nearest = np.rint(points[axis]).astype(int).clip(0, size[axis] - 1)
        beyond = np.bincount(nearest, values, size[axis])[::-sign].cumsum()[::-sign]
        depth = sign * (rows - outline.centre[axis])
        allowed = (rows >= SHALLOWEST) & (rows < size[axis] - SHALLOWEST) & (width > MIN_RIDGE)
        radius = outline.radii[axis]
        allowed &= (depth > DEEPEST_SIDE * radius) & (depth < radius - SHALLOWEST)
        gain = np.where(allowed, chord - beyond, 0)
        row = gain.argmax()
        if gain[row] > 0:
            sides[side] = row
            kept = sign * nearest < sign * row
            points, values, spacing = (
                points[:, kept],
                np.append(values[kept], chord[row]),
                np.append(spacing[kept], width[row]),
            )
            points = np.append(points, [[row], [row]], axis=1)
    return replace(outline, sides=sides), values.sum(), spacing.sum()


def plausible(edges: Edges, outline: Outline, flat: bool) -> bool:
    """Whether the outside of an outline looks like surroundings: uniform, very much so if `flat`, and darker."""
    inside = draw(outline, edges.ridge.shape)
    corners = inside[[0, 0, -1, -1], [0, -1, 0, -1]]
    if inside.all() or inside.mean() < SMALLEST_FIELD or (inside.mean() < SMALL_FIELD and corners.any()):
        return False
    outside = edges.colours[:, ~inside]
    margin, least = (2 * FLAT, 0.9) if flat else (2 * MARGIN, 0.75)
    uniform = (abs(outside - np.median(outside, axis=1, keepdims=True)) < margin).all(axis=0).mean()
    darkest = min(BRIGHTEST_BORDER, 0.85 * np.percentile(edges.light[inside], 90))
    return uniform > least and np.median(edges.light[~inside]) < darkest


# --- outline in the full photograph ----------------------------------------------------------------------------------


def refine(fundus: np.ndarray, outline: Outline, scale: int) -> Outline:
    """Scale an outline up and move its ellipse and its flat sides to the border in the full photograph."""
    size, colours = fundus.shape[:2], np.moveaxis(fundus, -1, 0)
    hull = None if outline.hull is None else (outline.hull + 0.5) * scale - 0.5
    centre, sides = ((places + 0.5) * scale - 0.5 for places in (outline.centre, outline.sides))
    outline = Outline(centre, outline.radii * scale, sides, hull)
    for reach in (3 * scale + 4, scale + 6):
        if outline.hull is not None:
            points, normals, _ = trace_hull(outline.hull)
            offsets = border_offsets(colours, points, normals, reach)
            offsets = np.where(is_within(points, size) & np.isfinite(offsets), offsets, 0)
            offsets = gaussian_filter1d(median_filter(offsets, len(offsets) // 40, mode="wrap"), 2, mode="wrap")
            outline = replace(outline, hull=(points + offsets * normals).T)
            continue
        points, normals, _ = trace(outline.centre, outline.radii, size, 1024)
        seen = is_within(points, size)
        for axis in (0, 1):
            seen &= (points[axis] > sides[2 * axis]) & (points[axis] < sides[2 * axis + 1])
        points = border_points(colours, points[:, seen], normals[:, seen], reach)
        reaches = (reach, reach / 2, max(1.5, reach / 4))
        upright, error = fit(points, outline, UPRIGHT, reaches)
        if abs(np.log(upright.radii[1] / upright.radii[0])) > max(ROUND, 3 * error) and is_field(
            upright.radii, np.array(size)
        ):
            outline = upright
        else:
            wide = reach + np.ptp(outline.radii)
            outline, _ = fit(points, replace(outline, radii=np.full(2, outline.radii.mean())), CIRCLE, (wide, *reaches))
        inside = draw(outline, size)
        for side in np.flatnonzero(np.isfinite(sides)):
            axis, sign = side // 2, (-1, 1)[side % 2]
            row = np.rint(sides[side]).astype(int)
            along = np.flatnonzero(np.take(inside, np.clip(row - sign * reach, 0, size[axis] - 1), axis))[reach:-reach]
            if len(along) > MIN_RIDGE:
                points = np.stack([np.full(len(along), sides[side]), along])[:: 1 - 2 * axis]
                normals = np.stack([np.full(len(along), float(sign)), np.zeros(len(along))])[:: 1 - 2 * axis]
                points = border_points(colours, points, normals, reach)
                if len(points) > MIN_RIDGE:
                    sides[side] = np.median(points[:, axis])
    return outline


def border_points(colours, points, normals, reach):
    offsets = border_offsets(colours, points, normals, reach)
    return (points + offsets * normals)[:, np.isfinite(offsets)].T


def border_offsets(colours: np.ndarray, points: np.ndarray, normals: np.ndarray, reach: int) -> np.ndarray:
    """How far outwards the colour becomes the border's, (m,) px, on normals at points (2, m); nan: not seen."""
    steps = np.arange(-reach, reach + 1)
    profiles = at(colours, points[..., np.newaxis] + steps * normals[..., np.newaxis]).astype(np.float32)
    profiles = gaussian_filter1d(profiles, 2, axis=1)  # (3, points, steps)
    third = len(steps) // 3
    inside, outside = (
        np.median(part, axis=-1, keepdims=True) for part in (profiles[..., :third], profiles[..., -third:])
    )
    step = inside - outside
    size = np.maximum((step**2).sum(axis=0), 1e-6)  # (points, 1)
    share = ((profiles - outside) * step).sum(axis=0) / size  # 1 inside, 0 outside
    ends = np.cumsum(share - EDGE, axis=1).argmax(axis=1) - reach + 0.5
    return np.where(size[:, 0] > MIN_STEP**2, ends, np.nan)


def field_of_view(fundus: np.ndarray) -> np.ndarray:
    """Where a fundus photograph (height, width, 3), uint8, shows the eye and not the camera's border: bool."""
    return find_field(fundus).mask


def field_to_use(fundus: np.ndarray, fov_mask: bool) -> Field:
    """The camera's field, where predictions are made and scored; without `fov_mask` its mask is True everywhere."""
    field = find_field(fundus)
    return field if fov_mask else replace(field, mask=np.ones_like(field.mask))
