"""The OCT-A scan: capillary mesh, foveal avascular zone, vessels, speckle, motion. Its ranges are in ranges.py."""

import numpy as np
from numpy.random import Generator
from scipy.ndimage import gaussian_filter, uniform_filter

from simulation.eye import Eye, disc_distance, enlarge, sigmoid, smear, smooth_noise
from simulation.trees import Vessels, Window, fibre_direction


def render_octa(eye: Eye, window: Window, vessels: dict[str, Vessels], rng: Generator) -> np.ndarray:
    """Scan a window of the retina: (pixels, pixels) uint8; `vessels` as in render_fundus."""
    vessels = vessels["artery"].merge(vessels["vein"])
    distance = disc_distance(eye, window)
    mesh = _capillaries(eye, window, rng) * _perfused(eye, window, distance, rng)
    radius_mm = vessels.radius / window.px_per_mm
    grain = gaussian_filter(rng.standard_normal(mesh.shape, np.float32), 0.5) * 1.7
    # Wide vessels lie deeper and lose signal to their own shadow: they are darker than their branches.
    level = eye["scan_level"] - 1.5 * np.clip(radius_mm - 0.02, 0, 0.1)
    within = sigmoid((0.85 - distance) / 0.08)
    level = level - 0.12 * within * (1 + smooth_noise(rng, window, 0.2))
    bright = level + eye["scan_grain"] * grain
    background = mesh * (1 - 0.45 * gaussian_filter(vessels.coverage, 2.2))  # in the vessels' shadow
    # The beam widens a vessel by a fraction of a pixel; one thinner than a pixel dissolves in the mesh.
    cover = np.clip(vessels.depth + 0.75 + 0.3 * grain, 0, 1) * np.clip(vessels.radius / 0.5 - 0.6, 0, 1)
    scan = gaussian_filter(background * (1 - cover) + np.maximum(bright, background) * cover, 0.6)
    if "motion" in eye.features:
        _add_motion(scan, rng)
    return (scan.clip(0, 1) * 255 + 0.5).astype(np.uint8)  # [0, 1] -> [0, 255]


def _capillaries(eye: Eye, window: Window, rng: Generator) -> np.ndarray:
    """The capillary mesh: noise, smeared along the nerve fibres, cut to ridges; (pixels, pixels) in [0, 1]."""
    coarse = window.coarser(4)
    noise = gaussian_filter(rng.standard_normal((window.pixels, window.pixels), np.float32), 0.55)
    nearby = np.exp(-((abs(coarse.points() - eye.disc) / 3.2) ** 2))  # streaks by the disc, a mesh at the macula
    along = fibre_direction(coarse.points(), eye.disc, 0.5)
    along = along * np.exp(1j * (0.85 - 0.65 * nearby) * smooth_noise(rng, coarse, 0.07))
    smeared = smear(noise, along, 1.6, 2)
    streaks = smeared - uniform_filter(smeared, 5)
    streaks /= streaks.std()
    net = gaussian_filter(rng.standard_normal(noise.shape, np.float32), 1.2)
    net = 1.0 - 1.6 * abs(net / net.std())  # bright where smooth noise changes sign: closed meshes
    clumps = 0.25 * smooth_noise(rng, window, 0.3) + 0.2 * smooth_noise(rng, window, 0.07)
    nearby = enlarge(nearby, window.pixels)
    pattern = streaks + (0.6 - 0.5 * nearby) * net + clumps + 0.75 * rng.standard_normal(noise.shape, np.float32)
    return eye["mesh"] * (0.90 + 0.08 * nearby) * sigmoid(1.7 * pattern - 1.15)


def _perfused(eye: Eye, window: Window, distance: np.ndarray, rng: Generator) -> np.ndarray:
    """The density of capillaries: none in the foveal avascular zone, few in patches of the disc; (pixels, pixels)."""
    coarse = window.coarser(2)
    beyond = abs(coarse.points()) - eye.faz_radius  # mm
    ragged = smooth_noise(eye.rng("faz edge"), coarse, 0.12)
    fovea = 0.10 + 0.90 * sigmoid((beyond - 0.05 * ragged) / 0.03)
    ring = 1 + 0.25 * np.exp(-(((beyond - 0.08) / 0.07) ** 2))
    patches = sigmoid((smooth_noise(rng, window, 0.13) - 0.1) / 0.3)
    disc = 1 - sigmoid((0.9 - distance) / 0.06) * (0.05 + 0.55 * patches)
    return enlarge(fovea * ring, window.pixels) * disc


def _add_motion(scan: np.ndarray, rng: Generator) -> None:
    """Add traces of eye movements, in place: lines, shifted rows, and bands that registration filled by stretching."""
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
