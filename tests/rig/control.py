"""What a gateway says on its control socket."""

import json
import socket

# Only a failure waits this long.
PATIENCE = 60


def ask(path, verb, **fields):
    """The data of its answer to one request."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(path))
        connection.sendall(json.dumps({"verb": verb, **fields}).encode() + b"\n")
        with connection.makefile() as answers:
            answer = json.loads(answers.readline())
    if answer["status"] != "ok":
        raise AssertionError(f"{verb}: {answer}")
    return answer["data"]
