"""``isoplug run``: a supervisor as a service, and how to speak to it.

``service`` is its life, ``control`` its socket, ``protocol`` what is said there, ``client`` the other end.
"""

from isoplug.supervisor.service.place import NotRunning

__all__ = ["NotRunning"]
