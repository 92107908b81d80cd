"""Manifests for Kubernetes: against the schemas, beside what is tested here, and their safety."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from adtally.pipelines.runner_options import runner_arguments
from adtally.pipelines.stream_cli import stream
from adtally.runners.local.flink_cluster import FlinkCluster, WorkerPool
from adtally.runners.local.flink_parts import job_settings, shared_settings
from tests.runners.flink_manifests import (
    OVERLAYS,
    containers,
    environment,
    faults,
    one,
    operator_schema,
    pods,
    rendered,
)

POOL = 50_000
ONLY_ON_KUBERNETES = {"high-availability.type", "high-availability.storageDir", "io.tmp.dirs"}
PLACES = {"state.checkpoints.dir", "state.savepoints.dir", "high-availability.storageDir"}

overlays = pytest.mark.parametrize("overlay", OVERLAYS)


@overlays
def test_every_manifest_fits_its_schema(overlay: str) -> None:
    found = {each["metadata"]["name"]: faults(each) for each in rendered(overlay)}
    assert not any(found.values()), found


@overlays
def test_the_pods_of_flink_fit_the_schema_of_pods(overlay: str) -> None:
    found = {name: faults(pod) for name, pod in pods(overlay).items()}
    assert not any(found.values()), found


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        ((), "flinkConfigurations", {}),
        ((), "flinkVersion", "v1_12"),
        (("taskManager",), "resources", {}),
        (("taskManager", "resource"), "memory", 4),
        (("taskManager", "podTemplate", "spec"), "container", []),
        (("jobManager", "podTemplate", "spec", "securityContext"), "runAsNonroot", True),
        (("flinkConfiguration",), "taskmanager.numberOfTaskSlots", 4),
    ],
)
def test_the_operator_s_schema_notices(place: tuple[str, ...], name: str, value: Any) -> None:
    manifest = copy.deepcopy(one("aws", "FlinkDeployment"))
    target = manifest["spec"]
    for step in place:
        target = target[step]
    target[name] = value
    assert len(faults(manifest)) == 1


def test_the_schema_is_that_of_the_operator() -> None:
    assert "podTemplate" in operator_schema()["properties"]["spec"]["properties"]


@overlays
def test_flink_runs_with_the_configuration_that_is_tested(overlay: str) -> None:
    spec = one(overlay, "FlinkDeployment")["spec"]
    found = dict(spec["flinkConfiguration"])
    shared = shared_settings()
    for role in ("jobManager", "taskManager"):  # where the operator takes it from
        assert spec[role]["resource"]["memory"] == shared.pop(f"{role.lower()}.memory.process.size")
    own = {key for key in found if key not in shared and not key.startswith("fs.")}
    assert own == ONLY_ON_KUBERNETES
    assert {key for key in shared if found.get(key) != shared[key]} <= PLACES
    scheme = {"aws": "s3://", "gcp": "gs://"}[overlay]
    assert all(found[key].startswith(scheme) for key in PLACES)


@overlays
def test_the_job_server_has_what_jobs_bring_along_and_no_more(overlay: str) -> None:
    (volume,) = (
        each["configMap"]["name"]
        for each in pods(overlay)["jobserver"]["spec"]["volumes"]
        if "configMap" in each
    )
    text = one(overlay, "ConfigMap", volume)["data"]["config.yaml"]
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    wanted = job_settings(shared_settings())
    assert wanted
    assert lines == [f"{key}: {value}" for key, value in wanted.items()]


@overlays
def test_the_job_s_command_line_is_one_of_ours(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (container,) = pods(overlay)["stream"]["spec"]["containers"]
    assert "command" not in container  # the image's: adtally
    name, *arguments = container["args"]
    assert name == "stream"
    for key, value in environment(overlay).items():
        monkeypatch.setenv(key, value)
    given = stream.make_context("stream", list(arguments)).params
    assert list(given["sources"]) == [environment(overlay)["ADTALLY_SOURCES"]]
    assert given["output"] == environment(overlay)["ADTALLY_OUTPUT"]
    ours = {key for key in environment(overlay) if key.startswith("ADTALLY_")}
    names = {f"ADTALLY_{param.name.upper()}" for param in stream.params if param.name}
    assert ours <= names
    told = runner_arguments(given)
    assert f"--environment_config=localhost:{POOL}" in told
    assert "--job_endpoint=adtally-jobserver:8099" in told


@overlays
def test_the_job_server_is_started_as_it_is_here(overlay: str, tmp_path: Path) -> None:
    (container,) = pods(overlay)["jobserver"]["spec"]["containers"]
    here = FlinkCluster(tmp_path).job_server.command()
    options = {word.partition("=")[0] for word in here if word.startswith(("--flink", "--job"))}
    options |= {"--artifact-port", "--expansion-port", "--artifacts-dir"}
    assert {word.partition("=")[0] for word in container["args"]} == options


@overlays
def test_each_task_manager_has_its_pool(overlay: str, tmp_path: Path) -> None:
    (pool,) = pods(overlay)["taskmanager"]["spec"]["initContainers"]
    here = WorkerPool(tmp_path, port=POOL).command()
    assert pool["command"][1:] == here[1:]
    assert pool["restartPolicy"] == "Always"  # so a pool that ended is there again
    assert pool["startupProbe"]["tcpSocket"]["port"] == POOL
    (starter,) = pods(overlay)["stream"]["spec"]["containers"]
    assert pool["image"] == starter["image"]  # they exchange pickled code
    workers = next(word for word in starter["args"] if word.startswith("--flink-workers="))
    assert pool["resources"]["requests"]["cpu"] == workers.partition("=")[2]


@overlays
def test_nobody_reaches_the_pool_over_the_network(overlay: str) -> None:
    policies = [each for each in rendered(overlay) if each["kind"] == "NetworkPolicy"]
    assert any(each["spec"]["podSelector"] == {} for each in policies)
    rules = [rule for each in policies for rule in each["spec"].get("ingress", ())]
    assert rules
    for rule in rules:
        assert rule["from"]
        for port in rule["ports"]:
            assert not port["port"] <= POOL <= port.get("endPort", port["port"])


@overlays
def test_every_container_may_do_little(overlay: str) -> None:
    """What the level "restricted" of Pod Security asks for, which the namespace enforces."""
    for name, pod in pods(overlay).items():
        whole = pod["spec"]["securityContext"]
        assert whole["runAsNonRoot"], name
        assert whole["runAsUser"] > 0, name
        assert whole["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in containers(pod):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert own.get("readOnlyRootFilesystem") or container["name"] == "flink-main-container"
    labels = one(overlay, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@overlays
def test_everything_that_is_mounted_is_there_and_on_its_own(overlay: str) -> None:
    for name, pod in pods(overlay).items():
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", ())}
        mounted = {
            mount["name"] for each in containers(pod) for mount in each.get("volumeMounts", ())
        }
        assert mounted == volumes, name
    # The operator merges lists of a template of both by position: there must be none.
    assert "podTemplate" not in one(overlay, "FlinkDeployment")["spec"]


@overlays
def test_no_secret_is_written_out(overlay: str) -> None:
    for key in environment(overlay):
        assert key.endswith("_FILE") or not any(
            word in key for word in ("KEY", "PASSWORD", "SECRET", "TOKEN")
        )
    for pod in pods(overlay).values():
        for container in containers(pod):
            assert all("valueFrom" in one or "value" in one for one in container.get("env", ()))
    assert not any(each["kind"] == "Secret" for each in rendered(overlay))


@overlays
def test_a_stream_is_never_started_a_second_time_by_itself(overlay: str) -> None:
    job = one(overlay, "Job", "adtally-stream")["spec"]
    assert job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"


@overlays
def test_a_service_s_variables_are_not_taken_for_options(overlay: str) -> None:
    """Kubernetes would set ADTALLY_JOBSERVER_PORT and the like."""
    assert pods(overlay)["stream"]["spec"]["enableServiceLinks"] is False
