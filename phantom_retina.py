"""Sample retinas: colour fundus, OCT-A and true vessel map of eyes that never were.

A retina is geometry in millimetres (disc, fovea, an artery and a vein tree) and a look (pigment, light, camera, scan).
Two things are made of it, by the same rendering:

- A data set on disk, so that who has no UT-FSOCTA data can train, synthesise and evaluate. Each eye is photographed
  three times: a 400 x 400 crop at the optic disc and one at the macula, each as fundus, OCT-A and truth, and a
  45-degree fundus field. One eye per subject: OD (right) for odd ids, OS (left) for even ones. The looks are those of
  healthy eyes before one camera (SAMPLE_LOOK).
- `draw_pair(seed, number)`: an endless row of fundus and OCT-A pairs to train on. Their looks (TRAINING_LOOK) spread
  over whatever real photographs vary in, and further: scale, place, trees, pigment, light, blur, the field's border,
  and what looks like a vessel and is none, which only the fundus shows.

Everything follows from the seed; no eye depends on which others are made.

    python phantom_retina.py --output data/phantom
    python phantom_retina.py --output data/phantom --subjects 1-12,26-28,31-36 --seed 7
    python phantom_retina.py --preview phantom.png
    python phantom_retina.py --preview-drawn drawn.png

--output writes, in the layout and with the names of UT-FSOCTA,

    DIR/cropped/fundus/{disc,macula}/<subject>_<eye>.png    RGB
    DIR/cropped/octa/{disc,macula}/<subject>_<eye>.png      RGBA, alpha 255
    DIR/cropped/truth/{disc,macula}/<subject>_<eye>.png     grey, 255 in the vessels of the two trees, else 0
    DIR/fov45/fundus/<subject>_<eye>.jpg                    RGB, round field on black

--preview one contact sheet of these, --preview-drawn one of training retinas. To leave an ingredient out of the
training retinas, replace its range in TRAINING_LOOK or its share in TRAINING_SHARE, for trees the range in
TRAINING_HABIT: all else stays as it was. Coordinates are millimetres on the retina, x to the right and y downwards as
in the picture, with the origin at the fovea; a point is also written as the complex number x + iy.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from itertools import count, cycle
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import BinaryIO, NoReturn

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, uniform_filter
from tqdm import tqdm

from phantom_trees import DOMAIN_RADIUS_MM, Growth, Tree, Vessels, Window, fibre_direction, rasterise

DEFAULT_SUBJECTS = "1-12,26-28,31-36"  # some of each published split: train 1-25, validation 26-30, test 31-112
MAX_SUBJECTS = 100_000  # a longer list is a slip of the keyboard
SAMPLE_FOLDER = Path("data", "phantom", "UT-FSOCTA-v1")  # where training keeps the set that it validates on
DRAWN = "phantom"  # instead of a data folder: training retinas, drawn as they are needed
WORKER_ENDED = "a process that draws sample retinas has ended, perhaps for want of memory"
PREVIEW_EYES = 4
PREVIEW_TILE_PX = 260
PREVIEW_DRAWN = (2, 6)  # rows and columns of training retinas

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
OUTSIDE_LIMIT = 8  # grey levels that the camera and its JPEG may leave outside the field
JPEG_QUALITY = 88  # of the camera's own files, from which the crops are cut

# ---- Anatomy
DISC_FOVEA_MM = (4.4, 4.9)  # centre to centre
DISC_ABOVE_FOVEA_MM = (0.15, 0.6)
DISC_AXES_MM = (1.7, 1.85)  # horizontal and vertical diameter; each eye scales them by DISC_SCALE
DISC_SCALE = (0.88, 1.08)
FAZ_DIAMETER_MM = (0.4, 0.6)  # foveal avascular zone of the superficial plexus
ARCADE_RADIUS_MM = (1.8, 2.4)  # the arcades bend around a disc of this radius about the fovea

# ---- Vessels
FUNDUS_MIN_WIDTH_MM = 0.012  # thinner vessels can't be seen in a full field
TRUTH_MIN_WIDTH_MM = 0.02  # thinner vessels can't be told from the mesh in OCT-A

# ---- Training retinas
TREE_SHARED_BY = 8  # consecutive draws: each mirrors, turns, warps and scales the tree, for growing costs 0.2 s
TRAINING_FIELD_RADIUS_MM = (4.2, 6.6)  # cameras of 30 to 45 degrees
WARP = 0.035  # of a wave's length: three such waves displace the retina, and can never fold it
PLACES = (0.55, 0.10, 0.35)  # window about the disc, the fovea, anywhere: vessels matter more than bare macula

# How trees grow: ranges of the training retinas, then of the sample set. Of each one value is drawn evenly per tree.
HABITS = {
    "tortuosity": ((0.5, 2.0), (1, 1)),  # factor of the wandering, from stretched to winding; at 3 trees turn to wool
    "pull": ((0.6, 1.4), (1, 1)),  # factor of the pull to the own heading
    "spacing": ((0.9, 2.0), (1, 1)),  # factor of the way between branchings
    "stem_spread": ((0.1, 0.8), (0.3, 0.3)),  # rad that stems deviate from straight up and down
    "nasal_twigs": ((1, 4), (2, 2)),  # at most so many small vessels leave the disc on either side
    "temporal_twigs": ((1, 3), (2, 2)),
    "disc_scale": ((0.75, 1.3), DISC_SCALE),  # discs of 1.3 to 2.3 mm occur
}
TRAINING_HABIT = {name: training for name, (training, sample) in HABITS.items()}
SAMPLE_HABIT = {name: sample for name, (training, sample) in HABITS.items()}

# How a retina looks: ranges of the training retinas, then of the sample set. Of each one value is drawn per eye,
# evenly, or evenly in its logarithm if named in LOGARITHMIC. Colours and brightness are on [0, 1]. Where a range
# reaches below 0, eyes that draw less go without.
LOOKS = {
    # Size
    # 36: a 45-degree field over 470 px; 90: a disc crop; 110: CHASE_DB1's photographs, where seven tenths of the vessel
    # pixels lie in vessels of 9 px and more: up to 120, and with a calibre of 0.6 to 1.25, it was less than a tenth.
    "px_per_mm": ((36, 150), (1, 1)),
    "calibre": ((0.8, 1.6), (1, 1)),  # factor of all widths: trunks of 70 um (narrowed by age) to 270 um (full veins)
    "artery_calibre": ((0.75, 1.15), (1, 1)),  # further factor of the arteries' widths
    # Pigment; measured on real photographs: red 0.32 to 0.58, green/red 0.40 to 0.74, blue/green 0.16 to 0.74
    "red": ((0.3, 0.9), (0.34, 0.66)),
    "green_share": ((0.36, 0.82), (0.40, 0.66)),  # of red: below 0.45 orange-red, above 0.75 greenish-grey
    "blue_share": ((0.04, 0.8), (0.30, 0.62)),  # of green; at least green_share - 0.4, for no fundus is lime
    "choroid": ((0.0, 1.2), (0.2, 1.0)),  # mottle
    "texture": ((0.005, 0.042), (0.014, 0.014)),  # fine: one standard deviation at 50 um
    "tessellation": ((-0.5, 0.9), (0, 0)),  # choroidal vessels, where pigment is thin: wider than the retina's, blurred
    "blotches": ((-0.6, 0.9), (0, 0)),  # orange islands of choroid between pigment, or the reverse
    "fovea": ((0.0, 1.3), (0.9, 1.1)),  # darkness of the macula
    "sheen": ((0.0, 1.4), (0.2, 1.0)),  # of nerve fibres; strong in the young
    "streaks": ((0.0, 0.3), (0.07, 0.07)),  # in that sheen
    "streak_px": ((0.6, 2.0), (0.8, 0.8)),
    "gleam": ((-0.6, 0.35), (0, 0)),  # pale patches where the retina's surface mirrors the flash
    # Disc
    # Of the fundus' red. Up to 3 in real crops, and nearly 4 in green: where hardly any was above 2, the network took
    # the edge of such a disc for a vessel.
    "disc_bright": ((1.1, 3.4), (1.6, 2.2)),
    "disc_pale": ((0.05, 0.6), (0.45, 0.6)),  # how far its colour is from the fundus' to white
    "disc_blue": ((0.1, 1.0), (0.45, 0.6)),  # the share of that which blue goes: below 1 the disc is yellow
    "disc_edge": ((0.012, 0.12), (0.018, 0.035)),  # softness, in radii
    "cup": ((0.1, 0.8), (0.25, 0.5)),  # of the disc's radius
    "cup_bright": ((0.05, 0.35), (0.1, 0.2)),
    "cup_edge": ((0.05, 0.6), (0.4, 0.6)),  # softness, in radii of the cup
    "crescent": ((-0.3, 0.5), (0.0, 0.12)),  # bare sclera beside the disc
    "pigment_ring": ((-0.3, 0.7), (0, 0)),  # dark arc along the disc's edge
    "scleral_ring": ((-0.3, 0.5), (0, 0)),  # pale arc
    "halo": ((-0.3, 0.5), (0.05, 0.3)),  # dark, or below 0 bright, surroundings of the disc
    # Vessels in the fundus. A wide one takes `dip` of the green, a thin one dip (1 - exp(-blood thickness)).
    # Real photographs: dips of 0.10 at 2.5 px, 0.16 at 4, 0.19 at 6, 0.23 at 10, 0.30 at 16 (CHASE_DB1, 90 px/mm);
    # 0.05 to 0.34 in the crops.
    "dip": ((0.26, 0.65), (0.45, 0.55)),
    "blood": ((12, 45), (22, 28)),  # per mm
    "artery_dip": ((0.5, 1.1), (0.6, 0.8)),  # factor
    "red_dip": ((0.0, 0.6), (0.25, 0.4)),  # factor of the dip in red: from unseen to nearly grey
    "blue_dip": ((0.3, 1.2), (0.7, 0.9)),
    # The share of the dip that the stripe along a wide vessel fills; at 0.7 the vessel looks double.
    "reflex_artery": ((-0.2, 1.1), (0.4, 0.6)),
    "reflex_vein": ((-0.3, 0.95), (0.05, 0.15)),
    "reflex_width": ((0.2, 0.6), (0.26, 0.3)),  # of the radius
    # Light
    "vignette": ((0.0, 0.7), (0.35, 0.45)),  # lost at the light's edge
    "tilt": ((0.0, 0.1), (0.0, 0.04)),  # per mm, to one side
    "uneven": ((0.03, 0.16), (0.08, 0.1)),  # broad patches
    "flush": ((-1.5, 1.0), (0, 0)),  # one side floods with red, as through a narrow pupil
    "rim_glow": ((-0.4, 0.4), (0, 0)),  # a crescent of stray light along the border
    "veil": ((-0.8, 0.38), (0, 0)),  # haze of a cloudy lens
    # Camera
    "cast": ((0.0, 0.1), (0, 0)),  # colour cast
    "gamma": ((0.75, 1.2), (1, 1)),
    "exposure": ((0.3, 0.85), (0, 0)),  # mean of red inside the field; 0: as it comes. Measured: 0.32 to 0.58
    "blur_px": ((0.3, 1.8), (0.8, 1.8)),
    "noise": ((0.003, 0.035), (0.008, 0.02)),
    "grain_px": ((0.0, 0.9), (0.6, 0.8)),  # blur of the noise: JPEG and demosaicing correlate it
    "jpeg_quality": ((65, 98), (88, 88)),
    "rim_px": ((0.5, 6.0), (0.8, 1.2)),  # softness of the border
    "black": ((0.0, 5.0), (0, 0)),  # grey levels that a sensor shows where it is dark
    # OCT-A; the real crops: mean 0.27, std 0.15 between vessels; 0.66 to 0.73 in them
    "mesh": ((0.85, 1.15), (0.95, 1.05)),  # brightness of the capillaries
    "scan_level": ((0.70, 0.84), (0.74, 0.80)),  # of small vessels; trunks lie deeper and are 0.1 lower
    "scan_grain": ((0.09, 0.15), (0.11, 0.14)),
}
LOGARITHMIC = {"disc_bright", "dip", "blood", "blur_px", "noise"}
TRAINING_LOOK = {name: training for name, (training, sample) in LOOKS.items()}
SAMPLE_LOOK = {name: sample for name, (training, sample) in LOOKS.items()}

# The share of training retinas that has a thing; of them the sample set has motion only.
TRAINING_SHARE = {
    "border": 0.6,  # the field's border crosses the picture
    "cut": 0.25,  # of those: the round field has flat sides, as many cameras cut it
    "passing": 0.55,  # vessels of another arcade pass through, where the disc is out of sight
    "haemorrhages": 0.22,
    "flames": 0.10,
    "exudates": 0.15,
    "drusen": 0.15,
    "cotton_wool": 0.10,
    "scars": 0.07,  # of laser
    "pigment_spots": 0.12,
    "pigment_lines": 0.05,
    "dust": 0.15,
    "lashes": 0.06,
    "motion": 0.3,  # lines and bands across the scan
}

# ---- One stream of random numbers for each thing that is drawn, so that none depends on what was drawn before.
# (Numbered from 1: NumPy takes [1, 2] and [1, 2, 0] for the same seed.)
STREAMS = {
    "eye": 1, "disc edge": 2, "background": 3, "faz edge": 4, "disc": 5, "macula": 6, "full field": 7, "look": 8,
    "has": 9, "place": 10, "tree": 11, "choroid": 12, "fibres": 13, "gleam": 14, "disc paint": 15, "marks": 16,
    "cut": 17, "light": 18, "flush": 19, "rim glow": 20, "veil": 21, "shadows": 22, "photograph": 23, "scan": 24,
}  # fmt: skip


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
class Eye:
    """A retina's geometry and look. Lengths in mm, positions x + iy from the fovea."""

    key: tuple[int, int, int]  # seed, subject, 0 for OD or 1 for OS; seed, number, 2 for a training retina
    disc: complex
    disc_axes: tuple[float, float]  # half axes, across (nasal to temporal) and along
    faz_radius: float
    field_centre: complex
    field_radius: float
    light_centre: complex
    light_radius: float  # where the light has fallen off by look["vignette"]
    arteries: Tree
    veins: Tree
    look: dict[str, float]  # a value for each of TRAINING_LOOK
    has: frozenset[str]  # of TRAINING_SHARE

    @property
    def nasal(self) -> complex:
        """Unit vector from the fovea to the disc."""
        return self.disc / abs(self.disc)

    def rng(self, stream: str, part: int = 1) -> np.random.Generator:
        """The random numbers of one of STREAMS, or of a numbered part of it, from their start."""
        return np.random.default_rng([*self.key, STREAMS[stream], part])


@dataclass(frozen=True)
class Crop:
    """The three pictures of one region: fundus (400, 400, 3), octa (400, 400, 4), truth (400, 400), all uint8."""

    fundus: np.ndarray
    octa: np.ndarray
    truth: np.ndarray


# ---------------------------------------------------------------------------------------------------------- geometry


def _draw(rng: np.random.Generator, ranges: dict[str, tuple[float, float]]) -> dict[str, float]:
    """One value of each range: a range that is changed changes no other value."""
    drawn = {}
    for name, (low, high) in ranges.items():
        share = rng.random()
        drawn[name] = low * (high / low) ** share if name in LOGARITHMIC and low > 0 else low + (high - low) * share
    return drawn


@dataclass(frozen=True)
class Anatomy:
    """What an eye has before it is looked at; fields as in Eye. As grown it is a right eye, its disc at positive x."""

    disc: complex
    disc_axes: tuple[float, float]
    faz_radius: float
    arteries: Tree
    veins: Tree

    def moved(self, move: Callable[[np.ndarray], np.ndarray], widths: tuple[float, float] = (1, 1)) -> Anatomy:
        """All of it moved by a function of positions, and arteries and veins made wider by two factors."""
        trees = [
            Tree(move(tree.points), tree.radii * width, tree.branch, tree.parent)
            for tree, width in zip((self.arteries, self.veins), widths, strict=True)
        ]
        return Anatomy(complex(move(np.array([self.disc]))[0]), self.disc_axes, self.faz_radius, *trees)


def grow_anatomy(rng: np.random.Generator, habits: dict[str, tuple[float, float]]) -> Anatomy:
    """Draw disc and fovea and grow both trees; `habits` is SAMPLE_HABIT or TRAINING_HABIT."""
    habit = _draw(rng, habits)
    disc = complex(rng.uniform(*DISC_FOVEA_MM), -rng.uniform(*DISC_ABOVE_FOVEA_MM))
    half_axes = (DISC_AXES_MM[0] * habit["disc_scale"] / 2, DISC_AXES_MM[1] * habit["disc_scale"] / 2)
    faz_radius = rng.uniform(*FAZ_DIAMETER_MM) / 2
    growth = Growth(rng, habit, disc, sum(half_axes) / 2, rng.uniform(*ARCADE_RADIUS_MM), faz_radius)
    return Anatomy(disc, half_axes, faz_radius, growth.grow("artery"), growth.grow("vein"))


def make_eye(subject: int, eye: str, seed: int = 0) -> Eye:
    """Draw one retina of the sample set. The same subject, eye ("OD" or "OS") and seed always give the same one.

    Raises ValueError for another eye, a subject below 1 or a negative seed.
    """
    if eye not in EYES:
        raise ValueError(f"eye must be OD or OS, not {eye!r}")
    if subject < 1 or seed < 0:
        raise ValueError(f"subject must be at least 1 and seed at least 0, not {subject} and {seed}")
    key = (seed, subject, EYES.index(eye))
    rng = np.random.default_rng([*key, STREAMS["eye"]])
    anatomy = grow_anatomy(rng, SAMPLE_HABIT)
    field_centre = complex(rng.uniform(*FIELD_CENTRE_MM), rng.normal(0, 0.3))
    if eye == "OS":
        anatomy = anatomy.moved(lambda points: -np.conj(points))
        field_centre = -field_centre.conjugate()
    field_radius = rng.uniform(*FIELD_RADIUS_MM)
    return Eye(
        key=key,
        **vars(anatomy),
        field_centre=field_centre,
        field_radius=field_radius,
        light_centre=field_centre,
        light_radius=field_radius,
        look=_draw(np.random.default_rng([*key, STREAMS["look"]]), SAMPLE_LOOK),
        has=frozenset({"motion"} if rng.random() < TRAINING_SHARE["motion"] else ()),
    )


@lru_cache(maxsize=4)
def _training_anatomy(seed: int, tree: int) -> Anatomy:
    """Shared by TREE_SHARED_BY consecutive draws; after a change of TRAINING_HABIT, call its `cache_clear`."""
    return grow_anatomy(np.random.default_rng([seed, tree, 2, STREAMS["tree"]]), TRAINING_HABIT)


def make_training_eye(seed: int, number: int, pixels: int) -> tuple[Eye, Window]:
    """Draw the `number`-th training retina of a seed, and the window of `pixels` a side that it is seen through."""
    key = (seed, number, 2)
    rng = np.random.default_rng([*key, STREAMS["look"]])
    look = _draw(rng, TRAINING_LOOK)
    rng = np.random.default_rng([*key, STREAMS["has"]])
    has = frozenset(name for name, share in TRAINING_SHARE.items() if rng.random() < share)
    rng = np.random.default_rng([*key, STREAMS["place"]])
    widths = (look["calibre"] * look["artery_calibre"], look["calibre"])
    anatomy = _training_anatomy(seed, number // TREE_SHARED_BY).moved(_draw_move(rng), widths)
    side = pixels / look["px_per_mm"]
    place = rng.choice(3, p=PLACES)
    middle = (anatomy.disc, 0j, 0.4 * anatomy.disc)[place]
    reach = (0.6 * side, 0.4 * side, 5.0)[place]  # mm
    centre = complex(middle + reach * _point_in_circle(rng))
    radius = rng.uniform(*TRAINING_FIELD_RADIUS_MM)
    direction = np.exp(2j * np.pi * rng.random())
    inwards = rng.uniform(0.12, 0.5) * side  # from the window's middle to the border
    field_centre, field_radius = complex(centre + direction * (inwards - radius)), radius
    if "border" not in has:
        field_centre, field_radius = centre, np.inf
    if "passing" in has and abs(anatomy.disc - centre) > 0.8 * side:  # nothing passes over a disc
        anatomy = _with_passing(rng, anatomy, centre, side)
    eye = Eye(
        key=key,
        **vars(anatomy),
        field_centre=field_centre,
        field_radius=field_radius,
        light_centre=complex(field_centre + 0.4 * radius * _point_in_circle(rng)),
        light_radius=max(radius, 0.6 * side),
        look=look,
        has=has,
    )
    return eye, Window(centre, side, pixels)


def _point_in_circle(rng: np.random.Generator) -> complex:
    return complex(np.sqrt(rng.random()) * np.exp(2j * np.pi * rng.random()))


def _draw_move(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """A random mirror image, turn about the fovea, and smooth warp that leaves the fovea in its place."""
    mirrored = rng.random() < 0.5
    turn = np.exp(2j * np.pi * rng.random())
    waves = [
        (rng.uniform(4, 10), np.exp(2j * np.pi * rng.random()), 2 * np.pi * rng.random(), _point_in_circle(rng))
        for _ in range(3)
    ]  # length in mm, direction, phase, displacement

    def warp(points: np.ndarray) -> np.ndarray:
        moved = points * turn
        for length, direction, phase, displacement in waves:
            swing = np.sin((points * np.conj(direction)).real * (2 * np.pi / length) + phase)
            moved = moved + WARP * length * displacement * swing
        return moved

    def move(points: np.ndarray) -> np.ndarray:
        points = np.conj(points) if mirrored else points
        return warp(points) - warp(np.zeros(1, complex))

    return move


def _with_passing(rng: np.random.Generator, anatomy: Anatomy, centre: complex, side: float) -> Anatomy:
    """Add the trees once more, somewhat thinner, from a disc outside the window: vessels that merely pass through."""
    source = centre + (0.75 * side + rng.uniform(0.3, 2.5)) * np.exp(2j * np.pi * rng.random())
    turn = np.exp(2j * np.pi * rng.random())
    passing = anatomy.moved(lambda points: (points - anatomy.disc) * turn + source, tuple(rng.uniform(0.4, 0.9, 2)))
    return replace(
        anatomy,
        arteries=anatomy.arteries.join(passing.arteries),
        veins=anatomy.veins.join(passing.veins),
    )


def smooth_noise(
    rng: np.random.Generator, window: Window, cell_mm: float, across_mm: float | None = None
) -> np.ndarray:
    """A random cubic B-spline surface over the whole retina, seen through `window`: (pixels, pixels), mean 0, std 1.

    Its knots are `cell_mm` apart along y and `across_mm`, or the same, along x. Windows on the same eye that start from
    the same generator state see the same surface.
    """
    extent = 2 * (DOMAIN_RADIUS_MM + 1.6)  # it repeats itself outside
    x, y = window.axes()
    cells = (cell_mm, across_mm or cell_mm)
    counts = [int(np.ceil(extent / cell)) + 4 for cell in cells]
    knots = rng.standard_normal(counts, np.float32)

    def basis(positions: np.ndarray, cell: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The knots seen along an axis, each pixel's first among them, and its weights of that and the next three."""
        along = positions / cell
        first = np.floor(along).astype(int)
        t = (along - first).astype(np.float32)
        seen = np.arange(first[0], first[-1] + 4)
        weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (t + t**2 - t**3) + 1, t**3]) / 6
        return seen, first - first[0], weights[..., None]  # weights: (4, pixels, 1)

    def blend(values: np.ndarray, first: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return sum(weights[k] * values[first + k] for k in range(4))

    rows, first_row, weight_rows = basis(y, cells[0])
    columns, first_column, weight_columns = basis(x, cells[1])
    seen = knots[np.ix_(rows % counts[0], columns % counts[1])]
    surface = blend(blend(seen, first_row, weight_rows).T.copy(), first_column, weight_columns).T
    return np.ascontiguousarray(surface) / np.float32(0.48)  # an expected std of 0.48 -> 1


def _enlarge(coarse: np.ndarray, pixels: int) -> np.ndarray:
    """Something smooth, computed on few points, (n, n) -> (pixels, pixels) float32."""
    return np.asarray(Image.fromarray(coarse.astype(np.float32)).resize((pixels, pixels), Image.Resampling.BICUBIC))


def _smear(noise: np.ndarray, along: np.ndarray, step: float, doublings: int) -> np.ndarray:
    """Draw noise out along a field of directions (complex unit vectors, on few points), 2^doublings steps in px."""
    pixels = noise.shape[0]
    dx, dy = _enlarge(along.real, pixels), _enlarge(along.imag, pixels)
    rows, columns = np.indices(noise.shape, np.int32)
    for _ in range(doublings):
        row = (rows + np.rint(step * dy).astype(np.int32)).clip(0, pixels - 1)
        column = (columns + np.rint(step * dx).astype(np.int32)).clip(0, pixels - 1)
        noise = noise + noise.ravel().take(row * pixels + column)
        step *= 2
    return noise / noise.std()


# ------------------------------------------------------------------------------------------------------------ fundus


def disc_distance(eye: Eye, window: Window) -> np.ndarray:
    """Distance from the disc's centre in units of its somewhat irregular radius: 1 at its edge; (pixels, pixels)."""
    rng = eye.rng("disc edge")
    offset = (window.coarser(2).points() - eye.disc) / np.complex64(eye.nasal)
    around = offset / np.maximum(abs(offset), 1e-6)
    radius = np.ones(offset.shape, np.float32)
    harmonic = around
    for order in (2, 3, 4, 5):
        harmonic = harmonic * around
        amplitude = np.complex64(rng.normal(0, 0.03 / order**0.5) * np.exp(2j * np.pi * rng.random()))
        radius += (harmonic * amplitude).real
    distance = np.hypot(offset.real / eye.disc_axes[0], offset.imag / eye.disc_axes[1]) / radius
    return _enlarge(distance, window.pixels)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(values, -30, 30)))


def _rgb(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue], np.float32)


def border_distance(eye: Eye, window: Window) -> np.ndarray:
    """How far each pixel lies inside the camera's field, in px, negative outside: (pixels, pixels) float32."""
    if not np.isfinite(eye.field_radius):
        return np.full((window.pixels, window.pixels), np.inf, np.float32)
    offset = window.points() - eye.field_centre
    distance = eye.field_radius - abs(offset)
    if "cut" in eye.has:
        rng = eye.rng("cut")
        axis = 1j if rng.random() < 0.7 else 1  # above and below, or left and right
        middle = abs(((window.centre - eye.field_centre) * axis).real)
        # The picture's middle stays within the field.
        half = max(rng.uniform(0.72, 0.95) * eye.field_radius, middle + 0.12 * window.side_mm)
        distance = np.minimum(distance, half - abs((offset * np.complex64(axis)).real))
    return (distance * window.px_per_mm).astype(np.float32)


def render_fundus(eye: Eye, window: Window, vessels: dict[str, Vessels], rng: np.random.Generator) -> np.ndarray:
    """Photograph a window of the retina: (pixels, pixels, 3) uint8, at most 8 outside the camera's field.

    `vessels` holds the trees by kind, "artery" and "vein", rasterised in the same window.
    """
    image = _background(eye, window)
    image = _absorb(eye, image, vessels, window)
    inside = border_distance(eye, window)
    image = _light(eye, window, image, inside)
    return _expose(eye, image, inside, rng)


def _background(eye: Eye, window: Window) -> np.ndarray:
    """The retina without its vessels, in even light: (pixels, pixels, 3) float32."""
    look, rng = eye.look, eye.rng("background")
    broad = smooth_noise(rng, window, 3.0)
    mottle = smooth_noise(rng, window, 0.5)
    fine = smooth_noise(rng, window, 0.13)
    redder = smooth_noise(eye.rng("background", 2), window, 0.25)
    grain = smooth_noise(rng, window, 0.05)
    choroid = np.float32(look["choroid"])
    texture = 1 + choroid * (0.045 * mottle + 0.022 * fine) + np.float32(look["texture"]) * grain
    red, green, blue = _pigment(look)
    colour = np.stack(
        [
            red * (1 + choroid * (0.06 * broad + 0.05 * redder)) * texture,
            green * (1 - 0.03 * broad) * (1.4 * texture - 0.4),
            blue * (1 - 0.06 * broad) * (1.2 * texture - 0.2),
        ],
        axis=-1,
    )  # (pixels, pixels, 3)
    if look["tessellation"] > 0:
        colour *= _choroidal_vessels(eye, window)
    if look["blotches"] > 0:
        colour *= _blotches(eye, window)
    coarse = window.coarser(8).points()
    squared = coarse.real**2 + coarse.imag**2
    fovea = look["fovea"] * (np.exp(-squared / (2 * 0.5**2)) + 0.5 * np.exp(-squared / (2 * 1.3**2)))
    colour *= 1 - _enlarge(fovea, window.pixels)[..., None] * _rgb(0.16, 0.30, 0.30)
    distance = disc_distance(eye, window)
    _nerve_fibres(eye, window, distance, colour)
    if look["gleam"] > 0:
        patch = smooth_noise(eye.rng("gleam"), window, 0.35, 0.9) + 0.3 * fine
        patch = look["gleam"] * _sigmoid((patch - 1.7) / 0.35)
        colour += (patch * (0.5 + 0.5 * red))[..., None] * _rgb(0.45, 0.55, 0.35)
    if eye.has & MARKS.keys():
        _add_marks(eye, window, distance, colour)
    if distance.min() < 1.6:
        _paint_disc(eye, window, distance, mottle, colour)
    return colour.clip(0.004)


def _pigment(look: dict[str, float]) -> np.ndarray:
    """Colour of the bare fundus, (3,)."""
    green = look["red"] * look["green_share"]
    return _rgb(look["red"], green, green * max(look["blue_share"], look["green_share"] - 0.4))


def _choroidal_vessels(eye: Eye, window: Window) -> np.ndarray:
    """Bands without ends that cross each other, wide and blurred: factors (pixels, pixels, 3) about 1."""
    rng = eye.rng("choroid")
    bands, fineness = 0.0, rng.uniform(0.4, 1.2)
    for cells in ((1.1, 0.6), (0.7, 1.2)):
        height = smooth_noise(rng, window, *(fineness * cell for cell in cells))
        bands = bands + np.exp(-((height / 0.5) ** 2)) - 0.4
    patches = _sigmoid(smooth_noise(rng, window, 2.0) * 2)  # they show in parts of the field
    # Orange between dark pigment, as a rule; in pale eyes dark red on bare sclera.
    bright, dark = rng.uniform((0.1, 0.05, 0.0), (0.5, 0.4, 0.35)), (-0.10, -0.26, -0.26)
    tint = _rgb(*(bright if rng.random() < 0.85 else dark))
    return 1 + (eye.look["tessellation"] * bands * patches)[..., None] * tint


def _blotches(eye: Eye, window: Window) -> np.ndarray:
    """Islands of another colour, some as narrow as vessels: factors (pixels, pixels, 3).

    Choroid that shines through is redder and, as vessels are, lower in green than in red: on a real photograph
    (CHASE_DB1) red was 0.16 brighter there, green 0.05, and a network that had not met it took it for vessels.
    """
    rng = eye.rng("choroid", 2)
    cell = rng.uniform(0.12, 0.4)  # mm
    height = smooth_noise(rng, window, cell, cell * rng.uniform(0.5, 2))
    islands = _sigmoid((height - rng.uniform(-0.5, 1.2)) / rng.uniform(0.15, 0.5))
    islands *= _sigmoid((smooth_noise(rng, window, 2.0) + 0.3) * 3)  # they show in parts of the field
    tint = _rgb(*rng.uniform((0.1, -0.15, -0.2), (0.7, 0.3, 0.3))) * rng.choice([1, 1, -0.6])
    return 1 + (eye.look["blotches"] * islands)[..., None] * tint


def _nerve_fibres(eye: Eye, window: Window, distance: np.ndarray, colour: np.ndarray) -> None:
    """Pale olive streaks that leave the disc above and below, and a dusky or bright halo around it; in place."""
    look, rng = eye.look, eye.rng("fibres")
    coarse = window.coarser(8)
    offset = (coarse.points() - eye.disc) / np.complex64(eye.nasal)
    beyond = np.clip(np.hypot(offset.real, offset.imag) / eye.disc_axes[0] - 1, 0, None)
    around = offset / np.maximum(abs(offset), 1e-6)
    sheen = look["sheen"] * (around.imag**2 * 0.8 + 0.2) * np.exp(-beyond / rng.uniform(0.8, 2.2))
    noise = gaussian_filter(rng.standard_normal(distance.shape, np.float32), look["streak_px"])
    streaks = _smear(noise, fibre_direction(coarse.points(), eye.disc, 0.5), 2.0, 4)
    shine = _enlarge(sheen, window.pixels) * (0.2 + look["streaks"] * streaks)
    colour *= 1 + shine[..., None] * _rgb(0.35, 1.0, 1.3)
    uneven = _enlarge(0.5 + 0.5 * (around * np.exp(-2j * np.pi * rng.random())).real, window.pixels)
    halo = look["halo"] * uneven * np.exp(-(((distance - 1.08) / rng.uniform(0.15, 0.45)) ** 2))
    colour *= 1 - halo[..., None] * _rgb(0.8, 1.0, 1.0)


RINGS = {"pigment_ring": (-0.6, -0.8, -0.8), "scleral_ring": (0.3, 0.7, 0.8)}  # what they add, as a share


def _paint_disc(eye: Eye, window: Window, distance: np.ndarray, mottle: np.ndarray, colour: np.ndarray) -> None:
    """Blend in the disc, in place: redder nasal rim, brighter cup somewhat to the temporal side, bare sclera beside."""
    look, rng = eye.look, eye.rng("disc paint")
    pale = _pigment(look) / look["red"]
    pale = pale + look["disc_pale"] * _rgb(1, 1, look["disc_blue"]) * (1 - pale)
    bright = look["red"] * look["disc_bright"]
    base = (bright if look["exposure"] else min(0.98, bright)) * pale  # where exposure follows, it may be above 1
    offset = (window.points() - eye.disc) / np.complex64(eye.nasal)
    across = offset.real / eye.disc_axes[0]  # 1 at the nasal edge
    edge = _sigmoid((1 - distance + 0.035 * mottle) / look["disc_edge"])
    cup_radius = max(look["cup"], 0.05) * eye.disc_axes[0]
    depth = abs(offset - complex(-0.15, 0.03) * eye.disc_axes[0]) / cup_radius  # 1 at the cup's edge
    cup = _sigmoid((1 - depth) / look["cup_edge"]) * min(1, look["cup"] / 0.2) * look["cup_bright"]
    rim = np.clip(distance, 0, 1) ** 3
    shade = 0.9 - 0.04 * rim - 0.06 * np.clip(across, -1, 1) + cup + 0.04 * mottle
    warmth = 0.09 * rim + 0.06 * across
    tint = 1 + cup[..., None] * _rgb(0.3, 0.8, 1.6) - warmth[..., None] * _rgb(0, 1.0, 1.4)
    disc = base * shade[..., None] * tint  # (pixels, pixels, 3)
    if look["crescent"] > 0:
        side = (offset * np.exp(1j * rng.normal(0, 0.6))).real / eye.disc_axes[0]
        width = rng.uniform(0.05, 0.35) * np.clip(-side, 0, 1.3)
        bare = _sigmoid((1 + width - distance + 0.02 * mottle) / rng.uniform(0.015, 0.05)) * (width > 0.01)
        colour += (look["crescent"] * 1.6 * bare)[..., None] * (base * _rgb(0.95, 0.95, 0.9) - colour)
    colour += (disc - colour) * edge[..., None]
    _rings(eye, offset, distance, colour)


def _rings(eye: Eye, offset: np.ndarray, distance: np.ndarray, colour: np.ndarray) -> None:
    """Arcs along the disc's edge, dark of pigment or pale of bare sclera, in place; `offset` as in the disc.

    As narrow as a vessel or 0.3 radii wide, and sharper towards the disc: without them its edge is taken for a vessel.
    """
    for number, (name, tint) in enumerate(RINGS.items(), start=2):
        if eye.look[name] > 0:
            rng = eye.rng("disc paint", number)
            along = (offset * np.exp(2j * np.pi * rng.random())).real / eye.disc_axes[0]
            part = _sigmoid((along + rng.normal(0, 0.6)) / rng.uniform(0.1, 0.4))
            width = 0.015 * 20 ** rng.random()  # narrow ones prevail
            beyond = distance - rng.uniform(0.95, 1.1)
            arc = np.exp(-((beyond / np.where(beyond < 0, min(width, 0.06), width)) ** 2))
            colour *= 1 + (eye.look[name] * part * arc)[..., None] * _rgb(*tint)


def _absorb(eye: Eye, image: np.ndarray, vessels: dict[str, Vessels], window: Window) -> np.ndarray:
    """Lay the vessels over the fundus: light lost to blood, and a reflex along the middle of wide ones."""
    look = eye.look
    lost = np.zeros(image.shape[:2], np.float32)
    for kind, tree in vessels.items():
        dip = look["dip"] * (look["artery_dip"] if kind == "artery" else 1)
        width = np.minimum(tree.radius / window.px_per_mm / 0.04, 1)
        stripe = np.exp(-(((1 - tree.centrality) / look["reflex_width"]) ** 2))
        dip = dip * (1 - max(0, look[f"reflex_{kind}"]) * width * stripe)
        lost = np.maximum(lost, dip * (1 - np.exp(-look["blood"] / window.px_per_mm * tree.thickness)))
    image = image * (1 - lost[..., None] * _rgb(look["red_dip"], 1, look["blue_dip"]))
    if look["gleam"] > 0:  # the retina's surface bulges beside vessels, and mirrors the flash there in places
        covered = vessels["artery"].merge(vessels["vein"]).coverage
        beside = gaussian_filter(covered, 0.03 * window.px_per_mm) * (1 - covered)
        beside *= _sigmoid((smooth_noise(eye.rng("gleam", 2), window, 0.3) - 1.1) / 0.15)
        image += (2 * look["gleam"] * beside)[..., None] * _rgb(0.5, 0.55, 0.4)
    return image


# ---- What looks like a vessel and is none


def _scatter(rng: np.random.Generator, pixels: int, most: int) -> np.ndarray:
    """Places in px, (n, 2): a few clusters, or all over."""
    count = int(rng.integers(1, most + 1))
    spread = pixels * (rng.uniform(0.03, 0.2) if rng.random() < 0.5 else 0.6)
    return rng.uniform(0, pixels, 2) + rng.normal(0, spread, (count, 2))


def _blob(pen: ImageDraw.ImageDraw, rng: np.random.Generator, place: np.ndarray, radius: float, ragged: float) -> None:
    angle = np.linspace(0, 2 * np.pi, 17)[:-1]
    reach = radius * (1 + ragged * rng.standard_normal(16).cumsum() / 4 * np.sin(angle / 2))
    stretch = np.exp(rng.normal(0, 0.25))
    outline = np.stack([reach * stretch * np.cos(angle), reach / stretch * np.sin(angle)], axis=1) + place
    pen.polygon([tuple(point) for point in outline], fill=255)


def _line(
    pen: ImageDraw.ImageDraw, rng: np.random.Generator, place: np.ndarray, heading: float, length: float, width: float
) -> None:
    turns = heading + 0.25 * rng.standard_normal(12).cumsum()
    steps = np.stack([np.cos(turns), np.sin(turns)], axis=1) * length / 12
    pen.line([tuple(point) for point in place + steps.cumsum(axis=0)], fill=255, width=max(1, round(width)))


@dataclass(frozen=True)
class Mark:
    """A kind of lesion: `most` of them, `size_mm` wide; lines are up to `length_mm` long.

    light: what it leaves of the fundus' red, green and blue; above 1 it is pale.
    """

    most: int
    size_mm: tuple[float, float]
    light: tuple[float, float, float]
    opacity: tuple[float, float] = (0.4, 1.0)
    ragged: float = 0.3
    length_mm: float = 0.0
    blur_mm: float = 0.0


MARKS = {
    "haemorrhages": Mark(25, (0.03, 0.35), (0.75, 0.35, 0.4), ragged=0.6, blur_mm=0.01),
    "flames": Mark(14, (0.015, 0.06), (0.8, 0.4, 0.45), length_mm=0.6, blur_mm=0.01),
    "exudates": Mark(50, (0.02, 0.14), (1.35, 1.8, 1.5), ragged=0.7),
    "drusen": Mark(60, (0.03, 0.16), (1.15, 1.35, 1.3), (0.2, 0.8), blur_mm=0.012),
    "cotton_wool": Mark(5, (0.15, 0.6), (1.3, 1.7, 1.9), (0.3, 0.9), ragged=0.6, blur_mm=0.06),
    "scars": Mark(40, (0.15, 0.45), (1.25, 1.5, 1.5), (0.3, 0.9), ragged=0.4, blur_mm=0.02),
    "pigment_spots": Mark(15, (0.03, 0.3), (0.4, 0.4, 0.45), ragged=0.9, blur_mm=0.01),
    "pigment_lines": Mark(3, (0.02, 0.09), (0.55, 0.55, 0.6), (0.2, 0.7), length_mm=2.0, blur_mm=0.015),
}


def _add_marks(eye: Eye, window: Window, distance: np.ndarray, colour: np.ndarray) -> None:
    """Draw the lesions that this eye has, outside the disc, in place."""
    scale = 2 * window.px_per_mm  # drawn at twice the size, and reduced: soft edges
    for number, (name, mark) in enumerate(MARKS.items(), start=1):
        if name not in eye.has:
            continue
        rng = eye.rng("marks", number)
        sheet = Image.new("L", (2 * window.pixels, 2 * window.pixels))
        pen = ImageDraw.Draw(sheet)
        for place in _scatter(rng, 2 * window.pixels, mark.most):
            size = scale * mark.size_mm[0] * (mark.size_mm[1] / mark.size_mm[0]) ** rng.random()  # small ones prevail
            if mark.length_mm:
                spot = complex(*place) / scale - (1 + 1j) * window.side_mm / 2 + window.centre
                heading = np.angle(spot - eye.disc) + rng.normal(0, 0.3 if name == "flames" else 1.5)
                _line(pen, rng, place, heading, scale * rng.uniform(0.2, 1) * mark.length_mm, size)
            else:
                _blob(pen, rng, place, size / 2, mark.ragged)
                if name == "scars" and rng.random() < 0.5:  # pigment in the middle
                    pen.ellipse([*(place - size / 5), *(place + size / 5)], fill=0)
        layer = np.asarray(sheet.reduce(2), np.float32) / 255 * rng.uniform(*mark.opacity)
        if mark.blur_mm:
            layer = gaussian_filter(layer, mark.blur_mm * window.px_per_mm)
        layer *= _sigmoid((distance - 1.1) / 0.05)
        colour *= 1 + layer[..., None] * (_rgb(*mark.light) - 1)


# ---- Light and camera


def _light(eye: Eye, window: Window, image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Put the light on it: uneven, falling off outwards, with stray light: (pixels, pixels, 3)."""
    look, rng = eye.look, eye.rng("light")
    points = window.coarser(8).points()
    from_centre = (points - eye.light_centre) / eye.light_radius
    light = 1.06 - look["vignette"] * np.minimum(abs(from_centre), 1.25) ** rng.uniform(2, 4)
    side = np.exp(2j * np.pi * rng.random())
    slope = (from_centre * np.conj(side)).real * eye.light_radius  # mm to one side
    light *= np.clip(1 + look["tilt"] * slope, 0.3, 1.6)
    light *= 1 + look["uneven"] * smooth_noise(rng, window.coarser(8), 2.6)
    image = image * _enlarge(light.clip(0.05), window.pixels)[..., None]
    if look["flush"] > 0:
        rng = eye.rng("flush")
        far = ((points - window.centre) * np.exp(2j * np.pi * rng.random())).real / window.side_mm
        flush = look["flush"] * _sigmoid((far - rng.uniform(-0.2, 0.45)) / rng.uniform(0.05, 0.2))
        image *= 1 + _enlarge(flush, window.pixels)[..., None] * _rgb(0.7, -0.4, -0.55)
    if look["rim_glow"] > 0 and "border" in eye.has:
        rng = eye.rng("rim glow")
        part = _sigmoid(((from_centre * np.exp(2j * np.pi * rng.random())).real + rng.uniform(-0.8, 0.6)) / 0.15)
        band = np.exp(-np.clip(inside, 0, None) / (rng.uniform(0.05, 0.6) * window.px_per_mm))
        glow = look["rim_glow"] * band * _enlarge(part, window.pixels)
        image += glow[..., None] * _rgb(*rng.uniform((0.6, 0.35, 0.2), (1.0, 1.0, 1.0)))
    if look["veil"] > 0:
        rng = eye.rng("veil")
        haze = look["veil"] * (1 + 0.4 * smooth_noise(rng, window.coarser(8), 3.5)).clip(0.1)
        grey = image.mean(axis=(0, 1)) * _rgb(*rng.uniform(0.8, 1.5, 3))
        image += _enlarge(haze.clip(0, 0.8), window.pixels)[..., None] * (grey - image)
    if eye.has & {"lashes", "dust"}:
        image *= _shadows(eye, window)[..., None]
    return image


def _shadows(eye: Eye, window: Window) -> np.ndarray:
    """Factors about 1, (pixels, pixels): eyelashes, far out of focus, and dust on the sensor or the lens."""
    rng = eye.rng("shadows")
    few = window.coarser(2).pixels
    sheets = {name: Image.new("L", (few, few)) for name in ("lashes", "dust")}
    pens = {name: ImageDraw.Draw(sheet) for name, sheet in sheets.items()}
    if "lashes" in eye.has:
        for _ in range(rng.integers(1, 6)):
            start = np.array([rng.uniform(0, few), 0.0])
            heading, length = rng.normal(np.pi / 2, 0.4), rng.uniform(0.2, 0.9) * few
            _line(pens["lashes"], rng, start, heading, length, rng.uniform(1, 6))
    if "dust" in eye.has:
        for place in rng.uniform(0, few, (rng.integers(1, 12), 2)):
            _blob(pens["dust"], rng, place, rng.uniform(0.6, 8), 0.2)
    lashes = gaussian_filter(np.asarray(sheets["lashes"], np.float32) / 255, rng.uniform(2.5, 6.0))
    lashes = lashes[::-1] if rng.random() < 0.5 else lashes  # from below, or from above
    dust = gaussian_filter(np.asarray(sheets["dust"], np.float32) / 255, rng.uniform(0.4, 1.5))
    return _enlarge(1 - rng.uniform(0.15, 0.5) * lashes - rng.uniform(-0.25, 0.3) * dust, window.pixels)


def _expose(eye: Eye, image: np.ndarray, inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur, noise, tone, the field's border, and the camera's JPEG file: (pixels, pixels, 3) uint8."""
    look, size = eye.look, inside.shape
    image = gaussian_filter(image, (look["blur_px"], look["blur_px"], 0))
    image *= 1 + look["cast"] * _rgb(*rng.uniform(-1, 1, 3))
    image = image.clip(0)
    if look["gamma"] != 1:
        image **= np.float32(look["gamma"])
    if look["exposure"]:
        image *= look["exposure"] / np.mean(image[..., 0], where=inside > 0)
    blur = look["grain_px"]
    grain = [gaussian_filter(rng.standard_normal(size, np.float32), blur) for _ in range(2)]
    grain = [values / values.std() for values in grain]
    noise = np.dstack([grain[0] + 0.4 * grain[1], grain[0], grain[0] - 0.6 * grain[1]])  # mostly grey, a little colour
    image += look["noise"] * noise * (0.4 + 0.6 * np.sqrt(image))
    image *= np.clip(inside / look["rim_px"], 0, 1)[..., None]
    pixels = image.clip(0, 1) * 255 + look["black"] * rng.random()  # [0, 1] -> [0, 255]
    pixels = (pixels + 0.5).clip(0, 255).astype(np.uint8)
    pixels = _through_jpeg(pixels, round(look["jpeg_quality"]))
    return np.where(inside[..., None] > 0, pixels, np.minimum(pixels, OUTSIDE_LIMIT))


def _through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


# ------------------------------------------------------------------------------------------------------------- OCT-A


def render_octa(eye: Eye, window: Window, vessels: Vessels, rng: np.random.Generator) -> np.ndarray:
    """Scan a window of the retina: (pixels, pixels) uint8. `vessels` holds both trees."""
    distance = disc_distance(eye, window)
    mesh = _capillaries(eye, window, rng) * _perfused(eye, window, distance, rng)
    radius_mm = vessels.radius / window.px_per_mm
    grain = gaussian_filter(rng.standard_normal(mesh.shape, np.float32), 0.5) * 1.7
    # Wide vessels lie deeper and lose signal to their own shadow: they are greyer than their branches.
    level = eye.look["scan_level"] - 1.5 * np.clip(radius_mm - 0.02, 0, 0.1)
    within = _sigmoid((0.85 - distance) / 0.08)
    level = level - 0.12 * within * (1 + smooth_noise(rng, window, 0.2))
    bright = level + eye.look["scan_grain"] * grain
    shadow = gaussian_filter(vessels.coverage, 2.2)
    background = mesh * (1 - 0.45 * shadow)
    # The beam spreads a vessel by a fraction of a pixel; a thinner one than a pixel dissolves in the mesh.
    cover = np.clip(vessels.depth + 0.75 + 0.3 * grain, 0, 1) * np.clip(vessels.radius / 0.5 - 0.6, 0, 1)
    scan = gaussian_filter(background * (1 - cover) + np.maximum(bright, background) * cover, 0.6)
    if "motion" in eye.has:
        scan = _motion(scan, rng)
    return (scan.clip(0, 1) * 255 + 0.5).astype(np.uint8)  # [0, 1] -> [0, 255]


def _capillaries(eye: Eye, window: Window, rng: np.random.Generator) -> np.ndarray:
    """The capillary mesh: noise, smeared along the nerve fibres, cut to ridges; (pixels, pixels) in [0, 1]."""
    coarse = window.coarser(4)
    noise = gaussian_filter(rng.standard_normal((window.pixels, window.pixels), np.float32), 0.55)
    nearby = np.exp(-((abs(coarse.points() - eye.disc) / 3.2) ** 2))  # streaks by the disc, a mesh at the macula
    along = fibre_direction(coarse.points(), eye.disc, 0.5)
    along = along * np.exp(1j * (0.85 - 0.65 * nearby) * smooth_noise(rng, coarse, 0.07))
    smeared = _smear(noise, along, 1.6, 2)
    streaks = smeared - uniform_filter(smeared, 5)
    streaks /= streaks.std()
    net = gaussian_filter(rng.standard_normal(noise.shape, np.float32), 1.2)
    net = 1.0 - 1.6 * abs(net / net.std())  # bright where smooth noise changes sign: closed meshes
    clumps = 0.25 * smooth_noise(rng, window, 0.3) + 0.2 * smooth_noise(rng, window, 0.07)
    nearby = _enlarge(nearby, window.pixels)
    pattern = streaks + (0.6 - 0.5 * nearby) * net + clumps + 0.75 * rng.standard_normal(noise.shape, np.float32)
    return eye.look["mesh"] * (0.90 + 0.08 * nearby) * _sigmoid(1.7 * pattern - 1.15)


def _perfused(eye: Eye, window: Window, distance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where there are capillaries: none in the foveal avascular zone, few in patches of the disc."""
    coarse = window.coarser(2)
    beyond = abs(coarse.points()) - eye.faz_radius  # mm
    ragged = smooth_noise(eye.rng("faz edge"), coarse, 0.12)
    fovea = 0.10 + 0.90 * _sigmoid((beyond - 0.05 * ragged) / 0.03)
    ring = 1 + 0.25 * np.exp(-(((beyond - 0.08) / 0.07) ** 2))
    patches = _sigmoid((smooth_noise(rng, window, 0.13) - 0.1) / 0.3)
    disc = 1 - _sigmoid((0.9 - distance) / 0.06) * (0.05 + 0.55 * patches)
    return _enlarge(fovea * ring, window.pixels) * disc


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


def draw_pair(seed: int, number: int, pixels: int = CROP_PX) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `number`-th training retina of a seed, always the same whatever else is drawn.

    Eight consecutive numbers share a grown tree, so it is quicker to draw them in one process, one after the other.

    Returns the fundus, (pixels, pixels, 3) uint8, at most 8 outside the camera's field; the OCT-A, (pixels, pixels, 1)
    uint8, 0 outside; and where the field is, (pixels, pixels) bool. Raises ValueError for a negative seed or number, or
    fewer than 32 pixels.
    """
    if seed < 0 or number < 0 or pixels < 32:
        raise ValueError(f"seed and number must be at least 0 and pixels at least 32, not {seed}, {number}, {pixels}")
    eye, window = make_training_eye(seed, number, pixels)
    vessels = {"artery": rasterise(eye.arteries, window), "vein": rasterise(eye.veins, window)}
    fundus = render_fundus(eye, window, vessels, eye.rng("photograph"))
    octa = render_octa(eye, window, vessels["artery"].merge(vessels["vein"]), eye.rng("scan"))
    fov = border_distance(eye, window) > 0
    return fundus, (octa * fov)[..., None], fov


def stream(seed: int, first: int, workers: int) -> Iterator[np.ndarray]:
    """Draw the training retinas of a seed without end, in order, by worker processes that work ahead.

    Each worker draws runs of retinas that share a tree, and waits when it is a run ahead: what comes is the same for
    any number of workers. They are programs of their own, so that nothing of the caller is loaded again, and end with
    the iterator or, if the caller is killed, with its end of the pipe.

    Args:
        seed: of the series.
        first: number of the first retina, a multiple of TREE_SHARED_BY.
        workers: processes.

    Yields:
        (CROP_PX, CROP_PX, 5), uint8: fundus, OCT-A, and 1 inside the camera's field, else 0.

    Raises:
        OSError: a worker ended; what it said stands on standard error.
    """
    size = CROP_PX * CROP_PX * 5  # bytes

    def fetch(process: subprocess.Popen, drawn: Queue) -> None:
        while len(pixels := process.stdout.read(size)) == size:
            drawn.put(pixels)
        drawn.put(None)

    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    processes, queues, threads = [], [], []
    try:
        for number in range(workers):
            start = first + number * TREE_SHARED_BY
            command = [sys.executable, __file__, "--stream", str(start), str(workers), "--seed", str(seed)]
            # A session of its own: Ctrl-C is for the caller, who ends the workers when it is done.
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, start_new_session=True))
            queues.append(Queue(TREE_SHARED_BY))
            threads.append(Thread(target=fetch, args=(processes[-1], queues[-1]), daemon=True))
            threads[-1].start()
        for drawn in cycle(queues):
            for _ in range(TREE_SHARED_BY):
                pixels = drawn.get()
                if pixels is None:
                    raise OSError(WORKER_ENDED)
                yield np.frombuffer(pixels, np.uint8).reshape(CROP_PX, CROP_PX, 5)
    finally:
        for process in processes:
            process.kill()
        for process, drawn, thread in zip(processes, queues, threads, strict=False):
            while thread.is_alive():  # it may wait for room
                while not drawn.empty():
                    drawn.get()
                thread.join(0.01)
            process.stdout.close()
            process.wait()


def write_stream(output: BinaryIO, seed: int, first: int, workers: int) -> None:
    """A worker of `stream`: write every workers-th run of retinas until nobody reads them any more."""
    for start in count(first, workers * TREE_SHARED_BY):
        for number in range(start, start + TREE_SHARED_BY):
            fundus, octa, fov = draw_pair(seed, number)
            try:
                output.write(np.dstack([fundus, octa, fov.astype(np.uint8)]).tobytes())
                output.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())  # for what Python writes at its end
                return


def render_crop(eye: Eye, region: str) -> Crop:
    """Photograph and scan one region ("disc" or "macula") of an eye. Raises ValueError for another region."""
    window = crop_window(eye, region)
    rng = eye.rng(region)
    trees = {"artery": eye.arteries, "vein": eye.veins}
    large = {kind: rasterise(tree, window, TRUTH_MIN_WIDTH_MM, np.inf) for kind, tree in trees.items()}
    fine = {kind: rasterise(tree, window, 0, TRUTH_MIN_WIDTH_MM) for kind, tree in trees.items()}
    vessels = {kind: large[kind].merge(fine[kind]) for kind in trees}
    truth = np.where(large["artery"].merge(large["vein"]).depth > 0, 255, 0).astype(np.uint8)
    grey = render_octa(eye, window, vessels["artery"].merge(vessels["vein"]), rng)
    octa = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    return Crop(render_fundus(eye, window, vessels, rng), octa, truth)


def render_full_field(eye: Eye) -> np.ndarray:
    """Photograph 45 degrees of an eye: (1000, 1000, 3) uint8, a round field on black."""
    window = Window(eye.field_centre, FIELD_MM, FIELD_PX)
    vessels = {
        "artery": rasterise(eye.arteries, window, FUNDUS_MIN_WIDTH_MM),
        "vein": rasterise(eye.veins, window, FUNDUS_MIN_WIDTH_MM),
    }
    return render_fundus(eye, window, vessels, eye.rng("full field"))


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
        with tqdm(subjects, desc="sample retinas", unit="eye", disable=not progress) as bar:
            for subject in bar:
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


def drawn_sheet(seed: int = 0) -> Image.Image:
    """Training retinas of as many trees, the fundus above its OCT-A."""
    rows, columns = PREVIEW_DRAWN
    tile = (PREVIEW_TILE_PX, PREVIEW_TILE_PX)
    sheet = Image.new("RGB", (columns * tile[0], 2 * rows * tile[1]))
    for number in range(rows * columns):
        fundus, octa, _ = draw_pair(seed, number * TREE_SHARED_BY)
        row, column = divmod(number, columns)
        for below, pixels in enumerate((fundus, octa[..., 0])):
            picture = Image.fromarray(pixels).convert("RGB").resize(tile, Image.Resampling.LANCZOS)
            sheet.paste(picture, (column * tile[0], (2 * row + below) * tile[1]))
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
    parser.add_argument(
        "--preview-drawn", type=Path, metavar="FILE", help="PNG to write a contact sheet of training retinas to"
    )
    return parser


@contextmanager
def _blamed_on(option: str, parser: argparse.ArgumentParser) -> Iterator[None]:
    """Turn what the system refuses into one line that names the option."""
    try:
        yield
    except OSError as error:
        parser.error(f"argument {option}: {error}; choose another place")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or exits with status 2 and one line on stderr."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.stream is not None:
        write_stream(sys.stdout.buffer, args.seed, *args.stream)
        return 0
    previews = {
        "--preview": (args.preview, lambda: contact_sheet(args.subjects[:PREVIEW_EYES], args.seed)),
        "--preview-drawn": (args.preview_drawn, lambda: drawn_sheet(args.seed)),
    }
    previews = {option: preview for option, preview in previews.items() if preview[0] is not None}
    if args.output is None and not previews:
        parser.error("give --output DIR, --preview FILE or --preview-drawn FILE")
    for option, (file, _) in previews.items():
        if file.suffix.lower() != ".png" or file.is_dir():
            parser.error(f"argument {option}: {file} is not the name of a PNG file: end it in .png")
    if args.output is not None:
        with _blamed_on("--output", parser):
            check_output(args.output)
    for option, (file, _) in previews.items():
        with _blamed_on(option, parser):
            file.parent.mkdir(parents=True, exist_ok=True)
    if args.output is not None:
        with _blamed_on("--output", parser):
            write_dataset(args.output, args.subjects, args.seed)
    for option, (file, draw) in previews.items():
        with _blamed_on(option, parser):
            draw().save(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
