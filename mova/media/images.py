"""First frames: open what people bring, and fit it to the size of a clip.

A file is trusted in no respect: its kind is read from its content, and bytes and pixels are limited
before anything is decoded.
"""

import stat
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from mova.errors import UserError

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_IMAGE_BYTES = 50_000_000
MAX_IMAGE_PIXELS = 50_000_000
_SRGB = ImageCms.createProfile("sRGB")
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError)  # what Pillow's decoders raise


def load_first_frame(
    path: Path, height: int, width: int, fit: str = "crop", position: float = 0.5
) -> np.ndarray:
    """The image at `path`, fitted: uint8 [H, W, 3]. Raises UserError as `open_image` and `fit_image` do."""
    return np.asarray(fit_image(open_image(path), height, width, fit, position))


def white_frame(height: int, width: int) -> np.ndarray:
    """The first frame of a clip made from text alone: uint8 [H, W, 3]."""
    return np.full((height, width, 3), 255, np.uint8)


def open_image(path: Path) -> Image.Image:
    """The image at `path` in RGB, turned upright as its EXIF says.

    The colours are those that an embedded ICC profile means. Transparency is laid on white, the colour of
    the frame a model starts from when it is given none. 16-bit values are scaled to 8 bits; an animation
    gives its first frame.

    Raises:
        UserError: no file, not one of IMAGE_FORMATS, damaged (or its profile is), or over MAX_IMAGE_BYTES or
            MAX_IMAGE_PIXELS.
    """
    _check_file(path)
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError  # as Pillow itself does above its own, larger limit
            return _to_rgb(_to_srgb(ImageOps.exif_transpose(image), path.name))
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path.name} has too many pixels; an image may have up to {MAX_IMAGE_PIXELS // 10**6} million: "
            "resize it"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise UserError(
            f"{path.name} is not an image that can be read; save it as one of {', '.join(IMAGE_FORMATS)}"
        ) from error
    except DAMAGE as error:
        raise UserError(
            f"{path.name} is damaged or cut short ({error}); save it again as PNG or JPEG"
        ) from error


def crop_box(
    size: tuple[int, int], height: int, width: int, position: float = 0.5
) -> tuple[int, int, int, int]:
    """The (left, top, right, bottom) of an image that has the aspect of height and width.

    `size` is PIL's (width, height). `position` in 0..1 goes from the left or upper end to the other, 0.5 is
    the middle. The cut side and its margin are rounded down.
    """
    image_width, image_height = size
    crop_width = max(1, min(image_width, image_height * width // height))
    crop_height = max(1, min(image_height, image_width * height // width))
    left, top = int((image_width - crop_width) * position), int((image_height - crop_height) * position)
    return left, top, left + crop_width, top + crop_height


def fit_image(
    image: Image.Image, height: int, width: int, fit: str = "crop", position: float = 0.5
) -> Image.Image:
    """`image` at exactly this size: "crop" cuts what is outside the aspect, "pad" adds black bars.

    `position` is as for `crop_box`.

    "crop" cuts first and resizes then, both as the released pipeline does: the first frame a model sees
    decides every latent after it.

    Raises:
        UserError: `fit` is neither.
    """
    if fit == "crop":
        return image.crop(crop_box(image.size, height, width, position)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
    if fit == "pad":
        scale = min(width / image.width, height / image.height)
        inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        canvas = Image.new("RGB", (width, height), "black")
        canvas.paste(
            image.resize(inner, Image.Resampling.BICUBIC), ((width - inner[0]) // 2, (height - inner[1]) // 2)
        )
        return canvas
    raise UserError(f'fit={fit!r} is not known; give "crop" or "pad"')


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read: {reason}; check the name of the image") from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a file; give an image file")
    if status.st_size == 0:
        raise UserError(f"{path.name} is empty; give an image file with something in it")
    if status.st_size > MAX_IMAGE_BYTES:
        raise UserError(
            f"{path.name} has {status.st_size / 1e6:.0f} MB; an image may have up to "
            f"{MAX_IMAGE_BYTES // 10**6} MB: save it smaller"
        )


def _to_srgb(image: Image.Image, name: str) -> Image.Image:
    """`image` with the colours that its ICC profile means; as it is where that is sRGB already."""
    content = image.info.get("icc_profile")
    if not content:
        return image
    if image.mode == "P":
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
        image = _to_rgb(image)  # 16 bits
    # LittleCMS keeps no transparency of grey.
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    opaque = image.convert({"LA": "L", "RGBA": "RGB"}[image.mode]) if alpha else image
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(content))
        space = profile.profile.xcolor_space.strip()
        if (opaque.mode, space) in (("RGB", "GRAY"), ("L", "RGB")):
            opaque = opaque.convert("L" if space == "GRAY" else "RGB")
        transform = ImageCms.buildTransform(
            profile, _SRGB, opaque.mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC
        )
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise UserError(
            f"{name} has a colour profile that cannot be used, so its colours are unknown; save it as sRGB"
        ) from error
    if opaque.mode == "RGB" and _keeps_colours(transform):
        return image
    converted = ImageCms.applyTransform(opaque, transform)
    if alpha:
        converted.putalpha(alpha)
    return converted


def _keeps_colours(transform: ImageCms.ImageCmsTransform) -> bool:
    """True if the profile changes no colour by more than its own rounding."""
    steps = np.arange(0, 256, 17, np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(64, 64, 3)
    changed = np.asarray(ImageCms.applyTransform(Image.fromarray(colours), transform), np.int16)
    return np.abs(changed - colours).max() <= 2


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255
        return Image.fromarray((np.asarray(image, np.float32) / 257).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
