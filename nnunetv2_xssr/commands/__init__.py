"""The commands. Each module parses its arguments, calls the stages and says what it wrote."""

import os

# Read when torch's threads start. Without it they spin while they wait, and a second busy process on the machine makes
# every step many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
