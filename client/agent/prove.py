"""`prove`: proofs of the chunks that are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flwr.app import RecordDict

from zkapex.client.agent.common import engine_for, opened
from zkapex.client.state.holdings import Change
from zkapex.client.state.memory import REQUEST
from zkapex.errors import ProtocolError, ProverError
from zkapex.proofs.chunk.instance import Instance
from zkapex.proofs.jobs.worker import finished, forget_witness
from zkapex.proofs.messages import ChunkProof, ProveRequest, ProveResponse, UnlearnRequest
from zkapex.proofs.records.sealed import unseal
from zkapex.transport.wire import pack

if TYPE_CHECKING:
    from zkapex.client.agent.agent import DeviceAgent


def prove(device: DeviceAgent, content: RecordDict) -> RecordDict:
    """Prove the chunks that are asked for; finished ones are answered from disk."""
    request, _ = opened(content, ProveRequest)
    if request.client_id != device.client_id:
        raise ProtocolError("proofs are asked of another client", why=f"it names {request.client_id[:16]}...")
    vault = device.memory.answered(request.request_id)
    sealed = unseal(UnlearnRequest, vault.get(REQUEST), [device.trust.key()])
    instance = Instance(device.memory.manifest(), sealed.record)
    strange = sorted(set(request.chunks) - set(instance.touched))
    if strange:
        raise ProtocolError(f"chunk {strange[0]} is not touched by request {request.request_id}")
    folders = {chunk: vault.folder / "jobs" / str(chunk) for chunk in request.chunks}
    waiting = [chunk for chunk, folder in folders.items() if finished(folder) is None]
    if waiting:
        if device.memory.settled(vault):
            raise ProtocolError(f"request {request.request_id} is over", why="the weights before it are gone")
        engine = engine_for(device.memory.manifest(), {})
        holdings, change = device.memory.start_from(sealed.record), Change.load(vault)
        device.prove_chunks(engine, instance, holdings, change, {chunk: folders[chunk] for chunk in waiting})
    proofs = []
    for chunk, folder in folders.items():
        done = finished(folder)
        if done is None:
            raise ProverError(f"the proof of chunk {chunk} is not where the worker left it")
        forget_witness(folder)  # of a worker that was killed just before it could
        proof, cost = done
        proofs.append(ChunkProof(chunk=chunk, proof=proof, prove_cpu_s=cost.cpu_s, peak_rss_mb=cost.peak_rss_mb))
    return pack(ProveResponse(request_id=request.request_id, client_id=device.client_id, proofs=tuple(proofs)))
