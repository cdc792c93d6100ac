"""A table of foreign files goes through every program, and trains as the same images in the layout do.

And each run knows which subjects it has seen, under any name.
"""

import csv
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import SMALL, different_values, logged, write_tiny_dataset
from PIL import Image

import dataset_load_mod
import pix_pix_eval
import pix_pix_gen
import pix_pix_train
from pairs.table import read_pairs
from run.checkpoints import seen_by
from run.data import load_run_data
from run.settings import Settings

pytestmark = pytest.mark.slow
OPTIONS = [*SMALL, "--l1-only", "1", "--epochs", "1"]
SUBJECTS = {"1_OD": "Ann", "2_OS": "Bob", "26_OD": "Cem", "31_OD": "Dü"}
SPLITS = {"1_OD": "train", "2_OS": "train", "26_OD": "validation", "31_OD": "test"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The tiny data set in its layout and as a table, and a run of one epoch from each: `layout` and `table`."""
    folder = tmp_path_factory.mktemp("chain")
    write_tiny_dataset(folder)
    cropped = folder / "UT-FSOCTA-v1" / "cropped"
    (folder / "pairs" / "scans").mkdir(parents=True)
    rows = []
    for name, subject in SUBJECTS.items():
        fundus, octa = f"{subject} left.tif", f"scans/no {len(rows)}.bmp"
        Image.open(cropped / "fundus" / "disc" / f"{name}.png").save(folder / "pairs" / fundus)
        Image.open(cropped / "octa" / "disc" / f"{name}.png").convert("RGB").save(folder / "pairs" / octa)
        rows.insert(0, {"subject": subject, "split": SPLITS[name], "octa": octa, "fundus": fundus, "age": 60})
    with open(folder / "pairs" / "pairs.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, data in (("layout", "."), ("table", "pairs/pairs.csv")):
            assert pix_pix_train.main(["--data", data, "--name", name, *OPTIONS]) == 0
    return folder


@pytest.fixture
def here(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def test_losses_are_those_of_the_same_images_in_the_layout(here):
    losses = [logged(f"logs/fit/{name}", "gen_l1_loss") for name in ("layout", "table")]
    assert losses[0] == losses[1] != {}


def test_weights_are_those_of_the_same_images_in_the_layout(here):
    assert different_values("training_checkpoints/layout", "training_checkpoints/table") == []


def test_run_resumes(here, capsys):
    assert pix_pix_train.main(["--resume", "training_checkpoints/table", "--epochs", "2"]) == 0
    assert "Continuing after epoch 1" in capsys.readouterr().out


def test_check_lists_splits_and_what_is_unknown(here, capsys):
    assert dataset_load_mod.main(["check", "pairs/pairs.csv"]) == 0
    printed = capsys.readouterr().out
    for line in ("pairs: train 2, validation 1, test 1", "split: by the table's column split", "eye: unknown for 4"):
        assert line in printed


def test_synthesis_of_its_test_split_is_named_as_its_photographs(here):
    assert pix_pix_gen.main(["--dataset", "--run", "training_checkpoints/table", "--output", "gen"]) == 0
    assert [path.name for path in Path("gen").iterdir()] == ["Dü left.png"]


def test_evaluation_compares_a_folder_of_synthetic_octa(here):
    run = ["--run", "training_checkpoints/table"]
    assert pix_pix_gen.main(["--dataset", *run, "--output", "compared"]) == 0
    assert pix_pix_eval.main([*run, "--compare", "other=compared", "--output", "eval"]) == 0
    per_eye = pd.read_csv(next(Path("eval").glob("*/per_eye.csv")))
    assert set(per_eye[per_eye["candidate"] == "other"]["name"]) == {"Dü left"}


def test_registered_table_has_its_columns_and_files(here):
    options = ["pairs/pairs.csv", "--output", "registered", "--run", "training_checkpoints/table"]
    assert dataset_load_mod.main(["register", *options]) == 0
    names = [pair[-1] for pair in read_pairs(Path("registered/pairs.csv"), "80/10/10")]
    columns = Path("registered/pairs.csv").read_text(encoding="utf-8").splitlines()[0]
    assert (columns, len(names)) == ("subject,split,octa,fundus,age,octa_unmoved", 4)


@pytest.mark.parametrize(("registered", "noted"), [(False, True), (True, False)])
def test_training_says_if_pairs_lie_as_they_are(here, tmp_path, capsys, registered, noted):
    shutil.copytree("pairs", tmp_path / "pairs")
    if registered:
        (tmp_path / "pairs" / "registration.csv").touch()
    load_run_data(Settings(data=str(tmp_path / "pairs" / "pairs.csv"), patch_size=64), verbose=False)
    assert ("NOTE: unregistered pairs" in capsys.readouterr().out) == noted


def test_folder_without_an_image_of_the_table_is_refused(here, refused):
    options = ["--run", "training_checkpoints/table", "--compare", "x=training_checkpoints"]
    assert "x=training_checkpoints: has no image of these cases, such as Dü left.png" in refused(pix_pix_eval, *options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--data", "pairs/none.csv"], "--data pairs/none.csv: no such file or folder"),
        (["--data", "pairs/pairs.csv", "--test-subjects", "99"], "--test-subjects 99: pairs/pairs.csv is a table"),
        (["--data", ".", "--split", "1/1/1"], "--split 1/1/1: UT-FSOCTA-v1 is not a table of pairs"),
    ],
)
def test_what_does_not_go_with_the_data_is_refused(here, refused, options, named):
    assert named in refused(pix_pix_train, *options)


# --- what a run has seen ---------------------------------------------------------------------------------------------

TUNED = [*SMALL, "--l1-only", "1", "--epochs", "1", "--mix", "0", "--init-from", "training_checkpoints/table"]


def evaluated(*options: str) -> tuple[dict[str, bool], str]:
    """Subject -> whether it was seen, of an evaluation of the run `table`; and its report."""
    output = Path("eval" + "".join(options).replace("/", ""))
    assert pix_pix_eval.main(["--run", "training_checkpoints/table", *options, "--output", str(output)]) == 0
    rows = pd.read_csv(next(output.glob("*/per_eye.csv")), dtype={"subject": str})
    return dict(zip(rows["subject"], rows["seen"], strict=True)), next(output.glob("*/report.html")).read_text()


def test_seen_subjects_are_left_out_of_an_evaluation_of_all(here):
    subjects, summary = evaluated("--split", "all")
    assert subjects == {"Dü": False}
    assert (
        "left out, see --include-seen: the run, or one that it started from, was trained or validated on 3 subjects"
        in summary
    )


def test_seen_subjects_are_known_under_other_names(here):
    subjects, _ = evaluated("--split", "all", "--data", ".")  # the same images in the layout
    assert subjects == {"31": False}


def test_seen_subjects_are_marked_if_asked_for(here):
    subjects, summary = evaluated("--split", "all", "--include-seen")
    assert subjects == {"Ann": True, "Bob": True, "Cem": True, "Dü": False}
    assert "NOT A TEST: the run, or one that it started from, was trained or validated on 3 of 4 subjects" in summary


def test_a_split_of_seen_subjects_can_be_evaluated(here):
    assert evaluated("--split", "validation")[0] == {"Cem": True}


def test_summary_of_one_subject_says_so(here):
    summary = evaluated("--split", "test")[1]
    assert "1 subject (1 eye, other)" in summary
    assert "without another eye of the same region and size: 1 of 1 crops" in summary


def test_fine_tuning_refuses_to_test_on_what_the_first_run_has_seen(here, refused):
    options = [*TUNED, "--data", ".", "--train-subjects", "31", "--validation-subjects", "99", "--test-subjects", "2"]
    assert "--init-from training_checkpoints/table: has seen 1 of this run's test subjects (2)" in refused(
        pix_pix_train, *options
    )


def test_fine_tuned_run_has_seen_what_the_first_one_has(here):
    options = ["--data", ".", "--train-subjects", "31", "--validation-subjects", "99", "--test-subjects", "100"]
    assert pix_pix_train.main([*TUNED, *options, "--name", "tuned"]) == 0
    assert seen_by(Path("training_checkpoints/tuned")) > seen_by(Path("training_checkpoints/table"))


def test_resumed_run_keeps_what_it_has_seen(here):
    options = ["--data", "pairs/pairs.csv", "--name", "resumed"]
    assert pix_pix_train.main([*OPTIONS, *options]) == 0
    before = seen_by(Path("training_checkpoints/resumed"))
    assert pix_pix_train.main(["--resume", "training_checkpoints/resumed", "--epochs", "2"]) == 0
    assert seen_by(Path("training_checkpoints/resumed")) == before


def test_exported_weights_have_seen_what_their_run_has(here):
    options = ["--run", "training_checkpoints/table", "--export", "one", "--format", "weights"]
    assert pix_pix_gen.main(options) == 0
    assert seen_by(Path("one")) == seen_by(Path("training_checkpoints/table"))
