"""All settings of a training run, with their reasons. It imports no TensorFlow: mistakes are reported at once.

The command line of `pix_pix_train.py` is made from them, and a run's run.json keeps them.
"""

import argparse
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields

from basics.command_line import OneLineParser, UserError, flag
from pairs.table import DEFAULT_SHARES, SIMULATED
from retina.ut_fsocta import CROP_PX, DATASET_NAME, PUBLISHED_SUBJECTS, parse_shares, parse_subjects

CHECKPOINTS = "training_checkpoints"
SIZE_MULTIPLE = 64  # px: that of `pix_layers`, which would load TensorFlow
# Validation scores that can choose the best checkpoint, and whether more is better.
BEST_BY = {
    "vessel_auc": True,
    "vessel_dice": True,
    "vessel_correlation": True,
    "ssim": True,
    "psnr": True,
    "mae": False,
    "texture": False,
}
DEFAULT_BEST_BY = "vessel_auc"
OLD_WORD = "phantom"  # what 1.1.0 called simulated retinas, in run.json and on the command line
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
# Limits beyond any machine; they keep a typo, or a hostile run.json, from using up all memory.
MOST = {"patch_size": 2048, "epochs": 10**7, "batch_size": 10**4, "keep": 10**5}


# Export formats for other programs, and the file or folder that each produces.
EXPORT_FORMATS = {
    "saved_model": "saved_model",
    "keras": "generator.keras",
    "onnx": "generator.onnx",
    "litert": "generator.tflite",
}
ONE_FILE_FORMAT = "weights"  # for this program


class SettingsError(UserError):
    """Invalid settings."""


def setting(default, reason: str, **argument):
    """A field of Settings; its reason is the command line's help, `argument` goes to argparse."""
    return field(default=default, metadata={"help": reason, **argument})


@dataclass(frozen=True)
class Settings:
    """All settings of a run; the command line is made from them, and run.json keeps them."""

    # Data
    data: str | None = setting(
        None,
        f"folder that is, or contains, {DATASET_NAME}; a table of pairs, with the columns fundus, octa and subject; or "
        f"{SIMULATED}: simulated retinas, always new ones "
        f"(default: data/{DATASET_NAME}, then {DATASET_NAME}, then {SIMULATED})",
        metavar="DATA",
    )
    train_subjects: str = setting(PUBLISHED_SUBJECTS["train"], "subject ids to train on; published", metavar="IDS")
    validation_subjects: str = setting(
        PUBLISHED_SUBJECTS["validation"], "subject ids to validate on after each epoch; published", metavar="IDS"
    )
    test_subjects: str = setting(
        PUBLISHED_SUBJECTS["test"], "subject ids that training never reads; published", metavar="IDS"
    )
    split: str = setting(
        DEFAULT_SHARES,
        "for a table of pairs without a column split: shares of its subjects to train on, validate on and test on; "
        "the same subjects for every seed",
        metavar="A/B/C",
    )
    octa_channels: int = setting(
        1,
        "1: grey, as in the study's own code (the files' alpha carries no information); 4: RGBA, as published",
        choices=(1, 4),
    )
    fov_mask: bool = setting(
        True,
        "ignore everything outside the field of view, where the fundus contains nothing to predict from; "
        "--no-fov-mask trains on it and scores it, as published",
    )
    augment: bool = setting(
        True, "random crops, flips and right-angle turns; --no-augment uses the published fixed grid of patches"
    )
    mix: float = setting(
        0.0,
        "share of simulated retinas in each batch of a run on real pairs, so that training on few pairs does not "
        "overwrite what was learned from simulated retinas",
        metavar="SHARE",
    )
    # Model and losses
    patch_size: int = setting(256, "side of a square patch in px, a multiple of 64; published", metavar="PX")
    lambda_l1: float = setting(100.0, "weight of the mean absolute error in the generator's loss; published")
    l1_scale: int = setting(
        1,
        "side in px of the squares over which images are averaged before the mean absolute error is computed, in the "
        "steps with the discriminator: above 1, only the discriminator decides on the speckle; published: 1",
        metavar="PX",
    )
    input_noise: float = setting(
        0.0,
        "standard deviation, on [-1, 1], of noise added to the photograph, in the steps with the discriminator and in "
        "the pass that predicts the OCT-A: the generator makes its speckle from it; published: 0",
        metavar="SD",
    )
    # Training
    epochs: int = setting(250, "passes over the training images in total; published", metavar="N")
    batch_size: int = setting(32, "patches per step; published; reduce it if memory is short", metavar="N")
    learning_rate: float = setting(2e-4, "of both Adam optimisers (beta_1 is 0.5); published")
    l1_only: float = setting(
        0.0,
        "share of the run, at its start, in which the generator learns from the mean absolute error alone; such a step "
        "takes a third of the time, or half of it on a processor with AMX; published: 0",
        metavar="SHARE",
    )
    decay: float = setting(
        0.0,
        "share of the run, at its end, over which the learning rate falls linearly to 0; published: 0",
        metavar="SHARE",
    )
    precision: str = setting(
        "auto",
        "auto: bfloat16, about twice as fast, if the processor or GPU computes in it; otherwise float32",
        choices=PRECISIONS,
    )
    devices: int = setting(
        0,
        "number of GPUs that share each batch or, without a GPU, of parts of the CPU, to try it; 0: all GPUs, "
        "otherwise the CPU; it affects the result only through dropout's masks",
        metavar="N",
    )
    seed: int = setting(0, "for weights, crops, shuffling and dropout: the same seed gives the same run", metavar="N")
    init_from: str | None = setting(
        None, "run folder whose best weights this run starts from (fine-tuning), with new optimisers", metavar="DIR"
    )
    best_by: str = setting(
        DEFAULT_BEST_BY,
        "validation score that chooses the best checkpoint: the default needs no threshold and ignores speckle; "
        "choose another if vessels are not what matters",
        choices=tuple(BEST_BY),
    )
    # What is kept where
    name: str | None = setting(None, "name of the run and its folders (default: date and time)", metavar="NAME")
    logs: str = setting("logs", "TensorBoard's folder; a run writes to its fit/NAME", metavar="DIR")
    checkpoints: str = setting(CHECKPOINTS, "folder of checkpoints; a run writes to its NAME", metavar="DIR")
    keep: int = setting(3, "newest periodic checkpoints to keep, 0.4 GB each, in addition to the best", metavar="N")

    def __post_init__(self):
        """Raises SettingsError for an invalid value, or one that contradicts another."""
        self._check_types()
        if self.data == OLD_WORD:
            object.__setattr__(self, "data", SIMULATED)
        for name, most in MOST.items():
            self._require(1 <= getattr(self, name) <= most, name, f"must be from 1 to {most}")
        for name in ("l1_only", "decay"):
            self._require(0 <= getattr(self, name) <= 1, name, "must be from 0 to 1")
        self._require(0 <= self.mix < 1, "mix", "must be at least 0 and below 1")
        self._require(self.patch_size % SIZE_MULTIPLE == 0, "patch_size", f"must be a multiple of {SIZE_MULTIPLE} px")
        self._require(
            0 <= self.devices <= self.batch_size, "devices", f"must be from 0 to {self.batch_size}, the batch size"
        )
        self._require(0 <= self.seed < 2**32, "seed", f"must be from 0 to {2**32 - 1}")
        self._require(0 < self.learning_rate < math.inf, "learning_rate", "must be above 0")
        self._require(1 <= self.l1_scale <= self.patch_size, "l1_scale", "must be from 1 px to --patch-size")
        self._require(0 <= self.input_noise <= 1, "input_noise", "must be from 0 to 1")
        self._require(0 <= self.lambda_l1 < math.inf, "lambda_l1", "must not be negative")
        plain = self.name is None or (self.name not in ("", ".", "..") and not set(self.name) & set('/\\\0\n\r:*?"<>|'))
        self._require(plain, "name", "must be a plain folder name")
        if self.mix:
            self._require(self.data != SIMULATED, "mix", f"with --data {SIMULATED}, all are simulated retinas")
            self._require(self.batch_size > 1, "mix", "a --batch-size of 1 can't be mixed; use 2 or more, or --mix 0")
        if self.mix or self.data == SIMULATED:
            self._require(
                self.augment, "augment", "patches of simulated retinas are always random; drop --no-augment or --mix"
            )
            self._require(self.patch_size <= CROP_PX, "patch_size", f"simulated retinas are only {CROP_PX} px wide")
        try:
            parse_shares(self.split)
        except ValueError as error:
            raise SettingsError(f"--split: {error}") from error
        splits = self.splits()
        for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
            if both := sorted(set(splits[one]) & set(splits[other])):
                flags = f"--{one}-subjects and --{other}-subjects"
                raise SettingsError(f"{flags}: both contain subject {both[0]} ({len(both)} in total); give both flags")

    def _require(self, fits: bool, name: str, reason: str) -> None:
        """Raise SettingsError, naming option and value, unless the value fits."""
        if not fits:
            raise SettingsError(f"{flag(name)} {getattr(self, name)}: {reason}")

    def _check_types(self) -> None:
        """Raises SettingsError for a value of another type, or outside its choices: run.json may contain anything."""
        for spec in fields(self):
            value = getattr(self, spec.name)
            fits = isinstance(value, (int, float) if spec.type is float else spec.type)
            if not fits or (isinstance(value, bool) and spec.type is not bool) or "\0" in str(value):
                raise SettingsError(f"{flag(spec.name)} {str(value)[:40]!r}: not a valid value")
            choices = spec.metadata.get("choices", (value,))
            self._require(value in choices, spec.name, f"must be one of {', '.join(map(str, choices))}")

    def splits(self) -> dict[str, list[int]]:
        """Subject ids of `train`, `validation` and `test`. Raises SettingsError for ids that cannot be read."""
        splits = {}
        for split in SPLITS:
            try:
                splits[split] = parse_subjects(getattr(self, f"{split}_subjects"))
            except ValueError as error:
                raise SettingsError(f"--{split}-subjects: {error}") from error
        return splits


SPLITS = tuple(PUBLISHED_SUBJECTS)
SPLIT_HELP = (
    "which subjects (default: those of the split test or, if the data state no split, all; without those that the run, "
    "or one that it started from, has seen)"
)
# Simulated retinas: at most eight minutes on two cores. The generator first learns the vessels, by the mean absolute
# error alone: a step with the discriminator takes three times as long, or twice on a processor with AMX, and adds no
# vessels. Then every second step teaches it speckle, with a weight of that error that leaves it free to draw some. The
# learning rate, twice the published one, teaches more in the same number of steps, and falls to 0.
SIMULATED_RUN = {
    "epochs": 6,
    "batch_size": 2,
    "learning_rate": 4e-4,
    "l1_only": 0.7,
    "decay": 0.5,
    "lambda_l1": 8.0,
    "l1_scale": 24,
    "input_noise": 0.08,
}
# With --init-from: at the full rate, or for twice as long, training on few pairs overwrites what was learned from many.
# Only the generator learns: with few pairs a discriminator teaches nothing that the faster L1-only steps do not.
FINE_TUNING = {"epochs": 25, "batch_size": 4, "mix": 0.5, "learning_rate": 2e-5, "l1_only": 1.0, "decay": 0.5}
# What may be changed when a run is resumed; the data are compared by content.
CHANGEABLE = {"epochs", "keep", "data", "devices"}


def parse_command_line(argv: Sequence[str] | None, program: str, description: str) -> dict:
    """Read the options of a training run.

    Returns:
        The given options by field of Settings, `resume` (a folder, or "" for the newest run) and `verbose`. Ends the
        program with status 2 and one line if they are invalid.
    """
    parser = OneLineParser(prog=program, description=description, argument_default=argparse.SUPPRESS)
    for spec in fields(Settings):
        argument = dict(spec.metadata)
        reason = argument.pop("help").replace("%", "%%")
        if spec.type is bool:
            argument["action"] = argparse.BooleanOptionalAction
        else:
            argument["type"] = type(spec.default) if spec.default is not None else str
            reason += f" (default: {spec.default})" if spec.default is not None else ""
        parser.add_argument(flag(spec.name), help=reason, **argument)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="DIR",
        help="continue the run with this folder of checkpoints, up to --epochs in total (default: the newest run)",
    )
    parser.add_argument("--verbose", action="store_true", help="list the files that have no partner")
    given = vars(parser.parse_args(argv))
    if "resume" not in given:
        try:
            Settings(**{name: value for name, value in given.items() if name != "verbose"})
        except SettingsError as error:
            parser.error(str(error))
    return given


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of all programs that use a run's weights: which run, and which of its checkpoints."""
    add = parser.add_argument
    add(
        "--run",
        metavar="DIR",
        help=f"the run's folder (default: the newest in {CHECKPOINTS}/ that is finished and was trained on real pairs, "
        "otherwise the supplied weights)",
    )
    add("--weights", choices=("best", "last"), help="best by validation, or newest (default: best, if there is one)")


def as_options(settings: Settings, names: Collection[str] | None = None) -> dict[str, str]:
    """Settings, all or some, as command-line options: option -> value, without those that are None."""
    options = {}
    for spec in fields(Settings):
        value = getattr(settings, spec.name)
        if value is None or (names is not None and spec.name not in names):
            continue
        if isinstance(value, bool):
            options[flag(spec.name if value else f"no_{spec.name}")] = ""
        else:
            options[flag(spec.name)] = str(value)
    return options
