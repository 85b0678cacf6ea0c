"""Receipts that must be accepted."""

from __future__ import annotations

from pathlib import Path

import lies
from plan import accepted
from scene import Scene
from world import FIRST, GUARDED, WORLDS, respond

from zkapex.proofs.audit import draw, sampled_audit
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.chunk.prove import prove_chunk
from zkapex.proofs.merkle import commitment_root
from zkapex.proofs.records.packing import pack_guards

SEED = "5e" * 32


@accepted("Guarded Group-OBS of rank 4 on two chunks, both proved.", None)
def guarded_group_obs(folder: Path) -> None:
    Scene.prove(GUARDED).write(folder)


@accepted("Plain Group-OBS, the paper's operator: guard rank 0.", None)
def group_obs(folder: Path) -> None:
    Scene.prove(WORLDS["group_obs"]).write(folder)


@accepted("Group-OBS with one empirical Fisher block per row of each chunk, and a guard.", None)
def block_fisher(folder: Path) -> None:
    Scene.prove(WORLDS["block_fisher"]).write(folder)


@accepted("Masked weights are zero, nothing else is claimed.", None)
def mask_only(folder: Path) -> None:
    Scene.prove(WORLDS["mask_only"]).write(folder)


@accepted("Selective synaptic dampening: weights multiplied by public factors.", None)
def dampening(folder: Path) -> None:
    Scene.prove(WORLDS["dampening"]).write(folder)


def sampled_scene() -> Scene:
    """One of two chunks proved, drawn after the client had committed to both."""
    scene = Scene.base()
    touched = Instance(scene.manifest, scene.request).touched
    audit = sampled_audit(len(touched), 0.5, 0.5, SEED)
    drawn = draw(audit, SEED, scene.answer.root, touched)
    scene = scene.amend("request", audit=audit).change(proofs={c: scene.proofs[c] for c in drawn})
    return scene.amend("outcome", audit_seed=SEED, chunks_proved=len(drawn), certified_distance=scene.distance())


@accepted("A sampled audit: one chunk of two was drawn and proved.")
def sampled(folder: Path) -> None:
    sampled_scene().write(folder)


@accepted("A guarded statement asked for without a guard.")
def without_guard(folder: Path) -> None:
    work = GUARDED.work("a", guards=())
    proofs = {
        c: prove_chunk(work.circuit, work.instance.public(c), work.change.witness(work.held, c)) for c in work.touched
    }
    Scene.of(GUARDED, work, proofs).write(folder)


@accepted("A request that steers the repair along its guard.")
def steered(folder: Path) -> None:
    work = GUARDED.work("a", guards=pack_guards(GUARDED.manifest, GUARDED.guards(), GUARDED.steering()))
    proofs = {
        c: prove_chunk(work.circuit, work.instance.public(c), work.change.witness(work.held, c)) for c in work.touched
    }
    Scene.of(GUARDED, work, proofs).write(folder)


@accepted(
    "One weight altered by as much as the tolerance of stationarity allows; the next unit is delta_past_tolerance."
)
def delta_at_tolerance(folder: Path) -> None:
    Scene.base().announced(FIRST, lies.within_tolerance()).write(folder)


@accepted("An earlier request changed another chunk, and this one starts from there.")
def second_request(folder: Path) -> None:
    scene = Scene.base()
    point = scene.enrolment.theta[2]
    earlier = respond(scene.request.model_copy(update={"request_id": "forget-before"}), {1: point})
    theta = [*scene.enrolment.theta]
    theta[1] = point
    scene = scene.amend("request", pre_root=commitment_root(list(enumerate(theta))))
    scene.change(earlier=(earlier,)).write(folder)


@accepted("The reference string is not included, but known to the verifier from elsewhere (any other case here).")
def reference_string_known(folder: Path) -> None:
    Scene.base().change(srs=None).write(folder)
