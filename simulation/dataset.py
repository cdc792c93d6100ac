"""The simulated set: files in the layout of UT-FSOCTA."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from basics.command_line import VERSION, progress_bar
from basics.files import disk_errors_name
from retina.ut_fsocta import REGIONS, SIMULATED_NOTE
from simulation.eye import Eye, crop_window, make_eye
from simulation.fundus import render_fundus
from simulation.octa import render_octa
from simulation.trees import Window

DEFAULT_SUBJECTS = "1-12,26-28,31-36"  # some of each published split: train 1-25, validation 26-30, test 31-112
PHOTOGRAPH_PX, PHOTOGRAPH_MM = 1000, 13.2  # side of a photograph of 45 degrees, with the black around its field
FUNDUS_MIN_WIDTH_MM = 0.012  # thinner vessels are invisible in a full field
TRUTH_MIN_WIDTH_MM = 0.02  # thinner vessels merge with the mesh in OCT-A
JPEG_QUALITY = 88  # of the camera's own files, from which the crops are cut
NOTE = (
    "Simulated retinas, made by simulate_retinas.py {version} with seed {seed}.\n"
    "No image shows a real eye: use them to try the programs, not for results about eyes.\n"
)


def eye_of(subject: int) -> str:
    """The subject's eye in the set, which has one for each: OD (right) for odd ids, OS (left) for even ones."""
    return "OD" if subject % 2 else "OS"


def render_crop(eye: Eye, region: str) -> dict[str, np.ndarray]:
    """Photograph and scan one region ("disc" or "macula") of an eye.

    Returns "fundus" (400, 400, 3), "octa" (400, 400, 4) with alpha 255, and "truth" (400, 400), 255 in the vessels of
    the two trees and 0 elsewhere; all uint8.
    """
    window = crop_window(eye, region)
    rng = eye.rng(region)
    wide = eye.vessels(window, TRUTH_MIN_WIDTH_MM)
    fine = eye.vessels(window, 0, TRUTH_MIN_WIDTH_MM)
    vessels = {kind: wide[kind].merge(fine[kind]) for kind in wide}
    truth = np.where(wide["artery"].merge(wide["vein"]).depth > 0, 255, 0).astype(np.uint8)
    grey = render_octa(eye, window, vessels, rng)
    octa = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    return {"fundus": render_fundus(eye, window, vessels, rng), "octa": octa, "truth": truth}


def render_full_field(eye: Eye) -> np.ndarray:
    """Photograph 45 degrees of an eye: (1000, 1000, 3) uint8, a round field on black."""
    window = Window(eye.field.centre, PHOTOGRAPH_MM, PHOTOGRAPH_PX)
    return render_fundus(eye, window, eye.vessels(window, FUNDUS_MIN_WIDTH_MM), eye.rng("full field"))


def write_dataset(output: Path, subjects: Sequence[int], seed: int = 0) -> None:
    """Write the pictures of all subjects under `output`, atomically.

    Raises FileExistsError if `output` exists and is not an empty folder, another OSError if writing fails, and
    ValueError for invalid subjects.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output} exists and is not an empty folder: choose another")
    with disk_errors_name(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as temporary:
            made = Path(temporary) / "set"
            for subject in progress_bar(subjects, desc="simulated retinas", unit="eye"):
                eye, name = make_eye(subject, eye_of(subject), seed), f"{subject}_{eye_of(subject)}"
                pictures = {f"fov45/fundus/{name}.jpg": render_full_field(eye)}
                for region in REGIONS:
                    crops = render_crop(eye, region).items()
                    pictures |= {f"cropped/{kind}/{region}/{name}.png": crop for kind, crop in crops}
                for file, pixels in pictures.items():
                    (made / file).parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(made / file, compress_level=3, quality=JPEG_QUALITY)  # of PNG, of JPEG
            (made / SIMULATED_NOTE).write_text(NOTE.format(version=VERSION, seed=seed), encoding="utf-8")
            if output.exists():
                output.rmdir()
            made.rename(output)
