"""GET /metrics, for Prometheus: the counts of a relay in the text format it scrapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from amesh_relay.counts import Counts


class Gauges(Protocol):
    """What is there at this moment."""

    @property
    def sockets(self) -> int:
        """Accepted sockets."""

    @property
    def connections(self) -> int:
        """WebSockets among them."""

    @property
    def sessions(self) -> int:
        """Codes that wait or are in use."""

    is_draining: bool


class Metrics:
    """The metrics of one relay; nothing is kept here, each scrape reads what is."""

    content_type: Final = CONTENT_TYPE_LATEST

    def __init__(self, counts: Counts, gauges: Gauges) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Relay(counts, gauges))
        ProcessCollector(registry=self._registry)  # memory, CPU, open files: Linux only

    def text(self) -> bytes:
        """The answer to a scrape."""
        return generate_latest(self._registry)


class _Relay(Collector):
    def __init__(self, counts: Counts, gauges: Gauges) -> None:
        self._counts = counts
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        now, so_far = self._gauges, self._counts
        for name, told, value in (
            ("sockets", "Accepted sockets, before their handshake too.", now.sockets),
            ("connections", "WebSocket connections.", now.connections),
            ("sessions", "Codes that wait or are in use.", now.sessions),
            ("draining", "1 while the relay finishes pairings before it stops.", now.is_draining),
        ):
            yield GaugeMetricFamily(f"amesh_relay_{name}", told, float(value))
        for name, told, value in (
            ("sockets_accepted", "Sockets accepted.", so_far.sockets),
            (
                "sockets_refused",
                "Sockets cut at once, as there were too many.",
                so_far.refused_sockets,
            ),
            ("tokens_refused", "Wrong access tokens that were shown.", so_far.refused_tokens),
            ("messages", "Messages received.", so_far.messages),
            ("forwarded_bytes", "Characters of payload handed on.", so_far.forwarded_bytes),
            ("pairings", "Codes under which two devices met.", so_far.pairings),
            ("sessions_done", "Sessions that a device ended as done.", so_far.peers_done),
        ):
            yield CounterMetricFamily(f"amesh_relay_{name}", told, float(value))
        for name, told, label, counter in (
            ("errors", "Errors told to devices.", "code", so_far.errors),
            ("bootstrap", "Frames of bootstrap tokens, by outcome.", "outcome", so_far.bootstrap),
        ):
            family = CounterMetricFamily(f"amesh_relay_{name}", told, labels=[label])
            for value_of_label, count in sorted(counter.items()):
                family.add_metric([value_of_label], float(count))
            yield family
