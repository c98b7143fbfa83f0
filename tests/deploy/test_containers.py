"""The Dockerfile and the compose file: linted and read by the real tools, and what they run is run.

There is no container daemon where the tests run: images are not built here, and the other projects' images not started.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from standardwebhooks import Webhook

from stream_detector import cli
from stream_detector.adapters.http import serve
from stream_detector.adapters.page.site import site
from stream_detector.adapters.page.viewers import Viewers
from stream_detector.settings import Metrics, Settings, load_settings
from tests.servers import KafkaBroker
from tests.servers.process import free_port
from tests.servers.redis import binary
from tests.service import wait_for

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
BIN = Path(sys.executable).parent
OURS = "stream-detector:0.1.0"
ONCE = {"topics", "history", "train", "secret"}  # services that do one thing and end


def compose(*files: Path) -> dict[str, Any]:
    """The compose files as Docker Compose understands them."""
    named = [part for file in files for part in ("-f", str(file))]
    line = [str(BIN / "docker-compose"), *named, "config", "--format", "json"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "it warns"
    read: dict[str, Any] = json.loads(done.stdout)
    return read


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = compose(ROOT / "docker-compose.yml")["services"]
    return found


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile and what it says, continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in text.splitlines() if line.strip()]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions of each stage, with those of the stage that it is built on."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for what, text in instructions():
        if what == "FROM":
            base, _, name = text.partition(" AS ")
            found[name] = list(found.get(base, []))
        elif name:
            found[name].append((what, text))
    return found


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [BIN / "hadolint", "--failure-threshold", "style", DOCKERFILE], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python:latest\nRUN pip install flask\n")
    assert subprocess.run([BIN / "hadolint", bad], capture_output=True).returncode == 1


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_what_runs_is_no_root_and_pinned(target: str) -> None:
    lines = stages()[target]
    assert [text for what, text in lines if what == "USER"] == ["10001:10001"]
    assert ("STOPSIGNAL", "SIGTERM") in lines
    assert sum(what == "HEALTHCHECK" for what, _ in lines) == 1
    assert "ADD" not in {what for what, _ in instructions()}
    [base] = [text for what, text in instructions() if what == "ARG"]
    assert re.fullmatch(r"PYTHON=python:3\.11\.\d+-slim-bookworm(@sha256:[0-9a-f]{64})?", base)
    installed = [text for what, text in stages()[f"built-{target}"] if what == "RUN" and "install" in text]
    assert len(installed) == 3
    assert all("--require-hashes" in text or "--no-deps" in text for text in installed)


def test_the_default_target_is_for_cpus() -> None:
    assert list(stages())[-1] == "cpu"


def test_the_context_holds_what_is_copied_and_no_more() -> None:
    listed = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in listed
    let_in = {line.removeprefix("!") for line in listed if line.startswith("!")}
    copied = {
        source
        for what, text in instructions()
        if what == "COPY" and "--from" not in text
        for source in text.split()[:-1]
    }
    assert copied == let_in
    assert all((ROOT / source).exists() for source in copied)


def test_the_gpu_lock_is_the_runtime_lock_and_cuda() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^[\w.-]+==\S+", (ROOT / "requirements" / name).read_text(), re.MULTILINE))

    more = pins("gpu.txt") - pins("runtime.txt")
    assert pins("runtime.txt") <= pins("gpu.txt")
    assert more
    assert all(pin.startswith("nvidia-") for pin in more)


def test_the_default_command_is_understood() -> None:
    [command] = [json.loads(text) for what, text in stages()["cpu"] if what == "CMD"]
    [entry] = [json.loads(text) for what, text in stages()["cpu"] if what == "ENTRYPOINT"]
    assert entry == ["stream-detector"]
    understood(command)


def understood(arguments: list[str]) -> dict[str, Any]:
    """What the program makes of a command line; fails where it does not take it."""
    name, *rest = arguments
    command = typer.main.get_command(cli.app).commands[name]  # type: ignore[attr-defined] # it is a group
    return dict(command.make_context(name, list(rest)).params)


def test_the_health_check_of_the_image_tells_well_from_ill() -> None:
    """The very command, but for the port, against the service's own HTTP port."""
    [check] = [text for what, text in stages()["cpu"] if what == "HEALTHCHECK"]
    command = json.loads(check.partition("CMD ")[2])
    assert runs(command, 9464, live=True) == 0
    assert runs(command, 9464, live=False) != 0
    assert runs(command, 9464, live=None) != 0


def runs(command: list[str], named: int, *, live: bool | None) -> int:
    """Exit code of a check that asks the port ``named``; ``live`` None: nobody answers there."""
    server = None
    port = free_port()
    if live is not None:
        server = serve("127.0.0.1", port, lambda environ, start: [], lambda: live, lambda: (True, ""), Metrics())
    try:
        line = [part.replace(f":{named}/", f":{port}/") for part in command]
        assert line != command
        environment = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
        program = {"python": sys.executable}.get(line[0], line[0])
        return subprocess.run([program, *line[1:]], env=environment, capture_output=True).returncode
    finally:
        if server is not None:
            server.close()


def test_every_service_is_bounded_and_has_few_rights(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("read_only") or name == "kafka", name
        assert "privileged" not in service, name
        assert int(service["mem_limit"]) <= 3 << 30, name
        assert "network_mode" not in service, name
        image, _, tag = service["image"].rpartition(":")
        assert image, name
        assert re.fullmatch(r"v?\d+\.\d+\.\d+(-[\w.]+)?", tag), name
        assert (name in ONCE) == ("restart" not in service), name
        assert "healthcheck" in service or (service["image"] == OURS and name not in ONCE), name


def test_ports_are_on_loopback_and_differ(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) > 4
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert len({port["published"] for port in ports}) == len(ports)


def test_the_live_page_is_there_for_this_machine_alone(services: dict[str, Any]) -> None:
    """The very settings; in a container it listens to the network of containers, and is published on loopback."""
    access = load_settings(ROOT / "deploy" / "compose" / "detector.toml").page
    [port] = [port for port in services["detector"]["ports"] if port["target"] == access.port]
    assert access.enabled
    assert (port["host_ip"], port["published"]) == ("127.0.0.1", str(access.port))
    application = site(Viewers(), access)
    for host, status in (("127.0.0.1", 200), ("localhost", 200), ("detector", 421), ("evil.example", 421)):
        said: list[str] = []
        asked = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_HOST": f"{host}:{access.port}"}
        application(asked, lambda status, headers, info=None, said=said: said.append(status))
        assert int(said[0][:3]) == status, host


def test_no_password_is_in_the_compose_file(services: dict[str, Any]) -> None:
    for service in services.values():
        for key, value in (service.get("environment") or {}).items():
            assert (
                not re.search(r"(?i)password|secret|token", key) or key == "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"
            )
            assert "admin" not in str(value)
    grafana = services["grafana"]["environment"]
    assert grafana["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert grafana["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert grafana["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"


def test_what_our_services_run_is_understood(services: dict[str, Any]) -> None:
    mine = {name: service for name, service in services.items() if service["image"] == OURS}
    known = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined] # it is a group
    for name, service in mine.items():
        if service.get("entrypoint"):
            assert name in ("secret", "receiver")
        elif service["command"][0] in known:
            understood(service["command"])
        else:  # a command that comes with webhooks; once they are there it is understood like the others
            assert (service["command"][0], "webhooks" in Settings.model_fields) == ("webhooks", False)


def test_services_wait_for_what_they_need(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if needed in ONCE else "service_healthy"
            assert how["condition"] == wanted, (name, needed)


def test_what_is_mounted_is_there(services: dict[str, Any]) -> None:
    """Folders of others' parts aside, which are looked for where they are made."""
    mounts = [mount for service in services.values() for mount in service.get("volumes", []) if mount["type"] == "bind"]
    assert all(mount["read_only"] for mount in mounts)
    for mount in mounts:
        source = Path(mount["source"])
        assert source.exists() or source.relative_to(ROOT / "deploy").parts[0] in ("prometheus", "grafana")


def test_health_checks_of_our_services_tell_well_from_ill(services: dict[str, Any], tmp_path: Path) -> None:
    webhooks = services["webhooks"]["healthcheck"]["test"]
    assert webhooks[0] == "CMD"
    assert runs(webhooks[1:], 9465, live=True) == 0
    assert runs(webhooks[1:], 9465, live=False) != 0
    receiver = services["receiver"]["healthcheck"]["test"]
    assert runs(receiver[1:], 8080, live=None) != 0


@pytest.mark.servers
def test_kafkas_health_check_tells_whether_it_listens(services: dict[str, Any], kafka_broker: KafkaBroker) -> None:
    kind, *command = services["kafka"]["healthcheck"]["test"]
    assert kind == "CMD"
    for port, code in ((kafka_broker.port, 0), (free_port(), 1)):
        line = [part.replace("/9092", f"/{port}") for part in command]
        assert line != command
        assert subprocess.run(line, capture_output=True).returncode == code


def test_redis_takes_its_options(services: dict[str, Any], tmp_path: Path) -> None:
    program, *options = services["redis"]["command"]
    assert program == "redis-server"
    port = free_port()
    line = [binary(), *options, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    server = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    try:

        def pong() -> bool:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
                    client.sendall(b"CONFIG GET maxmemory-policy\r\n")
                    return b"noeviction" in client.recv(1_024)
            except OSError:
                return False

        wait_for(pong, "Redis")
    finally:
        server.terminate()
        server.wait()


def test_kafkas_addresses_fit_its_ports(services: dict[str, Any]) -> None:
    variables = services["kafka"]["environment"]
    advertised = dict(part.split("://") for part in variables["KAFKA_ADVERTISED_LISTENERS"].split(","))
    listening = dict(part.split("://") for part in variables["KAFKA_LISTENERS"].split(","))
    [port] = services["kafka"]["ports"]
    assert advertised["OUTSIDE"] == f"127.0.0.1:{port['published']}"
    assert listening["OUTSIDE"] == f":{port['target']}"
    assert advertised["INSIDE"] == f"kafka{listening['INSIDE']}"
    config = tomllib.loads((ROOT / "deploy" / "compose" / "detector.toml").read_text())
    assert config["kafka"]["bootstrap_servers"] == advertised["INSIDE"]
    assert variables["KAFKA_CONTROLLER_QUORUM_VOTERS"] == f"1@kafka{listening['CONTROLLER']}"


def test_the_secret_is_made_once_and_the_receiver_verifies_with_it(services: dict[str, Any], tmp_path: Path) -> None:
    """The very commands of the compose file, with a folder and a port of the test."""
    entry, command = services["secret"]["entrypoint"], services["secret"]["command"]
    secret = tmp_path / "webhook-secret"
    line = [sys.executable, *entry[1:], command[0].replace("/var/lib/stream-detector", str(tmp_path))]
    subprocess.run(line, check=True)
    made = secret.read_text()
    subprocess.run(line, check=True)
    assert secret.read_text() == made
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", made)

    port = free_port()
    entry, command = services["receiver"]["entrypoint"], services["receiver"]["command"]
    replaced = {
        "/var/lib/stream-detector/webhook-secret": str(secret),
        "8080": str(port),
        "0.0.0.0": "127.0.0.1",  # noqa: S104 # it is what is not listened on here
    }
    program = [sys.executable, str(ROOT / "deploy" / "receiver.py")]
    assert entry == ["python", "/srv/receiver.py"]
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*program, *(replaced.get(part, part) for part in command)], stdout=stream, stderr=stream
        )
    try:
        wait_for(lambda: "listening" in log.read_text(), "the receiver")
        check = [part.replace(":8080/", f":{port}/") for part in services["receiver"]["healthcheck"]["test"][1:]]
        assert subprocess.run([sys.executable, *check[1:]], env={"PATH": os.environ["PATH"]}).returncode == 0
        assert [post(port, made, True), post(port, made, False)] == [204, 401]
        wait_for(lambda: "refused" in log.read_text(), "its log")
    finally:
        process.terminate()
        process.wait()
    assert "verified msg_1: firing major pump-7: flow 3.9 where 2.1 was expected" in log.read_text()


def post(port: int, secret: str, right: bool) -> int:
    """Status of a webhook with a right or a wrong signature."""
    body = json.dumps({"status": "firing", "severity": "major", "summary": "pump-7: flow 3.9 where 2.1 was expected"})
    now = datetime.now(UTC)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg_1", now, body),
    }
    sent = (body if right else body + " ").encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", sent, headers)  # http on loopback
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310 # likewise
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_gpu_file_changes_image_and_device_alone(services: dict[str, Any]) -> None:
    on_gpu = compose(ROOT / "docker-compose.yml", ROOT / "deploy" / "compose" / "gpu.yml")["services"]
    for name in ("detector", "train"):
        assert on_gpu[name]["image"] == f"{OURS}-gpu"
        assert on_gpu[name]["build"]["target"] == "gpu"
        [device] = on_gpu[name]["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
        assert on_gpu[name]["command"] == services[name]["command"]


SETTINGS = sorted((ROOT / "deploy").rglob("*.toml"))


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: str(path.relative_to(ROOT / "deploy")))
def test_settings_are_accepted(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    if missing := set(tomllib.loads(text)) - set(Settings.model_fields):
        assert missing == {
            "webhooks"
        }  # comes with webhooks; once they are there these settings are read like the others
        return
    for name in re.findall(r'_file = "([^"]+)"', text):
        here = tmp_path / Path(name).name
        here.write_text("whsec_" + "A" * 43 + "=")
        text = text.replace(name, str(here))
    config = tmp_path / path.name
    config.write_text(text)
    load_settings(config)


def test_there_are_settings() -> None:
    assert len(SETTINGS) >= 4


def test_commands_of_the_document_make_sense() -> None:
    text = (ROOT / "docs" / "deploy.md").read_text()
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    ours = [shlex.split(line)[1:] for line in lines if line.startswith("stream-detector ")]
    assert len(ours) > 3
    for arguments in ours:
        understood(arguments)
    for path in re.findall(r"(?:build -f|apply -k) (\S+)", "\n".join(lines)):
        assert (ROOT / path).exists(), path


def test_shell_scripts_are_shell() -> None:
    assert shutil.which("bash")
    assert subprocess.run(["bash", "-n", ROOT / "deploy" / "try.sh"]).returncode == 0
