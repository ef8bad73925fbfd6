"""The facts of a served application are a base class outside the test files: its asserts are to be readable too."""

import pytest

pytest.register_assert_rewrite("tests.e2e.facts")
