"""The log of a run: metrics.csv by name, and what is refused."""

import csv

import pytest
import tensorflow as tf
from conftest import PROJECT, events_of, logged
from run.tags import CHARTS, DESCRIPTIONS, VALIDATION
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

import run.log as pix_log
from basics.command_line import UserError
from run.settings import Settings


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
        ("step,mae\n10,0.5\n", "no column 'epoch'"),
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
    tags = [tag for tag in DESCRIPTIONS if not tag.startswith("epoch/")]
    assert [tag for tag in (*tags, "epoch/LOSS", "settings") if f"`{tag}`" not in page] == []


def test_charts_show_tags_that_are_logged():
    shown = [
        VALIDATION + tag if group == "validation" else tag
        for group, charts in CHARTS.items()
        for tags in charts.values()
        for tag in tags
    ]
    assert [tag for tag in shown if tag not in DESCRIPTIONS] == []


def test_scalars_carry_their_description(tmp_path):
    log = pix_log.RunLog(tmp_path)
    log.scalars({"learning_rate": 1.0}, 1)
    log.flush()
    assert events_of(tmp_path).SummaryMetadata("learning_rate").summary_description == DESCRIPTIONS["learning_rate"]


def started(folder) -> tuple[str, EventAccumulator]:
    """The text of a run's settings, and all that is logged, of a run with another batch size."""
    log = pix_log.RunLog(folder)
    log.start(Settings(batch_size=7, name="x"), {"device": "CPU"}, 0)
    log.flush()
    events = events_of(folder)
    return tf.make_ndarray(events.Tensors("settings")[0].tensor_proto).item().decode(), events


def test_settings_that_differ_come_first(tmp_path):
    text, _ = started(tmp_path)
    table, _, others = text.partition("As published:")
    assert "| --batch-size | 7 |" in table
    assert "--epochs" not in table
    assert "`--epochs 250`" in others


def test_settings_name_the_device(tmp_path):
    assert "| device | CPU |" in started(tmp_path)[0]


def test_settings_that_differ_are_hyperparameters(tmp_path):
    _, events = started(tmp_path)
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"batch-size" in content
    assert b"epochs" not in content


def test_charts_open_on_validation(tmp_path):
    _, events = started(tmp_path)
    content = tf.make_ndarray(events.Tensors("custom_scalars__config__")[0].tensor_proto).item()
    groups = layout_pb2.Layout.FromString(content).category
    assert [(group.title, group.closed) for group in groups][:2] == [
        ("validation", False),
        ("losses, means of epochs", True),
    ]
