"""Schemas: the API's own for its kinds, small ones of ours for the fields that we use of custom resources."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate

from tests.deploy.manifests import title
from tests.deploy.rendering import Object

# The oldest version that docs/deploy.md names; a newer field would be dropped there without a word.
OLDEST, NEWEST = "1.31", "1.37"

# It reads and parses a megabyte of definitions anew for every object.
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)

_TEXT = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 0}
_LABELS = {"type": "object", "additionalProperties": {"type": "string"}}


def _object(required: Sequence[str] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _resource(api: str, kind: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    metadata = _object(["name"], name=_TEXT, namespace=_TEXT, labels=_LABELS, annotations=_LABELS)
    return _object(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": api},
        kind={"const": kind},
        metadata=metadata,
        spec=dict(spec),
    )


_SCALING = _object(
    ["policies"],
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
    policies={
        "type": "array",
        "items": _object(
            ["type", "value", "periodSeconds"],
            type={"enum": ["Pods", "Percent"]},
            value={"type": "integer", "minimum": 1},
            periodSeconds={"type": "integer", "minimum": 1, "maximum": 1800},
        ),
    },
)
CUSTOM = {
    ("keda.sh/v1alpha1", "ScaledObject"): _resource(
        "keda.sh/v1alpha1",
        "ScaledObject",
        _object(
            ["scaleTargetRef", "triggers"],
            scaleTargetRef=_object(["name"], apiVersion=_TEXT, kind=_TEXT, name=_TEXT),
            pollingInterval=_COUNT,
            cooldownPeriod=_COUNT,
            minReplicaCount=_COUNT,
            maxReplicaCount=_COUNT,
            fallback=_object(
                ["failureThreshold", "replicas"],
                failureThreshold=_COUNT,
                replicas=_COUNT,
                behavior={
                    "enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]
                },
            ),
            advanced=_object(
                scalingModifiers=_object(
                    ["formula", "target"],
                    formula=_TEXT,
                    target=_TEXT,
                    activationTarget=_TEXT,
                    metricType={"enum": ["AverageValue", "Value"]},
                ),
                horizontalPodAutoscalerConfig=_object(
                    name=_TEXT, behavior=_object(scaleUp=_SCALING, scaleDown=_SCALING)
                ),
            ),
            triggers={
                "type": "array",
                "minItems": 1,
                "items": _object(
                    ["type", "metadata"],
                    type=_TEXT,
                    name=_TEXT,
                    metadata=_LABELS,
                    authenticationRef=_object(["name"], name=_TEXT, kind=_TEXT),
                    metricType={"enum": ["AverageValue", "Value", "Utilization"]},
                    useCachedMetrics={"type": "boolean"},
                ),
            },
        ),
    ),
    ("kafka.strimzi.io/v1", "KafkaTopic"): _resource(
        "kafka.strimzi.io/v1",
        "KafkaTopic",
        _object(
            ["partitions"],
            topicName={"type": "string", "pattern": "^[a-zA-Z0-9._-]{1,249}$"},
            partitions={"type": "integer", "minimum": 1},
            replicas={"type": "integer", "minimum": 1},
            config={"type": "object"},
        ),
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): _resource(
        "monitoring.coreos.com/v1",
        "PodMonitor",
        _object(
            ["selector", "podMetricsEndpoints"],
            selector=_object(matchLabels=_LABELS, matchExpressions={"type": "array"}),
            podTargetLabels={"type": "array", "items": _TEXT},
            podMetricsEndpoints={
                "type": "array",
                "minItems": 1,
                "items": _object(
                    ["port"],
                    port=_TEXT,
                    path=_TEXT,
                    interval={"type": "string", "pattern": r"^\d+(ms|s|m)$"},
                    scrapeTimeout={"type": "string", "pattern": r"^\d+(ms|s|m)$"},
                ),
            },
        ),
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): _resource(
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        _object(
            ["groups"],
            groups={
                "type": "array",
                "items": _object(
                    ["name", "rules"],
                    name=_TEXT,
                    interval=_TEXT,
                    rules={
                        "type": "array",
                        "items": {
                            **_object(
                                ["expr"],
                                alert=_TEXT,
                                record=_TEXT,
                                expr=_TEXT,
                                **{"for": _TEXT, "keep_firing_for": _TEXT},
                                labels=_LABELS,
                                annotations=_LABELS,
                            ),
                            "oneOf": [{"required": ["alert"]}, {"required": ["record"]}],
                        },
                    },
                ),
            },
        ),
    ),
}


def schemas(objects: Sequence[Object]) -> Iterator[str]:
    """Every object is one that the API server would take, unknown fields and unknown kinds refused."""
    for thing in objects:
        if fault := schema_fault(thing, OLDEST):
            yield f"{title(thing)}: {fault}"


def schema_fault(thing: Object, version: str) -> str | None:
    """Return what is wrong with one object for one version of the API."""
    return _fault(json.dumps(thing, sort_keys=True), version)


@cache
def _fault(text: str, version: str) -> str | None:
    thing = json.loads(text)
    try:
        custom = CUSTOM.get((thing["apiVersion"], thing["kind"]))
        if custom is not None:
            jsonschema.Draft202012Validator(custom).validate(thing)
        else:
            kubernetes_validate.validate(thing, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return f"no schema knows {thing['apiVersion']} {thing['kind']}"
    except (kubernetes_validate.ValidationError, jsonschema.ValidationError) as exc:
        return f"{'.'.join(map(str, exc.path))}: {exc.message}"
    return None


CHECKS = (schemas,)
