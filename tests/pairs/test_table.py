"""A table of pairs: its columns, names, subjects and splits, and each mistake by its row."""

import re
from pathlib import Path, PureWindowsPath

import pytest

from basics.files import read_table
from pairs.table import NEEDED, PairTableError, below_common, names_of, read_pairs, shared_out
from retina.ut_fsocta import parse_shares

HEADER = "fundus,octa,subject,eye,region,split"


@pytest.fixture
def table(tmp_path):
    """Writes a table of some rows, with the files that they name; returns its path."""

    def write(*rows: str, header: str = HEADER, encoding: str = "utf-8"):
        for row in rows:
            for cell in re.split("[,;\t]", row)[:2]:
                if cell and "missing" not in cell:
                    (tmp_path / cell).parent.mkdir(parents=True, exist_ok=True)
                    (tmp_path / cell).touch()
        path = tmp_path / "pairs.csv"
        path.write_bytes("\n".join([header, *rows, ""]).encode(encoding))
        return path

    return write


def of_subject(path, shares="80/10/10"):
    """The pairs of a table by subject."""
    return {pair.subject: pair for pair in read_pairs(path, shares)}


# --- what Excel writes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_table_as_a_spreadsheet_saves_it(table, separator, encoding, newline):
    rows = [HEADER, "ü.png,o.png,Müller,OD,disc,train"]
    path = table("ü.png,o.png", header="")
    path.write_bytes(newline.join([*rows, ""]).replace(",", separator).encode(encoding))
    files = path.parent / "ü.png", path.parent / "o.png"
    assert read_pairs(path, "80/10/10") == [("Müller", "OD", "disc", "train", *files, None, None, "", "ü")]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_table_in_another_encoding_is_refused_with_what_to_do(table, encoding):
    path = table("Müller.png;b.png;Müller", header="fundus;octa;subject", encoding=encoding)
    with pytest.raises(ValueError, match=r"pairs\.csv: is not in UTF-8; save it as CSV UTF-8"):
        read_pairs(path, "1/0/0")


@pytest.mark.parametrize("subject", ["007", "1e5", "NA", "1,5", "two\nlines", 'a "b"'])
def test_subject_stays_as_it_is_written(table, subject):
    path = table("a.png,b.png", header="")
    quoted = subject.replace('"', '""')
    path.write_text(f'fundus,octa,subject\na.png,b.png,"{quoted}"\n')
    assert list(of_subject(path, "1/0/0")) == [subject]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path,eye,Eye \na.png,OD,OS\n", "several columns named eye"),
        ("path\na.png\nb.png,c.png\n", "row 3 has more cells"),
        ('path,eye\n"a.png,OD\nb.png,OS\n', "cannot be read as a CSV table"),  # a quote that is not closed
    ],
)
def test_table_whose_cells_could_be_taken_for_others_is_refused(tmp_path, content, said):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=said):
        read_table(tmp_path / "a.csv")


# --- rows ------------------------------------------------------------------------------------------------------------


def test_names_of_columns_words_numbers_and_paths_may_be_written_otherwise(table):
    header = "Fundus, OCTA,Subject ,EYE,region,Split,octa_mm,octa_unmoved"
    path = table('photos/a.png,b.png,Ann,od,Disc,Test,"4,5",b.png', "c.png,d.png,Bob,,,train,6,", header=header)
    path.write_text(path.read_text().replace("photos/", "photos\\"))
    found, folder = of_subject(path), path.parent
    unmoved = folder / "b.png"
    assert found["Ann"][1:] == ("OD", "disc", "test", folder / "photos/a.png", unmoved, 4.5, unmoved, "", "photos/a")
    assert found["Bob"][6:8] == (6.0, None)


def test_what_is_unknown_may_be_empty_or_without_column(table):
    assert read_pairs(table("a.png,b.png,Ann,,,"), "80/10/10")[0][1:4] == ("", "other", None)
    path = table("a.png,b.png,Ann", header="fundus,octa,subject")
    assert read_pairs(path, "1/0/0")[0][:4] == ("Ann", "", "other", "train")


def test_the_order_of_the_rows_does_not_matter_and_numbers_are_sorted_by_value(table):
    rows = [f"f{n}.png,o{n}.png,{subject},OD,disc,train" for n, subject in enumerate(("10", "b", "9", "a", "100"))]
    forward = read_pairs(table(*rows), "80/10/10")
    assert read_pairs(table(*reversed(rows)), "80/10/10") == forward
    assert [pair.subject for pair in forward] == ["9", "10", "100", "a", "b"]


MISTAKES = [
    ("missing.png,b.png,A,,,", "row 3: fundus missing.png: no such file"),
    ("c.png,,A,,,", "row 3: has no octa"),
    ("c.png,d.png,,,,", "row 3: has no subject"),
    ("c.png,d.png,A,left,,", "row 3: eye left: must be OD, OS or empty"),
    ("c.png,d.png,A,,,,six", "row 3: octa_mm six: is not a number"),
    ("c.png,d.png,A,,,,6000", "row 3: octa_mm 6000: must be from 1 to 20 mm"),
    ("c.png,d.png,A,,,,,missing.png", "row 3: octa_unmoved missing.png: no such file"),
    ("c.png,d.png,A,,,,,,1.23E+15", "row 3: original_digest 1.23E+15: must be 16 hexadecimal digits"),
    ("a.png,d.png,A,,,train", "row 3: its fundus is that of row 2; remove one, or crop"),
    ("c.png,d.png,Ann,,,test", "row 3: subject Ann is in two splits, train and test"),
    ("c.png,d.png,Ann,,,", "row 3: subject Ann is in two splits, train and none"),
]


@pytest.mark.parametrize(("row", "message"), MISTAKES)
def test_a_mistake_is_named_with_its_row(table, row, message):
    header = f"{HEADER},octa_mm,octa_unmoved,original_digest"
    with pytest.raises(PairTableError, match=re.escape(message)):
        read_pairs(table("a.png,b.png,Ann,,,train", row, header=header), "80/10/10")


def test_mistakes_of_all_rows_are_collected_and_counted_in_one_line(table):
    rows = "missing.png,b.png,Ann,left,,", "", "c.png,d.png,Bob,,,train", "f.png,g.png,Bob,,,test"
    with pytest.raises(PairTableError) as caught:
        read_pairs(table(*rows), "80/10/10")
    assert [re.search(r"row (\d)", mistake)[1] for mistake in caught.value.mistakes] == ["2", "2", "5"]
    assert str(caught.value) == caught.value.mistakes[0] + (
        " (and 2 more; `python dataset_load_mod.py check` lists them)"
    )


def test_a_missing_column_or_a_table_without_rows_is_named(table):
    for column in NEEDED:
        path = table("a.png,b.png,Ann", header="fundus,octa,subject".replace(column, "x"))
        with pytest.raises(PairTableError, match=f"has no column {column}"):
            read_pairs(path, "80/10/10")
    with pytest.raises(PairTableError, match="has no row below the header"):
        read_pairs(table(), "80/10/10")


def test_a_photograph_may_have_several_octa_but_not_the_other_way_round(table):
    path = table("a.png,b.png,Ann", "a.png,c.png,Ann", header="fundus,octa,subject")
    assert [pair.name for pair in read_pairs(path, "1/0/0", unique="octa")] == ["b", "c"]
    path = table("a.png,o.png,A", "b.png,o.png,B", header="fundus,octa,subject")
    with pytest.raises(PairTableError, match=r"remove one$"):
        read_pairs(path, "1/0/0", unique="octa")


# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "counts"), [(50, [40, 5, 5]), (3, [1, 1, 1])])
def test_subjects_are_divided_by_the_shares_at_least_one_to_each(number, counts):
    splits = shared_out({f"subject {number}" for number in range(number)}, "80/10/10")
    assert [list(splits.values()).count(split) for split in ("train", "validation", "test")] == counts


def test_too_few_subjects_are_refused(table):
    with pytest.raises(PairTableError, match="1 are too few to divide 80/10/10"):
        read_pairs(table("a.png,b.png,Ann", header="fundus,octa,subject"), "80/10/10")


@pytest.mark.parametrize("text", ["", "80/20", "a/b/c", "0/1/1", "-1/1/1", "80/10/1.5"])
def test_shares_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_shares(text)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["x/disc/1.png", "x/macula/1.png"], ["disc/1", "macula/1"]),
        (["x/1.png", "x/1.tif"], ["1.png", "1.tif"]),
        (["x/a.png", "x/a.tif", "x/a.png.png"], ["a.png", "a.tif", "a.png.png"]),
    ],
)
def test_names_are_paths_below_the_common_folder_with_suffix_where_they_would_clash(files, names):
    assert names_of([Path(file) for file in files]) == names


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ([r"C:\photos\a.png", r"C:\scans\a.png"], [r"photos\a.png", r"scans\a.png"]),
        ([r"C:\photos\a.png", r"D:\photos\a.png"], [r"C\photos\a.png", r"D\photos\a.png"]),
        ([r"C:\a.png", r"\\server\share\a.png"], [r"C\a.png", r"server\share\a.png"]),
    ],
)
def test_files_on_several_drives_of_windows_have_a_common_root(files, names):
    assert below_common(list(map(PureWindowsPath, files))) == list(map(PureWindowsPath, names))
