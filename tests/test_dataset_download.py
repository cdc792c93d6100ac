"""The dataset from the web into a folder, against a server on this machine that misbehaves as told."""

import hashlib
import io
import json
import os
import random
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import dataset_download as dd

PROJECT = Path(dd.__file__).parent
LOCK = ".UT-FSOCTA-v1.lock"
PART = ".UT-FSOCTA-v1.download/.archive.zip.part"
KEPT = ".UT-FSOCTA-v1.download/archive.zip"
QUICK = dd.Patience(
    attempts=3,
    first_wait=0.01,
    longest_wait=0.02,
    longest_told_wait=5,
    connect=5,
    silence=1,
    slowest=4000,
    window=0.3,
)
FILES = {
    "cropped/fundus/disc/1_OD.png": random.Random(0).randbytes(40_000),
    "cropped/octa/disc/1_OD.png": bytes(30_000),
    "fov45/fundus/1_OD.jpg": b"photograph",
}


# --- the server ------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """Answers each request by the next act of the server's script; when there is none left, as a good server does."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.close_connection = True
        self.server.seen.append(self.headers)
        act = self.server.script.pop(0) if self.server.script else serve()
        with suppress(OSError):  # the client hung up
            act(self)

    def begin(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, *_):
        pass


def serve(count=None, step=None, pause=0.0, ranges=True, then=None, shift=0, total=None):
    """The content, or what is asked of it: the first `count` bytes, `step` at a time, with a pause after each.

    The answer says that it begins `shift` bytes later, and that the file has `total` bytes. At the end comes `then`.
    """

    def act(handler):
        content = handler.server.content
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1]) if ranges else 0
        body, total_length = content[start:], total or len(content)
        if start:
            span = f"bytes {start + shift}-{len(content) - 1}/{total_length}"
            handler.begin(206, Content_Length=len(body), Content_Range=span)
        else:
            handler.begin(200, Content_Length=total_length)
        handler.left = len(body) - len(body[:count])
        body = body[:count]
        for at in range(0, len(body), step or len(body)):
            handler.wfile.write(body[at : at + (step or len(body))])
            time.sleep(pause)
        if then:
            then(handler)

    return act


def answer(status, body=b"", **headers):
    def act(handler):
        handler.begin(status, Content_Length=len(body), **headers)
        handler.wfile.write(body)

    return act


def without_length(body):
    def act(handler):
        handler.begin(200)
        handler.wfile.write(body)

    return act


def in_chunks(handler):
    handler.begin(200, Transfer_Encoding="chunked")
    content = handler.server.content
    for at in range(0, len(content), 7000):
        piece = content[at : at + 7000]
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    handler.wfile.write(b"0\r\n\r\n")


def reset(handler):
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def trickle(handler):
    for _ in range(200):
        at = len(handler.server.content) - handler.left
        handler.wfile.write(handler.server.content[at : at + 20])  # 1000 bytes per s
        handler.left -= 20
        time.sleep(0.02)


def hang(handler):
    handler.server.released.wait(20)


@pytest.fixture
def server(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.script, server.seen, server.content, server.released = [], [], archive_of(FILES), threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def ranges_seen(server):
    return [headers.get("Range") for headers in server.seen]


# --- archives and folders --------------------------------------------------------------------------------------------


def archive_of(files, kinds=None):
    """A zip archive of `files`, a dict or pairs of name and content; `kinds`: mode bits of some names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items() if isinstance(files, dict) else files:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (kinds or {}).get(name, 0o100644) << 16
            file.writestr(entry, content)
    return buffer.getvalue()


def with_field(archive, offset, layout, value, local_offset=None):
    """An archive with a field of its first file's headers changed: in the central one, and perhaps in the local one."""
    changed = bytearray(archive)
    struct.pack_into(layout, changed, archive.index(b"PK\1\2") + offset, value)
    if local_offset is not None:
        struct.pack_into(layout, changed, archive.index(b"PK\3\4") + local_offset, value)
    return bytes(changed)


def deposit_of(content, port, **changes):
    known = {
        "name": "archive.zip",
        "url": f"http://127.0.0.1:{port}/content",
        "page": "https://example.org/deposit",
        "size": len(content),
        "md5": hashlib.md5(content).hexdigest(),
        "unpacked": 1000,
        "terms": "free for tests",
        "citation": "Someone, Somewhere 2023",
    }
    return dd.Deposit(**(known | changes))


@pytest.fixture
def deposit(server):
    return deposit_of(server.content, server.server_port)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


def names_in(folder):
    """All files below, but for the lock."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in paths if name != LOCK)


def assert_whole(folder, files=FILES):
    """The dataset is there, byte for byte, and nothing else."""
    assert names_in(folder) == sorted(f"UT-FSOCTA-v1/{name}" for name in files)
    assert {path.name for path in folder.iterdir()} <= {"UT-FSOCTA-v1", LOCK}
    for name, content in files.items():
        assert (folder / "UT-FSOCTA-v1" / name).read_bytes() == content


def assert_fails(reason, folder, deposit, *options, patience=QUICK):
    """`download` fails with one line that matches; returns it."""
    with pytest.raises(dd.DownloadError, match=reason) as caught:
        dd.download(folder, *options, deposit=deposit, patience=patience)
    assert "\n" not in str(caught.value)
    assert not (folder / "UT-FSOCTA-v1").exists()
    return str(caught.value)


def start_process(folder, deposit, before=""):
    """Another Python that downloads, after it has run the lines `before`."""
    code = f"""
import json, os, sys
from pathlib import Path
import dataset_download as dd
{before}
try:
    dd.download(Path(sys.argv[1]), deposit=dd.Deposit(**json.loads(sys.argv[2])), patience=dd.Patience(attempts=2))
except OSError as error:
    sys.exit(str(error))
"""
    command = [sys.executable, "-c", code, str(folder), json.dumps(asdict(deposit))]
    return subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# --- what comes well -------------------------------------------------------------------------------------------------


def test_dataset_is_fetched_and_unpacked(server, deposit, folder, capsys):
    assert dd.download(folder, deposit=deposit, patience=QUICK) == folder / "UT-FSOCTA-v1"
    assert_whole(folder)
    (headers,) = server.seen
    assert headers["User-Agent"].startswith("synthetic-octa/")
    assert headers["Accept-Encoding"] == "identity"
    assert "Range" not in headers
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].endswith("is free for tests. Cite Someone, Somewhere 2023")
    assert "GB to fetch" in printed
    assert printed.splitlines()[-1] == f"{folder / 'UT-FSOCTA-v1'}: 3 files"


def test_the_deposit_is_zenodo_s():
    assert dd.UT_FSOCTA.url.startswith("https://zenodo.org/api/records/6476639/files/UT-FSOCTA-v1.zip/")
    assert (dd.UT_FSOCTA.size, len(dd.UT_FSOCTA.md5)) == (1_151_391_295, 32)
    assert "non-commercial" in dd.UT_FSOCTA.terms


def test_module_needs_no_tensorflow():
    code = "import sys, dataset_download; sys.exit(bool({'tensorflow', 'pandas', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0


@pytest.mark.parametrize("in_target", [False, True])
def test_dataset_that_is_there_is_left_alone(server, deposit, folder, capsys, in_target):
    dd.download(folder, deposit=deposit, patience=QUICK)
    server.seen.clear()
    (folder / KEPT).parent.mkdir()  # left by a call that was killed at its very end
    (folder / KEPT).write_bytes(b"x")
    place = folder / "UT-FSOCTA-v1" if in_target else folder
    assert dd.download(place, Path("no such archive"), deposit, QUICK) == folder / "UT-FSOCTA-v1"
    assert "is there already" in capsys.readouterr().out
    assert not server.seen
    if not in_target:
        assert_whole(folder)


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "dead link"])
def test_something_else_of_that_name_is_left_alone(server, deposit, folder, kind):
    target = folder / "UT-FSOCTA-v1"
    folder.mkdir()
    if "folder" in kind:
        target.mkdir()
    if kind == "folder":
        (target / "mine.txt").write_text("mine")
    if kind == "file":
        target.write_text("mine")
    if kind == "dead link":
        target.symlink_to("nowhere")
    before = names_in(folder)
    with pytest.raises(dd.DownloadError, match="UT-FSOCTA-v1: is there, but is no dataset; move it away"):
        dd.download(folder, deposit=deposit, patience=QUICK)
    with pytest.raises(dd.DownloadError, match="UT-FSOCTA-v1: is there, but is no dataset; move it away"):
        dd.unpack(folder / "any.zip", target)
    assert names_in(folder) == before
    assert not server.seen


@pytest.mark.parametrize("act", [in_chunks, "without length", "slow"])
def test_answers_of_every_shape_are_taken(server, deposit, folder, act):
    acts = {"without length": without_length(server.content), "slow": serve(step=5000, pause=0.02)}
    server.script = [acts.get(act, act)]
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)
    assert len(server.seen) == 1


def test_redirects_are_followed_also_where_it_goes_on(server, deposit, folder):
    server.script = [answer(302, Location="/elsewhere"), serve(5000), answer(307, Location="/elsewhere"), serve()]
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)
    assert ranges_seen(server) == [None, None, "bytes=5000-", "bytes=5000-"]


# --- what is broken and mended ---------------------------------------------------------------------------------------


def test_it_goes_on_where_connections_ended(server, deposit, folder, capsys):
    """More endings than there are attempts, since each brought something."""
    server.script = [serve(7000), serve(1), serve(2000, then=reset), serve(10_000), serve(3), serve(5000)]
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)
    assert ranges_seen(server) == [None, *(f"bytes={start}-" for start in (7000, 7001, 9001, 19_001, 19_004, 24_004))]
    assert "waiting 0 s, then on from 0.0 MB" in capsys.readouterr().out


def test_any_byte_makes_patient_again(server, deposit, folder):
    server.script = [reset, reset, serve(7000), reset, reset, serve(1), reset, reset]
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)


def test_answers_that_bring_nothing_are_given_up(server, deposit, folder):
    server.script = [without_length(b"") for _ in range(50)]
    assert_fails("ended early; given up after 3 attempts", folder, deposit)
    assert len(server.seen) == 3


def test_end_without_a_told_length_is_noticed(server, deposit, folder):
    server.script = [without_length(server.content[:9000])]
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)
    assert ranges_seen(server) == [None, "bytes=9000-"]


@pytest.mark.parametrize("status", [500, 502, 504])
def test_errors_of_the_server_are_tried_again(server, deposit, folder, status):
    server.script = [serve(7000), answer(status, b"sorry"), answer(status)]
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)
    assert ranges_seen(server) == [None, *["bytes=7000-"] * 3]


def test_another_call_goes_on(server, deposit, folder):
    (folder / PART).parent.mkdir(parents=True)
    (folder / PART).with_name("tmp1234").write_bytes(b"pooch's, of a killed call")
    server.script = [serve(9000), *[reset] * 3]
    failure = assert_fails("given up after 3 attempts", folder, deposit)
    assert deposit.url in failure
    assert "the same command goes on" in failure
    assert names_in(folder) == [PART]
    assert (folder / PART).read_bytes() == server.content[:9000]
    server.seen.clear()
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)
    assert ranges_seen(server) == ["bytes=9000-"]


def test_a_killed_download_goes_on(server, deposit, folder):
    server.script = [serve(30_000, then=hang)]
    process = start_process(folder, deposit)
    wait_until(lambda: dd.size_of(folder / PART) > 20_000)
    process.kill()
    process.communicate()
    assert not (folder / "UT-FSOCTA-v1").exists()
    come = dd.size_of(folder / PART)
    server.seen.clear()
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)
    assert ranges_seen(server) == [f"bytes={come}-"]


def test_a_stop_while_the_md5_is_computed_costs_nothing(server, deposit, folder, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pooch.core.hash_matches", stop)
        with pytest.raises(KeyboardInterrupt):
            dd.download(folder, deposit=deposit, patience=QUICK)
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)
    assert len(server.seen) == 1


def test_a_disk_without_hard_links_will_do(server, deposit, folder, monkeypatch):
    def link(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", link)
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)


def test_server_without_ranges_begins_anew(server, deposit, folder):
    server.script = [serve(7000), serve(9000, ranges=False), serve(ranges=False)]
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)
    assert ranges_seen(server) == [None, "bytes=7000-", "bytes=9000-"]


def test_server_that_always_begins_anew_and_breaks_is_given_up(server, deposit, folder):
    server.script = [serve(9000, ranges=False) for _ in range(50)]
    assert_fails("given up after 3 attempts", folder, deposit)
    assert len(server.seen) == 4  # the first brought something, three did not


@pytest.mark.parametrize(
    "act", [answer(416), serve(shift=1), serve(shift=-1), answer(206), answer(206, Content_Range="bytes 7000-9/*")]
)
def test_part_that_the_server_cannot_go_on_with_is_dropped(server, deposit, folder, act):
    server.script = [serve(7000), act]
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)
    assert ranges_seen(server) == [None, "bytes=7000-", None]


def test_part_that_is_too_long_is_dropped(server, deposit, folder):
    (folder / PART).parent.mkdir(parents=True)
    (folder / PART).write_bytes(server.content + b"more")
    server.script = [answer(416, Content_Range=f"bytes */{deposit.size}")]
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)
    assert ranges_seen(server) == [f"bytes={deposit.size + 4}-", None]


def test_archive_or_part_that_is_whole_is_not_fetched_again(server, deposit, folder):
    for place in (PART, KEPT):
        (folder / place).parent.mkdir(parents=True)
        (folder / place).write_bytes(server.content)
        dd.download(folder, deposit=deposit, patience=QUICK)
        assert_whole(folder)
        (folder / "UT-FSOCTA-v1").rename(folder.parent / Path(place).name)
    assert not server.seen


def test_archive_that_has_rotted_is_fetched_again(server, deposit, folder):
    (folder / KEPT).parent.mkdir(parents=True)
    (folder / KEPT).write_bytes(b"\0" + server.content[1:])
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)
    assert len(server.seen) == 1


@pytest.mark.parametrize("before", [1, 30_000])
def test_trickle_is_dropped_and_taken_up_again(server, deposit, folder, before, capsys):
    """Also one that began well."""
    server.script = [serve(before, then=trickle)]
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)
    first, second = ranges_seen(server)
    assert first is None
    assert before < int(second.removeprefix("bytes=").removesuffix("-")) <= before + 2000
    assert "less than 4000 bytes per s" in capsys.readouterr().out


@pytest.mark.parametrize("act", [hang, serve(7000, then=hang)])
def test_silence_is_dropped_and_taken_up_again(server, deposit, folder, act, capsys):
    server.script = [act]
    start = time.monotonic()
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert time.monotonic() - start < 10
    assert_whole(folder)
    assert len(server.seen) == 2
    assert "timed out" in capsys.readouterr().out


# --- a busy server ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "date"), [(429, False), (503, True)])
def test_server_is_waited_for_as_it_says(server, deposit, folder, status, date, capsys):
    told = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=2), usegmt=True) if date else "1"
    server.script = [answer(status, Retry_After=told)]
    start = time.monotonic()
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert 0.9 < time.monotonic() - start < 10
    assert f"HTTP {status}" in (printed := capsys.readouterr().out)
    assert "; waiting " in printed
    assert_whole(folder)


@pytest.mark.parametrize("headers", [{}, {"Retry_After": "soon"}])
def test_server_that_does_not_say_is_waited_for_longer_and_longer(server, deposit, folder, headers):
    server.script = [answer(429, **headers), answer(503, **headers)]
    start = time.monotonic()
    dd.download(folder, deposit=deposit, patience=replace(QUICK, first_wait=0.15, longest_wait=1))
    assert time.monotonic() - start > 0.45
    assert_whole(folder)


def test_waits_grow_no_longer_than_the_longest(server, deposit, folder):
    server.script = [answer(429) for _ in range(6)]
    start = time.monotonic()
    dd.download(folder, deposit=deposit, patience=replace(QUICK, attempts=9, first_wait=0.1, longest_wait=0.1))
    assert 0.6 < time.monotonic() - start < 4
    assert_whole(folder)


def test_server_that_stays_busy_is_given_up(server, deposit, folder):
    server.script = [answer(429, Retry_After="0") for _ in range(9)]
    assert_fails("HTTP 429 Too Many Requests; given up after 3 attempts", folder, deposit)
    assert len(server.seen) == 3


def test_server_that_asks_for_hours_is_not_waited_for(server, deposit, folder):
    server.script = [serve(7000), answer(429, Retry_After="7200")]
    assert_fails("wants to be left alone for 120 minutes; run the same command then", folder, deposit)
    assert names_in(folder) == [PART]


# --- what stays wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 403, 404, 410, 416, 206, 204])
def test_refusals_are_errors_at_once(server, deposit, folder, status):
    server.script = [answer(status)]
    failure = assert_fails(f"HTTP {status} .*by hand from https://example.org/deposit .*--archive", folder, deposit)
    assert deposit.url in failure
    assert len(server.seen) == 1
    assert names_in(folder) == []


def test_endless_redirects_are_an_error_at_once(server, deposit, folder):
    server.script = [answer(302, Location="/again") for _ in range(50)]
    assert_fails("redirects", folder, deposit)
    assert names_in(folder) == []


def test_no_server_is_an_error_after_some_attempts(deposit, folder, server, capsys):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # not listening: connections are refused
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/content"
        failure = assert_fails("Connection refused; given up after 3 attempts", folder, replace(deposit, url=url))
    assert url in failure
    assert capsys.readouterr().out.count("Connection refused; waiting") == 2


@pytest.mark.skipif(not shutil.which("openssl"), reason="nothing here makes certificates")
def test_certificate_that_nobody_trusts_is_an_error_at_once(server, deposit, folder, tmp_path):
    files = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "certificate.pem"]
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
    subprocess.run([*make.split(), *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    secure = replace(deposit, url=deposit.url.replace("http://127.0.0.1", "https://localhost"))
    start = time.monotonic()
    assert_fails("CERTIFICATE_VERIFY_FAILED.*REQUESTS_CA_BUNDLE.*--archive", folder, secure, patience=dd.PATIENCE)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("act", [answer(200, b"please log in"), serve(total=10**6), without_length(bytes(10**6))])
def test_wrong_length_is_refused_and_nothing_kept(server, deposit, folder, act):
    server.script = [act]
    failure = assert_fails(f"wrong length, .* instead of {deposit.size:,} bytes: not the deposit", folder, deposit)
    assert deposit.url in failure
    assert names_in(folder) == []
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)


@pytest.mark.parametrize("act", [answer(200, b"please log in"), serve(total=10**6)])
def test_wrong_length_does_not_spoil_what_has_come(server, deposit, folder, act):
    server.script = [serve(7000), act]
    assert_fails("wrong length", folder, deposit)
    assert (folder / PART).read_bytes() == server.content[:7000]


def test_wrong_md5_is_refused_and_nothing_kept(server, deposit, folder):
    good, server.content = server.content, archive_of(FILES, {"fov45/fundus/1_OD.jpg": 0o100600})
    assert len(good) == len(server.content)
    failure = assert_fails("MD5 hash .* does not match", folder, deposit)
    assert deposit.md5 in failure
    assert hashlib.md5(server.content).hexdigest() in failure
    assert "the same command fetches it anew" in failure
    assert names_in(folder) == []
    server.content = good
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)
    assert ranges_seen(server) == [None, None]


# --- the disk --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"size": 10**18}, {"unpacked": 10**18}])
def test_small_disk_is_an_error_before_anything_is_fetched(server, deposit, folder, changes):
    changed = replace(deposit, **changes)
    failure = assert_fails(r"1000000000\.00 GB are needed and .* GB free; make room", folder, changed)
    assert str(folder) in failure
    assert not server.seen
    assert names_in(folder) == []


def test_what_has_come_needs_no_room(server, deposit, folder, monkeypatch):
    free = type("Usage", (), {"free": 9000 + deposit.unpacked})
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    (folder / PART).parent.mkdir(parents=True)
    (folder / PART).write_bytes(server.content[:-9001])
    assert_fails("GB are needed", folder, deposit)
    (folder / PART).write_bytes(server.content[:-9000])
    assert_fails("GB are needed", folder, deposit)  # all is fetched; but the archive declares more than was estimated
    assert ranges_seen(server) == [f"bytes={deposit.size - 9000}-"]
    assert names_in(folder) == [KEPT]
    free.free = sum(len(content) for content in FILES.values())
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)


@pytest.mark.parametrize(("limit", "kept", "named"), [(20_000, PART, PART), (50_000, KEPT, "1_OD.png")])
def test_full_disk_names_the_file_and_the_same_command_goes_on(server, folder, limit, kept, named):
    files = FILES | {"cropped/octa/disc/1_OD.png": bytes(60_000)}  # the largest file, but it packs well
    server.content = archive_of(files)
    deposit = deposit_of(server.content, server.server_port)
    process = start_process(
        folder, deposit, f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    )
    errors = process.communicate()[1]
    assert process.returncode == 1
    assert "Downloading data" not in errors  # pooch's chatter
    assert str(folder) in errors.splitlines()[-1]
    assert named in errors.splitlines()[-1]
    assert names_in(folder) == [kept]
    server.seen.clear()
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder, files)
    assert ranges_seen(server) == ([f"bytes={limit}-"] if kept == PART else [])


@pytest.mark.parametrize("kind", ["file", "below a file", "read-only"])
def test_folder_that_cannot_be_written_is_named(deposit, folder, kind):
    place = folder / "below" if kind == "below a file" else folder
    if kind == "read-only":
        folder.mkdir(mode=0o500)
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write everywhere")
    else:
        folder.write_text("a file")
    with pytest.raises(OSError, match=str(folder)):
        dd.download(place, deposit=deposit, patience=QUICK)


def test_second_download_into_a_folder_is_refused_at_once(server, deposit, folder):
    server.script = [serve(7000, then=hang)]
    first = threading.Thread(
        target=dd.download, args=(folder, None, deposit), kwargs={"patience": replace(QUICK, silence=10)}
    )
    first.start()
    wait_until(lambda: dd.size_of(folder / PART) == 7000)
    start = time.monotonic()
    failure = assert_fails("another download into this folder is at work", folder, deposit)
    assert time.monotonic() - start < 2
    assert str(folder) in failure
    server.released.set()
    first.join()
    assert_whole(folder)
    assert len(server.seen) == 2


# --- an archive fetched by hand --------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [True, False])
def test_archive_by_hand_is_unpacked_and_kept(server, deposit, folder, named):
    """Named, or just put into the folder under its own name."""
    archive = folder.parent / "by hand.zip" if named else folder / "archive.zip"
    folder.mkdir()
    archive.write_bytes(server.content)
    (folder / PART).parent.mkdir()
    (folder / PART).write_bytes(b"begun before")
    dd.download(folder, archive if named else None, deposit, QUICK)
    assert archive.read_bytes() == server.content
    archive.unlink()
    assert_whole(folder)
    assert not server.seen


@pytest.mark.parametrize("change", ["md5", "size"])
@pytest.mark.parametrize("named", [True, False])
def test_wrong_archive_by_hand_is_named_and_kept(server, deposit, folder, change, named):
    archive = folder.parent / "by hand.zip" if named else folder / "archive.zip"
    folder.mkdir()
    content = bytes(deposit.size) if change == "md5" else server.content[:-1]
    archive.write_bytes(content)
    reason = f"md5 .*, not {deposit.md5}: not" if change == "md5" else f" bytes, not {deposit.size:,}: not"
    assert str(archive) in assert_fails(reason, folder, deposit, archive if named else None)
    assert archive.read_bytes() == content
    assert not server.seen


@pytest.mark.parametrize("name", ["missing.zip", "."])
def test_archive_by_hand_must_be_a_file(deposit, folder, tmp_path, name):
    assert str(tmp_path / name) in assert_fails("there is no such file", folder, deposit, tmp_path / name)


# --- unpack ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def unpack(tmp_path):
    """Unpacks the bytes of an archive; returns the target's folder."""

    def unpack(content, **changes):
        folder = tmp_path / "unpacked"
        folder.mkdir(exist_ok=True)
        (tmp_path / "archive.zip").write_bytes(content)
        dd.unpack(tmp_path / "archive.zip", folder / "UT-FSOCTA-v1", replace(dd.UT_FSOCTA, **changes))
        return folder

    return unpack


@pytest.mark.parametrize("top", ["", "UT-FSOCTA-v1/", "another name/", "./"])
def test_dataset_is_at_the_top_or_in_a_folder(unpack, top):
    assert_whole(unpack(archive_of({top + name: content for name, content in FILES.items()})))


def test_entries_for_folders_are_taken(unpack):
    entries = {"UT-FSOCTA-v1/": b"", "UT-FSOCTA-v1/cropped/": b"", "UT-FSOCTA-v1/empty/": b""}
    files = {f"UT-FSOCTA-v1/{name}": content for name, content in FILES.items()}
    folder = unpack(archive_of(entries | files, dict.fromkeys(entries, 0o040755)))
    assert_whole(folder)


def test_leftovers_of_a_mac_are_left_out(unpack, capsys):
    left = ["__MACOSX/cropped/fundus/disc/1_OD.png", ".DS_Store", "cropped/fundus/.DS_Store", "cropped/._octa"]
    assert_whole(unpack(archive_of(FILES | {"__MACOSX/": b""} | dict.fromkeys(left, b"x"))))
    assert "3 files; 4 leftovers of a Mac or others left out" in capsys.readouterr().out


def test_files_beside_the_dataset_s_folder_are_left_out_and_counted(unpack, capsys):
    files = {f"UT-FSOCTA-v1/{name}": content for name, content in FILES.items()}
    assert_whole(unpack(archive_of(files | {"README.md": b"x", "docs/a.txt": b"x"})))
    assert "3 files; 2 leftovers of a Mac or others left out" in capsys.readouterr().out


def test_permissions_are_those_of_new_files(unpack, tmp_path):
    folder = unpack(archive_of(FILES, dict.fromkeys(FILES, 0o104777)))
    (tmp_path / "new").write_text("")
    (path,) = folder.rglob("*.jpg")
    assert path.stat().st_mode == (tmp_path / "new").stat().st_mode


LINK, FIFO, DEVICE = 0o120777, 0o010644, 0o020644
GOOD = archive_of(FILES)
HOSTILE = {
    "absolute": (archive_of(FILES | {"/etc/x": b""}), "'/etc/x': a name that leads elsewhere"),
    "upwards": (archive_of(FILES | {"../x": b""}), "'../x': a name that leads elsewhere"),
    "upwards within": (archive_of(FILES | {"cropped/../../x": b""}), "leads elsewhere"),
    "upwards, a folder": (archive_of(FILES | {"../x/": b""}), "leads elsewhere"),
    "upwards, a Mac's": (archive_of(FILES | {"__MACOSX/../../x": b""}), "leads elsewhere"),
    "drive": (archive_of(FILES | {"C:/x": b""}), "leads elsewhere"),
    "drive, relative": (archive_of(FILES | {"C:x": b""}), "leads elsewhere"),
    "backslash": (archive_of(FILES | {"cropped\\..\\..\\x": b""}), "leads elsewhere"),
    "no name": (archive_of(FILES | {".": b""}), "leads elsewhere"),
    "NUL": (archive_of(FILES | {"a.png_b": b""}).replace(b"a.png_b", b"a.png\0b"), "leads elsewhere"),
    "link": (archive_of(FILES | {"x": b"/etc/passwd"}, {"x": LINK}), "'x': a link or another special file"),
    "link for a folder": (archive_of({"cropped/octa": b".."} | FILES, {"cropped/octa": LINK}), "a link"),
    "fifo": (archive_of(FILES | {"x": b""}, {"x": FIFO}), "special file"),
    "device": (archive_of(FILES | {"x": b""}, {"x": DEVICE}), "special file"),
    "two of a name": (archive_of([*FILES.items(), ("fov45/./fundus/1_OD.jpg", b"x")]), "a name that is there twice"),
    "two but for case": (archive_of(FILES | {"fov45/fundus/1_od.JPG": b"x"}), "a name that is there twice"),
    "two but for accents": (archive_of(FILES | {"\u00e4": b"", "a\u0308": b""}), "a name that is there twice"),
    "file and folder": (archive_of({"Fov45": b"x"} | FILES), "'fov45': both file and folder"),
    "encrypted": (with_field(GOOD, 8, "<H", 1, 6), "1_OD.png': encrypted"),
    "large": (archive_of(FILES | {"x": bytes(70_000)}), "'x': 70,000 bytes, more than any image"),
    "large together": (archive_of(FILES | {f"{n}": bytes(45_000) for n in range(2)}), "would unpack to 160,010 bytes"),
    "longer than declared": (with_field(GOOD, 24, "<I", 10_000, 22), "damaged"),
    "shorter than declared": (with_field(GOOD, 24, "<I", 50_000, 22), "shorter than declared"),
    "damaged": (GOOD[:200] + bytes(50) + GOOD[250:], "damaged"),
    "damaged deflation": (GOOD[:58] + b"\xff" + GOOD[59:], "damaged.*decompressing"),
    "wrong CRC": (with_field(GOOD, 16, "<I", 7, 14), "damaged.*CRC"),
    "odd compression": (with_field(GOOD, 10, "<H", 99, 8), "damaged.*compression"),
    "name that is no text": (
        archive_of(FILES | {"\u00e4\u00e4": b""}).replace("\u00e4\u00e4".encode(), b"\xe4ab\xff"),
        "damaged",
    ),
    "cut": (GOOD[:-30], "damaged"),
    "no zip": (b"<html>please log in</html>", "damaged, or no zip"),
    "empty": (b"", "damaged, or no zip"),
    "no dataset": (archive_of({"cropped/fundus/disc/1_OD.png": b"x"}), "no cropped/fundus and cropped/octa"),
    "dataset too deep": (archive_of({f"a/b/{name}": b"x" for name in FILES}), "no cropped/fundus and cropped/octa"),
    "two datasets": (archive_of({f"{top}/{name}": b"x" for top in "ab" for name in FILES}), "or several"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_and_damaged_archives_leave_nothing(unpack, tmp_path, kind):
    content, reason = HOSTILE[kind]
    with pytest.raises(dd.DownloadError, match=reason) as caught:
        unpack(content, largest_file=60_000, most_unpacked=150_000)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "archive.zip") in str(caught.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["archive.zip", "unpacked"]


def test_remains_of_a_killed_call_are_removed_first(unpack, server, deposit, folder, tmp_path, monkeypatch):
    left = tmp_path / "unpacked" / ".UT-FSOCTA-v1.unpacking" / "cropped" / "fundus" / "disc" / "9_OD.png"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"left")
    assert_whole(unpack(GOOD))

    def usage(path, usage=shutil.disk_usage):
        assert not (folder / ".UT-FSOCTA-v1.unpacking").exists()  # else its room would be missed
        return usage(path)

    (folder / ".UT-FSOCTA-v1.unpacking").mkdir(parents=True)
    monkeypatch.setattr("shutil.disk_usage", usage)
    dd.download(folder, deposit=deposit, patience=QUICK)


def test_dataset_appears_by_a_rename_and_by_nothing_else(unpack, tmp_path, monkeypatch):
    def rename(*_):
        raise PermissionError("not today")

    monkeypatch.setattr("os.rename", rename)
    with pytest.raises(PermissionError, match="not today"):
        unpack(GOOD)
    assert names_in(tmp_path) == ["archive.zip"]


def test_deposit_that_cannot_be_unpacked_is_kept(server, folder):
    server.content = archive_of({"cropped/fundus/disc/1_OD.png": b"x"})
    deposit = deposit_of(server.content, server.server_port)
    assert_fails("no cropped/fundus and cropped/octa", folder, deposit)
    assert names_in(folder) == [KEPT]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_stop_while_unpacking_leaves_nothing(server, deposit, folder, stop, monkeypatch):
    written = []

    def write(self, data, write=zipfile.ZipExtFile.read):
        written.append(1)
        if len(written) == 3:
            raise stop
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipExtFile, "read", write)
        with pytest.raises(stop):
            dd.download(folder, deposit=deposit, patience=QUICK)
    assert names_in(folder) == [KEPT]
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "moment",
    ["zipfile.ZipExtFile._update_crc = kill", "Path.iterdir = kill"],
)
def test_a_killed_unpacking_leaves_no_dataset_and_goes_on(server, deposit, folder, moment):
    process = start_process(
        folder, deposit, f"import signal, zipfile\nkill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n{moment}"
    )
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "UT-FSOCTA-v1").exists()
    left = folder / ".UT-FSOCTA-v1.unpacking"
    assert left.is_dir()
    (left / "cropped" / "fundus" / "disc" / "9_OD.png").write_bytes(b"left")
    server.seen.clear()
    dd.download(folder, deposit=deposit, patience=QUICK)
    assert_whole(folder)
    assert not server.seen
