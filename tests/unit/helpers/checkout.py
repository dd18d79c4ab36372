"""The place of the checkout that these tests are in."""

from pathlib import Path

#: The working directory in which `python -m` finds the packages of the project.
ROOT = Path(__file__).resolve().parents[3]
