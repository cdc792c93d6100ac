"""Pairs whose OCT-A registration has moved: whether the unmoved ones still exist.

Registration keeps the unmoved OCT-A: in a table's column octa_unmoved, in UT-FSOCTA's layout below
cropped/unmoved/. Version 1.1.0 did not. Scores on its pairs contain what registration gains, and nothing can undo that.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from basics.command_line import OptionError
from basics.files import read_table
from pairs.table import REGISTRATION, PairRow, is_table

REGISTERED = "registered"  # the verdict on a pair whose OCT-A was moved


def moved_for_good(data: Path, cases: Iterable[PairRow]) -> tuple[int, str]:
    """How many OCT-A registration has moved without keeping the unmoved one, and with which weights; 0 and "" for none.

    Args:
        data: a table, or a folder that contains `cropped`, with the record of its registration beside it or above it.
        cases: of the data, as from `load_data_cases`.

    Raises:
        OptionError: the record cannot be read.
    """
    for folder in (data, data.parent):
        if (record := folder / REGISTRATION).is_file():
            rows = [row for row in read_table(record) if "name" in row and row.get("verdict") == REGISTERED]
            moved = {row["name"]: row.get("made_with", "") for row in rows}
            lost = [case for case in cases if case.octa_unmoved is None]
            names = [case.name for case in lost]
            if is_table(data):  # it may have lost rows since, which changes names: those of the OCT-A stay
                below, files = Path(os.path.abspath(folder / "octa")), (Path(os.path.abspath(one.octa)) for one in lost)
                inside = (file.relative_to(below) for file in files if file.is_relative_to(below))
                names = [file.with_suffix("").as_posix() for file in inside]
            found = [moved[name] for name in names if name in moved]
            return len(found), next(iter(found), "")
    return 0, ""


def moved_in_words(data: Path, cases: Iterable[PairRow]) -> str:
    """The first line of an evaluation's printout and report if unmoved OCT-A are lost, see above; otherwise ""."""
    number, made_with = moved_for_good(data, cases)
    if not number:
        return ""
    return (
        f"MOVED BEFOREHAND: registration has moved {number} OCT-A of {data} (with {made_with}) and did not keep the "
        "unmoved ones. ALL SCORES INCLUDE ITS GAIN, those without further registration too. For others, register the "
        "original data again, and evaluate the result."
    )


def refuse_moved(option: str, data: Path, cases: Iterable[PairRow]) -> None:
    """Raise OptionError, naming option and data, if registration has moved an OCT-A without keeping the unmoved one."""
    number, made_with = moved_for_good(data, cases)
    if number:
        raise OptionError(
            f"{option} {data}: registration, with {made_with}, has moved {number} of its OCT-A and did not keep the "
            "unmoved ones; give the data that were registered"
        )


def unmoved_octa(case: PairRow) -> Path:
    """The OCT-A of a case before any registration."""
    return case.octa_unmoved or case.octa
