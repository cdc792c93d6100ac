"""The log of a run: metrics.csv by name, what TensorBoard shows, and what is refused."""

import csv
import re

import pytest
import tensorflow as tf
from conftest import PROJECT, events_of, logged
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from basics.command_line import UserError
from run.log import CHARTS, COMPARED, DESCRIPTIONS, RunLog
from run.settings import Settings


def rows_of(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def test_resumed_run_with_a_new_score_keeps_its_columns(tmp_path):
    RunLog(tmp_path).scores({"mae": 0.1 + 0.2, "psnr": float("nan")}, 1, 10)
    RunLog(tmp_path, 1).scores({"ssim": 3.0, "mae": 0.25}, 2, 20)
    assert rows_of(tmp_path) == [
        {"epoch": "1", "step": "10", "mae": "0.30000000000000004", "psnr": "nan", "ssim": "nan"},
        {"epoch": "2", "step": "20", "mae": "0.25", "psnr": "nan", "ssim": "3.0"},
    ]


def test_rows_after_the_checkpoint_are_dropped_on_resuming(tmp_path):
    log = RunLog(tmp_path)
    for epoch in (1, 2, 3):
        log.scores({"mae": epoch / 10}, epoch, 10 * epoch)
    RunLog(tmp_path, 1).scores({"mae": 0.9}, 2, 20)
    assert [(row["step"], row["mae"]) for row in rows_of(tmp_path)] == [("10", "0.1"), ("20", "0.9")]


def test_table_that_was_deleted_is_begun_again(tmp_path):
    for epoch in (2, 3):
        RunLog(tmp_path, epoch - 1).scores({"mae": 0.9}, epoch, 10 * epoch)
    assert [row["epoch"] for row in rows_of(tmp_path)] == ["2", "3"]


@pytest.mark.parametrize("content", ["step,mae\n10,0.5\n", ""], ids=["no epoch", "empty"])
def test_damaged_metrics_are_refused_and_left_alone(tmp_path, content):
    table = tmp_path / "metrics.csv"
    table.write_text(content)
    with pytest.raises(UserError, match=f"{table}: damaged .* move it away"):
        RunLog(tmp_path, 2)
    assert table.read_text() == content


def test_every_tag_is_documented():
    page = (PROJECT / "docs" / "tensorboard.md").read_text()
    tags = [tag for tag in DESCRIPTIONS if not tag.startswith("epoch/")]
    assert [tag for tag in (*tags, "epoch/LOSS") if f"`{tag}`" not in page] == []


def test_charts_show_tags_that_are_logged():
    patterns = [pattern for charts in CHARTS.values() for pattern in charts.values()]
    assert [pattern for pattern in patterns if not any(re.fullmatch(pattern, tag) for tag in DESCRIPTIONS)] == []


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """The folder of logs of a run with another batch size, with a score."""
    folder = tmp_path_factory.mktemp("started")
    log = RunLog(folder)
    log.start(Settings(batch_size=7, name="x"), 0)
    log.scores({"mae": 0.5}, 1, 10)
    return folder


def test_scores_are_summaries_with_their_description(started):
    assert logged(started, "validation/mae") == {10: 0.5}
    assert events_of(started).SummaryMetadata("validation/mae").summary_description == DESCRIPTIONS["validation/mae"]


def test_settings_that_differ_are_hyperparameters(started):
    parameters = events_of(started).SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"batch-size" in parameters
    assert b"epochs" not in parameters


def test_runs_are_compared_by_six_scores(started):
    content = events_of(started).SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    assert [metric.name.tag for metric in experiment.metric_infos] == [f"validation/{name}" for name in COMPARED]
    assert {"batch-size", "l1-only"} <= {parameter.name for parameter in experiment.hparam_infos}


def test_charts_open_on_validation(started):
    content = tf.make_ndarray(events_of(started).Tensors("custom_scalars__config__")[0].tensor_proto).item()
    groups = layout_pb2.Layout.FromString(content).category
    assert [group.title for group in groups if not group.closed] == ["validation"]
