"""What several test files share: a tiny data set, values of checkpoints and logs, calls that must be refused."""

import csv
import os
import re
import shutil
import sys
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # more would wait for each other: two processes share the cores

import numpy as np
import pytest
from narrow import narrow_networks
from PIL import Image
from scipy.ndimage import gaussian_filter

PROJECT = Path(__file__).resolve().parents[1]
SMALL = ["--patch-size", "64", "--batch-size", "3", "--precision", "float32"]  # options of a tiny run: 3 steps an epoch


def fake_fundus(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A smooth bright image (height, width, 3), uint8, nowhere dark."""
    noise = gaussian_filter(random.standard_normal((height, width, 3)), (3, 3, 0))
    return np.uint8(np.clip(120 + 300 * noise, 40, 250))


def round_field(size):
    """A photograph (size, size, 3), uint8: a bright disc on black."""
    rows, columns = np.ogrid[:size, :size]
    inside = np.hypot(rows - size / 2, columns - size / 2) < 0.45 * size
    return fake_fundus(np.random.default_rng(3), size, size) * inside[..., np.newaxis].astype(np.uint8)


def fake_octa(fundus: np.ndarray) -> np.ndarray:
    """An RGBA image (height, width, 4), uint8, bright where the fundus is dark in green."""
    grey = 255 - fundus[..., 1]
    return np.dstack([grey, grey, grey, np.full_like(grey, 255)])


def lines(seed: int, side: int, spacing: float) -> np.ndarray:
    """Vessels of no eye, an image (side, side) on [0, 1]: bright winding lines about 2 * spacing px apart."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal((side, side)), spacing)
    return np.exp(-((noise / noise.std() / 0.2) ** 2))


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


@pytest.fixture(scope="module", autouse=True)
def narrow(request):
    """Networks are narrow, except in a module that says `COMPLETE_NETWORKS = True`, or loads none."""
    with pytest.MonkeyPatch.context() as patch:
        if "pix_generator" in sys.modules and not hasattr(request.module, "COMPLETE_NETWORKS"):
            narrow_networks(patch.setattr)
        yield


SUBJECTS = {"1_OD": "Ann", "2_OS": "Bob", "26_OD": "Cem", "31_OD": "Dü"}  # those of `small_data` in `pairs_table`
SPLITS = {"Ann": "train", "Bob": "train", "Cem": "validation", "Dü": "test"}


# One data set and one run for all tests, made once by each process. Never write into them: a test that changes
# something takes `trained_project`, `project` or `dataset`, which are copies.


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """A folder that contains the tiny data set, and the whole photograph of the right eye of subject 31 (test)."""
    folder = tmp_path_factory.mktemp("data")
    write_tiny_dataset(folder)
    Image.fromarray(round_field(130)).save(folder / "UT-FSOCTA-v1" / "fov45" / "fundus" / "31_OD.jpg")
    return folder


@pytest.fixture(scope="session")
def pairs_table(small_data):
    """pairs/pairs.csv: the same pairs as a table, with other names of files and subjects, and all splits."""
    cropped, folder = small_data / "UT-FSOCTA-v1" / "cropped", small_data / "pairs"
    (folder / "scans").mkdir(parents=True)
    rows = []
    for name, subject in SUBJECTS.items():
        fundus, octa = f"{subject} left.tif", f"scans/no {len(rows)}.bmp"
        Image.open(cropped / "fundus" / "disc" / f"{name}.png").save(folder / fundus)
        Image.open(cropped / "octa" / "disc" / f"{name}.png").convert("RGB").save(folder / octa)
        rows.insert(0, {"subject": subject, "split": SPLITS[subject], "octa": octa, "fundus": fundus, "age": 60})
    with open(folder / "pairs.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "pairs.csv"


@pytest.fixture(scope="session")
def small_run(small_data, tmp_path_factory):
    """training_checkpoints/small: a run of two epochs on `small_data`, with a narrow network; its logs: logs/fit."""
    import pix_pix_train

    folder = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        narrow_networks(patch.setattr)
        options = [*SMALL, "--data", str(small_data), "--epochs", "2", "--name", "small"]
        assert pix_pix_train.main(options) == 0
    return folder / "training_checkpoints" / "small"


@pytest.fixture
def trained_project(small_data, small_run, tmp_path, monkeypatch):
    """A folder to run in, with copies: the data set in data/, and the run in training_checkpoints/small and logs/."""
    shutil.copytree(small_data / "UT-FSOCTA-v1", tmp_path / "data" / "UT-FSOCTA-v1")
    for name in ("training_checkpoints", "logs"):
        shutil.copytree(small_run.parents[1] / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def dataset(tmp_path):
    """A folder that contains the tiny data set."""
    write_tiny_dataset(tmp_path)
    return tmp_path


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty folder to run in, with the tiny data set in data/."""
    write_tiny_dataset(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(capsys):
    """Calls a program that must end with status 2 and one line on standard error; returns the line."""

    def call(program, *options) -> str:
        capsys.readouterr()
        try:
            status = program.main(list(options))
        except SystemExit as stopped:  # from argparse
            status = stopped.code
        error = capsys.readouterr().err
        assert status == 2
        assert re.match(rf"{program.PROGRAM}( \w+)?: error: ", error)  # with the command, from argparse
        assert error.count("\n") == 1
        return error

    return call


class SeesVessels:
    """Stands in for a trained network, which tests do not have: it sees what is dark in green."""

    vessel_output, vessels_apart = False, True

    def __init__(self):
        from run.predict import Turns

        self.turns = Turns()

    def predict(self, fundus: np.ndarray, fov: np.ndarray) -> np.ndarray:
        """As `Predictor.predict`."""
        return np.where(fov, 1 - fundus[..., 1] / 255, 0)[..., np.newaxis].astype(np.float32)

    def map_of(self, probability: np.ndarray, fov: np.ndarray, region: str | None = None) -> np.ndarray:
        """That of `Predictor`."""
        from run.predict import Predictor

        return Predictor.map_of(self, probability, fov, region)

    def predict_photograph(self, fundus, fov, diameter, fast=False, stretch=1.0):
        """As `Predictor.predict_photograph`."""
        from run.predict import Prediction

        octa = self.predict(fundus, fov)
        return Prediction(octa, octa[..., 0])

    def vessel_probability(self, fundus: np.ndarray, fov: np.ndarray, diameter=None, fast: bool = False) -> np.ndarray:
        """As `Predictor.vessel_probability`, and as `Predictor.predict_vessels`."""
        return self.predict(fundus, fov)[..., 0]

    predict_vessels = vessel_probability

    def predict_as_published(self, fundus: np.ndarray, fov: np.ndarray, **_) -> np.ndarray:
        """As `Predictor.predict_as_published`."""
        return self.predict(fundus, fov)


def seeing(made_from="run/ckpt-7", vessel_output=False, fast=False, published=None):
    """A Synthesiser with `SeesVessels` for a network."""
    from synthesis import Synthesiser

    made = object.__new__(Synthesiser)
    made.predictor, made.made_from, made.weights, made.fov_mask = SeesVessels(), made_from, "", True
    made.fast, made.published, made.predictor.vessel_output = fast, published, vessel_output
    return made


def files_below(folder: Path) -> list[str]:
    """All files of a folder and below, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def checkpoint_values(folder) -> dict[str, np.ndarray]:
    """Every value of a folder's newest checkpoint by name."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(folder))
    names = [name for name in reader.get_variable_to_shape_map() if not name.startswith("_CHECKPOINTABLE")]
    return {name: reader.get_tensor(name) for name in names}


def different_values(one, other) -> list[str]:
    """Names of the values that differ between the newest checkpoints of two folders."""
    first, second = checkpoint_values(one), checkpoint_values(other)
    assert len(first) > 100
    return [
        name
        for name in first.keys() | second.keys()
        if name not in first or name not in second or not np.array_equal(first[name], second[name])
    ]


def logged(folder, tag) -> dict[int, float]:
    """A scalar's values by step; those of a resumed run replace earlier ones."""
    import tensorflow as tf

    return {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in events_of(folder).Tensors(tag)}


def tags_of(folder) -> set[str]:
    """The tags of a run's summaries."""
    return set(events_of(folder).Tags()["tensors"])


def events_of(folder):
    """A run's summaries."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    return events


def program(name: str, *options: str) -> list[str]:
    """The command line of a program of the project."""
    return [sys.executable, "-u", str(PROJECT / name), *options]


def narrow_program(name: str, *options: str) -> list[str]:
    """The same with narrow networks, as the tests themselves have."""
    return [sys.executable, "-u", str(PROJECT / "tests" / "narrow.py"), str(PROJECT / name), *options]


def bar(width, shape=(60, 80), top=20):
    """A horizontal bar that is `width` px wide, from side to side."""
    return np.broadcast_to((np.arange(shape[0]) >= top) & (np.arange(shape[0]) < top + width), shape[::-1]).T
