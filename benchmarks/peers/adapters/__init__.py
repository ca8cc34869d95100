"""One file a peer. ``open_peer(opens, threads)`` loads what its package ships and returns an ``Opened``.

A peer's own preprocessing, runtime and class order stay as its package has them; the order is undone
by the table's ``classes``. The ``.mjs`` files do the same under Node.
"""
