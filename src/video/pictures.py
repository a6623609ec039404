"""Still pictures: reading one or a folder of them as frames, writing one."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from src.errors import InputError, OutputExistsError, VideoError
from src.video import ffmpeg
from src.video.paths import commit, temporary_path
from src.video.probe import MediaInfo, is_picture
from src.video.timing import window

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

FOLDER_RATE = Fraction(30)
_TIMEOUT = 300.0
_JPEG_QUALITY = {1: 40, 2: 55, 3: 65, 4: 75, 5: 82, 6: 88, 7: 92, 8: 95, 9: 97, 10: 99}
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
_ORIENTATION_TAG = 0x0112
_DEEP = {3: "rgb48le", 4: "rgba64le"}
ALPHA_SUFFIXES = (".png", ".webp", ".tif", ".tiff")  # pictures that can hold transparency


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sorting key that puts img2 before img10."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


class _Pictures:
    """Pictures as frames: what a folder and a single picture have in common."""

    is_picture = False

    def __init__(self, paths: Sequence[Path], fps: Fraction) -> None:
        self.info: MediaInfo | None = None
        self.fps = fps
        self.paths = tuple(paths)
        self.skip, self.keep_alpha = 0, False
        self.width, self.height, depth, self.has_alpha = _header(self.paths[0])
        for path in self.paths[1:]:
            width, height, bits, alpha = _header(path)
            self.has_alpha = self.has_alpha or alpha
            if (width, height) != (self.width, self.height):
                raise InputError(
                    f"{path} is {width}x{height}, but {self.paths[0].name} is {self.width}x{self.height}; "
                    "all pictures of a folder must have one size"
                )
            depth = max(depth, bits)
        self.bit_depth = depth
        self.frames_expected: int | None = len(self.paths)

    def __enter__(self) -> _Pictures:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing stays open between two frames."""

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield (height, width, 3) RGB (4: with alpha): uint8, or uint16 when any picture has 16 bits per channel."""
        warned = self.keep_alpha
        for path in self.paths[self.skip :]:
            frame, alpha = _load(path, self.keep_alpha)
            if alpha and not warned:
                log.warning("%s: its transparency is dropped", path)
                warned = True
            if frame.shape[:2] != (self.height, self.width):
                raise InputError(f"{path} changed while it was in use; it is {frame.shape[1]}x{frame.shape[0]} now")
            if self.bit_depth == 16 and frame.dtype == np.uint8:
                frame = frame.astype(np.uint16) * 257
            yield frame


class PictureReader(_Pictures):
    """One picture as one frame."""

    is_picture = True

    def __init__(self, path: Path) -> None:
        super().__init__([Path(path)], Fraction(1))


class PictureFolder(_Pictures):
    """The pictures of a folder in natural order, as a clip of ``fps`` (default 30)."""

    def __init__(
        self, path: Path, *, start: Fraction | None = None, end: Fraction | None = None, fps: Fraction | None = None
    ) -> None:
        """InputError when there are no pictures, when sizes differ, or when the trim leaves none."""
        path = Path(path)
        try:
            found = [item for item in path.iterdir() if is_picture(item) and not item.name.startswith(".")]
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
        paths = sorted((item for item in found if item.is_file()), key=natural_key)
        if not paths:
            raise InputError(f"no pictures in {path}; PNG, JPEG, WebP, TIFF and BMP are read")
        rate = fps or FOLDER_RATE
        part = window(Fraction(0), len(paths) / rate, len(paths), rate, start, end)
        super().__init__(paths[part.index : part.index + (part.count or 0)], rate)


def _open(path: Path) -> Image.Image:
    from PIL import Image  # here: a video never needs it

    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes)")
        return Image.open(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is not a picture that can be read: {error}") from error


def _deep(image: Image.Image, path: Path) -> bool:
    """True for 16 bits per channel. Pillow silently reads deep colour pictures as 8 bits."""
    if image.format == "PNG":
        with path.open("rb") as file:
            header = file.read(25)
        return len(header) == 25 and header[24] == 16
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(258, (8,))
        return max(bits) == 16
    return False


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except (OSError, SyntaxError, ValueError, TypeError, KeyError) as error:
        log.warning("%s: its orientation tag is unreadable (%s); it is taken as it lies", image, error)
        return 1


def _header(path: Path) -> tuple[int, int, int, bool]:
    """Width and height as displayed, bits per channel (8 or 16), and whether there is transparency."""
    with _open(path) as image:
        width, height = image.size
        if _orientation(image) >= 5:
            width, height = height, width
        return width, height, 16 if _deep(image, path) else 8, _transparent(image)


def _transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _load(path: Path, keep_alpha: bool) -> tuple[np.ndarray, bool]:
    """The picture as (H, W, 3) RGB or, with ``keep_alpha``, (H, W, 4), upright, and whether it is transparent."""
    from PIL import Image

    with _open(path) as image:
        orientation = _orientation(image)
        alpha = _transparent(image)
        if _deep(image, path):
            frame = _load_deep(path, image.size, 4 if keep_alpha else 3)
        else:
            try:
                # Through RGBA, because a palette with transparency has no direct way to RGB.
                whole = image.convert("RGBA") if alpha or keep_alpha else image
                frame = np.asarray(whole if keep_alpha else whole.convert("RGB"))
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise InputError(f"{path} is damaged: {error}") from error
    return upright(frame, orientation), alpha


def _load_deep(path: Path, size: tuple[int, int], channels: int) -> np.ndarray:
    demuxer = "png_pipe" if path.suffix.lower() == ".png" else "tiff_pipe"
    args = ["-loglevel", "warning", "-noautorotate", "-f", demuxer, *ffmpeg.input_args(path), "-frames:v", "1"]
    args += ["-sws_dither", "none", "-f", "rawvideo", "-pix_fmt", _DEEP[channels], "pipe:1"]
    done = ffmpeg.run(args, _TIMEOUT)
    if done.returncode or len(done.stdout) != size[0] * size[1] * 2 * channels:
        raise InputError(f"{path} is damaged: {ffmpeg.reason(ffmpeg.text(done.stderr).splitlines())}")
    return np.frombuffer(done.stdout, "<u2").reshape(size[1], size[0], channels).astype(np.uint16)


def upright(frame: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation (1..8) to (H, W, 3); other values leave it as it is."""
    if orientation in (5, 6, 7, 8):
        frame = frame.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        frame = frame[:, ::-1]
    if orientation in (3, 4, 7, 8):
        frame = frame[::-1]
    return np.ascontiguousarray(frame)


def to_8bit(frame: np.ndarray) -> np.ndarray:
    """uint8 of a uint8 or uint16 frame, rounded."""
    if frame.dtype == np.uint8:
        return frame
    return ((frame.astype(np.uint32) + 128) // 257).astype(np.uint8)


def check_frame(frame: np.ndarray, width: int | None = None, height: int | None = None, channels: int = 3) -> None:
    """ValueError unless ``frame`` is (height, width, channels) uint8 or uint16."""
    expected = (height or frame.shape[0], width or (frame.shape[1] if frame.ndim > 1 else 0), channels)
    if frame.ndim != 3 or frame.shape != expected or frame.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"a frame must be {expected} uint8 or uint16, not {frame.shape} {frame.dtype}")


def write_picture(path: Path, frame: np.ndarray, quality: int = 7, overwrite: bool = False) -> Path:
    """Write (H, W, 3) RGB as PNG, JPEG, WebP or TIFF, by the extension of ``path``; (H, W, 4) not as JPEG.

    ``quality`` 1..10 is for JPEG and WebP (10: WebP is lossless). uint16 keeps its 16 bits in PNG
    and TIFF. The file appears complete or not at all. OutputExistsError when it exists already.
    """
    path = Path(path)
    check_frame(frame, channels=4 if frame.ndim == 3 and frame.shape[2] == 4 else 3)
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        extension = path.suffix or "without extension"
        raise InputError(f"{path}: a picture is written as {', '.join(_FORMATS)}, not {extension}")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists already; choose another name or use --overwrite")
    data = _encode(path, frame, kind, quality)
    temporary = temporary_path(path)
    try:
        try:
            temporary.write_bytes(data)
        except OSError as error:
            raise VideoError(f"{path} cannot be written: {error.strerror or error}") from error
        commit(temporary, path, overwrite)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _encode(path: Path, frame: np.ndarray, kind: str, quality: int) -> bytes:
    if frame.dtype == np.uint16 and kind in ("PNG", "TIFF"):
        return _encode_deep(path, frame, kind)
    from PIL import Image

    if frame.dtype == np.uint16:
        log.info("%s: %s holds 8 bits per channel; the frame is rounded to them", path, kind)
    options: dict[str, object] = {}
    if kind == "JPEG":
        options = {"quality": _JPEG_QUALITY[quality], "subsampling": 0 if quality >= 7 else 2, "optimize": True}
    elif kind == "WEBP":
        options = {"lossless": True} if quality == 10 else {"quality": _JPEG_QUALITY[quality], "method": 4}
    elif kind == "TIFF":
        options = {"compression": "tiff_adobe_deflate"}
    buffer = io.BytesIO()
    try:
        Image.fromarray(np.ascontiguousarray(to_8bit(frame))).save(buffer, kind, **options)
    except (OSError, ValueError) as error:
        size = f"{frame.shape[1]}x{frame.shape[0]}"
        raise InputError(f"{path}: a {size} picture cannot be saved as {kind} ({error}); use .png") from error
    return buffer.getvalue()


def _encode_deep(path: Path, frame: np.ndarray, kind: str) -> bytes:
    height, width, channels = frame.shape
    raw = _DEEP[channels]
    codec, pix_fmt = ("png", raw.replace("le", "be")) if kind == "PNG" else ("tiff", raw)
    args = ["-loglevel", "warning", "-f", "rawvideo", "-pix_fmt", raw, "-s", f"{width}x{height}", "-i", "pipe:0"]
    args += ["-frames:v", "1", "-c:v", codec, "-pix_fmt", pix_fmt, "-f", "image2pipe", "pipe:1"]
    data = np.ascontiguousarray(frame, "<u2").tobytes()
    return ffmpeg.run_checked(args, _TIMEOUT, f"{path} cannot be encoded", data=data)
