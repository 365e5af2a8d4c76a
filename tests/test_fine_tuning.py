"""A new training that starts from an earlier one: what it takes, and what starts anew."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from bundle.checkpoint import save_model
from bundle.errors import InputError
from bundle.fine_tuning import warm_start
from bundle.networks.critic import SliceCritic
from bundle.networks.generator import LevelGenerator
from bundle.networks.noise import coordinate_noise
from bundle.networks.prepared import frozen
from bundle.networks.style_critic import StyleCritic
from bundle.networks.stylegan2 import StyleGenerator
from tests.test_handlers import Trainer, checkpoint_of, same

PHASES = ["pore", "quartz"]


def test_warm_start_takes_the_networks_and_nothing_else(tmp_path):
    trained = Trainer([checkpoint_of(tmp_path)])
    trained.run([None] * 4, max_epochs=3)
    new = Trainer()
    optimizer = new.g_optimizer.state_dict()["state"]
    warm_start(new, tmp_path / "checkpoint.pt")
    for name in ("network", "critics"):
        assert same(new.parts()[name].state_dict(), trained.parts()[name].state_dict()), name
    assert same(new.ema.module.state_dict(), trained.ema.module.state_dict())
    assert int(trained.ema.n_averaged) == 12 and int(new.ema.n_averaged) == 0  # it would keep more of its start than a new training does
    assert new.state.epoch == new.state.iteration == 0 and new.g_optimizer.state_dict()["state"] == optimizer == {}


def test_warm_start_from_weights_alone(tmp_path):
    """From a model.pt, such as the shipped one: generator and average take its weights, critics and the count of the average start anew."""
    trained = Trainer([checkpoint_of(tmp_path)])
    trained.run([None] * 4, max_epochs=3)
    torch.save({"model": trained.ema.module.state_dict(), "phases": ["pore"], "lr_phases": ["pore"], "scale_factor": 2}, tmp_path / "weights.pt")
    new = Trainer()
    critics = {name: value.clone() for name, value in new.critics.state_dict().items()}
    warm_start(new, tmp_path / "weights.pt")
    average = trained.ema.module.state_dict()
    assert same(new.network.state_dict(), average) and same(new.ema.module.state_dict(), average)
    assert same(new.critics.state_dict(), critics) and int(new.ema.n_averaged) == 0


def test_warm_start_from_another_network(tmp_path):
    Trainer([checkpoint_of(tmp_path)], width=3).run([None] * 4, max_epochs=3)
    with pytest.raises(InputError, match="checkpoint.pt: holds other networks.*start_from"):
        warm_start(Trainer(), tmp_path / "checkpoint.pt")
    many = {f"of_another_network.{i}": torch.zeros(1) for i in range(300)}
    torch.save({"model": many}, tmp_path / "many.pt")
    with pytest.raises(InputError, match="many.pt: holds other networks.*start_from") as caught:
        warm_start(Trainer(), tmp_path / "many.pt")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2]], ids=["tensor", "list"])
def test_warm_start_from_what_is_no_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt: no trained model \(a (Tensor|list)\); give a file that training writes"):
        warm_start(Trainer(), tmp_path / "other.pt", ["pore"], ["pore"])


@pytest.mark.parametrize("content", [{"model": 3}, {"network": {"weight": 3}, "ema": {}, "critics": {}}, {"network": {}, "ema": {}, "critics": [1]}])
def test_warm_start_from_what_holds_no_weights(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt: holds no weights of a network; give the model\.pt or checkpoint\.pt that training writes"):
        warm_start(Trainer(), tmp_path / "other.pt", ["pore"], ["pore"])


class Engine:
    """What a warm start sees of a training of a generator with levels."""

    def __init__(self, channels: tuple[int, ...], scales: tuple[int, ...] = (), seed: int = 0, perturbation: float = 0.3, blur: float | None = None,
                 radius: int = 1):  # fmt: skip
        torch.manual_seed(seed)
        softness = 0.1 + seed / 100
        blur = softness if blur is None else blur
        self.network = LevelGenerator(
            3, 2, channels, blocks=1, grain_radius=radius, perturbation=perturbation, softness=softness, label_blur=softness, blur=blur
        )
        self.network.hidden.hide([[0.0, 0.1 + seed / 100], [0.0, 0.0]])
        self.ema = AveragedModel(self.network)
        self.critics = nn.ModuleDict({f"hr_{scale}x": SliceCritic(2, [4, 4]) for scale in scales})

    def parts(self):
        return {"network": self.network, "ema": self.ema, "critics": self.critics}


@pytest.mark.parametrize("whole", [True, False], ids=["checkpoint", "model"])
def test_further_levels_and_critics_start_anew(tmp_path, whole):
    old, new = Engine((6, 5, 4), (2, 4), 1), Engine((6, 5, 4, 3, 3), (2, 4, 8, 16), 2)
    before = {name: {key: value.clone() for key, value in part.state_dict().items()} for name, part in new.parts().items()}
    if whole:
        torch.save({name: part.state_dict() for name, part in old.parts().items()}, tmp_path / "old.pt")
    else:
        save_model(tmp_path / "old.pt", old.network, ["pore", "quartz"], ["pore", "quartz"])
    warm_start(new, tmp_path / "old.pt")
    for name, part in new.parts().items():
        for key, value in part.state_dict().items():
            inherited = old.parts()[name].state_dict().get(key)
            fresh = "hidden." in key or key.endswith(("softness", "blur")) or "levels.2" in key or "levels.3" in key or key.startswith(("hr_8x", "hr_16x")) or key.endswith("levels.1.perturb")
            if not whole and (name == "critics" or key == "n_averaged"):
                fresh = True
            torch.testing.assert_close(value, before[name][key] if fresh else inherited, rtol=0, atol=0, msg=f"{name} {key}")


def test_the_levels_that_were_there_make_what_they_made(tmp_path):
    """Without noise on the logits and blur, which the finest level lacks: stopped at its scale, the grown model is the old one."""
    old, new = (Engine(channels, seed=1, perturbation=0.0, blur=0.0) for channels in ((6, 5, 4), (6, 5, 4, 3)))
    nn.init.normal_(new.network.levels[0].head.weight)
    save_model(tmp_path / "old.pt", old.network, ["pore", "quartz"], ["pore", "quartz"])
    warm_start(new, tmp_path / "old.pt")
    image = torch.rand(1, 3, *[3 + 2 * old.network.halo] * 3)
    made = []
    for network in (old.network, new.network.stop_at(4)):
        windows = [coordinate_noise(5, scale, (offset,) * 3, tuple(shape)) for scale, offset, shape in network.noise_windows([3, 3, 3])]
        made.append(network.forward_window(image, [noise[None, None] for noise in windows]))
    torch.testing.assert_close(made[0], made[1], rtol=0, atol=0)
    assert made[0].shape[-1] == 12 and made[0].std() > 0.01


def test_levels_of_other_widths_do_not_fit(tmp_path):
    save_model(tmp_path / "old.pt", Engine((6, 4)).network, ["pore", "quartz"], ["pore", "quartz"])
    with pytest.raises(InputError, match="holds other networks.*levels.0"):
        warm_start(Engine((6, 5, 4)), tmp_path / "old.pt")


def test_fewer_levels_than_the_file_leave_the_others_out(tmp_path):
    """It is the earlier model stopped there."""
    old, new = Engine((6, 5, 4), seed=1), Engine((6, 5), seed=1)
    nn.init.normal_(old.network.levels[0].head.weight)
    save_model(tmp_path / "old.pt", old.network, PHASES, PHASES)
    warm_start(new, tmp_path / "old.pt", PHASES, PHASES)
    for key, value in new.network.state_dict().items():
        assert torch.equal(value, old.network.state_dict()[key]), key
    assert not any(key.endswith(("levels.0.perturb", "levels.0.blur")) for key in new.network.state_dict())


class OtherRock(Engine):
    """Labels and phases of other numbers than those of `Engine`."""

    def __init__(self, labels: int, phases: int, seed: int = 2):
        super().__init__((6, 5, 4), (2, 4), seed)
        torch.manual_seed(seed)
        self.network = LevelGenerator(labels + 1, phases, (6, 5, 4), blocks=1, grain_radius=1)
        self.ema = AveragedModel(self.network)


@pytest.mark.parametrize("whole", [True, False], ids=["checkpoint", "model"])
def test_phases_that_are_alike_bring_their_channels(tmp_path, whole):
    """Of ("pore", "quartz") to labels ("void", "pore") and phases ("void", "pore", "binder"); void is like quartz."""
    old, new = Engine((6, 5, 4), (2, 4), 1), OtherRock(2, 3)
    for level in old.network.levels:
        nn.init.normal_(level.head.bias)
    old.ema = AveragedModel(old.network)
    if whole:
        names = {"phases": PHASES, "lr_phases": PHASES, "hidden": []}
        torch.save({"names": names, **{name: part.state_dict() for name, part in old.parts().items()}}, tmp_path / "old.pt")
    else:
        save_model(tmp_path / "old.pt", old.network, PHASES, PHASES)
    before = {key: value.clone() for key, value in new.network.state_dict().items()}
    critics = {key: value.clone() for key, value in new.critics.state_dict().items()}
    warm_start(new, tmp_path / "old.pt", ["void", "pore", "binder"], ["void", "pore"], {"void": "quartz"})
    was, now = old.network.state_dict(), new.network.state_dict()
    # labels 2, noise, phases 2, fields 2 -> labels 2, noise, phases 3, fields 3
    for i, like in enumerate([1, 0, 2, 4, 3, None, 6, 5, None]):
        expected = before["trunk.0.weight"][:, i] if like is None else was["trunk.0.weight"][:, like]
        assert torch.equal(now["trunk.0.weight"][:, i], expected), i
    for level in (0, 1):
        for kind in ("weight", "bias"):
            key = f"levels.{level}.head.{kind}"
            for i, like in enumerate([1, 0, None]):
                assert torch.equal(now[key][i], before[key][i] if like is None else was[key][like]), (key, i)
        assert torch.equal(now[f"levels.{level}.conv1.weight"], was[f"levels.{level}.conv1.weight"])
    for key in before:
        if "grains" in key or "perturb" in key or "hidden" in key:
            assert torch.equal(now[key], before[key]), key
    assert same(new.ema.module.state_dict(), now) and same(new.critics.state_dict(), critics)


def test_the_same_phases_in_another_order_are_found_by_name(tmp_path):
    """The same rock, its labels renumbered: what it makes is renumbered, too."""
    old, new = Engine((6, 5), seed=1), Engine((6, 5), seed=1)
    for engine in (old, new):  # noise fields belong to numbers, not to names: without them and without hiding all is symmetric
        engine.network.hidden.hide([[0.0, 0.0], [0.0, 0.0]])
    nn.init.normal_(old.network.levels[0].head.weight)
    save_model(tmp_path / "old.pt", old.network, PHASES, PHASES)
    warm_start(new, tmp_path / "old.pt", PHASES[::-1], PHASES[::-1])
    h = old.network.halo
    image = torch.cat([torch.nn.functional.one_hot(torch.randint(2, [1] + [2 * h + 2] * 3), 2).movedim(-1, 1).float(), torch.zeros(1, 1, *[2 * h + 2] * 3)], 1)
    noise = [torch.randn(1, 1, *shape) for _, _, shape in old.network.noise_windows([2, 2, 2])]
    with torch.no_grad():
        made = old.network.forward_window(image, noise)
        renumbered = new.network.forward_window(image[:, [1, 0, 2]], noise)
    torch.testing.assert_close(renumbered, made.flip(1))
    assert made.std() > 0.01


@pytest.mark.parametrize(
    ("phases", "start_phases", "words"),
    [
        (["void", "solid"], {}, "none of which is here .void, solid.*--start_phases"),
        (["void", "solid"], {"void": "clay"}, "clay is no phase here"),
        (["void", "solid"], {"pore": "pore"}, "pore is no phase here"),
    ],
)
def test_phases_that_are_not_alike(tmp_path, phases, start_phases, words):
    save_model(tmp_path / "old.pt", Engine((6, 5)).network, PHASES, PHASES)
    with pytest.raises(InputError, match=words) as caught:
        warm_start(Engine((6, 5)), tmp_path / "old.pt", phases, phases, start_phases)
    assert "other networks" not in str(caught.value)  # and no advice that mends another fault


def test_another_generator_cannot_start_from_other_phases(tmp_path):
    trained = Trainer([checkpoint_of(tmp_path)])
    trained.run([None] * 4, max_epochs=3)
    torch.save({"model": trained.ema.module.state_dict(), "phases": ["pore"], "lr_phases": ["pore"]}, tmp_path / "old.pt")
    with pytest.raises(InputError, match="cannot start from other phases"):
        warm_start(Trainer(), tmp_path / "old.pt", ["pore", "grain"], ["pore", "grain"])


class Images:
    """What a warm start sees of a training of HR images; networks of twice the resolution have half the channels."""

    def __init__(self, resolution: int, seed: int, channels: int = 128):
        torch.manual_seed(seed)
        widths = {"channels": channels // resolution, "most_channels": 10}
        self.network = StyleGenerator(2, resolution, latent=6, mapping_layers=2, **widths)
        self.ema = AveragedModel(self.network)
        self.critics = nn.ModuleDict({"hr": StyleCritic(2, resolution, **widths)})

    def parts(self):
        return {"network": self.network, "ema": self.ema, "critics": self.critics}


def grown(path, old: Images, new: Images) -> None:
    torch.save({name: part.state_dict() for name, part in old.parts().items()}, path)
    warm_start(new, path)


def test_a_generator_of_images_grows(tmp_path):
    """With a further level that adds nothing it makes what the coarse one makes, enlarged bilinearly, but for the pixels at the borders, which it
    knows better."""
    old, new = Images(16, 1), Images(32, 2)
    grown(tmp_path / "coarse.pt", old, new)
    for part in (new.network, new.ema.module):
        part.levels[-1].head.weight.data.zero_()
        z, noises = part.draw(3, torch.Generator().manual_seed(0))
        fine = part(part.styles(part.map(z)), noises)
        coarse = old.network(old.network.styles(old.network.map(z)), noises[: len(old.network.noise_shapes)])
        enlarged = nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
        torch.testing.assert_close(fine[..., 1:-1, 1:-1], enlarged[..., 1:-1, 1:-1])


def test_its_critic_keeps_what_it_knows_of_coarser_images(tmp_path):
    """The critic of twice the resolution scores what its finest level makes of an image as the earlier one did behind its stem."""
    old, new = Images(16, 1), Images(32, 2)
    before = {key: value.clone() for key, value in new.critics["hr"].levels[-1].state_dict().items()}
    grown(tmp_path / "coarse.pt", old, new)
    critic, earlier = new.critics["hr"], old.critics["hr"]
    assert same(critic.levels[-1].state_dict(), before)
    finest = critic.levels.pop(-1)
    earlier.levels[-1].stem = None
    features = finest(torch.rand(4, 2, 32, 32))
    scores = critic(features)
    assert torch.equal(scores, earlier(features)) and scores.std() > 0


@pytest.mark.parametrize(("old", "new"), [((16, 96), (32, 128)), ((32, 128), (16, 96))])
def test_images_of_other_widths_are_refused(tmp_path, old, new):
    with pytest.raises(InputError, match="coarse.pt: holds other networks.*start_from"):
        grown(tmp_path / "coarse.pt", Images(old[0], 1, old[1]), Images(new[0], 2, new[1]))


def test_critics_that_are_no_longer_there_are_left_out(tmp_path):
    old, fewer, none = Engine((6, 5, 4), (2, 4), 1), Engine((6, 5, 4), (4,), 2), Engine((6, 5, 4), (), 3)
    torch.save({name: part.state_dict() for name, part in old.parts().items()}, tmp_path / "old.pt")
    for new in (fewer, none):
        warm_start(new, tmp_path / "old.pt")
        assert same(new.network.trunk.state_dict(), old.network.trunk.state_dict())
    assert same(fewer.critics["hr_4x"].state_dict(), old.critics["hr_4x"].state_dict())


def test_smooth_noise_of_another_reach_is_that_of_the_configuration(tmp_path):
    """16x.yaml halves grain_radius; what the file has learned goes on with it, but for a trunk that does not learn."""
    old, new, still = Engine((6, 5), seed=1, radius=4), Engine((6, 5, 4), seed=2, radius=2), Engine((6, 5, 4), seed=2, radius=2)
    own = {key: value.clone() for key, value in new.network.grains.state_dict().items()}
    save_model(tmp_path / "old.pt", old.network, PHASES, PHASES)
    warm_start(new, tmp_path / "old.pt", PHASES, PHASES)
    for network in (new.network, new.ema.module):
        assert same(network.trunk.state_dict(), old.network.trunk.state_dict()) and same(network.grains.state_dict(), own)
    frozen(still.network, 1)
    with pytest.raises(InputError, match="holds other networks.*grains"):
        warm_start(still, tmp_path / "old.pt", PHASES, PHASES)


@pytest.mark.parametrize("levels", [0, 1])
def test_frozen_levels_see_what_they_learned_with(tmp_path, levels):
    """Blurred labels and noise of the file, where trunk and level do not learn; of the configuration, where they do."""
    old, new = (Engine((6, 5, 4, 3), seed=i) for i in range(2))
    for engine, blur in ((old, 1.0), (new, 0.0)):
        for network in (engine.network, engine.ema.module):
            for buffer in (network.label_blur, network.levels[0].blur, network.levels[1].blur):
                buffer.fill_(blur)
    frozen(new.network, levels)
    save_model(tmp_path / "old.pt", old.network, ["pore", "quartz"], ["pore", "quartz"])
    warm_start(new, tmp_path / "old.pt")
    for network in (new.network, new.ema.module):
        assert [float(b) for b in (network.label_blur, network.levels[0].blur, network.levels[1].blur)] == [levels, levels, 0]
