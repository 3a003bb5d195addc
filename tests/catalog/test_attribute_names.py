"""The attributes of a catalogue's items have a bounded number of names, which deleted items free again."""

from contextlib import closing

import numpy as np
import pytest

from galleria.catalog.attribute_names import AttributeNames
from galleria.catalog.items import upserts
from galleria.catalog.table import ProductTable
from galleria.catalog.writer import CatalogWriter
from galleria.errors import DataError
from tests.catalog.tables import HASH, create_table, rows, titles, unit

LIMIT = 6


def item(item_id, *names, title="a"):
    return {"id": item_id, "title": title, "attributes": dict.fromkeys(names, 1)}


def put(writer, *items):
    return writer.put(items, unit(len(items))).result()


@pytest.fixture
def writer(tmp_path):
    create_table(tmp_path / "t", rows("old", attributes={"colour": "red", "size": 3}))
    with closing(CatalogWriter(tmp_path / "t", max_attributes=LIMIT)) as writer:
        yield writer


def test_item_over_the_limit_is_rejected_alone(tmp_path, writer):
    fits, over, known = item("fits", "a", "b", "c"), item("over", "d", "e"), item("known", "size", "a")

    result = put(writer, fits, over, known)

    assert result.statuses == ("created", "rejected", "created")
    assert list(result.problems) == [1]
    for part in ("attribute 'd' is a new name", "has 5 of at most 6", "use a name that other items have"):
        assert part in result.problems[1]
    assert set(titles(ProductTable(tmp_path / "t"))) == {"old", "fits", "known"}
    assert put(writer, item("last", "d")).statuses == ("created",)
    assert put(writer, item("more", "e")).statuses == ("rejected",)


def test_rejected_update_leaves_item(tmp_path, writer):
    put(writer, item("x", "a", title="first"))

    assert put(writer, item("x", *"bcdefg", title="second")).statuses == ("rejected",)
    assert titles(ProductTable(tmp_path / "t"))["x"] == "first"
    assert put(writer, item("x", "a", title="first")).statuses == ("unchanged",)


@pytest.mark.parametrize("replaced", [True, False])
def test_names_of_former_items_are_free(writer, replaced):
    full = item("full", *"abcd")
    assert put(writer, full, item("over", "e")).statuses == ("created", "rejected")

    assert (put(writer, item("full", "a")) if replaced else writer.delete(["full"]).result()).version > 0

    assert put(writer, item("over", "e"), item("next", "f")).statuses == ("created", "created")


def test_names_are_counted_when_opened(tmp_path, writer):
    put(writer, item("full", *"abcd"))
    writer.delete(["old"]).result()
    writer.close()

    with closing(CatalogWriter(tmp_path / "t", max_attributes=LIMIT)) as again:
        assert put(again, item("x", "e", "f"), item("y", "g")).statuses == ("created", "rejected")


def test_names_of_other_writers_count(tmp_path, writer):
    ProductTable(tmp_path / "t").append(upserts([item("other", *"abcd")], unit(1), HASH))

    assert put(writer, item("x", "e"), item("y", "a")).statuses == ("rejected", "created")


def test_names_are_not_counted_all_the_time(tmp_path):
    now = 0.0
    table = create_table(tmp_path / "t", rows("a", attributes={"a": 1}))

    def clock():
        nonlocal now
        now += 1
        return now

    names = AttributeNames(2, clock)
    names.count(table, table.key_map())  # takes a second
    names.add({"b"})
    counts = 0
    for number in range(50):
        table = table.append(rows("a", attributes={"a": number}))
        names.make_space({"c"}, table, table.key_map())
        try:
            names.add({"c"})
        except DataError:
            continue
        counts += 1
        names = AttributeNames(2, clock)
        names.count(table, table.key_map())
        names.add({"b"})
    assert 1 <= counts <= 3


def test_table_over_the_limit_takes_known_names(tmp_path):
    many = {f"{number}": number for number in range(3 * LIMIT)}
    create_table(tmp_path / "t", upserts([{"id": "old", "attributes": many}], unit(1), HASH))

    with closing(CatalogWriter(tmp_path / "t", max_attributes=LIMIT)) as writer:
        result = writer.put([item("x", "3", "4"), item("y", "new")], np.repeat(unit(1), 2, axis=0)).result()
    assert result.statuses == ("created", "rejected")
