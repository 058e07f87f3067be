"""Fixtures that every suite shares; each lives in its own module."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.fixtures.redis", "tests.fixtures.kafka", "tests.fixtures.texts"]

# Machines are noisy: how long an example takes says nothing. A failure prints how to repeat it.
settings.register_profile(
    "sluicegate", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("sluicegate")
