"""The manifests: every resource against the schema of its kind, and what must fit together does.

`kustomize` is not among the tools that tests may need: components are read as they stand, patches are held against the
resources that they change.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject, TriggerAuthentication
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor

from stream_detector.adapters.kafka import parse_topic_url
from stream_detector.settings import Metrics, Topics

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.31", "1.34")
CUSTOM = {
    "ScaledObject": ScaledObject,
    "TriggerAuthentication": TriggerAuthentication,
    "ServiceMonitor": ServiceMonitor,
}
STRIMZI = {"KafkaTopic", "KafkaUser"}  # no package has their schemas; see the tests at the end


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


KUSTOMIZATIONS = {path.parent: documents(path)[0] for path in sorted(FOLDER.rglob("kustomization.yaml"))}
RESOURCES = [
    (folder / name, document)
    for folder, told in KUSTOMIZATIONS.items()
    for name in told.get("resources", [])
    if name.endswith(".yaml")
    for document in documents(folder / name)
]
PATCHES = [
    (folder / patch["path"], document)
    for folder, told in KUSTOMIZATIONS.items()
    for patch in told.get("patches", [])
    for document in documents(folder / patch["path"])
]


def only(kind: str) -> dict[str, Any]:
    [found] = [document for _, document in RESOURCES if document["kind"] == kind]
    return found


def named(given: tuple[Path, dict[str, Any]]) -> str:
    return f"{given[0].parent.name}-{given[1]['kind']}-{given[1]['metadata']['name']}"


def valid(document: dict[str, Any]) -> None:
    """Against the schema of its kind; unknown keys are errors."""
    if document["kind"] in CUSTOM:
        read = CUSTOM[document["kind"]].model_validate(document)  # ignores what it does not know, so:
        assert read.model_dump(mode="json", by_alias=True, exclude_unset=True) == document
    elif document["kind"] not in STRIMZI:
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("given", RESOURCES, ids=named)
def test_resources_are_valid(given: tuple[Path, dict[str, Any]]) -> None:
    valid(given[1])


def test_what_is_not_valid_is_found() -> None:
    workers = only("StatefulSet")
    with pytest.raises(kubernetes_validate.ValidationError):
        valid(workers | {"spec": workers["spec"] | {"replica": 2}})
    scaler = only("ScaledObject")
    with pytest.raises(AssertionError):
        valid(scaler | {"spec": scaler["spec"] | {"maxReplicas": 2}})


@pytest.mark.parametrize("given", PATCHES, ids=named)
def test_patches_change_what_is_there_and_leave_it_valid(given: tuple[Path, dict[str, Any]]) -> None:
    """As kustomize does, as far as it is used here: lists of things with names are merged by name."""
    patch = given[1]
    [target] = [
        document
        for _, document in RESOURCES
        if (document["kind"], document["metadata"]["name"]) == (patch["kind"], patch["metadata"]["name"])
    ]
    assert patch["apiVersion"] == target["apiVersion"]
    valid(merged(target, patch, custom=patch["kind"] in CUSTOM))


def merged(old: Any, new: Any, *, custom: bool) -> Any:
    """A strategic merge: maps by key; lists of named things by name, volumes' mounts by path; other lists replaced."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {key: merged(old.get(key), value, custom=custom) for key, value in new.items()}
    if isinstance(old, list) and isinstance(new, list) and not custom:
        for key in ("mountPath", "name"):
            if all(key in item for item in old + new):
                by = {item[key]: item for item in old}
                for item in new:
                    by[item[key]] = merged(by.get(item[key]), item, custom=custom)
                return list(by.values())
    return new


def test_every_file_is_used_and_every_name_leads_somewhere() -> None:
    used = set()
    for folder, told in KUSTOMIZATIONS.items():
        names = [*told.get("resources", []), *told.get("components", [])]
        names += [patch["path"] for patch in told.get("patches", [])]
        names += [name for made in told.get("configMapGenerator", []) for name in made["files"]]
        for name in names:
            path = (folder / name).resolve()
            assert path.exists(), (folder, name)
            used.add(path if path.is_file() else path / "kustomization.yaml")
    roots = {FOLDER / part / "kustomization.yaml" for part in ("overlays/gpu", "strimzi")}
    assert {path for path in FOLDER.rglob("*") if path.is_file()} == used | roots


def pods() -> list[dict[str, Any]]:
    job = only("CronJob")["spec"]["jobTemplate"]["spec"]
    return [only("StatefulSet")["spec"]["template"]["spec"], job["template"]["spec"]]


def test_pods_have_no_rights() -> None:
    for pod in pods():
        told = pod["securityContext"]
        assert told["runAsNonRoot"]
        assert told["runAsUser"] == told["runAsGroup"] == told["fsGroup"] == 10_001  # the image's
        assert told["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"] + pod.get("initContainers", []):
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert container["image"] == "stream-detector"  # its tag is set in one place, the kustomization
        [writable] = [volume for volume in pod["volumes"] if "emptyDir" in volume]
        assert {"name": writable["name"], "mountPath": "/tmp"} in pod["containers"][0]["volumeMounts"]  # noqa: S108 # of the container
    assert "USER 10001:10001" in (ROOT / "deploy" / "Dockerfile").read_text()


def test_images_have_the_version_of_the_program() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    tags = {image["newTag"] for told in KUSTOMIZATIONS.values() for image in told.get("images", [])}
    assert tags == {version, f"{version}-gpu"}
    assert f"image: stream-detector:{version}\n" in (ROOT / "docker-compose.yml").read_text()


def test_probes_ask_the_services_port() -> None:
    [container] = only("StatefulSet")["spec"]["template"]["spec"]["containers"]
    [port] = container["ports"]
    assert port["containerPort"] == Metrics().port == only("Service")["spec"]["ports"][0]["port"]
    asked = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {kind: probe["path"] for kind, probe in asked.items()} == {
        "startup": "/livez",
        "liveness": "/livez",
        "readiness": "/readyz",
    }
    assert {probe["port"] for probe in asked.values()} == {port["name"]}
    [allowed] = only("NetworkPolicy")["spec"]["ingress"]
    assert allowed["ports"] == [{"protocol": "TCP", "port": port["containerPort"]}]


def test_workers_are_static_members_by_their_pods_name() -> None:
    spec = only("StatefulSet")["spec"]
    [container] = spec["template"]["spec"]["containers"]
    [variable] = container["env"]
    assert variable["name"] == "STREAM_DETECTOR__KAFKA__GROUP_INSTANCE_ID"
    assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    assert spec["serviceName"] == only("Service")["metadata"]["name"]


def test_selectors_select_the_workers() -> None:
    template = only("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    [common] = KUSTOMIZATIONS[FOLDER / "base"]["labels"]
    assert common["includeTemplates"]
    labels = template | common["pairs"]
    for chosen in (
        only("StatefulSet")["spec"]["selector"]["matchLabels"],
        only("Service")["spec"]["selector"],
        only("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        only("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert chosen.items() <= labels.items()
    service = only("Service")["metadata"]["labels"] | common["pairs"]
    assert only("ServiceMonitor")["spec"]["selector"]["matchLabels"].items() <= service.items()
    training = only("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"] | common["pairs"]
    assert only("NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= training.items()
    assert not only("Service")["spec"]["selector"].items() <= training.items()


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.toml")), ids=lambda path: path.parent.name)
def test_settings_fit_the_manifests(path: Path) -> None:
    told = tomllib.loads(path.read_text())
    secure = "security_protocol" in told["kafka"]
    server = told["kafka"]["bootstrap_servers"]
    scalers = [only("ScaledObject"), *(patch for _, patch in PATCHES if patch["kind"] == "ScaledObject")]
    [trigger] = scalers[secure]["spec"]["triggers"]
    assert trigger["metadata"]["bootstrapServers"] == server
    assert trigger["metadata"]["consumerGroup"] == told["kafka"]["group_id"]
    assert trigger["metadata"]["topic"] == Topics().events
    ports = [port["port"] for rule in only("NetworkPolicy")["spec"]["egress"] for port in rule["ports"]]
    assert int(server.rpartition(":")[2]) in ports
    assert int(re.findall(r":(\d+)/", told["redis"]["url"])[0]) in ports
    assert told["bundle"]["path"].startswith("/bundles/")
    files = re.findall(r'"(/run/secrets/[^"]+)"', path.read_text())
    mounted = [
        mount["mountPath"]
        for file, patch in PATCHES
        if file.parent == path.parent and patch["kind"] == "StatefulSet"
        for mount in patch["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    ]
    assert all(any(file.startswith(f"{place}/") for place in mounted) for file in files)
    assert secure == bool(files)


def test_there_are_no_more_workers_than_partitions() -> None:
    topics = {
        document["metadata"]["name"]: document["spec"] for _, document in RESOURCES if document["kind"] == "KafkaTopic"
    }
    assert only("ScaledObject")["spec"]["maxReplicaCount"] == topics["sensor-events"]["partitions"]
    defaults = Topics()
    assert set(topics) == {defaults.events, defaults.scores, defaults.alerts, defaults.dead_letters}
    assert {spec["config"]["cleanup.policy"] for spec in topics.values()} == {"delete"}
    assert all(spec["config"]["min.insync.replicas"] < spec["replicas"] for spec in topics.values())


def test_the_user_may_what_the_document_says_and_no_more() -> None:
    """docs/security.md lists the least permissions, which its own tests prove on a real broker."""
    text = (ROOT / "docs" / "security.md").read_text()
    [block] = re.findall(r"<!-- kafka-acls -->\n```bash\n(.*?)```", text, re.DOTALL)
    wanted = set()
    for line in block.splitlines():
        [(kind, name)] = re.findall(r"--(topic|group|transactional-id) (\S+)", line)
        kind = kind.replace("transactional-id", "transactionalId")
        pattern = "prefix" if "prefixed" in line else "literal"
        wanted |= {(kind, name, pattern, operation) for operation in re.findall(r"--operation (\w+)", line)}
    user = only("KafkaUser")
    given = {
        (rule["resource"]["type"], rule["resource"]["name"], rule["resource"]["patternType"], operation)
        for rule in user["spec"]["authorization"]["acls"]
        for operation in rule["operations"]
    }
    assert given == wanted
    assert f"User:{user['metadata']['name']}" in block


def test_training_reads_the_last_week(tmp_path: Path) -> None:
    """The container's own command in a shell, with a program that says what it is asked."""
    [container] = only("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    program = tmp_path / "stream-detector"
    program.write_text('#!/bin/sh\nfor part; do echo "$part"; done\n')
    program.chmod(0o755)
    [variable] = container["env"]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", variable["name"]: variable["value"]}
    done = subprocess.run([*container["command"], *container["args"]], env=environment, capture_output=True, text=True)
    asked = done.stdout.split("\n")
    assert (done.returncode, asked[0]) == (0, "train"), done.stderr
    span = parse_topic_url(asked[1])
    assert span.topic == Topics().events
    assert span.start_ms is not None
    assert asked[2:4] == ["--out", tomllib.loads((FOLDER / "base" / "detector.toml").read_text())["bundle"]["path"]]


def test_workers_wait_for_a_bundle(tmp_path: Path) -> None:
    [container] = only("StatefulSet")["spec"]["template"]["spec"]["initContainers"]
    line = [part.replace("/bundles", str(tmp_path)) for part in container["command"]]
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(line, timeout=0.5, capture_output=True)
    (tmp_path / "current").mkdir()
    (tmp_path / "current" / "manifest.json").touch()
    assert subprocess.run(line, timeout=30, capture_output=True).returncode == 0
