"""Planning a request: the provider's search, a client's proposal, or an earlier request's plan again."""

from __future__ import annotations

from typing import cast

from torch import nn

from zkapex.errors import InputError
from zkapex.proofs.chunk.demands import Demands
from zkapex.proofs.messages import ModelManifest
from zkapex.server.federation.provider import Continuing, Delegating, Provider
from zkapex.server.requests.coordinator import Coordinator
from zkapex.server.requests.delegation import delegated_plan
from zkapex.server.requests.folder import ADDRESSED, RequestFolder
from zkapex.server.requests.past import Past
from zkapex.server.requests.plan import StoredPlan, keep_plan, load_plan, save_plan
from zkapex.storage import save_arrays
from zkapex.unlearning.planning.keep import keep
from zkapex.unlearning.planning.standing import Standing
from zkapex.unlearning.planning.steps import OnStep, no_step, seldom
from zkapex.unlearning.planning.trials import Plan


def plan_request(
    coordinator: Coordinator, past: Past, request_id: str, repeats: tuple[str, frozenset[str]] | None = None
) -> StoredPlan:
    """The plan of a request, made once and kept in its folder, with the clients that it is addressed to.

    Parameters
    ----------
    coordinator : Coordinator
    past : Past
    request_id : str
    repeats : (str, frozenset of str), optional
        The earlier request that this one repeats, and for which clients.
    """
    roster, folder, provider = coordinator.roster, past.order.folder(request_id), past.about(request_id)
    roster.emit("search.started", request=request_id)
    plan = load_plan(folder.own)
    if plan is None and repeats:
        plan = _repeat(past, roster.manifest, folder, *repeats)
    if plan is None:
        model, statement = past.loaded(past.state_before(request_id)), roster.manifest.statement
        demands = past.demands(request_id)
        delegation = provider.delegate(model, statement) if isinstance(provider, Delegating) else None
        if delegation is None:
            on_step = seldom(lambda step: roster.emit("search.step", doing=step.words()))
            found = _planned(provider, model, roster.manifest, demands, on_step)
        else:
            found = delegated_plan(coordinator, delegation, model, request_id, folder.own)
        plan = save_plan(folder.own, keep(found, demands, roster.manifest))
    if folder.clients(ADDRESSED) is None:
        folder.keep_clients(ADDRESSED, {client.client_id for client in roster.registry.clients()})
    roster.emit("search.done", **plan.chosen)
    return plan


def preview(past: Past, manifest: ModelManifest, request_id: str) -> Plan:
    """What a request that was not made yet would ask for; nothing of it is kept, and nobody is asked.

    Raises
    ------
    InputError
        A client would choose the mask.
    """
    provider, model = past.about(request_id), past.loaded(past.state_before(request_id))
    if isinstance(provider, Delegating) and provider.delegate(model, manifest.statement) is not None:
        raise InputError("what this request costs is not known before", why="a client would choose the mask")
    demands = past.demands(request_id)
    return keep(_planned(provider, model, manifest, demands), demands, manifest)


def _repeat(
    past: Past, manifest: ModelManifest, folder: RequestFolder, earlier: str, clients: frozenset[str]
) -> StoredPlan:
    """The plan of an earlier request again, for clients that did not prove that one.

    The global model has been through it, and stays as it is.
    """
    plan = cast("Plan", past.plan_of(earlier))  # it has all that `keep` looks at, under the same names
    plan = keep(plan, past.demands(folder.request_id), manifest)
    folder.keep_clients(ADDRESSED, set(clients))
    save_arrays(folder.unlearned, past.state_before(folder.request_id))
    return keep_plan(folder.own, cast("StoredPlan", plan))


def _planned(
    provider: Provider, model: nn.Module, manifest: ModelManifest, demands: Demands, on_step: OnStep = no_step
) -> Plan:
    """What a provider plans, with regard to what earlier requests have left if it has any."""
    if isinstance(provider, Continuing):
        return provider.plan_after(model, manifest.statement, Standing.of(manifest, demands), on_step)
    return provider.plan(model, manifest.statement, on_step)
