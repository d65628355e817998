"""Prometheus metric names that the trainer serves on the head and the operator scrapes."""

from typing import Final

PHASE: Final = "dpojob_phase"
STEP: Final = "dpojob_step"
TOTAL_STEPS: Final = "dpojob_total_steps"
LOSS: Final = "dpojob_loss"
REWARD_ACCURACY: Final = "dpojob_reward_accuracy"
REWARD_MARGIN: Final = "dpojob_reward_margin"
ETA_SECONDS: Final = "dpojob_eta_seconds"
EVAL_LOSS: Final = "dpojob_eval_loss"
EVAL_REWARD_ACCURACY: Final = "dpojob_eval_reward_accuracy"
EVAL_REWARD_MARGIN: Final = "dpojob_eval_reward_margin"
FINISHED: Final = "dpojob_finished"

PHASES: Final = ("starting", "loading", "compiling", "training", "evaluating", "exporting", "finished")

HELP: Final[dict[str, str]] = {
    PHASE: "1 for the phase the trainer is in (label phase), 0 for the others.",
    STEP: "Optimizer steps done.",
    TOTAL_STEPS: "Optimizer steps of the whole run.",
    LOSS: "Training loss of the newest step.",
    REWARD_ACCURACY: "Share of the newest batch whose chosen reward exceeds the rejected one.",
    REWARD_MARGIN: "Mean of chosen minus rejected reward of the newest batch.",
    ETA_SECONDS: "Estimated seconds to the last step.",
    EVAL_LOSS: "Loss on the held-out pairs.",
    EVAL_REWARD_ACCURACY: "Reward accuracy on the held-out pairs.",
    EVAL_REWARD_MARGIN: "Reward margin on the held-out pairs.",
    FINISHED: "1 once the run is checked and written; the driver then waits for one scrape before it ends.",
}
