"""What the chart renders: least privilege, a restricted pod, the CRD by choice; bad values are refused."""

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from dpojob_api.crd import custom_resource_definition

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/dpojob-operator"
VALUES = (CHART / "values.yaml").read_text()

NAMESPACED = {
    ("dpojob.io", "dpojobs"): {"get", "list", "watch", "delete"},
    ("dpojob.io", "dpojobs/status"): {"get", "patch"},
    ("dpojob.io", "dpojobs/finalizers"): {"update"},
    ("ray.io", "rayjobs"): {"get", "list", "watch", "create", "patch", "delete"},
    ("ray.io", "rayclusters"): {"get", "list", "watch", "delete"},
    ("kueue.x-k8s.io", "workloads"): {"list"},
    ("batch", "jobs"): {"get", "create", "delete"},
    ("", "pods"): {"get", "list", "watch"},
    ("", "configmaps"): {"get", "create", "patch"},
    ("", "secrets"): {"get"},
    ("", "serviceaccounts"): {"get"},
    ("", "persistentvolumeclaims"): {"get"},
    ("", "resourcequotas"): {"list"},
    ("", "events"): {"create"},
}
CLUSTER = {("apiextensions.k8s.io", "customresourcedefinitions"): {"get"}}


def privileges(role: dict[str, Any]) -> dict[tuple[str, str], set[str]]:
    """Return the verbs of a role by group and resource."""
    return {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def container(rendered: Any) -> dict[str, Any]:
    (only,) = rendered.one("Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(only)


def environment(rendered: Any) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container(rendered)["env"]}


def test_chart_passes_lint(helm: Any) -> None:
    helm.succeed("lint", "--strict", str(CHART))


def test_objects_of_the_defaults(render: Callable[..., Any]) -> None:
    assert sorted((o["kind"], o["metadata"]["name"]) for o in render().objects) == [
        ("ClusterRole", "dpojob-edit"),
        ("ClusterRole", "dpojob-system-dpojob-operator"),
        ("ClusterRole", "dpojob-view"),
        ("ClusterRoleBinding", "dpojob-system-dpojob-operator"),
        ("CustomResourceDefinition", "dpojobs.dpojob.io"),
        ("Deployment", "dpojob-operator"),
        ("Service", "dpojob-operator-metrics"),
        ("ServiceAccount", "dpojob-operator"),
    ]


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("dpojob", "dpojob-operator"),
        ("my-dpojob-operator", "my-dpojob-operator"),
        ("team", "team-dpojob-operator"),
    ],
)
def test_names_follow_the_release(render: Callable[..., Any], release: str, name: str) -> None:
    assert render(release=release).one("Deployment")["metadata"]["name"] == name


def test_every_namespaced_object_names_its_namespace(render: Callable[..., Any]) -> None:
    cluster_scoped = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
    for item in render().objects:
        assert ("namespace" in item["metadata"]) == (item["kind"] not in cluster_scoped)


class TestPrivileges:
    def test_cluster_wide_operator_has_exactly_its_verbs(self, render: Callable[..., Any]) -> None:
        role = render().named("ClusterRole")["dpojob-system-dpojob-operator"]
        assert privileges(role) == NAMESPACED | CLUSTER

    def test_operator_of_two_namespaces_has_them_only_there(self, render: Callable[..., Any]) -> None:
        rendered = render({"namespaces": ["a", "b"]})
        roles = [o for o in rendered.objects if o["kind"] == "Role"]
        assert [role["metadata"]["namespace"] for role in roles] == ["a", "b"]
        assert all(privileges(role) == NAMESPACED for role in roles)
        assert privileges(rendered.named("ClusterRole")["dpojob-system-dpojob-operator"]) == CLUSTER
        assert environment(rendered)["DPOJOB_NAMESPACES"] == "a,b"

    def test_bindings_point_to_the_operator(self, render: Callable[..., Any]) -> None:
        rendered = render({"namespaces": ["a"], "serviceAccount": {"name": "me"}})
        for kind in ("RoleBinding", "ClusterRoleBinding"):
            binding = rendered.one(kind)
            assert binding["subjects"] == [
                {"kind": "ServiceAccount", "name": "me", "namespace": "dpojob-system"}
            ]
            assert binding["roleRef"]["name"] in rendered.named(kind.removesuffix("Binding"))

    def test_the_only_crd_that_is_read_is_kuberays(self, render: Callable[..., Any]) -> None:
        role = render().named("ClusterRole")["dpojob-system-dpojob-operator"]
        (rule,) = (r for r in role["rules"] if "customresourcedefinitions" in r["resources"])
        assert rule["resourceNames"] == ["rayjobs.ray.io"]

    def test_nothing_is_a_wildcard(self, render: Callable[..., Any]) -> None:
        for values in ({}, {"namespaces": ["a"]}):
            roles = [o for o in render(values).objects if o["kind"] in ("Role", "ClusterRole")]
            assert not re.search(r"\*", yaml.safe_dump([role["rules"] for role in roles]))

    def test_users_get_jobs_through_the_built_in_roles(self, render: Callable[..., Any]) -> None:
        roles = render().named("ClusterRole")
        labels = "rbac.authorization.k8s.io/aggregate-to-"
        assert roles["dpojob-edit"]["metadata"]["labels"][labels + "edit"] == "true"
        assert roles["dpojob-view"]["metadata"]["labels"][labels + "view"] == "true"
        assert privileges(roles["dpojob-view"]) == {
            ("dpojob.io", "dpojobs"): {"get", "list", "watch"},
            ("dpojob.io", "dpojobs/status"): {"get"},
        }
        assert privileges(roles["dpojob-edit"])[("dpojob.io", "dpojobs/status")] == {"get"}

    def test_roles_can_be_left_out(self, render: Callable[..., Any]) -> None:
        rendered = render({"rbac": {"create": False, "userRoles": False}})
        assert not {o["kind"] for o in rendered.objects} & {"ClusterRole", "ClusterRoleBinding", "Role"}


class TestPod:
    def test_pod_fits_pod_security_restricted(self, render: Callable[..., Any]) -> None:
        pod = render().one("Deployment")["spec"]["template"]["spec"]
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        (operator,) = pod["containers"]
        assert operator["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "volumes" not in pod

    def test_there_is_never_a_second_operator(self, render: Callable[..., Any]) -> None:
        spec = render().one("Deployment")["spec"]
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})

    def test_probes_ask_the_health_port(self, render: Callable[..., Any]) -> None:
        operator = container(render({"probes": {"port": 9999}}))
        paths = {"startupProbe": "/healthz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
        for probe, path in paths.items():
            assert operator[probe]["httpGet"] == {"path": path, "port": "health"}
            assert operator[probe]["timeoutSeconds"] == 10
        assert {"name": "health", "containerPort": 9999} in operator["ports"]

    def test_values_become_settings(self, render: Callable[..., Any]) -> None:
        rendered = render(
            {
                "trainer": {"image": "host/trainer:1"},
                "workers": 8,
                "logLevel": "DEBUG",
                "metrics": {"port": 9000},
                "probes": {"port": 9001},
                "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy"}],
            }
        )
        assert environment(rendered) == {
            "USER": "dpojob-operator",
            "DPOJOB_TRAINER_IMAGE": "host/trainer:1",
            "DPOJOB_NAMESPACES": "",
            "DPOJOB_METRICS_PORT": "9000",
            "DPOJOB_PROBE_PORT": "9001",
            "DPOJOB_WORKERS": "8",
            "DPOJOB_LOG_LEVEL": "DEBUG",
            "HTTPS_PROXY": "http://proxy",
        }

    def test_operator_knows_every_setting_of_the_chart(self, render: Callable[..., Any]) -> None:
        source = (ROOT / "operator/src/dpojob_operator/__main__.py").read_text()
        known = set(re.findall(r'env\("(DPOJOB_\w+)"', source))
        assert known | {"USER"} == set(environment(render()))

    def test_image_tag_is_the_app_version(self, render: Callable[..., Any]) -> None:
        version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
        assert container(render())["image"] == f"dpojob-operator:{version}"
        assert environment(render())["DPOJOB_TRAINER_IMAGE"] == f"dpojob-trainer:{version}"
        assert container(render({"image": {"repository": "a/b", "tag": "x"}}))["image"] == "a/b:x"

    def test_defaults_name_no_registry(self, render: Callable[..., Any]) -> None:
        images = (container(render())["image"], environment(render())["DPOJOB_TRAINER_IMAGE"])
        assert not any("/" in image for image in images)

    def test_placement_and_pull_secrets_reach_the_pod(self, render: Callable[..., Any]) -> None:
        values: dict[str, Any] = {
            "imagePullSecrets": [{"name": "registry"}],
            "nodeSelector": {"a": "b"},
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "high",
        }
        pod = render(values).one("Deployment")["spec"]["template"]["spec"]
        assert {key: pod[key] for key in values} == values


class TestMetrics:
    def test_service_selects_the_pod(self, render: Callable[..., Any]) -> None:
        rendered = render()
        labels = rendered.one("Deployment")["spec"]["template"]["metadata"]["labels"]
        service = rendered.one("Service")["spec"]
        assert service["selector"].items() <= labels.items()
        assert service["ports"] == [{"name": "metrics", "port": 8080, "targetPort": "metrics"}]

    def test_annotations_are_a_choice(self, render: Callable[..., Any]) -> None:
        def annotations(values: dict[str, Any]) -> dict[str, str]:
            template = render(values).one("Deployment")["spec"]["template"]
            return dict(template["metadata"].get("annotations", {}))

        assert annotations({}) == {}
        assert annotations({"metrics": {"annotations": True}, "podAnnotations": {"a": "b"}}) == {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": "8080",
            "prometheus.io/path": "/metrics",
            "a": "b",
        }

    def test_port_zero_turns_metrics_off(self, render: Callable[..., Any]) -> None:
        rendered = render({"metrics": {"port": 0, "annotations": True}})
        assert not rendered.named("Service")
        assert [port["name"] for port in container(rendered)["ports"]] == ["health"]
        assert "annotations" not in rendered.one("Deployment")["spec"]["template"]["metadata"]


class TestDefinition:
    def test_crd_is_the_one_of_the_models(self, render: Callable[..., Any]) -> None:
        crd = render().one("CustomResourceDefinition")
        assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert crd == custom_resource_definition()

    def test_crd_may_go_with_the_release(self, render: Callable[..., Any]) -> None:
        crd = render({"crds": {"keep": False}}).one("CustomResourceDefinition")
        assert "annotations" not in crd["metadata"]

    def test_crd_may_be_left_out(self, render: Callable[..., Any]) -> None:
        assert not render({"crds": {"install": False}}).named("CustomResourceDefinition")


BAD_VALUES = {
    "unknown value": ("nonsense=1", "nonsense"),
    "unknown nested value": ("image.name=x", "image"),
    "replicas, of which there is one": ("replicas=2", "replicas"),
    "image without a name": ("image.repository=", "repository"),
    "image with a blank": ("image.repository=a b", "repository"),
    "unknown pull policy": ("image.pullPolicy=Sometimes", "pullPolicy"),
    "trainer image with a blank": ("trainer.image=a b", "trainer"),
    "namespace in capitals": ("namespaces={Team}", "namespaces"),
    "same namespace twice": ("namespaces={a,a}", "namespaces"),
    "no workers": ("workers=0", "workers"),
    "unknown log level": ("logLevel=LOUD", "logLevel"),
    "privileged metrics port": ("metrics.port=80", "port"),
    "port out of range": ("probes.port=70000", "port"),
    "yes instead of true": ("crds.install=yes", "install"),
}


class TestValues:
    @pytest.mark.parametrize(
        ("setting", "named"), list(BAD_VALUES.values()), ids=[name.replace(" ", "-") for name in BAD_VALUES]
    )
    def test_bad_value_is_refused_by_name(self, helm: Any, setting: str, named: str) -> None:
        why = helm.fail("template", "dpojob", str(CHART), "--set", setting)
        assert "values don't meet the specifications of the schema" in why
        assert named in why

    def test_foreign_service_account_must_be_named(self, helm: Any) -> None:
        why = helm.fail("template", "dpojob", str(CHART), "--set", "serviceAccount.create=false")
        assert "serviceAccount.name is needed when serviceAccount.create is false" in why

    def test_every_value_has_a_comment(self) -> None:
        for previous, line in pairwise(VALUES.splitlines()):
            if re.match(r"\s*\w+:", line) and not line.startswith(("    ", "  requests", "  limits")):
                is_group = line.endswith(":") and not line.startswith(" ")
                assert is_group or previous.strip().startswith("# --"), line

    def test_every_value_is_in_the_readme(self) -> None:
        readme = (CHART / "README.md").read_text()
        documented = set(re.findall(r"^\| `([\w.]+)` \|", readme, re.MULTILINE))
        assert documented == set(_paths(yaml.safe_load(VALUES)))


def _paths(values: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        deeper = isinstance(value, dict) and value and key != "resources"
        found += _paths(value, f"{prefix}{key}.") if deeper else [prefix + key]
    return found
