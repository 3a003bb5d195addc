"""The report's page shows every score next to its baseline, and takes nothing as HTML."""

from galleria.report.page import report_page


def score(value: float, spread: float = 0.05) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread, "count": 40, "dropped": 0}


def report(**families: object) -> dict[str, object]:
    return {
        "families": families,
        "duration_s": 600.0,
        "seconds": dict.fromkeys(families, 61.2),
        "bundles": dict.fromkeys(families, "0123456789abcdef"),
        "checks": {"words <b>are</b> answered": True, "pictures": False},
        "versions": {"ray": "2.60.0"},
    }


def test_page_shows_scores_and_baseline() -> None:
    page = report_page(
        report(
            text_guided={
                "frozen": {"noto": {"R@1": score(0.25)}},
                "trained": {"noto": {"R@1": score(0.5)}, "all": {"ECE": score(0.125)}},
            }
        )
    )

    assert "<td>noto R@1</td>" in page
    assert "25.0 <small>20.0 – 30.0</small>" in page
    assert "<b>50.0</b> <small>45.0 – 55.0, 40</small>" in page
    assert "<td>ECE</td>\n<td>–</td>" in page
    assert "10 minutes" in page
    assert "61 s · bundle 0123456789ab<" in page


def test_page_escapes_names_and_shows_failures() -> None:
    page = report_page(report(family={"frozen": {}, "trained": {}}))

    assert "words &lt;b&gt;are&lt;/b&gt; answered</li>" in page
    assert "<li>pictures: no</li>" in page
    assert "<script" not in page
    assert "http" not in page.replace("Checked over HTTP", "")
