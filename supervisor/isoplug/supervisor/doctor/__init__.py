"""``isoplug doctor``: what this machine offers to confine workers, and what a worker really got.

``worker.checkup`` tries each layer by itself, ``examination`` starts a real worker, ``process`` reads what the kernel
says of it, ``layers`` puts the three together, ``surroundings`` looks at the rest of the machine.
"""

from isoplug.supervisor.doctor.examination import examine
from isoplug.supervisor.doctor.report import Evidence, LayerFinding, Note, Report, WorkerFinding

__all__ = ["Evidence", "LayerFinding", "Note", "Report", "WorkerFinding", "examine"]
