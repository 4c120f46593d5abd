"""Crops that keep a face. The photograph is NASA's, of Eileen Collins, and in the public domain."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from mova.media.faces import largest_face, position_with_face
from mova.media.images import crop_box

FACE = (111, 43, 169, 101)  # from brow to chin


@pytest.fixture(scope="module")
def astronaut():
    return Image.open(Path(__file__).with_name("astronaut.jpg")).convert("RGB")


@pytest.fixture(scope="module")
def grass():
    """A texture without a face."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 300, 3), np.uint8))


def placed(astronaut, size, corner):
    """The photograph on a grey ground, and where its face then is."""
    picture = Image.new("RGB", size, (120, 130, 120))
    picture.paste(astronaut, corner)
    return picture, tuple(edge + corner[index % 2] for index, edge in enumerate(FACE))


def is_inside(face, box):
    return box[0] <= face[0] and box[1] <= face[1] and face[2] <= box[2] and face[3] <= box[3]


def test_the_face_is_found_where_it_is(astronaut):
    assert largest_face(astronaut) == pytest.approx(FACE, abs=8)
    assert largest_face(ImageOps.mirror(astronaut))[2] == pytest.approx(320 - FACE[0], abs=8)


@pytest.mark.parametrize(
    ("size", "corner", "shape"),
    [
        ((320, 320), (0, 0), (128, 224)),  # the middle would cut her brow
        ((1000, 320), (0, 0), (128, 224)),
        ((1000, 320), (680, 0), (224, 128)),
        ((320, 900), (0, 580), (128, 224)),
        ((320, 900), (0, 0), (352, 640)),
    ],
)
def test_a_cut_picture_keeps_the_face_where_the_middle_does_not(astronaut, size, corner, shape):
    picture, face = placed(astronaut, size, corner)
    assert is_inside(face, crop_box(size, *shape, position_with_face(picture, *shape)))
    assert not is_inside(face, crop_box(size, *shape, 0.5))


def test_of_two_faces_the_larger_is_kept(astronaut):
    picture, face = placed(astronaut, (1000, 320), (680, 0))
    picture.paste(astronaut.resize((220, 220)), (0, 0))
    assert is_inside(face, crop_box(picture.size, 128, 224, position_with_face(picture, 128, 224)))


def test_without_a_face_a_portrait_keeps_its_upper_third_and_all_else_its_middle(grass):
    assert largest_face(grass) is None
    _, top, _, bottom = crop_box(grass.size, 128, 224, position_with_face(grass, 128, 224))
    assert (top + bottom) / 2 == pytest.approx(grass.height / 3, abs=2)
    assert position_with_face(grass, 224, 128) == 0.5
    assert position_with_face(grass.rotate(90, expand=True), 128, 224) == 0.5


def test_a_picture_that_is_not_cut_is_not_searched(monkeypatch, astronaut):
    monkeypatch.setattr("mova.media.faces.largest_face", None)
    assert position_with_face(astronaut, 512, 512) == 0.5
