"""A real Kafka broker: one node, KRaft, no ZooKeeper. `make servers` fetches its jars."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from tests.servers.process import Process, Running, free_port, new_folder

LIBS = Path(__file__).parents[2] / ".servers" / "kafka" / "libs"

PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "num.partitions": "4",
    # One node can't replicate.
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Small and quick: few internal partitions, no waiting for more members, little memory for the cleaner.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    "log.cleaner.dedupe.buffer.size": "16777216",
    # A killed broker may come back only when its session is over: 9 s with the default.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}

# For a JVM that lives for seconds or minutes: it ends before code that is optimised for long has paid for itself.
BRIEF = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")

LOG4J = """\
<Configuration status="WARN">
  <Appenders><Console name="console"><PatternLayout pattern="%d %p %c{1}: %m%n"/></Console></Appenders>
  <Loggers><Root level="INFO"><AppenderRef ref="console"/></Root></Loggers>
</Configuration>
"""


class KafkaBroker(Running):
    """One broker; ports and data stay the same until the context ends.

    `properties` go on top of those above, such as `{"message.max.bytes": "2000000"}`; `format_options` are for the tool
    that prepares the data folder, such as `["--add-scram", "…"]`. With `lasting`, for measurements, it is as fast as it
    gets, and takes twice as much of a processor until it is.
    """

    def __init__(
        self,
        properties: Mapping[str, str] | None = None,
        heap: str = "512m",
        format_options: Sequence[str] = (),
        lasting: bool = False,
    ) -> None:
        self.folder = new_folder("kafka")
        self.port, self.controller_port = free_port(), free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self._properties = dict(properties or {})
        self._machine = [f"-Xms{heap}", f"-Xmx{heap}", *(() if lasting else BRIEF)]
        self._format_options = format_options
        self._founding = ["--standalone", "-t", cluster_id()]
        self._process = Process("Kafka", self.folder / "broker.log")

    def join(self, node: int, cluster: str, controllers: Mapping[int, tuple[str, str]]) -> None:
        """Be one node of several, before the first start: their ids, controllers' addresses and folder ids."""
        quorum = ",".join(f"{number}@{address}:{folder}" for number, (address, folder) in controllers.items())
        addresses = ",".join(address for address, _ in controllers.values())
        self._properties |= {"node.id": str(node), "controller.quorum.bootstrap.servers": addresses}
        self._founding = ["--initial-controllers", quorum, "-t", cluster]

    def start(self) -> None:
        if not (self.folder / "data").exists():
            self._format()
        config = str(self.folder / "server.properties")
        logging = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.xml'}"
        command = [java(), *self._machine, logging, "-cp", class_path(), "kafka.Kafka", config]
        self._process.start(command, self._answers)

    def stop(self) -> None:
        """End it in an orderly way; the data stay."""
        self._process.stop()

    def kill(self) -> None:
        """SIGKILL; what it had acknowledged stays, since the system holds what was written to the log."""
        self._process.kill()

    def restart(self) -> None:
        """Same ports, same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End it and remove its data: killed, since nobody needs an orderly end."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def create_topics(self, partitions: Mapping[str, int], configs: Mapping[str, str] | None = None) -> None:
        """Create these topics, with these topic settings, and wait until their partitions have leaders."""
        wanted = {
            name: {"num_partitions": count, "replication_factor": 1, "configs": dict(configs or {})}
            for name, count in partitions.items()
        }
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            admin.create_topics(wanted, wait_for_metadata=True)
        finally:
            admin.close()

    def _format(self) -> None:
        """Write the configuration and prepare the data folder, as a broker's first start wants it."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        broker, controller = f"PLAINTEXT://{self.bootstrap}", f"CONTROLLER://127.0.0.1:{self.controller_port}"
        properties = PROPERTIES | {
            "listeners": f"{broker},{controller}",
            "advertised.listeners": f"{broker},{controller}",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self.controller_port}",
            "log.dirs": str(self.folder / "data"),
        }
        lines = [f"{key}={value}\n" for key, value in (properties | self._properties).items()]
        config = self.folder / "server.properties"
        config.write_text("".join(lines))
        (self.folder / "log4j2.xml").write_text(LOG4J)
        command = [java(), *BRIEF, "-cp", class_path(), "kafka.tools.StorageTool", "format", *self._founding]
        command += ["-c", str(config), *self._format_options]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"Kafka's data folder could not be formatted\n{done.stdout}{done.stderr}")

    def _answers(self) -> bool:
        try:
            # First a bare connection: the client would log a warning for each one refused.
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            admin = KafkaAdminClient(bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=2000)
        except (OSError, KafkaError):
            return False
        try:
            # It is listed while it is still fenced, and then leads no partition and takes none.
            return any(not broker.get("is_fenced") for broker in admin.describe_cluster()["brokers"])
        except KafkaError:
            return False
        finally:
            admin.close()


def java() -> str:
    if path := shutil.which("java"):
        return path
    raise RuntimeError("the Kafka broker needs Java 17 or newer, and there is no `java` on PATH")


def class_path() -> str:
    if any(LIBS.glob("kafka_*.jar")):
        return f"{LIBS}/*"
    raise RuntimeError(f"the Kafka broker's jars are missing from {LIBS}: run `make servers`")


def cluster_id() -> str:
    """What `StorageTool random-uuid` gives, without a second for its JVM: 16 bytes, URL-safe, no padding."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
