"""Every command of the page about data runs, on small inputs of the kind that it names."""

import io
import json
import re
import shlex
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galleria.cli import main
from galleria.pipelines.rejects import REJECTS_FILE
from tests.drawings import drawing
from tests.pipelines.readers.files import touch

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_instance")]
PAGE = Path(__file__).parents[2] / "docs" / "data.md"
COMMANDS = [
    line
    for block in re.findall(r"```\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("galleria ")
]
BOXES = {
    "images": [{"id": 1, "file_name": "a.png"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}],
    "categories": [{"id": 1, "name": "pan", "supercategory": "kitchen"}],
}
TEXTS = {
    "shop.csv": "id;sku;photo;department;kind;brand;price\n001;00042;pictures/a.png;home;pans;Ü;12.5\n",
    "feed.xml": "<rss><channel><item><id>1</id><image_link>pictures/a.png</image_link></item></channel></rss>",
    "products_export.csv": "Handle,Title,Image Src\npan,Pan,pictures/a.png\n",
    "instances_val.json": json.dumps(BOXES),
    "validation-annotations-bbox.csv": "ImageID,LabelName,XMin,XMax,YMin,YMax\na,/m/1,0,0.5,0,0.5\n",
    "df.csv": "label,path,split,is_query,is_gallery\np,pictures/a.png,train,,\n",
    "activity_net.json": '{"database": {"a": {"subset": "training", "annotations": [{"label": "Jump"}]}}}',
    "Stanford_Online_Products/Ebay_train.txt": "image_id class_id super_class_id path\n1 1 1 pan_final/a.png\n",
    "Stanford_Online_Products/Ebay_test.txt": "image_id class_id super_class_id path\n2 2 1 pan_final/a.png\n",
    "saved/state.json": "{}",
}


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the commands name, as the current one."""
    pictures = ("pictures/a.png", "pictures/a.jpg", "photos/joy/a.png", "drawings/a.png", "drawings/a.contour.png")
    touch(tmp_path, *pictures, "videos/a.mp4", "Stanford_Online_Products/pan_final/a.png")
    for name, text in TEXTS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    table = pa.table({"image": [{"bytes": drawing(1), "path": None}], "label": ["pan"]})
    path = str(tmp_path / "saved" / "data-00000-of-00001.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "train-000.tar", "w") as tar:
        member = tarfile.TarInfo("a.png")
        member.size = len(drawing(1))
        tar.addfile(member, io.BytesIO(drawing(1)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS, ids=[command.rpartition("/")[2] for command in COMMANDS])
def test_command_of_the_page_runs(inputs: Path, command: str) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(shlex.split(command)[1:])

    rows = pq.read_table(inputs / command.rpartition(" ")[2]).to_pylist()
    assert rows
    assert all(row["id"] and row["split"] for row in rows)
    assert (inputs / "data" / REJECTS_FILE).read_text() == ""


def test_page_has_commands() -> None:
    assert len(COMMANDS) > 10
    assert "price=number" in " ".join(COMMANDS)
