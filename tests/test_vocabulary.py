"""Names and sentences use the field's terms: words that this project once used in a sense of its own are not back."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("jobs", "benchmarks", "examples", "docs", "serve_configs", "tests", "platform/galleria")
MAX_TEST_NAME = 45
"""Characters after `test_`."""

NAMES = {
    "room": "family",
    "rooms": "families",
    "house": "vendor, artwork set",
    "houses": "vendors, artwork sets",
    "told": "reported, logged, content_type",
    "place": "index, position, offset, path, location",
    "places": "positions, paths, locations",
    "most": "max_x, limit, capacity",
    "least": "min_x",
    "stood": "resolved",
    "mend": "fix",
    "mended": "fixed",
    "door": "input validation",
    "tidy": "compact",
    "tidied": "compacted",
    "settled": "compacted, merged",
    "crowded": "too_many_requests",
    "slot": "split",
    "offer": "release",
    "offers": "releases",
    "pace": "limit",
    "paces": "limits",
}
"""Part of an identifier → what to write instead."""

STANDARD_TERMS = ("most_common", "most_frequent", "least_recently", "least_squares", "in_place")
"""Terms of the field, or of other libraries, that have one of these words as a part."""

PROSE = {
    r"\b(the|a|each|every|its|seventh|other|this|that) rooms?\b": "family",
    r"\b(another|other|a|the|its|each) houses?\b": "vendor, artwork set",
    r"\b(stands?|stood) for\b": "resolves to, is",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\b(is|are|be) told\b": "receives, is reported",
    r"\btells of\b": "reports",
    r"\btid(y|ied|ies|ying)\b": "compact",
    r"\bof late\b": "recently",
    r"\bat hand\b": "available",
    r"\b(lets?|letting) \w* ?in\b": "admits",
    r"\bturn(s|ed)? away\b": "rejects",
    r"\bthe way in\b": "ingress",
    r"\bwho asks\b": "client",
    r"\bthe door\b": "input validation",
    r"(?<!here )\bis no (?!longer|more|less|better|match|need|way|such|one|other|alias)\w+\b": "is not a valid …",
}
"""Pattern in comments, strings and documents → what to write instead."""

ALLOWED: dict[str, set[str]] = {
    "CHANGELOG.md": {"tidy"},
    "platform/galleria/cli/catalogue.py": {"tidy"},
    "platform/galleria/cli/demonstration.py": {"room"},
    "tests/test_cli.py": {"room", "tidy"},
}
"""File → words that it may hold: names of other libraries, stored formats, and old names that are still accepted."""


def python_tokens(path: Path) -> Iterator[tuple[int, bool, str]]:
    """Line, whether it is an identifier, and the text of every name, comment and string."""
    kinds = {tokenize.NAME: True, tokenize.COMMENT: False, tokenize.STRING: False}
    kinds |= {getattr(tokenize, "FSTRING_MIDDLE", -1): False}
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type in kinds:
            yield token.start[0], kinds[token.type], token.string


def javascript_tokens(path: Path) -> Iterator[tuple[int, bool, str]]:
    """As `python_tokens`: what is neither in a comment nor in quotes counts as identifiers."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        yield number, False, line
        for name in re.findall(r"\w+", re.sub(r"\"[^\"]*\"|`[^`]*`|//.*", "", line)):
            yield number, True, name


def parts(identifier: str) -> list[str]:
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", identifier)]


def private_words(path: Path) -> Iterator[str]:
    allowed = ALLOWED.get(str(path.relative_to(ROOT)), set())
    if path.suffix == ".py":
        tokens = list(python_tokens(path))
    elif path.suffix == ".js":
        tokens = list(javascript_tokens(path))
    else:
        tokens = [(number, False, line) for number, line in enumerate(path.read_text().splitlines(), 1)]
    tokens.append((0, True, path.stem))
    for line, identifier, text in tokens:
        if identifier:
            own = re.sub("|".join(STANDARD_TERMS), "", text)
            matches = [(part, NAMES[part]) for part in parts(own) if part in NAMES]
        else:
            matches = [
                (hit[0], advice)
                for pattern, advice in PROSE.items()
                for hit in re.finditer(pattern, text, re.IGNORECASE)
            ]
        for word, advice in matches:
            if word not in allowed:
                yield f"{path.relative_to(ROOT)}:{line}: {word!r}, write {advice}"


def files() -> list[Path]:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    paths += [*ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "cluster.yaml"]
    kinds = (".py", ".md", ".yaml", ".toml", ".js", ".html", "")
    generated = [path for path in paths if any(part.endswith(("_generated", ".egg-info")) for part in path.parts)]
    return sorted(path for path in {*paths} - {*generated, Path(__file__)} if path.is_file() and path.suffix in kinds)


@pytest.mark.parametrize("folder", [*FOLDERS, "."])
def test_no_private_words(folder):
    root = ROOT / folder
    chosen = [path for path in files() if path.parent == ROOT or (folder != "." and path.is_relative_to(root))]

    assert chosen
    assert [word for path in chosen for word in private_words(path)] == []


def test_names_of_tests_are_short():
    names = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def test_(\w+)", path.read_text())
        if len(name) > MAX_TEST_NAME
    ]

    assert names == []


def test_identifiers_are_split_into_words():
    assert parts("MAX_OPEN_catalogsOfHTTPServer2") == ["max", "open", "catalogs", "of", "http", "server", "2"]
