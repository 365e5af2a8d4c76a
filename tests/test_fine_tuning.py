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
from tests.test_handlers import Trainer, checkpoint_of, same


def test_warm_start_takes_the_networks_and_nothing_else(tmp_path):
    trained = Trainer([checkpoint_of(tmp_path)])
    trained.run([None] * 4, max_epochs=3)
    new = Trainer()
    optimizer = new.g_optimizer.state_dict()["state"]
    warm_start(new, tmp_path / "checkpoint.pt")
    for name in ("network", "ema", "critics"):
        assert same(new.parts()[name].state_dict(), trained.parts()[name].state_dict()), name
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


class Engine:
    """What a warm start sees of a training of a generator with levels."""

    def __init__(self, channels: tuple[int, ...], scales: tuple[int, ...] = (), seed: int = 0, perturbation: float = 0.3):
        torch.manual_seed(seed)
        self.network = LevelGenerator(3, 2, channels, blocks=1, grain_radius=1, perturbation=perturbation)
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
            fresh = "hidden." in key or "levels.2" in key or "levels.3" in key or key.startswith(("hr_8x", "hr_16x")) or key.endswith("levels.1.perturb")
            if not whole and (name == "critics" or key == "n_averaged"):
                fresh = True
            torch.testing.assert_close(value, before[name][key] if fresh else inherited, rtol=0, atol=0, msg=f"{name} {key}")


def test_the_levels_that_were_there_make_what_they_made(tmp_path):
    """Without noise on the logits, which the finest level lacks: stopped at its scale, the grown model is the old one."""
    old, new = Engine((6, 5, 4), seed=1, perturbation=0.0), Engine((6, 5, 4, 3), seed=1, perturbation=0.0)
    nn.init.normal_(new.network.levels[0].head.weight)
    save_model(tmp_path / "old.pt", old.network, ["pore", "quartz"], ["pore", "quartz"])
    warm_start(new, tmp_path / "old.pt")
    image = torch.rand(1, 3, 3, 3, 3)
    made = []
    for network in (old.network, new.network.stop_at(4)):
        torch.manual_seed(5)
        made.append(network(image))
    torch.testing.assert_close(made[0], made[1], rtol=0, atol=0)
    assert made[0].shape[-1] == 12 and made[0].std() > 0.01


def test_levels_of_other_widths_do_not_fit(tmp_path):
    save_model(tmp_path / "old.pt", Engine((6, 4)).network, ["pore", "quartz"], ["pore", "quartz"])
    with pytest.raises(InputError, match="holds other networks.*levels.0"):
        warm_start(Engine((6, 5, 4)), tmp_path / "old.pt")


def test_fewer_levels_than_the_file_do_not_fit(tmp_path):
    save_model(tmp_path / "old.pt", Engine((6, 5, 4)).network, ["pore", "quartz"], ["pore", "quartz"])
    with pytest.raises(InputError, match="holds other networks"):
        warm_start(Engine((6, 5)), tmp_path / "old.pt")
