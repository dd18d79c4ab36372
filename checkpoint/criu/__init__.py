"""CRIU: conversations with it, and what it writes.

shim.py comes first on a runtime's PATH and hands the conversation to interposer.py, which passes it
on in the part of a role (roles.py). page_server.py speaks for CRIU's page server, and images/ reads
and writes image files.
"""
