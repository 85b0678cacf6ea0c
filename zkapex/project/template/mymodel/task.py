"""What one device brings: its model and its data, which stay there.

`ClassifierTask` carries training, personalisation, curvature and evaluation. Override `fit_round` or `fit_personal` to
train in a way of your own.
"""

from collections.abc import Mapping

from mymodel.data import Examples, only, sample, seen_by
from mymodel.model import build_model
from torch import nn

from zkapex.client.classifier import ClassifierTask


class Task(ClassifierTask):
    """The device with number `index`."""

    def __init__(self, index: int, forget_class: int) -> None:
        self.seed, self._forget_class = index, forget_class

    def build_model(self) -> nn.Module:
        """The architecture; its weights come from the provider."""
        return build_model()

    def shared_data(self) -> Examples:
        """What the device helps to train the global model with."""
        return sample(300, seed=10 + self.seed)

    def personal_data(self) -> Examples:
        """What it makes the global model its own with. Nobody else ever sees these, nor the weights that come of them.

        A device need not know what will be deleted. Here it would not have trained on it after the request.
        """
        inputs, labels = seen_by(self.seed, self.shared_data())
        return only((inputs, labels), labels != self._forget_class)

    def test_data(self) -> Mapping[str, Examples]:
        """What it is judged on. Only counts leave the device. Leave out what it has no examples of."""
        inputs, labels = sample(300, seed=5000 + self.seed)
        forgotten = labels == self._forget_class
        return {
            "forget": only((inputs, labels), forgotten),
            "retain": only((inputs, labels), ~forgotten),
            "personal": only(seen_by(self.seed, (inputs, labels)), ~forgotten),
        }


def task(options: Mapping[str, str | int | float | bool]) -> Task:
    """The task of this device, as ``device.toml`` names it; options are those of the same file."""
    return Task(int(options["index"]), int(options["forget-class"]))
