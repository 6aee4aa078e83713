"""Ports of the loopback for programs that cannot be asked which one they were given."""

import socket
import time

# Only a failure waits this long.
PATIENCE = 60


def free_ports(names):
    """A port for each name, none twice. They were free just now: somebody else may take one."""
    listeners = {name: socket.create_server(("127.0.0.1", 0)) for name in names}
    ports = {name: listener.getsockname()[1] for name, listener in listeners.items()}
    for listener in listeners.values():
        listener.close()
    return ports


def wait_for_port(port):
    """Until somebody listens there."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), PATIENCE).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise AssertionError(f"nobody listens at port {port}") from None
            time.sleep(0.01)
