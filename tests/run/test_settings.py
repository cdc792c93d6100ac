"""Settings: one field, one option; invalid values are refused by the name of their option."""

from dataclasses import asdict, fields, replace

import pytest

from run.settings import FINE_TUNING, SIMULATED_RUN, Settings, SettingsError, as_options, parse_command_line

INVALID = [
    ("patch_size", 100),
    ("batch_size", -3),
    ("seed", 2**32),
    ("learning_rate", float("nan")),
    ("l1_only", 1.1),
    ("input_noise", 1.5),
    ("l1_scale", 257),
    ("mix", 1.0),
    ("name", "../x"),
    ("precision", "float64"),
    ("train_subjects", "1-"),
    # of another type, as run.json may contain them
    ("patch_size", "__import__('os')"),
    ("epochs", True),
    ("fov_mask", 1),
    ("data", {"class_name": "Lambda"}),
]


def given(*options):
    return parse_command_line(options, "program", "what it does")


def other_value(spec):
    """A valid value of a setting that is not its default."""
    if spec.type is bool:
        return not spec.default
    if "choices" in spec.metadata:
        return spec.metadata["choices"][-1]
    others = {"patch_size": 64, "shares": "70/15/15", "train_subjects": "1-3", "data": "DIR"}
    others |= {"validation_subjects": "200", "test_subjects": "201", "mix": 0.25}
    return others.get(spec.name, {int: 2, float: 0.5}.get(spec.type, "words"))


@pytest.mark.parametrize("spec", fields(Settings), ids=lambda spec: spec.name)
def test_setting_comes_back_from_its_option(spec):
    value = other_value(spec)
    ((option, text),) = as_options(replace(Settings(), **{spec.name: value})).items() - as_options(Settings()).items()
    assert given(option, *([text] if text else [])) == {spec.name: value}


def test_help_lists_defaults(capsys):
    with pytest.raises(SystemExit):
        given("--help")
    assert "published (default: 250)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("name", "value"), INVALID)
def test_invalid_value_is_refused_by_its_option(name, value):
    with pytest.raises(SettingsError, match=f"--{name.replace('_', '-')}"):
        replace(Settings(), **{name: value})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--train-subjects", "1-26"], "--validation-subjects"),
        (["--mix", "0.5", "--data", "simulated"], "--mix"),
        (["--mix", "0.5", "--batch-size", "1"], "--mix"),
        (["--data", "simulated", "--no-augment"], "--augment"),
        (["--data", "simulated", "--patch-size", "448"], "--patch-size"),
        (["--epochs", "many"], "--epochs"),
        (["--epoch", "3"], "--epoch"),
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
    published = {"patch_size": 256, "batch_size": 32, "epochs": 250, "lambda_l1": 100.0, "learning_rate": 2e-4}
    published |= {"l1_scale": 1, "input_noise": 0.0, "l1_only": 0.0, "decay": 0.0}
    assert published.items() <= asdict(Settings()).items()


@pytest.mark.parametrize("defaults", [SIMULATED_RUN, FINE_TUNING])
def test_other_sets_of_defaults_are_valid(defaults):
    assert defaults.items() <= asdict(Settings(**defaults)).items()


def test_settings_are_read_as_written_and_those_of_other_versions_refused():
    content = asdict(Settings(epochs=3))
    assert Settings.of_run(content | {"devices": 0, "best_by": "vessel_auc"}) == Settings(epochs=3)  # as of 1.4.0
    assert Settings.of_run({name: value for name, value in content.items() if name != "seed"}) == Settings(epochs=3)
    for other in (content | {"best_by": "ssim"}, content | {"warm_up": 0.5}, {"epochs": 3}):
        with pytest.raises(ValueError, match="not those of this version"):
            Settings.of_run(other)


# --- the best checkpoint ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("l1_scale", "best"), [(1, 0.80), (8, 0.79)])
def test_best_weights_of_a_run_that_learns_speckle_have_some(l1_scale, best):
    smooth, speckled = {"vessel_auc": 0.80, "texture": 2.6}, {"vessel_auc": 0.79, "texture": 0.4}
    assert max(smooth, speckled, key=Settings(l1_scale=l1_scale).score)["vessel_auc"] == best
