from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from vision_files import CLASSES, DOMAINS, gallery_arrays, write_folder

from zkapex.errors import InputError
from zkapex.simulation.data.pictures import read
from zkapex.simulation.scenarios.pacs import roles


def test_a_file_and_a_folder_of_the_same_images_are_the_same(tmp_path: Path) -> None:
    arrays = gallery_arrays(3)
    np.savez(tmp_path / "data.npz", **arrays)
    write_folder(arrays, tmp_path / "tree")
    file, folder = read(tmp_path / "data.npz"), read(tmp_path / "tree")
    for gallery in (file, folder):
        assert gallery.class_names == CLASSES
        assert gallery.domain_names == DOMAINS
        assert len(gallery.images) == 3 * len(CLASSES) * len(DOMAINS)
        assert roles(gallery) == ("photo", "sketch", ["cartoon"])
    place = {file.encoded(index): index for index in range(len(file.images))}
    for index in range(len(folder.images)):
        same = place[folder.encoded(index)]
        assert folder.labels[index] == file.labels[same]
        assert folder.domains[index] == file.domains[same]
        pixels = folder.pixels(index, 28)
        assert torch.equal(pixels, file.pixels(same, 28))
        assert int(pixels.mean((1, 2)).argmax()) == folder.labels[index]


def test_images_are_cut_to_a_square_and_resized(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    (tmp_path / "a" / "b").mkdir(parents=True)
    Image.fromarray(wide).save(tmp_path / "a" / "b" / "wide.PNG")
    Image.new("L", (10, 30), 255).save(tmp_path / "a" / "b" / "grey.jpg")
    gallery = read(tmp_path)
    for index in range(2):
        pixels = gallery.pixels(index, 14)
        assert pixels.shape == (3, 14, 14)
        assert pixels.min() > 0.95


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda a: a.pop("domains"), "lacks domains"),
        (lambda a: a.update(blob=a["blob"].astype(np.int64)), "uint8"),
        (lambda a: a.update(y=a["y"].astype(float)), "not all integers"),
        (lambda a: a.update(y=a["y"][:-1]), "offsets"),
        (lambda a: a.update(off=a["off"][::-1].copy()), "does not increase"),
        (lambda a: a.update(blob=a["blob"][:-1]), "does not increase"),
        (lambda a: a.update(y=a["y"] + 1), "counts to 3, and 3 have names"),
        (lambda a: a.update(domain=a["domain"] + 1), "counts to 3, and 3 have names"),
    ],
)
def test_a_file_that_is_something_else_is_refused(
    damage: Callable[[dict[str, Any]], None], what: str, tmp_path: Path
) -> None:
    arrays = gallery_arrays(2)
    damage(arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=what):
        read(tmp_path / "bad.npz")


def test_what_is_not_there_or_unreadable_is_refused(tmp_path: Path) -> None:
    for path in (None, tmp_path / "absent"):
        with pytest.raises(InputError) as error:
            read(path)
        assert "--data" in error.value.fix
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a readable"):
        read(tmp_path / "bad.npz")
    with pytest.raises(InputError, match="no images"):
        read(tmp_path)
    arrays = gallery_arrays(1)
    arrays["blob"] = np.zeros_like(arrays["blob"])
    np.savez(tmp_path / "zero.npz", **arrays)
    gallery = read(tmp_path / "zero.npz")
    with pytest.raises(InputError, match="number 0 of cartoon/cat cannot be decoded"):
        gallery.pixels(0, 28)


def test_roles_of_domains_come_from_their_names(tmp_path: Path) -> None:
    write_folder(gallery_arrays(1, ("ImageNet", "ImageNet-Sketch")), tmp_path / "pair")
    assert roles(read(tmp_path / "pair")) == ("ImageNet", "ImageNet-Sketch", [])
    write_folder(gallery_arrays(1, ("photo", "art")), tmp_path / "none")
    with pytest.raises(InputError, match="photo"):
        roles(read(tmp_path / "none"))
