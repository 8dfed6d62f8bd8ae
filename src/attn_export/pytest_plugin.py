"""A pytest plugin: hold a team's own models and bundles to their references in its own tests.

    def test_deployed(assert_parity):
        assert_parity(model, "model.onnx", (example,))

    @pytest.mark.attn_bundle("repvgg")
    def test_bundle(verified_bundle):
        assert verified_bundle.worst.normalized_error < 2

The figures of each comparison are recorded as properties of the test, so that ``--junitxml`` has them. Nothing heavy is
imported until a test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from attn_export.deploy_tests.parity.compare import Parity

MARKERS = (
    "attn_bundle(path, backend=None): the bundle that `verified_bundle` proves, and on what",
    "attn_parity(**limits): defaults for `assert_parity`, such as backend, threads, snr, atol and rtol",
)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers, so that ``--strict-markers`` knows them."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


@pytest.fixture
def assert_parity(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Callable[..., Parity]:
    """Give ``attn_export.assert_parity`` with the defaults of ``@pytest.mark.attn_parity``, whose figures are kept."""
    marker = request.node.get_closest_marker("attn_parity")
    defaults: dict[str, Any] = dict(marker.kwargs) if marker else {}

    def run(*args: Any, **options: Any) -> Parity:
        from attn_export import ParityError, api

        try:
            parity = api.assert_parity(*args, **{**defaults, **options})
        except ParityError as error:
            if error.parity is not None:
                _record(error.parity, record_property)
            raise
        _record(parity, record_property)
        return parity

    return run


@pytest.fixture
def verified_bundle(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Parity:
    """Prove the bundle of ``@pytest.mark.attn_bundle(path)`` on this machine, and give its parity.

    A failure is the test's, not an error of its set-up: look at ``ok``, or leave it to ``assert verified_bundle.ok``.
    """
    from attn_export import UsageError, api

    marker = request.node.get_closest_marker("attn_bundle")
    if marker is None or not marker.args:
        raise UsageError("verified_bundle: expected @pytest.mark.attn_bundle(path) on the test, got none; add it")
    parity = api.verify(marker.args[0], marker.kwargs.get("backend"), check=False)
    _record(parity, record_property)
    return parity


def _record(parity: Parity, record_property: Callable[[str, object], None]) -> None:
    """Keep the verdict and its worst figures as properties of the test."""
    record_property("attn_export.backend", parity.backend)
    record_property("attn_export.parity", "passed" if parity.ok else "failed")
    record_property("attn_export.summary", parity.summary())
