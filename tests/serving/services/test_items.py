"""Writes over HTTP: a written item is found, a deleted one is not, and bad items do not harm good ones."""

import base64
import json
import shutil

import numpy as np
import pytest

from galleria.catalog.live import LiveCatalog
from galleria.catalog.table import ProductTable
from galleria.catalog.writer import WriteResult
from galleria.errors import CatalogFullError
from galleria.pipelines.build_index import build_index
from galleria.serving.config import SEARCH, ServiceConfig
from galleria.serving.inference.types import Prediction
from galleria.serving.retrieval.searcher import LocalSearcher
from galleria.serving.schemas.problems import unavailable
from tests.drawings import drawing
from tests.serving.conftest import FakeModel, ask, fake_app, local_app, problem


@pytest.fixture
def config(catalogue, tmp_path):
    """A service on a catalogue that a test may write to, with a store of two pictures."""
    shutil.copytree(catalogue.config.table, tmp_path / "table.lance")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.png").write_bytes(drawing(801))
    (tmp_path / "secret.png").write_bytes(drawing(802))
    (tmp_path / "store" / "link.png").symlink_to(tmp_path / "secret.png")
    return catalogue.config.model_copy(
        update={"table": str(tmp_path / "table.lance"), "writable": True, "stores": (f"file://{tmp_path}/store",)}
    )


@pytest.fixture
def app(config, catalogue):
    return local_app(config, {SEARCH: catalogue.bundle})


def encoded(seed: int) -> str:
    return base64.b64encode(drawing(seed)).decode()


def put(app, *items):
    answer = ask(app, "PUT", "/v1/items", json={"items": list(items)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def statuses(answer):
    return [item["status"] for item in answer["items"]]


def search(app, **query):
    answer = ask(app, "POST", "/v1/search", json=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_written_item_is_found_by_picture(app):
    fields = {"title": "New", "category": ["Shoes", "Boots"], "attributes": {"colour": "green", "price": 12.5}}
    written = put(app, {"id": "new/1", "image": encoded(700), **fields})

    found = search(app, image=encoded(700), k=1, min_version=written["version"])

    assert statuses(written) == ["created"]
    assert found["hits"][0]["id"] == "new/1"
    assert found["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert {name: found["hits"][0]["item"][name] for name in fields} == fields
    assert found["catalog"]["version"] >= written["version"]
    assert ask(app, "GET", "/v1/items/new%2F1").json()["item"]["title"] == "New"
    assert ask(app, "GET", "/v1/items/new%2F1/image").content == drawing(700)


def test_put_replaces_item_and_skips_unchanged(app):
    first = put(app, {"id": "x", "image": encoded(700), "title": "A"})
    again = put(app, {"id": "x", "image": encoded(700), "title": "A"})
    other = put(app, {"id": "x", "image": encoded(701), "title": "A"})
    count = search(app, image=encoded(701), k=1, min_version=other["version"])["catalog"]["count"]

    assert [statuses(answer) for answer in (first, again, other)] == [["created"], ["unchanged"], ["updated"]]
    assert again["version"] == first["version"] < other["version"]
    assert count == search(app, vector=[1] * 32, k=1)["catalog"]["count"]
    hits = search(app, image=encoded(700), k=50)["hits"]
    assert [hit["id"] for hit in hits].count("x") == 1


def test_own_vector_is_content(app):
    ones, twos = [1.0] * 32, [1.0] * 31 + [-1.0]
    answers = [put(app, {"id": "v", "vector": vector}) for vector in (ones, ones, twos)]
    answers += [put(app, {"id": "v", "image": encoded(5), "vector": vector}) for vector in (ones, ones, twos)]
    assert [statuses(answer)[0] for answer in answers] == [
        "created",
        "unchanged",
        "updated",
        "updated",
        "unchanged",
        "updated",
    ]
    found = search(app, vector=twos, k=1, min_version=answers[-1]["version"])["hits"][0]
    assert (found["id"], found["score"]) == ("v", pytest.approx(1, abs=1e-5))


def test_deleted_item_stays_deleted(app, config, catalogue):
    deleted = catalogue.ids[0]
    answer = ask(app, "DELETE", f"/v1/items/{deleted}")

    assert (answer.status_code, statuses(answer.json())) == (200, ["deleted"])
    version = answer.json()["version"]
    problem(ask(app, "GET", f"/v1/items/{deleted}?min_version={version}"), 404)
    found = search(app, vector=catalogue.vectors[0].tolist(), k=50, min_version=version)
    assert deleted not in [hit["id"] for hit in found["hits"]]
    again = ask(app, "DELETE", f"/v1/items/{deleted}")
    assert (again.status_code, statuses(again.json())) == (200, ["absent"])
    assert ProductTable(config.table).item(deleted) is None


def test_bad_item_is_rejected_with_reason(app):
    answer = put(
        app,
        {"id": "good", "image": encoded(703)},
        {"id": "no picture", "image": base64.b64encode(b"<svg/>").decode()},
        {"id": "nothing"},
        {"image": encoded(1)},
        {"id": "x" * 513, "image": encoded(1)},
        {"id": "two", "image": encoded(1), "image_uri": "file:///a.png"},
        {"id": "nested", "image": encoded(1), "attributes": {"a": {"b": 1}}},
        {"id": "unknown", "image": encoded(1), "colour": "red"},
        {"id": "short", "vector": [1.0, 2.0]},
        {"id": "zero", "vector": [0.0] * 32},
        {"id": "vector", "vector": [2.0] * 32},
    )

    reasons = {item["id"]: item["problem"] for item in answer["items"] if item["status"] == "rejected"}
    assert statuses(answer) == ["created", *["rejected"] * 9, "created"]
    for name, message in {
        "no picture": "not a picture",
        "nothing": "has no content to embed",
        None: "id: Field required",
        "x" * 513: "1 to 512 bytes",
        "two": "both image and image_uri",
        "nested": "attributes.a",
        "unknown": "colour: Extra inputs",
        "short": "vector has 2 values, the catalogue has 32",
        "zero": "all zero",
    }.items():
        assert message in reasons[name], reasons[name]
    found = search(app, vector=[1.0] * 32, k=1, min_version=answer["version"])
    assert found["hits"][0]["id"] == "vector"


def test_image_uri_must_be_in_allowed_store(app, config):
    store = config.stores[0]
    answer = put(
        app,
        *(
            {"id": str(index), "image_uri": uri}
            for index, uri in enumerate(
                [
                    f"{store}/a.png",
                    f"{store}/../secret.png",
                    f"{store}/%2e%2e/secret.png",
                    f"{store}/link.png",
                    f"{store}/none.png",
                    f"{store}2/a.png",
                    "file:///etc/passwd",
                    "http://127.0.0.1:1/a.png",
                    "s3://bucket/a.png",
                ]
            )
        ),
    )
    assert statuses(answer) == ["created", *["rejected"] * 8]
    assert ask(app, "GET", f"/v1/items/0/image?v={answer['version']}").status_code in (200, 404)
    assert "is not in a store that this service reads" in answer["items"][6]["problem"]
    assert "through a link" in answer["items"][3]["problem"]
    foreign = [answer["items"][index]["problem"] for index in range(5, 9)]
    assert not any(store in reason for reason in foreign[1:])


def test_put_is_503_while_store_is_down(app, config, tmp_path):
    (tmp_path / "store").rename(tmp_path / "away")
    items = [{"id": "p", "image_uri": f"{config.stores[0]}/a.png"}, {"id": "q", "vector": [1.0] * 32}]
    answer = ask(app, "PUT", "/v1/items", json={"items": items})
    assert "try again" in problem(answer, 503)["detail"]
    assert str(tmp_path) not in answer.text
    problem(ask(app, "GET", "/v1/items/q"), 404)
    (tmp_path / "away").rename(tmp_path / "store")
    assert statuses(put(app, *items)) == ["created", "created"]


def test_image_uris_of_a_request_are_bounded(config, catalogue):
    size = len(drawing(801))
    limits = config.limits.model_copy(update={"batch_bytes": 2 * size + 1})
    app = local_app(config.model_copy(update={"limits": limits}), {SEARCH: catalogue.bundle})
    uri = f"{config.stores[0]}/a.png"
    answer = put(app, *({"id": f"p{number}", "image_uri": uri} for number in range(30)))
    assert sorted(statuses(answer)) == ["created"] * 2 + ["rejected"] * 28
    reasons = {item["problem"] for item in answer["items"] if item["status"] == "rejected"}
    assert reasons == {
        f"the pictures that this request names by image_uri have more than {2 * size + 1:,} bytes: send the item in "
        "another request"
    }
    assert statuses(put(app, {"id": "p30", "image_uri": uri}, {"id": "p31", "vector": [1.0] * 32})) == ["created"] * 2


def test_write_is_audited(config, catalogue, tmp_path):
    app = local_app(config.model_copy(update={"audit": str(tmp_path / "audit.jsonl")}), {SEARCH: catalogue.bundle})
    version = put(app, {"id": "a", "vector": [1.0] * 32}, {"id": "b"})["version"]
    ask(app, "DELETE", "/v1/items/a", headers={"x-request-id": "mine"})
    search(app, vector=[1.0] * 32)
    first, second = (json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines())
    assert (first["method"], first["version"], first["ids"]) == ("PUT", version, ["a"])
    assert (first["statuses"], first["key"]) == (["created"], "")
    assert (second["method"], second["request_id"], second["ids"]) == ("DELETE", "mine", ["a"])


def test_every_id_of_a_write_is_audited(config, catalogue, tmp_path):
    app = local_app(config.model_copy(update={"audit": str(tmp_path / "audit.jsonl")}), {SEARCH: catalogue.bundle})
    put(app, *({"id": f"audited {number}", "vector": [1.0] * 32} for number in range(25)))

    [line] = map(json.loads, (tmp_path / "audit.jsonl").read_text().splitlines())
    assert line["ids"] == [f"audited {number}" for number in range(25)]
    assert line["table"] == config.table


def test_write_succeeds_without_audit_file(config, catalogue, tmp_path):
    app = local_app(config.model_copy(update={"audit": str(tmp_path)}), {SEARCH: catalogue.bundle})
    assert statuses(put(app, {"id": "a", "vector": [1.0] * 32})) == ["created"]


def test_filter_returns_all_matches(app):
    items = [
        {"id": f"f{n}", "vector": np.eye(32)[n].tolist(), "attributes": {"price": n, "even": n % 2 == 0}}
        for n in range(20)
    ]
    version = put(app, *items)["version"]

    found = search(
        app, vector=[-1.0] * 32, k=50, filter={"even": True, "price": {"$gte": 4, "$lt": 9}}, min_version=version
    )

    assert sorted(hit["id"] for hit in found["hits"]) == ["f4", "f6", "f8"]
    body = problem(ask(app, "POST", "/v1/search", json={"vector": [1.0] * 32, "filter": {"a": {"$like": 1}}}), 422)
    assert "'$like'" in body["detail"]
    form = {"filter": '{"even": true}', "k": "50", "min_version": str(version)}
    by_form = ask(app, "POST", "/v1/search", data=form, files={"image": drawing(1)})
    assert len(by_form.json()["hits"]) == 10


def test_catalogue_describes_version_and_index(app):
    before = ask(app, "GET", "/v1/catalog").json()
    version = put(app, {"id": "late", "vector": [1.0] * 32})["version"]
    search(app, vector=[1.0] * 32, k=1, min_version=version)
    after = ask(app, "GET", "/v1/catalog").json()

    assert (before["unindexed"], after["unindexed"]) == (0, 1)
    assert after["count"] == before["count"] + 1
    assert after["version"] == version > before["index_version"] == after["index_version"]
    assert after["shards"] == [{"kind": "Flat", "indexed": before["count"], "unindexed": 1}]


def test_missing_shard_makes_response_partial(config, catalogue, tmp_path):
    build_index(ProductTable(config.table), tmp_path / "three", shards=3)
    some = LiveCatalog(config.table, tmp_path / "three", catalogue.bundle.hash, shards=(0, 2))
    searcher = LocalSearcher(some, threads=1)
    answer = ask(
        fake_app(FakeModel(RuntimeError()), searcher), "POST", "/v1/search", json={"vector": [1.0] * 32}
    ).json()
    assert (answer["partial"], answer["shards"]) == (True, {"searched": 2, "total": 3})


def test_unknown_version_is_503(app, config, catalogue):
    quick = local_app(config.model_copy(update={"version_timeout_s": 0.05}), {SEARCH: catalogue.bundle})
    answer = ask(quick, "POST", "/v1/search", json={"vector": [1.0] * 32, "min_version": 10_000})
    assert "not yet at 10000" in problem(answer, 503)["detail"]
    assert answer.headers["retry-after"] == "1"


def test_item_missing_in_canary_is_reported():
    """A client's vector is of the main release's model; the canary's embeds what it can."""
    written = []

    class Writer:
        async def put(self, puts, _origin):
            written.append([[item["id"] for item in put.items] for put in puts])
            return [
                WriteResult(version, ("created",) * len(put.items)) for version, put in zip((8, 4), puts, strict=True)
            ]

    found, other = (Prediction(name, {"embedding": np.array([1, 0], np.float32)}) for name in ("h1", "h2"))
    app = fake_app(FakeModel(found), canary=FakeModel(other, "h2"), writer=Writer())

    answer = put(app, {"id": "own", "vector": [1, 0]}, {"id": "shoe", "text": "red shoe"}, {"id": "bad"})

    assert statuses(answer) == ["created", "created", "rejected"]
    own, shoe, bad = (item["problem"] for item in answer["items"])
    assert own == (
        "it is not in the catalogue of search@2: its vector is of another model, and it has no picture or text"
    )
    assert shoe is None
    assert "no content to embed" in bad
    assert (answer["version"], answer["releases"]) == (8, ["search@2"])
    assert written == [[["own", "shoe"], ["shoe"]]]
    assert put(app, {"id": "bad"})["version"] == 7, "of the main release"


def test_read_only_service_rejects_writes():
    app = fake_app(FakeModel(RuntimeError()))
    for method, path in (("PUT", "/v1/items"), ("DELETE", "/v1/items/a")):
        assert "does not write" in problem(ask(app, method, path, json={"items": [{"id": "a"}]}), 403)["detail"]


class FullWriter:
    """A disk with no room."""

    async def put(self, puts, origin):
        raise CatalogFullError("/srv/secret/table.lance is on a full disk: free some space; reads still work")

    async def delete(self, locations, ids, origin):
        raise CatalogFullError("/srv/secret/table.lance is on a full disk: free some space; reads still work")


def test_full_disk_is_507():
    app = fake_app(FakeModel(RuntimeError()), writer=FullWriter())
    answer = ask(app, "PUT", "/v1/items", json={"items": [{"id": "a", "vector": [1, 0]}]})
    assert problem(answer, 507)["type"] == "urn:galleria:problem:catalogue-full"
    assert "secret" not in answer.text
    assert "free some space" in problem(ask(app, "DELETE", "/v1/items/a"), 507)["detail"]
    assert ask(app, "POST", "/v1/search", json={"vector": [1, 0]}).status_code == 200


def test_failed_model_writes_nothing(config, catalogue):
    app = fake_app(FakeModel(unavailable("the model is away")), writer=FullWriter())
    problem(ask(app, "PUT", "/v1/items", json={"items": [{"id": "a", "image": encoded(1)}]}), 503)


def test_too_many_items_are_rejected(app, config):
    limit = config.limits.batch_items
    answer = ask(app, "PUT", "/v1/items", json={"items": [{"id": "a"}] * (limit + 1)})
    assert f"over the limit of {limit}" in problem(answer, 422)["detail"]
    problem(ask(app, "PUT", "/v1/items", json={"items": []}), 422)
    plain = {"content-type": "application/json"}
    problem(ask(app, "PUT", "/v1/items", content=b"{", headers=plain), 400)
    half = b'{"items": [{"id": "\\ud800", "vector": [1.0]}]}'
    problem(ask(app, "PUT", "/v1/items", content=half, headers=plain), 400)


def test_write_needs_a_catalogue():
    with pytest.raises(ValueError, match="writable needs a catalogue"):
        ServiceConfig(models={"mood": "m"}, writable=True)


def test_query_by_item_excludes_the_item(app, catalogue):
    first = catalogue.ids[0]
    found = search(app, item=first, k=5)["hits"]
    near = search(app, vector=catalogue.vectors[0].tolist(), k=6)["hits"]
    assert [hit["id"] for hit in found] == [hit["id"] for hit in near if hit["id"] != first][:5]
    answer = ask(app, "POST", "/v1/search", json={"item": "nobody"})
    assert "has no item 'nobody'" in problem(answer, 422)["detail"]


def test_mix_is_weighted_sum_of_parts(app, catalogue):
    one, other = catalogue.vectors[3], catalogue.vectors[8]
    parts = [{"vector": (5 * one).tolist(), "weight": 2}, {"item": catalogue.ids[8], "weight": -0.5}]
    found = search(app, mix=parts, k=4)["hits"]
    mixed = 2 * one - 0.5 * other
    scores = catalogue.vectors @ (mixed / np.linalg.norm(mixed))
    scores[8] = -2  # the item itself is left out
    np.testing.assert_allclose([hit["score"] for hit in found], np.sort(scores)[::-1][:4], atol=1e-5)
    pictures = [{"image": encoded(5)}, {"text": "thing number 7", "weight": 0.5}]
    assert len(search(app, mix=pictures, k=3)["hits"]) == 3


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"mix": [{"vector": [1.0] * 32}, {"vector": [1.0] * 32, "weight": -1}]}, "cancel each other out"),
        ({"mix": [{"vector": [1.0] * 32, "weight": 0}]}, "is 0: leave the part out"),
        ({"mix": []}, "mix"),
        ({"mix": [{"vector": [1.0]}] * 17}, "at most 16"),
        ({"mix": [{"item": "a", "text": "b"}]}, "not text and item"),
        ({"mix": [{"text": "x" * 101}]}, "over the limit of 100"),
        ({"item": "a", "text": "b"}, "image, text, vector, item and mix, not text and item"),
        ({"item": "a", "level_weights": [1]}, "level_weights"),
        ({"vector": [1.0] * 32, "k": 30, "offset": 21}, "offset"),
        ({"vector": [1.0] * 32, "offset": -1}, "offset"),
    ],
)
def test_meaningless_query_is_rejected(app, query, message):
    assert message in problem(ask(app, "POST", "/v1/search", json=query), 422)["detail"]


def test_offset_and_min_score_bound_the_hits(app, catalogue):
    vector = catalogue.vectors[5].tolist()
    whole = search(app, vector=vector, k=20)["hits"]
    parts = [search(app, vector=vector, k=8, offset=offset)["hits"] for offset in (0, 8, 16)]
    assert [hit for part in parts for hit in part][:20] == whole
    middle = (whole[6]["score"] + whole[7]["score"]) / 2
    assert search(app, vector=vector, k=20, min_score=middle)["hits"] == whole[:7]
    assert search(app, vector=vector, k=20, min_score=1.5)["hits"] == []
