"""Counts of the server, in Prometheus's text format."""

import re

from bam_lightning.inference.serving.gauges import BOUNDS, Gauges

LINE = re.compile(r'^([a-z_]+)(\{[a-z]+="[^"\\]*"(,[a-z]+="[^"\\]*")*\})? ([0-9.e+-]+)$')


def test_the_histogram_is_cumulative_and_a_bound_belongs_to_its_bucket():
    gauges = Gauges()
    for seconds in (0.001, 0.0011, 0.3, 99.0):
        gauges.time(seconds)
    lines = gauges.text(waiting=5, rows=7, batches=3).splitlines()
    counts = [int(line.rsplit(" ", 1)[1]) for line in lines if "_bucket" in line]
    assert counts == [1, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 4]
    assert len(counts) == len(BOUNDS) + 1
    assert lines[-2:] == ["bam_predict_seconds_sum 99.302100", "bam_predict_seconds_count 4"]
    assert {"bam_rows_total 7", "bam_batches_total 3", "bam_queue_rows 5"} <= set(lines)


def test_every_line_is_one_that_prometheus_reads():
    gauges = Gauges()
    gauges.count("/predict", 200)
    gauges.count("/predict", 200)
    gauges.count("other", 404)
    text = gauges.text(0, 0, 0)
    assert text.endswith("\n")
    assert 'bam_requests_total{path="/predict",status="200"} 2\n' in text
    typed = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            typed.add(line.split()[2])
        elif not line.startswith("# HELP "):
            name = LINE.match(line).group(1)
            assert name in typed or name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") in typed
