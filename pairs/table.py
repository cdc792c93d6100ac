"""A table of pairs turns any files into a data set: each row is a photograph and the image to predict from it.

    fundus,octa,subject,eye,region,split
    photos/a.tif,scans/a.tif,patient A,OD,disc,train

`fundus`, `octa` and `subject` are required. Paths are relative to the table. `subject` is any text. `eye` (OD, OS),
`region` (disc, macula), `split` (train, validation, test) and `octa_mm` (the width of the OCT-A) may be missing or
empty: results that depend on them are then left out. Without a column `split` shares divide the subjects.

Registration adds `octa_unmoved`, the OCT-A before it was moved, and cropping `original_digest`, which identifies the
photograph that was cropped.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path, PurePath
from typing import NamedTuple

from basics.command_line import UserError
from basics.files import numbered_rows
from retina.ut_fsocta import EYES, OTHER_REGION, PUBLISHED_SUBJECTS, REGIONS, parse_shares

REGISTRATION = "registration.csv"  # in the folder of a registered data set
SIMULATED = "simulated"  # for `data`: retinas that the program draws itself
DEFAULT_SHARES = "80/10/10"  # of the subjects of a table of pairs

FILES = ("fundus", "octa")
NEEDED = (*FILES, "subject")
CHOICES = {"eye": EYES, "region": REGIONS, "split": tuple(PUBLISHED_SUBJECTS)}  # values of optional columns
WIDTH = "octa_mm"
UNMOVED, ORIGINAL = "octa_unmoved", "original_digest"  # columns that registration and cropping add
UNKNOWN = {"eye": "", "region": OTHER_REGION, ORIGINAL: ""}  # values of empty cells; None in other columns
PATHS = (*FILES, UNMOVED)
WIDTHS_MM = 1.0, 20.0  # least and greatest, of an OCT-A
KNOWN = (*NEEDED, *CHOICES, WIDTH, UNMOVED, ORIGINAL)
SUFFIX = ".csv"
CROP_BOTH = ", or crop the photograph to the area of each OCT-A (with dataset_load_mod.py crop, then use its table)"
ANY_SHARES = "1/0/0"  # for programs that treat all subjects alike, however few there are


class PairTableError(UserError):
    """A table of pairs that cannot be used. Its text is the first of the `mistakes`, and how many more there are."""

    def __init__(self, *mistakes: str):
        super().__init__(*mistakes)
        self.mistakes = mistakes

    def __str__(self) -> str:
        first, *others = self.mistakes
        return first + (f" (and {len(others)} more; `python dataset_load_mod.py check` lists them)" if others else "")


class PairRow(NamedTuple):
    """One pair of a table."""

    subject: str
    eye: str  # OD, OS, or "" if unknown
    region: str  # OTHER_REGION if unknown
    split: str | None  # None: not used
    fundus: Path
    octa: Path
    octa_mm: float | None  # width of the OCT-A; None: unknown
    octa_unmoved: Path | None  # the OCT-A before registration moved it; None: `octa` was not moved, or it is lost
    original_digest: str  # `photo_digest` of the photograph that `fundus` was cropped from; "": unknown
    name: str  # unique: the image's path below the folder that contains all, without suffix if possible


def unmoved_octa(case: PairRow) -> Path:
    """The OCT-A of a case before any registration."""
    return case.octa_unmoved or case.octa


def is_table(data: str | Path) -> bool:
    """Whether a data set is a table and not a folder."""
    return Path(data).suffix.lower() == SUFFIX and not Path(data).is_dir()


def read_pairs(path: Path, shares: str, unique: str = "fundus") -> list[PairRow]:
    """The pairs of a table.

    Args:
        path: of the table, a CSV file as spreadsheet programs write it.
        shares: of subjects in train, validation and test, such as "80/10/10", for a table without a column `split`.
        unique: the column whose values must differ, and from which names are made: with "octa" a photograph may have
            several OCT-A.

    Returns:
        The pairs, sorted by subject, eye, region and name, whatever the order of the rows; numeric subjects by value.

    Raises:
        PairTableError: it lacks a column, or has mistakes; each names its row as spreadsheet programs count: the header
            is row 1.
        OptionError: see `numbered_rows`.
    """
    rows = table_rows(path)
    if not rows:
        raise PairTableError(f"{path}: has no row below the header")
    for column in NEEDED:
        if column not in rows[0][1]:
            has = ", ".join(rows[0][1])
            raise PairTableError(f"{path}: has no column {column}; it needs {', '.join(NEEDED)}, and has {has}")
    if (path.parent / REGISTRATION).exists() and UNMOVED not in rows[0][1]:  # written by version 1.1.0
        lost = f"but has no column {UNMOVED}, so that scores would include what registration gains"
        raise PairTableError(f"{path}: was registered ({REGISTRATION}), {lost}; register the original pairs again")
    pairs, mistakes = [], []
    images: dict[str, int] = {}  # image -> its first row
    splits: dict[str, str | None] = {}  # subject -> split
    for number, row in rows:
        place = f"{path}: row {number}"
        pair, wrong = read_row(row, path.parent, place)
        mistakes += wrong
        if wrong:
            continue
        pairs.append(pair)
        if (other := images.setdefault(os.path.abspath(getattr(pair, unique)), number)) != number:
            advice = CROP_BOTH if unique == "fundus" else ""
            mistakes.append(f"{place}: its {unique} is that of row {other}; remove one{advice}")
        if (other := splits.setdefault(pair.subject, pair.split)) != pair.split:
            both = f"{other or 'none'} and {pair.split or 'none'}"
            mistakes.append(f"{place}: subject {pair.subject} is in two splits, {both}; give all its rows the same")
    if mistakes:
        raise PairTableError(*mistakes)
    if "split" not in rows[0][1]:
        try:
            splits = shared_out(set(splits), shares)
        except ValueError as error:
            raise PairTableError(f"{path}: subjects: {error}") from error
    named = zip(pairs, names_of([getattr(pair, unique) for pair in pairs]), strict=True)
    complete = [pair._replace(split=splits[pair.subject], name=name) for pair, name in named]
    return sorted(complete, key=lambda pair: (by_value(pair.subject), pair.eye, pair.region, by_value(pair.name)))


def table_rows(path: Path, known: Sequence[str] = KNOWN) -> list[tuple[int, dict[str, str]]]:
    """The rows of a table with their numbers, see `numbered_rows`: text, without spaces around it.

    The `known` columns are found in any case, and named so. Raises OptionError, see `numbered_rows`.
    """
    rows = []
    for number, row in numbered_rows(path):
        names = ((column.strip().lower(), column) for column in row)
        rows.append((number, {low if low in known else column: row[column].strip() for low, column in names}))
    return rows


def rows_of_pairs(path: Path, pairs: Sequence[PairRow], unique: str = "fundus") -> dict[PairRow, dict[str, str]]:
    """Each pair with its row, in the table's order; `pairs` are all those of `read_pairs`, with the same `unique`."""
    found = {getattr(pair, unique): pair for pair in pairs}
    return {found[existing(path.parent, row[unique], str(path))]: row for _, row in table_rows(path)}


def read_row(row: dict[str, str], folder: Path, place: str) -> tuple[PairRow | None, list[str]]:
    """The pair of a row, without its name, and each missing or wrong cell in a line that names the place."""
    values, mistakes = {}, []
    for column in KNOWN:
        try:
            values[column] = value_of(column, row.get(column, ""), folder, place)
        except PairTableError as error:
            mistakes += error.mistakes
    return None if mistakes else PairRow(**values, name=""), mistakes


def value_of(column: str, cell: str, folder: Path, place: str) -> str | Path | float | None:
    """The value of a cell in a column of KNOWN. Raises PairTableError, naming the place, if it is missing or wrong."""
    if not cell and column in NEEDED:
        raise PairTableError(f"{place}: has no {column}")
    if not cell:
        return UNKNOWN.get(column)
    place = f"{place}: {column}"
    if column in PATHS:
        return existing(folder, cell, place)
    if column == WIDTH:
        return number_in(cell, *WIDTHS_MM, place, " mm")
    if column in CHOICES:
        cell = next((word for word in CHOICES[column] if word.lower() == cell.lower()), cell)
        if cell not in CHOICES[column]:
            raise PairTableError(f"{place} {cell}: must be {', '.join(CHOICES[column])} or empty")
    if column == ORIGINAL and not re.fullmatch("[0-9a-f]{16}", cell):
        raise PairTableError(f"{place} {cell}: must be 16 hexadecimal digits, from dataset_load_mod.py crop, or empty")
    return cell


def number_in(cell: str, least: float, most: float, place: str, unit: str = "") -> float | None:
    """A number, with a point or a comma; None for an empty cell. Raises PairTableError, naming the place."""
    if not cell:
        return None
    try:
        number = float(cell.replace(",", "."))
    except ValueError as error:
        raise PairTableError(f"{place} {cell}: is not a number") from error
    if not least <= number <= most:
        raise PairTableError(f"{place} {cell}: must be from {least:g} to {most:g}{unit}")
    return number


def columns_of(path: Path) -> list[str]:
    """The columns of a table; empty if it has no row. Raises OptionError if it cannot be read."""
    return next((list(row) for _, row in table_rows(path)), [])


def origin_of_splits(path: Path, shares: str) -> str:
    """Where the splits of a table come from, in words. Raises OptionError if it cannot be read."""
    if "split" in columns_of(path):
        return "by the table's column split"
    return f"subjects divided {shares} into train, validation and test, always in the same way"


def existing(folder: Path, cell: str, place: str) -> Path:
    """The file that a cell names, relative to a folder. Raises PairTableError, naming the place, if there is none."""
    for reading in readings(cell):
        if os.path.isfile(folder / reading):  # Path.is_file raises an error for names that are too long
            return folder / reading
    raise PairTableError(f"{place} {cell}: no such file below {folder}; paths are relative to the table")


def readings(cell: str) -> tuple[str, str]:
    """What a path in a table may mean: itself, or the same with the backslashes of Windows."""
    return cell, cell.replace("\\", "/")


def shared_out(subjects: set[str], shares: str) -> dict[str, str]:
    """The split of each subject by shares, the same for every run, whatever its seed. Each share but 0 gets a subject.

    Raises:
        ValueError: as `parse_shares`, or there are too few subjects.
    """
    ranked = sorted(subjects, key=lambda subject: hashlib.sha256(subject.encode()).digest())
    others = parse_shares(shares)[1:]
    counts = [max(1, round(share * len(ranked))) if share else 0 for share in others]
    counts = [len(ranked) - sum(counts), *counts]
    if counts[0] < 1:
        raise ValueError(f"{len(ranked)} are too few to divide {shares}; add a column split")
    splits = chain(*([split] * number for split, number in zip(CHOICES["split"], counts, strict=True)))
    return dict(zip(ranked, splits, strict=True))


def names_of(files: Sequence[Path]) -> list[str]:
    """Unique names of different files: their paths below their common folder, without suffix where that is unique."""
    below = below_common([Path(os.path.abspath(file)) for file in files])
    short, complete = [path.with_suffix("").as_posix() for path in below], [path.as_posix() for path in below]
    count = Counter(short)
    names = [name if count[name] == 1 else path for name, path in zip(short, complete, strict=True)]
    return names if len(set(names)) == len(names) else complete  # a.png, a.tif, a.png.png


def below_common(files: Sequence[PurePath]) -> list[PurePath]:
    """Absolute paths relative to their common folder; drives of Windows, which have none in common, become folders."""
    for folder in files[0].parents:
        if all(file.is_relative_to(folder) for file in files):
            return [file.relative_to(folder) for file in files]
    return [type(file)(file.drive.replace(":", "").strip("\\"), *file.parts[1:]) for file in files]


def by_value(text: str) -> tuple[bool, int, str]:
    """Sort key for texts: numbers first, by their value."""
    number = text.isascii() and text.isdecimal() and len(text) < 19
    return not number, int(text) if number else 0, text
