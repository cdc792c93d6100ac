"""A complete evaluation of a data set, with missing and damaged files, and invalid options."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from eyes import CROPPED, SIDE, evaluated, save, start_run, table_of_eyes, vessels_of, write_layout_pair, write_pair
from PIL import Image
from scipy.ndimage import gaussian_filter

import pix_pix_eval
from evaluation import evaluate
from evaluation.inputs import PUBLISHED, find_comparators, with_widths
from evaluation.measures import BASELINES, VESSEL_SCORE_NAMES
from retina.ut_fsocta import REGIONS
from retina.vessels import SECTORS

SUBJECTS = {"disc": range(31, 42), "macula": range(31, 34)}  # one more than statistics need, and too few
SEGMENTED = "OCT-A, segmented"


@pytest.fixture(scope="module", params=[pytest.param("", marks=pytest.mark.slow)])  # marks every test that needs it
def complete(tmp_path_factory):
    """An evaluation of crops of both regions: their exact vessels, images made from these, some files unusable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("complete"))
        for region, subject in ((region, subject) for region, some in SUBJECTS.items() for subject in some):
            name = f"{region}/{subject}_OD"
            write_layout_pair(name)
            truth = 255 * (vessels_of(subject) > 0.5)
            blurred = 100 + 0.5 * gaussian_filter(truth, 1.0)
            images = dict.fromkeys(("truth", "Iternet", "denoised_synthetic_octa/Thresh"), truth)
            images |= dict.fromkeys(("denoised_synthetic_octa/noThresh", "synthetic_octa"), blurred)
            for folder, image in images.items():
                save(image, CROPPED / folder / f"{name}.png")
        (CROPPED / "truth/disc/41_OD.png").unlink()
        (CROPPED / "synthetic_octa/macula/32_OD.png").write_text("no image")
        start_run()
        patch.setattr("evaluation.statistics.RESAMPLES", 200)
        found = evaluated("data", status=2)
        found.whole = found.summary[found.summary["sector"] == "whole"].set_index(["region", "candidate", "measure"])
    return found


def test_tables_state_how_many_eyes_a_method_has(complete):
    assert re.search(r"synthetic_octa</th>\s*<td>2</td>", complete.report)


def test_every_eye_has_a_row_for_each_candidate_and_sector(complete):
    names = {"reference", "this run", *PUBLISHED, SEGMENTED, *BASELINES} - {"SA_Unet"}
    rows = complete.per_eye.groupby(["region", "candidate"]).size().to_dict()
    eyes = {(place, name): 10 if place == "disc" else 3 for place in REGIONS for name in names}
    eyes["macula", "synthetic_octa"] = 2
    assert rows == {key: number * len(SECTORS[key[0]]) for key, number in eyes.items()}


@pytest.mark.parametrize("region", REGIONS)
def test_the_ground_truth_itself_scores_1(complete, region):
    assert set(complete.whole["mean"].loc[[(region, "Iternet", name) for name in VESSEL_SCORE_NAMES]]) == {1}
    assert complete.whole["mean"][region, "denoised_synthetic_octa", "dice"] == 1  # by its binary map


def test_the_ground_truth_itself_has_the_density_of_the_reference(complete):
    density = complete.whole.loc["disc", "Iternet", "vessel_density"]
    assert density["pearson"] == pytest.approx(1)
    assert density[["bias", "limit_low", "limit_high"]].abs().max() < 1e-9


def test_report_is_one_page_with_its_figures_and_the_numbers_of_the_table(complete):
    figures = {"density_scatter", "bland_altman", "montage_disc", "montage_macula"}
    written = {path.name for path in complete.folder.iterdir()}
    assert written == {"per_eye.csv", "summary.csv", "report.html", *(f"{name}.png" for name in figures)}
    assert complete.report.count("src='data:image/png;base64,") == complete.report.count("src=") == 4
    row = complete.whole.loc["disc", "this run", "dice"]
    assert f"Dice of this run {row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" in complete.report


@pytest.mark.parametrize("text", ["printed", "report"])
def test_simulated_retinas_are_called_so_and_nothing_is_called_real(complete, text):
    assert "NO REAL EYES: these are simulated retinas" in getattr(complete, text)
    assert "real OCT-A" not in getattr(complete, text)


def test_unusable_file_is_an_error_in_the_end(complete):
    assert "error: " in (error := complete.printed.splitlines()[-1])
    assert "macula/32_OD.png" in error


def test_report_states_what_is_missing_and_how_it_was_made(complete):
    for words in ("ground truth: 1 of 14 crops", "without synthetic_octa: 1 of 13 crops", "disc 4.5 mm, assumed"):
        assert words in complete.report


@pytest.mark.slow
def test_with_segmenter_the_real_octa_is_its_own_ground_truth(maps):
    found = evaluated("data", "--segmenter", "--compare", f"same={CROPPED / 'octa'}")
    same = found.summary.query("candidate == 'same' and measure in ('dice', 'cldice', 'ssim')")
    assert same["mean"].to_numpy() == pytest.approx([1] * 3)
    assert "ONLY 2 SUBJECTS: correlations, intervals" in found.report


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to run in, with a run."""
    monkeypatch.chdir(tmp_path)
    start_run()
    return tmp_path


def test_table_of_simulated_retinas_is_called_so_too(here):
    table_of_eyes(1)
    assert "NO REAL EYES" not in evaluated("pairs.csv", "--split", "all").printed
    Path("SIMULATED.txt").touch()
    assert "NO REAL EYES" in evaluated("pairs.csv", "--split", "all").printed


@pytest.mark.slow
def test_control_comes_from_any_block_of_eyes(here, monkeypatch):
    table_of_eyes(3)
    write_pair(0, Path("photos/00.png"), Path("scans/00.png"), side=80)  # the only one of its size: no control
    together = evaluated("pairs.csv", "--split", "all")
    monkeypatch.setattr(evaluate, "EYES_AT_ONCE", 1)
    pd.testing.assert_frame_equal(together.per_eye, evaluated("pairs.csv", "--split", "all").per_eye)
    ours = together.per_eye.query("candidate == 'this run' and sector == 'whole'")
    assert ours["control_vessel_auc"].isna().tolist() == [True, False, False]
    assert (ours["control_vessel_auc"] < ours["registered_vessel_auc"] - 0.2)[1:].all()


@pytest.fixture
def maps(here):
    """Two test subjects whose ground truth has the grey levels 0 and 1."""
    for subject in (31, 32):
        write_layout_pair(f"disc/{subject}_OD")
        save(vessels_of(subject) > 0.5, CROPPED / f"truth/disc/{subject}_OD.png")
    return CROPPED / "truth/disc"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("truth", "named"),
    [(np.zeros((SIDE, SIDE)), "no vessel"), (vessels_of(32) <= 0.5, "is it inverted?")],
    ids=["empty", "inverted"],
)
def test_unusable_reference_is_named_and_its_eye_left_out(maps, truth, named):
    save(truth, maps / "32_OD.png")
    found = evaluated("data", status=2)
    assert set(found.per_eye["subject"]) == {31}
    error = found.printed.splitlines()[-1]
    assert "truth/disc/32_OD.png: " in error
    assert named in error


def test_probability_beside_an_octa_comes_with_it(tmp_path):
    octa, probability = (tmp_path / f"mine/disc/31_OD{kind}.png" for kind in ("", "_probability"))
    octa.parent.mkdir(parents=True)
    for path in (octa, probability):
        Image.new("L", (8, 8)).save(path)
    given = [f"octas={tmp_path / 'mine'}"], [f"maps={tmp_path / 'mine'}"]
    octas, maps = find_comparators(tmp_path, pd.DataFrame({"region": REGIONS}), *given)
    assert (octas.images, octas.averaged) == ({"disc/31_OD": octa}, {"disc/31_OD": probability})
    assert (maps.images, maps.averaged) == ({"disc/31_OD": probability}, {})


def test_width_of_an_option_is_for_pairs_without_one():
    cases = pd.DataFrame({"region": ["disc", "macula", "macula"], "octa_mm": [3.0, 3.0, None]})
    cases, origins = with_widths(Path("pairs.csv"), cases, {"disc": None, "macula": 5.0})
    assert cases["octa_mm"].tolist() == [3, 3, 5]
    assert origins["macula"] == "macula as in the table's octa_mm (1 of 2 pairs without it: 5 mm, from --macula-mm)"


def test_width_that_the_table_has_for_each_pair_is_refused(trained_project, refused):
    files = (f"data/UT-FSOCTA-v1/cropped/{kind}/disc/31_OD.png" for kind in ("fundus", "octa"))
    Path("pairs.csv").write_text("\n".join(["fundus,octa,subject,region,octa_mm", ",".join([*files, "31,macula,3"])]))
    error = refused(pix_pix_eval, "--data", "pairs.csv", "--split", "all", "--macula-mm", "6")
    assert "--macula-mm 6: pairs.csv has the octa_mm of each pair" in error


def test_without_a_finished_run_the_data_must_be_named(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    assert "has no data of its own; give some, or name a run with --run (no run in" in refused(pix_pix_eval)


@pytest.mark.parametrize(
    "options",
    [
        "--macula-mm nan",
        "--data nowhere",
        "--compare x",
        "--compare x=nowhere",
        "--compare-vessels Iternet=data/UT-FSOCTA-v1/cropped/octa",
    ],
)
def test_invalid_option_is_one_line_and_nothing_is_written(trained_project, refused, options):
    option, value = options.split()
    error = refused(pix_pix_eval, option, value)
    assert option in error or value in error
    assert not Path("logs/eval").exists()
