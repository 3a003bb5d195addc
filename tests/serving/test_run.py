"""What happens while the service runs: an outage that goes on ends its process."""

import itertools

import pytest

from galleria.errors import ConfigurationError
from galleria.serving.run import OutageMonitor


def test_outage_that_goes_on_is_raised():
    causes = [None, "a", None, "b", "b"]
    times = itertools.count(0, 10)
    monitor = OutageMonitor(iter(causes).__next__, limit_s=15, clock=times.__next__)
    for _ in causes[:-1]:
        monitor.check()
    with pytest.raises(ConfigurationError, match="down for 15 s: b"):
        monitor.check()
