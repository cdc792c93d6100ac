"""Facts about UT-FSOCTA, the study's data set, and how its files are named. A leaf: it imports no module of ours.

Sources: the Zenodo record, doi 10.5281/zenodo.6476639, and Coronado et al., Sci Rep 2023;13:15325.
"""

import re

DATASET_NAME = "UT-FSOCTA-v1"
REGIONS = ("disc", "macula")
OTHER_REGION = "other"  # of a pair from elsewhere whose region is unknown
EYES = ("OD", "OS")  # right, left
PUBLISHED_SUBJECTS = {"train": "1-25", "validation": "26-30", "test": "31-112"}
CROP_PX = 400  # side of a crop
# Side of a crop; assumed from AngioVue's usual scans: the record does not state it
CROP_MM = {"disc": 4.5, "macula": 6.0, OTHER_REGION: 6.0}
FILE_NAME = re.compile(r"(?P<subject>\d+)_(?P<eye>OD|OS)\.\w+", re.IGNORECASE)  # with the suffix of any image
SIMULATED_NOTE = "SIMULATED.txt"  # at the top of a set of simulated retinas, which has the same layout
MAX_SUBJECTS = 100_000  # a longer list is a typing error


def parse_subjects(text: str) -> list[int]:
    """Read a list of subject ids such as "1-12,26,31-36".

    Returns:
        The ids, sorted, each once.

    Raises:
        ValueError: for anything else, and for more than 100,000 ids; the message is one line.
    """
    subjects: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", part)
        if not match:
            raise ValueError(f"{text!r} is not a list of subject ids: write it like 1-12,26,31-36")
        first = int(match[1])
        last = int(match[2] or first)
        if last < first:
            raise ValueError(f"{text!r} contains {part.strip()!r}: ranges must rise, like 1-12,26,31-36")
        if last - first + len(subjects) >= MAX_SUBJECTS:
            raise ValueError(f"{text!r} names more than {MAX_SUBJECTS:,} subjects: write it like 1-12,26,31-36")
        subjects.update(range(first, last + 1))
    return sorted(subjects)


def parse_shares(text: str) -> list[float]:
    """Shares of train, validation and test such as "80/10/10", as fractions of 1.

    Raises:
        ValueError: for anything else; the message is one line.
    """
    parts = text.split("/")
    if len(parts) != len(PUBLISHED_SUBJECTS) or not all(part.strip().isdecimal() and len(part) < 9 for part in parts):
        raise ValueError(f"{text!r} are not the shares of train, validation and test: write them like 80/10/10")
    numbers = [int(part) for part in parts]
    if not numbers[0]:
        raise ValueError(f"{text!r} leaves no subject to train on: write it like 80/10/10")
    return [number / sum(numbers) for number in numbers]
