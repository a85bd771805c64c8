"""``isoplug bench``: what isolation costs, measured side by side in one run.

``run.run(Settings())`` gives a ``report.Report``: figures (``figures``), from interleaved blocks (``blocks``), and how
they stand to the goals (``goals``). Each module in ``sections`` measures one thing. What isoplug is compared with has a
door each: ``floor`` (sockets, ZeroMQ, Extism in this process) and ``others`` (pools of processes). ``picture`` draws.

Nothing is imported here: pools start processes that import this package to find the function they are to run.
"""

from __future__ import annotations

__all__: list[str] = []
