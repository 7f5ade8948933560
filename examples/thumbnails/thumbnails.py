"""Makes small pictures of large ones."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, ImageOps

from snakepit_bridge import Adapter, command


class Thumbnails(Adapter):
    @command
    def thumbnail(self, picture: memoryview, width: int, height: int) -> dict[str, Any]:
        """Returns a picture, as a file of any format that Pillow reads, as a JPEG of that size."""
        with Image.open(io.BytesIO(picture)) as image:
            small = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (width, height))
        output = io.BytesIO()
        small.save(output, "JPEG", quality=85)
        return {"jpeg": output.getvalue(), "width": width, "height": height}

    @command
    def samples(self) -> dict[str, bytes]:
        """Returns the two photographs that come with scikit-learn."""
        from importlib.resources import files

        folder = files("sklearn.datasets").joinpath("images")
        return {name: folder.joinpath(name).read_bytes() for name in ("china.jpg", "flower.jpg")}
