"""No score is flattered: pairs that registration moved, seen subjects, controls from all eyes, unusable references."""

import csv
import io
import shutil
from contextlib import redirect_stderr, redirect_stdout
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import SeesVessels, files_below, lines
from PIL import Image

import dataset_load_mod
import pix_pix_eval as evaluate
from alignment.registration import warp
from pairs.dataset import load_data_cases
from pairs.moved import moved_for_good
from retina.images import photo_digest, read_fundus
from run.checkpoints import write_run
from run.settings import Settings

pytestmark = pytest.mark.slow

SIDE = 96
SHIFT = np.broadcast_to(np.reshape([3.0, -2.0], (2, 1, 1)), (2, SIDE, SIDE))
CROPPED = Path("data/UT-FSOCTA-v1/cropped")


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(np.round(image))).save(path)


def vessels_of(seed, side=SIDE):
    return lines(seed, side, spacing=6)


def write_pair(seed, fundus, octa, side=SIDE, shift=SHIFT):
    """A photograph whose vessels are dark, and an OCT-A of the same vessels some pixels beside."""
    vessels = vessels_of(seed, side)
    save(np.dstack([np.full((side, side), 200), 150 - 100 * vessels, np.full((side, side), 60)]), fundus)
    save(30 + 200 * (vessels if shift is None else warp(vessels, shift)), octa)


def write_table(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path):
    return list(csv.DictReader(Path(path).open()))


def table_of_eyes(number, side=SIDE, shift=SHIFT, **columns):
    """Write pairs.csv with as many eyes, each of another subject."""
    rows = []
    for seed in range(number):
        files = {"fundus": f"photos/{seed:02}.png", "octa": f"scans/{seed:02}.png"}
        write_pair(seed, Path(files["fundus"]), Path(files["octa"]), side, shift)
        rows.append(files | {"subject": f"s{seed:02}", "eye": "OD", "region": "disc"} | columns)
    write_table(Path("pairs.csv"), rows)


def layout_of_eyes(number):
    """Write as many test subjects in the layout of the study, with maps of their OCT-A as ground truth."""
    for seed in range(number):
        name = f"disc/{31 + seed}_OD.png"
        write_pair(seed, CROPPED / "fundus" / name, CROPPED / "octa" / name)
        save(255 * (warp(vessels_of(seed), SHIFT) > 0.5), CROPPED / "GT_OCT_net/Thresh" / name)


def start_run(seen=()):
    """Make the run `run`, whose network sees vessels."""
    Path("run").mkdir()
    Path("run/ckpt-7.index").write_text("the weights")
    write_run(Path("run"), Settings(data="elsewhere", precision="float32", name="run"), "0", seen)


def called(program, *options, status=0):
    """Call a program with the run `run`: all that it prints."""
    stream = io.TextIOWrapper(io.BytesIO(), write_through=True)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stream), redirect_stderr(stream):
        patch.setattr("evaluation.report.DPI", 40)
        patch.setattr("evaluation.report.SCREEN_DPI", 40)
        for module in ("alignment.crop", "alignment.register", "pix_pix_eval"):
            patch.setattr(f"{module}.announced_predictor", lambda *_: (SeesVessels(), "run/ckpt-7"))
        assert program.main([*options, "--run", "run"]) == status
    return stream.buffer.getvalue().decode()


def evaluated(data, *options, status=0):
    """An evaluation: what it prints, its report, and its tables."""
    output = Path(f"eval{len(list(Path().glob('eval*')))}")
    small = ["--resamples", "10", "--output", str(output)]
    printed = called(evaluate, "--data", data, *small, *options, status=status)
    results = next(output.glob("*"), None)
    if results is None:
        return SimpleNamespace(printed=printed)
    per_eye = pd.read_csv(results / "per_eye.csv")
    whole = per_eye[per_eye["sector"] == "whole"]
    report = (results / "summary.md").read_text()
    return SimpleNamespace(printed=printed, report=report, per_eye=per_eye, whole=whole)


def registered(data, output):
    called(dataset_load_mod, "register", data, "--output", output)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to run in, with a run."""
    monkeypatch.chdir(tmp_path)
    start_run()
    return tmp_path


# --- pairs that registration moved -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moved_pairs(tmp_path_factory):
    """A folder with a table and a data set in the study's layout, both registered and evaluated before and after."""
    folder = tmp_path_factory.mktemp("moved")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        start_run()
        table_of_eyes(4)
        layout_of_eyes(4)
        registered("pairs.csv", "moved")
        registered("data", "moved_data")
        data = {"table": ("pairs.csv", "moved/pairs.csv"), "layout": ("data", "moved_data")}
        found = {kind: [evaluated(name, "--split", "all") for name in names] for kind, names in data.items()}
    return SimpleNamespace(folder=folder, **found)


@pytest.fixture
def pairs(moved_pairs, tmp_path, monkeypatch):
    """A copy of the same folder to run in."""
    shutil.copytree(moved_pairs.folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")


@pytest.mark.parametrize("kind", ["table", "layout"])
def test_scores_of_registered_pairs_are_those_of_the_unmoved_ones(moved_pairs, kind):
    before, after = getattr(moved_pairs, kind)
    verdicts = [row["verdict"] for row in read_rows(moved_pairs.folder / "moved" / "registration.csv")]
    assert verdicts == ["registered"] * 4
    pd.testing.assert_frame_equal(before.per_eye, after.per_eye)


def test_registered_table_keeps_the_unmoved_octa(moved_pairs):
    row, folder = read_rows(moved_pairs.folder / "moved" / "pairs.csv")[0], moved_pairs.folder
    assert (folder / "moved" / row["octa_unmoved"]).read_bytes() == (folder / "scans/00.png").read_bytes()
    assert (folder / "moved" / row["octa"]).read_bytes() != (folder / "scans/00.png").read_bytes()


@pytest.mark.parametrize("file", ["octa/disc/31_OD.png", "GT_OCT_net/Thresh/disc/31_OD.png"])
def test_registered_layout_keeps_the_unmoved_octa_and_maps(moved_pairs, file):
    given, written = moved_pairs.folder / CROPPED, moved_pairs.folder / "moved_data/UT-FSOCTA-v1/cropped"
    assert (written / "unmoved" / file).read_bytes() == (given / file).read_bytes() != (written / file).read_bytes()


@pytest.mark.parametrize("data", ["moved/pairs.csv", "moved_data"])
def test_registering_registered_pairs_starts_from_the_unmoved_ones(pairs, data):
    registered(data, "again")
    first = Path(data if Path(data).is_dir() else "moved")
    images = [name for name in files_below("again") if name.endswith(".png")]
    assert images == [name for name in files_below(first) if name.endswith(".png")]
    assert all(Path("again", name).read_bytes() == (first / name).read_bytes() for name in images)


def test_cropping_registered_pairs_is_refused(pairs, refused):
    options = ["moved/pairs.csv", "--output", "cut", "--octa-mm", "6", "--run", "run"]
    assert "moved/pairs.csv: is registered (column octa_unmoved)" in refused(dataset_load_mod, "crop", *options)


@pytest.fixture
def lost(pairs):
    """The same without the unmoved OCT-A, as version 1.1.0 wrote them."""
    rows = read_rows("moved/pairs.csv")
    write_table(Path("moved/pairs.csv"), [{k: v for k, v in row.items() if k != "octa_unmoved"} for row in rows])
    shutil.rmtree("moved/octa_unmoved", ignore_errors=True)
    shutil.rmtree("moved_data/UT-FSOCTA-v1/cropped/unmoved", ignore_errors=True)
    return read_rows("moved/registration.csv")[0]["made_with"]


@pytest.mark.parametrize("data", ["moved/pairs.csv", "moved_data"])
def test_lost_unmoved_pairs_are_said_in_the_first_line_of_report_and_printout(lost, data):
    found = evaluated(data, "--split", "all")
    for text in (found.printed, found.report.partition("\n\n")[2]):
        first = text.splitlines()[0]
        assert first.startswith("MOVED BEFOREHAND: registration has moved 4 OCT-A")
        assert lost in first


def test_scores_of_pairs_moved_for_good_are_not_called_unregistered(lost):
    found = evaluated("moved/pairs.csv", "--split", "all")
    assert "unregistered" not in found.printed
    assert "| unregistered |" not in found.report


def moved_of(data):
    """How many pairs of a data set are known to be moved for good."""
    cases, _ = load_data_cases(Path(data), shares="1/0/0")
    return moved_for_good(Path(data), cases.itertuples(index=False))[0]


def test_octa_that_registration_left_in_place_are_not_said_to_be_moved(lost):
    rows = read_rows("moved/registration.csv")
    write_table(Path("moved/registration.csv"), [*rows[:1], *(row | {"verdict": "lies well"} for row in rows[1:])])
    assert moved_of("moved/pairs.csv") == 1


def test_part_of_a_moved_table_is_known_as_moved(lost):
    write_table(Path("moved/part.csv"), read_rows("moved/pairs.csv")[2:])
    assert moved_of("moved/part.csv") == 2


def test_other_table_beside_a_moved_one_is_not_taken_for_moved(lost):
    write_table(Path("moved/own.csv"), [{"fundus": "../photos/00.png", "octa": "../scans/00.png", "subject": "s00"}])
    assert moved_of("moved/own.csv") == 0


@pytest.mark.parametrize(("command", "options"), [("register", []), ("crop", ["--octa-mm", "6"])])
def test_moving_or_cropping_pairs_moved_for_good_is_refused(lost, refused, command, options):
    error = refused(dataset_load_mod, command, "moved/pairs.csv", "--output", "again", "--run", "run", *options)
    assert "has moved 4 of its OCT-A and did not keep the unmoved ones; give the data that were registered" in error


# --- controls --------------------------------------------------------------------------------------------------------


def test_control_of_the_last_of_17_crops_is_another_eye(here):
    table_of_eyes(17, side=64, shift=None)
    found = evaluated("pairs.csv", "--split", "all")
    assert "without another eye" not in found.report
    row = found.whole[(found.whole["subject"] == "s16") & (found.whole["candidate"] == "this run")].iloc[0]
    assert row["control_vessel_auc"] < row["registered_vessel_auc"]


def test_control_comes_from_any_block_of_eyes(here, monkeypatch):
    monkeypatch.setattr(evaluate, "EYES_AT_ONCE", 1)
    table_of_eyes(3, shift=None)
    alone = evaluated("pairs.csv", "--split", "all")
    monkeypatch.setattr(evaluate, "EYES_AT_ONCE", 3)
    pd.testing.assert_frame_equal(alone.per_eye, evaluated("pairs.csv", "--split", "all").per_eye)
    assert "without another eye" not in alone.report


def test_only_eyes_without_another_one_are_said_to_have_none(here):
    table_of_eyes(3, shift=None)
    write_pair(0, Path("photos/00.png"), Path("scans/00.png"), side=80, shift=None)  # the only one of its size
    assert (
        "without another eye of the same region and size: 1 of 3 crops"
        in evaluated("pairs.csv", "--split", "all").report
    )


# --- which subjects --------------------------------------------------------------------------------------------------


def subjects_of(found):
    return sorted(found.per_eye["subject"].unique())


def test_table_without_splits_is_evaluated_on_all_subjects_that_the_run_has_not_seen(here):
    table_of_eyes(2, shift=None)
    found = evaluated("pairs.csv")
    assert subjects_of(found) == ["s00", "s01"]
    assert (
        "Subjects: 2 of 2; all, because pairs.csv has no column split; the run has seen none of them" in found.printed
    )


def test_seen_subjects_of_a_table_without_splits_are_left_out_and_counted(here):
    table_of_eyes(3, shift=None)
    shutil.rmtree("run")
    start_run([photo_digest(read_fundus(Path("photos/01.png")))])
    found = evaluated("pairs.csv")
    assert subjects_of(found) == ["s00", "s02"]
    assert (
        "Subjects: 2 of 3; all, because pairs.csv has no column split, except 1 that the run has seen" in found.printed
    )


def test_column_split_is_respected_by_default(here):
    table_of_eyes(3, shift=None)
    rows = zip(read_rows("pairs.csv"), ("train", "test", "validation"), strict=True)
    write_table(Path("pairs.csv"), [row | {"split": split} for row, split in rows])
    found = evaluated("pairs.csv")
    assert subjects_of(found) == ["s01"]
    assert "Subjects: 1 of 3; those of the split test" in found.printed


def test_layout_without_a_test_subject_is_evaluated_on_all(here):
    for subject in (1, 2):
        write_pair(subject, *(CROPPED / kind / "disc" / f"{subject}_OD.png" for kind in ("fundus", "octa")), shift=None)
    assert subjects_of(evaluated("data")) == [1, 2]


def test_report_says_why_these_subjects(here):
    table_of_eyes(2, shift=None)
    assert (
        "2 subjects (2 eyes, disc) of pairs.csv: all, because pairs.csv has no column split"
        in evaluated("pairs.csv").report
    )


# --- references of two levels ----------------------------------------------------------------------------------------


def layout_with_maps(low, high):
    """Two test subjects whose ground truth, a binary map and a compared map have these two grey levels."""
    for subject, folder in product((31, 32), ("truth", "denoised_synthetic_octa/Thresh", "Iternet", "../../own")):
        name = Path("disc", f"{subject}_OD.png")
        write_pair(subject, CROPPED / "fundus" / name, CROPPED / "octa" / name, shift=None)
        save(np.where(vessels_of(subject) > 0.5, high, low), CROPPED / folder / name)
        save(100 * vessels_of(subject), CROPPED / "denoised_synthetic_octa/noThresh" / name)


def test_map_with_values_0_and_1_scores_1_against_itself(here):
    layout_with_maps(0, 1)
    found = evaluated("data", "--compare-vessels", "net=data/own").whole
    for name in ("net", "Iternet", "denoised_synthetic_octa"):
        assert set(found[found["candidate"] == name]["dice"]) == {1.0}


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 255), (3, 7), (0, 128), (254, 255)])
def test_the_higher_of_two_levels_is_vessel(here, low, high):
    evaluation = evaluate.Evaluation(None, True, pd.DataFrame(), 0, True, [], None, {})
    save(np.repeat([[low, high]], 4, axis=0), here / "x.png")
    assert (evaluation.read_vessels(here / "x.png", np.ones((4, 2), bool)) > 0.5)[0].tolist() == [False, True]


def test_vessel_probability_of_more_levels_is_not_stretched(here):
    evaluation = evaluate.Evaluation(None, True, pd.DataFrame(), 0, True, [], None, {})
    save(np.repeat([[0, 51, 102]], 4, axis=0), here / "x.png")
    read = evaluation.read_vessels(here / "x.png", np.ones((4, 3), bool))
    assert read[0] == pytest.approx([0, 0.2, 0.4])


def test_levels_outside_the_field_do_not_count(here):
    evaluation = evaluate.Evaluation(None, True, pd.DataFrame(), 0, True, [], None, {})
    grey, fov = np.repeat([[0, 1, 2]], 4, axis=0), np.repeat([[False, True, True]], 4, axis=0)
    save(grey, here / "x.png")
    assert evaluation.read_vessels(here / "x.png", fov)[0].tolist()[1:] == [0, 1]


@pytest.mark.parametrize(
    ("change", "named"),
    [(lambda truth: 0 * truth, "marks no vessel"), (lambda truth: 1 - truth, "as vessels: is it inverted?")],
    ids=["empty", "inverted"],
)
def test_unusable_reference_is_named_and_its_eye_left_out(here, change, named):
    layout_with_maps(0, 1)
    file = CROPPED / "truth/disc/32_OD.png"
    save(change(np.asarray(Image.open(file)).astype(int)), file)
    found = evaluated("data", status=2)
    assert subjects_of(found) == [31]
    error = found.printed.splitlines()[-1]
    assert "truth/disc/32_OD.png: " in error
    assert named in error


def test_no_usable_reference_at_all_is_one_line(here):
    layout_with_maps(0, 1)
    for file in Path(CROPPED / "truth/disc").iterdir():
        save(np.zeros((SIDE, SIDE)), file)
    error = evaluated("data", status=2).printed.splitlines()[-1]
    assert "error: no eye can be evaluated; " in error
    assert "truth/disc/31_OD.png: " in error
