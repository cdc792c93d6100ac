"""What cropping and registration have in common: a folder with a table of new pairs, each of which is finished once.

    DIR/pairs.csv                       the table
    DIR/{fundus,octa,...}/<name>.png    its images, with the pixels that every program reads from the given ones
    DIR/<record>.csv                    a row for each pair that could be read, with its verdict
    DIR/<record>/<name>.png             with --figures

A pair is finished when its images, its figure (if wanted) and its row in the record exist, for its present files. The
row is written last.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from basics.command_line import OptionError, report_error
from basics.files import atomic_file, write_table
from pairs.dataset import find_dataset, is_simulated, load_data_cases
from pairs.origin import MADE_WITH, Origin, Record, digest_of
from pairs.table import ANY_SHARES, CHOICES, PairRow, is_table, read_pairs, rows_of_pairs, unmoved_octa
from retina.images import DataError, is_leftover
from retina.ut_fsocta import SIMULATED_NOTE

PAIRS = "pairs.csv"  # the table of pairs that is written

Case = PairRow  # or a row of `load_data_cases`, which has the same attributes


def open_pairs(options: argparse.Namespace, record: str, unique: str = "fundus") -> dict[Case, dict[str, str]]:
    """The pairs of some data, each with its row in their table; of a folder, with the row that it would have.

    Args:
        options: of the command line; `data` names the data, `output` the folder that will be written.
        record: name of the file that marks a folder as this command's.
        unique: as for `read_pairs`.

    Raises:
        UserError: there is no pair, or the folder lies in the data, contains them, or has other content.
    """
    source, output = find_dataset(options.data, "DATA"), Path(options.output)
    one, other = source.resolve(), output.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise OptionError(f"--output {output}: lies in the data set {source}, or contains it; choose another folder")
    usable = output.is_dir() and (
        (output / record).exists() or all(is_leftover(path.name) for path in output.iterdir())
    )
    if output.exists() and not usable:
        raise OptionError(f"--output {output}: exists, but is not from this program; choose a new or empty folder")
    if is_table(source):
        return rows_of_pairs(source, read_pairs(source, ANY_SHARES, unique), unique)
    cases, unpaired = load_data_cases(source)
    if cases.empty:
        raise OptionError(f"DATA {source}: contains no pair; `python dataset_load_mod.py check` lists what it contains")
    if unpaired:
        print(f"{len(unpaired)} files have no partner and are left out")
    columns = ("subject", *CHOICES)
    return {case: {name: getattr(case, name) for name in columns} for case in cases.itertuples(index=False)}


class NewPairs(Record):
    """The pairs of the folder that is written, in the order of the data, all made in one way."""

    def __init__(
        self,
        options: argparse.Namespace,
        given: Mapping[Case, dict[str, str]],
        record: str,
        columns: Sequence[str],
        kinds: Sequence[str],
        made_with: str,
        settings: Mapping[Case, str],
    ):
        """Read the existing record, or write an empty one, which marks its folder, made if missing, as this command's.

        Args:
            options: of the command line: `data`, `output`, `figures`.
            given: the pairs of the data, from `open_pairs`. Earlier results of others are dropped.
            record: the record's name.
            columns: of the record, between the name and the verdict.
            kinds: columns of the new table that name an image, which are also their folders.
            made_with: as in `Origin`.
            settings: what else changes the result of a pair, in words.

        Raises:
            OptionError: the record is damaged, or was made with other weights or options.
        """
        super().__init__(Path(options.output, record), ("name", *columns, "verdict", "inputs", MADE_WITH))
        self.given, self.kinds, self.drawn = given, kinds, options.figures
        files = {case: (case.fundus, unmoved_octa(case)) for case in given}
        self.origins = {case.name: Origin(digest_of(files[case], settings.get(case, "")), made_with) for case in given}
        self.failed: list[str] = []  # unusable files, one line each
        for row in self.rows.values():
            if row[MADE_WITH] != made_with:
                advice = "use the same (--run, ...), or another --output"
                raise OptionError(f"{self.path}: was made with {row[MADE_WITH]}, not {made_with}; {advice}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.write()
        if is_simulated(options.data):
            text = f"Made from the simulated retinas of {options.data}: no real eyes.\n"
            note = self.path.with_name(SIMULATED_NOTE)
            note.write_text(text, encoding="utf-8", errors="backslashreplace")

    @contextmanager
    def noting_faults(self) -> Iterator[None]:
        """Note an unusable file, for the report, and go on behind the block."""
        try:
            yield
        except DataError as error:
            self.failed.append(str(error))

    def names(self) -> list[str]:
        """The names of the rows in the order of the data."""
        return [name for name in self.origins if name in self.rows]

    def current(self) -> dict[str, dict[str, str]]:
        """The rows that were made from the present files and settings of their pair, by name."""
        return {name: self.rows[name] for name, origin in self.origins.items() if origin.is_of(self.origin(name))}

    def image(self, kind: str, case: Case) -> Path:
        """Where an image of a pair is written to, or its figure, whose kind is the record's name without suffix."""
        return self.path.parent / kind / f"{case.name}.png"

    def unfinished(self) -> list[Case]:
        """The cases without a current row, or without one of their images; prints how many others are kept."""
        finished, kinds = self.current(), [*self.kinds, *([self.path.stem] if self.drawn else [])]
        todo = [
            case
            for case in self.given
            if case.name not in finished or not all(self.image(kind, case).exists() for kind in kinds)
        ]
        if kept := len(self.given) - len(todo):
            print(f"{kept} of {len(self.given)} pairs exist and are kept")
        return todo

    def finish(
        self, case: Case, images: Sequence[np.ndarray], values: Sequence[str], draw: Callable[[], np.ndarray]
    ) -> None:
        """Write the images of a pair, one of each kind, its figure if wanted, and its row, without its name."""
        for kind, image in zip(self.kinds, images, strict=True):
            write_image(self.image(kind, case), image)
        figure = self.image(self.path.stem, case)
        if self.drawn:
            write_image(figure, draw())
        else:
            figure.unlink(missing_ok=True)  # one of an earlier call would show another result
        self.add((case.name, *values), self.origins[case.name])

    def report(
        self, bad: str, remark: str, next_step: str, if_none: str, without_bad: bool = False, added: Sequence[str] = ()
    ) -> int:
        """Put the record in order, write the table of the new pairs, and print a summary.

        Args:
            bad: the verdict on pairs that the user should look at, each named with a `remark`.
            next_step: the command to go on with; `if_none` instead, if all pairs are bad.
            without_bad: leave these pairs out of the table.
            added: columns of the record that the table gets, too.

        Returns:
            The exit status: 2 if a file was unusable.
        """
        self.close()
        rows, table = self.current(), self.path.with_name(PAIRS)
        verdicts = Counter(row["verdict"] for row in rows.values())
        wanted = {name for name, row in rows.items() if not (without_bad and row["verdict"] == bad)}
        written = [
            row
            | {kind: self.image(kind, case).relative_to(table.parent).as_posix() for kind in self.kinds}
            | {column: rows[case.name][column] for column in added}
            for case, row in self.given.items()
            if case.name in wanted
        ]
        columns = dict.fromkeys([*next(iter(self.given.values())), *self.kinds, *added])
        write_table(table, tuple(columns), written)
        print(", ".join(f"{verdict} {number}" for verdict, number in verdicts.most_common()) or "no pair could be read")
        for name in (name for name, row in rows.items() if row["verdict"] == bad):
            print(f"{name}: {bad}; {remark}")
        subjects, left = ({row["subject"] for row in some} for some in (self.given.values(), written))
        if len(left) < len(subjects) and "split" not in columns:
            lack = f"{PAIRS} lacks {len(subjects - left)} of {len(subjects)} subjects"
            print(f"NOTE: {lack}, which can move others to another split; a column split prevents that")
        print(f"Written: {table}; {self.path} has a row for each pair that could be read")
        if rows:
            print(f"Next: python {next_step}" if verdicts[bad] < len(rows) else if_none)
        for fault in dict.fromkeys(self.failed):
            report_error("dataset_load_mod.py", fault)
        return 2 if self.failed else 0


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image (height, width, 3 or 4), uint8, as a PNG; a grey, opaque one as grey."""
    if (image[..., :3] == image[..., :1]).all() and (image[..., 3:] == 255).all():
        image = image[..., 0]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as part:
        Image.fromarray(image).save(part, format="PNG")
