"""Text tables: every cell is the text that is in the file, and a record that does not parse is named by its line."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow.fs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galleria.errors import ConfigurationError, DataError, SchemaError
from galleria.pipelines.readers.delimited import open_delimited
from galleria.pipelines.readers.encodings import CHUNK_BYTES
from galleria.pipelines.readers.options import ReadOptions
from galleria.pipelines.rejects import Reject
from tests.pipelines.readers.files import read, rows_of

SHOP = {"image": "photo", "product_id": "sku"}


def cells(path: Path, **options: str) -> tuple[list[list[str | None]], list[Reject]]:
    """All cells of a table, its header first, and what was reported."""
    rejects: list[Reject] = []
    files = pyarrow.fs.LocalFileSystem()
    table = open_delimited(files, str(path), path.suffix, ReadOptions(**options), rejects.append)
    tables = list(table.read(range(len(table.header)), ()))
    rows = [list(row) for part in tables for row in zip(*(column.to_pylist() for column in part.columns), strict=True)]
    return [list(table.header), *rows], rejects


def test_ids_keep_their_text(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text('id,sku,photo,title\n001,00042,a.jpg,1e5\n01,"42",b.jpg,NaN\n1.0,4.20,c.jpg,2020-01-02\n')

    rows = rows_of(path, "text_guided", columns=SHOP)

    assert [row["id"] for row in rows] == ["001", "01", "1.0"]
    assert [row["product_id"] for row in rows] == ["00042", "42", "4.20"]
    assert [row["title"] for row in rows] == ["1e5", "NaN", "2020-01-02"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_delimiter_is_recognised(tmp_path: Path, delimiter: str, ending: str) -> None:
    lines = (("id", "sku", "photo", "title"), ("1", "p", "a.jpg", "5,90 EUR; new"), ("2", "q", "b.jpg", "a | b"))
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=ending).writerows(lines)
    (tmp_path / "shop.csv").write_bytes(text.getvalue().encode())

    assert cells(tmp_path / "shop.csv") == ([list(line) for line in lines], [])


def test_delimiter_can_be_set(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("id^sku,x\n1^2,3\n")

    assert cells(tmp_path / "shop.csv", delimiter="^") == ([["id", "sku,x"], ["1", "2,3"]], [])
    with pytest.raises(ConfigurationError, match=r"--delimiter '::' is not a single ASCII character"):
        cells(tmp_path / "shop.csv", delimiter="::")


def test_line_of_excel_names_the_delimiter(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_bytes(b"\xef\xbb\xbfsep=;\r\nid;a,b,c\r\n1;x\r\n2;y;z\r\n")

    rows, [reject] = cells(tmp_path / "shop.csv")

    assert rows == [["id", "a,b,c"], ["1", "x"]]
    assert reject.line == 4


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_encoding_is_recognised(tmp_path: Path, encoding: str) -> None:
    lines = [["id", "título", "größe"], ["1", "Schürze", "5 €"]]
    (tmp_path / "shop.csv").write_text(
        "".join(",".join(line) + "\r\n" for line in lines), encoding=encoding, newline=""
    )

    rows, notices = cells(tmp_path / "shop.csv")

    assert rows == lines
    assert [notice.kept for notice in notices] == ([True] if encoding == "cp1252" else [])


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1251", "Красное платье из хлопка с длинными рукавами и карманами"),
        ("cp932", "赤いコットンのワンピース、長袖、ポケット付き"),
        ("gb18030", "红色棉质连衣裙，长袖，带口袋，适合春秋季节穿着"),
    ],
)
def test_other_encodings_are_recognised(tmp_path: Path, encoding: str, text: str) -> None:
    (tmp_path / "shop.csv").write_text(f"id,title\n1,{text}\n", encoding=encoding)

    assert cells(tmp_path / "shop.csv")[0] == [["id", "title"], ["1", text]]


def test_one_umlaut_far_below_is_read(tmp_path: Path) -> None:
    lines = "".join(f"{number},apron\n" for number in range(20_000))
    (tmp_path / "shop.csv").write_text(f"id,title\n{lines}last,Schürze\n", encoding="cp1252")

    rows, [notice] = cells(tmp_path / "shop.csv")

    assert rows[-1] == ["last", "Schürze"]
    assert "is not UTF-8: it was read as cp1252; if texts are wrong, give its --encoding" in notice.reason


def test_encoding_can_be_set(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("id,title\n1,Žluťoučký\n", encoding="cp1250")

    assert cells(tmp_path / "shop.csv", encoding="cp1250") == ([["id", "title"], ["1", "Žluťoučký"]], [])
    with pytest.raises(ConfigurationError, match="'cp9999' is not a known encoding"):
        cells(tmp_path / "shop.csv", encoding="cp9999")


def test_damaged_line_of_utf8_is_rejected(tmp_path: Path) -> None:
    good = "".join(f"{number},Schürze\n" for number in range(3)).encode()
    (tmp_path / "shop.csv").write_bytes(b"id,title\n" + good + b"3,Sch\xfcrze\n" + good)

    rows, [reject] = cells(tmp_path / "shop.csv")

    assert len(rows) == 7
    assert (reject.line, reject.kept) == (5, False)
    assert "line 5 holds bytes that are not text in the file's encoding" in reject.reason


def test_ragged_rows_are_rejected_by_line(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text('id,sku,photo,title\n1,p,a.jpg,"two\nlines"\n2,p,b.jpg\n\n3,q,c.jpg,x,y\n4,q,d.jpg,ok\n')

    rows, rejects = read(path, "text_guided", columns=SHOP)

    assert [row["title"] for row in rows] == ["two\nlines", "ok"]
    assert [(reject.line, reject.reason) for reject in rejects] == [
        (4, "line 4 has 3 cells, the header 4: quote cells that hold ','"),
        (6, "line 6 has 5 cells, the header 4: quote cells that hold ','"),
    ]


@pytest.mark.parametrize(
    "line",
    ['3,"Broken,c.jpg', '3,"Broken" one,c.jpg', '3,x,"c.jpg', '"3,x,c.jpg', '3,"a "quote",c.jpg', '"'],
)
def test_broken_quote_costs_its_line_alone(tmp_path: Path, line: str) -> None:
    good = [["1", 'a, "b"\nc', "a.jpg"], ["2", 'plain 5" x 7"', "b.jpg"]]
    more = [[f"{number}", "x, y" if number % 2 else "x", "d.jpg"] for number in range(10, 40)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "title", "photo"])
    writer.writerow(good[0])
    text.write(",".join(good[1]) + f"\n{line}\n")
    writer.writerows(more)
    (tmp_path / "shop.csv").write_text(text.getvalue())

    rows, rejects = cells(tmp_path / "shop.csv")

    assert rows[1:] == good + more
    assert [reject.line for reject in rejects] == [5]
    assert "line 5 has" in rejects[0].reason


def test_table_without_quotes_keeps_them(tmp_path: Path) -> None:
    lines = ["id\ttitle", '1\t"Best" shirt', '2\t"Red', '3\t5" pipe', '4\t"a" and "b"']
    (tmp_path / "feed.tsv").write_text("\n".join(lines))

    assert cells(tmp_path / "feed.tsv") == ([line.split("\t") for line in lines], [])
    assert cells(tmp_path / "feed.tsv", quote="")[1] == []
    assert len(cells(tmp_path / "feed.tsv", quote='"')[1]) == 3


def test_empty_cells_are_null(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text('id,a,b\n1,,""\n2, ,NULL\n')

    assert cells(tmp_path / "shop.csv") == ([["id", "a", "b"], ["1", None, None], ["2", " ", "NULL"]], [])


def test_nul_and_stray_line_ends_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_bytes(b"id,a,b\n1,x\0y,z\n2,x\ry,z\n3,x,y\n")

    rows, rejects = cells(tmp_path / "shop.csv")

    assert rows[1:] == [["3", "x", "y"]]
    assert [reject.line for reject in rejects] == [2, 3]
    assert "NUL" in rejects[0].reason


def test_long_cells_are_read(tmp_path: Path) -> None:
    lengths = [10, 3_000_000, 10_000_000]
    lines = "".join(f'{n},"{"ab, " * (n // 4)}\n",z\n' for n in lengths)
    (tmp_path / "shop.csv").write_text(f"id,a,b\n{lines}4,x,y\n")

    rows, rejects = cells(tmp_path / "shop.csv")

    assert [len(str(row[1])) for row in rows[1:]] == [n // 4 * 4 + 1 for n in lengths] + [1]
    assert rejects == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: its first line must name the columns"),
        (b"\n\n", "is empty: its first line must name the columns"),
        (b"\xef\xbb\xbf", "is empty: its first line must name the columns"),
        (b'id,"title\n1,x\n', "the header has a broken quote"),
        (b"id,sku,photo,photo\n1,p,a.jpg,b.jpg\n", "has 2 columns 'photo': rename all but one"),
        (b"id,sku,photo\n", "holds nothing to read for text_guided"),
        (b"a,b\n1,2\n", r"has no column 'photo'.*--delimiter \(its columns: a, b\)"),
        (b"\xff\xfe\x00\xd8\x00\xd8", "is not utf-16 text"),
    ],
)
def test_unusable_table_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "shop.csv").write_bytes(content)

    with pytest.raises((DataError, SchemaError), match=message):
        read(tmp_path / "shop.csv", "text_guided", columns=SHOP)


def test_other_columns_may_share_a_name(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text(" id ,,photo,sku,x,x\n1,0,a.jpg,p,,\n")

    [row] = rows_of(tmp_path / "shop.csv", "text_guided", columns=SHOP)

    assert (row["id"], row["image"]) == ("1", str(tmp_path / "a.jpg"))


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(TEXT | st.sampled_from(['"', '""', "\n", 'a"', '5"', ",", ";"]), min_size=3, max_size=3)),
    delimiter=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    all_quoted=st.booleans(),
)
def test_cells_are_those_of_csv_writer(
    tmp_path_factory: pytest.TempPathFactory,
    rows: Sequence[list[str]],
    delimiter: str,
    encoding: str,
    all_quoted: bool,
) -> None:
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
    csv.writer(text, delimiter=delimiter, quoting=quoting).writerows([["a", "b", "c"], *rows])
    path = tmp_path_factory.getbasetemp() / "generated.csv"
    path.write_text(text.getvalue(), encoding=encoding, newline="")

    result, rejects = cells(path, delimiter=delimiter, encoding=encoding, quote='"')

    assert result[1:] == [[cell or None for cell in row] for row in rows]
    assert rejects == []


def test_parts_are_no_larger_than_a_chunk(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text("id,title\n" + f'1,"{"some words, " * 20}"\n' * 120_000)
    files, reports = pyarrow.fs.LocalFileSystem(), []

    parts = open_delimited(files, str(path), ".csv", ReadOptions(), reports.append).read([0, 1], ())

    sizes = [(len(part), part.nbytes) for part in parts]
    assert sum(rows for rows, _ in sizes) == 120_000
    assert max(size for _, size in sizes) < 1.2 * CHUNK_BYTES


def test_many_broken_quotes_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text('id,a\n1,"x\n2,y\n3,"z" z\n4,"w\n')

    rows, rejects = cells(tmp_path / "shop.csv")

    assert rows[1:] == [["2", "y"]]
    assert [reject.line for reject in rejects] == [2, 4, 5]
