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


def write_crops(name: str, seed: int, with_original: bool = True, splits: dict[str, str] = SPLITS) -> Path:
    """A table of one crop of each subject; another seed means that the same photographs were cropped otherwise."""
    random, rows = np.random.default_rng(seed), ["fundus,octa,subject,split,original_digest"]
    Path(name).mkdir()
    for subject, split in splits.items():
        fundus = fake_fundus(random, 70, 70)
        for kind, image in (("fundus", fundus), ("octa", fake_octa(fundus))):
            Image.fromarray(image).save(f"{name}/{kind}_{subject}.png")
        original = ORIGINALS[subject] if with_original else ""
        rows.append(f"fundus_{subject}.png,octa_{subject}.png,{subject},{split},{original}")
    (Path(name) / "pairs.csv").write_text("\n".join(rows))
    return Path(name) / "pairs.csv"


def seen_in(table: Path) -> frozenset[str]:
    return load_run_data(Settings(data=str(table), patch_size=64), verbose=False).seen


def known(table: Path, seen: frozenset[str]) -> set[str]:
    return seen_subjects(load_data_cases(table)[0], seen)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_photographs_that_were_cropped_again_are_known():
    seen = seen_in(write_crops("first", seed=0))
    assert known(write_crops("second", seed=1), seen) == {"Ann", "Bob", "Cem"}


def test_crops_are_known_by_their_pixels_if_their_original_is_not():
    seen = seen_in(write_crops("first", seed=0))
    assert known(write_crops("second", seed=0, with_original=False), seen) == {"Ann", "Bob", "Cem"}


def test_original_photograph_is_known_where_only_its_crop_was_seen():
    table = write_crops("first", seed=0)
    original = photo_digest(read_fundus(table.parent / "fundus_Eve.png"))
    assert known(table, frozenset([original])) == {"Eve"}


def test_digests_of_crops_alone_go_on_working():
    table = write_crops("first", seed=0)
    seen = frozenset([photo_digest(read_fundus(table.parent / "fundus_Ann.png"))])  # as version 1.1.0 wrote them
    assert known(table, seen) == {"Ann"}


def test_test_subjects_that_were_cropped_again_are_refused():
    seen = seen_in(write_crops("first", seed=0))
    again = write_crops("again", seed=1, splits={"Eve": "train", "Ann": "test"})
    with pytest.raises(DataError, match=r"has seen 1 of this run's test subjects \(Ann\)"):
        load_run_data(Settings(data=str(again), patch_size=64, init_from="first"), False, seen)


def test_seen_validation_subjects_are_said_in_one_line(capsys):
    table = write_crops("first", seed=0)
    seen = frozenset([ORIGINALS["Bob"]])
    load_run_data(Settings(data=str(table), patch_size=64, init_from="the run"), False, seen)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "HAS SEEN" in line]
    assert line.startswith("NOTE: --init-from the run: HAS SEEN 1 OF 2 VALIDATION SUBJECTS")
    assert "validation scores" in line
    assert "best checkpoint" in line
