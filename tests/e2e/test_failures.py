"""Jobs that cannot succeed, on a slice of one host: they end with the trainer's own reason and its fix."""

from hack.demo.follow import condition, is_true

from tests.e2e.cluster import Namespace, reason
from tests.e2e.inputs import single_host_job
from tests.e2e.marks import ON_SINGLE_HOSTS, RUN_SECONDS

pytestmark = ON_SINGLE_HOSTS


def test_loss_that_is_not_finite_ends_failed_with_the_reason(namespace: Namespace) -> None:
    namespace.apply(single_host_job("broken", model={"uri": "pvc://dpo-inputs/broken-model"}))
    status = namespace.wait("broken", "Failed", lambda s: is_true(s, "Failed"), RUN_SECONDS)
    assert reason(status, "Failed") == "NonFiniteLoss"
    message = (condition(status, "Failed") or {})["message"]
    assert "Traceback" not in message
    assert not (namespace.outputs / "broken" / "model").exists()


def test_wrong_column_ends_failed_with_the_columns_that_exist(namespace: Namespace) -> None:
    dataset = {"uri": "pvc://dpo-inputs/pairs.jsonl", "columns": {"prompt": "prompt", "chosen": "best"}}
    namespace.apply(single_host_job("columns", dataset=dataset))
    status = namespace.wait("columns", "Failed", lambda s: is_true(s, "Failed"), RUN_SECONDS)
    assert reason(status, "Failed") == "ColumnNotFound"
    assert "rejected" in (condition(status, "Failed") or {})["message"]
