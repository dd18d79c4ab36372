"""Tests of transport/host_certificate.py: what is no certificate is told.

test_ssh.py verifies certificates.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.host_certificate import Certificate


@given(blob=st.binary(max_size=200))
def test_bytes_that_are_no_certificate_are_refused(blob: bytes) -> None:
    for kind in (b"", b"\0\0\0\x20ssh-ed25519-cert-v01@openssh.com"):
        with pytest.raises(ValueError):
            Certificate.parse(kind + blob)
