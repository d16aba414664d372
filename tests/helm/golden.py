"""The charts' renders, reduced to the fields that operators care about, so that a review shows each change.

`python -m tests.helm.golden` (make golden) writes tests/helm/golden/. One file has the umbrella chart with its
defaults; each other file has what its values change. Other tests check what all pods share: security, probes, labels.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

from tests.helm.cells import Values, sized
from tests.helm.render import Object, container_of, pod_of, template, workloads

FOLDER = Path(__file__).with_name("golden")
DEFAULTS = "defaults"
_KEDA: Values = {name: {"autoscaling": {"type": "keda"}} for name in ("preprocess", "thinker", "talker")}

PROFILES: dict[str, Values] = {
    DEFAULTS: {},
    "l4": sized("instruct", 15, "l4-24gb"),
    "l40s": sized("instruct", 30, "l40s-48gb"),
    "a100-40gb": sized("instruct", 60, "a100-40gb", "a100-40gb-mig-3g.20gb"),
    "a100-80gb": sized("thinking", 30, "a100-80gb"),
    "h100-mig-talker-keda": {
        **sized("instruct", 60, "h100-80gb", "h100-80gb-mig-1g.20gb"),
        **_KEDA,
        "scaler": {"podDeletionCost": {"enabled": True}},
    },
    "h200-mig-talker": sized("instruct", 120, "h200-141gb", "h200-141gb-mig-1g.35gb"),
    "b200-mig-talker": sized("instruct", 120, "b200-180gb", "b200-180gb-mig-1g.23gb"),
    "modelscope": {"global": {"weights": {"download": {"source": "modelscope"}}}},
    "control-postgresql": {
        "control": {
            "enabled": True,
            "replicas": 2,
            "database": {"host": "db.example", "passwordSecret": {"name": "database"}},
        },
    },
    "control-sqlite": {"control": {"enabled": True}},
    "l4-four-nodes-keda": sized("thinking", 60, "l4-24gb", nodes=(2, 4)) | _KEDA,
}
"""File → values of the umbrella chart."""


def objects_of(values: Values) -> tuple[Object, ...]:
    ended = template("helm-4", "antiphon", values)
    assert ended.returncode == 0, ended.stderr
    return tuple(item for item in yaml.load_all(ended.stdout, yaml.CSafeLoader) if item)


def digest(objects: tuple[Object, ...]) -> dict[str, Any]:
    """Return "kind name" → the relevant fields of that object."""
    found: dict[str, Any] = {}
    for item in objects:
        found[f"{item['kind']} {item['metadata']['name']}"] = _of_kind(item)
    for item in workloads(objects, "Deployment", "LeaderWorkerSet", "Job"):
        found.setdefault(f"{item['kind']} {item['metadata']['name']}", {}).update(_pod(item))
    for name in [name for name in found if name.startswith("LeaderWorkerSet") and name.endswith("-follower")]:
        leader = found[name.removesuffix("-follower")]
        found[name] = {key: value for key, value in found[name].items() if leader[key] != value} or "as its leader"
    return dict(sorted(found.items()))


def _of_kind(item: Object) -> dict[str, Any]:
    spec = item.get("spec", {})
    match item["kind"]:
        case "NetworkPolicy":
            return {side: [_rule(rule) for rule in spec.get(side, ())] for side in ("ingress", "egress")}
        case "Service":
            ports = " ".join(f"{port['name']}:{port['port']}" for port in spec["ports"])
            return {"ports": ports, "clusterIP": spec.get("clusterIP", "one"), "selector": _short(spec["selector"])}
        case "Deployment":
            return {"replicas": spec.get("replicas", "scaled"), "rollout": _rollout(spec["strategy"])}
        case "LeaderWorkerSet":
            of = spec["leaderWorkerTemplate"]
            rollout = _rollout(spec["rolloutStrategy"])
            sizes = {"replicas": spec.get("replicas", "scaled"), "rollout": rollout, "size": of["size"]}
            return sizes | {"restartPolicy": of["restartPolicy"], "startupPolicy": spec["startupPolicy"]}
        case "PodDisruptionBudget":
            return {"maxUnavailable": spec["maxUnavailable"], "selector": _short(spec["selector"]["matchLabels"])}
        case "ConfigMap" | "Secret":
            return {"keys": " ".join(item.get("data", {}))}
        case "ServiceAccount":
            return {}
        case "Role":
            return {"rules": [" ".join([*rule["verbs"], *rule["resources"]]) for rule in item["rules"]]}
        case "RoleBinding":
            return {"role": item["roleRef"]["name"], "subjects": [subject["name"] for subject in item["subjects"]]}
        case "Job":
            return {"backoffLimit": spec["backoffLimit"], "activeDeadlineSeconds": spec["activeDeadlineSeconds"]}
        case _:
            return spec


def _pod(item: Object) -> dict[str, Any]:
    container, pod = container_of(item), pod_of(item)
    found: dict[str, Any] = {"image": container["image"]}
    found["command"] = _script([*container["command"], *container.get("args", ())])
    found["env"] = {entry["name"]: _value(entry) for entry in container.get("env", ())}
    limits = container["resources"]["limits"]
    found["resources"] = {"cpu": container["resources"]["requests"]["cpu"], **limits}
    if "startupProbe" in container:
        probe = container["startupProbe"]
        found["start_s"] = probe["periodSeconds"] * probe["failureThreshold"]
    found["grace_s"] = pod.get("terminationGracePeriodSeconds", 30)
    found["mounts"] = [
        f"{mount['name']} at {mount['mountPath']}{', read-only' if mount.get('readOnly') else ''}"
        for mount in container.get("volumeMounts", ())
    ]
    return found


def _script(command: list[str]) -> str | list[str]:
    if command[:2] == ["python", "-c"]:
        return "python -c <a file of the chart>"
    return command[-1].splitlines() if "\n" in command[-1] else shlex.join(command)


def _value(entry: dict[str, Any]) -> str:
    source = entry.get("valueFrom")
    if source is None:
        return entry["value"]
    ((kind, of),) = source.items()
    return f"<{kind} {' '.join(str(value) for value in of.values())}>"


def _rule(rule: Object) -> str:
    ports = ",".join(dict.fromkeys(str(port["port"]) for port in rule.get("ports", ()))) or "any port"
    peers = [_peer(peer) for peer in rule.get("from", rule.get("to", ()))]
    return f"{' or '.join(peers) or 'anyone'}: {ports}"


def _peer(peer: Object) -> str:
    if "ipBlock" in peer:
        return f"{peer['ipBlock']['cidr']} but {len(peer['ipBlock']['except'])} ranges"
    ((_, selector),) = peer.items()
    labels = selector["matchLabels"]
    return labels.get("app.kubernetes.io/component") or "namespace " + " ".join(labels.values())


def _short(labels: dict[str, str]) -> str:
    return " ".join(f"{name.rpartition('/')[2]}={value}" for name, value in labels.items())


def _rollout(strategy: dict[str, Any]) -> str:
    given = strategy.get("rollingUpdate") or strategy.get("rollingUpdateConfiguration")
    return f"maxSurge {given['maxSurge']}, maxUnavailable {given['maxUnavailable']}" if given else strategy["type"]


class _Plain(yaml.SafeDumper):
    """A YAML dumper without anchors, so that each object can be read alone."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def wanted() -> dict[Path, str]:
    """Return the text of each file."""
    digests = {name: digest(objects_of(values)) for name, values in PROFILES.items()}
    base = digests[DEFAULTS]
    texts: dict[Path, str] = {}
    for name, found in digests.items():
        shown = found if name == DEFAULTS else {key: value for key, value in found.items() if base.get(key) != value}
        if name != DEFAULTS:
            shown |= {key: "not there" for key in base if key not in found}
        values = yaml.safe_dump(PROFILES[name] or {}, sort_keys=False)
        head = "".join(f"# {line}\n" for line in values.splitlines())
        texts[FOLDER / f"{name}.yaml"] = head + yaml.dump(shown, Dumper=_Plain, sort_keys=False, width=120)
    return texts


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    texts = wanted()
    for path in FOLDER.glob("*.yaml"):
        if path not in texts:
            path.unlink()
    for path, text in texts.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
