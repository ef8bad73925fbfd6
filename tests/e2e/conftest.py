"""Rewrites the asserts of the base class of the servers' tests. By itself, pytest rewrites only test files."""

import pytest

pytest.register_assert_rewrite("tests.e2e.served_session")
