"""The official layouts of known data sets are recognised, with their official splits."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
from PIL import Image

from galleria.errors import ConfigurationError, DataError
from galleria.media.images import decode_image
from galleria.pipelines.readers.crops import crop, cut
from galleria.pipelines.splits import split_of
from tests.drawings import drawing
from tests.pipelines.readers.files import read, rows_of, touch


def write(folder: Path, **texts: str) -> Path:
    """Text files by their names, with `__` for a slash; the suffix is .txt."""
    for name, text in texts.items():
        path = folder / (name.replace("__", "/") + ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def held_out(product: str) -> str:
    return "validation" if split_of(product) == "validation" else "train"


def test_stanford_online_products(tmp_path: Path) -> None:
    header = "image_id class_id super_class_id path\n"
    write(
        tmp_path / "Stanford_Online_Products",
        Ebay_train=header + "".join(f"{n} {n} 1 bicycle_final/{n}_0.JPG\n" for n in range(1, 30)),
        Ebay_test=header + "59552 11319 1 coffee_maker_final/a_0.JPG\n",
    )

    rows = rows_of(tmp_path, "text_guided")

    assert rows[-1] == {
        "id": "59552",
        "image": f"{tmp_path}/Stanford_Online_Products/coffee_maker_final/a_0.JPG",
        "product_id": "11319",
        "category": ["coffee_maker"],
        "split": "test",
    }
    assert [row["split"] for row in rows[:-1]] == [held_out(row["product_id"]) for row in rows[:-1]]
    assert {row["split"] for row in rows[:-1]} == {"train", "validation"}


def test_in_shop(tmp_path: Path) -> None:
    lines = "img/WOMEN/Dresses/id_1/01_front.jpg id_1 train\nimg/MEN/Tees/id_2/01.jpg id_2 query\n"
    lines += "img/MEN/Tees/id_2/02.jpg id_2 gallery\n"
    write(tmp_path, Eval__list_eval_partition=f"3\nimage_name item_id evaluation_status\n{lines}")
    touch(tmp_path, "Img/img/MEN/Tees/id_2/01.jpg")

    rows = rows_of(tmp_path, "text_guided")

    assert [(row["product_id"], row.get("role"), row["split"]) for row in rows] == [
        ("id_1", None, held_out("id_1")),
        ("id_2", "query", "test"),
        ("id_2", "gallery", "test"),
    ]
    assert rows[1]["image"] == f"{tmp_path}/Img/img/MEN/Tees/id_2/01.jpg"
    assert rows[1]["category"] == ["MEN", "Tees"]


def test_cub(tmp_path: Path) -> None:
    write(
        tmp_path / "CUB_200_2011",
        images="1 001.Black_footed_Albatross/a b.jpg\n2 002.Laysan/c.jpg\n",
        image_class_labels="1 1\n2 2\n",
        classes="1 001.Black_footed_Albatross\n2 002.Laysan\n",
        train_test_split="1 1\n2 0\n",
    )

    rows = rows_of(tmp_path, "category_tree")

    assert [(row["product_id"], row["category"], row["split"]) for row in rows] == [
        ("001.Black_footed_Albatross", ["Black footed Albatross"], held_out("1")),
        ("002.Laysan", ["Laysan"], "test"),
    ]
    assert rows[0]["image"].endswith("/CUB_200_2011/images/001.Black_footed_Albatross/a b.jpg")


def test_deepfashion2(tmp_path: Path) -> None:
    garment = {"category_name": "trousers", "style": 1, "bounding_box": [1, 2, 30, 40]}
    for split, source in (("train", "user"), ("validation", "shop")):
        (tmp_path / split / "annos").mkdir(parents=True)
        content = {"source": source, "pair_id": 7, "item1": garment, "item2": garment | {"style": 0}}
        (tmp_path / split / "annos" / "000001.json").write_text(json.dumps(content))
        touch(tmp_path, f"{split}/image/000001.jpg")

    rows = rows_of(tmp_path, "text_guided")

    assert [(row["id"], row["product_id"], row["role"], row["split"]) for row in rows] == [
        ("train/000001/item1", "7/1", "query", "train"),
        ("train/000001/item2", "7/0/train/000001/item2", "query", "train"),
        ("validation/000001/item1", "7/1", "gallery", "validation"),
        ("validation/000001/item2", "7/0/validation/000001/item2", "gallery", "validation"),
    ]
    assert rows[0]["image"] == f"{tmp_path}/train/image/000001.jpg"
    assert "crop" not in rows_of(tmp_path, "text_guided", whole=True)[0]


def test_cifar100(tmp_path: Path) -> None:
    root = write(tmp_path / "cifar-100-binary", fine_label_names="apple\nbee\n", coarse_label_names="fruit\ninsects\n")
    planes = np.zeros((3, 32, 32), np.uint8)
    planes[0] = 255
    (root / "train.bin").write_bytes(bytes([1, 1]) + planes.tobytes())
    (root / "test.bin").write_bytes(bytes([0, 0]) + planes.tobytes())

    rows = rows_of(tmp_path, "category_tree")

    assert [(row["category"], row["split"]) for row in rows] == [
        (["insects", "bee"], held_out("train/00000")),
        (["fruit", "apple"], "test"),
    ]
    assert decode_image(rows[0]["image"]).getpixel((3, 4)) == (255, 0, 0)
    (root / "test.bin").write_bytes(b"short")
    with pytest.raises(DataError, match=r"test\.bin is cut short"):
        rows_of(tmp_path, "category_tree")


def test_ava(tmp_path: Path) -> None:
    write(tmp_path, AVA="1 953619 0 0 0 0 0 0 0 0 0 9 1 22 1396\n2 953958 9 0 0 0 0 0 0 0 0 0 15 21 1396\n")
    (tmp_path / "aesthetics_image_lists").mkdir()
    (tmp_path / "aesthetics_image_lists" / "generic_test.jpgl").write_text("953958\n")

    rows = rows_of(tmp_path, "aesthetic_emotion")

    assert [(row["image"], row["aesthetics"], row["score"], row["split"]) for row in rows] == [
        (f"{tmp_path}/images/953619.jpg", "high", 10.0, held_out("953619")),
        (f"{tmp_path}/images/953958.jpg", "low", 1.0, "test"),
    ]


def test_bsds500(tmp_path: Path) -> None:
    root = touch(tmp_path / "BSDS500" / "data", "images/train/2092.jpg", "images/val/3096.jpg", "images/test/5.jpg")
    people = np.empty((1, 2), object)
    for person in range(2):
        boundaries = np.zeros((4, 6), np.uint8)
        boundaries[0] = 1
        boundaries[1] = person
        drawn = np.empty((1, 1), [("Segmentation", object), ("Boundaries", object)])
        drawn[0, 0] = (boundaries, boundaries)
        people[0, person] = drawn
    (root / "groundTruth" / "train").mkdir(parents=True)
    scipy.io.savemat(root / "groundTruth" / "train" / "2092.mat", {"groundTruth": people})

    rows = rows_of(tmp_path, "contour")

    assert [(row["id"], row["split"]) for row in rows] == [("2092", "train"), ("3096", "validation"), ("5", "test")]
    contour = np.asarray(Image.open(io.BytesIO(rows[0]["contour"])))
    assert contour[:, 0].tolist() == [255, 128, 0, 0]
    assert "contour" not in rows[1]


COCO = {
    "images": [{"id": 5, "file_name": "000005.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 5, "category_id": 9, "bbox": [10, 20, 30.5, 40], "iscrowd": 0},
        {"id": 2, "image_id": 5, "category_id": 9, "bbox": [0, 0, 1, 1], "iscrowd": 1},
    ],
    "categories": [{"id": 9, "name": "bed", "supercategory": "furniture"}],
}


def test_coco_boxes(tmp_path: Path) -> None:
    (tmp_path / "instances_val2017.json").write_text(json.dumps(COCO))

    [row] = rows_of(tmp_path / "instances_val2017.json", "category_tree", images="/pictures/val2017")

    assert row == {
        "id": "1",
        "image": "/pictures/val2017/000005.jpg",
        "crop": row["crop"],
        "product_id": "1",
        "category": ["furniture", "bed"],
        "split": "validation",
    }
    (tmp_path / "bad.json").write_text(json.dumps(COCO | {"categories": []}))
    with pytest.raises(DataError, match=r"is not a COCO annotation file \(KeyError: 9\)"):
        rows_of(tmp_path / "bad.json", "category_tree")


def test_open_images_boxes(tmp_path: Path) -> None:
    (tmp_path / "class-descriptions-boxable.csv").write_text('/m/01,"Chair, office"\n')
    path = tmp_path / "validation-annotations-bbox.csv"
    path.write_text(
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"
        "0001,x,/m/01,1,0.5,1,0.25,0.75,0,0,0\n0001,x,/m/01,1,0,1,0,1,0,0,1\n"
    )

    [row] = rows_of(path, "category_tree")

    assert (row["id"], row["image"], row["category"]) == ("0001/1", f"{tmp_path}/0001.jpg", ["Chair, office"])
    assert row["split"] == "validation"


def test_oml_table(tmp_path: Path) -> None:
    path = tmp_path / "df.csv"
    path.write_text(
        "label,path,split,is_query,is_gallery,x_1,x_2,y_1,y_2,category\n"
        "007,a.jpg,train,,,,,,,shoes\n8,b.jpg,validation,True,True,1,30,2,40,hats\n9,c.jpg,validation,True,False,,,,,hats\n"
    )

    rows = rows_of(path, "text_guided")

    assert [(row["id"], row["product_id"], row.get("role"), row["split"]) for row in rows] == [
        ("a.jpg", "007", None, "train"),
        ("b.jpg#1,2,30,40", "8", None, "validation"),
        ("c.jpg", "9", "query", "validation"),
    ]
    assert rows[1]["category"] == ["hats"]


def test_webdataset(tmp_path: Path) -> None:
    samples: dict[str, bytes] = {
        "a.jpg": drawing(1),
        "a.json": json.dumps({"category": ["x", "y"], "title": "A", "product_id": 7}).encode(),
        "a.txt": b"words\n",
        "sub/b.png": drawing(2),
        "sub/b.cls": b"3",
        "c.txt": b"no picture",
        "d.jpg": drawing(3),
        "d.json": b"{",
    }
    with tarfile.open(tmp_path / "train-0000.tar", "w") as tar:
        for name, content in samples.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))

    rows, rejects = read(tmp_path, "text_guided")

    assert [(row["id"], row["image"], row["product_id"], row["category"], row["text"]) for row in rows] == [
        ("a", drawing(1), "7", ["x", "y"], "words"),
        ("sub/b", drawing(2), "3", ["3"], None),
    ]
    assert {row["split"] for row in rows} == {"train"}
    assert [(reject.id, reject.kept) for reject in rejects] == [("c", False), ("d", False)]
    (tmp_path / "train-0000.tar").write_bytes(b"not a tar")
    with pytest.raises(DataError, match="cannot be read as a tar file"):
        read(tmp_path / "train-0000.tar", "text_guided")


def hugging_face_table(first: int) -> pa.Table:
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["shoe", "hat"]}}
    pictures = [{"bytes": drawing(first), "path": None}, {"bytes": drawing(first + 1), "path": None}]
    table = pa.table({"image": pictures, "label": pa.array([1, 0])})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def test_saved_hugging_face_dataset(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for number, split in enumerate(("train", "test")):
        (tmp_path / split).mkdir()
        table = hugging_face_table(number * 2)
        path = str(tmp_path / split / "data-00000-of-00001.arrow")
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)

    rows = rows_of(tmp_path, "category_tree", columns={"category": "label"})

    assert [(row["id"], row["image"], row["category"], row["split"]) for row in rows] == [
        ("0", drawing(0), ["hat"], "train"),
        ("1", drawing(1), ["shoe"], "train"),
        ("1-0", drawing(2), ["hat"], "test"),
        ("1-1", drawing(3), ["shoe"], "test"),
    ]


def test_hugging_face_parquet_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001")):
        pq.write_table(hugging_face_table(number * 2), tmp_path / "data" / f"{name}.parquet")

    rows = rows_of(tmp_path, "category_tree", columns={"category": "label"})

    assert [row["split"] for row in rows] == ["train"] * 4 + ["validation"] * 2
    assert len({row["id"] for row in rows}) == 6
    assert [row["category"][0] for row in rows] == ["hat", "shoe"] * 3


@pytest.mark.parametrize(("encoding", "start"), [("JPEG", b"\xff\xd8"), ("PNG", b"\x89PNG")])
def test_box_is_cut(encoding: str, start: bytes) -> None:
    picture = Image.new("RGB", (40, 20), "white")
    picture.paste((255, 0, 0), (10, 5, 30, 15))
    content = io.BytesIO()
    picture.save(content, encoding)

    part = cut(content.getvalue(), crop([10, 5, 30, 15]))

    assert part.startswith(start)
    assert decode_image(part).size == (20, 10)
    assert decode_image(cut(content.getvalue(), crop([0.5, 0, 2, 0.5], is_relative=True))).size == (20, 10)
    with pytest.raises(DataError, match=r"the box \[50, 0, 60, 9\] holds no pixel of a picture of 40 × 20"):
        cut(content.getvalue(), crop([50, 0, 60, 9]))


@pytest.mark.parametrize(
    ("options", "family", "message"),
    [
        ({"format": "imagenet"}, "text_guided", "'imagenet' is not a known format: use one of folder, table, sop"),
        ({"format": "cub"}, "text_guided", "does not look like cub: it must hold images.txt, image_class_labels.txt"),
        ({"format": "cub"}, "video_event", "video_event reads videos, and cub holds pictures"),
    ],
)
def test_wrong_format_is_named(tmp_path: Path, options: dict[str, Any], family: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        rows_of(touch(tmp_path, "a.jpg"), family, **options)
