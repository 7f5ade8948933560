"""Annotations of parameters, and the builders that convert arguments to them."""
