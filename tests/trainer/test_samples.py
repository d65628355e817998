"""What a finished run leaves beside its model: completions before and after, the card, event files. Real EasyDeL."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

if "jax" not in sys.modules:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import pytest
from huggingface_hub import ModelCard
from tests.trainer.jobs import TRAINING, Claim

from dpojob_api.constants import OUTPUT_MODEL, OUTPUT_REPORT
from dpojob_api.trainer_config import TrainerConfig
from dpojob_trainer import data, driver, easydel_compat, store
from dpojob_trainer.board import Board
from dpojob_trainer.progress import HostReport
from dpojob_trainer.report.card import model_card
from dpojob_trainer.report.history import parse_lines

pytestmark = pytest.mark.jax

STEPS = {"training": TRAINING | {"maxSteps": 6, "checkpointSteps": 6}, "accelerator": {"type": "v4-16"}}
GENERATE = """
import json, sys
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
for prompt in json.loads(sys.argv[2]):
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=int(sys.argv[3]), do_sample=False,
                         pad_token_id=0)
    print(json.dumps(out[0, len(prompt):].tolist()))
"""


def config_of(claim: Claim, name: str, **spec: Any) -> TrainerConfig:
    output = {"uri": f"pvc://{claim.name}/{name}", "sampleCompletions": 3, "sampleTokens": 12}
    return claim.config(name, **({"output": output} | STEPS | spec))


def run(config: TrainerConfig, workdir: Path) -> HostReport:
    """Run a job as host 0 of 1 and conclude it as the driver does."""
    easydel_compat.prepare()
    from dpojob_trainer.training import run as training

    store.open_store(config.output.uri).claim(config.job.uid, config.job.name)
    report = training.run(config, training.Place(0, "localhost", workdir), lambda event: None)
    driver.conclude(config, [report], Board(), record_seconds=0)
    return report


@pytest.fixture(scope="module")
def finished(claim: Claim, tmp_path_factory: pytest.TempPathFactory) -> HostReport:
    """Six steps; output in `told`."""
    return run(config_of(claim, "told"), tmp_path_factory.mktemp("told"))


def generated(model: Path, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """Return what transformers and torch generate greedily, one prompt at a time and unpadded."""
    env = {name: value for name, value in os.environ.items() if name not in ("USE_TORCH", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", GENERATE, str(model), json.dumps(prompts), str(tokens)],
        env=env, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


def test_completions_are_those_of_transformers(finished: HostReport, claim: Claim) -> None:
    """Before: the base model's folder. After: the exported folder, so the export is what was sampled."""
    prepared = data.prepare(config_of(claim, "told"), claim.path / "model")
    assert prepared.evaluation is not None and finished.samples is not None
    told = finished.samples["completions"]
    assert (len(told), finished.samples["heldOut"], finished.samples["maxNewTokens"]) == (3, True, 12)
    prompts = [list(row) for row in prepared.evaluation["prompt_ids"][:3]]
    assert len({len(prompt) for prompt in prompts}) > 1, "padding must matter"
    decode = prepared.tokenizer.decode
    assert [one["prompt"] for one in told] == [decode(ids, skip_special_tokens=True) for ids in prompts]
    for when, folder in (("before", claim.path / "model"), ("after", claim.path / "told" / OUTPUT_MODEL)):
        expected = generated(folder, prompts, 12)
        assert [one[when] for one in told] == [decode(ids, skip_special_tokens=True) for ids in expected]
        ended = [prepared.tokenizer.eos_token_id in ids for ids in expected]
        assert [one[f"{when}Ended"] for one in told] == ended
        assert [one[f"{when}Tokens"] for one in told] == [
            len(ids) - end for ids, end in zip(expected, ended, strict=True)
        ]
    assert [one["before"] for one in told] != [one["after"] for one in told], "training changes them"


@pytest.mark.parametrize(
    "spec",
    [
        {"mesh": {"fsdp": 2, "tp": 2, "sp": 2}},
        {"dpo": {"maxPromptLength": 32, "maxCompletionLength": 32, "referenceFree": True}},
    ],
    ids=["fsdp2-tp2-sp2", "reference-free"],
)
def test_every_job_completes_alike(
    finished: HostReport, claim: Claim, tmp_path: Path, spec: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    name = f"told-{request.node.callspec.id}"
    config = config_of(claim, name, **spec)
    found, first = run(config, tmp_path).samples, finished.samples
    assert found is not None and first is not None
    assert [one["before"] for one in found["completions"]] == [one["before"] for one in first["completions"]]


@pytest.mark.parametrize("short", [{}, {"checkpointDots": 16}, {"none": 16, "checkpointDots": 64}])
def test_recomputed_layers_complete_alike(
    finished: HostReport, claim: Claim, tmp_path: Path, short: dict[str, int]
) -> None:
    name = f"told-recomputed-{'-'.join(short).lower()}"
    config = config_of(
        claim, name, gradientCheckpointing="nothing_saveable", shortGradientCheckpointing=short
    )
    found, first = run(config, tmp_path).samples, finished.samples
    assert found is not None and first is not None
    assert found["completions"] == first["completions"]


def test_a_failed_sample_costs_nothing_but_itself(
    claim: Claim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpojob_trainer.training import samples

    def broken(*_: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(samples, "greedy", broken)
    assert run(config_of(claim, "unsampled"), tmp_path).samples is None
    assert (claim.path / "unsampled" / OUTPUT_MODEL / "config.json").is_file()
    assert "in words" not in (claim.path / "unsampled" / OUTPUT_REPORT).read_text()


def test_the_report_is_written_from_the_runs_own_numbers(finished: HostReport, claim: Claim) -> None:
    page = (claim.path / "told" / OUTPUT_REPORT).read_text()
    assert "<h1><bdi>told</bdi></h1>" in page and "Before and after, in words" in page
    assert "On 13 held-out pairs" in page
    summary = claim.summary("told")
    assert summary["samples"] == finished.samples
    assert set(summary["lineage"]) == {"model", "dataset", "pairsSha256", "chatTemplateSha256"}


def test_the_card_names_what_the_model_comes_from(finished: HostReport, claim: Claim) -> None:
    card = ModelCard.load(claim.path / "told" / OUTPUT_MODEL / "README.md")
    assert card.data.tags == ["dpo", "dpojob"] and card.data.base_model is None
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results["loss"] == finished.evaluations[6]["loss"]
    for value in (
        finished.lineage["pairsSha256"],
        finished.lineage["chatTemplateSha256"],
        "sigmoid, β = 0.1",
    ):
        assert value in card.text
    assert f"| Loss | 0.6931 | {finished.evaluations[6]['loss']:.4g} |" in card.text


def test_the_card_links_only_to_what_lies_on_the_hub(claim: Claim) -> None:
    spec = {"model": {"uri": "hf://org/base"}, "dataset": {"uri": "hf://org/pairs"}}
    card = ModelCard(model_card(claim.config("hub", **spec), parse_lines(""), {}, {"jax": "0"}))
    assert (card.data.base_model, card.data.datasets, card.data.eval_results) == (
        "org/base",
        ["org/pairs"],
        None,
    )
