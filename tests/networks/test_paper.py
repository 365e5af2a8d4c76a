"""The published generator, to the layer."""

import pytest
import torch
from torch import nn

from bundle.networks.paper import PaperGenerator


@pytest.fixture(scope="module")
def network() -> PaperGenerator:
    torch.manual_seed(0)
    net = PaperGenerator(3, 2, width=16)
    for module in net.modules():  # statistics as after some training
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.bias, 0.1, 0.5)
    return net.eval()


def test_published_size():
    with torch.device("meta"):
        net = PaperGenerator(5, 4)
        assert net(torch.empty(1, 5, 32, 32, 32)).shape == (1, 4, 256, 256, 256)
    assert sum(p.numel() for p in net.parameters()) == 20_146_980


def test_published_layers():
    """Kernel, stride, padding, channels and the grid each layer works on, in the order of the computation."""
    with torch.device("meta"):
        net = PaperGenerator(5, 4)
    calls: list = []
    for module in net.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, args, out: calls.append((m, args[0].shape[-1])))
    net(torch.empty(1, 5, 2, 2, 2, device="meta"))
    conv = [
        (nn.Conv3d, 5, 512, 3, 1, 2), (nn.Conv3d, 512, 512, 3, 1, 2), (nn.Conv3d, 512, 512, 3, 1, 2), (nn.Conv3d, 512, 256, 3, 1, 4),
        (nn.ConvTranspose3d, 256, 128, 4, 2, 4), (nn.Conv3d, 128, 64, 3, 1, 8),
        (nn.Conv3d, 64, 32, 3, 1, 16), (nn.Conv3d, 32, 4, 3, 1, 16),
    ]  # type, in, out, kernel, stride, edge of its input for 2^3  # fmt: skip
    seen = [(type(m), m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], edge) for m, edge in calls if hasattr(m, "kernel_size")]
    assert seen == conv
    assert all(m.padding == (1, 1, 1) and m.bias is not None for m, _ in calls if hasattr(m, "kernel_size"))
    kinds = {nn.Conv3d: "C", nn.ConvTranspose3d: "T", nn.BatchNorm3d: "B", nn.ReLU: "R"}
    # the ReLU after the residual sum is functional
    assert "".join(kinds[type(m)] for m, _ in calls) == "CBR" + "CBRCB" + "CBR" + "TBRCBR" + "CBRC"


def test_residual_and_trilinear_stages(network):
    """The whole forward pass, written out with torch's functions."""
    f = nn.functional
    image = torch.rand(1, 3, 3, 4, 5)
    x = network.stem(image)
    assert x.min() == 0  # ends with ReLU
    x = f.relu(network.residual(x) + x)
    x = network.stage1(f.interpolate(x, size=(6, 8, 10), mode="trilinear"))
    x = f.interpolate(network.stage2(x), size=(24, 32, 40), mode="trilinear")
    expected = network.stage3(x).exp()
    torch.testing.assert_close(network(image), expected / expected.sum(1, keepdim=True))


def test_probabilities_of_any_box(network):
    probabilities = network(torch.rand(2, 3, 2, 3, 4))
    assert probabilities.shape == (2, 2, 16, 24, 32)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 16, 24, 32))


def test_halo_holds_the_receptive_field(network):
    """By gradient: which LR voxels reach the corner voxels of a core voxel's block; the halo must hold them, and the padding stay out."""
    n = 13
    image = torch.rand(1, 3, n, n, n).requires_grad_(True)
    c = n // 2
    block = network(image)[0, 0, 8 * c : 8 * c + 8, 8 * c : 8 * c + 8, 8 * c : 8 * c + 8]
    (gradient,) = torch.autograd.grad(block[0, 0, 0] + 0.7 * block[7, 7, 7], image)
    reached = gradient.abs().sum((0, 1)).nonzero()
    low, high = reached.amin(0), reached.amax(0)
    assert low.tolist() == [c - 5] * 3 and high.tolist() == [c + 5] * 3  # the true reach, 5 LR voxels, under the halo
    assert network.halo >= 5


def test_windows_agree_with_the_whole(network):
    torch.manual_seed(1)
    h = network.halo
    image = torch.rand(1, 3, 1 + 2 * h, 3 + 2 * h, 2 + 2 * h)
    assert list(network.noise_windows([1, 3, 2])) == []
    whole = network.forward_window(image, [])
    assert whole.shape == (1, 2, 8, 24, 16)
    for z, y, x in ((0, 0, 1), (0, 2, 0)):
        part = network.forward_window(image[:, :, z : z + 1 + 2 * h, y : y + 1 + 2 * h, x : x + 1 + 2 * h], [])
        torch.testing.assert_close(part, whole[:, :, 8 * z : 8 * z + 8, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8], rtol=0, atol=1e-5)


def test_training_sees_the_whole_patch(network):
    image = torch.rand(1, 3, 4, 4, 4)
    ((scale, probabilities, box),) = network.forward_training(image, [4])
    assert scale == 8 and box == ((0, 0, 0), 4) and network.patch_edge([4]) == 4
    torch.testing.assert_close(probabilities, network(image))
    for edges in ([3], [4, 4]):
        with pytest.raises(ValueError, match=r"give \[4\]"):
            network.forward_training(image, edges)


def test_the_losses_hold_it_to_the_labels_as_they_came(network):
    image = torch.rand(2, 3, 4, 5, 6)
    assert torch.equal(network.corrected(image), image[:, :2])


def test_torchscript_equals_eager(network):
    scripted = torch.jit.script(network)
    image = torch.rand(1, 3, 3, 2, 2)
    torch.testing.assert_close(scripted(image), network(image))
    assert (scripted.halo, scripted.scale_factor) == (network.halo, 8)
    assert scripted.noise_windows([1, 1, 1]) == []


def test_a_window_is_the_middle_of_the_whole(network):
    """Layer by layer cropped, block by block: what the published forward pass gives where its zero padding does not reach."""
    image, h = torch.rand(1, 3, 15, 16, 14), network.halo
    with torch.no_grad():
        probabilities = network(image)
        network.stage3[-1].bias[1] -= (probabilities[:, 1] / probabilities[:, 0]).log().median()  # half of each phase
        expected = network(image)[:, :, 8 * h : -8 * h, 8 * h : -8 * h, 8 * h : -8 * h]
        for edge in (3, 64):
            network.block = edge
            torch.testing.assert_close(network.forward_window(image, []), expected)
            assert torch.equal(network.window(image, [])[0], expected.argmax(1, keepdim=True))
        assert len(expected.argmax(1).unique()) == 2
