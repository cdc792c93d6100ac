"""A complete evaluation of a data set, missing and damaged files, and invalid options."""

import io
import shutil
from contextlib import redirect_stderr, redirect_stdout
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import SeesVessels, write_finished_run
from PIL import Image
from scipy.ndimage import gaussian_filter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import pix_pix_eval as evaluate
from basics.command_line import OptionError
from evaluation.measures import BASELINES
from retina.ut_fsocta import REGIONS
from retina.vessels import SECTORS, VESSEL_SCORE_NAMES
from run.settings import Settings
from simulation.dataset import eye_of, render_crop
from simulation.eye import make_eye

CROPPED = Path("data/UT-FSOCTA-v1/cropped")
SUBJECTS = range(31, 41)  # as few as have statistics


@pytest.mark.parametrize(
    ("other", "certain"),
    [(("A", "OD"), False), (("A", ""), False), (("A", "OS"), True), (("B", "OD"), True), (("B", ""), True)],
)
def test_control_is_another_eye_for_certain(other, certain):
    case, other = (SimpleNamespace(subject=subject, eye=eye) for subject, eye in (("A", "OD"), other))
    assert evaluate.differ(case, other) == certain


@pytest.fixture(scope="module", params=[pytest.param("", marks=pytest.mark.slow)])  # marks every test that needs it
def made(tmp_path_factory):
    """Simulated retinas of ten test subjects, images of other methods made from their vessels, and a run."""
    folder = tmp_path_factory.mktemp("made")
    for subject, region in product(SUBJECTS, REGIONS):
        for kind, image in render_crop(make_eye(subject, eye_of(subject), 0), region).items():
            path = folder / CROPPED / kind / region / f"{subject}_{eye_of(subject)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    for path in sorted((folder / CROPPED).glob("truth/*/*.png")):
        truth = np.asarray(Image.open(path)) / 255
        images = {"Iternet": truth, "denoised_synthetic_octa/Thresh": truth}
        images["denoised_synthetic_octa/noThresh"] = images["synthetic_octa"] = 0.5 + 0.5 * gaussian_filter(truth, 2)
        for name, image in images.items():
            target = folder / CROPPED / name / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.uint8(255 * image)).save(target)
    settings = Settings(data="data/UT-FSOCTA-v1", precision="float32", name="mine")
    write_finished_run(folder / "training_checkpoints" / "mine", settings, step=7)
    return folder


def copy_subjects(made, folder, others):
    shutil.copytree(made / "data", folder / "data", ignore=shutil.ignore_patterns(*others))
    (folder / "training_checkpoints").symlink_to(made / "training_checkpoints")
    return folder


def run(folder, *options):
    """Evaluate in a folder: exit status, all that is printed, and the results."""
    stream = io.TextIOWrapper(io.BytesIO(), write_through=True)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stream), redirect_stderr(stream):
        patch.chdir(folder)
        weights = "training_checkpoints/mine/ckpt-7"
        patch.setattr("evaluation.report.DPI", 60)
        patch.setattr("evaluation.report.SCREEN_DPI", 40)
        patch.setattr(evaluate, "announced_predictor", lambda *_: (SeesVessels(), weights))
        status = evaluate.main(options)
    results = next(folder.glob("logs/eval/*"))
    per_eye, summary = (pd.read_csv(results / f"{name}.csv") for name in ("per_eye", "summary"))
    whole = summary[summary["sector"] == "whole"].set_index(["region", "candidate", "measure"]).sort_index()
    printed, report = stream.buffer.getvalue().decode(), (results / "summary.md").read_text()
    return SimpleNamespace(status=status, printed=printed, report=report, per_eye=per_eye, summary=summary, whole=whole)


@pytest.fixture(scope="module")
def complete(made):
    return run(made, "--resamples", "200")


@pytest.fixture(scope="module")
def sparse(made, tmp_path_factory):
    """An evaluation of two subjects, with missing and damaged files and more folders to compare."""
    folder = copy_subjects(made, tmp_path_factory.mktemp("sparse"), ("3[3-9]_*", "4*_*"))
    shutil.rmtree(folder / CROPPED / "truth")
    maps = folder / CROPPED / "denoised_synthetic_octa" / "Thresh"
    shutil.copytree(maps, folder / CROPPED / "GT_OCT_net" / "Thresh", ignore=shutil.ignore_patterns("31_OD.png"))
    (folder / CROPPED / "synthetic_octa" / "macula" / "32_OS.png").write_text("no image")
    shutil.copytree(folder / CROPPED / "Iternet" / "macula", folder / "own" / "macula")
    return run(folder, "--compare", "net=own", "--compare-vessels", "maps=own")


def test_evaluation_writes_tables_and_figures(complete, made):
    figures = {"density_scatter", "bland_altman", "precision_recall", "montage_disc", "montage_macula"}
    written = {path.name for path in made.glob("logs/eval/*/*")}
    tables = {"per_eye.csv", "summary.csv", "summary.md", "report.html"}
    drawn = {f"{name}.{kind}" for name in figures for kind in ("png", "pdf")}
    assert (complete.status, written) == (0, tables | drawn)


def test_every_eye_has_a_row_for_each_candidate_and_sector(complete):
    names = {"reference", "this run", *evaluate.PUBLISHED, "real OCT-A, segmented", *BASELINES} - {"SA_Unet"}
    rows = complete.per_eye.groupby(["region", "candidate"], sort=False).size().to_dict()
    assert rows == {(place, name): len(SUBJECTS) * len(SECTORS[place]) for place in REGIONS for name in names}


@pytest.mark.parametrize("region", REGIONS)
def test_the_ground_truth_itself_scores_1(complete, region):
    assert set(complete.whole["mean"].loc[[(region, "Iternet", name) for name in VESSEL_SCORE_NAMES]]) == {1}
    assert complete.whole["mean"].loc[region, "denoised_synthetic_octa", "dice"] == 1  # by its binary map
    assert "| Iternet | 10 | 1.00 [1.00, 1.00] |" in complete.report


def test_the_ground_truth_itself_has_the_density_of_the_real_octa(complete):
    density = complete.summary.query("candidate == 'Iternet' and measure == 'vessel_density' and eyes >= 10")
    assert density["pearson"].to_numpy() == pytest.approx(np.ones(len(density)))
    assert density[["bias", "limit_low", "limit_high"]].abs().to_numpy().max() < 1e-9
    assert "| 1.00 [1.00, 1.00] | 0.00 [0.00, 0.00] | 0.00 [0.00, 0.00] to 0.00 [0.00, 0.00] |" in complete.report


@pytest.mark.parametrize("region", REGIONS)
def test_difference_from_this_run(complete, region):
    other, ours = (complete.whole.loc[(region, name, "roc_auc")] for name in ("Iternet", "this run"))
    assert other["difference"] == pytest.approx(1 - ours["mean"], abs=1e-5)
    assert other["p"] == pytest.approx(2 / 2 ** len(SUBJECTS), rel=1e-4)


@pytest.mark.parametrize("region", REGIONS)
def test_segmenter_agrees_with_the_ground_truth(complete, region):
    segmented = complete.whole.loc[(region, "real OCT-A, segmented")]
    assert 0.65 < segmented["mean"]["dice"] < 1
    assert 0.6 < segmented["pearson"]["vessel_density"] < 1


def test_densities_of_one_eye_by_hand(complete, made):
    truth = np.asarray(Image.open(made / CROPPED / "truth" / "macula" / "33_OD.png")) > 0  # no border of the field
    row = complete.per_eye.query("region == 'macula' and subject == 33 and candidate == 'reference'").iloc[0]
    assert row["vessel_density"] == pytest.approx(truth.mean(), rel=1e-5)
    assert row["faz_mm2"] == pytest.approx(0.2, abs=0.12)  # 0.4 to 0.6 mm wide


def test_tensorboard_has_the_main_results_at_the_step_of_the_weights(complete, made):
    events = EventAccumulator(str(made / "logs/fit/mine/evaluation"), size_guidance={"tensors": 0})
    (event,) = events.Reload().Tensors("evaluation/disc/roc_auc")
    value = complete.whole["mean"].loc["disc", "this run", "roc_auc"]
    assert (event.step, tf.make_ndarray(event.tensor_proto)) == (7, pytest.approx(value, rel=1e-4))


def test_report_is_one_page_with_its_figures(complete, made):
    page = next(made.glob("logs/eval/*/report.html")).read_text(encoding="utf-8")
    assert page.count("src='data:image/png;base64,") == 5
    assert page.count("src=") == 5


@pytest.mark.parametrize("kind", ["summary.md", "report.html"])
def test_reports_name_the_reference_by_what_it_is(complete, made, kind):
    text = next(made.glob(f"logs/eval/*/{kind}")).read_text(encoding="utf-8")
    assert "Vessels compared with the reference (exact map)" in text


def test_report_and_printout_say_first_that_simulated_retinas_are_no_real_eyes(complete, sparse):
    assert "NO REAL EYES" in complete.report.partition("Disc, 10 eyes")[0]
    assert "NO REAL EYES" in complete.printed
    assert "NO REAL EYES" not in sparse.report


def test_eye_without_another_one_to_compare_with_is_said(complete, sparse):
    assert "without another eye of the same region and size: 2 of 2 crops" in sparse.report
    assert "no other eye" not in complete.report


def test_reference_of_a_data_set_s_own_maps_is_named_so(sparse):
    assert "Vessels compared with the reference (data set's map)" in sparse.report


def test_numbers_of_the_report_are_those_of_the_table(complete):
    row = complete.whole.loc[("disc", "this run", "dice")]
    assert f"with a Dice of {row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" in complete.report


def test_least_possible_p_is_marked(complete):
    assert f"{2 / 2 ** len(SUBJECTS):.2g}\\*" in complete.report


def test_avascular_zone_that_is_never_found_is_said(complete):
    missing = complete.whole.loc[("macula", "green channel", "faz_mm2")]
    assert f"found in 0 of {missing['missing']:.0f}" in complete.report


def test_tensorboard_shows_montages_and_the_report(complete, made):
    events = EventAccumulator(str(made / "logs/fit/mine/evaluation"), size_guidance={"tensors": 0})
    tags = set(events.Reload().Tags()["tensors"])
    assert {"evaluation/disc", "evaluation/macula", "evaluation", "_hparams_/session_start_info"} <= tags


def test_unusable_file_is_an_error_in_the_end(sparse):
    error = sparse.printed.splitlines()[-1]
    assert (sparse.status, "error: " in error, "macula/32_OS.png" in error) == (2, True, True)


@pytest.mark.parametrize(
    "name", ["SA_Unet", "2 of 4", "synthetic_octa: absent for 1 of 2", "net: absent for 1 of 2", "GT_OCT_net/Thresh"]
)
def test_missing_images_and_the_ground_truth_are_named(sparse, name):
    assert name in sparse.printed
    assert name in sparse.report


def test_crops_without_ground_truth_are_left_out(sparse):
    assert set(sparse.per_eye["subject"]) == {32}
    assert sparse.whole["mean"].loc["macula", "maps", "dice"] == 1
    assert not {"pearson", "limit_low", "p"} & set(sparse.summary)  # of one subject


def test_with_segmenter_the_real_octa_is_its_own_ground_truth(made, tmp_path):
    summary = run(
        copy_subjects(made, tmp_path, ("3[2-9]_*", "4*_*")), "--segmenter", "--compare", f"same={CROPPED / 'octa'}"
    ).summary
    same = summary.query("candidate == 'same' and measure in ('dice', 'cldice', 'ssim')")
    assert same["mean"].to_numpy() == pytest.approx(np.ones(6))


def test_probability_beside_an_octa_comes_with_it(tmp_path):
    octa, probability = (tmp_path / f"mine/disc/31_OD{kind}.png" for kind in ("", "_probability"))
    octa.parent.mkdir(parents=True)
    for path in (octa, probability):
        Image.new("L", (8, 8)).save(path)
    options = SimpleNamespace(compare=[f"octas={tmp_path / 'mine'}"], compare_vessels=[f"maps={tmp_path / 'mine'}"])
    octas, maps = evaluate.find_comparators(tmp_path, pd.DataFrame({"region": REGIONS}), options)
    assert (octas.images, octas.averaged) == ({"disc/31_OD": octa}, {"disc/31_OD": probability})
    assert maps.averaged == {}


def test_missing_folder_of_another_method_is_called_missing(tmp_path):
    options = SimpleNamespace(compare=[f"x={tmp_path / 'none'}"], compare_vessels=[])
    with pytest.raises(OptionError, match=r"--compare x=.*none: no such folder"):
        evaluate.find_comparators(tmp_path, pd.DataFrame({"region": ["disc"], "name": ["disc/1_OD"]}), options)


def test_image_of_another_size_is_compared_with_the_photograph(tmp_path):
    evaluation = evaluate.Evaluation(None, True, pd.DataFrame(), 0, True, [], None, {})
    Image.new("L", (30, 20)).save(tmp_path / "x.png")
    assert evaluation.read(tmp_path / "x.png", (40, 60)) is None
    assert evaluation.faults == [f"{tmp_path / 'x.png'}: 30 x 20 px, but its photograph has 60 x 40 px"]


def widths_mm(**given):
    """The options that specify the width of a crop."""
    return SimpleNamespace(**{f"{region}_mm": given.get(region) for region in evaluate.CROP_MM})


def test_width_of_an_option_is_for_pairs_without_one():
    cases = pd.DataFrame({"region": ["disc", "macula", "macula"], "octa_mm": [3.0, 3.0, None]})
    widths = evaluate.find_widths(cases, Path("pairs.csv"), widths_mm(macula=5.0, other=2.0))
    assert widths == {"disc": 4.5, "macula": 5.0, "other": 2.0}


@pytest.mark.parametrize(
    ("octa_mm", "option", "words"),
    [
        ([None, None], None, "macula 6 mm, assumed"),
        ([None, None], 5.0, "macula 5 mm, from --macula-mm"),
        ([3.0, 4.5], None, "macula as in the table's octa_mm"),
        ([3.0, None], 5.0, "macula as in the table's octa_mm (1 of 2 pairs without it: 5 mm, from --macula-mm)"),
    ],
)
def test_report_states_which_widths_were_used(octa_mm, option, words):
    cases = pd.DataFrame({"region": "macula", "octa_mm": octa_mm, "octa_unmoved": None})
    options = widths_mm(macula=option)
    widths = evaluate.find_widths(cases, Path("pairs.csv"), options)
    truth = evaluate.Truth("", "", None)
    evaluation = evaluate.Evaluation(None, True, cases, 0, True, [], truth, widths)
    options.resamples = options.seed = 0
    assert f"width of a crop: {words}" in evaluate.conditions(evaluation, ["macula"], options)


def test_folder_without_regions_serves_data_of_one_region(dataset):
    flat = dataset / "UT-FSOCTA-v1/cropped/octa/disc"
    assert evaluate.list_images(flat, ["disc"])["disc/31_OD"] == flat / "31_OD.png"
    assert evaluate.list_images(flat, REGIONS) == {}


@pytest.fixture
def untrained(dataset, monkeypatch):
    """A folder to run in, with the tiny data set and a run without weights."""
    monkeypatch.chdir(dataset)
    write_finished_run(Path("training_checkpoints/x"), Settings(data=".", precision="float32", name="x"), step=1)


def test_width_that_the_table_has_for_each_pair_is_refused(untrained, refused):
    rows = ["fundus,octa,subject,region,octa_mm"]
    for subject in ("1_OD", "2_OS", "26_OD"):
        files = (f"UT-FSOCTA-v1/cropped/{kind}/disc/{subject}.png" for kind in ("fundus", "octa"))
        rows.append(",".join([*files, subject, "macula", "3"]))
    Path("pairs.csv").write_text("\n".join(rows))
    error = refused(evaluate, "--data", "pairs.csv", "--split", "all", "--macula-mm", "6")
    assert "--macula-mm 6: pairs.csv has the octa_mm of each pair of this region; drop the option" in error


@pytest.mark.parametrize(
    "options",
    [
        *(
            "--disc-mm 0",
            "--macula-mm nan",
            "--macula-mm 0.001",
            "--disc-mm 51",
            "--resamples 0",
            "--seed -1",
            "--data nowhere",
            "--run nowhere",
        ),
        *("--weights best", "--compare x", "--compare x=nowhere"),
        "--compare-vessels Iternet=UT-FSOCTA-v1/cropped/octa",
    ],
)
def test_invalid_option_is_one_line_and_nothing_is_written(untrained, capsys, options):
    try:
        status = evaluate.main(options.split())
    except SystemExit as stopped:  # from argparse
        status = stopped.code
    error, (option, value) = capsys.readouterr().err, options.split()
    assert (status, error.count("\n"), option in error or value in error) == (2, 1, True)
    assert not Path("logs").exists()
