"""Second moments, of inputs and of per-example gradients, against what plain loops compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import inputs, network
from torch import nn

from zkapex.errors import InputError
from zkapex.unlearning.curvature import moments
from zkapex.unlearning.curvature.moments import fisher_moments, visit_inputs, weighted_moments


def second_moments(
    model: nn.Module, names: list[str], x: torch.Tensor, block_width: int, batch_size: int = 256
) -> dict[str, np.ndarray]:
    """Mean of ``x x^T`` over all that `visit_inputs` shows."""
    seen: dict[str, list[np.ndarray]] = {name: [] for name in names}
    visit_inputs(model, names, x, block_width, lambda name, blocks: seen[name].append(blocks), batch_size)
    rows = {name: np.concatenate(blocks) for name, blocks in seen.items()}
    return {name: np.einsum("tbi,tbj->bij", r, r) / len(r) for name, r in rows.items()}


def test_second_moments_are_those_of_the_layers_inputs() -> None:
    model, x = network(), inputs(50, 4)
    found = second_moments(model, ["0", "2"], x, block_width=4, batch_size=7)
    first = x.reshape(-1, 5).double().numpy()
    hidden = torch.nn.functional.gelu(model[0](x)).detach().reshape(-1, 7).double().numpy()
    for name, values, columns in (("0", first, 5), ("2", hidden, 7)):
        full = values.T @ values / len(values)
        assert found[name].shape == (2, 4, 4)
        np.testing.assert_allclose(found[name][0], full[:4, :4], rtol=1e-6)
        np.testing.assert_allclose(found[name][1][: columns - 4, : columns - 4], full[4:, 4:], rtol=1e-6)
        assert not found[name][1][columns - 4 :].any()


def test_hooks_are_gone_afterwards_even_after_an_error() -> None:
    model = network()
    with pytest.raises(InputError, match="not a linear layer"):
        second_moments(model, ["0", "1"], inputs(50, 4), 4)
    with pytest.raises(RuntimeError):
        second_moments(model, ["0"], torch.zeros(3, 9), 4)
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("find", [second_moments, weighted_moments, fisher_moments])
def test_nothing_to_measure_is_refused(find: object) -> None:
    assert callable(find)
    with pytest.raises(InputError, match="at least one example"):
        find(network(), ["0"], inputs(50)[:0], 4)
    with pytest.raises(InputError, match="positive block width"):
        find(network(), ["0"], inputs(50), 0)
    for name in ("1", "nowhere"):
        with pytest.raises(InputError, match=r"not a (linear )?layer"):
            find(network(), ["0", name], inputs(50), 4)


def test_a_layer_that_takes_no_part_is_refused() -> None:
    model = network()
    model.add_module("spare", nn.Linear(2, 2))
    model.forward = lambda x: model[0](x)  # type: ignore[method-assign]
    with pytest.raises(InputError, match="took no part"):
        second_moments(model, ["0", "spare"], inputs(50, 4), 4)


def drawn_labels(model: nn.Module, x: torch.Tensor, seed: int) -> torch.Tensor:
    """Labels from the model's own predictions, drawn as `fisher_moments` says it draws them."""
    with torch.no_grad():
        chances = model(x).softmax(1)
    return torch.multinomial(chances, 1, generator=torch.Generator().manual_seed(seed))[:, 0]


@pytest.mark.parametrize("memory", [1, 4 * 35 * 3, 64 * 2**20])
def test_fisher_moments_are_those_of_per_example_gradients(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against one backward pass per example; however many examples fit the memory for gradients."""
    monkeypatch.setattr(moments, "_GRADIENT_BYTES", memory)
    model, x = network(), inputs(40)
    found = fisher_moments(model, ["0", "2"], x, block_width=4, seed=3)
    totals = {name: np.zeros(found[name].shape) for name in ("0", "2")}
    for example, label in zip(x, drawn_labels(model, x, 3), strict=True):
        model.zero_grad()
        nn.functional.cross_entropy(model(example[None]), label[None]).backward()
        for index, total in totals.items():
            g = model[int(index)].weight.grad.double().numpy()
            for block, row in np.ndindex(*total.shape[:2]):
                part = g[row, 4 * block : 4 * block + 4]
                total[block, row, : len(part), : len(part)] += np.outer(part, part)
    for name, total in totals.items():
        columns = model[int(name)].in_features
        assert found[name].shape == (2, model[int(name)].out_features, 4, 4)
        np.testing.assert_allclose(found[name], total / 40, rtol=1e-4, atol=1e-9)
        assert not found[name][1][:, columns - 4 :].any()


def test_fisher_moments_depend_on_the_seed_alone_and_leave_the_model_as_it_was() -> None:
    model, x = network(), inputs(40)
    before = {name: p.clone() for name, p in model.named_parameters()}
    state = torch.random.get_rng_state()
    first, second, other = (fisher_moments(model, ["0"], x, 4, seed=seed)["0"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())


def test_fisher_moments_of_a_model_with_buffers_and_dropout_are_those_in_evaluation_mode() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    first, second = (fisher_moments(model.train(), ["0", "3"], inputs(30), 4) for _ in range(2))
    for name in ("0", "3"):
        np.testing.assert_array_equal(first[name], second[name])


def test_weighted_moments_weigh_each_token_by_what_its_output_does_to_the_logits() -> None:
    """Against the Jacobian of the logits, one output entry at a time; the mean over many directions is its norm."""
    model, x = network(), inputs(6, 4)
    found = [weighted_moments(model, ["0", "2"], x, 4, seed) for seed in range(300)]
    wanted = {name: np.zeros((2, 4, 4)) for name in ("0", "2")}
    norms = dict.fromkeys(wanted, 0.0)
    for example in x:
        hidden = nn.functional.gelu(model[0](example)).detach()
        for name, values, rest in (
            ("0", example, lambda y: model[2](nn.functional.gelu(y))),
            ("2", hidden, lambda y: y),
        ):
            out = model[int(name)](values).detach()
            jacobian = torch.autograd.functional.jacobian(rest, out)
            w = jacobian.square().sum(tuple(range(out.ndim))).sum(-1).reshape(-1).double().numpy()
            rows = np.pad(values.double().numpy(), ((0, 0), (0, 8 - values.shape[1]))).reshape(-1, 2, 4)
            wanted[name] += np.einsum("t,tbi,tbj->bij", w, rows, rows)
            norms[name] += float(w.sum())
    for name, total in wanted.items():
        mean = np.mean([f[name] for f in found], 0)
        assert np.abs(mean - total / norms[name]).max() < 0.08 * np.abs(total / norms[name]).max()


def test_weighted_moments_are_the_same_again_and_leave_the_model_alone() -> None:
    model, x = network(), inputs(70, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (weighted_moments(model, ["0", "2"], x, 4) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_a_layer_that_the_logits_do_not_depend_on_is_refused() -> None:
    model = network()
    with torch.no_grad():
        model[2].weight.zero_()
    with pytest.raises(InputError, match="do not depend on layers 0"):
        weighted_moments(model, ["0", "2"], inputs(20, 4), 4)
