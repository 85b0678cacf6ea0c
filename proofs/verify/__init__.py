"""Verifying a receipt offline: the one public entry, with a policy that says whom and what the verifier relies on.

Five depths, each reached, not reached, or failed, which raises:

``signature``  a key that is pinned has signed it, while its signatures counted
``evidence``   the files are those that were signed, belong together, and the receipt says what they say
``proofs``     every zero-knowledge proof verifies; the rejected ones of a failed receipt do not
``time``       a timestamping authority, or witnesses of a log, say by when it existed
``ledger``     it is in a log that is relied on, seen by enough witnesses, and its issuer has not withdrawn it
"""

from zkapex.proofs.verify.engine import engine_of, reference_string
from zkapex.proofs.verify.policy import DEPTHS, Depth, DepthName, OnChunk, Policy, Verified
from zkapex.proofs.verify.receipt import read_trusted, verify_receipt

__all__ = [
    "DEPTHS",
    "Depth",
    "DepthName",
    "OnChunk",
    "Policy",
    "Verified",
    "engine_of",
    "read_trusted",
    "reference_string",
    "verify_receipt",
]
