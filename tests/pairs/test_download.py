"""Downloads of a small archive from a local server."""

import hashlib
import io
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import files_below

import pairs.download as dd
from basics.command_line import UserError

DATASET = "UT-FSOCTA-v1"
FILES = {"cropped/fundus/disc/1_OD.png": b"photograph" * 999, "cropped/octa/disc/1_OD.png": b"scan" * 999}
with zipfile.ZipFile(buffer := io.BytesIO(), "w") as made:
    for name, content in FILES.items():
        made.writestr(f"any name/{name}", content)
    made.writestr("__MACOSX/._any name", b"a Mac's leftover")
ARCHIVE = buffer.getvalue()
NOWHERE = "http://127.0.0.1:9/served.zip"


class Handler(SimpleHTTPRequestHandler):
    def copyfile(self, source, outputfile):
        outputfile.write(source.read(self.server.most))


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves `file` at the URL of the archive, or breaks off after its first `most` bytes."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path)) as server:
        server.file, server.most = tmp_path / "served.zip", -1
        monkeypatch.setattr(dd, "URL", NOWHERE.replace("9", str(server.server_port)))
        server.file.write_bytes(ARCHIVE)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server
        server.shutdown()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(dd, "MD5", hashlib.md5(ARCHIVE).hexdigest())
    monkeypatch.setattr(dd, "SIZE", len(ARCHIVE))
    monkeypatch.setattr(dd, "URL", NOWHERE)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def assert_complete(folder):
    assert {name: (folder / DATASET / name).read_bytes() for name in files_below(folder / DATASET)} == FILES


def assert_fails(said, folder, leaves=()):
    with pytest.raises(UserError) as caught:
        dd.download(folder)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names_in(folder) == list(leaves)


def test_dataset_is_fetched_and_its_terms_are_printed(folder, server, capsys):
    assert dd.download(folder / "new") == folder / "new" / DATASET
    assert names_in(folder / "new") == [DATASET]
    assert_complete(folder / "new")
    assert dd.TERMS in capsys.readouterr().out


FAULTS = {
    "404 Client Error": lambda server: server.file.unlink(),
    "md5": lambda server: server.file.write_bytes(b"log in first"),
    "IncompleteRead": lambda server: setattr(server, "most", 900),
    "Connection refused": lambda _: setattr(dd, "URL", NOWHERE),
    "REQUESTS_CA_BUNDLE": lambda _: setattr(dd, "URL", dd.URL.replace("http:", "https:")),  # no certificate
}


@pytest.mark.parametrize(("said", "fault"), FAULTS.items(), ids=FAULTS)
def test_failed_download_is_one_line_and_leaves_nothing(folder, server, said, fault):
    fault(server)
    assert_fails(said, folder)


def test_another_file_with_the_name_of_the_dataset_is_refused(folder):
    (folder / DATASET).symlink_to("nowhere")
    assert_fails(str(folder / DATASET), folder, leaves=[DATASET])


def test_archive_by_hand_is_used_and_kept(folder, tmp_path):
    (tmp_path / "by hand.zip").write_bytes(ARCHIVE)
    for _ in range(2):  # then the data set exists
        dd.download(folder, tmp_path / "by hand.zip")
    assert (tmp_path / "by hand.zip").read_bytes() == ARCHIVE
    assert_complete(folder)
