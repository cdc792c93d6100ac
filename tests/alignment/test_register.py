"""The registration program: right, mirrored, exchanged and damaged pairs; what is written, kept and refused."""

import csv
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import SeesVessels, files_below, lines
from PIL import Image

import alignment.register as program
import dataset_load_mod
from alignment.registration import warp
from pairs.dataset import load_data_cases
from run.checkpoints import write_run
from run.settings import Settings
from run.weights import made_from

pytestmark = pytest.mark.slow

SIDE = 160
SHIFT = np.broadcast_to(np.reshape([3.0, -2.0], (2, 1, 1)), (2, SIDE, SIDE))
CROPPED = Path("data/UT-FSOCTA-v1/cropped")
# Whose vessels the OCT-A of each pair shows: subjects 3 and 4, and the eyes of subject 5, are exchanged.
EYES = {"1_OD": "1_OD", "1_OS": "1_OS", "2_OD": "2_OD", "3_OD": "4_OD", "4_OD": "3_OD", "5_OD": "5_OS", "5_OS": "5_OD"}
SEEDS = {name: seed for seed, name in enumerate(EYES)}


def vessels_of(name):
    return lines(SEEDS[name], SIDE, spacing=8)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(image)).save(path)


def write_pair(folder, name, octa):
    """A photograph whose vessels are dark, and an OCT-A, in colours that are nearly equal."""
    fundus = np.dstack([np.full((SIDE, SIDE), 200), 150 - 100 * vessels_of(name), np.full((SIDE, SIDE), 60)])
    save(fundus, folder / CROPPED / "fundus" / "disc" / f"{name}.png")
    grey = 30 + 200 * octa
    rgba = np.dstack([grey, grey + 1, grey, np.full_like(grey, 255)])
    save(rgba, folder / CROPPED / "octa" / "disc" / f"{name}.png")


def register(folder, *options, data="data", weights="run/ckpt-7"):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(program, "announced_predictor", lambda *_: (SeesVessels(), weights))
        Path(f"{weights}.index").write_text(weights)
        return dataset_load_mod.main(["register", data, "--output", "out", "--run", "run", *options])


def rows(folder):
    return {
        f"{row['subject']}_{row['eye']}": row for row in csv.DictReader((folder / "out" / program.REGISTRATION).open())
    }


def pixels(folder, *parts):
    return np.asarray(Image.open(folder.joinpath(*parts))).astype(float)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a data set and a run."""
    folder = tmp_path_factory.mktemp("made")
    for name, shown in EYES.items():
        octa = warp(vessels_of(shown), SHIFT)
        write_pair(folder, name, octa[:, ::-1] if name == "2_OD" else octa)
    truth = folder / CROPPED / "GT_OCT_net" / "Thresh" / "disc" / "1_OD.png"
    save(255 * (warp(vessels_of("1_OD"), SHIFT) > 0.5), truth)
    save(np.zeros((9, 9)), folder / "data" / "UT-FSOCTA-v1" / "fov45" / "fundus" / "1_OD.jpg")
    (folder / CROPPED / "notes.txt").write_text("as they are")
    (folder / CROPPED / ".hidden").write_text("not copied")
    (folder / "run").mkdir()
    write_run(folder / "run", Settings(data="simulated", precision="float32", name="run"), "0")
    return folder


@pytest.fixture(scope="module")
def registered(made):
    """The same, registered with figures, and the input's times."""
    before = {path: made.joinpath(path).stat().st_mtime_ns for path in files_below(made)}
    return SimpleNamespace(folder=made, status=register(made, "--figures"), before=before)


@pytest.fixture
def folder(made, tmp_path):
    """A folder with a data set of two right pairs, and a run."""
    names = shutil.ignore_patterns("2_*", "3_*", "4_*", "5_*")
    shutil.copytree(made / "data", tmp_path / "data", ignore=names)
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path


# --- verdicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("1_OD", "registered"),
        ("1_OS", "registered"),
        ("2_OD", "not registered"),
        ("3_OD", "not registered"),
        ("5_OD", "not registered"),
    ],
)
def test_verdict_on_a_pair(registered, name, verdict):
    assert rows(registered.folder)[name]["verdict"] == verdict


def test_row_of_a_registered_pair(registered):
    row = rows(registered.folder)["1_OD"]
    assert float(row["displacement"]) == pytest.approx(np.hypot(3, 2), abs=0.4)
    assert float(row["before"]) < float(row["after"])
    assert float(row["control"]) < float(row["after"]) - program.CLEARLY


def fit(after, before=0.2):
    return program.Fit(np.zeros((2, 1, 1)), before, after)


@pytest.mark.parametrize(
    ("own", "controls", "verdict"),
    [
        (fit(0.8), (0.3, 0.2), "registered"),
        (fit(0.8, before=0.8), (0.3, 0.2), "lies well"),
        (fit(0.5), (0.45, 0.2), "not registered"),
        (fit(0.3), (0.2, 0.8), "not registered"),
    ],
)
def test_verdict_follows_from_correlations(own, controls, verdict):
    assert program.verdict_of(own, [fit(after) for after in controls]) == verdict


def test_controls_show_most_of_the_same_field():
    left = np.broadcast_to(np.arange(40) < 20, (40, 40))
    fields = [~left, left, np.ones((40, 40), bool), left, left]
    near = [program.Eye(np.full((40, 40), number), fov) for number, fov in enumerate(fields)]
    assert [eye.prediction.max() for eye in program.chosen_controls(program.Eye(left, left), near)] == [1, 2, 3]


def test_a_lone_pair_is_compared_with_its_mirror_images():
    rows = np.indices((40, 40))[0]
    controls = program.chosen_controls(program.Eye(rows, rows < 20), [])
    assert [eye.prediction[0, 0] for eye in controls] == [0, 39, 39]
    assert [eye.fov[0, 0] for eye in controls] == [True, False, False]


@pytest.mark.parametrize(
    ("other", "may_be"),
    [(("A", "OD"), True), (("A", ""), True), (("A", "OS"), False), (("B", "OD"), False), (("B", ""), False)],
)
def test_which_cases_of_a_region_may_show_one_eye(other, may_be):
    case, other = (SimpleNamespace(subject=subject, eye=eye, region="disc") for subject, eye in (("A", "OD"), other))
    assert program.may_be_one_eye(case, other) == may_be


# --- files -----------------------------------------------------------------------------------------------------------


def test_registered_octa_lies_on_its_photograph(registered):
    octa = pixels(registered.folder, "out/UT-FSOCTA-v1/cropped/octa/disc/1_OD.png")
    assert octa.shape == (SIDE, SIDE, 4)
    inner = (slice(10, -10),) * 2
    assert np.corrcoef(octa[..., 0][inner].ravel(), vessels_of("1_OD")[inner].ravel())[0, 1] > 0.97


def test_each_colour_is_moved_and_alpha_stays(registered):
    octa = pixels(registered.folder, "out/UT-FSOCTA-v1/cropped/octa/disc/1_OD.png")
    assert np.mean(octa[..., 1] - octa[..., 0]) == pytest.approx(1, abs=0.1)
    assert (octa[..., 3] == 255).all()


def test_map_made_from_an_octa_moves_with_it_and_stays_a_map(registered):
    truth = pixels(registered.folder, "out/UT-FSOCTA-v1/cropped/GT_OCT_net/Thresh/disc/1_OD.png")
    assert set(np.unique(truth)) == {0, 255}
    assert np.corrcoef(truth.ravel(), vessels_of("1_OD").ravel() > 0.5)[0, 1] > 0.8


@pytest.mark.parametrize("name", ["octa/disc/2_OD.png", "octa/disc/3_OD.png", "fundus/disc/1_OD.png", "notes.txt"])
def test_what_does_not_move_is_copied_to_the_last_bit(registered, name):
    written = registered.folder / "out" / "UT-FSOCTA-v1" / "cropped" / name
    assert written.read_bytes() == (registered.folder / CROPPED / name).read_bytes()


def test_result_has_the_layout_of_the_data(registered):
    found = [name.removeprefix("UT-FSOCTA-v1/") for name in files_below(registered.folder / "data")]
    unmoved = [name.replace("/", "/unmoved/", 1) for name in found if "/octa/" in name or "/GT_OCT_net/" in name]
    written = files_below(registered.folder / "out" / "UT-FSOCTA-v1")
    assert written == sorted([name for name in found if ".hidden" not in name] + unmoved)
    assert len(load_data_cases(registered.folder / "out" / "UT-FSOCTA-v1")[0]) == len(EYES)


def test_input_is_not_touched(registered):
    now = {path: registered.folder.joinpath(path).stat().st_mtime_ns for path in registered.before}
    assert (registered.status, now) == (0, registered.before)


def test_each_pair_has_a_figure(registered):
    figures = [f"disc/{name}.png" for name in sorted(EYES)]
    assert files_below(registered.folder / "out" / "registration") == figures
    assert pixels(registered.folder, "out/registration", figures[0]).shape == (SIDE, 3 * SIDE, 3)


def test_octa_of_a_format_that_is_not_written_becomes_png(folder):
    octa = folder / CROPPED / "octa" / "disc"
    Image.open(octa / "1_OD.png").convert("RGB").save(octa / "1_OD.ppm")
    (octa / "1_OD.png").unlink()
    assert register(folder) == 0
    assert pixels(folder, "out/UT-FSOCTA-v1/cropped/octa/disc/1_OD.png").any()
    assert not (folder / "out/UT-FSOCTA-v1/cropped/octa/disc/1_OD.ppm").exists()
    assert rows(folder)["1_OD"]["verdict"] == "registered"


def test_grey_octa_of_another_format_stays_so(folder):
    octa = folder / CROPPED / "octa" / "disc"
    grey = pixels(octa, "1_OD.png")[..., 0]
    (octa / "1_OD.png").unlink()
    save(grey, octa / "1_OD.tif")
    assert register(folder) == 0
    with Image.open(folder / "out/UT-FSOCTA-v1/cropped/octa/disc/1_OD.tif") as image:
        assert (image.format, image.mode) == ("TIFF", "L")
    assert rows(folder)["1_OD"]["verdict"] == "registered"


def test_data_set_named_itself_is_written_to_the_output_itself(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(program, "announced_predictor", lambda *_: (SeesVessels(), "run/ckpt-7"))
        Path("run/ckpt-7").write_text("the weights")
        assert dataset_load_mod.main(["register", "data/UT-FSOCTA-v1", "--output", "new/out", "--run", "run"]) == 0
    assert (folder / "new/out/cropped/octa/disc/1_OD.png").exists()


def test_folder_with_leftovers_of_a_mac_counts_as_empty(folder):
    (folder / "out").mkdir()
    (folder / "out" / ".DS_Store").touch()
    assert register(folder) == 0


# --- an interrupted call, unusable files -----------------------------------------------------------------------------


def times(folder):
    return {name: (folder / name).stat().st_mtime_ns for name in files_below(folder)}


def test_existing_results_are_kept(folder, capsys):
    register(folder)
    octas = folder / "out" / "UT-FSOCTA-v1"
    before = times(octas)
    assert register(folder) == 0
    assert "2 of 2 pairs exist and are kept" in capsys.readouterr().out
    assert times(octas) == before


def test_interrupted_call_resumes_to_the_same_result(folder, monkeypatch):
    register(folder)
    complete = {name: (folder / "out" / name).read_bytes() for name in files_below(folder / "out")}
    shutil.rmtree(folder / "out")
    original = program.Registration.finish

    def once(work, case, *others):
        if work.table.rows:
            raise KeyboardInterrupt
        original(work, case, *others)

    monkeypatch.setattr(program.Registration, "finish", once)
    assert register(folder) == 130
    assert len(rows(folder)) == 1
    monkeypatch.setattr(program.Registration, "finish", original)
    assert register(folder) == 0
    assert {name: (folder / "out" / name).read_bytes() for name in files_below(folder / "out")} == complete


def test_file_that_cannot_be_copied_does_not_end_the_others(folder, monkeypatch, capsys):
    notes, original = folder / CROPPED / "notes.txt", program.copy_file

    def copy(source, target):
        if source.name == notes.name:  # found, but gone before it is copied
            notes.unlink()
        original(source, target)

    monkeypatch.setattr(program, "copy_file", copy)
    assert register(folder) == 2
    assert "notes.txt: cannot be read" in capsys.readouterr().err
    assert len(rows(folder)) == 2


def test_exchanged_octa_are_registered_again_once_they_are_right(folder):
    octa = folder / CROPPED / "octa" / "disc"
    one, other = (octa / f"1_{eye}.png" for eye in ("OD", "OS"))
    right = one.read_bytes(), other.read_bytes()
    one.write_bytes(right[1])
    other.write_bytes(right[0])
    register(folder)
    assert {row["verdict"] for row in rows(folder).values()} == {"not registered"}
    one.write_bytes(right[0])
    other.write_bytes(right[1])
    register(folder)
    assert {row["verdict"] for row in rows(folder).values()} == {"registered"}


def test_figure_of_a_former_result_is_removed(folder):
    register(folder, "--figures")
    octa = folder / CROPPED / "octa/disc/1_OD.png"
    save(pixels(octa)[::-1], octa)
    register(folder)
    assert files_below(folder / "out/registration") == ["disc/1_OS.png"]


def test_training_is_not_proposed_if_no_octa_fits(folder, capsys):
    for eye in ("OD", "OS"):
        octa = folder / CROPPED / f"octa/disc/1_{eye}.png"
        save(np.full((SIDE, SIDE), 100) + lines(99, SIDE, spacing=8), octa)
    register(folder)
    printed = capsys.readouterr().out
    assert "crop them first with dataset_load_mod.py crop" in printed
    assert "Next:" not in printed


def test_photograph_that_was_replaced_is_copied_again(folder):
    register(folder)
    fundus = Path("fundus/disc/1_OD.png")
    save(np.flipud(pixels(folder / CROPPED, fundus)), folder / CROPPED / fundus)
    register(folder)
    copy = folder / "out/UT-FSOCTA-v1/cropped" / fundus
    assert copy.read_bytes() == (folder / CROPPED / fundus).read_bytes()


def test_pair_that_left_a_layout_needs_another_folder(folder, capsys):
    register(folder)
    (folder / CROPPED / "octa/disc/1_OS.png").unlink()
    assert register(folder) == 2
    assert "has disc/1_OS, which is not in the data" in capsys.readouterr().err


def test_map_of_another_size_stays_a_map(folder):
    truth = folder / CROPPED / "GT_OCT_net" / "Thresh" / "disc" / "1_OD.png"
    save(np.kron(pixels(truth), np.ones((2, 2))), truth)
    register(folder)
    written = pixels(folder, "out/UT-FSOCTA-v1/cropped/GT_OCT_net/Thresh/disc/1_OD.png")
    assert (written.shape, set(np.unique(written))) == ((SIDE, SIDE), {0, 255})


# --- tables ----------------------------------------------------------------------------------------------------------


def table_of(folder, rows):
    """Write pairs.csv and its files; each row is the name of an eye, and its photograph and OCT-A below the folder."""
    lines = ["fundus,octa,subject"]
    for number, (name, *files) in enumerate(rows):
        for kind, file in zip(("fundus", "octa"), files, strict=True):
            (folder / file).parent.mkdir(exist_ok=True)
            with Image.open(folder / CROPPED / kind / "disc" / f"{name}.png") as image:
                image.convert("RGB").save(folder / file, format="GIF" if file.endswith(".gif") else "PNG")
        lines.append(",".join([*files, f"s{number}"]))
    (folder / "pairs.csv").write_text("\n".join(lines))


def test_octa_in_another_format_becomes_png(folder):
    table_of(folder, [("1_OD", "photos/a.png", "scans/a"), ("1_OS", "photos/b.png", "scans/b.gif")])
    assert register(folder, data="pairs.csv") == 0
    assert files_below(folder / "out/octa") == ["a.png", "b.png"]


def test_photographs_with_similar_names_get_different_files(folder):
    table_of(folder, [("1_OD", "photos/a.png", "scans/x.tif"), ("1_OS", "photos/a.tif.png", "scans/y.tif")])
    assert register(folder, data="pairs.csv") == 0
    assert files_below(folder / "out/octa") == ["a.tif", "a.tif.tif"]


def test_unreadable_octa_is_named_and_the_others_are_done(folder, capsys, monkeypatch):
    table_of(folder, [("1_OD", "photos/a.png", "scans/a.png"), ("1_OS", "photos/b.png", "scans/b.png")])
    (folder / "scans/a.png").write_text("no image")
    original = Path.open

    def denied(path, *arguments, **options):
        if path.name == "a.png" and path.parent.name == "scans":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", denied)
    assert register(folder, data="pairs.csv") == 2
    assert "scans/a.png: cannot be read" in capsys.readouterr().err
    assert {row["name"] for row in csv.DictReader((folder / "out/registration.csv").open())} == {"b"}


def test_pair_that_left_the_table_is_dropped_with_a_note(folder, capsys):
    table_of(folder, [("1_OD", "photos/a.png", "scans/a.png"), ("1_OS", "photos/b.png", "scans/b.png")])
    register(folder, data="pairs.csv")
    table_of(folder, [("1_OS", "photos/b.png", "scans/b.png")])
    assert register(folder, data="pairs.csv") == 0
    assert "pairs that are no longer in the table are dropped: a" in capsys.readouterr().out


def test_unusable_pair_is_named_and_copied(folder, capsys):
    octa = folder / CROPPED / "octa" / "disc" / "1_OS.png"
    octa.write_text("no image")
    assert register(folder) == 2
    assert str(CROPPED / "octa" / "disc" / "1_OS.png") in capsys.readouterr().err
    assert set(rows(folder)) == {"1_OD"}
    assert (folder / "out/UT-FSOCTA-v1/cropped/octa/disc/1_OS.png").read_text() == "no image"


def test_pair_with_an_unusable_map_stays_as_it_lies(folder, capsys):
    (folder / CROPPED / "GT_OCT_net" / "Thresh" / "disc" / "1_OD.png").write_text("no image")
    assert register(folder) == 2
    assert "GT_OCT_net" in capsys.readouterr().err
    name = "octa/disc/1_OD.png"
    assert (folder / "out/UT-FSOCTA-v1/cropped" / name).read_bytes() == (folder / CROPPED / name).read_bytes()


def test_unreadable_map_of_a_pair_that_fits_nothing_is_named_and_the_others_are_done(folder, capsys, monkeypatch):
    for eye in ("OD", "OS"):
        save(100 + 100 * lines(99, SIDE, spacing=8), folder / CROPPED / f"octa/disc/1_{eye}.png")
    original = Path.open

    def denied(path, *arguments, **options):
        if "GT_OCT_net" in path.parts and "data" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", denied)
    assert register(folder) == 2
    assert "GT_OCT_net/Thresh/disc/1_OD.png: cannot be read" in capsys.readouterr().err
    assert set(rows(folder)) == {"1_OS"}


def test_run_that_has_seen_pairs_is_named(folder, capsys):
    write_run(folder / "run", Settings(data="data", precision="float32", name="run"), "0")
    register(folder)
    assert "NOTE: this run was trained on pairs" in capsys.readouterr().out


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["data", "--output", "data"], "--output data: lies in the data set"),
        (["data", "--output", "data/UT-FSOCTA-v1/new"], "--output data/UT-FSOCTA-v1/new: lies in the data set"),
        (["data", "--output", "run"], "--output run: exists, but is not from this program"),
        (["data", "--output", "run/run.json"], "--output run/run.json: exists"),
        (["nowhere", "--output", "out"], "DATA nowhere"),
        (["data", "--output", "out", "--run", "nowhere"], "nowhere: not a run"),
        (["data"], "--output"),
        (["--output", "out"], "DATA"),
    ],
)
def test_what_is_refused(folder, monkeypatch, refused, options, named):
    monkeypatch.chdir(folder)
    before = files_below(folder)
    assert named in refused(dataset_load_mod, "register", *options)
    assert files_below(folder) == before


def test_data_set_without_a_pair_is_refused(folder, monkeypatch, refused):
    shutil.rmtree(folder / CROPPED / "octa" / "disc")
    monkeypatch.chdir(folder)
    assert "contains no pair" in refused(dataset_load_mod, "register", "data", "--output", "out", "--run", "run")


def test_other_weights_are_refused(folder, capsys):
    register(folder)
    before = times(folder / "out")
    assert register(folder, weights="run/ckpt-8") == 2
    one, other = (made_from(folder / "run", str(folder / "run" / name)) for name in ("ckpt-7", "ckpt-8"))
    assert f"was made with {one}, not {other}" in capsys.readouterr().err
    assert times(folder / "out") == before


def test_damaged_table_is_refused(folder, capsys):
    (folder / "out").mkdir()
    (folder / "out" / program.REGISTRATION).write_text("subject,eye\n1,OD\n")
    assert register(folder) == 2
    assert "registration.csv: damaged" in capsys.readouterr().err
