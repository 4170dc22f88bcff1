import pytest


@pytest.fixture(scope="session", autouse=True)
def _deterministic(deterministic: None) -> None:
    """Every test here runs as the stages do."""
