"""What both sides of the process boundary must agree on: errors, messages, limits. Imports nothing of either side."""
