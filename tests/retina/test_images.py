"""Which files of a folder are images, and reading them: every reading is compared with the array that was written."""

import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest
import tifffile
from conftest import fake_fundus
from PIL import Image

import retina.images as image_files
from pairs.dataset import load_pair
from retina.images import DataError, assumed_bits, left_out, read_fundus, read_image, read_octa, visible_below

PNG_KINDS = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> colour type


@pytest.fixture
def random():
    return np.random.default_rng(0)


def deep(random, channels, bits=16, size=(30, 40)):
    """An image (height, width, channels), uint16, that uses so many bits, up to the brightest value."""
    image = random.integers(0, 2**bits, (*size, channels)).astype(np.uint16)
    image[0, 0] = 2**bits - 1
    return image


def in_eight(image, bits=16):
    """What it should become, without alpha: (height, width, 3), uint8."""
    image = np.round(image[..., : 1 if image.shape[2] <= 2 else 3] * (255 / (2**bits - 1))).astype(np.uint8)
    return np.broadcast_to(image, (*image.shape[:2], 3))


def write_tiff(path, image, **options):
    """Write (height, width, channels) as TIFF."""
    channels = image.shape[2]
    options.setdefault("photometric", "minisblack" if channels <= 2 else "rgb")
    if channels in (2, 4) and options["photometric"] != "separated":
        options.setdefault("extrasamples", ["unassalpha"])
    if options.get("planarconfig") == "separate":
        image = np.moveaxis(image, -1, 0)
    tifffile.imwrite(path, image.squeeze() if channels == 1 else image, **options)


def write_packed_tiff(path, image, bits, photometric=None):
    """Write (height, width, channels), uint16, as TIFF with so many bits per channel, each row in whole bytes."""
    height, width, channels = image.shape
    every = np.unpackbits(image.astype(">u2").view(np.uint8).reshape(*image.shape, 2), axis=-1)[..., -bits:]
    rows = np.packbits(every.reshape(height, -1), axis=1).tobytes()
    photometric = (1 if channels == 1 else 2) if photometric is None else photometric
    tags = {256: width, 257: height, 258: bits, 262: photometric, 277: channels, 278: height, 279: len(rows)}
    directory_size = 2 + 12 * (len(tags) + 1) + 4
    after = 8 + directory_size  # of the directory: the bits of each channel, then the pixels
    tags[273] = after + 8
    entries = [(code, 4, 1, value) for code, value in tags.items()]
    if channels > 1:
        entries = [(258, 3, channels, after) if entry[0] == 258 else entry for entry in entries]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    header = b"II*\0" + struct.pack("<IH", 8, len(entries))
    path.write_bytes(header + directory + bytes(4) + struct.pack("<4H", *[bits] * 4) + rows)


def chunk(kind, content):
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def write_png(path, image, *chunks, interlaced=False):
    """Write (height, width, channels), uint16, as PNG of 16 bits; chunks go before the pixels."""
    height, width, channels = image.shape
    # Adam7: first row and column, and steps, of each pass
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [image[r::dr, c::dc] for r, c, dr, dc in passes] if interlaced else [image]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for part in parts if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, 16, PNG_KINDS[channels], 0, 0, interlaced)
    pieces = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(pieces))


def write_jpeg_2000(path, image, bits=16):
    """Write (height, width, channels), uint16, as JPEG 2000 without loss."""
    encoded = imagecodecs.jpeg2k_encode(image.squeeze(), level=0, codecformat="jp2", bitspersample=bits)
    path.write_bytes(encoded)


def write_pnm(path, image, top=2**16 - 1):
    """Write (height, width, 1 or 3), uint16, as PGM or PPM."""
    height, width, channels = image.shape
    header = f"P{5 if channels == 1 else 6}\n# made by hand\n{width} {height}\n{top}\n"
    path.write_bytes(header.encode() + image.astype(">u2").tobytes())


WRITERS = {".tif": write_tiff, ".png": write_png, ".jp2": write_jpeg_2000, ".ppm": write_pnm}


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "leftover",
    [
        *("._1.png", ".trash/1.png", "__MACOSX/1.png", "a/__MACOSX/1.png"),
        *("@eaDir/1.png/SYNOPHOTO_THUMB_XL.jpg", "a/@eaDir/1.png", "#recycle/1.png", "#snapshot/1.png"),
        *("@Recycle/1.png", "@Recently-Snapshot/1.png", "~snapshot/1.png", "lost+found/1.png"),
        *("$RECYCLE.BIN/S-1/$R1.png", "$Recycle.Bin/1.png", "RECYCLER/1.png", "System Volume Information/1.png"),
        *("Thumbs.db", "THUMBS.DB", "desktop.ini", "a/Desktop.ini"),
    ],
)
def test_leftovers_of_a_system_are_not_visible(tmp_path, leftover):
    for name in ("a/1.png", leftover):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert visible_below(tmp_path) == [tmp_path / "a", tmp_path / "a/1.png"]


@pytest.mark.parametrize("name", ["recycle", "snapshots", "thumbs", "eaDir", "found", "a@eaDir", "tmp", "system"])
def test_folders_with_similar_names_are_visible(tmp_path, name):
    (tmp_path / name).mkdir()
    assert visible_below(tmp_path) == [tmp_path / name]


def test_linked_folders_are_searched(tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    for path in (folder, elsewhere):
        path.mkdir()
    (elsewhere / "1.png").touch()
    (folder / "link").symlink_to(elsewhere)
    assert visible_below(folder) == [folder / "link", folder / "link/1.png"]


def test_links_that_lead_in_a_circle_are_left_out(tmp_path):
    for name, target in (("a/b", "../b"), ("b/a", "../a")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(target)
    (tmp_path / "b/1.png").touch()
    assert visible_below(tmp_path) == [tmp_path / name for name in ("a", "a/b", "a/b/1.png", "b", "b/1.png", "b/a")]


def files(folder, *names):
    """Empty files of these names."""
    for name in names:
        (folder / name).touch()
    return [folder / name for name in names]


def test_files_that_are_no_images_are_counted_by_suffix_in_any_case(tmp_path):
    paths = files(tmp_path, "a.png", "b.JPE", "a.dcm", "b.DCM", "c.heic", "a.txt", "README", "IM.0001", "IM.0002")
    assert left_out([tmp_path, *paths]).text == "2 .dcm, 1 .heic, 1 .txt, 3 without suffix"


def test_nothing_is_left_out_of_a_folder_of_images(tmp_path):
    assert left_out(files(tmp_path, "a.png", "b.webp")) == ("", False)


@pytest.mark.parametrize("name", ["a.txt", "a.CSV", "a.xlsx", "a.pdf", "a.zip", "a.py", "a.ini"])
def test_documents_are_no_photographs(tmp_path, name):
    assert not left_out(files(tmp_path, name)).may_be_photographs


@pytest.mark.parametrize("name", ["a.dcm", "a.HEIC", "a.nef", "a.eps", "a", "a.17"])
def test_other_files_may_be_photographs(tmp_path, name):
    assert left_out(files(tmp_path, "a.txt", name)).may_be_photographs


@pytest.mark.parametrize("suffix", ["eps", "pdf", "wmf", "mpg", "fits", "h5", "grib", "bufr", "ico", "cur", "icns"])
def test_files_that_are_no_pictures_are_not_taken_for_images(suffix):
    assert f".{suffix}" not in image_files.FORMATS


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "suffix", "options", "tolerance"),
    [
        ("RGB", "png", {}, 0),
        ("RGBA", "png", {}, 0),
        ("RGB", "bmp", {}, 0),
        ("RGB", "dib", {}, 0),
        ("RGB", "tif", {"compression": "tiff_lzw"}, 0),
        ("RGBA", "tif", {"compression": "tiff_lzw"}, 0),
        ("CMYK", "tif", {}, 0),
        ("P", "tif", {}, 60),
        ("RGB", "tif", {"compression": "jpeg", "quality": 95}, 12),
        ("RGB", "jpg", {"quality": 95}, 12),
        ("RGB", "jfif", {"quality": 95}, 12),
        ("RGB", "JPE", {"quality": 95}, 12),
        ("CMYK", "jpg", {"quality": 95}, 12),
        ("P", "png", {}, 60),  # 256 colours
        ("RGB", "gif", {}, 60),
        ("RGB", "webp", {"lossless": True}, 0),
        ("RGBA", "webp", {"lossless": True}, 0),
        ("RGB", "ppm", {}, 0),
        ("RGB", "pnm", {}, 0),
        ("RGB", "jp2", {}, 0),
        ("RGB", "j2k", {}, 0),
        ("RGB", "avif", {"quality": 95}, 20),
        ("RGB", "tga", {}, 0),
        ("RGB", "pcx", {}, 0),
        ("RGB", "sgi", {}, 0),
        ("RGB", "qoi", {}, 0),
    ],
)
def test_colour_images_are_read_and_found_in_folders(tmp_path, random, mode, suffix, options, tolerance):
    fundus = fake_fundus(random, 40, 50)
    path = tmp_path / f"1_OD.{suffix}"
    Image.fromarray(fundus).convert(mode).save(path, **options)
    read = read_fundus(path)
    assert (read.shape, read.dtype) == ((40, 50, 3), np.uint8)
    assert np.abs(read.astype(int) - fundus).max() <= tolerance
    assert left_out([path]).text == ""


@pytest.mark.parametrize("suffix", ["png", "tif", "gif", "webp", "pgm", "jp2", "tga", "bmp"])
@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_images_are_read(tmp_path, mode, suffix):
    if (mode, suffix) in {("LA", "bmp"), ("LA", "pgm"), ("1", "jp2"), ("1", "webp"), ("LA", "gif"), ("LA", "webp")}:
        pytest.skip("the format has no such images")
    grey = np.uint8(np.kron([[0, 255, 0], [255, 255, 0]], np.ones((4, 4))))
    path = tmp_path / f"1_OD.{suffix}"
    Image.fromarray(grey).convert(mode).save(path, **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(read_octa(path, 1)[..., 0], grey)
    assert np.array_equal(read_octa(path, 4), np.dstack([grey, grey, grey, np.full_like(grey, 255)]))


@pytest.mark.parametrize("suffix", ["png", "tif", "gif", "webp", "avif"])
def test_several_images_in_a_file_are_refused(tmp_path, random, suffix):
    frames = [Image.fromarray(fake_fundus(random, 40, 50)) for _ in range(3)]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=rf"a\.{suffix}: contains 3 images; save the right one"):
        read_image(path)


@pytest.mark.parametrize("name", ["a.dcm", "a.png", "a.tif", "a"])
def test_dicom_is_called_so_whatever_its_suffix(tmp_path, name):
    (tmp_path / name).write_bytes(bytes(128) + b"DICM" + bytes(200))
    with pytest.raises(DataError, match=rf"{name}: is a DICOM file.*; save it as PNG or TIFF$"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("brands", [b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic", b"heix\0\0\0\0mif1"])
@pytest.mark.parametrize("name", ["a.HEIC", "a.jpg"])
def test_heic_is_called_so_whatever_its_suffix(tmp_path, name, brands):
    (tmp_path / name).write_bytes(struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + bytes(200))
    with pytest.raises(DataError, match=rf"{name}: is a HEIC file.*; save it as PNG, TIFF or JPEG$"):
        read_image(tmp_path / name)


def test_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "1_OD.png")
    with pytest.raises(DataError, match=r"1_OD\.png: not a file"):
        read_image(tmp_path / "1_OD.png")


@pytest.mark.parametrize("content", [b"", b"this is no image", None])
def test_file_that_cannot_be_read_is_named(tmp_path, random, content):
    path = tmp_path / "7_OS.png"
    if content is None:
        Image.fromarray(random.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
        content = path.read_bytes()[:3000]
    path.write_bytes(content)
    with pytest.raises(DataError, match=str(path)) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_octa_has_one_channel_or_four(tmp_path):
    rgba = np.uint8([[[10, 11, 15, 255], [0, 0, 0, 128]]])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert read_octa(tmp_path / "a.png", 1).tolist() == [[[12], [0]]]
    assert np.array_equal(read_octa(tmp_path / "a.png", 4), rgba)


# --- transparent pixels ----------------------------------------------------------------------------------------------


def test_transparent_pixels_of_a_photograph_are_black(tmp_path):
    Image.fromarray(np.uint8([[[9, 8, 7, 0], [9, 8, 7, 127], [9, 8, 7, 128], [9, 8, 7, 255]]])).save(tmp_path / "a.png")
    assert read_fundus(tmp_path / "a.png").tolist() == [[[0, 0, 0], [0, 0, 0], [9, 8, 7], [9, 8, 7]]]


def test_transparent_colour_of_a_palette_is_black_in_a_photograph(tmp_path):
    image = Image.fromarray(np.uint8([[0, 1]]), "P")
    image.putpalette([200, 100, 50, 10, 20, 30])
    image.save(tmp_path / "a.png", transparency=0)
    assert read_fundus(tmp_path / "a.png").tolist() == [[[0, 0, 0], [10, 20, 30]]]


def test_photograph_that_is_entirely_transparent_is_called_so(tmp_path):
    Image.new("RGBA", (20, 20), (200, 100, 50, 0)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: is entirely transparent"):
        read_fundus(tmp_path / "a.png")


# --- TIFF ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "packbits"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_is_read_whatever_its_layout(tmp_path, random, bits, channels, planes, compression, order):
    image = deep(random, channels, bits).astype(np.uint8 if bits == 8 else np.uint16)
    layout = {} if channels == 1 else {"planarconfig": planes}
    for name, more in (("strips.tif", {"rowsperstrip": 7}), ("tiles.tif", {"tile": (16, 16)})):
        write_tiff(tmp_path / name, image, compression=compression, byteorder=order, **layout, **more)
        read = read_image(tmp_path / name)
        assert np.array_equal(read[..., :3], in_eight(image, bits))
        alpha = image[..., -1:] if channels in (2, 4) else np.full_like(image[..., :1], 2**bits - 1)
        assert np.array_equal(read[..., 3:], in_eight(alpha, bits)[..., :1])


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_with_packed_bits_is_read_as_it_says(tmp_path, random, bits, channels):
    image = deep(random, channels, bits) // 2  # half as bright as possible
    write_packed_tiff(tmp_path / "a.tif", image, bits)
    assert np.array_equal(read_fundus(tmp_path / "a.tif"), in_eight(image, bits))
    assert assumed_bits(tmp_path / "a.tif") is None


@pytest.mark.parametrize(("bits", "packed"), [(8, False), (12, False), (12, True), (16, False)])
def test_white_is_zero_is_read_as_white(tmp_path, random, bits, packed):
    image = deep(random, 1, bits)
    if packed:
        write_packed_tiff(tmp_path / "a.tif", image, bits, photometric=0)
    else:
        write_tiff(tmp_path / "a.tif", image.astype(np.uint8 if bits == 8 else np.uint16), photometric="miniswhite")
    assert np.array_equal(read_fundus(tmp_path / "a.tif"), 255 - in_eight(image, bits))


def test_octa_of_a_pair_is_not_inverted_by_white_is_zero(tmp_path, random):
    fundus, octa = fake_fundus(random, 30, 40), deep(random, 1)
    Image.fromarray(fundus).save(tmp_path / "fundus.png")
    write_tiff(tmp_path / "octa.tif", 65535 - octa, photometric="miniswhite")
    pair = load_pair(tmp_path / "fundus.png", tmp_path / "octa.tif", 1, fov_mask=False)
    assert np.abs(pair.octa.astype(int) - in_eight(octa)[..., :1]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("depth", [8, 16])
def test_tiff_is_turned_upright(tmp_path, random, orientation, depth):
    image = deep(random, 3, depth).astype(f"uint{depth}")
    write_tiff(tmp_path / "a.tif", image, extratags=[(274, 3, 1, orientation, True)])
    turned = {
        1: lambda image: image,
        2: np.fliplr,
        3: lambda image: np.rot90(image, 2),
        4: np.flipud,
        5: lambda image: image.swapaxes(0, 1),
        6: lambda image: np.rot90(image, -1),
        7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
        8: np.rot90,
    }
    assert np.array_equal(read_fundus(tmp_path / "a.tif"), turned[orientation](in_eight(image, depth)))


@pytest.mark.parametrize("channels", [2, 4])
def test_premultiplied_alpha_is_divided_out(tmp_path, channels):
    colours, alpha = [20_000, 10_000, 5000][: channels - 1], 40_000
    image = np.full((8, 8, channels), [*colours, alpha], np.uint16)
    write_tiff(tmp_path / "a.tif", image, extrasamples=["assocalpha"])
    expected = np.broadcast_to(np.divide(colours, alpha) * 255, 3)
    assert np.abs(read_fundus(tmp_path / "a.tif")[0, 0] - expected).max() < 2


def test_fourth_channel_that_is_no_alpha_is_ignored(tmp_path, random):
    image = deep(random, 4)
    write_tiff(tmp_path / "a.tif", image, extrasamples=["unspecified"])
    assert np.array_equal(read_image(tmp_path / "a.tif"), np.dstack([in_eight(image), np.full((30, 40), 255)]))


def test_cmyk_of_sixteen_bits_is_read(tmp_path, random):
    image = deep(random, 4)
    write_tiff(tmp_path / "a.tif", image, photometric="separated")
    inks = np.round(image / 65535 * 255).astype(np.uint8)
    expected = np.asarray(Image.frombytes("CMYK", (40, 30), inks.tobytes()).convert("RGB"))
    assert np.array_equal(read_fundus(tmp_path / "a.tif"), expected)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "jpeg"])
@pytest.mark.parametrize("first", ["thumbnail", "mask", "image"])
def test_page_that_is_a_thumbnail_or_a_mask_is_no_image(tmp_path, random, first, mode, depth):
    image = deep(random, 1 if mode == "L" else 3, depth, (32, 48)).astype(f"uint{depth}")
    options = {"photometric": "minisblack" if mode == "L" else "rgb"}
    if mode in ("P", "jpeg") and (depth == 16 or first == "mask"):
        pytest.skip("of 8 bits only, and refused after a mask")
    if mode == "jpeg":
        image[:], options = 120, options | {"compression": "jpeg"}
    if mode == "P":
        image = image[..., :1]
        options = {"photometric": "palette", "colormap": np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1))}
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        pages = [(image.squeeze(), options)]
        small = (np.zeros((8, 16), np.uint8), {"subfiletype": 1, "photometric": "minisblack"})
        if first == "mask":
            small = (np.zeros((8, 16), bool), {"subfiletype": 4, "photometric": "mask"})
        pages.insert(len(pages) if first == "image" else 0, small)
        for page, more in pages:
            tiff.write(page, metadata=None, **more)
    assert np.abs(read_fundus(tmp_path / "a.tif") - in_eight(image, depth).astype(int)).max() <= (mode == "jpeg")


def test_tiff_of_which_only_a_thumbnail_can_be_read_is_refused(tmp_path, random):
    """As raw files of cameras: the complete image is in a page below that of the thumbnail."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(np.zeros((8, 12, 3), np.uint8), photometric="rgb", subfiletype=1, subifds=1, metadata=None)
        tiff.write(deep(random, 1).squeeze(), photometric="minisblack", metadata=None)
    with pytest.raises(DataError, match=r"a\.tif: contains only reduced copies; save the complete image"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "packbits"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_tiff_that_is_cut_off_is_refused(tmp_path, random, compression, share):
    path = tmp_path / "a.tif"
    write_tiff(path, deep(random, 3), compression=compression, rowsperstrip=3)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"a\.tif: cannot be read as an image"):
        read_image(path)


def test_tiff_that_lacks_a_tile_is_refused(tmp_path, random):
    tiles = [np.ones((16, 16), np.uint16), None, None, np.ones((16, 16), np.uint16)]
    tifffile.imwrite(tmp_path / "a.tif", iter(tiles), shape=(32, 32), dtype=np.uint16, tile=(16, 16))
    with pytest.raises(DataError, match=r"a\.tif: cannot be read as an image \(parts of it are missing\)"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["float32", "float64", "int16", "uint32", "int8"])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_numbers_are_refused_with_what_to_do(tmp_path, kind, channels):
    write_tiff(tmp_path / "a.tif", np.zeros((8, 8, channels), kind))
    with pytest.raises(DataError, match=rf"a\.tif: pixel format {kind}; save it with 8 or 16 bits per channel"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["cielab", "logluv", "ycbcr"])
def test_colours_that_are_not_known_are_refused(tmp_path, random, kind):
    write_tiff(tmp_path / "a.tif", deep(random, 3), photometric=kind)
    with pytest.raises(DataError, match=r"a\.tif: colours of the kind .* with 16 bits; save it as grey or RGB"):
        read_image(tmp_path / "a.tif")


def test_channels_that_are_not_said_to_be_colours_are_refused(tmp_path, random):
    write_tiff(tmp_path / "a.tif", deep(random, 3), photometric="minisblack", planarconfig="separate")
    with pytest.raises(DataError, match=r"a\.tif: 3 channels, and it does not say which are colours"):
        read_image(tmp_path / "a.tif")


# --- PNG -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("interlaced", [False, True])
def test_png_of_sixteen_bits_is_read(tmp_path, random, channels, interlaced):
    image = deep(random, channels)
    write_png(tmp_path / "a.png", image, interlaced=interlaced)
    read = read_image(tmp_path / "a.png")
    assert np.array_equal(read[..., :3], in_eight(image))
    alpha = image[..., -1:] if channels in (2, 4) else np.full_like(image[..., :1], 65535)
    assert np.array_equal(read[..., 3:], in_eight(alpha)[..., :1])


@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_colour_of_a_deep_png_is_transparent(tmp_path, random, channels):
    image = deep(random, channels)
    write_png(tmp_path / "a.png", image, chunk(b"tRNS", image[2, 3].astype(">u2").tobytes()))
    read = read_image(tmp_path / "a.png")
    assert np.array_equal(read[..., 3] == 0, (image == image[2, 3]).all(axis=-1))
    assert np.array_equal(read[..., :3], in_eight(image))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("brightest", [1, 1 / 2, 1 / 50])
@pytest.mark.parametrize("stretched", [False, True])
def test_significant_bits_of_a_png_are_obeyed(tmp_path, random, channels, bits, brightest, stretched):
    """Whether its values fill the 16 bits, as the standard demands, or not; and however dark it is."""
    image = np.uint16(deep(random, channels, bits) * brightest)
    stored = image << 16 - bits | image >> 2 * bits - 16 if stretched else image
    write_png(tmp_path / "a.png", stored, chunk(b"sBIT", bytes([bits] * channels)))
    read = read_image(tmp_path / "a.png")[..., :3]
    assert np.abs(read - in_eight(image, bits).astype(int)).max() <= 1  # rounded twice
    assert assumed_bits(tmp_path / "a.png") is None


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_image_is_turned_upright_as_exif_says(tmp_path, random, suffix):
    image, path = deep(random, 3), tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[274] = 6
    if suffix == ".png":
        write_png(path, image, chunk(b"eXIf", exif.tobytes()[6:]))
    else:
        write_tiff(path, image, extratags=[(274, 3, 1, 6, True)])
    assert np.array_equal(read_fundus(path), np.rot90(in_eight(image), -1))


# --- significant bits of images that do not say ----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_bits_that_are_not_said_are_those_of_the_brightest_value(tmp_path, random, suffix, channels, bits):
    image, path = deep(random, channels, bits), tmp_path / f"a{suffix}"
    WRITERS[suffix](path, image)
    assert np.array_equal(read_fundus(path), in_eight(image, bits))
    assert assumed_bits(path) == bits


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("bits", "brightest"), [(12, 4000), (14, 9000), (16, 40_000)])
def test_dark_image_beside_a_bright_one_is_not_brightened(tmp_path, random, suffix, channels, bits, brightest):
    dark = deep(random, channels, 10)
    for name, image in (("a", dark), ("b", np.full_like(dark, brightest))):
        WRITERS[suffix](tmp_path / f"{name}{suffix}", image)
    assert np.array_equal(read_fundus(tmp_path / f"a{suffix}"), in_eight(dark, bits))


def test_images_of_all_formats_in_a_folder_are_read_alike(tmp_path, random):
    image = deep(random, 3, 10)
    for suffix, write in WRITERS.items():
        write(tmp_path / f"a{suffix}", image)
    write_tiff(tmp_path / "bright.tif", np.full((8, 8, 1), 4000, np.uint16))
    for suffix in WRITERS:
        assert np.array_equal(read_fundus(tmp_path / f"a{suffix}"), in_eight(image, 12))


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_alpha_does_not_count_as_brightness(tmp_path, random, suffix, channels):
    image = deep(random, channels, 12)
    image[..., -1] = 65535
    WRITERS[suffix](tmp_path / f"a{suffix}", image)
    read = read_image(tmp_path / f"a{suffix}")
    assert np.array_equal(read[..., :3], in_eight(image, 12))
    assert (read[..., 3] == 255).all()


def test_alpha_of_twelve_bits_is_opaque(tmp_path, random):
    image = deep(random, 4, 12)
    image[..., -1] = 4095
    write_tiff(tmp_path / "a.tif", image)
    assert (read_image(tmp_path / "a.tif")[..., 3] == 255).all()


@pytest.mark.parametrize("top", [1023, 4095, 16383, 65535])
def test_greatest_value_that_a_tiff_says_is_obeyed(tmp_path, random, top):
    image = deep(random, 3, 9)
    write_tiff(tmp_path / "a.tif", image, extratags=[(281, 3, 3, (top,) * 3, True)])
    assert np.array_equal(read_fundus(tmp_path / "a.tif"), np.round(image / top * 255))
    assert assumed_bits(tmp_path / "a.tif") is None


def test_greatest_value_that_only_occurs_says_nothing(tmp_path, random):
    write_tiff(tmp_path / "a.tif", deep(random, 1, 12), extratags=[(281, 3, 1, 3000, True)])
    assert assumed_bits(tmp_path / "a.tif") == 12


@pytest.mark.parametrize("top", [1000, 4095])
def test_greatest_value_that_a_pnm_says_is_obeyed(tmp_path, random, top):
    image = deep(random, 3, 9)
    write_pnm(tmp_path / "a.ppm", image, top)
    assert np.array_equal(read_fundus(tmp_path / "a.ppm"), np.round(image / top * 255))
    assert assumed_bits(tmp_path / "a.ppm") is None


def test_depth_that_a_jpeg_2000_says_is_obeyed(tmp_path, random):
    image = deep(random, 3, 10)
    write_jpeg_2000(tmp_path / "a.jp2", image, bits=12)
    assert np.array_equal(read_fundus(tmp_path / "a.jp2"), in_eight(image, 12))
    assert assumed_bits(tmp_path / "a.jp2") is None


def test_nothing_is_assumed_of_images_of_eight_bits(tmp_path, random):
    for suffix in ("png", "jpg", "tif", "webp"):
        Image.fromarray(fake_fundus(random, 20, 20)).save(tmp_path / f"a.{suffix}")
        assert assumed_bits(tmp_path / f"a.{suffix}") is None


def test_images_that_say_their_bits_do_not_decide_for_others(tmp_path, random):
    write_packed_tiff(tmp_path / "says.tif", deep(random, 1, 14), 14)
    write_png(tmp_path / "says.png", deep(random, 1), chunk(b"sBIT", b"\x10"))
    write_tiff(tmp_path / "a.tif", deep(random, 1, 12))
    assert assumed_bits(tmp_path / "a.tif") == 12


def test_leftovers_and_damaged_images_do_not_decide_for_others(tmp_path, random):
    write_tiff(tmp_path / ".hidden.tif", deep(random, 1))
    (tmp_path / "damaged.tif").write_bytes((tmp_path / ".hidden.tif").read_bytes()[:900])
    write_tiff(tmp_path / "a.tif", deep(random, 1, 12))
    assert assumed_bits(tmp_path / "a.tif") == 12


def test_bits_are_decided_once_for_a_folder_and_printed_in_one_line(tmp_path, random, capsys):
    images = [np.minimum(deep(random, 1), brightest).astype(np.uint16) for brightest in [700] * 30 + [4012, 3000]]
    for number, image in enumerate(images):
        write_tiff(tmp_path / f"{number:02}.tif", image)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(read_fundus, sorted(tmp_path.iterdir())))
    note = "images of 16 bits that do not say how many they use: 12 bits, by the brightest of 32 images (4012)"
    assert capsys.readouterr().out == f"NOTE: {tmp_path}: {note}\n"
    assert np.array_equal(read, [in_eight(image, 12) for image in images])


def test_image_that_is_alone_decides_for_itself_and_the_line_says_so(tmp_path, random, capsys):
    Image.fromarray(fake_fundus(random, 20, 20)).save(tmp_path / "of_eight_bits.png")
    write_png(tmp_path / "a.png", deep(random, 3, 12))
    read_image(tmp_path / "a.png")
    line = capsys.readouterr().out
    assert line.startswith(f"NOTE: {tmp_path / 'a.png'}: ")
    assert "12 bits, by its own brightest value (4095): no other such image is in its folder" in line


def test_images_that_use_all_bits_need_no_note(tmp_path, random, capsys):
    write_tiff(tmp_path / "a.tif", deep(random, 3))
    read_image(tmp_path / "a.tif")
    assert capsys.readouterr().out == ""


def test_brighter_image_that_comes_later_counts(tmp_path, random, capsys):
    for name, bits in (("a.tif", 12), ("b.tif", 14)):
        image = deep(random, 1, bits)
        write_tiff(tmp_path / name, image)
        assert np.array_equal(read_fundus(tmp_path / name), in_eight(image, bits))
    assert assumed_bits(tmp_path / "a.tif") == 14
    assert capsys.readouterr().out.count("NOTE") == 2


def test_folders_decide_for_themselves(tmp_path, random):
    for bits in (12, 14):
        (tmp_path / str(bits)).mkdir()
        write_tiff(tmp_path / str(bits) / "a.tif", deep(random, 1, bits))
    assert [assumed_bits(tmp_path / str(bits) / "a.tif") for bits in (12, 14)] == [12, 14]


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
