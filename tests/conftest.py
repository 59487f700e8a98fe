"""What all tests share: the Hypothesis profiles, and one thread for each worker."""

import os

from hypothesis import HealthCheck, settings

# Two workers whose torch and BLAS each start a thread per core wait for one another. Set before either is
# imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nothing is left in the user's own cache, and nothing found there.
os.environ["EBMSIM_CACHE"] = "off"

# The default: the same examples on every run and machine. It never looks at the clock (deadline, too_slow),
# which would fail on a busy machine only.
settings.register_profile(
    "ci",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
# New examples every time, and many: HYPOTHESIS_PROFILE=thorough pytest tests/...
settings.register_profile("thorough", deadline=None, max_examples=2000, print_blob=True)

settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
