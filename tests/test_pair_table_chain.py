"""A table of foreign files goes through every program, and trains as the same images in the layout do.

And each run knows which subjects it has seen, under any name.
"""

import shutil
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
OPTIONS = [*SMALL, "--l1-only", "1", "--epochs", "1"]


@pytest.fixture(scope="module")
def made(small_data, pairs_table, tmp_path_factory):
    """The tiny data set in its layout and as a table, and a run of one epoch from each: `layout` and `table`."""
    folder = shutil.copytree(small_data, tmp_path_factory.mktemp("chain"), dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, data in (("layout", "."), ("table", "pairs/pairs.csv")):
            assert pix_pix_train.main(["--data", data, "--name", name, *OPTIONS]) == 0
    return folder


@pytest.fixture
def here(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def test_run_equals_that_of_the_same_images_in_the_layout(here):
    losses = [logged(f"logs/fit/{name}", "gen_l1_loss") for name in ("layout", "table")]
    assert losses[0] == losses[1] != {}
    assert different_values("training_checkpoints/layout", "training_checkpoints/table") == []


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


# --- what a run has seen ---------------------------------------------------------------------------------------------

TUNED = [*SMALL, "--l1-only", "1", "--epochs", "1", "--mix", "0", "--init-from", "training_checkpoints/table"]


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        (["--split", "all"], {"Dü": False}),
        (["--split", "all", "--data", "."], {"31": False}),  # the same images in the layout, under other names
        (["--split", "all", "--include-seen"], {"Ann": True, "Bob": True, "Cem": True, "Dü": False}),
        (["--split", "validation"], {"Cem": True}),
    ],
)
def test_evaluation_leaves_out_or_marks_the_subjects_that_the_run_has_seen(here, tmp_path, options, seen):
    command = ["--run", "training_checkpoints/table", *options, "--output", str(tmp_path)]
    assert pix_pix_eval.main(command) == 0
    rows = pd.read_csv(next(tmp_path.glob("*/per_eye.csv")), dtype={"subject": str})
    assert dict(zip(rows["subject"], rows["seen"], strict=True)) == seen


def test_fine_tuning_refuses_to_test_on_what_the_first_run_has_seen(here, refused):
    options = [*TUNED, "--data", ".", "--train-subjects", "31", "--validation-subjects", "99", "--test-subjects", "2"]
    assert "--init-from training_checkpoints/table: has seen 1 of this run's test subjects (2)" in refused(
        pix_pix_train, *options
    )


def test_fine_tuned_run_has_seen_what_the_first_one_has(here):
    options = ["--data", ".", "--train-subjects", "31", "--validation-subjects", "99", "--test-subjects", "100"]
    assert pix_pix_train.main([*TUNED, *options, "--name", "tuned"]) == 0
    assert read_run(Path("training_checkpoints/tuned")).seen > read_run(Path("training_checkpoints/table")).seen


def test_run_resumes_and_keeps_what_it_has_seen(here, capsys):
    before = read_run(Path("training_checkpoints/layout")).seen
    assert pix_pix_train.main(["--resume", "training_checkpoints/layout", "--epochs", "2"]) == 0
    assert "after epoch 1" in capsys.readouterr().out
    assert read_run(Path("training_checkpoints/layout")).seen == before


def test_exported_weights_have_seen_what_their_run_has(here):
    options = ["--run", "training_checkpoints/table", "--export", "one", "--format", "weights"]
    assert pix_pix_gen.main(options) == 0
    assert read_run(Path("one")).seen == read_run(Path("training_checkpoints/table")).seen
