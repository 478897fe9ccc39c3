"""Files that would fail in the middle of a run are refused before it begins."""

import cv2
import numpy as np
import pytest
from PIL import Image

from tasks import DataError
from tasks.image_reading import check_image, check_images, read_photo


def written(path, dtype=np.uint8):
    pixels = np.random.RandomState(0).randint(0, 255, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels if dtype == np.uint8 else pixels[..., 0].astype(dtype) * dtype(200)).save(path)
    return path


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "bmp", "gif", "webp", "ppm"])
def test_a_truncated_file_of_any_format_is_refused(tmp_path, ending):
    path = written(tmp_path / f"a.{ending}")
    check_image(path)
    content = path.read_bytes()
    for keep in (0, 20, len(content) // 2, len(content) - 30):
        path.write_bytes(content[:keep])
        with pytest.raises(DataError, match="cannot read image"):
            check_image(path)


def test_a_png_that_is_damaged_inside_is_refused(tmp_path):
    path = written(tmp_path / "a.png")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot read image"):
        check_image(path)


@pytest.mark.parametrize(("ending", "dtype"), [("png", np.uint16), ("tif", np.uint16), ("tif", np.float32)])
def test_more_than_8_bits_are_refused_when_the_file_is_opened(tmp_path, ending, dtype):
    with pytest.raises(DataError, match="more than 8 bits a pixel; convert it to 8 bits first"):
        check_image(written(tmp_path / f"a.{ending}", dtype))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_colors_of_16_bits_are_read_by_their_upper_half(tmp_path, ending):
    colors = np.random.RandomState(0).randint(0, 65536, (12, 12, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / f"a.{ending}"), colors[..., ::-1])
    check_image(tmp_path / f"a.{ending}")
    assert np.array_equal(read_photo(tmp_path / f"a.{ending}"), colors >> 8)


def test_a_tiff_of_floats_in_three_channels_is_refused_by_what_it_may_be(tmp_path):
    cv2.imwrite(str(tmp_path / "a.tif"), np.zeros((8, 8, 3), np.float32))
    with pytest.raises(DataError, match=r"a\.tif \(a damaged TIFF, or one of floats or of more channels"):
        check_image(tmp_path / "a.tif")


def test_the_first_damaged_file_of_a_set_is_named(tmp_path):
    paths = [str(written(tmp_path / f"{i}.jpg")) for i in range(20)]
    check_images("celeba", paths, tmp_path / "memory", "unpack it again")
    for i in (7, 12):
        (tmp_path / f"{i}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"celeba: cannot read image .*/7.jpg .*; unpack it again"):
        check_images("celeba", paths, tmp_path / "memory", "unpack it again")
