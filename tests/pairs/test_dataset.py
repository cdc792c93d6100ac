"""From files to patches and back."""

import re
import shlex
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import fake_fundus, fake_octa
from PIL import Image

import dataset_load_mod as dlm
from pairs.dataset import PUBLISHED_SPLITS, is_simulated, list_full_fields, load_pair, load_pairs
from retina.field_of_view import field_of_view
from retina.images import black_outside, continue_outside, in_own_pages
from retina.patches import patch_corners, reflect_to_multiple, reflect_to_patch


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def root(dataset):
    return dataset / "UT-FSOCTA-v1"


def disc(size, centre, radius):
    rows, columns = np.mgrid[:size, :size]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2


# --- table of cases --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [".", "UT-FSOCTA-v1"])
def test_dataset_is_found_as_the_folder_and_in_it(dataset, name):
    assert dlm.find_dataset(dataset / name, "--data") == dataset / "UT-FSOCTA-v1"


def test_folder_without_a_dataset_is_refused_by_its_option(dataset):
    with pytest.raises(dlm.DataError, match=r"--data .*/cropped"):
        dlm.find_dataset(dataset / "UT-FSOCTA-v1" / "cropped", "--data")


def test_advice_for_a_folder_without_a_dataset_is_the_layout_or_a_table(dataset):
    with pytest.raises(dlm.DataError, match=r"cropped/\{fundus,octa\}/\{disc,macula\}/.*write a table") as caught:
        dlm.find_dataset(dataset / "UT-FSOCTA-v1" / "cropped", "check")
    assert "check DATA" not in str(caught.value)  # which would stop with the same error


def test_dataset_that_is_not_named_is_searched_for(project):
    assert dlm.find_dataset(None, "--data") == Path("data/UT-FSOCTA-v1")
    Path("data/UT-FSOCTA-v1").rename("moved")
    assert dlm.find_dataset(None, "--data") is None


def test_sample_set_is_found_by_its_word(project):
    Path("data/simulated").mkdir()
    Path("data/UT-FSOCTA-v1").rename("data/simulated/UT-FSOCTA-v1")
    assert dlm.find_dataset("simulated", "--data") == Path("data/simulated/UT-FSOCTA-v1")


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


def test_real_and_missing_data_are_not_simulated(root):
    (root.parent / "SIMULATED.txt").touch()  # beside the data set, not in it
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


def test_published_split_is_that_of_the_study():
    counts = {split: len(subjects) for split, subjects in PUBLISHED_SPLITS.items()}
    assert counts == {"train": 25, "validation": 5, "test": 82}
    assert sorted({*chain(*PUBLISHED_SPLITS.values())}) == list(range(1, 113))


def test_subjects_of_no_split_stay_in_the_table(root):
    cases, _ = dlm.load_data_cases(root, {"train": [2]})
    assert cases.set_index("subject")["split"].fillna("none").to_dict() == {
        1: "none",
        2: "train",
        26: "none",
        31: "none",
    }


def test_files_without_partner_are_named_and_foreign_ones_are_not(root):
    folder = root / "cropped" / "fundus" / "disc"
    (folder / "1_OD.png").rename(folder / "5_OD.png")
    for name in (".DS_Store", "._2_OS.png", "notes.txt", "2_OX.png", "x2_OS.png", "2_OS.png.bak", "Thumbs.db"):
        (folder / name).write_bytes(b"x")
    (root / "cropped" / "fundus" / "__MACOSX").mkdir()
    cases, unpaired = dlm.load_data_cases(root)
    assert list(cases["subject"]) == [2, 26, 31]
    assert [path.name for path in unpaired] == ["5_OD.png", "1_OD.png"]


def test_two_files_of_one_eye_are_refused(root):
    folder = root / "cropped" / "octa" / "disc"
    (folder / "1_OD.jpg").write_bytes((folder / "1_OD.png").read_bytes())
    with pytest.raises(dlm.DataError, match=r"1_OD\.jpg and 1_OD\.png"):
        dlm.load_data_cases(root)


@pytest.mark.parametrize("suffix", [".webp", ".JPE", ".jp2", ".ppm"])
def test_data_set_may_have_any_format_of_images(root, suffix):
    for kind in ("fundus", "octa"):
        path = root / "cropped" / kind / "disc" / "1_OD.png"
        Image.open(path).convert("RGB").save(path.with_suffix(suffix))
        path.unlink()
    cases, unpaired = dlm.load_data_cases(root)
    assert (cases["fundus"][0].suffix, cases["octa"][0].suffix, unpaired) == (suffix, suffix, [])


@pytest.mark.parametrize("name", ["fov45", "fov_45"])
def test_whole_photographs_are_found_under_both_names(root, name):
    (root / "fov45").rename(root / name)
    assert list_full_fields(root) == {(26, "OD"): root / name / "fundus" / "26_OD.jpg"}


# --- images ----------------------------------------------------------------------------------------------------------


def test_octa_of_another_size_is_resized_to_its_photograph(tmp_path):
    Image.new("RGB", (100, 90), "white").save(tmp_path / "fundus.png")
    halves = np.repeat(np.uint8([0, 200]), 100)[np.newaxis].repeat(180, axis=0)
    Image.fromarray(halves).save(tmp_path / "octa.png")
    pair = load_pair(tmp_path / "fundus.png", tmp_path / "octa.png", 1, fov_mask=False)
    expected = np.repeat(np.uint8([0, 200]), 50)
    assert pair.resized
    assert abs(pair.octa[..., 0].astype(int) - expected).mean() < 1


def test_pair_of_two_shapes_is_refused(root):
    path = root / "cropped" / "octa" / "disc" / "2_OS.png"
    Image.open(path).crop((0, 0, 80, 100)).save(path)
    cases, _ = dlm.load_data_cases(root)
    with pytest.raises(dlm.DataError, match=r"2_OS\.png and .*2_OS\.png .*90 x 100 px and 80"):
        list(load_pairs(cases, 1, True))


def test_images_in_their_own_pages_are_equal_and_writable(random):
    image = random.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    copy = in_own_pages(image)
    assert np.array_equal(image, copy)
    copy[0, 0, 0] += 1
    assert not np.array_equal(image, copy)


# --- field of view ---------------------------------------------------------------------------------------------------


def test_field_is_the_camera_s_and_survives_dark_vessels_and_macula(random):
    field = disc(400, (180, 220), 230)  # cut by three sides of the image
    fundus = fake_fundus(random, 400, 400)
    fundus[:, 195:206] = 3  # a dark vessel from border to border: it splits the field
    fundus[disc(400, (250, 300), 50)] = 2  # a dark macula
    fundus[~field] = random.integers(0, 9, ((~field).sum(), 3))  # the noise of JPEG on black
    assert np.mean(field_of_view(fundus) != field) < 0.005


def test_image_without_border_is_all_field(random):
    fundus = fake_fundus(random, 60, 80)
    assert field_of_view(fundus).all()
    fundus[30:40, 0:20] = 0  # a dark vessel that reaches the image's border
    assert field_of_view(fundus).all()


def test_image_is_mirrored_at_the_border_of_the_field():
    """In one row: columns 0 to 29 are the field, 24 to 29 its rim; column 24 shows 22, 25 shows 21, and so on."""
    columns = np.arange(100, dtype=np.uint8)
    image = np.broadcast_to(columns, (40, 100))[..., np.newaxis]
    fov = np.broadcast_to(columns < 30, (40, 100))
    continued = continue_outside(image, fov)
    assert continued.shape == image.shape
    expected = np.where(columns < 24, columns, np.where(columns <= 46, 46 - columns.astype(int), 0))
    assert np.array_equal(continued[20, :, 0], expected)
    assert np.array_equal(continued, np.broadcast_to(continued[:1], continued.shape))


def test_image_without_border_or_field_is_continued_by_nothing(random):
    image = random.integers(0, 256, (30, 30, 3), dtype=np.uint8)
    for fov in (np.ones((30, 30), bool), np.zeros((30, 30), bool)):
        assert np.array_equal(continue_outside(image, fov), image)


def test_dark_image_has_no_field():
    assert not field_of_view(np.full((30, 30, 3), 5, np.uint8)).any()


def half_dark_pair(folder, random):
    """Paths of a pair whose right part the camera left nearly black."""
    fundus = fake_fundus(random, 100, 100)
    fundus[:, 60:] = 4
    Image.fromarray(fundus).save(folder / "fundus.png")
    Image.fromarray(fake_octa(fundus)).save(folder / "octa.png")
    return folder / "fundus.png", folder / "octa.png"


@pytest.mark.parametrize("fov_mask", [True, False])
def test_pair_has_its_pixels_and_its_field(tmp_path, random, fov_mask):
    pair = load_pair(*half_dark_pair(tmp_path, random), 1, fov_mask)
    assert (pair.fundus[:, 60:] == 4).all()
    assert (pair.octa[:, 60:] == 251).all()
    assert pair.fov[:, :60].all()
    assert pair.fov[:, 62:].any() != fov_mask  # a straight border is found to a pixel


def test_dark_photograph_is_refused(tmp_path, random):
    _, octa = half_dark_pair(tmp_path, random)
    Image.new("RGB", (100, 100)).save(tmp_path / "dark.png")
    with pytest.raises(dlm.DataError, match=r"dark\.png"):
        load_pair(tmp_path / "dark.png", octa, 1, True)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_picture_is_black_outside_the_field_except_its_alpha(random, channels):
    image = random.integers(1, 255, (8, 8, channels), dtype=np.uint8)
    fov = np.zeros((8, 8), bool)
    fov[:, :5] = True
    black = black_outside(image, fov)
    assert not black[~fov, :3].any()
    assert np.array_equal(black[fov], image[fov])
    assert np.array_equal(black[..., 3:], image[..., 3:])
    assert np.array_equal(black_outside(image[..., 0], fov), black[..., 0])


# --- patches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 96), (100, 32), (95, 129)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_patches_give_the_image_back(random, stride, size, channels):
    image = random.uniform(-1, 1, (*size, channels)).astype(np.float32)
    patches, label = dlm.break_img_to_patches(image, patch_size=(32, 32), stride=stride)
    expected = [int(np.ceil(stride * (side - 32) / 32)) + 1 for side in size]
    assert patches.shape == (expected[0] * expected[1], 32, 32, channels)
    assert label is None
    back = dlm.put_img_back_from_patches(iter(patches), size, stride)
    assert back.dtype == np.float32
    assert np.abs(back - image).max() <= 1e-6


def test_patches_need_not_be_square(random):
    image = random.uniform(0, 255, (70, 90, 2))
    patches, _ = dlm.break_img_to_patches(image, patch_size=(64, 32), stride=3)
    assert np.abs(dlm.put_img_back_from_patches(patches, image.shape, 3) - image).max() <= 1e-6


def test_grid_is_the_published_one():
    """Worked by hand for 400 px: ceil(2 * 144 / 256) + 1 = 3 steps, at 0, 128 and, shifted, 144; rows run fastest."""
    corners = patch_corners((400, 256), (256, 256), stride=2)
    assert corners.tolist() == [[0, 0], [128, 0], [144, 0]]
    assert patch_corners((300, 300), (256, 256)).tolist() == [[0, 0], [44, 0], [0, 44], [44, 44]]


def test_label_is_cut_like_the_image(random):
    image = random.integers(0, 255, (70, 80, 3), dtype=np.uint8)
    patches, labels = dlm.break_img_to_patches(image, image[..., :1], (64, 64), stride=2)
    assert patches.dtype == np.uint8
    assert np.array_equal(patches[..., :1], labels)
    with pytest.raises(ValueError, match="differ in size"):
        dlm.break_img_to_patches(image, image[:60], (64, 64))


def test_overlaps_are_blended_smoothly():
    """Two patches of constant 0 and 1 that overlap: their blend rises without a step."""
    patches = [np.zeros((32, 32, 1)), np.ones((32, 32, 1))]
    image = dlm.put_img_back_from_patches(patches, (48, 32), 2)[:, 0, 0]
    assert image[0] == 0
    assert image[-1] == 1
    assert np.all(np.diff(image) >= 0)
    assert np.diff(image).max() < 0.15


@pytest.mark.parametrize("number", [0, 3, 5])
def test_wrong_number_of_patches_is_refused(number):
    with pytest.raises(ValueError, match=f"{number} patches for an image of 64 x 64 px"):
        dlm.put_img_back_from_patches([np.zeros((32, 32, 1))] * number, (64, 64))


@pytest.mark.parametrize("stride", [0, -1, 1.5, 33])
def test_wrong_stride_is_refused(stride):
    with pytest.raises(ValueError, match="stride"):
        patch_corners((64, 64), (32, 32), stride)


def test_image_smaller_than_a_patch_is_refused_and_can_be_reflected():
    image = np.arange(12.0).reshape(3, 4, 1)
    with pytest.raises(ValueError, match="smaller than a patch"):
        dlm.break_img_to_patches(image, patch_size=(4, 4))
    assert reflect_to_multiple(image, 1) is image
    reflected = reflect_to_patch(image, (4, 9))
    assert reflected.shape == (4, 9, 1)
    assert np.array_equal(reflected[:3, :4], image)
    assert np.array_equal(reflected[3], reflected[1])


# --- patches -> the network's values ----------------------------------------------------------------------------------


def test_preprocessing_maps_bytes_to_minus_one_and_one():
    fundus, octa = dlm.preprocess_sample(tf.constant([0, 255], tf.uint8), np.uint8([51]))
    assert fundus.numpy().tolist() == [-1, 1]
    assert octa.numpy() == pytest.approx([-0.6])


# --- the check -------------------------------------------------------------------------------------------------------


def test_check_counts_images_pairs_sizes_and_black(root, capsys):
    for name in ("1_OD", "2_OS"):
        image = fake_fundus(np.random.default_rng(0), 100, 90)
        image[:25] = 0  # a quarter outside the field of view
        Image.fromarray(image).save(root / "cropped" / "fundus" / "disc" / f"{name}.png")
    (root / "cropped" / "Iternet" / "macula").mkdir(parents=True)
    Image.new("L", (9, 9)).save(root / "cropped" / "Iternet" / "macula" / "31_OD.png")
    assert dlm.main(["check", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[2:7]] == [
        ["images", "disc", "macula", "whole"],
        ["cropped/Iternet", "-", "1", "-"],
        ["cropped/fundus", "4", "-", "-"],
        ["cropped/octa", "4", "-", "-"],
        ["fov45/fundus", "-", "-", "1"],
    ]
    assert "pairs: train 2, validation 1, test 1, unused 0" in lines
    assert "sizes: 90 x 100 px (4)" in lines
    assert any(re.fullmatch(r"black background: 12\.\d% of a crop, from 0\.0% to 2[45]\.\d%", line) for line in lines)
    assert f"pix_pix_train.py --data {root}" in lines[-1]


def test_check_counts_photographs_that_show_the_whole_field(root, capsys):
    smooth = fake_fundus(np.random.default_rng(0), 200, 200)
    for name, centre, radius in (("1_OD", (100, 100), 90), ("2_OS", (100, 30), 150)):  # the second is a crop of a field
        round_one = np.uint8(smooth * disc(200, centre, radius)[..., np.newaxis])
        for kind in ("fundus", "octa"):
            Image.fromarray(round_one).save(root / "cropped" / kind / "disc" / f"{name}.png")
    assert dlm.main(["check", str(root)]) == 0
    assert "whole photographs: 1; if an OCT-A shows less of the eye, crop" in capsys.readouterr().out


def test_check_names_every_odd_file(root, capsys):
    fundus, octa = root / "cropped" / "fundus" / "disc", root / "cropped" / "octa" / "disc"
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


def test_check_names_an_odd_file_in_a_linked_folder(root, tmp_path, capsys):
    disc = root / "cropped" / "fundus" / "disc"
    disc.rename(tmp_path / "elsewhere")
    disc.symlink_to(tmp_path / "elsewhere")
    (disc / "notes.txt").write_text("x")
    assert dlm.main(["check", str(root)]) == 0
    assert f": 1\n  {disc / 'notes.txt'}\n" in capsys.readouterr().out


DAMAGES = {
    "26_OD.png": lambda root: (root / "cropped/octa/disc/26_OD.png").write_bytes(b""),
    "26_OD.jpg": lambda root: (root / "fov45/fundus/26_OD.jpg").write_bytes(b""),
    "disc/1_OD.png": lambda root: Image.new("RGB", (90, 100)).save(root / "cropped/fundus/disc/1_OD.png"),
    "2_OS.png": lambda root: Image.new("RGB", (9, 9)).save(root / "cropped/octa/disc/2_OS.png"),
    "1-25": lambda root: [path.unlink() for path in root.glob("cropped/octa/disc/[12]_*")],
    "1_OD.jpg": lambda root: Image.new("L", (9, 9)).save(root / "cropped/octa/disc/1_OD.jpg"),
}


@pytest.mark.parametrize("named", DAMAGES)
def test_check_fails_where_training_could_not_start(root, capsys, named):
    DAMAGES[named](root)
    assert dlm.main(["check", str(root)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("dataset_load_mod.py: error: ")
    assert named in error


def write_table_of_pairs(root, name, *rows):
    """A table with a subject for each (fundus, OCT-A, split) of disc images of the tiny data set; returns its path."""
    cells = (f"fundus/disc/{fundus},octa/disc/{octa},{fundus},{split}" for fundus, octa, split in rows)
    path = root / "cropped" / name
    path.write_text("\n".join(["fundus,octa,subject,split", *cells]))
    return path


def test_check_lists_each_mistake_of_a_table(root, capsys):
    path = write_table_of_pairs(root, "pairs.csv", ("1_OD.png", "no.png", "train"), ("2_OS.png", "2_OS.png", "x"))
    assert dlm.main(["check", str(path)]) == 2
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert first.startswith(f"dataset_load_mod.py: error: {path}: row 2: octa octa/disc/no.png: no such file")
    assert second.startswith(f"dataset_load_mod.py: error: {path}: row 3: split x: must be ")


def test_check_advises_to_fill_or_delete_an_empty_column_split(root, capsys):
    path = write_table_of_pairs(root, "pairs.csv", ("1_OD.png", "1_OD.png", ""))
    assert dlm.main(["check", str(path)]) == 2
    error = capsys.readouterr().err
    assert "by the table's column split; enter train in that column, or delete it to divide the subjects 80" in error
    assert "--train-subjects" not in error


def test_check_prints_a_command_that_a_shell_reads(root, capsys):
    path = write_table_of_pairs(root, "all pairs.csv", ("1_OD.png", "1_OD.png", "train"))
    assert dlm.main(["check", str(path)]) == 0
    assert shlex.split(capsys.readouterr().out.splitlines()[-1])[-2:] == ["--data", str(path)]


def test_check_names_columns_that_no_program_uses(root, capsys):
    path = write_table_of_pairs(root, "pairs.csv", ("1_OD.png", "1_OD.png", "train"))
    path.write_text(
        path.read_text().replace("subject,split", "Subject,split,age,px per mm").replace("train", "train,70,9")
    )
    assert dlm.main(["check", str(path)]) == 0
    assert "columns that are not used: age, px per mm\n" in capsys.readouterr().out


def test_check_names_no_column_of_a_table_that_has_only_known_ones(root, capsys):
    path = write_table_of_pairs(root, "pairs.csv", ("1_OD.png", "1_OD.png", "train"))
    assert dlm.main(["check", str(path)]) == 0
    assert "not used" not in capsys.readouterr().out


@pytest.mark.parametrize(("options", "named"), [([], "data/UT-FSOCTA-v1"), (["nowhere"], "nowhere")])
def test_check_without_data_is_refused(tmp_path, monkeypatch, refused, options, named):
    monkeypatch.chdir(tmp_path)
    assert named in refused(dlm, "check", *options)


def test_download_command_passes_on_its_options(root, monkeypatch, capsys):
    wanted = []
    monkeypatch.setattr(dlm, "download", lambda folder, archive: wanted.append((folder, archive)) or root)
    assert dlm.main(["download"]) == dlm.main(["download", "there", "--archive", "x.zip"]) == 0
    assert wanted == [(Path("data"), None), (Path("there"), Path("x.zip"))]


def test_download_command_refuses_another_archive(tmp_path, refused):
    (tmp_path / "x.zip").write_bytes(b"another archive")
    assert str(tmp_path / "x.zip") in refused(
        dlm, "download", str(tmp_path / "data"), "--archive", str(tmp_path / "x.zip")
    )
