"""A table of foreign files goes through every program, and trains as the same images in the layout do.

And each run knows which subjects it has seen, under any name.
"""

from pathlib import Path

import pandas as pd
import pytest
from conftest import SMALL, different_values, logged

import dataset_load_mod
import pix_pix_eval
import pix_pix_gen
import pix_pix_train
from pairs.table import read_pairs
from run.checkpoints import read_run

pytestmark = pytest.mark.slow
RUN = "training_checkpoints/table"


@pytest.fixture(scope="module")
def made(pairs_table, small_run, tmp_path_factory):
    """A folder with a run of two epochs from the table, of the same images and options as `small_run`."""
    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert pix_pix_train.main([*SMALL, "--data", str(pairs_table), "--epochs", "2", "--name", "table"]) == 0
    return folder


@pytest.fixture
def here(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def test_run_equals_that_of_the_same_images_in_the_layout(here, small_run):
    logs = Path("logs/fit/table"), small_run.parents[1] / "logs/fit/small"
    losses = [logged(folder, "gen_l1_loss") for folder in logs]
    assert losses[0] == losses[1] != {}
    assert different_values(small_run, RUN) == []


def test_check_lists_splits_and_what_is_unknown(pairs_table, capsys):
    assert dataset_load_mod.main(["check", str(pairs_table)]) == 0
    printed = capsys.readouterr().out
    for line in ("pairs: train 2, validation 1, test 1", "split: by the table's column split", "eye: unknown for 4"):
        assert line in printed


def test_evaluation_compares_a_folder_of_synthetic_octa_which_are_named_as_their_photographs(here):
    assert pix_pix_gen.main(["--dataset", "--run", RUN, "--output", "compared"]) == 0
    assert [path.name for path in Path("compared").iterdir()] == ["Dü left.png"]
    assert pix_pix_eval.main(["--run", RUN, "--compare", "other=compared", "--output", "eval"]) == 0
    per_eye = pd.read_csv(next(Path("eval").glob("*/per_eye.csv")))
    assert set(per_eye[per_eye["candidate"] == "other"]["name"]) == {"Dü left"}


def test_registered_table_has_its_columns_and_files(here, pairs_table):
    assert dataset_load_mod.main(["register", str(pairs_table), "--output", "registered", "--run", RUN]) == 0
    columns = Path("registered/pairs.csv").read_text(encoding="utf-8").splitlines()[0]
    assert columns == "subject,split,octa,fundus,age,octa_unmoved"
    assert len(read_pairs(Path("registered/pairs.csv"), "80/10/10")) == 4


# --- what a run has seen ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        (["--split", "all"], {"Dü": False}),
        (["--split", "all", "--data", "LAYOUT"], {"31": False}),  # the same images under other names
        (["--split", "all", "--include-seen"], {"Ann": True, "Bob": True, "Cem": True, "Dü": False}),
        (["--split", "validation"], {"Cem": True}),
    ],
)
def test_evaluation_leaves_out_or_marks_the_subjects_that_the_run_has_seen(here, small_data, tmp_path, options, seen):
    options = [str(small_data) if option == "LAYOUT" else option for option in options]
    assert pix_pix_eval.main(["--run", RUN, *options, "--output", str(tmp_path)]) == 0
    rows = pd.read_csv(next(tmp_path.glob("*/per_eye.csv")), dtype={"subject": str})
    assert dict(zip(rows["subject"], rows["seen"], strict=True)) == seen


def tuning(data, test_subjects):
    """Options of a run that starts from the table's, and trains on subject 31 of the layout."""
    options = [*SMALL, "--l1-only", "1", "--epochs", "1", "--mix", "0", "--init-from", RUN, "--data", str(data)]
    return [*options, "--train-subjects", "31", "--validation-subjects", "99", "--test-subjects", test_subjects]


def test_fine_tuning_refuses_to_test_on_what_the_first_run_has_seen(here, small_data, refused):
    said = refused(pix_pix_train, *tuning(small_data, "2"))
    assert f"--init-from {RUN}: has seen 1 of this run's test subjects (2)" in said


def test_fine_tuned_run_has_seen_what_the_first_one_has(here, small_data):
    assert pix_pix_train.main([*tuning(small_data, "100"), "--name", "tuned"]) == 0
    assert read_run(Path("training_checkpoints/tuned")).seen > read_run(Path(RUN)).seen


def test_exported_weights_have_seen_what_their_run_has(here):
    assert pix_pix_gen.main(["--run", RUN, "--export", "one", "--format", "weights"]) == 0
    assert read_run(Path("one")).seen == read_run(Path(RUN)).seen


def test_run_resumes_and_keeps_what_it_has_seen(here, capsys):
    before = read_run(Path(RUN)).seen
    assert pix_pix_train.main(["--resume", RUN, "--epochs", "3"]) == 0
    assert "after epoch 2" in capsys.readouterr().out
    assert read_run(Path(RUN)).seen == before
