"""The cropping program: what is written, kept, named and refused."""

import csv
from pathlib import Path

import numpy as np
import pytest
from conftest import SeesVessels, files_below, lines
from PIL import Image

import alignment.crop as program
import dataset_load_mod
from pairs.table import read_pairs
from retina.images import photo_digest, read_fundus
from run.checkpoints import write_run
from run.settings import Settings
from run.weights import made_from

SIDE = 500
FIELD = slice(120, 380)  # rows and columns of the photograph that the OCT-A shows


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(image)).save(path)


def write_eye(folder, seed, name):
    """A round photograph whose vessels are dark, and an OCT-A of its middle."""
    vessels = lines(seed, SIDE, spacing=14)
    fundus = np.dstack([np.full((SIDE, SIDE), 200), 150 - 100 * vessels, np.full((SIDE, SIDE), 60)])
    rows, columns = np.indices((SIDE, SIDE)) - SIDE / 2
    save(fundus * (np.hypot(rows, columns) < 230)[..., np.newaxis], folder / "photos" / f"{name}.png")
    save(30 + 200 * vessels[FIELD, FIELD], folder / "octa" / f"{name}.tif")


PX_PER_MM = 2 * 230 / program.FIELD_MM
OCTA_MM = 260 / PX_PER_MM


def prepare(folder, patch):
    """Make a folder to run in, with a table of two pairs and a run."""
    for seed, name in enumerate("ab"):
        write_eye(folder, seed, name)
    write_table(folder, [{"fundus": f"photos/{name}.png", "octa": f"octa/{name}.tif"} for name in "ab"])
    (folder / "run").mkdir()
    write_run(folder / "run", Settings(data="simulated", precision="float32", name="run"), "0")
    (folder / "run/ckpt-7").write_text("the weights")
    patch.setattr("alignment.find_octa.PLACE_ANGLES", [0.0])  # they are not turned
    patch.chdir(folder)
    patch.setattr(program, "announced_predictor", lambda *_: (SeesVessels(), "run/ckpt-7"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to run in."""
    prepare(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def cropped(tmp_path_factory):
    """A folder whose pairs are cut, with figures."""
    folder = tmp_path_factory.mktemp("cropped")
    with pytest.MonkeyPatch.context() as patch:
        prepare(folder, patch)
        assert crop("--figures") == 0
    return folder


def write_table(folder, rows):
    rows = [row | {"subject": f"s{number}", "camera": "X"} for number, row in enumerate(rows)]
    with (folder / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def crop(*options):
    return dataset_load_mod.main(
        ["crop", "pairs.csv", "--output", "out", "--run", "run", "--octa-mm", f"{OCTA_MM}", *options]
    )


def rows(folder):
    return {row["name"]: row for row in csv.DictReader((folder / "out" / program.RECORD).open())}


def test_photographs_are_cut_to_what_their_octa_show(cropped):
    part = np.asarray(Image.open(cropped / "out/fundus/a.png"))[..., 1].astype(float)
    octa = np.asarray(Image.open(cropped / "octa/a.tif").resize(part.shape[::-1])).astype(float)
    assert part.shape == (round(OCTA_MM * program.PX_PER_MM),) * 2
    assert np.corrcoef(part.ravel(), octa.ravel())[0, 1] < -0.9  # vessels are dark here, bright there


def test_table_of_the_cut_pairs_has_all_columns_and_names_their_files(cropped):
    with (cropped / "out/pairs.csv").open() as file:
        first = next(csv.DictReader(file))
    files = {"fundus": "fundus/a.png", "octa": "octa/a.tif"}
    original = photo_digest(read_fundus(cropped / "photos/a.png"))
    added = {"octa_mm": f"{OCTA_MM:g}", "original_digest": original}
    assert first == files | {"subject": "s0", "camera": "X"} | added
    assert len(read_pairs(cropped / "out/pairs.csv", "1/0/0")) == 2


def originals(table="out/pairs.csv"):
    return [pair.original_digest for pair in read_pairs(Path(table), "1/0/0")]


def test_original_of_a_kept_crop_stays_known(folder):
    crop()
    first = originals()
    crop()
    assert originals() == first != ["", ""]


def test_crop_of_a_crop_is_known_by_the_first_photograph(folder):
    given = {"a": "0123456789abcdef", "b": ""}
    table = [{"fundus": f"photos/{n}.png", "octa": f"octa/{n}.tif", "original_digest": given[n]} for n in "ab"]
    write_table(folder, table)
    crop()
    assert originals() == [given["a"], photo_digest(read_fundus(Path("photos/b.png")))]


def test_octa_is_copied_to_the_last_bit(cropped):
    assert (cropped / "out/octa/b.tif").read_bytes() == (cropped / "octa/b.tif").read_bytes()


def test_each_place_has_a_figure(cropped):
    assert files_below(cropped / "out" / "crop") == ["a.jpg", "b.jpg"]


def test_record_has_place_scale_and_verdict(cropped):
    row = rows(cropped)["a"]
    assert [float(row[name]) for name in ("centre_row", "centre_column")] == pytest.approx([249.5, 249.5], abs=4)
    assert float(row["px_per_mm"]) == pytest.approx(PX_PER_MM, rel=0.03)
    assert row["verdict"] == "found"


def test_octa_of_another_eye_is_doubtful_named_and_left_out(folder, capsys):
    write_eye(folder, 7, "c")
    Path("octa/a.tif").write_bytes(Path("octa/c.tif").read_bytes())
    assert crop() == 0
    assert {name: row["verdict"] for name, row in rows(folder).items()} == {"a": "doubtful", "b": "found"}
    assert "a in photos/a.png: doubtful" in capsys.readouterr().out
    assert [pair.name for pair in read_pairs(Path("out/pairs.csv"), "1/0/0")] == ["b"]


def test_a_photograph_may_have_several_octa(folder):
    save(255 - np.asarray(Image.open("octa/a.tif")), folder / "octa" / "deep.png")
    write_table(folder, [{"fundus": "photos/a.png", "octa": f"octa/{name}"} for name in ("a.tif", "deep.png")])
    assert crop() == 0
    assert files_below(folder / "out" / "fundus") == ["a.png", "deep.png"]


def test_width_of_each_octa_may_be_in_the_table(folder):
    write_table(folder, [{"fundus": "photos/a.png", "octa": "octa/a.tif", "octa_mm": OCTA_MM}])
    assert dataset_load_mod.main(["crop", "pairs.csv", "--output", "out", "--run", "run"]) == 0
    assert rows(folder)["a"]["verdict"] == "found"


def test_existing_results_are_kept(folder, capsys):
    crop()
    before = {name: (folder / "out" / name).stat().st_mtime_ns for name in ("fundus/a.png", "octa/b.tif")}
    assert crop() == 0
    assert "2 of 2 pairs exist and are kept" in capsys.readouterr().out
    assert {name: (folder / "out" / name).stat().st_mtime_ns for name in before} == before


def test_octa_of_another_width_is_searched_for_again(folder):
    crop()
    assert (
        dataset_load_mod.main(
            ["crop", "pairs.csv", "--output", "out", "--run", "run", "--octa-mm", f"{0.97 * OCTA_MM}"]
        )
        == 0
    )
    assert float(rows(folder)["a"]["octa_mm"]) == pytest.approx(0.97 * OCTA_MM, rel=1e-4)


def test_octa_that_was_replaced_is_searched_for_again(folder):
    crop()
    write_eye(folder, 7, "c")
    Path("octa/a.tif").write_bytes(Path("octa/c.tif").read_bytes())
    crop()
    assert rows(folder)["a"]["verdict"] == "doubtful"


def test_photograph_that_was_replaced_is_searched_again(folder):
    write_eye(folder, 7, "c")
    right = Path("photos/a.png").read_bytes()
    Path("photos/a.png").write_bytes(Path("photos/c.png").read_bytes())
    crop()
    Path("photos/a.png").write_bytes(right)
    crop()
    assert rows(folder)["a"]["verdict"] == "found"


def test_pair_that_fails_now_is_not_kept_with_its_former_result(folder):
    crop()
    Path("photos/a.png").write_text("no image")
    assert crop() == 2
    assert [pair.name for pair in read_pairs(Path("out/pairs.csv"), "1/0/0")] == ["b"]


def test_figure_of_a_former_match_is_removed(folder):
    crop("--figures")
    write_eye(folder, 7, "c")
    Path("octa/a.tif").write_bytes(Path("octa/c.tif").read_bytes())
    crop()
    assert files_below(folder / "out" / "crop") == ["b.jpg"]


def test_pair_that_fails_now_is_not_counted(folder, capsys):
    crop()
    Path("photos/a.png").write_text("no image")
    capsys.readouterr()
    crop()
    assert "found 1, doubtful 0" in capsys.readouterr().out


def test_interrupted_change_of_an_octa_is_resumed(folder, monkeypatch):
    crop()
    write_eye(folder, 7, "c")
    Path("octa/a.tif").write_bytes(Path("octa/c.tif").read_bytes())

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(program, "draw_match", full_disk)
        assert crop("--figures") == 2
    crop()
    assert rows(folder)["a"]["verdict"] == "doubtful"


def test_pair_that_left_the_table_is_dropped_with_a_note(folder, capsys):
    crop()
    write_table(folder, [{"fundus": "photos/b.png", "octa": "octa/b.tif"}])
    assert crop() == 0
    assert "NOTE: out/crop.csv: pairs that are no longer in the table are dropped: a" in capsys.readouterr().out


def test_table_that_changes_meanwhile_does_no_harm(folder, monkeypatch):
    original = program.Cropping.run

    def run(work, case):
        (folder / "pairs.csv").write_text("nothing")
        original(work, case)

    monkeypatch.setattr(program.Cropping, "run", run)
    assert crop() == 0


@pytest.mark.parametrize(("column", "noted"), [({}, True), ({"split": "train"}, False)])
def test_lost_subjects_are_noted_where_they_can_move_others_to_another_split(folder, capsys, column, noted):
    table = [{"fundus": f"photos/{name}.png", "octa": f"octa/{name}.tif"} | column for name in "ab"]
    write_table(folder, table)
    Path("photos/a.png").write_text("no image")
    crop()
    assert ("NOTE: pairs.csv lacks 1 of 2 subjects" in capsys.readouterr().out) == noted


def test_other_scale_of_the_photographs_needs_another_folder(folder, capsys):
    crop()
    assert crop("--field-degrees", "50") == 2
    made_with = made_from(Path("run"), "run/ckpt-7")
    stale = f"out/crop.csv: was made with {made_with}, 45 degrees, not {made_with}, 50 degrees"
    assert stale in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda: Path("photos/a.png").write_text("no image"), "photos/a.png: cannot be read"),
        (lambda: Path("octa/a.tif").write_text("no image"), "octa/a.tif: cannot be read"),
        (lambda: save(np.zeros((50, 50, 3)), Path("photos/a.png")), "photos/a.png: is entirely dark"),
        (lambda: save(np.full((300, 300, 3), 90), Path("photos/a.png")), "photos/a.png: shows no border"),
    ],
)
def test_unusable_image_is_named_and_the_others_are_done(folder, capsys, damage, named):
    damage()
    assert crop() == 2
    assert named in capsys.readouterr().err
    assert [pair.name for pair in read_pairs(Path("out/pairs.csv"), "1/0/0")] == ["b"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["pairs.csv", "--output", "out"], "octa/a.tif: has no octa_mm; fill in that column, or use --octa-mm"),
        (["pairs.csv", "--output", "out", "--octa-mm", "6000"], "--octa-mm 6000: must be from 1 to 20 mm"),
        (["pairs.csv", "--output", ".", "--octa-mm", "6"], "--output .: lies in the data set"),
        (["pairs.csv", "--output", "photos", "--octa-mm", "6"], "--output photos: exists"),
        (["nowhere.csv", "--output", "out", "--octa-mm", "6"], "TABLE nowhere.csv"),
        (["pairs.csv", "--output", "out", "--octa-mm", "6", "--run", "nowhere"], "nowhere: not a run"),
        (["pairs.csv", "--output", "out", "--octa-mm", "6", "--px-per-mm", "1"], "--px-per-mm 1: must be from"),
    ],
)
def test_what_is_refused(folder, refused, options, named):
    before = files_below(folder)
    assert named in refused(dataset_load_mod, "crop", *options)
    assert files_below(folder) == before


def test_width_is_given_once(folder, refused):
    write_table(folder, [{"fundus": "photos/a.png", "octa": "octa/a.tif", "octa_mm": 6}])
    assert "--octa-mm 4: each row of pairs.csv has its octa_mm" in refused(
        dataset_load_mod, "crop", "pairs.csv", "--output", "out", "--octa-mm", "4"
    )


def test_option_gives_the_widths_that_the_table_lacks(folder):
    widths = {"a": "", "b": 0.97 * OCTA_MM}
    write_table(folder, [{"fundus": f"photos/{n}.png", "octa": f"octa/{n}.tif", "octa_mm": widths[n]} for n in "ab"])
    assert crop() == 0
    found = [float(rows(folder)[name]["octa_mm"]) / OCTA_MM for name in "ab"]
    assert found == pytest.approx([1, 0.97], rel=1e-4)


def test_folder_in_the_study_s_layout_is_refused(dataset, refused):
    assert "give a table of pairs" in refused(
        dataset_load_mod, "crop", str(dataset), "--output", str(dataset / "out"), "--octa-mm", "6"
    )
