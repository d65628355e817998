"""Bad manifests: each is refused at admission with the path of the field and what to do about it."""

from collections.abc import Callable
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from dpojob_api.mesh import AXES
from dpojob_api.rules import PATTERN_MESSAGES, ROOT_RULES, RULES

SECRET = {"name": "hub", "key": "token"}
WANDB = {"project": "dpo"}

# (sentence, changes to a good job, field the API server names, words of its message)
BAD: list[tuple[str, dict[str, Any], str, str]] = [
    # accelerator
    ("unknown accelerator", {"spec.accelerator.type": "v4-65"}, "spec.accelerator.type", '"v4-64"'),
    ("accelerator missing", {"spec.accelerator": None}, "spec.accelerator", "Required value"),
    ("accelerator type missing", {"spec.accelerator.type": None}, "spec.accelerator.type", "Required value"),
    ("topology of another type", {"spec.accelerator.topology": "2x2x4"}, "spec.accelerator.topology", "topology does not belong to type; leave it out"),
    ("topology that is no shape", {"spec.accelerator.topology": "2*4*4"}, "spec.accelerator.topology", "such as 2x4x4"),
    ("v4 with flex-start", {"spec.accelerator.capacity": {"type": "FlexStart"}}, "spec.accelerator.capacity.type", "TPU v4 has no flex-start; use OnDemand, Spot or Reservation"),
    ("reservation without its name", {"spec.accelerator.capacity": {"type": "Reservation"}}, "spec.accelerator.capacity.reservation", "set both or neither"),
    ("reservation's name with on-demand", {"spec.accelerator.capacity": {"reservation": "mine"}}, "spec.accelerator.capacity.reservation", "set both or neither"),
    ("unknown capacity", {"spec.accelerator.capacity": {"type": "Preemptible"}}, "spec.accelerator.capacity.type", '"Spot"'),
    # mesh
    ("mesh larger than the slice", {"spec.mesh": {"fsdp": 64}}, "spec.mesh", "must multiply to the chips of all slices"),
    ("mesh smaller than the slice", {"spec.mesh": {"fsdp": 16}}, "spec.mesh", "set one axis to -1"),
    ("mesh that leaves no whole rest", {"spec.mesh": {"tp": 3}}, "spec.mesh", "must multiply to the chips of all slices"),
    ("mesh product over several axes", {"spec.mesh": {"dp": 2, "fsdp": 4, "tp": 2, "sp": 4}}, "spec.mesh", "must multiply to the chips"),
    ("two free mesh axes", {"spec.mesh": {"dp": -1}}, "spec.mesh", "only one mesh axis may be -1"),
    *((f"{axis} of zero", {f"spec.mesh.{axis}": 0}, f"spec.mesh.{axis}", f"{axis} must be at least 1, or -1 for the rest") for axis in AXES),
    ("mesh axis of minus two", {"spec.mesh": {"ep": -2}}, "spec.mesh.ep", "greater than or equal to -1"),
    # slices
    ("no slice", {"spec.accelerator.slices": 0}, "spec.accelerator.slices", "greater than or equal to 1"),
    ("more slices than Kueue takes", {"spec.accelerator.slices": 8}, "spec.accelerator.slices", "less than or equal to 7"),
    ("mesh of one of two slices", {"spec.accelerator.slices": 2, "spec.mesh": {"dp": 2, "fsdp": 16}}, "spec.mesh", "must multiply to the chips of all slices"),
    ("tensor parallelism across slices", {"spec.accelerator.slices": 2, "spec.mesh": {"fsdp": 1, "tp": -1}}, "spec.mesh", "mesh dp or fsdp must be a multiple of accelerator.slices"),
    ("batch of one of two slices", {"spec.accelerator.slices": 2, "spec.mesh": {"dp": 2}}, "spec.training.globalBatchSize", "multiple of mesh dp x fsdp"),
    ("several slices with eformer", {"spec.accelerator.slices": 2, "spec.mesh": {"dp": 2}, "spec.training": {"globalBatchSize": 64}, "spec.runtime": {"launcher": "eformer"}}, "spec.runtime.launcher", "several slices need runtime.launcher slice"),
    # batch
    ("batch that does not divide over 32 chips", {"spec.training": {"globalBatchSize": 48}}, "spec.training.globalBatchSize", "multiple of mesh dp x fsdp"),
    ("micro-batch that does not divide over 32 chips", {"spec.training": {"gradientAccumulationSteps": 2}}, "spec.training.globalBatchSize", "change the batch or move chips to tp or sp"),
    ("batch that does not divide over a free dp", {"spec.mesh": {"dp": -1, "fsdp": 2, "tp": 2}, "spec.training": {"globalBatchSize": 24}}, "spec.training.globalBatchSize", "multiple of mesh dp x fsdp"),
    ("batch that the accumulation does not divide", {"spec.training": {"gradientAccumulationSteps": 3}}, "spec.training.gradientAccumulationSteps", "must be a multiple of gradientAccumulationSteps"),
    ("reference some other time", {"spec.dpo": {"referenceLogProbs": "sometimes"}}, "spec.dpo.referenceLogProbs", '"precomputed"'),
    ("shared folder on a laptop", {"spec.output.cacheUri": "/tmp/cache"}, "spec.output.cacheUri", "must be gs://bucket/path or pvc://claim/path"),
    ("no length to pad to", {"spec.training": {"lengthBuckets": 0}}, "spec.training.lengthBuckets", "greater than or equal to 1"),
    ("more lengths than compile in reason", {"spec.training": {"lengthBuckets": 17}}, "spec.training.lengthBuckets", "less than or equal to 16"),
    ("batch of zero", {"spec.training": {"globalBatchSize": 0}}, "spec.training.globalBatchSize", "greater than or equal to 1"),
    ("batch of half a pair", {"spec.training": {"globalBatchSize": 1.5}}, "spec.training.globalBatchSize", "must be of type integer"),
    # lengths
    ("lengths that do not add up", {"spec.dpo": {"maxPromptLength": 512, "maxCompletionLength": 512, "maxLength": 2048}}, "spec.dpo.maxLength", "must be maxPromptLength + maxCompletionLength"),
    ("rotary table too short", {"spec.attention": {"maxPositions": 1024}}, "spec.attention.maxPositions", "raise it or leave it out"),
    ("lengths that sp does not divide", {"spec.mesh": {"fsdp": 1, "sp": -1}, "spec.dpo": {"maxPromptLength": 1000}}, "spec.mesh.sp", "must be a multiple of mesh sp"),
    ("prompt length of zero", {"spec.dpo": {"maxPromptLength": 0}}, "spec.dpo.maxPromptLength", "greater than or equal to 1"),
    ("negative completion length", {"spec.dpo": {"maxCompletionLength": -1}}, "spec.dpo.maxCompletionLength", "greater than or equal to 1"),
    # names
    ("name of 32 characters", {"metadata.name": "a" * 32}, "metadata.name", "at most 31 characters"),
    ("name with a dot", {"metadata.name": "a.b"}, "metadata.name", "only lower-case letters, digits and '-'"),
    ("name that starts with a digit", {"metadata.name": "1st"}, "metadata.name", "must start with a letter"),
    # steps
    ("epochs and steps", {"spec.training": {"epochs": 1, "maxSteps": 10}}, "spec.training.maxSteps", "set epochs or maxSteps, not both"),
    ("no epochs", {"spec.training": {"epochs": 0}}, "spec.training.epochs", "greater than or equal to 1"),
    ("negative steps", {"spec.training": {"maxSteps": -5}}, "spec.training.maxSteps", "greater than or equal to 1"),
    ("warm-up longer than the run", {"spec.training": {"maxSteps": 10, "warmupSteps": 10}}, "spec.training.warmupSteps", "must be smaller than maxSteps"),
    ("checkpoint every zero steps", {"spec.training": {"checkpointSteps": 0}}, "spec.training.checkpointSteps", "greater than or equal to 1"),
    ("negative seed", {"spec.training": {"seed": -1}}, "spec.training.seed", "greater than or equal to 0"),
    ("best checkpoint without held-out pairs", {"spec.training": {"keepBestCheckpoint": True}}, "spec.training.keepBestCheckpoint", "set dataset.evalFraction or dataset.evalSplit"),
    ("checkpoints kept at steps without one", {"spec.training": {"checkpointSteps": 200, "keepCheckpointEvery": 500}}, "spec.training.keepCheckpointEvery", "multiple of checkpointSteps"),
    ("evaluation without held-out pairs", {"spec.training": {"evalSteps": 5}}, "spec.training.evalSteps", "set dataset.evalFraction or dataset.evalSplit"),
    # optimizer and loss
    ("learning rate of zero", {"spec.training": {"learningRate": 0}}, "spec.training.learningRate", "greater than 0"),
    ("negative learning rate", {"spec.training": {"learningRate": -1e-6}}, "spec.training.learningRate", "greater than 0"),
    ("learning rate that rises", {"spec.training": {"learningRate": 1e-6, "learningRateEnd": 1e-5}}, "spec.training.learningRateEnd", "must not exceed learningRate"),
    ("clip of zero", {"spec.training": {"clipGradNorm": 0}}, "spec.training.clipGradNorm", "greater than 0"),
    ("unknown optimizer", {"spec.training": {"optimizer": "adam"}}, "spec.training.optimizer", '"adamw"'),
    ("unknown scheduler", {"spec.training": {"scheduler": "step"}}, "spec.training.scheduler", '"cosine"'),
    ("beta of zero", {"spec.dpo": {"beta": 0}}, "spec.dpo.beta", "greater than 0"),
    ("negative beta", {"spec.dpo": {"beta": -0.1}}, "spec.dpo.beta", "greater than 0"),
    ("beta as text", {"spec.dpo": {"beta": "0.1"}}, "spec.dpo.beta", "must be of type number"),
    ("half of the labels flipped", {"spec.dpo": {"labelSmoothing": 0.5}}, "spec.dpo.labelSmoothing", "must be below 0.5"),
    ("unknown loss", {"spec.dpo": {"lossType": "kto"}}, "spec.dpo.lossType", '"sigmoid"'),
    ("exo_pair without smoothing", {"spec.dpo": {"lossType": "exo_pair"}}, "spec.dpo.labelSmoothing", "set it above 0, e.g. 0.001"),
    ("smoothing that the loss ignores", {"spec.dpo": {"lossType": "hinge", "labelSmoothing": 0.1}}, "spec.dpo.labelSmoothing", "know label smoothing"),
    ("unknown precision", {"spec.precision": {"compute": "float16"}}, "spec.precision.compute", '"bfloat16"'),
    ("unknown attention", {"spec.attention": {"mechanism": "flash"}}, "spec.attention.mechanism", '"splash"'),
    ("unknown gradient checkpointing", {"spec.gradientCheckpointing": "full"}, "spec.gradientCheckpointing", '"nothing_saveable"'),
    ("short batches of no length", {"spec.shortGradientCheckpointing": {"none": -1}}, "spec.shortGradientCheckpointing.none", "greater than or equal to 0"),
    # where things are
    ("model missing", {"spec.model": None}, "spec.model", "Required value"),
    ("model on s3", {"spec.model.uri": "s3://bucket/model"}, "spec.model.uri", "must be hf://org/name, gs://bucket/path or pvc://claim/path"),
    ("model without a scheme", {"spec.model.uri": "Qwen/Qwen3-14B"}, "spec.model.uri", "must be hf://org/name"),
    ("model without an organisation", {"spec.model.uri": "hf://gpt2"}, "spec.model.uri", "must be hf://org/name"),
    ("model in a parent folder", {"spec.model.uri": "pvc://claim/../other"}, "spec.model.uri", "must not contain '..'"),
    ("revision of a bucket", {"spec.model": {"uri": "gs://bucket/model", "revision": "main"}}, "spec.model.revision", "revision is only for hf:// URIs"),
    ("revision with a blank", {"spec.model": {"uri": "hf://a/b", "revision": "a b"}}, "spec.model.revision", "branch, tag or commit"),
    ("data set missing", {"spec.dataset": None}, "spec.dataset", "Required value"),
    ("data set over https", {"spec.dataset.uri": "https://host/data.json"}, "spec.dataset.uri", "must be hf://org/name"),
    ("claim in capitals", {"spec.dataset.uri": "pvc://Claim/data"}, "spec.dataset.uri", "pvc://claim/path"),
    ("output missing", {"spec.output": None}, "spec.output", "Required value"),
    ("output on the Hub", {"spec.output.uri": "hf://org/name"}, "spec.output.uri", "must be gs://bucket/path or pvc://claim/path"),
    ("output with a blank", {"spec.output.uri": "gs://bucket/a b"}, "spec.output.uri", "must be gs://bucket/path"),
    ("output onto the model", {"spec.model.uri": "gs://team/m", "spec.output.uri": "gs://team/m"}, "spec.output.uri", "give the job a folder of its own"),
    ("output above the model", {"spec.model.uri": "gs://team/m/model", "spec.output.uri": "gs://team/m/"}, "spec.output.uri", "give the job a folder of its own"),
    ("output onto the data set", {"spec.dataset.uri": "gs://team/d", "spec.output.uri": "gs://team/d"}, "spec.output.uri", "give the job a folder of its own"),
    ("unknown export format", {"spec.output.exportFormat": "gguf"}, "spec.output.exportFormat", '"safetensors"'),
    # data set
    ("evaluation split and fraction", {"spec.dataset.evalSplit": "test", "spec.dataset.evalFraction": 0.1}, "spec.dataset.evalSplit", "set evalSplit or evalFraction, not both"),
    ("evaluation on the training split", {"spec.dataset.evalSplit": "train"}, "spec.dataset.evalSplit", "use evalFraction"),
    ("most pairs held out", {"spec.dataset.evalFraction": 0.6}, "spec.dataset.evalFraction", "less than or equal to 0.5"),
    ("negative share held out", {"spec.dataset.evalFraction": -0.1}, "spec.dataset.evalFraction", "greater than or equal to 0"),
    ("gate that lets more than everything through", {"spec.dataset.gate": {"maxTruncatedFraction": 1.5}}, "spec.dataset.gate.maxTruncatedFraction", "less than or equal to 1"),
    ("gate that neither fails nor warns", {"spec.dataset.gate": {"onViolation": "Ignore"}}, "spec.dataset.gate.onViolation", "Unsupported value"),
    ("preflight as text", {"spec.dataset.gate": {"preflight": "yes"}}, "spec.dataset.gate.preflight", "must be of type boolean"),
    ("gate without a pair", {"spec.dataset.gate": {"minPairs": 0}}, "spec.dataset.gate.minPairs", "greater than or equal to 1"),
    ("split expression", {"spec.dataset.split": "train[:10%]"}, "spec.dataset.split", "must be the name of a split"),
    ("chosen is rejected", {"spec.dataset.columns": {"chosen": "a", "rejected": "a"}}, "spec.dataset.columns", "must be different columns"),
    ("prompt is chosen", {"spec.dataset.columns": {"prompt": "chosen"}}, "spec.dataset.columns", "must be different columns"),
    # tracking and credentials
    ("W&B without a key", {"spec.tracking": {"wandb": WANDB}}, "spec.credentials", "tracking.wandb needs credentials.wandb"),
    ("histograms without W&B", {"spec.tracking": {"weightHistogramSteps": 10}}, "spec.tracking.weightHistogramSteps", "set wandb too"),
    ("W&B without a project", {"spec.tracking": {"wandb": {}}, "spec.credentials": {"wandb": SECRET}}, "spec.tracking.wandb.project", "Required value"),
    ("Secret in capitals", {"spec.credentials": {"huggingFace": SECRET | {"name": "Hub"}}}, "spec.credentials.huggingFace.name", "must be a Kubernetes name"),
    ("Secret without a key", {"spec.credentials": {"huggingFace": {"name": "hub"}}}, "spec.credentials.huggingFace.key", "Required value"),
    ("key with a blank", {"spec.credentials": {"huggingFace": SECRET | {"key": "a b"}}}, "spec.credentials.huggingFace.key", "must be a key of a Secret"),
    # retries and limits
    ("negative retries", {"spec.retryPolicy": {"preempted": {"maxRetries": -1}}}, "spec.retryPolicy.preempted.maxRetries", "greater than or equal to 0"),
    ("more retries than attempts", {"spec.retryPolicy": {"capacity": {"maxRetries": 99}}}, "spec.retryPolicy.capacity.maxRetries", "less than or equal to 98"),
    ("deadline of zero", {"spec.activeDeadlineSeconds": 0}, "spec.activeDeadlineSeconds", "greater than or equal to 1"),
    ("deletion before the end", {"spec.ttlSecondsAfterFinished": -1}, "spec.ttlSecondsAfterFinished", "greater than or equal to 0"),
    ("budget of nothing", {"spec.budget": {"chipHours": 0}}, "spec.budget.chipHours", "greater than 0"),
    ("stall of a second", {"spec.progress": {"stallSeconds": 1}}, "spec.progress.stallSeconds", "greater than or equal to 30"),
    ("suspension as text", {"spec.suspend": "yes"}, "spec.suspend", "must be of type boolean"),
    ("plan as a boolean, as YAML reads off", {"spec.plan": {"enforce": False}}, "spec.plan.enforce", "must be of type string"),
    ("unknown enforcement", {"spec.plan": {"enforce": "Block"}}, "spec.plan.enforce", '"Require"'),
    ("plan of a second", {"spec.plan": {"timeoutSeconds": 1}}, "spec.plan.timeoutSeconds", "greater than or equal to 60"),
    ("accuracy above one", {"spec.guards": {"rewardAccuracy": {"minimum": 1.5}}}, "spec.guards.rewardAccuracy.minimum", "less than or equal to 1"),
    ("drop of nothing", {"spec.guards": {"chosenLogProb": {"maxDrop": 0}}}, "spec.guards.chosenLogProb.maxDrop", "greater than 0"),
    ("correlation above one", {"spec.guards": {"lengthDrift": {"maxCorrelation": 1}}}, "spec.guards.lengthDrift.maxCorrelation", "less than 1"),
    ("spike that is none", {"spec.guards": {"gradNorm": {"maxRatio": 1}}}, "spec.guards.gradNorm.maxRatio", "greater than 1"),
    ("unknown action of a guard", {"spec.guards": {"gradNorm": {"action": "Restart"}}}, "spec.guards.gradNorm.action", '"RollbackAndReduceLR"'),
    ("learning rate that is not reduced", {"spec.guards": {"learningRateFactor": 1}}, "spec.guards.learningRateFactor", "less than 1"),
    # runtime
    ("image with a blank", {"spec.runtime": {"image": "a b"}}, "spec.runtime.image", "must be an image reference"),
    ("image with an upper-case repository", {"spec.runtime": {"image": "host/Trainer:1"}}, "spec.runtime.image", "no upper-case letters"),
    ("image with an empty tag", {"spec.runtime": {"image": "host/trainer:"}}, "spec.runtime.image", "must be an image reference"),
    ("image with half a digest", {"spec.runtime": {"image": "host/trainer@sha256:12ab"}}, "spec.runtime.image", "must be an image reference"),
    ("unknown pull policy", {"spec.runtime": {"imagePullPolicy": "Sometimes"}}, "spec.runtime.imagePullPolicy", '"IfNotPresent"'),
    ("unknown launcher", {"spec.runtime": {"launcher": "mpi"}}, "spec.runtime.launcher", '"slice"'),
    ("unknown platform", {"spec.runtime": {"platform": "gpu"}}, "spec.runtime.platform", '"tpu"'),
    ("service account in capitals", {"spec.runtime": {"serviceAccountName": "Trainer"}}, "spec.runtime.serviceAccountName", "must be a Kubernetes name"),
    ("start-up deadline of a second", {"spec.runtime": {"startupDeadlineSeconds": 1}}, "spec.runtime.startupDeadlineSeconds", "greater than or equal to 60"),
    ("variable with value and Secret", {"spec.runtime": {"env": [{"name": "A", "value": "1", "secretKeyRef": SECRET}]}}, "spec.runtime.env[0]", "exactly one of value and secretKeyRef"),
    ("variable with neither", {"spec.runtime": {"env": [{"name": "A"}]}}, "spec.runtime.env[0]", "exactly one of value and secretKeyRef"),
    ("variable that is no name", {"spec.runtime": {"env": [{"name": "1A", "value": "1"}]}}, "spec.runtime.env[0].name", "must be a variable name"),
    ("variable named twice", {"spec.runtime": {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}}, "spec.runtime.env[1]", "Duplicate value"),
    ("token as a variable", {"spec.runtime": {"env": [{"name": "HF_TOKEN", "secretKeyRef": SECRET}]}}, "spec.runtime.env[0].name", "use credentials.huggingFace"),
    ("operator's own variable", {"spec.runtime": {"env": [{"name": "TPU_WORKER_ID", "value": "0"}]}}, "spec.runtime.env[0].name", "set by the operator; leave it out"),
    ("secret in plain text", {"spec.runtime": {"env": [{"name": "MY_API_KEY", "value": "s3cret"}]}}, "spec.runtime.env[0].value", "use secretKeyRef"),
    ("65 variables", {"spec.runtime": {"env": [{"name": f"A{i}", "value": ""} for i in range(65)]}}, "spec.runtime.env", "must have at most 64 items"),
    ("TPU chips by hand", {"spec.runtime": {"host": {"resources": {"limits": {"google.com/tpu": 4}}}}}, "spec.runtime.host.resources", "google.com/tpu follows from accelerator.type"),
    ("quantity in words", {"spec.runtime": {"host": {"resources": {"requests": {"memory": "lots"}}}}}, "spec.runtime.host.resources.requests[memory]", "such as 500m, 4 or 16Gi"),
    ("negative quantity", {"spec.runtime": {"head": {"resources": {"requests": {"cpu": -1}}}}}, "spec.runtime.head.resources.requests[cpu]", "such as 500m, 4 or 16Gi"),
    ("unknown resource", {"spec.runtime": {"head": {"resources": {"requests": {"cpus": 1}}}}}, "spec.runtime.head.resources.requests", "requests takes cpu, memory"),
    ("unknown resource as a limit", {"spec.runtime": {"head": {"resources": {"limits": {"gpu": 1}}}}}, "spec.runtime.head.resources.limits", "limits takes cpu, memory"),
    ("request above the limit", {"spec.runtime": {"host": {"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1024Mi"}}}}}, "spec.runtime.host.resources.requests", "raise the limit or lower the request"),
    ("unknown option of the TPU compiler", {"spec.runtime": {"xlaFlags": {"xla_tpu_x": "true"}}}, "spec.runtime.xlaFlags", "unknown name"),
    ("option of the TPU compiler that is no value", {"spec.runtime": {"xlaFlags": {"xla_tpu_scoped_vmem_limit_kib": "64M"}}}, "spec.runtime.xlaFlags[xla_tpu_scoped_vmem_limit_kib]", "must be a string"),
    ("node selector with a bad key", {"spec.runtime": {"head": {"nodeSelector": {"a b": "c"}}}}, "spec.runtime.head.nodeSelector", "must be label keys"),
    ("node selector with a bad value", {"spec.runtime": {"head": {"nodeSelector": {"a": "b c"}}}}, "spec.runtime.head.nodeSelector[a]", "must be a label value"),
    ("toleration of a value that exists", {"spec.runtime": {"head": {"tolerations": [{"key": "a", "value": "b"}]}}}, "spec.runtime.head.tolerations[0].value", "value goes with operator Equal"),
    ("toleration of a bad key", {"spec.runtime": {"head": {"tolerations": [{"key": "a b"}]}}}, "spec.runtime.head.tolerations[0].key", "must be a label key"),
    ("unknown taint effect", {"spec.runtime": {"head": {"tolerations": [{"effect": "Evict"}]}}}, "spec.runtime.head.tolerations[0].effect", '"NoSchedule"'),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "field", "fragment"), [row[1:] for row in BAD], ids=[row[0] for row in BAD]
)
def test_bad_job_is_refused_with_field_and_fix(
    admission: Any, job: Callable[..., Any], changes: dict[str, Any], field: str, fragment: str
) -> None:
    refusal = admission.refuse(job(changes))
    assert refusal.status == 422
    assert refusal.names(field, fragment), refusal.causes


def test_every_rule_is_broken_by_one_of_these() -> None:
    messages = {rule.message for rules in (ROOT_RULES, *RULES.values()) for rule in rules}
    messages |= set(PATTERN_MESSAGES.values())
    untried = {m for m in messages if not any(row[3] in m for row in BAD)}
    assert {m for m in untried if "is immutable" not in m} == set()


# Knobs of the tutorial or of other trainers that have no effect in EasyDeL 0.3.0, and plain misspellings.
UNKNOWN = ["dpo.zLoss", "dpo.betta", "model.trustRemoteCode", "training.batchSize", "training.warmupRatio", "accelerator.chips", "mesh.pp", "runtime.command"]  # fmt: skip


@pytest.mark.parametrize("path", UNKNOWN)
def test_field_that_does_not_exist_is_refused(admission: Any, job: Callable[..., Any], path: str) -> None:
    with pytest.raises(ApiException) as caught:
        admission.admit(job({f"spec.{path}": 1}))
    assert caught.value.status == 400
    assert f'unknown field \\"spec.{path}\\"' in caught.value.body
