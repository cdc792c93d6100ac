"""Settings: one field, one option; each invalid value is refused by the name of its option."""

import json
from dataclasses import asdict, fields, replace

import pytest

import run.settings as pix_settings
from run.settings import Settings, SettingsError, as_options, parse_command_line

OTHER = {  # a valid value for each setting that is not its default
    "data": "DIR",
    "train_subjects": "1-3",
    "validation_subjects": "200",
    "test_subjects": "201",
    "split": "70/15/15",
    "octa_channels": 4,
    "fov_mask": False,
    "augment": False,
    "mix": 0.25,
    "patch_size": 64,
    "lambda_l1": 5.0,
    "l1_scale": 2,
    "input_noise": 0.1,
    "epochs": 3,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "l1_only": 0.5,
    "decay": 0.5,
    "precision": "float32",
    "devices": 2,
    "seed": 7,
    "best_by": "mae",
    "init_from": "RUN",
    "name": "mine",
    "logs": "elsewhere",
    "checkpoints": "there",
    "keep": 9,
}
INVALID = [
    *(("patch_size", value) for value in (100, 0, 64 * 10**9)),
    *(("epochs", value) for value in (0, 10**9)),
    *(("batch_size", value) for value in (-3, 10**9)),
    *(("keep", value) for value in (0, 10**9)),
    *(("seed", value) for value in (-1, 2**32)),
    *(("learning_rate", value) for value in (0.0, float("nan"), float("inf"))),
    *((name, value) for name in ("l1_only", "decay") for value in (-0.1, 1.1)),
    *(("lambda_l1", value) for value in (-1.0, float("nan"))),
    *(("input_noise", value) for value in (-0.1, 1.5)),
    *(("l1_scale", value) for value in (0, 257)),
    *(("name", value) for value in ("", "..", "../x", "a\nb")),
    *(("mix", value) for value in (-0.1, 1.0)),
    ("devices", 33),
    ("split", "80/20"),
    ("best_by", "rim"),
    ("octa_channels", 2),
    ("precision", "float8"),
    ("train_subjects", "1-"),
    ("validation_subjects", "3-1"),
    ("test_subjects", "1-999999999"),
]


def given(*options):
    return parse_command_line(options, "program", "what it does")


def test_every_setting_is_tried_here():
    assert OTHER.keys() == {spec.name for spec in fields(Settings)}


@pytest.mark.parametrize("spec", fields(Settings), ids=lambda spec: spec.name)
def test_setting_comes_back_from_its_option(spec):
    (option, value), *_ = as_options(replace(Settings(), **{spec.name: OTHER[spec.name]}), [spec.name]).items()
    read = given(option, value) if value else given(option)
    assert read == {spec.name: OTHER[spec.name]}


@pytest.mark.parametrize("spec", fields(Settings), ids=lambda spec: spec.name)
def test_help_lists_the_option_with_its_default(spec, capsys):
    with pytest.raises(SystemExit):
        given("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert f"--{spec.name.replace('_', '-')}" in text
    assert spec.default in (None, True) or f"(default: {spec.default})" in text


@pytest.mark.parametrize(("name", "value"), INVALID)
def test_invalid_value_is_refused_by_its_option(name, value):
    with pytest.raises(SettingsError, match=f"--{name.replace('_', '-')}"):
        replace(Settings(), **{name: value})


@pytest.mark.parametrize("spec", fields(Settings), ids=lambda spec: spec.name)
@pytest.mark.parametrize("value", [[[]], {"class_name": "Lambda"}, "__import__('os')\0", b"x"])
def test_value_of_another_type_is_refused(spec, value):
    with pytest.raises(SettingsError, match=f"--{spec.name.replace('_', '-')}"):
        replace(Settings(), **{spec.name: value})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--train-subjects", "1-26"], "--validation-subjects"),
        (["--test-subjects", "3,26"], "--train-subjects"),
        (["--mix", "0.5", "--data", "simulated"], "--mix"),
        (["--mix", "0.5", "--batch-size", "1"], "--mix"),
        (["--data", "simulated", "--no-augment"], "--augment"),
        (["--data", "simulated", "--patch-size", "448"], "--patch-size"),
        (["--epochs", "many"], "--epochs"),
        (["--epoch", "3"], "--epoch"),
        (["--warm-up", "0.5"], "--warm-up"),
    ],
)
def test_contradictions_and_mistyped_options_are_one_line(options, named, capsys):
    with pytest.raises(SystemExit) as stopped:
        given(*options)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert named in error
    assert error.count("\n") == 1


def test_defaults_are_the_published_ones():
    published = {
        "patch_size": 256,
        "batch_size": 32,
        "epochs": 250,
        "lambda_l1": 100.0,
        "l1_scale": 1,
        "input_noise": 0.0,
        "learning_rate": 2e-4,
    }
    assert published.items() <= asdict(Settings()).items()


@pytest.mark.parametrize("defaults", [pix_settings.SIMULATED_RUN, pix_settings.FINE_TUNING])
def test_other_sets_of_defaults_are_valid(defaults):
    assert json.loads(json.dumps(asdict(Settings(**defaults))))["epochs"] == defaults["epochs"]
