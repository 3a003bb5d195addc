"""The command line: verbs, exit codes, errors in one line, and the jobs that stand beside them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from galleria.catalog.items import table_schema
from galleria.catalog.table import ProductTable
from galleria.cli.catalogue import items_tidy
from galleria.learn.bundle import Bundle
from galleria.pipelines.datasets import Source
from galleria.pipelines.embed import embed
from tests.drawings import drawing

ROOT = Path(__file__).parents[1]
VERBS = {
    "convert",
    "data",
    "train",
    "evaluate",
    "embed",
    "index",
    "items",
    "keys",
    "publish",
    "search",
    "serve",
    "demo",
}


def run(*arguments: str, module: str = "galleria") -> subprocess.CompletedProcess[str]:
    """The real command line, in a process of its own."""
    start = "from galleria.cli import main; main()" if module == "galleria" else ""
    command = [sys.executable, "-c", start] if start else [sys.executable, "-m", module]
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_help_lists_the_verbs_and_every_verb_has_a_job() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    assert all(f" {verb} " in shown.stdout for verb in VERBS)
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"__init__"} == VERBS


def test_starting_the_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, galleria.cli; print([m for m in ('torch', 'ray', 'lance', 'timm', 'faiss') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "no_room", "x", "--out", "out"), "there is no family 'no_room': choose one of aesthetic_emotion"),
        (("train", "text_guided", "x", "--out", "o", "--recipe", "best"), "has no recipe 'best': choose one of debug"),
        (("train", "text_guided", "x", "--out", "o", "--recipe", "demo"), "option 'image_weights': missing"),
        (("train", "text_guided", "none.parquet", "--out", "o", "--recipe", "debug"), "none.parquet cannot be read"),
        (("train", "text_guided", "x", "--out", "o", "--recipe", "debug", "--column", "a"), "'a' is not of the form"),
        (("evaluate", "nowhere", "x.parquet"), "nowhere is not a bundle"),
        (("index", "build", "nowhere.lance", "--out", "o"), "there is no product table at nowhere.lance"),
        (("index", "verify", "nowhere"), "there is no index at nowhere"),
        (("items", "versions", "nowhere.lance"), "there is no product table at nowhere.lance"),
        (("search", "--text", "x", "--filter", "{"), "--filter '{' is not JSON"),
        (("search", "--text", "x", "--filter", "[]"), "filter: [] is no object of conditions"),
        (("search",), "search with a picture or with --text"),
        (("search", "a.png", "--text", "words"), "give one of the two"),
        (("search", "nowhere.png"), "nowhere.png cannot be read (No such file or directory)"),
        (("serve", "--bundle", "nowhere"), "nowhere is not a bundle"),
        (("keys", "keys.json", "--name", "a b"), "key name: String should match pattern"),
        (("publish", "shoes", "nowhere"), "nowhere is not a bundle"),
        (("publish", "Shoes", "nowhere"), "not 'Shoes': choose another"),
        (("serve", "--releases", "nowhere"), "nowhere has no alias: say what is served with"),
        (("serve", "--bundle", ""), "nothing to serve"),
        (("serve", "--option", "waiting=0"), "waiting Input should be greater than 0"),
        (("serve", "--option", "wating=3"), "wating Extra inputs are not permitted"),
        (("serve", "--option", "shards"), "--option 'shards' is not of the form name=value"),
        (("serve", "--model", "gender"), "--model 'gender' is not of the form name=value"),
        (("serve", "--model", "Gender=nowhere"), "models Gender"),
        (("serve", "--bundle", "", "--model", "gender=nowhere"), "nowhere is not a bundle"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_1(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_misuse_is_exit_code_2() -> None:
    assert run("train").returncode == 2
    assert run("nonsense").returncode == 2


def test_a_job_is_its_verb() -> None:
    verb, job = run("evaluate", "--help"), run("--help", module="jobs.evaluate")
    assert job.returncode == 0
    assert "Score a bundle on one split" in job.stdout
    assert verb.stdout.splitlines()[5:] == job.stdout.splitlines()[5:]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_instance")
def test_index_and_search_print_json(bundle: Bundle, clean_data: str, tmp_path: Path) -> None:
    table, _ = embed(bundle, Source(clean_data), tmp_path / "table.lance")
    done = run("index", "build", table.path, "--out", str(tmp_path / "index"), "--max-index-memory", "1MB")
    assert done.returncode == 0, done.stderr
    assert "index of 72 × 32" in " ".join(done.stdout.split())
    assert "shard 0: Flat of 72" in " ".join(done.stdout.split())
    picture = tmp_path / "query.png"
    picture.write_bytes(drawing(5))
    places = ("--bundle", str(bundle.path), "--table", table.path, "--index", str(tmp_path / "index"))
    done = run("search", str(picture), "-k", "3", "--json", *places)
    hits = json.loads(done.stdout)
    assert hits[0]["id"] == "5-studio"
    assert len(hits) == 3
    assert "Thing 5" in run("search", str(picture), *places).stdout
    assert json.loads(run("items", "get", table.path, "5-studio").stdout)["title"] == "Thing 5"
    assert "5-studio: deleted" in run("items", "delete", table.path, "5-studio", "nobody").stdout
    found = json.loads(run("search", str(picture), "-k", "3", "--json", *places).stdout)
    assert "5-studio" not in [hit["id"] for hit in found]
    assert "0 items" in run("index", "verify", str(tmp_path / "index"), "--table", table.path).stdout


def test_items_tidy_is_now_compact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ProductTable.create(tmp_path / "table.lance", table_schema(2, "bundle"))
    with pytest.warns(FutureWarning, match="'items tidy' is now 'items compact'"):
        items_tidy(tmp_path / "table.lance", 0)
    assert "is compacted: version 1, 0 files of rows" in " ".join(capsys.readouterr().out.split())
