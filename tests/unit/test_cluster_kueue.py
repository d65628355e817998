"""What is kept of Kueue's own manifests. Pure; that they work is shown by tests/integration/test_kueue.py."""

from hack.cluster.localcluster.kueue import IMAGE, SECRET, fitted

AUTHORITY = "Q0E="


def body(kind, name, **fields):
    return {"kind": kind, "metadata": {"name": name}} | fields


def webhooks(*names):
    return body(
        "MutatingWebhookConfiguration", "w", webhooks=[{"name": n, "clientConfig": {}} for n in names]
    )


def test_only_webhooks_for_rayjobs_with_a_queue_and_for_kueues_own_kinds_are_left():
    (kept,) = fitted(
        [webhooks("mpod.kb.io", "mrayjob.kb.io", "mraycluster.kb.io", "vworkload.kb.io")], AUTHORITY
    )
    assert [w["name"] for w in kept["webhooks"]] == ["mrayjob.kb.io", "vworkload.kb.io"]
    ray_job, workload = kept["webhooks"]
    queued = {"key": "kueue.x-k8s.io/queue-name", "operator": "Exists"}
    assert ray_job["objectSelector"] == {"matchExpressions": [queued]}
    assert "objectSelector" not in workload
    assert {w["clientConfig"]["caBundle"] for w in kept["webhooks"]} == {AUTHORITY}


def test_what_needs_an_aggregation_layer_and_the_empty_secret_are_left_out():
    objects = [
        body("APIService", "v1beta1.visibility.kueue.x-k8s.io"),
        body("RoleBinding", "kueue-visibility-server-auth-reader"),
        body("Secret", SECRET),
        body("RoleBinding", "kueue-leader-election-rolebinding"),
    ]
    assert [o["metadata"]["name"] for o in fitted(objects, AUTHORITY)] == [
        "kueue-leader-election-rolebinding"
    ]


def test_versions_of_a_kind_are_converted_by_a_webhook_that_is_trusted():
    hook = {"clientConfig": {"service": {"name": "s"}}}
    objects = [
        body("CustomResourceDefinition", "a", spec={"conversion": {"strategy": "Webhook", "webhook": hook}}),
        body("CustomResourceDefinition", "b", spec={}),
    ]
    converted, plain = fitted(objects, AUTHORITY)
    assert converted["spec"]["conversion"]["webhook"]["clientConfig"]["caBundle"] == AUTHORITY
    assert plain["spec"] == {}


def test_image_is_the_one_of_this_machine_and_the_integration_is_rayjobs():
    container = {
        "image": "controller:latest",
        "volumeMounts": [],
        "livenessProbe": {},
        "readinessProbe": {"initialDelaySeconds": 5},
    }
    pods = {"spec": {"containers": [container]}}
    objects = [body("Deployment", "d", spec={"template": pods}), body("ConfigMap", "c", data={})]
    deployment, config = fitted(objects, AUTHORITY)
    (made,) = deployment["spec"]["template"]["spec"]["containers"]
    assert (made["image"], made["imagePullPolicy"]) == (IMAGE, "Never")
    assert [mount["name"] for mount in made["volumeMounts"]] == ["cert"]
    assert 'frameworks: ["ray.io/rayjob"]' in config["data"]["controller_manager_config.yaml"]
