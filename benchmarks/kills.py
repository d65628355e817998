"""``make bench-kills``: runs that are killed at random moments against the uninterrupted one, on one host and on two.

Writes benchmarks/results/kills.json, whose table is in docs/benchmarks.md. With --seconds it stops in time and goes on
when it is called again with the same --work. The hosts are forked from a process that has imported EasyDeL.
"""

import argparse
import json
import random
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.trainer import tiny_models
from tests.trainer.jobs import Claim, mounted, write_pairs
from tests.trainer.kills import Comparison, Kill, Spawn, compare, finish, job, kill_once
from tests.trainer.warm import Warm

from dpojob_api.constants import OUTPUT_CHECKPOINTS

RESULTS = Path(__file__).resolve().parent / "results" / "kills.json"
TOTAL = {1: 100, 2: 80}
HEAD = "| hosts | kills | while a checkpoint was written | steps compared | largest deviation | steps lost: mean, most |"


def main() -> int:
    """Run what is asked for; return 0 when all is done, 75 when it must be called again."""
    args = arguments()
    deadline = time.monotonic() + args.seconds
    args.work.mkdir(parents=True, exist_ok=True)
    with mounted(args.work.resolve()) as claim, Warm(job(claim, "any", 1)) as spawn:
        prepare(claim)
        for hosts in args.hosts:
            if not proceed(claim, hosts, args.kills, args.seed, deadline, spawn):
                print(
                    f"{hosts} hosts: {len(kills_of(claim, hosts))} of {args.kills} kills; call again to go on"
                )
                return 75
        results = {str(hosts): result(claim, hosts) for hosts in args.hosts}
    write(
        results
        | {"seed": args.seed, "largest_deviation_of": "loss, gradient norm, rewards, log-probabilities"}
    )
    print("\n".join(table(results)))
    shutil.rmtree(args.work)
    return 0


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="kills for each number of hosts")
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 2], choices=[1, 2])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="start nothing new after this time"
    )
    parser.add_argument("--work", type=Path, default=Path("/tmp/dpojob-kills"))
    return parser.parse_args()


def prepare(claim: Claim) -> None:
    """Write the tiny model and its pairs, once."""
    if not (claim.path / "pairs.jsonl").exists():
        tiny_models.write_model(claim.path / "model", tiny_models.QWEN3)
        write_pairs(claim.path / "pairs.jsonl", 64)


def proceed(claim: Claim, hosts: int, kills: int, seed: int, deadline: float, spawn: Spawn) -> bool:
    """Run, kill and finish as far as time allows; return whether all is done."""
    log, killed, total = claim.path / f"log-{hosts}", f"killed-{hosts}", TOTAL[hosts]
    if not (claim.path / f"whole-{hosts}" / "model").exists():
        shutil.rmtree(claim.path / f"whole-{hosts}", ignore_errors=True)
        finish(job(claim, f"whole-{hosts}", hosts, maxSteps=total), log, spawn)
    done = kills_of(claim, hosts)
    while len(done) < kills:
        if time.monotonic() > deadline:
            return False
        attempt = len(done) + 1
        config = job(claim, killed, hosts, attempt, maxSteps=total)
        chance = random.Random(f"{seed}/{attempt}")
        kill = kill_once(config, claim.path / killed / OUTPUT_CHECKPOINTS, chance, log, spawn)
        if kill is None:
            raise SystemExit(f"the run ended before kill {attempt}; raise TOTAL")
        done.append(kill)
        kills_file(claim, hosts).write_text(json.dumps([asdict(entry) for entry in done]))
        print(hosts, attempt, kill, flush=True)
    if time.monotonic() > deadline:
        return False
    if not (claim.path / killed / "model").exists():
        finish(job(claim, killed, hosts, kills + 1, maxSteps=total), log, spawn)
    return True


def kills_file(claim: Claim, hosts: int) -> Path:
    """Return where the kills so far are kept."""
    return claim.path / f"kills-{hosts}.json"


def kills_of(claim: Claim, hosts: int) -> list[Kill]:
    """Return the kills so far."""
    path = kills_file(claim, hosts)
    return [Kill(**entry) for entry in json.loads(path.read_text())] if path.exists() else []


def result(claim: Claim, hosts: int) -> dict[str, Any]:
    """Return the figures of a number of hosts."""
    found = Comparison(kills_of(claim, hosts))
    compare(claim, f"whole-{hosts}", f"killed-{hosts}", found)
    return {
        "kills": len(found.kills),
        "while_writing": sum(kill.writing for kill in found.kills),
        "killed_at": [kill.killed_at for kill in found.kills],
        "resumed_from": found.resumed_from,
        "lost_steps": found.lost_steps,
        "steps": TOTAL[hosts],
        "steps_compared": found.steps_compared,
        "largest_deviation": found.max_deviation,
    }


def write(results: dict[str, Any]) -> None:
    """Write the figures."""
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


def table(results: dict[str, Any]) -> list[str]:
    """Return the table of docs/benchmarks.md."""
    rows = [HEAD, "|---" * HEAD.count(" |") + "|"]
    for hosts, found in results.items():
        lost = found["lost_steps"]
        rows.append(
            f"| {hosts} | {found['kills']} | {found['while_writing']} | {found['steps_compared']} "
            f"| {found['largest_deviation']:g} | {sum(lost) / len(lost):.1f}, {max(lost)} |"
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
