"""The manifests as Kubernetes would get them, and the schemas that they have to fit."""

from __future__ import annotations

import functools
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate
import pytest
import yaml

from adtally.runners.local.service import appearing, cache_folder, copy_jars, require
from tests.nodes import skipped_without

DEPLOYED: Final = Path(__file__).parents[2] / "runners" / "deploy" / "flink"
OVERLAYS: Final = ("aws", "gcp")
OPERATOR_VERSION: Final = "1.10.0"
KUBERNETES_VERSION: Final = "1.33"
_CUSTOM: Final = "META-INF/fabric8/flinkdeployments.flink.apache.org-v1.yml"

Manifest = dict[str, Any]


@functools.cache
def rendered(overlay: str) -> tuple[Manifest, ...]:
    """What ``kubectl apply -k`` would send; skipped where neither kubectl nor kustomize is."""
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize"]
    elif shutil.which("kustomize"):
        command = ["kustomize", "build"]
    else:
        pytest.skip("neither kubectl nor kustomize is on the PATH")
    folder = str(DEPLOYED / "kubernetes" / overlay)
    done = subprocess.run([*command, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def one(overlay: str, kind: str, name: str = "adtally") -> Manifest:
    """The only manifest of a kind and a name."""
    (found,) = (
        each
        for each in rendered(overlay)
        if (each["kind"], each["metadata"]["name"]) == (kind, name)
    )
    return found


def environment(overlay: str) -> dict[str, str]:
    """What the Job that starts the stream has in its environment."""
    data: dict[str, str] = one(overlay, "ConfigMap", "adtally-stream")["data"]
    return data


def pods(overlay: str) -> dict[str, Manifest]:
    """Every pod that the manifests bring about, by who makes it, as a manifest of its own."""
    cluster = one(overlay, "FlinkDeployment")["spec"]
    templates = {
        "jobmanager": cluster["jobManager"]["podTemplate"],
        "taskmanager": cluster["taskManager"]["podTemplate"],
        "jobserver": one(overlay, "Deployment", "adtally-jobserver")["spec"]["template"],
        "stream": one(overlay, "Job", "adtally-stream")["spec"]["template"],
    }
    return {
        name: {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, **template.get("metadata", {})},
            "spec": template["spec"],
        }
        for name, template in templates.items()
    }


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def faults(manifest: Manifest) -> list[str]:
    """Where a manifest does not fit the schema of its kind; unknown fields do not fit."""
    if manifest["kind"] == "FlinkDeployment":
        found = jsonschema.Draft7Validator(operator_schema()).iter_errors(manifest)
        return [f"{error.json_path}: {error.message}" for error in found]
    try:
        kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [str(error)]
    return []


@functools.cache
def operator_schema() -> Manifest:
    """The operator's schema of a ``FlinkDeployment``, made strict: Kubernetes only prunes by it."""
    folder = skipped_without(_install_operator_api)
    (jar,) = folder.glob("*.jar")
    with zipfile.ZipFile(jar) as archive:
        custom = yaml.load(archive.read(_CUSTOM), yaml.CSafeLoader)
    (version,) = custom["spec"]["versions"]
    assert version["name"] == "v1beta1"
    schema: Manifest = version["schema"]["openAPIV3Schema"]
    for name in ("apiVersion", "kind", "metadata"):  # of every kind, and in no custom schema
        schema["properties"].setdefault(name, {})
    _refuse_unknown(schema)
    return schema


def _install_operator_api() -> Path:
    target = cache_folder() / f"flink-operator-api-{OPERATOR_VERSION}"
    if not target.exists():
        require(("mvn",), "the operator's schema", "maven")
        with appearing(target) as made:
            pom = Path(__file__).parent / "flink" / "operator.xml"
            copy_jars(pom, made, f"operator.version={OPERATOR_VERSION}")
    return target


def _refuse_unknown(schema: Any) -> None:
    if not isinstance(schema, dict):
        return
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    for name in ("properties", "items", "additionalProperties"):
        inner = schema.get(name)
        for each in inner.values() if name == "properties" and inner else (inner,):
            _refuse_unknown(each)
