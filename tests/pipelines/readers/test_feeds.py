"""Product feeds become rows by the names of their specifications."""

from pathlib import Path

import pytest

from galleria.errors import ConfigurationError, DataError, SchemaError
from galleria.pipelines.readers.feeds import price_of, split_addresses
from galleria.pipelines.readers.shopify import plain_text
from tests.pipelines.readers.files import read, rows_of

GOOGLE = (
    "id\ttitle\tdescription\tlink\timage link\tadditional image link\tgoogle product category\tproduct_type\t"
    "availability\tprice\titem_group_id\n"
    '007\tRed 5" pan\tA "good" pan\thttps://s.example/7\thttps://s.example/7.jpg\t'
    "https://s.example/7b.jpg?a=1,2, https://s.example/7c.jpg\t2271\tHome & Garden > Kitchen > Pans\tin_stock\t"
    "12.00 EUR\t00070\n"
    "8\tBlue pan\t\t\thttps://s.example/8.jpg\t\tHome & Garden > Kitchen\t\tout_of_stock\t1,299.50 USD\t00070\n"
    "9\tNo picture\t\t\t\t\t\t\t\tfree\t\n"
)


def test_google_table_has_a_row_for_each_picture(tmp_path: Path) -> None:
    (tmp_path / "feed.txt").write_text(GOOGLE)

    rows, [reject] = read(tmp_path / "feed.txt", "text_guided", feed="google")

    assert [(row["id"], row["image"]) for row in rows] == [
        ("007", "https://s.example/7.jpg"),
        ("007/2", "https://s.example/7b.jpg?a=1,2"),
        ("007/3", "https://s.example/7c.jpg"),
        ("8", "https://s.example/8.jpg"),
    ]
    assert {row["product_id"] for row in rows} == {"00070"}
    assert [row["category"] for row in rows[2:]] == [
        ["Home & Garden", "Kitchen", "Pans"],
        ["Home & Garden", "Kitchen"],
    ]
    assert (rows[0]["title"], rows[0]["text"], rows[3]["text"]) == ('Red 5" pan', 'A "good" pan', "Blue pan")
    assert [(row["price"], row["currency"], row["availability"]) for row in rows[2:]] == [
        (12.0, "EUR", "in_stock"),
        (1299.5, "USD", "out_of_stock"),
    ]
    assert (reject.id, reject.kept) == ("9", False)
    assert "item 3 of the feed has no image_link" in reject.reason
    assert len({row["split"] for row in rows}) == 1


RSS = """<?xml version="1.0" encoding="{encoding}"?>
<rss xmlns:g="http://base.google.com/ns/1.0" version="2.0"><channel><title>Shop</title><link>https://s.example</link>
<item><g:id>007</g:id><title>Schürze &amp; Co</title><description><![CDATA[Ein <b>Stoff</b>]]></description>
<g:image_link>https://s.example/7.jpg</g:image_link>
<g:additional_image_link>https://s.example/7b.jpg</g:additional_image_link>
<g:additional_image_link>https://s.example/7c.jpg</g:additional_image_link>
<g:product_type>Home &gt; Pans</g:product_type>
<g:shipping><g:price>4.90 EUR</g:price></g:shipping><g:price>12.00 EUR</g:price></item>
<item><g:id>8</g:id><title>Other</title><g:image_link>https://s.example/8.jpg</g:image_link></item>
</channel></rss>"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
def test_google_xml_is_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "feed.xml").write_text(RSS.format(encoding=encoding), encoding=encoding)

    rows = rows_of(tmp_path / "feed.xml", "text_guided", feed="google")

    assert [row["id"] for row in rows] == ["007", "007/2", "007/3", "8"]
    assert (rows[0]["title"], rows[0]["text"]) == ("Schürze & Co", "Ein <b>Stoff</b>")
    assert (rows[0]["price"], rows[0]["currency"], rows[0]["category"]) == (12.0, "EUR", ["Home", "Pans"])
    assert "price" not in rows[3]


def test_atom_entries_are_read(tmp_path: Path) -> None:
    (tmp_path / "feed.xml").write_text(
        '<feed xmlns="http://www.w3.org/2005/Atom" xmlns:g="http://base.google.com/ns/1.0"><entry><g:id>1</g:id>'
        '<link href="https://s.example/1"/><g:image_link>https://s.example/1.jpg</g:image_link></entry></feed>'
    )

    [row] = rows_of(tmp_path / "feed.xml", "text_guided", feed="google")

    assert (row["id"], row["link"]) == ("1", "https://s.example/1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('<!DOCTYPE rss [<!ENTITY a SYSTEM "file:///etc/passwd">]><rss><item>&a;</item></rss>', "has a document type"),
        ("<rss><item><g:id>1</g:id></rss>", "is not well-formed XML"),
        ("<rss><channel/></rss>", "holds no <item> or <entry>"),
        ("<a>" * 100, "nests elements over 64 deep"),
    ],
)
def test_dangerous_or_other_xml_is_rejected(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "feed.xml").write_text(content)

    with pytest.raises(DataError, match=message):
        rows_of(tmp_path / "feed.xml", "text_guided", feed="google")


def test_meta_pictures_may_be_numbered(tmp_path: Path) -> None:
    (tmp_path / "feed.csv").write_text(
        "id,title,image[0].url,image[1].url,fb_product_category,price\n"
        "1,Pan,https://s.example/a.jpg,https://s.example/b.jpg,home > kitchen,9 GBP\n"
    )

    rows = rows_of(tmp_path / "feed.csv", "category_tree", feed="meta")

    assert [(row["id"], row["image"][-5:]) for row in rows] == [("1", "a.jpg"), ("1/2", "b.jpg")]
    assert (rows[0]["category"], rows[0]["price"]) == (["home", "kitchen"], 9.0)


def test_unreadable_price_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "feed.csv").write_text("id,image_link,price\n1,https://s.example/a.jpg,on request\n")

    [row], [notice] = read(tmp_path / "feed.csv", "text_guided", feed="google")

    assert row["price"] is None
    assert (notice.id, notice.kept) == ("1", True)
    assert "the price 'on request' is not an amount and a currency" in notice.reason


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("12.00 EUR", (12.0, "EUR")),
        ("EUR 12", (12.0, "EUR")),
        ("1,299.50 USD", (1299.5, "USD")),
        ("1.299,50 EUR", (1299.5, "EUR")),
        ("12,5", (12.5, None)),
        ("1'000 CHF", (1000.0, "CHF")),
        ("1,000 JPY", (1000.0, "JPY")),
        ("1.234.567 IDR", (1234567.0, "IDR")),
        ("free", (None, None)),
        ("-3 EUR", (None, None)),
        (None, (None, None)),
    ],
)
def test_price_is_amount_and_currency(text: str | None, price: tuple[float | None, str | None]) -> None:
    assert price_of(text) == price


def test_addresses_are_split_at_commas() -> None:
    assert split_addresses("https://a/1,2.jpg,https://b/3.jpg , http://c/d,") == [
        "https://a/1,2.jpg",
        "https://b/3.jpg",
        "http://c/d,",
    ]
    assert split_addresses("a.jpg, b.jpg,") == ["a.jpg", "b.jpg"]


def test_feed_without_its_columns_is_named(tmp_path: Path) -> None:
    (tmp_path / "feed.csv").write_text("sku,photo\n1,a.jpg\n")
    (tmp_path / "feed.xml").write_text("<rss/>")

    with pytest.raises(SchemaError, match=r"has no columns 'id' and 'image_link'.*\(its columns: sku, photo\)"):
        rows_of(tmp_path / "feed.csv", "text_guided", feed="google")
    with pytest.raises(SchemaError, match=r"has no column 'Handle', as Shopify's"):
        rows_of(tmp_path / "feed.csv", "text_guided", feed="shopify")
    with pytest.raises(ConfigurationError, match="'ebay' is not a known feed: use one of google, meta, shopify"):
        rows_of(tmp_path / "feed.csv", "text_guided", feed="ebay")
    with pytest.raises(ConfigurationError, match="video_event reads videos"):
        rows_of(tmp_path / "feed.csv", "video_event", feed="google")
    with pytest.raises(DataError, match="is XML: if it is a product feed, add --feed google"):
        rows_of(tmp_path / "feed.xml", "text_guided")


SHOPIFY = """Handle,Title,Body (HTML),Vendor,Product Category,Type,Variant SKU,Variant Price,\
Image Src,Image Position,Variant Image
red-pan,Red pan,"<p>A <b>red</b> pan,
with a lid.</p><style>p {}</style>",Pots & Co,Home & Garden > Kitchen,Pans,00042,19.90,https://c.example/2.jpg,2,\
https://c.example/v.jpg
red-pan,,,,,,00043,21.90,https://c.example/1.jpg,1,
red-pan,,,,,,00044,23.90,,,https://c.example/1.jpg
gift-card,Gift card,,,,Cards,G,10.00,,,
spoon,Spoon,,,,Cutlery,S,1.00,https://c.example/s.jpg,,
"""


def test_shopify_lines_become_pictures(tmp_path: Path) -> None:
    (tmp_path / "products_export.csv").write_text(SHOPIFY)

    rows, [reject] = read(tmp_path / "products_export.csv", "text_guided", feed="shopify")

    assert [(row["id"], row["product_id"], row["image"][-5:], row["sku"], row["price"]) for row in rows] == [
        ("red-pan/1", "red-pan", "1.jpg", "00044", 23.9),
        ("red-pan/2", "red-pan", "2.jpg", "00042", 19.9),
        ("red-pan/3", "red-pan", "v.jpg", "00042", 19.9),
        ("spoon/1", "spoon", "s.jpg", "S", 1.0),
    ]
    assert {row["title"] for row in rows[:3]} == {"Red pan"}
    assert (rows[0]["text"], rows[3]["text"]) == ("A red pan, with a lid.", "Spoon")
    assert [row["category"] for row in rows[2:]] == [["Home & Garden", "Kitchen"], ["Cutlery"]]
    assert (reject.id, reject.kept) == ("gift-card", False)
    assert "the product 'gift-card' has no picture" in reject.reason


def test_newer_shopify_columns_are_read(tmp_path: Path) -> None:
    (tmp_path / "export.csv").write_text(
        "Title,URL handle,Description,SKU,Price,Product image URL,Image position\nPan,pan,Good,0,3,https://c.example/p.jpg,1\n"
    )

    [row] = rows_of(tmp_path / "export.csv", "text_guided", feed="shopify")

    assert (row["id"], row["sku"], row["price"], row["text"]) == ("pan/1", "0", 3.0, "Good")


def test_html_becomes_its_text() -> None:
    assert plain_text("<ul><li>One</li><li>T&amp;wo</li></ul><script>x()</script> a<b>b</b>c") == "One T&wo abc"
