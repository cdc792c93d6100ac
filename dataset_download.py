"""Fetch UT-FSOCTA from Zenodo, verify it and unpack it. The command is part of `dataset_load_mod.py`:

    python dataset_load_mod.py download                     # into data/
    python dataset_load_mod.py download DIR
    python dataset_load_mod.py download --archive FILE      # if you downloaded the archive by hand

A download that was stopped or failed resumes with the same command. In the folder it writes

    UT-FSOCTA-v1/              the data set; appears atomically
    .UT-FSOCTA-v1.zip.part     the part of the archive fetched so far; removed at the end
    .UT-FSOCTA-v1.unpacking/   files while they are unpacked; removed at the end
    .UT-FSOCTA-v1.lock         prevents a second download at the same time
"""

import os
import re
import shutil
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
import urllib3
from tqdm import tqdm

from pix_command import UserError, disk_errors_name, hold, progress_bar
from ut_fsocta import DATASET_NAME

USER_AGENT = "synthetic-octa/1.0 (+https://doi.org/10.1038/s41598-023-42062-9)"  # Zenodo wants programs to give a name
CHUNK = 1 << 14  # bytes read at once: when a connection breaks, at most one chunk is lost
UNPACKING = f".{DATASET_NAME}.unpacking"  # next to the data set's folder, so on the same disk
MAC_LEFTOVER = re.compile(r"(^|/)(__MACOSX/|\._|\.DS_Store$)")


@dataclass(frozen=True)
class DatasetArchive:
    """The zip archive of a data set on the web."""

    name: str  # of the archive
    url: str
    page: str  # for a browser
    size: int  # bytes
    md5: str
    unpacked: int  # bytes, approximately
    terms: str
    citation: str

    @property
    def by_hand(self) -> str:
        """What the user can do if the program cannot fetch the archive."""
        return f"try later, or download {self.name} by hand from {self.page} and pass it with --archive"


UT_FSOCTA = DatasetArchive(
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
    """How long to tolerate a bad connection or a busy server."""

    attempts: int = 8  # in a row without a new byte; 4 minutes with the waits between them
    first_wait: float = 2.0  # s; each further wait is twice as long
    longest_wait: float = 120.0  # s
    longest_told_wait: float = 3600.0  # s that a server may ask for
    connect: float = 20.0  # s
    silence: float = 60.0  # s without a byte


PATIENCE = Patience()


class DownloadError(UserError):
    """The data set cannot be fetched or unpacked."""


class Interrupted(Exception):
    """A connection failed, but another may succeed: the reason, and the wait in s that the server asks for, or None."""


def holds_dataset(folder: Path) -> bool:
    """Whether a folder contains `cropped/fundus` and `cropped/octa`."""
    return all((folder / "cropped" / kind).is_dir() for kind in ("fundus", "octa"))


def download(
    folder: Path, archive: Path | None = None, dataset: DatasetArchive = UT_FSOCTA, patience: Patience = PATIENCE
) -> Path:
    """Fetch and unpack the data set, unless it exists. Prints its terms, its citation and the progress.

    Args:
        folder: created if missing. The data set becomes its subfolder `UT-FSOCTA-v1`.
        archive: the archive, if downloaded by hand; it is not changed or removed. None: fetch it, unless the folder
            contains it under its own name.
        dataset: what to fetch, and the size and md5 that the archive must have.
        patience: with connection and server.

    Returns:
        The data set's folder.

    Raises:
        DownloadError: the archive cannot be fetched, is not the data set's or does not fit on the disk; or another
            file has the data set's name.
        OptionError: another download into the folder is running.
        OSError: from the disk; names the file.
    """
    target, part = folder / DATASET_NAME, folder / f".{dataset.name}.part"
    for place in (folder, target):
        if holds_dataset(place):
            print(f"{place} already exists")
            part.unlink(missing_ok=True)  # left by a call that was killed after unpacking
            return place
    if os.path.lexists(target):
        raise DownloadError(f"{target}: exists, but is not a data set; move it away, or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"{folder}: another download into this folder is running; wait for it"
    with hold(folder / f".{DATASET_NAME}.lock", busy):
        print(f"{DATASET_NAME} ({dataset.page}) is {dataset.terms}. Cite {dataset.citation}")
        shutil.rmtree(folder / UNPACKING, ignore_errors=True)  # left by a killed call; it takes up space
        if archive is None and (folder / dataset.name).is_file():
            archive = folder / dataset.name
        if archive:
            check_archive(archive, dataset, f"move it away, and run without --archive, or get it from {dataset.page}")
            print(f"{archive} is the data set's archive; it is kept")
        to_fetch = 0 if archive else max(dataset.size - size_of(part), 0)
        needed, free = to_fetch + dataset.unpacked, shutil.disk_usage(folder).free
        amounts = f"{to_fetch / 1e9:.2f} GB to fetch, {dataset.unpacked / 1e9:.2f} GB to unpack"
        if free < needed:
            raise DownloadError(f"{folder}: {amounts}, but {free / 1e9:.2f} GB free; make room, or use another folder")
        print(amounts)
        if not archive:
            fetch(dataset, part, patience)
        unpack(archive or part, target)
        part.unlink(missing_ok=True)
    return target


def size_of(path: Path) -> int:
    """Size of a file in bytes; 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


def check_archive(archive: Path, dataset: DatasetArchive, advice: str) -> None:
    """Raise DownloadError, which ends with the advice, if a file is not the data set's archive."""
    with disk_errors_name(archive):
        size, md5 = archive.stat().st_size, pooch.file_hash(archive, alg="md5")
    if (size, md5) != (dataset.size, dataset.md5):
        expected = f"{dataset.size:,} bytes with md5 {dataset.md5}"
        raise DownloadError(f"{archive}: {size:,} bytes with md5 {md5}, but {dataset.name} has {expected}; {advice}")


# --- fetch -----------------------------------------------------------------------------------------------------------


def fetch(dataset: DatasetArchive, part: Path, patience: Patience) -> None:
    """Fetch the bytes that a partial archive lacks, over as many connections as it takes, and verify the archive.

    Raises:
        DownloadError: no further byte arrives, and `part` is kept; the server refuses or sends something else; or the
            md5 is wrong, and `part` is removed.
        OSError: from the disk; names the file.
    """
    farthest, failures = size_of(part), 0
    progress = {"desc": dataset.name, "total": dataset.size, "initial": farthest, "unit": "B", "unit_scale": True}
    with requests.Session() as session, progress_bar(**progress) as bar:
        session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
        while size_of(part) < dataset.size:
            try:
                fetch_rest(session, dataset, part, patience, bar)
            except Interrupted as trouble:
                reason, wait = trouble.args
                failures = 0 if size_of(part) > farthest else failures + 1
                farthest = max(farthest, size_of(part))  # a server that begins at 0 every time makes no progress
                if failures >= patience.attempts:
                    advice = "what was fetched is kept; the same command resumes"
                    raise DownloadError(f"{dataset.url}: {reason}; {failures} attempts failed; {advice}") from trouble
                if wait is None:
                    wait = min(patience.first_wait * 2 ** max(failures - 1, 0), patience.longest_wait)
                bar.write(f"{reason}; waiting {wait:.0f} s, then resuming at {size_of(part) / 1e6:.1f} MB")
                time.sleep(wait)
    try:
        check_archive(part, dataset, f"it was removed; run the same command again, {dataset.by_hand}")
    except DownloadError:
        part.unlink()
        raise


def fetch_rest(session: requests.Session, dataset: DatasetArchive, part: Path, patience: Patience, bar: tqdm) -> None:
    """Fetch the missing bytes over one connection. Raises DownloadError if another attempt would not help."""
    at = size_of(part)
    headers = {"Range": f"bytes={at}-"} if at else {}
    try:
        timeout = (patience.connect, patience.silence)
        with session.get(dataset.url, headers=headers, stream=True, timeout=timeout) as answer:
            at = at if resumes(answer, dataset, part, at, patience) else 0
            bar.update(at - bar.n)
            with disk_errors_name(part), open(part, "ab" if at else "wb") as file:
                for data in answer.raw.stream(CHUNK):  # not iter_content: its errors look like disk errors
                    file.write(data)
                    at += len(data)
                    bar.update(len(data))
    except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
        reason = root_cause(error)
        if "CERTIFICATE_VERIFY_FAILED" in reason:  # a hospital's proxy, or no root certificates: waiting does not help
            advice = "behind a proxy, set REQUESTS_CA_BUNDLE to its certificate file"
            raise DownloadError(f"{dataset.url}: {reason}; {advice}; or {dataset.by_hand}") from error
        raise Interrupted(reason, None) from error
    except requests.RequestException as error:
        raise DownloadError(f"{dataset.url}: {error}; {dataset.by_hand}") from error
    if at < dataset.size:
        raise Interrupted("the connection ended early", None)


def resumes(answer: requests.Response, dataset: DatasetArchive, part: Path, start: int, patience: Patience) -> bool:
    """Whether an answer continues at byte `start`, or begins at 0. If the server can do neither, `part` is removed."""
    code, status = answer.status_code, f"HTTP {answer.status_code} {answer.reason}"
    if code == 429 or code >= 500:
        told = answer.headers.get("Retry-After", "")
        wait = int(told) if told.isdecimal() else None  # s; it may be a date
        if (wait or 0) > patience.longest_told_wait:
            advice = f"the server is busy; run the same command in {wait / 60:.0f} minutes"
            raise DownloadError(f"{dataset.url}: {status}: {advice}")
        raise Interrupted(status, wait)
    if code == 200:
        if (length := answer.headers.get("Content-Length", str(dataset.size))) != str(dataset.size):  # may be missing
            raise DownloadError(f"{dataset.url}: {length} bytes, not {dataset.size}; {dataset.by_hand}")
        return False
    span = answer.headers.get("Content-Range", "")
    if code == 206 and span.startswith(f"bytes {start}-") and span.endswith(f"/{dataset.size}"):
        return True
    if start and code in (206, 416):
        part.unlink()
        raise Interrupted(f"{status}: the server cannot resume at {start:,} bytes", None)
    raise DownloadError(f"{dataset.url}: {status}; {dataset.by_hand}")


def root_cause(error: BaseException) -> str:
    """Why a connection failed, without the layers of libraries around it."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return str(error) or type(error).__name__


# --- unpack ----------------------------------------------------------------------------------------------------------


def unpack(archive: Path, target: Path) -> None:
    """Unpack an archive so that the data set appears atomically. Its file names are trusted: its md5 was verified.

    Args:
        archive: a zip file. The data set is its top level, or a folder of any name. Leftovers of macOS are skipped.
        target: the data set's folder; must not exist.

    Raises:
        DownloadError: the archive is damaged or contains no data set.
        OSError: from the disk; names the file.
    """
    temporary = target.with_name(UNPACKING)
    temporary.mkdir()
    try:
        with disk_errors_name(archive), zipfile.ZipFile(archive) as file:
            names = [name for name in file.namelist() if not MAC_LEFTOVER.search(name)]
            for name in progress_bar(names, desc="unpacking", unit="file"):
                with disk_errors_name(temporary / name):
                    file.extract(name, temporary)
        roots = [place for place in (temporary, *temporary.iterdir()) if holds_dataset(place)]
        if len(roots) != 1:
            raise DownloadError(f"{archive}: not {DATASET_NAME}: not one folder with cropped/fundus and cropped/octa")
        os.rename(roots[0], target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DownloadError(f"{archive}: damaged, or not a zip archive ({error}); download it again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"{target}: {sum(path.is_file() for path in target.rglob('*'))} files")
