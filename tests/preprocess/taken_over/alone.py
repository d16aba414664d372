"""A confined process without a decoder in it: `python -m tests.preprocess.taken_over.alone <uid> <layers> <escapes>`.

It starts in a moment, so that each layer is tried by itself. It prints the layers and what each escape reached.
"""

from __future__ import annotations

import json
import os
import sys

from services.preprocess.decoding.isolation import rlimits
from services.preprocess.decoding.isolation.confinement import Confinement
from services.preprocess.decoding.isolation.layers import Layer
from tests.preprocess.taken_over.escapes import BOMB, attempt


def main() -> None:
    uid, layers, orders = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    rlimits._MOST_THREADS = BOMB // 2  # pyright: ignore[reportPrivateUsage]  # a small bomb is enough
    confinement = Confinement(frozenset(map(Layer, filter(None, layers.split(",")))), 1 << 30)
    confinement.enter_server()
    granted = confinement.enter_decoder()
    came_of = {order["escape"]: json.loads(attempt(json.dumps(order).encode())) for order in orders}
    sys.stdout.write(json.dumps({"layers": granted, "escapes": came_of}))
    sys.stdout.flush()
    os._exit(0)


main()
