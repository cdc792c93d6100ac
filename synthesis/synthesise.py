"""Synthesis: each photograph -> its OCT-A, and if wanted vessel maps with their densities, and figures.

Every result tells which photograph it was made from and how (`pairs.origin`). One from another photograph, or made
in another way, is never taken for a result of this one.
"""

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from basics.command_line import OUT_OF_MEMORY, OptionError, fault_of_machine, one_line, progress_bar
from pairs.origin import DIGEST, MADE_WITH, SOURCE, Origin, Record, digest_of, printable, read_origin, write_png
from retina.field_of_view import DEGREES, ENTIRELY_DARK, Field, field_of_mask, field_to_use
from retina.images import DataError, assumed_bits, octa_to_grey, read_fundus, read_image, to_uint8
from retina.vessels import vessel_density, vessel_map
from run.predict import Predictor
from synthesis.confidence import Confidence, assess
from synthesis.figure import write_figure, write_sheets
from synthesis.photographs import FIGURE, MAPS, Job

DENSITIES = "densities.csv"
DENSITY_COLUMNS = (
    *("path", "vessel_density", "vessel_px", "field_px", "expected_density", "density_low", "density_high"),
    *("expected_dice", "dice_low", "dice_high", "field_share", "stretch", "sharpness"),
    *("confidence", SOURCE, DIGEST, MADE_WITH),
)
LONGEST_NAME = 255  # bytes, of most file systems
NAMED = 5  # doubtful photographs listed in the printout; the table has all


@dataclass(frozen=True)
class Published:
    """The published way to predict: from overlapping patches, with dropout and batch statistics."""

    patch_size: int  # px
    stride: int  # steps per patch
    batch_size: int  # patches at once


@dataclass(frozen=True)
class Synthesis:
    """How photographs are turned into results, and where these go."""

    predictor: Predictor
    made_from: str  # weights, arithmetic and version, see `run.weights.made_from`
    weights: str  # where they are from, in words, for figures
    fov_mask: bool  # of the run: look for the field of view
    output: Path
    record: Record  # the densities
    with_maps: bool = False
    with_figure: bool = False
    fast: bool = False
    published: Published | None = None
    shard: str = ""  # in the names of sheets

    @property
    def passes(self) -> str:
        """How the generator predicts, in words; "": in several passes."""
        return "one pass" if self.fast else "as published" if self.published else ""

    @property
    def maps(self) -> tuple[str, ...]:
        """The kinds of maps: a confidence needs a vessel probability, which a published prediction does not have."""
        return MAPS if self.predictor.vessel_output and not self.published else MAPS[:-1]

    # --- what is finished ---

    def made_with(self, job: Job) -> str:
        """How the results of a photograph are made, in words: all that changes their pixels, except the photograph.

        Raises:
            DataError: the photograph cannot be read.
        """
        words = [self.made_from, *([self.passes] if self.passes else [])]
        if self.published:
            words += [f"stride {self.published.stride}", f"batch size {self.published.batch_size}"]
        if job.px_per_mm is not None:
            words.append(f"{job.px_per_mm:g} px per mm")
        elif job.region is None:  # a crop is predicted as in training
            words.append(f"{job.field_degrees or DEGREES:g} degrees")
        if job.mask is not None:
            words.append(f"field of view from {printable(Path(job.mask.name))} ({digest_of([job.mask])[:8]})")
        if bits := assumed_bits(job.source):
            words.append(f"{bits} bits assumed")
        return ", ".join(words)

    def origin(self, job: Job) -> Origin:
        """What the results of a photograph are made from, and how. Raises DataError if it cannot be read."""
        return Origin(digest_of([job.source]), self.made_with(job), printable(job.source))

    def found(self, job: Job) -> dict[Path, Origin | None]:
        """The origins of all results of a photograph's name, also of those that are not wanted, by path."""
        found = {path: read_origin(path) for path in map(self.output.joinpath, job.results()) if path.exists()}
        name = printable(job.target)
        return found | ({self.record.path: self.record.origin(name)} if name in self.record.rows else {})

    def is_done(self, job: Job) -> bool:
        """Whether all wanted results of a photograph exist.

        Raises:
            OptionError: one was made from another photograph, or in another way.
        """
        if not (found := self.found(job)):
            return False
        try:
            origin = self.origin(job)
        except DataError:
            return False  # it cannot be read, which is reported when it is its turn
        kinds = (self.maps if self.with_maps else ()) + ((FIGURE,) if self.with_figure else ())
        wanted = [self.output / path for path in (job.target, *map(job.beside, kinds))]
        wanted += [self.record.path] if self.with_maps else []
        for path, before in found.items():
            if not origin.is_of(before) and (before or path in wanted):
                raise OptionError(mixed(path, before or Origin("", "another program"), origin))
        return all(path in found for path in wanted)

    def remove_others(self, job: Job, origin: Origin) -> None:
        """Remove results of a photograph's name that were made from another one, or in another way."""
        for path, before in self.found(job).items():
            if before is None or origin.is_of(before):  # None: not from this program
                continue
            if path == self.record.path:
                self.record.drop(printable(job.target))
            else:
                path.unlink()

    # --- one photograph ---

    def field(self, job: Job, fundus: np.ndarray) -> Field:
        """The field of view of a photograph (height, width, 3), uint8; of a given mask the brighter level is inside.

        Raises:
            DataError: the photograph, or the mask, is entirely dark; or the mask has another size or cannot be read.
        """
        if job.mask is None:
            field = field_to_use(fundus, self.fov_mask)
            if not field.mask.any():
                raise DataError(f"{job.source}: {ENTIRELY_DARK}")
            return field
        grey = octa_to_grey(read_image(job.mask))
        if grey.shape != fundus.shape[:2]:
            its, own = (" x ".join(map(str, shape[1::-1])) for shape in (grey.shape, fundus.shape))
            raise DataError(f"{job.mask}: {its} px, but its photograph has {own} px")
        low, high = float(grey.min()), float(grey.max())
        if high == 0:
            raise DataError(f"{job.mask}: {ENTIRELY_DARK}")
        return field_of_mask(grey > (low + high) / 2 if low < high else np.ones(grey.shape, bool))

    def run(self, job: Job) -> tuple[Confidence, str]:
        """Write the results for one photograph; returns the confidence in them, and a remark for the user, or "".

        Raises:
            DataError: it cannot be read, or shows nothing, or its name is too long.
        """
        if any(len(os.fsencode(path.name)) > LONGEST_NAME for path in job.results()):
            raise DataError(f"{job.source}: the names of its results would exceed {LONGEST_NAME} bytes; rename it")
        fundus = read_fundus(job.source)
        field, origin = self.field(job, fundus), self.origin(job)
        fov, diameter = field.mask, job.diameter(field)
        stretch = 1.0 if job.region or self.published else field.stretch  # that the prediction undoes
        if self.published:
            octa = probability = octa_to_grey(
                self.predictor.predict_as_published(fundus, fov, **asdict(self.published))
            )
            vessels = vessel_map(octa, fov, job.region)
        else:
            predicted = self.predictor.predict_photograph(fundus, fov, diameter, self.fast, stretch)
            octa, probability = octa_to_grey(predicted.octa), predicted.probability
            vessels = self.predictor.map_of(probability, fov, job.region)
        density = vessel_density(vessels, fov)
        seen = None if field.radii is None else diameter
        confidence = assess(fundus, fov, seen, probability if self.maps == MAPS else None, vessels)

        self.remove_others(job, origin)
        (self.output / job.target).parent.mkdir(parents=True, exist_ok=True)
        if self.with_maps:
            for kind, image in zip(self.maps, (vessels, probability, confidence.right), strict=False):
                write_png(image if image.dtype == bool else to_uint8(image), self.output / job.beside(kind), origin)
            values = (
                printable(job.target),
                f"{density:.6f}",
                int(vessels.sum()),
                int(fov.sum()),
                *(f"{value:.4f}" for value in (*confidence.density, *confidence.dice)),
                f"{confidence.field_share:.4f}",
                f"{stretch:.3f}",
                f"{confidence.sharpness:.2f}",
                str(confidence),
                origin.source,
            )
            self.record.add(values, origin)
        if self.with_figure:
            px_per_mm, scale = job.scale(diameter, fov.shape[1]), "scale unknown"
            if px_per_mm is not None:
                px_per_mm *= min(1.0, stretch)
                scale = f"{px_per_mm:.0f} px/mm" + (" assumed" if job.is_assumed() else "")
            how = ", ".join(filter(None, (f"{fov.shape[1]} x {fov.shape[0]} px", scale, self.passes)))
            facts = f"{how}; vessel density {density:.3f}; {confidence}"
            caption = f"{one_line(printable(job.target.parent / job.source.name))}: {facts}\nWeights: {self.weights}. "
            caption += "Capillaries are invented; not for diagnosis."
            path = self.output / job.beside(FIGURE)
            write_figure(path, fundus, fov, octa, vessels, px_per_mm, caption, str(confidence), origin)
        write_png(to_uint8(octa), self.output / job.target, origin)
        remark = ""
        if diameter is None and not (job.region or self.published):
            remark = "shows no border of the field of view; predicted at its own scale, see --px-per-mm"
        elif stretch != 1:
            axis, percent = ("width", 100 * (stretch - 1)) if stretch > 1 else ("height", 100 * (1 / stretch - 1))
            remark = f"stretched along its {axis} by {percent:.0f} %; predicted with equal scales"
        return confidence, remark and f"{job.source}: {remark}"


def mixed(path: Path, before: Origin, now: Origin) -> str:
    """Why a result is not that of a photograph, and what to do."""
    advice = "choose another --output, or replace it with --overwrite"
    if before.digest == now.digest or not before.digest:
        return f"{path}: was made with {before.made_with}, not {now.made_with}; {advice}"
    if before.source == now.source:
        return f"{path}: was made from {before.source} before that file changed; {advice}"
    return f"{path}: was made from {before.source}, and {now.source} is another photograph; {advice}"


# --- many photographs ------------------------------------------------------------------------------------------------


def synthesise(synthesis: Synthesis, jobs: Sequence[Job], overwrite: bool, threads: int = 1) -> list[str]:
    """Process the photographs; returns one line for each that failed.

    While one is in the network, other threads read and write others.

    Raises:
        OptionError: a result of one of them was made from another photograph, or in another way; nothing is computed.
    """
    todo = list(jobs) if overwrite else [job for job in jobs if not synthesis.is_done(job)]
    if kept := len(jobs) - len(todo):
        print(f"{kept} of {len(jobs)} photographs have results, which are kept (--overwrite replaces them)")
    started, faults, doubtful = time.perf_counter(), {}, []
    with (
        closing(synthesis.record),
        progress_bar(total=len(todo), unit="photo", disable=len(todo) < 2) as bar,  # its end closes its line, too
        closing(outcomes(synthesis, todo, threads)) as done,
    ):
        for job, confidence, remark in done:
            bar.update()
            if confidence is None:
                faults[job] = remark
                continue
            if confidence.doubts:
                doubtful.append(f"{job.source} ({', '.join(confidence.doubts)})")
            if remark:
                bar.write(one_line(remark))
    number = len(todo) - len(faults)
    print(f"{number} written to {synthesis.output}/" + pace(number, time.perf_counter() - started, synthesis.predictor))
    figures = [synthesis.output / job.beside(FIGURE) for job in jobs if job not in faults]
    if synthesis.with_figure and len(figures) > (not synthesis.shard):
        for sheet in write_sheets(figures, synthesis.output, Origin("", synthesis.made_from), synthesis.shard):
            print(f"Sheet of {len(figures)} figures: {sheet}")
    if number:
        more = f"; and {len(doubtful) - NAMED} more" if len(doubtful) > NAMED else ""
        named = f"; doubtful: {'; '.join(doubtful[:NAMED])}{more}" if doubtful else ""
        print(one_line(f"Usable: {number - len(doubtful)} of {number}{named}"))
    return [faults[job] for job in todo if job in faults]


def outcomes(synthesis: Synthesis, jobs: Sequence[Job], threads: int) -> Iterator[tuple[Job, Confidence | None, str]]:
    """Process photographs in some threads; of each the confidence and the remark, or None and why it failed."""
    short = []
    with closing(side_by_side(synthesis, jobs, threads)) as begun:
        for job, future in begun:
            try:
                yield job, *future.result()
            except DataError as error:
                yield job, None, str(error)
            except Exception as error:
                if fault_of_machine(error) != OUT_OF_MEMORY:
                    raise
                if threads == 1:
                    yield job, None, f"{job.source}: {OUT_OF_MEMORY}; reduce the photograph's size"
                short.append(job)
    if threads > 1 and short:  # what had too little memory beside others gets all of it
        yield from outcomes(synthesis, short, 1)


def side_by_side(synthesis: Synthesis, jobs: Sequence[Job], threads: int) -> Iterator[tuple[Job, Future]]:
    """Process photographs in some threads, and yield each with its future, in order, a few of them ahead."""
    begun: deque[tuple[Job, Future]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for job in jobs:
                begun.append((job, pool.submit(synthesis.run, job)))
                if len(begun) > threads:
                    yield begun.popleft()
            while begun:
                yield begun.popleft()
        finally:  # also after an error or Ctrl-C: what has not begun is left, and what has begun ends soon
            synthesis.predictor.turns.ended = bool(begun)
            for _, future in begun:
                future.cancel()


def pace(done: int, seconds: float, predictor: Predictor) -> str:
    """How fast photographs were processed, and how busy the network was, in words."""
    if done < 2:
        return ""
    return f" ({60 * done / seconds:.1f} a minute, {predictor.turns.seconds / seconds:.0%} of the time in the network)"
