"""Importing one of these modules makes an SDK count into the session. Each is optional, and does nothing where its SDK
is not installed.
"""
