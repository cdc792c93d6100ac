"""Synthesis: each photograph -> its OCT-A, and if wanted vessel maps with their densities, and figures.

Every result tells which photograph it was made from and how (`pairs.origin`). One from another photograph, or made
in another way, is never taken for a result of this one.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from basics.command_line import OUT_OF_MEMORY, OptionError, fault_of_machine, one_line, progress_bar
from pairs.origin import DIGEST, MADE_WITH, SOURCE, Origin, Record, printable, read_origin, write_png
from retina.field_of_view import DEGREES
from retina.images import DataError, read_fundus, to_uint8
from retina.ut_fsocta import CROP_MM
from retina.vessels import WHOLE
from synthesis.figure import write_figure, write_sheets
from synthesis.photographs import FIGURE, MAPS, Job
from synthesis.synthesiser import Result, Synthesiser

DENSITIES = "densities.csv"
DENSITY_COLUMNS = (
    *("path", "region", "vessel_density", "vessel_px", "region_px", "area_mm2", "skeleton_mm_per_mm2"),
    *("expected_density", "density_low", "density_high", "expected_dice", "dice_low", "dice_high"),
    *("eye", "px_per_mm", "assumed", "field_share", "stretch", "sharpness"),
    *("confidence", SOURCE, DIGEST, MADE_WITH),
)
NAMED = 5  # doubtful photographs listed in the printout; the table has all


@dataclass(frozen=True)
class Synthesis:
    """Which results photographs are turned into, and where these go."""

    synthesiser: Synthesiser
    output: Path
    record: Record  # the densities
    with_maps: bool = False
    with_figure: bool = False
    shard: str = ""  # in the names of sheets

    @property
    def maps(self) -> tuple[str, ...]:
        """The kinds of maps."""
        return MAPS if self.synthesiser.has_confidence else MAPS[:-1]

    # --- what is finished ---

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
        origin = self.synthesiser.origin(job)
        if not origin.digest:
            return False  # it cannot be read, which is reported when it is its turn
        kinds = (self.maps if self.with_maps else ()) + ((FIGURE,) if self.with_figure else ())
        wanted = [self.output / path for path in (job.target, *map(job.beside, kinds))]
        wanted += [self.record.path] if self.with_maps else []
        for path, before in found.items():
            if not origin.is_of(before) and (before or path in wanted):
                advice = "choose another --output, or replace it with --overwrite"
                raise OptionError(f"{path}: {what_differs(before, origin)}; {advice}")
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

    def run(self, job: Job) -> tuple[str, str]:
        """Write the results for one photograph; returns its doubts and a remark for the user, or "".

        Raises:
            DataError: it cannot be read, or shows nothing.
        """
        fundus, origin = read_fundus(job.source), self.synthesiser.origin(job)
        result = self.synthesiser.result(job, fundus)
        fov, confidence, stretch = result.fov, result.confidence, result.stretch

        self.remove_others(job, origin)
        (self.output / job.target).parent.mkdir(parents=True, exist_ok=True)
        if self.with_maps:
            for kind, image in zip(self.maps, (result.vessels, result.probability, confidence.right), strict=False):
                write_png(image if image.dtype == bool else to_uint8(image), self.output / job.beside(kind), origin)
            *parts, own = rows_of(result, origin)
            self.record.add(own, origin, parts)
        if self.with_figure:
            scale = "scale unknown"
            if result.px_per_mm is not None:
                scale = f"{result.px_per_mm:.0f} px/mm" + (" assumed" if job.is_assumed() else "")
            size = f"{fov.shape[1]} x {fov.shape[0]} px"
            how = ", ".join(filter(None, (size, scale, self.synthesiser.passes)))
            eye = result.eye or "eye unknown"
            if not job.region and result.scale and result.landmarks.fovea is None:
                eye += ", no sectors: fovea not found"
            facts = f"{how}; {eye}; vessel density {result.density:.3f}; {confidence}"
            caption = f"{one_line(printable(job.target.parent / job.source.name))}: {facts}\n"
            caption += f"Weights: {self.synthesiser.weights}. Capillaries are invented; not for diagnosis."
            write_figure(self.output / job.beside(FIGURE), result, caption, origin)
        write_png(to_uint8(result.octa), self.output / job.target, origin)
        remark = ""
        if result.diameter is None and not (job.region or self.synthesiser.published):
            remark = "shows no border of the field of view; predicted at its own scale, see --px-per-mm"
        elif stretch != 1:
            axis, percent = ("width", 100 * (stretch - 1)) if stretch > 1 else ("height", 100 * (1 / stretch - 1))
            remark = f"stretched along its {axis} by {percent:.0f} %; predicted with equal scales"
        return ", ".join(confidence.doubts), remark


def rows_of(result: Result, origin: Origin) -> list[tuple]:
    """The rows of a photograph in densities.csv, without the last two columns: its sectors, then the whole field."""
    job, confidence = result.job, result.confidence
    assumed = ""
    if result.px_per_mm and job.is_assumed():
        assumed = f"{CROP_MM[job.region]:g} mm wide" if job.region else f"{DEGREES:g} degrees"
    scale = "" if result.px_per_mm is None else f"{result.px_per_mm:.2f}"
    dice = [f"{value:.4f}" for value in confidence.dice]
    facts = [result.eye, scale, assumed]
    facts += [f"{confidence.field_share:.4f}", f"{result.stretch:.3f}", f"{confidence.sharpness:.2f}"]
    rows = [
        (
            printable(job.target),
            region,
            *(f"{density.vessels:.6f}", *density.px, f"{density.area:.4f}", f"{density.skeleton:.4f}"),
            *(f"{value:.4f}" for value in density.expected),
            *(dice if region == WHOLE else ("", "", "")),
            *facts,
            *(str(confidence), origin.source),
        )
        for region, density in result.densities.items()
    ]
    return [*rows[1:], rows[0]]


def what_differs(before: Origin | None, now: Origin) -> str:
    """How the origin of an existing result (None: another program's) differs from that of the one wanted now."""
    if before is None:
        return "was made by another program"
    if before.digest != now.digest:
        changed = before.source == now.source
        return f"was made from {before.source}" + (" before it changed" if changed else f", another than {now.source}")
    made, wanted = before.made_with.split(", "), now.made_with.split(", ")
    own, other = ([word for word in one if word not in two] for one, two in ((made, wanted), (wanted, made)))
    return f"was made with {', '.join(own) or 'less'}, now {', '.join(other) or 'without that'}"


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
    started, failed, doubtful, ending = time.perf_counter(), {}, [], Event()

    def attempt(job: Job) -> tuple[str, str, str]:
        """Why a photograph failed, or its doubts and a remark."""
        if ending.is_set():
            return "not begun", "", ""
        try:
            return "", *synthesis.run(job)
        except DataError as error:
            return str(error), "", ""
        except Exception as error:
            if fault_of_machine(error) != OUT_OF_MEMORY:
                ending.set()
                raise
            return f"{job.source}: {OUT_OF_MEMORY}; try --threads 1, or reduce the photograph's size", "", ""

    with (
        closing(synthesis.record),
        progress_bar(total=len(todo), unit="photo", disable=len(todo) < 2) as bar,  # its end closes its line, too
        ThreadPoolExecutor(threads) as pool,
    ):
        try:
            for job, (fault, doubts, remark) in zip(todo, pool.map(attempt, todo), strict=True):
                bar.update()
                if fault:
                    failed[job] = fault
                if doubts:
                    doubtful.append(f"{job.source} ({doubts})")
                if remark:
                    bar.write(one_line(f"{job.source}: {remark}"))
        except BaseException:  # also Ctrl-C: what has not begun is left, and what has begun ends soon
            ending.set()
            synthesis.synthesiser.predictor.turns.ended = True
            raise
    number = len(todo) - len(failed)
    pace, seconds = "", time.perf_counter() - started
    if number > 1:
        share = synthesis.synthesiser.predictor.turns.seconds / seconds
        pace = f" ({60 * number / seconds:.1f} a minute, {share:.0%} of the time in the network)"
    print(f"{number} written to {synthesis.output}/{pace}")
    figures = [synthesis.output / job.beside(FIGURE) for job in jobs if job not in failed]
    if synthesis.with_figure and len(figures) > (not synthesis.shard):
        made = Origin("", synthesis.synthesiser.made_from)
        for sheet in write_sheets(figures, synthesis.output, made, synthesis.shard):
            print(f"Sheet of {len(figures)} figures: {sheet}")
    names: dict[str, str] = {}
    for name, row in synthesis.record.rows.items():
        if (other := names.setdefault(row[DIGEST], name)) != name:
            print(one_line(f"NOTE: {synthesis.record.path}: {other} and {name} are the same photograph"))
    if number:
        more = f"; and {len(doubtful) - NAMED} more" if len(doubtful) > NAMED else ""
        named = f"; doubtful: {'; '.join(doubtful[:NAMED])}{more}" if doubtful else ""
        print(one_line(f"Usable: {number - len(doubtful)} of {number}{named}"))
    return list(failed.values())
