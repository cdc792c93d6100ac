"""Synthesise: turn fundus photographs of any size into OCT-A images and vessel maps, with a trained run.

    python pix_pix_gen.py photo.jpg folder list.csv    # each photograph -> synthetic_octa/NAME.png, of the same size
    python pix_pix_gen.py folder --vessels --figure    # also vessel maps, their confidence and densities, and figures
    python pix_pix_gen.py --dataset DATA               # a data set, for the evaluation
    python pix_pix_gen.py --export DIR                 # the generator for other programs: SavedModel, Keras, ONNX, ...

Uses the newest finished run on real pairs in training_checkpoints/, with its best weights, otherwise the supplied
weights; --run chooses another. Existing results are kept, so that the same command resumes an interrupted folder.
`--help` lists every option.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from basics.command_line import (
    SCALES,
    OneLineParser,
    OptionError,
    add_scale_options,
    exit_status,
    fault_of_scales,
    flag,
    load_tensorflow,
    report_error,
)
from run.settings import EXPORT_FORMATS, ONE_FILE_FORMAT, SPLIT_HELP, SPLITS, add_run_options

PROGRAM = "pix_pix_gen.py"
FORMATS = (*EXPORT_FORMATS, ONE_FILE_FORMAT)
DEFAULT_FORMATS = "saved_model,keras"
PUBLISHED_STRIDE = 8  # steps per patch of the study's final synthesis
MOST_THREADS = 4  # without --threads: each holds a photograph in memory
OF_PUBLISHED = ("stride", "batch_size")
NEEDS = {"format": "export", "split": "dataset", "field_mask": "inputs"} | dict.fromkeys(OF_PUBLISHED, "published")


def share(text: str) -> tuple[int, int]:
    """The two numbers of K/N."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not (match and 1 <= int(match[1]) <= int(match[2])):
        raise argparse.ArgumentTypeError(f"{text} must be K/N with K from 1 to N, such as 3/40")
    return int(match[1]), int(match[2])


def parse_command_line(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options. Ends the program with status 2 and one line if they are invalid."""
    parser = OneLineParser(prog=PROGRAM, description=__doc__)
    add = parser.add_argument
    add("inputs", nargs="*", metavar="INPUT", help="photograph, folder (with subfolders), or CSV with a path column")
    add_run_options(parser)
    add("--output", type=Path, default="synthetic_octa", metavar="DIR", help="folder of results (default: %(default)s)")
    add("--vessels", action="store_true", help="also write vessel map, probability, confidence, and densities.csv")
    add("--figure", action="store_true", help="also write NAME_figure.png and, of several, sheets of figures")
    add("--fast", action="store_true", help="one pass, for the vessel probability too, not a mean of several")
    add_scale_options(parser)
    add("--field-mask", type=Path, metavar="FILE", help="image of the field of view, bright inside (default: found)")
    add("--overwrite", action="store_true", help="replace existing results")
    add(
        "--threads",
        type=int,
        metavar="N",
        help=f"photographs read and written side by side (default: cores, up to {MOST_THREADS})",
    )
    add("--shard", type=share, metavar="K/N", help="only the K-th of N shares of the photographs, for many computers")
    add("--collect", type=Path, metavar="DIR", help="make one table, and sheets, of those of all shards in a folder")
    add("--dataset", nargs="?", const="", metavar="DATA", help="use the photographs of a data set (default: the run's)")
    add("--split", choices=(*SPLITS, "all"), help=f"with --dataset: {SPLIT_HELP}")
    add("--published", action="store_true", help="as published: predict by patches, with dropout and batch statistics")
    add("--stride", type=int, metavar="N", help=f"with --published: steps per patch (default: {PUBLISHED_STRIDE})")
    add("--batch-size", type=int, metavar="N", help="with --published: patches at once (default: the run's)")
    add("--export", type=Path, metavar="DIR", help="write the generator for other programs, in the formats of --format")
    add("--format", metavar="LIST", help=f"with --export: any of {','.join(FORMATS)} (default: {DEFAULT_FORMATS})")
    options = parser.parse_args(argv)
    if options.inputs and options.dataset is not None:
        parser.error("INPUT and --dataset: give only one of them")
    if not options.inputs and options.dataset is None and options.export is None and options.collect is None:
        parser.error("give a photograph, a folder, a CSV table, --dataset, --export or --collect")
    if options.collect is not None and (argv if argv is not None else sys.argv[1:])[2:]:
        parser.error("--collect: give it alone")
    for name in (*NEEDS, "threads"):
        value, needed = getattr(options, name), NEEDS.get(name)
        if needed and value is not None and getattr(options, needed) in (None, False, []):
            parser.error(f"{flag(name)} needs {'INPUT' if needed == 'inputs' else flag(needed)}")
        if isinstance(value, int) and value < 1:
            parser.error(f"{flag(name)} {value}: must be at least 1")
    options.format = (options.format or DEFAULT_FORMATS).split(",")
    if unknown := sorted(set(options.format) - set(FORMATS)):
        parser.error(f"--format {unknown[0]}: must be any of {', '.join(FORMATS)}, separated by commas")
    if options.published and (options.fast or options.field_degrees or options.px_per_mm):
        parser.error("--published predicts photographs unchanged; drop --fast, --field-degrees and --px-per-mm")
    if fault := fault_of_scales(vars(options), flag):
        parser.error(fault)
    return options


if __name__ == "__main__":
    parse_command_line(None)  # help and errors at once: loading TensorFlow takes seconds
load_tensorflow()

from pairs.dataset import find_dataset
from pairs.origin import Record
from retina.vessels import WHOLE
from run.checkpoints import read_run
from run.export import export
from run.predict import announce, announced_predictor
from run.weights import run_to_use, write_weights
from synthesis.photographs import MASK, check_jobs, list_dataset_jobs, list_jobs
from synthesis.shards import Shard, collect
from synthesis.synthesise import DENSITIES, DENSITY_COLUMNS, Synthesis, synthesise
from synthesis.synthesiser import Published, Synthesiser


def run_synthesis(options: argparse.Namespace) -> int:
    """Do what the options ask for; returns the exit status: 2 if a photograph failed."""
    if options.collect:
        print("Collected:", *collect(options.collect / DENSITIES, DENSITY_COLUMNS))
        return 0
    run, why = run_to_use(options.run)
    made = read_run(run)
    settings = made.settings
    if options.stride is not None and options.stride > settings.patch_size:
        raise OptionError(f"--stride {options.stride}: must be at most the run's patch size, {settings.patch_size} px")
    scale = {name: getattr(options, name) for name in SCALES}
    if options.dataset is not None:
        dataset = find_dataset(options.dataset or settings.data, "--dataset")
        jobs = [replace(job, **scale) for job in list_dataset_jobs(dataset, options.split, settings, made.seen)]
    else:
        jobs = list_jobs(options.inputs, options.output, scale | {MASK: options.field_mask})
    check_jobs(jobs, options.output)
    table, shard = options.output / DENSITIES, None
    if options.shard:
        shard = Shard(*options.shard)
        table, jobs = shard.of(table), [job for job in jobs if shard.has(job)]

    if options.export:
        portable = replace(settings, precision="float32")  # for machines of any kind
        predictor, path = announced_predictor(run, options.weights, portable, why)
        formats = [name for name in options.format if name in EXPORT_FORMATS]
        written = export(predictor.generator, options.export, formats) if formats else []
        if ONE_FILE_FORMAT in options.format:
            written.append(write_weights(predictor.generator, run, path, options.export))
        print("Exported:", *written)
    if not (options.inputs or options.dataset is not None):
        return 0

    stride, batch_size = options.stride or PUBLISHED_STRIDE, options.batch_size or settings.batch_size
    published = Published(settings.patch_size, stride, batch_size) if options.published else None
    synthesiser = Synthesiser(run, options.weights, options.fast, published)
    announce(synthesiser.device, synthesiser.path, why)
    record = Record(table, DENSITY_COLUMNS, WHOLE)
    synthesis = Synthesis(synthesiser, options.output, record, options.vessels, options.figure, str(shard or ""))
    failed = synthesise(synthesis, jobs, options.overwrite, options.threads or min(os.cpu_count() or 1, MOST_THREADS))
    if options.shard and options.vessels and not table.exists():  # without a photograph, it is complete all the same
        table.parent.mkdir(parents=True, exist_ok=True)
        record.write()
    for reason in failed:
        report_error(PROGRAM, reason)
    return 2 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, synthesise, and return the exit status: 2 for an error that the user can fix."""
    options = parse_command_line(argv)
    return exit_status(PROGRAM, lambda: run_synthesis(options), "stopped; the same command resumes")


if __name__ == "__main__":
    sys.exit(main())
