"""Images as they lie on disks: what a person would see is what a model sees."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from limits import case, refuses
from PIL import Image, ImageDraw, ImageFile

from zkapex.simulation.data.image import decode
from zkapex.simulation.data.pictures import read

RAMP = np.tile(np.arange(256, dtype=np.uint8), (64, 1))


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def seen(data: bytes) -> np.ndarray:
    image = decode(data, "x")
    assert image.mode == "RGB"
    return np.asarray(image)


@case("image-exif")
def test_an_image_is_turned_as_its_camera_was() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = seen(stored(Image.fromarray(RAMP), "JPEG", quality=95, exif=exif))
    assert turned.shape == (256, 64, 3)
    assert turned[0].mean() < 10
    assert turned[-1].mean() > 245


@case("image-sixteen")
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_sixteen_bits_keeps_its_shades(kind: str) -> None:
    assert (seen(stored(Image.fromarray(RAMP.astype(np.uint16) * 257), kind)) == RAMP[..., None]).all()


def strokes(mode: str) -> Image.Image:
    """A black ring on nothing."""
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((8, 8, 56, 56), outline=(0, 0, 0, 255), width=4)
    return image.quantize() if mode == "P" else image.convert(mode)


@case("image-transparent")
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    pixels = seen(stored(strokes(mode)))
    assert (pixels[32, 32] == 255).all()
    assert (pixels[32, 9] == 0).all()


@case("image-cmyk")
def test_other_colours_become_rgb() -> None:
    grey = Image.fromarray(RAMP)
    for image, kind in ((grey.convert("CMYK"), "JPEG"), (grey.convert("1"), "PNG"), (grey.convert("P"), "PNG")):
        assert seen(stored(image, kind)).shape == (64, 256, 3)
    animated = stored(grey, "GIF", save_all=True, append_images=[Image.new("L", grey.size)])
    assert seen(animated).max() > 250


WHOLE = stored(Image.fromarray(RAMP))


@pytest.mark.parametrize("data", [b"", b"<html>404</html>", WHOLE[:90], WHOLE[:-40], b"\x89PNG\r\n\x1a\n", bytes(100)])
@pytest.mark.parametrize("lenient", [False, True], ids=["", "though another library fills images up"])
def test_what_is_no_whole_image_is_named(
    data: bytes, lenient: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    path = tmp_path / "photo" / "cup" / "7.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    error = refuses("image-damaged", lambda: read(tmp_path).pixels(0, 8))
    assert str(path) in error.what
    assert "BytesIO" not in error.explain()


def test_an_image_too_large_is_named() -> None:
    refuses("image-large", lambda: decode(stored(Image.new("1", (10_000, 8_000))), "x"))
    refuses("image-large", lambda: decode(stored(Image.new("1", (20_000, 10_000))), "x"))


def test_pixels_that_are_no_colours_are_refused() -> None:
    refuses("image-colours", lambda: decode(stored(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), "x"))


def folder(root: Path, *names: bytes) -> None:
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(WHOLE)


@case("image-hidden")
def test_what_is_hidden_is_no_class_and_no_image(tmp_path: Path) -> None:
    folder(
        tmp_path,
        b"photo/cat/1.png",
        b"photo/cat/._1.png",
        b"photo/.ipynb_checkpoints/1-checkpoint.png",
        b".trash/cat/2.png",
    )
    gallery = read(tmp_path)
    assert (gallery.class_names, gallery.domain_names, len(gallery.images)) == (("cat",), ("photo",), 1)


@case("image-names")
def test_names_that_are_no_text_can_be_shown_and_stored(tmp_path: Path) -> None:
    folder(tmp_path, b"photo/caf\xe9/tasse-\xe0.png", b"photo/caf\xc3\xa9/1.png")
    gallery = read(tmp_path)
    assert "caf\\xe9" in gallery.class_names
    assert "café" in gallery.class_names
    "".join(gallery.class_names).encode("utf-8")
    bad = next(i for i in range(2) if b"\xe0" in os.fsencode(gallery.images[i]))  # type: ignore[arg-type]
    assert gallery.pixels(bad, 8).shape == (3, 8, 8)
    (tmp_path / os.fsdecode(b"photo/caf\xe9/tasse-\xe0.png")).write_bytes(b"x")
    refuses("image-damaged", lambda: gallery.pixels(bad, 8)).what.encode("utf-8")
