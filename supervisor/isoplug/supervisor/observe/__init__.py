"""What a supervisor tells about itself while it runs."""

from isoplug.supervisor.observe.logs import get_logger, to_stderr

__all__ = ["get_logger", "to_stderr"]
