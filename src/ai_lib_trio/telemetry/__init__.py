"""Telemetry: sinks that make log lines, metrics, spans and a live view of what records tell. Stands beside `client`.

    logger    one line a call, by the standard logging module        metrics  for a scrape, by prometheus-client
    tracing   spans and metrics, by OpenTelemetry                    health   what is well and what is not, and why
    feedback  what people said of replies                            observe  a running client, for `ailib top`

Imports types and trio; prometheus-client and OpenTelemetry where their sink is made. The rule that must stay true: a
sink does not wait, keeps what it keeps within a bound, and shows nothing that records do not tell.
"""

from .feedback import Feedback, FeedbackCollector
from .health import Health, HealthChecker
from .logger import CallLogger
from .metrics import MetricsCollector
from .observe import observe
from .tracing import Tracing

__all__ = [
    "CallLogger",
    "Feedback",
    "FeedbackCollector",
    "Health",
    "HealthChecker",
    "MetricsCollector",
    "Tracing",
    "observe",
]
