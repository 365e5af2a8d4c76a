"""Windows give what the whole volume gives, and the result knows its place."""

from __future__ import annotations

import threading
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from bundle.errors import InputError
from bundle.inferer import WindowInferer, ahead, has_bfloat16
from bundle.io.region import replicated
from bundle.networks.generator import LevelGenerator
from bundle.networks.noise import coordinate_noise
from bundle.networks.paper import PaperGenerator

N_LR, N_HR, SHAPE = 3, 3, (7, 5, 9)


def randomise(network: nn.Module) -> nn.Module:
    """Weights that let every voxel of the receptive field through: the initial ones make blocks the identity."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.ndim > 1 and "gain" not in name:
                gain = 0.125 if "head" in name else 1.0  # the network has a gain of its own there
                value.normal_(std=gain * (3.0 / value[0].numel()) ** 0.5, generator=generator)
            elif name.endswith(("running_var", "weight")):  # of batch norm
                value.uniform_(0.5, 2.0, generator=generator)
            elif value.is_floating_point() and value.ndim:  # a share stays what it is
                value.normal_(std=0.3, generator=generator)
    return network.eval()


def level_generator(channels=(4, 4, 3, 3)) -> LevelGenerator:
    return randomise(LevelGenerator(N_LR + 1, N_HR, channels=channels, blocks=1, grain_radius=1))


def paper_generator() -> PaperGenerator:
    return randomise(PaperGenerator(N_LR + 1, N_HR, width=32))


NETWORKS = {"level": level_generator, "level, 2x": lambda: level_generator((4, 4)), "paper": paper_generator}


@pytest.fixture(params=NETWORKS, scope="module")
def network(request) -> nn.Module:
    return NETWORKS[request.param]()


@pytest.fixture(scope="module")
def labels() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(N_LR, size=(1, 1, *SHAPE), dtype=np.uint8))


@pytest.fixture(scope="module")
def expected(network, labels) -> np.ndarray:
    return whole(labels, network, seed=7)


def infer(labels: torch.Tensor, network: nn.Module, **options) -> torch.Tensor:
    return WindowInferer(**options)(labels, network)


def whole(labels: torch.Tensor, network: nn.Module, seed: int, extra: int = 2) -> np.ndarray:
    """Probabilities of the whole volume in one pass with `extra` more LR voxels of context than `halo` on every side, by numpy."""
    margin, scale = network.halo + extra, network.scale_factor
    padded = np.pad(labels[0, 0].numpy(), margin, mode="edge")
    onehot = torch.from_numpy(np.eye(N_LR, dtype=np.float32)[padded]).permute(3, 0, 1, 2)[None]
    image = torch.cat([onehot, coordinate_noise(seed, 1, (-margin,) * 3, padded.shape)[None, None]], 1)
    noise = [
        coordinate_noise(seed, s, (offset - extra * s,) * 3, tuple(shape))[None, None]
        for s, offset, shape in network.noise_windows([n + 2 * extra for n in labels.shape[2:]])
    ]
    with torch.no_grad():
        probabilities = network.forward_window(image, noise)
    cut = slice(extra * scale, -extra * scale)
    return probabilities[0, :, cut, cut, cut].numpy()


@pytest.mark.parametrize("core", [4, 5, 8, 64])
def test_any_core_gives_the_labels_of_the_whole_volume(network, labels, expected, core):
    assert expected.shape == (N_HR, *(network.scale_factor * n for n in SHAPE))
    assert len(np.unique(expected.argmax(0))) > 1  # the comparison is one of something
    result = infer(labels, network, core=core, seed=7)
    assert result.dtype == torch.uint8 and result.shape == (1, 1, *expected.shape[1:])
    different = result[0, 0].numpy() != expected.argmax(0)
    first, second = np.sort(expected, 0)[[-1, -2]]
    assert ((first - second)[different] < 1e-4).all()  # the order of a float sum may decide a tie
    assert different.mean() <= 1e-4


def test_probabilities_of_the_whole_volume(network, labels, expected):
    probabilities = infer(labels, network, core=5, seed=7, output="probabilities")
    assert probabilities.dtype == torch.float32
    np.testing.assert_allclose(probabilities[0].numpy(), expected, atol=1e-4)  # logits of tens in single precision


def test_the_receptive_field_ends_at_the_halo(network):
    labels = torch.zeros(1, 1, network.halo + 2, 1, 1, dtype=torch.uint8)
    options = {"core": 1, "output": "probabilities"}
    first = slice(0, network.scale_factor)  # of z: the fine voxels of the first LR voxel
    before = infer(labels, network, **options)[:, :, first]

    def changed_at(z: int) -> bool:
        other = labels.clone()
        other[:, :, z] = 1
        return not torch.equal(infer(other, network, **options)[:, :, first], before)

    assert not changed_at(network.halo + 1)
    # where nothing is hidden, labels reach as far as the halo less the radius of the smooth noise, 1, and the walk to a grain's top, 1, and with three
    # levels less one that is cut in whole voxels; the paper's halo is five voxels and a half, rounded up
    assert changed_at(network.halo - (1 if isinstance(network, PaperGenerator) else 3 if len(network.levels) == 3 else 2))


def test_same_seed_same_bytes_other_seed_other_rock(network, labels):
    one = infer(labels, network, core=5, seed=1)
    assert torch.equal(one, infer(labels, network, core=5, seed=1))
    assert not torch.equal(one, infer(labels, network, core=5, seed=2))


def test_without_noise_the_seed_does_not_matter(labels):
    network = level_generator()
    one = infer(labels, network, seed=1, noise_std=0)
    assert torch.equal(one, infer(labels, network, seed=2, noise_std=0))
    assert not torch.equal(one, infer(labels, network, seed=1))


def test_runs_in_evaluation_mode_and_leaves_the_mode(labels):
    network = paper_generator()
    expected = infer(labels, network)
    network.train()  # batch norm would take its statistics from each window
    with torch.inference_mode():
        assert torch.equal(infer(labels, network), expected)
    assert network.training


def test_half_precision_is_close(labels):
    network = level_generator()
    full, half = (infer(labels, network, output="probabilities", amp=amp) for amp in (False, True))
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    assert (full - half).abs().mean() < 0.02


@pytest.mark.parametrize("options", [{"core": 0}, {"core": 2.5}, {"core": "large"}, {"output": "logits"}, {"noise_std": -1},
                                     {"noise_std": float("nan")}, {"noise_std": "some"}, {"seed": -1}, {"seed": 1.7}, {"seed": 2**64}, {"seed": "x"}])  # fmt: skip
def test_options_that_make_no_sense(options):
    with pytest.raises(InputError, match=next(iter(options))):
        WindowInferer(**options)


@pytest.mark.parametrize("shape", [(2, 1, 4, 4, 4), (1, 2, 4, 4, 4), (1, 4, 4, 4)])
def test_one_volume_of_labels_is_needed(shape):
    with pytest.raises(ValueError, match="one volume"):
        infer(torch.zeros(shape, dtype=torch.uint8), level_generator())


def test_the_window_is_chosen_from_the_memory_and_changes_nothing(labels, monkeypatch):
    network = level_generator()
    expected = infer(labels, network, core=64)
    for free in (1 << 40, 4 << 20):
        monkeypatch.setattr("bundle.inferer.free_memory", lambda device, free=free: free)
        inferer = WindowInferer()
        assert (inferer(labels, network) != expected).sum() <= 1
        assert (inferer.core_for(network, max(SHAPE)) == max(SHAPE)) == (free == 1 << 40)
    monkeypatch.setattr("bundle.inferer.free_memory", lambda device: 1 << 10)
    with pytest.raises(InputError, match="core: .* needs .* of memory"):
        infer(labels, network)


def test_null_by_the_command_line_chooses_the_window():
    assert WindowInferer("null").core is None and WindowInferer(None).core is None and WindowInferer(5).core == 5


def test_processes_share_the_memory(labels, monkeypatch):
    network = level_generator()
    monkeypatch.setattr("bundle.inferer.free_memory", lambda device: 64 << 20)
    alone, shared = (WindowInferer(processes=n).core_for(network, 32) for n in (1, 8))
    assert shared < alone


@pytest.mark.parametrize("error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()])
def test_memory_that_is_taken_meanwhile(labels, error, monkeypatch):
    network = level_generator()
    monkeypatch.setattr("bundle.inferer.choose_core", lambda *args, **kwargs: 4)

    def window(*args, **kwargs):
        raise error

    network.window = window
    with pytest.raises(InputError, match=r"core: windows of 4 LR voxels: the memory is too little \(.* free\); set core to 2"):
        infer(labels, network, core=4)


def test_other_errors_keep_their_words(labels, monkeypatch):
    network = level_generator()

    def window(*args, **kwargs):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("bundle.inferer.choose_core", lambda *args, **kwargs: 4)
    network.window = window
    with pytest.raises(RuntimeError, match="illegal memory access"):
        infer(labels, network, core=4)


def test_the_window_is_chosen_once(labels, monkeypatch):
    """What this process took is not free any more, but it is not missing either."""
    network, inferer = level_generator(), WindowInferer()
    monkeypatch.setattr("bundle.inferer.free_memory", lambda device: 1 << 40)
    assert inferer.core_for(network, 9) == 9
    monkeypatch.setattr("bundle.inferer.free_memory", lambda device: 1 << 10)
    assert inferer.core_for(network, 9) == 9 and inferer.core_for(network, 4) == 4
    with pytest.raises(InputError):
        inferer.core_for(network, 12)
    with pytest.raises(InputError):  # what shards take is not free for windows
        WindowInferer().core_for(network, 9, reserved=1 << 50)


def test_precision_is_that_of_the_device_unless_one_says_so():
    cpu = torch.device("cpu")
    assert WindowInferer(amp=False).precision(cpu) == "float32" and WindowInferer(amp=True).precision(cpu) == "bfloat16"
    assert WindowInferer(amp=None).precision(cpu) == ("bfloat16" if has_bfloat16(cpu) else "float32")


@pytest.mark.parametrize("core", [4, 5, 8])
def test_half_precision_does_not_depend_on_the_window(labels, core):
    network = level_generator()
    different = infer(labels, network, core=core, amp=True) != infer(labels, network, core=64, amp=True)
    assert different.float().mean() <= 1e-3  # none where the processor has bfloat16


def test_the_way_to_a_gpu_gives_the_same(labels, monkeypatch):
    """Pinned, and read ahead in a thread; with the processor in the place of the GPU."""
    network, pinned = level_generator(), []
    expected = infer(labels, network, core=4)
    monkeypatch.setattr("bundle.inferer._is_gpu", lambda device: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append((self.shape, threading.current_thread())) or self)
    assert torch.equal(infer(labels, network, core=4), expected)
    assert len(pinned) == 2 * 2 * 3 * 4  # windows; the image and the noise of three levels
    assert threading.main_thread() not in {thread for _, thread in pinned}


def test_ahead_is_map():
    assert list(ahead(lambda x: x * x, range(5))) == [0, 1, 4, 9, 16] and list(ahead(str, [])) == []

    def fails_at_two(x):
        if x == 2:
            raise ValueError("two")
        return x

    found = []
    with pytest.raises(ValueError, match="two"):
        for value in ahead(fails_at_two, range(5)):
            found.append(value)
    assert found == [0, 1]


def test_a_box_with_probabilities(network, labels, expected):
    """Part of a volume, labels and probabilities of one pass."""
    inferer, scale = WindowInferer(2), network.scale_factor
    found = np.full((N_HR, *(scale * n for n in (3, 2, 4))), np.nan)
    for window in inferer.windows(partial(replicated, labels[0, 0].numpy()), network, (2, 1, 3), (3, 2, 4), 7, probabilities=True):
        found[(slice(None), *window.place)] = window.probabilities
        assert torch.equal(window.labels.long(), window.probabilities.argmax(0))
    part = tuple(slice(scale * a, scale * (a + n)) for a, n in zip((2, 1, 3), (3, 2, 4)))
    np.testing.assert_allclose(found, expected[(slice(None), *part)], atol=1e-4)
