"""Names shared by the operator, the trainer, the chart and the tests."""

from typing import Final

GROUP: Final = "dpojob.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "DPOJob"
PLURAL: Final = "dpojobs"
SHORT_NAME: Final = "dpo"

FIELD_MANAGER: Final = "dpojob-operator"

LABEL_JOB: Final = f"{GROUP}/job"
LABEL_CHECK: Final = f"{GROUP}/check"
LABEL_PLAN: Final = f"{GROUP}/plan"
LABEL_ATTEMPT: Final = f"{GROUP}/attempt"
ANNOTATION_STOP: Final = f"{GROUP}/stop"
LABEL_ROLE: Final = f"{GROUP}/role"
LABEL_SLICE: Final = f"{GROUP}/slice"
ROLE_HEAD: Final = "head"
ROLE_HOST: Final = "host"

# KubeRay refuses RayCluster names over 41 characters on multi-host TPU (headless service), a RayJob adds six
# characters for its RayCluster, and attempts add up to four ("-a99").
MAX_RAYJOB_NAME: Final = 35
MAX_NAME: Final = MAX_RAYJOB_NAME - len("-a99")
MAX_ATTEMPT: Final = 99

# Kueue takes a RayJob of at most eight pod sets: the head and a worker group per slice.
MAX_SLICES: Final = 7

CONFIG_KEY: Final = "trainer.json"
CONFIG_DIR: Final = "/etc/dpojob"
CONFIG_PATH: Final = f"{CONFIG_DIR}/{CONFIG_KEY}"
PVC_MOUNT_ROOT: Final = "/mnt/dpojob"
# Folders that stand for claims where none is mounted.
CLAIMS_VARIABLE: Final = "DPOJOB_CLAIMS"

# Bytes of a device that a plan for platform cpu takes for usable, instead of the chip's.
USABLE_BYTES_VARIABLE: Final = "DPOJOB_PLAN_USABLE_BYTES"

# The operator names the trainer's image in it, for the model's lineage.
IMAGE_VARIABLE: Final = "DPOJOB_IMAGE"

METRICS_PORT: Final = 8090
METRICS_PATH: Final = "/metrics"
# The operator sends it with a scrape once the finished run is in the DPOJob's status; the driver then ends.
RECORDED_HEADER: Final = "DPOJob-Recorded"

# The trainer's last line on stdout; KubeRay copies the tail of that log into RayJob.status.message.
RESULT_PREFIX: Final = "DPOJOB-RESULT "

# Below the output URI.
OUTPUT_CHECKPOINTS: Final = "checkpoints"
OUTPUT_MODEL: Final = "model"
OUTPUT_METRICS: Final = "metrics.jsonl"
OUTPUT_SUMMARY: Final = "summary.json"
OUTPUT_REPORT: Final = "report.html"
OUTPUT_TENSORBOARD: Final = "tensorboard"
OUTPUT_COMPILE_CACHE: Final = "compile-cache"
OUTPUT_PLANS: Final = "plans"
OUTPUT_PAIRS: Final = "pairs"
OUTPUT_REFERENCE: Final = "reference"
OUTPUT_BASE_SAMPLES: Final = "base-samples.json"
