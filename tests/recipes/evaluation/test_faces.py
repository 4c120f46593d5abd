import numpy as np
import pytest

from recipes.pocket.evaluation.faces import Place, find_face
from recipes.pocket.world.person import EYE_HEIGHT
from recipes.pocket.world.render import make_scene


@pytest.fixture(scope="module")
def faces(speech):
    scenes = [make_scene(3_000_000 + seed, "face", speech=speech) for seed in range(6)]
    return [(scene.frames[:25], _place(scene)) for scene in scenes]


def _place(scene):
    layout = scene.layout
    return Place(scene.attributes["person"], layout["half_head"], layout["x"], layout["y"])


def test_true_faces_are_whole_at_their_place(faces):
    assert all(find_face(frames, place).is_whole for frames, place in faces)


def test_a_face_is_found_without_its_place(faces):
    frames, place = faces[0]
    found = find_face(frames)
    assert found.is_whole
    assert abs(found.place.x - place.x) < 6
    assert abs(found.place.y - place.y) < 6


def test_an_eye_in_place_of_the_nose_is_no_whole_face(faces):
    for frames, place in faces:
        x, y = int(place.x), int(place.y + EYE_HEIGHT[place.kind] * place.size)
        aside, r = int(0.335 * place.size), int(0.2 * place.size)
        damaged = frames.copy()
        eye = frames[:, y - r : y + r, x + aside - r : x + aside + r]
        damaged[:, y : y + 2 * r, x - r : x + r] = eye
        damaged[:, y - r : y + r, x + aside - r : x + aside + r] = frames[
            :, y + r, None, x + aside - r : x + aside + r
        ]
        assert not find_face(damaged, place).is_whole


def test_a_face_without_a_mouth_is_seldom_taken_for_a_whole_one(faces):
    """What is left of a moustache may pass for lips."""
    passed = 0
    for frames, place in faces:
        x, y = int(place.x), int(place.y + 0.5 * place.size)
        damaged = frames.copy()
        damaged[:, y - 8 : y + 14, x - 18 : x + 18] = frames[:, y - 9, None, x - 18 : x + 18]
        passed += find_face(damaged, place).is_whole
    assert passed <= 1


def test_a_plain_picture_has_no_face():
    assert not find_face(np.full((10, 128, 224, 3), 200, np.uint8)).is_whole
