"""The simulated stream: endless pairs of fundus and OCT-A, one at a time or from worker processes.

A worker is `python -m simulation.stream SEED FIRST WORKERS`, started by `stream`; it writes pairs to standard output.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import count, cycle
from pathlib import Path
from queue import Queue
from subprocess import PIPE, Popen
from threading import Thread
from typing import BinaryIO

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter

from retina.images import continue_outside, to_uint8
from retina.ut_fsocta import CROP_PX
from simulation.eye import TREE_SHARED_BY, Eye, border_distance, make_stream_eye
from simulation.fundus import light_lost, render_fundus
from simulation.octa import render_octa
from simulation.trees import Vessels

DRAWN_MM = 0.010, 0.020  # vessels up to this wide are drawn by nobody, from this width on by everybody
SEEN = 1.0, 2.2  # contrast of a vessel over that of noise and texture: from when on somebody, and everybody, sees it
LEAST_CONTRAST = 0.015  # that anybody sees, without noise and texture
AROUND_PX, WHOLE_VESSEL_PX = 10, 5  # the brightness is that of the surroundings; an edge is seen with its vessel
PROJECT = Path(__file__).resolve().parents[1]
CHANNELS = 5  # of a pair in the stream: fundus, OCT-A, drawn vessels
WORKER_ENDED = "a worker process that makes simulated retinas has ended, perhaps because memory ran out"


def simulated_pair(
    seed: int, number: int, pixels: int = CROP_PX
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The `number`-th pair of a seed's stream; it depends on nothing else.

    Eight consecutive numbers share a grown tree, so making them in order in one process is faster.

    Returns:
        The fundus, (pixels, pixels, 3) uint8; the OCT-A, (pixels, pixels, 1) uint8, 0 outside the field; its vessels,
        (pixels, pixels, 1) uint8, see `drawn_vessels`; and the field of view, (pixels, pixels) bool, as it would be
        detected: its border is off by up to 2.5 px.
    """
    eye, window = make_stream_eye(seed, number, pixels)
    vessels = eye.vessels(window)
    fundus = render_fundus(eye, window, vessels, eye.rng("photograph"))
    octa = render_octa(eye, window, vessels, eye.rng("scan"))
    fov = border_distance(eye, window) > eye["found_px"]
    drawn = drawn_vessels(vessels["artery"].merge(vessels["vein"]), window.px_per_mm)
    drawn *= seen_vessels(eye, fundus, light_lost(eye, vessels, window))
    return fundus, (octa * fov)[..., None], to_uint8(drawn)[..., None], fov


def drawn_vessels(vessels: Vessels, px_per_mm: float) -> np.ndarray:
    """How likely somebody who draws the vessels by hand would draw each pixel: (pixels, pixels), float on [0, 1].

    It is the pixel's share that is vessel, times a likelihood that grows with the vessel's width over DRAWN_MM.
    """
    width_mm = 2 * vessels.radius / px_per_mm
    return vessels.coverage * np.interp(width_mm, DRAWN_MM, (0, 1))


def seen_vessels(eye: Eye, fundus: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """How likely somebody sees the vessels at each pixel of a photograph, (pixels, pixels) on [0, 1].

    It grows over SEEN with the vessels' contrast, after the camera's blur and the haze, over the contrast of noise and
    of the fundus' own texture. `lost` is what `light_lost` returns.
    """
    brightness = np.maximum(gaussian_filter(fundus[..., 1].astype(np.float32), AROUND_PX), 1) / 255
    noise = eye["noise"] * (0.4 + 0.6 * np.sqrt(brightness)) / brightness
    ground = np.hypot(noise, np.hypot(1.4 * eye["texture"], LEAST_CONTRAST))
    contrast = gaussian_filter(lost, np.hypot(eye["blur_px"], 0.4 * max(1, eye["enlargement"])))
    contrast = maximum_filter(contrast, WHOLE_VESSEL_PX) * (1 - np.clip(eye["veil"], 0, 1))
    return np.interp(contrast / ground, SEEN, (0, 1))


def stream(seed: int, first: int, workers: int) -> Iterator[np.ndarray]:
    """A seed's pairs without end, in order, from worker processes that work ahead.

    Each worker makes runs of pairs that share a tree, and waits when it is one run ahead. The result is the same for
    any number of workers. Workers are separate programs, so that they load none of the caller's modules. They end with
    the iterator or, if the caller is killed, when their pipe closes. `first`, the number of the first pair, must be a
    multiple of TREE_SHARED_BY.

    Yields:
        (CROP_PX, CROP_PX, 5), uint8: fundus, OCT-A and drawn vessels, continued outside the field of view.

    Raises:
        OSError: with the message WORKER_ENDED; what the worker printed is on standard error.
    """
    size = CROP_PX * CROP_PX * CHANNELS  # bytes

    def fetch(process: Popen, ready: Queue) -> None:
        with suppress(MemoryError):
            while len(pixels := process.stdout.read(size)) == size:
                ready.put(pixels)
        ready.put(None)

    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    started = []  # per worker: its process, its queue, and the thread that fills the queue
    try:
        for start in range(first, first + workers * TREE_SHARED_BY, TREE_SHARED_BY):
            command = [sys.executable, "-m", "simulation.stream", str(seed), str(start), str(workers)]
            # In its own session: Ctrl-C is for the caller, which ends the workers when it is done.
            process = Popen(command, stdout=PIPE, cwd=PROJECT, env=environment, start_new_session=True)
            ready = Queue(TREE_SHARED_BY)
            started.append((process, ready, Thread(target=fetch, args=(process, ready), daemon=True)))
            started[-1][-1].start()
        for _, ready, _ in cycle(started):
            for _ in range(TREE_SHARED_BY):
                pixels = ready.get()
                if pixels is None:
                    raise OSError(WORKER_ENDED)
                yield np.frombuffer(pixels, np.uint8).reshape(CROP_PX, CROP_PX, CHANNELS)
    finally:
        for process, ready, thread in started:
            process.kill()
            while thread.is_alive():  # it may be waiting for room in the queue
                while not ready.empty():
                    ready.get()
                thread.join(0.01)
            process.stdout.close()
            process.wait()


def write_pairs(output: BinaryIO, seed: int, first: int, workers: int) -> None:
    """A worker of `stream`: write every workers-th run of pairs until the reader closes the pipe."""
    for start in count(first, workers * TREE_SHARED_BY):
        for number in range(start, start + TREE_SHARED_BY):
            fundus, octa, drawn, fov = simulated_pair(seed, number)
            try:
                output.write(continue_outside(np.dstack([fundus, octa, drawn]), fov).tobytes())
                output.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())  # for what Python flushes when it ends
                return


if __name__ == "__main__":
    with suppress(MemoryError):  # the reader reports that the worker has ended
        write_pairs(sys.stdout.buffer, *map(int, sys.argv[1:]))
