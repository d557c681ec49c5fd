"""What can go wrong with the image store.

LookupError
└── ImageMissing   it has no such object
OSError
└── StoreFailed    it refuses: the key may not, the bucket is gone; someone must mend it
    └── StoreAway  it cannot be reached, or says that it cannot answer now; later it will
"""

from __future__ import annotations


class ImageMissing(LookupError):
    """The store has no such object: it was deleted, or never written."""


class StoreFailed(OSError):
    """The store refuses what is asked, and will until someone mends it. A full or broken disk is a plain OSError."""


class StoreAway(StoreFailed):
    """The store cannot be reached or cannot answer now: it is asked again."""
