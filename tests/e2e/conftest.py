"""Rewrite the asserts of the base class of the servers' tests, which pytest does only for test files by itself."""

import pytest

pytest.register_assert_rewrite("tests.e2e.served_session")
