import sys

import pytest

from hardening.deployment import measure
from hardening.deployment.measure import latency, memory
from hardening.deployment.session import Session
from hardening.errors import ModelError


def test_a_call_is_timed_at_each_batch_size(floats, tools, monkeypatch):
    """By a clock on which the first call at each batch size takes 11 ms and nine others 1 ms."""
    calls = 3 * [(0.0, 0.011), *9 * [(0.0, 0.001)]]
    now = iter([moment for call in calls for moment in call])
    monkeypatch.setattr(measure, "perf_counter", lambda: next(now))

    found = latency(Session(floats["plain"]), tools.shape, seconds=0)

    assert [entry.batch for entry in found] == [1, 8, 32]
    for entry in found:
        assert entry.p50_ms == pytest.approx(1)
        assert 1 < entry.p95_ms < 11
        assert entry.images_per_second == pytest.approx(entry.batch * 10 / 0.020)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_the_file_s_alone_and_grows_with_the_batch(floats, tools):
    """4096 images of 3 x 16 x 16 are 12.6 MB, their first feature map is 33.6 MB."""
    session = Session(floats["plain"])
    one, many = (memory(session, tools.shape, batch) for batch in (1, 4096))

    assert 0 < one.peak_bytes < 60e6
    assert 30e6 < many.peak_bytes - one.peak_bytes < 300e6


def test_a_file_that_does_not_run_has_no_memory(floats):
    with pytest.raises(ModelError, match="memory of the file could not be measured: "):
        memory(Session(floats["plain"]), (5, 16, 16))


def test_elsewhere_memory_is_not_measured(floats, tools, monkeypatch):
    monkeypatch.setattr(measure.sys, "platform", "darwin")

    assert memory(Session(floats["plain"]), tools.shape) is None
