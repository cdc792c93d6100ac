"""All settings of a training run, with their reasons. It imports no TensorFlow: mistakes are reported at once.

The command line of `pix_pix_train.py` is made from them, and a run's run.json keeps them.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import combinations

from basics.command_line import OneLineParser, UserError, flag
from pairs.table import DEFAULT_SHARES, SIMULATED
from retina.ut_fsocta import CROP_PX, DATASET_NAME, PUBLISHED_SUBJECTS, parse_shares, parse_subjects

CHECKPOINTS = "training_checkpoints"
SIZE_MULTIPLE = 64  # px: that of `pix_layers`, which would load TensorFlow
SPECKLE_WEIGHT = 0.01  # vessel AUC that a run which learns speckle gives up to halve the error of its power
BEFORE = {"best_by": "vessel_auc"}  # settings of 1.4.0 that have gone: it is always so now
NEWEST_OF_1_4 = "patches_per_retina"  # runs without it did some things otherwise by default
PRECISIONS = ("auto", "float32", "mixed_bfloat16")
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
        f"folder that is, or contains, {DATASET_NAME}; table of pairs; or {SIMULATED}: simulated retinas, always new "
        f"ones (default: data/{DATASET_NAME}, then {DATASET_NAME}, then {SIMULATED})",
        metavar="DATA",
    )
    train_subjects: str = setting(PUBLISHED_SUBJECTS["train"], "subject ids to train on; published", metavar="IDS")
    validation_subjects: str = setting(PUBLISHED_SUBJECTS["validation"], "ids to validate on; published", metavar="IDS")
    test_subjects: str = setting(PUBLISHED_SUBJECTS["test"], "ids that training never reads; published", metavar="IDS")
    shares: str = setting(
        DEFAULT_SHARES,
        "of a table of pairs without a column split: shares of its subjects to train, validate and test on",
        metavar="A/B/C",
    )
    octa_channels: int = setting(1, "1: grey, as in the study's own code; 4: RGBA, as published", choices=(1, 4))
    fov_mask: bool = setting(
        True, "ignore everything outside the field of view; --no-fov-mask trains on it and scores it, as published"
    )
    augment: bool = setting(
        True, "random crops, flips and right-angle turns; --no-augment uses the published fixed grid of patches"
    )
    mix: float = setting(
        0.0,
        "share of simulated retinas in each batch of a run on real pairs: few pairs alone overwrite what was learned",
        metavar="SHARE",
    )
    vessel_output: bool = setting(
        False, "predict a vessel probability besides the OCT-A, learned from simulated retinas; published: none"
    )
    patches_per_retina: int = setting(
        4,
        "patches cut from each simulated retina; drawing one takes a core 0.15 s, so more of them feed a fast GPU, but "
        "they are alike",
        metavar="N",
    )
    # Model and losses
    patch_size: int = setting(256, "side of a square patch in px, a multiple of 64; published", metavar="PX")
    lambda_l1: float = setting(100.0, "weight of the mean absolute error in the generator's loss; published")
    discriminator_calls: int = setting(
        1,
        "1: the discriminator judges real and generated patches in one batch; 2: in two, each normalised by its own "
        "mean and variance, which hides differences of contrast, as published",
        choices=(1, 2),
    )
    l1_scale: int = setting(
        1,
        "in the steps with the discriminator, side in px of the squares whose means have this error: above 1, only the "
        "discriminator decides on the speckle; published: 1",
        metavar="PX",
    )
    input_noise: float = setting(
        0.0,
        "standard deviation, on [-1, 1], of noise on the photograph in these steps and when an OCT-A is predicted: the "
        "generator makes its speckle from it; published: 0",
        metavar="SD",
    )
    # Training
    epochs: int = setting(250, "passes over the training images in total; published", metavar="N")
    batch_size: int = setting(32, "patches per step; published; reduce it if memory is short", metavar="N")
    learning_rate: float = setting(2e-4, "of both Adam optimisers (beta_1 is 0.5); published")
    l1_only: float = setting(
        0.0,
        "share of the run, at its start, in which the generator learns without the discriminator, in steps that take a "
        "third to half of the time; published: 0",
        metavar="SHARE",
    )
    decay: float = setting(
        0.0, "share of the run, at its end, in which the rate falls linearly to 0; published: 0", metavar="SHARE"
    )
    precision: str = setting(
        "auto", "auto: bfloat16, twice as fast, if the processor or GPU computes in it, or float32", choices=PRECISIONS
    )
    devices: int = setting(
        0, "number of GPUs, or to try it parts of the CPU, that share each batch; 0: all GPUs, or the CPU", metavar="N"
    )
    seed: int = setting(0, "for weights, crops, shuffling and dropout: the same seed gives the same run", metavar="N")
    init_from: str | None = setting(
        None,
        "run folder whose best weights this run starts from, with new optimisers and defaults (docs/training.md)",
        metavar="DIR",
    )
    # What is kept where
    name: str | None = setting(None, "name of the run and its folders (default: date and time)", metavar="NAME")
    logs: str = setting("logs", "TensorBoard's folder; a run writes to its fit/NAME", metavar="DIR")
    checkpoints: str = setting(CHECKPOINTS, "folder of checkpoints; a run writes to its NAME", metavar="DIR")
    keep: int = setting(3, "newest periodic checkpoints to keep, 0.4 GB each, in addition to the best", metavar="N")

    @classmethod
    def of_run(cls, content: dict) -> "Settings":
        """Those in a run.json, of 1.4.0 with BEFORE; a later setting has its default. Raises ValueError for others."""
        content = {name: value for name, value in content.items() if (name, value) not in BEFORE.items()}
        if NEWEST_OF_1_4 not in content or content.keys() - {spec.name for spec in fields(cls)}:
            raise ValueError("its settings are not those of this version")
        return cls(**content)

    def __post_init__(self):
        """Raises SettingsError for an invalid value, or one that contradicts another."""
        self._check_types()
        for name in ("patch_size", "epochs", "batch_size", "keep", "patches_per_retina"):
            self._require(getattr(self, name) >= 1, name, "must be at least 1")
        for name in ("l1_only", "decay", "input_noise"):
            self._require(0 <= getattr(self, name) <= 1, name, "must be from 0 to 1")
        self._require(0 <= self.mix < 1, "mix", "must be at least 0 and below 1")
        self._require(self.patch_size % SIZE_MULTIPLE == 0, "patch_size", f"must be a multiple of {SIZE_MULTIPLE} px")
        self._require(0 <= self.devices <= self.batch_size, "devices", "must be from 0 to --batch-size")
        self._require(0 <= self.seed < 2**32, "seed", f"must be from 0 to {2**32 - 1}")
        self._require(0 < self.learning_rate < math.inf, "learning_rate", "must be above 0")
        self._require(1 <= self.l1_scale <= self.patch_size, "l1_scale", "must be from 1 px to --patch-size")
        self._require(0 <= self.lambda_l1 < math.inf, "lambda_l1", "must not be negative")
        plain = self.name is None or (self.name not in ("", ".", "..") and not set(self.name) & set('/\\\0\n\r:*?"<>|'))
        self._require(plain, "name", "must be a plain folder name")
        if self.mix:
            self._require(self.data != SIMULATED, "mix", f"with --data {SIMULATED}, all are simulated retinas")
            self._require(self.batch_size > 1, "mix", "a --batch-size of 1 can't be mixed; use 2 or more, or --mix 0")
        if self.vessel_output and not self.mix and self.data not in (None, SIMULATED):
            raise SettingsError(f"--vessel-output: it learns from simulated retinas; add --mix, or --data {SIMULATED}")
        if self.mix or self.data == SIMULATED:
            self._require(self.augment, "augment", "patches of simulated retinas are always random; drop --no-augment")
            self._require(self.patch_size <= CROP_PX, "patch_size", f"simulated retinas are only {CROP_PX} px wide")
        try:
            parse_shares(self.shares)
        except ValueError as error:
            raise SettingsError(f"--shares: {error}") from error
        for (one, ids), (other, others) in combinations(self.splits().items(), 2):
            if both := sorted(set(ids) & set(others)):
                raise SettingsError(
                    f"--{one}-subjects and --{other}-subjects: both contain subject {both[0]}; give both"
                )

    def _require(self, fits: bool, name: str, reason: str) -> None:
        """Raise SettingsError, naming option and value, unless the value fits."""
        if not fits:
            raise SettingsError(f"{flag(name)} {getattr(self, name)}: {reason}")

    def _check_types(self) -> None:
        """Raises SettingsError for a value of another type, or outside its choices: run.json may contain anything."""
        for spec in fields(self):
            value = getattr(self, spec.name)
            fits = isinstance(value, (int, float) if spec.type is float else spec.type)
            self._require(fits and isinstance(value, bool) == (spec.type is bool), spec.name, "not a valid value")
            choices = spec.metadata.get("choices", (value,))
            self._require(value in choices, spec.name, f"must be one of {', '.join(map(str, choices))}")

    @property
    def target_channels(self) -> int:
        """Channels that the generator predicts: of the OCT-A and, if wanted, the vessel probability."""
        return self.octa_channels + self.vessel_output

    def score(self, scores: dict[str, float]) -> float:
        """A checkpoint's score, higher is better, from its validation scores.

        It is the vessel AUC, which needs no threshold and ignores speckle. With `l1_scale` above 1, a penalty for wrong
        speckle is subtracted.
        """
        return scores["vessel_auc"] - (SPECKLE_WEIGHT * scores["texture"] if self.l1_scale > 1 else 0)

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
# Simulated retinas: at most eight minutes on two cores. The generator first learns the vessels, without the
# discriminator, which adds none. Then every second step teaches it speckle, with a weight of the mean absolute error
# that leaves it free to draw some. Twice the published learning rate teaches more in as many steps; it falls to 0.
SIMULATED_RUN = {
    "vessel_output": True,
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
        The given options by field of Settings, and `resume` (a folder, or "" for the newest run). Ends the program with
        status 2 and one line if they are invalid.
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
    given = vars(parser.parse_args(argv))
    if "resume" not in given:
        try:
            Settings(**given)
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


def as_options(settings: Settings) -> dict[str, str]:
    """Settings as command-line options: option -> value, without those that are None."""
    options = {}
    for spec in fields(Settings):
        value = getattr(settings, spec.name)
        if isinstance(value, bool):
            options[flag(spec.name if value else f"no_{spec.name}")] = ""
        elif value is not None:
            options[flag(spec.name)] = str(value)
    return options
