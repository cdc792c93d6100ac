"""The log of a run: metrics.csv by name, and what is refused."""

import csv

import pytest
from conftest import PROJECT, logged

import pix_log
from pix_command import UserError
from vessel_metrics import VALIDATION_SCORES


def rows_of(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def test_resumed_run_with_a_new_score_keeps_its_columns(tmp_path):
    pix_log.RunLog(tmp_path).scores({"mae": 0.5, "psnr": 12.0}, 1, 10)
    pix_log.RunLog(tmp_path, 1).scores({"ssim": 3.0, "mae": 0.25}, 2, 20)
    assert rows_of(tmp_path) == [
        {"epoch": "1", "step": "10", "mae": "0.5", "psnr": "12.0", "ssim": "nan"},
        {"epoch": "2", "step": "20", "mae": "0.25", "psnr": "nan", "ssim": "3.0"},
    ]


def test_rows_after_the_checkpoint_are_dropped_on_resuming(tmp_path):
    log = pix_log.RunLog(tmp_path)
    for epoch in (1, 2, 3):
        log.scores({"mae": epoch / 10}, epoch, 10 * epoch)
    pix_log.RunLog(tmp_path, 1).scores({"mae": 0.9}, 2, 20)
    assert [(row["step"], row["mae"]) for row in rows_of(tmp_path)] == [("10", "0.1"), ("20", "0.9")]


def test_scores_keep_all_their_digits(tmp_path):
    pix_log.RunLog(tmp_path).scores({"mae": 0.1 + 0.2}, 1, 10)
    assert float(rows_of(tmp_path)[0]["mae"]) == 0.1 + 0.2


def test_scores_are_summaries_too(tmp_path):
    log = pix_log.RunLog(tmp_path)
    log.scores({"mae": 0.5}, 1, 10)
    log.flush()
    assert logged(tmp_path, "validation/mae") == {10: 0.5}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("epoch,step,mae\n1,10,0.5\n2,20\n", "epoch 2 lacks a value"),
        ("epoch,step,mae\n1,10,0.5\n", "has 1 of 2 epochs"),
        ("epoch,step,error\n1,10,0.5\n2,20,0.4\n", "unknown column 'error'"),
        ("epoch,step,mae\none,10,0.5\n", "invalid literal"),
        ("epoch,step\n1,10,0.5\n", "more cells"),
        ("", "has 0 of 2 epochs"),
        (None, "has 0 of 2 epochs"),
    ],
)
def test_damaged_metrics_are_kept_aside_and_named(tmp_path, capsys, content, reason):
    table = tmp_path / "metrics.csv"
    if content is not None:
        table.write_text(content)
    pix_log.RunLog(tmp_path, 2).scores({"mae": 0.3}, 3, 30)
    printed = capsys.readouterr().out
    assert f"{table}: damaged" in printed
    assert reason in printed
    assert [row["epoch"] for row in rows_of(tmp_path)] == ["3"]
    aside = tmp_path / "metrics-damaged-1.csv"
    assert (aside.read_text() if aside.exists() else None) == content


def test_full_disk_is_reported(tmp_path, monkeypatch):
    log = pix_log.RunLog(tmp_path / "logs")
    monkeypatch.setattr(pix_log, "MIN_FREE_BYTES", 1e30)
    with pytest.raises(UserError, match=str(tmp_path / "logs")):
        log.flush()


def test_every_tag_is_documented():
    page = (PROJECT / "docs" / "tensorboard.md").read_text()
    losses = ("gen_total_loss", "gen_gan_loss", "gen_l1_loss", "disc_loss", "disc_real_mean", "disc_generated_mean")
    others = ("learning_rate", "images_per_second", "settings", "Fundus", "Target OCT", "Predicted OCT", "Whole Fundus")
    scores = (f"validation/{name}" for name in VALIDATION_SCORES)
    assert [tag for tag in (*losses, *others, *scores) if f"`{tag}`" not in page] == []
