"""The servers that receive calls and answer them: native, and on stdin and stdout."""
