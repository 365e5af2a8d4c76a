"""What happens beside training: progress bar, TensorBoard, checkpoints that resume to the same bytes."""

from __future__ import annotations

import logging
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from tqdm import tqdm

from bundle.checkpoint import load_checkpoint, save_state
from bundle.errors import InputError
from bundle.report import colour_labels

if TYPE_CHECKING:
    from bundle.engine import AdversarialTrainer

logger = logging.getLogger(__name__)


class ProgressBar:
    """One bar over all iterations of the run, with the losses and the time left."""

    def attach(self, engine: Engine) -> None:
        """Registers with an engine."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED | Events.EXCEPTION_RAISED, self._close)

    def _start(self, engine: Engine) -> None:
        total = engine.state.max_epochs * engine.state.epoch_length
        self.bar = tqdm(total=total, initial=engine.state.iteration, desc="training", unit="it", mininterval=1.0, dynamic_ncols=True)

    def _advance(self, engine: Engine) -> None:
        shown = ("consistency", "critic", "generator")
        self.bar.set_postfix({k: f"{v:.3g}" for k, v in engine.state.output.items() if k in shown}, refresh=False)
        self.bar.update()

    def _close(self, engine: Engine, error: BaseException | None = None) -> None:
        self.bar.close()
        if error is not None:
            raise error


class EpochLog:
    """One log line an epoch: the mean of every loss, and the seconds it took."""

    def attach(self, engine: Engine) -> None:
        """Registers with an engine."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._log)

    def _start(self, engine: Engine) -> None:
        self.sums: dict[str, list[float]] = {}
        self.started = time.monotonic()

    def _collect(self, engine: Engine) -> None:
        for name, value in engine.state.output.items():
            self.sums.setdefault(name, []).append(value)

    def _log(self, engine: Engine) -> None:
        means = ", ".join(f"{name} {np.mean(values):.4g}" for name, values in self.sums.items() if name != "loss")
        logger.info(f"epoch {engine.state.epoch}/{engine.state.max_epochs}, {time.monotonic() - self.started:.0f} s: {means}")


class TensorBoardLog:
    """Loss curves every few iterations, what the monitors before it see every epoch, and a picture every few epochs.

    Args:
        log_dir: folder of the event files.
        interval: iterations between points of the curves.
        picture_interval: epochs between pictures.

    Raises:
        InputError: when training starts, the folder cannot be written.
    """

    def __init__(self, log_dir: str, interval: int = 10, picture_interval: int = 1):
        self.log_dir = log_dir
        self.interval, self.picture_interval = interval, picture_interval

    def attach(self, engine: Engine) -> None:
        """Registers with an engine."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self._curves)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._metrics)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.picture_interval), self._picture)
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: self.writer.flush())  # what a crash must not lose
        engine.add_event_handler(Events.COMPLETED, lambda: self.writer.close())

    def _open(self, engine: Engine) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        try:
            # what an earlier run wrote from here on is not shown: after a kill these iterations come again
            self.writer = SummaryWriter(self.log_dir, purge_step=engine.state.iteration + 1)
        except OSError as error:
            raise InputError(f"{self.log_dir}: cannot be written ({error.strerror or error}); choose another output_dir or free it") from error

    def _curves(self, engine: Engine) -> None:
        for name, value in engine.state.output.items():
            self.writer.add_scalar(f"loss/{name}", value, engine.state.iteration)

    def _metrics(self, engine: Engine) -> None:
        for name, value in engine.state.metrics.items():
            self.writer.add_scalar(f"watch/{name}", value, engine.state.iteration)

    def _picture(self, engine: AdversarialTrainer) -> None:
        self.writer.add_image(engine.shown, self._colour(engine.example_slices()), engine.state.iteration, dataformats="HWC")

    def _colour(self, slices: Sequence[np.ndarray]) -> np.ndarray:
        """Label slices side by side, all enlarged to the largest, (H, W, 3)."""
        size = max(s.shape[0] for s in slices)
        panels = []
        for labels in slices:
            index = np.arange(size) * labels.shape[0] // size
            panels += [colour_labels(labels[index][:, index]), np.full((size, 4, 3), 255, dtype=np.uint8)]
        return np.concatenate(panels[:-1], axis=1)


def check_unused(path: str | Path) -> None:
    """Whether a training may begin in a folder: another's models would be overwritten there, and its snapshots mixed with the new ones.

    Args:
        path: of the training checkpoint.

    Raises:
        InputError: there is one, or what lies there cannot be read.
    """
    if Path(path).exists():
        epochs = load_checkpoint(path).get("position", {}).get("epoch", "some")
        raise InputError(f"{path}: holds a training of {epochs} epochs; --resume true goes on, or choose another output_dir, or move it away")


class TrainingCheckpoint:
    """Saves everything every few epochs, atomically, and the averaged generator beside it; `restore` resumes to the same bytes.

    Args:
        path: of the training checkpoint (state of generator, average, critics, optimizers, buffer, position).
        save_weights: called with the averaged generator and the path to write it to: model.pt beside the checkpoint.
        names: what the channels mean and what the labels hide, e.g. {"phases": [...], "lr_phases": [...], "hidden": [...]}; a checkpoint
            with others is refused.
        interval: epochs between saves; the last epoch is always saved.
        snapshots: epochs between models that are kept as model_<epoch>.pt, to choose the best of; 0 keeps the last alone.
        monitors: whose states are kept by name, so that a resumed training neither warns again nor forgets its best; a checkpoint without them is
            taken, too, and they start anew. They must be attached before this handler.

    Raises:
        InputError: when it saves, a weight is no number (the files stay as they were), or the files cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        save_weights: Callable[[torch.nn.Module, Path], None],
        names: Mapping[str, Sequence],
        interval: int = 1,
        snapshots: int = 0,
        monitors: Mapping[str, Any] | None = None,
    ):
        self.monitors = dict(monitors or {})
        self.path, self.save_weights, self.interval, self.snapshots = Path(path), save_weights, interval, snapshots
        self.names = {key: [str(name) for name in value] for key, value in names.items()}
        self.seconds = 0.0
        self.snapshot: Path | None = None  # that the last epoch left

    def attach(self, engine: Engine) -> None:
        """Registers with an engine."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _start(self, engine: Engine) -> None:
        self.mark = time.monotonic()

    def _save(self, engine: AdversarialTrainer) -> None:
        now = time.monotonic()
        self.seconds, self.mark = self.seconds + now - self.mark, now
        epoch = engine.state.epoch
        self.snapshot = None
        if epoch % self.interval and epoch != engine.state.max_epochs:
            return
        position = {"epoch": epoch, "iteration": engine.state.iteration, "seconds": self.seconds}
        state = {name: part.state_dict() for name, part in engine.parts().items()}
        for part in ("network", "ema", "critics"):  # the losses were numbers, but the last step may have gone wrong
            for name, value in state[part].items():
                if not torch.isfinite(value).all():
                    raise InputError(
                        f"training stopped at iteration {engine.state.iteration}: {name} of the {part} became NaN or infinite; "
                        "the last checkpoint is kept, resume from it with a lower learning rate or a higher penalty"
                    )
        if self.monitors:
            state["monitors"] = {name: monitor.state_dict() for name, monitor in self.monitors.items()}
        if self.snapshots and epoch % self.snapshots == 0:
            self.snapshot = self.path.with_name(f"model_{epoch:04d}.pt")
            self.save_weights(engine.ema.module, self.snapshot)
        self.save_weights(engine.ema.module, self.path.with_name("model.pt"))  # first: killed in between, a resume makes both again
        save_state(self.path, {"position": position, "names": self.names, **state})

    def restore(self, engine: AdversarialTrainer, optional: bool = False) -> None:
        """Puts a trainer where the checkpoint left it; learning rates and other settings are those of the trainer.

        Args:
            engine: a trainer built from the same configuration.
            optional: where there is no checkpoint yet only say so.

        Raises:
            InputError: missing, damaged, of another configuration, or already at `max_epochs`.
        """
        if optional and not self.path.exists():
            logger.info(f"no {self.path.name} in {self.path.parent}: begins with the first epoch")
            return
        state = load_checkpoint(self.path)
        parts = engine.parts()
        missing = [name for name in (*parts, "position", "names") if name not in state]
        if missing:
            raise InputError(f"{self.path}: lacks {', '.join(missing)}: no training checkpoint of this configuration; choose another output_dir")
        for key, names in self.names.items():
            if state["names"].get(key) != names:
                was = f"was trained with {key} {state['names'].get(key)}, now {names}"
                if key == "hidden":  # what was found, by amounts that nobody gave
                    was = "the amounts of the phases in the scan or in the images were others (another file or region?), or hidden, rims or rim_share"
                raise InputError(f"{self.path}: {was}; give them as they were, or choose another output_dir")
        try:
            for name, part in parts.items():
                settings = [{k: v for k, v in group.items() if k != "params"} for group in getattr(part, "param_groups", [])]
                part.load_state_dict(state[name])
                for group, setting in zip(getattr(part, "param_groups", []), settings):
                    group.update(setting)
            for name in self.monitors.keys() & state.get("monitors", {}).keys():
                self.monitors[name].load_state_dict(state["monitors"][name])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = textwrap.shorten(str(error), 200)
            raise InputError(f"{self.path}: a checkpoint of another configuration ({reason}); choose another output_dir") from error
        position: dict[str, Any] = state["position"]
        if position["iteration"] != position["epoch"] * engine.state.epoch_length:
            was = position["iteration"] // position["epoch"]
            raise InputError(f"{self.path}: had epochs of {was} iterations, now {engine.state.epoch_length}; set epoch_length as it was")
        engine.state.epoch, engine.state.iteration, self.seconds = position["epoch"], position["iteration"], position["seconds"]
        if engine.state.epoch >= engine.state.max_epochs:
            raise InputError(
                f"{self.path}: trained for {engine.state.epoch} epochs already; raise max_epochs (now {engine.state.max_epochs}) to go on"
            )
        logger.info(f"resumed from {self.path} at epoch {engine.state.epoch}, {self.seconds / 3600:.2f} h of training behind it")
