"""How synthesis copes with many photographs, as tables in Markdown.

    python research/many.py entries      # time per photograph and memory, for 100 to 10,000 of them
    python research/many.py threads RUN  # photographs a minute by threads, with a run's network and with a fast one
    python research/many.py equal        # 500 photographs, ten of them faulty: at once, resumed, and in shards

Where no RUN is given, a stand-in for the network sees what is dark in green.
"""

from common import new_parser, print_head, print_row

# isort: split
import contextlib
import io
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pairs.origin import Record, write_png
from retina.vessels import WHOLE
from run.predict import Predictor, Turns
from simulation.dataset import render_full_field
from simulation.eye import make_eye
from synthesis import Synthesiser
from synthesis.photographs import Job, list_jobs
from synthesis.shards import Shard, collect
from synthesis.synthesise import DENSITIES, DENSITY_COLUMNS, Synthesis, synthesise

ENTRIES = 100, 1000, 10_000
SMALL_PX = 48
SIZES = {"1000 x 1000 px": 1000, "1620 x 1620 px": 1620}
THREADS = 1, 2, 4
PASS_SECONDS = 0.05  # of the stand-in for a network on a GPU
OF_A_SIZE = 8  # photographs
FOLDER, OUTPUT = Path("photographs"), Path("out")
GIVEN = {"field_degrees": None, "px_per_mm": None, "mask": None}


class StandIn(Predictor):
    """A predictor whose network takes as long as it is told, and sees what is dark in green."""

    def __init__(self, seconds: float):
        self.seconds, self.turns = seconds, Turns()
        self.input_noise, self.octa_channels, self.vessel_output = 0.08, 1, True

    def in_tiles(self, whole: np.ndarray, noise: float) -> np.ndarray:
        """As that of `Predictor`."""
        time.sleep(self.seconds)
        return np.repeat(1 - whole[..., 1:2] / np.float32(127.5), 2, axis=-1)


class WithStandIn(Synthesiser):
    """A synthesiser without a run."""

    def __init__(self, seconds: float = 0.0):
        self.predictor, self.made_from, self.weights = StandIn(seconds), "stand-in", "none"
        self.fov_mask, self.fast, self.published = True, False, None


def synthesis(synthesiser: Synthesiser, shard: Shard | None = None) -> Synthesis:
    """How results are made, into OUTPUT."""
    table = shard.of(OUTPUT / DENSITIES) if shard else OUTPUT / DENSITIES
    return Synthesis(synthesiser, OUTPUT, Record(table, DENSITY_COLUMNS, WHOLE), with_maps=True, shard=str(shard or ""))


def run(jobs: list[Job], synthesiser: Synthesiser, threads: int = 2, shard: Shard | None = None) -> list[str]:
    """Process photographs without a word; returns those that failed."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return synthesise(synthesis(synthesiser, shard), jobs, False, threads)


def draw(path: Path, number: int) -> None:
    """Write a small photograph, another one for each number."""
    image = np.full((SMALL_PX, SMALL_PX, 3), 120, np.uint8)
    image[:, ::4, 1] = 60
    image[0, 0] = number >> 16 & 255, number >> 8 & 255, number & 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, compress_level=1)


def entries() -> None:
    """Time per photograph and memory."""
    print_head("ms each, the last tenth", "the first", "finding that all is done, s", "memory, GB")
    for number in ENTRIES:
        with tempfile.TemporaryDirectory() as folder:
            process = multiprocessing.get_context("spawn").Process(target=entries_of, args=(folder, number))
            process.start()
            process.join()


def entries_of(folder: str, number: int) -> None:
    """A row: results of nine tenths are written beforehand as the program writes them, and the last tenth is made."""
    os.chdir(folder)
    for place in range(number):
        draw(FOLDER / f"{place // 1000:03}" / f"{place:06}.png", place)
    jobs = list_jobs([str(FOLDER)], OUTPUT, GIVEN)
    part, stand_in = min(max(1, number // 10), 200), WithStandIn()
    times = [timed(lambda: run(jobs[:part], stand_in))]
    made = synthesis(stand_in)
    for job in jobs[part:-part]:
        origin = stand_in.origin(job)
        for path in (job.target, *map(job.beside, made.maps)):
            (OUTPUT / path).parent.mkdir(parents=True, exist_ok=True)
            write_png(np.zeros((SMALL_PX, SMALL_PX), np.uint8), OUTPUT / path, origin)
        values = dict.fromkeys(DENSITY_COLUMNS[:-2], "0.5") | {
            "path": job.target.as_posix(),
            "region": WHOLE,
            "source": origin.source,
        }
        made.record.add(tuple(values.values()), origin)
    made.record.close()
    done = timed(lambda: run(list_jobs([str(FOLDER)], OUTPUT, GIVEN)[:-part], stand_in))
    times.append(timed(lambda: run(jobs[-part:], stand_in)))  # with reading and ordering the table
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print_row(f"{number:,}", [1000 * times[1] / part, 1000 * times[0] / part, done, memory])


def timed(work) -> float:
    """Seconds that some work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def threads(run_folder: Path | None) -> None:
    """Photographs a minute by threads."""
    networks = {f"a network of {PASS_SECONDS} s": WithStandIn(PASS_SECONDS)}
    if run_folder is not None:
        networks[run_folder.name] = Synthesiser(run_folder)
    print_head(*(f"threads: {number}" for number in THREADS), "in the network")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for title, px in SIZES.items():
            photographs = [Path(f"{px}_{number}.png") for number in range(OF_A_SIZE)]
            for number, path in enumerate(photographs):
                Image.fromarray(render_full_field(make_eye(number, "OD", 5))).resize((px, px)).save(path)
            for name, synthesiser in networks.items():
                run([Job(photographs[0], Path(f"warm_{px}_{name.replace(' ', '_')}.png"))], synthesiser)
                speeds, shares = [], []
                for count in THREADS:
                    jobs = [Job(path, Path(f"{count}_{name.replace(' ', '_')}", path.name)) for path in photographs]
                    synthesiser.predictor.turns.seconds = 0.0
                    seconds = timed(
                        lambda jobs=jobs, count=count, synthesiser=synthesiser: run(jobs, synthesiser, count)
                    )
                    speeds.append(60 * len(jobs) / seconds)
                    shares.append(f"{synthesiser.predictor.turns.seconds / seconds:.0%}")
                print_row(f"{title}, {name}", [*(f"{speed:.1f}" for speed in speeds), ", ".join(shares)])


def equal(number: int = 500, faulty: int = 10, shards: int = 4) -> None:
    """Compare results, byte by byte, of one run, one that is killed three times and resumed, and shards."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for place in range(number):
            path = FOLDER / f"{place % 7}" / f"{place:04}.png"
            draw(path, place)
            if place % (number // faulty) == 7:
                path.write_bytes(path.read_bytes()[:60])
        jobs = list_jobs([str(FOLDER)], OUTPUT, GIVEN)
        failed = run(jobs, WithStandIn())
        one = contents()
        OUTPUT.rename("one")
        for seconds in (1, 2, 3):
            process = multiprocessing.get_context("fork").Process(target=run, args=(jobs, WithStandIn()))
            process.start()
            process.join(seconds)
            process.kill()
            process.join()
            print(f"killed after {seconds} s: {sum(name.endswith('_vessels.png') for name in contents())} done")
        run(jobs, WithStandIn())
        resumed = contents()
        OUTPUT.rename("resumed")
        for shard in (Shard(place, shards) for place in range(1, shards + 1)):
            run([job for job in jobs if shard.has(job)], WithStandIn(), shard=shard)
        collect(OUTPUT / DENSITIES, DENSITY_COLUMNS)
        sharded = {name: content for name, content in contents().items() if name in one}
        print(f"{number} photographs, {len(failed)} failed; {len(one)} files; ", end="")
        print(f"resumed: {'equal' if resumed == one else 'DIFFERENT'}; ", end="")
        print(f"{shards} shards: {'equal' if sharded == one else 'DIFFERENT'}")


def contents() -> dict[str, bytes]:
    """The results, by name, without what a killed process had not finished."""
    files = (path for path in OUTPUT.rglob("*") if path.is_file() and not path.name.endswith(".part"))
    return {path.as_posix(): path.read_bytes() for path in files}


def main() -> None:
    """Print the table that the command line asks for."""
    parser = new_parser(__doc__)
    parser.add_argument("what", choices=("entries", "threads", "equal"))
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN")
    args = parser.parse_args()
    if args.what == "threads":
        threads(args.run and args.run.resolve())
    else:
        (entries if args.what == "entries" else equal)()


if __name__ == "__main__":
    main()
