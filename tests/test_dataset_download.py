"""Downloads of a small archive from a local server that misbehaves as told."""

import hashlib
import io
import re
import resource
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import zipfile
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import Mock

import numpy as np
import pytest
from filelock import FileLock

import dataset_download as dd
from pix_command import OptionError

LOCK, PART, UNPACKING = ".UT-FSOCTA-v1.lock", ".UT-FSOCTA-v1.zip.part", ".UT-FSOCTA-v1.unpacking"
FILES = {
    "cropped/fundus/disc/1_OD.png": np.random.default_rng(0).bytes(40_000),
    "cropped/octa/disc/1_OD.png": bytes(60_000),  # larger than the archive
    "fov45/fundus/1_OD.jpg": b"photograph",
}


def archive_of(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


ARCHIVE = archive_of(FILES)


class Handler(BaseHTTPRequestHandler):
    """Answers each request by the next act of the server's script, and properly after its end."""

    def do_GET(self):
        self.server.seen.append(self.headers.get("Range"))
        act = self.server.script.pop(0) if self.server.script else serve()
        with suppress(OSError):  # the client hung up
            act(self)


def answer(status, body=b"", **headers):
    def act(handler):
        handler.send_response(status)
        for name, value in ({"Content_Length": len(body)} | headers).items():
            if value is not None:
                handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return act


def serve(count=None):
    """Send the requested range, or only its first `count` bytes."""

    def act(handler):
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        span = f"bytes {start}-{len(ARCHIVE) - 1}/{len(ARCHIVE)}"
        body, length = ARCHIVE[start:][:count], len(ARCHIVE) - start
        answer(206 if start else 200, body, Content_Length=length, Content_Range=span if start else None)(handler)

    return act


def reset(handler):
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def hang(handler):
    serve(0)(handler)
    handler.connection.recv(1)  # returns when the client hangs up


WITHOUT_LENGTH = answer(200, ARCHIVE, Content_Length=None)
NOTHING = answer(200, Content_Length=None)
BEGIN_AGAIN = answer(200, ARCHIVE[:9000], Content_Length=len(ARCHIVE))  # and break off
SHIFTED = answer(206, ARCHIVE[7001:], Content_Range=f"bytes 7001-{len(ARCHIVE) - 1}/{len(ARCHIVE)}")
OTHER_FILE = answer(206, bytes(3000), Content_Range="bytes 7000-9999/10000")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr(dd, "CHUNK", 1000)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.script, server.seen = [], []
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield server
        server.shutdown()


@pytest.fixture
def dataset(server):
    facts = {"size": len(ARCHIVE), "md5": hashlib.md5(ARCHIVE).hexdigest(), "unpacked": 1000}
    return replace(dd.UT_FSOCTA, url=f"http://127.0.0.1:{server.server_port}/content", **facts)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def waits(monkeypatch):
    """The waits between attempts, which then take no time."""
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    return waits


def names_in(folder):
    """All files below a folder, except the lock."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != LOCK)


def assert_complete(folder):
    """The folder holds the data set, byte for byte, and nothing else."""
    assert {path.name for path in folder.iterdir()} <= {"UT-FSOCTA-v1", LOCK}
    assert names_in(folder / "UT-FSOCTA-v1") == sorted(FILES)
    assert all((folder / "UT-FSOCTA-v1" / name).read_bytes() == content for name, content in FILES.items())


def download(folder, dataset, archive=None, attempts=3):
    patience = dd.Patience(attempts, first_wait=0.01, longest_wait=0.03, longest_told_wait=60, connect=5, silence=0.5)
    return dd.download(folder, archive, dataset, patience)


def assert_fails(names, folder, dataset, archive=None, error=dd.DownloadError):
    """A download fails with one line that contains `names`, and leaves no data set; returns the line."""
    with pytest.raises(error, match=re.escape(str(names))) as caught:
        download(folder, dataset, archive)
    assert "\n" not in str(caught.value)
    assert not (folder / "UT-FSOCTA-v1").exists()
    return str(caught.value)


@pytest.mark.parametrize("act", [serve(), WITHOUT_LENGTH, answer(302, Location="/elsewhere")])
def test_dataset_is_fetched_and_unpacked(server, dataset, folder, act):
    server.script = [act]
    assert download(folder / "new", dataset) == folder / "new" / "UT-FSOCTA-v1"
    assert_complete(folder / "new")


def test_terms_and_citation_are_printed(dataset, folder, capsys):
    download(folder, dataset)
    assert re.search(f"{re.escape(dataset.terms)}.*{re.escape(dataset.citation)}", capsys.readouterr().out)


@pytest.mark.parametrize("place", [".", "UT-FSOCTA-v1"])
def test_existing_dataset_is_not_fetched(server, dataset, folder, place):
    download(folder, dataset)
    (folder / place / PART).touch()  # left by a call that was killed after it had unpacked
    assert download(folder / place, dataset) == folder / "UT-FSOCTA-v1"
    assert_complete(folder)
    assert len(server.seen) == 1


@pytest.mark.parametrize("kind", ["folder", "file", "dead link"])
def test_another_file_with_the_name_of_the_dataset_is_left_alone(dataset, folder, kind):
    target = folder / "UT-FSOCTA-v1"
    {"folder": target.mkdir, "file": target.touch, "dead link": lambda: target.symlink_to("nowhere")}[kind]()
    with pytest.raises(dd.DownloadError, match=str(target)):
        download(folder, dataset)
    assert list(folder.iterdir()) == [target]


def test_download_resumes_where_connections_ended(server, dataset, folder):
    """More often than the limit of attempts, since each connection brings something."""
    server.script = [answer(200, ARCHIVE[:7000], Content_Length=None), *map(serve, (1, 2000, 10_000, 3, 5000))]
    download(folder, dataset)
    assert_complete(folder)
    assert server.seen == [None, *(f"bytes={start}-" for start in (7000, 7001, 9001, 19_001, 19_004, 24_004))]


@pytest.mark.parametrize("act", [reset, hang, answer(500), answer(502, b"sorry"), answer(429)])
def test_failed_attempt_is_repeated(server, dataset, folder, act):
    server.script = [serve(7000), act]
    download(folder, dataset)
    assert_complete(folder)
    assert server.seen == [None, "bytes=7000-", "bytes=7000-"]


@pytest.mark.parametrize("acts", [[reset], [NOTHING], [BEGIN_AGAIN], [answer(503)], [answer(416), serve(9000)]])
def test_attempts_without_a_new_byte_are_limited(server, dataset, folder, acts):
    server.script = [serve(9000), *acts * 50]
    assert_fails(dataset.url, folder, dataset)
    assert len(server.seen) == 4


def test_missing_server_is_an_error(server, dataset, folder):
    server.shutdown()
    server.server_close()
    assert_fails(dataset.url, folder, dataset)


def test_another_call_resumes(server, dataset, folder):
    server.script = [serve(9000), *[reset] * 3]
    assert_fails(dataset.url, folder, dataset)
    download(folder, dataset)
    assert_complete(folder)
    assert server.seen[-1] == "bytes=9000-"


@pytest.mark.parametrize("act", [answer(206), SHIFTED, OTHER_FILE, answer(416), BEGIN_AGAIN])
def test_server_that_cannot_resume_begins_again(server, dataset, folder, act):
    server.script = [serve(7000), act]
    download(folder, dataset)
    assert_complete(folder)
    assert server.seen[2] != "bytes=7000-"


def test_server_sets_the_wait(server, dataset, folder, waits):
    server.script = [answer(429, Retry_After="7"), answer(503, Retry_After="8")]
    download(folder, dataset)
    assert waits == [7, 8]


def test_waits_double_up_to_the_longest(server, dataset, folder, waits):
    server.script = [answer(429), answer(503, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"), reset, reset]
    download(folder, dataset, attempts=9)
    assert waits == [0.01, 0.02, 0.03, 0.03]


@pytest.mark.parametrize("act", [*map(answer, (403, 404, 416, 206)), answer(302, Location="/again")])
def test_refusal_is_an_error_at_once(server, dataset, folder, act, waits):
    server.script = [act] * 50
    assert "--archive" in assert_fails(dataset.url, folder, dataset)
    assert not waits


@pytest.mark.skipif(not shutil.which("openssl"), reason="nothing here makes certificates")
def test_unknown_certificate_is_an_error_at_once(server, dataset, folder, tmp_path, waits):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
    subprocess.run([*make.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = dataset.url.replace("http://127.0.0.1", "https://localhost")
    assert "REQUESTS_CA_BUNDLE" in assert_fails(url, folder, replace(dataset, url=url))
    assert not waits


@pytest.mark.parametrize("act", [answer(200, b"log in"), answer(200, bytes(10**6)), answer(429, Retry_After="7200")])
def test_wrong_length_or_a_wait_of_hours_is_an_error_that_keeps_the_part(server, dataset, folder, act):
    server.script = [serve(7000), act]
    assert_fails(dataset.url, folder, dataset)
    assert len(server.seen) == 2
    assert (folder / PART).read_bytes() == ARCHIVE[:7000]


@pytest.mark.parametrize("size", [10**6, len(ARCHIVE)])
def test_wrong_archive_is_removed_and_fetched_again(server, dataset, folder, size):
    server.script = [answer(200, bytes(size), Content_Length=None)]
    assert_fails(folder / PART, folder, dataset)
    assert names_in(folder) == []
    download(folder, dataset)
    assert_complete(folder)


@pytest.mark.parametrize("changes", [{"size": 10**18}, {"unpacked": 10**18}])
def test_small_disk_is_an_error_before_anything_is_fetched(server, dataset, folder, changes):
    assert_fails(folder, folder, replace(dataset, **changes))
    assert not server.seen


def test_fetched_part_and_leftovers_need_no_space(server, dataset, folder, monkeypatch):
    (folder / PART).write_bytes(ARCHIVE[:-9000])
    (folder / UNPACKING).mkdir()
    monkeypatch.setattr("shutil.disk_usage", lambda _: Mock(free=10_000 - (folder / UNPACKING).exists()))
    download(folder, dataset)
    assert_complete(folder)


@pytest.mark.parametrize(("limit", "named", "seen"), [(20_000, PART, ["bytes=20000-"]), (50_000, "octa/disc/1_OD", [])])
def test_full_disk_names_the_file_and_the_same_command_resumes(server, dataset, folder, limit, named, seen):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        assert_fails(named, folder, dataset, error=OSError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names_in(folder) == [PART]
    server.seen.clear()
    download(folder, dataset)
    assert_complete(folder)
    assert server.seen == seen


def test_second_download_into_a_folder_is_refused(dataset, folder):
    with FileLock(folder / LOCK):
        assert_fails(folder, folder, dataset, error=OptionError)


@pytest.fixture(params=["option", "folder"])
def by_hand(request, folder, tmp_path):
    """The path of an archive, and the option that names it: an archive in the folder needs none."""
    return (tmp_path / "by hand.zip",) * 2 if request.param == "option" else (folder / "UT-FSOCTA-v1.zip", None)


def test_archive_by_hand_is_unpacked_and_kept(server, dataset, folder, by_hand):
    path, option = by_hand
    path.write_bytes(ARCHIVE)
    download(folder, dataset, option)
    path.rename(folder.parent / "kept.zip")
    assert_complete(folder)
    assert not server.seen


@pytest.mark.parametrize("content", [ARCHIVE[:10] + b"x" + ARCHIVE[11:], ARCHIVE + b"x"])
def test_wrong_archive_by_hand_is_named_and_kept(server, dataset, folder, by_hand, content):
    path, option = by_hand
    path.write_bytes(content)
    assert_fails(path, folder, dataset, option)
    assert path.read_bytes() == content
    assert not server.seen


def test_missing_archive_by_hand_is_named(dataset, folder, tmp_path):
    assert_fails(tmp_path / "missing.zip", folder, dataset, tmp_path / "missing.zip", error=OSError)


MAC = ["__MACOSX/cropped/octa/disc/1_OD.png", ".DS_Store", "cropped/.DS_Store", "._cropped", "cropped/._octa"]


@pytest.mark.parametrize("top", ["./", "UT-FSOCTA-v1/", "another name/"])
def test_dataset_is_found_and_leftovers_of_a_mac_are_skipped(folder, tmp_path, top):
    files = {top: b"", "__MACOSX/": b""} | dict.fromkeys(MAC, b"x")
    (tmp_path / "x.zip").write_bytes(archive_of(files | {top + name: content for name, content in FILES.items()}))
    dd.unpack(tmp_path / "x.zip", folder / "UT-FSOCTA-v1")
    assert_complete(folder)


BAD = {
    "cut": ARCHIVE[:-30],
    "bad content": ARCHIVE[:200] + bytes(50) + ARCHIVE[250:],
    "bad deflation": ARCHIVE[:58] + b"\xff" + ARCHIVE[59:],
    "no dataset": archive_of({"cropped/fundus/disc/1_OD.png": b"x"}),
    "two datasets": archive_of({f"{top}/{name}": b"x" for top in "ab" for name in FILES}),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_bad_archive_is_named_and_leaves_nothing(folder, tmp_path, content):
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(dd.DownloadError, match=str(tmp_path / "x.zip")):
        dd.unpack(tmp_path / "x.zip", folder / "UT-FSOCTA-v1")
    assert not list(folder.iterdir())


@pytest.mark.parametrize("moment", ["os.rename", "zipfile.ZipFile.extract"])
def test_stop_while_unpacking_leaves_only_the_archive(dataset, folder, monkeypatch, moment):
    monkeypatch.setattr(moment, Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        download(folder, dataset)
    assert names_in(folder) == [PART]


def test_killed_unpacking_resumes(server, dataset, folder):
    (folder / PART).write_bytes(ARCHIVE)
    (folder / UNPACKING).mkdir()
    (folder / UNPACKING / "left.png").write_bytes(b"left")
    download(folder, dataset)
    assert_complete(folder)
    assert not server.seen
