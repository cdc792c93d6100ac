"""Let the disk fill up while the programs log, save checkpoints, draw, synthesise, export, evaluate and unpack.

    unshare -rm python tests/faults/disk.py    # a few minutes; Linux: the small disk is a tmpfs of this process alone

For each it prints the exit status, the message, and which partial files are left; exits with 1 if a program did not end
with status 2 and one line that names the option or a path on the full disk, or left a partial file.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

MB = 1_000_000
TRAIN = ["pix_pix_train.py", "--data", "data", "--patch-size", "64", "--batch-size", "4", "--precision", "float32"]
PHOTO = "data/UT-FSOCTA-v1/cropped/fundus/disc/1_OD.png"


def leave(disk: Path, free: int) -> None:
    """Fill a disk up to so many bytes."""
    (disk / "ballast").unlink(missing_ok=True)
    with open(disk / "ballast", "wb") as file:
        room = max(0, shutil.disk_usage(disk).free - free)
        while room > 0:
            room -= file.write(bytes(min(room, 8 * MB)))


def partial_files(disk: Path) -> list[str]:
    """Partial files on a disk that look complete, or that nothing would ever remove."""
    import tensorflow as tf
    from PIL import Image

    found = [path.name for path in disk.rglob("*") if path.name.endswith((".part", "_temp")) or "-temp" in path.name]
    for path in disk.rglob("*.png"):
        try:
            Image.open(path).load()
        except OSError:
            found.append(path.name)
    for index in disk.rglob("*.index"):
        reader = tf.train.load_checkpoint(str(index.with_suffix("")))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    return found


def trial(what: str, disk: Path, free: int, folder: Path, command: list[str]) -> bool:
    """Call a program with so little room; prints a row, and returns whether it ended as it should."""
    leave(disk, free)
    done = subprocess.run(
        [sys.executable, PROJECT / command[0], *command[1:]], cwd=folder, capture_output=True, text=True
    )
    said = [line for line in done.stderr.splitlines() if line.startswith(command[0])]
    left = partial_files(disk)
    held = done.returncode == 2 and len(said) == 1 and "Traceback" not in done.stderr and not left
    held &= bool(said) and (str(disk) in said[0] or "--output" in said[0])
    print(f"| {what} | {done.returncode} | {' '.join(said)[:300]} | {', '.join(left) or 'nothing'} |", flush=True)
    if not held:
        print(done.stderr[-2000:], flush=True)
    return held


def main() -> int:
    """Fill the disk under each program; returns 1 if one failed badly."""
    import tensorflow as tf
    from conftest import write_tiny_dataset

    import run.checkpoints as pix_run
    from pix_generator import Generator
    from run.settings import Settings

    with tempfile.TemporaryDirectory() as temporary:
        folder, disk = Path(temporary) / "project", Path(temporary) / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", disk], check=True)
        write_tiny_dataset(folder / "data")
        settings = Settings(patch_size=64, precision="float32", name="run", data="data/UT-FSOCTA-v1")
        run = folder / "training_checkpoints" / "run"
        pix_run.save(tf.train.Checkpoint(generator=Generator(3, (None, None), 1)), run, step=1, keep=1)
        pix_run.write_run(run, settings, "0")
        with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
            archive.writestr("cropped/fundus/disc/1_OD.png", bytes(50 * MB))
        unpack = (
            "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import pairs.download as d\n"
            "d.UNPACKED, archive = 0, Path('archive.zip')\n"
            "try: d.download(Path(sys.argv[2]), archive, d.Source('', d.pooch.file_hash(archive, alg='md5')))\n"
            "except (d.DownloadError, OSError) as error: print(error, file=sys.stderr); sys.exit(2)"
        )
        print("| what | status | message | left |\n|---|---|---|---|", flush=True)
        at, on_disk = str(disk), [*TRAIN, "--epochs", "3"]
        held = [
            trial("logging", disk, 1 * MB, folder, [*on_disk, "--logs", f"{at}/logs"]),
            trial("the first checkpoint", disk, 200 * MB, folder, [*on_disk, "--checkpoints", f"{at}/first"]),
            trial("a later checkpoint", disk, 600 * MB, folder, [*on_disk, "--checkpoints", f"{at}/later"]),
            trial("run.json", disk, 0, folder, [*on_disk, "--checkpoints", f"{at}/none"]),
            trial("synthesis", disk, 0, folder, ["pix_pix_gen.py", PHOTO, "--output", f"{at}/out"]),
            trial("figures", disk, 20_000, folder, ["pix_pix_gen.py", PHOTO, "--figure", "--output", f"{at}/out2"]),
            trial("export", disk, 50 * MB, folder, ["pix_pix_gen.py", "--export", f"{at}/model"]),
            trial("evaluation", disk, 50_000, folder, ["pix_pix_eval.py", "--data", "data", "--output", f"{at}/eval"]),
            trial(
                "simulated retinas",
                disk,
                100_000,
                folder,
                ["simulate_retinas.py", "--output", f"{at}/set", "--subjects", "1"],
            ),
        ]
        leave(disk, 10 * MB)
        done = subprocess.run([sys.executable, "-c", unpack, PROJECT, disk], cwd=folder, capture_output=True, text=True)
        held.append(done.returncode == 2 and not (disk / "UT-FSOCTA-v1").exists() and not partial_files(disk))
        print(f"| unpacking | {done.returncode} | {done.stderr.splitlines()[-1][:300]} | nothing |")
        subprocess.run(["umount", disk], check=True)
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
