"""``dpojob run``: the whole job on this machine with a real embedded Ray, and what is refused before it."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.trainer import tiny_models
from tests.trainer.jobs import write_pairs
from tests.trainer.manifests import Row
from typer.testing import CliRunner

from dpojob_api.reasons import DATA_REASONS, TrainerReason
from dpojob_trainer.cli import app
from dpojob_trainer.cli import manifest as manifests_of_users
from dpojob_trainer.cli.claims import folders
from dpojob_trainer.exit_codes import ExitCode, exit_code
from dpojob_trainer.progress import Begun, Event, Phase, Step
from dpojob_trainer.telling import every, line_of

DEADLINE_SECONDS = 600


def job(**spec: Any) -> Row:
    """Return a job of 4 steps on 4 chips; `spec` is merged into its spec, one level deep."""
    base: Row = {
        "model": {"uri": "pvc://inputs/model"},
        "dataset": {
            "uri": "pvc://inputs/pairs.jsonl",
            "evalFraction": 0.2,
            "columns": {"prompt": "prompt"},
        },
        "dpo": {"maxPromptLength": 32, "maxCompletionLength": 32},
        "training": {"globalBatchSize": 8, "maxSteps": 4, "learningRate": 1e-3, "checkpointSteps": 2},
        "precision": {"params": "float32", "compute": "float32"},
        "accelerator": {"type": "v4-8"},
        "gradientCheckpointing": "none",
        "output": {"uri": "pvc://outputs/tiny"},
    }
    merged = base | {name: base.get(name, {}) | part for name, part in spec.items()}
    return {
        "apiVersion": "dpojob.io/v1alpha1",
        "kind": "DPOJob",
        "metadata": {"name": "tiny"},
        "spec": merged,
    }


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A folder with the claim `inputs`: the tiny Qwen3 in model/ and 64 pairs in pairs.jsonl."""
    tiny_models.write_model(tmp_path / "inputs" / "model", tiny_models.QWEN3)
    write_pairs(tmp_path / "inputs" / "pairs.jsonl", 64)
    return tmp_path


def command(store: Path, body: Row, *options: str) -> list[str]:
    """Write a manifest; return the command that runs it."""
    file = store / "job.yaml"
    file.write_text(yaml.safe_dump(body))
    return [sys.executable, "-m", "dpojob_trainer.cli", "run", str(file), "--store", str(store), *options]


def run(store: Path, body: Row, *options: str) -> tuple[int, list[Row], str]:
    """Run a job as a process of its own; return its exit code, its lines and its stderr."""
    done = subprocess.run(
        command(store, body, *options),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def metrics(store: Path) -> list[Row]:
    lines: list[Row] = [
        json.loads(line) for line in (store / "outputs/tiny/metrics.jsonl").read_text().splitlines()
    ]
    return lines


@pytest.mark.jax
@pytest.mark.slow
class TestWholeJob:
    def test_two_hosts_train_check_and_write(self, store: Path) -> None:
        code, lines, err = run(store, job(), "--hosts", "2")
        assert code == 0, err
        assert lines[-1] == {
            "event": "result",
            "reason": "Succeeded",
            "message": f"4 steps; results are in {store}/outputs/tiny",
            "step": 4,
            "exitCode": 0,
        }
        assert [line["step"] for line in lines if line["event"] == "step"] == [1, 2, 3, 4]
        assert [line["step"] for line in lines if line["event"] == "evaluation"] == [0, 4]
        assert [line["step"] for line in lines if line["event"] == "saved"] == [2, 4]
        (pairs,) = (line for line in lines if line["event"] == "data")
        assert (pairs["read"], pairs["train"], pairs["eval"]) == (64, 51, 13)
        output = store / "outputs" / "tiny"
        assert (output / "model" / "tokenizer.json").is_file()
        summary = json.loads((output / "summary.json").read_text())
        assert (summary["step"], len(summary["hosts"]), summary["job"]["attempt"]) == (4, 2, 1)
        assert [line["loss"] for line in metrics(store) if "loss" in line] == [
            line["loss"] for line in lines if line["event"] == "step"
        ]

    def test_interrupted_and_started_again_it_goes_on(self, store: Path) -> None:
        body = job(training={"maxSteps": 60})
        process = subprocess.Popen(
            command(store, body),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell that runs the tests in the background has them ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert process.stdout is not None
        for line in process.stdout:
            # A save waits for the one before it, so some are whole by now.
            if json.loads(line).get("step") == 12:
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate(timeout=120)
        assert process.returncode == ExitCode.INTERRUPTED, err
        last = json.loads(out.splitlines()[-1])
        assert (last["reason"], last["exitCode"]) == ("Interrupted", 130)
        assert "Traceback" not in err and not (store / "outputs/tiny/summary.json").exists()

        code, lines, err = run(store, body)
        assert code == 0, err
        (begun,) = (line for line in lines if line["event"] == "begun")
        assert begun["step"] >= 2
        assert metrics(store)[-1]["attempt"] == 2

    def test_a_failure_on_the_host_is_one_line_with_its_reason(self, store: Path) -> None:
        (store / "inputs" / "model" / "model.safetensors").write_bytes(b"no weights")
        code, lines, err = run(store, job())
        assert code == lines[-1]["exitCode"] == exit_code(TrainerReason.MODEL_NOT_FOUND), err
        assert err.splitlines()[-1].startswith("error: ModelNotFound: ") and "Traceback" not in err


def refused(store: Path, body: Row, *options: str) -> tuple[int, str]:
    """Run a job that ends before Ray is started, in this process; return exit code and stderr."""
    arguments = command(store, body, *options)[3:]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
    assert json.loads(result.stdout.splitlines()[-1])["exitCode"] == result.exit_code
    return result.exit_code, result.stderr


class TestRefused:
    def test_manifest(self, store: Path) -> None:
        code, err = refused(store, job(dpo={"beta": 0}))
        assert code == 2 and err.startswith("error: ManifestInvalid: spec.dpo.beta")

    def test_claim_without_a_folder(self, store: Path) -> None:
        code, err = refused(store, job(model={"uri": "pvc://models/qwen3"}))
        assert code == 2
        assert "spec.model.uri is on the claim models" in err and "--pvc models=FOLDER" in err

    def test_option_that_names_no_claim(self, store: Path) -> None:
        code, err = refused(store, job(), "--pvc", "input=/tmp")
        assert code == 2 and "--pvc input: the job's claims are inputs, outputs" in err
        assert "write CLAIM=FOLDER" in refused(store, job(), "--pvc", "inputs")[1]

    def test_output_that_cannot_be_made(self, store: Path) -> None:
        (store / "file").touch()
        code, err = refused(store, job(), "--pvc", f"outputs={store}/file/out")
        assert code == 2 and "cannot be made: Not a directory" in err

    def test_chips_that_do_not_divide(self, store: Path) -> None:
        code, err = refused(store, job(), "--hosts", "3")
        assert code == 2 and "--hosts 3: v4-8 has 4 chips" in err


def test_data_that_is_refused_ends_the_run_before_ray_starts(store: Path) -> None:
    """In a process of its own, as the run sets the environment."""
    (store / "inputs" / "pairs.jsonl").unlink()
    code, lines, err = run(store, job())
    assert (code, lines[-1]["reason"]) == (ExitCode.UNREACHED, "DatasetNotFound"), err
    assert [line["event"] for line in lines] == ["result"]
    assert str(store / "inputs") in err and "Traceback" not in err
    write_pairs(store / "inputs" / "pairs.jsonl", 4)
    code, lines, err = run(store, job())
    assert (code, lines[-1]["reason"]) == (ExitCode.REFUSED, "DatasetTooSmall"), err


def test_a_changed_job_is_refused_the_output_of_the_first(store: Path) -> None:
    (store / "inputs" / "pairs.jsonl").unlink()
    run(store, job())
    _, lines, _ = run(store, job(dpo={"beta": 0.5}))
    assert lines[-1]["reason"] == "OutputInUse"
    assert "an earlier job of this name" in lines[-1]["message"]


def test_folders_of_claims(store: Path) -> None:
    file = store / "job.yaml"
    file.write_text(yaml.safe_dump(job()))
    config = manifests_of_users.load(file)
    found = folders(config, store, [f"outputs={store}/elsewhere"])
    assert found == {"inputs": store / "inputs", "outputs": store / "elsewhere"}
    assert (store / "elsewhere").is_dir()


@pytest.mark.parametrize("reason", list(TrainerReason))
def test_every_reason_has_an_exit_code(reason: TrainerReason) -> None:
    code = exit_code(reason)
    assert (code is ExitCode.OK) == (reason is TrainerReason.SUCCEEDED)
    assert (code is ExitCode.REFUSED) == (reason in DATA_REASONS)


def test_lines_are_flat_and_thinned() -> None:
    told: list[Event] = []
    tell = every(5, told.append)
    for event in (Phase("training"), Begun(0, 12, 6), *(Step(n, 12, {"loss": 0.5}) for n in range(1, 13))):
        tell(event)
    assert [event.step for event in told if isinstance(event, Step)] == [1, 5, 10, 12]
    assert line_of(told[0]) == {"event": "phase", "name": "training"}
    assert line_of(told[2]) == {"event": "step", "step": 1, "total": 12, "device_bytes": (), "loss": 0.5}


def test_the_bar_shows_the_newest_numbers() -> None:
    """A terminal is what rich draws for; its text is looked at without colours."""
    from io import StringIO

    from rich.console import Console

    from dpojob_trainer.progress import Data, Evaluation
    from dpojob_trainer.telling import Bar

    out = StringIO()
    with Bar(Console(file=out, force_terminal=True, width=120, color_system=None)) as bar:
        bar.tell(Data({"read": 64, "train": 51}))
        bar.tell(Begun(0, 10, 6))
        bar.tell(Phase("training"))
        bar.tell(Evaluation(0, {"loss": 0.6931}))
        bar.tell(
            Step(3, 10, {"loss": 0.51234, "rewards/accuracies": 0.75, "rewards/margins": 0.4, "seconds": 1})
        )
    shown = out.getvalue()
    assert "pairs: 64 read, 51 train" in shown and "evaluation after step 0: loss 0.6931" in shown
    assert "training" in shown and "3/10" in shown
    assert "loss 0.5123  accuracy 0.7500  margin 0.4000" in shown
