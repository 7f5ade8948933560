"""Encodes values as bytes and decodes them: fields of messages, JSON, extended JSON."""
