"""``make bench-plan-published``: a plan's share of the peak beside one that was measured on a v4 slice and published.

MaxText publishes 156 TFLOP/s per chip, 56.7 % of the peak, for pre-training 22 B parameters on a v4-128 (64 chips, 4x4x4); its
script src/MaxText/configs/v4/22b.sh names the model and the mesh, its base configuration the rest. Here the trainer's own step gets
the same widths, layers, chips, mesh, sequence length and recomputation, as pairs whose reference is computed ahead, so that it
does what pre-training does: one forward and one backward pass of every sequence. Writes benchmarks/results/published.json and its
section of docs/benchmarks.md.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from dpojob_trainer.plan import topology

topology.prepare()

from benchmarks import document  # noqa: E402
from benchmarks.estimates import timed, whole_of  # noqa: E402
from dpojob_api.accelerator import chips  # noqa: E402
from dpojob_api.trainer_config import TrainerConfig, trainer_config  # noqa: E402
from dpojob_api.v1alpha1 import DPOJob  # noqa: E402
from dpojob_trainer import easydel_compat  # noqa: E402
from dpojob_trainer.plan import lowering  # noqa: E402
from dpojob_trainer.plan.lengths import epoch_of  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results" / "published.json"
SLICE, CHIPS = "v4-128", 64
SEQUENCE = 2048
# MaxText's 13 sequences are no pairs; so many a chip are 12.
PAIRS_PER_CHIP = 6
PUBLISHED_MFU = 0.567
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "num_hidden_layers": 48,
    "num_attention_heads": 24,
    "num_key_value_heads": 24,
    "head_dim": 128,
    "vocab_size": 32000,
    "hidden_act": "silu",
    "max_position_embeddings": SEQUENCE,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def config() -> TrainerConfig:
    """Return the job: all sequences as long as MaxText's."""
    spec: dict[str, Any] = {
        "model": {"uri": "pvc://inputs/model"},
        "dataset": {"uri": "pvc://inputs/pairs.jsonl"},
        "dpo": {
            "maxPromptLength": SEQUENCE // 2,
            "maxCompletionLength": SEQUENCE // 2,
            "maxLength": SEQUENCE,
        },
        "training": {"globalBatchSize": CHIPS * PAIRS_PER_CHIP, "maxSteps": 30},
        "mesh": {"fsdp": CHIPS},
        "gradientCheckpointing": "nothing_saveable",
        "accelerator": {"type": SLICE},
        "output": {"uri": "pvc://outputs/out"},
    }
    meta = {"name": "published", "namespace": "bench", "uid": "bench"}
    return trainer_config(DPOJob.from_wire({"metadata": meta, "spec": spec}), attempt=1)


def row() -> dict[str, Any]:
    """Return the estimate.

    Raises:
        RuntimeError: even few layers are too large for the chip.
    """
    job = config()
    epoch = epoch_of(job, None)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(MODEL))
        whole = whole_of(lowering.train_step, job, Path(folder), epoch)
    if whole is None:
        raise RuntimeError(f"even few layers are too large for {SLICE}")
    found = timed(job, epoch, whole)
    return {
        "slice": SLICE,
        "multiplied_weights": whole.multiplied,
        "bytes_per_chip": whole.step.total,
        "step_seconds": found["step_seconds"],
        "tflops_per_chip": found["mfu"] * chips()[job.generation].peak_flops / 1e12,
        "mfu": found["mfu"],
        "published_mfu": PUBLISHED_MFU,
    }


def section(found: dict[str, Any]) -> str:
    """Return the Markdown of the result."""
    ratio = found["mfu"] / found["published_mfu"]
    return "\n".join(
        (
            "## A plan beside a published run",
            "",
            f"`make bench-plan-published`: MaxText's 22 B parameters on a v4-128, pre-trained at {SEQUENCE} tokens, against the plan of "
            "our step for the same widths, mesh (`fsdp: 64`), sequence length and recomputation. Weights are bfloat16 here and "
            "float32 there, a chip has 12 sequences here and 13 there, and it is another program: this says how far off a plan "
            "may be, not whose step is faster.",
            "",
            "| | s per step | TFLOP/s per chip | MFU |",
            "|---|---|---|---|",
            f"| MaxText, measured and published | | 156 | {found['published_mfu']:.1%} |",
            f"| our plan | {found['step_seconds']:.1f} | {found['tflops_per_chip']:.0f} | {found['mfu']:.1%} |",
            "",
            f"The plan's share of the peak is {ratio:.2f} times the published one.",
            "",
        )
    )


def main() -> None:
    """Compile, print and write."""
    easydel_compat.prepare()
    found = row()
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    document.keep("plan-published", section(found))
    print(section(found))


if __name__ == "__main__":
    main()
