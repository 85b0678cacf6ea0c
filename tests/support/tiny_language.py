"""A language model and source code, made in a moment: random weights, 256 tokens, five made-up languages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from zkapex.simulation.scenarios import ScenarioConfig
from zkapex.simulation.scenarios.code_lm import CODE_LM, CodeTask
from zkapex.unlearning.lora import LoRA
from zkapex.unlearning.personalise import FitSettings
from zkapex.unlearning.planning.search import SearchSpace

TASK = CodeTask(
    forget="scala", retain=("c", "java"), personal="rust", proxy="python", length=12, layers=2, per_file=2, train=12,
    held_out=6, personal_train=6, personal_test=6, proxy_train=6, proxy_test=4,
)  # fmt: skip
_FIT = FitSettings(epochs=2, learning_rate=3e-3, batch_size=4)
TINY_CODE: ScenarioConfig = replace(
    CODE_LM,
    make=TASK,
    rounds=1,
    local=_FIT,
    personal=replace(_FIT, lora=LoRA(rank=2, alpha=4.0)),
    relearn=FitSettings(1, 1e-3, batch_size=4, decay=False),
    shadow=_FIT,
    profile="tiny",
    space=SearchSpace(("selective",), guard_ranks=(2,), fractions=(0.02, 0.05), margin=0.0),
    search_forget=8,
    search_retain=8,
)


def save_model(folder: Path, family: str) -> Path:
    """A causal language model of three layers and its tokeniser of single bytes; ``family`` is llama or opt."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokeniser = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokeniser.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokeniser.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokeniser).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if family == "llama":
            config = LlamaConfig(
                vocab_size=256, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
                num_key_value_heads=1, max_position_embeddings=64,
            )  # fmt: skip
            LlamaForCausalLM(config).save_pretrained(folder)
        else:
            config = OPTConfig(
                vocab_size=256, hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=2,
                word_embed_proj_dim=32, max_position_embeddings=64,
            )  # fmt: skip
            OPTForCausalLM(config).save_pretrained(folder)
    return folder


def save_code(folder: Path, languages: tuple[str, ...] = ("scala", "c", "java", "rust", "python")) -> Path:
    """Source files of made-up languages, each with words of its own."""
    generator = np.random.default_rng(0)
    for language in languages:
        words = ["".join(generator.choice(list("abcdefgh(){};="), 4)) for _ in range(12)]
        for index in range(40):
            path = folder / language / f"part{index % 3}" / f"file{index}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(" ".join(generator.choice(words, 60)))
    return folder
