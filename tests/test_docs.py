"""The documentation: what is made from the code is current, and what it names exists."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

from docs.draw_imports import PICTURE, draw, rows_of, without_implied
from docs.reference_pages import cli_reference, options_table, relative_to_docs
from docs.reliability_table import PROMISES, files_by_promise, reliability_table
from galleria.serving.config import OLD_NAMES, ServiceConfig

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
PAGES = [page for page in PAGES if "_generated" not in page.parts]
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}


def test_import_picture_is_current():
    assert PICTURE.read_text() == draw(), "run: python docs/draw_imports.py"


def test_implied_edges_are_left_out():
    edges = {"top": {"middle", "bottom"}, "middle": {"bottom"}, "bottom": set()}

    assert without_implied(edges) == {"top": {"middle"}, "middle": {"bottom"}, "bottom": set()}
    assert rows_of(edges) == [["top"], ["middle"], ["bottom"]]


def test_options_table_has_every_option():
    rows = {line.split("`")[1]: line for line in options_table().splitlines() if line.startswith("| `")}

    assert set(ServiceConfig.model_fields) < set(rows)
    assert rows["target_latency_s"].startswith("| `target_latency_s` | `float` | `0.5` | ")
    assert rows["models"].startswith("| `models` | `dict[str, str]` | `{}` | ")
    assert "`Literal['local', 'deployed']`" in rows["shards"]
    assert "limits.image_bytes" in rows


def test_cli_reference_has_every_command():
    text = cli_reference()

    commands = ("train", "evaluate", "embed", "index build", "items versions", "serve", "doctor", "publish", "keys")
    for command in commands:
        assert f"## `galleria {command}`" in text


def test_links_as_seen_from_docs():
    text = "[a](docs/data.md) [b](LICENSE) [c](CHANGELOG.md) [d](https://ray.io) ![e](docs/search.png)"

    assert relative_to_docs(text) == (
        "[a](data.md) [b](../LICENSE) [c](changelog.md) [d](https://ray.io) ![e](search.png)"
    )


@pytest.mark.parametrize("page", TEXTS)
def test_relative_links_exist(page):
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", TEXTS[page])

    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


@pytest.mark.parametrize("page", [page for page in TEXTS if page != "CHANGELOG.md"])
def test_named_files_exist(page):
    """Files are named from the root of the repository, or from that of the package."""
    names = re.findall(r"`((?:\w+/)+\w+\.\w+)`", TEXTS[page])
    roots = (ROOT, ROOT / "platform" / "galleria", ROOT / "platform")

    assert [name for name in names if not any((root / name).exists() for root in roots)] == []


@pytest.mark.parametrize("page", TEXTS)
def test_named_commands_exist(page):
    for module in re.findall(r"python -m ((?:benchmarks|jobs)\.\w+)", TEXTS[page]):
        assert importlib.util.find_spec(module) is not None, module
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"[`\n]make ([a-z]+)", TEXTS[page]):
        assert target in targets


def test_old_names_are_in_the_changelog():
    for old, new in OLD_NAMES.items():
        assert f"| `{old}` | `{new}` |" in TEXTS["CHANGELOG.md"]


@pytest.mark.parametrize("path", sorted(str(path.relative_to(ROOT)) for path in (ROOT / ".github").rglob("*.yml")))
def test_workflow_files_are_yaml(path):
    assert yaml.safe_load((ROOT / path).read_text())


def test_reliability_table_has_every_promise():
    table = reliability_table()

    assert all(f"| {promise} | {text} |" in table for promise, text in PROMISES.items())


def test_reliability_results_are_of_promises():
    rows = json.loads((ROOT / "docs" / "reliability.json").read_text())

    assert all(set(row) == {"id", "size", "passed", "result", "date", "command", "seed"} for row in rows)
    assert {row["id"] for row in rows} <= set(PROMISES)
    assert set(files_by_promise()) <= set(PROMISES)
