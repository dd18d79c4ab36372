"""Parsers under damaged and hostile input: a table of them, a seeded slice for every run of the tests, and a fuzzer."""
