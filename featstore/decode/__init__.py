"""From the bytes of a picture file to the pixels that a network sees.

Everything here is a pure function of the bytes and of the ``Preprocessing``: safe in threads and processes,
without torch, and without a warning or a message on any stream.
"""

from featstore.decode.pillow import DECODER, decode, load_rgb
from featstore.decode.preprocessing import INTERPOLATIONS, DecodeFailure, Preprocessing

__all__ = ["DECODER", "INTERPOLATIONS", "DecodeFailure", "Preprocessing", "decode", "load_rgb"]
