"""Growing buckets: the buckets of a runner that gets photos call by call and does not know the sizes to come.

    known = GrowingBuckets(config.method, most=4)
    known.add(sizes)                                                  # of the photos of one call
    batches = known.plan(sizes, programs.batch_size)

A new bucket costs the compilation of a program; an old one that is larger than needed wastes padding with every
photo. As in the ski rental problem, an old bucket is used until the waste adds up to the cost of a program, so few
programs are compiled for photos of ever new sizes. Where no bucket holds a photo, the new one also holds what the
old ones do, with sides rounded up to powers of two.
"""

from collections.abc import Callable, Sequence

from corrclip_jax.config import MethodConfig
from corrclip_jax.inference.buckets import (
    MOST_BUCKETS,
    Batch,
    Bucket,
    Size,
    cheapest_bucket,
    plan_batches,
    plan_buckets,
    windows_of,
    with_headroom,
)

# An old bucket serves a photo whatever it has cost if it costs at most this much more than the photo's own.
_WORTH_A_BUCKET = 1.5
# A program's compilation as a `Bucket.cost`: what 20 s are for the padded arrays of some 200 photos of 500 x 375.
_PROGRAM = 400_000_000


class GrowingBuckets:
    """The buckets of one runner, at most `most` new ones for the photos of a call.

    With `headroom` those of the first call have some for later ones, which costs a little padding.
    """

    def __init__(self, method: MethodConfig, most: int = MOST_BUCKETS, *, headroom: bool = True):
        self._method, self._most, self._headroom = method, most, headroom
        self._buckets: list[Bucket] = []
        self._planned: set[Size] = set()
        self._wasted = 0

    def add(self, sizes: Sequence[Size]) -> None:
        """Add the buckets that the photos of a call, of these sizes (height, width), need beside the known ones."""
        unserved = [size for size in sizes if not self._is_served(size)]
        if not unserved:
            return
        for bucket in plan_buckets(unserved, self._method, self._most):
            members = [size for size in set(unserved) if bucket.holds(size, self._method)]
            self._buckets.append(self._with_room(bucket, members, len(unserved)))
        self._planned.update(unserved)

    def plan(self, sizes: Sequence[Size], batch_size: int | Callable[[Bucket, int], int]) -> list[Batch]:
        """Batches of photos of added sizes, by their indices in `sizes`; for `batch_size` see `plan_batches`."""
        return plan_batches(sizes, self._buckets, self._method, batch_size)

    def _is_served(self, size: Size) -> bool:
        """Whether a known bucket is good enough for one more photo; adds up what that wastes."""
        if size in self._planned:
            return True
        known = cheapest_bucket(size, self._buckets, self._method)
        if known is None:
            return False
        own = self._own(size).cost
        if known.cost <= _WORTH_A_BUCKET * own:
            return True
        self._wasted += known.cost - own
        if self._wasted <= _PROGRAM:
            return True
        self._wasted = 0
        return False

    def _own(self, size: Size) -> Bucket:
        return with_headroom(Bucket(*size, windows_of(size, self._method)), [size], self._method)

    def _with_room(self, bucket: Bucket, members: Sequence[Size], count: int) -> Bucket:
        """The bucket with headroom, for the photos of former calls too where that costs little."""
        room = with_headroom(bucket, members, self._method) if self._headroom else bucket
        if not self._buckets or any(
            known.holds(size, self._method) for known in self._buckets for size in members
        ):
            return room
        grown = room
        for known in self._buckets:
            joined = _power_of_two(_join(grown, known))
            holds_all = all(joined.holds(size, self._method) for size in members)
            if holds_all and (joined.cost - room.cost) * count <= _PROGRAM / 10:
                grown = joined
        return grown


def _join(one: Bucket, other: Bucket) -> Bucket:
    return Bucket(*map(max, (one.height, one.width, one.windows), (other.height, other.width, other.windows)))


def _power_of_two(bucket: Bucket) -> Bucket:
    """The bucket with every number rounded up to a power of two."""
    height, width, windows = (
        1 << (number - 1).bit_length() for number in (bucket.height, bucket.width, bucket.windows)
    )
    return Bucket(height, width, windows)
