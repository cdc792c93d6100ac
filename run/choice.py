"""Which subjects of a data set synthesis and evaluation use: those of a split, or all that the run has not seen."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from basics.command_line import OptionError
from pairs.dataset import load_data_cases, seen_subjects
from pairs.table import ANY_SHARES, is_table, states_splits
from run.settings import SPLITS, Settings

HAS_SEEN = "the run, or one that it started from, was trained or validated on {}"


@dataclass(frozen=True)
class Choice:
    """The photographs that are used."""

    photographs: (
        pd.DataFrame
    )  # rows of the list that was chosen from, with a column `seen`: whether the run has seen them
    left_out: int  # subjects that are not used because the run has seen them
    why: str  # these, in words
    total: int  # subjects of the data

    def __str__(self) -> str:
        return f"Subjects: {self.photographs['subject'].nunique()} of {self.total}; {self.why}"


def load_cases(data: Path, split: str | None, settings: Settings) -> tuple[pd.DataFrame, list[Path]]:
    """As `load_data_cases`. Without a wanted split a table is not divided, so that few subjects are enough."""
    return load_data_cases(data, settings.splits(), settings.split if split in SPLITS else ANY_SHARES)


def choose(
    data: Path, listed: pd.DataFrame, split: str | None, seen: Collection[str], to_use_seen: str | None
) -> Choice:
    """Choose photographs by split; without a wanted one the test split, or if the data have none, all.

    Args:
        data: the table or folder that they are from.
        listed: a row for each, with the columns `subject`, `split`, `fundus` and `original_digest`.
        split: train, validation, test or all; None: see above.
        seen: what the run has seen, see `run.checkpoints.seen_by`.
        to_use_seen: leave out the subjects that it has seen, and name this option that would use them; None: use them.

    Raises:
        OptionError: nothing is left.
    """
    if split is not None:
        why = f"--split {split}"
    elif not is_table(data) and (listed["split"] == "test").any():
        split, why = "test", "those of the test split"
    elif is_table(data) and states_splits(data):
        split, why = "test", "those of the split test in the table's column split"
    else:
        lacks = "column split" if is_table(data) else "subject of the test split"
        split, why = "all", f"all, because {data} has no {lacks}"
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
    return Choice(chosen, known if to_use_seen else 0, why, listed["subject"].nunique())
