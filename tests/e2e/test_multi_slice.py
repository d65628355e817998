"""Two v4-8 slices of one host each, four virtual CPU devices per host; KubeRay, operator, trainer image and EasyDeL are
real. What carries the numbers from slice to slice is gloo here, as between the hosts of one slice.
"""

from hack.demo.follow import is_true

from tests.e2e.cluster import Namespace
from tests.e2e.inputs import job
from tests.e2e.marks import ON_SINGLE_HOSTS, RUN_SECONDS

pytestmark = ON_SINGLE_HOSTS

TWO_SLICES = {
    "accelerator": {"type": "v4-8", "slices": 2},
    "mesh": {"dp": 2},
    "output": {"uri": "pvc://dpo-outputs/slices", "sampleCompletions": 0},
}


def test_two_slices_train_one_model(namespace: Namespace) -> None:
    namespace.apply(job("slices", **TWO_SLICES))
    slices: set[tuple[str, str]] = set()

    def complete(status: dict[str, object]) -> bool:
        for pod in namespace.list("pods", "dpojob.io/job=slices,dpojob.io/role=host"):
            labels = pod["metadata"]["labels"]
            slices.add((labels["ray.io/group"], labels["dpojob.io/slice"]))
        return is_true(status, "Complete")

    status = namespace.wait("slices", "Complete", complete, RUN_SECONDS)
    assert slices == {("tpu-0", "0"), ("tpu-1", "1")}
    plan = status["plan"]
    assert (plan["slices"], plan["chips"], plan["hosts"], plan["mesh"]["dp"]) == (2, 8, 2, 2)
    assert status["finalMetrics"]["step"] == 12
    assert status["ledger"]["total"] % 8 == 0
    assert [a["outcome"] for a in status["attempts"]] == ["Succeeded"]
    assert (namespace.outputs / "slices" / "model" / "config.json").is_file()
