import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from mova.errors import UserError
from mova.media import images

GOLDEN = Path(__file__).parents[1] / "golden"
RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


def halves(mode="RGB", size=(60, 40)):
    """Left half red, right half white."""
    image = Image.new("RGB", size, WHITE)
    image.paste(RED, (0, 0, size[0] // 2, size[1]))
    return image.convert(mode)


def png_header(width, height):
    """A PNG that declares this size and holds no pixel of it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + checksum + struct.pack(">I", 99) + b"IDAT"


def test_crop_reproduces_the_first_frame_of_the_golden_runs():
    expected = np.asarray(Image.open(GOLDEN / "image_32x64.png").convert("RGB"))
    np.testing.assert_array_equal(images.load_first_frame(GOLDEN / "image.png", 32, 64), expected)


@pytest.mark.parametrize(
    ("size", "height", "width", "box"),
    [
        ((120, 80), 32, 64, (0, 10, 120, 70)),
        ((1280, 720), 352, 640, (0, 8, 1280, 712)),
        ((1920, 1080), 640, 352, (663, 0, 1257, 1080)),
        ((64, 64), 64, 64, (0, 0, 64, 64)),
        ((1, 1), 352, 640, (0, 0, 1, 1)),
        ((5000, 1), 352, 640, (2499, 0, 2500, 1)),
        ((1, 5000), 352, 640, (0, 2499, 1, 2500)),
    ],
)
def test_crop_box_is_centred_and_rounded_down(size, height, width, box):
    assert images.crop_box(size, height, width) == box


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000), (333, 777), (64, 32)])
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_every_image_size_fits(size, fit):
    image = images.fit_image(Image.new("RGB", size, RED), 32, 64, fit)
    assert (image.size, image.mode) == ((64, 32), "RGB")
    assert image.getpixel((31, 15)) == RED


def test_pad_keeps_the_whole_image_between_black_bars():
    frame = np.asarray(images.fit_image(Image.new("RGB", (40, 40), RED), 32, 64, "pad"))
    assert (
        (frame[:, :16] == BLACK).all() and (frame[:, 16:48] == RED).all() and (frame[:, 48:] == BLACK).all()
    )


def test_an_unknown_fit_is_refused_by_name():
    with pytest.raises(UserError, match=r'"crop" or "pad"'):
        images.fit_image(halves(), 32, 64, "stretch")


def test_white_frame_is_white():
    frame = images.white_frame(32, 64)
    assert frame.shape == (32, 64, 3) and frame.dtype == np.uint8 and (frame == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, orientation):
    turned_by = {
        2: 0,
        3: 3,
        4: 1,
        5: 5,
        6: 2,
        7: 6,
        8: 4,
    }  # how a camera that wrote this tag held the picture
    upright = halves(size=(60, 40))
    upright.paste(BLACK, (0, 0, 60, 10))
    stored = upright.transpose(turned_by[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(images.open_image(tmp_path / "turned.png"), upright)


def test_transparency_is_laid_on_white(tmp_path):
    clear = Image.new("RGBA", (60, 40), (0, 0, 0, 0))
    clear.paste((*RED, 255), (0, 0, 30, 40))
    palette = Image.new("P", (60, 40), 1)
    palette.putpalette([*RED, *BLACK])
    palette.paste(0, (0, 0, 30, 40))
    grey = Image.new("LA", (60, 40), (0, 0))
    clear.save(tmp_path / "rgba.png")
    clear.save(tmp_path / "rgba.webp", lossless=True)
    palette.save(tmp_path / "palette.png", transparency=1)
    palette.save(tmp_path / "palette.gif", transparency=1)
    grey.save(tmp_path / "grey.png")
    for name in ("rgba.png", "rgba.webp", "palette.png", "palette.gif"):
        np.testing.assert_array_equal(images.open_image(tmp_path / name), halves(), err_msg=name)
    assert images.open_image(tmp_path / "grey.png").getextrema() == ((255, 255),) * 3


def test_half_transparent_black_is_grey(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "veil.png")
    assert images.open_image(tmp_path / "veil.png").getpixel((0, 0)) == (127, 127, 127)


def test_16_bit_is_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None]
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    np.testing.assert_array_equal(
        np.asarray(images.open_image(tmp_path / "ramp.png"))[0, :, 0], np.arange(256)
    )


@pytest.mark.parametrize("name", ["moving.gif", "moving.webp", "moving.png"])
def test_an_animation_gives_its_first_frame(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    later = [Image.new("RGB", (60, 40), BLACK)] * 2
    halves().save(tmp_path / name, save_all=True, append_images=later, **options)
    np.testing.assert_array_equal(images.open_image(tmp_path / name), halves())


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("1", "PNG"), ("P", "BMP"), ("CMYK", "JPEG"), ("L", "JPEG")]
)
def test_every_colour_mode_becomes_rgb(tmp_path, mode, kind):
    halves(mode).save(tmp_path / "image", kind)
    image = images.open_image(tmp_path / "image")
    expected = halves(mode).convert("RGB")
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).mean() < 2


def test_the_kind_is_decided_by_content(tmp_path):
    halves().save(tmp_path / "really_png.jpg", "PNG")
    np.testing.assert_array_equal(images.open_image(tmp_path / "really_png.jpg"), halves())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"not an image at all\n" * 50, "not an image that can be read"),
        (b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', "save it as one of JPEG, PNG"),
        (b"<html><script>alert(1)</script>", "not an image that can be read"),
        (b"#EXTM3U\n#EXT-X-MEDIA:file:///etc/passwd\n", "not an image that can be read"),
        (b"II*\x00" + bytes(100), "not an image that can be read"),
        (png_header(8000, 8000), "up to 50 million"),
        (png_header(60000, 60000), "up to 50 million"),
        (png_header(60, 40), "damaged or cut short"),
        (png_header(0, 40), "damaged|not an image"),
    ],
    ids=["empty", "text", "svg", "html", "playlist", "tiff", "64 MP", "3600 MP", "no pixels", "no width"],
)
def test_what_is_no_image_is_refused(tmp_path, content, message):
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(UserError, match=message):
        images.open_image(tmp_path / "image.png")


@pytest.mark.parametrize("kind", images.IMAGE_FORMATS)
def test_a_truncated_image_is_refused(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "image", kind)
    whole = (tmp_path / "image").read_bytes()
    (tmp_path / "image").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"damaged or cut short|not an image"):
        images.open_image(tmp_path / "image")


def test_a_file_over_the_size_limit_is_refused_unread(tmp_path):
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(images.MAX_IMAGE_BYTES + 1)
    with pytest.raises(UserError, match="up to 50 MB"):
        images.open_image(tmp_path / "large.png")


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer for ever
    for path in (tmp_path / "missing.png", tmp_path, tmp_path / "pipe", Path("a\0b.png"), Path("n" * 300)):
        with pytest.raises(UserError, match=r"cannot be read|is not a file"):
            images.open_image(path)


@pytest.mark.parametrize(("position", "left"), [(0, 0), (0.25, 20), (0.5, 40), (1, 80)])
def test_the_cut_moves_from_one_end_to_the_other(position, left):
    assert images.crop_box((120, 40), 40, 40, position) == (left, 0, left + 40, 40)
    assert images.crop_box((40, 120), 40, 40, position) == (0, left, 40, left + 40)


def profile(red, green, blue):
    """An ICC profile of version 2.4: three primaries (adapted to D50) and sRGB's curve."""

    def fixed(*values):
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0)
    curve += fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79)
    tags = [(b"desc", text), (b"cprt", b"text" + bytes(4) + b"none\0")]
    points = {b"wtpt": (0.9642, 1, 0.8249), b"rXYZ": red, b"gXYZ": green, b"bXYZ": blue}
    tags += [(tag, b"XYZ " + bytes(4) + fixed(*values)) for tag, values in points.items()]
    tags += [(tag, curve) for tag in (b"rTRC", b"gTRC", b"bTRC")]
    at, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for tag, content in tags:
        content += bytes(-len(content) % 4)
        table += struct.pack(">4sII", tag, at + len(data), len(content))
        data += content
    body = struct.pack(">I", len(tags)) + table + data
    head = struct.pack(">I4sI4s4s4s", 128 + len(body), b"none", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + body


DISPLAY_P3 = profile((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_a_profiles_colours_are_those_it_means(tmp_path, mode, kind):
    if kind == "jpg" and mode != "RGB":
        pytest.skip("JPEG has neither transparency nor palettes")
    image = Image.new("RGB", (32, 32), (200, 90, 70))
    if mode == "P":
        image = image.quantize(4)
    elif mode == "RGBA":
        image.putalpha(Image.new("L", (32, 32), 255))
    kept = {"icc_profile": DISPLAY_P3} | ({"quality": 98} if kind == "jpg" else {"lossless": True})
    if kind == "png":
        kept.pop("lossless")
    image.save(tmp_path / f"a.{kind}", **kept)
    # The same colour by the primaries alone: P3 to BT.709 in linear light.
    light = (np.array((200, 90, 70)) / 255 + 0.055) / 1.055
    matrix = np.array([[1.22494, -0.22494, 0], [-0.042057, 1.042057, 0], [-0.019638, -0.078636, 1.098274]])
    linear = (matrix @ light**2.4).clip(0, 1)
    expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    found = np.asarray(images.open_image(tmp_path / f"a.{kind}"))[8, 8]
    np.testing.assert_allclose(found, expected, atol=3)


def test_pixels_of_an_srgb_picture_are_not_touched(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=srgb)
    np.testing.assert_array_equal(np.asarray(images.open_image(tmp_path / "a.png")), pixels)


def test_grey_with_a_profile_of_colours_and_damaged_profiles(tmp_path):
    grey = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("L", (8, 8), 100).save(tmp_path / "a.png", icc_profile=grey)
    np.testing.assert_allclose(np.asarray(images.open_image(tmp_path / "a.png")), 100, atol=1)
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png", icc_profile=DISPLAY_P3[:200])
    with pytest.raises(UserError, match=r"b\.png has a colour profile that cannot be used"):
        images.open_image(tmp_path / "b.png")
