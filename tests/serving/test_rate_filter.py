import logging

from galleria.serving.rate_filter import RateFilter


def test_first_of_a_kind_passes_each_second():
    now = 0.0
    rate = RateFilter(lambda: now)

    def passes(kind: str) -> str | None:
        record = logging.makeLogRecord({"msg": "%s", "args": ("busy",), "kind": kind})
        return record.getMessage() if rate.filter(record) else None

    assert [passes("a"), passes("a"), passes("b"), passes("a")] == ["busy", None, "busy", None]
    now = 1.0
    assert passes("a") == "busy (2 more like it were not logged)"
    now = 2.5
    assert [passes("a"), passes("a")] == ["busy", None]
