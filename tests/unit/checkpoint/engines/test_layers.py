"""Tests of checkpoint/engines/layers.py: the layers that an image has in common with others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint.engines.layers import common

LAYERS = st.lists(st.sampled_from("abc"), max_size=5)


@pytest.mark.parametrize(
    ("wanted", "images", "expected"),
    [
        ("abc", [], ""),
        ("abc", [""], ""),
        ("", ["abc"], ""),
        ("abc", ["abc"], "abc"),
        ("abc", ["abcd"], "abc"),
        ("abc", ["ab"], "ab"),
        ("abc", ["a", "abd", ""], "ab"),
        ("abc", ["abd", "a"], "ab"),
    ],
)
def test_the_longest_common_beginning_of_any_image_is_found(
    wanted: str, images: list[str], expected: str
) -> None:
    assert common(list(wanted), [list(image) for image in images]) == list(expected)


def test_a_layer_upon_another_is_another_layer() -> None:
    assert common(["a", "b", "c"], [["b", "c"], ["x", "b", "c"]]) == []
    assert common(["a", "b", "c"], [["a", "x", "c"]]) == ["a"]


def test_layers_of_several_images_do_not_add_up() -> None:
    assert common(["a", "b", "c"], [["a", "b"], ["a", "x", "c"]]) == ["a", "b"]


@given(LAYERS, st.lists(LAYERS, max_size=4))
def test_what_is_found_is_a_beginning_and_none_is_longer(
    wanted: list[str], images: list[list[str]]
) -> None:
    found = common(wanted, images)
    length = len(found)
    assert found == wanted[:length]
    assert not found or any(image[:length] == found for image in images)
    assert length == len(wanted) or all(
        image[: length + 1] != wanted[: length + 1] for image in images
    )
