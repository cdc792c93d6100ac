"""From the options of the command line to a run's resolved settings: its data, its defaults, its precision."""

from dataclasses import replace
from pathlib import Path

from basics.command_line import flag
from pairs.table import is_table
from pix_data import choose_data, use_sample_retinas
from run.checkpoints import checkpoint_folder, log_folder, read_run, settings_to_resume
from run.devices import resolve_precision
from run.settings import FINE_TUNING, SAMPLE_RETINAS, SAMPLE_RUN, SPLITS, Settings, SettingsError, as_options


def settings_of_new_run(given: dict) -> Settings:
    """The resolved settings of a new run: the given options, otherwise the defaults for this kind of run.

    Raises:
        SettingsError, DataError, RunError: see these classes.
    """
    if "name" in given:
        for folder in (log_folder(Settings(**given)), checkpoint_folder(Settings(**given))):
            if folder.exists():
                raise SettingsError(f"--name {given['name']}: {folder} exists; choose another name, or --resume")
    data = choose_data(given.get("data"))
    foreign = [f"{split}_subjects" for split in SPLITS] if is_table(data) else ["split"]
    for name in foreign:
        if name in given:
            kind = "a table of pairs; use its column split, or --split" if is_table(data) else "not a table of pairs"
            raise SettingsError(f"{flag(name)} {given[name]}: {data} is {kind}")
    reason, defaults = "", {}
    if data == SAMPLE_RETINAS:
        reason, defaults = "sample retinas", SAMPLE_RUN
    elif "init_from" in given:
        # The noise belongs to the weights: the network makes its speckle from it.
        noise = read_run(Path(given["init_from"]))[0].input_noise
        reason, defaults = "--init-from", FINE_TUNING | {"input_noise": noise}
    settings = Settings(**(defaults | given | {"data": data}))
    if data == SAMPLE_RETINAS:
        use_sample_retinas()
    if defaults:
        used = as_options(settings, defaults)
        print(f"Defaults for {reason}: " + " ".join(f"{option} {value}" for option, value in used.items()))
    precision, why = resolve_precision(settings.precision)
    print(f"Precision: {precision} ({why})")
    return replace(settings, precision=precision)


def settings_of_resumed_run(given: dict, resume: str) -> tuple[Settings, str]:
    """The settings of a run to resume, with the present location of its data, and the digest of its data.

    Raises:
        RunError, DataError: see these classes.
    """
    settings, digest = settings_to_resume(given, resume)
    if settings.data == SAMPLE_RETINAS:
        use_sample_retinas()
        return settings, digest
    return replace(settings, data=choose_data(settings.data)), digest
