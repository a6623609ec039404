"""Laws of every stream: counts, sizes, causality, independence, constant memory."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from src import chunks
from src.ops.attention import Attention
from src.state import tensors_of
from tests.tiny_models import PIPELINES, clip, run, tiny_models, tiny_pipeline

MODES = list(PIPELINES)


@pytest.fixture(scope="module")
def models():
    return {mode: tiny_models(mode) for mode in MODES}


def pipeline(models, mode, **settings):
    from tests.tiny_models import ATTENTION

    return PIPELINES[mode](models[mode], settings.pop("attention", ATTENTION), **settings)


def test_chunk_arithmetic():
    assert [chunks.chunk_count(n) for n in (1, 21, 22, 29, 30, 37, 38)] == [1, 1, 2, 2, 3, 3, 4]
    assert [chunks.first_latent(c) for c in range(4)] == [0, 6, 8, 10]
    for total in range(1, 200):
        given = sum(chunks.frames_out(c) for c in range(chunks.chunk_count(total)))
        assert given >= total
        assert given - total < (21 if total <= 21 else 8)
    with pytest.raises(ValueError, match="0 frames"):
        chunks.chunk_count(0)


@pytest.mark.parametrize("mode", MODES)
def test_frames_in_equal_frames_out(models, mode):
    """N = 1..60: every length of the last chunk, every position in a latent frame; the slow mode up to 30."""
    source = clip(60, 8, 8)
    whole = run(pipeline(models, mode), source, 2)
    for count in range(1, 61) if mode != "full" else (*range(1, 31), 60):
        out = run(pipeline(models, mode), source[:count], 2)
        assert out.shape == (count, 3, 16, 16)
        # Chunks whose look-ahead lies inside the shorter clip are those of the longer one.
        settled = 0 if count < 25 else 21 + 8 * ((count - 25) // 8)
        assert torch.equal(out[:settled], whole[:settled])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(33, 17, 4), (1, 1, 4), (31, 33, 4), (64, 32, 2), (35, 21, Fraction(3, 2)), (65, 40, 3), (5, 9, 1)],
)
def test_sizes(models, mode, height, width, scale):
    out = run(pipeline(models, mode), clip(2, height, width), scale)
    assert out.shape == (2, 3, int(height * scale + Fraction(1, 2)), int(width * scale + Fraction(1, 2)))
    assert out.isfinite().all()
    assert out.min() >= 0
    assert out.max() <= 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("color", ["none", "adain", "wavelet"])
def test_interleaved_streams_equal_separate_ones(models, mode, color):
    engine = pipeline(models, mode, color=color)
    sources = [clip(38, 8, 8, seed) for seed in (1, 2)]
    alone = [run(engine, source, 2) for source in sources]
    iterators = [engine.stream(source, 8, 8, 2) for source in sources]
    mixed: list[list[torch.Tensor]] = [[], []]
    open_ = [0, 1]
    while open_:
        for index in list(open_):
            part = next(iterators[index], None)
            if part is None:
                open_.remove(index)
            else:
                mixed[index].append(part)
    for index in range(2):
        assert torch.equal(torch.cat(mixed[index]), alone[index])


@pytest.mark.parametrize("mode", MODES)
def test_a_frame_after_the_look_ahead_changes_nothing(models, mode):
    source = clip(45, 8, 8)
    for chunk, seen in ((0, 25), (1, 33), (2, 41)):
        changed = [*source[:seen], *[255 - frame for frame in source[seen:]]]
        shown = 21 + 8 * chunk
        a, b = (run(pipeline(models, mode), frames, 2) for frames in (source, changed))
        assert torch.equal(a[:shown], b[:shown])
        assert not torch.equal(a[shown:], b[shown:])


def test_the_look_ahead_matters(models):
    source = clip(30, 8, 8)
    changed = [*source[:24], 255 - source[24], *source[25:]]
    a, b = (run(pipeline(models, "tiny"), frames, 2) for frames in (source, changed))
    assert not torch.equal(a[:21], b[:21])


@pytest.mark.parametrize("mode", MODES)
def test_state_is_constant_and_streams_have_no_end(models, mode):
    """The same memory after 2 and after many chunks; chunk 10,000 works (the original dies at 1,024 positions)."""
    engine = pipeline(models, mode)
    state = engine.new_state()
    held = []
    frame = clip(1, 4, 4)[0]

    def frames():
        for _ in range(21 + 8 * 8 + 4):
            yield frame

    for part in engine.stream(frames(), 4, 4, 1, state=state):
        assert part.isfinite().all()
        held.append((state.chunk, sum(t.numel() for t in tensors_of(state))))
        if state.chunk == 4:
            state.chunk = 10_000  # as if a day had passed
    sizes = {size for chunk, size in held if chunk >= 2}
    assert len(sizes) == 1
    assert held[-1][0] > 10_000


def test_two_thousand_chunks_hold_no_more_than_two():
    engine = tiny_pipeline("tiny")
    state = engine.new_state()
    plan = engine.attention.for_size(1, 1, torch.device("cpu"))
    from src.pipelines.geometry import Geometry

    geometry = Geometry.of(128, 128, Fraction(1))
    sizes = []
    frames = torch.zeros(25, 3, 128, 128)
    with torch.no_grad():
        for chunk in range(2_000):
            engine._denoise(frames if chunk == 0 else frames[:8], state, plan, geometry, None)
            state.chunk += 1
            if chunk in (1, 1_999):
                sizes.append(sum(t.numel() for t in tensors_of([state.caches, state.projector])))
    assert sizes[0] == sizes[1]


def test_noise_is_drawn_chunk_by_chunk(models):
    """The same seed gives the same frames, another seed others, and the length of the clip has no say."""
    source = clip(30, 8, 8)
    first, again = (run(pipeline(models, "tiny", seed=5), source, 2) for _ in range(2))
    other = run(pipeline(models, "tiny", seed=6), source, 2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_lazy(models):
    """Nothing reads ahead of what a chunk needs."""
    read = 0

    def frames():
        nonlocal read
        for frame in clip(60, 8, 8):
            read += 1
            yield frame

    stream = pipeline(models, "tiny").stream(frames(), 8, 8, 2)
    next(stream)
    assert read == 25


def test_a_failing_source_raises(models):
    def frames():
        yield from clip(30, 8, 8)
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        list(pipeline(models, "tiny").stream(frames(), 8, 8, 2))


def test_no_frames_give_no_frames(models):
    assert list(pipeline(models, "tiny").stream([], 8, 8, 2)) == []


def test_sixteen_bit_frames(models):
    low = clip(2, 8, 8)
    high = [frame.astype(np.uint16) * 257 for frame in low]
    a, b = (run(pipeline(models, "tiny"), frames, 2) for frames in (low, high))
    assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("kind", ["sage", "block", "dense"])
@pytest.mark.parametrize("kv_len", [1, 2, 3, 5])
def test_attention_kinds_and_cache_lengths(models, kind, kv_len):
    attention = Attention(kind, sparse_ratio=2.0, local_range=3, kv_len=kv_len)
    out = run(pipeline(models, "tiny", attention=attention), clip(40, 8, 8), 2)
    assert out.isfinite().all()
    engine = pipeline(models, "tiny", attention=attention)
    state = engine.new_state()
    list(engine.stream(clip(60, 8, 8), 8, 8, 2, state=state))
    assert all(len(cache.order) == kv_len for cache in state.caches)


def test_no_mode_leaks_to_the_caller(models):
    """Between two pieces of output the caller's own gradients work, and the frames are ordinary tensors."""
    with torch.enable_grad():
        for part in pipeline(models, "tiny").stream(clip(30, 8, 8), 8, 8, 2):
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
            part.mul_(2)
            assert not part.requires_grad
