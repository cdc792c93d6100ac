"""Synthesise: turn fundus photographs of any size into OCT-A images and vessel maps, with a trained run.

    python pix_pix_gen.py photo.jpg folder list.csv    # each photograph -> synthetic_octa/NAME.png, of the same size
    python pix_pix_gen.py folder --vessels --figure    # also vessel maps with their densities, and figures to look at
    python pix_pix_gen.py --dataset DATA               # a data set, for the evaluation
    python pix_pix_gen.py --export DIR                 # the generator for other programs: SavedModel, Keras, ONNX, ...

Uses the newest finished run on real pairs in training_checkpoints/, with its best weights, otherwise the supplied
weights; --run chooses another. Existing results are kept, so that the same command resumes an interrupted folder.
`--help` lists every option.
"""

import argparse
import os
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pix_command import (
    OneLineParser,
    OptionError,
    add_scale_options,
    check_scale_options,
    exit_status,
    flag,
    load_tensorflow,
    one_line,
    progress_bar,
    report_error,
)
from pix_settings import EXPORT_FORMATS, ONE_FILE_FORMAT, SPLIT_HELP, SPLITS, Settings, add_run_options
from ut_fsocta import CROP_MM

PROGRAM = "pix_pix_gen.py"
OUTPUT = "synthetic_octa"
FORMATS = (*EXPORT_FORMATS, ONE_FILE_FORMAT)
DEFAULT_FORMATS = "saved_model,keras"
DENSITIES = "densities.csv"
LONGEST_NAME = 255  # bytes: what file systems allow
PUBLISHED_STRIDE = 8  # steps per patch of the study's final synthesis


def parse_command_line(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options. Ends the program with status 2 and one line if they are invalid."""
    parser = OneLineParser(prog=PROGRAM, description=__doc__)
    add = parser.add_argument
    add("inputs", nargs="*", metavar="INPUT", help="photograph, folder (with subfolders), or CSV with a path column")
    add_run_options(parser)
    add("--output", default=OUTPUT, metavar="DIR", help="folder of the results (default: %(default)s)")
    add(
        "--vessels",
        action="store_true",
        help="also write NAME_vessels.png (the binary vessel map), NAME_probability.png (from which it is made), "
        f"NAME_disagreement.png (not with --fast or --published) and {DENSITIES}",
    )
    add(
        "--figure",
        action="store_true",
        help="also write NAME_figure.png (fundus, synthetic OCT-A, vessels, disagreement) and, for several "
        "photographs, sheets of figures",
    )
    add("--fast", action="store_true", help="one pass, for the vessel probability too, not a mean of several")
    add_scale_options(parser)
    add("--overwrite", action="store_true", help="replace existing results")
    add("--dataset", nargs="?", const="", metavar="DATA", help="use the photographs of a data set (default: the run's)")
    add("--split", choices=(*SPLITS, "all"), help=f"with --dataset: {SPLIT_HELP}")
    add(
        "--published",
        action="store_true",
        help="predict as published, for comparison: from overlapping patches, with dropout and batch statistics",
    )
    add("--stride", type=int, metavar="N", help=f"with --published: steps per patch (default: {PUBLISHED_STRIDE})")
    add("--batch-size", type=int, metavar="N", help="with --published: patches at once (default: the run's)")
    add("--export", metavar="DIR", help="write the generator for other programs, in the formats of --format")
    add(
        "--format",
        metavar="LIST",
        help=f"with --export: any of {','.join(FORMATS)}; the last is for this program (default: {DEFAULT_FORMATS})",
    )
    options = parser.parse_args(argv)
    if options.inputs and options.dataset is not None:
        parser.error("INPUT and --dataset: give only one of them")
    if not options.inputs and options.dataset is None and options.export is None:
        parser.error("give a photograph, a folder, a CSV table, --dataset or --export")
    if options.format and options.export is None:
        parser.error("--format needs --export")
    options.format = (options.format or DEFAULT_FORMATS).split(",")
    if unknown := sorted(set(options.format) - set(FORMATS)):
        parser.error(f"--format {unknown[0]}: must be any of {', '.join(FORMATS)}, separated by commas")
    if options.split and options.dataset is None:
        parser.error("--split needs --dataset")
    if options.published and (options.fast or options.field_degrees or options.px_per_mm):
        parser.error("--published predicts photographs unchanged; drop --fast, --field-degrees and --px-per-mm")
    check_scale_options(parser, options)
    for name in ("stride", "batch_size"):
        value = getattr(options, name)
        if value is not None and not options.published:
            parser.error(f"{flag(name)} needs --published")
        if value is not None and value < 1:
            parser.error(f"{flag(name)} {value}: must be at least 1")
    return options


if __name__ == "__main__":
    parse_command_line(None)  # help and errors at once: loading TensorFlow takes seconds
load_tensorflow()

import numpy as np
import tensorflow as tf

from camera_field import DEGREES, FIELD_MM, Field
from dataset_load_mod import (
    ENTIRELY_DARK,
    DataError,
    field_to_use,
    find_dataset,
    octa_to_grey,
    read_fundus,
)
from photo_figure import Shown, write_figure, write_sheets
from photo_jobs import (
    DISAGREEMENT,
    FIGURE,
    MAPS,
    Densities,
    Job,
    check_jobs,
    list_dataset_jobs,
    list_jobs,
    printable,
    read_made_with,
    write_png,
)
from photo_trust import Trust, judge
from pix_export import export
from pix_predict import Prediction, Predictor, announced_predictor
from pix_run import read_run, seen_by
from pix_weights import describe, made_from, run_to_use, write_weights
from vessel_metrics import map_vessels, vessel_density

NAMED = 5  # doubtful photographs listed in the printout; the table has all
DISAGREEING = 0.1  # standard deviation between passes, of OCT-A on [0, 1], from which they disagree


# --- one photograph --------------------------------------------------------------------------------------------------


def as_grey_levels(image: np.ndarray) -> np.ndarray:
    """Float on [0, 1] -> uint8 on [0, 255]."""
    return np.round(image * 255).astype(np.uint8)


@dataclass(frozen=True)
class Synthesis:
    """How photographs are turned into results, and where these go."""

    predictor: Predictor
    settings: Settings
    options: argparse.Namespace
    densities: Densities | None
    weights: str  # where they are from, in words
    made_from: str  # the weights again, in the same words in every current folder; printable

    def is_done(self, job: Job) -> bool:
        """Whether all wanted results of a photograph exist."""
        return all((self.output / path).exists() for path in self.wanted(job)) and (
            self.densities is None or job.target in self.densities
        )

    @property
    def passes(self) -> str:
        """How the generator predicts, in words; "" if in several passes, which may disagree."""
        return "one pass" if self.options.fast else "as published" if self.options.published else ""

    def made_with(self, job: Job) -> str:
        """How the results of a photograph are made, in words: weights, passes, and a given or assumed scale."""
        options, words = self.options, [self.made_from]
        words += [self.passes] if self.passes else []
        if options.px_per_mm is not None:
            words.append(f"{options.px_per_mm:g} px per mm")
        elif not job.region:
            words.append(f"{options.field_degrees or DEGREES:g} degrees")
        return ", ".join(words)

    def check_kept(self, kept: Iterable[Job]) -> None:
        """Raises OptionError if kept results would be mixed with others: one was made in another way."""
        for job in kept:
            for path in (self.output / wanted for wanted in self.wanted(job)):
                before, now = read_made_with(path) or "an earlier version", self.made_with(job)
                if before != now:
                    raise OptionError(
                        f"{path}: was made with {before}, not {now}; add --overwrite, or choose another --output"
                    )

    def wanted(self, job: Job) -> list[Path]:
        """The results of a photograph, relative to the output folder."""
        maps = self.maps if self.options.vessels else ()
        figure = [FIGURE] if self.options.figure else ()
        return [job.target, *map(job.beside, (*maps, *figure))]

    @property
    def maps(self) -> tuple[str, ...]:
        """The kinds of maps that --vessels writes."""
        return MAPS if self.passes else (*MAPS, DISAGREEMENT)

    @property
    def output(self) -> Path:
        """The folder of the results."""
        return Path(self.options.output)

    def predict(self, fundus: np.ndarray, fov: np.ndarray, diameter: float | None) -> Prediction:
        """The generator's prediction for a photograph; arguments as for `Predictor.predict_photograph`."""
        options = self.options
        if not options.published:
            return self.predictor.predict_photograph(fundus, fov, diameter, options.fast)
        patches = self.settings.patch_size, options.stride or PUBLISHED_STRIDE
        batch_size = options.batch_size or self.settings.batch_size
        octa = self.predictor.predict_as_published(fundus, fov, *patches, batch_size)
        return Prediction(octa, octa_to_grey(octa), np.zeros(fov.shape, np.float32))

    def diameter(self, job: Job, field: Field) -> float | None:
        """Diameter in px that a field of 45 degrees has, or would have; None: unknown, or a crop as in training."""
        if self.options.px_per_mm is not None:
            return FIELD_MM * self.options.px_per_mm
        return None if job.region else field.diameter(self.options.field_degrees)

    def px_per_mm(self, job: Job, diameter: float | None, width: int) -> float | None:
        """The scale of a photograph with this `diameter`, or of a crop with this width, in px; None: unknown."""
        if diameter is not None:
            return diameter / FIELD_MM
        return width / (job.width_mm or CROP_MM[job.region]) if job.region else None

    def is_assumed(self, job: Job) -> bool:
        """Whether the scale of a photograph is not given, by an option or by the width of a crop."""
        return not (self.options.px_per_mm or (job.width_mm if job.region else self.options.field_degrees))

    def run(self, job: Job) -> tuple[Trust, str]:
        """Write the results for one photograph; returns how far to trust them, and a remark for the user, or "".

        Raises:
            DataError: it cannot be read, or shows nothing, or its name is too long.
        """
        if any(len(os.fsencode(path.name)) > LONGEST_NAME for path in self.wanted(job)):
            raise DataError(f"{job.source}: the names of its results would exceed {LONGEST_NAME} bytes; rename it")
        fundus = read_fundus(job.source)
        field = field_to_use(fundus, self.settings.fov_mask)
        fov = field.mask
        if not fov.any():
            raise DataError(f"{job.source}: {ENTIRELY_DARK}")
        diameter = self.diameter(job, field)
        predicted = self.predict(fundus, fov, diameter)
        octa, disagreement = octa_to_grey(predicted.octa), predicted.disagreement
        made_with, target = self.made_with(job), self.output / job.target
        target.parent.mkdir(parents=True, exist_ok=True)
        vessels, _, threshold = map_vessels(predicted.probability, fov, job.region, diameter)
        several = not self.passes
        density = vessel_density(vessels, fov)
        seen_diameter = None if field.radius is None else diameter
        trust = judge(fundus, fov, seen_diameter, predicted.probability, vessels)
        if self.options.vessels:
            maps = [vessels, as_grey_levels(predicted.probability)]
            maps += [as_grey_levels(2 * disagreement)] if several else []
            for kind, image in zip(self.maps, maps, strict=True):
                write_png(image, self.output / job.beside(kind), made_with)
            if not several:
                (self.output / job.beside(DISAGREEMENT)).unlink(missing_ok=True)  # one of an earlier command
            values = (
                f"{density:.6f}",
                int(vessels.sum()),
                int(fov.sum()),
                "nan" if threshold is None else f"{threshold:.4f}",
                f"{disagreement[fov].mean():.4f}" if several else "nan",
                f"{(disagreement[fov] > DISAGREEING).mean():.4f}" if several else "nan",
                f"{trust.field_share:.4f}",
                f"{trust.sharpness:.2f}",
                f"{trust.contrast:.4f}",
                trust.verdict,
                made_with,
            )
            self.densities.add(job.target, values)
        if self.options.figure:
            shown = Shown(
                name=str(job.target.parent / job.source.name),
                fundus=fundus,
                fov=fov,
                octa=octa,
                vessels=vessels,
                disagreement=disagreement if several else None,
                px_per_mm=self.px_per_mm(job, diameter, fov.shape[1]),
                is_assumed=self.is_assumed(job),
                density=density,
                weights=self.weights,
                passes=self.passes,
                verdict=trust.verdict,
                made_with=made_with,
            )
            write_figure(shown, self.output / job.beside(FIGURE))
        write_png(as_grey_levels(octa), target, made_with)
        if diameter or job.region or self.options.published:
            return trust, ""
        return (
            trust,
            f"{job.source}: shows no border of the camera's field; predicted at its own scale, see --px-per-mm",
        )


def synthesise(synthesis: Synthesis, jobs: Sequence[Job]) -> list[str]:
    """Process the photographs; returns one line for each that failed.

    Raises:
        OptionError: a kept result was made in another way.
    """
    kept = dict.fromkeys(job for job in jobs if not synthesis.options.overwrite and synthesis.is_done(job))
    synthesis.check_kept(kept)
    todo = [job for job in jobs if job not in kept]
    if kept:
        print(f"{len(kept)} of {len(jobs)} photographs have results, which are kept (--overwrite replaces them)")
    failed, verdicts = [], {}
    with progress_bar(todo, unit="photo", disable=len(todo) < 2) as photographs:  # closes the bar's line, too
        for job in photographs:
            try:
                trust, remark = synthesis.run(job)
                verdicts[job.source] = trust
                if remark:
                    photographs.write(one_line(remark))
            except DataError as error:
                failed.append(str(error))
            except (MemoryError, tf.errors.ResourceExhaustedError):
                failed.append(f"{job.source}: out of memory; reduce the photograph's size")
    print(f"{len(todo) - len(failed)} written to {synthesis.output}/")
    if synthesis.options.figure:
        figures = [path for job in jobs if (path := synthesis.output / job.beside(FIGURE)).exists()]
        for sheet in write_sheets(figures, synthesis.output, synthesis.made_from) if len(figures) > 1 else ():
            print(f"Sheet of {len(figures)} figures: {sheet}")
    if verdicts:
        print(one_line(in_one_line(verdicts)))
    return failed


def in_one_line(verdicts: dict[Path, Trust]) -> str:
    """How many photographs are usable, and which are doubtful, and why."""
    doubtful = [f"{path} ({', '.join(trust.doubts)})" for path, trust in verdicts.items() if trust.doubts]
    named = "; ".join(doubtful[:NAMED]) + (f"; and {len(doubtful) - NAMED} more" if len(doubtful) > NAMED else "")
    return f"Usable: {len(verdicts) - len(doubtful)} of {len(verdicts)}" + (f"; doubtful: {named}" if named else "")


# --- command line ----------------------------------------------------------------------------------------------------


def jobs_of(options: argparse.Namespace, settings: Settings, seen: Collection[str]) -> list[Job]:
    """The photographs given by the options; `seen` has the run, see `pix_run.seen_by`.

    Raises OptionError, DataError if there is none, or if results would clash.
    """
    if options.dataset is not None:
        dataset = find_dataset(options.dataset or settings.data, "--dataset")
        jobs = list_dataset_jobs(dataset, options.split, settings, seen)
    else:
        jobs = list_jobs(options.inputs, Path(options.output))
    check_jobs(jobs, Path(options.output))
    return jobs


def run_synthesis(options: argparse.Namespace) -> int:
    """Do what the options ask for; returns the exit status: 2 if a photograph failed.

    Raises:
        UserError, OSError: nothing, or nothing more, can be done.
    """
    run, why = run_to_use(options.run)
    settings, _ = read_run(run)
    if options.stride is not None and options.stride > settings.patch_size:
        raise OptionError(f"--stride {options.stride}: must be at most the run's patch size, {settings.patch_size} px")
    jobs = jobs_of(options, settings, seen_by(run)) if options.inputs or options.dataset is not None else []
    if options.export:
        settings = replace(settings, precision="float32")  # for machines of any kind
    predictor, path = announced_predictor(run, options.weights, settings, why)
    if options.export:
        folder, formats = Path(options.export), [kind for kind in options.format if kind in EXPORT_FORMATS]
        written = export(predictor.generator, folder, formats) if formats else []
        if ONE_FILE_FORMAT in options.format:
            written.append(write_weights(predictor.generator, run, path, folder))
        print("Exported:", *written)
    if not jobs:
        return 0
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    densities = Densities(output / DENSITIES) if options.vessels else None
    source = printable(Path(made_from(run, path)))
    synthesis = Synthesis(predictor, settings, options, densities, describe(path), source)
    failed = synthesise(synthesis, jobs)
    for reason in failed:
        report_error(PROGRAM, reason)
    return 2 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, synthesise, and return the exit status: 2 for an error that the user can fix."""
    options = parse_command_line(argv)
    return exit_status(PROGRAM, lambda: run_synthesis(options), "stopped; the same command resumes")


if __name__ == "__main__":
    sys.exit(main())
