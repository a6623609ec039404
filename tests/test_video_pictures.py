"""Still pictures in and out, and where output goes."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.errors import InputError, OutputExistsError, VideoError
from src.video.paths import output_path
from src.video.pictures import PictureFolder, PictureReader, natural_key, upright, write_picture
from tests.video_helpers import ffmpeg

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (12, 20, 3), np.uint8)


def save(path, frame=NOISE, **options):
    Image.fromarray(frame).save(path, **options)
    return path


def load(path):
    return next(iter(PictureReader(path)))


def test_natural_order(tmp_path):
    names = ["img1.png", "img2.png", "img10.png", "Img11.png", "img100.png"]
    for n, name in enumerate(names):
        save(tmp_path / name, np.full((8, 8, 3), n * 10, np.uint8))
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    (tmp_path / "._img1.png").write_text("no picture either", encoding="utf-8")
    (tmp_path / "folder.png").mkdir()
    with PictureFolder(tmp_path) as source:
        assert [path.name for path in source.paths] == names
        assert [int(frame[0, 0, 0]) for frame in source] == [0, 10, 20, 30, 40]
        assert (source.fps, source.frames_expected, source.bit_depth) == (30, 5, 8)
    mixed = sorted(["b", "10", "9", "a2", "a10"], key=lambda name: natural_key(Path(name)))
    assert mixed == ["9", "10", "a2", "a10", "b"]


def test_folder_rate_and_trim(tmp_path):
    for n in range(10):
        save(tmp_path / f"{n}.png", np.full((8, 8, 3), n, np.uint8))
    source = PictureFolder(tmp_path, fps=Fraction(5), start=Fraction("0.4"), end=Fraction("1.2"))
    assert [int(frame[0, 0, 0]) for frame in source] == [2, 3, 4, 5]
    assert source.fps == 5
    with pytest.raises(InputError, match="--start 2 "):
        PictureFolder(tmp_path, fps=Fraction(5), start=Fraction(2))


def test_folder_without_pictures(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match="no pictures in"):
        PictureFolder(tmp_path)


def test_sizes_must_agree(tmp_path):
    save(tmp_path / "1.png")
    save(tmp_path / "2.png", NOISE[:, :10])
    with pytest.raises(InputError, match=r"2\.png is 10x12, but 1\.png is 20x12"):
        PictureFolder(tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", exif=exif)
    with Image.open(path) as image:
        wanted = np.asarray(ImageOps.exif_transpose(image))
    reader = PictureReader(path)
    frame = next(iter(reader))
    assert frame.shape == (reader.height, reader.width, 3)
    assert np.array_equal(frame, wanted)
    assert np.array_equal(upright(NOISE, orientation), wanted)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode, caplog):
    image = Image.fromarray(NOISE).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    with caplog.at_level(logging.WARNING):
        frame = load(path)
    assert (frame.shape, frame.dtype) == ((12, 20, 3), np.uint8)
    assert np.array_equal(frame, np.asarray(image.convert("RGB")))
    assert ("transparency" in caplog.text) == (mode in ("RGBA", "LA"))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_survive(tmp_path, suffix):
    frame = RNG.integers(0, 65536, (12, 20, 3), np.uint16)
    path = write_picture(tmp_path / f"100%d a{suffix}", frame)
    assert load(path).dtype == np.uint16
    assert np.array_equal(load(path), frame)


def test_16_bit_grey_and_mixed_folder(tmp_path):
    grey = RNG.integers(0, 65536, (12, 20), np.uint16)
    Image.fromarray(grey).save(tmp_path / "1.png")
    save(tmp_path / "2.png")
    first, second = PictureFolder(tmp_path)
    assert np.array_equal(first, np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(second, NOISE.astype(np.uint16) * 257)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp"])
def test_writing(tmp_path, suffix):
    smooth = np.add.outer(np.arange(40), np.arange(60))[..., None].repeat(3, axis=2).astype(np.uint8)
    path = write_picture(tmp_path / "new" / f"a{suffix}", smooth, quality=10)
    error = np.abs(load(path).astype(int) - smooth).max()
    assert error <= (2 if suffix in (".jpg", ".jpeg") else 0)
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    with Image.open(path) as image:
        assert image.format == {"jpg": "JPEG", "jpeg": "JPEG", "tif": "TIFF", "tiff": "TIFF"}.get(
            suffix[1:], suffix[1:].upper()
        )


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_picture_quality(tmp_path, suffix):
    frame = RNG.integers(0, 256, (64, 64, 3), np.uint8)
    sizes = [write_picture(tmp_path / f"{q}{suffix}", frame, q).stat().st_size for q in (1, 5, 10)]
    assert sizes[0] < sizes[1] < sizes[2]


def test_deep_frame_as_jpeg_is_rounded(tmp_path):
    path = write_picture(tmp_path / "a.jpg", np.full((16, 16, 3), 200 * 257 + 100, np.uint16), 10)
    assert np.abs(load(path).astype(int) - 200).max() <= 1


def test_existing_picture_is_kept(tmp_path):
    path = save(tmp_path / "a.png")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        write_picture(path, NOISE // 2)
    assert np.array_equal(load(path), NOISE)
    write_picture(path, NOISE // 2, overwrite=True)
    assert np.array_equal(load(path), NOISE // 2)


def test_refused_pictures(tmp_path):
    with pytest.raises(InputError, match=r"not \.gif"):
        write_picture(tmp_path / "a.gif", NOISE)
    with pytest.raises(InputError, match=r"cannot be saved as WEBP .*use \.png"):
        write_picture(tmp_path / "a.webp", np.zeros((1, 20_000, 3), np.uint8))
    (tmp_path / "file").touch()
    with pytest.raises(VideoError, match="cannot be written"):
        write_picture(tmp_path / "file" / "a.png", NOISE)
    with pytest.raises(ValueError, match="a frame must be"):
        write_picture(tmp_path / "a.png", np.zeros((4, 4)))
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_damaged_pictures(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", RNG.integers(0, 256, (64, 64, 3), np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=rf"a\{suffix} is "):
        load(path)
    path.write_text("hello", encoding="utf-8")
    with pytest.raises(InputError, match="not a picture"):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"empty \(0 bytes\)"):
        load(path)


def test_damaged_deep_picture(tmp_path):
    path = write_picture(tmp_path / "a.png", RNG.integers(0, 65536, (64, 64, 3), np.uint16))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="damaged"):
        load(path)


def test_webp_and_bmp_are_read(tmp_path):
    assert np.array_equal(load(save(tmp_path / "a.webp", lossless=True)), NOISE)
    assert np.array_equal(load(save(tmp_path / "a.bmp")), NOISE)


# ------------------------------------------------------------------- output_path


@pytest.mark.parametrize(
    ("source", "output", "kind", "expected"),
    [
        ("in/clip.mp4", "outputs", "video", "outputs/clip_4x.mp4"),
        ("in/clip.mp4", "outputs/", "video", "outputs/clip_4x.mp4"),
        ("in/clip.v1.MOV", "outputs", "video", "outputs/clip.v1_4x.mov"),
        ("in/clip.mkv", "outputs", "video", "outputs/clip_4x.mkv"),
        ("in/clip.webm", "outputs", "video", "outputs/clip_4x.mp4"),
        ("in/clip.avi", "v1.5/", "video", "v1.5/clip_4x.mp4"),
        ("in/clip.mp4", "there/my.WebM", "video", "there/my.WebM"),
        ("in/a.jpg", "outputs", "picture", "outputs/a_4x.png"),
        ("in/a.tif", "outputs", "picture", "outputs/a_4x.tif"),
        ("in/a.jpg", "b.webp", "picture", "b.webp"),
    ],
)
def test_output_path(tmp_path, monkeypatch, source, output, kind, expected):
    monkeypatch.chdir(tmp_path)
    assert output_path(Path(source), output, kind=kind, suffix="_4x") == Path(expected)
    assert list(tmp_path.iterdir()) == []


def test_output_path_of_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shots.v2").mkdir()
    (tmp_path / "out.d").mkdir()
    assert output_path(Path("shots.v2"), Path("out.d"), kind="video", suffix="_4x") == Path("out.d/shots.v2_4x.mp4")
    monkeypatch.chdir(tmp_path / "shots.v2")
    assert output_path(Path(), Path("o"), kind="video", suffix="_4x") == Path("o/shots.v2_4x.mp4")


@pytest.mark.parametrize(
    ("output", "kind", "message"),
    [("a.avi", "video", r"\.avi"), ("a.png", "video", "a video cannot"), ("a.mp4", "picture", "a picture cannot")],
)
def test_unknown_extensions(output, kind, message):
    with pytest.raises(InputError, match=message):
        output_path(Path("x.mp4"), Path(output), kind=kind)


def test_output_is_never_the_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").touch()
    for output in ("a.mp4", "./a.mp4", str(tmp_path / "a.mp4"), "."):
        with pytest.raises(InputError, match="is the input itself"):
            output_path(Path("a.mp4"), output, kind="video")
    try:
        (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
    except OSError:
        pytest.skip("no links here")
    with pytest.raises(InputError, match="is the input itself"):
        output_path(Path("a.mp4"), "link.mp4", kind="video")


def test_pictures_of_a_video_codec_are_not_needed(tmp_path):
    """A picture with a wrong extension is read for what it is."""
    path = tmp_path / "really_png.jpg"
    save(tmp_path / "a.png").rename(path)
    assert np.array_equal(load(path), NOISE)
    assert ffmpeg("-i", path, "-f", "null", "-").returncode == 0
