"""``dpojob check`` on real small files: a manifest, its pairs and a tokenizer, one test per problem."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.trainer import hub, manifests, tiny_models
from tests.trainer.hub import Hub, Repo
from tests.trainer.manifests import Row, chat, chats, manifest
from typer.testing import CliRunner, Result

from dpojob_trainer.cli import app

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small tokenizer and nothing else: a check needs no weights."""
    folder = tmp_path_factory.mktemp("model")
    tiny_models.write_tokenizer(folder)
    return folder


@dataclass(frozen=True)
class Check:
    """Runs the command in this process."""

    folder: Path
    model: Path

    def text(self, rows: list[Row], body: Row) -> Result:
        """Check pairs with a manifest, for a human."""
        job, pairs = manifests.write(self.folder, rows, body)
        return run(str(job), "--data", str(pairs), "--model", str(self.model))

    def json(self, rows: list[Row], body: Row) -> tuple[int, Row]:
        """Check pairs with a manifest; return the exit code and the JSON."""
        job, pairs = manifests.write(self.folder, rows, body)
        result = run(str(job), "--data", str(pairs), "--model", str(self.model), "--json")
        found: Row = json.loads(result.stdout)
        assert found["exitCode"] == result.exit_code
        return result.exit_code, found

    def problem(self, code: int, rows: list[Row], body: Row) -> tuple[str, str]:
        """Return reason and message of a check that ends with this exit code and one problem."""
        found_code, found = self.json(rows, body)
        assert found_code == code, found
        (problem,) = found["problems"]
        return found["reason"], problem


@pytest.fixture
def check(tmp_path: Path, model: Path) -> Check:
    """A check in a folder of its own."""
    return Check(tmp_path, model)


def run(*arguments: str) -> Result:
    """Run `dpojob check` with a wide terminal."""
    return CliRunner().invoke(app, ["check", *arguments], env={"COLUMNS": "200"})


class TestAccepted:
    def test_table(self, check: Check) -> None:
        result = check.text(chats(8), manifest(dataset={"evalFraction": 0.25}))
        assert result.exit_code == 0, result.output
        assert "ok: the data can be trained on" in result.stdout and result.stderr == ""
        assert "training pairs" in result.stdout and "tokens before truncation" in result.stdout
        assert "roles: user > assistant (8)" in result.stdout

    def test_json(self, check: Check) -> None:
        code, found = check.json(chats(8), manifest())
        assert (code, found["reason"], found["problems"]) == (0, "Succeeded", [])
        assert found["report"]["trainPairs"] == 8

    def test_gate_that_only_warns(self, check: Check) -> None:
        body = manifest(dataset={"gate": {"onViolation": "Warn"}})
        result = check.text(chats(1) * 4, body)
        assert result.exit_code == 0
        assert "warning: dataset.gate.maxDuplicateFraction" in result.stderr

    def test_numbers_as_kubernetes_reads_them(self, check: Check) -> None:
        """YAML 1.1 takes ``1e-6`` for text; Kubernetes does not."""
        job, pairs = manifests.write(check.folder, chats(4), manifest())
        job.write_text(job.read_text() + "  training: {learningRate: 1e-6, globalBatchSize: 2}\n")
        body = job.read_text().replace("  training:\n    globalBatchSize: 2\n", "")
        job.write_text(body)
        result = run(str(job), "--data", str(pairs), "--model", str(check.model))
        assert result.exit_code == 0, result.output

    @pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
    def test_examples_are_valid_manifests(self, example: Path, check: Check) -> None:
        """The manifest is accepted: what is missing is only this machine's copy of something."""
        from dpojob_trainer.cli import manifest as manifests_of_users

        assert manifests_of_users.load(example).job.name


class TestManifest:
    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ({"dpo": {"beta": 0}}, ["spec.dpo.beta", "greater than 0", "found 0", "implicit reward"]),
            ({"dpo": {"betta": 0.1}}, ["spec.dpo.betta: there is no such field", "did you mean beta?"]),
            ({"dpo": {"xyz": 1}}, ["spec.dpo.xyz", "use one of beta, lossType"]),
            ({"training": {"globalBatchSize": "2"}}, ["spec.training.globalBatchSize", 'found "2"']),
            ({"dataset": {"uri": "s3://x"}}, ["spec.dataset.uri", "hf://org/name"]),
            (
                {"dataset": {"gate": {"maxOverlap": 2}}},
                ["spec.dataset.gate.maxOverlap", "less than or equal"],
            ),
            ({"dataset": {"gate": {"onViolation": "Ignore"}}}, ["onViolation", "'Fail' or 'Warn'"]),
            ({"mesh": {"tp": 3}}, ["spec.mesh"]),
        ],
        ids=["bound", "typo", "unknown", "type", "uri", "gate bound", "gate choice", "mesh"],
    )
    def test_field_and_fix_are_named(self, check: Check, spec: Row, words: list[str]) -> None:
        reason, problem = check.problem(2, chats(4), manifest(**spec))
        assert reason == "ManifestInvalid"
        assert all(word in problem for word in words), problem

    def test_every_problem_is_listed(self, check: Check) -> None:
        body = manifest(dpo={"beta": 0})
        del body["spec"]["model"], body["metadata"]["name"]
        code, found = check.json(chats(4), body)
        assert code == 2
        fields = sorted(problem.split(":")[0] for problem in found["problems"])
        assert fields == ["metadata.name", "spec.dpo.beta", "spec.model"]

    @pytest.mark.parametrize(
        ("text", "words"),
        [("a: [", "is not YAML"), ("kind: Pod\n", "has 0 objects of kind DPOJob"), ("", "has 0 objects")],
    )
    def test_files_that_are_no_job(self, tmp_path: Path, text: str, words: str) -> None:
        (tmp_path / "job.yaml").write_text(text)
        result = run(str(tmp_path / "job.yaml"))
        assert result.exit_code == 2 and words in result.stderr

    def test_two_jobs_in_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "job.yaml").write_text(yaml.safe_dump_all([manifest(), manifest()]))
        result = run(str(tmp_path / "job.yaml"))
        assert result.exit_code == 2 and "has 2 objects of kind DPOJob" in result.stderr

    def test_claims_need_local_copies(self, tmp_path: Path) -> None:
        job, _ = manifests.write(tmp_path, [], manifest())
        result = run(str(job))
        assert result.exit_code == 2
        assert (
            "spec.dataset.uri is pvc://inputs/pairs.jsonl" in result.stderr and "--data PATH" in result.stderr
        )
        assert "--model PATH" in result.stderr

    def test_paths_that_are_not_there(self, tmp_path: Path) -> None:
        assert run(str(tmp_path / "none.yaml")).exit_code == 2
        job, _ = manifests.write(tmp_path, [], manifest())
        assert run(str(job), "--data", str(tmp_path / "none")).exit_code == 2


class TestRefused:
    @pytest.mark.parametrize(
        ("rows", "dataset", "reason", "words"),
        [
            (chats(1) * 4, {}, "DataInvalid", "dataset.gate.maxDuplicateFraction is 0.5 and 0.75 (3 of 4)"),
            (
                [*chats(3), chat("x", "same", "same")],
                {},
                "DataInvalid",
                "dataset.gate.maxDroppedFraction is 0.1 and 0.25 (1 of 4)",
            ),
            (
                [*chats(3), chat("x", " ", "words")],
                {},
                "DataInvalid",
                "1 have an empty side, 0 have sides that are equal",
            ),
            (
                [chat("q", f"yes {number}" + " yes" * 40, "no") for number in range(4)],
                {},
                "DataInvalid",
                "dpo.maxCompletionLength (99 % of the completions",
            ),
            (
                [chat("why " * 90 + str(number), "yes", "no") for number in range(4)],
                {},
                "DataInvalid",
                "dpo.maxPromptLength (99 % of the prompts",
            ),
            (
                chats(2) * 10,
                {"evalFraction": 0.5, "gate": {"maxDuplicateFraction": 1}},
                "DataInvalid",
                "dataset.gate.maxOverlap is 0.1 and 1 (10 of 10)",
            ),
            (chats(4), {"gate": {"minPairs": 5}}, "DataInvalid", "dataset.gate.minPairs is 5 and 4 pairs"),
            (chats(1), {}, "DatasetTooSmall", "1 pairs are left to train on and one step takes 2"),
            ([chat("x", "a", "a")], {}, "DatasetEmpty", "no pair is left to train on"),
            ([], {}, "DatasetEmpty", "is empty"),
            (
                chats(4),
                {"columns": {"chosen": "good"}},
                "ColumnNotFound",
                "'good' (dataset.columns.chosen); it has chosen, rejected",
            ),
            (
                [*chats(3), {"chosen": chats(1)[0]["chosen"], "rejected": None}],
                {},
                "DatasetInvalid",
                "row 4 of split 'train'",
            ),
            ([chat("q", "a", "b") | {"tools": "[{}]"}], {}, "DatasetInvalid", "tools are not supported"),
        ],
        ids=[
            "duplicates",
            "equal",
            "empty side",
            "long completions",
            "long prompts",
            "overlap",
            "few",
            "less than a batch",
            "nothing left",
            "empty file",
            "column",
            "row",
            "tools",
        ],
    )
    def test_problem(self, check: Check, rows: list[Row], dataset: Row, reason: str, words: str) -> None:
        found, problem = check.problem(3, rows, manifest(dataset=dataset))
        assert found == reason and words in problem, problem

    def test_report_is_there_although_the_gate_refuses(self, check: Check) -> None:
        result = check.text(chats(1) * 4, manifest())
        assert result.exit_code == 3
        assert "duplicates" in result.stdout and "≤ 50.0% !" in result.stdout
        assert "error: dataset.gate.maxDuplicateFraction" in result.stderr
        assert "refused: DataInvalid" in result.stderr

    def test_no_chat_template(self, check: Check, tmp_path: Path) -> None:
        (tmp_path / "bare").mkdir()
        tiny_models.write_tokenizer(tmp_path / "bare", chat_template=None)
        reason, problem = Check(tmp_path, tmp_path / "bare").problem(3, chats(4), manifest())
        assert reason == "NoChatTemplate" and "tokenizer has no chat template" in problem


class TestUnreached:
    def test_split(self, check: Check) -> None:
        reason, problem = check.problem(4, chats(4), manifest(dataset={"evalSplit": "test"}))
        assert reason == "DatasetNotFound" and "'test'" in problem

    def test_tokenizer(self, check: Check, tmp_path: Path) -> None:
        (tmp_path / "nothing").mkdir()
        reason, _ = Check(tmp_path, tmp_path / "nothing").problem(4, chats(4), manifest())
        assert reason == "ModelNotFound"


PROBE = (
    "import sys\nfrom dpojob_trainer.cli import app\n"
    "try:\n    app()\nexcept SystemExit as end:\n    print(end.code)\n"
    "names = ('jax', 'jaxlib', 'flax', 'easydel', 'eformer', 'ray', 'transformers')\n"
    "print([name for name in names if name in sys.modules])\n"
)


def alone(*arguments: str, **env: str) -> list[str]:
    """Run the command in a process of its own; return its output, at its end the exit code and what was imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "check", *arguments],
        env=dict(os.environ) | env,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return [*done.stderr.splitlines(), *done.stdout.splitlines()]


def test_starts_without_jax_easydel_and_ray(tmp_path: Path, model: Path) -> None:
    job, pairs = manifests.write(tmp_path, chats(4), manifest())
    lines = alone(str(job), "--data", str(pairs), "--model", str(model))
    assert lines[-2:] == ["0", "['transformers']"], lines


def test_wrong_manifest_is_told_before_anything_is_imported(tmp_path: Path) -> None:
    job, _ = manifests.write(tmp_path, [], manifest(dpo={"beta": 0}))
    assert alone(str(job))[-2:] == ["2", "[]"]


class TestHub:
    """Against the local stand-in of the Hub (`hub.py`), which cannot be reached from the tests."""

    def check(self, tmp_path: Path, model: Path, *, gated: bool) -> tuple[Hub, list[str]]:
        """Check pairs with a model on the Hub, without a token."""
        files = {name: (model / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
        files |= {"config.json": b"{}", "model.safetensors": b"weights"}
        job, pairs = manifests.write(tmp_path, chats(4), manifest(model={"uri": "hf://org/thing"}))
        with hub.serve() as server:
            server.models["org/thing"] = Repo({"main": files}, gated=gated)
            env = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": ""}
            return server, alone(str(job), "--data", str(pairs), **env)

    def test_weights_are_not_downloaded(self, tmp_path: Path, model: Path) -> None:
        server, lines = self.check(tmp_path, model, gated=False)
        assert lines[-2] == "0", lines
        assert server.served("resolve.*tokenizer.json") and not server.served("resolve.*model.safetensors")

    def test_gated_model(self, tmp_path: Path, model: Path) -> None:
        _, lines = self.check(tmp_path, model, gated=True)
        assert lines[-2] == "4" and any("hf://org/thing is gated" in line for line in lines), lines


def test_help_names_the_exit_codes() -> None:
    result = run("--help")
    assert result.exit_code == 0
    words: Any = " ".join(result.stdout.split())
    assert all(
        part in words for part in ("Exit codes: 0", "2 the manifest", "3 the data is refused", "4 model")
    )
