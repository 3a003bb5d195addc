"""Reads AVA (aesthetic visual analysis): `AVA.txt`, and the pictures in `images`."""

from collections.abc import Iterator

from galleria.learn.task import Row
from galleria.pipelines.readers.tree import Tree, official

MARKS = ("AVA.txt",)
TEST_LIST = "aesthetics_image_lists/generic_test.jpgl"
SCORES = range(1, 11)
GOOD = 5.0
"""Mean score above which a picture counts as good: the threshold of the data set's paper (Murray et al., 2012)."""


def read_ava(tree: Tree) -> Iterator[Row]:
    """Yield a row for each line: index, picture, the number of votes for each score from 1 to 10, and more.

    The test split is that of `aesthetics_image_lists/generic_test.jpgl`, where it is there.
    """
    test = {line[0] for line in tree.table(TEST_LIST, 1)} if tree.has(TEST_LIST) else None
    for fields in tree.table("AVA.txt", 13):
        picture, votes = fields[1], [int(field) for field in fields[2:12]]
        mean = sum(score * count for score, count in zip(SCORES, votes, strict=True)) / max(1, sum(votes))
        split = None if test is None else official("test" if picture in test else "train", picture)
        yield {
            "id": picture,
            "image": tree.path(f"images/{picture}.jpg"),
            "aesthetics": "high" if mean > GOOD else "low",
            "score": mean,
            "split": split,
        }
