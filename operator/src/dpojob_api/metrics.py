"""Prometheus metric names that the trainer serves on the head and the operator scrapes."""

from typing import Final

PHASE: Final = "dpojob_phase"
STEP: Final = "dpojob_step"
TOTAL_STEPS: Final = "dpojob_total_steps"
EPOCH: Final = "dpojob_epoch"
LOSS: Final = "dpojob_loss"
REWARD_ACCURACY: Final = "dpojob_reward_accuracy"
REWARD_MARGIN: Final = "dpojob_reward_margin"
REWARD_CHOSEN: Final = "dpojob_reward_chosen"
REWARD_REJECTED: Final = "dpojob_reward_rejected"
LOGP_CHOSEN: Final = "dpojob_logp_chosen"
LOGP_REJECTED: Final = "dpojob_logp_rejected"
REWARD_MARGIN_VARIANCE: Final = "dpojob_reward_margin_variance"
LENGTH_DIFFERENCE: Final = "dpojob_length_difference"
LENGTH_VARIANCE: Final = "dpojob_length_difference_variance"
LENGTH_COVARIANCE: Final = "dpojob_length_margin_covariance"
LENGTH_CORRELATION: Final = "dpojob_length_correlation"
GRAD_NORM: Final = "dpojob_grad_norm"
LEARNING_RATE: Final = "dpojob_learning_rate"
STEP_SECONDS: Final = "dpojob_step_seconds"
MEAN_STEP_SECONDS: Final = "dpojob_mean_step_seconds"
PLAN_MATCHES: Final = "dpojob_plan_matches"
TOKENS_PER_SECOND: Final = "dpojob_tokens_per_second"
PADDED_TOKENS_PER_SECOND: Final = "dpojob_padded_tokens_per_second"
MFU: Final = "dpojob_mfu"
CHECKPOINT_STEP: Final = "dpojob_checkpoint_step"
CHECKPOINT_TIME: Final = "dpojob_checkpoint_timestamp_seconds"
DATA_PAIRS: Final = "dpojob_data_pairs"
DEVICE_BYTES: Final = "dpojob_device_bytes_in_use"
ETA_SECONDS: Final = "dpojob_eta_seconds"
EVAL_LOSS: Final = "dpojob_eval_loss"
EVAL_REWARD_ACCURACY: Final = "dpojob_eval_reward_accuracy"
EVAL_REWARD_MARGIN: Final = "dpojob_eval_reward_margin"
EVAL_LENGTH_CORRELATION: Final = "dpojob_eval_length_correlation"
FINISHED: Final = "dpojob_finished"
RESUMED_STEP: Final = "dpojob_resumed_step"
IDLE_SECONDS: Final = "dpojob_idle_seconds"

PHASES: Final = (
    "starting",
    "loading",
    "compiling",
    "reference",
    "training",
    "evaluating",
    "checkpointing",
    "exporting",
    "finished",
)
# The label of each metric that has several values.
LABELS: Final = {PHASE: "phase", DATA_PAIRS: "kind", DEVICE_BYTES: "device"}
# The pairs of the data set, by what became of them (label kind of DATA_PAIRS).
DATA_KINDS: Final = (
    "read",
    "train",
    "eval",
    "dropped_empty",
    "dropped_equal",
    "truncated",
    "duplicate",
    "overlap",
)

HELP: Final[dict[str, str]] = {
    PHASE: "1 for the phase the trainer is in (label phase), 0 for the others.",
    STEP: "Optimizer steps done.",
    TOTAL_STEPS: "Optimizer steps of the whole run.",
    EPOCH: "Passes over the training pairs, with the part of the current one.",
    LOSS: "Training loss of the newest step.",
    REWARD_ACCURACY: "Share of the newest batch whose chosen reward exceeds the rejected one.",
    REWARD_MARGIN: "Mean of chosen minus rejected reward of the newest batch.",
    REWARD_CHOSEN: "Mean reward of the newest batch's chosen completions.",
    REWARD_REJECTED: "Mean reward of the newest batch's rejected completions.",
    LOGP_CHOSEN: "Mean log-probability of the newest batch's chosen completions under the policy.",
    LOGP_REJECTED: "Mean log-probability of the newest batch's rejected completions under the policy.",
    REWARD_MARGIN_VARIANCE: "Variance of the reward margin over the newest batch's pairs.",
    LENGTH_DIFFERENCE: "Mean of chosen minus rejected tokens of the newest batch.",
    LENGTH_VARIANCE: "Variance of that difference over the newest batch's pairs.",
    LENGTH_COVARIANCE: "Covariance of that difference and the reward margin over the newest batch's pairs.",
    LENGTH_CORRELATION: "Correlation of that difference and the reward margin; absent if one of them does not vary.",
    GRAD_NORM: "Global gradient norm of the newest step, before clipping.",
    LEARNING_RATE: "Learning rate of the newest step.",
    STEP_SECONDS: "Seconds of the newest step.",
    MEAN_STEP_SECONDS: "Mean seconds of the attempt's steps but the first, from the twentieth step on.",
    PLAN_MATCHES: "1 if the step is the one that was planned (status.plan.fingerprint), 0 if not; absent without a plan.",
    TOKENS_PER_SECOND: "Tokens of the newest step, padding left out, by its seconds.",
    PADDED_TOKENS_PER_SECOND: "Tokens of the newest step, padding included, by its seconds.",
    MFU: "Model FLOPs utilisation of the newest step, padding left out, as a share of 1; absent on a CPU.",
    CHECKPOINT_STEP: "Step of the newest checkpoint that was begun.",
    CHECKPOINT_TIME: "When that checkpoint was begun, in seconds since 1970.",
    DATA_PAIRS: "Pairs of the data set by what became of them (label kind).",
    DEVICE_BYTES: "Bytes in use on each device of host 0 after the newest step (label device), where JAX tells.",
    ETA_SECONDS: "Estimated seconds to the last step.",
    EVAL_LOSS: "Loss on the held-out pairs.",
    EVAL_REWARD_ACCURACY: "Reward accuracy on the held-out pairs.",
    EVAL_REWARD_MARGIN: "Reward margin on the held-out pairs.",
    EVAL_LENGTH_CORRELATION: "Correlation of length difference and reward margin on the held-out pairs.",
    RESUMED_STEP: "Step of the checkpoint that the attempt started from, 0 without one; absent until it trains.",
    IDLE_SECONDS: "Seconds since step or phase last changed, by a clock that nobody sets.",
    FINISHED: "1 once the run is checked and written; the driver then waits for one scrape before it ends.",
}
