"""What strangers send, fed to whoever reads it: in CI by Hypothesis, for longer by atheris (``run.py``)."""
