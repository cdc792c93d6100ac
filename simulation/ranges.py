"""Every range that simulated retinas vary in, with its unit and its reason.

The stream (to train and validate on) covers what real photographs vary in, and more; the set (to try the other programs
on) looks like healthy eyes before one camera. To leave an ingredient out of the stream, replace its range in
STREAM_APPEARANCE or STREAM_GROWTH, or its share in STREAM_SHARE: everything else stays as it was.
"""

from dataclasses import dataclass

# ---- Anatomy
DISC_FOVEA_MM = (4.4, 4.9)  # centre to centre
DISC_ABOVE_FOVEA_MM = (0.15, 0.6)
DISC_AXES_MM = (1.7, 1.85)  # horizontal and vertical diameter, scaled by disc_scale
FAZ_DIAMETER_MM = (0.4, 0.6)  # foveal avascular zone of the superficial plexus
ARCADE_RADIUS_MM = (1.8, 2.4)  # the arcades bend around a circle of this radius about the fovea

# ---- Windows
CROP_JITTER_MM = {"disc": 0.35, "macula": 0.25}  # no two scans are centred alike
FIELD_RADIUS_MM = (6.2, 6.55)  # of the set: 45 degrees
FIELD_CENTRE_MM = (-0.4, 2.0)  # nasal of the fovea; some fields end within the disc crop, as real ones do
STREAM_FIELD_RADIUS_MM = (4.2, 6.6)  # cameras of 30 to 45 degrees
PLACES = (0.45, 0.25, 0.30)  # stream's shares: disc, fovea, anywhere; neither 0.10 nor 0.25 taught the avascular zone
WARP = 0.035  # of a wave's length, in the stream: three such waves displace the retina and can never fold it

# How trees grow: ranges of the stream, then of the set. The two trees of an eye share a value from each, uniform.
GROWTH = {
    "tortuosity": ((0.5, 2.0), (1, 1)),  # factor of the wandering, from straight to winding; at 3 trees become a tangle
    "pull": ((0.6, 1.4), (1, 1)),  # factor of the pull back to the vessel's own heading
    "spacing": ((0.5, 1.6), (1, 1)),  # factor of the distance between branchings
    "stem_spread": ((0.1, 0.8), (0.3, 0.3)),  # rad: how far stems deviate from straight up and down
    "nasal_branches": ((1, 4), (2, 2)),  # the most small vessels that leave the disc on this side
    "temporal_branches": ((1, 3), (2, 2)),
    "disc_scale": ((0.75, 1.3), (0.88, 1.08)),  # real discs measure 1.3 to 2.3 mm
}
STREAM_GROWTH = {name: of_stream for name, (of_stream, _) in GROWTH.items()}
SET_GROWTH = {name: of_set for name, (_, of_set) in GROWTH.items()}

# How a retina looks: ranges of the stream, then of the set. Each eye gets a value from each: uniform, or log-uniform
# if named in LOGARITHMIC. Colours and brightness are on [0, 1]. Where a range starts below 0, eyes with a value below
# 0 go without the feature.
APPEARANCE = {
    # Size
    # 34: a 45-degree field over 440 px; 90: a disc crop; 110: CHASE_DB1's photographs, where 70 % of the vessel pixels
    # lie in vessels of 9 px and more. With at most 120 px/mm and a calibre of 0.6 to 1.25, this was less than 10 %.
    "px_per_mm": ((34, 160), (1, 1)),
    "calibre": ((0.8, 1.6), (1, 1)),  # factor of all widths: trunks of 70 um (narrowed by age) to 270 um (full veins)
    "artery_calibre": ((0.75, 1.15), (1, 1)),  # further factor of the arteries' widths
    # Pigment; measured on real photographs: red 0.32 to 0.58, green/red 0.40 to 0.74, blue/green 0.16 to 0.74
    "red": ((0.3, 0.9), (0.34, 0.66)),
    "green_share": ((0.36, 0.82), (0.40, 0.66)),  # of red: below 0.45 orange-red, above 0.75 greenish-grey
    "blue_share": ((0.04, 0.8), (0.30, 0.62)),  # of green; at least green_share - 0.4, as no fundus is lime-green
    "choroid": ((0.0, 1.2), (0.2, 1.0)),  # mottle
    "texture": ((0.005, 0.042), (0.014, 0.014)),  # fine: one standard deviation at 50 um
    "tessellation": ((-0.5, 0.9), (0, 0)),  # choroidal vessels under thin pigment: wide, blurred
    "blotches": ((-0.6, 0.9), (0, 0)),  # orange islands of choroid between pigment, or the reverse
    "fovea": ((0.5, 1.6), (0.9, 1.1)),  # darkness of the macula; from 0 up and without a foveola, few were to be seen
    "sheen": ((0.0, 1.4), (0.2, 1.0)),  # of nerve fibres; strong in the young
    "streaks": ((0.0, 0.3), (0.07, 0.07)),  # in that sheen
    "streak_px": ((0.6, 2.0), (0.8, 0.8)),
    "reflection": ((-0.6, 0.35), (0, 0)),  # pale patches where the retina's surface reflects the flash
    # Disc
    # Times the fundus' red. Real crops reach 3, and nearly 4 in green: when few samples were above 2, the network
    # mistook the edge of such a disc for a vessel.
    "disc_bright": ((1.1, 3.4), (1.6, 2.2)),
    "disc_pale": ((0.05, 0.6), (0.45, 0.6)),  # share of the way from the fundus' colour to white
    "disc_blue": ((0.1, 1.0), (0.45, 0.6)),  # share of that way for blue: below 1 the disc is yellow
    "disc_edge": ((0.012, 0.12), (0.018, 0.035)),  # softness, in radii
    "cup": ((0.1, 0.8), (0.25, 0.5)),  # of the disc's radius
    "cup_bright": ((0.05, 0.35), (0.1, 0.2)),
    "cup_edge": ((0.05, 0.6), (0.4, 0.6)),  # softness, in radii of the cup
    "crescent": ((-0.3, 0.5), (0.0, 0.12)),  # bare sclera beside the disc
    "pigment_ring": ((-0.3, 0.7), (0, 0)),  # dark arc along the disc's edge
    "scleral_ring": ((-0.3, 0.5), (0, 0)),  # pale arc
    "halo": ((-0.3, 0.5), (0.05, 0.3)),  # dark, or below 0 bright, surroundings of the disc
    # Vessels in the fundus. A wide one absorbs `contrast` of green, a thin one 1 - exp(-blood * thickness) of that.
    # Real: 0.10 at 2.5 px, 0.16 at 4, 0.19 at 6, 0.23 at 10, 0.30 at 16 (CHASE_DB1, 90 px/mm); 0.05 to 0.34 in crops.
    "contrast": ((0.26, 0.65), (0.45, 0.55)),
    "blood": ((12, 45), (22, 28)),  # per mm
    "artery_contrast": ((0.5, 1.1), (0.6, 0.8)),  # factor
    "red_contrast": ((0.0, 0.6), (0.25, 0.4)),  # factor of the contrast in red: from invisible to nearly grey
    "blue_contrast": ((0.3, 1.2), (0.7, 0.9)),
    # Share of the contrast that the reflex along a wide vessel fills; at 0.7 the vessel looks double.
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
    "exposure": ((0.3, 0.85), (0, 0)),  # mean of red inside the field; 0: no correction. Measured: 0.32 to 0.58
    "blur_px": ((0.3, 1.8), (0.8, 1.8)),
    "noise": ((0.003, 0.035), (0.008, 0.02)),
    "grain_px": ((0.0, 0.9), (0.6, 0.8)),  # blur of the noise: JPEG and demosaicing correlate it
    "jpeg_quality": ((65, 98), (88, 88)),
    "rim_px": ((0.5, 6.0), (0.8, 1.2)),  # softness of the border
    "black": ((0.0, 5.0), (0, 0)),  # grey levels that a sensor shows where it is dark
    # OCT-A; the real crops: mean 0.27, std 0.15 between vessels; 0.66 to 0.73 in them
    "mesh": ((0.85, 1.15), (0.95, 1.05)),  # brightness of the capillaries
    "scan_level": ((0.70, 0.84), (0.74, 0.80)),  # of small vessels; trunks lie deeper and are 0.1 darker
    "scan_grain": ((0.09, 0.15), (0.11, 0.14)),
    # What photographs from other cameras and of diseased eyes show, in the stream only
    "crescent_width": ((1, 3.5), (1, 1)),  # factor
    "atrophy": ((-2.5, 0.9), (0, 0)),  # thinned retina: pale, sharply bounded, with bare choroidal vessels
    "shadow": ((-2.5, 0.93), (0, 0)),  # share of the light that one side lacks
    "enlargement": ((-1.5, 2.6), (0, 0)),  # times, above 1: a photograph of few pixels, resized
    "fringe_px": ((-3.0, 5.0), (0, 0)),  # width of a coloured seam at the border, from a lens or a scanner
    "surround": ((-80, 40), (0, 0)),  # grey levels outside the field
    "found_px": ((-2.5, 0.5), (0, 0)),  # how far inside the true border the detected field ends
    "choroid_streaks": ((-0.6, 1.0), (0, 0)),  # long choroidal vessels side by side
}
LOGARITHMIC = {"disc_bright", "contrast", "blood", "blur_px", "noise"}
STREAM_APPEARANCE = {name: of_stream for name, (of_stream, _) in APPEARANCE.items()}
SET_APPEARANCE = {name: of_set for name, (_, of_set) in APPEARANCE.items()}

# The share of the stream's retinas with each feature. The set has motion only.
STREAM_SHARE = {
    "border": 0.6,  # the field's border crosses the picture
    "cut": 0.25,  # of those: the round field has flat sides, as with many cameras
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
    "blots": 0.08,
    "plaques": 0.08,  # confluent exudates
}

RINGS = {"pigment_ring": (-0.6, -0.8, -0.8), "scleral_ring": (0.3, 0.7, 0.8)}  # share added to red, green and blue


@dataclass(frozen=True)
class Lesion:
    """A kind of lesion: up to `most` of them, `size_mm` wide; lines are up to `length_mm` long.

    light: the share of the fundus' red, green and blue that remains; above 1 the lesion is pale.
    """

    most: int
    size_mm: tuple[float, float]
    light: tuple[float, float, float]
    opacity: tuple[float, float] = (0.4, 1.0)
    ragged: float = 0.3
    length_mm: float = 0.0
    blur_mm: float = 0.0


LESIONS = {
    "haemorrhages": Lesion(25, (0.03, 0.35), (0.75, 0.35, 0.4), ragged=0.6, blur_mm=0.01),
    "flames": Lesion(14, (0.015, 0.12), (0.8, 0.4, 0.45), length_mm=0.9, blur_mm=0.01),
    "exudates": Lesion(50, (0.02, 0.14), (1.35, 1.8, 1.5), ragged=0.7),
    "drusen": Lesion(60, (0.03, 0.16), (1.15, 1.35, 1.3), (0.2, 0.8), blur_mm=0.012),
    "cotton_wool": Lesion(5, (0.15, 0.6), (1.3, 1.7, 1.9), (0.3, 0.9), ragged=0.6, blur_mm=0.06),
    "scars": Lesion(40, (0.15, 0.45), (1.25, 1.5, 1.5), (0.3, 0.9), ragged=0.4, blur_mm=0.02),
    "pigment_spots": Lesion(15, (0.03, 0.3), (0.4, 0.4, 0.45), ragged=0.9, blur_mm=0.01),
    "pigment_lines": Lesion(3, (0.02, 0.09), (0.55, 0.55, 0.6), (0.2, 0.7), length_mm=2.0, blur_mm=0.015),
    "blots": Lesion(8, (0.2, 1.2), (0.7, 0.3, 0.35), ragged=0.8, blur_mm=0.02),
}

# Numbers that seed the random generators, one for each step, so that no step depends on what another one consumes.
# They start at 1 because NumPy treats [1, 2] and [1, 2, 0] as the same seed.
RANDOM_STREAMS = {
    "eye": 1, "disc edge": 2, "background": 3, "faz edge": 4, "disc": 5, "macula": 6, "full field": 7, "appearance": 8,
    "features": 9, "place": 10, "tree": 11, "choroid": 12, "fibres": 13, "reflection": 14, "disc paint": 15,
    "lesions": 16, "cut": 17, "light": 18, "flush": 19, "rim glow": 20, "veil": 21, "lashes and dust": 22,
    "photograph": 23, "scan": 24, "shadow": 25, "atrophy": 26, "plaques": 27,
}  # fmt: skip
