"""Read by Python at its start when this folder is on its path: the wall clock is wrong from then on.

Not libfaketime: it leaves librdkafka's timed waits unfaked, and a client under it waits for ever.
"""

import os
import time

_AHEAD_S = float(os.environ["CHAOS_CLOCK_AHEAD_S"])
_time, _time_ns = time.time, time.time_ns

time.time = lambda: _time() + _AHEAD_S
time.time_ns = lambda: _time_ns() + int(_AHEAD_S * 1e9)
