"""The camera's field in a colour fundus photograph: the disc, perhaps with flat sides, in which the retina shows.

Around it lies the camera's border: black, grey or tinted, perhaps noisy, with letters or a mark at the rim. A threshold
mistakes a grey border for retina, and dark retina for border. This module fits the field's shape to the edges instead:

1. Reduce the photograph and find the ridges of its colour gradient.
2. Put circles through random triples of the ridge points that are met first from the sides of the image.
3. Cut flat sides from the best circles and score each outline by how much of it lies on ridges.
4. Move the best outline to the border in the full photograph.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d, label, map_coordinates, uniform_filter

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

# Circles
FIRST = 3  # ridges that each row and column contributes from either end: letters may come before the border
TRIPLES = 30_000
SPANS = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0)  # of a triple: share of all points, in order around the image's middle
RADII = (0.2, 6.0)  # smallest, of the image's shorter side, and largest, of its longer side
TRIED, FITTED = 1500, 24  # triples' circles that are compared with the ridges; best of them that are fitted

# Worth of 1 px of an outline: on a ridge; on none, as where dark retina meets the border; with another colour outside
ON_RIDGE, UNSEEN, CONTRADICTED = 1.0, -0.2, -1.0
MARGIN = 12  # grey levels by which the border's colour may vary beyond most of it
BRIGHTEST_BORDER = 64  # brightest channel
DEEPEST_SIDE = 0.35  # of the radius: flat sides lie farther from the centre
SHALLOWEST = 3  # px that a flat side cuts off at least
MIN_QUALITY = 0.45  # worth per px; real borders have 0.6 and more
WITHOUT_CIRCLE = 0.8  # factor for outlines of flat sides alone, which are rare
MIN_WORTH = 0.22  # of the longer side; shorter borders cut off less than 3 % of the image
LARGEST_OUTSIDE = 0.8  # of the image's area; larger where the outline is that of the optic disc
MIN_UNIFORM = 0.75  # share of the outside that has about its median colour; letters and a scan's frame have others

# In the full photograph
EDGE = 0.2  # the field ends where the colour has gone 80 % of the way to the border's: a soft rim belongs to it
MIN_STEP = 6  # grey levels between retina and border where the border is seen


@dataclass(frozen=True)
class Field:
    """The camera's field.

    mask: (height, width) bool, True inside. centre: (row, column) in px, and radius in px, of the circle around the
    field; None if no round border is seen. sides: rows of the flat top and bottom, columns of the flat left and
    right side; None for a side that is not flat.
    """

    mask: np.ndarray
    centre: tuple[float, float] | None = None
    radius: float | None = None
    sides: tuple[float | None, float | None, float | None, float | None] = (None, None, None, None)

    def diameter(self, degrees: float | None = None) -> float | None:
        """Diameter in px of a field of 45 degrees at the same scale, if this one has `degrees` (45); None: unknown."""
        return None if self.radius is None else 2 * self.radius * DEGREES / (degrees or DEGREES)


@dataclass(frozen=True)
class Outline:
    """A field's shape: centre (2,) and radius, infinite without a circle; sides (4,), as Field's, infinite for None."""

    centre: np.ndarray
    radius: float
    sides: np.ndarray


@dataclass(frozen=True)
class Edges:
    """What outlines are fitted to: colours (3, h, w) float32; their brightest channel; ridge (h, w) bool; gradient's
    direction (2, h, w), a unit vector."""

    colours: np.ndarray
    light: np.ndarray
    ridge: np.ndarray
    direction: np.ndarray


def find_field(fundus: np.ndarray) -> Field:
    """Find the camera's field.

    Args:
        fundus: (height, width, 3), uint8, any size.

    Returns:
        The field; its mask is all True if the photograph shows no border, all False if it is entirely dark. The
        result depends only on the pixels.
    """
    shape = height, width = fundus.shape[:2]
    brightness = fundus[:: max(1, height // 500), :: max(1, width // 500)].max(axis=-1)
    bright = uniform_filter(brightness.astype(np.float32), NOISE_PX) > DARK
    if bright.mean() < MIN_BRIGHT:
        return Field(np.zeros(shape, bool))
    scale = -(-max(shape) // REDUCED_SIDE)
    outline = search(fundus, scale) if min(shape) >= SMALLEST_SIDE else None
    if outline is None:
        return Field(np.ones(shape, bool))
    centre, radius, sides = (outline := refine(fundus, outline, scale)).centre, outline.radius, outline.sides
    sides = tuple(float(side) if np.isfinite(side) else None for side in sides)
    if np.isinf(radius):
        return Field(draw(outline, shape), sides=sides)
    return Field(draw(outline, shape), (float(centre[0]), float(centre[1])), float(radius), sides)


def draw(outline: Outline, shape: tuple[int, int]) -> np.ndarray:
    """The outline's inside as a mask (height, width), bool."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    top, bottom, left, right = outline.sides
    inside = (rows >= top) & (rows <= bottom) & (columns >= left) & (columns <= right)
    if np.isfinite(outline.radius):
        squares = (rows - outline.centre[0]) ** 2 + (columns - outline.centre[1]) ** 2
        inside &= squares <= outline.radius**2
    return inside


# --- reduced photograph -> outline -----------------------------------------------------------------------------------


def search(fundus: np.ndarray, scale: int) -> Outline | None:
    """The best outline in the photograph reduced by `scale`, in its px; None if it shows no border."""
    edges = find_edges(np.asarray(Image.fromarray(fundus).reduce(scale), np.float32))
    best, best_worth = None, MIN_WORTH * max(edges.ridge.shape)
    for centre, radius in propose_circles(edges):
        outline, worth, length = cut_sides(edges, centre, radius)
        quality = worth / max(length, 1)
        trust = quality * (1 if np.isfinite(radius) else WITHOUT_CIRCLE)
        if worth * trust > best_worth and quality > MIN_QUALITY and plausible(edges, outline):
            best, best_worth = outline, worth * trust
    return best


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


def propose_circles(edges: Edges) -> list[tuple[np.ndarray, float]]:
    """Centres (2,) and radii of circles that ridges suggest; the first is no circle, for fields of flat sides alone."""
    shape = np.array(edges.ridge.shape)
    found = [(shape / 2, np.inf)]
    first = np.zeros_like(edges.ridge)
    for ridge, chosen in ((edges.ridge, first), (edges.ridge.T, first.T)):
        for order in (slice(None), slice(None, None, -1)):
            chosen[order] |= ridge[order] & (np.cumsum(ridge[order], axis=0) <= FIRST)
    points = np.argwhere(first)
    points = points[np.argsort(np.arctan2(*(points - shape / 2).T), kind="stable")].astype(float)
    if len(points) < MIN_RIDGE:
        return found
    directions = edges.direction[(slice(None), *points.T.astype(int))].T
    centres, radii = circles_through_triples(points, directions)
    usable = np.flatnonzero((radii > RADII[0] * shape.min()) & (radii < RADII[1] * shape.max()))[:TRIED]
    centres, radii = centres[usable], radii[usable]
    places, normals, spacing = arc(centres, radii, shape, 128)
    visible, on_ridge = compare(edges, places, normals)
    scores = spacing * np.where(on_ridge, 1, -0.3 * visible).sum(axis=-1)
    for k in np.argsort(-scores, kind="stable")[:FITTED]:
        centre, radius = fit_circle(points, centres[k], radii[k], (5, 3, 1.5), directions)
        new = all(max(*abs(centre - other), abs(radius - size)) > 3 for other, size in found)
        if new and RADII[0] * shape.min() < radius < RADII[1] * shape.max():
            found.append((centre, radius))
    return found


def circles_through_triples(points: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres (n, 2) and radii (n,) of circles through random triples of points (m, 2) whose gradients are radial."""
    random = np.random.default_rng(0)
    span = np.maximum(MIN_RIDGE, len(points) * random.choice(SPANS, TRIPLES))
    triples = (random.integers(len(points), size=TRIPLES) + random.random((3, TRIPLES)) * span).astype(int) % len(
        points
    )
    a, b, c = points[triples].transpose(0, 2, 1)  # (2, triples) each
    b, c = b - a, c - a
    area, bb, cc = 2 * (b[0] * c[1] - b[1] * c[0]), (b**2).sum(axis=0), (c**2).sum(axis=0)
    to_centre = np.stack([c[1] * bb - b[1] * cc, b[0] * cc - c[0] * bb]) / np.where(area, area, np.nan)
    centres, radii = (a + to_centre).T, np.hypot(*to_centre)
    cosines = ((points[triples] - centres) * directions[triples]).sum(axis=-1) / radii
    radial = (abs(cosines) > ALIGNED).all(axis=0)
    return centres[radial], radii[radial]


def fit_circle(points, centre, radius, reaches, directions=None) -> tuple[np.ndarray, float]:
    """Move a circle to the points (n, 2) that lie nearer to it than each reach in turn, by least squares; only to those
    whose gradients are radial if `directions` (n, 2) are given."""
    for reach in np.repeat(reaches, 3):
        offset = points - centre
        distance = np.maximum(np.hypot(*offset.T), 1e-6)
        normal = offset / distance[:, np.newaxis]
        near = abs(distance - radius) < reach
        if directions is not None:
            near &= abs((normal * directions).sum(axis=1)) > ALIGNED
        if near.sum() < MIN_RIDGE:
            break
        equations = np.column_stack([normal[near], np.ones(near.sum())])
        move = np.linalg.lstsq(equations, (distance - radius)[near], rcond=1e-6)[0]  # Gauss-Newton
        centre, radius = centre + move[:2], radius + move[2]
    return centre, radius


def arc(centre: np.ndarray, radius: np.ndarray, shape, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points along the part of circles, centre (..., 2) and radius (...), that an image may show.

    Returns points (2, ..., count), outward normals (2, ..., count), and px between the points (...).
    """
    towards = np.asarray(shape) / 2 - centre
    distance, reach = np.hypot(towards[..., 0], towards[..., 1]), np.hypot(*shape) / 2
    half = np.where(distance > reach, np.arcsin(np.minimum(1, reach / np.maximum(distance, reach))), np.pi)
    middle = np.arctan2(towards[..., 0], towards[..., 1])
    angles = middle[..., np.newaxis] + half[..., np.newaxis] * ((np.arange(count) + 0.5) / count * 2 - 1)
    normals = np.stack([np.sin(angles), np.cos(angles)])
    points = np.moveaxis(centre, -1, 0)[..., np.newaxis] + np.asarray(radius)[..., np.newaxis] * normals
    return points, normals, 2 * half * radius / count


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


def cut_sides(edges: Edges, centre: np.ndarray, radius: float) -> tuple[Outline, float, float]:
    """Give a circle the flat sides that raise its worth. Returns the outline, its worth and its length in px."""
    shape = edges.ridge.shape
    sides = np.array([-np.inf, np.inf, -np.inf, np.inf])
    points, values, spacing = np.zeros((2, 0)), np.zeros(0), 0.0
    bordering = edges.light < BRIGHTEST_BORDER  # where the image has the border's colour
    if np.isfinite(radius):
        points, normals, spacing = arc(centre, radius, shape, 512)
        visible, on_ridge = compare(edges, points, normals)
        points, normals, on_ridge = points[:, visible], normals[:, visible], on_ridge[visible]
        if on_ridge.sum() < MIN_RIDGE:
            return Outline(centre, radius, sides), 0.0, 0.0
        outside = np.mean([at(edges.colours, points + px * normals) for px in (2, 3, 4)], axis=0)  # (3, points)
        low, high = np.percentile(outside[:, on_ridge], (20, 80), axis=1)[..., np.newaxis] + [[[-MARGIN]], [[MARGIN]]]
        alike = ((outside > low) & (outside < high)).all(axis=0)
        values = spacing * np.where(alike, np.where(on_ridge, ON_RIDGE, UNSEEN), CONTRADICTED)
        low, high = low[..., np.newaxis], high[..., np.newaxis]
        bordering = ((edges.colours > low) & (edges.colours < high)).all(axis=0)
    worth, length = values.sum(), spacing * len(values)
    for side, (axis, sign) in enumerate(((0, -1), (0, 1), (1, -1), (1, 1))):
        # Names are those for the top and bottom: for left and right, "row" is a column.
        level = edges.ridge & (abs(edges.direction[axis]) > ALIGNED)
        turned = [np.swapaxes(values_of, 0, axis) for values_of in (level, bordering, edges.light)]
        count, across = turned[0].shape
        rows = np.arange(count)
        half = np.sqrt(np.maximum(0, radius**2 - (rows - centre[axis]) ** 2)) if np.isfinite(radius) else across
        first, last = (
            np.clip(np.rint(centre[1 - axis] + s * half + np.zeros(count)), 0, across).astype(int) for s in (-1, 1)
        )

        def along(values, rows=rows, first=first, last=last):
            summed = np.pad(np.cumsum(values, axis=1), ((0, 0), (1, 0)))
            return summed[rows, last] - summed[rows, first]

        ridge = turned[0] | np.roll(turned[0], 1, axis=0) | np.roll(turned[0], -1, axis=0)
        chord = along(np.where(np.roll(turned[1], -3 * sign, axis=0), np.where(ridge, ON_RIDGE, UNSEEN), CONTRADICTED))
        light = along(turned[2]) / np.maximum(1, last - first)
        # (rows, points): the arc that a flat side would cut off
        beyond = sign * points[axis] > sign * rows[:, np.newaxis]
        depth = sign * (rows - centre[axis])
        allowed = depth > -0.4 * count
        if np.isfinite(radius):
            allowed = (depth > DEEPEST_SIDE * radius) & (depth < radius - SHALLOWEST)
        allowed &= (rows >= SHALLOWEST) & (rows < count - SHALLOWEST) & (last - first > MIN_RIDGE)
        if np.isinf(radius):
            allowed &= np.roll(light, 3 * sign) > np.roll(light, -3 * sign) + 2
        gain = np.where(allowed, chord - beyond @ values, 0)
        row = gain.argmax()
        if gain[row] > 0:
            sides[side] = row
            worth, length = worth + gain[row], length + last[row] - first[row] - spacing * beyond[row].sum()
    return Outline(centre, radius, sides), worth, length


def plausible(edges: Edges, outline: Outline) -> bool:
    """Whether the outside of an outline looks like a camera's border: uniform, and darker than the inside."""
    inside = draw(outline, edges.ridge.shape)
    if inside.all() or inside.mean() < 1 - LARGEST_OUTSIDE:
        return False
    outside = edges.colours[:, ~inside]
    uniform = (abs(outside - np.median(outside, axis=1, keepdims=True)) < 2 * MARGIN).all(axis=0).mean()
    darkest = min(BRIGHTEST_BORDER, 0.85 * np.percentile(edges.light[inside], 90))
    return uniform > MIN_UNIFORM and np.median(edges.light[~inside]) < darkest


# --- outline in the full photograph ----------------------------------------------------------------------------------


def refine(fundus: np.ndarray, outline: Outline, scale: int) -> Outline:
    """Scale an outline up and move its circle and its flat sides to the border in the full photograph."""
    shape, colours = fundus.shape[:2], np.moveaxis(fundus, -1, 0)
    centre, sides = ((places + 0.5) * scale - 0.5 for places in (outline.centre, outline.sides))
    radius = outline.radius * scale
    for reach in (3 * scale + 4, scale + 6):
        if np.isfinite(radius):
            points, normals, _ = arc(centre, radius, shape, 1024)
            seen = is_within(points, shape)
            for axis in (0, 1):
                seen &= (points[axis] > sides[2 * axis]) & (points[axis] < sides[2 * axis + 1])
            points = border_points(colours, points[:, seen], normals[:, seen], reach)
            centre, radius = fit_circle(points, centre, radius, (reach, reach / 2, max(1.5, reach / 4)))
        for side in np.flatnonzero(np.isfinite(sides)):
            axis, sign = side // 2, (-1, 1)[side % 2]
            along = np.arange(shape[1 - axis])
            half = np.inf
            if np.isfinite(radius):
                half = np.sqrt(np.maximum(0, radius**2 - (sides[side] - centre[axis]) ** 2)) - reach
            low, high = sides[[2, 3]] if axis == 0 else sides[[0, 1]]
            along = along[(abs(along - centre[1 - axis]) < half) & (along > low) & (along < high)]
            points = np.stack([np.full(len(along), sides[side]), along])[:: 1 - 2 * axis]
            normals = np.stack([np.full(len(along), float(sign)), np.zeros(len(along))])[:: 1 - 2 * axis]
            if len(along) > MIN_RIDGE:
                points = border_points(colours, points, normals, reach)
                if len(points) > MIN_RIDGE:
                    sides[side] = np.median(points[:, axis])
    return Outline(centre, radius, sides)


def border_points(colours: np.ndarray, points: np.ndarray, normals: np.ndarray, reach: int) -> np.ndarray:
    """Where the colour becomes the border's, (n, 2), on normals at points (2, m) of an outline; n of them see it."""
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
    return (points + ends * normals)[:, size[:, 0] > MIN_STEP**2].T
