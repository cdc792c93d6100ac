"""The cropping program: what is written, kept, named and refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SeesVessels, files_below, lines
from PIL import Image

import alignment.crop as program
import dataset_load_mod
from basics.files import read_table, write_table
from pairs.dataset import is_simulated
from pairs.table import read_pairs
from retina.images import photo_digest, read_fundus, read_image
from run.checkpoints import write_run
from run.settings import Settings

SIDE = 250
AREA = slice(60, 190)  # rows and columns of the photograph that the OCT-A shows
PX_PER_MM = 2 * 115 / program.FIELD_MM
OCTA_MM = 130 / PX_PER_MM


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(image)).save(path)


def write_eye(folder, seed, name):
    """A round photograph whose vessels are dark, and an OCT-A of its middle."""
    vessels = lines(seed, SIDE, spacing=7)
    fundus = np.dstack([np.full((SIDE, SIDE), 200), 150 - 100 * vessels, np.full((SIDE, SIDE), 60)])
    rows, columns = np.indices((SIDE, SIDE)) - SIDE / 2
    save(fundus * (np.hypot(rows, columns) < 115)[..., np.newaxis], folder / "photos" / f"{name}.png")
    save(30 + 200 * vessels[AREA, AREA], folder / "octa" / f"{name}.tif")


def pair(photo, octa=None, **others):
    """A row of a table of pairs."""
    return {"fundus": f"photos/{photo}.png", "octa": f"octa/{octa or photo}.tif"} | others


def write_pairs(*rows):
    rows = [row | {"subject": f"s{number}", "camera": "X"} for number, row in enumerate(rows)]
    write_table(Path("pairs.csv"), list(rows[0]), rows)


def enter(folder, patch):
    """Work in a folder, with a network that sees vessels."""
    patch.chdir(folder)
    patch.setattr("alignment.find_octa.PLACE_ANGLES", [0.0])  # they are not rotated
    patch.setattr("alignment.find_octa.PLACE_SCALES", 1.06 ** np.arange(-2, 3))
    patch.setattr(program, "announced_predictor", lambda *_: (SeesVessels(), "run/ckpt-7"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a table of the pairs a and b, another eye c, and a run."""
    folder = tmp_path_factory.mktemp("made") / "made"
    (folder / "run").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed, name in enumerate("abc"):
            write_eye(folder, seed, name)
        write_pairs(pair("a"), pair("b"))
        write_run(Path("run"), Settings(data="simulated", precision="float32", name="run"), "0")
        Path("run/ckpt-7").write_text("the weights")
    return folder


@pytest.fixture(scope="module")
def cropped(made, tmp_path_factory):
    """The same, cropped with figures."""
    folder = shutil.copytree(made, tmp_path_factory.mktemp("cropped") / "copy")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        assert crop("--figures") == 0
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of the first to run in."""
    folder = shutil.copytree(made, tmp_path / "copy")
    enter(folder, monkeypatch)
    return folder


@pytest.fixture
def again(cropped, tmp_path, monkeypatch):
    """A copy of the second to change, and to crop again."""
    folder = shutil.copytree(cropped, tmp_path / "again")
    enter(folder, monkeypatch)
    return folder


def crop(*options, octa_mm=OCTA_MM):
    widths = [] if octa_mm is None else ["--octa-mm", f"{octa_mm}"]
    return dataset_load_mod.main(["crop", "pairs.csv", "--output", "out", "--run", "run", *widths, *options])


def rows(folder=Path()):
    return {row["name"]: row for row in read_table(folder / "out" / program.RECORD)}


def written_pairs(table="out/pairs.csv"):
    return read_pairs(Path(table), "1/0/0")


def replace_by_another_eye(name="a"):
    Path(f"octa/{name}.tif").write_bytes(Path("octa/c.tif").read_bytes())


# --- what is written -------------------------------------------------------------------------------------------------


def test_photographs_are_cropped_to_what_their_octa_show(cropped):
    part = np.asarray(Image.open(cropped / "out/fundus/a.png"))[..., 1].astype(float)
    octa = np.asarray(Image.open(cropped / "octa/a.tif").resize(part.shape[::-1])).astype(float)
    assert part.shape == (round(OCTA_MM * program.CROP_PX_PER_MM),) * 2
    assert np.corrcoef(part.ravel(), octa.ravel())[0, 1] < -0.9  # vessels are dark here, bright there


def test_crops_of_simulated_retinas_are_known_as_such(folder):
    assert crop() == 0
    assert not is_simulated("out/pairs.csv")
    Path("photos/fundus").mkdir()
    Path("photos/SIMULATED.txt").touch()
    Path("photos/a.png").rename("photos/fundus/a.png")
    write_pairs(pair("fundus/a", "a"), pair("b"))
    assert crop() == 0
    assert is_simulated("out/pairs.csv")


def test_table_of_the_cropped_pairs_has_all_columns_and_names_their_files(cropped):
    first = read_table(cropped / "out/pairs.csv")[0]
    original = photo_digest(read_fundus(cropped / "photos/a.png"))
    added = {"octa_mm": f"{OCTA_MM:g}", "original_digest": original}
    assert first == {"fundus": "fundus/a.png", "octa": "octa/a.png", "subject": "s0", "camera": "X"} | added
    for one in written_pairs(cropped / "out/pairs.csv"):
        assert (read_image(one.octa) == read_image(cropped / "octa" / f"{one.octa.stem}.tif")).all()


def test_record_has_position_scale_and_verdict_and_each_match_a_figure(cropped):
    row = rows(cropped)["a"]
    assert [float(row[name]) for name in ("centre_row", "centre_column")] == pytest.approx([124.5, 124.5], abs=2)
    assert float(row["px_per_mm"]) == pytest.approx(PX_PER_MM, rel=0.03)
    assert row["verdict"] == "found"
    assert files_below(cropped / "out" / "crop") == ["a.png", "b.png"]


def test_crop_of_a_crop_is_known_by_the_first_photograph_also_when_it_is_kept(folder):
    write_pairs(pair("a", original_digest="0123456789abcdef"), pair("b", original_digest=""))
    originals = "0123456789abcdef", photo_digest(read_fundus(Path("photos/b.png")))
    for _ in range(2):
        crop()
        assert tuple(one.original_digest for one in written_pairs()) == originals


def test_octa_of_another_eye_is_doubtful_named_and_left_out_and_its_figure_is_removed(again, capsys):
    replace_by_another_eye()
    assert crop() == 0
    assert {name: row["verdict"] for name, row in rows().items()} == {"a": "doubtful", "b": "found"}
    assert "\na: doubtful" in capsys.readouterr().out
    assert [one.name for one in written_pairs()] == ["b"]
    assert files_below(again / "out" / "crop") == ["b.png"]


def test_a_photograph_may_have_several_octa(folder):
    Image.open("octa/a.tif").save("octa/deep.tif")
    write_pairs(pair("a"), pair("a", "deep"))
    assert crop() == 0
    assert files_below(folder / "out" / "fundus") == ["a.png", "deep.png"]


@pytest.mark.parametrize(("widths", "option"), [((OCTA_MM, 0.97 * OCTA_MM), None), (("", 0.97 * OCTA_MM), OCTA_MM)])
def test_width_of_each_octa_is_that_of_its_row_or_of_the_option(folder, widths, option):
    write_pairs(*(pair(name, octa_mm=width) for name, width in zip("ab", widths, strict=True)))
    assert crop(octa_mm=option) == 0
    found = [float(rows()[name]["octa_mm"]) / OCTA_MM for name in "ab"]
    assert found == pytest.approx([1, 0.97], rel=1e-4)


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_existing_results_are_kept_and_another_scale_needs_another_folder(again, capsys):
    before = {name: (again / "out" / name).stat().st_mtime_ns for name in ("fundus/a.png", "octa/b.png")}
    assert crop() == 0
    assert "2 of 2 pairs exist and are kept" in capsys.readouterr().out
    assert {name: (again / "out" / name).stat().st_mtime_ns for name in before} == before
    assert crop("--field-degrees", "50") == 2
    assert "out/crop.csv: was made with run/ckpt-7" in capsys.readouterr().err


CHANGES = {
    "width": lambda: 0.95 * OCTA_MM,
    "octa": replace_by_another_eye,
    "photograph": lambda: Path("photos/a.png").write_bytes(Path("photos/c.png").read_bytes()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_pair_is_searched_again_if_its_width_or_a_file_has_changed(again, change):
    before = rows()["a"]
    width = CHANGES[change]()
    crop(octa_mm=width if change == "width" else OCTA_MM)
    now = rows()["a"]
    assert now["score"] != before["score"]
    assert (now["verdict"] == "found") == (change == "width")


@pytest.mark.parametrize(("column", "noted"), [({}, True), ({"split": "train"}, False)])
def test_lost_subjects_are_noted_where_they_can_move_others_to_another_split(folder, capsys, column, noted):
    write_pairs(pair("a", **column), pair("b", **column))
    Path("photos/a.png").write_text("no image")
    crop()
    assert ("NOTE: pairs.csv lacks 1 of 2 subjects" in capsys.readouterr().out) == noted


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda: Path("photos/a.png").write_text("no image"), "photos/a.png: cannot be read"),
        (lambda: Path("octa/a.tif").write_text("no image"), "octa/a.tif: cannot be read"),
        (lambda: save(np.zeros((50, 50, 3)), Path("photos/a.png")), "photos/a.png: is entirely dark"),
        (lambda: save(np.full((300, 300, 3), 90), Path("photos/a.png")), "photos/a.png: shows no border"),
    ],
)
def test_unusable_image_is_named_and_its_former_result_left_out(again, capsys, damage, named):
    damage()
    assert crop() == 2
    printed = capsys.readouterr()
    assert named in printed.err
    assert "\nfound 1\n" in printed.out
    assert [one.name for one in written_pairs()] == ["b"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["pairs.csv", "--output", "out"], "octa/a.tif: has no octa_mm; fill in that column, or use --octa-mm"),
        (["pairs.csv", "--output", "out", "--octa-mm", "6000"], "--octa-mm 6000: must be from 1 to 20 mm"),
        (["pairs.csv", "--output", ".", "--octa-mm", "6"], "--output .: lies in the data set"),
        (["pairs.csv", "--output", "photos", "--octa-mm", "6"], "--output photos: exists"),
        (["photos", "--output", "out", "--octa-mm", "6"], "DATA photos"),
        (["full.csv", "--output", "out", "--octa-mm", "4"], "--octa-mm 4: each row of full.csv has its octa_mm"),
    ],
)
def test_what_is_refused(folder, refused, options, named):
    write_pairs(pair("a", octa_mm=6))
    Path("pairs.csv").rename("full.csv")
    write_pairs(pair("a"), pair("b"))
    before = files_below(folder)
    assert named in refused(dataset_load_mod, "crop", *options)
    assert files_below(folder) == before
