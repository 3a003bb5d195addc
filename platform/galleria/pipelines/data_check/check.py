"""Checks a user's files before anything is trained on them."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from galleria.learn.family import Family
from galleria.pipelines.data_check.findings import MAX_EXAMPLES, Finding, find_all, sort_findings
from galleria.pipelines.data_check.samples import LABELS, Sample, read_samples
from galleria.pipelines.data_check.wrong_labels import likely_wrong_labels
from galleria.pipelines.readers import ReadOptions, columns_of, crops, read_parts
from galleria.pipelines.rejects import Reject


@dataclass(frozen=True)
class DataReport:
    """What a data set holds, and what is wrong with it.

    Attributes:
        path: of the files.
        family: the family that would read them.
        rows: number of rows, without those that cannot be parsed.
        columns: galleria's name → the column of the file that fills it; of a folder, its own name.
        unread: columns of the file that nothing reads.
        splits: number of rows of each split.
        products: number of products, where the family has them.
        classes: name of a column of classes → number of different ones.
        sources: number of pictures of each source.
        findings: what was found, errors first.
    """

    path: str
    family: str
    rows: int
    columns: Mapping[str, str]
    unread: Sequence[str]
    splits: Mapping[str, int]
    products: int
    classes: Mapping[str, int]
    sources: Mapping[str, int]
    findings: Sequence[Finding]

    @property
    def is_usable(self) -> bool:
        """Whether training could work."""
        return not any(finding.severity == "error" for finding in self.findings)


def check_data(
    path: str,
    family: Family[Any],
    options: ReadOptions,
    *,
    table: Path | None = None,
    progress: Callable[[int, int | None], None] = lambda *_: None,
) -> DataReport:
    """Read files as `convert` does, decode each picture once, and return what is found.

    Args:
        path: local, or on an object store as a URI.
        family: the family that would read them.
        options: how the files become rows.
        table: product table that they were embedded to, to find labels that are likely wrong.
        progress: is called with the number of rows so far.

    Raises:
        DataError: the files cannot be read, or hold no row.
        SchemaError: a column is missing.
    """
    rejects: list[Reject] = []
    present: dict[str, None] = {}

    def parts() -> Iterator[pa.Table]:
        for part in read_parts(path, family, options, rejects.append):
            present.update(dict.fromkeys(part.column_names))
            yield part

    samples: list[Sample] = []
    for sample in read_samples(parts(), "text" in family.schema.names):
        samples.append(sample)
        progress(len(samples), None)
    present.pop(crops.COLUMN, None)
    columns, unread = _mapping(path, list(present), options)
    return DataReport(
        path=path,
        family=family.name,
        rows=len(samples),
        columns=columns,
        unread=unread,
        splits=dict(Counter(sample.split for sample in samples).most_common()),
        products=len({sample.product for sample in samples if sample.product}),
        classes={
            name: len({classes for sample in samples if (classes := sample.labels.get(name))})
            for name in LABELS
            if name in present
        },
        sources=dict(Counter(sample.source for sample in samples if sample.source).most_common()),
        findings=sort_findings(
            [
                *_rejected(rejects),
                *_unread(unread),
                *find_all(samples),
                *(likely_wrong_labels(table) if table is not None else ()),
            ]
        ),
    )


def _mapping(path: str, present: Sequence[str], options: ReadOptions) -> tuple[dict[str, str], list[str]]:
    """Return galleria's columns with the file's columns that fill them, and the file's other columns."""
    header = columns_of(path, options)
    columns = {name: options.columns.get(name, name) for name in present}
    if header is None:
        return columns, []
    read = {*columns.values(), *options.levels, *options.attributes}
    filled = {name: column for name, column in columns.items() if column in header}
    if options.levels:
        filled["category"] = " / ".join(options.levels)
    return filled, [name for name in header if name not in read]


def _rejected(rejects: Sequence[Reject]) -> Iterator[Finding]:
    lost = [reject for reject in rejects if not reject.kept]
    if lost:
        names = [[reject.id or f"line {reject.line}"] for reject in lost[:MAX_EXAMPLES]]
        yield Finding(
            "rejected_row",
            "warning",
            len(lost),
            f"rows that cannot be parsed ({len(lost):,}), such as: {lost[0].reason}",
            "correct them in the file; `convert` lists all of them in rejects.jsonl",
            names,
        )
    for reject in rejects:
        if reject.kept:
            yield Finding("notice", "warning", 1, reject.reason, "see the message", [[reject.id]] if reject.id else [])


def _unread(names: Sequence[str]) -> Iterator[Finding]:
    if names:
        yield Finding(
            "unread_column",
            "info",
            len(names),
            f"the columns {', '.join(map(repr, names[:MAX_EXAMPLES]))} are not read",
            "if one is galleria's under another name, add --column galleria's=yours; for filters, --attribute NAME",
        )
