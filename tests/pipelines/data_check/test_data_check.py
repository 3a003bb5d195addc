"""`galleria data check` finds what was wrong with files that a shop has, and nothing where nothing is."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from galleria.catalog.items import upserts
from galleria.cli import main
from tests.catalog.tables import HASH, create_table

Check = Callable[..., tuple[int, dict[str, Any]]]
HEADER = "id,product_id,image,text,category,split"


def photograph(seed: int, size: int = 200) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def save(path: Path, image: Image.Image, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def shop(folder: Path, products: int = 12) -> list[str]:
    """Write pictures of products, two each; return the lines of a table of them."""
    lines = []
    for product in range(products):
        split = ("train", "train", "validation", "test")[product % 4]
        for view in range(2):
            name = f"{product}-{view}"
            save(folder / f"{name}.png", photograph(100 * product + view))
            lines.append(f"{name},{product},{name}.png,thing {product},things > {'ab'[product % 2]},{split}")
    return lines


def write(folder: Path, lines: list[str]) -> str:
    (folder / "shop.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    return str(folder / "shop.csv")


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    """Runs the command on a path; returns its exit code and what it printed."""

    def call(path: str, *options: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["data", "check", path, "--json", *options])
        return int(end.value.code or 0), json.loads(capsys.readouterr().out)

    return call


def found(report: dict[str, Any], severity: str | None = None) -> dict[str, dict[str, Any]]:
    return {part["kind"]: part for part in report["findings"] if severity in (None, part["severity"])}


def test_good_data_has_no_findings(check: Check, tmp_path: Path) -> None:
    code, report = check(write(tmp_path, shop(tmp_path)))

    assert code == 0 and report["usable"] and report["findings"] == []
    assert (report["rows"], report["products"], report["classes"]) == (24, 12, {"category": 2})
    assert report["splits"] == {"train": 12, "validation": 6, "test": 6}
    assert report["columns"]["text"] == "text"


def test_faults_are_counted_and_named(check: Check, tmp_path: Path) -> None:
    lines = shop(tmp_path)
    shutil.copy(tmp_path / "0-0.png", tmp_path / "copy.png")  # of a product of train, in test
    smaller = photograph(100).resize((90, 90))
    save(tmp_path / "similar.jpg", smaller, quality=80)  # of product 1 of train
    save(tmp_path / "tiny.png", photograph(5000, 20))
    save(tmp_path / "blank.png", Image.new("RGB", (200, 200), "white"))
    fine = Image.new("RGB", (2000, 2000), "white")
    fine.paste("black", (990, 990, 993, 1010))
    save(tmp_path / "fine.png", fine)
    (tmp_path / "cut.png").write_bytes((tmp_path / "3-0.png").read_bytes()[:300])
    lines += [
        "copy,20,copy.png,thing,things > a,test",
        "similar,21,similar.jpg,thing,things > b,test",
        "tiny,22,tiny.png,,,train",
        "blank,23,blank.png,thing,things > a,train",
        "fine,27,fine.png,thing,things > a,train",
        "cut,24,cut.png,thing,things > a,train",
        "lost,25,lost.png,thing,things > a,train",
        "0-0,26,2-0.png,thing,things > a,validation",
        "5-9,5,5-1.png,thing,things > b,train",
        "five,cells,only.png,x,things > a",
    ]

    code, report = check(write(tmp_path, lines))

    kinds = found(report)
    assert code == 0 and found(report, "error") == {}
    assert kinds["broken_picture"]["count"] == 2
    assert {name for [name] in kinds["broken_picture"]["examples"]} == {"cut", "lost"}
    assert kinds["tiny_picture"]["examples"] == [["tiny"]]
    assert kinds["blank_picture"]["examples"] == [["blank"]]
    assert kinds["missing_text"]["examples"] == kinds["missing_category"]["examples"] == [["tiny"]]
    assert kinds["repeated_id"]["examples"] == [["0-0"]]
    assert kinds["rejected_row"]["count"] == 1
    assert sorted(map(sorted, kinds["same_picture_over_splits"]["examples"])) == [["0-0", "copy"]]
    assert sorted(map(sorted, kinds["similar_picture_over_splits"]["examples"])) == [["1-0", "similar"]]
    assert ["5-1", "5-9"] in map(sorted, kinds["same_picture"]["examples"])
    assert all(finding["fix"] and finding["message"] for finding in report["findings"])


def test_product_over_splits_is_found(check: Check, tmp_path: Path) -> None:
    lines = [line.replace(",train", ",test") if line.startswith("0-1") else line for line in shop(tmp_path)]

    assert found(check(write(tmp_path, lines))[1])["product_over_splits"]["examples"] == [["0-0", "0-1"]]


def test_same_picture_with_other_labels_is_found(check: Check, tmp_path: Path) -> None:
    lines = shop(tmp_path)
    shutil.copy(tmp_path / "0-0.png", tmp_path / "0-2.png")

    report = check(write(tmp_path, [*lines, "0-2,0,0-2.png,thing,things > b,train"]))[1]

    assert sorted(found(report)["same_picture_with_other_labels"]["examples"][0]) == ["0-0", "0-2"]


@pytest.mark.parametrize("column", ["picture", "foto"])
def test_unread_columns_are_named(check: Check, tmp_path: Path, column: str) -> None:
    path = tmp_path / "shop.csv"
    lines = shop(tmp_path)
    path.write_text(f"{HEADER.replace('image', column)},colour\n" + "".join(f"{line},red\n" for line in lines))

    report = check(str(path), "--column", f"image={column}")[1]

    assert report["columns"]["image"] == column
    assert report["unread"] == ["colour"]
    assert "'colour'" in found(report, "info")["unread_column"]["message"]


@pytest.mark.parametrize(
    ("family", "change", "kind"),
    [
        ("text_guided", lambda line: line.replace(",validation", ",train"), "no_validation_rows"),
        ("text_guided", lambda line: line.replace(",train", ",test"), "no_train_rows"),
        ("text_guided", lambda line: line.replace(".png", ".gone"), "broken_picture"),
    ],
)
def test_exit_code_is_1_where_training_fails(
    check: Check, tmp_path: Path, family: str, change: Callable[[str], str], kind: str
) -> None:
    code, report = check(write(tmp_path, [change(line) for line in shop(tmp_path)]), "--family", family)

    assert code == 1 and not report["usable"]
    assert kind in found(report, "error")


def test_one_class_is_an_error(check: Check, tmp_path: Path) -> None:
    for seed, split in enumerate(3 * ("train", "validation", "test")):
        save(tmp_path / split / "calm" / f"{seed}.png", photograph(seed))

    code, report = check(str(tmp_path), "--family", "aesthetic_emotion", "--label", "emotion")

    assert code == 1 and "one_emotion" in found(report, "error")


def test_unbalanced_classes_are_found(check: Check, tmp_path: Path) -> None:
    lines = shop(tmp_path)
    many = [f"more{index},m{index},0-0.png,thing,things > a,train" for index in range(700)]
    rare = "rare,rare,1-1.png,thing,things > rare,train"

    message = found(check(write(tmp_path, [*lines, *many, rare]))[1])["unbalanced_category"]["message"]

    assert message == "'things / a' has 706 rows of the split 'train', 'things / rare' 1"


def test_likely_wrong_labels_are_found(check: Check, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    centres = np.eye(3)
    names = [f"{cluster}-{index}" for cluster in range(3) for index in range(20)]
    vectors = centres[[int(name[0]) for name in names]] + 0.05 * generator.standard_normal((60, 3))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    labels = {name: "xyz"[int(name[0])] for name in names} | {"0-3": "y", "2-7": "x"}
    items = [{"id": name, "category": ["things", labels[name]]} for name in names]
    table = create_table(tmp_path / "table.lance", upserts(items, vectors, HASH))

    report = check(write(tmp_path, shop(tmp_path)), "--table", table.path)[1]

    finding = found(report)["likely_wrong_category"]
    assert sorted(finding["examples"]) == [["0-3"], ["2-7"]]


def test_page_shows_pictures_of_examples(check: Check, tmp_path: Path) -> None:
    lines = shop(tmp_path)
    shutil.copy(tmp_path / "0-0.png", tmp_path / "copy.png")
    path = write(tmp_path, [*lines, "<b>copy</b>,20,copy.png,thing,things > a,test"])

    check(path, "--html", str(tmp_path / "check.html"))

    page = (tmp_path / "check.html").read_text()
    assert "&lt;b&gt;copy&lt;/b&gt;" in page and "<b>copy</b>" not in page
    assert page.count("data:image/jpeg;base64,") >= 2
    assert "with the same file (1): scores on them are too good" in page


def test_preview_shows_rows_as_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, shop(tmp_path))

    with pytest.raises(SystemExit) as end:
        main(["data", "preview", path, "--rows", "5", "--html", str(tmp_path / "preview.html")])

    page = (tmp_path / "preview.html").read_text()
    assert end.value.code in (0, None)
    assert page.count("<figure>") == page.count("data:image/jpeg;base64,") == 5
    assert "things / a" in page and "2-1" not in page
    assert "5 rows are shown in" in capsys.readouterr().out


def test_boxes_of_one_picture_are_not_duplicates(check: Check, tmp_path: Path) -> None:
    save(tmp_path / "pictures" / "a.png", photograph(1, 300))
    boxes = [[0, 0, 100, 100], [150, 150, 100, 100], [0, 150, 120, 120], [0, 0, 100, 100]]
    annotations = [{"id": n, "image_id": 1, "category_id": 1, "bbox": box} for n, box in enumerate(boxes)]
    shop = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "pan"}]}
    (tmp_path / "shop.json").write_text(json.dumps({**shop, "annotations": annotations}))
    options = ("--family", "category_tree", "--images", str(tmp_path / "pictures"))

    cut = found(check(str(tmp_path / "shop.json"), *options)[1])
    whole = found(check(str(tmp_path / "shop.json"), *options, "--whole")[1])

    assert max(len(group) for part in cut.values() if "same" in part["kind"] for group in part["examples"]) == 2
    assert max(len(group) for part in whole.values() if "same" in part["kind"] for group in part["examples"]) == 4


def test_pictures_in_parquet_are_read(check: Check, tmp_path: Path) -> None:
    contents = []
    for number in range(8):
        content = io.BytesIO()
        photograph(number).save(content, "PNG")
        contents.append(content.getvalue())
    columns = {"id": [*map(str, range(8))], "product_id": [str(number // 2) for number in range(8)], "image": contents}
    splits = ["train"] * 4 + ["validation"] * 2 + ["test"] * 2
    pq.write_table(pa.table({**columns, "split": splits}), tmp_path / "shop.parquet")

    code, report = check(str(tmp_path / "shop.parquet"))

    assert (code, report["rows"], report["products"]) == (0, 8, 4)
