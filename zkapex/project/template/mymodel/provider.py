"""What the provider brings: the model, public data, and what a request is about.

`ClassifierProvider` carries the search: it tries masks of growing size on the global model and on copies that are made
like a client's, until all have forgotten. Its attributes say what to try, and what counts as success.
"""

from collections.abc import Mapping

import torch
from mymodel.data import FEATURES, Examples, only, sample
from mymodel.model import build_model
from torch import nn

from zkapex.server.federation.classifier import ClassifierProvider
from zkapex.server.federation.provider import Options, Orders
from zkapex.unlearning.planning.search import SearchSpace


class Provider(ClassifierProvider):
    """One deployment's model and public data."""

    name = "mymodel-perceptron"  # of the model, in receipts
    federation = "mymodel"  # a registry belongs to one
    layers = ("hidden",)  # the linear layers unlearning acts on
    # Every copy has to answer at most 2 % of the forget set, and may lose 5 % of what is to be kept.
    space = SearchSpace(
        scorers=("taylor",), fractions=(0.02, 0.05, 0.1), forget_target=0.02, retain_cost=0.05, margin=1.0
    )
    proxies = 2  # the more, the surer that a mask works on clients nobody may look at, and the longer it takes
    client_size = 300

    def initial_model(self) -> nn.Module:
        """The model before training."""
        return build_model()

    def forget_set(self) -> Examples:
        """What is to be forgotten, of the provider's own data."""
        return self._part(sample(1000, seed=1), forgotten=True)

    def retain_set(self) -> Examples:
        """What is to be kept."""
        return self._part(sample(1000, seed=1), forgotten=False)

    def test_data(self) -> Mapping[str, Examples]:
        """Unseen examples that the global model is judged on."""
        unseen = sample(1000, seed=2)
        return {"forget": self._part(unseen, forgotten=True), "retain": self._part(unseen, forgotten=False)}

    def forget_description(self) -> str:
        """What is to be forgotten; receipts hold a commitment to this sentence."""
        return f"class {self.options['forget-class']}"

    def like_a_client(self, proxy: int, examples: Examples) -> Examples:
        """Public examples as some client may see them: the better the guess, the better masks hold on clients."""
        shift = 0.3 * torch.randn(FEATURES, generator=torch.Generator().manual_seed(2000 + proxy))
        return examples[0] + shift, examples[1]

    def _part(self, examples: Examples, *, forgotten: bool) -> Examples:
        return only(examples, (examples[1] == int(self.options["forget-class"])) == forgotten)


def provider(options: Options, orders: Orders) -> Provider:
    """The provider, as ``zkapex.toml`` names it; `orders` say what each request of an operator is about."""
    return Provider(options, orders)
