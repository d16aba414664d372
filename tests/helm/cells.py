"""The matrix of charts and values. Each cell is rendered once, and all tests read the result."""

from __future__ import annotations

from typing import Any

STACK = ("gateway", "preprocess", "thinker", "talker", "scaler")
"""What the umbrella installs by default."""
SERVICES = (*STACK, "control")
CHARTS = (*SERVICES, "antiphon")
Values = dict[str, Any]


def sized(
    model: str, video_s: int, gpu: str, talker_gpu: str = "", /, nodes: tuple[int, int] = (8, 1), **more: Any
) -> Values:
    """Return values of a size. `nodes`: GPUs of a node, and nodes that one thinker may span."""
    sizing: Values = {"model": model, "video_s": video_s, "gpu": gpu, "talkerGpu": talker_gpu}
    sizing |= {"gpusPerNode": nodes[0], "maxNodes": nodes[1]}
    return {"global": {"sizing": sizing, **more}}


def _scaled(kind: str, least: int) -> Values:
    return {
        service: {"autoscaling": {"type": kind, "minReplicas": least, "maxReplicas": 12}}
        for service in ("preprocess", "thinker", "talker")
    }


_MONITORED = {
    "otlpEndpoint": "http://collector.monitoring:4317",
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
}
_PLACED = {
    "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "serving",
    "runtimeClassName": "nvidia",
    "podLabels": {"team": "speech"},
    "podAnnotations": {"example.com/note": "kept"},
    "rollout": {"maxSurge": 0, "maxUnavailable": "50%"},
}

UMBRELLA: dict[str, Values] = {
    "as it is": {},
    "instruct 60 s on H100, KEDA, monitored, from zero": {
        **_scaled("keda", 0),
        "global": {
            **sized("instruct", 60, "h100-80gb", "h100-80gb-mig-1g.20gb")["global"],
            "monitoring": _MONITORED,
            "cold_start_s": 300,
            "networkPolicy": {
                "operators": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "operators"}}}]
            },
        },
        "control": {
            "enabled": True,
            "replicas": 2,
            "database": {
                "host": "db.example",
                "passwordSecret": {"name": "database"},
                "tls": {"caSecret": {"name": "database-ca"}},
            },
            "settings": {"events_url": "https://meters.example/events"},
            "eventsToken": {"secret": {"name": "meters"}},
        },
        "scaler": {"podDeletionCost": {"enabled": True}},
        "gateway": {"autoscaling": {"type": "hpa"}},
        "alerts": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "runbookUrl": "https://wiki.example/antiphon/runbook",
        },
        "dashboards": {"enabled": True},
    },
    "thinking 30 s on L4": sized("thinking", 30, "l4-24gb"),
    "captioner on A100 80": sized("captioner", 15, "a100-80gb"),
    "instruct 120 s on H200, MIG talker": sized("instruct", 120, "h200-141gb", "h200-141gb-mig-1g.35gb"),
    "instruct 120 s on B200, MIG talker": sized("instruct", 120, "b200-180gb", "b200-180gb-mig-1g.23gb"),
    "instruct 30 s on L40S": sized("instruct", 30, "l40s-48gb"),
    "instruct 15 s on A100 40, HPA": {
        **sized("instruct", 15, "a100-40gb", "a100-40gb-mig-3g.20gb"),
        **_scaled("hpa", 1),
        "scaler": {"podDeletionCost": {"enabled": True, "createRole": False}, "serviceAccount": {"name": "patcher"}},
    },
    "small checkpoint on CPUs, no policies": sized(
        "instruct",
        15,
        "cpu",
        stack="tiny",
        model={"repository": "Tiny-Qwen3-Omni-Instruct", "servedName": "tiny", "maxModelLen": 4096},
        weights={"existingClaim": "tiny-weights"},
        networkPolicy={"enabled": False},
    )
    | {"gateway": {"apiKey": {"allowAnonymous": True}}},
    "thinking 60 s on nodes of two L4, KEDA": {
        "global": {
            **sized("thinking", 60, "l4-24gb", nodes=(2, 4))["global"],
            "monitoring": _MONITORED,
        },
        "thinker": {"autoscaling": {"type": "keda"}, "rollout": {"maxSurge": 0, "maxUnavailable": 1}},
    },
    "instruct 120 s on nodes of one H100, HPA, kept together": {
        **sized("instruct", 120, "h100-80gb", "h100-80gb-mig-1g.20gb", nodes=(1, 8)),
        "thinker": {
            "autoscaling": {"type": "hpa"},
            "group": {
                "exclusiveTopology": "topology.example/rack",
                "subGroupSize": 1,
                "subGroupTopology": "topology.example/block",
            },
            **_PLACED,
            "rollout": {"maxSurge": 0, "maxUnavailable": 1},
        },
    },
    "Redis over TLS, Ingress, checked download": {
        "global": {
            "redis": {
                "host": "redis.example",
                "port": 6380,
                "username": "antiphon",
                "passwordSecret": {"name": "redis-auth"},
                "tls": {"enabled": True, "caSecret": {"name": "redis-ca"}},
            },
            "weights": {
                "download": {
                    "revision": "refs/pr/1",
                    "endpoint": "https://hub.example",
                    "tokenSecret": {"name": "hub"},
                    "checksums": f"{'0' * 64}  config.json",
                },
                "claim": {"storageClass": "nfs"},
            },
            "networkPolicy": {
                "clients": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}],
                "redis": [{"ipBlock": {"cidr": "10.9.0.0/16"}}],
            },
            "image": {"registry": "registry.example/speech", "tag": "1.2.3", "pullSecrets": [{"name": "regcred"}]},
        },
        "gateway": {"ingress": {"enabled": True, "host": "omni.example", "tlsSecret": "omni-tls"}},
    },
    "Sentinel, Gateway API": {
        "global": {
            "redis": {
                "passwordSecret": {"name": "redis-auth"},
                "sentinel": {"master": "queues", "nodes": ["s-0.redis:26379", "s-1.redis:26379", "s-2.redis:26379"]},
            }
        },
        "gateway": {
            "httpRoute": {
                "enabled": True,
                "parentRefs": [{"name": "public", "namespace": "infra"}],
                "hostnames": ["omni.example"],
                "grpcHostnames": ["grpc.omni.example"],
            }
        },
    },
    "Redis Cluster over TLS, tenants": {
        "global": {
            "redis": {
                "username": "antiphon",
                "passwordSecret": {"name": "redis-auth"},
                "tls": {"enabled": True, "caSecret": {"name": "redis-ca"}},
                "cluster": {"nodes": ["c-0.redis:6379", "c-1.redis:6380", "c-2.redis:6380"]},
            }
        },
        "gateway": {
            "apiKey": {"secret": {"name": ""}, "tenantsSecret": {"name": "tenants"}},
            "settings": {"metrics_tenants": 20},
        },
    },
    "a Redis URL in a Secret, placed pods": {
        "global": {
            "redis": {
                "urlSecret": {"name": "redis-url"},
                "username": "antiphon",
                "passwordSecret": {"name": "redis-auth"},
                "tls": {"caSecret": {"name": "redis-ca"}},
            },
            "networkPolicy": {"redisPorts": [6380], "redis": [{"ipBlock": {"cidr": "10.9.0.0/16"}}]},
            "weights": {"existingClaim": "weights"},
        },
        **dict.fromkeys(STACK, _PLACED),
    },
    "ModelScope": {
        "global": {
            "weights": {
                "download": {
                    "source": "modelscope",
                    "endpoint": "https://mirror.example",
                    "tokenSecret": {"name": "hub"},
                    "checksums": f"{'0' * 64}  config.json",
                }
            }
        }
    },
    "OpenShift, mirrored images, a measured Redis": {
        "global": {
            "image": {
                "registry": "registry.example/antiphon",
                "mirror": "registry.example/dockerhub",
                "pullSecrets": [{"name": "regcred"}],
            },
            "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
            "containerSecurityContext": {"runAsUser": None, "runAsGroup": None},
            "monitoring": _MONITORED,
        },
        "redis": {"exporter": {"enabled": True}},
        "control": {"enabled": True, "database": {"urlSecret": {"name": "database"}}},
        "preprocess": {"image": "registry.example/other/preprocess:3"},
        "gateway": {"image": "registry.example/other/gateway:3"},
    },
    "no gateway, a control plane on SQLite": {"gateway": {"enabled": False}, "control": {"enabled": True}},
    "a third source by an image of one's own": {
        "global": {
            "weights": {
                "download": {
                    "image": "registry.example/rclone:1.0.0",
                    "command": 'rclone copy "store:$REPOSITORY" "$TARGET"',
                    "checksums": f"{'0' * 64}  config.json",
                }
            }
        }
    },
}

ALONE: dict[str, Values] = {
    "as it is": {},
    "external Redis, settings, a stack's name": {
        "global": {"stack": "omni", "redis": {"host": "redis.example"}, "weights": {"existingClaim": "weights"}},
        "settings": {"otlp_endpoint": "http://collector:4317"},
        "env": [{"name": "TZ", "value": "UTC"}],
        "fullnameOverride": "mine",
        "replicas": 3,
        "serviceAccount": {"create": False},
    },
}

CELLS: dict[tuple[str, str], Values] = {
    **{("antiphon", name): values for name, values in UMBRELLA.items()},
    **{(chart, name): values for chart in STACK for name, values in ALONE.items()},
    ("control", "as it is"): {},
    ("control", "PostgreSQL, settings, Secrets of one's own"): {
        **ALONE["external Redis, settings, a stack's name"],
        "database": {"host": "db.example", "tls": {"mode": "require"}},
        "adminKey": {"secret": {"name": "mine"}},
        "gatewayToken": {"secret": {"name": "mine", "key": "token"}},
    },
}
"""(chart, name of the cell) → values."""
