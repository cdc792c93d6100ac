"""What all programs share: files that appear complete or not at all, errors in one line, signals, the version."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys

import pytest
from conftest import PROJECT, program

from basics.command_line import VERSION, OptionError, exit_status, report_error, why
from basics.files import atomic_file, hold, numbered_rows


def write_and_fail(path):
    with atomic_file(path) as part:
        part.write_text("half")
        raise ZeroDivisionError


def test_file_appears_complete_or_not_at_all(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_and_fail(tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []


def test_file_may_have_the_longest_name_that_the_system_allows(tmp_path):
    path = tmp_path / ("n" * 251 + ".txt")
    with atomic_file(path) as part:
        part.write_text("all")
    assert path.read_text() == "all"


def test_file_is_held_by_one_process(tmp_path):
    with hold(tmp_path / "lock", "busy"), pytest.raises(OptionError, match="busy"), hold(tmp_path / "lock", "busy"):
        pass


def test_file_system_without_locks_is_said_and_used(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    with hold(tmp_path / "lock", "busy"):
        said = capsys.readouterr().out
    assert said.startswith(f"NOTE: {tmp_path}: its file system does not support locks")


@pytest.mark.parametrize(("encoding", "separator"), [("utf-8", ","), ("utf-8-sig", ";"), ("utf-8", "\t")])
def test_table_is_read_as_spreadsheet_programs_write_it(tmp_path, encoding, separator):
    text = "a,b\r\n1,ä\r\n,\r\n\r\n3,\r\n".replace(",", separator)  # with blank rows, which are counted
    (tmp_path / "table.csv").write_bytes(text.encode(encoding))
    assert numbered_rows(tmp_path / "table.csv") == [(2, {"a": "1", "b": "ä"}), (5, {"a": "3", "b": ""})]


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"a;b\n1;2;3\n", "row 2 has more cells"), (b"a,A\n1,2\n", "several"), (b"\xff\xfea", "UTF-8")],
)
def test_table_that_would_be_misread_is_refused(tmp_path, content, named):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(OptionError, match=named):
        numbered_rows(tmp_path / "table.csv")


@pytest.mark.parametrize(("code", "to_do"), [(errno.EACCES, "permissions"), (errno.ENOSPC, "make room")])
def test_error_of_the_disk_names_the_file_and_what_to_do(capsys, code, to_do):
    report_error("program", OSError(code, os.strerror(code), "some/file"))
    said = capsys.readouterr().err
    assert said.startswith(f"program: error: some/file: {os.strerror(code)}; ")
    assert to_do in said
    assert why(OSError(code, os.strerror(code), "some/file")) == os.strerror(code)


# --- signals and other ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_a_program_with_one_line_and_its_status(capsys, number, status):
    assert exit_status("program", lambda: signal.raise_signal(number), "stopped; resumes") == status
    assert capsys.readouterr().err == "\nprogram: stopped; resumes\n"


def test_ctrl_c_that_a_library_turns_into_another_error_is_still_ctrl_c():
    def work():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise SystemError("returned a result with an exception set") from error

    assert exit_status("program", work, "stopped") == 130


def test_other_errors_are_not_taken_for_ctrl_c():
    with pytest.raises(ZeroDivisionError):
        exit_status("program", lambda: 1 // 0, "stopped")


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))  # bytes: TensorFlow alone takes more


def test_too_little_memory_to_load_the_libraries_is_one_line(tmp_path):
    command = program("pix_pix_train.py")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, preexec_fn=limit_memory)
    assert done.returncode == 2
    assert done.stderr.startswith("pix_pix_train.py: error: out of memory; ")
    assert done.stderr.count("\n") == 1


def test_loading_tensorflow_leaves_the_handler_of_ctrl_c_to_the_work(tmp_path):
    """Ctrl-C stands in for the work itself, and an empty module for TensorFlow and Keras."""
    (tmp_path / "keras.py").touch()
    code = (
        "import signal, sys; from types import SimpleNamespace; import dataset_load_mod; PROGRAM = 'x.py'\n"
        "work = SimpleNamespace(run_cropping=lambda _: signal.raise_signal(signal.SIGINT), run_registration=None)\n"
        "sys.modules |= {'alignment.crop': work, 'alignment.register': work}\n"
        "sys.exit(dataset_load_mod.main(['crop', 'pairs.csv', '--output', 'x']))"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert (done.returncode, "resumes" in done.stderr) == (130, True)


@pytest.mark.parametrize("name", ["pix_pix_train.py", "pix_pix_gen.py", "pix_pix_eval.py", "simulate_retinas.py"])
def test_help_does_not_wait_for_tensorflow(name):
    code = f"import runpy, sys; sys.argv = ['{name}', '--help']\ntry: runpy.run_path('{name}', run_name='__main__')\n"
    code += "except SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert not {"tensorflow", "keras", "skimage"} & set(done.stdout.splitlines()[-1].split())


# --- the version -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CITATION.cff", "CHANGELOG.md"])
def test_version_is_the_same_everywhere(name):
    text = (PROJECT / name).read_text(encoding="utf-8")
    assert re.search(r"^(?:version: |## )([\d.]+)", text, re.MULTILINE)[1] == VERSION


@pytest.mark.parametrize("name", ["pix_pix_train.py", "dataset_load_mod.py"])
def test_program_prints_its_version(name):
    printed = subprocess.run(program(name, "--version"), capture_output=True, text=True, check=True).stdout
    assert printed == f"{name} {VERSION}\n"
