import numpy as np
import pytest

from recipes.pocket.world.canvas import Painter, band, disc


def _centre_of_mass(picture: np.ndarray) -> tuple[float, float]:
    weight = picture[0] / picture[0].sum()
    rows, columns = np.indices(weight.shape) + 0.5
    return float((weight * columns).sum()), float((weight * rows).sum())


@pytest.mark.parametrize("x", [3.0, 3.25, 3.5, 3.75])
def test_a_sprite_lands_on_quarters_of_a_pixel(x):
    painter = Painter(20, 20)
    painter.ellipse(10, 10, 5, 5, (200, 100, 50))
    frame = np.zeros((3, 40, 40), np.float32)
    painter.sprite().place(frame, x, 7.25)
    assert _centre_of_mass(frame) == pytest.approx((x + 10, 17.25), abs=0.15)
    assert frame[:, 17, 13 + 0] == pytest.approx([200, 100, 50], abs=1)


def test_a_sprite_is_cut_at_the_border():
    painter = Painter(20, 20)
    painter.rectangle(2, 2, 18, 18, (255, 255, 255))
    frame = np.zeros((3, 16, 16), np.float32)
    painter.sprite().place(frame, -10, -10)
    assert frame[0, :7, :7] == pytest.approx(255)
    assert not frame[0, 9:].any()


def test_a_faint_sprite_mixes_with_what_is_behind():
    painter = Painter(8, 8)
    painter.rectangle(1, 1, 7, 7, (100, 100, 100))
    frame = np.full((3, 8, 8), 200, np.float32)
    painter.sprite().place(frame, 0, 0, 0.5)
    assert frame[0, 4, 4] == pytest.approx(150, abs=1)
    assert frame[0, 0, 0] == 200


def test_band_covers_exactly_the_height_between_its_curves():
    rows = np.arange(10)[:, None] + 0.5
    coverage = band(rows, np.array([[2.3]]), np.array([[6.8]]))
    assert coverage.sum() == pytest.approx(4.5)
    assert coverage.max() == 1


def test_disc_covers_the_area_of_its_ellipse():
    grid = np.arange(60) - 29.5
    assert disc(grid[None], grid[:, None], 20.0, 20.0).sum() == pytest.approx(np.pi * 400, rel=0.01)
