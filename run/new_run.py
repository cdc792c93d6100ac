"""From the options of the command line to the settings of a run: a new one, or one that is resumed.

Apart from `run.settings`, which these lines would make slow to load: they need the folders of runs, the data and
TensorFlow, and those modules need the settings.
"""

from dataclasses import replace
from pathlib import Path

from basics.command_line import flag
from pairs.dataset import DATA_FOLDERS, SIMULATED_SET, find_dataset
from pairs.table import SIMULATED, is_table
from retina.ut_fsocta import parse_subjects
from run.checkpoints import RunError, checkpoint_folder, log_folder, newest_run, read_run
from run.devices import resolve_precision
from run.settings import CHANGEABLE, CHECKPOINTS, FINE_TUNING, SIMULATED_RUN, SPLITS, Settings, SettingsError
from simulation.dataset import DEFAULT_SUBJECTS, write_dataset


def settings_of_new_run(given: dict) -> Settings:
    """The resolved settings of a new run: the given options, otherwise the defaults for this kind of run.

    Raises:
        SettingsError, DataError, RunError: see these classes.
    """
    if "name" in given:
        for folder in (log_folder(Settings(**given)), checkpoint_folder(Settings(**given))):
            if folder.exists():
                raise SettingsError(f"--name {given['name']}: {folder} exists; choose another name, or --resume it")
    data = choose_data(Settings(**given).data)
    foreign = [] if data != SIMULATED and not is_table(data) else [f"{split}_subjects" for split in SPLITS]
    foreign += [] if is_table(data) else ["shares"]
    for name in foreign:
        if name in given:
            kind = "a table of pairs; use its column split, or --shares" if is_table(data) else "no table of pairs"
            kind = "no real data" if data == SIMULATED else kind
            raise SettingsError(f"{flag(name)} {given[name]}: {data} is {kind}")
    defaults = SIMULATED_RUN if data == SIMULATED else {}
    if data != SIMULATED and "init_from" in given:
        # Noise and outputs belong to the weights. Without simulated retinas nothing would teach the vessels.
        origin = read_run(Path(given["init_from"])).settings
        defaults = FINE_TUNING | {"input_noise": origin.input_noise}
        defaults["vessel_output"] = origin.vessel_output and given.get("mix", FINE_TUNING["mix"]) > 0
    settings = Settings(**(defaults | given | {"data": data}))
    if data == SIMULATED:
        use_simulated_retinas()
    precision, why = resolve_precision(settings.precision)
    print(f"Precision: {precision} ({why})")
    return replace(settings, precision=precision)


def settings_of_resumed_run(given: dict, resume: str) -> tuple[Settings, str]:
    """The settings of a run to resume, with the present location of its data, and the digest of its data.

    Args:
        given: options of the command line by field of Settings.
        resume: the run's folder of checkpoints, or "" for the newest.

    Raises:
        RunError: there is no such run, or an option contradicts run.json.
        DataError: its data are not found.
    """
    folder = Path(resume) if resume else newest_run(Path(given.get("checkpoints", CHECKPOINTS)))
    old, digest, _, weights, _ = read_run(folder)
    if weights is not None:
        raise RunError(f"--resume {folder}: a single file of weights cannot be resumed; start from it with --init-from")
    new = replace(old, **{name: value for name, value in given.items() if name in CHANGEABLE})
    if clashes := [
        f"{flag(name)} {value} (was {getattr(new, name)})"
        for name, value in given.items()
        if name not in ("checkpoints", "data") and value != getattr(new, name)
    ]:
        raise RunError(f"--resume: {folder} was made with other settings: {', '.join(clashes)}")
    if new.data == SIMULATED:
        use_simulated_retinas()
    return replace(new, data=choose_data(new.data), checkpoints=str(folder.parent), name=folder.name), digest


def choose_data(given: str | None) -> str:
    """The given data set, otherwise the one in its usual folder, otherwise the word for simulated retinas.

    Raises:
        DataError: the given folder contains no data set.
    """
    found = None if given == SIMULATED else find_dataset(given, "--data")
    return SIMULATED if found is None else str(found)


def use_simulated_retinas() -> None:
    """Print that a run uses simulated retinas; make their set if there is none yet."""
    print("NO REAL DATA: this run uses simulated retinas, drawn by the program. Do not publish what it learns.")
    print(f"Real data are expected in {DATA_FOLDERS[0]}, or given with --data; to fetch them:")
    print("  python dataset_load_mod.py download")
    print(f"A set of simulated retinas, to try the other programs on: {SIMULATED_SET}")
    if not SIMULATED_SET.exists():
        try:
            write_dataset(SIMULATED_SET, parse_subjects(DEFAULT_SUBJECTS))
        except OSError:
            if not SIMULATED_SET.exists():  # otherwise another worker has made it
                raise
