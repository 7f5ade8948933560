"""An adapter whose own import fails."""

import surely_not_installed  # type: ignore[import-not-found]  # noqa: F401
