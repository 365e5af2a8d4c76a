"""What every adversarial training here shares: order of random numbers, rates, average, steps, guards, and what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Trainer
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bundle.errors import InputError, switch
from bundle.memory import lack_of_memory
from bundle.processes import Processes
from bundle.transforms.adaptive import AdaptiveAugmentation


def straight_through(probabilities: Tensor) -> Tensor:
    """One-hot labels whose gradient is that of the probabilities, so that a critic cannot tell soft from hard: (B, P, …)."""
    hard = torch.zeros_like(probabilities).scatter_(1, probabilities.argmax(1, keepdim=True), 1.0)
    return hard + probabilities - probabilities.detach()


def averaging(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """Moves an average towards the newest weights: of n before them it keeps `decay`, or (1 + n) / (10 + n) while that is less.

    A short training would else be judged by what it was a hundred steps ago.
    """

    def update(average: list[Tensor], newest: list[Tensor], n: Tensor) -> None:
        get_ema_multi_avg_fn(min(decay, (1 + int(n)) / (10 + int(n))))(average, newest, n)

    return update


class AdversarialTrainer(Trainer):
    """A generator, its average, critics and their optimizers. Every random number of an iteration comes from (seed, iteration), so a resumed
    run equals an uninterrupted one.

    A subclass gives `_steps`, which takes an iteration's batch and returns its losses, and `example_slices`, label images for the picture that
    `shown` names.

    Args:
        device: where to train.
        max_epochs: epochs in all.
        train_data_loader: yields the batches; its dataset's `set_epoch` is called when an epoch starts.
        network: the generator.
        critics: by name; may be empty.
        g_optimizer, d_optimizer: of the generator; of all critics.
        memory_format: of the generator's weights.
        augmentation: of what the critics see, reals and fakes alike; None leaves it as it is.
        ema_decay: of the averaged generator, per generator step; less in the first steps (see `averaging`).
        decay: last share of the iterations, in which the learning rates fall linearly to a twentieth; 0 keeps them.
        max_grad_norm: clips the gradient norm of both optimizers; None does not clip.
        amp: runs the generator under bfloat16 autocast.
        seed: of everything random.
        parallel: the processes that train together; None where this is the only one. The one that leads alone has handlers.
        room: settings that lower the memory, by name, for the message where it does not suffice.
        train_handlers: ignite handlers.
    """

    n_critic = 1
    shown = ""

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        train_data_loader: Iterable,
        network: nn.Module,
        critics: nn.ModuleDict,
        g_optimizer: Optimizer,
        d_optimizer: Optimizer | None,
        memory_format: torch.memory_format = torch.channels_last,
        augmentation: AdaptiveAugmentation | None = None,
        ema_decay: float = 0.999,
        decay: float = 0.0,
        max_grad_norm: float | None = None,
        amp: bool = False,
        seed: int = 0,
        parallel: Processes | None = None,
        room: Mapping[str, Any] | None = None,
        train_handlers: Sequence | None = None,
    ):
        super().__init__(device, max_epochs, train_data_loader, handlers=None, decollate=False)
        self.network = network.to(device, memory_format=memory_format)
        self.critics = critics.to(device, memory_format=torch.channels_last)
        self.ema = AveragedModel(self.network, multi_avg_fn=averaging(ema_decay)).eval()  # pictures leave batch statistics alone
        self.g_optimizer, self.d_optimizer = g_optimizer, d_optimizer
        self.augmentation = augmentation
        self.decay = decay
        self.rates = {optimizer: [group["lr"] for group in optimizer.param_groups] for optimizer in (g_optimizer, d_optimizer) if optimizer}
        self.max_grad_norm, self.bfloat16, self.seed = max_grad_norm, switch(amp, "amp"), seed
        self.parallel, self.room = parallel, dict(room or {})
        self.add_event_handler(Events.EPOCH_STARTED, lambda: train_data_loader.dataset.set_epoch(self.state.epoch))
        self._register_handlers(train_handlers if train_handlers and (parallel is None or parallel.leads) else [])

    @property
    def generator_steps(self) -> int:
        """Steps of the generator until now, those before a resume included: one every `n_critic` iterations, or each where there is no critic to teach."""
        return self.state.iteration // (self.n_critic if self.critics else 1)

    def run(self) -> None:
        """Trains.

        Raises:
            InputError: too little memory, a loss that is no number, or what the handlers raise.
        """
        with self._room("training, beside the steps (patches, pictures, monitors, checkpoint)"):
            super().run()

    def parts(self) -> dict[str, Any]:
        """Everything with a state that a checkpoint must hold, by name."""
        parts = {"network": self.network, "ema": self.ema, "critics": self.critics, "g_optimizer": self.g_optimizer}
        if self.d_optimizer is not None:
            parts["d_optimizer"] = self.d_optimizer
        if self.augmentation is not None:
            parts["augmentation"] = self.augmentation
        return parts

    def _steps(self, iteration: int, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The critics' and the generator's steps of an iteration; returns the losses."""
        raise NotImplementedError

    def _iteration(self, engine: Engine, batchdata: dict[str, Any]) -> dict[str, Any]:
        iteration = engine.state.iteration
        with self._room(f"training, a step (iteration {iteration})"):
            torch.manual_seed((self.seed * 1_000_003 + iteration) & 0x7FFFFFFFFFFFFFFF)
            self._set_rates(iteration)
            output = {name: float(value.detach()) for name, value in self._steps(iteration, batchdata).items()}
        self._guard(output, iteration)
        engine.state.output = {CommonKeys.LOSS: output.get("generator", output.get("critic", 0.0)), **output}
        if self.augmentation is not None:
            for name, p in self.augmentation.p.items():
                engine.state.output[f"augmented_{name}"] = p
                engine.state.output[f"r_t_{name}"] = self.augmentation.r.get(name, 0.0)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def seen(self, name: str, maps: Tensor) -> Tensor:
        """Maps (N, phases, h, h) as the critic `name` sees them in training."""
        return maps if self.augmentation is None else self.augmentation(name, maps)

    def _follow(self, name: str, critic: nn.Module, real: Tensor, fake: Tensor) -> None:
        """Now and then lets the augmentation follow how a critic scores what it just saw."""
        if self.augmentation is not None and self.state.iteration % self.augmentation.interval == 0:
            with torch.no_grad(), torch.autocast(self.state.device.type, torch.bfloat16, enabled=self.bfloat16):
                self.augmentation.follow(name, critic(real), critic(fake))

    def _room(self, doing: str) -> AbstractContextManager[None]:
        """Says which settings lower the memory where it is too little."""
        lower = [f"{name} (now {value})" for name, value in self.room.items() if value != 1]
        return lack_of_memory(doing, f"lower {' or '.join(lower)}{'' if self.bfloat16 else ', or set amp to true'}", self.state.device)

    def _set_rates(self, iteration: int) -> None:
        """Learning rates as a function of the iteration alone, so that a resumed run has the same."""
        total = self.state.max_epochs * self.state.epoch_length
        left = min((total - iteration) / (self.decay * total), 1.0) if self.decay else 1.0
        for optimizer, rates in self.rates.items():
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * (0.05 + 0.95 * left)

    def _step(self, optimizer: Optimizer, loss: Tensor, module: nn.Module) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._apply(optimizer, module)

    def _apply(self, optimizer: Optimizer, module: nn.Module) -> None:
        """A step along the gradients that are there."""
        if self.parallel is not None:
            self.parallel.exchange(module, module is self.critics)
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), self.max_grad_norm)
        optimizer.step()

    def _guard(self, losses: Mapping[str, float], iteration: int) -> None:
        """Stops at the first loss that is no number.

        Raises:
            InputError: names the iteration and the loss; the last checkpoint is good.
        """
        for name, value in losses.items():
            if not torch.isfinite(torch.tensor(value)):
                raise InputError(
                    f"training stopped at iteration {iteration}: the loss '{name}' became {value}; the last checkpoint is kept, "
                    "resume from it with a lower learning rate or a higher penalty"
                )
