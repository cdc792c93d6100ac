"""Tests of the sample retinas: the set on disk, anatomy and pictures, the endless training pairs, the command line."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter

import phantom_retina
from phantom_retina import (
    CROP_MM,
    CROP_PX,
    DEFAULT_SUBJECTS,
    crop_window,
    draw_pair,
    main,
    make_eye,
    parse_subjects,
    render_crop,
    render_full_field,
    write_dataset,
)
from phantom_trees import MURRAY_EXPONENT, Tree, Window, rasterise

SUBJECTS = (1, 2, 5, 8)


@pytest.fixture(scope="module")
def eyes():
    return {subject: make_eye(subject, "OD" if subject % 2 else "OS", seed=3) for subject in SUBJECTS}


@pytest.fixture(scope="module")
def crops(eyes):
    return {(subject, region): render_crop(eyes[subject], region) for subject in SUBJECTS for region in CROP_MM}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    output = tmp_path_factory.mktemp("data") / "phantom"
    write_dataset(output, [1, 2], seed=3, progress=False)
    return output


def test_layout_and_names_are_those_of_the_deposit(dataset):
    names = {path.relative_to(dataset).as_posix() for path in dataset.rglob("*") if path.is_file()}
    crops = {
        f"cropped/{kind}/{region}/{name}.png"
        for kind in ("fundus", "octa", "truth")
        for region in ("disc", "macula")
        for name in ("1_OD", "2_OS")
    }
    assert names == crops | {"fov45/fundus/1_OD.jpg", "fov45/fundus/2_OS.jpg"}
    assert [path.name for path in dataset.parent.iterdir()] == [dataset.name]  # no temporary folder beside it


@pytest.mark.parametrize("region", ["disc", "macula"])
def test_files_have_the_deposit_s_sizes_and_modes(dataset, region):
    for kind, mode in (("fundus", "RGB"), ("octa", "RGBA"), ("truth", "L")):
        with Image.open(dataset / "cropped" / kind / region / "1_OD.png") as image:
            assert (image.mode, image.size) == (mode, (CROP_PX, CROP_PX))
            pixels = np.asarray(image)
        if kind == "octa":
            assert (pixels[..., 3] == 255).all()
        if kind == "truth":
            assert set(np.unique(pixels)) == {0, 255}
    with Image.open(dataset / "fov45" / "fundus" / "1_OD.jpg") as image:
        assert image.mode == "RGB"
        assert image.size[0] == image.size[1] >= 800


def test_files_hold_the_pictures_of_the_eye(dataset, crops):
    for kind in ("fundus", "octa", "truth"):
        written = np.asarray(Image.open(dataset / "cropped" / kind / "macula" / "2_OS.png"))
        np.testing.assert_array_equal(written, getattr(crops[2, "macula"], kind))


def test_same_seed_gives_the_same_bytes_whatever_else_is_made(dataset, tmp_path):
    write_dataset(tmp_path / "again", [2], seed=3, progress=False)
    for path in (tmp_path / "again").rglob("*_OS.*"):
        assert path.read_bytes() == (dataset / path.relative_to(tmp_path / "again")).read_bytes(), path.name


def test_seed_subject_eye_and_region_each_change_the_picture(crops):
    reference = crops[1, "disc"].truth
    others = [
        render_crop(make_eye(1, "OD", seed=4), "disc").truth,
        crops[5, "disc"].truth,
        render_crop(make_eye(1, "OS", seed=3), "disc").truth[:, ::-1],
        crops[1, "macula"].truth,
    ]
    for other in others:
        assert (other != reference).mean() > 0.05


def _vessels_and_surroundings(crop):
    """Masks of the true vessels and of what lies around them, both inside the round field."""
    vessel = crop.truth > 0
    field = ~binary_dilation(crop.fundus.max(axis=-1) < 12, iterations=12)
    around = binary_dilation(vessel, iterations=6) & ~binary_dilation(vessel, iterations=2)
    return vessel & field, around & field


@pytest.mark.parametrize("region", ["disc", "macula"])
@pytest.mark.parametrize("subject", SUBJECTS)
def test_true_vessels_are_dark_in_the_fundus_and_bright_in_octa(crops, subject, region):
    crop = crops[subject, region]
    vessel, around = _vessels_and_surroundings(crop)
    assert vessel.sum() > 800
    green, scan = crop.fundus[..., 1].astype(float), crop.octa[..., 0].astype(float)
    assert green[vessel].mean() < 0.95 * green[around].mean()
    assert scan[vessel].mean() > scan[around].mean() + 60


def test_a_vessel_map_one_third_of_a_millimetre_off_does_not_fit(crops):
    # Guards the test above: the contrast comes from the vessels' places, not from where the map is dense.
    crop = crops[1, "disc"]
    vessel, around = _vessels_and_surroundings(crop)
    green = np.roll(crop.fundus[..., 1].astype(float), 30, axis=0)
    fit = crop.fundus[..., 1][around].mean() - crop.fundus[..., 1][vessel].mean()
    misfit = green[around].mean() - green[vessel].mean()
    assert misfit < 0.4 * fit


@pytest.mark.parametrize("subject", SUBJECTS)
def test_foveal_avascular_zone_is_dark_and_free_of_vessels(eyes, crops, subject):
    eye, crop = eyes[subject], crops[subject, "macula"]
    distance = abs(crop_window(eye, "macula").points())
    assert 0.2 <= eye.faz_radius <= 0.3
    zone = distance < 0.75 * eye.faz_radius
    ring = (distance > 1.5 * eye.faz_radius) & (distance < 4 * eye.faz_radius)
    assert not crop.truth[distance < eye.faz_radius].any()
    assert crop.octa[..., 0][zone].mean() < 0.5 * crop.octa[..., 0][ring].mean()
    assert crop.fundus[..., 1][zone].mean() < crop.fundus[..., 1][distance > 2.5].mean()


def test_no_vessel_enters_the_foveal_avascular_zone(eyes):
    for eye in eyes.values():
        for tree in (eye.arteries, eye.veins):
            assert abs(tree.points).min() > eye.faz_radius


@pytest.mark.parametrize(("name", "side"), [("OD", 1), ("OS", -1)])
def test_disc_lies_to_the_nasal_side(name, side):
    eye = make_eye(4, name, seed=0)
    assert 4.3 < side * eye.disc.real < 5.0
    photograph = render_full_field(eye).astype(float)
    assert photograph.shape[0] == photograph.shape[1]
    assert photograph.shape[2] == 3
    column = photograph.sum(axis=2)[:, :].max(axis=0).argmax()
    assert side * (column - photograph.shape[1] / 2) > 0.15 * photograph.shape[1]
    assert photograph[:20, :20].max() < 12  # black outside the round field


@pytest.mark.parametrize("kind", ["arteries", "veins"])
def test_branchings_obey_murray_s_law(eyes, kind):
    for eye in eyes.values():
        tree = getattr(eye, kind)
        first = np.flatnonzero(np.diff(tree.branch, prepend=-1))
        last = np.append(first[1:], tree.branch.size) - 1
        forks = np.unique(tree.parent[tree.parent >= 0])
        assert forks.size > 100
        for parent in forks:
            sisters = np.flatnonzero(tree.parent == parent)
            assert sisters.size == 2
            np.testing.assert_allclose(tree.points[first[sisters]], tree.points[last[parent]])
            summed = (tree.radii[first[sisters]] ** MURRAY_EXPONENT).sum()
            np.testing.assert_allclose(summed, tree.radii[last[parent]] ** MURRAY_EXPONENT, rtol=1e-9)


@pytest.mark.parametrize("kind", ["arteries", "veins"])
def test_branches_taper_and_are_unbroken(eyes, kind):
    tree = getattr(eyes[1], kind)
    same = tree.branch[1:] == tree.branch[:-1]
    assert (np.diff(tree.radii)[same] <= 0).all()
    assert abs(np.diff(tree.points))[same].max() < 0.051


def test_vessels_fill_the_whole_field(eyes):
    for eye in eyes.values():
        points = np.concatenate([eye.arteries.points, eye.veins.points]) - eye.field_centre
        points = points[abs(points) < eye.field_radius]
        quarters = np.unique(np.sign(points.real) + 3 * np.sign(points.imag), return_counts=True)[1]
        assert quarters.size == 4
        assert quarters.min() > 0.07 * points.size


def test_veins_are_wider_than_arteries(eyes):
    widest = np.array([[eye.arteries.radii.max(), eye.veins.radii.max()] for eye in eyes.values()])
    assert (widest[:, 1] > widest[:, 0]).all()
    assert (2 * widest > 0.1).all()
    assert (2 * widest < 0.23).all()


def test_rasterised_width_is_the_vessel_s(eyes):
    tree = Tree(
        np.array([-1, 1], complex), np.full(2, 0.06), np.zeros(2, int), np.array([-1])
    )  # 120 um wide, level, through the middle
    window = Window(0j, 1.0, 100)
    vessels = rasterise(tree, window)
    assert vessels.coverage[:, 50].sum() == pytest.approx(12, abs=0.3)
    assert vessels.thickness.max() == pytest.approx(12, abs=0.3)
    assert not rasterise(tree, window, max_width_mm=0.1).coverage.any()


def test_thin_vessels_leave_no_gaps_and_take_light_by_their_own_width():
    diagonal = Tree(np.array([-0.5 - 0.31j, 0.5 + 0.31j]), np.full(2, 0.002), np.zeros(2, int), np.array([-1]))
    vessels = rasterise(diagonal, Window(0j, 1.0, 100))  # 0.4 px wide
    assert (vessels.depth > 0).any(axis=0).all()
    assert vessels.radius.max() == pytest.approx(0.2)
    assert 0 < vessels.thickness.max() < 0.4


# ------------------------------------------------------------------------------------------------------ training pairs


@pytest.fixture(scope="module")
def pairs():
    return [draw_pair(7, number) for number in range(40)]


def test_a_pair_follows_from_seed_and_number_alone(pairs):
    phantom_retina._training_anatomy.cache_clear()
    for number in (9, 0, 8):  # another order, another tree between, nothing in memory
        for again, before in zip(draw_pair(7, number), pairs[number], strict=True):
            np.testing.assert_array_equal(again, before)
    assert (draw_pair(8, 0)[0] != pairs[0][0]).mean() > 0.2
    assert (pairs[1][0] != pairs[0][0]).mean() > 0.2  # they share a tree, and nothing else


def test_pairs_have_their_shapes_types_and_black_surroundings(pairs):
    for fundus, octa, fov in [*pairs, draw_pair(7, 3, pixels=130)]:
        pixels = len(fov)
        assert (fundus.shape, octa.shape, fov.shape) == ((pixels, pixels, 3), (pixels, pixels, 1), (pixels, pixels))
        assert (fundus.dtype, octa.dtype, fov.dtype) == (np.uint8, np.uint8, bool)
        assert fov.mean() > 0.1
        assert fundus[~fov].max(initial=0) <= phantom_retina.OUTSIDE_LIMIT
        assert octa[~fov].max(initial=0) == 0
        assert fundus[fov].max() > 60
        assert octa[fov].max() > 150


def test_pairs_vary_as_photographs_do(pairs):
    eyes = [phantom_retina.make_training_eye(7, number, 400) for number in range(len(pairs))]
    scale = np.array([window.px_per_mm for _, window in eyes])
    assert scale.min() < 45
    assert scale.max() > 100
    assert 0.4 < np.mean([not fov.all() for *_, fov in pairs]) < 0.8  # the border shows
    colour = np.array([fundus[fov].mean(axis=0) for fundus, _, fov in pairs])
    assert np.ptp(colour[:, 0]) > 80  # brightness
    assert np.ptp(colour[:, 1] / colour[:, 0]) > 0.25  # orange-red to greenish
    assert np.ptp(colour[:, 2] / colour[:, 1]) > 0.35
    distance = np.array([abs(eye.disc - window.centre) / window.side_mm for eye, window in eyes])
    assert (distance < 0.5).mean() > 0.25  # the disc within the picture, or far outside
    assert (distance > 0.8).mean() > 0.1
    assert len(set().union(*(eye.has for eye, _ in eyes))) > 10


def test_octa_is_bright_where_the_fundus_has_vessels_and_nowhere_else(monkeypatch):
    plain = dict.fromkeys(phantom_retina.TRAINING_SHARE, 0.0)
    monkeypatch.setattr(phantom_retina, "TRAINING_SHARE", plain)
    clear = {"dip": (0.4, 0.5), "veil": (0, 0), "noise": (0.003, 0.005), "blur_px": (0.5, 0.8), "choroid": (0.2, 0.4)}
    clear |= {"tessellation": (0, 0), "gleam": (0, 0), "exposure": (0.5, 0.6), "artery_dip": (0.8, 1.0)}
    monkeypatch.setattr(phantom_retina, "TRAINING_LOOK", phantom_retina.TRAINING_LOOK | clear)
    right, wrong = [], []
    for number in range(6):
        fundus, octa, _ = draw_pair(3, number)
        green = gaussian_filter(fundus[..., 1].astype(float), 1.5)
        dark = 1 - green / gaussian_filter(green, 12)
        bright = gaussian_filter(octa[..., 0].astype(float), 1.5)
        right.append(np.corrcoef(dark.ravel(), bright.ravel())[0, 1])
        wrong.append(np.corrcoef(np.roll(dark, 40, axis=0).ravel(), bright.ravel())[0, 1])
    assert np.mean(right) > 0.25
    assert min(right) > 0.1
    assert abs(np.mean(wrong)) < 0.1


def test_lesions_show_in_the_fundus_alone(monkeypatch):
    plain = dict.fromkeys(phantom_retina.TRAINING_SHARE, 0.0)
    monkeypatch.setattr(phantom_retina, "TRAINING_SHARE", plain)
    fundus, octa, fov = draw_pair(3, 0)
    for name in phantom_retina.MARKS:
        monkeypatch.setattr(phantom_retina, "TRAINING_SHARE", plain | {name: 1.0})
        with_lesions, same_octa, same_fov = draw_pair(3, 0)
        assert (with_lesions != fundus).any(), name
        np.testing.assert_array_equal(same_octa, octa)
        np.testing.assert_array_equal(same_fov, fov)


@pytest.mark.parametrize("name", [name for name, (low, _) in phantom_retina.TRAINING_LOOK.items() if low <= 0])
def test_an_ingredient_can_be_left_out_without_changing_the_octa(name, monkeypatch):
    octa = draw_pair(3, 1, pixels=64)[1]
    monkeypatch.setitem(phantom_retina.TRAINING_LOOK, name, (0, 0))
    fundus, same_octa, _ = draw_pair(3, 1, pixels=64)
    assert fundus.any()
    np.testing.assert_array_equal(same_octa, octa)


@pytest.mark.parametrize(("seed", "number", "pixels"), [(-1, 0, 400), (0, -1, 400), (0, 0, 31)])
def test_impossible_pairs_are_refused(seed, number, pixels):
    with pytest.raises(ValueError, match="must be at least 0 and pixels at least 32"):
        draw_pair(seed, number, pixels)


# ---------------------------------------------------------------------------------------------------- set and commands


def test_subject_lists():
    assert parse_subjects("1,3-5") == [1, 3, 4, 5]
    assert parse_subjects(" 7 , 2 - 3 ,2, 112") == [2, 3, 7, 112]
    default = parse_subjects(DEFAULT_SUBJECTS)
    assert len(default) >= 12
    assert any(subject <= 25 for subject in default)
    assert any(26 <= subject <= 30 for subject in default)
    assert any(subject >= 31 for subject in default)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a",
        "5-3",
        "1,,2",
        "0",
        "-3",
        "1.5",
        "1-",
        "1 2",
        "1-2-3",
        "0-4",
        "٣",
        "1-100001",
        "1-99999,200000-200009",
        "1-99999999999",
    ],
)
def test_bad_subject_lists_are_refused_in_one_line(text):
    with pytest.raises(ValueError, match=re.escape(repr(text))) as error:
        parse_subjects(text)
    message = str(error.value)
    assert "1-12,26,31-36" in message
    assert "\n" not in message


@pytest.mark.parametrize(("subject", "eye", "seed"), [(1, "left", 0), (0, "OD", 0), (1, "OD", -1)])
def test_impossible_eyes_are_refused(subject, eye, seed):
    with pytest.raises(ValueError, match="must be"):
        make_eye(subject, eye, seed)


def test_unknown_region_is_refused(eyes):
    with pytest.raises(ValueError, match="disc or macula"):
        render_crop(eyes[1], "fovea")


def test_a_failed_set_leaves_nothing_behind(tmp_path, monkeypatch):
    finished = []

    def fail_at_the_second(eye):
        if finished:
            raise RuntimeError("out of light")
        finished.append(eye)
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(phantom_retina, "render_full_field", fail_at_the_second)
    with pytest.raises(RuntimeError, match="out of light"):
        write_dataset(tmp_path / "phantom", [1, 2], progress=False)
    assert finished
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_holds_something_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        write_dataset(tmp_path, [1], progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom_retina, "_write_eye", lambda folder, subject, seed: (folder / "eye").write_text("x"))
    output = tmp_path / "phantom"
    output.mkdir()
    write_dataset(output, [1], progress=False)
    assert (output / "eye").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["phantom"]


def test_no_subjects_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no subjects"):
        write_dataset(tmp_path / "phantom", [], progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--output"),
        (["--output", "x", "--subjects", "5-3"], "--subjects"),
        (["--output", "x", "--subjects", ""], "--subjects"),
        (["--output", "x", "--seed", "-1"], "--seed"),
        (["--output", "x", "--seed", "1.5"], "--seed"),
        (["--preview", "x.jpeg"], "--preview"),
        (["--preview-drawn", "."], "--preview-drawn"),
        (["--outputs", "x"], "--output"),
    ],
)
def test_bad_options_end_with_one_line_and_status_2(arguments, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _assert_refused(arguments, named, capsys)
    assert list(tmp_path.iterdir()) == []


def test_bad_places_end_with_one_line_and_status_2(capsys, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("a file")
    _assert_refused(["--output", str(taken)], "--output", capsys)
    _assert_refused(["--output", str(taken / "phantom"), "--subjects", "1"], "--output", capsys)
    _assert_refused(["--preview", str(taken / "sheet.png"), "--subjects", "1"], "--preview", capsys)
    _assert_refused(["--output", str(tmp_path / "new"), "--preview", str(taken / "a.png")], "--preview", capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    assert taken.read_text() == "a file"


def _assert_refused(arguments, named, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("phantom_retina.py: error: ")
    assert printed.err.count("\n") == 1
    assert named in printed.err


def test_preview_alone_writes_one_picture(tmp_path):
    preview = tmp_path / "sheets" / "preview.png"
    assert main(["--preview", str(preview), "--subjects", "2"]) == 0
    with Image.open(preview) as sheet:
        assert sheet.size == (7 * phantom_retina.PREVIEW_TILE_PX, phantom_retina.PREVIEW_TILE_PX)
        assert np.asarray(sheet).std() > 20
    assert [path.name for path in preview.parent.iterdir()] == ["preview.png"]


def test_preview_of_drawn_retinas(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom_retina, "PREVIEW_DRAWN", (1, 2))
    assert main(["--preview-drawn", str(tmp_path / "drawn.png"), "--seed", "3"]) == 0
    side = phantom_retina.PREVIEW_TILE_PX
    with Image.open(tmp_path / "drawn.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (2 * side, 2 * side, 3)
    assert np.ptp(pixels[side:], axis=-1).max() == 0  # OCT-A, below, is grey
    octa = phantom_retina.draw_pair(3, phantom_retina.TREE_SHARED_BY)[1]
    assert pixels[side:, side:].mean() == pytest.approx(octa.mean(), abs=1)


def test_output_and_preview_together(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(phantom_retina, "write_dataset", lambda output, subjects, seed: made.append((subjects, seed)))
    monkeypatch.setattr(phantom_retina, "contact_sheet", lambda subjects, seed: Image.new("RGB", (4, 4)))
    assert main(["--output", str(tmp_path / "a"), "--preview", str(tmp_path / "b.png"), "--seed", "9"]) == 0
    assert made == [(parse_subjects(DEFAULT_SUBJECTS), 9)]
    assert Path(tmp_path / "b.png").is_file()


# --- the stream ------------------------------------------------------------------------------------------------------


def test_stream_is_the_same_for_any_number_of_workers():
    first = 2 * phantom_retina.TREE_SHARED_BY
    streams = [phantom_retina.stream(3, first, workers) for workers in (1, 2)]
    for number in range(first, first + 10):
        fundus, octa, fov = phantom_retina.draw_pair(3, number)
        for stream in streams:
            drawn = next(stream)
            assert np.array_equal(drawn, np.dstack([fundus, octa, fov]))
    for stream in streams:
        stream.close()


def test_workers_end_with_the_stream():
    stream = phantom_retina.stream(0, 0, 2)
    next(stream)
    workers = stream.gi_frame.f_locals["processes"]
    assert all(worker.poll() is None for worker in workers)
    stream.close()
    assert all(worker.poll() is not None for worker in workers)


def test_worker_that_ends_is_an_error(monkeypatch):
    monkeypatch.setattr(phantom_retina.sys, "executable", "/bin/false")
    with pytest.raises(OSError, match="draws sample retinas has ended"):
        next(phantom_retina.stream(0, 0, 1))
