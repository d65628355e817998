"""Cross-field rules of admission as CEL, each with a message that names the fix.

A rule belongs to a model; ``self`` is the value of that model. ``field`` is the path the API server reports, relative
to it. Chips per type follow the naming in ``accelerator``: the number counts TensorCores, two per chip, except for
``v5litepod`` and ``v6e``.
"""

from dataclasses import dataclass

from dpojob_api import input_spec, slice_spec, spec, training_spec, uris
from dpojob_api.accelerator import accelerator_types, topologies
from dpojob_api.base import ApiModel
from dpojob_api.constants import MAX_NAME
from dpojob_api.mesh import AXES

CHIPS = (
    "(int(self.accelerator.type.split('-')[1]) / "
    "(self.accelerator.type.startsWith('v5litepod-') || self.accelerator.type.startsWith('v6e-') ? 1 : 2) "
    "* self.accelerator.slices)"
)


@dataclass(frozen=True)
class Rule:
    """One entry of ``x-kubernetes-validations``."""

    rule: str
    message: str
    field: str | None = None

    def to_wire(self) -> dict[str, str]:
        """Return the entry."""
        entry = {"rule": self.rule, "message": self.message}
        return entry | ({"fieldPath": self.field} if self.field else {})


def fixed_size(*axes: str) -> str:
    """Return the CEL product of mesh axes, counting a free axis (-1) as 1."""
    return " * ".join(f"(self.mesh.{axis} == -1 ? 1 : self.mesh.{axis})" for axis in axes)


ALL_FIXED = fixed_size(*AXES)
FREE_COUNT = " + ".join(f"(self.mesh.{axis} == -1 ? 1 : 0)" for axis in AXES)
# A zero axis is refused by its own rule; the others must not divide by it.
ZERO = " || ".join(f"self.mesh.{axis} == 0" for axis in AXES)
SHARD_FREE = "(self.mesh.dp == -1 || self.mesh.fsdp == -1)"
DATA_SHARDS = f"({SHARD_FREE} ? {CHIPS} / ({fixed_size('ep', 'tp', 'sp')}) : self.mesh.dp * self.mesh.fsdp)"
SP_SIZE = f"(self.mesh.sp == -1 ? {CHIPS} / ({fixed_size('dp', 'fsdp', 'ep', 'tp')}) : self.mesh.sp)"
DP_SIZE = f"(self.mesh.dp == -1 ? {CHIPS} / ({fixed_size('fsdp', 'ep', 'tp', 'sp')}) : self.mesh.dp)"
FSDP_SIZE = f"(self.mesh.fsdp == -1 ? {CHIPS} / ({fixed_size('dp', 'ep', 'tp', 'sp')}) : self.mesh.fsdp)"
SLICES = "self.accelerator.slices"
MICRO_BATCH = "(self.training.globalBatchSize / self.training.gradientAccumulationSteps)"
LENGTH = "(self.dpo.maxPromptLength + self.dpo.maxCompletionLength)"
OUTPUT_FOLDER = "(self.output.uri.endsWith('/') ? self.output.uri : self.output.uri + '/')"
SEVERAL = {t: topologies(t) for t in accelerator_types()}
TOPOLOGY_MAP = "{" + ",".join(f"'{t}':{list(known)}" for t, known in SEVERAL.items()) + "}"


# The API server quotes a violated pattern; these say instead what to write.
PATTERN_MESSAGES = {
    uris.INPUT_PATTERN: "must be hf://org/name, gs://bucket/path or pvc://claim/path",
    uris.OUTPUT_PATTERN: "must be gs://bucket/path or pvc://claim/path",
    slice_spec.NAME_PATTERN: "must be a Kubernetes name: lower-case letters, digits, '-' and '.'",
    slice_spec.SECRET_KEY_PATTERN: "must be a key of a Secret: letters, digits, '-', '_' and '.'",
    slice_spec.ENV_NAME_PATTERN: "must be a variable name: letters, digits and '_', no digit first",
    slice_spec.LABEL_VALUE_PATTERN: "must be a label value: letters, digits, '-', '_' and '.'",
    slice_spec.LABEL_KEY_PATTERN: "must be a label key such as cloud.google.com/gke-nodepool",
    slice_spec.TOPOLOGY_PATTERN: "must be sides joined by x, such as 2x4x4; see docs/reference/accelerators.md",
    slice_spec.XLA_VALUE_PATTERN: 'must be a string: "true", "false" or a whole number in quotes',
    slice_spec.IMAGE_PATTERN: "must be an image reference such as registry/repository:tag; the repository has no upper-case letters",
    input_spec.REVISION_PATTERN: "must be a branch, tag or commit",
    input_spec.SPLIT_PATTERN: "must be the name of a split, such as train: letters, digits, '-', '_' and '.'",
}


def pattern_rule(pattern: str) -> Rule:
    """Return the rule that a string matches a pattern of the models.

    Raises:
        KeyError: the pattern has no message yet.
    """
    return Rule(f"self.matches(r'{pattern}')", PATTERN_MESSAGES[pattern])


def keys_match(field: str, pattern: str, message: str) -> Rule:
    """Return the rule that every key of a map matches a pattern; a schema cannot say that."""
    return Rule(f"!has(self.{field}) || self.{field}.all(k, k.matches(r'{pattern}'))", message, f".{field}")


def field_names(model: type[ApiModel]) -> list[str]:
    """Return the JSON names of a model's fields."""
    return [info.alias or key for key, info in model.model_fields.items()]


def immutable(field: str) -> Rule:
    """Return the rule that a field of the spec never changes."""
    changed = f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
    return Rule(changed, f"spec.{field} is immutable; create a new DPOJob", f".{field}")


SPEC_RULES = (
    Rule(
        f"{FREE_COUNT} <= 1",
        "only one mesh axis may be -1 (the rest of the chips); give the others a size",
        ".mesh",
    ),
    Rule(
        f"{ZERO} || ({FREE_COUNT} == 0 ? {ALL_FIXED} == {CHIPS} : {CHIPS} % ({ALL_FIXED}) == 0)",
        "mesh axes must multiply to the chips of all slices (v4-64 has 32 chips: 64 counts TensorCores); set one axis to -1",
        ".mesh",
    ),
    Rule(
        f"{SLICES} == 1 || {ZERO} || {FREE_COUNT} > 1 || {DP_SIZE} % {SLICES} == 0 || {FSDP_SIZE} % {SLICES} == 0",
        "mesh dp or fsdp must be a multiple of accelerator.slices, since only data parallelism goes from slice to slice; "
        "set mesh.dp to the number of slices",
        ".mesh",
    ),
    Rule(
        f"{SLICES} == 1 || self.runtime.launcher == 'slice'",
        "several slices need runtime.launcher slice; eformer starts one",
        ".runtime.launcher",
    ),
    Rule(
        f"{ZERO} || {FREE_COUNT} > 1 || {DATA_SHARDS} < 1 || {MICRO_BATCH} % {DATA_SHARDS} == 0",
        "globalBatchSize / gradientAccumulationSteps must be a multiple of mesh dp x fsdp; change the batch or move chips to tp or sp",
        ".training.globalBatchSize",
    ),
    Rule(
        f"{ZERO} || {FREE_COUNT} > 1 || {SP_SIZE} < 1 || {LENGTH} % {SP_SIZE} == 0",
        "dpo.maxPromptLength + dpo.maxCompletionLength must be a multiple of mesh sp; change a length or sp",
        ".mesh.sp",
    ),
    Rule(
        f"!has(self.attention.maxPositions) || self.attention.maxPositions >= {LENGTH}",
        "attention.maxPositions must be at least dpo.maxPromptLength + dpo.maxCompletionLength; raise it or leave it out",
        ".attention.maxPositions",
    ),
    Rule(
        "!has(self.tracking.wandb) || has(self.credentials.wandb)",
        "tracking.wandb needs credentials.wandb: name the Secret and key that hold the W&B API key",
        ".credentials",
    ),
    Rule(
        "!has(self.training.evalSteps) || has(self.dataset.evalSplit) || self.dataset.evalFraction > 0.0",
        "training.evalSteps needs held-out pairs: set dataset.evalFraction or dataset.evalSplit",
        ".training.evalSteps",
    ),
    Rule(
        "!self.training.keepBestCheckpoint || has(self.dataset.evalSplit) || self.dataset.evalFraction > 0.0",
        "training.keepBestCheckpoint needs held-out pairs: set dataset.evalFraction or dataset.evalSplit",
        ".training.keepBestCheckpoint",
    ),
    Rule(
        f"!(self.model.uri + '/').startsWith({OUTPUT_FOLDER}) && !(self.dataset.uri + '/').startsWith({OUTPUT_FOLDER})",
        "output.uri must not hold the model or the data set; give the job a folder of its own",
        ".output.uri",
    ),
    *(immutable(name) for name in field_names(spec.DPOJobSpec) if name not in spec.MUTABLE),
)

INPUT_URI_RULES = (
    Rule("!self.uri.contains('..')", "uri must not contain '..'; write the folder itself", ".uri"),
    Rule(
        "!has(self.revision) || self.uri.startsWith('hf://')",
        "revision is only for hf:// URIs; leave it out",
        ".revision",
    ),
)

RULES: dict[type[ApiModel], tuple[Rule, ...]] = {
    spec.DPOJobSpec: SPEC_RULES,
    input_spec.ModelSpec: INPUT_URI_RULES,
    input_spec.DatasetSpec: (
        *INPUT_URI_RULES,
        Rule(
            "!(has(self.evalSplit) && self.evalFraction > 0.0)",
            "set evalSplit or evalFraction, not both",
            ".evalSplit",
        ),
        Rule(
            "!has(self.evalSplit) || self.evalSplit != self.split",
            "evalSplit must differ from split; use evalFraction to hold out part of one split",
            ".evalSplit",
        ),
    ),
    input_spec.ColumnsSpec: (
        Rule(
            "self.chosen != self.rejected && (!has(self.prompt) || (self.prompt != self.chosen && self.prompt != self.rejected))",
            "prompt, chosen and rejected must be different columns",
        ),
    ),
    spec.DPOSpec: (
        Rule(
            "!has(self.maxLength) || self.maxLength == self.maxPromptLength + self.maxCompletionLength",
            "maxLength must be maxPromptLength + maxCompletionLength; correct it or leave it out",
            ".maxLength",
        ),
        Rule(
            "self.lossType != 'exo_pair' || self.labelSmoothing > 0.0",
            "exo_pair takes the logarithm of labelSmoothing; set it above 0, e.g. 0.001",
            ".labelSmoothing",
        ),
        Rule(
            f"self.labelSmoothing == 0.0 || self.lossType in {[loss.value for loss in spec.SMOOTHED_LOSSES]}",
            f"only {', '.join(spec.SMOOTHED_LOSSES)} know label smoothing; leave labelSmoothing out or change lossType",
            ".labelSmoothing",
        ),
    ),
    training_spec.TrainingSpec: (
        Rule("!(has(self.epochs) && has(self.maxSteps))", "set epochs or maxSteps, not both", ".maxSteps"),
        Rule(
            "self.globalBatchSize % self.gradientAccumulationSteps == 0",
            "globalBatchSize must be a multiple of gradientAccumulationSteps",
            ".gradientAccumulationSteps",
        ),
        Rule(
            "!has(self.learningRateEnd) || self.learningRateEnd <= self.learningRate",
            "learningRateEnd must not exceed learningRate",
            ".learningRateEnd",
        ),
        Rule(
            "!has(self.maxSteps) || self.warmupSteps < self.maxSteps",
            "warmupSteps must be smaller than maxSteps",
            ".warmupSteps",
        ),
        Rule(
            "!has(self.keepCheckpointEvery) || self.keepCheckpointEvery % self.checkpointSteps == 0",
            "keepCheckpointEvery must be a multiple of checkpointSteps; other steps have no checkpoint",
            ".keepCheckpointEvery",
        ),
    ),
    spec.MeshSpec: tuple(
        Rule(f"self.{axis} != 0", f"{axis} must be at least 1, or -1 for the rest of the chips", f".{axis}")
        for axis in AXES
    ),
    spec.OutputSpec: (
        Rule("!self.uri.contains('..')", "uri must not contain '..'; write the folder itself", ".uri"),
    ),
    spec.TrackingSpec: (
        Rule(
            "!has(self.weightHistogramSteps) || has(self.wandb)",
            "weightHistogramSteps logs to W&B; set wandb too",
            ".weightHistogramSteps",
        ),
    ),
    slice_spec.AcceleratorSpec: (
        Rule(
            f"!has(self.topology) || self.topology in {TOPOLOGY_MAP}[self.type]",
            "topology does not belong to type; leave it out or see docs/reference/accelerators.md",
            ".topology",
        ),
        Rule(
            "self.capacity.type != 'FlexStart' || !self.type.startsWith('v4-')",
            "TPU v4 has no flex-start; use OnDemand, Spot or Reservation",
            ".capacity.type",
        ),
    ),
    slice_spec.CapacitySpec: (
        Rule(
            "(self.type == 'Reservation') == has(self.reservation)",
            "reservation goes with type Reservation: set both or neither",
            ".reservation",
        ),
    ),
    slice_spec.EnvVarSpec: (
        Rule("has(self.value) != has(self.secretKeyRef)", "set exactly one of value and secretKeyRef"),
        Rule(
            "!(self.name in ['HF_TOKEN', 'WANDB_API_KEY'])",
            "use credentials.huggingFace or credentials.wandb for this variable",
            ".name",
        ),
        Rule(
            "!self.name.matches('^(TPU_|MEGASCALE_|RAY_ADDRESS$|JAX_PLATFORMS$)')",
            "this variable is set by the operator; leave it out",
            ".name",
        ),
        Rule(
            "!has(self.value) || !self.name.matches('(?i)(token|secret|password|api_?key|credential)')",
            "a value in the spec is readable by everyone who can read the job; use secretKeyRef",
            ".value",
        ),
    ),
    slice_spec.TolerationSpec: (
        Rule("self.operator == 'Equal' || !has(self.value)", "value goes with operator Equal", ".value"),
    ),
    slice_spec.ResourcesSpec: (
        Rule(
            "(!has(self.requests) || !('google.com/tpu' in self.requests)) && (!has(self.limits) || !('google.com/tpu' in self.limits))",
            "google.com/tpu follows from accelerator.type; leave it out",
        ),
        *(
            keys_match(
                field,
                slice_spec.RESOURCE_NAME_PATTERN,
                f"{field} takes cpu, memory, ephemeral-storage, hugepages-* and names with a domain",
            )
            for field in ("requests", "limits")
        ),
        Rule(
            "!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) "
            "|| !isQuantity(string(self.requests[k])) || !isQuantity(string(self.limits[k])) "
            "|| quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)",
            "requests must not exceed limits; raise the limit or lower the request",
            ".requests",
        ),
    ),
    slice_spec.RuntimeSpec: (
        keys_match(
            "xlaFlags",
            slice_spec.XLA_FLAG_PATTERN,
            "runtime.xlaFlags has an unknown name (docs/reference/api.md has them); set others as LIBTPU_INIT_ARGS in runtime.env",
        ),
    ),
    slice_spec.HeadSpec: (
        keys_match(
            "nodeSelector",
            slice_spec.LABEL_KEY_PATTERN,
            "nodeSelector's keys must be label keys such as cloud.google.com/gke-nodepool",
        ),
    ),
}

ROOT_RULES = (
    Rule(
        f"size(self.metadata.name) <= {MAX_NAME}",
        f"metadata.name may have at most {MAX_NAME} characters, since KubeRay's names are derived from it; shorten it",
        ".metadata.name",
    ),
    Rule(
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must start with a letter and hold only lower-case letters, digits and '-'",
        ".metadata.name",
    ),
)
