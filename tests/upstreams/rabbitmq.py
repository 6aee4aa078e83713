"""RabbitMQ: a cluster of three nodes on this machine, with MQTT and a quorum queue that is read by AMQP.

Nothing of the machine's own RabbitMQ is used but the program: name server, cookie, home, database, logs and ports are
its own, and no service manager has a part in it."""

import os
import pathlib
import signal
import subprocess
import tempfile
import threading

import pika
import pika.exceptions

from arrivals import Arrivals
from output import Output
from ports import free_ports, wait_for_port
from sites import PASSWORD

SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
NODES = (1, 2, 3)
TRIES = 3
QUEUE = "plant"

# A small node: one scheduler that does not spin, and nothing that reaches beyond the loopback.
ERLANG = "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"

CONFIGURATION = """
listeners.tcp.1 = 127.0.0.1:{amqp}
mqtt.listeners.tcp.1 = 127.0.0.1:{mqtt}
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.classic_config.nodes.1 = up1@localhost
cluster_formation.classic_config.nodes.2 = up2@localhost
cluster_formation.classic_config.nodes.3 = up3@localhost
cluster_formation.discovery_retry_limit = 2
log.console = true
log.console.level = info
default_user = plants
default_pass = {password}
disk_free_limit.absolute = 1MB
vm_memory_high_watermark.absolute = 512MB
raft.wal_max_size_bytes = 16777216
"""


class Node:
    """One of them, from the start of its process on."""

    def __init__(self, folder, number, ports):
        self.number = number
        self.amqp, self.mqtt = ports[f"amqp{number}"], ports[f"mqtt{number}"]
        self.folder = folder / f"node{number}"
        self.folder.mkdir()
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(f"fieldgate{os.getpid()}")
        cookie.chmod(0o400)
        (self.folder / "enabled_plugins").write_text("[rabbitmq_mqtt].\n")
        text = CONFIGURATION.format(amqp=self.amqp, mqtt=self.mqtt, password=PASSWORD)
        (self.folder / "rabbitmq.conf").write_text(text)
        environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(ports["names"]),
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": f"up{number}@localhost",
            "RABBITMQ_DIST_PORT": str(ports[f"nodes{number}"]),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERLANG,
            # With a service manager the script becomes the node, so that the process is the node's. It is told nothing.
            "NOTIFY_SOCKET": str(self.folder / "notify"),
        }
        self.process = subprocess.Popen(
            [SERVER],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.output = Output(self.process.stdout)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.output.rest()


class RabbitMq:
    """Three nodes, which start when it is made and are there when `ready` returns."""

    name = "RabbitMQ"
    version = "3.1.1"
    profile = "rabbitmq"

    def __init__(self):
        self.reader = None
        self._start()

    def _start(self):
        self.folder = tempfile.TemporaryDirectory(prefix="fieldgate-rabbitmq.")
        self.names, self.nodes = None, []
        ports = free_ports([*(f"{what}{number}" for what in ("amqp", "mqtt", "nodes") for number in NODES), "names"])
        try:
            self.names = subprocess.Popen(
                ["epmd", "-port", str(ports["names"]), "-address", "127.0.0.1"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            # A node that finds no name server would start one of its own, which would outlive it.
            wait_for_port(ports["names"])
            for number in NODES:
                self.nodes.append(Node(pathlib.Path(self.folder.name), number, ports))
        except BaseException:
            self.end()
            raise

    def _has_started(self):
        """All three run, and have the same queue."""
        if not all(node.output.wait_for("Server startup complete") for node in self.nodes):
            return False
        with self.connect(self.nodes[0]) as connection:
            channel = connection.channel()
            arguments = {"x-queue-type": "quorum", "x-quorum-initial-group-size": len(NODES)}
            channel.queue_declare(QUEUE, durable=True, arguments=arguments)
            for pattern in ("*.plant.#", "late.*.plant.#"):
                channel.queue_bind(QUEUE, "amq.topic", pattern)
        for node in self.nodes:
            try:
                with self.connect(node) as connection:
                    connection.channel().queue_declare(QUEUE, passive=True)
            except pika.exceptions.ChannelClosedByBroker:
                return False
        return True

    def ready(self):
        """Somebody else may take a port that was free, and nodes that start together may miss one another."""
        tries = 1
        while not self._has_started():
            said = self.text()
            self.end()
            if tries == TRIES:
                raise AssertionError(f"RabbitMQ does not start: {said}")
            tries += 1
            self._start()
        self.reader = Reader(self)

    @property
    def urls(self):
        return [f"mqtt://127.0.0.1:{node.mqtt}" for node in self.nodes]

    @property
    def arrivals(self):
        return self.reader.arrivals

    def go_away(self):
        """All at once, as a data centre does."""
        for node in self.nodes:
            node.process.send_signal(signal.SIGSTOP)

    def come_back(self):
        for node in self.nodes:
            node.process.send_signal(signal.SIGCONT)

    def strike(self, sites):
        """The node that a gateway is connected to is gone for good."""
        endpoint = sites[0].bridge()["endpoint"]
        node = next(node for node in self.nodes if endpoint.endswith(f":{node.mqtt}"))
        node.kill()
        return f"node {node.number} of {len(NODES)} was killed"

    def living(self):
        return [node for node in self.nodes if node.process.poll() is None]

    def remarks(self, _wanted):
        return None

    def text(self):
        """The end of what each node printed."""
        return "".join(f"node {node.number}:\n{node.output.text()[-4000:]}" for node in self.nodes)

    def connect(self, node):
        credentials = pika.PlainCredentials("plants", PASSWORD)
        return pika.BlockingConnection(
            pika.ConnectionParameters("127.0.0.1", node.amqp, credentials=credentials, heartbeat=0)
        )

    def end(self):
        if self.reader:
            self.reader.is_over.set()
        for node in self.nodes:
            node.kill()
        if self.names:
            self.names.kill()
            self.names.wait()
        if self.reader:
            self.reader.thread.join()
        self.folder.cleanup()


class Reader:
    """A consumer of the queue, at the last node that lives, and at another one when that is gone."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.arrivals = Arrivals()
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.is_over.is_set():
            try:
                with self.cluster.connect(self.cluster.living()[-1]) as connection:
                    channel = connection.channel()
                    channel.basic_qos(prefetch_count=200)
                    channel.basic_consume(QUEUE, self._take)
                    channel.start_consuming()
            except (pika.exceptions.AMQPError, OSError, IndexError):
                # A node that is gone refuses at once.
                self.is_over.wait(0.1)

    def _take(self, channel, delivery, _properties, body):
        self.arrivals.add(body, delivery.routing_key.startswith("late."), delivery.redelivered)
        channel.basic_ack(delivery.delivery_tag)
