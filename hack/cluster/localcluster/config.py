"""The daemons: their configuration files and command lines, from the paths alone."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

from .check import cni_folder
from .daemons import Daemon
from .identity import HOST_IP, NODE
from .leftovers import CGROUP
from .paths import MACHINE, Paths
from .shell import write

BRIDGE = "kcni0"
PODS = "10.244.0.0/24"
SERVICES = "10.96.0.0/16"
DNS_READY = "127.0.0.1:18181"
PROXY_HEALTH = "127.0.0.1:10256"
_ETCD, _PEER = "http://127.0.0.1:12379", "http://127.0.0.1:12380"


def write_config(paths: Paths) -> None:
    """Write every configuration file under etc/."""
    write(paths.etc / "containerd.toml", _containerd(paths))
    write(paths.etc / "cni/10-local.conflist", json.dumps(_cni(paths), indent=1))
    write(paths.etc / "kubelet.yaml", _kubelet(paths))
    write(paths.etc / "kube-proxy.yaml", _proxy(paths))
    write(paths.etc / "Corefile", _corefile(paths))
    write(paths.etc / "resolv.conf", f"nameserver {HOST_IP}\n")


def etcd(paths: Paths) -> Daemon:
    """etcd without fsync: its data lives only as long as the cluster."""
    return Daemon("etcd", [
        paths.bin / "etcd", "--data-dir", paths.state / "etcd", "--unsafe-no-fsync", "--log-level=warn",
        f"--listen-client-urls={_ETCD}", f"--advertise-client-urls={_ETCD}",
        f"--listen-peer-urls={_PEER}", f"--initial-advertise-peer-urls={_PEER}", f"--initial-cluster=default={_PEER}",
    ])  # fmt: skip


def apiserver(paths: Paths) -> Daemon:
    """kube-apiserver; it advertises the bridge's address, which pods and the host both reach."""
    etc = paths.etc
    return Daemon("kube-apiserver", [
        paths.bin / "kube-apiserver", f"--etcd-servers={_ETCD}", f"--service-cluster-ip-range={SERVICES}",
        f"--advertise-address={HOST_IP}", "--secure-port=6443", "--authorization-mode=Node,RBAC", "--allow-privileged=true",
        f"--tls-cert-file={etc / 'api.crt'}", f"--tls-private-key-file={etc / 'api.key'}", f"--client-ca-file={etc / 'ca.crt'}",
        f"--token-auth-file={etc / 'tokens.csv'}", "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={etc / 'sa.pub'}", f"--service-account-signing-key-file={etc / 'sa.key'}",
        f"--kubelet-client-certificate={etc / 'kubelet-client.crt'}", f"--kubelet-client-key={etc / 'kubelet-client.key'}",
        "--kubelet-preferred-address-types=InternalIP", "--profiling=false",
    ])  # fmt: skip


def containerd(paths: Paths) -> Daemon:
    """containerd at the root of a mount namespace of its own, whose mounts vanish with the last of its processes."""
    return Daemon("containerd", [
        "unshare", "-m", "sh", "-c", f"mount --make-rshared / && exec containerd -c {shlex.quote(str(paths.etc / 'containerd.toml'))}",
    ])  # fmt: skip


def controllers(paths: Paths) -> list[Daemon]:
    """The controller manager and the scheduler."""
    etc = paths.etc
    return [
        Daemon("kube-controller-manager", [
            paths.bin / "kube-controller-manager", f"--kubeconfig={etc / 'controller-manager.kubeconfig'}",
            f"--service-account-private-key-file={etc / 'sa.key'}", f"--root-ca-file={etc / 'ca.crt'}",
            f"--authentication-kubeconfig={etc / 'controller-manager.kubeconfig'}",
            f"--authorization-kubeconfig={etc / 'controller-manager.kubeconfig'}", "--bind-address=127.0.0.1",
            "--use-service-account-credentials=true", "--leader-elect=false", "--pvclaimbinder-sync-period=1s", "--allocate-node-cidrs=false",
        ]),
        Daemon("kube-scheduler", [
            paths.bin / "kube-scheduler", f"--kubeconfig={etc / 'scheduler.kubeconfig'}", "--leader-elect=false",
            f"--authentication-kubeconfig={etc / 'scheduler.kubeconfig'}", "--bind-address=127.0.0.1",
            f"--authorization-kubeconfig={etc / 'scheduler.kubeconfig'}",
        ]),
    ]  # fmt: skip


def node_agents(paths: Paths, containerd_pid: int) -> list[Daemon]:
    """The kubelet (in containerd's mount namespace, or pods see empty volumes), kube-proxy and CoreDNS."""
    etc, root = paths.etc, paths.state / "kubelet"
    return [
        Daemon("kubelet", [
            "nsenter", "-t", str(containerd_pid), "-m", "--", paths.bin / "kubelet", f"--config={etc / 'kubelet.yaml'}",
            f"--kubeconfig={etc / 'kubelet.kubeconfig'}", f"--root-dir={root}", f"--cert-dir={root / 'pki'}",
            f"--hostname-override={NODE}", f"--node-ip={HOST_IP}", "-v=1",
        ]),
        Daemon("kube-proxy", [paths.bin / "kube-proxy", f"--config={etc / 'kube-proxy.yaml'}"]),
        Daemon("coredns", [paths.bin / "coredns", "-conf", etc / "Corefile"]),
    ]  # fmt: skip


def _containerd(paths: Paths) -> str:
    off = ["aufs", "btrfs", "devmapper", "zfs"]
    disabled = [*(f"io.containerd.snapshotter.v1.{name}" for name in off), "io.containerd.internal.v1.tracing",
                "io.containerd.tracing.processor.v1.otlp"]  # fmt: skip
    return f"""version = 2
root = "{paths.containerd}"
state = "{MACHINE / "containerd"}"
oom_score = 0
disabled_plugins = {json.dumps(disabled)}
[grpc]
  address = "{paths.socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{paths.state / "containerd-opt"}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:local"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_folder()}"
    conf_dir = "{paths.etc / "cni"}"
    max_conf_num = 1
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "{shutil.which("runc")}"
"""


def _cni(paths: Paths) -> dict[str, object]:
    addresses = {"type": "host-local", "dataDir": str(paths.run / "addresses"), "ranges": [[{"subnet": PODS}]],
                 "routes": [{"dst": "0.0.0.0/0"}]}  # fmt: skip
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": addresses,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "dpojob-local", "plugins": [bridge, {"type": "firewall"}, ports]}


def _kubelet(paths: Paths) -> str:
    return f"""apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {paths.etc / "ca.crt"}}}
authorization: {{mode: Webhook}}
address: {HOST_IP}
healthzBindAddress: 127.0.0.1
cgroupDriver: cgroupfs
cgroupRoot: /{CGROUP}
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://{paths.socket}
clusterDNS: [{HOST_IP}]
clusterDomain: cluster.local
resolvConf: {paths.etc / "resolv.conf"}
localStorageCapacityIsolation: false
evictionHard: {{memory.available: 200Mi, nodefs.available: "1%", imagefs.available: "1%", nodefs.inodesFree: "1%"}}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
imageMinimumGCAge: 8760h
oomScoreAdj: 0
maxPods: 200
enforceNodeAllocatable: []
nodeStatusUpdateFrequency: 5s
serializeImagePulls: false
"""


def _proxy(paths: Paths) -> str:
    return f"""apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: {PODS}
hostnameOverride: {NODE}
clientConnection: {{kubeconfig: {paths.etc / "kube-proxy.kubeconfig"}}}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
healthzBindAddress: {PROXY_HEALTH}
metricsBindAddress: 127.0.0.1:10249
"""


def _corefile(paths: Paths) -> str:
    upstream = Path("/etc/resolv.conf")
    usable = upstream.exists() and "nameserver" in upstream.read_text()
    return f""".:53 {{
    bind {HOST_IP}
    errors
    ready {DNS_READY}
    cache 5
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {paths.etc / "coredns.kubeconfig"}
        pods insecure
        ttl 5
    }}
    {f"forward . {upstream}" if usable else ""}
}}
"""
