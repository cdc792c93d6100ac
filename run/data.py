"""The data of a run: what it is trained on, loaded and listed; and the subjects on which its weights can be used.

A run must not be tested on photographs that it, or a run it started from, has seen: training refuses it, and synthesis
and evaluation leave these subjects out.
"""

import os
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from basics.command_line import OptionError
from pairs.dataset import SIMULATED_SET, Pair, load_data_cases, load_pairs, seen_subjects, validation_full_field
from pairs.table import ANY_SHARES, REGISTRATION, SIMULATED, columns_of, is_table, origin_of_splits
from retina.images import FUNDUS_CHANNELS, DataError, in_own_pages, photo_digest, read_fundus
from run.batches import SimulatedPatches, TrainingPatches, training_image
from run.settings import SPLITS, Settings
from simulation.eye import TREE_SHARED_BY
from simulation.stream import simulated_pair, stream

HAS_SEEN = "the run, or one that it started from, was trained or validated on {}"
NAMED = 5  # subjects listed in an error
PICTURED = 3  # pairs shown in TensorBoard
VALIDATION_RETINAS = 12  # they take less than a tenth of the default run
FIRST_OF_VALIDATION = TREE_SHARED_BY * 10**8  # its number in the stream of seed 0: training never gets that far
MAX_DRAWING = 32  # processes that draw simulated retinas; each takes 90 MB


@dataclass(frozen=True)
class RunData:
    """The data of a run."""

    train: list[np.ndarray]  # from `training_image`
    validation: list[Pair]
    names: list[str]  # of the validation pairs
    full_field: np.ndarray | None  # whole photograph (height, width, 3), uint8, of the first validation eye with one
    digest: str  # of the training and validation images: the same for the same data
    seen: frozenset[str]  # `photo_digest` of their photographs and of the originals of these, except simulated retinas

    def pictured(self) -> dict[str, Pair]:
        """A few pairs to show, by name: validation pairs, evenly spread, or without any the first training pairs."""
        if self.validation:
            places = sorted({round(place) for place in np.linspace(0, len(self.validation) - 1, PICTURED)})
            return {self.names[place]: self.validation[place] for place in places}
        pairs = {}
        for number, image in enumerate(self.train[:PICTURED], 1):
            fundus, octa = np.split(image, [FUNDUS_CHANNELS], axis=-1)
            pairs[f"training pair {number}, which it is trained on"] = Pair(fundus, octa, np.ones(octa.shape[:2], bool))
        return pairs


def load_run_data(settings: Settings, seen_before: Collection[str] = ()) -> RunData:
    """Read, or draw, all images that a run needs, and print a summary.

    `seen_before` are the photographs (`photo_digest`) seen by the run from which this one starts.

    A run on simulated retinas validates on others that vary as much: crops of one kind do not rank its weights as
    photographs do.

    Raises:
        DataError: there is no training case, a file cannot be used, or a test subject was seen before.
    """
    simulated_only = settings.data == SIMULATED
    data_fold = SIMULATED_SET if simulated_only else Path(settings.data)
    splits = settings.splits()
    cases, unpaired = load_data_cases(data_fold, splits, settings.shares)
    full_field = validation_full_field(data_fold, cases)
    full_field = None if full_field is None else read_fundus(full_field)
    if simulated_only:
        print(f"Data: simulated retinas, drawn as needed; validation: {VALIDATION_RETINAS} others")
        validation = simulated_validation(settings)
        names = [f"simulated retina {number}" for number in range(1, len(validation) + 1)]
        return RunData([], validation, names, full_field, f"{digest_of_pairs(validation):08x}", frozenset())
    chosen = {split: cases[cases["split"] == split] for split in splits}
    if chosen["train"].empty:
        subjects = ", ".join(map(str, sorted(cases["subject"].unique()))) or "none"
        wanted = "the split train" if is_table(data_fold) else f"--train-subjects {settings.train_subjects}"
        raise DataError(f"{data_fold}: no case of {wanted}; its subjects: {subjects}")
    if known := seen_subjects(chosen["test"], seen_before):
        examples = ", ".join(sorted(map(str, known))[:NAMED])
        raise DataError(
            f"--init-from {settings.init_from}: has seen {len(known)} of this run's test subjects ({examples}); "
            "remove them from the test split, or train on them here too"
        )

    if settings.mix:
        print(f"Training: {settings.mix:.0%} of each batch are simulated retinas, drawn as needed")
    origin = f"; {origin_of_splits(data_fold, settings.shares)}" if is_table(data_fold) else ""
    print(f"Data: {data_fold}{origin}")
    if not any((folder / REGISTRATION).exists() for folder in (data_fold, data_fold.parent)):
        print("  NOTE: unregistered pairs, mostly some pixels apart; align them first: dataset_load_mod.py register")
    for split, rows in chosen.items():
        regions = ", ".join(f"{region} {number}" for region, number in rows["region"].value_counts(sort=False).items())
        print(f"  {split:<10} {rows['subject'].nunique():>3} subjects, {len(rows):>3} pairs ({regions})")
    if unused := int(cases["split"].isna().sum()):
        print(f"  unused     {unused} pairs of subjects that are in no split")
    if unpaired:
        print(f"  {len(unpaired)} files have no partner; dataset_load_mod.py check lists them")
    if chosen["validation"].empty:
        print("  NOTE: no validation pairs: no scores, no best checkpoint, and TensorBoard shows training pairs")
    elif known := seen_subjects(chosen["validation"], seen_before):
        number = chosen["validation"]["subject"].nunique()
        print(
            f"NOTE: --init-from {settings.init_from}: HAS SEEN {len(known)} OF {number} VALIDATION SUBJECTS. The "
            "validation scores are flattered, and so is the choice of the best checkpoint by them"
        )

    train, digest, resized = [], 0, 0
    seen = [digest for split in ("train", "validation") for digest in chosen[split]["original_digest"] if digest]
    for pair in load_pairs(chosen["train"], settings.octa_channels, settings.fov_mask):
        digest = digest_of_pairs([pair], digest)
        seen.append(photo_digest(pair.fundus))
        train.append(in_own_pages(training_image(pair, settings.patch_size)))
        resized += pair.resized
    validation = list(load_pairs(chosen["validation"], settings.octa_channels, settings.fov_mask))
    if resized := resized + sum(pair.resized for pair in validation):
        print(f"  {resized} OCT-A are resized to the size of their photograph")
    seen += [photo_digest(pair.fundus) for pair in validation]
    names = list(chosen["validation"]["name"])
    return RunData(train, validation, names, full_field, f"{digest_of_pairs(validation, digest):08x}", frozenset(seen))


def digest_of_pairs(pairs: list[Pair], digest: int = 0) -> int:
    """CRC-32 of the pairs' images and their shapes, continued from that of earlier pairs."""
    for pair in pairs:
        for image in (pair.fundus, pair.octa):
            digest = zlib.crc32(np.ascontiguousarray(image), zlib.crc32(repr(image.shape).encode(), digest))
    return digest


def simulated_validation(settings: Settings) -> list[Pair]:
    """Simulated retinas that no run is trained on: the same for every seed, each from its own tree."""
    pairs = []
    for number in range(VALIDATION_RETINAS):
        fundus, octa, drawn, fov = simulated_pair(0, FIRST_OF_VALIDATION + number * TREE_SHARED_BY)
        fov = fov if settings.fov_mask else np.ones_like(fov)
        vessels = drawn[..., 0] > 127 if settings.vessel_output else None
        pairs.append(Pair(fundus, as_in_files(octa, settings.octa_channels), fov, drawn=vessels))
    return pairs


def as_in_files(octa: np.ndarray, channels: int) -> np.ndarray:
    """A grey OCT-A (height, width, 1), uint8, with 1 channel or, as in UT-FSOCTA's files, 4: their alpha is 255."""
    return octa if channels == 1 else np.dstack([octa, octa, octa, np.full_like(octa, 255)])


def training_patches(images: list[np.ndarray], settings: Settings) -> TrainingPatches | SimulatedPatches:
    """The batches that the settings ask for: from real pairs, from simulated retinas, or from both."""
    real = None
    if settings.data != SIMULATED:
        real = TrainingPatches(images, settings)
        if not settings.mix:
            return real
    workers = min(max(1, (os.cpu_count() or 1) - 1), MAX_DRAWING)

    def draw(first: int) -> Iterator[np.ndarray]:
        for retina in stream(settings.seed, first, workers):  # (400, 400, 3 + 1 + 1)
            fundus, octa, drawn = np.split(retina, [FUNDUS_CHANNELS, FUNDUS_CHANNELS + 1], axis=-1)
            octa = as_in_files(octa, settings.octa_channels)
            yield np.dstack([fundus, octa, drawn] if settings.vessel_output else [fundus, octa])

    return SimulatedPatches(draw, settings, real)


# --- the subjects that synthesis and evaluation use ------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """The photographs that are used."""

    photographs: pd.DataFrame  # some rows of a list, with a column `seen`: whether the run has seen them
    why: str  # which these are, in words
    total: int  # subjects of the data

    def __str__(self) -> str:
        return f"Subjects: {self.photographs['subject'].nunique()} of {self.total}; {self.why}"


def load_cases(data: Path, split: str | None, settings: Settings) -> tuple[pd.DataFrame, list[Path]]:
    """As `load_data_cases`. Without a wanted split a table is not divided, so that few subjects are enough."""
    return load_data_cases(data, settings.splits(), settings.shares if split in SPLITS else ANY_SHARES)


def choose(
    data: Path, listed: pd.DataFrame, split: str | None, seen: Collection[str], to_use_seen: str | None
) -> Choice:
    """Choose photographs by split; without a wanted one the test split, or if the data have none, all.

    Args:
        data: the table or folder that they are from.
        listed: a row for each, with the columns `subject`, `split`, `fundus` and `original_digest`.
        split: train, validation, test or all; None: see above.
        seen: what the run has seen, see `run.checkpoints.read_run`.
        to_use_seen: leave out the subjects that it has seen, and name this option that would use them; None: use them.

    Raises:
        OptionError: nothing is left.
    """
    table = is_table(data)
    if split is not None:
        why = f"--split {split}"
    elif "split" in columns_of(data) if table else (listed["split"] == "test").any():
        split, why = "test", "those of the split test"
    else:
        split, why = "all", f"all, because {data} has no {'column split' if table else 'subject of the split test'}"
    chosen = listed if split == "all" else listed[listed["split"] == split]
    if chosen.empty:
        raise OptionError(f"--split {split}: {data} has no photograph in this split")
    chosen = chosen.assign(seen=chosen["subject"].isin(seen_subjects(chosen, seen)))
    known = chosen[chosen["seen"]]["subject"].nunique()
    if not known:
        why += "; the run has seen none of them"
    elif to_use_seen:
        chosen, why = chosen[~chosen["seen"]], f"{why}, except {known} that the run has seen ({to_use_seen} uses these)"
        if chosen.empty:
            raise OptionError(f"{data}: {HAS_SEEN.format(f'all {known} subjects')}; {to_use_seen} uses them")
    else:
        why += f"; the run has seen {known} of them"
    return Choice(chosen, why, listed["subject"].nunique())
