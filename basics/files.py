"""Files: written atomically, locked, and tables as spreadsheet programs write them."""

import csv
import errno
import io
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

from basics.command_line import OptionError, why

TEXT = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}  # how tables are opened to write


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path to write a file to, so that it appears complete, or not at all. Disk errors name the file."""
    # Short, because the file's name may be as long as the system allows.
    part = path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def hold(path: Path, busy: str) -> Iterator[None]:
    """Hold a file for one process; the system releases it when the process ends, however it ends.

    On a file system without locks (some network drives) it is not held, and a note is printed.

    Args:
        path: the file; made if it does not exist.
        busy: what to tell the user if another process holds it.

    Raises:
        OptionError: another process holds it.
        OSError: the file cannot be made.
    """
    from filelock import FileLock, Timeout  # here, so that the networks load no library but Keras

    held = FileLock(path, timeout=0)
    try:
        held.acquire()
    except Timeout as error:
        raise OptionError(busy) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        print(f"NOTE: {path.parent}: its file system does not support locks; let only one process write to it")
    try:
        yield
    finally:
        held.release()


def read_table(path: Path, appended: bool = False) -> list[dict[str, str]]:
    """The rows of a table, see `numbered_rows`."""
    return [row for _, row in numbered_rows(path, appended)]


def numbered_rows(path: Path, appended: bool = False) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV table by column, as text, with their row numbers in a spreadsheet: the header is 1.

    Rows whose cells are all empty are left out, missing cells are empty. Reads UTF-8 with commas, semicolons or tabs,
    as spreadsheet programs write it. Not by `pandas.read_csv`, which takes a first cell too many for an index, renames
    the second of two equal columns, and splits the header `path` at its t.

    `appended`: rows are appended to this table one by one, and the last line may be cut off; then it does not count.

    Raises:
        OptionError: it cannot be read, two columns have the same name, or a row has more cells than there are columns.
    """
    try:
        content = path.read_bytes()
        text = content[: content.rfind(b"\n") + 1 if appended else None].decode("utf-8-sig")
        separator = max(",;\t", key=text.partition("\n")[0].count)
        header, *rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True) if text else [[]]
    except UnicodeDecodeError as error:
        raise OptionError(f"{path}: is not in UTF-8; save it as CSV UTF-8") from error
    except (OSError, csv.Error) as error:
        raise OptionError(f"{path}: cannot be read as a CSV table ({why(error)})") from error
    names = Counter(name.strip().lower() for name in header)
    if double := [name for name in names if name and names[name] > 1]:
        raise OptionError(f"{path}: has several columns named {double[0]}; rename or delete all but one")
    numbered = []
    for number, cells in enumerate(rows, 2):
        if not any(map(str.strip, cells)):  # spreadsheet programs write such rows below a table
            continue
        if len(cells) > len(header):
            raise OptionError(f"{path}: row {number} has more cells than there are columns (the header is row 1)")
        numbered.append((number, dict(zip_longest(header, cells, fillvalue=""))))
    return numbered


def write_table(path: Path, columns: Sequence[str], rows: Iterable[dict]) -> None:
    """Write a CSV table, in UTF-8, atomically; bytes of file names that are not UTF-8 are written out."""
    with atomic_file(path) as part, open(part, "w", **TEXT) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@contextmanager
def disk_errors_name(path: Path) -> Iterator[None]:
    """Add this path to disk errors that name no file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(error.filename or path)) from error
