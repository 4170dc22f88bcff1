from network_room import _deterministic, workspace  # noqa: F401
