"""Cuts: found where they are, nowhere else, and nothing passes over one."""

import numpy as np
import pytest

from src import Options, upscale
from src.engine import make_engine
from src.scenes import SHORTEST, CutDetector, Scenes, thumbnail
from src.video import open_source
from tests.video_helpers import SAMPLE


def pattern(kind: str, count: int, height: int = 36, width: int = 64) -> list[np.ndarray]:
    """Moving stripes or moving blobs."""
    y, x = np.mgrid[:height, :width]
    out = []
    for n in range(count):
        field = np.sin((x + n) / 5) if kind == "stripes" else np.cos((x - 2 * n) / 9) * np.cos((y + n) / 7)
        level = 60 + 50 * field if kind == "stripes" else 170 + 60 * field
        out.append(np.repeat(level[..., None], 3, axis=2).astype(np.uint8))
    return out


@pytest.fixture(scope="module")
def sample():
    with open_source(SAMPLE) as source:
        return list(source)


def cuts(frames, threshold=24.0) -> list[int]:
    scenes = Scenes(frames, CutDetector(threshold))
    taken = [len(list(scene)) for _, scene in scenes]
    assert sum(taken) == len(frames), "no frame is lost or repeated"
    return scenes.cuts


def test_a_cut_is_found_and_nothing_else(sample):
    a, b = pattern("stripes", 20), pattern("blobs", 30)
    assert cuts(a + b) == [0, 20]
    assert cuts(a + b + a) == [0, 20, 50]
    assert cuts([frame.astype(np.uint16) * 257 for frame in a + b]) == [0, 20]
    assert cuts(sample) == [0], "the sample clip is one scene"


def test_real_footage_with_a_cut(sample):
    """Two places of the sample clip's picture, one after the other, and another film's look."""
    left = [frame[:, :160] for frame in sample[:25]]
    negative = [255 - frame[:, 160:] for frame in sample[:25]]
    assert cuts(left + negative) == [0, 25]


def test_flashes_fades_and_pans_are_no_cuts():
    base = pattern("stripes", 40)
    flash = [*base[:20], np.full_like(base[0], 255), *base[21:]]
    assert len(cuts(flash)) <= 2, "at most one stream begins anew at a flash"
    fade = [(frame * (1 - n / 40)).astype(np.uint8) for n, frame in enumerate(base)]
    assert cuts(fade) == [0]
    wide = np.random.default_rng(0).integers(0, 256, (36, 64 + 40 * 30, 3), dtype=np.uint8)
    assert cuts([wide[:, 30 * n : 30 * n + 64] for n in range(40)]) == [0], "fast motion is steady"


def test_small_and_odd_pictures():
    for size in ((1, 1), (1, 500), (500, 1), (17, 33), (2160, 7)):
        assert thumbnail(np.zeros((*size, 3), np.uint8)).ndim == 3
    assert SHORTEST > 1


def test_frames_after_a_cut_are_those_of_a_run_that_starts_there():
    engine = make_engine(Options(model="nano", device="cpu"))
    options = Options(model="nano", scale=2)
    a, b = pattern("stripes", 27), pattern("blobs", 33)

    def run(frames, **changes):
        return np.stack(list(upscale(frames, options.replace(**changes), engine)))

    both, first, second = run(a + b), run(a), run(b)
    assert np.array_equal(both[:27], first)
    assert np.array_equal(both[27:], second)
    without = run(a + b, no_scene_cuts=True)
    assert without.shape == both.shape
    assert not np.array_equal(without[27:], second), "without the detector the first scene shines through"


def test_known_stretches_are_not_searched():
    frames = pattern("stripes", 20) + pattern("blobs", 20)
    scenes = Scenes(frames, CutDetector(24.0), first=100, settled=120)
    assert [start for start, scene in scenes if list(scene)] == [100]
