"""Sample retinas: colour fundus, OCT-A and true vessel map of eyes that never were.

Who has no UT-FSOCTA data can still train, synthesise and evaluate on these. A retina is drawn once as geometry in
millimetres (disc, fovea, an artery and a vein tree), then photographed three times: a 400 x 400 crop at the optic disc
and one at the macula, each as fundus, OCT-A and truth, and a 45-degree fundus field. Everything follows from the seed;
an eye does not depend on which others are made. One eye per subject: OD (right) for odd ids, OS (left) for even ones.

    python phantom_retina.py --output data/phantom
    python phantom_retina.py --output data/phantom --subjects 1-12,26-28,31-36 --seed 7
    python phantom_retina.py --preview phantom.png

--output writes, in the layout and with the names of UT-FSOCTA,

    DIR/cropped/fundus/{disc,macula}/<subject>_<eye>.png    RGB
    DIR/cropped/octa/{disc,macula}/<subject>_<eye>.png      RGBA, alpha 255
    DIR/cropped/truth/{disc,macula}/<subject>_<eye>.png     grey, 255 in the vessels of the two trees, else 0
    DIR/fov45/fundus/<subject>_<eye>.jpg                    RGB, round field on black

and --preview one contact sheet. Coordinates are millimetres on the retina, x to the right and y downwards as in the
picture, with the origin at the fovea; a point is also written as the complex number x + iy.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import count, cycle
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates, uniform_filter
from tqdm import tqdm

DEFAULT_SUBJECTS = "1-12,26-28,31-36"  # some of each published split: train 1-25, validation 26-30, test 31-112
MAX_SUBJECTS = 100_000  # a longer list is a slip of the keyboard
PREVIEW_EYES = 4
PREVIEW_TILE_PX = 260

EYES = ("OD", "OS")
REGIONS = ("disc", "macula")

# ---- Pictures
CROP_PX = 400  # UT-FSOCTA's crops
CROP_MM = {"disc": 4.5, "macula": 6.0}  # AngioVue's usual scans at the two places
CROP_JITTER_MM = {"disc": 0.35, "macula": 0.25}  # no two scans are centred alike
FIELD_PX = 1000
FIELD_MM = 13.2  # side of the full-field picture: 45 degrees are about 13 mm on the retina of an average eye
FIELD_RADIUS_MM = (6.2, 6.55)
FIELD_CENTRE_MM = (-0.4, 2.0)  # nasal of the fovea; some fields end within the disc crop, as real ones do
JPEG_QUALITY = 88  # of the camera's own files, from which the crops are cut

# ---- Anatomy
DISC_FOVEA_MM = (4.4, 4.9)  # centre to centre
DISC_ABOVE_FOVEA_MM = (0.15, 0.6)
DISC_AXES_MM = (1.7, 1.85)  # horizontal and vertical diameter; each eye scales them by DISC_SCALE
DISC_SCALE = (0.88, 1.08)
FAZ_DIAMETER_MM = (0.4, 0.6)  # foveal avascular zone of the superficial plexus
ARCADE_RADIUS_MM = (1.8, 2.4)  # the arcades bend around a disc of this radius about the fovea
DOMAIN_CENTRE = 0.8 + 0j  # the trees fill a disc that holds every field and every crop
DOMAIN_RADIUS_MM = 7.7

# ---- Vessel trees
MURRAY_EXPONENT = 2.7  # r0^e = r1^e + r2^e; Murray 1926 has 3, retinal measurements lie somewhat below
STEM_WIDTH_MM = {"artery": (0.10, 0.13), "vein": (0.135, 0.175)}  # veins are about a third wider
TWIG_WIDTH_MM = (0.045, 0.075)  # small vessels that leave the disc on their own, to its nasal and temporal side
MIN_WIDTH_MM = 0.009  # a capillary: here a tree dissolves into the mesh
FUNDUS_MIN_WIDTH_MM = 0.012  # thinner vessels can't be seen in a full field
TRUTH_MIN_WIDTH_MM = 0.02  # thinner vessels can't be told from the mesh in OCT-A
STEP_MM = 0.05  # about four pixels of a disc crop: no corners show
BRANCH_ANGLE_DEG = (25.0, 65.0)  # between two sisters
BRANCH_GAP_MM = (0.3, 1.3)  # of a vessel 40 um wide; thin ones branch sooner, trunks later
FIBRE_STREAM_PER_MM = 0.23  # bends the arcades to the temporal side; more would leave the nasal side empty
MACULAR_RIM_MM = 1.0  # arcades up to here beyond their usual radius send branches to the fovea
MAX_BRANCHES = 3000  # of a tree; they have 500 to 1,000, so this only guards against a run-away

# ---- Light
ABSORBANCE = {"artery": (0.9, 6.5, 5.0), "vein": (2.4, 9.0, 7.0)}  # of red, green, blue, per mm of blood (natural log)
REFLEX = {"artery": 0.32, "vein": 0.06}  # brightness of the stripe along a wide vessel, as a share of the fundus

# ---- One stream of random numbers for each thing that is drawn, so that none depends on what was drawn before.
# (No zero: NumPy takes [1, 2] and [1, 2, 0] for the same seed.)
STREAMS = {"eye": 1, "disc edge": 2, "background": 3, "faz edge": 4, "disc": 5, "macula": 6, "full field": 7}


def parse_subjects(text: str) -> list[int]:
    """Read a list of subject ids such as "1-12,26,31-36".

    Returns the ids, sorted, each once. Raises ValueError, in one line, for anything else, ids below 1 and more than
    100,000 ids included.
    """
    subjects: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", part)
        if not match:
            raise ValueError(f"{text!r} is not a list of subject ids: write it like 1-12,26,31-36")
        first = int(match[1])
        last = int(match[2] or first)
        if first < 1 or last < first:
            raise ValueError(f"{text!r} holds {part.strip()!r}: ids start at 1 and ranges rise, like 1-12,26,31-36")
        if last - first < MAX_SUBJECTS:
            subjects.update(range(first, last + 1))
        if last - first >= MAX_SUBJECTS or len(subjects) > MAX_SUBJECTS:
            raise ValueError(f"{text!r} names more than {MAX_SUBJECTS:,} subjects: write it like 1-12,26,31-36")
    return sorted(subjects)


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


@dataclass(frozen=True)
class Tree:
    """One vessel tree as polylines between branchings, all in flat arrays.

    points: (n,) complex, mm. radii: (n,) mm. branch: (n,) the number of the branch that a point belongs to; a branch's
    points follow each other, and its first repeats the last of its parent. parent: (branches,) the number of a branch's
    parent, -1 at a root.
    """

    points: np.ndarray
    radii: np.ndarray
    branch: np.ndarray
    parent: np.ndarray


@dataclass(frozen=True)
class Eye:
    """A retina's geometry and pigment. Lengths in mm, positions x + iy from the fovea, colours in [0, 1]."""

    key: tuple[int, int, int]  # seed, subject, 0 for OD or 1 for OS
    nasal: int  # 1 if the disc is to the right of the fovea (OD), -1 if to the left (OS)
    disc: complex
    disc_axes: tuple[float, float]  # half axes, horizontal and vertical
    faz_radius: float
    field_centre: complex
    field_radius: float
    arteries: Tree
    veins: Tree
    pigment: np.ndarray  # (3,) colour of the bare fundus
    disc_colour: np.ndarray  # (3,)
    choroid: float  # how strongly the choroid mottles the fundus
    sheen: float  # how strongly nerve fibres shine
    sharpness_mm: float  # blur of the camera, one standard deviation
    noise: float  # of the camera's sensor, one standard deviation

    def rng(self, stream: str) -> np.random.Generator:
        """The random numbers of one of STREAMS, from their start."""
        return np.random.default_rng([*self.key, STREAMS[stream]])


@dataclass(frozen=True)
class Crop:
    """The three pictures of one region: fundus (400, 400, 3), octa (400, 400, 4), truth (400, 400), all uint8."""

    fundus: np.ndarray
    octa: np.ndarray
    truth: np.ndarray


# ---------------------------------------------------------------------------------------------------------- geometry


def make_eye(subject: int, eye: str, seed: int = 0) -> Eye:
    """Draw one retina. The same subject, eye ("OD" or "OS") and seed always give the same one.

    Raises ValueError for another eye, a subject below 1 or a negative seed.
    """
    if eye not in EYES:
        raise ValueError(f"eye must be OD or OS, not {eye!r}")
    if subject < 1 or seed < 0:
        raise ValueError(f"subject must be at least 1 and seed at least 0, not {subject} and {seed}")
    key = (seed, subject, EYES.index(eye))
    rng = np.random.default_rng([*key, STREAMS["eye"]])
    # Drawn as a right eye; a left one is its mirror image.
    disc = complex(rng.uniform(*DISC_FOVEA_MM), -rng.uniform(*DISC_ABOVE_FOVEA_MM))
    scale = rng.uniform(*DISC_SCALE)
    half_axes = (DISC_AXES_MM[0] * scale / 2, DISC_AXES_MM[1] * scale / 2)
    faz_radius = rng.uniform(*FAZ_DIAMETER_MM) / 2
    field_centre = complex(rng.uniform(*FIELD_CENTRE_MM), rng.normal(0, 0.3))
    growth = Growth(rng, disc, sum(half_axes) / 2, rng.uniform(*ARCADE_RADIUS_MM), faz_radius)
    arteries = growth.grow("artery")
    veins = growth.grow("vein")
    nasal = 1 if eye == "OD" else -1
    if nasal < 0:
        disc, field_centre = _mirror(disc), _mirror(field_centre)
        arteries, veins = _mirror_tree(arteries), _mirror_tree(veins)
    pigment, disc_colour = _draw_colours(rng)
    return Eye(
        key=key,
        nasal=nasal,
        disc=disc,
        disc_axes=half_axes,
        faz_radius=faz_radius,
        field_centre=field_centre,
        field_radius=rng.uniform(*FIELD_RADIUS_MM),
        arteries=arteries,
        veins=veins,
        pigment=pigment,
        disc_colour=disc_colour,
        choroid=rng.uniform(0.2, 1.0),
        sheen=rng.uniform(0.2, 1.0),
        sharpness_mm=rng.uniform(0.010, 0.026),
        noise=rng.uniform(0.008, 0.02),
    )


def _wrap(angle: np.ndarray) -> np.ndarray:
    """Bring angles to -pi ... pi."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _mirror(points: np.ndarray | complex) -> np.ndarray | complex:
    return -np.conj(points)


def _mirror_tree(tree: Tree) -> Tree:
    return Tree(_mirror(tree.points), tree.radii, tree.branch, tree.parent)


def _draw_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Colour of the bare fundus, from brown over red-orange to pale, and of the disc; each (3,) in [0, 1]."""
    red = rng.uniform(0.34, 0.66)
    green = red * rng.uniform(0.40, 0.66)
    blue = green * rng.uniform(0.30, 0.62)
    disc_red = min(0.98, red * rng.uniform(1.2, 1.5) + 0.3)
    disc_green = disc_red * rng.uniform(0.7, 0.84)
    disc_blue = disc_green * rng.uniform(0.48, 0.68)
    return _rgb(red, green, blue), _rgb(disc_red, disc_green, disc_blue)


def fibre_direction(points: np.ndarray, disc: complex, radius: float) -> np.ndarray:
    """Unit vectors (complex, shape of `points`) along which vessels and nerve fibres leave the disc.

    Lines of flow from a source in the disc, around a cylinder at the fovea (Milne-Thomson's circle theorem), in a weak
    stream to the temporal side: they leave the disc to all sides and arch around the macula. Within `radius` mm of the
    fovea they point outwards.
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
    """The growing ends of a tree, arrays of one length; `select` keeps some, `join` adds others."""

    point: np.ndarray  # complex, mm
    heading: np.ndarray  # radians
    offset: np.ndarray  # radians that its own heading deviates from the fibres'
    curl: np.ndarray  # radians per mm: the present wandering
    radius: np.ndarray  # mm
    gap: np.ndarray  # mm to the next branching
    side: np.ndarray  # side of the last branch, 1 or -1: they tend to alternate
    inward: np.ndarray  # True: a macular vessel, drawn to the fovea
    branch: np.ndarray  # number

    def select(self, chosen: np.ndarray) -> Shoots:
        return Shoots(**{name: values[chosen] for name, values in vars(self).items()})

    def join(self, other: Shoots) -> Shoots:
        return Shoots(**{name: np.concatenate([values, getattr(other, name)]) for name, values in vars(self).items()})


class Growth:
    """Grows an eye's two trees; all shoots of a tree take each step together.

    A shoot wanders with persistence, is drawn to the direction of the fibres, and keeps away from where vessels are
    already (most from those of its own tree): that spreads the trees evenly and prevents tangles.
    """

    CELL_MM = 0.15  # of the grid that remembers where vessels are
    STAMP = np.exp(-(np.add.outer(np.arange(-2, 3) ** 2, np.arange(-2, 3) ** 2)) / 2.0)  # (5, 5)

    def __init__(
        self, rng: np.random.Generator, disc: complex, disc_radius: float, arcade_radius: float, faz_radius: float
    ):
        self.rng = rng
        self.disc = disc
        self.disc_radius = disc_radius
        self.source = disc + 0.25  # vessels leave somewhat to the nasal side of the disc's middle
        self.arcade_radius = arcade_radius
        self.faz_radius = faz_radius
        self.cells = int(2 * (DOMAIN_RADIUS_MM + 1.5) / self.CELL_MM)
        self.others = np.zeros((self.cells, self.cells))  # how crowded: vessels of the trees already grown
        self.stems = rng.uniform(-0.3, 0.3, 2)  # where both trees' upper and lower stems head, loosely in pairs

    def grow(self, kind: str) -> Tree:
        """Grow the "artery" or the "vein" tree."""
        self.own = np.zeros_like(self.others)
        self.parents: list[int] = []
        shoots = self._roots(kind)
        steps = [(shoots.branch, shoots.point, shoots.radius)]
        while shoots.branch.size:
            shoots, forked = self._fork(shoots)
            if forked is not None:
                steps.append((forked.branch, forked.point, forked.radius))
            self._step(shoots)
            self._remember(shoots.point, shoots.radius)
            steps.append((shoots.branch, shoots.point, shoots.radius))
            shoots = shoots.select(self._alive(shoots))
        self.others = self.others + 0.25 * self.own
        branch, points, radii = (np.concatenate(column) for column in zip(*steps, strict=True))
        order = np.argsort(branch, kind="stable")
        return Tree(points[order], radii[order], branch[order], np.array(self.parents))

    def _roots(self, kind: str) -> Shoots:
        """An upper and a lower stem from the middle of the disc, and a few twigs to either side."""
        rng = self.rng
        shift = -0.10 if kind == "vein" else 0.08
        hilum = self.disc + complex(0.1 + shift, rng.normal(0, 0.05))
        twigs = rng.integers(1, 3, 2)  # nasal, temporal
        heading = np.concatenate(
            [
                np.array([-np.pi / 2, np.pi / 2]) + self.stems + rng.normal(0, 0.25, 2),
                rng.choice([-0.55, 0.0, 0.55], twigs[0], replace=False) + rng.normal(0, 0.12, twigs[0]),
                np.pi + rng.choice([-0.75, 0.6], twigs[1], replace=False) + rng.normal(0, 0.12, twigs[1]),
            ]
        )
        count = heading.size
        radius = rng.uniform(*TWIG_WIDTH_MM, count) / 2
        radius[:2] = rng.uniform(*STEM_WIDTH_MM[kind], 2) / 2
        start = hilum + np.exp(1j * heading) * 0.05
        side = rng.choice([-1.0, 1.0], count)
        roots = self._shoots(start, heading, np.zeros(count), radius, side, np.zeros(count, bool), np.full(count, -1))
        roots.gap[:2] = rng.uniform(0.3, 0.75, 2)  # stems split about the disc's edge
        return roots

    def _shoots(self, point, heading, offset, radius, side, inward, parent) -> Shoots:
        """New shoots with numbers of their own; each argument (shoots,), as in Shoots."""
        first = len(self.parents)
        self.parents.extend(parent.tolist())
        curl = np.zeros(point.size)
        gap = self.rng.uniform(*BRANCH_GAP_MM, point.size) * np.clip(radius / 0.02, 0.7, 1.6)
        arcade = (abs(point) < self.arcade_radius + MACULAR_RIM_MM) & (radius > 0.02)
        gap = np.where(arcade, 0.6 * gap, gap)  # they feed the macula
        return Shoots(point, heading, offset, curl, radius, gap, side, inward, np.arange(first, first + point.size))

    def _fork(self, shoots: Shoots) -> tuple[Shoots, Shoots | None]:
        """Replace every shoot whose gap is used up by two; returns all shoots, and the new ones if there are any."""
        due = (shoots.gap <= 0) & (shoots.radius > 1.3 * MIN_WIDTH_MM / 2)
        if not due.any() or len(self.parents) > MAX_BRANCHES:
            return shoots, None
        old = shoots.select(due)
        count = old.branch.size
        stem = np.isin(old.branch, [0, 1])
        macular = abs(old.point) < self.arcade_radius + MACULAR_RIM_MM
        share = self._shares(old, stem, macular)
        side = self._sides(old, stem, macular)
        angle = side * np.deg2rad(self.rng.uniform(*BRANCH_ANGLE_DEG, count))
        turn_main, turn_twig = -angle * share, angle * (1 - share)  # the wider sister deviates less
        offset_main, offset_twig = old.offset + 0.6 * turn_main, old.offset + turn_twig
        # Trunks are bound for the arcades and for the nasal side, wherever their stem has strayed.
        fibres = np.angle(fibre_direction(old.point, self.source, self.arcade_radius))
        offset_main = np.where(stem, _wrap(-side * self.rng.uniform(2.2, 2.55, count) - fibres), offset_main)
        offset_twig = np.where(stem, _wrap(-side * self.rng.uniform(0.7, 1.4, count) - fibres), offset_twig)
        # Murray's law: r0^e = r1^e + r2^e
        radius_main = old.radius * (1 - share) ** (1 / MURRAY_EXPONENT)
        radius_twig = old.radius * share ** (1 / MURRAY_EXPONENT)
        inward = abs(_wrap(old.heading + turn_twig - np.angle(-old.point))) < 1.2
        inward = old.inward | (inward & (abs(old.point) < 4.5) & (radius_twig < 0.03))
        main = self._shoots(old.point, old.heading + turn_main, offset_main, radius_main, side, old.inward, old.branch)
        main.curl = old.curl
        side_twig = self.rng.choice([-1.0, 1.0], count)
        twig = self._shoots(old.point, old.heading + turn_twig, offset_twig, radius_twig, side_twig, inward, old.branch)
        born = main.join(twig)
        return shoots.select(~due).join(born), born

    def _shares(self, old: Shoots, stem: np.ndarray, macular: np.ndarray) -> np.ndarray:
        """The side branch's share of the parent's r^e, (shoots,) in 0 ... 0.5."""
        rng, count = self.rng, old.branch.size
        equal = rng.random(count) < np.where((old.radius > 0.03) | old.inward, 0.1, 0.3)  # trunks go on, twigs fork
        ratio = np.where(equal, rng.uniform(0.6, 0.95, count), rng.uniform(0.25, 0.6, count))  # side to main radius
        ratio = np.where(stem, rng.uniform(0.7, 0.95, count), ratio)  # stems split into trunks of like width
        # A branch too thin to live would be no branch; the macula's have to reach the fovea.
        ratio = np.maximum(ratio, np.minimum(np.where(macular & (old.radius > 0.02), 0.02, 0.0055) / old.radius, 0.6))
        return ratio**MURRAY_EXPONENT / (1 + ratio**MURRAY_EXPONENT)

    def _sides(self, old: Shoots, stem: np.ndarray, macular: np.ndarray) -> np.ndarray:
        """The side that the branch leaves to, (shoots,): 1 for a growing heading, -1 for a falling one."""
        rng, count = self.rng, old.branch.size
        side = np.where(rng.random(count) < 0.75, -old.side, old.side)
        inner = np.sign(np.sin(np.angle(-old.point) - old.heading))  # most macular branches set off to the fovea
        side = np.where(macular & (rng.random(count) < 0.65), inner, side)
        # Of a stem's trunks the wider goes to the arcade, in a right eye to the left, the other to the nasal side.
        return np.where(stem, np.where(np.sin(old.heading) < 0, 1.0, -1.0), side)

    def _step(self, shoots: Shoots) -> None:
        """Take one step, in place."""
        rng = self.rng
        thin = np.maximum(1 - shoots.radius / 0.04, 0)
        # An autoregressive curl: vessels swing over about half a millimetre, thin ones more.
        shoots.curl = 0.88 * shoots.curl + rng.normal(0, 1, shoots.curl.size) * (0.25 + 0.48 * thin)
        fibres = fibre_direction(shoots.point, self.source, self.arcade_radius)
        fibres = np.where(shoots.inward, -shoots.point / abs(shoots.point), fibres)
        astray = _wrap(np.angle(fibres) + shoots.offset - shoots.heading)
        pull = np.where(shoots.inward, 2.0, 1.0 + 0.7 * (1 - thin))
        pull = pull * np.minimum(abs(shoots.point - self.source) / self.disc_radius, 1)  # within the disc they run free
        left, right = (self._crowd(shoots.point + 0.35 * np.exp(1j * (shoots.heading + turn))) for turn in (-0.7, 0.7))
        crowd = (left + right) / 2
        away = np.minimum(np.maximum(left - right, -1.5), 1.5) * (0.6 + 1.6 * thin)
        shoots.heading = shoots.heading + STEP_MM * (shoots.curl + pull * astray + away)
        shoots.offset = shoots.offset * np.exp(-STEP_MM / 4.0)
        jitter = rng.normal(0, 1, thin.size) * (0.06 + 0.20 * thin)  # the small kinks of thin vessels
        shoots.point = shoots.point + STEP_MM * np.exp(1j * (shoots.heading + jitter))
        # In a crowd a thin vessel dissolves into the mesh soon; elsewhere tapers are slow.
        crowded = np.minimum(np.maximum(crowd - np.where(shoots.inward, 0.9, 0.6), 0), 1.5) * thin
        taper = 0.03 + np.where(shoots.inward, 0.02, 0.15) * thin + 1.2 * crowded
        taper = taper + 2 * np.maximum(1 - (abs(shoots.point) - self.faz_radius) / 0.7, 0)
        shoots.radius = shoots.radius * np.exp(-STEP_MM * taper)
        shoots.gap = shoots.gap - STEP_MM * np.maximum(1.5 - crowd, 0.5)

    def _alive(self, shoots: Shoots) -> np.ndarray:
        wide = shoots.radius > MIN_WIDTH_MM / 2
        inside = abs(shoots.point - DOMAIN_CENTRE) < DOMAIN_RADIUS_MM
        return wide & inside & (abs(shoots.point) > self.faz_radius + 0.06)

    def _cell(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        middle = self.cells / 2
        # No vessel leaves the domain by more than a step, and the grid reaches 1.5 mm beyond.
        column = ((points.real - DOMAIN_CENTRE.real) / self.CELL_MM + middle).astype(int)
        row = ((points.imag - DOMAIN_CENTRE.imag) / self.CELL_MM + middle).astype(int)
        return row, column

    def _crowd(self, points: np.ndarray) -> np.ndarray:
        row, column = self._cell(points)
        return self.own[row, column] + self.others[row, column]

    def _remember(self, points: np.ndarray, radii: np.ndarray) -> None:
        row, column = self._cell(points)
        reach = np.arange(-2, 3)
        rows = row[:, None, None] + reach[:, None]
        columns = column[:, None, None] + reach
        # The disc itself is crowded by nature and must not scatter the trunks.
        weight = np.clip(abs(points - self.disc) / self.disc_radius - 0.6, 0, 1) * np.clip(radii / 0.02, 0.4, 1.5)
        np.add.at(self.own, (rows, columns), weight[:, None, None] * self.STAMP * STEP_MM / self.CELL_MM)


# ------------------------------------------------------------------------------------------------------- rasterising


@dataclass(frozen=True)
class Vessels:
    """Vessels in a window, each (pixels, pixels): depth from the nearest vessel's edge in px, negative outside, and
    centrality, 1 on a centreline and 0 at an edge and beyond."""

    depth: np.ndarray
    centrality: np.ndarray

    @property
    def coverage(self) -> np.ndarray:
        """The share of each pixel that is vessel, in [0, 1]."""
        return np.clip(self.depth + 0.5, 0, 1)

    @property
    def radius(self) -> np.ndarray:
        """Local radius in px; 0 outside."""
        return np.maximum(self.depth, 0) / np.maximum(self.centrality, 0.05)

    def merge(self, other: Vessels) -> Vessels:
        return Vessels(np.maximum(self.depth, other.depth), np.maximum(self.centrality, other.centrality))

    @property
    def thickness(self) -> np.ndarray:
        """Length in px of the light's way through the vessels, taken as round tubes."""
        return 2 * self.radius * np.sqrt(np.clip(1 - (1 - self.centrality) ** 2, 0, 1))


def rasterise(tree: Tree, window: Window, min_width_mm: float = 0.0, max_width_mm: float = np.inf) -> Vessels:
    """Draw the vessels of a tree that are at least `min_width_mm` and less than `max_width_mm` wide."""
    points, radii = _dense_points(tree, window, min_width_mm, max_width_mm)
    margin = int(np.ceil(radii.max(initial=1))) + 2
    pad = 2 * margin  # so that no disc reaches beyond the padded picture
    size = window.pixels + 2 * pad
    depth = np.full(size * size, -1.0, np.float32)
    centrality = np.zeros(size * size, np.float32)
    low, high = -margin, window.pixels + margin
    seen = (points.real > low) & (points.real < high) & (points.imag > low) & (points.imag < high)
    points, radii = points[seen], radii[seen]
    reach = np.ceil(radii + 1).astype(int)
    for half in np.unique(reach):
        members = reach == half
        _stamp(depth, centrality, points[members], radii[members], int(half), pad, size)
    inner = (slice(pad, -pad), slice(pad, -pad))
    return Vessels(depth.reshape(size, size)[inner], centrality.reshape(size, size)[inner])


def _dense_points(
    tree: Tree, window: Window, min_width_mm: float, max_width_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Points on the centrelines in px, so close that the discs around them merge, and their radii in px."""
    start, end = tree.points[:-1], tree.points[1:]
    corner = window.centre - (1 + 1j) * window.side_mm / 2
    middle = (start + end) / 2 - window.centre
    margin = window.side_mm / 2 + 0.3
    width = 2 * tree.radii[1:]
    chosen = (tree.branch[1:] == tree.branch[:-1]) & (width >= min_width_mm) & (width < max_width_mm)
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


def _stamp(
    depth: np.ndarray,
    centrality: np.ndarray,
    points: np.ndarray,
    radii: np.ndarray,
    half: int,
    pad: int,
    size: int,
) -> None:
    """Keep, in place, the largest depth and centrality that any of the discs gives a pixel."""
    reach = np.arange(-half, half + 1)
    column = np.rint(points.real).astype(int)
    row = np.rint(points.imag).astype(int)
    dx = (reach[None, :] + (column - points.real)[:, None]).astype(np.float32)  # (points, 2 half + 1)
    dy = (reach[None, :] + (row - points.imag)[:, None]).astype(np.float32)
    distance = np.sqrt(dy[:, :, None] ** 2 + dx[:, None, :] ** 2)  # (points, 2 half + 1, 2 half + 1)
    radius = radii.astype(np.float32)[:, None, None]
    near = distance < radius + 1
    index = (row[:, None, None] + reach[:, None] + pad) * size + column[:, None, None] + reach + pad
    index = index[near]
    inward = (radius - distance)[near]
    np.maximum.at(depth, index, inward)
    np.maximum.at(centrality, index, inward / np.broadcast_to(radius, near.shape)[near])


def smooth_noise(rng: np.random.Generator, window: Window, cell_mm: float) -> np.ndarray:
    """A random cubic B-spline surface over the whole retina, seen through `window`: (pixels, pixels), mean 0, std 1.

    Windows on the same eye that start from the same generator state see the same surface.
    """
    extent = 2 * (DOMAIN_RADIUS_MM + 1.6)
    count = int(np.ceil(extent / cell_mm)) + 4
    knots = rng.standard_normal((count, count), np.float32)
    x, y = window.axes()

    def basis(positions: np.ndarray) -> tuple[slice, np.ndarray]:
        """The knots that matter along an axis, and their weights, (pixels, knots)."""
        along = (positions + extent / 2) / cell_mm + 1.5
        first = max(0, int(along[0]) - 2)
        last = min(count, int(along[-1]) + 4)
        distance = abs(along[:, None] - np.arange(first, last)).astype(np.float32)
        near = 2 / 3 - distance * distance * (1 - distance / 2)
        far = np.maximum(2 - distance, 0)
        return slice(first, last), np.where(distance < 1, near, far * far * far / 6)

    rows, weight_rows = basis(y)
    columns, weight_columns = basis(x)
    return weight_rows @ knots[rows, columns] @ weight_columns.T / 0.48  # an expected std of 0.48 -> 1


# ------------------------------------------------------------------------------------------------------------ fundus


def disc_distance(eye: Eye, points: np.ndarray) -> np.ndarray:
    """Distance from the disc's centre in units of its somewhat irregular radius: 1 at its edge."""
    rng = eye.rng("disc edge")
    offset = points - eye.disc
    around = offset / np.maximum(abs(offset), 1e-6)
    radius = np.ones(points.shape, np.float32)
    harmonic = around
    for order in (2, 3, 4, 5):
        harmonic = harmonic * around
        amplitude = np.complex64(rng.normal(0, 0.03 / order**0.5) * np.exp(2j * np.pi * rng.random()))
        radius += (harmonic * amplitude).real
    return np.hypot(offset.real / eye.disc_axes[0], offset.imag / eye.disc_axes[1]) / radius


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(values, -30, 30)))


def _rgb(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue], np.float32)


def render_fundus(eye: Eye, window: Window, vessels: dict[str, Vessels], rng: np.random.Generator) -> np.ndarray:
    """Photograph a window of the retina: (pixels, pixels, 3) uint8, black outside the round field.

    `vessels` holds the trees by kind, "artery" and "vein", rasterised in the same window.
    """
    points = window.points()
    image = _background(eye, window, points)
    image = _absorb(image, vessels, window)
    field = _sigmoid((eye.field_radius - abs(points - eye.field_centre)) / 0.012)
    sigma = eye.sharpness_mm * window.px_per_mm
    image = gaussian_filter(image, (sigma, sigma, 0))
    return _expose(eye, image, field, rng)


def _background(eye: Eye, window: Window, points: np.ndarray) -> np.ndarray:
    """The retina without its vessels, in light: (pixels, pixels, 3) float32."""
    rng = eye.rng("background")
    broad = smooth_noise(rng, window, 2.6)
    broad_red = smooth_noise(rng, window, 3.0)
    mottle = smooth_noise(rng, window, 0.5)
    fine = smooth_noise(rng, window, 0.13)
    grain = smooth_noise(rng, window, 0.05)
    tilt = complex(*rng.normal(0, 0.025, 2))
    from_centre = points - eye.field_centre
    light = 1.06 - 0.42 * (abs(from_centre) / eye.field_radius) ** 2.5
    light = light * (1 + (from_centre * np.conj(tilt)).real) * (1 + 0.09 * broad)
    texture = 1 + eye.choroid * (0.045 * mottle + 0.022 * fine) + 0.014 * grain
    colour = np.stack(
        [
            eye.pigment[0] * (1 + 0.06 * eye.choroid * broad_red) * texture,
            eye.pigment[1] * (1 - 0.03 * broad_red) * (1.4 * texture - 0.4),
            eye.pigment[2] * (1 - 0.06 * broad_red) * (1.2 * texture - 0.2),
        ],
        axis=-1,
    )  # (pixels, pixels, 3)
    squared = points.real**2 + points.imag**2
    fovea = np.exp(-squared / (2 * 0.5**2)) + 0.5 * np.exp(-squared / (2 * 1.3**2))
    colour *= 1 - fovea[..., None] * _rgb(0.16, 0.30, 0.30)
    distance = disc_distance(eye, points)
    colour = _nerve_fibres(eye, rng, points, distance, colour)
    colour = _paint_disc(eye, rng, points, distance, mottle, colour)
    return (colour * light[..., None]).astype(np.float32)


def _nerve_fibres(
    eye: Eye, rng: np.random.Generator, points: np.ndarray, distance: np.ndarray, colour: np.ndarray
) -> np.ndarray:
    """Pale olive streaks that leave the disc above and below, and a dusky halo around it."""
    offset = points - eye.disc
    angle = np.angle(offset)
    streaks = rng.standard_normal((360, 12))
    position = np.stack([angle % (2 * np.pi) * (180 / np.pi), np.clip(distance, 0, 10)])
    streak = map_coordinates(streaks, position, order=1, mode="grid-wrap", output=np.float32)
    around = offset / np.maximum(abs(offset), 1e-6)
    poles = around.imag**2 * 0.8 + 0.2
    sheen = eye.sheen * poles * np.exp(-np.clip(distance - 1, 0, None) / 1.1)
    uneven = 0.5 + 0.5 * (around * np.exp(-2j * np.pi * rng.random())).real
    halo = rng.uniform(0.08, 0.4) * uneven * np.exp(-(((distance - 1.08) / 0.25) ** 2))
    shine = sheen * (0.22 + 0.08 * streak)
    colour *= 1 - halo[..., None] * _rgb(0.8, 1.0, 1.0)
    colour *= 1 + shine[..., None] * _rgb(0.35, 1.0, 1.3)
    return colour


def _paint_disc(
    eye: Eye,
    rng: np.random.Generator,
    points: np.ndarray,
    distance: np.ndarray,
    mottle: np.ndarray,
    colour: np.ndarray,
) -> np.ndarray:
    """Blend in the disc: soft edge, redder nasal rim, brighter cup somewhat to the temporal side."""
    across = (points - eye.disc).real / eye.disc_axes[0] * eye.nasal  # 1 at the nasal edge
    edge = _sigmoid((1 - distance + 0.035 * mottle) / rng.uniform(0.018, 0.035))
    cup_centre = eye.disc + complex(-eye.nasal * 0.15, 0.03) * eye.disc_axes[0]
    cup_size = rng.uniform(0.25, 0.5) * eye.disc_axes[0]
    cup = np.exp(-((abs(points - cup_centre) / cup_size) ** 2) / 1.6)
    rim = np.clip(distance, 0, 1) ** 3
    shade = 0.88 - 0.04 * rim - 0.06 * np.clip(across, -1, 1) + 0.18 * cup + 0.04 * mottle
    warmth = 0.09 * rim + 0.06 * across
    tint = np.stack([1 + 0.1 * cup, 1 + 0.16 * cup - warmth, 1 + 0.30 * cup - 1.65 * warmth], axis=-1)
    disc = eye.disc_colour * shade[..., None] * tint  # (pixels, pixels, 3)
    crescent = rng.uniform(0, 0.25) * np.exp(-(((distance - 1.04) / 0.07) ** 2)) * np.clip(-across, 0, 1)
    colour *= 1 + crescent[..., None] * _rgb(1.0, 0.9, 0.7)
    return colour + (disc - colour) * edge[..., None]


def _absorb(image: np.ndarray, vessels: dict[str, Vessels], window: Window) -> np.ndarray:
    """Lay the vessels over the fundus: light lost to blood (Beer-Lambert), a reflex along the middle of wide ones."""
    lost = np.zeros_like(image)
    shine = np.zeros(image.shape[:2], np.float32)
    for kind, tree in vessels.items():
        thickness = tree.thickness / window.px_per_mm  # mm
        lost = np.maximum(lost, thickness[..., None] * _rgb(*ABSORBANCE[kind]))
        width = np.minimum(tree.radius / window.px_per_mm / 0.06, 1)
        shine = np.maximum(shine, REFLEX[kind] * width * np.exp(-(((1 - tree.centrality) / 0.28) ** 2)))
    # Scattered light fills even the darkest vessel.
    image = image * (0.1 + 0.9 * np.exp(-lost))
    return (image + shine[..., None] * image.clip(0.1, 0.4) * _rgb(0.9, 1.1, 0.8)).astype(np.float32)


def _expose(eye: Eye, image: np.ndarray, field: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise, the round field, and the camera's JPEG file: (pixels, pixels, 3) uint8."""
    grain = [gaussian_filter(rng.standard_normal(field.shape, np.float32), 0.7) * 2 for _ in range(2)]
    noise = np.dstack([grain[0] + 0.4 * grain[1], grain[0], grain[0] - 0.6 * grain[1]])  # mostly grey, a little colour
    image = image.clip(0)
    image = image + eye.noise * noise * (0.4 + 0.6 * np.sqrt(image))
    image = image * field[..., None]
    return _through_jpeg((image.clip(0, 1) * 255 + 0.5).astype(np.uint8))  # [0, 1] -> [0, 255]


def _through_jpeg(pixels: np.ndarray) -> np.ndarray:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    return np.asarray(Image.open(file))


# ------------------------------------------------------------------------------------------------------------- OCT-A


def render_octa(eye: Eye, window: Window, vessels: Vessels, rng: np.random.Generator) -> np.ndarray:
    """Scan a window of the retina: (pixels, pixels, 4) uint8, alpha 255. `vessels` holds both trees."""
    points = window.points()
    distance = disc_distance(eye, points)
    mesh = _capillaries(eye, window, points, rng) * _perfused(eye, window, points, distance, rng)
    radius_mm = vessels.radius / window.px_per_mm
    grain = gaussian_filter(rng.standard_normal(mesh.shape, np.float32), 0.5) * 1.7
    # Wide vessels lie deeper and lose signal to their own shadow: they are greyer than their branches.
    level = 0.80 - 1.9 * np.clip(radius_mm - 0.02, 0, 0.1)
    inside = _sigmoid((0.85 - distance) / 0.08)
    level = level - 0.12 * inside * (1 + smooth_noise(rng, window, 0.2))
    bright = level + 0.13 * grain
    shadow = gaussian_filter(vessels.coverage, 2.2)
    background = mesh * (1 - 0.45 * shadow)
    # The beam spreads a vessel by a fraction of a pixel; a thinner one than a pixel is fainter.
    cover = np.clip(vessels.depth + 0.75 + 0.3 * grain, 0, 1) * np.clip(vessels.radius / 0.6, 0.3, 1)
    scan = background * (1 - cover) + np.maximum(bright, background) * cover
    scan = _motion(gaussian_filter(scan, 0.6), rng)
    grey = (scan.clip(0, 1) * 255 + 0.5).astype(np.uint8)  # [0, 1] -> [0, 255]
    return np.dstack([grey, grey, grey, np.full_like(grey, 255)])


def _capillaries(eye: Eye, window: Window, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The capillary mesh: noise, smeared along the nerve fibres, cut to ridges; (pixels, pixels) in [0, 1]."""
    shape = points.shape
    noise = gaussian_filter(rng.standard_normal(shape, np.float32), 0.55)
    nearby = np.exp(-((abs(points - eye.disc) / 3.2) ** 2))  # streaks by the disc, a mesh at the macula
    along = fibre_direction(points, eye.disc, 0.5)
    along = along * np.exp(1j * (0.85 - 0.65 * nearby) * smooth_noise(rng, window, 0.07))
    rows, columns = np.indices(shape, np.float32)
    smeared = np.zeros_like(noise)
    for step in (-3.6, -2.4, -1.2, 0, 1.2, 2.4, 3.6):
        row = np.rint(rows + step * along.imag).astype(np.int32) % window.pixels
        column = np.rint(columns + step * along.real).astype(np.int32) % window.pixels
        smeared += noise[row, column] * np.float32(np.exp(-((step / 2.8) ** 2)))
    streaks = smeared - uniform_filter(smeared, 6)
    streaks /= streaks.std()
    net = gaussian_filter(rng.standard_normal(shape, np.float32), 1.2)
    net = 1.0 - 1.6 * abs(net / net.std())  # bright where smooth noise changes sign: closed meshes
    clumps = 0.25 * smooth_noise(rng, window, 0.3) + 0.2 * smooth_noise(rng, window, 0.07)
    pattern = streaks + (0.6 - 0.5 * nearby) * net + clumps + 0.75 * rng.standard_normal(shape, np.float32)
    return (0.82 + 0.13 * nearby) * _sigmoid(1.6 * pattern - 1.3)


def _perfused(
    eye: Eye, window: Window, points: np.ndarray, distance: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Where there are capillaries: none in the foveal avascular zone, few in patches of the disc."""
    ragged = smooth_noise(eye.rng("faz edge"), window, 0.12)
    fovea = _sigmoid((abs(points) - eye.faz_radius - 0.05 * ragged) / 0.03)
    ring = 1 + 0.25 * np.exp(-(((abs(points) - eye.faz_radius - 0.08) / 0.07) ** 2))
    patches = _sigmoid((smooth_noise(rng, window, 0.13) - 0.1) / 0.3)
    disc = 1 - _sigmoid((0.9 - distance) / 0.06) * (0.05 + 0.55 * patches)
    return (0.10 + 0.90 * fovea) * ring * disc


def _motion(scan: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Now and then the eye moves: lines across the scan, rows shifted, bands that registration filled by stretching."""
    scan = scan.copy()
    size = scan.shape[0]
    for _ in range(rng.poisson(0.7)):
        row = int(rng.integers(5, size - 5))
        band = scan[row : row + int(rng.integers(2, 25))]
        band[:] = np.roll(band, int(rng.integers(-3, 4)), axis=1)
        band[0] = 0.5 * band[0] + rng.uniform(0.05, 0.3) * rng.random(size)
    if rng.random() < 0.25:
        height = int(rng.integers(15, 90))
        first = int(rng.choice([0, size - height, rng.integers(0, size - height)]))
        columns = np.arange(size)
        blocks = rng.integers(0, 9, size // 20 + 1).repeat(20)[:size] + rng.integers(0, 3, size)
        hold = np.where(blocks > 4, blocks, 1)  # how many rows repeat the first of them, by column
        phase = rng.integers(0, 12, size // 4 + 1).repeat(4)[:size]
        rows = np.arange(height)[:, None]
        stretched = first + np.clip((rows + phase) // hold * hold - phase, 0, height - 1)
        scan[first : first + height] = scan[stretched, columns]
        for edge in (first, first + height - 1):
            scan[edge] = scan[edge] * 0.5 + 0.4 * rng.random(size) ** 3
    return scan


# ---------------------------------------------------------------------------------------------------------- pictures


def crop_window(eye: Eye, region: str) -> Window:
    """Where the crop of a region ("disc" or "macula") lies. Raises ValueError for another region."""
    if region not in REGIONS:
        raise ValueError(f"region must be disc or macula, not {region!r}")
    middle = eye.disc if region == "disc" else 0j
    jitter = complex(*eye.rng(region).uniform(-1, 1, 2)) * CROP_JITTER_MM[region]
    return Window(middle + jitter, CROP_MM[region], CROP_PX)


def render_crop(eye: Eye, region: str) -> Crop:
    """Photograph and scan one region ("disc" or "macula") of an eye. Raises ValueError for another region."""
    window = crop_window(eye, region)
    rng = eye.rng(region)
    trees = {"artery": eye.arteries, "vein": eye.veins}
    large = {kind: rasterise(tree, window, TRUTH_MIN_WIDTH_MM, np.inf) for kind, tree in trees.items()}
    fine = {kind: rasterise(tree, window, 0, TRUTH_MIN_WIDTH_MM) for kind, tree in trees.items()}
    vessels = {kind: large[kind].merge(fine[kind]) for kind in trees}
    truth = np.where(large["artery"].merge(large["vein"]).depth > 0, 255, 0).astype(np.uint8)
    octa = render_octa(eye, window, vessels["artery"].merge(vessels["vein"]), rng)
    return Crop(render_fundus(eye, window, vessels, rng), octa, truth)


def render_full_field(eye: Eye) -> np.ndarray:
    """Photograph 45 degrees of an eye: (1000, 1000, 3) uint8, a round field on black."""
    window = Window(eye.field_centre, FIELD_MM, FIELD_PX)
    vessels = {
        "artery": rasterise(eye.arteries, window, FUNDUS_MIN_WIDTH_MM),
        "vein": rasterise(eye.veins, window, FUNDUS_MIN_WIDTH_MM),
    }
    return render_fundus(eye, window, vessels, eye.rng("full field"))


def draw_pair(seed: int, number: int, pixels: int = CROP_PX):
    eye = make_eye(number // 2 + 1, "OD", seed)
    crop = render_crop(eye, REGIONS[number % 2])
    return crop.fundus, crop.octa[..., :1], None


def stream(seed: int, first: int, workers: int) -> Iterator[np.ndarray]:
    """Draw the training retinas of a seed without end, in order, by worker processes.

    Each worker draws every workers-th retina and waits when nobody fetches it: what comes is the same for any number of
    them. They are programs of their own, so that nothing of the caller is loaded again, and end with the iterator or,
    if the caller is killed, with its end of the pipe.

    Args:
        seed: of the series.
        first: number of the first retina.
        workers: processes.

    Yields:
        (CROP_PX, CROP_PX, 4), uint8: fundus and OCT-A.

    Raises:
        OSError: a worker ended; what it said stands on standard error.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--stream", str(first + number), str(workers), "--seed", str(seed)],
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the caller, who ends the workers when it is done
        )
        for number in range(workers)
    ]
    try:
        for process in cycle(processes):
            drawn = process.stdout.read(CROP_PX * CROP_PX * 4)
            if len(drawn) < CROP_PX * CROP_PX * 4:
                raise OSError(f"a process that draws sample retinas ended with status {process.wait()}")
            yield np.frombuffer(drawn, np.uint8).reshape(CROP_PX, CROP_PX, 4)
    finally:
        for process in processes:
            process.kill()
            process.stdout.close()
            process.wait()


def write_stream(output: BinaryIO, seed: int, first: int, step: int) -> None:
    """A worker of `stream`: write the retinas `first`, `first + step` and so on until nobody reads them any more."""
    for number in count(first, step):
        fundus, octa, _ = draw_pair(seed, number)
        try:
            output.write(np.concatenate([fundus, octa], axis=-1).tobytes())
            output.flush()
        except BrokenPipeError:
            os.close(output.fileno())  # else Python would try to write the rest at its end
            return


def eye_of(subject: int) -> str:
    """The eye that the sample set has of a subject."""
    return "OD" if subject % 2 else "OS"


def write_dataset(output: Path, subjects: Sequence[int], seed: int = 0, progress: bool = True) -> None:
    """Write the pictures of all subjects under `output`, all or nothing.

    Raises FileExistsError if `output` exists and is not an empty folder, ValueError for no or invalid subjects.
    """
    output = Path(output)
    if len(subjects) == 0:
        raise ValueError("no subjects to write")
    check_output(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as temporary:
        made = Path(temporary) / "set"
        for kind in ("fundus", "octa", "truth"):
            for region in REGIONS:
                (made / "cropped" / kind / region).mkdir(parents=True)
        (made / "fov45" / "fundus").mkdir(parents=True)
        for subject in tqdm(subjects, desc="sample retinas", unit="eye", disable=not progress):
            _write_eye(made, subject, seed)
        if output.exists():
            output.rmdir()
        made.rename(output)


def check_output(output: Path) -> None:
    """Raise FileExistsError unless `output` is free: absent or an empty folder."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output} exists and is not an empty folder")


def _write_eye(folder: Path, subject: int, seed: int) -> None:
    eye = make_eye(subject, eye_of(subject), seed)
    name = f"{subject}_{eye_of(subject)}"
    for region in REGIONS:
        for kind, pixels in vars(render_crop(eye, region)).items():
            Image.fromarray(pixels).save(folder / "cropped" / kind / region / f"{name}.png", compress_level=3)
    Image.fromarray(render_full_field(eye)).save(folder / "fov45" / "fundus" / f"{name}.jpg", quality=JPEG_QUALITY)


def contact_sheet(subjects: Sequence[int], seed: int = 0) -> Image.Image:
    """A row per eye: fundus, OCT-A and truth at the disc, the same at the macula, the full field."""
    tile = (PREVIEW_TILE_PX, PREVIEW_TILE_PX)
    sheet = Image.new("RGB", (7 * tile[0], len(subjects) * tile[1]))
    for row, subject in enumerate(subjects):
        eye = make_eye(subject, eye_of(subject), seed)
        pictures = [pixels for region in REGIONS for pixels in vars(render_crop(eye, region)).values()]
        pictures.append(render_full_field(eye))
        for column, pixels in enumerate(pictures):
            picture = Image.fromarray(pixels).convert("RGB").resize(tile, Image.Resampling.LANCZOS)
            sheet.paste(picture, (column * tile[0], row * tile[1]))
    return sheet


# ------------------------------------------------------------------------------------------------------ command line


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _subjects_argument(text: str) -> list[int]:
    try:
        return parse_subjects(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seed_argument(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**32 - 1}")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="phantom_retina.py",
        description="Make sample retinas: fundus, OCT-A and true vessel map, in the layout of UT-FSOCTA.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--subjects", type=_subjects_argument, default=DEFAULT_SUBJECTS, help="ids to make (default: %(default)s)"
    )
    parser.add_argument("--seed", type=_seed_argument, default=0, help="other seed, other eyes (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder to write the set to; must not hold anything")
    parser.add_argument("--stream", type=int, nargs=2, help=argparse.SUPPRESS)  # see `write_stream`
    parser.add_argument("--preview", type=Path, metavar="FILE", help="PNG to write a contact sheet of a few eyes to")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or exits with status 2 and one line on stderr."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.stream is not None:
        write_stream(sys.stdout.buffer, args.seed, *args.stream)
        return 0
    if args.output is None and args.preview is None:
        parser.error("give --output DIR, --preview FILE or both")
    if args.preview is not None and (args.preview.suffix.lower() != ".png" or args.preview.is_dir()):
        parser.error(f"argument --preview: {args.preview} is not the name of a PNG file: end it in .png")
    option = "--output"
    try:
        if args.output is not None:
            check_output(args.output)
        option = "--preview"
        if args.preview is not None:
            args.preview.parent.mkdir(parents=True, exist_ok=True)
        option = "--output"
        if args.output is not None:
            write_dataset(args.output, args.subjects, args.seed)
        option = "--preview"
        if args.preview is not None:
            contact_sheet(args.subjects[:PREVIEW_EYES], args.seed).save(args.preview)
    except OSError as error:
        parser.error(f"argument {option}: {error}; choose another place")
    return 0


if __name__ == "__main__":
    sys.exit(main())
