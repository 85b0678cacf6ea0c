"""Linear probes: whether what is forgotten can still be told from the rest by a model's last representation.

A model that only answers differently may represent the forgotten class as before, and a new head would find it again.
So a logistic regression learns, on the frozen representation, to tell what is to be forgotten from what stays (Alain
and Bengio, arXiv 1610.01644). Images of an unknown class look different, too: what counts is the distance to the
oracle.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from zkapex.errors import InputError
from zkapex.simulation.data.digits import Examples
from zkapex.simulation.evaluation.metrics.similarity import FloatArray, features

REGULARISATION = 0.1
"""Inverse strength of the penalty: representations have up to half as many dimensions as there are examples."""


def probe_auc(model: nn.Module, fit: tuple[Examples, Examples], judge: tuple[Examples, Examples]) -> float:
    """Area under the ROC curve of a linear probe, 0.5 if it learns nothing.

    Parameters
    ----------
    model : nn.Module
    fit, judge : (Examples, Examples)
        What is to be forgotten and what stays: examples the probe learns from, and others that it is judged on.
        Of sequences, each is represented by its mean over tokens.

    Raises
    ------
    InputError
        A side is empty.
    """
    if any(len(side.labels) == 0 for side in (*fit, *judge)):
        raise InputError("a probe needs examples to forget and to keep, both to learn from and to be judged on")
    probe = make_pipeline(
        StandardScaler(), LogisticRegression(C=REGULARISATION, class_weight="balanced", max_iter=1000)
    )
    probe.fit(*_labelled(model, fit))
    inputs, truth = _labelled(model, judge)
    return float(roc_auc_score(truth, probe.decision_function(inputs)))


def _labelled(model: nn.Module, sides: tuple[Examples, Examples]) -> tuple[FloatArray, FloatArray]:
    parts = []
    for side in sides:
        found = features(model, side.inputs)
        parts.append(found.reshape(len(side.labels), -1, found.shape[1]).mean(1))
    return np.concatenate(parts), np.repeat([1.0, 0.0], [len(part) for part in parts])
