"""Time and memory, our default beside the paper's, one case after the other on an otherwise idle machine.

python scripts/benchmark.py training [--steps 5] [--full-paper] [--quick] [--plot steps.png]
python scripts/benchmark.py inference [--lr-image my_scan.tif] [--quick]

`training`: one generator step, with its critic steps where there are any. `inference`: seconds per fine voxel from disk to disk, beside the paper's
generator with its published tiling and in our engine, the peak speed of convolutions on this machine, and the cost against volume and scale factor.
Each case runs in a process of its own, so that its peak memory is its own. Prints Markdown tables for docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.errors import InputError, one_line_errors  # noqa: E402
from bundle.provenance import processor  # noqa: E402

# An eighth of the published crop and half its batch, so that it fits a workstation; the critic's last kernel shrunk to match.
SMALL_PAPER = {"boxes": [16], "batch_size": 1, "crops_per_plane": 64, "critic_def#last_kernel": 1}
TRAINING = {
    "default": ("default (train.yaml)", [], {}),
    "default_fp32": ("default, float32", [], {"amp": False}),
    "batch": ("default, batches of 8", [], {"batch_size": 8}),
    "checkpointing": ("default, batches of 8, checkpointing", [], {"batch_size": 8, "checkpointing": True}),
    "critics": ("critics (critics.yaml)", ["critics.yaml"], {}),
    "x2": ("2x", [], {"scale_factor": 2, "hr_voxel_size": 1.75}),
    "x4": ("4x", [], {"scale_factor": 4, "hr_voxel_size": 0.875}),
    "x16": ("16x", ["16x.yaml"], {"hr_voxel_size": 0.21875}),
    "x32": ("32x", ["32x.yaml"], {"hr_voxel_size": 0.109375}),
    "paper": ("the paper's (paper.yaml), 16^3 -> 128^3, batch 1", ["paper.yaml"], SMALL_PAPER),
    "paper_full": ("the paper's (paper.yaml) as published", ["paper.yaml"], {}),
}
# name: what the table says, generator, edge of the volume (LR voxels), settings of the windows, threads
INFERENCE = {
    "default": ("default, 32^3", "default", 32, {"amp": None}, 0),
    "published": ("the paper's generator, published tiling, 32^3", "paper", 32, None, 0),
    "engine": ("the paper's generator in our engine, float32, 32^3", "paper", 32, {"amp": False}, 0),
    "engine_bf16": ("the paper's generator in our engine, bfloat16, 32^3", "paper", 32, {"amp": True}, 0),
    "default_fp32": ("default, float32, 32^3", "default", 32, {"amp": False}, 0),
    "x8_64": ("default, 64^3", "default", 64, {"amp": None}, 0),
    "processes": ("default, 64^3, two processes of one thread", "default", 64, {"amp": None}, 1),
    "x8_96": ("default, 96^3", "default", 96, {"amp": None}, 0),
    "x4_64": ("factor 4, 64^3", "x4", 64, {"amp": None}, 0),
    "x2_64": ("factor 2, 64^3", "x2", 64, {"amp": None}, 0),
    "x16_32": ("factor 16, 32^3", "x16", 32, {"amp": None}, 0),
    "x32_16": ("factor 32, 16^3", "x32", 16, {"amp": None}, 0),
}
SLOW = ("published", "engine", "engine_bf16", "default_fp32")
CHANNELS = {  # as inference.yaml has them
    "default": (64, 48, 32, 16),
    "x4": (64, 32, 16),
    "x2": (64, 16),
    "x16": (64, 48, 32, 16, 16),
    "x32": (64, 48, 32, 16, 16, 16),
}
GRAINS = {"x16": 8, "x32": 4}  # radius, LR voxels; 16 else


def peak_memory() -> float:
    """GiB that this process took at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def training_step(case: str, steps: int) -> dict[str, float]:
    """Seconds a generator step with its critic steps, memory in GiB (before the first step, planned, at most), finest voxels decoded, in this process."""
    from monai.bundle import ConfigParser

    from bundle.planner import training_memory

    _, overrides, settings = TRAINING[case]
    parser = ConfigParser()
    parser.read_config([str(ROOT / "configs" / name) for name in ("train.yaml", *overrides)])
    parser.update({"train#handlers": [], "warmup_iterations": 0, "resume": False, "device": "$torch.device('cpu')", **settings})
    n_critic, scale = parser.get_parsed_content("n_critic"), parser.get_parsed_content("scale_factor")
    # what is kept of earlier steps is planned for all of them, so a few must be all
    parser.update({"epoch_length": n_critic, "max_epochs": 1, "buffer_volumes": min(2, parser["buffer_volumes"])})
    trainer = parser.get_parsed_content("train#trainer")
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**30
    planned = held + training_memory(trainer, parser.get_parsed_content("batch_size"), trainer.boxes) / 2**30
    trainer.run()  # warms up: caches, and the buffer
    times = []
    for _ in range(steps):
        trainer.state.max_epochs += 1
        start = time.perf_counter()
        trainer.run()
        times.append(time.perf_counter() - start)
    edge = parser.get_parsed_content("boxes")[-1] * scale
    voxels = parser.get_parsed_content("batch_size") * edge**3
    return {"seconds": sorted(times)[len(times) // 2], "memory": peak_memory(), "held": held, "planned": planned, "voxels": voxels}


def generator(name: str):
    """An untrained generator of four phases: time does not depend on the weights."""
    import torch

    from bundle.networks.generator import LevelGenerator
    from bundle.networks.paper import PaperGenerator

    torch.manual_seed(0)
    return (PaperGenerator(5, 4) if name == "paper" else LevelGenerator(5, 4, channels=CHANNELS[name], grain_radius=GRAINS.get(name, 16))).eval()


def super_resolution(case: str, lr_image: str, folder: str, rank: int) -> dict[str, float]:
    """Seconds from disk to disk, peak memory in GiB and fine voxels made, in this process."""
    import torch

    from bundle.inferer import WindowInferer
    from bundle.io.source import LabelSource
    from bundle.memory import keep_freed_memory
    from bundle.shards import StoreInferer

    _, name, edge, window, threads = INFERENCE[case]
    network, phases = generator(name), ["pore", "quartz", "feldspar", "clay"]
    source = LabelSource(lr_image, 4, voxel_size=1.0, region=[[0, edge]] * 3)
    if window is None:
        start = time.perf_counter()
        voxels = published_tiling(network, source)
        return {"seconds": time.perf_counter() - start, "memory": peak_memory(), "voxels": voxels}
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    network = network.to(memory_format=torch.channels_last_3d)
    world_size = 2 if threads else 1
    window = WindowInferer(None, processes=world_size, **window)
    window.core_for(network, 32)  # chosen beforehand: it takes as long for a small volume as for a large one
    path, shard = Path(folder) / "a.ome.zarr", 256 // network.scale_factor
    inferer = StoreInferer(window, path, phases, {}, shard, rank=rank, world_size=world_size, progress=False)
    start = time.perf_counter()
    inferer(source, network)
    return {"seconds": time.perf_counter() - start, "memory": peak_memory(), "voxels": (network.scale_factor * edge) ** 3 / world_size}


def published_tiling(network, source) -> int:
    """Windows of 32^3 LR voxels at a step of 16, of which the middle 16^3 are kept (the authors' 8x_Super-Resolution repository): fine voxels made."""
    import torch
    from torch.nn import functional as F

    made = 0
    with torch.no_grad():
        for z in range(0, source.shape[0], 16):
            for y in range(0, source.shape[1], 16):
                for x in range(0, source.shape[2], 16):
                    labels = torch.from_numpy(source.read((z - 8, y - 8, x - 8), (z + 24, y + 24, x + 24)))
                    onehot = F.one_hot(labels[None].long(), 4).movedim(-1, 1).float()
                    middle = network(torch.cat([onehot, torch.randn(1, 1, 32, 32, 32)], 1))[..., 64:-64, 64:-64, 64:-64]
                    made += middle.argmax(1).numel()
    return made


def convolution_peak(bfloat16: bool) -> float:
    """GFLOP/s of the fastest 3^3 convolution, of 16 to 64 channels."""
    import torch
    from torch.nn import functional as F

    best, dtype = 0.0, torch.bfloat16 if bfloat16 else torch.float32
    for channels, edge in ((16, 66), (32, 50), (48, 40), (64, 34)):
        x = torch.randn(1, channels, edge, edge, edge).to(dtype).contiguous(memory_format=torch.channels_last_3d)
        weight = torch.randn(channels, channels, 3, 3, 3).to(dtype).contiguous(memory_format=torch.channels_last_3d)
        for _ in range(8):
            start = time.perf_counter()
            with torch.no_grad():
                F.conv3d(x, weight)
            best = max(best, 2 * 27 * channels**2 * (edge - 2) ** 3 / (time.perf_counter() - start) / 1e9)
    return best


def needed_flops(channels: tuple[int, ...], phases: int = 4, blocks: int = 2) -> float:
    """FLOP per fine voxel of the default generator's convolutions, without any halo: every one on its own grid, once."""
    first, scale = channels[0], 2 ** (len(channels) - 1)
    total = 2 * 27 * ((phases + 1 + 2 * phases) * first + 2 * blocks * first**2)  # the trunk, on the LR grid
    for k, (a, b) in enumerate(zip(channels[:-1], channels[1:])):
        total += 8**k * 2 * a * b + 8 ** (k + 1) * 2 * (2 * 27 * b**2 + b * phases)
    return total / scale**3


def in_a_process(*words: object) -> dict[str, float]:
    """The numbers that this script prints as its last line, run with other words."""
    return numbers(start(words))


def start(words: Sequence[object]) -> subprocess.Popen:
    """This script in another process, with other words."""
    return subprocess.Popen([sys.executable, __file__, *map(str, words)], stdout=subprocess.PIPE, text=True, cwd=ROOT)


def numbers(process: subprocess.Popen) -> dict[str, float]:
    """The last line of what it prints. Where it failed it has said why, and this ends likewise."""
    printed = process.communicate()[0]
    if process.returncode:
        sys.exit(process.returncode)
    return json.loads(printed.splitlines()[-1])


def report_training(steps: int, full_paper: bool, quick: bool, plot: str | None) -> None:
    """Runs every case, prints the table, and draws what the factors cost where a file is named."""
    cases = [case for case in TRAINING if (case != "paper_full" or full_paper) and (case != "paper" or not quick)]
    results = {case: in_a_process("training", "--case", case, "--steps", steps) for case in cases}
    first = results["default"]
    print(f"{processor()}; median of {steps} generator steps with their critic steps\n")
    print("| | s a step | peak GiB | planned | before the first step | finest voxels decoded | µs a voxel | time a voxel, default = 1 |")
    print("|---|---|---|---|---|---|---|---|")
    for case, r in results.items():
        ratio = (r["seconds"] / r["voxels"]) / (first["seconds"] / first["voxels"])
        microseconds = 1e6 * r["seconds"] / r["voxels"]
        memory = " | ".join(f"{r[key]:.2f}" for key in ("memory", "planned", "held"))
        print(f"| {TRAINING[case][0]} | {r['seconds']:.2f} | {memory} | {r['voxels']:,} | {microseconds:.2f} | {ratio:.1f} |")
    if plot:
        plot_factors(results, plot)


def plot_factors(results: dict[str, dict[str, float]], path: str) -> None:
    """Time and peak memory of a generator step against the factor."""
    from matplotlib.figure import Figure

    from bundle.report import save_figure

    factors = {"2x": "x2", "4x": "x4", "8x": "default", "16x": "x16", "32x": "x32"}
    figure = Figure(figsize=(7, 2.8), dpi=130, layout="constrained")
    rows = {"seconds": [("seconds", "measured", "o-")], "GiB": [("memory", "peak", "o-"), ("planned", "planned", "x--"), ("held", "before the first step", ".:")]}
    for panel, (unit, lines) in zip(figure.subplots(1, 2), rows.items()):
        for key, label, style in lines:
            panel.plot(list(factors), [results[case][key] for case in factors.values()], style, label=label)
        panel.set(ylabel=f"{unit} a generator step", ylim=(0, None))
        panel.legend(frameon=False)
    save_figure(figure, path)


def report_inference(lr_image: str, quick: bool) -> None:
    """Runs every case and prints the tables."""
    from bundle.io.files import open_volume

    results, largest = {}, min(open_volume(lr_image, voxel_size=1.0).array.shape)
    if largest < INFERENCE["default"][2]:
        raise InputError(f"--lr-image: {lr_image} has an edge of {largest} voxels; give a scan of {INFERENCE['default'][2]} or more")
    for case, (_, _, edge, _, threads) in INFERENCE.items():
        if edge > largest or (quick and case in SLOW):
            continue
        with tempfile.TemporaryDirectory() as folder:
            words = ["inference", "--case", case, "--lr-image", Path(lr_image).absolute(), "--folder", folder]
            results[case] = two_processes(words) if threads else in_a_process(*words)
    first = 1e9 * results["default"]["seconds"] / results["default"]["voxels"]
    print(f"{processor()}\n\n| | s | fine voxels | ns a voxel | default = 1 | peak GiB |\n|---|---|---|---|---|---|")
    for case, r in results.items():
        ns = 1e9 * r["seconds"] / r["voxels"]
        print(f"| {INFERENCE[case][0]} | {r['seconds']:.1f} | {int(r['voxels']):,} | {ns:.0f} | {ns / first:.1f} | {r['memory']:.2f} |")
    print("\n| | peak of convolutions, GFLOP/s | needed, kFLOP a voxel | floor, ns a voxel | measured | share of the floor |\n|---|---|---|---|---|---|")
    peak = in_a_process("inference", "--case", "peak")
    for precision, case in (("bfloat16", "x8_96" if "x8_96" in results else "x8_64"), ("float32", "default_fp32")):
        if case in results:
            need = needed_flops(CHANNELS["default"])
            floor, ns = need / peak[precision], 1e9 * results[case]["seconds"] / results[case]["voxels"]
            print(f"| {INFERENCE[case][0]}, {precision} | {peak[precision]:.0f} | {need / 1e3:.1f} | {floor:.0f} | {ns:.0f} | {100 * floor / ns:.0f} % |")


def two_processes(words: list[object]) -> dict[str, float]:
    """The slower of two processes that share the work, and the memory of both."""
    both = [numbers(process) for process in [start([*words, "--rank", rank]) for rank in range(2)]]
    return {
        "seconds": max(r["seconds"] for r in both),
        "memory": sum(r["memory"] for r in both),
        "voxels": sum(r["voxels"] for r in both),
    }


def main() -> None:
    """Runs the cases of one kind, or one case in this process."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=["training", "inference"])
    arguments.add_argument("--steps", type=int, default=5, help="training: generator steps timed a case; the median counts")
    arguments.add_argument("--full-paper", action="store_true", help="training: the published size too; much memory, and minutes a step")
    arguments.add_argument("--plot", help="training: PNG of time and memory against the factor")
    arguments.add_argument("--lr-image", default=str(ROOT / "docs" / "sample" / "lr.tif"), help="inference: labels 0 to 3, at least 96^3 voxels for all cases")
    arguments.add_argument("--quick", action="store_true", help="without the paper's generator")
    for hidden, kind in (("--case", str), ("--folder", str), ("--rank", int)):
        arguments.add_argument(hidden, type=kind, default=0 if kind is int else None, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    one_line_errors()
    if options.case == "peak":
        print(json.dumps({"bfloat16": convolution_peak(True), "float32": convolution_peak(False)}))
    elif options.case and options.what == "training":
        print(json.dumps(training_step(options.case, options.steps)))
    elif options.case:
        print(json.dumps(super_resolution(options.case, options.lr_image, options.folder, options.rank)))
    elif options.what == "training":
        report_training(options.steps, options.full_paper, options.quick, options.plot)
    else:
        report_inference(options.lr_image, options.quick)


if __name__ == "__main__":
    main()
