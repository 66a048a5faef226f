"""Ignite handlers for the configs, beside those MONAI has."""

from ignite.engine import Engine
from ignite.handlers.tqdm_logger import ProgressBar as IgniteProgressBar


class ProgressBar:
    """A progress bar over the iterations of each epoch, with the current loss where there is one.

    Args:
        description: shown before the bar.
        show_loss: shows ``engine.state.output["loss"]``.
    """

    def __init__(self, description: str, show_loss: bool = False) -> None:
        self.description, self.show_loss = description, show_loss

    def attach(self, engine: Engine) -> None:
        transform = (lambda output: {"loss": output["loss"]}) if self.show_loss else None
        bar = IgniteProgressBar(desc=self.description, dynamic_ncols=True, mininterval=0.5)
        bar.attach(engine, output_transform=transform)
