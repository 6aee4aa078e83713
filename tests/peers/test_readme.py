"""The README's way from a password file to TLS with certificates of clients, word by word: its commands and listeners, at
ports that are free. Its page of a browser has a test of its own."""

import os
import pathlib
import re
import subprocess
import tempfile
import unittest

from mosquitto import Subscriber
from program import Program, temporary_folder

FIELDGATE = os.environ["FIELDGATE"]
README = (pathlib.Path(__file__).parents[2] / "README.md").read_text()
SECONDS_MAX = 120

# The administrator's machine, as far as the commands need it.
AROUND = """\
set -eu
cd "$FOLDER"
fieldgate() { "$FIELDGATE" "$@"; }
sudo() { "$@"; }
chgrp() { :; }
"""


def block(language, has):
    """The one of this language with these words; the reference of the configuration has them all."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    [found] = [text for text in blocks if has in text and "[gateway.defaults]" not in text]
    return found


class FromPasswordsToCertificates(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="fieldgate-peers.")))

    def shell(self, commands, answers=""):
        environment = os.environ | {"FOLDER": str(self.folder), "FIELDGATE": FIELDGATE}
        return subprocess.run(
            ["bash", "-c", AROUND + commands],
            input=answers,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            env=environment,
        )

    def succeed(self, commands, answers=""):
        done = self.shell(commands, answers)
        self.assertEqual(done.returncode, 0, f"{commands}\n{done.stdout}{done.stderr}")

    def configuration(self):
        """The blocks of the README in one file, as it says, and what this machine needs besides."""
        listeners = block("toml", "[listener.lan]") + block("toml", "[listener.machines]")
        # Together as they stand, they are right.
        text = f'[gateway]\nname = "shed"\ndata_dir = "{self.folder}/data"\n[control]\nsocket = "{self.folder}/control.sock"\n'
        text += listeners
        file = self.folder / "fieldgate.toml"
        file.write_text(text)
        self.succeed("fieldgate check --strict --config fieldgate.toml")
        for port in ("*:8883", "*:8884", "127.0.0.1:9001"):
            self.assertIn(f'"{port}"', text)
            text = text.replace(f'"{port}"', '"127.0.0.1:0"')
        file.write_text(text)
        return file

    def test_word_by_word(self):
        passwords = block("sh", "passwd -c").replace("/etc/fieldgate/", "")
        for command in passwords.splitlines():
            self.succeed(command, "secret\nsecret\n" if "passwd -c" in command or command.endswith(" panel") else "")
        self.succeed(block("sh", "openssl req"))
        file = self.configuration()
        with Program([FIELDGATE], "run", "--config", str(file), folder=temporary_folder()) as gateway:
            ports = {
                name: gateway.wait_for(rf"listening name={name} address=127\.0\.0\.1:(\d+)\n")[1]
                for name in ("lan", "machines", "pages")
            }
            clients = block("sh", "mosquitto_pub --cafile")
            clients = clients.replace("8883", ports["lan"]).replace("8884", ports["machines"]).replace("PASSWORD", "secret")
            # The first is for another terminal.
            watching, publishing = clients.splitlines()
            arguments = re.sub(r"#.*", "", watching.replace("ca.pem", f"{self.folder}/ca.pem")).replace("'", "").split()[1:]
            # A comment is not all that a # can begin.
            arguments[-1] = "pumps/#"
            with Subscriber("-h", "localhost", *arguments, "-C", "1", "-F", "message %t %p") as anna:
                self.succeed(publishing)
                self.assertEqual(anna.messages(), ["pumps/7/level 4.2"])
            # A page of the same machine may look, as nobody, and no more.
            by_websocket = f"fieldgate pub -L ws://127.0.0.1:{ports['pages']}/mqtt -V 5 -q 1 -m x"
            self.assertNotEqual(self.shell(f"{by_websocket} -t shed/lamp").returncode, 0)
            refused = self.shell(f"mosquitto_pub --cafile ca.pem -p {ports['machines']} -t pumps/7/level -m x")
            self.assertNotEqual(refused.returncode, 0, "without a certificate")


if __name__ == "__main__":
    unittest.main()
