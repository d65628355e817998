"""``make bench-plan-published``: a plan's share of the peak beside one that was measured on a v4 slice and published.

MaxText publishes 156 TFLOP/s per chip, 56.7 % of the peak, for its 22B model on a v4-128 (64 chips, 4x4x4) in
src/MaxText/configs/v4/README.md; 22b.sh beside it names the widths and the mesh, src/MaxText/configs/base.yml the rest. Here the trainer's own step gets
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
from benchmarks.jobs import job_on  # noqa: E402
from dpojob_api.accelerator import chips  # noqa: E402
from dpojob_api.trainer_config import TrainerConfig  # noqa: E402
from dpojob_trainer import easydel_compat  # noqa: E402
from dpojob_trainer.plan.planning import Request, plan  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results" / "published.json"
SLICE, CHIPS = "v4-128", 64
SEQUENCE = 2048
# MaxText's 13 sequences are no pairs; so many a chip are 12.
PAIRS_PER_CHIP = 6
PUBLISHED_TFLOPS = 156
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
    half = SEQUENCE // 2
    return job_on(
        SLICE,
        dpo={"maxPromptLength": half, "maxCompletionLength": half, "maxLength": SEQUENCE},
        training={"globalBatchSize": CHIPS * PAIRS_PER_CHIP, "maxSteps": 30},
        mesh={"fsdp": CHIPS},
        gradientCheckpointing="nothing_saveable",
    )


def row() -> dict[str, Any]:
    """Return the plan's estimate beside what was published.

    Raises:
        RuntimeError: the plan has no seconds, as even few layers are too large for the chip.
    """
    job = config()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(MODEL), encoding="utf-8")
        answer = plan(Request(job, Path(folder), lengths=None, price=None, seconds=0.0), print)
    if answer.time is None:
        raise RuntimeError(f"even few layers are too large for {SLICE}")
    peak = chips()[job.generation].peak_flops
    return {
        "slice": SLICE,
        "parameters": answer.parameters,
        "bytes_per_chip": answer.needed_bytes,
        "step_seconds": answer.time.step_seconds,
        "tflops_per_chip": answer.time.utilisation * peak / 1e12,
        "mfu": answer.time.utilisation,
        "published_mfu": PUBLISHED_TFLOPS * 1e12 / peak,
    }


def section(found: dict[str, Any]) -> str:
    """Return the Markdown of the result."""
    ratio = found["mfu"] / found["published_mfu"]
    return "\n".join(
        (
            "## A plan beside a published run",
            "",
            "`make bench-plan-published`: MaxText's 22B model on a v4-128, pre-trained at 2048 tokens, against the plan of our step for "
            f"the same widths ({found['parameters'] / 1e9:.1f} B parameters by our count), mesh (`fsdp: 64`), sequence length, "
            "recomputation and types (float32, computing in bfloat16). A chip has 12 sequences here and 13 there, our share counts "
            "the products with weights alone, and it is another program: this says how far off a plan may be, not whose step is "
            "faster.",
            "",
            "| | s per step | TFLOP/s per chip | MFU |",
            "|---|---|---|---|",
            f"| MaxText, measured and published | | {PUBLISHED_TFLOPS} | {found['published_mfu']:.1%} |",
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
