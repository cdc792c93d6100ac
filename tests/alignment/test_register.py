"""The registration program: right, mirrored, exchanged and damaged pairs; what is written, kept and refused."""

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
from alignment.search import Masked
from basics.files import read_table
from pairs.table import REGISTRATION, read_pairs
from run.checkpoints import write_run
from run.settings import Settings

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
    return {row["name"].removeprefix("disc/"): row for row in read_table(folder / "out" / REGISTRATION)}


def verdicts(folder):
    return {name: row["verdict"] for name, row in rows(folder).items()}


def pixels(*parts):
    return np.asarray(Image.open(Path(*parts))).astype(float)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a data set and a run."""
    folder = tmp_path_factory.mktemp("made")
    for name, shown in EYES.items():
        octa = warp(vessels_of(shown), SHIFT)
        write_pair(folder, name, octa[:, ::-1] if name == "2_OD" else octa)
    (folder / "run").mkdir()
    write_run(folder / "run", Settings(data="simulated", precision="float32", name="run"), "0")
    return folder


@pytest.fixture(scope="module")
def registered(made):
    """The same, registered with figures; the input is not touched."""
    before = times(made / "data")
    assert register(made, "--figures") == 0
    assert times(made / "data") == before
    return made


def times(folder):
    return {name: (folder / name).stat().st_mtime_ns for name in files_below(folder)}


RIGHT = shutil.ignore_patterns("2_*", "3_*", "4_*", "5_*", "out")


@pytest.fixture
def folder(made, tmp_path):
    """A folder with a data set of two right pairs, and a run."""
    return shutil.copytree(made, tmp_path / "folder", ignore=RIGHT)


@pytest.fixture(scope="module")
def finished(made, tmp_path_factory):
    """The same, registered with figures."""
    folder = shutil.copytree(made, tmp_path_factory.mktemp("finished") / "copy", ignore=RIGHT)
    register(folder, "--figures")
    return folder


@pytest.fixture
def again(finished, tmp_path):
    """A copy of it to change and to register again."""
    return shutil.copytree(finished, tmp_path / "again")


# --- verdicts --------------------------------------------------------------------------------------------------------


def test_right_pairs_are_registered_and_mirrored_or_exchanged_ones_are_not(registered):
    found = verdicts(registered)
    assert {name for name, verdict in found.items() if verdict == "registered"} == {"1_OD", "1_OS"}
    assert {found[name] for name in ("2_OD", "3_OD", "4_OD", "5_OD", "5_OS")} == {"not registered"}
    row = rows(registered)["1_OD"]
    assert float(row["displacement"]) == pytest.approx(np.hypot(3, 2), abs=0.4)
    assert float(row["before"]) < float(row["after"])
    assert float(row["control"]) < float(row["after"]) - program.MARGIN


def fit(after, before=0.2):
    return program.Fit(np.zeros((2, 1, 1)), before, after)


@pytest.mark.parametrize(
    ("own", "controls", "verdict"),
    [
        (fit(0.8), (0.3, 0.2), "registered"),
        (fit(0.8, before=0.8), (0.3, 0.2), "already aligned"),
        (fit(0.5), (0.2, 0.45), "not registered"),
    ],
)
def test_verdict_follows_from_correlations(own, controls, verdict):
    assert program.verdict_of(own, [fit(after) for after in controls]) == verdict


def test_controls_show_most_of_the_same_field_and_are_resized_to_it():
    left = np.broadcast_to(np.arange(40) < 20, (40, 40))
    fields = [~left, left, np.ones((50, 80), bool), None, left, left]
    near = [fov if fov is None else Masked(np.full(fov.shape, number), fov) for number, fov in enumerate(fields)]
    chosen = program.chosen_controls(Masked(left, left), near)
    assert [eye.image.max() for eye in chosen] == [1, 2, 4]
    assert all((eye.mask == left).all() for eye in chosen)


def test_a_lone_pair_is_compared_with_its_mirror_images():
    rows = np.indices((40, 40))[0]
    controls = program.chosen_controls(Masked(rows, rows < 20), [])
    assert [eye.image[0, 0] for eye in controls] == [0, 39, 39]
    assert [eye.mask[0, 0] for eye in controls] == [True, False, False]


@pytest.mark.parametrize(
    ("other", "may_be"),
    [(("A", "OD"), True), (("A", ""), True), (("A", "OS"), False), (("B", "OD"), False), (("B", ""), False)],
)
def test_which_cases_of_a_region_may_show_one_eye(other, may_be):
    case, other = (SimpleNamespace(subject=subject, eye=eye, region="disc") for subject, eye in (("A", "OD"), other))
    assert program.may_be_one_eye(case, other) == may_be


# --- files -----------------------------------------------------------------------------------------------------------


def test_registered_octa_is_aligned_with_its_photograph_and_keeps_colours_and_alpha(registered):
    octa = pixels(registered, "out/octa/disc/1_OD.png")
    assert octa.shape == (SIDE, SIDE, 4)
    inner = (slice(10, -10),) * 2
    assert np.corrcoef(octa[..., 0][inner].ravel(), vessels_of("1_OD")[inner].ravel())[0, 1] > 0.97
    assert np.mean(octa[..., 1] - octa[..., 0]) == pytest.approx(1, abs=0.1)
    assert (octa[..., 3] == 255).all()


def test_image_of_two_values_keeps_them_and_gets_the_size_of_its_photograph():
    vessels = np.kron(warp(vessels_of("1_OD"), SHIFT) > 0.5, np.ones((2, 2)))
    moved = program.warped(np.dstack([np.uint8(255 * vessels)] * 4), -SHIFT)[..., 0]
    assert (moved.shape, set(np.unique(moved))) == ((SIDE, SIDE), {0, 255})


@pytest.mark.parametrize("name", ["octa/disc/2_OD.png", "fundus/disc/1_OD.png"])
def test_what_does_not_move_keeps_its_pixels(registered, name):
    assert (pixels(registered, "out", name) == pixels(registered, CROPPED, name)).all()


def test_unmoved_octa_are_kept(registered):
    given = pixels(registered, CROPPED, "octa/disc/1_OD.png")
    assert (pixels(registered, "out/octa_unmoved/disc/1_OD.png") == given).all()
    assert (pixels(registered, "out/octa/disc/1_OD.png") != given).any()


def test_result_is_a_table_with_the_subjects_eyes_and_splits_of_the_layout_and_each_pair_has_a_figure(registered):
    pairs = read_pairs(registered / "out/pairs.csv", "1/0/0")
    assert [f"{pair.subject}_{pair.eye}" for pair in pairs] == sorted(EYES)
    assert {(pair.region, pair.split) for pair in pairs} == {("disc", "train")}
    assert pairs[0].octa_unmoved == registered / "out/octa_unmoved/disc/1_OD.png"
    figures = [f"disc/{name}.png" for name in sorted(EYES)]
    assert files_below(registered / "out" / "registration") == figures
    assert pixels(registered, "out/registration", figures[0]).shape == (SIDE, 3 * SIDE, 3)


# --- an interrupted call, unusable files -----------------------------------------------------------------------------


def test_existing_results_are_kept(again, capsys):
    before = times(again / "out/octa")
    assert register(again, "--figures") == 0
    assert "2 of 2 pairs exist and are kept\nmedians: displacement " in capsys.readouterr().out
    assert times(again / "out/octa") == before


def test_interrupted_call_resumes_to_the_same_result(finished, folder, monkeypatch):
    finish = program.Registration.finish

    def once(work, *others):
        if work.pairs.rows:
            raise KeyboardInterrupt
        finish(work, *others)

    monkeypatch.setattr(program.Registration, "finish", once)
    assert register(folder, "--figures") == 130
    assert len(rows(folder)) == 1
    monkeypatch.undo()
    assert register(folder, "--figures") == 0
    contents = [{n: (one / "out" / n).read_bytes() for n in files_below(one / "out")} for one in (finished, folder)]
    assert contents[0] == contents[1]


def test_pair_whose_photograph_was_replaced_is_registered_again_and_loses_its_former_figure(again):
    fundus = Path("fundus/disc/1_OD.png")
    save(pixels(again, CROPPED, fundus)[::-1], again / CROPPED / fundus)
    register(again)
    assert verdicts(again) == {"1_OD": "not registered", "1_OS": "registered"}
    assert files_below(again / "out/registration") == ["disc/1_OS.png"]
    assert (pixels(again, "out", fundus) == pixels(again, CROPPED, fundus)).all()


def test_unusable_octa_is_named_and_its_pair_left_out(folder, capsys):
    name = CROPPED / "octa/disc/1_OD.png"
    (folder / name).write_text("no image")
    assert register(folder) == 2
    assert str(name) in capsys.readouterr().err
    assert [pair.name for pair in read_pairs(folder / "out/pairs.csv", "1/0/0")] == ["1_OS"]


# --- tables ----------------------------------------------------------------------------------------------------------


def table_of(folder, *rows):
    """Write pairs.csv and its files; each row is the name of an eye, and its photograph and OCT-A below the folder."""
    written = ["fundus,octa,subject"]
    for name, *files in rows:
        for kind, file in zip(("fundus", "octa"), files, strict=True):
            (folder / file).parent.mkdir(exist_ok=True)
            with Image.open(folder / CROPPED / kind / "disc" / f"{name}.png") as image:
                image.convert("RGB").save(folder / file, format="GIF" if file.endswith(".gif") else "PNG")
        written.append(",".join([*files, f"s{name}"]))
    (folder / "pairs.csv").write_text("\n".join(written))


def test_similar_names_stay_apart_and_a_lost_pair_is_dropped(folder):
    pairs = ("1_OD", "photos/a.png", "scans/x"), ("1_OS", "photos/a.tif.png", "scans/y.gif")
    table_of(folder, *pairs)
    assert register(folder, data="pairs.csv") == 0
    assert files_below(folder / "out/octa") == ["a.png", "a.tif.png"]
    table_of(folder, pairs[1])
    assert register(folder, data="pairs.csv") == 0
    assert [row["fundus"] for row in read_table(folder / "out/pairs.csv")] == ["fundus/a.tif.png"]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["data", "--output", "data/UT-FSOCTA-v1/new"], "--output data/UT-FSOCTA-v1/new: lies in the data set"),
        (["data", "--output", "run"], "--output run: exists, but is not from this program"),
        (["nowhere", "--output", "out"], "DATA nowhere"),
        (["data", "--output", "out", "--run", "nowhere"], "nowhere: not a run"),
    ],
)
def test_what_is_refused(folder, monkeypatch, refused, options, named):
    monkeypatch.chdir(folder)
    before = files_below(folder)
    assert named in refused(dataset_load_mod, "register", *options)
    assert files_below(folder) == before


def test_other_weights_and_a_record_of_version_1_1_need_another_folder(again, capsys):
    before = times(again / "out")
    assert register(again, weights="run/ckpt-8") == 2
    assert "registration.csv: was made with " in capsys.readouterr().err
    assert times(again / "out") == before
    (again / "out" / REGISTRATION).write_text("name,subject,eye,region,fits,verdict\n1,1,1,1,1,1\n")
    assert register(again) == 2
    assert "registration.csv: damaged, or from another program or version" in capsys.readouterr().err
