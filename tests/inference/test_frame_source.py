"""Frames that a thread reads ahead: in order and bounded, or the newest alone; how iterators end."""

import threading
import time
from itertools import count

import pytest

from corrclip_jax.inference.frame_source import FrameSource


def test_all_frames_come_in_order_and_few_are_read_ahead():
    read = []

    def frames():
        for number in range(20):
            read.append(number)
            yield 10 * number

    with FrameSource(frames(), ahead=2) as source:
        found = source.take(1)
        while taken := source.take(3):
            assert len(taken) <= 3
            found += taken
            assert len(read) <= len(found) + 3  # two wait, and one is in the thread's hand
    assert found == [(number, 10 * number) for number in range(20)]
    assert source.take(1) == []


def test_the_newest_frame_wins_when_the_reader_of_frames_is_slow():
    given, last = threading.Event(), []

    def camera():
        for number in range(5):
            yield number
            last.append(number)
        given.set()
        time.sleep(0.05)
        yield 5

    with FrameSource(camera(), newest=True) as source:
        assert given.wait(5)
        assert source.take(1) == [(4, 4)]  # 0 to 3 are gone
        assert source.take(1) == [(5, 5)]
        assert source.take(1) == []


@pytest.mark.parametrize("newest", [False, True])
def test_errors_of_the_iterator_come_after_the_frames_before(newest):
    def broken():
        yield "frame"
        raise OSError("the camera is unplugged")

    with FrameSource(broken(), newest=newest) as source:
        assert source.take(4) == [(0, "frame")]
        with pytest.raises(OSError, match="unplugged"):
            source.take(4)


def test_an_endless_generator_is_closed_at_the_end():
    closed = []

    def camera():
        try:
            yield from count()
        finally:
            closed.append(threading.current_thread().name)

    with FrameSource(camera()) as source:
        source.take(1)
    assert closed == ["corrclip-frames"]
