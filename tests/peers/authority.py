"""Certificates made by the openssl command: an authority, a server for the loopback, and clients."""

import pathlib
import subprocess


class Authority:
    """Files in a folder: ca.pem, and NAME.pem and NAME.key for each name that was asked for."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self._openssl("req", "-x509", "-subj", "/CN=authority", "-days", "2", *self._new("ca"), "-out", self.path("ca.pem"))

    def path(self, name):
        return str(self.folder / name)

    def server(self):
        self._sign("server", "/CN=localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1")

    def client(self, name):
        self._sign(name, f"/O=Peers, Ltd/CN={name}", f"subjectAltName=email:{name}@peers.example")

    def subject(self, name):
        """As openssl writes it."""
        line = self._openssl("x509", "-in", self.path(f"{name}.pem"), "-noout", "-subject", "-nameopt", "RFC2253,utf8")
        return line.removeprefix("subject=").strip()

    def _new(self, name):
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", self.path(f"{name}.key"))

    def _sign(self, name, subject, extension):
        request, extensions = self.path(f"{name}.csr"), self.folder / f"{name}.ext"
        extensions.write_text(f"{extension}\nbasicConstraints=CA:FALSE\n")
        self._openssl("req", "-subj", subject, *self._new(name), "-out", request)
        self._openssl(
            *("x509", "-req", "-in", request, "-CA", self.path("ca.pem"), "-CAkey", self.path("ca.key"), "-days", "2"),
            *("-CAcreateserial", "-extfile", str(extensions), "-out", self.path(f"{name}.pem")),
        )

    @staticmethod
    def _openssl(*arguments):
        return subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True).stdout
