"""A run knows the photographs that it has seen, however they were cropped, and says what that means for its scores."""

from pathlib import Path

import numpy as np
import pytest
from conftest import fake_fundus, fake_octa
from PIL import Image

from dataset_load_mod import DataError
from pairs.dataset import load_data_cases, seen_subjects
from retina.images import photo_digest, read_fundus
from run.data import load_run_data
from run.settings import Settings

SPLITS = {"Ann": "train", "Bob": "validation", "Cem": "validation", "Eve": "test"}
ORIGINALS = {subject: f"{number:016x}" for number, subject in enumerate(SPLITS, 1)}


def write_crops(name: str, seed: int, originals: dict[str, str] = ORIGINALS, splits: dict[str, str] = SPLITS) -> Path:
    """A table of one crop of each subject; another seed means that the same photographs were cropped otherwise."""
    random, rows = np.random.default_rng(seed), ["fundus,octa,subject,split,original_digest"]
    Path(name).mkdir()
    for subject, split in splits.items():
        fundus = fake_fundus(random, 70, 70)
        for kind, image in (("fundus", fundus), ("octa", fake_octa(fundus))):
            Image.fromarray(image).save(f"{name}/{kind}_{subject}.png")
        rows.append(f"fundus_{subject}.png,octa_{subject}.png,{subject},{split},{originals.get(subject, '')}")
    (Path(name) / "pairs.csv").write_text("\n".join(rows))
    return Path(name) / "pairs.csv"


def seen_in(table: Path) -> frozenset[str]:
    return load_run_data(Settings(data=str(table), patch_size=64)).seen


def known(table: Path, seen: frozenset[str]) -> set[str]:
    return seen_subjects(load_data_cases(table)[0], seen)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("seed", "originals"), [(1, ORIGINALS), (0, {})])
def test_crops_are_known_by_their_original_or_by_their_pixels(seed, originals):
    seen = seen_in(write_crops("first", seed=0))
    assert known(write_crops("second", seed, originals), seen) == {"Ann", "Bob", "Cem"}


@pytest.mark.parametrize("subject", ["Eve", "Ann"])
def test_digest_of_a_photograph_alone_is_known(subject):
    """The original where only its crop was seen; and a crop, as version 1.1.0 wrote it."""
    table = write_crops("first", seed=0)
    seen = frozenset([photo_digest(read_fundus(table.parent / f"fundus_{subject}.png"))])
    assert known(table, seen) == {subject}


def test_test_subjects_that_were_cropped_again_are_refused():
    seen = seen_in(write_crops("first", seed=0))
    again = write_crops("again", seed=1, splits={"Eve": "train", "Ann": "test"})
    with pytest.raises(DataError, match=r"has seen 1 of this run's test subjects \(Ann\)"):
        load_run_data(Settings(data=str(again), patch_size=64, init_from="first"), seen)


def test_seen_validation_subjects_are_said_in_one_line(capsys):
    table = write_crops("first", seed=0)
    seen = frozenset([ORIGINALS["Bob"]])
    load_run_data(Settings(data=str(table), patch_size=64, init_from="the run"), seen)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "HAS SEEN" in line]
    assert line.startswith("NOTE: --init-from the run: HAS SEEN 1 OF 2 VALIDATION SUBJECTS")
