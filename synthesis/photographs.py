"""Which photographs to turn into OCT-A, at which scale, and where their results go."""

import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from basics.command_line import SCALES, OptionError, one_line
from pairs.dataset import list_eyes, list_full_fields
from pairs.origin import read_origin
from pairs.table import PairTableError, existing, is_table, number_in, readings, table_rows
from retina.dicom import SUFFIX, facts_of
from retina.field_of_view import FIELD_MM, Field
from retina.images import FORMATS, left_out, visible_below
from retina.ut_fsocta import CROP_MM, REGIONS
from run.data import choose, load_cases
from run.settings import Settings

MAPS = ("vessels", "probability", "confidence")  # kinds of results with --vessels
FIGURE = "figure"
KINDS = (*MAPS, FIGURE)  # of results besides the OCT-A
SHEET = "sheet_{}.png"  # of the figures of several photographs, next to the results; numbered from 1
PATH, MASK = "path", "mask"  # columns of a list of photographs, besides those of SCALES


@dataclass(frozen=True)
class Job:
    """One photograph, its scale as far as it is given, and where its results go."""

    source: Path
    target: Path  # the synthetic OCT-A; relative to the output folder
    region: str | None = None  # of a crop, which is predicted at its own scale; None: a photograph of any scale
    width_mm: float | None = None  # of a crop; None: unknown
    field_degrees: float | None = None  # angle of the field of view; None: 45 is assumed
    px_per_mm: float | None = None  # None: from the field of view
    mask: Path | None = None  # of the field of view; None: it is looked for
    eye: str = ""  # OD or OS; "" if unknown

    def beside(self, kind: str) -> Path:
        """Where a further result goes; relative to the output folder."""
        return self.target.with_name(f"{self.target.stem}_{kind}.png")

    def results(self) -> list[Path]:
        """All results that this photograph may have; relative to the output folder."""
        return [self.target, *map(self.beside, KINDS)]

    def diameter(self, field: Field) -> float | None:
        """Diameter in px that a field of 45 degrees has, or would have; None: unknown, or a crop as in training."""
        if self.px_per_mm is not None:
            return FIELD_MM * self.px_per_mm
        return None if self.region else field.diameter(self.field_degrees)

    def scale(self, diameter: float | None, width: int) -> float | None:
        """Px per mm of a photograph with this `diameter`, or of a crop with this width in px; None: unknown."""
        if diameter is not None:
            return diameter / FIELD_MM
        return width / (self.width_mm or CROP_MM[self.region]) if self.region else None

    def is_assumed(self) -> bool:
        """Whether the scale is neither given nor follows from the width of a crop."""
        return not (self.px_per_mm or (self.width_mm if self.region else self.field_degrees))


def list_jobs(inputs: Sequence[str], output: Path, given: dict) -> list[Job]:
    """Photographs given as files, in folders (with subfolders, which are kept) and in CSV tables with a `path` column.

    In folders, hidden files are skipped, and so are the output folder and results of earlier commands. Relative paths
    in a table start at the table, and keep their subfolders. Results are named without the photograph's suffix, unless
    two photographs differ in it alone. `given` has `field_degrees`, `px_per_mm` and `mask`, as in `Job`, for
    photographs without such values in a table.

    Raises:
        OptionError: an input does not exist, contains no photograph, or is the output folder.
        PairTableError: a table has a wrong cell.
    """
    jobs = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            if path.resolve() == output.resolve():
                raise OptionError(f"--output {output}: is an input; choose another folder")
            jobs += [Job(file, file.relative_to(path), **given) for file in photographs_below(path, output)]
        elif path.suffix.lower() == ".csv" and path.is_file():
            jobs += jobs_of_table(path, given)
        elif path.exists():
            jobs.append(Job(path, Path(path.name), **given))
        else:
            raise OptionError(f"{name}: no such file or folder")
    jobs = list(dict.fromkeys(jobs))
    stems = Counter(job.target.with_suffix("") for job in jobs)
    named = []
    for job in jobs:
        stem = job.target.with_suffix("")
        named.append(stated(replace(job, target=Path(f"{job.target if stems[stem] > 1 else stem}.png"))))
    return named


def stated(job: Job) -> Job:
    """A photograph with the eye and, unless one is given, the scale that its file states (DICOM)."""
    if job.source.suffix.lower() != SUFFIX:
        return job
    facts = facts_of(job.source)
    job = replace(job, eye=facts.eye)
    if job.px_per_mm or job.field_degrees:
        return job
    return replace(job, px_per_mm=facts.px_per_mm, field_degrees=None if facts.px_per_mm else facts.field_degrees)


def photographs_below(folder: Path, output: Path) -> list[Path]:
    """Photographs in a folder and below, but not in the output folder, sorted; prints what else is skipped.

    Raises:
        OptionError: there is none.
        OSError: a folder cannot be read.
    """
    found = [path for path in visible_below(folder) if path.is_file()]
    if folder.resolve() in output.resolve().parents:
        found = [path for path in found if output.resolve() not in path.resolve().parents]
    images = [path for path in found if path.suffix.lower() in FORMATS]
    photographs = [path for path in images if read_origin(path) is None]
    others = left_out(found)
    if not photographs:
        raise OptionError(f"{folder}: contains no photograph" + (f", only {others}" if others else ""))
    if results := len(images) - len(photographs):
        print(one_line(f"{folder}: skipped {results} results of earlier commands; to use one, give its own path"))
    if others:
        print(one_line(f"{folder}: left out files that this program does not read as images: {others}"))
    return photographs


def jobs_of_table(path: Path, given: dict) -> list[Job]:
    """The photographs in the `path` column of a CSV file, read as the paths in tables of pairs; without empty cells.

    The columns `field_degrees`, `px_per_mm` and `mask` may give what a photograph needs; unknown columns are printed.
    A path that names no existing file stays in the list, and is reported when it is its turn.

    Raises:
        OptionError: the file cannot be read, has no such column or an empty one, or a cell names no file.
        PairTableError: another cell is wrong; the message names its row.
    """
    known = (PATH, MASK, *SCALES)
    rows = [(number, row) for number, row in table_rows(path, known) if row.get(PATH)]
    if not rows:
        raise OptionError(f"{path}: has no column named {PATH}, or an empty one; give a table of pairs to --dataset")
    if unknown := [column for column in rows[0][1] if column not in known]:
        print(one_line(f"NOTE: {path}: columns that are not used: {', '.join(unknown)} (used: {', '.join(known)})"))
    jobs = []
    for number, row in rows:
        # os.path.isfile, because Path.is_file raises an error for some names, such as too long ones: it would stop all.
        texts = readings(row[PATH])
        cell = Path(next((text for text in texts if os.path.isfile(path.parent / text)), row[PATH]))
        if cell.name in ("", ".."):
            raise OptionError(f"{path}: {row[PATH]!r} in the column {PATH} names no file")
        place = f"{path}: row {number}: "
        scales = {name: number_in(row.get(name, ""), *SCALES[name], f"{place}{name}") for name in SCALES}
        if None not in scales.values():
            raise PairTableError(f"{place}has both {' and '.join(SCALES)}; give only one of them")
        own = {name: value for name, value in scales.items() if value is not None}
        if row.get(MASK):
            own[MASK] = existing(path.parent, row[MASK], f"{place}{MASK}")
        default = {MASK: given[MASK]} if own.keys() & SCALES.keys() else given
        inside = not cell.is_absolute() and ".." not in cell.parts  # then the result is in the same subfolder
        jobs.append(Job(path.parent / cell, cell if inside else Path(cell.name), **default | own))
    return jobs


def list_dataset_jobs(dataset: Path, split: str | None, settings: Settings, seen: Collection[str] = ()) -> list[Job]:
    """The photographs of a data set by split, see `run.data.choose`; prints which subjects these are of.

    Results are named as in UT-FSOCTA, or as a table's pairs. Without a wanted split, subjects that the run has `seen`
    (see `run.checkpoints.read_run`) are left out.

    Raises:
        OptionError: there is none.
        PairTableError: see there.
    """
    if is_table(dataset):
        cases, _ = load_cases(dataset, split, settings)
        jobs = [
            Job(
                case.fundus,
                Path(f"{case.name}.png"),
                case.region,
                None if pd.isna(case.octa_mm) else case.octa_mm,
                eye=case.eye,
            )
            for case in cases.itertuples(index=False)
        ]
        listed = cases[["subject", "split", "fundus", "original_digest"]].assign(job=jobs)
    else:
        split_of = {subject: name for name, subjects in settings.splits().items() for subject in subjects}
        folders = [("cropped", region, list_eyes(dataset / "cropped" / "fundus" / region)) for region in REGIONS]
        rows = []
        for folder, region, eyes in [*folders, ("fov45", None, list_full_fields(dataset))]:
            for (subject, eye), path in eyes.items():
                target = Path(folder, "synthetic_octa", region or "", f"{subject}_{eye}.png")
                rows.append((subject, split_of.get(subject), path, "", Job(path, target, region, eye=eye)))
        listed = pd.DataFrame(rows, columns=["subject", "split", "fundus", "original_digest", "job"])
    choice = choose(dataset, listed, split, seen, "--split all" if split is None else None)
    print(choice)
    return list(choice.photographs["job"])


def check_jobs(jobs: Sequence[Job], output: Path) -> None:
    """Raises OptionError if two photographs, or a photograph and a result or sheet, would be one file."""
    sources = {path.resolve() for job in jobs for path in (job.source, job.mask) if path is not None}
    taken: dict[Path, Job] = {}
    for job in jobs:
        if re.fullmatch(SHEET.format(r"(\d+of\d+_)?\d+"), job.target.as_posix(), re.IGNORECASE):
            raise OptionError(f"{job.source}: its result would have the name of a sheet of figures; rename it")
        for place in (output / target for target in job.results()):
            if place.resolve() in sources:
                raise OptionError(f"{place}: would overwrite an input; choose another --output")
            if (other := taken.setdefault(place, job)) is not job:
                both = f"{other.source} and {job.source} would both be written to {place}"
                raise OptionError(f"{both}; give each once, or rename one, or choose another --output for it")
