"""What several test files share: a tiny dataset in the deposit's layout."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter


def fake_fundus(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A smooth bright image (height, width, 3), uint8, nowhere dark."""
    noise = gaussian_filter(random.standard_normal((height, width, 3)), (3, 3, 0))
    return np.uint8(np.clip(120 + 300 * noise, 40, 250))


def fake_octa(fundus: np.ndarray) -> np.ndarray:
    """An RGBA image (height, width, 4), uint8, bright where the fundus is dark in green."""
    grey = 255 - fundus[..., 1]
    return np.dstack([grey, grey, grey, np.full_like(grey, 255)])


def write_tiny_dataset(folder: Path) -> None:
    """Write UT-FSOCTA-v1 below a folder: the disc crops of subjects 1, 2 (train), 26 (validation) and 31 (test)."""
    random = np.random.default_rng(0)
    root = folder / "UT-FSOCTA-v1"
    for kind in ("fundus", "octa"):
        (root / "cropped" / kind / "disc").mkdir(parents=True)
    (root / "fov45" / "fundus").mkdir(parents=True)
    for name in ("1_OD", "2_OS", "26_OD", "31_OD"):
        fundus = fake_fundus(random, 100, 90)
        Image.fromarray(fundus).save(root / "cropped" / "fundus" / "disc" / f"{name}.png")
        Image.fromarray(fake_octa(fundus)).save(root / "cropped" / "octa" / "disc" / f"{name}.png")
    Image.fromarray(fake_fundus(random, 150, 150)).save(root / "fov45" / "fundus" / "26_OD.jpg")


@pytest.fixture
def dataset(tmp_path):
    """A folder that holds the tiny dataset."""
    write_tiny_dataset(tmp_path)
    return tmp_path
