"""Draws which part of the package imports which: `python docs/draw_imports.py` writes docs/imports.svg.

On the left are the packages of `galleria`, on the right those of `galleria.serving`. An arrow points to what is
imported; what follows from other arrows is left out. Modules outside these packages, such as `errors`, are not drawn.
"""

from collections.abc import Mapping
from pathlib import Path

import grimp

PICTURE = Path(__file__).with_name("imports.svg")
PURPOSES = {
    "galleria.cli": "commands",
    "galleria.demo": "the demo's data and run",
    "galleria.report": "tables, progress, pages",
    "galleria.serving": "Ray Serve application",
    "galleria.pipelines": "Ray Data and Ray Train",
    "galleria.catalog": "product table (Lance)",
    "galleria.index": "search index (FAISS)",
    "galleria.families": "models, loaded by name",
    "galleria.learn": "tasks, training loop, bundles",
    "galleria.media": "decoding",
    "galleria.serving.http": "routes, keys, metrics",
    "galleria.serving.services": "search, items, releases",
    "galleria.serving.inference": "models, batching, ONNX",
    "galleria.serving.retrieval": "searcher, shards, writer",
    "galleria.serving.schemas": "requests, responses, problems",
}
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN, PANEL_GAP, TITLE = 200, 46, 24, 34, 16, 72, 30

Edges = Mapping[str, set[str]]


def package_imports(parent: str) -> dict[str, set[str]]:
    """Return package → the sibling packages that it imports, for the packages directly inside `parent`."""
    graph = grimp.build_graph("galleria", cache_dir=None)
    packages = sorted(name for name in graph.find_children(parent) if graph.find_children(name))
    return {
        importer: {
            imported
            for imported in packages
            if imported != importer
            and graph.direct_import_exists(importer=importer, imported=imported, as_packages=True)
        }
        for importer in packages
    }


def without_implied(edges: Edges) -> dict[str, set[str]]:
    """Return the edges that no longer path implies. The graph has no cycles: the import rules forbid them."""
    return {start: ends - {far for end in ends for far in _reachable(edges, end)} for start, ends in edges.items()}


def _reachable(edges: Edges, start: str) -> set[str]:
    return edges[start].union(*(_reachable(edges, end) for end in edges[start]))


def rows_of(edges: Edges) -> list[list[str]]:
    """Return rows of packages, top row first: each package is above all that it imports."""

    def level(name: str) -> int:
        return 1 + max(map(level, edges[name]), default=-1)

    levels = {name: level(name) for name in edges}
    return [sorted(name for name in levels if levels[name] == row) for row in range(max(levels.values()), -1, -1)]


def panel(title: str, edges: Edges, left: int) -> tuple[list[str], int, int]:
    """Draw one graph from x = `left`; return its SVG elements, its width and its height."""
    rows = rows_of(edges)
    columns = max(map(len, rows))
    width = columns * WIDTH + (columns - 1) * GAP_X
    corners: dict[str, tuple[int, int]] = {}
    for number, row in enumerate(rows):
        start = left + (width - len(row) * WIDTH - (len(row) - 1) * GAP_X) // 2
        for column, name in enumerate(row):
            corners[name] = (start + column * (WIDTH + GAP_X), MARGIN + TITLE + number * (HEIGHT + GAP_Y))
    parts = [f'<text class="title" x="{left + width // 2}" y="{MARGIN + 14}">{title}</text>']
    for start_name, ends in without_implied(edges).items():
        for end_name in sorted(ends):
            (x1, y1), (x2, y2) = corners[start_name], corners[end_name]
            line = f'x1="{x1 + WIDTH // 2}" y1="{y1 + HEIGHT}" x2="{x2 + WIDTH // 2}" y2="{y2 - 3}"'
            parts.append(f'<line {line} marker-end="url(#arrow)"/>')
    for name, (x, y) in corners.items():
        middle = x + WIDTH // 2
        parts.append(f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>')
        parts.append(f'<text class="name" x="{middle}" y="{y + 19}">{name.rpartition(".")[2]}</text>')
        parts.append(f'<text x="{middle}" y="{y + 36}">{PURPOSES[name]}</text>')
    return parts, width, MARGIN + TITLE + len(rows) * (HEIGHT + GAP_Y)


def draw() -> str:
    """Return the picture as SVG."""
    left, left_width, left_height = panel("galleria", package_imports("galleria"), MARGIN)
    start = MARGIN + left_width + PANEL_GAP
    right, right_width, right_height = panel("galleria.serving", package_imports("galleria.serving"), start)
    width, height = start + right_width + MARGIN, max(left_height, right_height)
    style = (
        "rect{fill:#f5f7fa;stroke:#5b6b7f}line{stroke:#5b6b7f;stroke-width:1.4}path{fill:#5b6b7f}"
        "text{font:12px system-ui,sans-serif;text-anchor:middle;fill:#38424f}"
        ".name{font-weight:600;font-size:14px}.title{font-size:14px}"
    )
    arrow = '<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{style}</style>",
        f'<defs>{arrow}<path d="M0 0L8 4L0 8z"/></marker></defs>',
        f'<rect width="{width}" height="{height}" style="fill:#fff;stroke:none"/>',
    ]
    return "\n".join([*head, *left, *right, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw())
