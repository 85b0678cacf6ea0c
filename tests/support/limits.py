"""What data, models, checkpoints and environments are supported, refused or ignored: the cases behind docs/limits.md.

A test of a case that is refused calls `refuses`, which compares class and message with what is written here; a test of
any other is marked with `case`. `tests/test_limits.py` checks that every case has a test and that the page says the
same; ``make limits`` writes the page's tables.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import pytest

from zkapex import errors

START, END = "<!-- tables: written by make limits -->", "<!-- end of tables -->"
GAP = "…"
"""Stands for what differs from case to case in a message."""

Test = TypeVar("Test", bound=Callable[..., object])
Verdict = Literal["supported", "refused", "ignored"]


@dataclass(frozen=True)
class Limit:
    """One case.

    Attributes
    ----------
    area : str
        The table it is in.
    what : str
        The case, in words.
    verdict : str
    says : str
        The message of what is refused, with `GAP` for what differs; else what happens.
    error : type
        Of what is refused.
    """

    area: str
    what: str
    verdict: Verdict
    says: str
    error: type[errors.Error] = errors.InputError


def _refused(area: str, what: str, says: str, error: type[errors.Error] = errors.InputError) -> Limit:
    return Limit(area, what, "refused", says, error)


def _supported(area: str, what: str, says: str = "") -> Limit:
    return Limit(area, what, "supported", says)


def _ignored(area: str, what: str, says: str = "") -> Limit:
    return Limit(area, what, "ignored", says)


MODELS, TRAINING = "Models", "Training and evaluation on a device"
IMAGES, TEXT, WRITERS = "Folders of images", "Source code", "MNIST by writer"
CHECKPOINTS, ENVIRONMENT, COMMANDS = "Checkpoints and configurations", "The machine", "The command line"

LIMITS: dict[str, Limit] = {
    "model-plain": _supported(MODELS, "target layers that are `nn.Linear`, each called once in a forward pass"),
    "model-keyword": _supported(MODELS, "a layer called by keyword, `layer(input=x)`"),
    "model-float64": _supported(MODELS, "weights in float32 or float64, on any device torch has"),
    "model-half-tiny": _supported(MODELS, "weights in float16 with profile `tiny`", "float16 holds integers to 2048"),
    "model-half": _refused(
        MODELS,
        "target layers in float16 with profiles `edge` and `server`",
        "the weights of layer … are float16, which cannot hold the integers that are proved",
    ),
    "model-bfloat16": _refused(
        MODELS, "anything in bfloat16 or a smaller float", "… of the model is bfloat16, which cannot be sent or kept"
    ),
    "model-readback": _refused(
        MODELS,
        "a layer that does not hold what is put into it, whatever the reason",
        "layer … does not hold the weights it was given",
    ),
    "model-not-linear": _refused(
        MODELS, "a target layer of another type, such as a convolution", "… is not a linear layer of the model"
    ),
    "model-no-layer": _refused(MODELS, "a target layer that there is not", "… is not a layer of the model"),
    "model-reused": _refused(
        MODELS,
        "a layer called more than once in a forward pass, or whose weight is also used outside of it",
        "layer … is used more than once in a forward pass",
    ),
    "model-unused": _refused(MODELS, "a layer that is never called", "layers … took no part in the forward pass"),
    "model-tied": _refused(
        MODELS, "a layer whose weight is another parameter's, too", "the weight of layer … is also …"
    ),
    "model-parametrised": _refused(
        MODELS,
        "a layer with `weight_norm`, `spectral_norm`, pruning or an adapter",
        "the weight of layer … is computed from other parameters",
    ),
    "model-own-forward": _refused(
        MODELS,
        "a subclass of `nn.Linear` that computes something else",
        "layer … does not compute what a linear layer does",
    ),
    "model-not-finite": _refused(
        MODELS, "NaN or infinities in a parameter or buffer", "the values of … of the model are not finite"
    ),
    "model-inputs": _refused(
        MODELS, "inputs of another shape, dtype or device than the model's", "the model does not take its inputs, …"
    ),
    "model-overflow": _refused(MODELS, "logits that overflow", "the model's logits are not finite"),
    "model-output": _refused(
        MODELS,
        "an output that is no tensor of logits",
        "the model's output is no tensor of logits with one entry per example: …",
    ),
    "inputs-not-finite": _refused(
        TRAINING,
        "NaN or infinities in the inputs of curvature",
        "the inputs that curvature is taken from are not finite",
    ),
    "activations-not-finite": _refused(
        TRAINING, "activations that overflow on the way to a layer", "the inputs of layer … are not finite"
    ),
    "train-not-finite": _refused(
        TRAINING, "NaN or infinities in what is trained on", "the inputs to train on are not finite"
    ),
    "train-diverged": _refused(TRAINING, "training that diverges", "training diverged: the mean loss is …"),
    "labels-float": _refused(TRAINING, "labels that are not int64", "labels must be int64 numbers of classes, not …"),
    "labels-beyond": _refused(
        TRAINING, "a label beyond the model's classes", "the label … is no class of the model, which has …"
    ),
    "batchnorm": _supported(
        TRAINING, "batch normalisation where one example is left over", "it joins the batch before it"
    ),
    "batchnorm-one": _refused(
        TRAINING,
        "batch normalisation with one example, or batches of one",
        "batch normalisation cannot be trained on batches of one example",
    ),
    "evaluate-partly": _supported(
        TRAINING,
        "`Task.evaluate` without some of `forget`, `retain`, `personal`, or with none of their examples",
        "the others are reported",
    ),
    "evaluate-counts": _refused(
        TRAINING,
        "`Task.evaluate` with more examples right than there are",
        "the task counts … of … examples of … as right",
    ),
    "evaluate-unknown": _refused(
        TRAINING, "`Task.evaluate` with a data set of another name", "the task evaluates a data set …"
    ),
}

LIMITS |= {
    "image-hidden": _ignored(IMAGES, "hidden files and folders, such as `._x.png` and `.ipynb_checkpoints`"),
    "image-exif": _supported(IMAGES, "an EXIF rotation", "the image is turned"),
    "image-sixteen": _supported(IMAGES, "grey of 16 bits", "its upper eight bits are kept"),
    "image-transparent": _supported(IMAGES, "transparency, in a palette as well", "the image is put on white"),
    "image-cmyk": _supported(IMAGES, "CMYK, black and white, palettes, animations", "their first picture, in RGB"),
    "image-damaged": _refused(
        IMAGES, "a truncated or empty file, or one that is no image", "the image … cannot be decoded"
    ),
    "image-large": _refused(IMAGES, "more than 67 million pixels", "the image … is too large"),
    "image-colours": _refused(IMAGES, "floating-point pixels", "the image … has pixels that are no colours"),
    "image-names": _supported(IMAGES, "names with bytes that are no UTF-8", "shown with escapes, as `caf\\xe9`"),
    "text-hidden": _ignored(TEXT, "hidden files and folders"),
    "text-skipped": _refused(
        TEXT,
        "too few files that are UTF-8, of 200 characters to 1 MiB; what is skipped, and why, is said",
        "… has text for … windows of … tokens, fewer than the … that are needed",
    ),
    "writers-no-digit": _refused(
        WRITERS, "no image of the digit to forget", "… has no image of the digit …, which seed … forgets, by …"
    ),
    "writers-one-digit": _refused(
        WRITERS,
        "a client with nothing but that digit",
        "client … holds nothing but the digit …, which is to be forgotten",
    ),
    "writers-fractions": _refused(WRITERS, "labels with fractions", "y_… in … is …, not integers"),
    "json-deep": _refused(CHECKPOINTS, "JSON nested more than 64 deep", "… is neither JSON nor a .safetensors file"),
    "header-deep": _refused(
        CHECKPOINTS, "a header that is damaged, nested too deep, or of negative sizes", "… is not a safetensors file"
    ),
    "checkpoint-fused": _supported(CHECKPOINTS, "fused projections, `gate_up_proj`", "counted whole"),
    "checkpoint-shape": _refused(CHECKPOINTS, "a layer without rows or columns", "… of … has the impossible shape …"),
    "checkpoint-packed": _refused(CHECKPOINTS, "packed or quantised weights", "… of … is …"),
    "checkpoint-unknown": _refused(
        CHECKPOINTS,
        "weights in MLPs that are not understood, such as experts",
        "… holds weights of MLPs that are not understood: …",
    ),
    "checkpoint-incomplete": _refused(CHECKPOINTS, "a file that ends early", "… is incomplete"),
    "checkpoint-parts": _refused(CHECKPOINTS, "an index whose files are not all there", "… lacks …"),
    "proxy": _supported(ENVIRONMENT, "`http_proxy` and the like", "not used for this machine itself"),
    "ray-variables": _ignored(ENVIRONMENT, "`RAY_ADDRESS` and other variables of Ray and Flower"),
    "python-variables": _ignored(ENVIRONMENT, "`PYTHONOPTIMIZE`, `PYTHONINSPECT`, `PYTHONSTARTUP`, `PYTHONHOME`"),
    "locale": _supported(ENVIRONMENT, "`LC_ALL=C` without Python's UTF-8 mode", "text is UTF-8 all the same"),
    "tmpdir": _supported(ENVIRONMENT, "a long `TMPDIR`", "Ray's sockets are in `/tmp` or `/var/tmp` instead"),
    "tmpdir-only": _refused(
        ENVIRONMENT,
        "a long `TMPDIR` where those cannot be written",
        "the folder for temporary files, …, has a path that is too long for Ray's sockets",
    ),
    "cache-readable": _supported(
        ENVIRONMENT, "a cache that can be read only, with what is needed", "nothing is written, locks included"
    ),
    "cache-lacking": _refused(
        ENVIRONMENT,
        "a cache that can be read only and lacks something; found before anything is trained",
        "the cache folder … cannot be written, and lacks what is needed",
        errors.StorageError,
    ),
    "features-overflow": _refused(
        ENVIRONMENT, "features beyond float16", "the features that the frozen part of the model makes are not finite"
    ),
    "reader-gone": _supported(
        COMMANDS, "a reader that closes the pipe, such as `head`", "exit code 141, without a message"
    ),
    "samples": _refused(COMMANDS, "`--forget-samples` below 1 or above 10,000", "--forget-samples is …"),
}


def refuses(key: str, action: Callable[[], object]) -> errors.Error:
    """The error that `action` ends with: of the class and with the message that the case has."""
    limit = LIMITS[key]
    assert limit.verdict == "refused", key
    with pytest.raises(errors.Error) as caught:
        action()
    error = caught.value
    assert isinstance(error, limit.error), f"{type(error).__name__}: {error.explain()}"
    pattern = ".+".join(re.escape(part) for part in limit.says.split(GAP))
    assert re.fullmatch(pattern, error.what, re.DOTALL), f"{limit.says!r} is not what it says: {error.explain()}"
    return error


def case(key: str) -> Callable[[Test], Test]:
    """Marks the test of a case that is supported or ignored."""
    assert LIMITS[key].verdict != "refused", key
    return lambda test: test


def tables() -> str:
    """The tables of docs/limits.md."""
    lines: list[str] = []
    for area in dict.fromkeys(limit.area for limit in LIMITS.values()):
        lines += ["", f"## {area}", "", "| | | |", "| --- | --- | --- |"]
        for limit in LIMITS.values():
            if limit.area == area:
                says = f"`{limit.error.__name__}`: {limit.says}" if limit.verdict == "refused" else limit.says
                lines.append(f"| {limit.what} | {limit.verdict} | {says} |")
    return "\n".join([*lines, ""])


def with_tables(page: str) -> str:
    """The page with its tables as they should be."""
    before, rest = page.split(START)
    return f"{before}{START}\n{tables()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
