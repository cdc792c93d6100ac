"""Simulated retinas: anatomy and pictures, the set on disk, the endless stream, the command line."""

from contextlib import closing
from subprocess import Popen

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

import simulate_retinas
from basics.command_line import VERSION
from retina.images import continue_outside
from retina.ut_fsocta import REGIONS
from simulation import ranges
from simulation import stream as stream_module
from simulation.dataset import eye_of, render_crop, render_full_field, write_dataset
from simulation.eye import TREE_SHARED_BY, _stream_anatomy, crop_window, make_eye, make_stream_eye
from simulation.fundus import OUTSIDE_LIMIT
from simulation.stream import drawn_vessels, seen_vessels, simulated_pair, stream
from simulation.trees import MURRAY_EXPONENT, Tree, Vessels, Window, rasterise

SUBJECTS = (1, 2, 5)
SIDE = 200  # px of the stream's pairs: faster than 400


@pytest.fixture(scope="module")
def eyes():
    return {subject: make_eye(subject, eye_of(subject), seed=3) for subject in SUBJECTS}


@pytest.fixture(scope="module")
def crops(eyes):
    return {(subject, region): render_crop(eyes[subject], region) for subject in SUBJECTS for region in REGIONS}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    output = tmp_path_factory.mktemp("data") / "simulated"
    write_dataset(output, [1, 2], seed=3)
    return output


@pytest.fixture(scope="module")
def pairs():
    return [simulated_pair(7, number, SIDE) for number in range(20)]


def test_files_have_ut_fsocta_s_names_modes_and_sizes(written):
    modes = {"fundus": ("RGB", 400), "octa": ("RGBA", 400), "truth": ("L", 400), "fov45": ("RGB", 1000)}
    found = set()
    for path in written.rglob("*_*.*"):
        found.add(path.relative_to(written).as_posix())
        with Image.open(path) as image:
            assert (image.mode, image.width, image.height) == (*(of := modes[path.parts[-3]]), of[1])
    crops = {f"cropped/{kind}/{place}" for kind in ("fundus", "octa", "truth") for place in REGIONS}
    expected = [{f"fov45/fundus/{eye}.jpg", *(f"{folder}/{eye}.png" for folder in crops)} for eye in ("1_OD", "2_OS")]
    assert found == set.union(*expected)


def test_set_states_that_it_is_simulated_and_contains_the_pictures_of_the_eyes(written, crops):
    note = (written / "SIMULATED.txt").read_text()
    assert all(part in note for part in ("Simulated retinas", "seed 3", VERSION))
    for kind, pixels in crops[2, "macula"].items():
        np.testing.assert_array_equal(Image.open(written / "cropped" / kind / "macula" / "2_OS.png"), pixels)


def test_seed_subject_eye_and_region_each_change_the_picture(crops):
    another_seed = render_crop(make_eye(1, "OD", seed=4), "disc")["truth"]
    another_eye = render_crop(make_eye(1, "OS", seed=3), "disc")["truth"][:, ::-1]
    for other in (another_seed, another_eye, crops[5, "disc"]["truth"], crops[1, "macula"]["truth"]):
        assert (other != crops[1, "disc"]["truth"]).mean() > 0.05


def test_a_failed_set_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="negative"):  # from the second subject
        write_dataset(tmp_path / "simulated", [1, -1])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_refused_and_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match=str(tmp_path)):
        write_dataset(tmp_path, [1])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_ground_truth_vessels_are_dark_in_the_fundus_and_bright_in_octa(crops, subject, region):
    crop = crops[subject, region]
    field = ~binary_dilation(crop["fundus"].max(axis=-1) < 12, iterations=12)
    vessel = (crop["truth"] > 0) & field
    around = binary_dilation(vessel, iterations=6) & ~binary_dilation(vessel, iterations=2) & field
    green, scan = crop["fundus"][..., 1].astype(float), crop["octa"][..., 0].astype(float)
    assert vessel.sum() > 800
    assert green[vessel].mean() < 0.95 * green[around].mean()
    assert scan[vessel].mean() > scan[around].mean() + 60
    assert set(np.unique(crop["truth"])) == {0, 255}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_foveal_avascular_zone_is_dark_and_free_of_vessels(eyes, crops, subject):
    eye, crop = eyes[subject], crops[subject, "macula"]
    distance = abs(crop_window(eye, "macula").points())
    zone = distance < 0.75 * eye.faz_radius
    ring = (distance > 1.5 * eye.faz_radius) & (distance < 4 * eye.faz_radius)
    assert 0.2 <= eye.faz_radius <= 0.3
    assert not crop["truth"][distance < eye.faz_radius].any()
    assert crop["octa"][..., 0][zone].mean() < 0.5 * crop["octa"][..., 0][ring].mean()
    assert crop["fundus"][..., 1][zone].mean() < crop["fundus"][..., 1][distance > 2.5].mean()


@pytest.mark.parametrize(("name", "side"), [("OD", 1), ("OS", -1)])
def test_disc_lies_on_the_nasal_side_of_a_round_field(name, side):
    eye = make_eye(4, name, seed=0)
    assert 4.3 < side * eye.disc.real < 5.0
    brightness = render_full_field(eye).sum(axis=-1, dtype=int)
    assert side * (brightness.max(axis=0).argmax() - 500) > 150
    assert brightness[:20, :20].max() < 36  # black outside the field


@pytest.mark.parametrize("kind", ["artery", "vein"])
def test_trees_are_unbroken_taper_and_obey_murray_s_law(eyes, kind):
    tree = eyes[1].trees[kind]
    same = tree.branch[1:] == tree.branch[:-1]
    assert (np.diff(tree.radii)[same] <= 0).all()
    assert abs(np.diff(tree.points))[same].max() < 0.051
    first = np.flatnonzero(np.diff(tree.branch, prepend=-1))
    last = np.append(first[1:], tree.branch.size) - 1
    forks, sisters = np.nonzero(tree.points[last, np.newaxis] == tree.points[first])  # of each parent, its branches
    parents, count = np.unique(forks, return_counts=True)
    assert len(parents) > 100
    assert (count == 2).all()
    summed = (tree.radii[first[sisters]] ** MURRAY_EXPONENT).reshape(-1, 2).sum(axis=1)
    np.testing.assert_allclose(summed, tree.radii[last[parents]] ** MURRAY_EXPONENT, rtol=1e-9)


def test_rasterised_vessel_has_its_width_and_thickness():
    tree = Tree(np.array([-1, 1], complex), np.full(2, 0.06), np.zeros(2, int))  # 120 um wide, level
    vessels = rasterise(tree, Window(0j, 1.0, 100))
    assert vessels.coverage[:, 50].sum() == pytest.approx(12, abs=0.3)
    assert vessels.thickness.max() == pytest.approx(12, abs=0.3)
    assert not rasterise(tree, Window(0j, 1.0, 100), max_width_mm=0.1).coverage.any()


@pytest.mark.parametrize("number", [9, 0, 8])  # another order, another tree between
def test_a_pair_depends_on_seed_and_number_only(pairs, number):
    _stream_anatomy.cache_clear()
    assert all(map(np.array_equal, simulated_pair(7, number, SIDE), pairs[number]))


@pytest.mark.parametrize(("seed", "number"), [(8, 0), (7, 1)])  # another seed; another number, the same tree
def test_seed_and_number_each_change_the_pair(pairs, seed, number):
    assert (simulated_pair(seed, number, SIDE)[0] != pairs[0][0]).mean() > 0.2


def test_pairs_are_bright_in_the_field_and_dark_outside(pairs):
    for number, (fundus, octa, drawn, fov) in enumerate(pairs):
        images = (fundus, octa, drawn, fov)
        assert [image.shape for image in images] == [(SIDE, SIDE, 3), *[(SIDE, SIDE, 1)] * 2, (SIDE, SIDE)]
        assert [image.dtype for image in images] == [np.uint8, np.uint8, np.uint8, bool]
        eye = make_stream_eye(7, number, SIDE)[0]
        black = eye["surround"] <= 0 and eye["found_px"] <= 0
        assert fov.mean() > 0.1
        assert fundus[fov].max() > 60
        assert octa[fov].max() > 150
        assert fundus[~fov].max(initial=0) <= (OUTSIDE_LIMIT if black else 80)
        assert octa[~fov].max(initial=0) == 0


def test_drawn_vessels_are_bright_in_the_octa(pairs):
    octa, drawn, fov = (np.array([pair[place] for pair in pairs]) for place in (1, 2, 3))
    assert octa[fov & (drawn[..., 0] > 250)].mean() > 1.3 * octa[fov & (drawn[..., 0] == 0)].mean()


@pytest.mark.parametrize(
    ("contrast", "noise", "brightness", "veil", "seen"),
    [
        (0.2, 0.0, 120, -0.8, 1),
        (0.2, 0.035, 120, 0.0, 1),
        (0.2, 0.035, 12, 0.0, 0),
        (0.03, 0.035, 120, 0.0, 0),
        (0.01, 0.0, 120, 0.0, 0),
        (0.2, 0.0, 120, 0.95, 0),
    ],
)
def test_faint_vessels_are_not_seen_in_noise_darkness_or_haze(contrast, noise, brightness, veil, seen):
    eye = {"noise": noise, "texture": 0.0, "blur_px": 1.0, "enlargement": 1.0, "veil": veil}
    lost = np.zeros((40, 40), np.float32)
    lost[18:22] = contrast
    found = seen_vessels(eye, np.full((40, 40, 3), brightness, np.uint8), lost)
    assert found[20, 20] == seen
    assert found[0].max() == 0


@pytest.mark.parametrize(("width_mm", "drawn"), [(0.0099, 0), (0.015, 0.5), (0.0201, 1)])
def test_thin_vessels_are_not_drawn_and_wide_ones_by_their_coverage(width_mm, drawn):
    coverage, px_per_mm = np.linspace(0, 1, 5), 80
    vessels = Vessels(coverage - 0.5, coverage, np.full(5, width_mm / 2 * px_per_mm))
    np.testing.assert_allclose(drawn_vessels(vessels, px_per_mm), drawn * coverage)


@pytest.fixture
def plain(monkeypatch):
    """The stream without any of its features."""
    monkeypatch.setattr(ranges, "STREAM_SHARE", dict.fromkeys(ranges.STREAM_SHARE, 0.0))


@pytest.mark.parametrize("name", [*ranges.LESIONS, "plaques"])
def test_lesions_show_in_the_fundus_but_not_in_the_octa(name, monkeypatch, plain):
    fundus, octa, _, fov = simulated_pair(3, 0, SIDE)
    monkeypatch.setitem(ranges.STREAM_SHARE, name, 1.0)
    with_lesions, same_octa, _, same_fov = simulated_pair(3, 0, SIDE)
    assert (with_lesions != fundus).any()
    assert np.array_equal(same_octa, octa)
    assert np.array_equal(same_fov, fov)


@pytest.mark.parametrize("name", [name for name, (low, _) in ranges.STREAM_APPEARANCE.items() if low <= 0])
def test_leaving_an_ingredient_out_does_not_change_the_octa(name, monkeypatch):
    octa = simulated_pair(3, 1, pixels=64)[1]
    monkeypatch.setitem(ranges.STREAM_APPEARANCE, name, (0, 0))
    np.testing.assert_array_equal(simulated_pair(3, 1, pixels=64)[1], octa)


@pytest.fixture
def workers(monkeypatch):
    """The processes that streams start."""
    started = []
    monkeypatch.setattr(stream_module, "Popen", lambda *args, **how: started.append(Popen(*args, **how)) or started[-1])
    return started


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_stream_equals_its_pairs_for_any_number_of_workers(count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # workers find the package from any folder
    first = 2 * TREE_SHARED_BY
    pairs = stream(3, first, count)
    for number, pair in zip(range(first, first + 2 * TREE_SHARED_BY + 1), pairs, strict=False):
        if number % TREE_SHARED_BY == 0:
            *images, fov = simulated_pair(3, number)
            np.testing.assert_array_equal(pair, continue_outside(np.dstack(images), fov))
    pairs.close()


@pytest.mark.slow
def test_stream_continues_retinas_beyond_the_border_of_the_field():
    with closing(stream(0, 0, 1)) as pairs:
        both = ((pair, *simulated_pair(0, number)) for number, pair in enumerate(pairs))
        pair, fundus, _, _, fov = next(images for images in both if images[-1].mean() < 0.9)
    assert np.mean(pair[fov, :3] == fundus[fov]) > 0.9  # all but the rim
    assert np.mean(pair[~fov].max(axis=-1) > 20) > 0.9


def test_a_worker_that_dies_ends_the_stream(workers):
    pairs = stream(0, 0, 1)
    next(pairs)
    workers[0].kill()
    with pytest.raises(OSError, match=stream_module.WORKER_ENDED):
        list(pairs)


@pytest.mark.parametrize(
    ("options", "named"),
    [("", "--output"), ("--output x --seed -1", "--seed"), ("--output x --subjects 1-", "--subjects")],
)
def test_errors_leave_nothing_behind(options, named, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named in refused(simulate_retinas, *options.split())
    assert list(tmp_path.iterdir()) == []


def test_a_subject_s_files_depend_on_the_seed_only_and_fill_an_empty_folder(tmp_path, written):
    (tmp_path / "set").mkdir()
    assert simulate_retinas.main(["--output", str(tmp_path / "set"), "--subjects", "2", "--seed", "3"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    files = [path.relative_to(tmp_path / "set") for path in (tmp_path / "set").rglob("*.*")]
    assert {file.stem for file in files} == {"2_OS", "SIMULATED"}
    assert all((tmp_path / "set" / file).read_bytes() == (written / file).read_bytes() for file in files)
