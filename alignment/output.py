"""What cropping and registration have in common: a folder in which each pair of some data is finished once.

A pair is finished when its images, its figure (if wanted) and its row in the folder's record exist, for its present
files. The row is written last.
"""

import filecmp
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from basics.command_line import OptionError, report_error, why
from basics.files import atomic_file
from pairs.dataset import is_simulated
from pairs.origin import MADE_WITH, Origin, Record
from pairs.table import PairRow
from retina.images import WRITTEN_FORMATS, DataError, is_leftover, read_image
from retina.ut_fsocta import SIMULATED_NOTE

PAIRS = "pairs.csv"  # the table of pairs that is written
JPEG_QUALITY = 95

Case = PairRow  # or a row of `load_data_cases`, which has the same attributes


def check_output(output: Path, target: Path, source: Path, record: str) -> None:
    """Reject an output folder that is not for this program's results.

    Args:
        output: the folder, as the user named it.
        target: where in it the data set will be written.
        source: the data set that is read.
        record: name of the table that marks a folder as this program's.

    Raises:
        OptionError: the folder lies in the data set, contains it, or has other content.
    """
    one, other = source.resolve(), target.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise OptionError(f"--output {output}: lies in the data set {source}, or contains it; choose another folder")
    usable = output.is_dir() and (
        (output / record).exists() or all(is_leftover(path.name) for path in output.iterdir())
    )
    if output.exists() and not usable:
        raise OptionError(f"--output {output}: exists, but is not from this program; choose a new or empty folder")


def mark_simulated(data: str | Path, output: Path) -> None:
    """Say in an output folder that its eyes are simulated, if those of the data are (`pairs.dataset.is_simulated`)."""
    if is_simulated(data):
        text = f"Made from the simulated retinas of {data}: no real eyes.\n"
        (output / SIMULATED_NOTE).write_text(text, encoding="utf-8", errors="backslashreplace")


class PairRecord(Record):
    """The finished pairs of some data, in their order, all made in one way.

    DIR/<record>.csv has a row for each, and DIR/<record>/<name> its figure, if figures are wanted.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        made_with: str,
        inputs: dict[str, str],
        figures: str,
        drawn: bool,
        may_lose: bool,
    ):
        """Read the existing table, or write an empty one, which marks its folder, made if missing, as this program's.

        Args:
            columns: all but the last two; the first is `name`, the last `verdict`.
            made_with: as in `Origin`.
            inputs: `digest_of` each pair, by name.
            figures: their suffix; `drawn`: whether they are wanted.
            may_lose: whether pairs of an earlier call may be missing now; their rows are then dropped.

        Raises:
            OptionError: it is damaged, of other data, or was made with other weights or options.
        """
        super().__init__(path, (*columns, "inputs", MADE_WITH))
        self.origins = {name: Origin(digest, made_with) for name, digest in inputs.items()}
        self.figures, self.drawn = figures, drawn
        self.failed: list[str] = []  # unusable files, one line each
        for row in self.rows.values():
            if row[MADE_WITH] != made_with:
                advice = "use the same (--run, ...), or another --output"
                raise OptionError(f"{path}: was made with {row[MADE_WITH]}, not {made_with}; {advice}")
        lost = [name for name in self.rows if name not in inputs]
        if lost and not may_lose:
            raise OptionError(f"{path}: has {lost[0]}, which is not in the data; choose another --output")
        if lost:
            print(f"NOTE: {path}: pairs that are no longer in the table are dropped: {', '.join(lost)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.write()

    @contextmanager
    def noting_faults(self) -> Iterator[None]:
        """Note an unusable file, for the report, and go on behind the block."""
        try:
            yield
        except DataError as error:
            self.failed.append(str(error))

    def current(self) -> dict[str, dict[str, str]]:
        """The rows that were made from the present files and settings of their pair, by name."""
        return {name: self.rows[name] for name, origin in self.origins.items() if origin.is_of(self.origin(name))}

    def figure(self, name: str) -> Path:
        """Where the figure of a pair is written to, if it is wanted."""
        return self.path.with_suffix("") / f"{name}{self.figures}"

    def unfinished(self, files: dict[Case, list[Path]]) -> list[Case]:
        """The cases without a current row, or without one of their files; prints how many others are kept."""
        finished, todo = self.current(), []
        for case, wanted in files.items():
            wanted = [*wanted, self.figure(case.name)] if self.drawn else wanted
            if case.name not in finished or not all(path.exists() for path in wanted):
                todo.append(case)
        if kept := len(files) - len(todo):
            print(f"{kept} of {len(files)} pairs exist and are kept")
        return todo

    def finish(self, values: Sequence[str], draw: Callable[[Path], None]) -> None:
        """Set the row of a pair, all columns but the last two; first `draw` its figure, if figures are wanted."""
        name = values[0]
        if self.drawn:
            draw(self.figure(name))
        else:
            self.figure(name).unlink(missing_ok=True)  # one of an earlier call would show another result
        self.add(values, self.origins[name])

    def names(self) -> list[str]:
        """The names of the rows in the order of the data."""
        return [name for name in self.origins if name in self.rows]

    def report(self, written: Path, bad: str, remark: str, next_step: str, if_none: str) -> int:
        """Put the record in order, and print a summary.

        Args:
            written: the data set that was written.
            bad: the verdict on pairs that the user should look at, each named with a `remark`.
            next_step: the command to go on with; `if_none` instead, if all pairs are bad.

        Returns:
            The exit status: 2 if a file was unusable.
        """
        self.close()
        rows = self.current()
        verdicts = Counter(row["verdict"] for row in rows.values())
        print(", ".join(f"{verdict} {number}" for verdict, number in verdicts.most_common()) or "no pair could be read")
        for name in (name for name, row in rows.items() if row["verdict"] == bad):
            print(f"{name}: {bad}; {remark}")
        print(f"Written: {written}; {self.path} has a row for each pair that could be read")
        if rows:
            print(f"Next: python {next_step}" if verdicts[bad] < len(rows) else if_none)
        for fault in dict.fromkeys(self.failed):
            report_error("dataset_load_mod.py", fault)
        return 2 if self.failed else 0


def written_suffix(path: Path) -> str:
    """The suffix that a copy of an image gets: its own, or .png if that is none of WRITTEN_FORMATS."""
    return path.suffix if path.suffix.lower() in WRITTEN_FORMATS else ".png"


def copy_file(source: Path, target: Path) -> None:
    """Copy a file atomically, unless its copy exists; its folder is created. Another suffix means another format.

    Raises:
        DataError: the source cannot be read.
        OSError: the target cannot be written.
    """
    if source.suffix != target.suffix:
        write_image(target, read_image(source))
        return
    try:
        content = source.open("rb")
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({why(error)})") from error
    with content:
        if target.exists() and filecmp.cmp(source, target, shallow=False):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as part, part.open("wb") as copy:
            shutil.copyfileobj(content, copy)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image (height, width, 3 or 4), uint8, in the format of the path's suffix; a grey, opaque one as grey."""
    kind = WRITTEN_FORMATS[path.suffix.lower()]
    colours, alpha = image[..., :3], image[..., 3:]
    if (colours == colours[..., :1]).all() and (alpha == 255).all():
        image = colours[..., 0]  # grey
    elif kind in ("JPEG", "BMP"):
        image = colours
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as part:
        Image.fromarray(image).save(part, format=kind, quality=JPEG_QUALITY)
