"""Vessel trees: `Growth` grows an artery and a vein tree, `rasterise` turns a tree into pixels of a window.

The trees leave the disc, arch around the fovea and avoid each other. Coordinates, here and in the other modules, are
millimetres on the retina, x to the right and y downwards, the fovea at the origin; a point is the complex number
x + iy.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

DOMAIN_CENTRE = 0.8 + 0j  # the trees fill a circle that contains every field and every crop
DOMAIN_RADIUS_MM = 7.7
MURRAY_EXPONENT = 2.7  # r0^e = r1^e + r2^e; Murray 1926 has 3, retinal measurements lie somewhat below
STEM_WIDTH_MM = {"artery": (0.10, 0.13), "vein": (0.135, 0.175)}  # veins are about a third wider
SMALL_WIDTH_MM = (0.045, 0.075)  # small vessels that leave the disc on their own, to its nasal and temporal side
MIN_WIDTH_MM = 0.009  # a capillary: here a tree dissolves into the mesh
THIN_PX = 0.7  # smallest radius that can be drawn without gaps
STEP_MM = 0.05  # about four pixels of a disc crop: no corners show
BRANCH_ANGLE_DEG = (25.0, 65.0)  # between two sisters
BRANCH_GAP_MM = (0.3, 1.3)  # of a vessel 40 um wide; thin ones branch sooner, trunks later
FIBRE_STREAM_PER_MM = 0.23  # bends the arcades to the temporal side; more would leave the nasal side empty
MACULAR_RIM_MM = 1.0  # arcades up to here beyond their usual radius send branches to the fovea
MAX_BRANCHES = 3000  # of a tree; trees have 500 to 1,000, so this only stops runaway growth


@dataclass(frozen=True)
class Window:
    """A square piece of retina: centre (x + iy) and side in mm, and the pixels along a side."""

    centre: complex
    side_mm: float
    pixels: int

    @property
    def px_per_mm(self) -> float:
        return self.pixels / self.side_mm

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """The pixel centres' x and y in mm, each (pixels,)."""
        along = (np.arange(self.pixels) + 0.5) / self.px_per_mm - self.side_mm / 2
        return self.centre.real + along, self.centre.imag + along

    def points(self) -> np.ndarray:
        """The pixel centres as complex numbers, (pixels, pixels) complex64."""
        x, y = self.axes()
        return (x[None, :] + 1j * y[:, None]).astype(np.complex64)

    def coarser(self, factor: int) -> "Window":
        """The same piece with fewer pixels: enough for maps that change slowly, and cheaper."""
        return Window(self.centre, self.side_mm, max(self.pixels // factor, 8))


@dataclass(frozen=True)
class Tree:
    """One vessel tree as polylines between branchings, all in flat arrays.

    points: (n,) complex, mm. radii: (n,) mm. branch: (n,) the number of each point's branch, in rising order; a
    branch's first point repeats the last of its parent.
    """

    points: np.ndarray
    radii: np.ndarray
    branch: np.ndarray

    def join(self, other: "Tree") -> "Tree":
        ours = (self.points, self.radii, self.branch)
        theirs = (other.points, other.radii, other.branch + self.branch[-1] + 1)
        return Tree(*map(np.concatenate, zip(ours, theirs, strict=True)))


def _wrap(angle: np.ndarray) -> np.ndarray:
    """Bring angles to -pi ... pi."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def fibre_direction(points: np.ndarray, disc: complex, radius: float) -> np.ndarray:
    """Unit vectors (complex, shape of `points`) along which vessels and nerve fibres leave the disc.

    They follow the flow from a source in the disc around a cylinder at the fovea (Milne-Thomson's circle theorem), in a
    weak stream to the temporal side: they leave the disc to all sides and arch around the macula. Within `radius` mm of
    the fovea they point outwards.
    """
    towards = disc / abs(disc)
    z = points / towards  # the disc on the positive real axis
    z = np.where(abs(z) < 1e-6, 1e-6, z)
    depth = np.maximum(1 - abs(z) / radius, 0)  # how far within the circle
    outwards = z / abs(z)
    z = np.where(depth > 0, 1.02 * radius * outwards, z)
    source = abs(disc)
    velocity = 1 / (z - source + 1e-6j) + 1 / (z - radius**2 / source) - 1 / z
    velocity = velocity - FIBRE_STREAM_PER_MM * (1 - radius**2 / z**2)
    flow = np.conj(velocity)
    flow = flow / abs(flow) + 1.5 * depth * outwards
    return flow / abs(flow) * towards


@dataclass
class Shoots:
    """The growing ends of a tree, in arrays of one length; `select` keeps some, `join` adds others."""

    point: np.ndarray  # complex, mm
    heading: np.ndarray  # radians
    offset: np.ndarray  # radians that its own heading deviates from the fibres'
    curl: np.ndarray  # radians per mm: the present wandering
    radius: np.ndarray  # mm
    gap: np.ndarray  # mm to the next branching
    side: np.ndarray  # side of the last branch, 1 or -1: they tend to alternate
    inward: np.ndarray  # True: a macular vessel, drawn to the fovea
    branch: np.ndarray  # number

    def select(self, chosen: np.ndarray) -> "Shoots":
        return Shoots(**{name: values[chosen] for name, values in vars(self).items()})

    def join(self, other: "Shoots") -> "Shoots":
        return Shoots(**{name: np.concatenate([values, getattr(other, name)]) for name, values in vars(self).items()})


@dataclass
class Growth:
    """Grows an eye's two trees; all shoots of a tree take each step together.

    A shoot wanders with persistence, is drawn to the direction of the fibres, and keeps away from existing vessels
    (most from those of its own tree). That spreads the trees evenly and prevents tangles.
    """

    CELL_MM = 0.15  # of the grid that remembers where vessels are
    STAMP = np.exp(-(np.add.outer(np.arange(-2, 3) ** 2, np.arange(-2, 3) ** 2)) / 2.0)  # (5, 5)

    rng: Generator
    parameters: dict[str, float]  # a value for each of ranges.GROWTH
    disc: complex
    disc_radius: float  # mm, as the others
    arcade_radius: float
    faz_radius: float

    def __post_init__(self):
        self.source = self.disc + 0.25  # vessels leave somewhat to the nasal side of the disc's middle
        self.cells = int(2 * (DOMAIN_RADIUS_MM + 1.5) / self.CELL_MM)
        self.others = np.zeros((self.cells, self.cells))  # how crowded: vessels of the trees already grown
        # Headings of the upper and lower stems, shared by both trees: arteries and veins run loosely in pairs.
        self.stems = self.rng.uniform(-1, 1, 2) * self.parameters["stem_spread"]

    def grow(self, kind: str) -> Tree:
        """Grow the "artery" or the "vein" tree."""
        self.own = np.zeros_like(self.others)
        self.branches = 0
        shoots = self._roots(kind)
        steps = [(shoots.branch, shoots.point, shoots.radius)]
        while shoots.branch.size:
            shoots, forked = self._fork(shoots)
            if forked is not None:
                steps.append((forked.branch, forked.point, forked.radius))
            self._step(shoots)
            self._remember(shoots.point, shoots.radius)
            steps.append((shoots.branch, shoots.point, shoots.radius))
            alive = (shoots.radius > MIN_WIDTH_MM / 2) & (abs(shoots.point - DOMAIN_CENTRE) < DOMAIN_RADIUS_MM)
            shoots = shoots.select(alive & (abs(shoots.point) > self.faz_radius + 0.06))
        self.others = self.others + 0.25 * self.own
        branch, points, radii = (np.concatenate(column) for column in zip(*steps, strict=True))
        order = np.argsort(branch, kind="stable")
        return Tree(points[order], radii[order], branch[order])

    def _roots(self, kind: str) -> Shoots:
        """An upper and a lower stem from the middle of the disc, and a few small branches to either side."""
        rng = self.rng
        shift = -0.10 if kind == "vein" else 0.08
        hilum = self.disc + complex(0.1 + shift, rng.normal(0, 0.05))
        most = self.parameters
        nasal, temporal = (int(rng.integers(1, 2 + most[name])) for name in ("nasal_branches", "temporal_branches"))
        stems = np.array([-np.pi / 2, np.pi / 2]) + self.stems + rng.normal(0, 0.25, 2)
        to_nasal = rng.uniform(-0.2, 0.2) + 0.5 * (np.arange(nasal) - (nasal - 1) / 2) + rng.normal(0, 0.12, nasal)
        to_temporal = np.pi + rng.uniform(-0.7, 0.7) + 0.7 * np.arange(temporal) + rng.normal(0, 0.12, temporal)
        heading = np.concatenate([stems, to_nasal, to_temporal])
        count = heading.size
        radius = rng.uniform(*SMALL_WIDTH_MM, count) / 2
        radius[:2] = rng.uniform(*STEM_WIDTH_MM[kind], 2) / 2
        # They surface around the cup's nasal side, not from one point.
        start = hilum + np.exp(1j * heading) * rng.uniform(0.04, 0.2, count) * self.disc_radius
        side = rng.choice([-1.0, 1.0], count)
        roots = self._shoots(start, heading, np.zeros(count), radius, side, np.zeros(count, bool))
        roots.gap[:2] = rng.uniform(0.3, 0.75, 2)  # stems split about the disc's edge
        return roots

    def _shoots(self, point, heading, offset, radius, side, inward) -> Shoots:
        """New shoots with their own numbers; each argument (shoots,), as in Shoots."""
        first, self.branches = self.branches, self.branches + point.size
        curl = np.zeros(point.size)
        gap = self.rng.uniform(*BRANCH_GAP_MM, point.size) * np.clip(radius / 0.02, 0.7, 1.6)
        gap *= self.parameters["spacing"]
        arcade = (abs(point) < self.arcade_radius + MACULAR_RIM_MM) & (radius > 0.02)
        gap = np.where(arcade, 0.6 * gap, gap)  # they feed the macula
        return Shoots(point, heading, offset, curl, radius, gap, side, inward, np.arange(first, self.branches))

    def _fork(self, shoots: Shoots) -> tuple[Shoots, Shoots | None]:
        """Replace every shoot whose gap is used up by two; returns all shoots, and the new ones if there are any."""
        due = (shoots.gap <= 0) & (shoots.radius > 1.3 * MIN_WIDTH_MM / 2)
        if not due.any() or self.branches > MAX_BRANCHES:
            return shoots, None
        old = shoots.select(due)
        count = old.branch.size
        stem = np.isin(old.branch, [0, 1])
        macular = abs(old.point) < self.arcade_radius + MACULAR_RIM_MM
        rng = self.rng
        # The side branch's share of the parent's r^e, 0 to 0.5
        equal = rng.random(count) < np.where((old.radius > 0.03) | old.inward, 0.1, 0.3)  # trunks rarely fork
        ratio = np.where(equal, rng.uniform(0.6, 0.95, count), rng.uniform(0.25, 0.6, count))  # side to main radius
        ratio = np.where(stem, rng.uniform(0.7, 0.95, count), ratio)  # stems split into trunks of similar width
        # A branch must be wide enough to grow; those of the macula have to reach the fovea.
        ratio = np.maximum(ratio, np.minimum(np.where(macular & (old.radius > 0.02), 0.02, 0.0055) / old.radius, 0.6))
        share = ratio**MURRAY_EXPONENT / (1 + ratio**MURRAY_EXPONENT)
        # The side to which the branch leaves: 1 turns to larger headings, -1 to smaller ones
        side = np.where(rng.random(count) < 0.75, -old.side, old.side)
        inner = np.sign(np.sin(np.angle(-old.point) - old.heading))  # most macular branches head for the fovea
        side = np.where(macular & (rng.random(count) < 0.65), inner, side)
        # The wider of a stem's trunks goes to the arcade, in a right eye to the left, the other to the nasal side.
        side = np.where(stem, np.where(np.sin(old.heading) < 0, 1.0, -1.0), side)
        angle = side * np.deg2rad(rng.uniform(*BRANCH_ANGLE_DEG, count))
        turn_main, turn_small = -angle * share, angle * (1 - share)  # the wider sister deviates less
        offset_main, offset_small = old.offset + 0.6 * turn_main, old.offset + turn_small
        # Trunks head for the arcades and for the nasal side, wherever their stem has strayed.
        fibres = np.angle(fibre_direction(old.point, self.source, self.arcade_radius))
        offset_main = np.where(stem, _wrap(-side * rng.uniform(2.2, 2.55, count) - fibres), offset_main)
        offset_small = np.where(stem, _wrap(-side * rng.uniform(0.7, 1.4, count) - fibres), offset_small)
        # Murray's law: r0^e = r1^e + r2^e
        radius_main = old.radius * (1 - share) ** (1 / MURRAY_EXPONENT)
        radius_small = old.radius * share ** (1 / MURRAY_EXPONENT)
        inward = abs(_wrap(old.heading + turn_small - np.angle(-old.point))) < 1.2
        inward = old.inward | (inward & (abs(old.point) < 4.5) & (radius_small < 0.03))
        main = self._shoots(old.point, old.heading + turn_main, offset_main, radius_main, side, old.inward)
        main.curl = old.curl
        side = rng.choice([-1.0, 1.0], count)
        small = self._shoots(old.point, old.heading + turn_small, offset_small, radius_small, side, inward)
        born = main.join(small)
        return shoots.select(~due).join(born), born

    def _step(self, shoots: Shoots) -> None:
        """Take one step, in place."""
        rng, winding = self.rng, self.parameters["tortuosity"]
        thin = np.maximum(1 - shoots.radius / 0.04, 0)
        # An autoregressive curl: vessels swing over about half a millimetre, thin ones more.
        shoots.curl = 0.88 * shoots.curl + rng.normal(0, 1, shoots.curl.size) * (0.25 + 0.48 * thin) * winding
        fibres = fibre_direction(shoots.point, self.source, self.arcade_radius)
        fibres = np.where(shoots.inward, -shoots.point / abs(shoots.point), fibres)
        astray = _wrap(np.angle(fibres) + shoots.offset - shoots.heading)
        pull = np.where(shoots.inward, 2.0, 1.0 + 0.7 * (1 - thin)) * self.parameters["pull"]
        pull = pull * np.minimum(abs(shoots.point - self.source) / self.disc_radius, 1)  # weak within the disc
        ahead = (self._cell(shoots.point + 0.35 * np.exp(1j * (shoots.heading + turn))) for turn in (-0.7, 0.7))
        left, right = (self.own[cell] + self.others[cell] for cell in ahead)
        crowd = (left + right) / 2
        away = np.minimum(np.maximum(left - right, -1.5), 1.5) * (0.6 + 1.6 * thin)
        shoots.heading = shoots.heading + STEP_MM * (shoots.curl + pull * astray + away)
        shoots.offset = shoots.offset * np.exp(-STEP_MM / 4.0)
        jitter = rng.normal(0, 1, thin.size) * ((0.06 + 0.20 * thin) * winding)  # kinks; thin vessels have more
        shoots.point = shoots.point + STEP_MM * np.exp(1j * (shoots.heading + jitter))
        # In a crowd a thin vessel soon dissolves into the mesh; elsewhere tapers are slow.
        crowded = np.minimum(np.maximum(crowd - np.where(shoots.inward, 0.9, 0.6), 0), 1.5) * thin
        taper = 0.03 + np.where(shoots.inward, 0.02, 0.15) * thin + 1.2 * crowded
        taper = taper + 2 * np.maximum(1 - (abs(shoots.point) - self.faz_radius) / 0.7, 0)
        shoots.radius = shoots.radius * np.exp(-STEP_MM * taper)
        shoots.gap = shoots.gap - STEP_MM * np.maximum(1.5 - crowd, 0.5)

    def _cell(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row and column in the grid: no vessel leaves the domain by more than a step, and the grid has 1.5 mm more."""
        middle = self.cells / 2
        column = ((points.real - DOMAIN_CENTRE.real) / self.CELL_MM + middle).astype(int)
        row = ((points.imag - DOMAIN_CENTRE.imag) / self.CELL_MM + middle).astype(int)
        return row, column

    def _remember(self, points: np.ndarray, radii: np.ndarray) -> None:
        row, column = self._cell(points)
        reach = np.arange(-2, 3)
        cells = (row[:, None, None] + reach[:, None], column[:, None, None] + reach)
        # The disc itself is always crowded and must not scatter the trunks.
        weight = np.clip(abs(points - self.disc) / self.disc_radius - 0.6, 0, 1) * np.clip(radii / 0.02, 0.4, 1.5)
        np.add.at(self.own, cells, weight[:, None, None] * self.STAMP * STEP_MM / self.CELL_MM)


@dataclass(frozen=True)
class Vessels:
    """Vessels in a window, each array (pixels, pixels).

    depth: distance in px from the nearest vessel's edge, negative outside. centrality: 1 on a centreline, 0 at an edge
    and beyond. radius: the vessel's radius in px, 0 where none is near. Vessels thinner than about a pixel are drawn
    with a radius of THIN_PX; `radius` keeps their true radius.
    """

    depth: np.ndarray
    centrality: np.ndarray
    radius: np.ndarray

    @property
    def coverage(self) -> np.ndarray:
        """The share of each pixel that is vessel, in [0, 1]."""
        return np.clip(self.depth + 0.5, 0, 1)

    @property
    def thickness(self) -> np.ndarray:
        """Length in px of the light's path through the vessels, taken as round tubes."""
        chord = 2 * self.radius * np.sqrt(np.clip(1 - (1 - self.centrality) ** 2, 0, 1))
        return chord * np.minimum(self.radius / THIN_PX, 1)  # thinner where the vessel is drawn too wide

    def merge(self, other: "Vessels") -> "Vessels":
        return Vessels(**{name: np.maximum(values, getattr(other, name)) for name, values in vars(self).items()})


def rasterise(tree: Tree, window: Window, min_width_mm: float = 0.0, max_width_mm: float = np.inf) -> Vessels:
    """Draw the vessels of a tree that are at least `min_width_mm` and less than `max_width_mm` wide."""
    points, radii = _dense_points(tree, window, min_width_mm, max_width_mm)
    margin = int(np.ceil(radii.max(initial=1))) + 2
    pad = 2 * margin  # so that no circle reaches beyond the padded picture
    size = window.pixels + 2 * pad
    maps = [np.full(size * size, nowhere, np.float32) for nowhere in (-1, 0, 0)]  # depth, centrality, radius
    low, high = -margin, window.pixels + margin
    seen = (points.real > low) & (points.real < high) & (points.imag > low) & (points.imag < high)
    points, radii = points[seen], radii[seen]
    reach = np.ceil(np.maximum(radii, THIN_PX) + 1).astype(int)
    for half in np.unique(reach):
        _stamp(maps, points[reach == half], radii[reach == half], int(half), pad, size)
    return Vessels(*(values.reshape(size, size)[pad:-pad, pad:-pad] for values in maps))


def _dense_points(tree: Tree, window: Window, min_width: float, max_width: float) -> tuple[np.ndarray, np.ndarray]:
    """Points on the centrelines in px, so close that the circles around them merge, and their radii in px."""
    start, end = tree.points[:-1], tree.points[1:]
    corner = window.centre - (1 + 1j) * window.side_mm / 2
    middle = (start + end) / 2 - window.centre
    margin = window.side_mm / 2 + 0.3
    width = 2 * tree.radii[1:]
    chosen = (tree.branch[1:] == tree.branch[:-1]) & (width >= min_width) & (width < max_width)
    chosen &= (abs(middle.real) < margin) & (abs(middle.imag) < margin)
    start, end = start[chosen], end[chosen]
    first, last = tree.radii[:-1][chosen], tree.radii[1:][chosen]
    scale = window.px_per_mm
    spacing = np.maximum(0.5, 0.25 * last * scale)  # px
    counts = np.maximum(1, np.ceil(abs(end - start) * scale / spacing)).astype(int)
    segment = np.repeat(np.arange(counts.size), counts)
    within = np.arange(segment.size) - np.repeat(np.cumsum(counts) - counts, counts)
    along = (within + 0.5) / counts[segment]
    points = (start[segment] + along * (end - start)[segment] - corner) * scale - (0.5 + 0.5j)
    return points, (first[segment] + along * (last - first)[segment]) * scale


def _stamp(maps: list[np.ndarray], points: np.ndarray, radii: np.ndarray, half: int, pad: int, size: int) -> None:
    """Give each pixel, in place, the largest depth, centrality and radius among the circles that reach it."""
    reach = np.arange(-half, half + 1)
    column, row = np.rint(points.real).astype(int), np.rint(points.imag).astype(int)
    dx = (reach[None, :] + (column - points.real)[:, None]).astype(np.float32)  # (points, 2 half + 1)
    dy = (reach[None, :] + (row - points.imag)[:, None]).astype(np.float32)
    distance = np.sqrt(dy[:, :, None] ** 2 + dx[:, None, :] ** 2)  # (points, 2 half + 1, 2 half + 1)
    drawn = np.maximum(radii, THIN_PX).astype(np.float32)[:, None, None]
    near = distance < drawn + 1
    index = (row[:, None, None] + reach[:, None] + pad) * size + column[:, None, None] + reach + pad
    index = index[near]
    inward = (drawn - distance)[near]
    np.maximum.at(maps[0], index, inward)
    np.maximum.at(maps[1], index, inward / np.broadcast_to(drawn, near.shape)[near])
    np.maximum.at(maps[2], index, np.broadcast_to(radii.astype(np.float32)[:, None, None], near.shape)[near])
