"""An append-only log of digests, in formats that other people's software reads.

Those are C2SP's static tiles, signed notes, checkpoints, proofs and cosignatures (https://c2sp.org), with RFC 6962
hashing.

Nothing in it says what was logged: an entry is a hash over 32 random bytes and the digest of what was signed. Who has
the random bytes, which travel with a receipt, can show that it was logged; once they are destroyed, nobody can.
"""
