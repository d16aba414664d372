"""All metrics: those of a running stack's services, and those that third-party exporters provide."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from tests.fixtures.stack import Stack

# services/scaler runs only on clusters, so no stack here has its metrics; test_metrics compares with its module.
SCALER = {
    f"antiphon_scaler_{name}": frozenset({"stage", "model"})
    for name in (
        "queue_depth",
        "queue_head_age_seconds",
        "slots_busy",
        "slots_total",
        "workers",
        "arrival_rate",
        "wanted_replicas",
        "failed_looks_total",
    )
}
# The control plane is no part of a stack either.
CONTROL = {
    "antiphon_control_keys": frozenset[str](),
    "antiphon_control_watchers": frozenset[str](),
    "antiphon_control_database_errors_total": frozenset[str](),
    "antiphon_ledger_records_total": frozenset({"result"}),
    "antiphon_ledger_waiting_records": frozenset[str](),
    "antiphon_ledger_lag_seconds": frozenset[str](),
    "antiphon_ledger_events_total": frozenset({"outcome"}),
    "antiphon_ledger_waiting_events": frozenset[str](),
}
FOREIGN = {
    # NVIDIA's dcgm-exporter; with pod and namespace if it maps GPUs to pods
    "DCGM_FI_DEV_FB_USED": frozenset({"gpu", "pod"}),
    "DCGM_FI_DEV_GPU_UTIL": frozenset({"gpu", "pod"}),
    "DCGM_FI_DEV_POWER_USAGE": frozenset({"gpu", "pod"}),
    "DCGM_FI_DEV_XID_ERRORS": frozenset({"gpu", "pod", "exported_pod", "exported_namespace"}),
    # kube-state-metrics
    "kube_horizontalpodautoscaler_spec_max_replicas": frozenset({"horizontalpodautoscaler"}),
    "kube_deployment_spec_replicas": frozenset({"deployment"}),
    "kube_statefulset_replicas": frozenset({"statefulset"}),
    "kube_horizontalpodautoscaler_status_current_replicas": frozenset({"horizontalpodautoscaler"}),
    # Prometheus itself
    "up": frozenset({"model"}),
    # Recording rules of alerts.yaml
    "antiphon:pods_wanted": frozenset({"stage", "model"}),
    "antiphon:removed": frozenset({"stage", "model"}),
    "antiphon:gpu_xid": frozenset({"pod", "gpu", "xid"}),
}
FROM_SCRAPING = frozenset({"job", "instance", "namespace", "service", "stack"})
"""Labels that Prometheus puts on every series."""


@dataclass
class Family:
    """A metric of a service, as on /metrics."""

    name: str
    kind: str
    help: str
    labels: set[str] = field(default_factory=set[str])
    """Of its samples; empty where it has none yet."""
    has_samples: bool = False

    @property
    def series(self) -> set[str]:
        """Return the series names that PromQL may use."""
        if self.kind == "histogram":
            return {f"{self.name}{end}" for end in ("_bucket", "_sum", "_count")}
        return {self.name}


def scrape(stack: Stack, service: str) -> dict[str, Family]:
    """Return all metrics of the service's port, by name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.metrics_ports[service]}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    families: dict[str, Family] = {}
    for parsed in text_string_to_metric_families(text):
        name = f"{parsed.name}_total" if parsed.type == "counter" else parsed.name
        family = families[name] = Family(name, parsed.type, parsed.documentation)
        for sample in parsed.samples:
            family.has_samples = True
            family.labels |= set(sample.labels) - {"le"}
    return {name: family for name, family in families.items() if not name.endswith("_created")}
