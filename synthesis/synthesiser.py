"""One photograph -> its OCT-A, vessel map, confidence and density, in memory.

from synthesis import Synthesiser

result = Synthesiser().photograph("photo.jpg")
print(result.density, result.confidence)
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from basics.command_line import OptionError, fault_of_scales
from pairs.origin import Origin, digest_of, printable
from retina.field_of_view import DEGREES, ENTIRELY_DARK, FIELD_MM, Field, field_of_mask, field_to_use
from retina.images import DataError, octa_to_grey, read_fundus, read_image
from retina.landmarks import Landmarks, find_landmarks
from retina.vessels import WHOLE, sector_masks, vessel_density, vessel_map
from run.checkpoints import read_run
from run.devices import set_up_gpus
from run.predict import load_predictor
from run.weights import describe, made_from, run_to_use
from synthesis.confidence import Confidence, assess, calibrated, sharpness
from synthesis.photographs import MASK, Job, list_jobs, stated
from synthesis.regions import NOT_REPEATABLE, Density, densities_of

IN_MEMORY = "array"  # the name of a photograph that is no file


@dataclass(frozen=True)
class Published:
    """The published way to predict: from overlapping patches, with dropout and batch statistics."""

    patch_size: int  # px
    stride: int  # steps per patch
    batch_size: int  # patches at once


@dataclass(frozen=True)
class Result:
    """What a photograph (height, width) shows. Images have its pixels, and are 0 outside the field of view.

    job: which photograph. fundus: itself, (height, width, 3), uint8. fov: inside the field of view, bool. octa:
    synthetic, float on [0, 1], for viewing. probability: of a vessel, float on [0, 1]. vessels: the map, bool.
    confidence: how sure it is; `confidence.right` is an image, too. diameter: in px, that a field of 45 degrees has,
    None if unknown. stretch: horizontal / vertical scale, that the prediction undid. px_per_mm: along a row, None if
    unknown.
    """

    job: Job
    fundus: np.ndarray
    fov: np.ndarray
    octa: np.ndarray
    probability: np.ndarray
    vessels: np.ndarray
    confidence: Confidence
    diameter: float | None
    stretch: float
    px_per_mm: float | None

    @property
    def scale(self) -> float | None:
        """Px per mm along both axes; None: it is unknown, or differs between them."""
        return self.px_per_mm if self.stretch == 1 else None

    @cached_property
    def landmarks(self) -> Landmarks:
        """Where disc and fovea are; none in a crop, in a photograph of unknown scale, or in a stretched one."""
        if self.job.region or not self.scale:
            return Landmarks()
        return find_landmarks(self.fundus, self.vessels, self.fov, self.scale)

    @property
    def eye(self) -> str:
        """OD, OS, or "" if unknown: as the file states, otherwise as disc and fovea lie."""
        return self.job.eye or self.landmarks.eye

    @cached_property
    def regions(self) -> dict[str, np.ndarray]:
        """Masks (height, width), bool, by name: the whole field, and the sectors that are seen.

        Those of a crop lie around its middle. Those of a photograph lie around disc and fovea, and turn with the line
        through both; if the fovea is not found, there are none.
        """
        at, regions, centres = self.landmarks, {WHOLE: self.fov}, {}
        if self.job.region:
            centres = {self.job.region: None}
        elif at.fovea is not None:
            centres = {"disc": at.disc, "macula": at.fovea}
        for region, centre in centres.items() if self.scale else ():
            masks = sector_masks(self.fov, region, self.eye, 1 / self.scale, centre, at.turned)
            sectors = {f"{region} {name}": mask for name, mask in masks.items() if name != WHOLE}
            regions |= {name: mask for name, mask in sectors.items() if mask is not None}
        return regions

    @property
    def offered(self) -> dict[str, np.ndarray]:
        """Those of `regions` that are measured: of a photograph not those whose densities are not repeatable."""
        left_out = () if self.job.region else NOT_REPEATABLE
        return {name: mask for name, mask in self.regions.items() if name not in left_out}

    @cached_property
    def densities(self) -> dict[str, Density]:
        """Of each region that is `offered`."""
        right = self.confidence.right
        drawn = None if right is None else np.where(self.vessels, right, 1 - right)
        return densities_of(self.vessels, drawn, self.offered, self.scale)

    @property
    def density(self) -> float:
        """Vessel pixels / pixels of the field of view."""
        return vessel_density(self.vessels, self.fov)


class Synthesiser:
    """A run's network, and how photographs are predicted with it."""

    def __init__(
        self,
        run: str | Path | None = None,
        weights: str | None = None,
        fast: bool = False,
        published: Published | None = None,
    ):
        """Load the network.

        Args:
            run: folder of a run; None: the newest finished run on real pairs in training_checkpoints/, otherwise the
                supplied weights.
            weights: "best" or "last"; None: the best, if there are any.
            fast: one pass, for the vessel probability too.
            published: predict as published; None: as this program does.

        Raises:
            RunError: there are no such weights, or they are damaged.
        """
        folder = run_to_use(None)[0] if run is None else Path(run)
        settings = read_run(folder).settings
        self.device = set_up_gpus()
        self.predictor, self.path = load_predictor(folder, weights, settings)
        self.made_from, self.weights = made_from(folder, self.path), describe(self.path)
        self.fov_mask, self.fast, self.published = settings.fov_mask, fast, published

    @property
    def passes(self) -> str:
        """How the generator predicts, in words; "": in several passes."""
        return "one pass" if self.fast else "as published" if self.published else ""

    @property
    def has_confidence(self) -> bool:
        """Whether there is a vessel probability to be sure of: a published prediction has none."""
        return self.predictor.vessel_output and not self.published

    def photograph(self, photograph: str | Path | np.ndarray, **scale) -> Result:
        """Predict a photograph.

        Args:
            photograph: a file, or (height, width, 3), uint8.
            scale: `field_degrees`, angle of the field of view; or `px_per_mm`; and `mask`, file of the field of view.
                Without, the field is looked for, and a DICOM file's own scale used, or 45 degrees assumed.

        Raises:
            DataError: it cannot be read, or is entirely dark.
            OptionError: a scale is out of range, or both are given.
        """
        if fault := fault_of_scales(scale):
            raise OptionError(fault)
        if scale.get(MASK) is not None:
            scale[MASK] = Path(scale[MASK])
        if isinstance(photograph, np.ndarray):
            if photograph.dtype != np.uint8 or photograph.ndim != 3 or photograph.shape[2] != 3:
                raise DataError(f"{IN_MEMORY}: must be (height, width, 3), uint8")
            return self.result(Job(Path(IN_MEMORY), Path(IN_MEMORY), **scale), photograph)
        path = Path(photograph)
        return self.result(stated(Job(path, Path(path.name), **scale)), read_fundus(path))

    def folder(self, folder: str | Path, **scale) -> Iterator[tuple[Path, Result]]:
        """Predict the photographs of a folder and its subfolders, one after the other; arguments as of `photograph`.

        Raises:
            OptionError: there is none.
            DataError: as `photograph`.
        """
        given = {"field_degrees": None, "px_per_mm": None, "mask": None} | scale
        for job in list_jobs([str(folder)], Path(folder, "synthetic_octa"), given):
            yield job.source, self.result(job, read_fundus(job.source))

    def result(self, job: Job, fundus: np.ndarray) -> Result:
        """Predict a photograph (height, width, 3), uint8, or a crop, as a job says.

        Raises:
            DataError: photograph or mask are entirely dark, or the mask cannot be read or has another size.
        """
        field = self.field(job, fundus)
        fov, diameter = field.mask, job.diameter(field)
        stretch = 1.0 if job.region or self.published else field.stretch  # that the prediction undoes
        px_per_mm = job.scale(diameter, fov.shape[1])
        sharp = sharpness(fundus, fov, px_per_mm * FIELD_MM if px_per_mm else max(fov.shape))
        drawn = None
        if self.published:
            octa = self.predictor.predict_as_published(fundus, fov, **asdict(self.published))
            octa = probability = octa_to_grey(octa)
        else:
            predicted = self.predictor.predict_photograph(fundus, fov, diameter, self.fast, stretch)
            octa, probability = octa_to_grey(predicted.octa), predicted.probability
        if self.has_confidence:
            drawn = calibrated(probability, sharp, px_per_mm) * fov
        if self.published:
            vessels = vessel_map(octa, fov, job.region)
        else:
            vessels = self.predictor.map_of(probability, fov, job.region)
        confidence = assess(fundus, fov, sharp, drawn, vessels)
        px_per_mm = px_per_mm and px_per_mm * min(1.0, stretch)
        return Result(job, fundus, fov, octa, probability, vessels, confidence, diameter, stretch, px_per_mm)

    def field(self, job: Job, fundus: np.ndarray) -> Field:
        """The field of view of a photograph (height, width, 3), uint8; of a given mask the brighter level is inside.

        Raises:
            DataError: as `result`.
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

    def origin(self, job: Job) -> Origin:
        """What the results of a photograph are made from, and how."""
        return Origin(digest_of([job.source]), self.made_with(job), printable(job.source))

    def made_with(self, job: Job) -> str:
        """How the results of a photograph are made, in words: all that changes their pixels, except the photograph."""
        words = [self.made_from, *([self.passes] if self.passes else [])]
        if self.published:
            words += [f"stride {self.published.stride}", f"batch size {self.published.batch_size}"]
        if job.px_per_mm is not None:
            words.append(f"{job.px_per_mm:g} px per mm")
        elif job.region is None:  # a crop is predicted as in training
            words.append(f"{job.field_degrees or DEGREES:g} degrees")
        if job.mask is not None:
            words.append(f"field of view from {printable(Path(job.mask.name))} ({digest_of([job.mask])[:8]})")
        return ", ".join(words)
