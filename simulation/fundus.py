"""The colour fundus photograph: retina, disc, vessels, light, camera. Its ranges are in ranges.py."""

from io import BytesIO

import numpy as np
from numpy.random import Generator
from PIL import Image
from PIL.Image import Resampling
from PIL.ImageDraw import Draw, ImageDraw
from scipy.ndimage import gaussian_filter

from retina.images import resized
from simulation.eye import Eye, border_distance, disc_distance, enlarge, random_direction, sigmoid, smear, smooth_noise
from simulation.ranges import LESIONS, RINGS
from simulation.trees import Vessels, Window, fibre_direction

OUTSIDE_LIMIT = 8  # grey levels that the camera and its JPEG may leave outside the field, unless it is grey there
FEWEST_PX_PER_MM = 32  # of a photograph that is enlarged: 45 degrees on 420 px


def render_fundus(eye: Eye, window: Window, vessels: dict[str, Vessels], rng: Generator) -> np.ndarray:
    """Photograph a window of the retina: (pixels, pixels, 3) uint8, outside the field of view black or grey.

    `vessels` holds the trees by kind, "artery" and "vein", rasterised in the same window.
    """
    inside = border_distance(eye, window)
    image = _absorb(eye, _background(eye, window), vessels, window)
    return _expose(eye, window, _light(eye, window, image, inside), inside, rng)


def _rgb(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue], np.float32)


def _background(eye: Eye, window: Window) -> np.ndarray:
    """The retina without its vessels, in even light: (pixels, pixels, 3) float32."""
    rng = eye.rng("background")
    broad, mottle, fine = (smooth_noise(rng, window, cell) for cell in (3.0, 0.5, 0.13))
    redder = smooth_noise(eye.rng("background", 2), window, 0.25)
    grain = smooth_noise(rng, window, 0.05)
    choroid = np.float32(eye["choroid"])
    texture = 1 + choroid * (0.045 * mottle + 0.022 * fine) + np.float32(eye["texture"]) * grain
    red, green, blue = _pigment(eye)
    channels = [
        red * (1 + choroid * (0.06 * broad + 0.05 * redder)) * texture,
        green * (1 - 0.03 * broad) * (1.4 * texture - 0.4),
        blue * (1 - 0.06 * broad) * (1.2 * texture - 0.2),
    ]
    colour = np.stack(channels, axis=-1)  # (pixels, pixels, 3)
    if eye["tessellation"] > 0:
        colour *= _choroidal_vessels(eye, window)
    if eye["choroid_streaks"] > 0:
        colour *= _choroidal_streaks(eye, window)
    if eye["blotches"] > 0:
        colour *= _blotches(eye, window)
    coarse = window.coarser(8).points()
    squared = coarse.real**2 + coarse.imag**2
    foveola, macula, around = (np.exp(-squared / (2 * sigma**2)) for sigma in (0.18, 0.5, 1.3))  # mm
    fovea = eye["fovea"] * (0.5 * foveola + 0.5 * macula + 0.4 * around)
    colour *= 1 - enlarge(fovea, window.pixels)[..., None] * _rgb(0.16, 0.30, 0.30)
    distance = disc_distance(eye, window)
    _nerve_fibres(eye, window, distance, colour)
    if eye["reflection"] > 0:
        patch = smooth_noise(eye.rng("reflection"), window, 0.35, 0.9) + 0.3 * fine
        patch = eye["reflection"] * sigmoid((patch - 1.7) / 0.35)
        colour += (patch * (0.5 + 0.5 * red))[..., None] * _rgb(0.45, 0.55, 0.35)
    if eye["atrophy"] > 0:
        _thin_out(eye, window, distance, colour)
    if "plaques" in eye.features:
        _plaques(eye, window, distance, colour)
    _add_lesions(eye, window, distance, colour)
    if distance.min() < 1.6:
        _paint_disc(eye, window, distance, mottle, colour)
    return colour.clip(0.004)


def _pigment(eye: Eye) -> np.ndarray:
    """Colour of the bare fundus, (3,)."""
    green = eye["red"] * eye["green_share"]
    return _rgb(eye["red"], green, green * max(eye["blue_share"], eye["green_share"] - 0.4))


def _choroidal_vessels(eye: Eye, window: Window) -> np.ndarray:
    """Endless bands that cross each other, wide and blurred: factors (pixels, pixels, 3) about 1."""
    rng = eye.rng("choroid")
    bands, fineness = 0.0, rng.uniform(0.4, 1.2)
    for cells in ((1.1, 0.6), (0.7, 1.2)):
        height = smooth_noise(rng, window, *(fineness * cell for cell in cells))
        bands = bands + np.exp(-((height / 0.5) ** 2)) - 0.4
    patches = sigmoid(smooth_noise(rng, window, 2.0) * 2)  # they show in parts of the field
    # Mostly orange between dark pigment; in pale eyes dark red on bare sclera.
    bright, dark = rng.uniform((0.1, 0.05, 0.0), (0.5, 0.4, 0.35)), (-0.10, -0.26, -0.26)
    tint = _rgb(*(bright if rng.random() < 0.85 else dark))
    return 1 + (eye["tessellation"] * bands * patches)[..., None] * tint


def _choroidal_streaks(eye: Eye, window: Window) -> np.ndarray:
    """Long choroidal vessels side by side, as on their way to a vortex vein: factors (pixels, pixels, 3).

    They do not branch, are blurred, and darken red and green alike. A network that was trained without them mistook
    them for vessels (LES-AV, DRIVE).
    """
    rng = eye.rng("choroid", 3)
    coarse = window.coarser(8)
    along = random_direction(rng) * np.exp(0.4j * smooth_noise(rng, coarse, 2.5))
    width = rng.uniform(0.05, 0.2)  # mm
    height = smear(smooth_noise(rng, window, width), along, 0.6 * width * window.px_per_mm, 4)
    streaks = sigmoid((height - rng.uniform(0.2, 1.5)) / rng.uniform(0.15, 0.5))
    streaks *= sigmoid((smooth_noise(rng, window, 1.5) + 0.3) * 3)  # they show in parts of the field
    tint = _rgb(*rng.uniform((-0.35, -0.55, -0.5), (0.05, -0.15, -0.1)))
    return 1 + (eye["choroid_streaks"] * streaks)[..., None] * tint


def _blotches(eye: Eye, window: Window) -> np.ndarray:
    """Islands of a different colour, some as narrow as vessels: factors (pixels, pixels, 3).

    Choroid that shines through is redder and, like vessels, lower in green than in red. On a real photograph
    (CHASE_DB1) red was 0.16 brighter there and green 0.05; a network trained without it mistook it for vessels.
    """
    rng = eye.rng("choroid", 2)
    cell = rng.uniform(0.12, 0.4)  # mm
    height = smooth_noise(rng, window, cell, cell * rng.uniform(0.5, 2))
    islands = sigmoid((height - rng.uniform(-0.5, 1.2)) / rng.uniform(0.15, 0.5))
    islands *= sigmoid((smooth_noise(rng, window, 2.0) + 0.3) * 3)  # they show in parts of the field
    tint = _rgb(*rng.uniform((0.1, -0.15, -0.2), (0.7, 0.3, 0.3))) * rng.choice([1, 1, -0.6])
    return 1 + (eye["blotches"] * islands)[..., None] * tint


def _islands(rng: Generator, window: Window, cell_mm: float, ragged: float) -> np.ndarray:
    """A surface that is above 0 in a few ragged islands, about `cell_mm` wide: (pixels, pixels), mean -2 to -0.8."""
    surface = smooth_noise(rng, window, cell_mm) + ragged * smooth_noise(rng, window, 0.12)
    return surface + 0.5 * ragged * smooth_noise(rng, window, 0.04) - rng.uniform(0.8, 2.0)


def _thin_out(eye: Eye, window: Window, distance: np.ndarray, colour: np.ndarray) -> None:
    """Atrophy, in place: pale areas, next to the disc or anywhere, where sclera shows between choroidal vessels.

    Their edges are sharp and partly pigmented. Choroidal vessels are wide, blurred, and do not taper.
    """
    rng = eye.rng("atrophy")
    height = _islands(rng, window, rng.uniform(0.5, 2.0), 0.15)
    height += rng.uniform(0, 2.5) * np.exp(-(((distance - 1) / rng.uniform(0.5, 1.5)) ** 2))
    edge = rng.uniform(0.02, 0.25)
    bands = 0.0
    for cells in ((1.1, 0.5), (0.5, 1.1)):
        course = smooth_noise(rng, window, *(rng.uniform(0.5, 1.0) * cell for cell in cells))
        bands = np.maximum(bands, np.exp(-((course / rng.uniform(0.2, 0.45)) ** 2)))
    bare = 1 - rng.uniform(0, 0.6) * bands[..., None] * _rgb(0.35, 0.8, 0.9)
    pale = _pigment(eye) * _rgb(*rng.uniform((1.1, 1.3, 1.0), (1.5, 2.2, 2.4)))
    colour += (eye["atrophy"] * sigmoid(height / edge))[..., None] * (pale * bare - colour)
    pigment = np.exp(-((height / (2 * edge)) ** 2)) * sigmoid(4 * smooth_noise(rng, window, 0.3) - 2)
    colour *= 1 - rng.uniform(0, 0.6) * pigment[..., None]


def _plaques(eye: Eye, window: Window, distance: np.ndarray, colour: np.ndarray) -> None:
    """Confluent exudates, in place: bright, yellow, with gaps and sharp ragged edges."""
    rng = eye.rng("plaques")
    around = _islands(rng, window, rng.uniform(0.5, 1.5), 0.0)
    height = 0.7 * _islands(rng, window, rng.uniform(0.1, 0.4), rng.uniform(0.4, 1.0)) + around + rng.uniform(0.5, 1.5)
    area = sigmoid(height / rng.uniform(0.03, 0.2)) * sigmoid((distance - 1.1) / 0.05)
    light = rng.uniform((1.2, 1.4, 0.8), (1.8, 2.4, 2.0))
    colour *= 1 + (rng.uniform(0.5, 1) * area)[..., None] * (_rgb(*light) - 1)


def _nerve_fibres(eye: Eye, window: Window, distance: np.ndarray, colour: np.ndarray) -> None:
    """Pale olive streaks that leave the disc above and below, and a dark or bright halo around it; in place."""
    rng = eye.rng("fibres")
    coarse = window.coarser(8)
    offset = eye.from_disc(coarse.points())
    beyond = np.clip(np.hypot(offset.real, offset.imag) / eye.disc_axes[0] - 1, 0, None)
    around = offset / np.maximum(abs(offset), 1e-6)
    sheen = eye["sheen"] * (around.imag**2 * 0.8 + 0.2) * np.exp(-beyond / rng.uniform(0.8, 2.2))
    noise = gaussian_filter(rng.standard_normal(distance.shape, np.float32), eye["streak_px"])
    streaks = smear(noise, fibre_direction(coarse.points(), eye.disc, 0.5), 2.0, 4)
    shine = enlarge(sheen, window.pixels) * (0.2 + eye["streaks"] * streaks)
    colour *= 1 + shine[..., None] * _rgb(0.35, 1.0, 1.3)
    uneven = enlarge(0.5 + 0.5 * (around * np.exp(-2j * np.pi * rng.random())).real, window.pixels)
    halo = eye["halo"] * uneven * np.exp(-(((distance - 1.08) / rng.uniform(0.15, 0.45)) ** 2))
    colour *= 1 - halo[..., None] * _rgb(0.8, 1.0, 1.0)


def _paint_disc(eye: Eye, window: Window, distance: np.ndarray, mottle: np.ndarray, colour: np.ndarray) -> None:
    """Blend in the disc, in place: redder nasal rim, brighter cup somewhat to the temporal side, bare sclera beside."""
    rng = eye.rng("disc paint")
    pale = _pigment(eye) / eye["red"]
    pale = pale + eye["disc_pale"] * _rgb(1, 1, eye["disc_blue"]) * (1 - pale)
    bright = eye["red"] * eye["disc_bright"]
    base = (bright if eye["exposure"] else min(0.98, bright)) * pale  # may exceed 1 if exposure is corrected later
    offset = eye.from_disc(window.points())
    across = offset.real / eye.disc_axes[0]  # 1 at the nasal edge
    edge = sigmoid((1 - distance + 0.035 * mottle) / eye["disc_edge"])
    cup_radius = max(eye["cup"], 0.05) * eye.disc_axes[0]
    depth = abs(offset - complex(-0.15, 0.03) * eye.disc_axes[0]) / cup_radius  # 1 at the cup's edge
    cup = sigmoid((1 - depth) / eye["cup_edge"]) * min(1, eye["cup"] / 0.2) * eye["cup_bright"]
    rim = np.clip(distance, 0, 1) ** 3
    shade = 0.9 - 0.04 * rim - 0.06 * np.clip(across, -1, 1) + cup + 0.04 * mottle
    warmth = 0.09 * rim + 0.06 * across
    tint = 1 + cup[..., None] * _rgb(0.3, 0.8, 1.6) - warmth[..., None] * _rgb(0, 1.0, 1.4)
    disc = base * shade[..., None] * tint  # (pixels, pixels, 3)
    if eye["crescent"] > 0:
        side = (offset * np.exp(1j * rng.normal(0, 0.6))).real / eye.disc_axes[0]
        width = eye["crescent_width"] * rng.uniform(0.05, 0.35) * np.clip(-side, 0, 1.3)
        bare = sigmoid((1 + width - distance + 0.02 * mottle) / rng.uniform(0.015, 0.05)) * (width > 0.01)
        colour += (eye["crescent"] * 1.6 * bare)[..., None] * (base * _rgb(0.95, 0.95, 0.9) - colour)
    colour += (disc - colour) * edge[..., None]
    _rings(eye, offset, distance, colour)


def _rings(eye: Eye, offset: np.ndarray, distance: np.ndarray, colour: np.ndarray) -> None:
    """Arcs along the disc's edge, dark with pigment or pale with bare sclera, in place; `offset` as in _paint_disc.

    As narrow as a vessel or up to 0.3 radii wide, and sharper towards the disc. Without them, a network mistakes
    the disc's edge for a vessel.
    """
    for number, (name, tint) in enumerate(RINGS.items(), start=2):
        if eye[name] > 0:
            rng = eye.rng("disc paint", number)
            along = (offset * random_direction(rng)).real / eye.disc_axes[0]
            part = sigmoid((along + rng.normal(0, 0.6)) / rng.uniform(0.1, 0.4))
            width = 0.015 * 20 ** rng.random()  # mostly narrow ones
            beyond = distance - rng.uniform(0.95, 1.1)
            arc = np.exp(-((beyond / np.where(beyond < 0, min(width, 0.06), width)) ** 2))
            colour *= 1 + (eye[name] * part * arc)[..., None] * _rgb(*tint)


def light_lost(eye: Eye, vessels: dict[str, Vessels], window: Window) -> np.ndarray:
    """The share of green light that each pixel loses to blood, (pixels, pixels) on [0, 1]; arguments as above."""
    lost = np.zeros((window.pixels, window.pixels), np.float32)
    for kind, tree in vessels.items():
        contrast = eye["contrast"] * (eye["artery_contrast"] if kind == "artery" else 1)
        width = np.minimum(tree.radius / window.px_per_mm / 0.04, 1)
        stripe = np.exp(-(((1 - tree.centrality) / eye["reflex_width"]) ** 2))
        contrast = contrast * (1 - max(0, eye[f"reflex_{kind}"]) * width * stripe)
        lost = np.maximum(lost, contrast * (1 - np.exp(-eye["blood"] / window.px_per_mm * tree.thickness)))
    return lost


def _absorb(eye: Eye, image: np.ndarray, vessels: dict[str, Vessels], window: Window) -> np.ndarray:
    """Lay the vessels over the fundus: light lost to blood (Lambert-Beer), a reflex along the middle of wide ones."""
    lost = light_lost(eye, vessels, window)
    image = image * (1 - lost[..., None] * _rgb(eye["red_contrast"], 1, eye["blue_contrast"]))
    if eye["reflection"] > 0:  # the retina's surface bulges next to vessels, and in places reflects the flash
        covered = vessels["artery"].merge(vessels["vein"]).coverage
        beside = gaussian_filter(covered, 0.03 * window.px_per_mm) * (1 - covered)
        beside *= sigmoid((smooth_noise(eye.rng("reflection", 2), window, 0.3) - 1.1) / 0.15)
        image += (2 * eye["reflection"] * beside)[..., None] * _rgb(0.5, 0.55, 0.4)
    return image


def _blob(pen: ImageDraw, rng: Generator, place: np.ndarray, radius: float, ragged: float) -> None:
    angle = np.linspace(0, 2 * np.pi, 17)[:-1]
    reach = radius * (1 + ragged * rng.standard_normal(16).cumsum() / 4 * np.sin(angle / 2))
    stretch = np.exp(rng.normal(0, 0.25))
    outline = np.stack([reach * stretch * np.cos(angle), reach / stretch * np.sin(angle)], axis=1) + place
    pen.polygon([tuple(point) for point in outline], fill=255)


def _line(pen: ImageDraw, rng: Generator, place: np.ndarray, heading: float, length: float, width: float) -> None:
    turns = heading + 0.25 * rng.standard_normal(12).cumsum()
    steps = np.stack([np.cos(turns), np.sin(turns)], axis=1) * length / 12
    pen.line([tuple(point) for point in place + steps.cumsum(axis=0)], fill=255, width=max(1, round(width)))


def _add_lesions(eye: Eye, window: Window, distance: np.ndarray, colour: np.ndarray) -> None:
    """Draw the lesions that this eye has, outside the disc, in place."""
    pixels, scale = 2 * window.pixels, 2 * window.px_per_mm  # drawn at twice the size, then reduced: soft edges
    for number, (name, lesion) in enumerate(LESIONS.items(), start=1):
        if name not in eye.features:
            continue
        rng = eye.rng("lesions", number)
        sheet = Image.new("L", (pixels, pixels))
        pen = Draw(sheet)
        count = int(rng.integers(1, lesion.most + 1))
        spread = pixels * (rng.uniform(0.03, 0.2) if rng.random() < 0.5 else 0.6)  # one cluster, or the entire picture
        for place in rng.uniform(0, pixels, 2) + rng.normal(0, spread, (count, 2)):
            smallest, largest = lesion.size_mm
            size = scale * smallest * (largest / smallest) ** rng.random()  # mostly small ones
            if lesion.length_mm:
                spot = complex(*place) / scale - (1 + 1j) * window.side_mm / 2 + window.centre
                heading = np.angle(spot - eye.disc) + rng.normal(0, 0.3 if name == "flames" else 1.5)
                _line(pen, rng, place, heading, scale * rng.uniform(0.2, 1) * lesion.length_mm, size)
            else:
                _blob(pen, rng, place, size / 2, lesion.ragged)
                if name == "scars" and rng.random() < 0.5:  # pigment in the middle
                    pen.ellipse([*(place - size / 5), *(place + size / 5)], fill=0)
        layer = np.asarray(sheet.reduce(2), np.float32) / 255 * rng.uniform(*lesion.opacity)
        if lesion.blur_mm:
            layer = gaussian_filter(layer, lesion.blur_mm * window.px_per_mm)
        layer *= sigmoid((distance - 1.1) / 0.05)
        colour *= 1 + layer[..., None] * (_rgb(*lesion.light) - 1)


def _lashes_and_dust(eye: Eye, window: Window) -> np.ndarray:
    """Factors about 1, (pixels, pixels): eyelashes, far out of focus, and dust on the sensor or the lens."""
    rng = eye.rng("lashes and dust")
    few = window.coarser(2).pixels
    sheets = {name: Image.new("L", (few, few)) for name in ("lashes", "dust")}
    pens = {name: Draw(sheet) for name, sheet in sheets.items()}
    if "lashes" in eye.features:
        for _ in range(rng.integers(1, 6)):
            start = np.array([rng.uniform(0, few), 0.0])
            heading, length = rng.normal(np.pi / 2, 0.4), rng.uniform(0.2, 0.9) * few
            _line(pens["lashes"], rng, start, heading, length, rng.uniform(1, 6))
    if "dust" in eye.features:
        for place in rng.uniform(0, few, (rng.integers(1, 12), 2)):
            _blob(pens["dust"], rng, place, rng.uniform(0.6, 8), 0.2)
    lashes = gaussian_filter(np.asarray(sheets["lashes"], np.float32) / 255, rng.uniform(2.5, 6.0))
    lashes = lashes[::-1] if rng.random() < 0.5 else lashes  # from below, or from above
    dust = gaussian_filter(np.asarray(sheets["dust"], np.float32) / 255, rng.uniform(0.4, 1.5))
    return enlarge(1 - rng.uniform(0.15, 0.5) * lashes - rng.uniform(-0.25, 0.3) * dust, window.pixels)


def _one_side(rng: Generator, window: Window, start: tuple[float, float], softness: tuple[float, float]) -> np.ndarray:
    """A ramp from 0 to 1 towards a random side: (pixels, pixels). Both ranges are in shares of the window's side."""
    far = ((window.points() - window.centre) * random_direction(rng)).real / window.side_mm
    return sigmoid((far - rng.uniform(*start)) / rng.uniform(*softness))


def _light(eye: Eye, window: Window, image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Light the retina unevenly, weaker towards the edge, with stray light: (pixels, pixels, 3)."""
    rng = eye.rng("light")
    points = window.coarser(8).points()
    from_centre = (points - eye.light.centre) / eye.light.radius
    light = 1.06 - eye["vignette"] * np.minimum(abs(from_centre), 1.25) ** rng.uniform(2, 4)
    slope = (from_centre * np.conj(random_direction(rng))).real * eye.light.radius  # mm to one side
    light *= np.clip(1 + eye["tilt"] * slope, 0.3, 1.6)
    light *= 1 + eye["uneven"] * smooth_noise(rng, window.coarser(8), 2.6)
    image = image * enlarge(light.clip(0.05), window.pixels)[..., None]
    if eye["flush"] > 0:
        rng = eye.rng("flush")
        flush = eye["flush"] * _one_side(rng, window.coarser(8), (-0.2, 0.45), (0.05, 0.2))
        image *= 1 + enlarge(flush, window.pixels)[..., None] * _rgb(0.7, -0.4, -0.55)
    if eye["shadow"] > 0:
        rng = eye.rng("shadow")
        shadow = eye["shadow"] * _one_side(rng, window.coarser(8), (-0.3, 0.45), (0.04, 0.25))
        image *= 1 - enlarge(shadow, window.pixels)[..., None] * _rgb(*rng.uniform(0.85, 1.0, 3))
    if eye["rim_glow"] > 0 and "border" in eye.features:
        rng = eye.rng("rim glow")
        part = sigmoid(((from_centre * random_direction(rng)).real + rng.uniform(-0.8, 0.6)) / 0.15)
        band = np.exp(-np.clip(inside, 0, None) / (rng.uniform(0.05, 0.6) * window.px_per_mm))
        glow = eye["rim_glow"] * band * enlarge(part, window.pixels)
        image += glow[..., None] * _rgb(*rng.uniform((0.6, 0.35, 0.2), (1.0, 1.0, 1.0)))
    if eye["veil"] > 0:
        rng = eye.rng("veil")
        haze = eye["veil"] * (1 + 0.4 * smooth_noise(rng, window.coarser(8), 3.5)).clip(0.1)
        grey = image.mean(axis=(0, 1)) * _rgb(*rng.uniform(0.8, 1.5, 3))
        image += enlarge(haze.clip(0, 0.8), window.pixels)[..., None] * (grey - image)
    if eye.features & {"lashes", "dust"}:
        image *= _lashes_and_dust(eye, window)[..., None]
    return image


def _expose(eye: Eye, window: Window, image: np.ndarray, inside: np.ndarray, rng: Generator) -> np.ndarray:
    """Blur, tone, the field's border, and the camera's recording: (pixels, pixels, 3) uint8."""
    image = gaussian_filter(image, (eye["blur_px"], eye["blur_px"], 0))
    image *= 1 + eye["cast"] * _rgb(*rng.uniform(-1, 1, 3))
    image = image.clip(0)
    if eye["gamma"] != 1:
        image **= np.float32(eye["gamma"])
    if eye["exposure"]:
        image *= eye["exposure"] / np.mean(image[..., 0], where=inside > 0)
    beside = eye.rng("photograph", 2)
    fringe = max(0, eye["fringe_px"]) * _rgb(*beside.random(3))  # how much earlier red, green and blue end
    surround = max(0, eye["surround"]) / 255 * _rgb(*beside.uniform(0.5, 1, 3))
    border = np.clip((inside[..., None] - fringe) / eye["rim_px"], 0, 1)  # 0 outside, 1 in the field
    few = round(window.pixels / np.clip(eye["enlargement"], 1, max(1, window.px_per_mm / FEWEST_PX_PER_MM)))
    image = resized(image * border + surround * (1 - border), (few, few), Resampling.BOX)
    noisy = resized(border, (few, few), Resampling.BOX) if eye["surround"] <= 0 else 1  # black remains black
    grain = [gaussian_filter(rng.standard_normal((few, few), np.float32), eye["grain_px"]) for _ in range(2)]
    grain = [values / values.std() for values in grain]
    noise = np.dstack([grain[0] + 0.4 * grain[1], grain[0], grain[0] - 0.6 * grain[1]])  # mostly grey, a little colour
    noise *= (0.4 + 0.6 * np.sqrt(image)) * noisy
    pixels = (image + eye["noise"] * noise).clip(0, 1) * 255 + eye["black"] * rng.random()  # [0, 1] -> [0, 255]
    pixels = (pixels + 0.5).clip(0, 255).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=round(eye["jpeg_quality"]))
    photograph = resized(np.asarray(Image.open(file)), (window.pixels, window.pixels), Resampling.BICUBIC)
    if eye["surround"] > 0:
        return photograph
    return np.where(inside[..., None] > 0, photograph, np.minimum(photograph, OUTSIDE_LIMIT))
