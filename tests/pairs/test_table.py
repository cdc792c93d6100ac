"""A table of pairs: its columns, names, subjects and splits, and each mistake by its row."""

import re
from pathlib import Path, PureWindowsPath

import pytest

import pairs.table as pair_table
from pairs.table import PairTableError, below_common, names_of, read_pairs, shared_out
from retina.ut_fsocta import parse_shares


@pytest.fixture
def table(tmp_path):
    """Writes a table of some rows, with the files that they name; returns its path."""

    def write(*rows: str, header: str = "fundus,octa,subject,eye,region,split", encoding: str = "utf-8"):
        for row in rows:
            for cell in re.split("[,;]", row)[:2]:
                if cell and "missing" not in cell:
                    (tmp_path / cell).parent.mkdir(parents=True, exist_ok=True)
                    (tmp_path / cell).touch()
        path = tmp_path / "pairs.csv"
        path.write_bytes("\n".join([header, *rows, ""]).encode(encoding))
        return path

    return write


def test_a_row_becomes_a_case_with_its_paths_from_the_table_on(table):
    path = table("photos/a.tif,scans/b.jpg,Ann,od,Disc,Train")
    files = path.parent / "photos/a.tif", path.parent / "scans/b.jpg"
    assert read_pairs(path, "80/10/10") == [("Ann", "OD", "disc", "train", *files, None, None, "", "a")]


@pytest.mark.parametrize(("cell", "width"), [("4.5", 4.5), ('"4,5"', 4.5), ("6", 6.0), ("", None)])
def test_width_of_an_octa_is_read(table, cell, width):
    path = table(f"a.png,b.png,Ann,{cell}", header="fundus,octa,subject,octa_mm")
    assert read_pairs(path, "1/0/0")[0].octa_mm == width


@pytest.mark.parametrize("cell", ["six", "0.1", "6000", "nan"])
def test_wrong_width_is_named_with_its_row(table, cell):
    with pytest.raises(ValueError, match=f"row 2: octa_mm {cell}: "):
        read_pairs(table(f"a.png,b.png,Ann,{cell}", header="fundus,octa,subject,octa_mm"), "1/0/0")


@pytest.mark.parametrize("cell", ["1.23E+15", "0123", "photograph one"])
def test_original_digest_that_a_spreadsheet_has_changed_is_named_with_its_row(table, cell):
    with pytest.raises(ValueError, match=f"row 2: original_digest {re.escape(cell)}: must be 16 hexadecimal digits"):
        read_pairs(table(f"a.png,b.png,Ann,{cell}", header="fundus,octa,subject,original_digest"), "1/0/0")


def test_unmoved_octa_is_found_from_the_table_on(table):
    path = table("a.png,b.png,Ann,a.png", "c.png,d.png,Bob,", header="fundus,octa,subject,octa_unmoved")
    assert [pair.octa_unmoved for pair in read_pairs(path, "1/0/0")] == [path.parent / "a.png", None]


def test_missing_unmoved_octa_is_named_with_its_row(table):
    with pytest.raises(ValueError, match=r"row 2: octa_unmoved missing\.png: no such file"):
        read_pairs(table("a.png,b.png,Ann,missing.png", header="fundus,octa,subject,octa_unmoved"), "1/0/0")


def test_names_of_columns_may_be_written_otherwise(table):
    path = table("a.png,b.png,Ann,test", "c.png,d.png,Bob,train", header="Fundus, OCTA,Subject ,Split")
    assert {pair.subject: pair.split for pair in read_pairs(path, "80/10/10")} == {"Ann": "test", "Bob": "train"}


def test_eye_region_and_split_may_be_empty(table):
    pair = read_pairs(table("a.png,b.png,Ann,,,"), "80/10/10")[0]
    assert pair[1:4] == ("", "other", None)


def test_three_columns_are_enough(table):
    path = table("a.png,b.png,Ann", header="fundus,octa,subject")
    assert read_pairs(path, "1/0/0")[0][:4] == ("Ann", "", "other", "train")


def test_the_order_of_the_rows_does_not_matter(table):
    rows = [f"f{n}.png,o{n}.png,{subject},OD,disc,train" for n, subject in enumerate(("10", "b", "9", "a"))]
    forward = read_pairs(table(*rows), "80/10/10")
    assert read_pairs(table(*reversed(rows)), "80/10/10") == forward


def test_subjects_that_are_numbers_are_sorted_by_value(table):
    rows = [f"f{n}.png,o{n}.png,{n},OD,disc,train" for n in (10, 9, 100)]
    assert [pair[0] for pair in read_pairs(table(*rows), "80/10/10")] == ["9", "10", "100"]


def test_names_are_paths_below_the_common_folder(table):
    rows = ["x/disc/1.png,o1.png,A,,,train", "x/macula/1.png,o2.png,A,,,train"]
    assert [pair[-1] for pair in read_pairs(table(*rows), "80/10/10")] == ["disc/1", "macula/1"]


def test_names_keep_the_suffix_where_they_would_clash(table):
    rows = ["x/1.png,o1.png,A,,,train", "x/1.tif,o2.png,A,,,train"]
    assert [pair[-1] for pair in read_pairs(table(*rows), "80/10/10")] == ["1.png", "1.tif"]


def test_a_table_as_excel_saves_it_in_western_europe(table):
    path = table("Müller.png;b.png;Müller;OD;disc;train", header="fundus;octa;subject;eye;region;split")
    path.write_bytes(path.read_bytes().decode().encode("cp1252"))
    pair = read_pairs(path, "80/10/10")[0]
    assert (pair[0], pair[4].name) == ("Müller", "Müller.png")


def test_paths_with_backslashes(table):
    path = table("photos/a.png,b.png,A,,,")
    path.write_text(path.read_text().replace("photos/", "photos\\"))
    assert read_pairs(path, "80/10/10")[0][4].is_file()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("missing.png,b.png,A,,,", "row 3: fundus missing.png: no such file"),
        ("c.png,missing.png,A,,,", "row 3: octa missing.png: no such file"),
        ("c.png,,A,,,", "row 3: has no octa"),
        ("c.png,d.png,,,,", "row 3: has no subject"),
        ("c.png,d.png,A,left,,", "row 3: eye left: must be OD, OS or empty"),
        ("c.png,d.png,A,,fovea,", "row 3: region fovea: must be disc, macula or empty"),
        ("c.png,d.png,A,,,val", "row 3: split val: must be train, validation, test or empty"),
        ("a.png,d.png,A,,,train", "row 3: its fundus is that of row 2"),
        ("c.png,d.png,Ann,,,test", "row 3: subject Ann is in two splits, train and test"),
        ("c.png,d.png,Ann,,,", "row 3: subject Ann is in two splits, train and none"),
        ("c.png,d.png,A,,,,x", "row 3 has more cells"),
    ],
)
def test_a_mistake_is_named_with_its_row(table, row, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_pairs(table("a.png,b.png,Ann,,,train", row), "80/10/10")


MISTAKES = [
    "row 2: fundus missing.png: no such file",
    "row 2: eye left: must be",
    "row 4: its fundus is that of row 3",
    "row 5: subject Bob is in two splits",
]


@pytest.fixture
def refusal(table):
    """The error that a table with MISTAKES raises."""
    first = "missing.png,b.png,Ann,left,,train", "c.png,d.png,Bob,,,train"
    with pytest.raises(PairTableError) as caught:
        read_pairs(table(*first, "c.png,e.png,Bob,,,train", "f.png,g.png,Bob,,,test"), "80/10/10")
    return caught.value


def test_mistakes_of_all_rows_are_collected(refusal):
    assert [mistake for mistake in MISTAKES if mistake not in "\n".join(refusal.mistakes)] == []
    assert len(refusal.mistakes) == len(MISTAKES)


def test_one_line_names_the_first_mistake_and_how_many_more_there_are(refusal):
    assert str(refusal) == refusal.mistakes[0] + " (and 3 more; `python dataset_load_mod.py check` lists them)"


def test_missing_file_of_a_table_in_a_windows_code_page_is_printable(table):
    path = table("missing böhm.png,b.png,Ann", header="fundus,octa,subject", encoding="cp1252")
    with pytest.raises(PairTableError, match=r"fundus missing böhm\.png: no such file"):
        read_pairs(path, "1/0/0")


def test_photograph_of_two_rows_can_be_cropped_for_each(table):
    with pytest.raises(PairTableError, match=r"\(with dataset_load_mod\.py crop, then use its table\)$"):
        read_pairs(table("a.png,b.png,Ann,,,", "a.png,c.png,Ann,,,"), "80/10/10")


def test_rows_are_counted_as_programs_for_tables_do(table):
    with pytest.raises(PairTableError, match="row 4: has no octa"):
        read_pairs(table("a.png,b.png,Ann,,,train", "", "c.png,,A,,,"), "80/10/10")


@pytest.mark.parametrize("column", pair_table.NEEDED)
def test_a_missing_column_is_named(table, column):
    path = table("a.png,b.png,Ann", header="fundus,octa,subject".replace(column, "x"))
    with pytest.raises(PairTableError, match=f"has no column {column}"):
        read_pairs(path, "80/10/10")


def test_a_table_without_rows_is_refused(table):
    with pytest.raises(PairTableError, match="has no row below the header"):
        read_pairs(table(), "80/10/10")


def test_subjects_are_shared_out_by_the_shares():
    splits = shared_out({f"subject {number}" for number in range(50)}, "80/10/10")
    counts = [list(splits.values()).count(split) for split in ("train", "validation", "test")]
    assert counts == [40, 5, 5]


def test_each_share_has_a_subject_even_of_few():
    splits = shared_out({"a", "b", "c"}, "80/10/10")
    assert sorted(splits.values()) == ["test", "train", "validation"]


def test_too_few_subjects_are_refused(table):
    path = table("a.png,b.png,Ann", header="fundus,octa,subject")
    with pytest.raises(PairTableError, match="1 are too few to divide 80/10/10"):
        read_pairs(path, "80/10/10")


def test_all_pairs_of_a_subject_are_in_one_split(table):
    rows = [f"f{number}.png,o{number}.png,{number // 4}" for number in range(40)]
    pairs = read_pairs(table(*rows, header="fundus,octa,subject"), "60/20/20")
    assert len({(pair[0], pair[3]) for pair in pairs}) == 10


@pytest.mark.parametrize("text", ["", "80", "80/20", "80/10/10/0", "a/b/c", "0/1/1", "-1/1/1", "80/10/1.5"])
def test_shares_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_shares(text)


def test_a_folder_with_the_ending_of_a_table_is_no_table(tmp_path):
    (tmp_path / "data.csv").mkdir()
    assert not pair_table.is_table(tmp_path / "data.csv")


def test_names_are_unique_even_if_one_is_another_with_its_suffix():
    names = names_of([Path("x/a.png"), Path("x/a.tif"), Path("x/a.png.png")])
    assert names == ["a.png", "a.tif", "a.png.png"]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ([r"C:\photos\a.png", r"C:\scans\a.png"], [r"photos\a.png", r"scans\a.png"]),
        ([r"C:\photos\a.png", r"c:\Photos\b.png"], ["a.png", "b.png"]),  # Windows ignores case
        ([r"C:\photos\a.png", r"D:\photos\a.png"], [r"C\photos\a.png", r"D\photos\a.png"]),
        ([r"C:\a.png", r"\\server\share\a.png"], [r"C\a.png", r"server\share\a.png"]),
    ],
)
def test_files_on_several_drives_of_windows_have_a_common_root(files, names):
    assert below_common(list(map(PureWindowsPath, files))) == list(map(PureWindowsPath, names))


def test_program_that_crops_does_not_advise_to_crop(table):
    with pytest.raises(PairTableError, match=r"remove one$"):
        read_pairs(table("a.png,o.png,A", "b.png,o.png,B", header="fundus,octa,subject"), "1/0/0", unique="octa")
