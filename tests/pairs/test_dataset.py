"""Which pairs a data set has, how they are read, and the command `check`."""

import shlex
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import round_field
from PIL import Image

import dataset_load_mod as dlm
from pairs.dataset import PUBLISHED_SPLITS, is_simulated, list_full_fields, load_pair, load_pairs


@pytest.fixture
def root(dataset):
    return dataset / "UT-FSOCTA-v1"


# --- table of cases --------------------------------------------------------------------------------------------------


def test_dataset_is_found_as_the_folder_and_in_it_and_another_folder_is_refused_with_advice(root):
    for folder in (root, root.parent):
        assert dlm.find_dataset(folder, "--data") == root
    with pytest.raises(dlm.DataError, match=r"--data .*cropped/\{fundus,octa\}/\{disc,macula\}/.*write a table"):
        dlm.find_dataset(root / "cropped", "--data")


def test_dataset_is_searched_for_if_it_is_not_named_and_simulated_retinas_by_their_word(project):
    assert dlm.find_dataset(None, "--data") == Path("data/UT-FSOCTA-v1")
    Path("data/simulated").mkdir()
    Path("data/UT-FSOCTA-v1").rename("data/simulated/UT-FSOCTA-v1")
    assert dlm.find_dataset("simulated", "--data") == Path("data/simulated/UT-FSOCTA-v1")
    assert dlm.find_dataset(None, "--data") is None


def table_of_a_pair(folder: Path, photograph: str) -> str:
    """Write a table of a pair of the data set in a folder, beside that folder; returns its path."""
    table = folder.with_name(f"{Path(photograph).stem}.csv")
    files = f"{folder.name}/{photograph},{folder.name}/cropped/octa/disc/1_OD.png"
    table.write_text(f"fundus,octa,subject\n{files},1\n")
    return str(table)


CROP, WHOLE = "cropped/fundus/disc/1_OD.png", "fov45/fundus/26_OD.jpg"


@pytest.mark.parametrize("mark", ["SIMULATED.txt", "cropped/truth/disc"])  # 1.1.0 wrote no SIMULATED.txt
def test_simulated_retinas_are_known_by_word_folder_and_table(root, mark):
    (root / mark).mkdir(parents=True) if "." not in mark else (root / mark).touch()
    tables = table_of_a_pair(root, CROP), table_of_a_pair(root, WHOLE)
    for data in ("simulated", root, str(root.parent), *tables):
        assert is_simulated(data), data


def test_table_of_simulated_retinas_is_known_whatever_is_wrong_with_its_rows(root):
    (root / "SIMULATED.txt").touch()
    table = root.with_name("crops.csv")
    scans = "cropped/octa/disc/1_OD.png", "cropped/octa/disc/2_OS.png"  # of one photograph, which training refuses
    rows = [f"{root.name}/{WHOLE},{root.name}/{scan},{subject}" for subject, scan in enumerate(scans)]
    table.write_text("\n".join(["fundus,octa,subject", "lost.png,lost.png,1", *rows]) + "\n")
    assert is_simulated(table)


def test_results_beside_the_note_are_simulated_however_deep_they_lie(tmp_path):
    (tmp_path / "SIMULATED.txt").touch()
    (tmp_path / "pairs.csv").write_text("fundus,octa,subject\nfundus/one/cropped/fundus/disc/1_OD.png,b.png,1\n")
    assert is_simulated(tmp_path / "pairs.csv")


def test_real_and_missing_data_are_not_simulated(root):
    (root.parent / "beside").mkdir()
    (root.parent / "beside" / "SIMULATED.txt").touch()
    for data in (None, root, root.parent, table_of_a_pair(root, CROP), "moved", "moved.csv"):
        assert not is_simulated(data), data


def test_cases_are_paired_by_name_and_split_by_subject(root):
    cases, unpaired = dlm.load_data_cases(root)
    added = "octa_mm", "octa_unmoved", "original_digest"
    assert tuple(cases.columns) == ("subject", "eye", "region", "split", "fundus", "octa", *added, "name")
    assert list(zip(cases["subject"], cases["eye"], cases["split"], strict=True)) == [
        (1, "OD", "train"),
        (2, "OS", "train"),
        (26, "OD", "validation"),
        (31, "OD", "test"),
    ]
    assert unpaired == []
    assert cases["octa"][0] == root / "cropped" / "octa" / "disc" / "1_OD.png"


def test_subjects_have_the_published_splits_or_given_ones_and_others_none(root):
    counts = {split: len(subjects) for split, subjects in PUBLISHED_SPLITS.items()}
    assert counts == {"train": 25, "validation": 5, "test": 82}
    assert sorted({*chain(*PUBLISHED_SPLITS.values())}) == list(range(1, 113))
    cases, _ = dlm.load_data_cases(root, {"train": [2]})
    assert list(cases["split"].fillna("none")) == ["none", "train", "none", "none"]


def test_files_without_partner_are_named_and_foreign_ones_are_not(root):
    folder = root / "cropped" / "fundus" / "disc"
    (folder / "1_OD.png").rename(folder / "5_OD.png")
    for name in (".DS_Store", "._2_OS.png", "notes.txt", "2_OX.png", "x2_OS.png", "2_OS.png.bak", "Thumbs.db"):
        (folder / name).write_bytes(b"x")
    cases, unpaired = dlm.load_data_cases(root)
    assert list(cases["subject"]) == [2, 26, 31]
    assert [path.name for path in unpaired] == ["5_OD.png", "1_OD.png"]


def test_two_files_of_one_eye_are_refused(root):
    folder = root / "cropped" / "octa" / "disc"
    (folder / "1_OD.jpg").write_bytes((folder / "1_OD.png").read_bytes())
    with pytest.raises(dlm.DataError, match=r"1_OD\.jpg and 1_OD\.png"):
        dlm.load_data_cases(root)


@pytest.mark.parametrize("name", ["fov45", "fov_45"])
def test_whole_photographs_are_found_under_both_names(root, name):
    (root / "fov45").rename(root / name)
    assert list_full_fields(root) == {(26, "OD"): root / name / "fundus" / "26_OD.jpg"}


# --- images ----------------------------------------------------------------------------------------------------------


def test_octa_of_another_size_is_resized_to_its_photograph(root):
    cropped = root / "cropped"
    Image.fromarray(np.repeat(np.uint8([0, 200]), 90)[np.newaxis].repeat(200, axis=0)).save(cropped / "octa.png")
    pair = load_pair(cropped / "fundus/disc/1_OD.png", cropped / "octa.png", 1, fov_mask=False)
    assert pair.resized
    assert abs(pair.octa[..., 0].astype(int) - np.repeat(np.uint8([0, 200]), 45)).mean() < 1


def test_pair_of_two_shapes_is_refused(root):
    path = root / "cropped" / "octa" / "disc" / "2_OS.png"
    Image.open(path).crop((0, 0, 80, 100)).save(path)
    cases, _ = dlm.load_data_cases(root)
    with pytest.raises(dlm.DataError, match=r"2_OS\.png and .*2_OS\.png .*90 x 100 px and 80"):
        list(load_pairs(cases, 1, True))


@pytest.mark.parametrize("fov_mask", [True, False])
def test_pair_has_its_pixels_and_its_field(root, fov_mask):
    path, octa = (root / "cropped" / kind / "disc" / "1_OD.png" for kind in ("fundus", "octa"))
    fundus = np.array(Image.open(path))
    fundus[:, 60:] = 4  # nearly black: outside the field
    Image.fromarray(fundus).save(path)
    pair = load_pair(path, octa, 4, fov_mask)
    assert (pair.fundus == fundus).all()
    assert (pair.octa == np.array(Image.open(octa))).all()
    assert pair.fov[:, :60].all()
    assert pair.fov[:, 62:].any() != fov_mask  # a straight border is found to a pixel


def test_preprocessing_maps_bytes_to_minus_one_and_one():
    fundus, octa = dlm.preprocess_sample(tf.constant([0, 255], tf.uint8), np.uint8([51]))
    assert fundus.numpy().tolist() == [-1, 1]
    assert octa.numpy() == pytest.approx([-0.6])


# --- the check -------------------------------------------------------------------------------------------------------


def test_check_counts_images_pairs_and_sizes(root, capsys):
    (root / "cropped" / "Iternet" / "macula").mkdir(parents=True)
    Image.new("L", (9, 9)).save(root / "cropped" / "Iternet" / "macula" / "31_OD.png")
    assert dlm.main(["check", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    folders = {"Iternet/macula": 1, "fundus/disc": 4, "octa/disc": 4}
    assert lines[2:6] == [*(f"cropped/{name}: {n} images" for name, n in folders.items()), "fov45/fundus: 1 images"]
    assert "pairs: train 2, validation 1, test 1, unused 0" in lines
    assert "sizes: 90 x 100 px (4)" in lines
    assert f"pix_pix_train.py --data {root}" in lines[-1]


def test_check_counts_photographs_that_show_the_whole_field(root, capsys):
    for kind in ("fundus", "octa"):
        Image.fromarray(round_field(200)).save(root / "cropped" / kind / "disc" / "1_OD.png")
    assert dlm.main(["check", str(root)]) == 0
    assert "whole photographs: 1; if an OCT-A shows less of the eye, crop" in capsys.readouterr().out


def test_check_names_every_odd_file_also_in_a_linked_folder(root, tmp_path, capsys):
    fundus, octa = root / "cropped" / "fundus" / "disc", root / "cropped" / "octa" / "disc"
    fundus.rename(tmp_path / "elsewhere")
    fundus.symlink_to(tmp_path / "elsewhere")
    (octa / "31_OD.png").write_bytes(b"damaged")
    (octa / "2_OS.png").unlink()
    (fundus / "notes.txt").write_text("x")
    (fundus / "._1_OD.png").write_bytes(b"a Mac's leftover")
    (root / "__MACOSX").mkdir()
    (root / "fov45" / "fundus" / "31_OD.jpg").write_bytes(b"damaged")
    assert dlm.main(["check", str(root)]) == 0  # training reads neither test pairs
    printed = capsys.readouterr().out
    assert f"without partner: 1\n  {fundus / '2_OS.png'}\n" in printed
    assert f": 1\n  {fundus / 'notes.txt'}\n" in printed
    assert "cannot be used: 2\n" in printed
    assert f"{octa / '31_OD.png'}: " in printed
    assert "31_OD.jpg: " in printed


DAMAGES = {
    "26_OD.png": lambda root: (root / "cropped/octa/disc/26_OD.png").write_bytes(b""),
    "26_OD.jpg": lambda root: (root / "fov45/fundus/26_OD.jpg").write_bytes(b""),
    "disc/1_OD.png": lambda root: Image.new("RGB", (90, 100)).save(root / "cropped/fundus/disc/1_OD.png"),  # dark
    "1-25": lambda root: [path.unlink() for path in root.glob("cropped/octa/disc/[12]_*")],
    "1_OD.jpg": lambda root: Image.new("L", (9, 9)).save(root / "cropped/octa/disc/1_OD.jpg"),
}


@pytest.mark.parametrize("named", DAMAGES)
def test_check_fails_where_training_could_not_start(root, capsys, named):
    DAMAGES[named](root)
    assert dlm.main(["check", str(root)]) == 2
    assert named in capsys.readouterr().err.splitlines()[-1]


def write_table_of_pairs(root, *rows, columns="subject,split"):
    """A table with a subject for each (fundus, OCT-A, split) of disc images of the tiny data set; returns its path."""
    cells = (f"fundus/disc/{fundus},octa/disc/{octa},{fundus},{split}" for fundus, octa, split in rows)
    path = root / "cropped" / "all pairs.csv"
    path.write_text("\n".join([f"fundus,octa,{columns}", *cells]))
    return path


def test_check_lists_each_mistake_of_a_table(root, capsys):
    path = write_table_of_pairs(root, ("1_OD.png", "no.png", "train"), ("2_OS.png", "2_OS.png", "x"))
    assert dlm.main(["check", str(path)]) == 2
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert f"error: {path}: row 2: octa octa/disc/no.png: no such file" in first
    assert f"error: {path}: row 3: split x: must be " in second


def test_check_advises_to_fill_or_delete_an_empty_column_split(root, capsys):
    assert dlm.main(["check", str(write_table_of_pairs(root, ("1_OD.png", "1_OD.png", "")))]) == 2
    assert "by the table's column split; enter train in that column, or delete it" in capsys.readouterr().err


def test_check_names_unused_columns_and_prints_a_command_that_a_shell_reads(root, capsys):
    path = write_table_of_pairs(root, ("1_OD.png", "1_OD.png", "train,70,9"), columns="Subject,split,age,px per mm")
    assert dlm.main(["check", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "columns that are not used: age, px per mm\n" in printed
    assert shlex.split(printed.splitlines()[-1])[-2:] == ["--data", str(path)]


def test_check_without_data_and_download_of_another_archive_are_refused(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    assert "no data set in data/UT-FSOCTA-v1" in refused(dlm, "check")
    (tmp_path / "x.zip").write_bytes(b"another archive")
    assert "x.zip: has md5" in refused(dlm, "download", "data", "--archive", "x.zip")
