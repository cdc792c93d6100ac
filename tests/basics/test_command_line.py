"""What all programs share: files that appear complete or not at all, and the version."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import PROJECT, program

from basics.command_line import VERSION, OptionError, exit_status, load_tensorflow, progress_bar, report_error, why
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


def test_two_files_of_one_folder_are_written_at_once(tmp_path):
    with atomic_file(tmp_path / "a") as one, atomic_file(tmp_path / "b") as other:
        one.write_text("one")
        other.write_text("other")
    assert [(tmp_path / name).read_text() for name in "ab"] == ["one", "other"]


def test_file_is_held_by_one_process(tmp_path):
    with hold(tmp_path / "lock", "busy"), pytest.raises(OptionError, match="busy"), hold(tmp_path / "lock", "busy"):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_said_and_used(tmp_path, capsys, monkeypatch, code):
    monkeypatch.setattr("fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError(code, "no locks")))
    with hold(tmp_path / "lock", "busy"):
        said = capsys.readouterr().out
    assert said.startswith(f"NOTE: {tmp_path}: its file system does not support locks")


@pytest.mark.parametrize("blank", ["", ",", ", ", ",,,"])
def test_blank_rows_of_a_table_are_left_out_and_counted(tmp_path, blank):
    (tmp_path / "table.csv").write_text(f"a,b\n1,2\n{blank}\n3,\n{blank}\n")
    assert numbered_rows(tmp_path / "table.csv") == [(2, {"a": "1", "b": "2"}), (4, {"a": "3", "b": ""})]


@pytest.mark.parametrize(("code", "to_do"), [(errno.EACCES, "permissions"), (errno.ENOSPC, "make room")])
def test_error_of_the_disk_names_the_file_and_what_to_do(capsys, code, to_do):
    report_error("program", OSError(code, os.strerror(code), "some/file"))
    said = capsys.readouterr().err
    assert said.startswith(f"program: error: some/file: {os.strerror(code)}; ")
    assert to_do in said


@pytest.mark.parametrize(("main", "handler"), [({"PROGRAM": "x"}, signal.SIG_DFL), ({}, signal.default_int_handler)])
def test_ctrl_c_ends_a_program_at_once_while_it_loads_its_modules(monkeypatch, main, handler):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(**main))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # restored afterwards
    try:
        load_tensorflow()
        assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, before)


class Interrupted:
    """Python drops what is raised while this is destroyed."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("counted", [False, True])
def test_ctrl_c_that_python_drops_ends_the_program_at_the_next_item(counted):
    done = []

    def work():
        with progress_bar(total=3) if counted else progress_bar(range(3)) as bar:
            for item in range(3) if counted else bar:
                done.append(item)
                Interrupted()
                if counted:
                    bar.update()

    assert exit_status("program", work, "stopped") == 130
    assert done == [0]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "a.png"), "Permission denied"),
        (OSError("image file is truncated"), "image file is truncated"),
        (ValueError("no number"), "no number"),
    ],
)
def test_reason_has_no_number_of_an_error(error, said):
    assert why(error) == said


def test_ctrl_c_that_a_library_turns_into_another_error_is_still_ctrl_c():
    def work():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise SystemError("returned a result with an exception set") from error

    assert exit_status("program", work, "stopped") == 130


def test_termination_says_what_ctrl_c_says(capsys):
    assert exit_status("program", lambda: signal.raise_signal(signal.SIGTERM), "stopped; resumes") == 143
    assert capsys.readouterr().err == "\nprogram: stopped; resumes\n"


@pytest.mark.parametrize("name", ["pix_pix_train.py", "pix_pix_gen.py"])
def test_too_little_memory_to_load_the_libraries_is_one_line(name, tmp_path):
    limit = (10**9, 10**9)  # bytes: TensorFlow alone takes more
    done = subprocess.run(
        program(name, *(["--export", "x"] if name == "pix_pix_gen.py" else [])),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"{name}: error: out of memory; ")
    assert done.stderr.count("\n") == 1


PROGRAM_THAT_ENDS = """import os, signal, sys
import basics.command_line as pix_command
PROGRAM = "x.py"
pix_command.importlib.import_module = lambda _: None  # in place of loading TensorFlow
pix_command.load_tensorflow()
{}
"""


def end_of(code):
    code = PROGRAM_THAT_ENDS.format(code)
    return subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)


@pytest.mark.parametrize("code", ["os.abort()", "os.kill(os.getpid(), signal.SIGKILL)", "os._exit(127)"])
def test_program_that_the_system_or_a_library_ends_says_so_in_one_line(code):
    done = end_of(code)
    assert done.returncode not in (0, 2)
    assert done.stderr.strip().startswith("x.py: error: ended by the system or by a library, most probably because ")
    assert done.stderr.strip().count("\n") == 0


@pytest.mark.parametrize(
    ("code", "status", "said"), [("", 0, ""), ("sys.exit(3)", 3, ""), ("raise MemoryError", 2, "out of")]
)
def test_program_that_ends_by_itself_says_nothing_else(code, status, said):
    done = end_of(code)
    assert done.returncode == status
    assert said in done.stderr
    assert "ended by" not in done.stderr


def test_other_errors_are_not_taken_for_ctrl_c():
    with pytest.raises(ZeroDivisionError):
        exit_status("program", lambda: 1 // 0, "stopped")


@pytest.mark.parametrize("name", ["CITATION.cff", "CHANGELOG.md"])
def test_version_is_the_same_everywhere(name):
    text = (PROJECT / name).read_text(encoding="utf-8")
    assert re.search(r"^(?:version: |## )([\d.]+)", text, re.MULTILINE)[1] == VERSION


@pytest.mark.parametrize("name", ["pix_pix_train.py", "pix_pix_gen.py", "dataset_load_mod.py", "simulate_retinas.py"])
def test_program_prints_its_version(name):
    printed = subprocess.run(program(name, "--version"), capture_output=True, text=True, check=True).stdout
    assert printed == f"{name} {VERSION}\n"


def test_address_space_that_a_limit_forbids_is_a_lack_of_memory():
    code = (
        "import resource; from basics.command_line import *; resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))\n"
    )
    code += "try: need(2 * 10**9)\nexcept OSError as error: print(fault_of_machine(error))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout == "out of memory\n"
