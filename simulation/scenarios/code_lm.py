"""``code-lm``: a pretrained language model forgets a programming language; its clients write another one.

The folder the user brings has a subfolder of source files for each language, at any depth; or the user names a data set
with a file and its language in each row. The model is any causal language model of the Llama or OPT type that
transformers loads: a folder, a ``.gguf`` file, or a name on a hub.

Two clients fine-tune the model's last layers together, by federated averaging, on the language that will be forgotten
and three others; each then adapts them to the personal language with LoRA, merged into the weights. The provider's
proxy adapts to a fifth language. Examples are windows of tokens, and accuracy is that of the most likely next token,
among all tokens that occur in the windows: the head keeps no others, which makes it several times smaller.

*What the oracle is.* The pretrained model saw all of these languages, whatever happens here. The oracle is the same
fine-tuning without the forgotten language: it predicts the next token nearly as well as the pretrained model does, and
so would one that forgot perfectly what the federation taught it. This scenario says nothing about removing what
pretraining put there. The provider cannot train the oracle; the forget accuracy its search is to reach is that of the
pretrained model on the same windows.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from zkapex.errors import InputError
from zkapex.simulation.data.corpus import Windows, read_windows, split_by_file
from zkapex.simulation.data.digits import ClientData, Examples, Scenario, concatenate
from zkapex.simulation.data.hub import HubData
from zkapex.simulation.models.language import CausalTail, load_language_model
from zkapex.simulation.models.tiny import ViTConfig
from zkapex.simulation.models.training import accuracy
from zkapex.simulation.scenarios.base import Aim, Bench, ScenarioConfig, Sources
from zkapex.unlearning.lora import LoRA
from zkapex.unlearning.personalise import FitSettings
from zkapex.unlearning.planning.search import SearchSpace
from zkapex.unlearning.planning.trials import Contrast

CLIENTS = 2


@dataclass(frozen=True)
class CodeTask:
    """Which languages play which part, and how many windows there are of each.

    Attributes
    ----------
    forget, personal, proxy : str
        Subfolders: what is forgotten, what clients adapt to, what the provider's proxy adapts to.
    retain : tuple of str
        Subfolders of the other languages of the federation.
    length : int
        Tokens of a window.
    layers : int
        Of the tail, which learns.
    per_file : int
        Windows of one file, at most.
    train, held_out : int
        Windows of the forgotten language, and of each other one, that the federation trains on, and that nobody does.
    personal_train, personal_test : int
        Windows of the personal language: of each client, and that all are judged on.
    proxy_train, proxy_test : int
        Windows of the proxy's language that it is fitted to, and judged on.
    """

    forget: str = "scala"
    retain: tuple[str, ...] = ("c", "cpp", "java")
    personal: str = "rust"
    proxy: str = "python"
    length: int = 64
    layers: int = 2
    per_file: int = 4
    train: int = 48
    held_out: int = 24
    personal_train: int = 32
    personal_test: int = 96
    proxy_train: int = 48
    proxy_test: int = 24

    def __post_init__(self) -> None:
        languages = [self.forget, *self.retain, self.personal, self.proxy]
        if len(set(languages)) < len(languages) or not self.retain:
            raise InputError(
                f"code-lm cannot use the languages {', '.join(languages)}", fix="name different ones, one to retain"
            )

    @property
    def sizes(self) -> dict[str, list[int]]:
        """For every language, the windows of each part that its files are split into."""
        federation = {name: [self.train, self.held_out] for name in (self.forget, *self.retain)}
        personal = [self.personal_train] * CLIENTS + [self.personal_test]
        return {**federation, self.personal: personal, self.proxy: [self.proxy_train, self.proxy_test]}

    def __call__(self, seed: int, sources: Sources) -> Bench:
        """The federation of a seed: which files are trained on depends on it.

        Raises
        ------
        InputError
            There is no model or no data, or they are not what they should be.
        """
        if sources.model is None:
            raise InputError(
                "code-lm needs a pretrained language model",
                fix="give --model FOLDER, or a name on the hub such as facebook/opt-125m",
            )
        if sources.data is None:
            raise InputError(
                "code-lm needs source code",
                why="it is not part of zkapex",
                fix=f"give --data FOLDER with the subfolders {', '.join(self.sizes)}, or hub:NAME, see docs/data.md",
            )
        made = _material(self, sources.data, sources.model)
        parts = {
            name: [made.examples[name].take(torch.from_numpy(index)) for index in split_by_file(windows, sizes, seed)]
            for (name, windows), sizes in zip(made.windows.items(), self.sizes.values(), strict=True)
        }
        forget, unseen = parts[self.forget]
        retain, test = (concatenate(*(parts[name][i] for name in self.retain)) for i in (0, 1))
        *personal, personal_test = parts[self.personal]
        clients = []
        for index, own in enumerate(personal):
            kept = retain.take(torch.arange(index, len(retain.labels), CLIENTS))
            train = concatenate(forget.take(torch.arange(index, len(forget.labels), CLIENTS)), kept)
            order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(seed * 100 + index))
            clients.append(ClientData(train.take(order), kept, own, personal_test))
        fitted, judged = parts[self.proxy]
        world = Scenario(None, tuple(clients), forget, retain, unseen, test, proxies=((fitted, judged),))
        target = accuracy(made.tail, forget)
        note = (
            f"{self.forget}: {CLIENTS} clients, {len(forget.labels)} windows of {self.length} tokens to forget, "
            f"{len(retain.labels)} to retain ({', '.join(self.retain)}); {len(unseen.labels)} non-members; personal "
            f"{self.personal}, proxy {self.proxy}; {made.tail.head.out_features} tokens; the pretrained model predicts "
            f"{100 * target:.1f} % of the next tokens to forget"
        )

        def build(_: int) -> CausalTail:
            return copy.deepcopy(made.tail)

        def aim(model: nn.Module) -> Aim:
            return Aim(target, lambda: Contrast(taught=model, untaught=made.tail))

        forgotten = f"the language {self.forget}"
        return Bench(world, test, unseen, note, forgotten, build, made.tail.targets, aim)


@dataclass(frozen=True)
class _Material:
    """All windows of all languages, and what the trunk made of them, in the same order."""

    windows: Mapping[str, Windows]
    examples: Mapping[str, Examples]
    tail: CausalTail


@lru_cache(maxsize=1)
def _material(task: CodeTask, data: Path | HubData, model: str) -> _Material:
    """What no seed changes, made once: running the trunk takes minutes."""
    language = load_language_model(model)
    # A few windows more than are needed, as a file is never split.
    wanted = {name: sum(sizes) + task.per_file * len(sizes) for name, sizes in task.sizes.items()}
    windows = read_windows(data, wanted, task.length, task.per_file, language.encode)
    tokens = np.concatenate([windows[name].tokens for name in wanted])
    vocabulary, labels = np.unique(tokens[:, 1:], return_inverse=True)
    inputs, tail = language.split(torch.from_numpy(tokens[:, :-1]), task.layers, torch.from_numpy(vocabulary))
    whole = Examples(inputs, torch.from_numpy(labels.reshape(len(tokens), task.length).astype(np.int64)))
    bounds = np.cumsum([0, *(len(windows[name].tokens) for name in wanted)])
    examples = {name: whole.take(torch.arange(int(bounds[i]), int(bounds[i + 1]))) for i, name in enumerate(wanted)}
    return _Material({name: windows[name] for name in wanted}, examples, tail)


PERSONAL = FitSettings(epochs=4, learning_rate=2e-3, batch_size=8, lora=LoRA())
LOCAL = FitSettings(epochs=2, learning_rate=3e-4, batch_size=8)

CODE_LM = ScenarioConfig(
    name="code-lm",
    title="A pretrained language model forgets what a federation taught it of a programming language, and keeps what "
    "its clients adapted to with LoRA; pretraining had seen every language, the oracle's included",
    make=CodeTask(),
    needs_data=True,
    needs_model=True,
    model=ViTConfig(),
    rounds=2,
    local=LOCAL,
    personal=PERSONAL,
    relearn=FitSettings(1, 1e-4, batch_size=8, decay=False),
    shadow=FitSettings(epochs=4, learning_rate=3e-4, batch_size=8),
    shadows=2,
    profile="server",
    proxies=1,
    space=SearchSpace(("selective",), fractions=(0.001, 0.002, 0.004, 0.006, 0.01, 0.015), margin=0.0, steer=None),
    replay_share=0.25,
    search_forget=48,
    search_retain=32,
    retain_cap=72,
    methods=(
        "original", "retrain", "fine-tune", "gradient-ascent", "npo", "loku", "ssd", "mask-only", "group-obs",
        "guarded-group-obs",
    ),
)  # fmt: skip
