"""Which files of a folder are images, and reading them: every reading is compared with the array that was written."""

import os
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from conftest import fake_fundus
from PIL import Image

import retina.images as image_files
from retina.images import DataError, left_out, read_fundus, read_image, read_octa, visible_below

TURNED = {  # by EXIF's orientation
    3: lambda image: np.rot90(image, 2),
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    8: np.rot90,
}


@pytest.fixture
def random():
    return np.random.default_rng(0)


def deep(random, channels, bits=16, size=(30, 40)):
    """An image (height, width, channels), uint16 (uint8 for 8 bits), that uses so many bits, up to the brightest."""
    image = random.integers(0, 2**bits, (*size, channels)).astype(np.uint8 if bits == 8 else np.uint16)
    image[0, 0] = 2**bits - 1
    return image


def in_eight(image, bits=16):
    """What it should become, without alpha: (height, width, 3), uint8."""
    image = np.round(image[..., : 1 if image.shape[2] <= 2 else 3] * (255 / (2**bits - 1))).astype(np.uint8)
    return np.broadcast_to(image, (*image.shape[:2], 3))


def write_tiff(path, image, **options):
    """Write (height, width, channels) as TIFF."""
    channels = image.shape[2]
    alpha = {"extrasamples": ["unassalpha"]} if channels in (2, 4) and "photometric" not in options else {}
    options = {"photometric": "minisblack" if channels <= 2 else "rgb"} | alpha | options
    if options.get("planarconfig") == "separate":
        image = np.moveaxis(image, -1, 0)
    tifffile.imwrite(path, image.squeeze() if channels == 1 else image, **options)


def write_packed_tiff(path, image, bits):
    """Write (height, width, channels), uint16, as TIFF with so many bits per channel, each row in whole bytes."""
    height, width, channels = image.shape
    every = np.unpackbits(image.astype(">u2").view(np.uint8).reshape(*image.shape, 2), axis=-1)[..., -bits:]
    rows = np.packbits(every.reshape(height, -1), axis=1).tobytes()
    tags = {256: width, 257: height, 258: bits, 262: 1 if channels == 1 else 2, 277: channels, 278: height}
    tags[279] = len(rows)
    after = 8 + 2 + 12 * (len(tags) + 1) + 4  # the directory: the bits of each channel, then the pixels
    tags[273] = after + 8
    entries = [(code, 4, 1, value) for code, value in tags.items() if code != 258]
    entries.append((258, 3, channels, after if channels > 1 else bits))
    directory = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    header = b"II*\0" + struct.pack("<IH", 8, len(entries))
    path.write_bytes(header + directory + bytes(4) + struct.pack("<4H", *[bits] * 4) + rows)


def chunk(kind, content):
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def write_png(path, image, *chunks):
    """Write (height, width, channels), uint16, as PNG of 16 bits; chunks go before the pixels."""
    content = imagecodecs.png_encode(image.squeeze())
    path.write_bytes(content[:33] + b"".join(chunks) + content[33:])  # after the header


WRITERS = {".tif": write_tiff, ".png": write_png}


# --- folders ---------------------------------------------------------------------------------------------------------


def test_leftovers_of_a_system_are_not_visible(tmp_path):
    leftovers = "._1.png", ".trash/1.png", "a/__MACOSX/1.png", "@eaDir/1.png/THUMB.jpg", "#recycle/1.png"
    for name in ("a/1.png", *leftovers, "@Recycle/1.png", "$RECYCLE.BIN/S-1/$R1.png", "a/Desktop.ini"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert visible_below(tmp_path) == [tmp_path / "a", tmp_path / "a/1.png"]


def test_linked_folders_are_searched_but_not_in_a_circle(tmp_path):
    for name, target in (("a/b", "../b"), ("b/a", "../a")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(target)
    (tmp_path / "b/1.png").touch()
    assert visible_below(tmp_path) == [tmp_path / name for name in ("a", "a/b", "a/b/1.png", "b", "b/1.png", "b/a")]


def test_files_that_are_no_images_are_counted_by_suffix_in_any_case(tmp_path):
    names = ("a.png", "b.JPE", "a.fda", "b.FDA", "c.heic", "a.txt", "README", "IM.0001", "IM.0002")
    for name in names:
        (tmp_path / name).touch()
    found = left_out([tmp_path, *(tmp_path / name for name in names)])
    assert found == "2 .fda, 1 .heic, 1 .txt, 3 without suffix"


# --- up to eight bits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "suffix", "options", "tolerance"),
    [
        *((mode, "png", {}, 0) for mode in ("RGB", "RGBA")),
        *(("RGB", suffix, {}, 0) for suffix in ("bmp", "tif", "ppm", "jp2", "j2k", "tga", "pcx", "qoi")),
        *((mode, "tif", {"compression": "tiff_lzw"}, 0) for mode in ("RGB", "RGBA")),
        *((mode, "webp", {"lossless": True}, 0) for mode in ("RGB", "RGBA")),
        *(("P", suffix, {}, 60) for suffix in ("png", "tif", "gif")),  # 256 colours
        *(("RGB", suffix, {"quality": 95}, 12) for suffix in ("jpg", "jfif", "JPE")),
        *(("CMYK", suffix, {"quality": 95}, 12) for suffix in ("jpg", "tif")),
        ("RGB", "tif", {"compression": "jpeg", "quality": 95}, 12),
        ("RGB", "avif", {"quality": 95}, 20),
    ],
)
def test_colour_images_are_read_and_found_in_folders(tmp_path, random, mode, suffix, options, tolerance):
    fundus, path = fake_fundus(random, 40, 50), tmp_path / f"1_OD.{suffix}"
    Image.fromarray(fundus).convert(mode).save(path, **options)
    assert np.abs(read_fundus(path).astype(int) - fundus).max() <= tolerance
    assert left_out([path]) == ""


@pytest.mark.parametrize(
    ("mode", "suffix"), [*((mode, suffix) for mode in ("L", "1", "LA") for suffix in ("png", "tif")), ("L", "pgm")]
)
def test_grey_images_are_read(tmp_path, mode, suffix):
    grey, path = np.uint8(np.kron([[0, 255, 0], [255, 255, 0]], np.ones((4, 4)))), tmp_path / f"a.{suffix}"
    Image.fromarray(grey).convert(mode).save(path)
    assert np.array_equal(read_octa(path, 1)[..., 0], grey)
    assert np.array_equal(read_octa(path, 4), np.dstack([grey, grey, grey, np.full_like(grey, 255)]))


def test_octa_has_one_channel_or_four_and_transparent_pixels_of_a_photograph_are_black(tmp_path):
    rgba = np.uint8([[[10, 11, 15, 255], [9, 8, 7, 128], [9, 8, 7, 127], [9, 8, 7, 0]]])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert read_octa(tmp_path / "a.png", 1).tolist() == [[[12], [8], [8], [8]]]
    assert np.array_equal(read_octa(tmp_path / "a.png", 4), rgba)
    assert read_fundus(tmp_path / "a.png").tolist() == [[[10, 11, 15], [9, 8, 7], [0, 0, 0], [0, 0, 0]]]


# --- deeper ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "lzw", "packbits"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_is_read_whatever_its_layout(tmp_path, random, bits, channels, planes, compression, order):
    image = deep(random, channels, bits)
    layout = {} if channels == 1 else {"planarconfig": planes}
    alpha = image[..., -1:] if channels in (2, 4) else np.full_like(image[..., :1], 2**bits - 1)
    for more in ({"rowsperstrip": 7}, {"tile": (16, 16)}):
        write_tiff(tmp_path / "a.tif", image, compression=compression, byteorder=order, **layout, **more)
        read = read_image(tmp_path / "a.tif")
        assert np.array_equal(read[..., :3], in_eight(image, bits))
        assert np.array_equal(read[..., 3:], in_eight(alpha, bits)[..., :1])


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_with_packed_bits_is_read_as_it_says(tmp_path, random, bits, channels):
    image = deep(random, channels, bits) // 2  # half as bright as possible
    write_packed_tiff(tmp_path / "a.tif", image, bits)
    assert np.array_equal(read_fundus(tmp_path / "a.tif"), in_eight(image, bits))


@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero_is_read_as_white(tmp_path, random, bits):
    image = deep(random, 1, bits)
    write_tiff(tmp_path / "a.tif", image, photometric="miniswhite")
    assert np.array_equal(read_fundus(tmp_path / "a.tif"), 255 - in_eight(image, bits))


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(("suffix", "bits"), [(".tif", 8), (".tif", 16), (".png", 8), (".png", 16)])
def test_image_is_turned_upright(tmp_path, random, orientation, suffix, bits):
    image, path, exif = deep(random, 3, bits), tmp_path / f"a{suffix}", Image.Exif()
    exif[274] = orientation
    if suffix == ".tif":
        write_tiff(path, image, extratags=[(274, 3, 1, orientation, True)])
    elif bits == 8:
        Image.fromarray(image).save(path, exif=exif)
    else:
        write_png(path, image, chunk(b"eXIf", exif.tobytes()[6:]))
    assert np.array_equal(read_fundus(path), TURNED[orientation](in_eight(image, bits)))


def test_fourth_channel_that_is_no_alpha_is_ignored(tmp_path, random):
    image = deep(random, 4)
    write_tiff(tmp_path / "a.tif", image, extrasamples=["unspecified"])
    assert np.array_equal(read_image(tmp_path / "a.tif"), np.dstack([in_eight(image), np.full((30, 40), 255)]))


THUMBNAIL = np.zeros((8, 16), np.uint8), {"subfiletype": 1, "photometric": "minisblack"}
MASK = np.zeros((8, 16), bool), {"subfiletype": 4, "photometric": "mask"}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", [(THUMBNAIL, None), (None, THUMBNAIL), (None, MASK)])
def test_page_that_is_a_thumbnail_or_a_mask_is_no_image(tmp_path, random, order, bits):
    image = deep(random, 3, bits)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for page, options in (page or (image, {"photometric": "rgb"}) for page in order):
            tiff.write(page, metadata=None, **options)
    assert np.array_equal(read_fundus(tmp_path / "a.tif"), in_eight(image, bits))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_sixteen_bits_is_read(tmp_path, random, channels):
    image = deep(random, channels)
    write_png(tmp_path / "a.png", image)
    read = read_image(tmp_path / "a.png")
    alpha = image[..., -1:] if channels in (2, 4) else np.full_like(image[..., :1], 65535)
    assert np.array_equal(read, np.dstack([in_eight(image), in_eight(alpha)[..., :1]]))


@pytest.mark.parametrize(
    ("suffix", "bits", "write"),
    [
        ("jp2", 12, lambda image: imagecodecs.jpeg2k_encode(image, level=0, bitspersample=12, codecformat="jp2")),
        ("jp2", 12, lambda image: imagecodecs.jpeg2k_encode(image, level=0, codecformat="jp2")),  # of the 16 it has
        ("jp2", 16, lambda image: imagecodecs.jpeg2k_encode(image, level=0, codecformat="jp2")),
        ("ppm", 12, lambda image: b"P6 40 30 4095\n" + image.astype(">u2").tobytes()),
    ],
)
def test_other_formats_with_more_than_eight_bits_say_how_many(tmp_path, random, suffix, bits, write):
    image = deep(random, 3, bits) // 2  # half as bright as possible
    (tmp_path / f"a.{suffix}").write_bytes(write(image))
    assert np.abs(read_fundus(tmp_path / f"a.{suffix}").astype(int) - in_eight(image, bits)).max() <= 1


# --- refused ---------------------------------------------------------------------------------------------------------


def with_kind(path, kind, channels=1, **options):
    write_tiff(path, np.ones((8, 9, channels), kind), **options)


def write_raw_of_camera(path):
    """The complete image is in a page below that of the thumbnail."""
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(np.zeros((8, 12, 3), np.uint8), photometric="rgb", subfiletype=1, subifds=1, metadata=None)
        tiff.write(np.ones((8, 12), np.uint16), photometric="minisblack", metadata=None)


def write_without_tile(path):
    tiles = iter([np.ones((16, 16), np.uint16), None, None, np.ones((16, 16), np.uint16)])
    tifffile.imwrite(path, tiles, shape=(32, 32), dtype=np.uint16, tile=(16, 16))


def write_in_half(path, **options):
    write_tiff(path, deep(np.random.default_rng(0), 3, **options), compression="lzw", rowsperstrip=3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_frames(path):
    frames = [Image.fromarray(fake_fundus(np.random.default_rng(seed), 20, 30)) for seed in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


REFUSED = {  # kind -> suffix, how it is written, what the line says
    **{kind: ("tif", lambda path, kind=kind: with_kind(path, kind), kind) for kind in ("float32", "int16")},
    "Lab": ("tif", lambda path: with_kind(path, "uint16", 3, photometric="cielab"), "save it as grey or RGB"),
    "CMYK of 16 bits": ("tif", lambda path: with_kind(path, "uint16", 4, photometric="separated"), "grey or RGB"),
    "premultiplied": ("tif", lambda path: with_kind(path, "uint16", 4, extrasamples=["assocalpha"]), "without alpha"),
    "PGM of 16 bits": ("pgm", lambda path: path.write_bytes(b"P5 1 1 65535\nab"), "8 or 16 bits per channel"),
    "raw file of a camera": ("tif", write_raw_of_camera, "contains only reduced copies"),
    "without a tile": ("tif", write_without_tile, "parts of it are missing"),
    "cut off, 16 bits": ("tif", write_in_half, "cannot be read as an image"),
    "cut off, 8 bits": ("tif", lambda path: write_in_half(path, bits=8), "cannot be read as an image"),
    "empty": ("png", lambda path: path.touch(), "cannot be read as an image"),
    "DICOM": ("png", lambda path: path.write_bytes(bytes(128) + b"DICM" + bytes(200)), "cannot be read as an image"),
    "HEIC": ("jpg", lambda path: path.write_bytes(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(99)), "not an image"),
    "pipe": ("png", os.mkfifo, "not a file"),
    "transparent": ("png", lambda path: Image.new("RGBA", (9, 9)).save(path), "is entirely transparent"),
    **{f"pages: {kind}": (kind, write_frames, "contains 3 images") for kind in ("png", "tif", "gif")},
}


@pytest.mark.parametrize(("suffix", "write", "said"), REFUSED.values(), ids=REFUSED)
def test_file_that_would_be_read_wrong_is_refused_in_a_line_with_its_name(tmp_path, suffix, write, said):
    path = tmp_path / f"7_OS.{suffix}"
    write(path)
    with pytest.raises(DataError, match=f"^{path}: .*{said}") as caught:
        read_fundus(path)
    assert "\n" not in str(caught.value)


# --- significant bits of images that do not say ----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_bits_that_are_not_said_are_those_of_the_brightest_value(tmp_path, random, suffix, channels, bits):
    image, path = deep(random, channels, bits), tmp_path / f"a{suffix}"
    WRITERS[suffix](path, image)
    assert np.array_equal(read_fundus(path), in_eight(image, bits))


@pytest.mark.parametrize("brightest", [4095, 65535])
@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("suffix", WRITERS)
def test_alpha_does_not_count_as_brightness_and_is_opaque(tmp_path, random, suffix, channels, brightest):
    image = deep(random, channels, 12)
    image[..., -1] = brightest
    WRITERS[suffix](tmp_path / f"a{suffix}", image)
    read = read_image(tmp_path / f"a{suffix}")
    assert np.array_equal(read, np.dstack([in_eight(image, 12), np.full(image.shape[:2], 255)]))


def test_tiff_that_states_its_largest_value_is_not_brightened(tmp_path):
    levels = np.linspace(0, 900, 400, dtype=np.uint16).reshape(20, 20)
    tifffile.imwrite(tmp_path / "a.tif", levels, extratags=[(281, "H", 1, 4095, True)])
    assert read_image(tmp_path / "a.tif")[..., 0].max() == round(255 * 900 / 4095)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, bool])
@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 3)])
def test_resized_keeps_kind_and_channels_of_an_image(dtype, shape):
    image = (200 * (np.indices(shape)[1] < 30)).astype(dtype)
    small = image_files.resized(image, (20, 24))
    assert (small.dtype, small.shape) == (image.dtype, (20, 24, *shape[2:]))
    assert (small[:, 0] == image.max()).all()
    assert image_files.resized(image, (40, 60)) is image


def test_stripes_average_when_they_shrink_except_with_nearest():
    stripes = np.float32(np.arange(64) % 2) * np.ones((64, 1), np.float32)
    assert image_files.resized(stripes, (16, 16))[4:-4, 4:-4] == pytest.approx(0.5, abs=0.05)
    assert image_files.resized(stripes, (16, 16), image_files.SMOOTH)[4:-4, 4:-4] == pytest.approx(0.5, abs=0.05)
    assert set(image_files.resized(stripes, (16, 16), Image.Resampling.NEAREST).flat) <= {0, 1}


def test_grey_levels_are_rounded_and_clipped():
    assert image_files.to_uint8(np.array([-0.1, 0, 0.4 / 255, 0.6 / 255, 1, 1.1])).tolist() == [0, 0, 0, 1, 255, 255]
