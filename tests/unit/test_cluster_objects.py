"""What the local cluster holds and how its parts find each other. Nothing is applied; the node is not there."""

import tomllib
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from hack.cluster.localcluster import config, identity, leftovers, objects, runtime
from hack.cluster.localcluster.paths import Paths
from hack.cluster.localcluster.shell import Problem


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path, tmp_path / "cache")


def words(command: list[str | Path]) -> list[str]:
    return [str(word) for word in command]


class TestObjects:
    def test_a_store_is_one_folder_that_one_claim_is_bound_to(self) -> None:
        volume, claim = objects._store_objects("team", "inputs", "dpo-inputs-team", "/store/team/inputs")
        reference = volume["spec"]["claimRef"]
        assert reference == {"namespace": "team", "name": "dpo-inputs"}
        assert reference == {key: claim["metadata"][key] for key in reference}
        assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
        for spec in (volume["spec"], claim["spec"]):
            assert spec["storageClassName"] == "", "a default storage class would make another volume"
            assert spec["accessModes"] == ["ReadWriteMany"]
        assert volume["spec"]["hostPath"]["path"] == "/store/team/inputs"
        assert volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain"

    def test_the_probe_is_admitted_under_restricted(self) -> None:
        spec = objects._probe("p")["spec"]
        (container,) = spec["containers"]
        security = container["securityContext"]
        assert security["runAsNonRoot"] and not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"]["type"] == "RuntimeDefault"
        assert container["imagePullPolicy"] == "Never"

    def test_dns_rights_are_those_of_the_user_in_its_token(self) -> None:
        role, binding = objects._dns_rights()
        assert binding["subjects"][0]["name"] == identity.USERS["coredns"][0]
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}

    @pytest.mark.parametrize("name", ["", "Team", "a_b", "-a", "a-", "a.b", "x" * 53, "inputs", "outputs"])
    def test_namespaces_that_cannot_be_are_refused_before_anything_is_made(
        self, paths: Paths, name: str
    ) -> None:
        with pytest.raises(Problem, match="no name for a namespace"):
            objects.make_namespace(paths, name)
        assert not paths.store.exists()

    def test_unknown_slices_are_refused_with_the_known_ones(self, paths: Paths) -> None:
        with pytest.raises(Problem, match="unknown TPU slice v5p-8; known are v4-16, v4-8, v4-64"):
            objects.make_tpu_host(paths, "v5p-8")

    @pytest.mark.parametrize(
        ("node", "ready"),
        [
            (None, False),
            ({"status": {}}, False),
            ({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}, False),
            ({"status": {"conditions": [{"type": "DiskPressure", "status": "True"}]}}, False),
            ({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, True),
        ],
    )
    def test_a_node_is_ready_by_its_condition_alone(
        self, monkeypatch: pytest.MonkeyPatch, paths: Paths, node: Any, ready: bool
    ) -> None:
        monkeypatch.setattr(objects, "get", lambda *_: node)
        assert objects.node_ready(paths) is ready


class TestConfig:
    def test_addresses_lie_in_the_networks_they_are_taken_from(self) -> None:
        assert ip_address(identity.HOST_IP) in ip_network(config.PODS)
        assert ip_address(identity.SERVICE_IP) == ip_network(config.SERVICES)[1]
        assert not ip_network(config.PODS).overlaps(ip_network(config.SERVICES))

    def test_kubelet_speaks_to_our_containerd_and_puts_pods_into_our_cgroup(self, paths: Paths) -> None:
        kubelet = yaml.safe_load(config._kubelet(paths))
        containerd = tomllib.loads(config._containerd(paths))
        assert kubelet["containerRuntimeEndpoint"] == f"unix://{containerd['grpc']['address']}"
        assert kubelet["cgroupRoot"] == f"/{leftovers.CGROUP}"
        assert kubelet["authentication"]["anonymous"]["enabled"] is False
        assert kubelet["authorization"]["mode"] == "Webhook"

    def test_pods_get_addresses_of_our_bridge(self, paths: Paths) -> None:
        bridge: Any = config._cni(paths)["plugins"]
        assert bridge[0]["bridge"] == config.BRIDGE
        assert bridge[0]["ipam"]["ranges"] == [[{"subnet": config.PODS}]]
        assert yaml.safe_load(config._proxy(paths))["clusterCIDR"] == config.PODS

    def test_every_kubeconfig_that_a_daemon_reads_is_one_that_is_written(self, paths: Paths) -> None:
        daemons = [*config.controllers(paths), *config.node_agents(paths, 7)]
        text = " ".join(word for daemon in daemons for word in words(daemon.command))
        text += config._proxy(paths) + config._corefile(paths)
        named = {
            part.split(".kubeconfig")[0] for part in text.split(f"{paths.etc}/") if ".kubeconfig" in part
        }
        assert named == identity.USERS.keys() - {"admin"}

    def test_the_kubelet_runs_in_the_mount_namespace_of_containerd(self, paths: Paths) -> None:
        kubelet = next(d for d in config.node_agents(paths, 4711) if d.name == "kubelet")
        assert words(kubelet.command)[:6] == ["nsenter", "-t", "4711", "-m", "--", str(paths.bin / "kubelet")]

    def test_only_the_api_server_listens_to_the_network(self, paths: Paths) -> None:
        etcd = words(config.etcd(paths).command)
        urls = [word.partition("=")[2] for word in etcd if word.startswith("--listen")]
        assert len(urls) == 2 and all(url.startswith("http://127.0.0.1:") for url in urls)
        for daemon in config.controllers(paths)[:1]:
            assert "--bind-address=127.0.0.1" in words(daemon.command)


class TestIdentity:
    @pytest.fixture
    def etc(self, paths: Paths) -> Path:
        paths.etc.mkdir(parents=True)
        (paths.etc / "ca.crt").write_text("certificate")
        rows = [f'token-of-{name},{user},{user},"{group}"' for name, (user, group) in identity.USERS.items()]
        (paths.etc / "tokens.csv").write_text("\n".join(rows))
        return paths.etc

    @pytest.mark.parametrize("name", sorted(identity.USERS))
    def test_a_kubeconfig_holds_its_users_own_token(self, etc: Path, name: str) -> None:
        found = yaml.safe_load(identity._kubeconfig(etc, name))
        context = found["contexts"][0]["context"]
        assert found["users"] == [{"name": name, "user": {"token": f"token-of-{name}"}}]
        assert context == {"cluster": found["clusters"][0]["name"], "user": name}

    def test_only_the_admin_is_beyond_rbac(self) -> None:
        assert [name for name, (_, group) in identity.USERS.items() if group == "system:masters"] == ["admin"]


def test_images_of_the_node_are_read_from_ctrs_table(monkeypatch: pytest.MonkeyPatch, paths: Paths) -> None:
    table = (
        "REF               TYPE                                    DIGEST     SIZE     PLATFORMS   LABELS\n"
        "localhost/a:dev   application/vnd.oci.image.index.v1+json sha256:aa  1.2 MiB  linux/amd64 io.x=1\n"
        "sha256:bb         application/vnd.oci.image.index.v1+json sha256:bb  9.0 MiB  linux/amd64 -\n"
        "\n"
    )
    monkeypatch.setattr(runtime, "ctr", lambda *_: table)
    assert runtime.present(paths) == {"localhost/a:dev": "sha256:aa", "sha256:bb": "sha256:bb"}


def test_only_unnamed_images_without_a_name_elsewhere_are_dropped(
    monkeypatch: pytest.MonkeyPatch, paths: Paths
) -> None:
    images = {"localhost/a:dev": "sha256:aa", "sha256:aa": "sha256:aa", "sha256:old": "sha256:old"}
    monkeypatch.setattr(runtime, "present", lambda _: images)
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(runtime, "ctr", lambda _, *command, **__: calls.append(command))
    runtime._drop_untagged(paths)
    assert calls == [("images", "rm", "sha256:old")]
