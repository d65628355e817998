"""Keys, certificates and tokens of the cluster: one authority, one identity per component, RBAC for all but the admin."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

from .paths import Paths
from .shell import run, write

HOST_IP = "10.244.0.1"
SERVICE_IP = "10.96.0.1"
NODE = "node-0"
API = "https://127.0.0.1:6443"
DAYS = "3650"
USERS = {
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
    "kube-proxy": ("system:kube-proxy", ""),
    "coredns": ("system:coredns", ""),
}
_NAMES = ",".join(
    [
        *(f"DNS:{n}" for n in ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")),
        "DNS:kubernetes.default.svc.cluster.local",
        *(f"IP:{a}" for a in ("127.0.0.1", HOST_IP, SERVICE_IP)),
    ]
)


def make_identity(paths: Paths) -> None:
    """Make what is missing under etc/; an existing authority is kept, so a kubeconfig stays valid over `down` and `up`."""
    etc = paths.etc
    etc.mkdir(parents=True, exist_ok=True)
    etc.chmod(0o700)
    if not (etc / "api.crt").exists():
        _authority(etc)
        make_certificate(etc, "api", "/CN=kube-apiserver", f"subjectAltName={_NAMES}")
        make_certificate(
            etc, "kubelet-client", "/O=system:masters/CN=kube-apiserver", "extendedKeyUsage=clientAuth"
        )
        run(["openssl", "genrsa", "-out", etc / "sa.key", "2048"])
        run(["openssl", "rsa", "-in", etc / "sa.key", "-pubout", "-out", etc / "sa.pub"])
    if not (etc / "tokens.csv").exists():
        rows = [f'{secrets.token_hex(16)},{user},{user},"{group}"' for user, group in USERS.values()]
        write(etc / "tokens.csv", "\n".join(rows) + "\n", 0o600)
    for name in USERS:
        write(etc / f"{name}.kubeconfig", _kubeconfig(etc, name), 0o600)


def admin_token(paths: Paths) -> str:
    """Return the admin's bearer token."""
    return _token(paths.etc, "admin")


def _authority(etc: Path) -> None:
    subject = ["-subj", "/CN=dpojob-local-ca", "-days", DAYS]
    run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject,
         "-keyout", etc / "ca.key", "-out", etc / "ca.crt"])  # fmt: skip


def make_certificate(etc: Path, name: str, subject: str, extension: str) -> None:
    """Make the key and the certificate `name` under etc/, signed by the cluster's authority."""
    request, config = etc / f"{name}.csr", write(etc / f"{name}.ext", extension + "\n")
    run(["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", subject,
         "-keyout", etc / f"{name}.key", "-out", request])  # fmt: skip
    run(["openssl", "x509", "-req", "-in", request, "-CA", etc / "ca.crt", "-CAkey", etc / "ca.key",
         "-CAcreateserial", "-days", DAYS, "-extfile", config, "-out", etc / f"{name}.crt"])  # fmt: skip


def _token(etc: Path, name: str) -> str:
    rows = (line.split(",") for line in (etc / "tokens.csv").read_text().splitlines())
    return next(row[0] for row in rows if row[1] == USERS[name][0])


def _kubeconfig(etc: Path, name: str) -> str:
    authority = base64.b64encode((etc / "ca.crt").read_bytes()).decode()
    return f"""apiVersion: v1
kind: Config
clusters:
- name: dpojob-local
  cluster: {{server: "{API}", certificate-authority-data: {authority}}}
users:
- name: {name}
  user: {{token: "{_token(etc, name)}"}}
contexts:
- name: dpojob-local
  context: {{cluster: dpojob-local, user: {name}}}
current-context: dpojob-local
"""
