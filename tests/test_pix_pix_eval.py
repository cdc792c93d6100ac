"""A whole evaluation on a set in the deposit's layout, what is absent or damaged, and every rejected input."""

import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import phantom_retina
import pix_pix_eval as evaluate
import pix_pix_train as train
from pix_run import save, write_run
from vessel_metrics import SECTORS

DATA = Path("data/UT-FSOCTA-v1/cropped")
SUBJECTS = range(31, 42)


def write_grey(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(np.clip(image, 0, 1) * 255)).save(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Sample retinas of 11 test subjects in the deposit's layout, the others' images in it, and an untrained run."""
    folder = tmp_path_factory.mktemp("made")
    phantom_retina.write_dataset(folder / "data" / "UT-FSOCTA-v1", SUBJECTS, progress=False)
    random = np.random.default_rng(0)
    cropped = folder / DATA
    for path in sorted(cropped.glob("truth/*/*.png")):
        truth = np.asarray(Image.open(path)) / 255
        blurred = gaussian_filter(truth, 1)
        place = Path(path.parent.name, path.name)
        write_grey(cropped / "synthetic_octa" / place, 0.2 + 0.5 * blurred + 0.1 * random.standard_normal(truth.shape))
        write_grey(cropped / "SA_Unet" / place, blurred + 0.2 * random.random(truth.shape))
        write_grey(cropped / "Iternet" / place, truth)
        write_grey(cropped / "denoised_synthetic_octa" / "noThresh" / place, blurred)
        write_grey(cropped / "denoised_synthetic_octa" / "Thresh" / place, truth)

    settings = train.Settings(data="data/UT-FSOCTA-v1", precision="float32", name="untrained")
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(0)
    generator = train.Pix2Pix(settings).generator
    run = folder / "training_checkpoints" / "untrained"
    save(tf.train.Checkpoint(generator=generator), run, step=7, keep=1)
    write_run(run, settings, "0")
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """An empty folder to run in, with links to the data and the run."""
    (tmp_path / "data").symlink_to(made / "data")
    (tmp_path / "training_checkpoints").symlink_to(made / "training_checkpoints")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def few(made, tmp_path, monkeypatch):
    """As `folder`, but with two subjects' own copies, to spoil."""
    for path in (made / DATA).rglob("*.png"):
        if path.name in ("31_OD.png", "32_OS.png"):
            target = tmp_path / path.relative_to(made)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    (tmp_path / "training_checkpoints").symlink_to(made / "training_checkpoints")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results():
    (folder,) = Path("logs/eval").iterdir()
    return folder, pd.read_csv(folder / "per_eye.csv"), pd.read_csv(folder / "summary.csv")


def test_whole_evaluation_of_the_deposit_s_layout(folder, capsys):
    assert evaluate.main(["--resamples", "200"]) == 0
    written, per_eye, summary = results()
    assert {path.name for path in written.iterdir()} == {
        *("per_eye.csv", "summary.csv", "summary.md", "density_scatter.png", "bland_altman.png"),
        *("precision_recall.png", "montage_disc.png", "montage_macula.png"),
    }
    candidates = ["this run", "synthetic_octa", "denoised_synthetic_octa", "SA_Unet", "Iternet"]
    candidates += ["real OCT-A, segmented", "green channel", "ridge filter"]
    for region in ("disc", "macula"):
        part = per_eye[per_eye["region"] == region]
        assert list(part["candidate"].unique()) == ["real OCT-A", *candidates]
        assert len(part) == 9 * len(SUBJECTS) * len(SECTORS[region])

    # The truth is the exact one: who has it scores 1, and has its density in every eye and sector.
    whole = summary[summary["sector"] == "whole"].set_index(["region", "candidate", "measure"]).sort_index()
    for region in ("disc", "macula"):
        for measure in ("roc_auc", "average_precision", "dice", "sensitivity", "specificity", "cldice"):
            assert whole.loc[(region, "Iternet", measure), "mean"] == 1
        assert whole.loc[(region, "denoised_synthetic_octa", "dice"), "mean"] == 1  # by the binary map beside it
        assert 0.9 < whole.loc[(region, "SA_Unet", "roc_auc"), "mean"] <= 1
        assert whole.loc[(region, "this run", "roc_auc"), "mean"] < 0.7
        difference = whole.loc[(region, "Iternet", "roc_auc")]
        ours = whole.loc[(region, "this run", "roc_auc"), "mean"]
        assert difference["difference"] == pytest.approx(1 - ours, abs=1e-5)
        assert difference["difference_low"] > 0.1
        assert difference["p"] == pytest.approx(2 / 2 ** len(SUBJECTS), rel=1e-4)
        assert (region, "Iternet", "mae") not in whole.index  # a vessel map is no OCT-A
        segmented = whole.loc[(region, "real OCT-A, segmented")]
        assert 0.65 < segmented.loc["dice", "mean"] < 1
        assert 0.6 < segmented.loc["vessel_density", "pearson"] < 1
    of_density = summary[(summary["candidate"] == "Iternet") & summary["measure"].isin(["vessel_density"])]
    of_density = of_density[of_density["eyes"] >= 10]
    assert len(of_density) >= 10
    assert of_density["pearson"].to_numpy() == pytest.approx(1)
    assert of_density[["bias", "limit_low", "limit_high"]].abs().to_numpy().max() < 1e-9
    assert whole.loc[("macula", "real OCT-A", "faz_mm2"), "mean"] == pytest.approx(0.2, abs=0.12)  # 0.4 to 0.6 mm wide

    # Every true vessel pixel of an eye, once more, by hand.
    truth = np.asarray(Image.open(DATA / "truth" / "macula" / "33_OD.png")) > 0
    fundus = np.asarray(Image.open(DATA / "fundus" / "macula" / "33_OD.png"))
    assert (fundus.max(axis=-1) > 15).all()  # no border of the field
    row = per_eye[(per_eye["subject"] == 33) & (per_eye["region"] == "macula") & (per_eye["candidate"] == "real OCT-A")]
    assert row["vessel_density"].iloc[0] == pytest.approx(truth.mean(), rel=1e-5)

    printed = capsys.readouterr().out
    assert "22 crops of 11 subjects; true vessels: the exact vessels of the sample retinas" in printed
    assert "Bootstrap over subjects: 200 resamples, seed 0" in printed
    report = (written / "summary.md").read_text()
    assert "| Iternet | 11 | 1.000 [1.000, 1.000] |" in report
    assert "SUBJECTS: correlations" not in report
    events = EventAccumulator("logs/fit/untrained/evaluation", size_guidance={"tensors": 0})
    events.Reload()
    (event,) = events.Tensors("evaluation/disc/roc_auc")
    assert event.step == 7
    assert float(tf.make_ndarray(event.tensor_proto)) == pytest.approx(
        whole.loc[("disc", "this run", "roc_auc"), "mean"], rel=1e-4
    )
    assert "evaluation/macula/vessel_density pearson" in events.Tags()["tensors"]


def test_few_subjects_and_what_is_absent_are_said(few, capsys):
    shutil.rmtree(DATA / "truth")
    shutil.rmtree(DATA / "SA_Unet")
    (DATA / "Iternet" / "disc" / "31_OD.png").unlink()
    for path in DATA.glob("denoised_synthetic_octa/Thresh/*/32_OS.png"):
        target = DATA / "GT_OCT_net" / "Thresh" / path.relative_to(DATA / "denoised_synthetic_octa" / "Thresh")
        target.parent.mkdir(parents=True)
        shutil.copy(path, target)
    (DATA / "synthetic_octa" / "macula" / "32_OS.png").write_text("no image")
    own = few / "own"
    shutil.copytree(DATA / "Iternet" / "macula", own / "macula")
    assert evaluate.main(["--compare", f"net={own}", "--compare-vessels", f"maps={own}"]) == 2
    output = capsys.readouterr()
    assert "error: data/UT-FSOCTA-v1/cropped/synthetic_octa/macula/32_OS.png: cannot be read" in output.err
    assert output.err.count("32_OS.png") == 1
    assert "ONLY 1 SUBJECT:" in output.out
    assert "absent from the data: SA_Unet" in output.out
    assert "2 of 4 crops are left out: no usable pair, or no true vessels" in output.out
    assert "net: 1 of 2 crops are absent" in output.out
    assert "true vessels: the deposit's map of the real OCT-A (GT_OCT_net/Thresh)" in output.out
    written, per_eye, summary = results()
    assert set(per_eye["subject"]) == {32}
    whole = summary[(summary["sector"] == "whole") & (summary["measure"] == "dice")]
    assert whole.set_index(["region", "candidate"]).loc[("macula", "maps"), "mean"] == 1
    assert np.isfinite(whole["mean"]).all()
    for column in ("low", "pearson", "limit_low", "p"):
        assert column not in summary or summary[column].isna().all()
    assert "left out (below 10)" in (written / "summary.md").read_text()


def test_segmenter_on_request_makes_the_real_octa_its_own_truth(few):
    assert evaluate.main(["--segmenter", "--compare", f"same={DATA / 'octa'}"]) == 0
    _, per_eye, summary = results()
    same = summary[(summary["candidate"] == "same") & (summary["sector"] == "whole")].set_index("measure")
    assert same.loc[["dice", "cldice"], "mean"].to_numpy() == pytest.approx(1)
    assert same.loc["mae", "mean"].max() < 1e-7
    assert "real OCT-A, segmented" not in set(per_eye["candidate"])


def test_pooled_curve_equals_that_of_all_pixels():
    random = np.random.default_rng(0)
    vessel = random.random(5000) < 0.2
    level = np.clip(random.integers(0, 800, 5000) + 200 * vessel, 0, 1023)
    counts = np.stack([np.bincount(level[vessel == kind], minlength=1024) for kind in (False, True)])
    precision, recall, area = evaluate.curve_of(counts)
    assert area == pytest.approx(average_precision_score(vessel, level))
    assert (precision[0], recall[0]) == (pytest.approx(vessel.mean()), 1)


def test_images_below_no_region_serve_data_of_one_region(few):
    flat = few / "flat"
    shutil.copytree(DATA / "Iternet" / "disc", flat)
    assert evaluate.list_cases(flat, ["disc"]).keys() == {(31, "OD", "disc"), (32, "OS", "disc")}
    assert evaluate.list_cases(flat, ["disc", "macula"]) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--disc-mm", "0"], r"--disc-mm 0: must be above 0"),
        (["--macula-mm", "nan"], r"--macula-mm nan: must be above 0"),
        (["--resamples", "0"], r"--resamples 0: must be from 1 to 100000"),
        (["--seed", "-1"], r"--seed -1: must be from 0"),
        (["--split", "some"], r"argument --split: invalid choice: 'some'"),
        (["--split", "train"], r"--split train: data/UT-FSOCTA-v1 holds no pair of it"),
        (["--data", "nowhere"], r"--data nowhere: holds no cropped/fundus"),
        (["--run", "nowhere"], r"nowhere: is no run"),
        (["--compare", "x"], r"--compare x: write it as NAME=DIR"),
        (["--compare", "x=nowhere"], r"--compare x=nowhere: no <subject>_<OD\|OS>.png in disc or macula below it"),
        (["--compare-vessels", "Iternet=data"], r"--compare-vessels Iternet=data: the name Iternet is taken"),
        (["--weights", "best"], r"training_checkpoints/untrained: holds no best checkpoint"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(folder, capsys, options, message):
    try:
        status = evaluate.main(options)
    except SystemExit as stopped:  # from argparse
        status = stopped.code
    assert status == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.startswith("pix_pix_eval.py: error: ")
    assert error.count("\n") == 1
    assert not Path("logs").exists()
