"""What a check finds in a data set, and the rules that find it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from galleria.index.fingerprints import similar_groups
from galleria.pipelines.data_check.samples import Sample
from galleria.pipelines.splits import SPLITS

Severity = Literal["error", "warning", "info"]

MAX_EXAMPLES = 12
MIN_SIDE = 64
"""Pixels below which a picture shows little: networks read 224 and more."""

MAX_IMBALANCE = 100
"""How many times more samples than the smallest the largest class may have before a warning."""

MAX_COMPARED = 50_000
"""Pictures that are compared with each other for near duplicates."""


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found.

    Attributes:
        kind: its name, for scripts.
        severity: error: training cannot work; warning: it would be worse; info: good to know.
        count: how many rows, products, classes or groups have it.
        message: what was found.
        fix: what to do about it.
        examples: ids of rows, in groups where they belong together.
    """

    kind: str
    severity: Severity
    count: int
    message: str
    fix: str
    examples: Sequence[Sequence[str]] = ()


def find_all(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Yield what is found in the samples of a data set."""
    for rule in RULES:
        yield from rule(samples)


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with the errors first."""
    order: list[Severity] = ["error", "warning", "info"]
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def _missing_splits(samples: Sequence[Sample]) -> Iterator[Finding]:
    counts = Counter(sample.split for sample in samples if not sample.picture.error)
    for split in SPLITS:
        if not counts[split]:
            severity: Severity = "warning" if split == "test" else "error"
            yield Finding(
                f"no_{split}_rows",
                severity,
                0,
                f"no usable row is in the split {split!r}",
                f"set the column 'split' to {split!r} for some rows, or leave it out: rows are split by a hash then",
            )
    unknown = {split: count for split, count in counts.items() if split not in SPLITS}
    if unknown:
        yield Finding(
            "unknown_split",
            "warning",
            sum(unknown.values()),
            f"rows in other splits ({sum(unknown.values()):,}), {', '.join(map(repr, sorted(unknown)))}, are rejected",
            f"use one of {', '.join(SPLITS)}",
            [[sample.id] for sample in samples if sample.split in unknown][:MAX_EXAMPLES],
        )


def _repeated_ids(samples: Sequence[Sample]) -> Iterator[Finding]:
    counts = Counter(sample.id for sample in samples)
    repeated = [name for name, count in counts.items() if count > 1]
    yield from _finding(
        "repeated_id",
        "warning",
        [[name] for name in repeated],
        "ids that are used more than once ({count}): their rows are rejected",
        "give every row an id of its own",
    )


def _pictures(samples: Sequence[Sample]) -> Iterator[Finding]:
    broken = [sample for sample in samples if sample.picture.error]
    if broken:
        reasons = Counter(sample.picture.error for sample in broken).most_common(1)[0][0]
        yield from _finding(
            "broken_picture",
            "error" if len(broken) == len(samples) else "warning",
            [[sample.id] for sample in broken],
            f"pictures or videos that cannot be used ({{count}}), mostly since {reasons}",
            "fix them, or leave the rows as they are: they are rejected and listed",
        )
    yield from _finding(
        "tiny_picture",
        "warning",
        [[sample.id] for sample in samples if 0 < sample.picture.side < MIN_SIDE],
        f"pictures with a side under {MIN_SIDE} pixels ({{count}})",
        "use the originals instead of thumbnails",
    )
    yield from _finding(
        "blank_picture",
        "warning",
        [[sample.id] for sample in samples if sample.picture.is_blank],
        "pictures of one colour ({count})",
        "remove these rows: they are often placeholders for missing pictures",
    )


def _texts(samples: Sequence[Sample]) -> Iterator[Finding]:
    yield from _finding(
        "missing_text",
        "warning",
        [[sample.id] for sample in samples if sample.has_text is False],
        "rows without a text ({count}): their pictures are used without one",
        "fill the column 'text' in, or name yours with --column text=NAME",
    )


def _classes(samples: Sequence[Sample]) -> Iterator[Finding]:
    for name in {name for sample in samples for name in sample.labels}:
        yield from _finding(
            f"missing_{name}",
            "warning",
            [[sample.id] for sample in samples if not sample.labels.get(name)],
            f"rows without {name} ({{count}})",
            f"fill the column {name!r} in, or name yours with --column {name}=NAME",
        )
        trained = [sample.labels[name] for sample in samples if sample.split == "train" and sample.labels.get(name)]
        counts: Counter[Hashable] = Counter(
            trained if name == "category" else [part for parts in trained for part in parts]
        )
        yield from _class_sizes(name, counts)


def _class_sizes(name: str, counts: Counter[Hashable]) -> Iterator[Finding]:
    if not counts:
        return
    if len(counts) < 2:
        yield Finding(
            f"one_{name}",
            "error" if name != "category" else "warning",
            1,
            f"all rows of the split 'train' have the same {name}: there is nothing to learn from it",
            "check the column, and the separator of its values",
        )
        return
    largest, smallest = counts.most_common()[0], counts.most_common()[-1]
    if largest[1] > MAX_IMBALANCE * smallest[1]:
        yield Finding(
            f"unbalanced_{name}",
            "warning",
            len(counts),
            f"{_shown(largest[0])} has {largest[1]:,} rows of the split 'train', {_shown(smallest[0])} {smallest[1]:,}",
            "collect more of the small classes, or join them",
        )


def _products(samples: Sequence[Sample]) -> Iterator[Finding]:
    products: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.product:
            products[sample.product].append(sample)
    alone = [name for name, rows in products.items() if len(rows) == 1]
    if products and len(alone) == len(products):
        yield Finding(
            "one_picture_a_product",
            "info",
            len(alone),
            "every product has one picture: two augmented views of it are trained on",
            "add more pictures of a product with the same product_id where you have them",
        )
    yield from _finding(
        "product_over_splits",
        "warning",
        [[row.id for row in rows] for rows in products.values() if len({row.split for row in rows}) > 1],
        "products with pictures in more than one split ({count}): scores on them are too good",
        "put all pictures of a product into one split",
    )


def _duplicates(samples: Sequence[Sample]) -> Iterator[Finding]:
    same: dict[bytes, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.picture.digest:
            same[sample.picture.digest].append(sample)
    exact = [group for group in same.values() if len(group) > 1]
    firsts = [group[0] for group in same.values() if not group[0].picture.is_blank][:MAX_COMPARED]
    prints = [sample.picture.fingerprint for sample in firsts if sample.picture.fingerprint is not None]
    groups = similar_groups(*map(np.stack, zip(*prints, strict=True))) if prints else []
    near = [[sample for i in group for sample in same[firsts[i].picture.digest]] for group in groups]
    if len(firsts) == MAX_COMPARED:
        yield Finding(
            "partly_compared",
            "info",
            len(same),
            f"the first {MAX_COMPARED:,} different pictures are compared with each other for near duplicates",
            "embed them all, and run `galleria index duplicates`",
        )
    yield from _duplicate_kinds("same_picture", exact, "the same file")
    yield from _duplicate_kinds("similar_picture", near, "nearly the same picture")


def _duplicate_kinds(kind: str, groups: Sequence[Sequence[Sample]], what: str) -> Iterator[Finding]:
    leaks = [group for group in groups if len({sample.split for sample in group}) > 1]
    products = [group for group in groups if group[0].product and len({sample.product for sample in group}) > 1]
    contradictions = [group for group in groups if any(len(set(labels)) > 1 for labels in _labels(group))]
    yield from _finding(
        f"{kind}_over_splits",
        "warning",
        _ids(leaks),
        f"groups of rows in different splits with {what} ({{count}}): scores on them are too good",
        "put them into one split, or keep one of them",
    )
    yield from _finding(
        f"{kind}_of_products",
        "warning",
        _ids(products),
        f"groups of rows of different products with {what} ({{count}}): training pushes them apart",
        "give them one product_id if they are one product, or keep one of them",
    )
    yield from _finding(
        f"{kind}_with_other_labels",
        "warning",
        _ids(contradictions),
        f"groups of rows with {what} and different labels ({{count}}): one of them is likely wrong",
        "look at them, and correct the labels",
    )
    others = [group for group in groups if not any(group in part for part in (leaks, products, contradictions))]
    yield from _finding(
        kind,
        "info",
        _ids(others),
        f"groups of rows with {what} ({{count}})",
        "keep one of each group if they add nothing",
    )


def _labels(group: Sequence[Sample]) -> Iterator[list[tuple[str, ...]]]:
    """Yield the classes of all samples of a group, for each column of classes."""
    for name in group[0].labels:
        yield [sample.labels.get(name, ()) for sample in group]


def _finding(
    kind: str, severity: Severity, groups: Sequence[Sequence[str]], message: str, fix: str
) -> Iterator[Finding]:
    """Yield a finding about groups of ids, if there are any."""
    if groups:
        shown = [list(group)[:MAX_EXAMPLES] for group in groups[:MAX_EXAMPLES]]
        yield Finding(kind, severity, len(groups), message.format(count=f"{len(groups):,}"), fix, shown)


def _ids(groups: Iterable[Sequence[Sample]]) -> list[list[str]]:
    return [[sample.id for sample in group] for group in groups]


def _shown(value: Hashable) -> str:
    return repr(" / ".join(value) if isinstance(value, tuple) else value)


RULES: Sequence[Callable[[Sequence[Sample]], Iterator[Finding]]] = (
    _missing_splits,
    _repeated_ids,
    _pictures,
    _texts,
    _classes,
    _products,
    _duplicates,
)
