"""Eyes: anatomy, appearance, and where a picture is taken; the maps and noise that both pictures are made from.

A retina is geometry in millimetres and an appearance (pigment, light, camera, scan). Coordinates are those of trees.py.
Everything follows from the seed, and no eye depends on which others are made.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL.Image import Resampling

from retina.images import resized
from retina.ut_fsocta import CROP_MM, CROP_PX, EYES
from simulation import ranges
from simulation.trees import DOMAIN_RADIUS_MM, Growth, Tree, Vessels, Window, rasterise

TREE_SHARED_BY = 8  # consecutive eyes of the stream mirror, rotate, warp and scale one tree: growing it takes 0.2 s


class Circle(NamedTuple):
    """Centre (x + iy) and radius in mm."""

    centre: complex
    radius: float


@dataclass(frozen=True)
class Anatomy:
    """An eye's geometry. Lengths in mm, positions x + iy from the fovea; as grown it is a right eye, disc at x > 0."""

    disc: complex
    disc_axes: tuple[float, float]  # half axes: nasal to temporal, and at right angles to that
    faz_radius: float  # of the foveal avascular zone
    trees: dict[str, Tree]  # "artery" and "vein"

    def moved(self, move: Callable[[np.ndarray], np.ndarray], widths: tuple[float, float] = (1, 1)) -> "Anatomy":
        """Apply a function of positions to everything, and multiply the widths of arteries and veins by two factors."""
        trees = {
            kind: replace(tree, points=move(tree.points), radii=tree.radii * width)
            for (kind, tree), width in zip(self.trees.items(), widths, strict=True)
        }
        return replace(self, disc=complex(move(np.array([self.disc]))[0]), trees=trees)


@dataclass(frozen=True)
class Eye(Anatomy):
    """An eye, with its appearance and its light."""

    key: tuple[int, int, int]  # seed, subject, 0 for OD or 1 for OS; in the stream seed, number, 2
    field: Circle  # what the camera sees
    light: Circle  # at its edge eye["vignette"] of the light is lost
    appearance: dict[str, float]  # a value for each of ranges.APPEARANCE
    features: frozenset[str]  # some of ranges.STREAM_SHARE

    def __getitem__(self, name: str) -> float:
        """The eye's value from a range of ranges.APPEARANCE."""
        return self.appearance[name]

    def from_disc(self, points: np.ndarray) -> np.ndarray:
        """Positions relative to the disc, rotated so that the nasal side is at x > 0."""
        return (points - self.disc) / np.complex64(self.disc / abs(self.disc))

    def rng(self, stream: str, part: int = 1) -> Generator:
        """A new generator for one of ranges.RANDOM_STREAMS, or for a numbered part of it."""
        return _rng(self.key, stream, part)

    def vessels(self, window: Window, min_width_mm: float = 0.0, max_width_mm: float = np.inf) -> dict[str, Vessels]:
        """Both trees in a window, by kind, as `rasterise` draws them."""
        return {kind: rasterise(tree, window, min_width_mm, max_width_mm) for kind, tree in self.trees.items()}


def _rng(key: tuple[int, int, int], stream: str, *part: int) -> Generator:
    return np.random.default_rng([*key, ranges.RANDOM_STREAMS[stream], *part])


def random_direction(rng: Generator) -> complex:
    """A unit vector, uniform on the circle."""
    return np.exp(2j * np.pi * rng.random())


def _point_in_circle(rng: Generator) -> complex:
    return complex(np.sqrt(rng.random()) * random_direction(rng))


def values_from(rng: Generator, limits: dict[str, tuple[float, float]]) -> dict[str, float]:
    """A value from each range: uniform, or log-uniform if in ranges.LOGARITHMIC. Changing a range changes no other."""
    values = {}
    for name, (low, high) in limits.items():
        share = rng.random()
        logarithmic = name in ranges.LOGARITHMIC and low > 0
        values[name] = low * (high / low) ** share if logarithmic else low + (high - low) * share
    return values


def grow_anatomy(rng: Generator, limits: dict[str, tuple[float, float]]) -> Anatomy:
    """Place disc and fovea and grow both trees; `limits` is ranges.SET_GROWTH or ranges.STREAM_GROWTH."""
    parameters = values_from(rng, limits)
    disc = complex(rng.uniform(*ranges.DISC_FOVEA_MM), -rng.uniform(*ranges.DISC_ABOVE_FOVEA_MM))
    axes = tuple(axis * parameters["disc_scale"] / 2 for axis in ranges.DISC_AXES_MM)
    faz_radius = rng.uniform(*ranges.FAZ_DIAMETER_MM) / 2
    growth = Growth(rng, parameters, disc, sum(axes) / 2, rng.uniform(*ranges.ARCADE_RADIUS_MM), faz_radius)
    return Anatomy(disc, axes, faz_radius, {kind: growth.grow(kind) for kind in ("artery", "vein")})


def make_eye(subject: int, eye: str, seed: int = 0) -> Eye:
    """An eye of the simulated set; the same subject, eye ("OD" or "OS") and seed always give the same one.

    Raises ValueError for another eye, and for a negative subject or seed.
    """
    key = (seed, subject, EYES.index(eye))
    rng = _rng(key, "eye")
    anatomy = grow_anatomy(rng, ranges.SET_GROWTH)
    centre = complex(rng.uniform(*ranges.FIELD_CENTRE_MM), rng.normal(0, 0.3))
    if eye == "OS":
        anatomy, centre = anatomy.moved(lambda points: -np.conj(points)), -centre.conjugate()
    field = Circle(centre, rng.uniform(*ranges.FIELD_RADIUS_MM))
    appearance = values_from(_rng(key, "appearance"), ranges.SET_APPEARANCE)
    features = frozenset({"motion"} if rng.random() < ranges.STREAM_SHARE["motion"] else ())
    return Eye(**vars(anatomy), key=key, field=field, light=field, appearance=appearance, features=features)


def crop_window(eye: Eye, region: str) -> Window:
    """Where the set's crop of a region ("disc" or "macula") lies."""
    middle = eye.disc if region == "disc" else 0j
    jitter = complex(*eye.rng(region).uniform(-1, 1, 2)) * ranges.CROP_JITTER_MM[region]
    return Window(middle + jitter, CROP_MM[region], CROP_PX)


@lru_cache(maxsize=4)
def _stream_anatomy(seed: int, tree: int) -> Anatomy:
    """Shared by TREE_SHARED_BY consecutive eyes; after a change of ranges.STREAM_GROWTH, call its `cache_clear`."""
    return grow_anatomy(_rng((seed, tree, 2), "tree"), ranges.STREAM_GROWTH)


def make_stream_eye(seed: int, number: int, pixels: int) -> tuple[Eye, Window]:
    """The `number`-th eye of a seed's stream, and the window, `pixels` along a side, in which it is seen."""
    key = (seed, number, 2)
    appearance = values_from(_rng(key, "appearance"), ranges.STREAM_APPEARANCE)
    rng = _rng(key, "features")
    features = frozenset(name for name, share in ranges.STREAM_SHARE.items() if rng.random() < share)
    rng = _rng(key, "place")
    widths = (appearance["calibre"] * appearance["artery_calibre"], appearance["calibre"])
    anatomy = _stream_anatomy(seed, number // TREE_SHARED_BY).moved(_random_move(rng), widths)
    side = pixels / appearance["px_per_mm"]
    place = rng.choice(3, p=ranges.PLACES)
    middle = (anatomy.disc, 0j, 0.4 * anatomy.disc)[place]
    reach = (0.6 * side, 0.25 * side, 5.0)[place]  # mm
    centre = complex(middle + reach * _point_in_circle(rng))
    radius = rng.uniform(*ranges.STREAM_FIELD_RADIUS_MM)
    direction = random_direction(rng)
    inwards = rng.uniform(0.12, 0.5) * side  # from the window's middle to the border
    field = Circle(complex(centre + direction * (inwards - radius)), radius)
    if "border" not in features:
        field = Circle(centre, np.inf)
    if "passing" in features and abs(anatomy.disc - centre) > 0.8 * side:  # nothing passes over a disc
        anatomy = _with_passing(rng, anatomy, centre, side)
    light = Circle(complex(field.centre + 0.4 * radius * _point_in_circle(rng)), max(radius, 0.6 * side))
    eye = Eye(**vars(anatomy), key=key, field=field, light=light, appearance=appearance, features=features)
    return eye, Window(centre, side, pixels)


def _random_move(rng: Generator) -> Callable[[np.ndarray], np.ndarray]:
    """A random reflection, rotation about the fovea, and smooth warp that leaves the fovea in its place."""
    mirrored = rng.random() < 0.5
    turn = random_direction(rng)
    waves = [
        (rng.uniform(4, 10), random_direction(rng), 2 * np.pi * rng.random(), _point_in_circle(rng)) for _ in range(3)
    ]  # length in mm, direction, phase, displacement

    def warp(points: np.ndarray) -> np.ndarray:
        moved = points * turn
        for length, direction, phase, displacement in waves:
            swing = np.sin((points * np.conj(direction)).real * (2 * np.pi / length) + phase)
            moved = moved + ranges.WARP * length * displacement * swing
        return moved

    return lambda points: warp(np.conj(points) if mirrored else points) - warp(np.zeros(1, complex))


def _with_passing(rng: Generator, anatomy: Anatomy, centre: complex, side: float) -> Anatomy:
    """Add the trees again, somewhat thinner, from a disc outside the window: vessels that only pass through."""
    source = centre + (0.75 * side + rng.uniform(0.3, 2.5)) * random_direction(rng)
    turn = random_direction(rng)
    passing = anatomy.moved(lambda points: (points - anatomy.disc) * turn + source, tuple(rng.uniform(0.4, 0.9, 2)))
    return replace(anatomy, trees={kind: tree.join(passing.trees[kind]) for kind, tree in anatomy.trees.items()})


def disc_distance(eye: Eye, window: Window) -> np.ndarray:
    """Distance from the disc's centre in units of its somewhat irregular radius: 1 at its edge; (pixels, pixels)."""
    rng = eye.rng("disc edge")
    offset = eye.from_disc(window.coarser(2).points())
    around = offset / np.maximum(abs(offset), 1e-6)
    radius = np.ones(offset.shape, np.float32)
    harmonic = around
    for order in (2, 3, 4, 5):
        harmonic = harmonic * around
        radius += (harmonic * np.complex64(rng.normal(0, 0.03 / order**0.5) * random_direction(rng))).real
    distance = np.hypot(offset.real / eye.disc_axes[0], offset.imag / eye.disc_axes[1]) / radius
    return enlarge(distance, window.pixels)


def border_distance(eye: Eye, window: Window) -> np.ndarray:
    """How far each pixel lies inside the field of view, in px, negative outside: (pixels, pixels) float32."""
    centre, radius = eye.field  # an infinite radius: the window shows no border
    offset = window.points() - centre
    distance = radius - abs(offset)
    if "cut" in eye.features:
        rng = eye.rng("cut")
        axis = 1j if rng.random() < 0.7 else 1  # above and below, or left and right
        middle = abs(((window.centre - centre) * axis).real)
        half = max(rng.uniform(0.72, 0.95) * radius, middle + 0.12 * window.side_mm)  # the middle stays in the field
        distance = np.minimum(distance, half - abs((offset * np.complex64(axis)).real))
    return (distance * window.px_per_mm).astype(np.float32)


def smooth_noise(rng: Generator, window: Window, cell_mm: float, across_mm: float | None = None) -> np.ndarray:
    """A random cubic B-spline surface over the retina, seen through `window`: (pixels, pixels), mean 0, std 1.

    Its knots are `cell_mm` apart along y and `across_mm`, or the same, along x. Windows on the same eye that start from
    the same generator state see the same surface.
    """
    extent = 2 * (DOMAIN_RADIUS_MM + 1.6)  # the surface repeats outside
    x, y = window.axes()
    cells = (cell_mm, across_mm or cell_mm)
    knots = rng.standard_normal([int(np.ceil(extent / cell)) + 4 for cell in cells], np.float32)

    def blend(knots: np.ndarray, along: np.ndarray) -> np.ndarray:
        """The surface at some positions, in cells, along the first axis of its knots."""
        first = np.floor(along).astype(int)
        t = (along - first).astype(np.float32)[:, np.newaxis]
        weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (t + t**2 - t**3) + 1, t**3)
        return sum(weight / 6 * knots[(first + k) % len(knots)] for k, weight in enumerate(weights))

    surface = blend(blend(knots, y / cells[0]).T.copy(), x / cells[1]).T
    return np.ascontiguousarray(surface) / np.float32(0.48)  # an expected std of 0.48 -> 1


def smear(noise: np.ndarray, along: np.ndarray, step: float, doublings: int) -> np.ndarray:
    """Stretch noise along directions (complex unit vectors, on fewer points), by 2^doublings steps in px; std 1."""
    pixels = noise.shape[0]
    dx, dy = enlarge(along.real, pixels), enlarge(along.imag, pixels)
    rows, columns = np.indices(noise.shape, np.int32)
    for _ in range(doublings):
        row = (rows + np.rint(step * dy).astype(np.int32)).clip(0, pixels - 1)
        column = (columns + np.rint(step * dx).astype(np.int32)).clip(0, pixels - 1)
        noise = noise + noise.ravel().take(row * pixels + column)
        step *= 2
    return noise / noise.std()


def enlarge(coarse: np.ndarray, pixels: int) -> np.ndarray:
    """A smooth map that was computed on fewer points, (n, n) -> (pixels, pixels) float32."""
    return resized(coarse.astype(np.float32), (pixels, pixels), Resampling.BICUBIC)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(values, -30, 30)))
