"""Time and memory of one generator step, with its critic steps where there are any: our default beside the paper's generator, one after the other.

python scripts/benchmark.py [--steps 5] [--full-paper]

Each case runs in a process of its own, so that its peak memory is its own. Prints a Markdown table for docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.provenance import processor  # noqa: E402

# An eighth of the published crop and half its batch, so that it fits a workstation; the critic's last kernel shrunk to match.
SMALL_PAPER = {"boxes": [16], "batch_size": 1, "crops_per_plane": 64, "critic_def#last_kernel": 1}
CASES = {
    "default": ("default (train.yaml)", [], {}),
    "default_fp32": ("default, float32", [], {"amp": False}),
    "critics": ("critics (critics.yaml)", ["critics.yaml"], {}),
    "paper": ("the paper's (paper.yaml), 16^3 -> 128^3, batch 1", ["paper.yaml"], SMALL_PAPER),
    "paper_full": ("the paper's (paper.yaml) as published", ["paper.yaml"], {}),
}


def measure(case: str, steps: int) -> dict[str, float]:
    """Seconds a generator step with its critic steps, peak memory in GiB and finest voxels decoded a step, in this process."""
    from monai.bundle import ConfigParser

    _, overrides, settings = CASES[case]
    parser = ConfigParser()
    parser.read_config([str(ROOT / "configs" / name) for name in ("train.yaml", *overrides)])
    parser.update({"train#handlers": [], "warmup_iterations": 0, "resume": False, "device": "$torch.device('cpu')", **settings})
    n_critic, scale = parser.get_parsed_content("n_critic"), parser.get_parsed_content("scale_factor")
    parser.update({"epoch_length": n_critic, "max_epochs": 1})
    trainer = parser.get_parsed_content("train#trainer")
    trainer.run()  # warms up: caches, and the buffer
    times = []
    for _ in range(steps):
        trainer.state.max_epochs += 1
        start = time.perf_counter()
        trainer.run()
        times.append(time.perf_counter() - start)
    edge = parser.get_parsed_content("boxes")[-1] * scale
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": sorted(times)[len(times) // 2], "memory": peak, "voxels": parser.get_parsed_content("batch_size") * edge**3}


def main() -> None:
    """Runs every case in a process of its own and prints the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=5, help="generator steps timed a case; the median counts")
    arguments.add_argument("--full-paper", action="store_true", help="the published size too: much memory, and minutes a step")
    arguments.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.steps)))
        return
    results = {}
    for case in CASES:
        if case == "paper_full" and not options.full_paper:
            continue
        command = [sys.executable, __file__, "--case", case, "--steps", str(options.steps)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
        results[case] = json.loads(output.splitlines()[-1])
    first = results["default"]
    print(f"{processor()}; median of {options.steps} generator steps with their critic steps\n")
    print("| | s a step | peak GiB | finest voxels decoded | µs a voxel | time a voxel, default = 1 |\n|---|---|---|---|---|---|")
    for case, r in results.items():
        ratio = (r["seconds"] / r["voxels"]) / (first["seconds"] / first["voxels"])
        print(
            f"| {CASES[case][0]} | {r['seconds']:.2f} | {r['memory']:.2f} | {r['voxels']:,} | {1e6 * r['seconds'] / r['voxels']:.2f} | {ratio:.1f} |"
        )


if __name__ == "__main__":
    main()
