"""The command line: its commands, exit codes, messages and output, and the job of each command."""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from galleria.catalog.items import table_schema
from galleria.catalog.table import ProductTable
from galleria.cli import main
from galleria.cli.catalogue import items_tidy
from galleria.cli.demonstration import demo
from galleria.errors import ConfigurationError
from galleria.learn.bundle import Bundle
from tests.drawings import drawing

ROOT = Path(__file__).parents[1]
VERBS = {
    "convert",
    "data",
    "doctor",
    "recipes",
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

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


def in_a_process(*arguments: str, module: str = "galleria") -> Done:
    """Run `python -m galleria …` or a job in a process of its own."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process, in an empty folder."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")

    def call(*arguments: str) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(end.value.code or 0), printed.out, printed.err)

    return call


def check_mistake(done: Done, message: str) -> None:
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_help_lists_the_commands() -> None:
    shown = in_a_process("--help")
    assert shown.returncode == 0
    assert all(f" {verb} " in shown.stdout for verb in VERBS)
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"__init__"} == VERBS


def test_recipes_lists_fields_as_json(run: Run) -> None:
    listed = json.loads(run("recipes", "text_guided", "--json").stdout)
    assert [recipe["name"] for recipe in listed["recipes"]] == ["debug", "demo", "frozen", "paper"]
    fields = {field["name"]: field for field in listed["fields"]}
    assert fields["optimization.learning_rate"]["default"] == "0.001"
    assert fields["sampling.views"]["type"] == "int"


def test_startup_imports_nothing_heavy() -> None:
    code = (
        "import sys, galleria.cli; print([m for m in ('torch', 'ray', 'lance', 'timm', 'faiss') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_installed_command_is_main() -> None:
    [script] = importlib.metadata.entry_points(group="console_scripts", name="galleria")
    assert script.load() is main


def test_version_is_the_packages(run: Run) -> None:
    shown = run("--version")
    assert (shown.returncode, shown.stdout) == (0, importlib.metadata.version("galleria") + "\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "no_room", "x", "--out", "out"), "there is no family 'no_room': choose one of aesthetic_emotion"),
        (("train", "text_guided", "x", "--out", "o", "--recipe", "best"), "has no recipe 'best': choose one of debug"),
        (("train", "text_guided", "x", "--out", "o", "--recipe", "demo"), "option 'image_weights': missing"),
        (("train", "text_guided", "x", "--out", "o", "--recipe", "debug", "--set", "sed=1"), "did you mean seed"),
        (("train", "text_guided", "x", "--out", "o", "--recipe", "a.py:b"), "there is no Python file 'a.py'"),
        (("train", "text_guided", "none.parquet", "--out", "o", "--recipe", "debug"), "none.parquet cannot be read"),
        (("train", "text_guided", "x", "--out", "o", "--recipe", "debug", "--column", "a"), "'a' is not of the form"),
        (("evaluate", "nowhere", "x.parquet"), "nowhere is not a bundle"),
        (("index", "build", "nowhere.lance", "--out", "o"), "there is no product table at nowhere.lance"),
        (("index", "verify", "nowhere"), "there is no index at nowhere"),
        (("items", "versions", "nowhere.lance"), "there is no product table at nowhere.lance"),
        (("search", "--text", "x", "--filter", "{"), "--filter '{' is not JSON"),
        (("search", "--text", "x", "--filter", "[]"), "filter: [] is not an object of conditions"),
        (("search",), "search with a picture or with --text"),
        (("search", "a.png", "--text", "words"), "give one of the two"),
        (("search", "nowhere.png"), "nowhere.png cannot be read (No such file or directory)"),
        (("keys", "keys.json", "--name", "a b"), "key name: String should match pattern"),
        (("publish", "shoes", "nowhere"), "nowhere is not a bundle"),
        (("publish", "Shoes", "nowhere"), "not 'Shoes': choose another"),
        (("serve", "--bundle", ""), "nothing to serve"),
        (("serve", "--option", "max_concurrent_queries=0"), "max_concurrent_queries Input should be greater than 0"),
        pytest.param(
            ("serve", "--option", "waiting=0"),
            "max_concurrent_queries Input should be greater than 0",
            marks=pytest.mark.filterwarnings("ignore:'waiting' is now 'max_concurrent_queries':FutureWarning"),
        ),
        (("serve", "--option", "wating=3"), "wating Extra inputs are not permitted"),
        (("serve", "--option", "gateway_replicas=2"), "set num_replicas of Gateway under `deployments:`"),
        (("serve", "--config", "nowhere.yaml"), "nowhere.yaml cannot be read (No such file or directory)"),
        (("serve", "--cors-origin", "shop.example"), "cors_origins 'shop.example' is not an origin"),
        (("serve", "--option", "shards"), "--option 'shards' is not of the form name=value"),
        (("serve", "--model", "gender"), "--model 'gender' is not of the form name=value"),
        (("serve", "--model", "Gender=nowhere"), "models Gender"),
    ],
)
def test_mistake_is_one_line_and_exit_code_1(run: Run, arguments: tuple[str, ...], message: str) -> None:
    check_mistake(run(*arguments), message)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_instance")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serve", "--bundle", "nowhere"), "nowhere is not a bundle"),
        (("serve", "--releases", "nowhere"), "nowhere has no alias: say what is served with"),
        (("serve", "--bundle", "", "--model", "gender=nowhere"), "nowhere is not a bundle"),
    ],
)
def test_mistake_of_a_service(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setenv("RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP", "1")  # serve sets it: undone after the test
    check_mistake(run(*arguments), message)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_instance")
def test_serve_options_override_the_config_file(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP", "1")
    application = {"import_path": "galleria.serving.app:build", "args": {"releases": "file"}}
    (tmp_path / "service.yaml").write_text(json.dumps({"applications": [application]}))
    config = ("serve", "--config", str(tmp_path / "service.yaml"))

    check_mistake(run(*config), "file has no alias")
    check_mistake(run(*config, "--releases", "given"), "given has no alias")
    check_mistake(run(*config, "--option", "threads=0"), "threads Input should be greater than 0")
    check_mistake(run(*config, "--table", "t"), "releases say what is served")


def test_mistake_in_a_process_prints_no_traceback() -> None:
    check_mistake(in_a_process("index", "verify", "nowhere"), "there is no index at nowhere")


def test_message_keeps_its_brackets(run: Run) -> None:
    check_mistake(run("evaluate", "galleria[demo]", "x.parquet"), "error: galleria[demo] is not a bundle")


def test_misuse_is_exit_code_2(run: Run) -> None:
    assert in_a_process("train").returncode == 2
    assert run("train").returncode == 2
    assert run("nonsense").returncode == 2


def test_job_is_its_command() -> None:
    verb, job = in_a_process("evaluate", "--help"), in_a_process("--help", module="jobs.evaluate")
    assert job.returncode == 0
    assert "Evaluate a bundle on one split" in job.stdout
    assert verb.stdout.splitlines()[5:] == job.stdout.splitlines()[5:]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_instance")
@pytest.mark.slow
def test_index_and_search_print_json(run: Run, bundle: Bundle, clean_data: str, tmp_path: Path) -> None:
    done = run(
        "embed", str(bundle.path), clean_data, "--out", str(tmp_path / "table.lance"), "--to", "vectors.npy", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["items"] == 72
    table = ProductTable(tmp_path / "table.lance")
    assert np.load("vectors.npy").shape == (len(np.load("vectors.ids.npy")), 32) == (72, 32)
    done = run("index", "build", table.path, "--out", str(tmp_path / "index"), "--max-index-memory", "1MB")
    assert done.returncode == 0, done.stderr
    assert "index of 72 × 32" in " ".join(done.stdout.split())
    assert "shard 0: Flat of 72" in " ".join(done.stdout.split())
    picture = tmp_path / "query.png"
    picture.write_bytes(drawing(5))
    paths = ("--bundle", str(bundle.path), "--table", table.path, "--index", str(tmp_path / "index"))
    done = run("search", str(picture), "-k", "3", "--json", *paths)
    hits = json.loads(done.stdout)
    assert hits[0]["id"] == "5-studio"
    assert len(hits) == 3
    assert "Thing 5" in run("search", str(picture), *paths).stdout
    assert json.loads(run("items", "get", table.path, "5-studio").stdout)["title"] == "Thing 5"
    assert "5-studio: deleted" in run("items", "delete", table.path, "5-studio", "nobody").stdout
    hits = json.loads(run("search", str(picture), "-k", "3", "--json", *paths).stdout)
    assert "5-studio" not in [hit["id"] for hit in hits]
    assert "0 items" in run("index", "verify", str(tmp_path / "index"), "--table", table.path).stdout


def test_paths_are_printed_as_they_are(run: Run, tmp_path: Path) -> None:
    path = tmp_path / ("long" * 30) / "shop[bold] :shoe:"  # longer than a line of a terminal
    ProductTable.create(path, table_schema(4, "hash"))
    shown = run("items", "compact", str(path))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"{path} is compacted" in shown.stdout


def test_items_tidy_is_now_compact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ProductTable.create(tmp_path / "table.lance", table_schema(2, "bundle"))
    with pytest.warns(FutureWarning, match="'items tidy' is now 'items compact'"):
        items_tidy(tmp_path / "table.lance", 0)
    assert "is compacted: version 1, 0 files of rows" in " ".join(capsys.readouterr().out.split())


def test_demo_room_is_now_family(tmp_path: Path) -> None:
    with (
        pytest.warns(FutureWarning, match="--room is now --family"),
        pytest.raises(ConfigurationError, match="--family 'shoes'"),
    ):
        demo(tmp_path, room=["shoes"])
