"""The checkout that these tests are in."""

from pathlib import Path

#: A program that runs here finds our packages.
ROOT = Path(__file__).resolve().parents[3]
