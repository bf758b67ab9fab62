"""What a server counts, in the text format that Prometheus reads (version 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


class Gauges:
    """Requests by path and status, and how long those to predict took; of one thread."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds = 0.0
        self.slots = [0] * (len(BOUNDS) + 1)

    def count(self, path: str, status: int) -> None:
        """Count a request; ``path`` is one of few, since each is kept."""
        self.requests[path, status] += 1

    def time(self, seconds: float) -> None:
        """Count a prediction that took so long, from the request's first byte to the answer."""
        self.seconds += seconds
        self.slots[bisect_left(BOUNDS, seconds)] += 1

    def text(self, waiting: int, rows: int, batches: int) -> str:
        """Return the page of metrics.

        >>> gauges = Gauges()
        >>> gauges.time(0.3)
        >>> print(gauges.text(0, 1, 1).splitlines()[-5])
        bam_predict_seconds_bucket{le="5"} 1
        """
        lines = _head("bam_requests_total", "counter", "Requests by path and status.")
        lines += [
            f'bam_requests_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self.requests.items())
        ]
        for name, kind, about, value in (
            ("bam_rows_total", "counter", "Rows computed.", rows),
            (
                "bam_batches_total",
                "counter",
                "Batches computed; rows over batches is how much is put together.",
                batches,
            ),
            ("bam_queue_rows", "gauge", "Rows that wait.", waiting),
        ):
            lines += [*_head(name, kind, about), f"{name} {value}"]
        lines += _head("bam_predict_seconds", "histogram", "Seconds from a request to predict to its answer.")
        total = 0
        for bound, count in zip([*(f"{bound:g}" for bound in BOUNDS), "+Inf"], self.slots, strict=True):
            total += count
            lines.append(f'bam_predict_seconds_bucket{{le="{bound}"}} {total}')
        lines += [f"bam_predict_seconds_sum {self.seconds:.6f}", f"bam_predict_seconds_count {total}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
