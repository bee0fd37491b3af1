"""Signatures that upstream made: of wheels (PEP 740), images (cosign) and models (OpenSSF Model Signing).

Bytes in, values out; what is not as it must be raises a SealiftError that says why this one signature does
not count. They are checked on the connected side and carried as evidence: the perimeter decides by its own
policy and its own attestations, never by these.
"""
