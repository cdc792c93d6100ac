"""Lists of subject ids."""

import pytest

from retina.ut_fsocta import parse_subjects


@pytest.mark.parametrize(
    ("text", "subjects"), [("1,3-5", [1, 3, 4, 5]), (" 7 , 2 - 3 ,2, 112", [2, 3, 7, 112]), ("0-2", [0, 1, 2])]
)
def test_subject_lists_are_sorted_and_each_id_is_listed_once(text, subjects):
    assert parse_subjects(text) == subjects


REFUSED = ["", " ", "a", "5-3", "1,,2", "-3", "1.5", "1-", "1 2", "1-2-3", "٣"]
TOO_MANY = ["1-100001", "1-99999,200000-200009", "1-99999999999"]


@pytest.mark.parametrize("text", REFUSED + TOO_MANY)
def test_invalid_subject_lists_are_refused_in_one_line(text):
    with pytest.raises(ValueError, match=r"\A.+\Z") as error:  # the dot matches no line break
        parse_subjects(text)
    assert repr(text) in str(error.value)
