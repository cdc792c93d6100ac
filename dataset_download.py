"""UT-FSOCTA from Zenodo into a folder: fetch the archive, check it, unpack it. `dataset_load_mod.py` has the command:

    python dataset_load_mod.py download                     # into data/
    python dataset_load_mod.py download DIR
    python dataset_load_mod.py download --archive FILE      # the archive was fetched by hand

Whatever stops it, the same command goes on where it stopped. In the folder it writes

    UT-FSOCTA-v1/              the dataset: there whole, or not at all
    .UT-FSOCTA-v1.download/    the archive, or as much of it as has come; removed in the end
    .UT-FSOCTA-v1.unpacking/   what is being unpacked; removed in the end
    .UT-FSOCTA-v1.lock         held while a download is at work
"""

import logging
import os
import re
import shutil
import stat
import struct
import sys
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pooch
import requests
import urllib3
from filelock import FileLock, Timeout
from tqdm import tqdm

DATASET_NAME = "UT-FSOCTA-v1"
USER_AGENT = "synthetic-octa/1.0 (+https://doi.org/10.1038/s41598-023-42062-9)"  # Zenodo asks programs for their name
CHUNK = 1 << 18  # bytes read at once, at most
CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True)
class Deposit:
    """A zip archive on the web, and what is known of it."""

    name: str  # of the archive
    url: str
    page: str  # where a browser finds it
    size: int  # bytes
    md5: str
    unpacked: int  # bytes, about
    terms: str
    citation: str
    most_unpacked: int = 4_000_000_000  # bytes: an archive that declares more is not this deposit
    largest_file: int = 200_000_000  # bytes, in the archive


UT_FSOCTA = Deposit(
    name="UT-FSOCTA-v1.zip",
    url="https://zenodo.org/api/records/6476639/files/UT-FSOCTA-v1.zip/content",
    page="https://doi.org/10.5281/zenodo.6476639",
    size=1_151_391_295,
    md5="c0f4987a8c5676d01e14a6a012fae01e",
    unpacked=1_200_000_000,
    terms="free to use for non-commercial scientific research only",
    citation="Coronado et al., Sci Rep 2023;13:15325, https://doi.org/10.1038/s41598-023-42062-9",
)


@dataclass(frozen=True)
class Patience:
    """How long to bear with a bad connection or a busy server."""

    attempts: int = 8  # in a row that bring nothing new; 4 minutes with the waits between them
    first_wait: float = 2.0  # s; each further wait is twice as long
    longest_wait: float = 120.0  # s
    longest_told_wait: float = 3600.0  # s that a server may ask for
    connect: float = 20.0  # s
    silence: float = 60.0  # s without a byte
    slowest: float = 1000.0  # bytes per s: a connection that is slower than this ...
    window: float = 60.0  # ... over so many s is dropped, since the next may be better


PATIENCE = Patience()


class DownloadError(ValueError):
    """A dataset that cannot be had this way; the message is one line for the user."""


class Interrupted(Exception):
    """A connection that ended too soon. Carries the reason, and for how many s the server wants us to wait, or None."""


def holds_dataset(folder: Path) -> bool:
    """Whether a folder is a dataset: has `cropped/fundus` and `cropped/octa`."""
    return all((folder / "cropped" / kind).is_dir() for kind in ("fundus", "octa"))


def download(
    folder: Path, archive: Path | None = None, deposit: Deposit = UT_FSOCTA, patience: Patience = PATIENCE
) -> Path:
    """Bring the dataset into a folder, unless it is there. Prints what it does.

    Args:
        folder: made if it is not there. The dataset becomes its `UT-FSOCTA-v1`.
        archive: the deposit's archive, fetched by hand; None: fetch it, unless it lies in the folder under its name.
            It is not changed and not removed.
        deposit: what to fetch, or what the archive must be.
        patience: with connection and server.

    Returns:
        The dataset's folder.

    Raises:
        DownloadError: it cannot be fetched, is not the deposit, has no room, or something else bears its name.
        OSError: the disk, naming the path.
    """
    target, work = folder / DATASET_NAME, folder / f".{DATASET_NAME}.download"
    for place in (folder, target):
        if holds_dataset(place):
            print(f"{place} is there already")
            shutil.rmtree(work, ignore_errors=True)  # of a call that was killed after it had unpacked
            return place
    refuse_other(target)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / f".{DATASET_NAME}.lock", timeout=0).acquire()
    except Timeout as error:
        raise DownloadError(f"{folder}: another download into this folder is at work; wait for it") from error
    with lock:
        print(f"{DATASET_NAME} ({deposit.page}) is {deposit.terms}. Cite {deposit.citation}")
        shutil.rmtree(unpacking_folder(target), ignore_errors=True)  # of a killed call: before free space is measured
        if archive is None and (folder / deposit.name).is_file():
            archive = folder / deposit.name
        if archive is None:
            there = size_of(work / deposit.name) + size_of(part_of(work, deposit))
            to_fetch = max(deposit.size - there, 0)
        else:
            check_archive(archive, deposit)
            to_fetch = 0
            print(f"{archive} is the deposit's archive; it is kept")
        sizes = [f"{size / 1e9:.2f}" for size in (to_fetch, deposit.size, deposit.unpacked)]
        print("{} of {} GB to fetch, {} GB to unpack".format(*sizes))
        check_space(folder, to_fetch + deposit.unpacked)
        if archive is None:
            work.mkdir(exist_ok=True)
            archive = fetch(deposit, work, patience)
        unpack(archive, target, deposit)
        shutil.rmtree(work, ignore_errors=True)
    return target


def refuse_other(target: Path) -> None:
    """Raises DownloadError if something bears the dataset's name."""
    if os.path.lexists(target):
        raise DownloadError(f"{target}: is there, but is no dataset; move it away, or name another folder")


def size_of(path: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def check_space(folder: Path, needed: int) -> None:
    """Raises DownloadError if the disk has less free space than needed, in bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        amounts = f"{needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB free"
        raise DownloadError(f"{folder}: {amounts}; make room, or name another folder")


def check_archive(archive: Path, deposit: Deposit) -> None:
    """Raises DownloadError if a file is not the deposit's archive, byte for byte."""
    if not archive.is_file():
        raise DownloadError(f"{archive}: there is no such file")
    advice = f"not the deposit; move it away, and get it anew without --archive, or from {deposit.page}"
    if archive.stat().st_size != deposit.size:
        raise DownloadError(f"{archive}: {archive.stat().st_size:,} bytes, not {deposit.size:,}: {advice}")
    md5 = pooch.file_hash(archive, alg="md5")
    if md5 != deposit.md5:
        raise DownloadError(f"{archive}: md5 {md5}, not {deposit.md5}: {advice}")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make errors of the disk name a file, if they do not name any."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(error.filename or path)) from error


def progress(description: str, total: int, start: int = 0) -> tqdm:
    """A bar that counts bytes; rarely drawn where it goes to a log file."""
    interval = 0.5 if sys.stderr.isatty() else 30  # s
    return tqdm(desc=description, total=total, initial=start, unit="B", unit_scale=True, mininterval=interval)


# --- fetch -----------------------------------------------------------------------------------------------------------


def part_of(folder: Path, deposit: Deposit) -> Path:
    """Where the part of an archive lies that has come so far."""
    return folder / f".{deposit.name}.part"


def fetch(deposit: Deposit, folder: Path, patience: Patience = PATIENCE) -> Path:
    """Fetch a deposit's archive, from where an earlier call stopped, and check it.

    Args:
        deposit: what to fetch.
        folder: a folder that serves nothing else. An archive that lies there, and is right, is not fetched again.
        patience: with connection and server.

    Returns:
        The archive, of the right size and md5.

    Raises:
        DownloadError: the connection brings nothing any more, what has come so far is kept; or the server has
            something else, or refuses.
        OSError: the disk, naming the path.
    """
    part = part_of(folder, deposit)
    for left in folder.glob("tmp*"):  # pooch's, of a call that was killed
        left.unlink()

    def downloader(url: str, output_file: str, _) -> None:
        fetch_part(deposit, part, patience)
        os.remove(output_file)
        try:
            os.link(part, output_file)  # not moved: whoever stops the check of the md5 need not fetch again
        except OSError:
            os.replace(part, output_file)  # a disk without hard links

    pooch.get_logger().setLevel(logging.WARNING)
    try:
        pooch.retrieve(deposit.url, f"md5:{deposit.md5}", deposit.name, folder, downloader=downloader)
    except DownloadError:
        raise
    except ValueError as error:  # pooch's: the md5 is wrong
        part.unlink(missing_ok=True)
        reason = str(error).split(". ")[0]  # the rest is about pooch
        raise DownloadError(f"{deposit.url}: {reason}; it is removed, the same command fetches it anew") from error
    part.unlink(missing_ok=True)
    return folder / deposit.name


def fetch_part(deposit: Deposit, part: Path, patience: Patience) -> None:
    """Fetch what a part lacks, over as many connections as it takes. Raises as `fetch`."""
    farthest, failures = size_of(part), 0
    with requests.Session() as session, progress(deposit.name, deposit.size, farthest) as bar:
        session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
        while (start := size_of(part)) != deposit.size:
            try:
                fetch_rest(session, deposit, part, start, patience, bar)
            except Interrupted as trouble:
                reason, wait = trouble.args
                if size_of(part) > farthest:  # else a server that always begins at 0 would keep us for ever
                    farthest, failures = size_of(part), 0
                else:
                    failures += 1
                if failures >= patience.attempts:
                    raise DownloadError(
                        f"{deposit.url}: {reason}; given up after {failures} attempts that brought nothing. "
                        "What has come is kept: the same command goes on"
                    ) from trouble
                if wait is None:
                    wait = min(patience.first_wait * 2 ** max(failures - 1, 0), patience.longest_wait)
                bar.write(f"{reason}; waiting {wait:.0f} s, then on from {size_of(part) / 1e6:.1f} MB")
                time.sleep(wait)


def fetch_rest(
    session: requests.Session, deposit: Deposit, part: Path, start: int, patience: Patience, bar: tqdm
) -> None:
    """Fetch over one connection what a part of `start` bytes lacks.

    Raises:
        Interrupted: it is still not whole.
        DownloadError: another attempt would not help.
    """
    headers = {"Range": f"bytes={start}-"} if start else {}
    times = (patience.connect, patience.silence)
    try:
        with session.get(deposit.url, headers=headers, stream=True, timeout=times) as answer:
            at = start if goes_on(answer, deposit, part, start, patience) else 0
            bar.update(at - bar.n)
            since, seen = time.monotonic(), at
            with naming(part), open(part, "ab" if at else "wb") as file:
                while at <= deposit.size and (data := answer.raw.read1(CHUNK)):  # read1: what is there, however little
                    file.write(data)
                    at += len(data)
                    bar.update(len(data))
                    if (passed := time.monotonic() - since) >= patience.window:
                        if at - seen < patience.slowest * passed:
                            raise Interrupted(f"less than {patience.slowest:.0f} bytes per s", None)
                        since, seen = time.monotonic(), at
    except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
        reason = root_cause(error)
        if "CERTIFICATE_VERIFY_FAILED" in reason:  # a clinic's proxy, or no certificates of authorities: it stays so
            advice = "if a proxy stands between, set REQUESTS_CA_BUNDLE to the file of its certificate"
            raise DownloadError(f"{deposit.url}: {reason}; {advice}; or {by_hand(deposit)}") from error
        raise Interrupted(reason, None) from error
    except requests.RequestException as error:
        raise DownloadError(f"{deposit.url}: {error}; {by_hand(deposit)}") from error
    if at > deposit.size:
        part.unlink()
        raise wrong_length(deposit, f"more than {deposit.size:,}")
    if at < deposit.size:
        raise Interrupted("the connection ended early", None)


def goes_on(answer: requests.Response, deposit: Deposit, part: Path, start: int, patience: Patience) -> bool:
    """Whether an answer brings what follows on the `start` bytes of a part; else it brings all. Raises as `fetch_rest`.

    A part that the server cannot go on with is removed.
    """
    status = f"HTTP {answer.status_code} {answer.reason}"
    if answer.status_code in (429, 503):
        wait = urllib3.Retry().get_retry_after(answer.raw)  # s; an unreadable one raises, and the usual wait is taken
        if wait is not None and wait > patience.longest_told_wait:
            raise DownloadError(
                f"{deposit.url}: {status}: the server wants to be left alone for {wait / 60:.0f} minutes; "
                "run the same command then"
            )
        raise Interrupted(status, wait)
    if answer.status_code >= 500:
        raise Interrupted(status, None)
    if answer.status_code == 200:
        length = answer.headers.get("Content-Length", str(deposit.size))  # it may be missing
        if length != str(deposit.size):
            raise wrong_length(deposit, length)
        return False
    span = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "")) if answer.status_code == 206 else None
    if span and int(span[2]) != deposit.size:
        raise wrong_length(deposit, span[2])
    if span and int(span[1]) == start:
        return True
    if start and answer.status_code in (206, 416):
        part.unlink()
        raise Interrupted(f"{status}: the server does not go on at {start:,} bytes", None)
    raise DownloadError(f"{deposit.url}: {status}; {by_hand(deposit)}")


def wrong_length(deposit: Deposit, length: str) -> DownloadError:
    """The error for an answer that is of another size than the deposit."""
    return DownloadError(
        f"{deposit.url}: wrong length, {length} instead of {deposit.size:,} bytes: not the deposit; {by_hand(deposit)}"
    )


def by_hand(deposit: Deposit) -> str:
    """What to do where the program cannot fetch."""
    return f"try later, or get {deposit.name} by hand from {deposit.page} and give it with --archive"


def root_cause(error: BaseException) -> str:
    """Why a connection failed, without the layers of libraries around it."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return str(error) or type(error).__name__


# --- unpack ----------------------------------------------------------------------------------------------------------


def unpacking_folder(target: Path) -> Path:
    """Where a dataset is unpacked before it gets its name: beside it, so on the same disk."""
    return target.with_name(f".{target.name}.unpacking")


def unpack(archive: Path, target: Path, deposit: Deposit = UT_FSOCTA) -> None:
    """Unpack an archive so that in the end the dataset is there whole or not at all.

    The archive's top level is the dataset's folder, or holds it, under whatever name.

    Args:
        archive: a zip file.
        target: the dataset's folder to be; must not be there.
        deposit: says how large the files may become.

    Raises:
        DownloadError: the target is there; or the archive is damaged, holds no dataset or what no dataset needs
            (links, names that lead elsewhere, ...), or is too large for the disk.
        OSError: the disk, naming the path.
    """
    refuse_other(target)
    temporary = unpacking_folder(target)
    shutil.rmtree(temporary, ignore_errors=True)  # of a call that was killed
    try:
        with naming(archive), zipfile.ZipFile(archive) as file:
            entries, left_out = list_entries(file, archive, deposit)
            check_space(target.parent, sum(entry.file_size for entry in entries))
            temporary.mkdir()
            write_entries(file, entries, temporary)
        roots = [place for place in (temporary, *temporary.iterdir()) if holds_dataset(place)]
        if len(roots) != 1:
            raise DownloadError(f"{archive}: has no cropped/fundus and cropped/octa, or several; not the deposit")
        files = sum(path.is_file() for path in roots[0].rglob("*"))
        left_out += len(entries) - files  # beside the dataset's folder
        os.rename(roots[0], target)
    except DownloadError:
        raise
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, ValueError) as error:
        raise DownloadError(f"{archive}: damaged, or no zip archive that can be read ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"{target}: {files} files" + (f"; {left_out} leftovers of a Mac or others left out" if left_out else ""))


def list_entries(file: zipfile.ZipFile, archive: Path, deposit: Deposit) -> tuple[list[zipfile.ZipInfo], int]:
    """The files of an archive that are data, and how many are a Mac's leftovers.

    Raises:
        DownloadError: a name, kind or size that no dataset needs.
    """
    entries, left_out = [], 0
    names: set[str] = set()  # as a disk that ignores case sees them
    folders: set[str] = set()
    for entry in file.infolist():
        path, kind = PurePosixPath(entry.orig_filename), stat.S_IFMT(entry.external_attr >> 16)
        if not path.parts or path.is_absolute() or ".." in path.parts or re.search(r"[\\:\0]", entry.orig_filename):
            problem = "a name that leads elsewhere"
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            problem = "a link or another special file"
        elif entry.flag_bits & 1:
            problem = "encrypted"
        elif entry.file_size > deposit.largest_file:
            problem = f"{entry.file_size:,} bytes, more than any image"
        elif path.name == ".DS_Store" or path.name.startswith("._") or "__MACOSX" in path.parts:
            left_out += not entry.is_dir()
            continue
        elif entry.is_dir():
            continue
        else:
            name, *above = [unicodedata.normalize("NFC", str(place)).casefold() for place in (path, *path.parents)]
            problem = "a name that is there twice" if name in names else None
            names.add(name)
            folders.update(above)
            entries.append(entry)
        if problem:
            raise DownloadError(f"{archive}: {entry.orig_filename!r}: {problem}; not the deposit, nothing is unpacked")
    if clash := names & folders:
        raise DownloadError(f"{archive}: {min(clash)!r}: both file and folder; not the deposit, nothing is unpacked")
    if (total := sum(entry.file_size for entry in entries)) > deposit.most_unpacked:
        raise DownloadError(f"{archive}: would unpack to {total:,} bytes; not the deposit, nothing is unpacked")
    return entries, left_out


def write_entries(file: zipfile.ZipFile, entries: list[zipfile.ZipInfo], folder: Path) -> None:
    """Write files of an archive below a folder, with the permissions that new files have.

    Raises:
        zipfile.BadZipFile: one is shorter than declared. Longer is not possible: zipfile stops, and compares the CRC.
    """
    with progress("unpacking", sum(entry.file_size for entry in entries)) as bar:
        for entry in entries:
            path = folder / entry.orig_filename
            path.parent.mkdir(parents=True, exist_ok=True)
            with file.open(entry) as packed, naming(path), open(path, "xb") as unpacked:
                while data := packed.read(CHUNK):
                    unpacked.write(data)
                    bar.update(len(data))
                if unpacked.tell() != entry.file_size:
                    raise zipfile.BadZipFile(f"{entry.orig_filename!r} is shorter than declared")
