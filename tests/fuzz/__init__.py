"""Damaged and hostile input for every parser, and hostile hosts (scripts/fuzz).

parsers.py is the table of all parsers. Every run of the tests tries a seeded slice of the inputs
and sequences; __main__.py goes on from there, guided by coverage.
"""
