"""The default generator: exact windows, a halo that is the receptive field, nested boxes, levels of x2."""

import itertools
import weakref

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from bundle.checkpoint import load_model
from bundle.errors import InputError
from bundle.networks.fields import waves
from bundle.networks.generator import LevelGenerator
from bundle.networks.levels import Up2
from bundle.networks.noise import coordinate_noise


def make(channels=(6, 5, 4, 4), blocks=1, seed=0, **kwargs) -> LevelGenerator:
    """A small network with weights as after training: no zeros left of the initialisation, and a phase in hiding."""
    torch.manual_seed(seed)
    net = LevelGenerator(3, 2, channels, blocks=blocks, **{"logit_bound": 4.0, "grain_radius": 1, **kwargs})
    for name, parameter in net.named_parameters():
        if parameter.ndim == 1 or name.endswith("noise_gain"):
            torch.nn.init.normal_(parameter, std=0.3)
        else:  # unit gain: an upsampled voxel has one voxel before it, one of a convolution 27
            torch.nn.init.normal_(parameter, std=(1.9 / parameter[0].numel()) ** 0.5)
    net.hidden.hide([[0.0, 0.4], [0.0, 0.0]])
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def network() -> LevelGenerator:
    return make()


def volume(seed: int, *size: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.cat([torch.rand(1, 2, *size, generator=draw), torch.empty(1, 1, *size).normal_(generator=draw)], 1)


def window(net: LevelGenerator, image: Tensor, start: tuple[int, int, int], size: tuple[int, int, int]) -> Tensor:
    """Core at `start` of a volume, `image` being the volume and its halo; noise of the coordinates."""
    h = net.halo
    part = image[(..., *(slice(a, a + n + 2 * h) for a, n in zip(start, size)))]
    noise = []
    for scale, offset, shape in net.noise_windows(list(size)):
        noise.append(coordinate_noise(1, scale, tuple(scale * a + offset for a in start), tuple(shape))[None, None])
    return net.forward_window(part, noise)


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5])
def test_each_level_doubles(levels):
    net = LevelGenerator(4, 3, (5, 4, 4, 4, 3, 3)[: levels + 1], blocks=1, grain_radius=1)
    assert net.scale_factor == 2**levels
    out = net(torch.rand(2, 4, 2, 3, 4))
    assert out.shape == (2, 3, *(2**levels * n for n in (2, 3, 4)))
    torch.testing.assert_close(out.sum(1), torch.ones_like(out[:, 0]))
    assert out.min() > 0


@pytest.mark.parametrize(
    ("levels", "blocks", "radius", "halo", "reach"), [(1, 1, 1, 8, 6), (2, 1, 1, 9, 7), (3, 1, 1, 10, 7), (3, 0, 3, 13, 7), (3, 2, 1, 12, 9), (4, 0, 1, 8, 5)]
)
def test_halo_holds_the_receptive_field(levels, blocks, radius, halo, reach):
    """By gradient in float64: the corners of a core voxel's block reach the noise of exactly `reach` LR voxels to each side, and the labels of
    `radius` fewer, and one more for their blur. The halo has what the walk to a grain's top takes besides (half as much again as the radius, tests/networks/test_hidden.py), and as whole voxels
    of the coarser grid are cut, that of three levels has one more."""
    net = make((3, 3, 3, 3, 3)[: levels + 1], blocks, grain_radius=radius).double()
    assert net.halo == halo
    size = [3, 3, 3]
    image = torch.rand(1, 3, *(n + 2 * halo for n in size), dtype=torch.float64).requires_grad_(True)
    noise = [torch.randn(1, 1, *shape, dtype=torch.float64) for _, _, shape in net.noise_windows(size)]
    s = net.scale_factor
    block = net.forward_window(image, noise)[0, 0, s : 2 * s, s : 2 * s, s : 2 * s]  # of the middle core voxel, at halo + 1
    for corner in (0, s - 1):
        (gradient,) = torch.autograd.grad(block[corner, corner, corner], image, retain_graph=True)
        for channels, far in ((gradient[0, -1], reach), (gradient[0, :-1].abs().sum(0), reach - radius + 1)):
            reached = channels.nonzero()
            first, last = reached.amin(0).tolist(), reached.amax(0).tolist()
            assert min(first) >= halo + 1 - far and max(last) <= halo + 1 + far
            if corner == 0:
                assert first == [halo + 1 - far] * 3
            else:
                assert last == [halo + 1 + far] * 3


def test_halo_of_the_default():
    """Four LR voxels for three levels of x2, 1 + 2 x 2 of the trunk, 1 of the labels' blur, 16 of what is smoothed, 24 of the walk to a grain's top."""
    net = LevelGenerator(5, 4)
    assert net.halo == 4 + 5 + 1 + 16 + 24 and net.grain_perturbation == 0.5


def test_noise_windows_are_what_the_levels_read(network):
    """By gradient: the core reads the noise at every margin of its window, and the sizes are right for each axis."""
    size = [1, 2, 3]
    h = network.halo
    noise = [torch.randn(1, 1, *shape).double().requires_grad_(True) for _, _, shape in network.noise_windows(size)]
    for (scale, offset, shape), k in zip(network.noise_windows(size), (1, 2, 3)):
        assert scale == 2**k
        assert shape == [scale * n - 2 * offset for n in size]
    out = make().double().forward_window(volume(0, *(n + 2 * h for n in size)).double(), noise)
    # the finest level's two convolutions read two voxels beyond the core: all of its noise
    gradient = torch.autograd.grad(out[0, 0].square().sum(), noise)
    assert (gradient[2] != 0).all()
    for g in gradient[:2]:
        assert (g != 0).any()


def test_windows_agree_with_the_whole(network):
    size = (4, 5, 6)
    image = volume(1, *(n + 2 * network.halo for n in size))
    whole = window(network, image, (0, 0, 0), size)
    assert whole.std() > 0.05
    for start, part in [((0, 0, 0), (1, 1, 1)), ((1, 2, 3), (3, 3, 3)), ((3, 0, 5), (1, 5, 1)), ((2, 4, 0), (2, 1, 6))]:
        box = (..., *(slice(8 * a, 8 * (a + n)) for a, n in zip(start, part)))
        torch.testing.assert_close(window(network, image, start, part), whole[box], rtol=0, atol=1e-5)


def test_translation_moves_the_result(network):
    h, shift = network.halo, (1, 0, 2)
    image = volume(2, *(n + 2 * h for n in (3, 3, 4)))
    moved = torch.zeros_like(image)
    moved[:, :, 1:, :, 2:] = image[:, :, :-1, :, :-2]
    # the noise moves along: offset of the grid by scale * shift
    noise, moved_noise = [], []
    for scale, offset, shape in network.noise_windows([2, 3, 2]):
        noise.append(coordinate_noise(4, scale, (offset,) * 3, tuple(shape))[None, None])
        far = coordinate_noise(4, scale, tuple(offset - scale * s for s in shift), tuple(scale * s + n for s, n in zip(shift, shape)))
        moved_noise.append(far[scale * shift[0] :, :, scale * shift[2] :][None, None])
    a = network.forward_window(image[:, :, : 2 + 2 * h, :, : 2 + 2 * h], noise)
    b = network.forward_window(moved[:, :, 1 : 3 + 2 * h, :, 2 : 4 + 2 * h], moved_noise)
    assert torch.equal(a, b)


def test_no_statistics_of_the_whole_tensor(network):
    """A far voxel changes nothing near; a training-mode network neither, and the batch items are apart."""
    n = 2 * network.halo + 3
    image = volume(3, n, n, n)
    noise = [torch.randn(1, 1, *shape) for _, _, shape in network.noise_windows([3, 3, 3])]
    far = image.clone()
    far[:, :, -4, -4, -4] += 100  # the last that three levels reach, but for walks
    a, b = network.forward_window(image, noise), network.forward_window(far, noise)
    assert torch.equal(a[..., :16, :16, :16], b[..., :16, :16, :16])  # the last core voxel's block alone may differ
    assert not torch.equal(a, b)
    batch = make().train().forward_window(torch.cat([image, far * 3]), [torch.cat([x, 2 * x]) for x in noise])
    torch.testing.assert_close(batch[:1], a, rtol=0, atol=1e-4)  # float order


def test_forward_replicates_the_border(network, monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda shape, **kwargs: torch.full(shape, 0.4, **kwargs))
    image = volume(4, 2, 3, 2)
    h = network.halo
    index = [torch.arange(-h, n + h).clamp(0, n - 1) for n in image.shape[2:]]
    padded = image[:, :, index[0]][:, :, :, index[1]][..., index[2]]
    noise = [torch.full((1, 1, *shape), 0.4) for _, _, shape in network.noise_windows([2, 3, 2])]
    torch.testing.assert_close(network(image), network.forward_window(padded, noise))


def test_forward_draws_noise_at_every_level(network):
    image = volume(5, 1, 1, 1)
    torch.manual_seed(0)
    first, second = network(image), network(image)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(network(image), first)
    quiet = make(noise_std=0.0)  # the paper's ablation
    assert torch.equal(quiet(image), quiet(image))
    patch = volume(5, 20, 20, 20)
    boxes = quiet.nested_boxes(20, [4, 2])
    for a, b in zip(quiet.forward_boxes(patch, boxes), quiet.forward_boxes(patch, boxes)):
        assert torch.equal(a, b)
    for k in range(3):  # each level has a part in it
        net = make()
        for j, level in enumerate(net.levels):
            if j != k:
                level.noise_gain.zero_()
        assert not torch.equal(net(image), net(image))


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_boxes_equal_windows_of_the_same_place(network, monkeypatch, value):
    """Each level of `forward_boxes` is the window that a network of that many levels, of the same weights, computes there."""
    size, edges = 22, [6, 4, 2]
    image = volume(6, size, size, size)
    torch.manual_seed(5)
    boxes = network.nested_boxes(size, edges)
    monkeypatch.setattr(torch, "randn", lambda *shape, **kwargs: torch.full(shape, value, **kwargs))
    results = network.forward_boxes(image, boxes)
    assert len({start for start, _ in boxes}) == 3
    for k, (result, (start, edge)) in enumerate(zip(results, boxes), start=1):
        shallow = make((6, 5, 4, 4)[: k + 1])
        shallow.trunk, shallow.levels = network.trunk, network.levels[:k]
        shallow._measure()  # what is not its finest level blurs its noise
        h = shallow.halo
        part = image[(..., *(slice(s - h, s + edge + h) for s in start))]
        noise = [torch.full((1, 1, *shape), value) for _, _, shape in shallow.noise_windows([edge] * 3)]
        assert result.shape == (1, 2, *[2**k * edge] * 3)
        torch.testing.assert_close(result, shallow.forward_window(part, noise), rtol=0, atol=1e-5)


def test_training_names_scale_and_place(network, monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda *shape, **kwargs: torch.zeros(shape, **kwargs))
    image = volume(7, 22, 22, 22)
    torch.manual_seed(3)
    boxes = network.nested_boxes(22, [6, 4, 2])
    torch.manual_seed(3)
    result = network.forward_training(image, [6, 4, 2])
    assert [scale for scale, _, _ in result] == [2, 4, 8]
    assert [box for _, _, box in result] == boxes
    for (_, probabilities, _), expected in zip(result, network.forward_boxes(image, boxes)):
        assert torch.equal(probabilities, expected)


def test_nested_boxes_are_nested_and_go_everywhere(network):
    torch.manual_seed(0)
    edges, patch = [7, 4, 2], 24
    seen = [set() for _ in edges]
    for _ in range(400):
        low, size = [network.trunk_trim] * 3, patch - 2 * network.trunk_trim
        for k, (start, edge) in enumerate(network.nested_boxes(patch, edges)):
            assert edge == edges[k]
            spare = 1 if k else 2  # two voxels of the coarser grid on both sides, in LR voxels
            for s, a in zip(start, low):
                assert a + spare <= s and s + edge <= a + size - spare
            seen[k].update((axis, s - a - spare) for axis, (s, a) in enumerate(zip(start, low)))
            low, size = start, edge
    for k, free in enumerate((12 - 7 - 4, 7 - 4 - 2, 4 - 2 - 2)):
        assert seen[k] == {(axis, i) for axis in range(3) for i in range(free + 1)}


@pytest.mark.parametrize("edges", [[7, 4, 2], [3], [12, 10]])
def test_patch_edge_is_the_smallest_that_holds_the_boxes(network, edges):
    patch = network.patch_edge(edges)
    assert len(network.nested_boxes(patch, edges)) == len(edges)
    with pytest.raises(ValueError):
        network.nested_boxes(patch - 1, edges)


@pytest.mark.parametrize(("patch", "edges"), [(20, [7, 4, 2]), (22, [9, 4, 2]), (22, [7, 6, 2]), (22, [7, 4, 3])])
def test_boxes_that_do_not_fit(network, patch, edges):
    with pytest.raises(ValueError, match=f"boxes: .* in a patch of {patch}"):
        network.nested_boxes(patch, edges)


@pytest.mark.parametrize("bound", [1.5, 4.0])
def test_logits_are_bounded(bound):
    """However sure the network: two phases differ by at most 2 bound in their logits, and the gradient is that of b tanh(x/b)."""
    net = make(logit_bound=bound)
    logits = torch.randn(1, 2, 3, 3, 3)
    odds = net.probabilities(1e4 * logits).log().diff(dim=1).abs()
    assert odds.max() <= 2 * bound + 1e-4 and odds.max() > 1.9 * bound
    torch.testing.assert_close(net.probabilities(logits), (bound * torch.tanh(logits / bound)).softmax(1))


def test_logits_that_have_run_away_are_pulled_back():
    """Beyond twice the bound the gradient has that of half the square of the excess besides, mean over the voxels; the logits stay what they are."""
    net = make(logit_bound=2.0)
    x, weight = (torch.randn(2, 3, 4, 5, 6, dtype=torch.float64) for _ in range(2))
    x = (6 * x).requires_grad_(True)
    held = net.held(1 * x)
    assert torch.equal(held, x)
    (found,) = torch.autograd.grad((held * weight).sum(), x)
    penalty = 0.5 * F.relu(x.abs() - 4.0).square().sum() / (2 * 4 * 5 * 6)
    torch.testing.assert_close(found, weight + torch.autograd.grad(penalty, x)[0])
    # training does so at every level, where the softmax has no gradient left
    for k in range(3):
        net = make(logit_bound=2.0).train().requires_grad_(True)
        with torch.no_grad():
            net.levels[k].head.bias.fill_(50.0)
        image = volume(7, 22, 22, 22)
        (0.0 * net.forward_training(image, [6, 4, 2])[k][1].sum()).backward()
        assert (net.levels[k].head.bias.grad > 0).all()
        with torch.no_grad():
            net.forward_training(image, [6, 4, 2])


def test_held_logits_are_freed():
    """After the backward pass nothing keeps them, or a training would fill the memory."""
    logits = torch.randn(1, 2, 3, 3, 3, requires_grad=True) * 1
    make().held(logits).sum().backward()
    known = weakref.ref(logits)
    del logits
    assert known() is None


def test_a_level_corrects_the_logits_of_the_one_before():
    *coarser, finest = make(perturbation=0.5).levels
    x, logits, wide = torch.randn(1, 4, 7, 7, 7), torch.randn(1, 2, 7, 7, 7), torch.randn(1, 1, 12, 12, 12)
    noise = wide[..., 1:-1, 1:-1, 1:-1]
    before = F.interpolate(logits, size=(14, 14, 14), mode="trilinear")[..., 4:-4, 4:-4, 4:-4]
    features, after = finest(x, logits, noise)
    torch.testing.assert_close(after, before + finest.head_gain * finest.head(features))
    level = coarser[-1]
    features, after = level(torch.randn(1, 5, 7, 7, 7), logits, wide)
    correction = after - before - level.head_gain * level.head(features)
    # what remains is noise alone: a field a phase, each the mean of the voxels at one distance, of the standard deviation 0.5
    for phase, squared in enumerate([0, 1]):
        near = [o for o in itertools.product(range(-2, 3), repeat=3) if sum(a * a for a in o) == squared]
        moved = [noise[0, 0, 2 + z : 8 + z, 2 + y : 8 + y, 2 + x : 8 + x] for z, y, x in near]
        torch.testing.assert_close(correction[0, phase], 0.5 * sum(moved) / len(near) ** 0.5, rtol=0, atol=1e-5)


def test_the_features_of_a_level_that_another_enlarges_get_blurred_noise():
    """By loops: binomial along each axis, of the variance that the noise had; noise on the logits stays white, and so does that of the finest level."""
    *coarser, finest = make(perturbation=0.0).levels
    assert not hasattr(finest, "blur") and finest.noise_margin == 0
    x, logits, wide = torch.randn(1, 5, 7, 7, 7), torch.randn(1, 2, 7, 7, 7), torch.randn(1, 1, 12, 12, 12)
    level, line, smooth = coarser[-1], [0.25, 0.5, 0.25], torch.zeros(1, 1, 10, 10, 10, dtype=torch.float64)
    for z, y, k in itertools.product(range(3), repeat=3):
        smooth += line[z] * line[y] * line[k] * wide[..., z : z + 10, y : y + 10, k : k + 10]
    smooth /= sum((line[z] * line[y] * line[k]) ** 2 for z, y, k in itertools.product(range(3), repeat=3)) ** 0.5
    seen = []
    handle = level.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    level(x, logits, wide)
    expected = F.leaky_relu(level.up(x) + level.noise_gain * smooth.float(), 0.2)
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-5)
    level.blur.zero_()
    level(x, logits, wide)
    handle.remove()
    torch.testing.assert_close(seen[1], F.leaky_relu(level.up(x) + level.noise_gain * wide[..., 1:-1, 1:-1, 1:-1], 0.2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("from_file", [True, False])
@pytest.mark.parametrize(("end", "option"), [(".blur", "blur"), ("label_blur", "label_blur")], ids=["0.9.3", "0.9.4"])
def test_weights_of_older_versions_do_what_they_did(tmp_path, from_file, end, option):
    """Until version 0.9.3 noise stays white, until 0.9.4 the trunk sees the labels as they are, whether the file, a checkpoint or a module that holds the
    network is read."""
    net, white = make(), make(**{option: 0.0})
    state = {key: value for key, value in white.state_dict().items() if not key.endswith(end)}
    if from_file:
        torch.save({"model": state, "phases": list("ab"), "lr_phases": list("ab"), "scale_factor": 8}, tmp_path / "model.pt")
        load_model(net, tmp_path / "model.pt", "ab", "ab", 8)
    else:
        holder = torch.nn.ModuleDict({"module": net})
        holder.load_state_dict({f"module.{key}": value for key, value in state.items()})
    image = volume(3, *[2 + 2 * net.halo] * 3)
    expected = window(white, image, (0, 0, 0), (2, 2, 2))
    assert torch.equal(window(net, image, (0, 0, 0), (2, 2, 2)), expected)
    assert not torch.equal(window(make(), image, (0, 0, 0), (2, 2, 2)), expected)
    assert not any(key.endswith(end) for key in state)


@pytest.mark.parametrize(("share", "blur"), [(0.0, 1.0), (0.3, 1.0), (0.3, 0.0)])
def test_the_trunk_starts_from_corrected_labels_and_smooth_noise(share, blur):
    """The trunk sees the labels and the phases without what hides in them, both blurred by a binomial, the noise and a field a phase; phases and fields make
    the first logits.

    The fields begin with the second wave: the first tells where phases come out of hiding.
    """
    net = LevelGenerator(3, 3, (4, 4), blocks=1, grain_radius=2, logit_bound=2.0, label_blur=blur, grain_perturbation=0.7).eval().requires_grad_(False)
    torch.nn.init.normal_(net.trunk[2].conv2.weight, std=0.1)
    net.hidden.hide([[0.0, share, 0.0], [0.0, 0.0, 0.0]])
    image = torch.cat([F.one_hot(torch.randint(0, 2, (1, 20, 19, 21)), 2).movedim(-1, 1).float(), torch.randn(1, 1, 20, 19, 21)], 1)
    fields = torch.zeros(1, 3, 10, 9, 11)  # five voxels fewer on each side, of which smooth noise needs two
    for phase in range(3):
        for z, y, x in itertools.product(range(10), range(9), range(11)):
            near = image[0, 2, 3 + z : 8 + z, 3 + y : 8 + y, 3 + x : 8 + x]
            fields[0, phase, z, y, x] = (near * waves(4, 2)[phase + 1, 0]).sum()
    around = image[..., 5:-5, 5:-5, 5:-5]
    phases = net.hidden(image[:, :2], image[:, 2:])  # tests/networks/test_hidden.py
    assert torch.equal(phases[:, :2], around[:, :2]) == (share == 0) and (phases[:, 2] == 0).all()
    features, logits = net.coarse(image)
    inner = (..., slice(4, -4), slice(4, -4), slice(4, -4))  # one voxel of the blur, one of the trunk's first convolution, two of its block
    smooth = torch.from_numpy(ndimage.gaussian_filter(phases.numpy(), 0.7, axes=(2, 3, 4), radius=1))
    torch.testing.assert_close(logits, 1.5 * (0.5 * phases + 0.5 * smooth)[inner] + 0.7 * fields[inner], rtol=0, atol=1e-5)
    seen = torch.cat([around[:, :2], phases, around[:, 2:], fields], 1)
    if blur:
        for axis in (2, 3, 4):
            seen[:, :5] = torch.from_numpy(ndimage.convolve1d(seen[:, :5].numpy(), [0.25, 0.5, 0.25], axis))
    labels, phases, around, fields = seen[..., 1:-1, 1:-1, 1:-1].split([2, 3, 1, 3], 1)
    torch.testing.assert_close(features, net.trunk(torch.cat([labels, around, phases, fields], 1)), rtol=0, atol=1e-4)


def test_the_trunk_does_not_see_a_voxel_by_voxel_pattern():
    """Labels that change from voxel to voxel along an axis look to the trunk like an even mixture of both; seen as they are they do not."""
    stripes = F.one_hot(torch.arange(30) % 2, 2).T.float()[None, :, None, None].expand(1, 2, 30, 30, 30)
    features = {}
    for blur in (0.0, 1.0):
        net = LevelGenerator(3, 2, (4, 4), blocks=1, grain_radius=2, label_blur=blur).requires_grad_(False)
        features[blur] = net.coarse(torch.cat([stripes, torch.zeros(1, 1, 30, 30, 30)], 1))[0].std(dim=4).max()
    assert features[1.0] < 1e-5 < 1e-2 < features[0.0]


def test_what_forward_gives_is_the_softmax_of_bounded_logits():
    """Two phases: log p1/p2 is a difference of two bounded logits, here of one that is sure of itself and one that is sure of the contrary."""
    net = make(logit_bound=1.5)
    net.levels[-1].head.bias.copy_(torch.tensor([9.0, -9.0]))
    odds = net(volume(0, 1, 1, 1)).log().diff(dim=1).abs()
    assert 2.9 < odds.max() <= 3 + 1e-4


@pytest.mark.parametrize(("phases", "softness"), [(2, 0.0), (3, 0.0), (2, 0.5), (3, 0.3)])
def test_starts_as_the_enlarged_labels_without_texture(phases, softness):
    """Before training and without texture and perturbations: trilinear enlargement of the softened LR labels by x2 a level, whatever the noise; unknown phases start at logit zero."""
    net = LevelGenerator(
        3, phases, (4, 4, 4), blocks=1, grain_radius=1, logit_bound=3.0, softness=softness, texture=0.0, perturbation=0.0, grain_perturbation=0.0
    )
    labels = torch.nn.functional.one_hot(torch.randint(0, 2, (1, 3, 4, 2), generator=torch.Generator().manual_seed(0)), 2).movedim(-1, 1)
    wide = np.pad(labels.double().numpy(), [(0, 0), (0, 0), (2, 2), (2, 2), (2, 2)], mode="edge")
    smooth = ndimage.gaussian_filter(wide, 0.7, axes=(2, 3, 4), radius=1, mode="nearest")
    soft = ((1 - softness) * wide + softness * smooth)[:, :, 1:-1, 1:-1, 1:-1]
    expected = 0.75 * 3.0 * torch.from_numpy(soft).float()
    expected = torch.cat([expected, torch.zeros(1, phases - 2, *expected.shape[2:])], 1)
    for _ in range(2):
        expected = F.interpolate(expected, size=[2 * n for n in expected.shape[2:]], mode="trilinear")
    expected = 3.0 * torch.tanh(expected / 3.0)
    torch.testing.assert_close(net(torch.cat([labels.float(), torch.randn(1, 1, 3, 4, 2)], 1)), expected[..., 4:-4, 4:-4, 4:-4].softmax(1))


@pytest.mark.parametrize("texture", [0.3, 0.7])
def test_starts_with_specks_of_noise(texture):
    """Two phases that the LR does not know start at equal odds; the heads' corrections move them as far as asked, and follow the noise."""
    torch.manual_seed(0)
    net = LevelGenerator(2, 3, (16, 64), blocks=1, grain_radius=1, logit_bound=20.0, texture=texture, perturbation=0.0, grain_perturbation=0.0)
    with torch.no_grad():
        odds = torch.stack([net(torch.ones(1, 2, 8, 8, 8)).log()[0, 1:].diff(dim=0)[0] for _ in range(2)])
    # unit variance survives the convolutions (within a factor of two for one draw of weights); two logits
    assert 0.5 < odds.double().std() / (texture * 2**0.5) < 2
    assert abs(torch.corrcoef((odds - odds.mean((1, 2, 3), keepdim=True)).flatten(1))[0, 1]) < 0.1


def test_features_are_enlarged_alike_in_every_channel():
    """By loops: along an axis a finer voxel has 3/4 of the voxel that it lies in and 1/4 of the neighbour it is nearer to."""
    torch.manual_seed(0)
    up = Up2(3, 4).double()
    torch.nn.init.normal_(up.mix.bias)
    x = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    mixed = torch.einsum("oi,bizyx->bozyx", up.mix.weight[..., 0, 0, 0], x) + up.mix.bias[:, None, None, None]
    found = up(x)
    assert found.shape == (2, 4, 4, 6, 8)
    for place in itertools.product(range(4), range(6), range(8)):
        expected = torch.zeros(2, 4, dtype=torch.float64)
        for nearer in itertools.product((True, False), repeat=3):
            finer = [p + 2 for p in place]  # two are cut
            z, y, x_ = (f // 2 if near else f // 2 + 2 * (f % 2) - 1 for f, near in zip(finer, nearer))
            expected += 0.75 ** sum(nearer) * 0.25 ** (3 - sum(nearer)) * mixed[:, :, z, y, x_]
        torch.testing.assert_close(found[(..., *place)], expected)


@pytest.mark.parametrize("label", [0, 1])
def test_a_uniform_lr_gets_no_pattern_without_noise(label):
    """Whatever the weights: what is drawn there comes of noise."""
    for seed in range(3):
        net = make(seed=seed, noise_std=0.0)
        image = torch.zeros(1, 3, 3, 3, 3)
        image[:, label] = 1
        result = net(image)
        torch.testing.assert_close(result, result[..., :1, :1, :1].expand_as(result), rtol=0, atol=1e-5)
    assert not torch.allclose(make(seed=0)(image), result, atol=0.01)


def test_blocks_start_as_the_identity():
    """At the start a residual block is its cropped shortcut, so that depth costs nothing."""
    block = LevelGenerator(3, 2, (4, 4), blocks=1).trunk[2]
    x = torch.randn(1, 4, 7, 6, 5)
    assert torch.equal(block(x), F.leaky_relu(x[..., 2:-2, 2:-2, 2:-2], 0.2))


def test_every_parameter_learns():
    """From the zero start of the residual blocks, within a few steps."""
    torch.manual_seed(0)
    net = LevelGenerator(3, 2, (4, 4, 4, 4), blocks=1, grain_radius=1)
    optimizer = torch.optim.SGD(net.parameters(), 1e-4)
    for _ in range(3):
        optimizer.zero_grad()
        sum((p * torch.rand_like(p)).sum() for _, p, _ in net.forward_training(volume(8, 22, 22, 22), [6, 4, 2])).backward()
        optimizer.step()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_torchscript_equals_eager(network):
    scripted = torch.jit.script(network)
    size = [2, 3, 1]
    image = volume(9, *size)
    torch.manual_seed(1)
    expected = network(image)
    torch.manual_seed(1)
    torch.testing.assert_close(scripted(image), expected)
    assert scripted.noise_windows(size) == network.noise_windows(size)
    assert (scripted.halo, scripted.scale_factor) == (network.halo, 8)
    part = volume(10, *(n + 2 * network.halo for n in size))
    noise = [torch.randn(1, 1, *shape) for _, _, shape in network.noise_windows(size)]
    torch.testing.assert_close(scripted.forward_window(part, noise), network.forward_window(part, noise))


def test_corrected_labels_are_what_the_result_starts_from():
    """The labels of the phases that `coarse` enlarges; near the border, where nothing is decoded, those that came."""
    torch.manual_seed(0)
    net = LevelGenerator(4, 4, (4, 4), blocks=0, grain_radius=2, logit_bound=2.0, softness=0.0, grain_perturbation=0.0).requires_grad_(False)
    net.hidden.hide([[0.0, 0.4, 0.0], [0.0, 0.0, 0.0], [0.3, 0.0, 0.0]])
    labels = torch.randint(0, 3, (2, 18, 18, 18))
    image = torch.cat([F.one_hot(labels, 3).movedim(-1, 1).float(), torch.randn(2, 1, 18, 18, 18)], 1)
    before = image.clone()
    found = net.corrected(image)
    assert torch.equal(image, before) and found.shape == (2, 3, 18, 18, 18) and found.dtype == image.dtype
    assert torch.equal(found.sum(1), torch.ones(2, 18, 18, 18)) and set(found.unique().tolist()) == {0, 1}
    changed = found.argmax(1) != labels
    seen = set(zip(labels[changed].tolist(), found.argmax(1)[changed].tolist()))
    assert seen == {(0, 1), (2, 0)}
    places = changed.nonzero()[:, 1:]
    assert places.min() == 5 and places.max() == 12  # everywhere but within reach of the border
    assert torch.equal(found[..., 5:-5, 5:-5, 5:-5], net.hidden(image[:, :3], image[:, 3:])[:, :3])
    _, logits = net.coarse(image)
    assert torch.equal(found.argmax(1)[:, 7:-7, 7:-7, 7:-7], logits.argmax(1))


def test_a_label_is_never_lost_to_its_softness():
    """The worst of a voxel that is alone among others: more of its own label than of theirs at the default softness, on the LR grid."""
    torch.manual_seed(0)
    net = LevelGenerator(3, 2, (4, 4), blocks=0, grain_radius=1, grain_perturbation=0.0).requires_grad_(False)
    image = torch.zeros(1, 3, 9, 9, 9)
    image[:, 0] = 1
    image[:, :2, 4, 4, 4] = torch.tensor([0.0, 1.0])
    _, logits = net.coarse(image)
    labels = logits.argmax(1)[0]
    assert labels[tuple(n // 2 for n in labels.shape)] == 1 and labels.sum() == 1


def test_bfloat16_hides_the_same_phases():
    """Training decodes under autocast, but its losses take the corrected labels without."""
    net = LevelGenerator(3, 2, (4, 4), blocks=0, grain_radius=2, softness=0.0, grain_perturbation=0.0).requires_grad_(False)
    net.hidden.hide([[0.0, 0.4], [0.0, 0.0]])
    image = torch.zeros(1, 3, 30, 30, 30)
    image[:, 0] = 1
    image[:, 2].normal_(generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        _, logits = net.coarse(image)
    found = net.corrected(image)[:, :, 7:-7, 7:-7, 7:-7].argmax(1)
    assert torch.equal(logits.argmax(1), found) and 0.2 < found.float().mean() < 0.6


def test_a_model_without_anything_hidden_keeps_its_labels():
    net = LevelGenerator(3, 2, (4, 4), blocks=0, grain_radius=1)
    image = torch.cat([F.one_hot(torch.randint(0, 2, (1, 9, 9, 9)), 2).movedim(-1, 1).float(), 3 * torch.randn(1, 1, 9, 9, 9)], 1)
    assert torch.equal(net.corrected(image), image[:, :2])


@pytest.mark.parametrize("scale", [2, 4])
def test_stopped_at_a_level_it_is_the_model_of_that_level(scale):
    """Oracle: a generator that never had the further levels, with the same weights. Without noise on the logits and blur, which its finest level
    lacks."""
    whole, short = make(perturbation=0.0, blur=0.0), make((6, 5, 4, 4)[: scale.bit_length()], perturbation=0.0)
    short.load_state_dict({key: value for key, value in whole.state_dict().items() if key in short.state_dict()})
    stopped = make(perturbation=0.0, blur=0.0).stop_at(scale)
    assert stopped.scale_factor == scale == short.scale_factor and stopped.halo == short.halo < whole.halo
    image = volume(7, *(n + 2 * short.halo for n in (2, 3, 2)))
    expected = window(short, image, (0, 0, 0), (2, 3, 2))
    torch.testing.assert_close(window(stopped, image, (0, 0, 0), (2, 3, 2)), expected, rtol=0, atol=0)
    assert expected.shape[2:] == (2 * scale, 3 * scale, 2 * scale) and expected.std() > 0.05
    scripted = torch.jit.script(make(perturbation=0.0, blur=0.0).stop_at(scale))
    noise = [torch.randn(1, 1, *shape) for _, _, shape in stopped.noise_windows([2, 3, 2])]
    read = [*noise[:-1], noise[-1][..., 1:-1, 1:-1, 1:-1]]
    torch.testing.assert_close(scripted.forward_window(image, noise), short.forward_window(image, read), rtol=0, atol=1e-6)


def test_stopped_at_a_level_it_makes_what_the_losses_saw_there(monkeypatch):
    """With its noise on the logits: the coarse level of the training, at the same noise."""
    net = make()
    image = volume(8, *[net.patch_edge([6, 4, 2])] * 3)
    boxes = net.nested_boxes(image.shape[-1], [6, 4, 2])
    drawn = []
    real = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *size, **options: drawn.append(real(*size, **options)) or drawn[-1])
    seen = net.forward_boxes(image, boxes)[0]
    start = [n - net.stop_at(2).halo for n in boxes[0][0]]
    part = image[(..., *(slice(a, a + 6 + 2 * net.halo) for a in start))]
    (_, margin, shape), noise = net.noise_windows([6, 6, 6])[0], drawn[0]
    assert list(noise.shape[2:]) == shape and margin == -3
    torch.testing.assert_close(net.forward_window(part, [noise]), seen, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1, 3, 16])
def test_no_level_to_stop_at(network, scale):
    with pytest.raises(InputError, match=f"output_scale: no level of the model makes voxels {scale} times finer; give 2, 4, 8"):
        network.stop_at(scale)


@pytest.mark.parametrize("amp", [False, True])
def test_checkpointing_changes_no_gradient_and_keeps_less(amp):
    found = []
    for checkpointing in (False, True):
        net = make(checkpointing=checkpointing).requires_grad_(True)
        torch.manual_seed(3)
        image, kept = volume(9, *[net.patch_edge([6, 4, 2])] * 3), []

        def keep(tensor: Tensor) -> Tensor:
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=amp):
            made = net.forward_training(image, [6, 4, 2])
        size = sum(kept)
        sum(p.square().mean() for _, p, _ in made).backward()
        found.append(([p.detach() for _, p, _ in made], {name: p.grad for name, p in net.named_parameters()}, size))
    torch.testing.assert_close(found[0][:2], found[1][:2], rtol=0, atol=0)
    assert found[1][2] < 0.5 * found[0][2]
