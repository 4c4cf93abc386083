"""The manifests of deploy/kubernetes/ against the schemas of Kubernetes and of dask-kubernetes' operator.

Each check is shown to fail on a planted fault, so that silence means something.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
PLAIN = ("storage.yaml", "network-policy.yaml", "scheduler.yaml", "workers.yaml", "run-job.yaml")
NAME = "app.kubernetes.io/name"
VALIDATE = "import sys; from kubernetes_validate.__main__ import main; sys.exit(main())"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text("utf-8")))


def pod_specs(value: Any) -> Iterator[dict[str, Any]]:
    """Every pod specification in a manifest, wherever it stands."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for inner in value.values():
            yield from pod_specs(inner)


def validate(file: Path) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec("kubernetes_validate") is None:
        pytest.skip("kubernetes-validate is not installed")
    command = [sys.executable, "-c", VALIDATE, "--strict", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("name", PLAIN)
def test_a_manifest_is_what_kubernetes_takes(name):
    done = validate(FOLDER / name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("passed for resource") == len(documents(name))


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("storage.yaml", "accessModes: [ReadOnlyMany]", "accessModes: ReadOnlyMany"),
        ("network-policy.yaml", "podSelector:\n    matchLabels", "podSelector:\n    matchLabel"),
        ("scheduler.yaml", "targetPort: tcp-comm", "targetPorts: tcp-comm"),
        ("workers.yaml", "replicas: 4", "replicas: four"),
        ("run-job.yaml", "backoffLimit: 6", "backOffLimit: 6"),
    ],
)
def test_a_fault_in_a_manifest_is_found(tmp_path, name, right, wrong):
    text = (FOLDER / name).read_text("utf-8")
    assert right in text
    (tmp_path / name).write_text(text.replace(right, wrong, 1))
    assert validate(tmp_path / name).returncode != 0


def strict(schema: Any) -> Any:
    """Forbid fields that a schema does not name, as the API server prunes them without a word."""
    if isinstance(schema, dict):
        if schema.get("format") == "int-or-string":
            return {"type": ["integer", "string"]}
        schema = {key: strict(value) for key, value in schema.items()}
        is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
        if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not is_open:
            schema["additionalProperties"] = False
    elif isinstance(schema, list):
        schema = [strict(value) for value in schema]
    return schema


def complaints(cluster: dict[str, Any]) -> list[str]:
    """What the operator's own resource definition has against a DaskCluster."""
    found = importlib.util.find_spec("dask_kubernetes")
    if found is None or found.origin is None:
        pytest.skip("dask-kubernetes is not installed")
    jsonschema = pytest.importorskip("jsonschema")
    chart = Path(found.origin).parent / "operator" / "deployment" / "helm" / "dask-kubernetes-operator"
    file = chart / "crds" / "daskcluster.yaml"
    definition = yaml.safe_load(file.read_text("utf-8"))
    [version] = [one for one in definition["spec"]["versions"] if one["name"] == "v1"]
    assert cluster["apiVersion"] == f"{definition['spec']['group']}/v1"
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"] |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
    schema["properties"]["metadata"] = {"type": "object"}
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(cluster)]


def test_the_dask_cluster_is_what_the_operator_takes():
    [cluster] = documents("daskcluster.yaml")
    assert complaints(cluster) == []


@pytest.mark.parametrize("fault", ["field", "type", "missing"])
def test_a_fault_in_the_dask_cluster_is_found(fault):
    [cluster] = copy.deepcopy(documents("daskcluster.yaml"))
    if fault == "field":
        cluster["spec"]["worker"]["replica"] = cluster["spec"]["worker"].pop("replicas")
    elif fault == "type":
        cluster["spec"]["worker"]["replicas"] = "four"
    else:
        del cluster["spec"]["scheduler"]["service"]
    assert complaints(cluster)


@pytest.mark.parametrize("name", [*PLAIN[2:], "daskcluster.yaml"])
def test_every_pod_is_nobody_and_speaks_tls(name):
    found = [spec for document in documents(name) for spec in pod_specs(document)]
    assert found
    for spec in found:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        secrets = [volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume]
        assert secrets == ["ct-etl-tls"]
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"name": "TLS_DIR", "value": "/tls"} in container["env"]
            assert "tcp://" not in " ".join(container["args"])


def test_the_policy_and_the_services_find_their_pods():
    [policy] = documents("network-policy.yaml")
    labels = policy["spec"]["podSelector"]["matchLabels"]
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    [rule] = policy["spec"]["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": labels}}]
    for name in ("scheduler.yaml", "workers.yaml", "run-job.yaml"):
        templates = [d["spec"]["template"] for d in documents(name) if "template" in d["spec"]]
        for template in templates:
            assert labels.items() <= template["metadata"]["labels"].items()
    service, deployment = documents("scheduler.yaml")
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    # The operator hands its resource's labels on to the pods.
    assert documents("daskcluster.yaml")[0]["metadata"]["labels"][NAME] == labels[NAME]


def test_the_paths_that_the_manifests_name_are_in_the_image():
    dockerfile = (FOLDER / "Dockerfile").read_text("utf-8")
    text = "".join((FOLDER / name).read_text("utf-8") for name in (*PLAIN, "daskcluster.yaml")) + dockerfile
    named = set(re.findall(r"/opt/ct-etl/(deploy/[\w./-]+\.sh)", text))
    assert {"deploy/start-scheduler.sh", "deploy/start-workers.sh", "deploy/kubernetes/run.sh"} <= named
    for path in named:
        assert os.access(FOLDER.parents[1] / path, os.X_OK), path
    assert re.search(r"(?m)^USER 10001", dockerfile)


@pytest.mark.parametrize(("status", "ends_with"), [(0, 0), (3, 0), (1, 1), (2, 2), (130, 130)])
def test_a_job_is_tried_again_only_where_that_helps(tmp_path, status, ends_with):
    """A stand-in for ct-etl gives the status; what is looked at is the script's own part."""
    (tmp_path / "ct-etl").write_text(f"#!/bin/sh\nexit {status}\n")
    (tmp_path / "ct-etl").chmod(0o755)
    log = tmp_path / "termination-log"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TERMINATION_LOG": str(log)}
    done = subprocess.run([FOLDER / "run.sh", "in", "out"], env=environment, check=False, capture_output=True)
    assert done.returncode == ends_with
    assert log.exists() == (status == 3)
