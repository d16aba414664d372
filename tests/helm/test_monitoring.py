"""Metrics and alerts distinguish stacks and models, and a runbook is a URL."""

from __future__ import annotations

import re

from tests.helm.render import component, of_kind, rendered, template

CELL = "instruct 60 s on H100, KEDA, monitored, from zero"
META = re.compile("__meta_kubernetes_service_(label|annotation)_(.+)")


def test_scraped_metrics_carry_stack_and_model() -> None:
    objects = rendered("helm-4", "antiphon", CELL)
    services = {component(found): found["metadata"] for found in of_kind(objects, "Service")}
    for monitor in of_kind(objects, "ServiceMonitor"):
        (endpoint,) = monitor["spec"]["endpoints"]
        written: dict[str, str] = {}
        for rule in endpoint["relabelings"]:
            (source,) = rule["sourceLabels"]
            match = META.fullmatch(source)
            assert match
            given = services[component(monitor)].get(f"{match[1]}s", {})
            named = {re.sub("[^a-zA-Z0-9]", "_", key): value for key, value in given.items()}
            written[rule["targetLabel"]] = named.get(match[2], "")
        served = "Qwen3-Omni-30B-A3B-Instruct" if component(monitor) in ("preprocess", "thinker", "talker") else ""
        assert written == {"stack": "rel", "model": served}


def test_a_runbook_is_a_url_if_a_base_is_given() -> None:
    (rules,) = of_kind(rendered("helm-4", "antiphon", CELL), "PrometheusRule")
    for group in rules["spec"]["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                url = f"https://wiki.example/antiphon/runbook#{rule['alert'].lower()}"
                assert rule["annotations"]["runbook_url"] == url
                assert "runbook" not in rule["annotations"]


def test_a_runbook_is_a_path_by_default() -> None:
    ended = template("helm-4", "antiphon", {"alerts": {"enabled": True}})
    assert ended.returncode == 0, ended.stderr
    assert "runbook: docs/runbook.md#antiphonerrors" in ended.stdout
    assert "runbook_url" not in ended.stdout
