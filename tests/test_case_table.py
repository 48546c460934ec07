"""The table of cases and lists of cases: what spreadsheets write is read, and nothing in it is passed over."""

import logging

import pytest
from making import TARGET, fails

from nnunetv2_xssr.commands import select
from nnunetv2_xssr.errors import UserError
from nnunetv2_xssr.images.case_table import read_names, with_case_table
from nnunetv2_xssr.images.pools import open_pool

SELECT = ["-d", "2", "-s", "1", "-b", "3", "-device", "cpu"]
CASES = [f"t_{i:02d}" for i in range(10)]


@pytest.fixture
def table(workspace):
    """A function from text or bytes to the target's cases as the table describes them."""
    file = workspace.root / "cases.csv"

    def read(content):
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return {case.identifier: case for case in with_case_table(open_pool("2"), file).cases}

    read.file = file
    return read


def test_domain_and_group(table):
    cases = table("\ufeffcase,domain,patient,age\nt_00,C,p1,40\nt_01,,p1,41\nt_02,D,,\n")
    assert [cases[c].domain for c in CASES[:4]] == ["C", "B", "D", "B"]
    assert [cases[c].group for c in CASES[:4]] == ["p1", "p1", None, None]
    assert table("case,group,patient\nt_00,g,p\n")["t_00"].group == "g"


SPREADSHEET = [["case", "patient", "cost"], *([case, "Müller", f"{i + 1},5"] for i, case in enumerate(CASES))]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_spreadsheets_write(table, encoding, delimiter, end):
    cases = table(end.join(delimiter.join(row) for row in [*SPREADSHEET, []]).encode(encoding))
    assert [cases[c].cost for c in CASES] == [i + 1.5 for i in range(10)]
    assert {cases[c].group for c in CASES} == {"Müller"}


@pytest.mark.parametrize(
    "text",
    [
        "Case, Domain ,PATIENT\n t_00 , C ,p1\n",  # other letters, spaces around
        "case,domain,patient,,\nt_00,C,p1,,\n,,,,\n\n",  # empty columns and lines at the end
        "\n;;\ncase;domain;patient\n\nt_00;C;p1\n;;\n",  # and elsewhere
        'case,notes,domain,patient\nt_00,"a, b; c\td",C,p1\n',  # delimiters in a cell
        'domain;patient;case\nC;"p1";t_00\n',
    ],
)
def test_spaces_letters_and_emptiness_do_not_matter(table, text):
    case = table(text)["t_00"]
    assert (case.domain, case.group) == ("C", "p1")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            "case,patient\n" + "".join(f"{case},p\n" for case in CASES[:4]),
            "cases.csv: 4 of 10 cases have a group, 10 a domain, none a cost",
        ),
        (
            "case,cost\n" + "".join(f"{case},2\n" for case in CASES),
            "cases.csv: none of 10 cases have a group, 10 a domain, 10 a cost",
        ),
    ],
)
def test_counts_are_told(table, caplog, content, sentence):
    with caplog.at_level(logging.INFO, "nnunetv2_xssr"):
        table(content)
    assert caplog.messages == [sentence]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("name,domain\nt_00,A\n", ["column 'case'", "name"]),
        ("", ["column 'case'"]),
        ("case,Case\nt_00,t_01\n", ["no column twice", "case, case"]),
        ("case,domain\nt_00,A\nt_01,B\nt_00,B\n", ["t_00", "twice"]),
        ("case,domain\nx_00,A\n", [f"names 1 case that {TARGET} does not have (x_00)", "look like t_00"]),
        (
            "case,domain\nt_00,A\n" + "".join(f"x_0{i},A\n" for i in range(5)),
            [f"names 5 cases that {TARGET} does not have (x_00, x_01, x_02, ...)"],
        ),
        ("case,patient\nt_00,p\nt_01.png,p\n", ["names 1 case", "t_01.png looks like t_01: drop the ending"]),
        ("case,patient\nx,p\nt_01_0000,p\n", ["names 2 cases", "t_01_0000 looks like t_01: drop the ending"]),
        ("case,patient\nt_01_0000.PNG,p\n", ["t_01_0000.PNG looks like t_01: drop the ending"]),
        ("case,patient\nt_00,p\n,p\n", ["line 3", "has no case"]),
        ("case,patient\nt_00,Smith, John\n", ["line 2", "has 3 cells for 2 columns"]),
        ('case,patient\nt_00,"Smith\nt_01,p\n', ["cannot be read"]),
        (b"PK\x03\x04\x00\x00", ["cannot be read", "no text", "save it as CSV"]),
        ("case,cost\nt_00,2\n", ["every case a cost above 0", "got 'none' for case t_01"]),
        ('case,cost\nt_00,"1,234"\n', ["every case a cost above 0", "got '1,234' for case t_00"]),
        ("case;cost\nt_00;1.234\nt_01;0,5\n", ["every case a cost above 0", "got '1.234' for case t_00"]),
    ],
)
def test_table_that_does_not_fit(table, content, parts):
    with pytest.raises(UserError) as caught:
        table(content)
    assert all(part in str(caught.value) for part in [str(table.file), *parts]), str(caught.value)


def test_table_that_does_not_fit_ends_select(either, capsys):
    file = either.root / "cases.csv"
    file.write_text("case,patient\nt_00,p\nt_01.png,p\n")
    fails(capsys, select.main, [*SELECT, "--cases", file], file, "t_01.png looks like t_01")
    fails(capsys, select.main, [*SELECT, "--cases", either.root / "none.csv"], "none.csv", "cannot be read")


@pytest.mark.parametrize("option", ["--labelled", "--exclude"])
def test_list_that_cannot_be_read(either, capsys, option):
    missing = either.root / "none.txt"
    fails(capsys, select.main, [*SELECT, option, missing], missing, "cannot be read", "one case per line")
    path = either.root / "binary.txt"
    path.write_bytes(b"\x00\x81")
    fails(capsys, select.main, [*SELECT, option, path], "binary.txt", "cannot be read")
    path.write_text("t_00\nt_01.png\n")
    fails(capsys, select.main, [*SELECT, option, path], option, "t_01.png looks like t_01: drop the ending")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_list_in_other_encodings(tmp_path, encoding):
    path = tmp_path / "list.txt"
    path.write_bytes("Müller_2\r\n\r\n Müller_1 \r\n".encode(encoding))
    assert read_names(path) == ["Müller_1", "Müller_2"]
